//! Map, copy, unmap, and the rules about which iova can be used.

use crate::areas::{Area, Areas};
use crate::domains::{Member, drain, fill};
use crate::gate::{Gate, Shared};
use crate::pages::{Pages, Runs, Slice};
use crate::space::{self, ReservedSet};
use crate::{Account, PageSource};
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu_api::Domain;
use iommu_types::{Access, IovaRange};
use spin::{Mutex, MutexGuard};
use uapi::Errno;

/// Where a mapping goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Exactly there.
    Fixed(u64),
    /// Where there is room.
    Anywhere,
}

/// Looks at an area of these domains before it is removed.
pub type Look<'a> = &'a mut dyn FnMut(&[Arc<dyn Domain>], IovaRange) -> Result<(), Errno>;

/// First address, domains to fill, and the largest leaf if it is limited.
type Entered = (u64, Vec<Arc<dyn Domain>>, Option<u64>);

pub(crate) struct State {
    pub areas: Areas,
    pub reserved: ReservedSet,
    /// Ascending and disjoint; empty for no list.
    pub allowed: Vec<IovaRange>,
    pub domains: Vec<Member>,
    /// Of iova and length, in bytes; a power of two.
    pub alignment: u64,
    pub huge: bool,
}

impl State {
    /// The alignment that the domains and the option ask for.
    pub fn wanted_alignment(&self, huge: bool) -> u64 {
        let floor = if huge { 1 } else { 4096 };
        self.domains.iter().map(|member| member.smallest).fold(floor, u64::max)
    }
    /// Refuses an alignment that an area does not have.
    pub fn check_alignment(&self, alignment: u64) -> Result<(), Errno> {
        if self.areas.iter().all(|area| area.aligned(alignment)) { Ok(()) } else { Err(Errno::EADDRINUSE) }
    }
    /// Refuses a reservation where something is mapped or promised.
    pub fn check_free(&self, range: &IovaRange) -> Result<(), Errno> {
        if self.areas.overlapping(range).is_some() || self.allowed.iter().any(|allowed| allowed.overlaps(range)) {
            return Err(Errno::EADDRINUSE);
        }
        Ok(())
    }
    /// The domains, to work on outside of the lock.
    pub fn members(&self) -> Result<Vec<Arc<dyn Domain>>, Errno> {
        let mut all = Vec::new();
        all.try_reserve_exact(self.domains.len()).map_err(|_| Errno::ENOMEM)?;
        all.extend(self.domains.iter().map(|member| member.domain.clone()));
        Ok(all)
    }
}

/// One I/O address space.
pub struct Ioas {
    state: Mutex<State>,
    pub(crate) gate: Gate,
}

impl Default for Ioas {
    fn default() -> Self {
        Self::new()
    }
}

impl Ioas {
    /// Nothing mapped, nothing reserved, alignment 1, large leaves allowed.
    pub const fn new() -> Self {
        let state = State {
            areas: Areas::new(),
            reserved: ReservedSet::new(),
            allowed: Vec::new(),
            domains: Vec::new(),
            alignment: 1,
            huge: true,
        };
        Self { state: Mutex::new(state), gate: Gate::new() }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Keeps the set of domains as it is while a caller works on it (a dirty report).
    ///
    /// # Errors
    /// [`Errno::ERESTART`] while the set is changing.
    pub fn share(&self) -> Result<Shared<'_>, Errno> {
        self.gate.share()
    }

    /// Alignment of iova and length, in bytes; a power of two.
    pub fn alignment(&self) -> u64 {
        self.state().alignment
    }

