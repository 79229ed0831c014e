//! The table: geometry, walking, mapping.

use crate::PtFormat;
use core::marker::PhantomData;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use iommu_api::{Gather, TableMem, Translation, WORDS, Words};
use iommu_types::{Access, DirtyRule, Error, Iova, IovaRange, PageSizes, Phys, PhysRun};

/// What becomes of the accessed and dirty bits of new entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AdBits {
    /// Hardware does not look at them: they stay 0.
    Unused,
    /// Set from the start, D only where writes are allowed: hardware never has to update an entry. For domains that do
    /// not track, and for units whose walker must not write.
    Preset,
    /// Leaves start clear and hardware sets them. Entries that lead to tables have A set, so that only leaves are written.
    Hardware,
}

/// Geometry and rules of one table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableConfig {
    /// Levels, within [`PtFormat::LEVELS`].
    pub levels: u8,
    /// Addresses that may be mapped.
    pub aperture: IovaRange,
    /// Bits of an output address.
    pub phys_bits: u8,
    /// Leaf sizes the hardware takes; those the format lacks are ignored.
    pub page_sizes: PageSizes,
    /// Does the walker snoop? If not, every store is published.
    pub coherent: bool,
    /// How a leaf shows a write; [`DirtyRule::None`] if the table does not track.
    pub dirty: DirtyRule,
    /// A and D of new entries.
    pub ad: AdBits,
}

/// A map that did not happen: nothing of it stays mapped.
#[derive(Debug)]
pub struct MapFailed {
    /// Why.
    pub error: Error,
    /// What hardware may have cached meanwhile; flush it.
    pub gather: Gather,
}

/// One table tree. Memory is handed in with every call; [`take_apart`](Self::take_apart) gives it back.
pub struct PageTable<F> {
    pub(crate) root: Phys,
    /// Tables at the top, side by side.
    pub(crate) roots: u64,
    pub(crate) config: TableConfig,
    /// Bits that show a write, and those of them that show it by being 0.
    pub(crate) dirty_mask: u64,
    pub(crate) dirty_low: u64,
    leaf_bits: AtomicU64,
    format: PhantomData<fn() -> F>,
}

/// Bits of iova below the index of `level`.
pub(crate) const fn shift(level: u8) -> u32 {
    12 + 9 * level as u32
}

/// Item sizes that live at `level`: its own and its multiples, up to half of the next level's.
pub(crate) const fn sizes_at(sizes: PageSizes, level: u8) -> u64 {
    sizes.0 & (0x1ff << shift(level))
}

/// All powers of two that divide `x`, and everything below them; all for 0.
const fn divisors(x: u64) -> u64 {
    x ^ x.wrapping_sub(1)
}

/// Index of `iova` in a table of `level`.
pub(crate) const fn index(iova: u64, level: u8) -> usize {
    (iova >> shift(level)) as usize & (WORDS - 1)
}

/// The words of a table. Tables come from `mem`, so it knows them; if it does not, that is reported, not a panic.
pub(crate) fn words<M: TableMem>(mem: &M, table: Phys) -> Result<&Words, Error> {
    mem.words(table).ok_or(Error::Invalid("a table lies outside of memory"))
}

/// Entries of one table that were stored and not yet published.
pub(crate) struct Unpublished {
    table: Phys,
    run: Option<(usize, usize)>,
}

impl Unpublished {
    pub(crate) const fn new(table: Phys) -> Self {
        Self { table, run: None }
    }
    #[inline]
    pub(crate) fn add(&mut self, first: usize, last: usize) {
        self.run = Some(self.run.map_or((first, last), |(from, to)| (from.min(first), to.max(last))));
    }
    pub(crate) fn publish<M: TableMem>(&mut self, mem: &M, coherent: bool) {
        if let Some((first, last)) = self.run.take()
            && !coherent
        {
            mem.publish(Phys(self.table.0 + 8 * first as u64), 8 * (last - first + 1));
        }
    }
}

/// Where in the physical runs a map is.
struct Cursor<'a> {
    runs: &'a [PhysRun],
    offset: u64,
}

