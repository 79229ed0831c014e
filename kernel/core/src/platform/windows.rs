//! Device register windows in the kernel's device area.

use arch_x86_64::mmio::Window;
use arch_x86_64::paging::{Kind, map_kernel};
use arch_x86_64::{DEVICE_AREA, PAGE};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

/// Bytes of address space for windows: one top-level entry.
const AREA: u64 = 512 << 30;
const LARGE: u64 = 2 << 20;
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Maps `bytes` bytes of device registers at `phys`, uncached. Windows stay for ever, with an unmapped page after each.
///
/// `None` if the range wraps, overlaps memory, or there is no memory for tables.
pub fn map(phys: u64, bytes: usize) -> Option<Window> {
    let first = phys & !(PAGE - 1);
    let end = phys.checked_add(bytes as u64)?.checked_next_multiple_of(PAGE)?;
    let frames = crate::memory::frames();
    if bytes == 0 || end > 1 << 52 || frames.overlaps_ram(first, end) {
        return None;
    }
    // Large windows keep their place inside 2 MiB, so that large pages fit.
    let skew = if bytes as u64 >= LARGE { first & (LARGE - 1) } else { 0 };
    let align = if bytes as u64 >= LARGE { LARGE } else { PAGE };
    let at = NEXT
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| {
            let next = at.next_multiple_of(align) + skew + (end - first) + PAGE;
            (next <= AREA).then_some(next)
        })
        .ok()?
        .next_multiple_of(align)
        + skew;
    // SAFETY: the address range is new; the physical range is no memory, so no kernel object has another view of it.
    unsafe {
        map_kernel(DEVICE_AREA + at, first, end - first, Kind::Device, frames).ok()?;
        Some(Window::new(NonNull::new_unchecked((DEVICE_AREA + at + (phys - first)) as *mut u8), bytes))
    }
}

/// A window as drivers want it.
#[derive(Clone, Copy, Debug)]
pub struct Registers(pub Window);

impl iommu_api::Mmio for Registers {
    fn r32(&self, offset: usize) -> u32 {
        self.0.r32(offset)
    }
    fn w32(&self, offset: usize, value: u32) {
        self.0.w32(offset, value);
    }
    fn r64(&self, offset: usize) -> u64 {
        self.0.r64(offset)
    }
    fn w64(&self, offset: usize, value: u64) {
        self.0.w64(offset, value);
    }
}
