//! The boundaries of `iommu-api` over the model.

use iommu_api::{Clock, Coherency, Mmio, TableMem, Words};
use iommu_types::{Error, Phys, Resource};
use soft_iommu::vtd::Vtd;
use soft_iommu::{Arena, Use};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One virtual nanosecond per question for the time, so that no poll without `relax` can hang.
const ASKED_NS: u64 = 1;
/// Virtual time of one step of the model.
const STEP_NS: u64 = 100;

/// What the parts share.
pub struct Machine {
    /// Physical memory.
    pub arena: Arc<Arena>,
    /// The unit.
    pub model: Arc<Vtd>,
    sampling: bool,
    /// Watch for moments without translation.
    watch: AtomicBool,
    opened: AtomicBool,
}

impl Machine {
    /// `sampling`: hardware looks after every store (adversarial policy).
    pub fn new(arena: Arc<Arena>, model: Arc<Vtd>, sampling: bool) -> Arc<Self> {
        Arc::new(Self { arena, model, sampling, watch: AtomicBool::new(false), opened: AtomicBool::new(false) })
    }
    /// From now on, note any moment at which translation is off.
    pub fn watch_window(&self) {
        self.watch.store(true, Ordering::Relaxed);
    }
    /// Was translation off at any moment since [`watch_window`](Self::watch_window)?
    pub fn window_opened(&self) -> bool {
        self.opened.load(Ordering::Relaxed)
    }
    fn look(&self) {
        if self.sampling {
            self.model.sample();
        }
        if self.watch.load(Ordering::Relaxed) && !self.model.translating() {
            self.opened.store(true, Ordering::Relaxed);
        }
    }
}

/// `TableMem` and `Coherency` over the arena.
pub struct Memory(pub Arc<Machine>);

impl TableMem for Memory {
    fn alloc_run(&self, pages: usize) -> Result<Phys, Error> {
        self.0.arena.alloc(pages, Use::Table).map(Phys).ok_or(Error::Exhausted(Resource::Memory))
    }
    fn release_run(&self, base: Phys, pages: usize) {
        self.0.arena.release(base.0, pages);
    }
    fn words(&self, page: Phys) -> Option<&Words> {
        self.0.arena.words(page.0)
    }
    fn store64(&self, at: Phys, value: u64) {
        self.0.arena.store64(at.0, value);
        self.0.look();
    }
    fn store128(&self, at: Phys, value: u128) {
        self.0.arena.store128(at.0, value);
        self.0.look();
    }
    fn load64(&self, at: Phys) -> u64 {
        self.0.arena.load64(at.0)
    }
    fn set_next(&self, page: Phys, next: Option<Phys>) {
        self.0.arena.set_next(page.0, next.map(|n| n.0));
    }
    fn next(&self, page: Phys) -> Option<Phys> {
        self.0.arena.next(page.0).map(Phys)
    }
}

impl Coherency for Memory {
    fn publish(&self, at: Phys, bytes: usize) {
        self.0.look();
        self.0.arena.publish(at.0, bytes);
    }
}

/// `Mmio` over the register file.
pub struct Registers(pub Arc<Machine>);

impl Mmio for Registers {
    fn r32(&self, offset: usize) -> u32 {
        self.0.model.r32(offset)
    }
    fn w32(&self, offset: usize, value: u32) {
        self.0.model.w32(offset, value);
        self.0.look();
    }
    fn r64(&self, offset: usize) -> u64 {
        self.0.model.r64(offset)
    }
    fn w64(&self, offset: usize, value: u64) {
        self.0.model.w64(offset, value);
        self.0.look();
    }
}

/// Virtual time: waiting moves the models.
pub struct VirtualClock {
    machines: Vec<Arc<Machine>>,
    now: AtomicU64,
}

impl VirtualClock {
    /// Starts at zero.
    pub fn new(machines: Vec<Arc<Machine>>) -> Arc<Self> {
        Arc::new(Self { machines, now: AtomicU64::new(0) })
    }
}

impl Clock for VirtualClock {
    fn now_ns(&self) -> u64 {
        self.now.fetch_add(ASKED_NS, Ordering::Relaxed)
    }
    fn relax(&self) {
        self.now.fetch_add(STEP_NS, Ordering::Relaxed);
        for machine in &self.machines {
            machine.model.tick();
            machine.look();
        }
    }
}