    /// Maps `length` bytes at `address` of `source` and returns where.
    ///
    /// # Errors
    /// `EOVERFLOW` a range wraps; `EINVAL` length 0, misaligned, reserved; `EEXIST` something is mapped there; `ENOSPC` no
    /// room; `EFAULT`, `ENOMEM` from pinning; what a domain returned. Nothing is mapped then.
    pub fn map(
        &self,
        source: Arc<dyn PageSource>,
        account: Arc<dyn Account>,
        address: u64,
        length: u64,
        place: Place,
        access: Access,
    ) -> Result<u64, Errno> {
        let pages = Pages::new(source, account, address, length, access.contains(Access::WRITE))?;
        self.map_slices(&[Slice { pages, offset: 0, length }], place, access)
    }

    /// Maps slices one after the other; `access` must not exceed theirs. Returns where the first is.
    ///
    /// # Errors
    /// As [`map`](Self::map), and `EPERM` for write access to pages that were mapped read-only.
    pub fn map_slices(&self, slices: &[Slice], place: Place, access: Access) -> Result<u64, Errno> {
        let _inside = self.gate.share()?;
        let mut runs = None;
        let (first, domains, max_leaf) = self.enter(slices, place, access)?;
        let mut at = first;
        for (index, slice) in slices.iter().enumerate() {
            let filled = fill_all(&domains, &mut runs, at, slice, access, max_leaf);
            if let Err(errno) = filled {
                self.undo(first, slices, index, &domains);
                return Err(errno);
            }
            at = at.wrapping_add(slice.length);
        }
        let mut state = self.state();
        let mut at = first;
        for slice in slices {
            if let Some(area) = state.areas.at_mut(at) {
                area.busy = false;
            }
            at = at.wrapping_add(slice.length);
        }
        Ok(first)
    }

    /// Finds the place and enters busy areas there.
    fn enter(&self, slices: &[Slice], place: Place, access: Access) -> Result<Entered, Errno> {
        let length =
            slices.iter().try_fold(0u64, |sum, slice| sum.checked_add(slice.length)).ok_or(Errno::EOVERFLOW)?;
        let head = slices.first().filter(|_| length > 0).ok_or(Errno::EINVAL)?;
        let mut state = self.state();
        let state = &mut *state;
        if length & (state.alignment - 1) != 0 {
            return Err(Errno::EINVAL);
        }
        let first = match place {
            Place::Fixed(first) => {
                if first & (state.alignment - 1) != 0 {
                    return Err(Errno::EINVAL);
                }
                let range = IovaRange::sized(first, length).ok_or(Errno::EOVERFLOW)?;
                if state.reserved.overlapping(&range).is_some() {
                    return Err(Errno::EINVAL);
                }
                if state.areas.overlapping(&range).is_some() {
                    return Err(Errno::EEXIST);
                }
                first
            }
            Place::Anywhere => {
                let address = head.pages.address(head.offset);
                space::place(&state.areas, &state.reserved, &state.allowed, length, address, state.alignment)?
            }
        };
        let domains = state.members()?;
        let mut at = first;
        for (index, slice) in slices.iter().enumerate() {
            let offset = slice.pages.address(slice.offset) & 4095;
            let entered = if access.contains(Access::WRITE) && !slice.pages.writable() {
                Err(Errno::EPERM)
            } else if offset & (state.alignment - 1) != 0 {
                Err(Errno::EINVAL)
            } else {
                let range = IovaRange::sized(at, slice.length).ok_or(Errno::EOVERFLOW);
                range.and_then(|range| state.areas.insert(Area { range, slice: slice.clone(), access, busy: true }))
            };
            if let Err(errno) = entered {
                let mut at = first;
                for slice in slices.iter().take(index) {
                    state.areas.remove(at);
                    at = at.wrapping_add(slice.length);
                }
                return Err(errno);
            }
            at = at.wrapping_add(slice.length);
        }
        Ok((first, domains, (!state.huge).then_some(4096)))
    }

