//! A few instructions of user code for `selftest=user`, and kernel accesses to user pages for `selftest=smap|smep`.

/// The program: `rdi` is any number n, FS base is [`PAGE_AT`]. It asks the kernel (call 100) for n + 1, faults on
/// [`PAGE_AT`], spins until the word after is not 0, checks that its SSE register survived, and exits (call 60) with 0, or
/// with the number of the step that failed.
pub fn program() -> &'static [u8] {
    unsafe extern "C" {
        static probe_start: u8;
        static probe_end: u8;
    }
    let (start, end) = (&raw const probe_start, &raw const probe_end);
    // SAFETY: two labels around constant bytes of the image.
    unsafe { core::slice::from_raw_parts(start, end.offset_from(start) as usize) }
}

/// Page that the program faults on.
pub const PAGE_AT: u64 = 0x50_0000;

core::arch::global_asm!(
    r#"
    .pushsection .rodata.probe, "a"
probe_start:
    mov rbx, rdi
    movq xmm7, rdi
    mov eax, 100
    syscall
    inc rbx
    mov edi, 1
    cmp rax, rbx
    jne 9f
    mov r8d, 0x500000
    mov [r8], rbx
    mov edi, 2
    cmp [r8], rbx
    jne 9f
    mov edi, 3
    cmp fs:[0], rbx
    jne 9f
1:  pause
    cmp qword ptr [r8 + 8], 0
    je 1b
    movq rax, xmm7
    inc rax
    mov edi, 4
    cmp rax, rbx
    jne 9f
    xor edi, edi
9:  mov eax, 60
    syscall
    ud2
probe_end:
    .popsection
    "#
);

/// Reads a user page from the kernel: must fault under SMAP.
pub fn read_user(at: u64) -> u8 {
    // SAFETY: none: the load must fault.
    unsafe { core::ptr::read_volatile(at as *const u8) }
}

/// Runs a user page in kernel mode: must fault under SMEP.
pub fn execute_user(at: u64) {
    // SAFETY: none: the call must fault.
    unsafe { core::mem::transmute::<u64, extern "C" fn()>(at)() }
}

/// Loads a program's tables without running it.
pub fn activate(root: iommu_types::Phys) {
    // SAFETY: callers pass the root of live `Tables`.
    unsafe { arch_x86_64::paging::activate(root.0) }
}
