//! What is mapped and what was written, as simply as it can be said.

use iommu_types::{Access, IovaRange};
use std::collections::{BTreeMap, BTreeSet};

const PAGE: u64 = 4096;

/// A run of pages with one right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Last iova, included.
    pub last: u64,
    /// Where the first byte goes.
    pub pa: u64,
    /// The right.
    pub access: Access,
    /// Frames of the arena (else memory beyond it).
    pub owned: bool,
}

/// One domain as it ought to be.
#[derive(Default, Debug)]
pub struct Space {
    extents: BTreeMap<u64, Extent>,
    /// Pages (iova / 4096) written since the last report that had them.
    pub dirty: BTreeSet<u64>,
    /// Are writes tracked?
    pub tracking: bool,
}

impl Space {
    /// Adds an extent; the caller has checked that nothing is there.
    pub fn add(&mut self, first: u64, extent: Extent) {
        self.extents.insert(first, extent);
    }
    /// The extent that holds `iova`, with its first address.
    pub fn find(&self, iova: u64) -> Option<(u64, Extent)> {
        let (&first, &extent) = self.extents.range(..=iova).next_back()?;
        (iova <= extent.last).then_some((first, extent))
    }
    /// Where `iova` goes, if `write` (or a read) is allowed.
    pub fn target(&self, iova: u64, write: bool) -> Option<u64> {
        let (first, extent) = self.find(iova)?;
        let right = if write { Access::WRITE } else { Access::READ };
        extent.access.contains(right).then_some(extent.pa + (iova - first))
    }
    /// Does anything mapped overlap `range`?
    pub fn overlaps(&self, range: &IovaRange) -> bool {
        self.extents.range(..=range.last()).next_back().is_some_and(|(_, e)| e.last >= range.first())
    }
    /// Parts of extents inside `range`: first, extent clipped to it.
    pub fn inside(&self, range: &IovaRange) -> Vec<(u64, Extent)> {
        let mut out = Vec::new();
        for (&first, &extent) in self.extents.range(..=range.last()).rev() {
            if extent.last < range.first() {
                break;
            }
            let from = first.max(range.first());
            let clipped = Extent { last: extent.last.min(range.last()), pa: extent.pa + (from - first), ..extent };
            out.push((from, clipped));
        }
        out.reverse();
        out
    }
    /// Cuts `range` out and returns what was there.
    pub fn remove(&mut self, range: &IovaRange) -> Vec<(u64, Extent)> {
        let gone = self.inside(range);
        let keys: Vec<u64> = self
            .extents
            .range(..=range.last())
            .rev()
            .take_while(|(_, e)| e.last >= range.first())
            .map(|(k, _)| *k)
            .collect();
        for first in keys {
            if let Some(extent) = self.extents.remove(&first) {
                if first < range.first() {
                    self.extents.insert(first, Extent { last: range.first() - 1, ..extent });
                }
                if extent.last > range.last() {
                    let from = range.last() + 1;
                    self.extents.insert(from, Extent { pa: extent.pa + (from - first), ..extent });
                }
            }
        }
        let pages: Vec<u64> = self.dirty.range(range.first() / PAGE..=range.last() / PAGE).copied().collect();
        for page in pages {
            self.dirty.remove(&page);
        }
        gone
    }
    /// A device wrote there.
    pub fn wrote(&mut self, iova: u64) {
        if self.tracking {
            self.dirty.insert(iova / PAGE);
        }
    }
    /// All extents.
    pub fn extents(&self) -> impl Iterator<Item = (u64, Extent)> + '_ {
        self.extents.iter().map(|(k, e)| (*k, *e))
    }
    /// How many.
    pub fn len(&self) -> usize {
        self.extents.len()
    }
    /// Nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutting_splits_and_returns_what_was_there() {
        let mut space = Space { tracking: true, ..Space::default() };
        space.add(0x1000, Extent { last: 0x8fff, pa: 0x10_0000, access: Access::READ, owned: false });
        space.wrote(0x4123);
        let gone = space.remove(&IovaRange::new(0x3000, 0x4fff).unwrap());
        assert_eq!(gone, [(0x3000, Extent { last: 0x4fff, pa: 0x10_2000, access: Access::READ, owned: false })]);
        assert_eq!(space.target(0x2fff, false), Some(0x10_1fff));
        assert_eq!(space.target(0x3000, false), None);
        assert_eq!(space.target(0x5000, false), Some(0x10_4000));
        assert_eq!(space.target(0x5000, true), None);
        assert!(space.dirty.is_empty());
        assert!(!space.overlaps(&IovaRange::new(0x3000, 0x4fff).unwrap()));
        assert!(space.overlaps(&IovaRange::new(0x4fff, 0x5000).unwrap()));
    }
}
