//! The table: geometry, walking, mapping.

use crate::PtFormat;
use core::marker::PhantomData;
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
    pub(crate) config: TableConfig,
    pub(crate) dirty_mask: u64,
    leaf_bits: AtomicU64,
    format: PhantomData<fn() -> F>,
}

/// Bits of iova below the index of `level`.
pub(crate) const fn shift(level: u8) -> u32 {
    12 + 9 * level as u32
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
    /// The next iova.
    at: u64,
    /// The last iova of the request.
    last: u64,
    sizes: PageSizes,
    rights: u64,
    gather: Gather,
    report_added: bool,
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
        let top = 1u64 << shift(config.levels);
        if config.aperture.last() >= top || !config.aperture.aligned(4096) {
            return Err(Error::Invalid("the aperture is wider than the table"));
        }
        config.page_sizes = config.page_sizes.and(F::SIZES);
        if !config.page_sizes.has(4096) {
            return Err(Error::Invalid("a table without 4 KiB leaves"));
        }
        let dirty_mask = match config.dirty {
            DirtyRule::None => 0,
            DirtyRule::Bit(bit) if bit < 64 && 1 << bit == F::DIRTY => F::DIRTY,
            DirtyRule::AccessedOrDirty { accessed, dirty }
                if accessed < 64 && dirty < 64 && 1 << accessed == F::ACCESSED && 1 << dirty == F::DIRTY =>
            {
                F::ACCESSED | F::DIRTY
            }
            _ => return Err(Error::Invalid("the format has its dirty bit elsewhere")),
        };
        let root = mem.alloc()?;
        if !config.coherent {
            mem.publish(root, 4096);
        }
        Ok(Self { root, config, dirty_mask, leaf_bits: AtomicU64::new(0), format: PhantomData })
    }

    /// The top table.
    pub fn root(&self) -> Phys {
        self.root
    }

    /// Geometry and rules.
    pub fn config(&self) -> &TableConfig {
        &self.config
    }

    /// The item that holds `iova`.
    pub fn translate<M: TableMem>(&self, mem: &M, iova: Iova) -> Option<Translation> {
        let (entry, level) = self.leaf_at(mem, iova.0)?;
        let size = 1u64 << shift(level);
        let access = F::access(entry);
        let dirty = entry & self.dirty_mask != 0 && F::writable(entry);
        let base = F::target(entry).0 & !(size - 1);
        Some(Translation { phys: Phys(base + (iova.0 & (size - 1))), access, size, dirty })
    }

    /// The leaf over `iova` and its level.
    pub(crate) fn leaf_at<M: TableMem>(&self, mem: &M, iova: u64) -> Option<(u64, u8)> {
        if !self.config.aperture.holds(iova) {
            return None;
        }
        let mut table = self.root;
        let mut level = self.config.levels - 1;
        loop {
            let entry = mem.words(table)?[index(iova, level)].load(Ordering::Acquire);
            if !F::present(entry) {
                return None;
            }
            if F::is_leaf(entry, level) {
                return Some((entry, level));
            }
            table = F::target(entry);
            level -= 1;
        }
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
            last: range.last(),
            sizes,
            rights,
            gather: Gather::none(),
            report_added,
        };
        let result = self.fill(&mut fill, self.root, self.config.levels - 1);
        let Fill { mut gather, at, .. } = fill;
        match result {
            Ok(()) => {
                if report_added {
                    gather.add(range, false);
                }
                Ok(gather)
            }
            Err(error) => {
                // What was stored lies in first..at and was empty before, so taking exactly that away is the undo.
                if let Some(done) = at.checked_sub(1).and_then(|last| IovaRange::new(range.first(), last)) {
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
        let mut rights = F::rights(access)? | self.leaf_bits.load(Ordering::Acquire);
        if self.config.ad == AdBits::Preset {
            rights |= F::ACCESSED;
            if F::writable(rights) {
                rights |= F::DIRTY;
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

    /// The tight loop: 4 KiB leaves, run by run.
    fn fill_pages<M: TableMem>(
        &self,
        fill: &mut Fill<'_, M>,
        words: &Words,
        unpublished: &mut Unpublished,
    ) -> Result<(), Error> {
        loop {
            let from = index(fill.at, 0);
            let Some(phys) = fill.cursor.phys() else { return Ok(()) };
            let pages = ((fill.last - fill.at) / 4096 + 1).min(fill.cursor.here() / 4096).min((WORDS - from) as u64);
            let mut leaf = F::leaf(0, Phys(phys), fill.rights);
            let mut stored = 0;
            for word in &words[from..from + pages as usize] {
                if F::present(word.load(Ordering::Relaxed)) {
                    break;
                }
                word.store(leaf, Ordering::Release);
                // The address field is bits 51:12 in place, and the run was checked to stay inside it.
                leaf += 4096;
                stored += 1;
            }
            fill.at += 4096 * stored;
            if stored > 0 {
                unpublished.add(from, from + stored as usize - 1);
            }
            if stored < pages {
                return Err(Error::Exists);
            }
            fill.cursor.advance(pages * 4096);
            if fill.at > fill.last || from + pages as usize == WORDS {
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
        let size = 1u64 << shift(level);
        for slot in index(fill.at, level)..WORDS {
            let word = &words[slot];
            let entry = word.load(Ordering::Acquire);
            if self.leaf_fits(fill, size) {
                let phys = fill.cursor.phys().unwrap_or(0);
                let leaf = F::leaf(level, Phys(phys), fill.rights);
                if !F::present(entry) {
                    word.store(leaf, Ordering::Release);
                } else if F::is_leaf(entry, level) || !self.is_empty(fill.mem, F::target(entry), level - 1) {
                    return Err(Error::Exists);
                } else {
                    // Smaller unmaps left an empty table here. This call owns the whole slot, so nobody else is in it.
                    word.store(leaf, Ordering::Release);
                    self.cut(fill.mem, F::target(entry), level - 1, &mut fill.gather);
                    if let Some(range) = IovaRange::sized(fill.at, size) {
                        fill.gather.add(range, false);
                    }
                }
                unpublished.add(slot, slot);
                fill.at += size;
                fill.cursor.advance(size);
            } else {
                if F::present(entry) && F::is_leaf(entry, level) {
                    return Err(Error::Exists);
                }
                let next =
                    if F::present(entry) { F::target(entry) } else { self.grow(fill, words, slot, unpublished)? };
                self.fill(fill, next, level - 1)?;
            }
            if fill.at > fill.last {
                break;
            }
        }
        Ok(())
    }

    /// May the next leaf have `size` bytes?
    fn leaf_fits<M>(&self, fill: &Fill<'_, M>, size: u64) -> bool {
        fill.sizes.has(size)
            && fill.at & (size - 1) == 0
            && fill.last - fill.at >= size - 1
            && fill.cursor.phys().is_some_and(|phys| phys & (size - 1) == 0)
            && fill.cursor.contiguous(size)
    }

    /// Hangs a new empty table into `slot`, or takes the one that another caller hung there meanwhile.
    fn grow<M: TableMem>(
        &self,
        fill: &mut Fill<'_, M>,
        words: &Words,
        slot: usize,
        unpublished: &mut Unpublished,
    ) -> Result<Phys, Error> {
        let page = fill.mem.alloc()?;
        if !self.config.coherent {
            // Its zeroes must be in memory before anything leads to it.
            fill.mem.publish(page, 4096);
        }
        let mut entry = F::table(page);
        if self.config.ad != AdBits::Unused {
            entry |= F::ACCESSED;
        }
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

    /// Calls `each` for every leaf that has a byte in `range`: the entry's word, its value, its range. `each` tells
    /// whether it stored; stores are published table by table.
    pub(crate) fn for_leaves<M: TableMem>(
        &self,
        mem: &M,
        range: IovaRange,
        each: &mut dyn FnMut(&AtomicU64, u64, IovaRange) -> bool,
    ) {
        self.leaves_below(mem, self.root, self.config.levels - 1, 0, range, each);
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
        self.cut(mem, self.root, self.config.levels - 1, &mut gather);
        gather
    }
}

/// The slots of a table at `base` that have a byte in `range`, with the iova each starts at.
pub(crate) fn slots(base: u64, level: u8, range: IovaRange) -> impl Iterator<Item = (usize, u64)> {
    let shift = shift(level);
    let end = base + ((WORDS as u64) << shift) - 1;
    let (first, last) = (range.first().max(base), range.last().min(end));
    let from = ((first - base) >> shift) as usize;
    let to = if first <= last { ((last - base) >> shift) as usize + 1 } else { from };
    (from..to).map(move |slot| (slot, base + ((slot as u64) << shift)))
}
