//! Items of another size with the same translations, rights and dirty state: smaller ones so that a report is finer
//! (`demote`), larger ones again when it no longer matters (`promote`).
//!
//! What keeps writes from being lost. An entry is only ever replaced by an exchange, and what the exchange found (A, D)
//! goes into what takes its place. A walker that still holds an old table marks *its* entries until the flush has
//! completed, so a table is read once more after it, and freed only then. A walker that still holds a large entry marked it
//! before it was exchanged, or finds it gone and walks again.

use crate::PtFormat;
use crate::engine::{Leaf, PageTable, Unpublished, members, shift, sizes_at, slots, words};
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use iommu_api::{Gather, TableMem, WORDS, Words};
use iommu_types::{Error, IovaRange, PageSizes, Phys};

/// How an item is replaced by one of another size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Swap {
    /// Entry by entry, without a gap: hardware may hold both sizes at once, and both say the same. For x86, VT-d and AMD
    /// layouts, and for an SMMU with BBML 2.
    Direct,
    /// Not-present first, flush, then the new one (break-before-make). A device that comes in between faults. For an SMMU
    /// with a lower BBML, and for units that update A and D by a plain store, which could undo an exchange.
    BreakFirst,
}

/// What was replaced.
#[must_use]
#[derive(Debug)]
pub struct Resized {
    /// What to flush before anything else is done to the range.
    pub gather: Gather,
    /// Items replaced (demote) or made (promote).
    pub items: usize,
    /// How it was done.
    pub how: Swap,
}

/// A change of size that stopped part-way. What was done stays, and translates as before.
#[derive(Debug)]
pub struct ResizeFailed {
    /// Why.
    pub error: Error,
    /// What to flush.
    pub gather: Gather,
}

/// A and D of one or more entries, joined.
#[derive(Clone, Copy, Default)]
struct State {
    bits: u64,
    dirty: bool,
}

struct Work<'a, M> {
    mem: &'a M,
    flush: &'a mut dyn FnMut(Gather) -> Result<(), Error>,
    range: IovaRange,
    /// Sizes to have in the end.
    sizes: PageSizes,
    how: Swap,
    gather: Gather,
    items: usize,
}

/// Some neighbouring entries of one table.
struct Place<'a> {
    table: Phys,
    words: &'a Words,
    slots: Range<usize>,
    /// The iova they cover.
    range: IovaRange,
}

impl<'a> Place<'a> {
    fn new(table: Phys, words: &'a Words, level: u8, base: u64, slots: Range<usize>) -> Option<Self> {
        let first = base + ((slots.start as u64) << shift(level));
        let range = IovaRange::sized(first, (slots.len() as u64) << shift(level))?;
        (slots.end <= WORDS).then_some(Self { table, words, slots, range })
    }
    fn words(&self) -> &'a [AtomicU64] {
        &self.words[self.slots.clone()]
    }
    fn publish<M: TableMem>(&self, mem: &M, coherent: bool) {
        let mut stored = Unpublished::new(self.table);
        stored.add(self.slots.start, self.slots.end - 1);
        stored.publish(mem, coherent);
    }
}

impl<F: PtFormat> PageTable<F> {
    /// Splits every item over `range` that is larger than `largest` (bytes), also where it sticks out of `range`, until none
    /// is. Dirty state goes to all parts.
    ///
    /// `how`: [`PtFormat::SWAP`], or [`Swap::Direct`] if the unit can. `flush` is called, and must wait, once for each
    /// item under [`Swap::BreakFirst`]; not at all under [`Swap::Direct`]. Sync the gather before anything else is done to
    /// the range. No other call may work on the items meanwhile, reports included; hardware may.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a size; [`Error::Range`] outside the aperture; [`Error::Exhausted`] for memory;
    /// [`Error::Unsupported`] if a size in between is missing; what `flush` says (the item it was for is as before).
    pub fn demote<M: TableMem>(
        &self,
        mem: &M,
        range: IovaRange,
        largest: u64,
        how: Swap,
        flush: &mut dyn FnMut(Gather) -> Result<(), Error>,
    ) -> Result<Resized, ResizeFailed> {
        self.resize(mem, range, largest, how, flush, Self::demote_below)
    }

    /// Joins neighbours that translate to neighbours with the same rights into the largest items that fit into `range` and
    /// are not above `largest` (bytes). An item is dirty if one of its parts was. Needs no memory.
    ///
    /// `how`: as for [`demote`](Self::demote), and with the same exclusion. `flush` is called, and must wait, for each
    /// table that goes, and under [`Swap::BreakFirst`] for each item.
    ///
    /// # Errors
    /// As [`demote`](Self::demote), but never for memory.
    pub fn promote<M: TableMem>(
        &self,
        mem: &M,
        range: IovaRange,
        largest: u64,
        how: Swap,
        flush: &mut dyn FnMut(Gather) -> Result<(), Error>,
    ) -> Result<Resized, ResizeFailed> {
        self.resize(mem, range, largest, how, flush, Self::promote_below)
    }

