//! x86-64: CPU set-up, MMU, traps, timer, serial, system-call entry.
//!
//! The kernel above runs with interrupts masked, always: they are taken in user mode, where they end
//! [`user::run_user`], or in [`cpu::idle`].
#![no_std]

extern crate alloc;

pub mod apic;
pub mod cache;
pub mod cpu;
pub mod fpu;
pub mod mmio;
pub mod paging;
pub mod port;
pub mod serial;
pub mod time;
pub mod trap;
pub mod uaccess;
pub mod user;

/// Where physical address 0 appears in the kernel's address space.
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Virtual minus physical address of the kernel image.
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// Start of the area for device windows (1/512 of the upper half's tables).
pub const DEVICE_AREA: u64 = 0xffff_c000_0000_0000;
/// Start of the area for the kernel heap.
pub const HEAP_AREA: u64 = 0xffff_d000_0000_0000;
/// Address after the last one a user program may use; the last page below 2^47 stays empty, so that no `syscall` there
/// makes a non-canonical return address.
pub const USER_END: u64 = 0x7fff_ffff_f000;
/// Bytes in a page.
pub const PAGE: u64 = 4096;

/// The direct-map address of `phys`.
pub const fn direct(phys: u64) -> *mut u8 {
    (DIRECT_MAP + phys) as *mut u8
}

/// Addresses the linker script (`boot/kernel.ld`) defines.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// First address of code; whole pages.
    pub text: (u64, u64),
    /// Constants; whole pages.
    pub rodata: (u64, u64),
    /// Variables and stacks; whole pages.
    pub data: (u64, u64),
    /// Unmapped pages below the kernel stack and the fault stack.
    pub guards: [u64; 2],
    /// Top of the kernel stack.
    pub stack_top: u64,
    /// Top of the stack for double faults, NMI and machine checks.
    pub fault_stack_top: u64,
}

/// Reads the linker's addresses.
pub fn image() -> Image {
    unsafe extern "C" {
        static __text_start: u8;
        static __text_end: u8;
        static __rodata_start: u8;
        static __rodata_end: u8;
        static __data_start: u8;
        static __image_end: u8;
        static __guard_stack: u8;
        static __guard_fault_stack: u8;
        static __stack_top: u8;
        static __fault_stack_top: u8;
    }
    let at = |s: *const u8| s as u64;
    Image {
        text: (at(&raw const __text_start), at(&raw const __text_end)),
        rodata: (at(&raw const __rodata_start), at(&raw const __rodata_end)),
        data: (at(&raw const __data_start), at(&raw const __image_end)),
        guards: [at(&raw const __guard_stack), at(&raw const __guard_fault_stack)],
        stack_top: at(&raw const __stack_top),
        fault_stack_top: at(&raw const __fault_stack_top),
    }
}
