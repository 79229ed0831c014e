//! Which iova can be used, and where automatic placement puts a mapping.

use crate::areas::Areas;
use alloc::vec::Vec;
use iommu_types::IovaRange;
use uapi::Errno;

/// Automatic placement aligns to at most this, so that large leaves fit (2 MiB).
const LARGE: u64 = 2 << 20;
const PAGE: u64 = 4096;

/// Ranges that cannot be mapped, with the object that says so.
#[derive(Debug, Default)]
pub(crate) struct ReservedSet(Vec<(IovaRange, u64)>);

impl ReservedSet {
    pub const fn new() -> Self {
        Self(Vec::new())
    }
    pub fn overlapping(&self, range: &IovaRange) -> Option<IovaRange> {
        self.0.iter().map(|(reserved, _)| *reserved).find(|reserved| reserved.overlaps(range))
    }
    /// Room for `more` ranges.
    pub fn reserve(&mut self, more: usize) -> Result<(), Errno> {
        self.0.try_reserve(more).map_err(|_| Errno::ENOMEM)
    }
    /// Adds a range, in ascending order of the first address. Room was made.
    pub fn add(&mut self, range: IovaRange, owner: u64) {
        let at = self.0.partition_point(|(reserved, _)| reserved.first() <= range.first());
        self.0.insert(at, (range, owner));
    }
    pub fn remove(&mut self, owner: u64) {
        self.0.retain(|(_, by)| *by != owner);
    }
    /// Hands the holes to `f`, ascending, until it returns `false`.
    pub fn holes(&self, f: &mut dyn FnMut(IovaRange) -> bool) {
        let mut next = Some(0u64);
        for (reserved, _) in &self.0 {
            let Some(from) = next else { return };
            if let Some(before) = reserved.first().checked_sub(1)
                && let Some(hole) = IovaRange::new(from, before)
                && !f(hole)
            {
                return;
            }
            if reserved.last() >= from {
                next = reserved.last().checked_add(1);
            }
        }
        if let Some(hole) = next.and_then(|from| IovaRange::new(from, u64::MAX)) {
            f(hole);
        }
    }
}

/// First place for `length` bytes inside `room`: aligned, with the page offset of `address`.
fn place_in(room: IovaRange, length: u64, alignment: u64, page_offset: u64) -> Option<u64> {
    let start = room.first().checked_add(alignment - 1)? & !(alignment - 1) | page_offset;
    if start < room.first() || start > room.last() {
        return None;
    }
    (room.last() - start >= length - 1).then_some(start)
}

/// Automatic placement: the lowest address that fits, never 0.
///
/// * `length`: bytes, more than zero.
/// * `address`: of the memory; its low bits are kept so that large leaves fit.
/// * `minimum`: the address space's alignment.
///
/// # Errors
/// `EOVERFLOW` for half the space and more; `EINVAL` if the memory's own alignment is below `minimum`; `ENOSPC`.
pub(crate) fn place(
    areas: &Areas,
    reserved: &ReservedSet,
    allowed: &[IovaRange],
    length: u64,
    address: u64,
    minimum: u64,
) -> Result<u64, Errno> {
    if length == 0 || length >= u64::MAX / 2 {
        return Err(Errno::EOVERFLOW);
    }
    let mut alignment = length.next_power_of_two();
    if address != 0 {
        alignment = alignment.min(1 << address.trailing_zeros());
    }
    alignment = alignment.min(LARGE);
    if alignment < minimum {
        return Err(Errno::EINVAL);
    }
    let everything = [IovaRange::new(PAGE, u64::MAX - PAGE).unwrap_or(IovaRange::ALL)];
    let page_offset = address & (PAGE - 1);
    for within in if allowed.is_empty() { &everything[..] } else { allowed } {
        let mut found = None;
        reserved.holes(&mut |hole| {
            found = hole.intersect(within).and_then(|room| gap(areas, room, length, alignment, page_offset));
            found.is_none()
        });
        if let Some(at) = found {
            return Ok(at);
        }
    }
    Err(Errno::ENOSPC)
}

/// First place between the areas of `room`.
fn gap(areas: &Areas, room: IovaRange, length: u64, alignment: u64, page_offset: u64) -> Option<u64> {
    let mut from = room.first();
    let mut index = areas.first_from(from);
    loop {
        let area = areas.get(index).filter(|area| area.range.first() <= room.last());
        let last = match area {
            Some(area) => area.range.first().checked_sub(1),
            None => Some(room.last()),
        };
        let free = last.and_then(|last| IovaRange::new(from, last));
        if let Some(at) = free.and_then(|free| place_in(free, length, alignment, page_offset))
            && at != 0
        {
            return Some(at);
        }
        from = area?.range.last().checked_add(1)?;
        index += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, last: u64) -> IovaRange {
        IovaRange::new(first, last).unwrap()
    }

    fn holes(set: &ReservedSet) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        set.holes(&mut |hole| {
            all.push((hole.first(), hole.last()));
            true
        });
        all
    }

    #[test]
    fn holes_of_overlapping_and_touching_reservations() {
        let mut set = ReservedSet::default();
        assert_eq!(holes(&set), [(0, u64::MAX)]);
        set.add(range(0xfee0_0000, 0xfeef_ffff), 1);
        set.add(range(0, 0xfff), 2);
        set.add(range(0xfee8_0000, 0xfee8_0fff), 3); // inside another
        set.add(range(0x1000, 0x1fff), 3);
        set.add(range(1 << 39, u64::MAX), 4);
        assert_eq!(holes(&set), [(0x2000, 0xfedf_ffff), (0xfef0_0000, (1 << 39) - 1)]);
        set.remove(1);
        set.remove(4);
        assert_eq!(holes(&set), [(0x2000, 0xfee7_ffff), (0xfee8_1000, u64::MAX)]);
        set.remove(2);
        set.remove(3);
        set.add(range(0, u64::MAX), 9);
        assert_eq!(holes(&set), []);
    }

    #[test]
    fn alignment_near_the_top_does_not_wrap() {
        assert_eq!(place_in(range(u64::MAX - 0xfff, u64::MAX), 0x1000, 1 << 21, 0), None);
        assert_eq!(place_in(range(u64::MAX - 0xfff, u64::MAX), 0x1000, 1 << 12, 0), Some(u64::MAX - 0xfff));
        assert_eq!(place_in(range(u64::MAX - 0xffe, u64::MAX), 1, 1 << 12, 0), None);
    }
}