    /// Takes out the first `filled` slices from the domains, and all areas from the tree.
    fn undo(&self, first: u64, slices: &[Slice], filled: usize, domains: &[Arc<dyn Domain>]) {
        let mut at = first;
        for slice in slices.iter().take(filled) {
            for domain in domains {
                // A failed flush was logged and its frames kept; the caller hears about the first failure.
                let _ = drain(&**domain, at, slice);
            }
            at = at.wrapping_add(slice.length);
        }
        let mut state = self.state();
        let mut at = first;
        for slice in slices {
            state.areas.remove(at);
            at = at.wrapping_add(slice.length);
        }
    }

    /// What is mapped in `range`, for a copy: it must be covered without holes.
    ///
    /// # Errors
    /// `ENOENT` for a hole or an area that is being created or removed; `ENOMEM`.
    pub fn slices(&self, range: IovaRange) -> Result<Vec<Slice>, Errno> {
        let state = self.state();
        let mut all = Vec::new();
        let mut next = range.first();
        let mut index = state.areas.first_from(next);
        loop {
            let area =
                state.areas.get(index).filter(|area| !area.busy && area.range.holds(next)).ok_or(Errno::ENOENT)?;
            let last = area.range.last().min(range.last());
            all.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            all.push(Slice {
                pages: area.slice.pages.clone(),
                offset: area.slice.offset + (next - area.range.first()),
                length: last - next + 1,
            });
            if last == range.last() {
                return Ok(all);
            }
            next = last + 1;
            index += 1;
        }
    }

    /// Removes every area inside `range` and returns how many bytes were. Areas removed before a failure stay removed.
    ///
    /// # Errors
    /// `ENOENT` if nothing is there or an area is only partly covered; `EBUSY` for an area that is being created or
    /// removed; `EIO` and others if hardware did not flush: the area is gone, its frames are never reused.
    pub fn unmap(&self, range: IovaRange) -> Result<u64, Errno> {
        self.unmap_with(range, &mut |_, _| Ok(()))
    }

    /// As [`unmap`](Self::unmap), with a look at each area before it goes. `look` gets the domains and the range.
    ///
    /// # Errors
    /// As [`unmap`](Self::unmap), and what `look` returned: the area stays.
    pub fn unmap_with(&self, range: IovaRange, look: Look<'_>) -> Result<u64, Errno> {
        let _inside = self.gate.share()?;
        let domains = self.state().members()?;
        let mut removed = 0u64;
        let mut from = range.first();
        loop {
            let area = {
                let mut state = self.state();
                let index = state.areas.first_from(from);
                let Some(area) = state.areas.get(index).filter(|area| area.range.overlaps(&range)) else { break };
                if area.busy {
                    return Err(Errno::EBUSY);
                }
                if !range.contains(&area.range) {
                    return Err(Errno::ENOENT);
                }
                let first = area.range.first();
                let Some(area) = state.areas.at_mut(first) else { break };
                area.busy = true;
                area.clone()
            };
            let first = area.range.first();
            if let Err(errno) = look(&domains, area.range) {
                if let Some(area) = self.state().areas.at_mut(first) {
                    area.busy = false;
                }
                return Err(errno);
            }
            let mut result = Ok(());
            for domain in &domains {
                result = result.and(drain(&**domain, first, &area.slice));
            }
            self.state().areas.remove(first);
            result?;
            removed = removed.saturating_add(area.range.len());
            match area.range.last().checked_add(1) {
                Some(next) if next <= range.last() => from = next,
                _ => break,
            }
        }
        if removed == 0 { Err(Errno::ENOENT) } else { Ok(removed) }
    }

    /// Removes everything and returns how many bytes were; nothing mapped is no error.
    ///
    /// # Errors
    /// As [`unmap`](Self::unmap).
    pub fn unmap_all(&self) -> Result<u64, Errno> {
        match self.unmap(IovaRange::ALL) {
            Err(Errno::ENOENT) => Ok(0),
            other => other,
        }
    }

