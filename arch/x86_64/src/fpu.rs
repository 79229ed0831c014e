//! x87, SSE and AVX state of programs. The kernel itself uses none of it, so a thread's state stays in the registers
//! until another thread runs on the CPU.

use crate::cpu::{features, this};
use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use x86_64::registers::xcontrol::{XCr0, XCr0Flags};

static SIZE: AtomicUsize = AtomicUsize::new(512);
static MASK: AtomicU64 = AtomicU64::new(0);

/// Switches the features on. On each CPU, after CR4.OSXSAVE.
///
/// # Safety
/// CR4.OSXSAVE is set if the CPU has XSAVE.
pub(crate) unsafe fn init_cpu() {
    let f = features();
    if !f.xsave {
        return;
    }
    let mut x = XCr0Flags::X87 | XCr0Flags::SSE;
    x.set(XCr0Flags::AVX, f.avx);
    if f.avx512 {
        x |= XCr0Flags::OPMASK | XCr0Flags::ZMM_HI256 | XCr0Flags::HI16_ZMM;
    }
    // SAFETY: by the caller; the parts are there by CPUID, and depend on each other as set here.
    unsafe { XCr0::write(x) };
    MASK.store(x.bits(), Ordering::Relaxed);
    // CPUID leaf 0xD, 0: EBX is the size for what XCR0 enables now.
    SIZE.store((raw_cpuid::cpuid!(0xd, 0).ebx as usize).max(576), Ordering::Relaxed);
}

/// Bytes of FP state of a thread.
pub fn state_bytes() -> usize {
    SIZE.load(Ordering::Relaxed)
}

/// FP state of one thread.
#[derive(Debug)]
pub(crate) struct Fpu {
    area: NonNull<u8>,
    size: usize,
}

// SAFETY: the area is owned; a CPU only touches it while it runs the thread or while it is its last CPU (see `load`).
unsafe impl Send for Fpu {}

fn layout(size: usize) -> Layout {
    // XSAVE wants 64-byte alignment (Intel SDM volume 1, section 13.4).
    Layout::from_size_align(size, 64).unwrap_or(Layout::new::<[u64; 512]>())
}

impl Fpu {
    /// State as the System V ABI wants it at the start of a program.
    pub(crate) fn new() -> Option<Self> {
        let size = SIZE.load(Ordering::Relaxed);
        // SAFETY: the size is not zero; offsets 0 (FCW) and 24 (MXCSR) are inside the 512-byte legacy part.
        unsafe {
            let area = NonNull::new(alloc_zeroed(layout(size)))?;
            area.cast::<u16>().write(0x37f);
            area.byte_add(24).cast::<u32>().write(0x1f80);
            Some(Self { area, size })
        }
    }
    /// Writes the registers back if they hold this thread's state.
    fn sync(&self) {
        // SAFETY: `this` is our CPU's; the area is live because `self` is.
        unsafe {
            if (*this()).fpu_live == self.area.as_ptr() {
                save(self.area.as_ptr());
            }
        }
    }
    pub(crate) fn duplicate(&self) -> Option<Self> {
        self.sync();
        let new = Self::new()?;
        // SAFETY: two distinct areas of the same size.
        unsafe { core::ptr::copy_nonoverlapping(self.area.as_ptr(), new.area.as_ptr(), self.size) };
        Some(new)
    }
    /// Puts the state in the registers, after saving whose state was there.
    pub(crate) fn load(&mut self) {
        // SAFETY: `fpu_live` is null or a live area: dropping the owner clears it. Areas only hold what `save` or `new`
        // wrote, which XRSTOR accepts.
        unsafe {
            let cpu = this();
            if (*cpu).fpu_live == self.area.as_ptr() {
                return;
            }
            if !(*cpu).fpu_live.is_null() {
                save((*cpu).fpu_live);
            }
            restore(self.area.as_ptr());
            (*cpu).fpu_live = self.area.as_ptr();
        }
    }
}

impl Drop for Fpu {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; nobody's registers point to it any more.
        unsafe {
            if (*this()).fpu_live == self.area.as_ptr() {
                (*this()).fpu_live = core::ptr::null_mut();
            }
            dealloc(self.area.as_ptr(), layout(self.size));
        }
    }
}

/// # Safety
/// `area` is a live area of [`SIZE`] bytes, aligned to 64.
unsafe fn save(area: *mut u8) {
    let mask = MASK.load(Ordering::Relaxed);
    // SAFETY: by the caller; XSAVE is on if the mask is not 0.
    unsafe {
        if mask != 0 {
            core::arch::asm!("xsave64 [{}]", in(reg) area, in("eax") mask as u32, in("edx") (mask >> 32) as u32, options(nostack));
        } else {
            core::arch::asm!("fxsave64 [{}]", in(reg) area, options(nostack));
        }
    }
}

/// # Safety
/// As [`save`], and the area holds a state.
unsafe fn restore(area: *const u8) {
    let mask = MASK.load(Ordering::Relaxed);
    // SAFETY: by the caller.
    unsafe {
        if mask != 0 {
            core::arch::asm!("xrstor64 [{}]", in(reg) area, in("eax") mask as u32, in("edx") (mask >> 32) as u32, options(nostack));
        } else {
            core::arch::asm!("fxrstor64 [{}]", in(reg) area, options(nostack));
        }
    }
}
