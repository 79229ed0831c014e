//! What must be invalidated before memory is reused (rule `gather-owns-tables`).

use crate::TableMem;
use core::sync::atomic::{AtomicUsize, Ordering};
use iommu_types::{IovaRange, Phys};

static QUARANTINED: AtomicUsize = AtomicUsize::new(0);

/// Table pages leaked because a gather was dropped without `sync`, or because a flush failed.
pub fn quarantined_tables() -> usize {
    QUARANTINED.load(Ordering::Relaxed)
}

/// Ranges whose cached translations are stale, and the table pages that only a completed flush may free.
///
/// Hand it to [`Domain::sync`](crate::Domain::sync). Dropped otherwise, its pages go to a counted quarantine: they are
/// never freed, because hardware may still walk them.
#[must_use = "frames may be reused only after Domain::sync(gather)"]
#[derive(Debug, Default)]
pub struct Gather {
    range: Option<IovaRange>,
    tables_changed: bool,
    unmapped: bool,
    head: Option<Phys>,
    tail: Option<Phys>,
    count: usize,
}

impl Gather {
    /// Nothing to flush.
    pub const fn none() -> Self {
        Self { range: None, tables_changed: false, unmapped: false, head: None, tail: None, count: 0 }
    }
    /// Adds a range of changed leaf entries. `unmapped`: they were removed (as opposed to cleaned or added).
    pub fn add(&mut self, range: IovaRange, unmapped: bool) {
        self.range = Some(self.range.map_or(range, |r| r.hull(&range)));
        self.unmapped |= unmapped;
    }
    /// Non-leaf entries changed, so that paging-structure caches are stale too.
    pub fn tables_changed(&mut self) {
        self.tables_changed = true;
    }
    /// Takes over a table page that was cut out of the tree. Never allocates.
    pub fn push_table(&mut self, mem: &dyn TableMem, page: Phys) {
        mem.set_next(page, None);
        match self.tail {
            Some(tail) => mem.set_next(tail, Some(page)),
            None => self.head = Some(page),
        }
        self.tail = Some(page);
        self.count += 1;
        self.tables_changed = true;
    }
    /// Adds what `other` holds.
    pub fn merge(&mut self, mem: &dyn TableMem, mut other: Self) {
        if let Some(range) = other.range.take() {
            self.add(range, other.unmapped);
        }
        self.tables_changed |= other.tables_changed;
        if let Some(head) = other.head.take() {
            match self.tail {
                Some(tail) => mem.set_next(tail, Some(head)),
                None => self.head = Some(head),
            }
            self.tail = other.tail.take();
            self.count += core::mem::take(&mut other.count);
        }
    }
    /// The smallest range that holds everything changed; `None` if nothing was.
    pub fn range(&self) -> Option<IovaRange> {
        self.range
    }
    /// Must paging-structure caches go too?
    pub fn needs_tables(&self) -> bool {
        self.tables_changed
    }
    /// Were translations removed?
    pub fn has_unmapped(&self) -> bool {
        self.unmapped
    }
    /// Is there nothing to flush and nothing to free?
    pub fn is_none(&self) -> bool {
        self.range.is_none() && self.head.is_none() && !self.tables_changed
    }
    /// Table pages held.
    pub fn tables(&self) -> usize {
        self.count
    }
    /// Frees the pages held. Only [`Domain::sync`](crate::Domain::sync) calls it, after the flush has completed.
    pub fn release(mut self, mem: &dyn TableMem) {
        let mut next = self.head.take();
        self.count = 0;
        self.range = None;
        while let Some(page) = next {
            next = mem.next(page);
            mem.release(page);
        }
    }
}

impl Drop for Gather {
    fn drop(&mut self) {
        if self.count > 0 {
            QUARANTINED.fetch_add(self.count, Ordering::Relaxed);
        }
    }
}
