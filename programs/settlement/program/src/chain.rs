//! What the runtime offers: hashes, addresses, the clock, rent and the event log.

use pinocchio::{
    Address, syscalls,
    sysvars::{Sysvar, clock::Clock},
};
use settlement_interface::Key;

use crate::fault::Outcome;

/// The SHA-256 of all parts, one after another.
#[inline(always)]
pub fn sha256(parts: &[&[u8]]) -> Key {
    let mut digest = [0u8; 32];
    // SAFETY: the runtime reads `parts.len()` slices and writes 32 bytes.
    unsafe {
        syscalls::sol_sha256(parts.as_ptr().cast(), parts.len() as u64, digest.as_mut_ptr());
    }
    digest
}

/// The address of seeds whose last one is a bump that was found canonical before. Asking the runtime
/// again would cost 1,500 compute units.
#[inline(always)]
pub fn address_of<const SEEDS: usize>(seeds: [&[u8]; SEEDS], program: &Address) -> Key {
    const MARKER: &[u8] = b"ProgramDerivedAddress";
    let mut parts: [&[u8]; 8] = [&[]; 8];
    const { assert!(SEEDS + 2 <= 8) };
    parts[..SEEDS].copy_from_slice(&seeds);
    parts[SEEDS] = program.as_array();
    parts[SEEDS + 1] = MARKER;
    sha256(&parts[..SEEDS + 2])
}

/// Unix seconds.
#[inline(always)]
pub fn now() -> Outcome<i64> {
    Ok(Clock::get()?.unix_timestamp)
}

/// Log an event's bytes.
#[inline(always)]
pub fn emit(event: &[u8]) {
    let fields = [event];
    // SAFETY: the runtime reads one slice.
    unsafe { syscalls::sol_log_data(fields.as_ptr().cast(), 1) };
}

/// The lamports an account of `size` bytes must hold.
///
/// SIMD-0194 turns the threshold of two years into one and doubles the rate. Which one a runtime
/// has is seen from the threshold's bits, as BPF has no floating point; the product is the same.
#[inline(never)]
pub fn rent(size: u64) -> u64 {
    #[repr(C)]
    struct Rent {
        lamports_per_byte: u64,
        threshold: u64,
        burn_percent: u64,
    }
    const ACCOUNT_OVERHEAD: u64 = 128;
    const TWO_YEARS: u64 = 2.0f64.to_bits();
    let mut rent = Rent { lamports_per_byte: 0, threshold: 0, burn_percent: 0 };
    // SAFETY: `Rent` has the layout of the sysvar, padding included.
    #[allow(deprecated)]
    unsafe {
        syscalls::sol_get_rent_sysvar((&raw mut rent).cast());
    }
    let years = if rent.threshold == TWO_YEARS { 2 } else { 1 };
    // A few hundred bytes times a few thousand lamports: far from 2⁶⁴.
    (ACCOUNT_OVERHEAD + size).wrapping_mul(years).wrapping_mul(rent.lamports_per_byte)
}
