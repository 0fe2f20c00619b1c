//! The instructions: discriminator, arguments and accounts of each.
//!
//! Data are the eight bytes of `discriminator("global", name)` and the arguments one after another.
//! Accounts are in the order listed; more accounts at the end are ignored unless said otherwise.

use crate::{
    Key,
    discriminator::discriminator,
    layout::{Digest, FieldSpec, record},
};

/// One account in an instruction's list.
#[derive(Clone, Copy, Debug)]
pub struct AccountSpec {
    pub name: &'static str,
    pub writable: bool,
    pub signer: bool,
}

/// One instruction, as the IDL lists it.
#[derive(Clone, Copy, Debug)]
pub struct InstructionSpec {
    pub name: &'static str,
    pub docs: &'static [&'static str],
    pub discriminator: [u8; 8],
    pub accounts: &'static [AccountSpec],
    pub arguments: &'static [FieldSpec],
}

const fn access(text: &str) -> (bool, bool) {
    let (mut writable, mut signer, mut i) = (false, false, 0);
    let bytes = text.as_bytes();
    while i < bytes.len() {
        match bytes[i] {
            b'w' => writable = true,
            b's' => signer = true,
            b'r' => {}
            _ => panic!("access is made of r, w and s"),
        }
        i += 1;
    }
    (writable, signer)
}

