//! What IOMMU drivers need of the machine: table memory, cache maintenance, time.

use super::frames;
use crate::memory;
use arch_x86_64::{PAGE, cache, direct, time};
use core::sync::atomic::Ordering;
use iommu_api::{Clock, Coherency, TableMem, Words};
use iommu_types::{Error, Phys, Resource};

/// The machine, for drivers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

impl Coherency for Machine {
    fn publish(&self, at: Phys, bytes: usize) {
        if bytes > 0 && memory::frames().is_ram(at.0) && memory::frames().is_ram(at.0.saturating_add(bytes as u64 - 1))
        {
            cache::flush(direct(at.0), bytes);
        }
    }
}

impl TableMem for Machine {
    fn alloc_run(&self, pages: usize) -> Result<Phys, Error> {
        memory::frames().alloc_run(pages).map(Phys).ok_or(Error::Exhausted(Resource::Memory))
    }
    fn release_run(&self, base: Phys, pages: usize) {
        for i in 0..pages as u64 {
            memory::frames().release_frame(base.0 + i * PAGE);
        }
    }
    fn words(&self, page: Phys) -> Option<&Words> {
        frames::words(page.0)
    }
    fn store64(&self, at: Phys, value: u64) {
        if let Some(word) = frames::word(at.0) {
            word.store(value, Ordering::Release);
        }
    }
    fn store128(&self, at: Phys, value: u128) {
        frames::store128(at.0, value);
    }
    fn load64(&self, at: Phys) -> u64 {
        frames::word(at.0).map_or(0, |w| w.load(Ordering::Acquire))
    }
    fn set_next(&self, page: Phys, next: Option<Phys>) {
        memory::frames().set_next(page.0, next.map(|p| p.0));
    }
    fn next(&self, page: Phys) -> Option<Phys> {
        memory::frames().next(page.0).map(Phys)
    }
}

impl Clock for Machine {
    fn now_ns(&self) -> u64 {
        time::now_ns()
    }
    fn relax(&self) {
        core::hint::spin_loop();
    }
}
