//! What the settlement program and everybody who talks to it agree on.
//!
//! Accounts ([`state`]), instructions with their arguments and accounts ([`instruction`]), events
//! ([`event`]), errors ([`error`]), addresses ([`seeds`]), the statements people sign
//! ([`statement`]) and the rules about money ([`rules`]). Nothing here touches a runtime, so all of
//! it is tested on the host, and nothing needs `std` except the IDL ([`idl`], behind a feature).
//!
//! Numbers are little-endian. Amounts are micro-units of a mint with six decimals.
#![cfg_attr(not(any(test, feature = "idl")), no_std)]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod discriminator;
pub mod error;
pub mod event;
#[cfg(feature = "idl")]
pub mod idl;
pub mod instruction;
pub mod layout;
pub mod rules;
pub mod seeds;
pub mod staking;
pub mod state;
pub mod statement;

/// A 32-byte address or public key.
pub type Key = [u8; 32];

/// The mints' only allowed number of decimals: one unit is a millionth.
pub const MINT_DECIMALS: u8 = 6;
/// How many mints one deployment can accept.
pub const MINTS: usize = 2;
/// The highest fee, 5 %: the admin cannot take more of anybody's earnings.
pub const MAX_FEE_BPS: u16 = 500;
/// The highest penalty, half of a stake.
pub const MAX_SLASH_BPS: u16 = 5_000;
/// The longest challenge time, 30 days: a payer's money cannot be held for longer.
pub const MAX_CHALLENGE_S: u64 = 30 * 86_400;
/// The longest unbonding time, 30 days: a provider's money cannot be held for longer.
pub const MAX_UNBOND_S: u64 = 30 * 86_400;
/// How long after a rotation a lease by the key before it still counts: the longest tick of a job
/// that was running then.
pub const ROTATION_GRACE_S: u64 = 300;
/// The denominator of every rate.
pub const BPS: u64 = 10_000;