macro_rules! instructions {
    ($(
        $(#[doc = $doc:literal])+
        $type:ident = $name:literal {
            $($arg:ident: $argtype:ty,)*
        } [ $($account:ident: $access:ident,)* ]
    )+) => {
        $(
            record! {
                $(#[doc = $doc])+
                pub struct $type { $($arg: $argtype,)* }
            }
            impl $type {
                pub const NAME: &'static str = $name;
                pub const DISCRIMINATOR: [u8; 8] = discriminator("global", $name);
                pub const SPEC: InstructionSpec = InstructionSpec {
                    name: $name,
                    docs: &[$($doc),+],
                    discriminator: Self::DISCRIMINATOR,
                    accounts: &[$(AccountSpec {
                        name: stringify!($account),
                        writable: access(stringify!($access)).0,
                        signer: access(stringify!($access)).1,
                    },)*],
                    arguments: Self::FIELDS,
                };
            }
        )+

        /// Every instruction the program has.
        pub const INSTRUCTIONS: &[InstructionSpec] = &[$($type::SPEC,)+];
    };
}

instructions! {
    /// Create Config and the vaults, once. The program's upgrade authority signs and pays the rent.
    /// `mint1` is the zero address where only one mint is accepted; `vault1` is then not used.
    InitConfig = "init_config" {
        genesis_hash: Digest,
        admin: Key,
        treasury: Key,
        slot_stake: u64,
        unbond_s: u64,
        min_challenge_s: u64,
        fee_bps: u16,
        slash_bps: u16,
    } [
        authority: ws, config: w, program_data: r, mint0: r, vault0: w, mint1: r, vault1: w,
        vault_authority: r, token_program: r, system_program: r,
    ]

    /// Replace every setting at once. Open channels keep the fee they were opened with.
    UpdateConfig = "update_config" {
        treasury: Key,
        slot_stake: u64,
        unbond_s: u64,
        min_challenge_s: u64,
        fee_bps: u16,
        slash_bps: u16,
        paused: bool,
    } [ admin: s, config: w, ]

    /// Move tokens of the owner into the vault; the owner's Balance is created where missing, at the
    /// owner's cost. Zero is allowed: it only creates the Balance, also while all else is paused.
    Deposit = "deposit" {
        amount: u64,
    } [
        owner: ws, source: w, vault: w, balance: w, mint: r, config: r, token_program: r,
        system_program: r,
    ]

    /// Pay out of the owner's Balance to any token account of its mint. Never paused.
    Withdraw = "withdraw" {
        amount: u64,
    } [
        owner: s, balance: w, vault: w, destination: w, mint: r, vault_authority: r, config: r,
        token_program: r,
    ]

    /// Let `delegate` open, top up and close channels of this Balance, up to `allowance`, before
    /// `expires` (Unix seconds). Replaces what was set before; the zero address ends it.
    SetDelegate = "set_delegate" {
        delegate: Key,
        allowance: u64,
        expires: i64,
    } [ owner: s, balance: w, ]

    /// Set `deposit` of the payer's Balance aside for `payee`, to be claimed with vouchers of
    /// `voucher_key`. Refused while paused.
    OpenChannel = "open_channel" {
        payee: Key,
        voucher_key: Key,
        nonce: u64,
        deposit: u64,
        challenge_s: u64,
    } [
        authority: s, rent_payer: ws, payer_balance: w, channel: w, config: r, system_program: r,
    ]

    /// Set more of the payer's Balance aside in an open channel. Never paused.
    TopUp = "top_up" {
        amount: u64,
    } [ authority: s, payer_balance: w, channel: w, ]

    /// Turn a voucher into the payee's Balance: up to `claim`, the voucher's total and the deposit.
    /// The voucher is entry `entry` of the Ed25519 instruction at index `ed_ix`. What is settled
    /// already is no error. Anyone may call.
    Settle = "settle" {
        ed_ix: u8,
        entry: u8,
        claim: u64,
    } [ channel: w, payee_balance: w, instructions: r, ]

    /// Close at once, by the payee or its delegate. The rest goes back to the payer's Balance.
    /// `payee_balance` is read only when a delegate signs.
    CloseByPayee = "close_by_payee" {
    } [ authority: s, channel: w, payee_balance: r, payer_balance: w, rent_payer: w, ]

    /// Start the challenge time, by the payer or its delegate. Asking again changes nothing.
    RequestClose = "request_close" {
    } [ authority: s, channel: w, payer_balance: r, ]

    /// Close after the challenge time. Anyone may call.
    FinalizeClose = "finalize_close" {
    } [ channel: w, payer_balance: w, rent_payer: w, ]

    /// Create the owner's Stake of a mint and bind it to the key its leases are signed with.
    Register = "register" {
        node_key: Key,
    } [ owner: s, rent_payer: ws, stake: w, mint: r, config: r, system_program: r, ]

    /// Bond `amount` of the owner's Balance.
    Stake = "stake" {
        amount: u64,
    } [ owner: s, balance: w, stake: w, ]

    /// Move the fees owed by the Balances that follow the named accounts to the treasury's Balance,
    /// which is created where missing. Anyone may call.
    SweepFees = "sweep_fees" {
    } [ rent_payer: ws, config: r, treasury_balance: w, mint: r, system_program: r, ]

    /// Begin to take `amount` out of what is bonded. It stays slashable until it is claimed, and the
    /// unbonding time starts anew for all that is unbonding. Never paused.
    Unstake = "unstake" {
        amount: u64,
    } [ owner: s, stake: w, config: r, ]

    /// Move all that has been unbonding for its whole time to the owner's Balance. Never paused.
    ClaimUnbonded = "claim_unbonded" {
    } [ owner: s, balance: w, stake: w, ]

    /// Let another key sign the stake's leases, at most once in an unbonding time. The key before it
    /// stays answerable for what it signed.
    RotateKey = "rotate_key" {
        node_key: Key,
    } [ owner: s, stake: w, config: r, ]

    /// Offer the administration to another key, which has to accept; zero takes the offer back.
    ProposeAdmin = "propose_admin" {
        new_admin: Key,
    } [ admin: s, config: w, ]

    /// Take the administration over, by the key it was offered to.
    AcceptAdmin = "accept_admin" {
    } [ new_admin: s, config: w, ]

    /// Prove that a slot was let to two payers for one moment: two leases, entries `first` and
    /// `second` of the Ed25519 instruction at index `ed_ix`. Anyone may call; the reporter gets a
    /// tenth of the penalty, each payer a fifth, the treasury the rest. A payer that has no Balance
    /// is given by the address it would have, and its share goes to the treasury.
    Slash = "slash" {
        ed_ix: u8,
        first: u8,
        second: u8,
    } [
        reporter: s, config: r, stake: w, reporter_balance: w, first_balance: w,
        second_balance: w, treasury_balance: w, instructions: r,
    ]
}
