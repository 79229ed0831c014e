//! Domains of an address space: each holds every area.

use crate::Ioas;
use crate::areas::Area;
use crate::pages::{Runs, Slice};
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu_api::Domain;
use iommu_types::{Access, Blame, Iova, IovaRange};
use uapi::Errno;

/// Names a domain (and its aperture's reservations) in one address space; the object model uses object ids.
pub type DomainKey = u64;

pub(crate) struct Member {
    pub key: DomainKey,
    pub domain: Arc<dyn Domain>,
    /// Smallest leaf in bytes.
    pub smallest: u64,
}

/// Unmaps `range` and flushes. After a failure frames behind it must not be reused.
fn clean(domain: &dyn Domain, range: IovaRange) -> Result<(), Errno> {
    let result = domain.unmap(range).and_then(|(_, gather)| domain.sync(gather));
    result.map_err(|error| {
        log::error!("ioas: unmap of {range:?}: {error}");
        error.into()
    })
}

/// Pins a slice and maps it at `at`. On failure nothing of it is mapped or held.
pub(crate) fn fill(
    domain: &dyn Domain,
    runs: &mut Runs,
    at: u64,
    slice: &Slice,
    access: Access,
    max_leaf: Option<u64>,
) -> Result<(), Errno> {
    let info = domain.info();
    let max_leaf = max_leaf.or(info.page_sizes.largest()).unwrap_or(4096);
    let (mut held, mut mapped) = (0, 0u64);
    // A map that failed half-way undid its part, but the flush behind that failed.
    let mut unflushed = false;
    let result = slice.hold(runs, &mut held, &mut |offset, batch| {
        let to = Iova(at.wrapping_add(offset));
        let gather = domain.map(to, batch, access, max_leaf).map_err(|error| {
            log::warn!("ioas: map at {to:?}: {error}");
            unflushed |= error.blame() == Blame::Hardware;
            Errno::from(error)
        })?;
        mapped = offset + batch.iter().map(|run| run.length).sum::<u64>();
        // Hardware may have cached that nothing was there.
        if !gather.is_none() {
            domain.sync(gather).map_err(|error| {
                log::error!("ioas: flush after map at {to:?}: {error}");
                Errno::from(error)
            })?;
        }
        Ok(())
    });
    if result.is_err() {
        let clean = IovaRange::sized(at, mapped).is_none_or(|range| clean(domain, range).is_ok());
        if clean && !unflushed {
            slice.give_back(held);
        } else {
            slice.quarantine();
        }
    }
    result
}

/// Unmaps a slice from `at`, flushes, and gives its pins back; if the flush fails they are kept for ever.
pub(crate) fn drain(domain: &dyn Domain, at: u64, slice: &Slice) -> Result<(), Errno> {
    let range = IovaRange::sized(at, slice.length).ok_or(Errno::EOVERFLOW)?;
    let result = clean(domain, range);
    if result.is_ok() {
        slice.give_back(slice.chunks());
    } else {
        slice.quarantine();
    }
    result
}

/// Fills every area, or none.
fn fill_areas(domain: &dyn Domain, areas: &[Area], max_leaf: Option<u64>) -> Result<(), Errno> {
    if areas.is_empty() {
        return Ok(());
    }
    let mut runs = Runs::new()?;
    for (index, area) in areas.iter().enumerate() {
        let filled = fill(domain, &mut runs, area.range.first(), &area.slice, area.access, max_leaf);
        if let Err(errno) = filled {
            for earlier in areas.iter().take(index) {
                // Logged, and its frames kept; the caller hears about the first failure.
                let _ = drain(domain, earlier.range.first(), &earlier.slice);
            }
            return Err(errno);
        }
    }
    Ok(())
}

impl Ioas {
    /// Fills `domain` with everything that is mapped, and with what will be. Addresses outside its aperture become
    /// reserved.
    ///
    /// # Errors
    /// `EINVAL` if its smallest leaf is larger than 4 KiB; `EADDRINUSE` if a mapping (or a promised range) is misaligned for
    /// it or outside its aperture; failures of [`map`](Self::map). Nothing changed then.
    pub fn attach_domain(&self, key: DomainKey, domain: Arc<dyn Domain>) -> Result<(), Errno> {
        let _inside = self.gate.alone()?;
        let info = domain.info();
        let smallest = info.page_sizes.smallest().filter(|size| *size <= 4096).ok_or(Errno::EINVAL)?;
        let before = info.aperture.first().checked_sub(1).and_then(|last| IovaRange::new(0, last));
        let after = info.aperture.last().checked_add(1).and_then(|first| IovaRange::new(first, u64::MAX));
        let (areas, max_leaf) = {
            let mut state = self.state();
            let alignment = state.alignment.max(smallest);
            state.check_alignment(alignment)?;
            for outside in before.iter().chain(&after) {
                state.check_free(outside)?;
            }
            let mut areas = Vec::new();
            areas.try_reserve_exact(state.areas.len()).map_err(|_| Errno::ENOMEM)?;
            areas.extend(state.areas.iter().cloned());
            state.domains.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            // From here on nobody is promised what the domain cannot map.
            state.reserved.reserve(2)?;
            for outside in before.iter().chain(&after) {
                state.reserved.add(*outside, key);
            }
            (areas, (!state.huge).then_some(4096))
        };
        let filled = fill_areas(&*domain, &areas, max_leaf);
        let mut state = self.state();
        if filled.is_err() {
            state.reserved.remove(key);
            return filled;
        }
        state.alignment = state.alignment.max(smallest);
        state.domains.push(Member { key, domain, smallest });
        Ok(())
    }

    /// Empties a domain and forgets it. Cannot fail; if hardware does not flush, the frames are never reused. Waits for
    /// calls that are inside.
    pub fn detach_domain(&self, key: DomainKey) {
        let _inside = self.gate.wait_alone();
        let member = {
            let mut state = self.state();
            let Some(at) = state.domains.iter().position(|member| member.key == key) else { return };
            let member = state.domains.remove(at);
            state.reserved.remove(key);
            state.alignment = state.wanted_alignment(state.huge);
            member
        };
        let flushed = clean(&*member.domain, member.domain.info().aperture).is_ok();
        // Alone inside: no area comes or goes, so positions are stable while the lock is not held.
        let mut index = 0;
        loop {
            let Some(slice) = self.state().areas.get(index).map(|area| area.slice.clone()) else { break };
            if flushed {
                slice.give_back(slice.chunks());
            } else {
                slice.quarantine();
            }
            index += 1;
        }
    }
}
