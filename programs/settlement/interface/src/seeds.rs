//! Seeds of the program's addresses. `domain` separates one deployment on one chain from all others.

use crate::Key;

/// `config`
pub const CONFIG: &[u8] = b"config";
/// `vault`, domain, mint: an SPL token account of [`AUTH`].
pub const VAULT: &[u8] = b"vault";
/// `auth`, domain: owns the vaults.
pub const AUTH: &[u8] = b"auth";
/// `balance`, domain, owner, mint
pub const BALANCE: &[u8] = b"balance";
/// `stake`, domain, owner, mint
pub const STAKE: &[u8] = b"stake";
/// `channel`, domain, payer, payee, mint, nonce (u64)
pub const CHANNEL: &[u8] = b"channel";

/// What the domain is the SHA-256 of, followed by the genesis hash and the program's id.
pub const DOMAIN_TAG: &[u8] = b"robocompute/domain/1";

/// The three parts whose SHA-256 is the domain.
#[inline(always)]
pub fn domain_parts<'a>(genesis_hash: &'a Key, program_id: &'a Key) -> [&'a [u8]; 3] {
    [DOMAIN_TAG, genesis_hash, program_id]
}
