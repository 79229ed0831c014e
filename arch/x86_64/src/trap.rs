//! Interrupt descriptor table, exception stubs, exceptions in kernel mode.

use crate::cpu::{FAULT_IST, at};
use crate::user::off;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Once;
use x86_64::VirtAddr;
use x86_64::structures::idt::InterruptDescriptorTable;

/// Vector of the local timer.
pub const TIMER: u8 = 0x20;
/// First vector for devices.
pub const FIRST_DEVICE: u8 = 0x30;
/// Vector of the APIC's spurious interrupt.
pub const SPURIOUS: u8 = 0xff;

/// Registers at an exception in kernel mode, in the order that the stub pushes them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct KernelFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

static IDT: Once<InterruptDescriptorTable> = Once::new();
static FATAL: Once<fn(&KernelFrame) -> !> = Once::new();
static PENDING: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// What to do with an exception of the kernel itself; it prints and ends.
pub fn on_fatal(handler: fn(&KernelFrame) -> !) {
    FATAL.call_once(|| handler);
}

/// Remembers that `vector` came in.
pub(crate) fn note(vector: u8) {
    PENDING[usize::from(vector >> 6)].fetch_or(1 << (vector & 63), Ordering::AcqRel);
}

/// Did the interrupt `vector` come in since the last call?
pub fn take_pending(vector: u8) -> bool {
    let bit = 1 << (vector & 63);
    PENDING[usize::from(vector >> 6)].fetch_and(!bit, Ordering::AcqRel) & bit != 0
}

/// Name of an exception (Intel SDM volume 3, table 7-1).
pub const fn exception_name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range",
        6 => "invalid opcode",
        7 => "device not available",
        8 => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack fault",
        13 => "general protection",
        14 => "page fault",
        16 => "x87 floating point",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD floating point",
        21 => "control protection",
        _ => "unknown exception",
    }
}

/// Address of the last page fault.
pub fn fault_address() -> u64 {
    x86_64::registers::control::Cr2::read_raw()
}

pub(crate) fn load_idt() {
    unsafe extern "C" {
        static trap_stubs: u8;
    }
    let idt = IDT.call_once(|| {
        let mut t = InterruptDescriptorTable::new();
        let stub = |v: u64| VirtAddr::new((&raw const trap_stubs) as u64 + v * 16);
        // SAFETY: each stub is 16 bytes, built for its vector below, and preserves all state or ends the kernel; the
        // fault stack is in the TSS of every CPU.
        unsafe {
            t.divide_error.set_handler_addr(stub(0));
            t.debug.set_handler_addr(stub(1));
            t.non_maskable_interrupt.set_handler_addr(stub(2)).set_stack_index(FAULT_IST);
            t.breakpoint.set_handler_addr(stub(3)).set_privilege_level(x86_64::PrivilegeLevel::Ring3);
            t.overflow.set_handler_addr(stub(4));
            t.bound_range_exceeded.set_handler_addr(stub(5));
            t.invalid_opcode.set_handler_addr(stub(6));
            t.device_not_available.set_handler_addr(stub(7));
            t.double_fault.set_handler_addr(stub(8)).set_stack_index(FAULT_IST);
            t.invalid_tss.set_handler_addr(stub(10));
            t.segment_not_present.set_handler_addr(stub(11));
            t.stack_segment_fault.set_handler_addr(stub(12));
            t.general_protection_fault.set_handler_addr(stub(13));
            t.page_fault.set_handler_addr(stub(14));
            t.x87_floating_point.set_handler_addr(stub(16));
            t.alignment_check.set_handler_addr(stub(17));
            t.machine_check.set_handler_addr(stub(18)).set_stack_index(FAULT_IST);
            t.simd_floating_point.set_handler_addr(stub(19));
            t.virtualization.set_handler_addr(stub(20));
            t.cp_protection_exception.set_handler_addr(stub(21));
            for (i, entry) in t.slice_mut(32..=255).iter_mut().enumerate() {
                entry.set_handler_addr(stub(32 + i as u64));
            }
        }
        t
    });
    idt.load();
}

/// The kernel's own exceptions and the interrupts it takes while idle.
#[unsafe(no_mangle)]
extern "C" fn arch_kernel_trap(frame: &mut KernelFrame) {
    if frame.vector >= 32 {
        let vector = frame.vector as u8;
        note(vector);
        if vector != SPURIOUS {
            crate::apic::end_of_interrupt();
        }
        return;
    }
    if frame.vector == 14
        && let Some(to) = crate::uaccess::fixup(frame.rip)
    {
        frame.rip = to;
        return;
    }
    match FATAL.get() {
        Some(fatal) => fatal(frame),
        None => crate::cpu::halt(),
    }
}

core::arch::global_asm!(
    r#"
    .pushsection .text.traps, "ax"
    .balign 16
    .globl trap_stubs
trap_stubs:
    .set vec, 0
    .rept 256
    .balign 16
    // Vectors for which the CPU pushes an error code (Intel SDM volume 3, table 7-1).
    .if (vec != 8) && (vec != 10) && (vec != 11) && (vec != 12) && (vec != 13) && (vec != 14) && (vec != 17) && (vec != 21) && (vec != 29) && (vec != 30)
    push 0
    .endif
    push vec
    jmp trap_common
    .set vec, vec + 1
    .endr

    .balign 16
trap_common:
    test byte ptr [rsp + 24], 3
    jz 2f
    // From user mode: the registers go where run_user wants them, and run_user returns.
    swapgs
    cld
    cmp byte ptr [rip + ARCH_SMAP], 0
    je 1f
    clac
1:  push rax
    mov rax, gs:[{registers}]
    mov [rax + {r15}], r15
    mov [rax + {r14}], r14
    mov [rax + {r13}], r13
    mov [rax + {r12}], r12
    mov [rax + {r11}], r11
    mov [rax + {r10}], r10
    mov [rax + {r9}], r9
    mov [rax + {r8}], r8
    mov [rax + {rbp}], rbp
    mov [rax + {rdi}], rdi
    mov [rax + {rsi}], rsi
    mov [rax + {rdx}], rdx
    mov [rax + {rcx}], rcx
    mov [rax + {rbx}], rbx
    pop qword ptr [rax + {rax}]
    pop qword ptr [rax + {vector}]
    pop qword ptr [rax + {error}]
    pop qword ptr [rax + {rip}]
    add rsp, 8
    pop qword ptr [rax + {rflags}]
    pop qword ptr [rax + {rsp}]
    mov rsp, gs:[{kernel_rsp}]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

2:  cld
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    call arch_kernel_trap
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    add rsp, 16
    iretq
    .popsection
    "#,
    registers = const at::REGISTERS,
    kernel_rsp = const at::KERNEL_RSP,
    r15 = const off::R15,
    r14 = const off::R14,
    r13 = const off::R13,
    r12 = const off::R12,
    r11 = const off::R11,
    r10 = const off::R10,
    r9 = const off::R9,
    r8 = const off::R8,
    rbp = const off::RBP,
    rdi = const off::RDI,
    rsi = const off::RSI,
    rdx = const off::RDX,
    rcx = const off::RCX,
    rbx = const off::RBX,
    rax = const off::RAX,
    vector = const off::VECTOR,
    error = const off::ERROR,
    rip = const off::RIP,
    rflags = const off::RFLAGS,
    rsp = const off::RSP,
);
