//! Running a user program until it needs the kernel.

use crate::cpu::{USER_CS, USER_SS, at, features, this};
use crate::fpu::Fpu;
use crate::{USER_END, apic, trap};
use core::mem::offset_of;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::{FsBase, KernelGsBase, Msr};

/// A program's general registers. The names are the manual's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Registers {
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
    pub rip: u64,
    pub rflags: u64,
    pub rsp: u64,
    vector: u64,
    error: u64,
}

/// Offsets into [`Registers`] for the assembly.
#[allow(missing_docs)]
pub(crate) mod off {
    use super::*;
    macro_rules! offsets { ($($name:ident $field:ident)*) => { $(pub const $name: usize = offset_of!(Registers, $field);)* } }
    offsets! { R15 r15 R14 r14 R13 r13 R12 r12 R11 r11 R10 r10 R9 r9 R8 r8 RBP rbp RDI rdi RSI rsi RDX rdx RCX rcx RBX rbx
    RAX rax RIP rip RFLAGS rflags RSP rsp VECTOR vector ERROR error }
}

/// All CPU state of one thread of a program.
#[derive(Debug)]
pub struct UserContext {
    /// General registers, instruction pointer, flags, stack pointer.
    pub regs: Registers,
    fs_base: u64,
    gs_base: u64,
    fpu: Fpu,
}

/// Why the program stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trap {
    /// The `syscall` instruction; number in `rax`, arguments in `rdi rsi rdx r10 r8 r9`.
    Syscall,
    /// A page is missing or forbids the access.
    PageFault {
        /// The address.
        addr: u64,
        /// It was a write.
        write: bool,
        /// It was an instruction fetch.
        exec: bool,
        /// An entry was there: a matter of rights.
        present: bool,
    },
    /// Any other exception.
    Exception {
        /// Its number.
        vector: u8,
        /// Error code, 0 if it has none.
        code: u64,
    },
    /// An interrupt; already acknowledged.
    Interrupt(u8),
}

/// Vector number that stands for the `syscall` instruction.
const SYSCALL: u64 = 256;
/// Flags a program may set: CF PF AF ZF SF TF DF OF RF AC ID.
const USER_FLAGS: u64 = 0x0025_0dd5;
/// Flags that are always set: reserved bit 1, IF.
const FIXED_FLAGS: u64 = 0x202;

impl UserContext {
    /// A thread that starts at `entry` with stack pointer `stack`, all else zero; `None` without memory.
    pub fn new(entry: u64, stack: u64) -> Option<Self> {
        let regs = Registers { rip: entry, rsp: stack, rflags: FIXED_FLAGS, ..Registers::default() };
        Some(Self { regs, fs_base: 0, gs_base: 0, fpu: Fpu::new()? })
    }
    /// The same state again, for fork and clone; `None` without memory.
    pub fn duplicate(&self) -> Option<Self> {
        Some(Self { regs: self.regs, fs_base: self.fs_base, gs_base: self.gs_base, fpu: self.fpu.duplicate()? })
    }
    /// Thread pointer.
    pub fn fs_base(&self) -> u64 {
        self.fs_base
    }
    /// Sets the thread pointer; false, and no change, if `base` is not a user address.
    pub fn set_fs_base(&mut self, base: u64) -> bool {
        if base < USER_END {
            self.fs_base = base;
        }
        base < USER_END
    }
    /// GS base.
    pub fn gs_base(&self) -> u64 {
        self.gs_base
    }
    /// Sets the GS base; false, and no change, if `base` is not a user address.
    pub fn set_gs_base(&mut self, base: u64) -> bool {
        if base < USER_END {
            self.gs_base = base;
        }
        base < USER_END
    }
}

/// Address that `syscall` jumps to.
pub(crate) fn syscall_entry_address() -> u64 {
    unsafe extern "C" {
        static arch_syscall_entry: u8;
    }
    (&raw const arch_syscall_entry) as u64
}

