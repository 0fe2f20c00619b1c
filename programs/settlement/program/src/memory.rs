//! The C memory functions, which LLVM calls for copies it does not expand in place.
//!
//! The upstream BPF target has no library that provides them; the runtime does, as syscalls. They are
//! called by hash through a pointer, so that no body here is turned back into a call of itself.
//! Anza's tools bring their own.

use core::mem::transmute;

type Copy = unsafe extern "C" fn(*mut u8, *const u8, usize);
type Set = unsafe extern "C" fn(*mut u8, u8, usize);
type Compare = unsafe extern "C" fn(*const u8, *const u8, usize, *mut i32);

// The murmur3 hashes of the syscalls' names.
const SOL_MEMCPY: usize = 0x717c_c4a3;
const SOL_MEMMOVE: usize = 0x4343_71f8;
const SOL_MEMSET: usize = 0x3770_fb22;
const SOL_MEMCMP: usize = 0x5fdc_de31;

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the number is the syscall's; what it needs, the caller of `memcpy` promises.
    unsafe { transmute::<usize, Copy>(SOL_MEMCPY)(to, from, count) };
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: as in `memcpy`.
    unsafe { transmute::<usize, Copy>(SOL_MEMMOVE)(to, from, count) };
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    // SAFETY: as in `memcpy`.
    unsafe { transmute::<usize, Set>(SOL_MEMSET)(to, byte as u8, count) };
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    let mut order = 0;
    // SAFETY: as in `memcpy`.
    unsafe { transmute::<usize, Compare>(SOL_MEMCMP)(left, right, count, &raw mut order) };
    order
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(left, right, count) }
}