impl Cursor<'_> {
    /// The address here; `None` past the end.
    fn phys(&self) -> Option<u64> {
        self.runs.first().map(|run| run.base.0 + self.offset)
    }
    /// Bytes left in this run alone.
    fn here(&self) -> u64 {
        self.runs.first().map_or(0, |run| run.length - self.offset)
    }
    /// Are the next `size` bytes contiguous, across runs that touch?
    fn contiguous(&self, size: u64) -> bool {
        let Some((head, rest)) = self.runs.split_first() else { return false };
        let mut have = head.length - self.offset;
        let mut end = head.base.0 + head.length;
        for run in rest {
            if have >= size || run.base.0 != end {
                break;
            }
            have += run.length;
            end += run.length;
        }
        have >= size
    }
    fn advance(&mut self, mut bytes: u64) {
        while let Some((head, rest)) = self.runs.split_first() {
            let left = head.length - self.offset;
            if bytes < left {
                self.offset += bytes;
                return;
            }
            bytes -= left;
            self.offset = 0;
            self.runs = rest;
        }
    }
}

/// A map under way.
struct Fill<'a, M> {
    mem: &'a M,
    cursor: Cursor<'a>,
    /// The next iova; wraps at the end of the address space.
    at: u64,
    /// Bytes still to be mapped.
    left: u64,
    sizes: PageSizes,
    rights: u64,
    gather: Gather,
    report_added: bool,
}

impl<M> Fill<'_, M> {
    /// The largest of `sizes` that fits here; 0 if none does.
    fn best(&self, sizes: u64) -> u64 {
        let Some(phys) = self.cursor.phys() else { return 0 };
        let within = u64::MAX.checked_shr(self.left.leading_zeros()).unwrap_or(0);
        let mut fits = sizes & divisors(self.at | phys) & within;
        while fits != 0 {
            let size = 1 << (63 - fits.leading_zeros());
            if self.cursor.contiguous(size) {
                return size;
            }
            fits ^= size;
        }
        0
    }
}

/// A leaf that was found.
#[derive(Clone, Copy)]
pub(crate) struct Leaf {
    pub(crate) entry: u64,
    pub(crate) table: Phys,
    pub(crate) level: u8,
    /// log2 of the entries of its item.
    pub(crate) group: u32,
}

impl Leaf {
    /// Of the item, in bytes.
    pub(crate) fn size(&self) -> u64 {
        1u64.checked_shl(shift(self.level) + self.group).unwrap_or(1 << 63)
    }
}

/// The slots of the item of 2^`log2` entries that `slot` belongs to.
#[inline]
pub(crate) fn members(slot: usize, log2: u32) -> Range<usize> {
    let first = slot >> log2 << log2;
    first..first + (1 << log2)
}

impl<F: PtFormat> PageTable<F> {
    /// An empty table.
    ///
    /// # Errors
    /// [`Error::Exhausted`] for memory; [`Error::Invalid`] for a geometry the format does not have.
    pub fn new<M: TableMem>(mem: &M, mut config: TableConfig) -> Result<Self, Error> {
        if config.levels < F::LEVELS.0 || config.levels > F::LEVELS.1 {
            return Err(Error::Invalid("the format does not have that many levels"));
        }
        let roots = config.aperture.last().checked_shr(shift(config.levels)).unwrap_or(0) + 1;
        let roots = if roots <= F::TOP_TABLES { roots.next_power_of_two() } else { roots };
        if roots > F::TOP_TABLES || !config.aperture.aligned(4096) {
            return Err(Error::Invalid("the aperture is wider than the table"));
        }
        config.page_sizes = config.page_sizes.and(F::SIZES);
        config.phys_bits = config.phys_bits.min(F::PHYS_BITS);
        if !config.page_sizes.has(4096) {
            return Err(Error::Invalid("a table without 4 KiB leaves"));
        }
        let (dirty_mask, dirty_low) = match config.dirty {
            DirtyRule::None => (0, 0),
            DirtyRule::Bit(bit) if bit < 64 && 1 << bit == F::DIRTY => (F::DIRTY, 0),
            DirtyRule::AccessedOrDirty { accessed, dirty }
                if accessed < 64 && dirty < 64 && 1 << accessed == F::ACCESSED && 1 << dirty == F::DIRTY =>
            {
                (F::ACCESSED | F::DIRTY, 0)
            }
            rule => match F::MODIFIER {
                Some(how) if how.rule == rule => (how.bit, if how.low { how.bit } else { 0 }),
                _ => return Err(Error::Invalid("the format has its dirty bit elsewhere")),
            },
        };
        // At most 16, and aligned to their size: the address field of the register or entry needs that.
        let root = mem.alloc_run(roots as usize)?;
        if !config.coherent {
            mem.publish(root, 4096 * roots as usize);
        }
        Ok(Self { root, roots, config, dirty_mask, dirty_low, leaf_bits: AtomicU64::new(0), format: PhantomData })
    }

