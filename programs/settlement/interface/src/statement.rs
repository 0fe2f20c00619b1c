//! Statements that are signed off the chain and judged on it.
//!
//! Each begins with `R` (0x52) and is at least 80 bytes long, so none parses as a transaction.

use crate::{
    Key,
    error::{Error, Result},
};

pub const VOUCHER_TAG: &[u8; 8] = b"RCVCHR01";
pub const LEASE_TAG: &[u8; 8] = b"RCLEAS01";

/// The payee may claim `cumulative` in all from `channel`; `alloc_root` says what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voucher {
    pub channel: Key,
    pub cumulative: u64,
    pub alloc_root: [u8; 32],
}

impl Voucher {
    pub const SIZE: usize = 80;

    /// Raises [`Error::WrongVoucher`] unless these are exactly a voucher's bytes.
    #[inline(always)]
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let bytes: &[u8; Self::SIZE] = bytes.try_into().map_err(|_| Error::WrongVoucher)?;
        if bytes[..8] != VOUCHER_TAG[..] {
            return Err(Error::WrongVoucher);
        }
        Ok(Self {
            channel: array(bytes, 8),
            cumulative: u64::from_le_bytes(array(bytes, 40)),
            alloc_root: array(bytes, 48),
        })
    }

    /// The bytes the payer signs.
    pub fn signing_bytes(&self) -> [u8; Self::SIZE] {
        let mut out = [0u8; Self::SIZE];
        out[..8].copy_from_slice(VOUCHER_TAG);
        out[8..40].copy_from_slice(&self.channel);
        out[40..48].copy_from_slice(&self.cumulative.to_le_bytes());
        out[48..80].copy_from_slice(&self.alloc_root);
        out
    }
}

/// A provider lets `slots` of `stake` to `payer` from `start` to `end` (Unix seconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub stake: Key,
    pub agreement: [u8; 32],
    pub payer: Key,
    pub slots: u64,
    pub start: i64,
    pub end: i64,
}

impl Lease {
    pub const SIZE: usize = 128;

    /// Raises [`Error::WrongLease`] unless these are exactly a lease's bytes.
    #[inline(always)]
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let bytes: &[u8; Self::SIZE] = bytes.try_into().map_err(|_| Error::WrongLease)?;
        if bytes[..8] != LEASE_TAG[..] {
            return Err(Error::WrongLease);
        }
        Ok(Self {
            stake: array(bytes, 8),
            agreement: array(bytes, 40),
            payer: array(bytes, 72),
            slots: u64::from_le_bytes(array(bytes, 104)),
            start: i64::from_le_bytes(array(bytes, 112)),
            end: i64::from_le_bytes(array(bytes, 120)),
        })
    }

    /// The bytes the provider signs.
    pub fn signing_bytes(&self) -> [u8; Self::SIZE] {
        let mut out = [0u8; Self::SIZE];
        out[..8].copy_from_slice(LEASE_TAG);
        out[8..40].copy_from_slice(&self.stake);
        out[40..72].copy_from_slice(&self.agreement);
        out[72..104].copy_from_slice(&self.payer);
        out[104..112].copy_from_slice(&self.slots.to_le_bytes());
        out[112..120].copy_from_slice(&self.start.to_le_bytes());
        out[120..128].copy_from_slice(&self.end.to_le_bytes());
        out
    }
}

/// `N` bytes at `at`, which the callers keep inside `bytes`.
#[inline(always)]
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0u8; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
