//! One I/O page table and its cache tags.

use crate::Gather;
use alloc::sync::Arc;
use core::any::Any;
use iommu_types::{Access, DirtyRule, Error, Iova, IovaRange, PageSizes, Phys, PhysRun, TableKind};

/// What a domain can express.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DomainInfo {
    /// The table.
    pub table: TableKind,
    /// Addresses it can map.
    pub aperture: IovaRange,
    /// Leaf sizes.
    pub page_sizes: PageSizes,
    /// How writes are tracked; `None` unless the domain was made for tracking.
    pub dirty: DirtyRule,
}

/// An item, as the tables have it now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Where the asked iova goes.
    pub phys: Phys,
    /// The rights.
    pub access: Access,
    /// Size of the item in bytes.
    pub size: u64,
    /// Does the entry show a write (by the domain's dirty rule)?
    pub dirty: bool,
}

/// The sink has no room; the report is undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SinkFull;

/// Takes runs of dirty iova: ascending, disjoint, clipped to the asked range.
pub trait DirtySink {
    /// # Errors
    /// [`SinkFull`] aborts the report; every bit cleared so far is set again.
    fn dirty(&mut self, run: IovaRange) -> Result<(), SinkFull>;
}

impl<F: FnMut(IovaRange) -> Result<(), SinkFull>> DirtySink for F {
    fn dirty(&mut self, run: IovaRange) -> Result<(), SinkFull> {
        self(run)
    }
}

/// How to read dirty bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadDirty {
    /// Report and clear.
    Clear,
    /// Only look.
    Keep,
}

/// One table plus its cache tags. All methods may be called from several CPUs at once; maps and unmaps of overlapping
/// ranges are the caller's to order (the IOAS does).
pub trait Domain: Send + Sync {
    /// What it can express.
    fn info(&self) -> DomainInfo;

    /// Maps `runs`, one after the other, from `iova`. `max_leaf`: no leaf larger than this (bytes, a power of two).
    ///
    /// On error nothing of the request stays mapped, and what hardware may have cached of it has been flushed.
    /// The returned gather is rarely empty on units that cache absent entries: sync it before telling a device.
    ///
    /// # Errors
    /// [`Error::Exists`] if anything is mapped there, [`Error::Range`] outside the aperture or the physical width,
    /// [`Error::Invalid`] for misaligned addresses or no right, [`Error::Exhausted`] for memory.
    fn map(&self, iova: Iova, runs: &[PhysRun], access: Access, max_leaf: u64) -> Result<Gather, Error>;

    /// Removes everything mapped in `range` and tells how many bytes were. A leaf that lies only partly in `range` is
    /// refused ([`Error::Invalid`]) before anything is changed. Never allocates.
    ///
    /// # Errors
    /// As above; holes are no error.
    fn unmap(&self, range: IovaRange) -> Result<(u64, Gather), Error>;

    /// The item that holds `iova`, by walking the table in memory.
    fn translate(&self, iova: Iova) -> Option<Translation>;

    /// Starts or stops tracking on the domain and everything it is attached to. Starting clears every dirty bit. Done,
    /// and flushed, when it returns; idempotent.
    ///
    /// # Errors
    /// [`Error::NoTracking`] if the domain was not made for it; hardware errors.
    fn set_tracking(&self, on: bool) -> Result<(), Error>;

    /// Reports, page by page, what devices wrote in `range` since the last report, and clears it unless asked not to.
    ///
    /// * `granule`: runs are multiples of this many bytes (a power of two, at least the smallest leaf).
    /// * `sink`: called with runs of dirty iova, ascending, never outside `range`.
    /// * returns a [`Gather`]: the report is complete once it was synced; copy the memory only then.
    ///
    /// A page written before `sync` returns may be reported now, next time, or both; never neither. Holes are skipped.
    ///
    /// # Errors
    /// [`Error::NoTracking`] with the missing capability; [`Error::Sink`] if `sink` failed: every bit cleared so far is
    /// set again.
    fn read_dirty(
        &self,
        range: IovaRange,
        granule: u64,
        how: ReadDirty,
        sink: &mut dyn DirtySink,
    ) -> Result<Gather, Error>;

    /// Marks everything mapped in `range` dirty: the undo of a report that could not be delivered. Cannot fail.
    fn mark_dirty(&self, range: IovaRange);

    /// Invalidates what `gather` holds in every cache tag of the domain, waits, then frees its tables.
    ///
    /// # Errors
    /// Hardware errors; the pages then stay in quarantine and the frames behind the range must not be reused.
    fn sync(&self, gather: Gather) -> Result<(), Error>;

    /// Forces device accesses to be cache coherent, from now on.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with the missing capability.
    fn enforce_coherency(&self) -> Result<(), Error>;

    /// For a driver to find its own domains again.
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}