    fn resize<'a, M: TableMem>(
        &self,
        mem: &'a M,
        range: IovaRange,
        largest: u64,
        how: Swap,
        flush: &'a mut dyn FnMut(Gather) -> Result<(), Error>,
        below: impl Fn(&Self, &mut Work<'a, M>, Phys, u8, u64) -> Result<(), Error>,
    ) -> Result<Resized, ResizeFailed> {
        let refuse = |error| Err(ResizeFailed { error, gather: Gather::none() });
        if !largest.is_power_of_two() || largest < 4096 {
            return refuse(Error::Invalid("largest item is not a power of two of at least 4 KiB"));
        }
        if !range.aligned(4096) {
            return refuse(Error::Invalid("range is not aligned to 4 KiB"));
        }
        if !self.config.aperture.contains(&range) {
            return refuse(Error::Range("iova is outside the aperture"));
        }
        let sizes = self.config.page_sizes.and(PageSizes(largest | (largest - 1)));
        let mut work = Work { mem, flush, range, sizes, how, gather: Gather::none(), items: 0 };
        for (top, base) in self.tops() {
            if let Err(error) = below(self, &mut work, top, self.config.levels - 1, base) {
                return Err(ResizeFailed { error, gather: work.gather });
            }
        }
        Ok(Resized { gather: work.gather, items: work.items, how })
    }

    fn demote_below<M: TableMem>(
        &self,
        work: &mut Work<'_, M>,
        table: Phys,
        level: u8,
        base: u64,
    ) -> Result<(), Error> {
        let words = words(work.mem, table)?;
        for (slot, at) in slots(base, level, work.range) {
            loop {
                let entry = words[slot].load(Ordering::Acquire);
                if !F::present(entry) {
                    break;
                }
                if !F::is_leaf(entry, level) {
                    self.demote_below(work, F::target(entry), level - 1, at)?;
                    break;
                }
                let leaf = Leaf { entry, table, level, group: F::group(entry, level) };
                if leaf.size() <= work.sizes.largest().unwrap_or(4096) {
                    break;
                }
                let place = Place::new(table, words, level, base, members(slot, leaf.group));
                let place = place.ok_or(Error::Range("an item across tables"))?;
                // Once more round: what took its place may still be too large.
                if leaf.group > 0 {
                    self.split_item(work, &place, &leaf)?
                } else {
                    self.split_leaf(work, &place, &leaf)?
                }
                work.items += 1;
            }
        }
        Ok(())
    }

    /// An item of several entries into smaller ones of the same level, in place.
    fn split_item<M: TableMem>(&self, work: &mut Work<'_, M>, place: &Place<'_>, leaf: &Leaf) -> Result<(), Error> {
        let level = leaf.level;
        let wanted = PageSizes(sizes_at(work.sizes, level)).largest().unwrap_or(1 << shift(level));
        if !self.config.page_sizes.has(wanted) {
            return Err(Error::Unsupported("a page of the size between"));
        }
        let log2 = wanted.trailing_zeros() - shift(level);
        let base = F::target(leaf.entry).0 & !(leaf.size() - 1);
        let attributes = F::attributes(leaf.entry);
        self.rewrite(work, place, |n| {
            let phys = Phys(base + ((n >> log2 << log2) << shift(level)));
            F::member(level, phys, log2, n & ((1 << log2) - 1), attributes)
        })?;
        Ok(())
    }

