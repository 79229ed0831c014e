//! Taking mappings away.

use crate::PtFormat;
use crate::engine::{PageTable, Unpublished, shift, slots};
use core::sync::atomic::Ordering;
use iommu_api::{Gather, TableMem};
use iommu_types::{Error, IovaRange, Phys};

impl<F: PtFormat> PageTable<F> {
    /// Removes everything mapped in `range`, tells how many bytes were, and cuts out table pages that `range` covers whole.
    /// Never allocates.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a misaligned range or one that would cut an item; [`Error::Range`] outside the aperture.
    /// Nothing was changed then.
    pub fn unmap<M: TableMem>(&self, mem: &M, range: IovaRange) -> Result<(u64, Gather), Error> {
        if !range.aligned(4096) {
            return Err(Error::Invalid("range is not aligned to 4 KiB"));
        }
        if !self.config.aperture.contains(&range) {
            return Err(Error::Range("iova is outside the aperture"));
        }
        // Only the items over the two ends can stick out.
        for end in [range.first(), range.last()] {
            if let Some(leaf) = self.leaf_at(mem, end) {
                let mask = leaf.size() - 1;
                if end & !mask < range.first() || end | mask > range.last() {
                    return Err(Error::Invalid("the range cuts a larger page"));
                }
            }
        }
        let mut gather = Gather::none();
        let bytes = self.clear(mem, range, &mut gather);
        Ok((bytes, gather))
    }

    /// Zeroes what is mapped in `range` again after a flush, because a walker that stores A and D without comparing may have
    /// brought it back (quirk `qemu-ad-store`). Table pages are not gathered: the call that cut them out did that.
    /// Returns how many entries had come back.
    pub fn sweep<M: TableMem>(&self, mem: &M, range: IovaRange) -> usize {
        self.tops().map(|(top, base)| self.sweep_below(mem, top, self.config.levels - 1, base, range)).sum()
    }

    fn sweep_below<M: TableMem>(&self, mem: &M, table: Phys, level: u8, base: u64, range: IovaRange) -> usize {
        let Some(words) = mem.words(table) else { return 0 };
        let mut unpublished = Unpublished::new(table);
        let mut found = 0;
        for (slot, at) in slots(base, level, range) {
            let entry = words[slot].load(Ordering::Acquire);
            if entry == 0 {
                continue;
            }
            let whole = at >= range.first() && at + ((1u64 << shift(level)) - 1) <= range.last();
            if whole {
                words[slot].store(0, Ordering::Release);
                unpublished.add(slot, slot);
                found += 1;
            } else if F::present(entry) && !F::is_leaf(entry, level) {
                found += self.sweep_below(mem, F::target(entry), level - 1, at, range);
            }
        }
        unpublished.publish(mem, self.config.coherent);
        found
    }

    /// Removes all leaves in `range`, which cuts none. Returns bytes removed.
    pub(crate) fn clear<M: TableMem>(&self, mem: &M, range: IovaRange, gather: &mut Gather) -> u64 {
        self.tops().map(|(top, base)| self.clear_below(mem, top, self.config.levels - 1, base, range, gather)).sum()
    }

    fn clear_below<M: TableMem>(
        &self,
        mem: &M,
        table: Phys,
        level: u8,
        base: u64,
        range: IovaRange,
        gather: &mut Gather,
    ) -> u64 {
        let Some(words) = mem.words(table) else { return 0 };
        let size = 1u64 << shift(level);
        let mut unpublished = Unpublished::new(table);
        let mut removed: Option<(u64, u64)> = None;
        let mut bytes = 0;
        for (slot, at) in slots(base, level, range) {
            let word = &words[slot];
            let entry = word.load(Ordering::Acquire);
            if !F::present(entry) {
                continue;
            }
            let end = at + (size - 1);
            if F::is_leaf(entry, level) {
                word.store(0, Ordering::Release);
                bytes += size;
            } else if range.first() <= at && end <= range.last() {
                word.store(0, Ordering::Release);
                bytes += self.cut(mem, F::target(entry), level - 1, gather);
            } else {
                bytes += self.clear_below(mem, F::target(entry), level - 1, at, range, gather);
                continue;
            }
            unpublished.add(slot, slot);
            removed = Some((removed.map_or(at, |(first, _)| first), end));
        }
        unpublished.publish(mem, self.config.coherent);
        if let Some(removed) = removed.and_then(|(first, last)| IovaRange::new(first, last)) {
            gather.add(removed, true);
        }
        bytes
    }

    /// Empties a subtree that nothing leads to any more and gathers its pages. Returns the bytes that were mapped in it.
    ///
    /// Its leaves are zeroed as well: a walker may be inside, and must not find more than it already has.
    pub(crate) fn cut<M: TableMem>(&self, mem: &M, table: Phys, level: u8, gather: &mut Gather) -> u64 {
        let mut bytes = 0;
        if let Some(words) = mem.words(table) {
            let mut unpublished = Unpublished::new(table);
            for (slot, word) in words.iter().enumerate() {
                let entry = word.load(Ordering::Acquire);
                if !F::present(entry) {
                    continue;
                }
                word.store(0, Ordering::Release);
                unpublished.add(slot, slot);
                if F::is_leaf(entry, level) {
                    bytes += 1u64 << shift(level);
                } else {
                    bytes += self.cut(mem, F::target(entry), level - 1, gather);
                }
            }
            unpublished.publish(mem, self.config.coherent);
        }
        gather.push_table(mem, table);
        bytes
    }

    /// Is there no leaf in the subtree?
    pub(crate) fn is_empty<M: TableMem>(&self, mem: &M, table: Phys, level: u8) -> bool {
        let Some(words) = mem.words(table) else { return false };
        words.iter().all(|word| {
            let entry = word.load(Ordering::Acquire);
            !F::present(entry) || (!F::is_leaf(entry, level) && self.is_empty(mem, F::target(entry), level - 1))
        })
    }
}
