//! What a driver needs of the machine under it.

use core::sync::atomic::AtomicU64;
use iommu_types::{Error, Phys};

/// 64-bit words in one 4 KiB table page.
pub const WORDS: usize = 512;

/// One table page. Hardware may write it, so it is only ever touched as atomics.
pub type Words = [AtomicU64; WORDS];

/// A register window. Offsets are in bytes and naturally aligned.
///
/// A write is ordered after all earlier stores to memory, so that hardware told by it sees them.
pub trait Mmio: Send + Sync {
    /// Reads 32 bits.
    fn r32(&self, offset: usize) -> u32;
    /// Writes 32 bits.
    fn w32(&self, offset: usize, value: u32);
    /// Reads 64 bits.
    fn r64(&self, offset: usize) -> u64;
    /// Writes 64 bits.
    fn w64(&self, offset: usize, value: u64);
}

/// Memory that tables, queues and structures live in.
///
/// Page-table entries are reached through [`words`](Self::words). Structures that hardware caches whole (root, context,
/// PASID entries, queue descriptors) are written by [`store64`](Self::store64) and [`store128`](Self::store128): each
/// call is one store, and hardware may look between any two.
pub trait TableMem: Coherency + Send + Sync {
    /// One zeroed 4 KiB page.
    ///
    /// # Errors
    /// [`Error::Exhausted`].
    fn alloc(&self) -> Result<Phys, Error> {
        self.alloc_run(1)
    }
    /// `pages` zeroed, physically contiguous pages (1..=512), aligned to their size rounded up to a power of two.
    ///
    /// # Errors
    /// [`Error::Exhausted`].
    fn alloc_run(&self, pages: usize) -> Result<Phys, Error>;
    /// Gives one page back. Hardware must no longer be able to reach it.
    fn release(&self, page: Phys) {
        self.release_run(page, 1);
    }
    /// Gives a run back, whole.
    fn release_run(&self, base: Phys, pages: usize);
    /// The words of the 4 KiB page at `page` (aligned); `None` if it is not memory of this machine.
    fn words(&self, page: Phys) -> Option<&Words>;
    /// One 64-bit store to a structure at `at` (8-byte aligned). Out of memory: ignored.
    fn store64(&self, at: Phys, value: u64);
    /// One 128-bit store (16-byte aligned) that hardware sees whole; word 0 is the low half.
    fn store128(&self, at: Phys, value: u128);
    /// One 64-bit load; 0 outside of memory.
    fn load64(&self, at: Phys) -> u64;
    /// Remembers `next` beside the frame `page`, not in it: freed tables are chained while hardware may still walk them.
    fn set_next(&self, page: Phys, next: Option<Phys>);
    /// What [`set_next`](Self::set_next) remembered.
    fn next(&self, page: Phys) -> Option<Phys>;
}

/// Makes stores visible to a walker that does not snoop the CPU's caches.
pub trait Coherency {
    /// Publishes `bytes` bytes from `at`: write back the cache lines, then a barrier. A driver calls it only for units
    /// whose reads are not snooped.
    fn publish(&self, at: Phys, bytes: usize);
}

/// A wait passed its deadline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimedOut;

/// Monotonic time and bounded waiting.
pub trait Clock: Send + Sync {
    /// Nanoseconds since some start.
    fn now_ns(&self) -> u64;
    /// A breath in a polling loop; on the host it advances the model by one step.
    fn relax(&self);
    /// Polls `done` until it is true, at most `budget_ns` nanoseconds; polls once more at the deadline.
    ///
    /// # Errors
    /// [`TimedOut`].
    fn until(&self, budget_ns: u64, done: &mut dyn FnMut() -> bool) -> Result<(), TimedOut> {
        let deadline = self.now_ns().saturating_add(budget_ns);
        loop {
            if done() {
                return Ok(());
            }
            if self.now_ns() >= deadline {
                return if done() { Ok(()) } else { Err(TimedOut) };
            }
            self.relax();
        }
    }
}
