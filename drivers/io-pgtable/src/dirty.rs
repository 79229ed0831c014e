//! Which pages a device wrote.

use crate::PtFormat;
use crate::engine::{PageTable, Unpublished, members, shift, slots};
use core::sync::atomic::{AtomicU64, Ordering};
use iommu_api::{DirtySink, Gather, ReadDirty, TableMem};
use iommu_types::{Error, IovaRange, Phys};

/// Runs kept for the undo of a failed report; later ones are merged into the last, which marks too much, never too little.
const UNDO: usize = 32;

/// Joins entries to runs of whole granules, clipped to what was asked, and remembers them.
struct Report<'a> {
    sink: &'a mut dyn DirtySink,
    range: IovaRange,
    granule: u64,
    open: Option<IovaRange>,
    undo: [Option<IovaRange>; UNDO],
    used: usize,
}

impl Report<'_> {
    /// Takes one dirty entry. The entry counts as taken even if the sink refuses an earlier run.
    #[inline]
    fn add(&mut self, first: u64, last: u64) -> Result<(), Error> {
        let first = (first & !(self.granule - 1)).max(self.range.first());
        let last = (last | (self.granule - 1)).min(self.range.last());
        let Some(run) = IovaRange::new(first, last) else { return Ok(()) };
        match &mut self.open {
            Some(open) if first <= open.last().saturating_add(1) => {
                *open = open.hull(&run);
                Ok(())
            }
            open => match open.replace(run) {
                Some(done) => self.emit(done),
                None => Ok(()),
            },
        }
    }
    fn emit(&mut self, run: IovaRange) -> Result<(), Error> {
        if self.used < UNDO {
            self.undo[self.used] = Some(run);
            self.used += 1;
        } else if let Some(last) = &mut self.undo[UNDO - 1] {
            *last = last.hull(&run);
        }
        self.sink.dirty(run).map_err(|_| Error::Sink)
    }
    fn finish(&mut self) -> Result<(), Error> {
        match self.open {
            Some(run) => self.emit(run),
            None => Ok(()),
        }
    }
}

/// A walk under way.
struct Read<'a, 'b, M> {
    mem: &'a M,
    report: Report<'b>,
    clear: bool,
    gather: Gather,
}

impl<F: PtFormat> PageTable<F> {
    fn tracks(&self) -> Result<(), Error> {
        if self.dirty_mask == 0 { Err(Error::NoTracking("the table was not made for it")) } else { Ok(()) }
    }

    /// Reports what devices wrote in `range`, in runs of whole granules, and clears it if asked to.
    ///
    /// Pages without the right to write are not reported: under the accessed-or-dirty rule a read of them leaves a trace
    /// too. A larger item that lies partly in `range` is reported (its part in `range`) but not cleared, because its
    /// other part would be lost.
    ///
    /// # Errors
    /// As [`iommu_api::Domain::read_dirty`].
    pub fn read_dirty<M: TableMem>(
        &self,
        mem: &M,
        range: IovaRange,
        granule: u64,
        how: ReadDirty,
        sink: &mut dyn DirtySink,
    ) -> Result<Gather, Error> {
        self.tracks()?;
        if !granule.is_power_of_two() || granule < 4096 {
            return Err(Error::Invalid("granule is not a power of two of at least 4 KiB"));
        }
        let Some(walk) = range.intersect(&self.config.aperture) else { return Ok(Gather::none()) };
        let report = Report { sink, range, granule, open: None, undo: [None; UNDO], used: 0 };
        let mut read = Read { mem, report, clear: how == ReadDirty::Clear, gather: Gather::none() };
        let top = self.config.levels - 1;
        let mut tops = self.tops();
        let result = tops
            .try_for_each(|(table, base)| self.read_below(&mut read, table, top, base, walk))
            .and_then(|()| read.report.finish());
        let Read { report, gather, clear, .. } = read;
        match result {
            Ok(()) => Ok(gather),
            Err(error) => {
                if clear {
                    for run in report.undo.into_iter().chain([report.open]).flatten() {
                        self.mark_dirty(mem, run);
                    }
                }
                // Set again and not flushed: hardware that still holds the entry as dirty has nothing to tell us.
                Err(error)
            }
        }
    }

