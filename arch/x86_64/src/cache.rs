//! Cache maintenance for IOMMUs that do not snoop.

use crate::cpu::features;

/// Writes back and drops the cache lines of `bytes` bytes at `from`, and waits until that is done.
pub fn flush(from: *const u8, bytes: usize) {
    let f = features();
    let end = from as u64 + bytes as u64;
    let mut line = from as u64 & !(f.line - 1);
    // SAFETY: CLFLUSH and CLFLUSHOPT change no memory; the address is mapped, as the caller just wrote there. CLFLUSHOPT
    // is only used when CPUID has it. MFENCE orders both (Intel SDM volume 2, CLFLUSHOPT).
    unsafe {
        while line < end {
            if f.clflushopt {
                core::arch::asm!("clflushopt [{}]", in(reg) line, options(nostack, preserves_flags));
            } else {
                core::arch::asm!("clflush [{}]", in(reg) line, options(nostack, preserves_flags));
            }
            line += f.line;
        }
        core::arch::asm!("mfence", options(nostack, preserves_flags));
    }
}
