//! What the program tells the world (`sol_log_data`): eight bytes of
//! `discriminator("event", name)` and the fields one after another.

use crate::{
    Key,
    discriminator::discriminator,
    layout::{Digest, FieldSpec, record},
};

/// One event, as the IDL lists it.
#[derive(Clone, Copy, Debug)]
pub struct EventSpec {
    pub name: &'static str,
    pub discriminator: [u8; 8],
    pub fields: &'static [FieldSpec],
}

macro_rules! events {
    ($($(#[doc = $doc:literal])+ $name:ident { $($field:ident: $type:ty,)* })+) => {
        $(
            record! {
                $(#[doc = $doc])+
                pub struct $name { $($field: $type,)* }
            }
            impl $name {
                pub const DISCRIMINATOR: [u8; 8] = discriminator("event", stringify!($name));
                /// The bytes to log.
                #[inline(always)]
                pub fn bytes(&self) -> [u8; 8 + Self::SIZE] {
                    let mut out = [0u8; 8 + Self::SIZE];
                    out[..8].copy_from_slice(&Self::DISCRIMINATOR);
                    let body: &mut [u8] = &mut out[8..];
                    // The slice has the array's size, so this cannot fail.
                    if let Ok(body) = body.try_into() {
                        self.write(body);
                    }
                    out
                }
            }
        )+

        /// Every event the program logs.
        pub const EVENTS: &[EventSpec] = &[$(EventSpec {
            name: stringify!($name),
            discriminator: $name::DISCRIMINATOR,
            fields: $name::FIELDS,
        },)+];
    };
}

events! {
    /// Config was created or changed.
    ConfigChanged {
        admin: Key, treasury: Key, slot_stake: u64, unbond_s: u64, min_challenge_s: u64,
        fee_bps: u16, slash_bps: u16, paused: bool,
    }
    /// Tokens came in.
    Deposited { owner: Key, mint: Key, amount: u64, available: u64, }
    /// Tokens went out.
    Withdrawn { owner: Key, mint: Key, destination: Key, amount: u64, available: u64, }
    /// A delegation was set or ended.
    DelegateSet { owner: Key, mint: Key, delegate: Key, allowance: u64, expires: i64, }
    /// A channel was opened.
    ChannelOpened {
        channel: Key, payer: Key, payee: Key, mint: Key, voucher_key: Key, nonce: u64,
        deposit: u64, challenge_s: u64, fee_bps: u16,
    }
    /// A channel's deposit grew to `deposit`.
    ToppedUp { channel: Key, amount: u64, deposit: u64, }
    /// `paid` and `fee` more left the channel, `settled` in all.
    Settled {
        channel: Key, payee: Key, settled: u64, paid: u64, fee: u64, alloc_root: Digest,
    }
    /// The payer asked to close; from `close_at` (Unix seconds) anyone may finalize.
    CloseRequested { channel: Key, payee: Key, close_at: i64, }
    /// A channel is gone.
    ChannelClosed { channel: Key, payer: Key, payee: Key, settled: u64, refunded: u64, }
    /// A stake was created.
    Registered { stake: Key, owner: Key, mint: Key, node_key: Key, }
    /// A stake grew to `bonded`.
    Staked { stake: Key, amount: u64, bonded: u64, }
    /// Fees reached the treasury.
    FeesSwept { treasury: Key, mint: Key, amount: u64, }
    /// `amount` began to leave a stake; all that is unbonding may be claimed from `unbond_at` on.
    Unstaked { stake: Key, amount: u64, bonded: u64, unbonding: u64, unbond_at: i64, }
    /// `amount` came back to the owner's Balance.
    UnbondedClaimed { stake: Key, owner: Key, mint: Key, amount: u64, available: u64, }
    /// Another key signs a stake's leases.
    KeyRotated { stake: Key, node_key: Key, prev_key: Key, rotated_at: i64, }
    /// The admin offered its place; a zero `pending_admin` takes the offer back.
    AdminProposed { admin: Key, pending_admin: Key, }
    /// The offer was accepted.
    AdminChanged { previous: Key, admin: Key, }
    /// A slot was let twice. `from_bonded + from_unbonding` left the stake, and went where the last
    /// four numbers say; a payer without a Balance got nothing.
    Slashed {
        stake: Key, mint: Key, reporter: Key, first_payer: Key, second_payer: Key, treasury: Key,
        from_bonded: u64, from_unbonding: u64, to_reporter: u64, to_first: u64, to_second: u64,
        to_treasury: u64, watermark: i64,
    }
}