    /// The top table; the first one, where the aperture takes several side by side.
    pub fn root(&self) -> Phys {
        self.root
    }

    /// Geometry and rules.
    pub fn config(&self) -> &TableConfig {
        &self.config
    }

    /// The top tables and the iova each starts at.
    pub(crate) fn tops(&self) -> impl Iterator<Item = (Phys, u64)> + use<F> {
        let (root, levels) = (self.root, self.config.levels);
        // With one table the shift may be 66; it is of 0 then.
        (0..self.roots).map(move |n| (Phys(root.0 + 4096 * n), n.checked_shl(shift(levels)).unwrap_or(0)))
    }

    fn top_over(&self, iova: u64) -> Phys {
        Phys(self.root.0 + 4096 * iova.checked_shr(shift(self.config.levels)).unwrap_or(0))
    }

    /// The item that holds `iova`.
    pub fn translate<M: TableMem>(&self, mem: &M, iova: Iova) -> Option<Translation> {
        let leaf = self.leaf_at(mem, iova.0)?;
        let words = mem.words(leaf.table)?;
        let slot = index(iova.0, leaf.level);
        let dirty = words[members(slot, leaf.group)].iter().any(|word| self.is_dirty(word.load(Ordering::Acquire)));
        let size = leaf.size();
        let base = F::target(leaf.entry).0 & !(size - 1);
        Some(Translation { phys: Phys(base + (iova.0 & (size - 1))), access: F::access(leaf.entry), size, dirty })
    }

    /// The leaf over `iova`.
    pub(crate) fn leaf_at<M: TableMem>(&self, mem: &M, iova: u64) -> Option<Leaf> {
        if !self.config.aperture.holds(iova) {
            return None;
        }
        let mut table = self.top_over(iova);
        let mut level = self.config.levels - 1;
        loop {
            let entry = mem.words(table)?[index(iova, level)].load(Ordering::Acquire);
            if !F::present(entry) {
                return None;
            }
            if F::is_leaf(entry, level) {
                return Some(Leaf { entry, table, level, group: F::group(entry, level) });
            }
            table = F::target(entry);
            level -= 1;
        }
    }

    /// Does the leaf show a write?
    #[inline]
    pub(crate) fn is_dirty(&self, entry: u64) -> bool {
        (entry ^ self.dirty_low) & self.dirty_mask != 0 && F::present(entry) && F::writable(entry)
    }

    /// A writable leaf, written.
    #[inline]
    pub(crate) fn dirtied(&self, entry: u64) -> u64 {
        entry & !self.dirty_mask | self.dirty_mask & !self.dirty_low
    }

