//! Frames of physical memory as bytes and words, and the frame table in memory.

use arch_x86_64::{PAGE, direct};
use core::sync::atomic::{AtomicU32, AtomicU64};
use iommu_api::Words;

/// What is known of one frame. Found by physical address: `table[phys / 4096]`.
#[derive(Debug, Default)]
pub struct FrameMeta {
    /// References; 0 if free or not memory.
    pub count: AtomicU32,
    /// How many of them are pins.
    pub pins: AtomicU32,
    /// Number of another frame plus 1, for chains of freed tables; 0: none.
    pub next: AtomicU32,
}

/// Makes the frame table and the bitmap of free frames (all zero) at `at`, which has room for both.
///
/// # Safety
/// `at` is page aligned memory in the direct map, [`table_bytes`] long, that nobody else uses, ever.
pub unsafe fn make_table(at: u64, frames: usize) -> (&'static [FrameMeta], &'static mut [u64]) {
    // SAFETY: by the caller; all-zero is a valid value of both types, and both parts are aligned.
    unsafe {
        core::ptr::write_bytes(direct(at), 0, table_bytes(frames) as usize);
        let bits = direct(at).cast::<u64>();
        let words = frames.div_ceil(64);
        let meta = bits.add(words).cast::<FrameMeta>();
        (core::slice::from_raw_parts(meta, frames), core::slice::from_raw_parts_mut(bits, words))
    }
}

/// Bytes for [`make_table`], whole pages.
pub fn table_bytes(frames: usize) -> u64 {
    let bytes = frames.div_ceil(64) * 8 + frames * size_of::<FrameMeta>();
    (bytes as u64).next_multiple_of(PAGE)
}

/// Is `[at, at + bytes)` inside allocatable memory, hence in the direct map?
fn check(at: u64, bytes: usize) -> bool {
    at.checked_add(bytes as u64).is_some_and(|end| end <= crate::memory::frames().end())
        && (bytes == 0 || crate::memory::frames().is_ram(at) && crate::memory::frames().is_ram(at + bytes as u64 - 1))
}

/// Copies out of memory.
///
/// # Panics
/// If the range is not memory.
pub fn read(at: u64, to: &mut [u8]) {
    assert!(check(at, to.len()), "not memory: {at:#x}");
    // SAFETY: the direct map shows it. User programs and devices may write at the same time; bytes have no invalid values.
    unsafe { core::ptr::copy_nonoverlapping(direct(at), to.as_mut_ptr(), to.len()) }
}

/// Copies into memory.
///
/// # Panics
/// If the range is not memory.
pub fn write(at: u64, from: &[u8]) {
    assert!(check(at, from.len()), "not memory: {at:#x}");
    // SAFETY: as in `read`; frames of programs and devices hold no kernel object.
    unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), direct(at), from.len()) }
}

/// Ors bytes into memory, each one atomically.
///
/// # Panics
/// If the range is not memory.
pub fn or(at: u64, bits: &[u8]) {
    assert!(check(at, bits.len()), "not memory: {at:#x}");
    for (i, b) in bits.iter().enumerate() {
        // SAFETY: as in `write`.
        let byte = unsafe { &*direct(at + i as u64).cast::<core::sync::atomic::AtomicU8>() };
        byte.fetch_or(*b, core::sync::atomic::Ordering::Relaxed);
    }
}

/// Fills `pages` frames with zeros. For frames that were just allocated.
pub fn zero(at: u64, pages: usize) {
    assert!(check(at, pages * PAGE as usize), "not memory: {at:#x}");
    // Plain 8-byte stores, eight in a row: an emulated CPU takes a string instruction one step at a time, and a real one
    // is about as fast either way.
    let mut to = direct(at).cast::<u64>();
    for _ in 0..pages * (PAGE as usize / 64) {
        // SAFETY: as in `write`: inside the frames checked above. Volatile, or the compiler makes it a memset again.
        unsafe {
            to.write_volatile(0);
            to.add(1).write_volatile(0);
            to.add(2).write_volatile(0);
            to.add(3).write_volatile(0);
            to.add(4).write_volatile(0);
            to.add(5).write_volatile(0);
            to.add(6).write_volatile(0);
            to.add(7).write_volatile(0);
            to = to.add(8);
        }
    }
}

/// Copies a whole frame.
///
/// # Panics
/// If one of them is not memory.
pub fn copy(from: u64, to: u64) {
    assert!(check(from, PAGE as usize) && check(to, PAGE as usize), "not memory: {from:#x} or {to:#x}");
    // SAFETY: as in `read` and `write`; `copy` allows them to be the same frame.
    unsafe { core::ptr::copy(direct(from), direct(to), PAGE as usize) }
}

/// The words of a table page; `None` if it is not memory.
pub fn words(at: u64) -> Option<&'static Words> {
    if at.is_multiple_of(PAGE) && check(at, PAGE as usize) {
        // SAFETY: mapped for ever, aligned; atomics may be shared with hardware.
        Some(unsafe { &*direct(at).cast::<Words>() })
    } else {
        None
    }
}

/// One word of memory; `None` if it is not memory or not aligned.
pub fn word(at: u64) -> Option<&'static AtomicU64> {
    words(at & !(PAGE - 1)).filter(|_| at.is_multiple_of(8)).map(|w| &w[(at % PAGE / 8) as usize])
}

/// Stores 16 bytes at once. Ignored if that is not memory or not aligned.
pub fn store128(at: u64, value: u128) {
    if !at.is_multiple_of(16) || !check(at, 16) {
        return;
    }
    let (low, high) = (value as u64, (value >> 64) as u64);
    // SAFETY: mapped and aligned. CMPXCHG16B is in every CPU with x86-64-v2; it stores only if nothing changed, else we
    // go round again with what is there.
    unsafe {
        core::arch::asm!(
            // The compiler keeps rbx for itself, and may give it to an unnamed operand.
            "mov r8, rbx",
            "mov rbx, rsi",
            "mov rax, [rdi]",
            "mov rdx, [rdi + 8]",
            "2: lock cmpxchg16b [rdi]",
            "jne 2b",
            "mov rbx, r8",
            in("rdi") direct(at),
            in("rsi") low,
            out("r8") _,
            in("rcx") high,
            out("rax") _,
            out("rdx") _,
            options(nostack)
        );
    }
}

/// Bytes of memory that never changes again, such as the initial archive.
///
/// # Safety
/// `[at, at + bytes)` is in the direct map, reserved, and written by nobody.
pub unsafe fn constant(at: u64, bytes: usize) -> &'static [u8] {
    // SAFETY: by the caller.
    unsafe { core::slice::from_raw_parts(direct(at), bytes) }
}