    /// Back to clean, by one atomic, never load-then-store: a write in between must stay visible.
    #[inline]
    fn clean(&self, word: &AtomicU64) {
        if self.dirty_low == 0 {
            word.fetch_and(!self.dirty_mask, Ordering::AcqRel);
        } else {
            word.fetch_or(self.dirty_low, Ordering::AcqRel);
        }
    }

    fn read_below<M: TableMem>(
        &self,
        read: &mut Read<'_, '_, M>,
        table: Phys,
        level: u8,
        base: u64,
        range: IovaRange,
    ) -> Result<(), Error> {
        let Some(words) = read.mem.words(table) else { return Ok(()) };
        let mut unpublished = Unpublished::new(table);
        let mut cleared: Option<(u64, u64)> = None;
        let mut result = Ok(());
        let mut done = 0;
        for (slot, at) in slots(base, level, range) {
            let word = &words[slot];
            let entry = word.load(Ordering::Relaxed);
            if level > 0 && F::present(entry) && !F::is_leaf(entry, level) {
                result = self.read_below(read, F::target(entry), level - 1, at, range);
            } else if F::group(entry, level) != 0 && F::present(entry) {
                // Hardware marks whichever entry of the item it walked: it is read and cleaned as one.
                let item = members(slot, F::group(entry, level));
                if slot < done || !words[item.clone()].iter().any(|word| self.is_dirty(word.load(Ordering::Relaxed))) {
                    continue;
                }
                done = item.end;
                let first = at - (((slot - item.start) as u64) << shift(level));
                let end = first + (((item.len() as u64) << shift(level)) - 1);
                if read.clear && first >= range.first() && end <= range.last() {
                    words[item.clone()].iter().for_each(|word| self.clean(word));
                    unpublished.add(item.start, item.end - 1);
                    cleared = Some((cleared.map_or(first, |(first, _)| first), end));
                }
                result = read.report.add(first, end);
            } else if self.is_dirty(entry) {
                let end = at + ((1u64 << shift(level)) - 1);
                if read.clear && at >= range.first() && end <= range.last() {
                    self.clean(word);
                    unpublished.add(slot, slot);
                    cleared = Some((cleared.map_or(at, |(first, _)| first), end));
                }
                result = read.report.add(at, end);
            }
            if result.is_err() {
                break;
            }
        }
        unpublished.publish(read.mem, self.config.coherent);
        if let Some(range) = cleared.and_then(|(first, last)| IovaRange::new(first, last)) {
            read.gather.add(range, false);
        }
        result
    }

    /// Marks every writable page that has a byte in `range` dirty.
    pub fn mark_dirty<M: TableMem>(&self, mem: &M, range: IovaRange) {
        if self.dirty_mask == 0 {
            return;
        }
        self.for_leaves(mem, range, &mut |word, entry, _| {
            let set = |entry| (F::present(entry) && F::writable(entry)).then_some(self.dirtied(entry));
            F::writable(entry) && word.fetch_update(Ordering::AcqRel, Ordering::Acquire, set).is_ok()
        });
    }

    /// Clears every dirty bit: the start of tracking.
    ///
    /// # Errors
    /// [`Error::NoTracking`] if the table was not made for it.
    pub fn set_clean<M: TableMem>(&self, mem: &M) -> Result<Gather, Error> {
        self.tracks()?;
        let mut gather = Gather::none();
        self.for_leaves(mem, self.config.aperture, &mut |word, entry, range| {
            if !self.is_dirty(entry) {
                return false;
            }
            self.clean(word);
            gather.add(range, false);
            true
        });
        Ok(gather)
    }
}