    /// Maps `runs`, one after the other, from `iova`, with the largest leaves that fit and are not above `max_leaf`.
    ///
    /// `report_added`: put new entries into the gather, for units that cache absent ones. Tables that a larger leaf
    /// replaced are in it in any case.
    ///
    /// # Errors
    /// As [`iommu_api::Domain::map`].
    pub fn map<M: TableMem>(
        &self,
        mem: &M,
        iova: Iova,
        runs: &[PhysRun],
        access: Access,
        max_leaf: u64,
        report_added: bool,
    ) -> Result<Gather, MapFailed> {
        let refuse = |error| MapFailed { error, gather: Gather::none() };
        let (range, sizes, rights) = self.check_map(iova, runs, access, max_leaf).map_err(refuse)?;
        let mut fill = Fill {
            mem,
            cursor: Cursor { runs, offset: 0 },
            at: range.first(),
            left: range.len(),
            sizes,
            rights,
            gather: Gather::none(),
            report_added,
        };
        let mut result = Ok(());
        while result.is_ok() && fill.left > 0 {
            let top = self.top_over(fill.at);
            result = self.fill(&mut fill, top, self.config.levels - 1);
        }
        let Fill { mut gather, left, .. } = fill;
        match result {
            Ok(()) => {
                if report_added {
                    gather.add(range, false);
                }
                Ok(gather)
            }
            Err(error) => {
                // What was stored was empty before, so taking exactly that away is the undo.
                if let Some(done) = IovaRange::sized(range.first(), range.len() - left) {
                    self.clear(mem, done, &mut gather);
                }
                Err(MapFailed { error, gather })
            }
        }
    }

    fn check_map(
        &self,
        iova: Iova,
        runs: &[PhysRun],
        access: Access,
        max_leaf: u64,
    ) -> Result<(IovaRange, PageSizes, u64), Error> {
        let mut total = 0u64;
        for run in runs {
            if run.length == 0 || (run.base.0 | run.length) & 0xfff != 0 {
                return Err(Error::Invalid("a run is empty or not aligned to 4 KiB"));
            }
            let end = run.base.0.checked_add(run.length - 1).ok_or(Error::Range("physical address"))?;
            if self.config.phys_bits < 64 && end >> self.config.phys_bits != 0 {
                return Err(Error::Range("physical address is wider than the hardware's"));
            }
            total = total.checked_add(run.length).ok_or(Error::Range("length"))?;
        }
        if iova.0 & 0xfff != 0 {
            return Err(Error::Invalid("iova is not aligned to 4 KiB"));
        }
        if total == 0 {
            return Err(Error::Invalid("nothing to map"));
        }
        let range = IovaRange::sized(iova.0, total).ok_or(Error::Range("iova passes 2^64"))?;
        if !self.config.aperture.contains(&range) {
            return Err(Error::Range("iova is outside the aperture"));
        }
        if !max_leaf.is_power_of_two() || max_leaf < 4096 {
            return Err(Error::Invalid("largest leaf is not a power of two of at least 4 KiB"));
        }
        let sizes = self.config.page_sizes.and(PageSizes(max_leaf | (max_leaf - 1)));
        let tracked = self.config.dirty != DirtyRule::None;
        let mut rights = F::rights(access, tracked)? | self.leaf_bits.load(Ordering::Acquire);
        if self.config.ad == AdBits::Preset {
            rights |= F::ACCESSED;
            if F::writable(rights) {
                rights = self.dirtied(rights) | F::DIRTY;
            }
        }
        Ok((range, sizes, rights))
    }

    /// Stores entries in `table` from `fill.at` to the end of the request or of the table.
    fn fill<M: TableMem>(&self, fill: &mut Fill<'_, M>, table: Phys, level: u8) -> Result<(), Error> {
        let words = words(fill.mem, table)?;
        let mut unpublished = Unpublished::new(table);
        let result = if level == 0 {
            self.fill_pages(fill, words, &mut unpublished)
        } else {
            self.fill_upper(fill, words, level, &mut unpublished)
        };
        unpublished.publish(fill.mem, self.config.coherent);
        result
    }

