//! The program's accounts, byte by byte.
//!
//! Every record has alignment 1 and holds numbers as little-endian bytes behind getters and setters,
//! so an account's data can be viewed in place wherever they lie.

use crate::{
    Key,
    error::{Error, Result},
};

/// The only layout version so far.
pub const VERSION: u8 = 1;

/// What begins every account: `kind, version, bump, state, fee_bps u16, padding u16`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Header {
    kind: u8,
    version: u8,
    pub bump: u8,
    pub state: u8,
    fee_bps: [u8; 2],
    _pad: [u8; 2],
}

impl Header {
    #[inline(always)]
    pub fn fee_bps(&self) -> u16 {
        u16::from_le_bytes(self.fee_bps)
    }
    #[inline(always)]
    pub fn set_fee_bps(&mut self, value: u16) {
        self.fee_bps = value.to_le_bytes();
    }
}

/// A record that an account's data are viewed as.
///
/// # Safety
/// The type must be `repr(C)`, have alignment 1 and no padding, begin with a [`Header`], and every
/// bit pattern must be a valid value of it.
pub unsafe trait Record: Sized {
    const KIND: u8;
    const SIZE: usize = size_of::<Self>();

    /// View an account of this kind.
    #[inline(always)]
    fn load(data: &[u8]) -> Result<&Self> {
        if data.len() != Self::SIZE || data[0] != Self::KIND || data[1] != VERSION {
            return Err(Error::WrongAccountKind);
        }
        // SAFETY: the length was checked, and `Record` promises that any bytes are a value.
        Ok(unsafe { &*data.as_ptr().cast::<Self>() })
    }

    /// View an account of this kind in order to change it.
    #[inline(always)]
    fn load_mut(data: &mut [u8]) -> Result<&mut Self> {
        if data.len() != Self::SIZE || data[0] != Self::KIND || data[1] != VERSION {
            return Err(Error::WrongAccountKind);
        }
        // SAFETY: as in `load`; the exclusive borrow is passed on.
        Ok(unsafe { &mut *data.as_mut_ptr().cast::<Self>() })
    }

    /// Make fresh, all-zero data an account of this kind.
    #[inline(always)]
    fn create(data: &mut [u8], bump: u8) -> Result<&mut Self> {
        if data.len() != Self::SIZE || data[0] != 0 {
            return Err(Error::AlreadyExists);
        }
        data[0] = Self::KIND;
        data[1] = VERSION;
        data[2] = bump;
        Self::load_mut(data)
    }
}

macro_rules! numbers {
    ($($(#[doc = $doc:literal])* $field:ident / $set:ident: $type:ty),+ $(,)?) => {$(
        $(#[doc = $doc])*
        #[inline(always)]
        pub fn $field(&self) -> $type {
            <$type>::from_le_bytes(self.$field)
        }
        #[inline(always)]
        pub fn $set(&mut self, value: $type) {
            self.$field = value.to_le_bytes();
        }
    )+};
}

/// The deployment's settings; its header carries the fee of new channels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub header: Header,
    pub admin: Key,
    /// Whose Balances receive the fees.
    pub treasury: Key,
    /// A zero address is no mint.
    pub mints: [Key; crate::MINTS],
    pub domain: Key,
    pub pending_admin: Key,
    slot_stake: [u8; 8],
    unbond_s: [u8; 8],
    min_challenge_s: [u8; 8],
    slash_bps: [u8; 2],
    pub paused: u8,
    pub auth_bump: u8,
    pub vault_bumps: [u8; crate::MINTS],
    _pad: [u8; 2],
}

impl Config {
    numbers! {
        slot_stake / set_slot_stake: u64,
        unbond_s / set_unbond_s: u64,
        min_challenge_s / set_min_challenge_s: u64,
        slash_bps / set_slash_bps: u16,
    }

    /// Which of the accepted mints this is.
    #[inline(always)]
    pub fn mint_index(&self, mint: &Key) -> Result<usize> {
        if *mint == [0; 32] {
            return Err(Error::WrongMint);
        }
        self.mints.iter().position(|one| one == mint).ok_or(Error::WrongMint)
    }
}

/// One owner's money of one mint. Never closed, because it holds the next nonce.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Balance {
    pub header: Header,
    pub owner: Key,
    pub mint: Key,
    /// Zero where there is none.
    pub delegate: Key,
    available: [u8; 8],
    fees_owed: [u8; 8],
    fees_paid: [u8; 8],
    next_nonce: [u8; 8],
    allowance: [u8; 8],
    delegate_expires: [u8; 8],
}

impl Balance {
    numbers! {
        available / set_available: u64,
        fees_owed / set_fees_owed: u64,
        fees_paid / set_fees_paid: u64,
        next_nonce / set_next_nonce: u64,
        allowance / set_allowance: u64,
        /// Unix seconds; from then on the delegate may do nothing.
        delegate_expires / set_delegate_expires: i64,
    }
}

/// A provider's stake of one mint.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Stake {
    pub header: Header,
    pub owner: Key,
    pub mint: Key,
    /// Signs leases.
    pub node_key: Key,
    pub prev_key: Key,
    pub rent_payer: Key,
    bonded: [u8; 8],
    unbonding: [u8; 8],
    unbond_at: [u8; 8],
    rotated_at: [u8; 8],
    watermark: [u8; 8],
    slashed: [u8; 8],
}

impl Stake {
    numbers! {
        bonded / set_bonded: u64,
        unbonding / set_unbonding: u64,
        unbond_at / set_unbond_at: i64,
        rotated_at / set_rotated_at: i64,
        watermark / set_watermark: i64,
        slashed / set_slashed: u64,
    }
}

/// `Channel::header.state` while nobody asked to close.
pub const OPEN: u8 = 1;
/// `Channel::header.state` once the payer asked to close.
pub const CLOSING: u8 = 2;

/// Money set aside by a payer for one payee; its header carries the fee it was opened with.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    pub header: Header,
    pub payer: Key,
    pub payee: Key,
    pub voucher_key: Key,
    pub mint: Key,
    pub rent_payer: Key,
    nonce: [u8; 8],
    deposit: [u8; 8],
    settled: [u8; 8],
    fee_taken: [u8; 8],
    challenge_s: [u8; 8],
    close_at: [u8; 8],
    pub alloc_root: [u8; 32],
}

impl Channel {
    numbers! {
        nonce / set_nonce: u64,
        deposit / set_deposit: u64,
        /// What left the channel so far, fees included.
        settled / set_settled: u64,
        fee_taken / set_fee_taken: u64,
        challenge_s / set_challenge_s: u64,
        /// Unix seconds; zero while nobody asked to close.
        close_at / set_close_at: i64,
    }
}

// SAFETY: only byte arrays and `u8`s in order, each beginning with a `Header`.
unsafe impl Record for Config {
    const KIND: u8 = 1;
}
// SAFETY: as above.
unsafe impl Record for Balance {
    const KIND: u8 = 2;
}
// SAFETY: as above.
unsafe impl Record for Stake {
    const KIND: u8 = 3;
}
// SAFETY: as above.
unsafe impl Record for Channel {
    const KIND: u8 = 4;
}

const _: () = {
    assert!(Config::SIZE == 232 && align_of::<Config>() == 1);
    assert!(Balance::SIZE == 152 && align_of::<Balance>() == 1);
    assert!(Stake::SIZE == 216 && align_of::<Stake>() == 1);
    assert!(Channel::SIZE == 248 && align_of::<Channel>() == 1);
};
