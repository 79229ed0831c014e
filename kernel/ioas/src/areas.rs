//! What is mapped where: disjoint ranges in ascending order.
//!
//! A sorted vector: look-ups are binary searches, growth can fail without harm, removing never allocates. An address space
//! holds at most [`LIMIT`] areas (as many as VFIO type1 allows), which bounds both the moves of an insertion and what a
//! program can take of the kernel's heap.

use crate::Slice;
use alloc::vec::Vec;
use iommu_types::{Access, IovaRange};
use uapi::Errno;

/// The most areas of one address space.
pub(crate) const LIMIT: usize = 65535;

/// One mapping.
#[derive(Clone, Debug)]
pub(crate) struct Area {
    pub range: IovaRange,
    pub slice: Slice,
    pub access: Access,
    /// Being created or removed.
    pub busy: bool,
}

impl Area {
    /// Do both ends, and the place of the memory, fit an alignment (a power of two)?
    pub fn aligned(&self, alignment: u64) -> bool {
        let at = self.slice.pages.address(self.slice.offset);
        self.range.aligned(alignment) && at & (alignment.min(4096) - 1) == 0
    }
}

#[derive(Debug)]
pub(crate) struct Areas(Vec<Area>);

impl Areas {
    pub const fn new() -> Self {
        Self(Vec::new())
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    pub fn iter(&self) -> impl Iterator<Item = &Area> {
        self.0.iter()
    }
    pub fn get(&self, index: usize) -> Option<&Area> {
        self.0.get(index)
    }
    /// Index of the first area that ends at or after `at`.
    pub fn first_from(&self, at: u64) -> usize {
        self.0.partition_point(|area| area.range.last() < at)
    }
    /// The first area that shares an address with `range`.
    pub fn overlapping(&self, range: &IovaRange) -> Option<&Area> {
        self.0.get(self.first_from(range.first())).filter(|area| area.range.overlaps(range))
    }
    /// Adds an area; nothing may overlap it.
    pub fn insert(&mut self, area: Area) -> Result<(), Errno> {
        if self.0.len() >= LIMIT {
            return Err(Errno::ENOMEM);
        }
        self.0.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let at = self.first_from(area.range.first());
        self.0.insert(at, area);
        Ok(())
    }
    /// The area with exactly this first address.
    pub fn at_mut(&mut self, first: u64) -> Option<&mut Area> {
        let at = self.first_from(first);
        self.0.get_mut(at).filter(|area| area.range.first() == first)
    }
    pub fn remove(&mut self, first: u64) -> Option<Area> {
        let at = self.first_from(first);
        self.0.get(at).filter(|area| area.range.first() == first)?;
        Some(self.0.remove(at))
    }
}
