//! Page entries: 8 bytes per page, in leaves of 512 that exist only where something is.

use crate::NoMemory;
use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry as MapEntry;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use iommu_types::Phys;

/// State of one page: frame address and flags in one word. All zero: nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Entry(pub u64);

impl Entry {
    /// A frame is there, and the entry owns a count of it.
    pub const PRESENT: u64 = 1;
    /// Written (or new, or dropped) since the last clear_refs.
    pub const SOFT: u64 = 2;
    /// The frame may have other owners: copy before writing.
    pub const COW: u64 = 4;
    /// The frame belongs to a shared object.
    pub const SHARED: u64 = 8;
    const FRAME: u64 = !0xfff;

    pub fn new(frame: Phys, flags: u64) -> Self {
        Self(frame.0 & Self::FRAME | flags | Self::PRESENT)
    }
    pub fn present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }
    pub fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }
    pub fn frame(self) -> Phys {
        Phys(self.0 & Self::FRAME)
    }
    #[must_use]
    pub fn with(self, flag: u64) -> Self {
        Self(self.0 | flag)
    }
    #[must_use]
    pub fn without(self, flag: u64) -> Self {
        Self(self.0 & !flag)
    }
    /// The same flags on another frame.
    #[must_use]
    pub fn moved(self, frame: Phys) -> Self {
        Self(frame.0 & Self::FRAME | self.0 & !Self::FRAME)
    }
}

const LEAF: u64 = 512;

struct Leaf {
    /// Entries that are not zero.
    used: u32,
    entries: Vec<Entry>,
}

/// Entries by page number.
#[derive(Default)]
pub(crate) struct PageMap {
    leaves: BTreeMap<u64, Leaf>,
}

impl PageMap {
    pub fn get(&self, page: u64) -> Entry {
        self.leaves.get(&(page / LEAF)).map_or(Entry(0), |leaf| leaf.entries[(page % LEAF) as usize])
    }
    /// Is there room for the page already?
    pub fn has_room(&self, page: u64) -> bool {
        self.leaves.contains_key(&(page / LEAF))
    }
    /// Makes room for the pages, so that [`put`](Self::put) cannot fail there.
    pub fn reserve(&mut self, pages: RangeInclusive<u64>) -> Result<(), NoMemory> {
        for leaf in pages.start() / LEAF..=pages.end() / LEAF {
            self.leaf(leaf)?;
        }
        Ok(())
    }
    fn leaf(&mut self, index: u64) -> Result<&mut Leaf, NoMemory> {
        match self.leaves.entry(index) {
            MapEntry::Occupied(leaf) => Ok(leaf.into_mut()),
            MapEntry::Vacant(place) => {
                let mut entries = Vec::new();
                entries.try_reserve_exact(LEAF as usize).map_err(|_| NoMemory)?;
                entries.resize(LEAF as usize, Entry(0));
                Ok(place.insert(Leaf { used: 0, entries }))
            }
        }
    }
    /// Sets an entry; returns the old one.
    pub fn put(&mut self, page: u64, entry: Entry) -> Result<Entry, NoMemory> {
        let leaf = self.leaf(page / LEAF)?;
        let slot = &mut leaf.entries[(page % LEAF) as usize];
        let old = core::mem::replace(slot, entry);
        leaf.used = leaf.used + u32::from(entry.0 != 0) - u32::from(old.0 != 0);
        Ok(old)
    }
    /// Sets an entry in a leaf that exists; without one nothing happens.
    pub fn update(&mut self, page: u64, entry: Entry) {
        if self.leaves.contains_key(&(page / LEAF)) {
            let _ = self.put(page, entry);
        }
    }
    /// Visits the entries that are not zero, ascending; `visit` may change them.
    pub fn each(&mut self, pages: RangeInclusive<u64>, mut visit: impl FnMut(u64, &mut Entry)) {
        let (first, last) = (*pages.start(), *pages.end());
        if first > last {
            return;
        }
        for (index, leaf) in self.leaves.range_mut(first / LEAF..=last / LEAF) {
            if leaf.used == 0 {
                continue;
            }
            let base = index * LEAF;
            let low = first.saturating_sub(base) as usize;
            let high = (last - base).min(LEAF - 1) as usize;
            for (at, entry) in leaf.entries[low..=high].iter_mut().enumerate() {
                if entry.0 != 0 {
                    visit(base + (low + at) as u64, entry);
                    leaf.used -= u32::from(entry.0 == 0);
                }
            }
        }
    }
    /// Visits without changing.
    pub fn look(&self, pages: RangeInclusive<u64>, mut visit: impl FnMut(u64, Entry)) {
        let (first, last) = (*pages.start(), *pages.end());
        if first > last {
            return;
        }
        for (index, leaf) in self.leaves.range(first / LEAF..=last / LEAF).filter(|(_, leaf)| leaf.used > 0) {
            let base = index * LEAF;
            let low = first.saturating_sub(base) as usize;
            let high = (last - base).min(LEAF - 1) as usize;
            for (at, entry) in leaf.entries[low..=high].iter().enumerate().filter(|(_, entry)| entry.0 != 0) {
                visit(base + (low + at) as u64, *entry);
            }
        }
    }
    /// The first page with an entry that is not zero.
    pub fn first(&self, pages: RangeInclusive<u64>) -> Option<u64> {
        let (first, last) = (*pages.start(), *pages.end());
        if first > last {
            return None;
        }
        for (index, leaf) in self.leaves.range(first / LEAF..=last / LEAF).filter(|(_, leaf)| leaf.used > 0) {
            let base = index * LEAF;
            let low = first.saturating_sub(base) as usize;
            let high = (last - base).min(LEAF - 1) as usize;
            if let Some(at) = leaf.entries[low..=high].iter().position(|entry| entry.0 != 0) {
                return Some(base + (low + at) as u64);
            }
        }
        None
    }
    /// Frees leaves that hold nothing.
    pub fn prune(&mut self, pages: RangeInclusive<u64>) {
        let (first, last) = (pages.start() / LEAF, pages.end() / LEAF);
        while let Some(index) =
            self.leaves.range(first..=last).find(|(_, leaf)| leaf.used == 0).map(|(index, _)| *index)
        {
            self.leaves.remove(&index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_visited_and_pruned() {
        let mut map = PageMap::default();
        assert_eq!(map.get(0), Entry(0));
        for page in [0, 511, 512, 5000, 1 << 35] {
            map.put(page, Entry::new(Phys(page << 12), Entry::SOFT)).unwrap();
        }
        assert_eq!(map.get(5000).frame(), Phys(5000 << 12));
        let mut seen = Vec::new();
        map.look(1..=5000, |page, entry| {
            assert!(entry.present() && entry.has(Entry::SOFT) && !entry.has(Entry::COW));
            seen.push(page);
        });
        assert_eq!(seen, [511, 512, 5000]);
        map.each(0..=511, |_, entry| *entry = Entry(0));
        map.prune(0..=511);
        assert_eq!(map.leaves.len(), 3);
        map.update(3, Entry::new(Phys(0), 0));
        assert_eq!(map.get(3), Entry(0));
    }
}
