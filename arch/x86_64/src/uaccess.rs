//! Copies between the kernel and the program whose tables are loaded. A fault ends the copy, not the kernel.

use crate::USER_END;

unsafe extern "C" {
    fn arch_copy_user(to: *mut u8, from: *const u8, bytes: usize) -> usize;
    static __fixup_start: [u64; 2];
    static __fixup_end: [u64; 2];
}

/// Where to go on after a fault at `rip`, if that is an instruction that may fault.
pub(crate) fn fixup(rip: u64) -> Option<u64> {
    // SAFETY: the linker script puts pairs of addresses between the two symbols.
    let table = unsafe {
        let first = &raw const __fixup_start;
        let count = (&raw const __fixup_end).offset_from(first) as usize;
        core::slice::from_raw_parts(first, count)
    };
    table.iter().find(|e| e[0] == rip).map(|e| e[1])
}

fn in_user_half(at: u64, bytes: usize) -> bool {
    at.checked_add(bytes as u64).is_some_and(|end| end <= USER_END)
}

/// Copies from the program; returns how many bytes were *not* copied.
pub fn copy_from_user(to: &mut [u8], from: u64) -> usize {
    if !in_user_half(from, to.len()) {
        return to.len();
    }
    // SAFETY: `to` is ours; `from` is in the user half, where a fault goes to the fixup.
    unsafe { arch_copy_user(to.as_mut_ptr(), from as *const u8, to.len()) }
}

/// Copies to the program; returns how many bytes were *not* copied.
pub fn copy_to_user(to: u64, from: &[u8]) -> usize {
    if !in_user_half(to, from.len()) {
        return from.len();
    }
    // SAFETY: `from` is ours; `to` is in the user half, where no kernel object lives and a fault goes to the fixup.
    unsafe { arch_copy_user(to as *mut u8, from.as_ptr(), from.len()) }
}

core::arch::global_asm!(
    r#"
    .pushsection .text.uaccess, "ax"
    .balign 16
    .globl arch_copy_user
arch_copy_user:
    mov rcx, rdx
    cmp byte ptr [rip + ARCH_SMAP], 0
    je 1f
    stac
1:  rep movsb
2:  cmp byte ptr [rip + ARCH_SMAP], 0
    je 3f
    clac
3:  mov rax, rcx
    ret
    .popsection
    .pushsection .fixup_table, "a"
    .quad 1b, 2b
    .popsection
    "#
);
