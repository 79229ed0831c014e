//! PVH entry: 32-bit protected mode without paging, `ebx` = physical address of the start information.

core::arch::global_asm!(
    r#"
    .pushsection .note.pvh, "a", @note
    .balign 4
    .long 4                     // name size
    .long 8                     // descriptor size
    .long 18                    // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_entry - {base}
    .long 0
    .popsection

    .pushsection .boot.text, "ax"
    .code32
    .globl pvh_entry
pvh_entry:
    cli
    cld
    // Zero .bss: the tables and the stack below live there.
    movl $(__bss_start - {base}), %edi
    movl $(__bss_end - {base}), %ecx
    subl %edi, %ecx
    shrl $2, %ecx
    xorl %eax, %eax
    rep stosl

    // Four page directories map 0..4 GiB with 2 MiB pages: present, writable, large.
    movl $(boot_pd - {base}), %edi
    movl $0x83, %eax
    movl $2048, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 1b

    movl $(boot_pd - {base} + 3), %eax
    movl $(boot_pdpt_low - {base}), %edi
    movl $4, %ecx
2:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $8, %edi
    loop 2b
    // -2 GiB: the image.
    movl $(boot_pd - {base} + 3), %eax
    movl %eax, boot_pdpt_high - {base} + 510 * 8
    // Identity, direct map, image.
    movl $(boot_pdpt_low - {base} + 3), %eax
    movl %eax, boot_pml4 - {base}
    movl %eax, boot_pml4 - {base} + 256 * 8
    movl $(boot_pdpt_high - {base} + 3), %eax
    movl %eax, boot_pml4 - {base} + 511 * 8

    movl %cr4, %eax
    orl $0x20, %eax             // PAE
    movl %eax, %cr4
    movl $(boot_pml4 - {base}), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx      // EFER.LME
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80010001, %eax       // PG, WP, PE
    movl %eax, %cr0
    lgdt boot_gdt_pointer - {base}
    ljmp $8, $(boot_long - {base})

    .code64
boot_long:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movabsq $boot_high, %rax
    jmpq *%rax
    .popsection

    .pushsection .text.boot_high, "ax"
boot_high:
    leaq __stack_top(%rip), %rsp
    xorl %ebp, %ebp
    movl %ebx, %edi
    callq kernel_entry
3:  hlt
    jmp 3b
    .popsection

    .pushsection .rodata.boot, "a"
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    // 64-bit code
    .quad 0x00cf93000000ffff    // data
boot_gdt_pointer:
    .word 23
    .long boot_gdt - {base}
    .popsection

    .pushsection .bss.boot, "aw", @nobits
    .balign 4096
boot_pml4:      .skip 4096
boot_pdpt_low:  .skip 4096
boot_pdpt_high: .skip 4096
boot_pd:        .skip 4096 * 4
    .popsection
    "#,
    base = const crate::KERNEL_BASE,
    options(att_syntax)
);