    /// Replaces the list of ranges for automatic placement.
    ///
    /// # Errors
    /// `EINVAL` if two overlap; `EADDRINUSE` if one is reserved; the old list stays.
    pub fn allow(&self, mut ranges: Vec<IovaRange>) -> Result<(), Errno> {
        ranges.sort_unstable();
        if ranges.iter().zip(ranges.iter().skip(1)).any(|(low, high)| low.overlaps(high)) {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state();
        if ranges.iter().any(|range| state.reserved.overlapping(range).is_some()) {
            return Err(Errno::EADDRINUSE);
        }
        core::mem::swap(&mut state.allowed, &mut ranges);
        Ok(())
    }

    /// Ranges that can be mapped, ascending: everything but the reservations.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn usable(&self) -> Result<Vec<IovaRange>, Errno> {
        let state = self.state();
        let mut all = Vec::new();
        let mut full = false;
        state.reserved.holes(&mut |hole| {
            full = all.try_reserve(1).is_err();
            if !full {
                all.push(hole);
            }
            !full
        });
        if full { Err(Errno::ENOMEM) } else { Ok(all) }
    }

    /// Reserves `ranges` for `owner`, all or none.
    ///
    /// # Errors
    /// `EADDRINUSE` if something is mapped or allowed there; `ENOMEM`.
    pub fn reserve(&self, owner: u64, ranges: &[IovaRange]) -> Result<(), Errno> {
        let mut state = self.state();
        for range in ranges {
            state.check_free(range)?;
        }
        state.reserved.reserve(ranges.len())?;
        for range in ranges {
            state.reserved.add(*range, owner);
        }
        Ok(())
    }

    /// Takes back every reservation of `owner`.
    pub fn unreserve(&self, owner: u64) {
        self.state().reserved.remove(owner);
    }

    /// Are large leaves allowed (default)?
    pub fn huge(&self) -> bool {
        self.state().huge
    }

    /// Allows large leaves, or only the smallest.
    ///
    /// # Errors
    /// Only for `false`: `EINVAL` if domains hold mappings already; `EADDRINUSE` if a mapping is not page aligned.
    pub fn set_huge(&self, huge: bool) -> Result<(), Errno> {
        let _inside = self.gate.alone()?;
        let mut state = self.state();
        let alignment = state.wanted_alignment(huge);
        if !huge && state.huge {
            if !state.domains.is_empty() && !state.areas.is_empty() {
                return Err(Errno::EINVAL);
            }
            state.check_alignment(alignment)?;
        }
        state.huge = huge;
        state.alignment = alignment;
        Ok(())
    }

    /// What is mapped in `range`, clipped to it, ascending, neighbours not merged. Areas being created or removed are
    /// left out.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn mapped(&self, range: IovaRange) -> Result<Vec<IovaRange>, Errno> {
        let state = self.state();
        let mut all = Vec::new();
        let mut index = state.areas.first_from(range.first());
        while let Some(area) = state.areas.get(index).filter(|area| area.range.overlaps(&range)) {
            if let Some(part) = area.range.intersect(&range).filter(|_| !area.busy) {
                all.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                all.push(part);
            }
            index += 1;
        }
        Ok(all)
    }

    /// Areas and domains, for people and tests.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.areas.len(), state.domains.len())
    }
}

/// Fills one slice into every domain, or into none.
fn fill_all(
    domains: &[Arc<dyn Domain>],
    runs: &mut Option<Runs>,
    at: u64,
    slice: &Slice,
    access: Access,
    max_leaf: Option<u64>,
) -> Result<(), Errno> {
    if domains.is_empty() {
        return Ok(());
    }
    let runs = match runs {
        Some(runs) => runs,
        None => runs.insert(Runs::new()?),
    };
    for (index, domain) in domains.iter().enumerate() {
        if let Err(errno) = fill(&**domain, runs, at, slice, access, max_leaf) {
            for earlier in domains.iter().take(index) {
                // A failed flush was logged and its frames kept; the caller hears about the first failure.
                let _ = drain(&**earlier, at, slice);
            }
            return Err(errno);
        }
    }
    Ok(())
}