    /// The lowest level: 4 KiB leaves run by run in a tight loop, larger items where they fit.
    fn fill_pages<M: TableMem>(
        &self,
        fill: &mut Fill<'_, M>,
        words: &Words,
        unpublished: &mut Unpublished,
    ) -> Result<(), Error> {
        loop {
            let from = index(fill.at, 0);
            let Some(phys) = fill.cursor.phys() else { return Ok(()) };
            let mut most = (fill.left / 4096).min(fill.cursor.here() / 4096).min((WORDS - from) as u64);
            // Larger items start only where iova and address agree in the bits below their size.
            let larger = sizes_at(fill.sizes, 0) & divisors(fill.at ^ phys) & !4096;
            if larger != 0 {
                let size = fill.best(larger);
                if size != 0 {
                    self.fill_item(fill, words, 0, size, unpublished)?;
                    if fill.left == 0 || index(fill.at, 0) == 0 {
                        return Ok(());
                    }
                    continue;
                }
                let step = larger & larger.wrapping_neg();
                let until = (step - (fill.at & (step - 1))) / 4096;
                most = most.min(until);
            }
            let mut leaf = F::leaf(0, Phys(phys), fill.rights);
            let mut stored = 0;
            for word in &words[from..from + most as usize] {
                if F::present(word.load(Ordering::Relaxed)) {
                    break;
                }
                word.store(leaf, Ordering::Release);
                // The address field is bits 51:12 in place, and the run was checked to stay inside it.
                leaf += 4096;
                stored += 1;
            }
            fill.at = fill.at.wrapping_add(4096 * stored);
            fill.left -= 4096 * stored;
            if stored > 0 {
                unpublished.add(from, from + stored as usize - 1);
            }
            if stored < most {
                return Err(Error::Exists);
            }
            fill.cursor.advance(most * 4096);
            if fill.left == 0 || from + most as usize == WORDS {
                return Ok(());
            }
        }
    }

    fn fill_upper<M: TableMem>(
        &self,
        fill: &mut Fill<'_, M>,
        words: &Words,
        level: u8,
        unpublished: &mut Unpublished,
    ) -> Result<(), Error> {
        let sizes = sizes_at(fill.sizes, level);
        let mut slot = index(fill.at, level);
        while slot < WORDS && fill.left > 0 {
            let size = fill.best(sizes);
            if size != 0 {
                self.fill_item(fill, words, level, size, unpublished)?;
                slot += (size >> shift(level)) as usize;
                continue;
            }
            let entry = words[slot].load(Ordering::Acquire);
            if F::present(entry) && F::is_leaf(entry, level) {
                return Err(Error::Exists);
            }
            let next =
                if F::present(entry) { F::target(entry) } else { self.grow(fill, words, slot, level, unpublished)? };
            self.fill(fill, next, level - 1)?;
            slot += 1;
        }
        Ok(())
    }

    /// Stores one item of `size` bytes at `fill.at`, over empty entries and tables without leaves.
    fn fill_item<M: TableMem>(
        &self,
        fill: &mut Fill<'_, M>,
        words: &Words,
        level: u8,
        size: u64,
        unpublished: &mut Unpublished,
    ) -> Result<(), Error> {
        let log2 = size.trailing_zeros() - shift(level);
        let slots = members(index(fill.at, level), log2);
        let Some(words) = words.get(slots.clone()) else { return Err(Error::Range("an item across tables")) };
        for word in words {
            let entry = word.load(Ordering::Acquire);
            if F::present(entry) && (F::is_leaf(entry, level) || !self.is_empty(fill.mem, F::target(entry), level - 1))
            {
                return Err(Error::Exists);
            }
        }
        let phys = Phys(fill.cursor.phys().unwrap_or(0));
        let mut replaced = false;
        for (n, word) in words.iter().enumerate() {
            let old = word.load(Ordering::Acquire);
            word.store(F::member(level, phys, log2, n as u64, fill.rights), Ordering::Release);
            if F::present(old) {
                // Smaller unmaps left an empty table here. This call owns the whole slot, so nobody else is in it.
                self.cut(fill.mem, F::target(old), level - 1, &mut fill.gather);
                replaced = true;
            }
        }
        if replaced && let Some(range) = IovaRange::sized(fill.at, size) {
            fill.gather.add(range, false);
        }
        unpublished.add(slots.start, slots.end - 1);
        fill.at = fill.at.wrapping_add(size);
        fill.left -= size;
        fill.cursor.advance(size);
        Ok(())
    }