/// Runs the program until it traps. Interrupts are open while it runs and masked again after.
///
/// A thread must come back to the CPU it ran on last: its FP state may still be in the registers there.
///
/// # Safety
/// `root` is a page table whose upper half is the kernel's; its lower half maps nothing that the kernel relies on.
pub unsafe fn run_user(ctx: &mut UserContext, root: u64) -> Trap {
    if ctx.regs.rip >= USER_END {
        // IRET to a non-canonical address would fault in the kernel.
        return Trap::PageFault { addr: ctx.regs.rip, write: false, exec: true, present: false };
    }
    ctx.regs.rflags = ctx.regs.rflags & USER_FLAGS | FIXED_FLAGS;
    let has_fsgsbase = features().fsgsbase;
    // SAFETY: by the caller for `root`; both bases are canonical: setters and read-back below see to it; `enter` saves
    // and restores what the ABI wants, and `ctx` outlives the call.
    unsafe {
        let cpu = this();
        crate::paging::activate(root);
        ctx.fpu.load();
        if has_fsgsbase {
            core::arch::asm!("wrfsbase {}", in(reg) ctx.fs_base, options(nostack, nomem, preserves_flags));
        } else {
            FsBase::write(VirtAddr::new_truncate(ctx.fs_base));
        }
        KernelGsBase::write(VirtAddr::new_truncate(ctx.gs_base));
        (*cpu).registers = &raw mut ctx.regs;
        arch_enter_user(&raw mut ctx.regs);
        if has_fsgsbase {
            // The program may have changed them without asking.
            core::arch::asm!("rdfsbase {}", out(reg) ctx.fs_base, options(nostack, nomem, preserves_flags));
            ctx.gs_base = Msr::new(0xc000_0102).read();
        }
    }
    let (vector, code) = (ctx.regs.vector, ctx.regs.error);
    match vector {
        SYSCALL => Trap::Syscall,
        14 => Trap::PageFault {
            addr: trap::fault_address(),
            write: code & 2 != 0,
            exec: code & 16 != 0,
            present: code & 1 != 0,
        },
        0..=31 => Trap::Exception { vector: vector as u8, code },
        _ => {
            let vector = vector as u8;
            trap::note(vector);
            if vector != trap::SPURIOUS {
                apic::end_of_interrupt();
            }
            Trap::Interrupt(vector)
        }
    }
}

unsafe extern "C" {
    fn arch_enter_user(registers: *mut Registers);
}

core::arch::global_asm!(
    r#"
    .pushsection .text.user, "ax"
    .balign 16
    .globl arch_enter_user
arch_enter_user:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov gs:[{kernel_rsp}], rsp
    mov gs:[{rsp0}], rsp
    mov r15, [rdi + {r15}]
    mov r14, [rdi + {r14}]
    mov r13, [rdi + {r13}]
    mov r12, [rdi + {r12}]
    mov r10, [rdi + {r10}]
    mov r9, [rdi + {r9}]
    mov r8, [rdi + {r8}]
    mov rbp, [rdi + {rbp}]
    mov rsi, [rdi + {rsi}]
    mov rbx, [rdi + {rbx}]
    mov rcx, [rdi + {rip}]
    mov r11, [rdi + {rflags}]
    // SYSRET destroys rcx and r11, which does no harm right after SYSCALL did the same. It does not restore RF and TF
    // as IRET does.
    cmp rcx, [rdi + {rcx}]
    jne 1f
    cmp r11, [rdi + {r11}]
    jne 1f
    test r11d, 0x10100
    jnz 1f
    mov rdx, [rdi + {rdx}]
    mov rax, [rdi + {rax}]
    mov rsp, [rdi + {rsp}]
    mov rdi, [rdi + {rdi}]
    swapgs
    sysretq
1:  push {user_ss}
    push qword ptr [rdi + {rsp}]
    push r11
    push {user_cs}
    push rcx
    mov rdx, [rdi + {rdx}]
    mov rcx, [rdi + {rcx}]
    mov r11, [rdi + {r11}]
    mov rax, [rdi + {rax}]
    mov rdi, [rdi + {rdi}]
    swapgs
    iretq

    .balign 16
    .globl arch_syscall_entry
arch_syscall_entry:
    swapgs
    mov gs:[{user_rsp}], rsp
    mov rsp, gs:[{kernel_rsp}]
    push rax
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
    mov [rax + {rip}], rcx
    mov [rax + {rflags}], r11
    pop qword ptr [rax + {rax}]
    mov rcx, gs:[{user_rsp}]
    mov [rax + {rsp}], rcx
    mov qword ptr [rax + {vector}], {syscall}
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret
    .popsection
    "#,
    kernel_rsp = const at::KERNEL_RSP,
    user_rsp = const at::USER_RSP,
    registers = const at::REGISTERS,
    rsp0 = const at::RSP0,
    user_ss = const USER_SS,
    user_cs = const USER_CS,
    syscall = const SYSCALL,
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
    rip = const off::RIP,
    rflags = const off::RFLAGS,
    rsp = const off::RSP,
);