    /// Gives every entry of `place` the value `new` says (by its number), and all of them the joined state of what was
    /// there.
    fn rewrite<M: TableMem>(
        &self,
        work: &mut Work<'_, M>,
        place: &Place<'_>,
        new: impl Fn(u64) -> u64,
    ) -> Result<(), Error> {
        let mut state = State::default();
        match work.how {
            Swap::Direct => {
                for (n, word) in place.words().iter().enumerate() {
                    let take = |old| Some(self.with(new(n as u64), self.state(old)));
                    if let Ok(old) = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) {
                        state = state.join(self.state(old));
                    }
                }
                // A translation cached from one entry let the device write behind all of them.
                for word in place.words() {
                    let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| Some(self.with(old, state)));
                }
            }
            Swap::BreakFirst => {
                state = self.take_down(work, place, false)?;
                for (n, word) in place.words().iter().enumerate() {
                    word.store(self.with(new(n as u64), state), Ordering::Release);
                }
            }
        }
        place.publish(work.mem, self.config.coherent);
        work.gather.add(place.range, false);
        Ok(())
    }

    /// A leaf of one entry into a table.
    fn split_leaf<M: TableMem>(&self, work: &mut Work<'_, M>, place: &Place<'_>, leaf: &Leaf) -> Result<(), Error> {
        let below = leaf.level.checked_sub(1).ok_or(Error::Unsupported("a page below 4 KiB"))?;
        let wanted = PageSizes(sizes_at(work.sizes, below)).largest().unwrap_or(1 << shift(below));
        if !self.config.page_sizes.has(wanted) {
            return Err(Error::Unsupported("a page of the size between"));
        }
        let log2 = wanted.trailing_zeros() - shift(below);
        let page = work.mem.alloc()?;
        let parts = match words(work.mem, page) {
            Ok(parts) => parts,
            Err(error) => {
                work.mem.release(page);
                return Err(error);
            }
        };
        let base = F::target(leaf.entry).0 & !(leaf.size() - 1);
        let attributes = F::attributes(leaf.entry);
        let fill = |state: State| {
            for (n, word) in parts.iter().enumerate() {
                let n = n as u64;
                let phys = Phys(base + ((n >> log2 << log2) << shift(below)));
                let part = F::member(below, phys, log2, n & ((1 << log2) - 1), attributes);
                word.store(self.with(part, state), Ordering::Release);
            }
            if !self.config.coherent {
                work.mem.publish(page, 4096);
            }
        };
        let word = &place.words[place.slots.start];
        let table = self.table_entry(leaf.level, page);
        match work.how {
            Swap::Direct => {
                // The parts have the state before the table is reachable, so that no report can come in between.
                let mut old = word.load(Ordering::Acquire);
                loop {
                    fill(self.state(old));
                    match word.compare_exchange(old, table, Ordering::AcqRel, Ordering::Acquire) {
                        Ok(_) => break,
                        Err(now) => old = now,
                    }
                }
            }
            Swap::BreakFirst => match self.take_down(work, place, false) {
                Ok(state) => {
                    fill(state);
                    word.store(table, Ordering::Release);
                }
                Err(error) => {
                    work.mem.release(page);
                    return Err(error);
                }
            },
        }
        place.publish(work.mem, self.config.coherent);
        work.gather.add(place.range, false);
        work.gather.tables_changed();
        Ok(())
    }

    fn promote_below<M: TableMem>(
        &self,
        work: &mut Work<'_, M>,
        table: Phys,
        level: u8,
        base: u64,
    ) -> Result<(), Error> {
        let words = words(work.mem, table)?;
        let own = 1u64 << shift(level);
        for (slot, at) in slots(base, level, work.range) {
            let entry = words[slot].load(Ordering::Acquire);
            if level == 0 || !F::present(entry) || F::is_leaf(entry, level) {
                continue;
            }
            let next = F::target(entry);
            self.promote_below(work, next, level - 1, at)?;
            let Some(place) = Place::new(table, words, level, base, slot..slot + 1) else { continue };
            if !work.sizes.has(own) || !work.range.contains(&place.range) {
                continue;
            }
            let Some(parts) = work.mem.words(next) else { continue };
            if let Some((phys, attributes)) = self.uniform(parts, 0..WORDS, level - 1) {
                self.fold(work, &place, next, parts, F::leaf(level, phys, attributes))?;
                work.items += 1;
            }
        }
        let mut larger = sizes_at(work.sizes, level) & !own;
        while larger != 0 {
            let size = 1u64 << (63 - larger.leading_zeros());
            larger ^= size;
            let log2 = size.trailing_zeros() - shift(level);
            for first in (0..WORDS).step_by(1 << log2) {
                let Some(place) = Place::new(table, words, level, base, members(first, log2)) else { break };
                if place.range.first() > work.range.last() {
                    break;
                }
                let entry = words[first].load(Ordering::Acquire);
                if !work.range.contains(&place.range) || F::group(entry, level) >= log2 {
                    continue;
                }
                if let Some((phys, attributes)) = self.uniform(words, place.slots.clone(), level) {
                    self.rewrite(work, &place, |n| F::member(level, phys, log2, n, attributes))?;
                    work.items += 1;
                }
            }
        }
        Ok(())
    }

    /// Are all of `slots` leaves that lead to neighbours, with the same attributes? Then where to (aligned), and which.
    fn uniform(&self, words: &Words, slots: Range<usize>, level: u8) -> Option<(Phys, u64)> {
        let all = (slots.len() as u64) << shift(level);
        let mut found: Option<(u64, u64)> = None;
        for slot in slots {
            let entry = words[slot].load(Ordering::Acquire);
            if !F::present(entry) || !F::is_leaf(entry, level) {
                return None;
            }
            let group = F::group(entry, level);
            let base = F::target(entry).0 & !((1u64 << (shift(level) + group)) - 1);
            let phys = base + (((slot & ((1 << group) - 1)) as u64) << shift(level));
            let attributes = F::attributes(entry);
            match found {
                None if phys & (all - 1) == 0 => {}
                Some((next, same)) if same == attributes && phys == next => {}
                _ => return None,
            }
            found = Some((phys + (1 << shift(level)), attributes));
        }
        found.map(|(end, attributes)| (Phys(end - all), attributes))
    }

    /// A table of uniform leaves into the one `leaf` that says the same.
    fn fold<M: TableMem>(
        &self,
        work: &mut Work<'_, M>,
        place: &Place<'_>,
        table: Phys,
        parts: &Words,
        leaf: u64,
    ) -> Result<(), Error> {
        let word = &place.words[place.slots.start];
        match work.how {
            Swap::Direct => {
                let old = word.swap(self.with(leaf, self.joined(parts)), Ordering::AcqRel);
                place.publish(work.mem, self.config.coherent);
                let mut gather = Gather::none();
                gather.add(place.range, false);
                gather.tables_changed();
                if let Err(error) = (work.flush)(gather) {
                    // Back to the table, which hardware may still be in, with what the leaf has seen.
                    let state = self.state(word.swap(old, Ordering::AcqRel));
                    self.join_into(work.mem, table, parts, state);
                    place.publish(work.mem, self.config.coherent);
                    return Err(error);
                }
                // Nobody walks the table any more: what it has now is all it will ever have.
                let state = self.joined(parts);
                let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |leaf| Some(self.with(leaf, state)));
            }
            Swap::BreakFirst => {
                self.take_down(work, place, true)?;
                word.store(self.with(leaf, self.joined(parts)), Ordering::Release);
            }
        }
        place.publish(work.mem, self.config.coherent);
        work.gather.add(place.range, false);
        work.mem.release(table);
        Ok(())
    }

    /// Makes `place` not-present and flushes it: the break. Returns the state of the leaves that were there. If the flush
    /// fails, all is as it was.
    fn take_down<M: TableMem>(&self, work: &mut Work<'_, M>, place: &Place<'_>, tables: bool) -> Result<State, Error> {
        // An item has at most half of the entries of a table.
        let mut saved = [0u64; WORDS / 2];
        let mut state = State::default();
        for (word, saved) in place.words().iter().zip(&mut saved) {
            *saved = word.swap(0, Ordering::AcqRel);
            state = state.join(self.state(*saved));
        }
        place.publish(work.mem, self.config.coherent);
        let mut gather = Gather::none();
        gather.add(place.range, true);
        if tables {
            gather.tables_changed();
        }
        let flushed = (work.flush)(gather);
        for (word, saved) in place.words().iter().zip(saved) {
            // A plain store of A and D may have brought the entry back (quirk `qemu-ad-store`): a write like any other.
            let late = self.state(word.swap(0, Ordering::AcqRel));
            state = state.join(late);
            if flushed.is_err() {
                word.store(self.with(saved, late), Ordering::Release);
            }
        }
        if flushed.is_err() {
            place.publish(work.mem, self.config.coherent);
        }
        flushed.map(|()| if tables { State::default() } else { state })
    }

    /// A and D of a leaf.
    fn state(&self, entry: u64) -> State {
        if !F::present(entry) {
            return State::default();
        }
        State { bits: entry & (F::ACCESSED | F::DIRTY), dirty: self.is_dirty(entry) }
    }

    /// `entry` with `state` added.
    fn with(&self, entry: u64, state: State) -> u64 {
        let entry = entry | state.bits;
        if state.dirty { self.dirtied(entry) } else { entry }
    }

    fn joined(&self, parts: &Words) -> State {
        parts.iter().fold(State::default(), |state, word| state.join(self.state(word.load(Ordering::Acquire))))
    }

    fn join_into<M: TableMem>(&self, mem: &M, table: Phys, parts: &Words, state: State) {
        for word in parts {
            let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |part| Some(self.with(part, state)));
        }
        if !self.config.coherent {
            mem.publish(table, 4096);
        }
    }
}

impl State {
    fn join(self, other: Self) -> Self {
        Self { bits: self.bits | other.bits, dirty: self.dirty || other.dirty }
    }
}