    /// Hangs a new empty table into `slot`, or takes the one that another caller hung there meanwhile.
    fn grow<M: TableMem>(
        &self,
        fill: &mut Fill<'_, M>,
        words: &Words,
        slot: usize,
        level: u8,
        unpublished: &mut Unpublished,
    ) -> Result<Phys, Error> {
        let page = fill.mem.alloc()?;
        if !self.config.coherent {
            // Its zeroes must be in memory before anything leads to it.
            fill.mem.publish(page, 4096);
        }
        let entry = self.table_entry(level, page);
        loop {
            match words[slot].compare_exchange(0, entry, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    unpublished.add(slot, slot);
                    unpublished.publish(fill.mem, self.config.coherent);
                    if fill.report_added {
                        fill.gather.tables_changed();
                    }
                    return Ok(page);
                }
                Err(other) if F::present(other) => {
                    fill.mem.release(page);
                    return Ok(F::target(other));
                }
                // Not present but not zero: left by hardware that stored A or D late; it means nothing.
                Err(other) => {
                    let _ = words[slot].compare_exchange(other, 0, Ordering::AcqRel, Ordering::Acquire);
                }
            }
        }
    }

    /// An entry at `level` that leads to `page`. Hardware never has to update it.
    pub(crate) fn table_entry(&self, level: u8, page: Phys) -> u64 {
        F::table(level, page) | if self.config.ad == AdBits::Unused { 0 } else { F::ACCESSED }
    }

    /// Sets `bits` in every leaf, now and from now on (snoop, no-execute).
    pub fn force_leaf_bits<M: TableMem>(&self, mem: &M, bits: u64) -> Gather {
        self.leaf_bits.fetch_or(bits, Ordering::AcqRel);
        let mut gather = Gather::none();
        self.for_leaves(mem, self.config.aperture, &mut |word, _, range| {
            let set = |entry| (F::present(entry) && entry & bits != bits).then_some(entry | bits);
            if word.fetch_update(Ordering::AcqRel, Ordering::Acquire, set).is_ok() {
                gather.add(range, false);
                return true;
            }
            false
        });
        gather
    }

    /// Calls `each` for every leaf entry that has a byte in `range`, members of an item one by one: the entry's word, its value, its range. `each` tells
    /// whether it stored; stores are published table by table.
    pub(crate) fn for_leaves<M: TableMem>(
        &self,
        mem: &M,
        range: IovaRange,
        each: &mut dyn FnMut(&AtomicU64, u64, IovaRange) -> bool,
    ) {
        for (top, base) in self.tops() {
            self.leaves_below(mem, top, self.config.levels - 1, base, range, each);
        }
    }

    fn leaves_below<M: TableMem>(
        &self,
        mem: &M,
        table: Phys,
        level: u8,
        base: u64,
        range: IovaRange,
        each: &mut dyn FnMut(&AtomicU64, u64, IovaRange) -> bool,
    ) {
        let Some(words) = mem.words(table) else { return };
        let mut unpublished = Unpublished::new(table);
        for (slot, at) in slots(base, level, range) {
            let word = &words[slot];
            let entry = word.load(Ordering::Acquire);
            if !F::present(entry) {
                continue;
            }
            if !F::is_leaf(entry, level) {
                self.leaves_below(mem, F::target(entry), level - 1, at, range, each);
            } else if let Some(item) = IovaRange::sized(at, 1 << shift(level))
                && each(word, entry, item)
            {
                unpublished.add(slot, slot);
            }
        }
        unpublished.publish(mem, self.config.coherent);
    }

    /// Empties the tree and gathers all its pages, the root as well: the end of the table, which must not be used again.
    pub fn take_apart<M: TableMem>(&self, mem: &M) -> Gather {
        let mut gather = Gather::none();
        for (top, _) in self.tops() {
            self.cut(mem, top, self.config.levels - 1, &mut gather);
        }
        gather
    }
}

/// The slots of a table at `base` that have a byte in `range`, with the iova each starts at.
pub(crate) fn slots(base: u64, level: u8, range: IovaRange) -> impl Iterator<Item = (usize, u64)> {
    let shift = shift(level);
    // The top of six levels ends with the address space, after 128 slots.
    let end = base.saturating_add(u64::MAX >> 64u32.saturating_sub(shift + 9));
    let (first, last) = (range.first().max(base), range.last().min(end));
    let (from, to) = if first <= last { ((first - base) >> shift, ((last - base) >> shift) + 1) } else { (0, 0) };
    let (from, to) = (from as usize, to as usize);
    (from..to).map(move |slot| (slot, base + ((slot as u64) << shift)))
}
