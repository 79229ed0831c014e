//! The first Rust function.

use super::frames::FrameMeta;
use crate::memory::FrameTable;
use arch_x86_64::{Image, direct, paging};
use boot::pvh::ReadPhys;
use boot::{BOOT_MAPPED, BootInfo};

/// Reads physical memory through the boot map.
struct BootMemory;

impl ReadPhys for BootMemory {
    fn read(&self, at: u64, to: &mut [u8]) -> bool {
        if at.checked_add(to.len() as u64).is_none_or(|end| end > BOOT_MAPPED) {
            return false;
        }
        // SAFETY: the boot tables map this range; firmware left it and nobody writes it now.
        unsafe { core::ptr::copy_nonoverlapping(direct(at), to.as_mut_ptr(), to.len()) };
        true
    }
}

/// Called by `boot`'s entry code with the physical address of the PVH start information.
#[unsafe(no_mangle)]
extern "C" fn kernel_entry(start: u32) -> ! {
    // SAFETY: first thing on the boot CPU, in boot's address space.
    unsafe { arch_x86_64::cpu::init_boot() };
    arch_x86_64::serial::init();
    match boot::pvh::parse(u64::from(start), &BootMemory) {
        Ok(info) => crate::main(info),
        Err(e) => panic!("start information: {e:?}"),
    }
}

/// Makes the frame table in memory that `memory::init` set aside.
pub fn frame_table(at: u64, frames: usize) -> (&'static [FrameMeta], &'static mut [u64]) {
    // SAFETY: `memory::init` calls this once, with usable memory below 4 GiB (which the boot tables map) that overlaps
    // neither the image nor the archive, and marks it as used.
    unsafe { super::frames::make_table(at, frames) }
}

/// Switches from boot's tables to the kernel's.
pub fn switch_tables(image: &Image, ram: &[(u64, u64)], frames: &FrameTable) {
    // SAFETY: `memory::init` calls this once, on the boot CPU, with the memory map; table frames below 4 GiB come first.
    if unsafe { paging::init_kernel(image, ram, frames) }.is_err() {
        panic!("no memory for page tables");
    }
}

/// The initial archive.
pub fn initrd(info: &BootInfo) -> &'static [u8] {
    match info.initrd {
        Some((base, length))
            if crate::memory::frames().is_ram(base) && crate::memory::frames().is_ram(base + length - 1) =>
        {
            // SAFETY: in the direct map; `memory::init` never gives these frames to anybody.
            unsafe { super::frames::constant(base, length as usize) }
        }
        _ => &[],
    }
}

/// Follows the chain of frame pointers from `frame`: return addresses, innermost first.
pub fn backtrace(frame: u64, mut each: impl FnMut(u64)) {
    let image = arch_x86_64::image();
    let on_stack = |at: u64| {
        at.is_multiple_of(8)
            && image
                .guards
                .iter()
                .zip([image.stack_top, image.fault_stack_top])
                .any(|(g, top)| at >= g + 4096 && at + 16 <= top)
    };
    let mut at = frame;
    for _ in 0..24 {
        if !on_stack(at) {
            return;
        }
        // SAFETY: two words on a stack that is always mapped.
        let (next, back) = unsafe { (*(at as *const u64), *((at + 8) as *const u64)) };
        if !(image.text.0..image.text.1).contains(&back) {
            return;
        }
        each(back);
        if next <= at {
            return;
        }
        at = next;
    }
}

/// Frame pointer of the caller.
#[inline(always)]
pub fn frame_pointer() -> u64 {
    let rbp: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags)) };
    rbp
}

/// Lets a kernel that is ending print whatever held the port.
pub fn steal_serial() {
    // SAFETY: the kernel ends; with one CPU nobody else runs.
    unsafe { arch_x86_64::serial::force_unlock() }
}

/// Deliberate faults for `selftest=`: each must end in a panic.
pub mod faults {
    /// Writes to the kernel's own code.
    pub fn write_text() {
        let at = arch_x86_64::image().text.0 as *mut u8;
        // SAFETY: none: the store must fault, as code is mapped read-only.
        unsafe { at.write_volatile(0xcc) }
    }
    /// Writes to the kernel's own code through the direct map.
    pub fn write_text_alias() {
        let at = arch_x86_64::direct(arch_x86_64::image().text.0 - arch_x86_64::KERNEL_BASE);
        // SAFETY: none: the store must fault, as that alias is read-only too.
        unsafe { at.write_volatile(0xcc) }
    }
    /// Runs data.
    pub fn execute_data() {
        static CODE: [u8; 16] = [0xc3; 16];
        let mut copy = CODE;
        let at = core::hint::black_box(copy.as_mut_ptr());
        // SAFETY: none: the call must fault, as the stack is not executable.
        unsafe { core::mem::transmute::<*mut u8, extern "C" fn()>(at)() }
    }
    /// Reads address 0.
    pub fn null() -> u8 {
        // SAFETY: none: nothing is mapped there.
        unsafe { core::hint::black_box(8 as *const u8).read_volatile() }
    }
    /// Uses up the stack.
    #[inline(never)]
    #[allow(unconditional_recursion)]
    pub fn overflow(n: u64) -> u64 {
        let pad = core::hint::black_box([n; 64]);
        overflow(n + 1) + pad[7]
    }
}
