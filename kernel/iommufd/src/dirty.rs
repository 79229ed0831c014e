//! Reports of what devices wrote.
//!
//! A report is made window by window: bits are collected in a kernel buffer (no user memory is touched under a table's
//! lock), flushed, and ored into the program's bitmap. Bit n is the page at `iova + n * page_size`. Nothing past the asked
//! range is ever set. When a window cannot be delivered, what was cleared for it and before it is marked dirty again.
//!
//! While tracking is off nobody knows what was written, so everything mapped is reported (Linux gives what bits it finds).
//!
//! A leaf that lies only partly in the asked range is looked at, not cleared: its other part was not asked for.

use crate::Caller;
use crate::context::Context;
use crate::hwpt::Hwpt;
use crate::ioas_ops::asked;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bitvec::prelude::{BitSlice, Lsb0};
use core::sync::atomic::Ordering;
use iommu_api::{Domain, ReadDirty};
use iommu_types::{Iova, IovaRange};
use uapi::extension::IoasUnmapDirty;
use uapi::iommufd::{GET_DIRTY_NO_CLEAR, HwptGetDirtyBitmap};
use uapi::{Errno, Request, UserMem};

/// Bits of one window: 256 MiB of 4 KiB pages, one flush.
const WINDOW: u64 = 65536;
/// The most bits a window grows by so that it does not cut a leaf (1 GiB of 4 KiB pages).
const GROWTH: u64 = 262_144;

/// Where the bits go.
struct Bitmap<'a> {
    caller: &'a dyn Caller,
    /// Address of bit 0.
    data: u64,
    /// Iova of bit 0.
    base: u64,
    /// Bytes one bit of the program stands for; a power of two.
    page: u64,
    /// Bytes one bit of a window stands for: `page`, or the smallest leaf if that is larger.
    unit: u64,
}

impl<'a> Bitmap<'a> {
    fn new(caller: &'a dyn Caller, data: u64, base: u64, page: u64, domain: &dyn Domain) -> Self {
        let granule = domain.info().page_sizes.smallest().unwrap_or(4096);
        Self { caller, data, base, page, unit: page.max(granule) }
    }
    /// Window bit of an iova.
    fn index(&self, iova: u64) -> u64 {
        (iova - self.base) / self.unit
    }
    /// Last iova of a window bit.
    fn last(&self, index: u64) -> u64 {
        let past = u128::from(self.base) + (u128::from(index) + 1) * u128::from(self.unit);
        u64::try_from(past - 1).unwrap_or(u64::MAX)
    }
    /// Sets the bits of `run` in a window whose first bit is `first`.
    fn set(&self, first: u64, window: &mut [u8], run: IovaRange) {
        let (low, high) = (self.index(run.first()) - first, self.index(run.last()) - first);
        let bits = BitSlice::<u8, Lsb0>::from_slice_mut(window);
        if let Some(part) = bits.get_mut(low as usize..=high as usize) {
            part.fill(true);
        }
    }
    /// Ors a window, whose first bit is `first` (a multiple of 8), into the program's bitmap.
    fn deliver(&self, first: u64, bits: &BitSlice<u8, Lsb0>, bytes: &[u8]) -> Result<(), Errno> {
        if self.unit == self.page {
            let Some(low) = bytes.iter().position(|byte| *byte != 0) else { return Ok(()) };
            let high = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(low);
            let at = self.data.checked_add(first / 8 + low as u64).ok_or(Errno::EFAULT)?;
            return self.caller.or_bits(at, bytes.get(low..=high).unwrap_or_default());
        }
        let each = self.unit / self.page;
        for run in runs(bits) {
            self.fill((first + run.0) * each, (first + run.1 + 1) * each)?;
        }
        Ok(())
    }
    /// Sets the program's bits `from..to`.
    fn fill(&self, mut from: u64, to: u64) -> Result<(), Errno> {
        let ones = [0xff; 256];
        while from < to {
            let at = self.data.checked_add(from / 8).ok_or(Errno::EFAULT)?;
            let inside = from % 8;
            if inside != 0 || to - from < 8 {
                let count = (8 - inside).min(to - from);
                let byte = (((1u16 << count) - 1) << inside) as u8;
                self.caller.or_bits(at, &[byte])?;
                from += count;
            } else {
                let count = ((to - from) / 8).min(ones.len() as u64);
                self.caller.or_bits(at, ones.get(..count as usize).unwrap_or(&ones))?;
                from += count * 8;
            }
        }
        Ok(())
    }
}

/// Runs of ones, as inclusive pairs.
fn runs(bits: &BitSlice<u8, Lsb0>) -> impl Iterator<Item = (u64, u64)> + '_ {
    let mut from = 0;
    core::iter::from_fn(move || {
        let first = from + bits.get(from..)?.first_one()?;
        let length = bits.get(first..)?.first_zero().unwrap_or(bits.len() - first);
        from = first + length;
        Some((first as u64, (from - 1) as u64))
    })
}

/// The leaf that holds `iova` if it is larger than the smallest, as a range.
fn leaf(domain: &dyn Domain, iova: u64) -> Option<IovaRange> {
    let item = domain.translate(Iova(iova)).filter(|item| item.size.is_power_of_two())?;
    IovaRange::sized(iova & !(item.size - 1), item.size)
}

/// The end of a window that would end at `last`, moved so that it cuts no leaf.
fn whole_leaf(domain: &dyn Domain, bitmap: &Bitmap<'_>, first: u64, last: u64, end: u64) -> u64 {
    let Some(next) = last.checked_add(1).filter(|next| *next <= end) else { return last };
    let Some(cut) = leaf(domain, next).filter(|leaf| leaf.first() <= last) else { return last };
    if cut.first() > first {
        return cut.first() - 1;
    }
    // One leaf larger than a window: take it whole.
    cut.last().min(end).min(bitmap.last(bitmap.index(first).saturating_add(GROWTH)))
}

/// Reads the dirty bits of `areas` (ascending, inside `range`) into the bitmap.
///
/// # Errors
/// `EFAULT` from the bitmap, hardware errors, `ENOMEM`: everything that was cleared is dirty again.
fn report(
    hwpt: &Hwpt,
    range: IovaRange,
    areas: &[IovaRange],
    how: ReadDirty,
    bitmap: &Bitmap<'_>,
) -> Result<(), Errno> {
    let domain = &*hwpt.domain;
    let tracking = hwpt.tracking.load(Ordering::Acquire);
    let mut buffer: Vec<u8> = Vec::new();
    let mut rest = areas.iter().copied();
    let mut pending = rest.next();
    while let Some(area) = pending {
        // The window starts with the first area left, on a byte of the bitmap.
        let first_bit = bitmap.index(area.first()) & !7;
        let window_last = bitmap.last(first_bit.saturating_add(WINDOW - 1)).min(range.last());
        buffer.clear();
        buffer.try_reserve_exact((WINDOW / 8) as usize).map_err(|_| Errno::ENOMEM)?;
        buffer.resize((WINDOW / 8) as usize, 0);
        let mut result = Ok(());
        while let Some(area) = pending.filter(|area| area.first() <= window_last) {
            let mut last = area.last();
            if last > window_last {
                last = whole_leaf(domain, bitmap, area.first(), window_last, area.last());
            }
            let part = IovaRange::new(area.first(), last).ok_or(Errno::EINVAL)?;
            let bytes = (bitmap.index(last) - first_bit + 8) / 8;
            if bytes > buffer.len() as u64 {
                result = buffer.try_reserve(bytes as usize - buffer.len()).map_err(|_| Errno::ENOMEM);
                if result.is_err() {
                    break;
                }
                buffer.resize(bytes as usize, 0);
            }
            result = if tracking {
                collect(domain, part, how, bitmap, first_bit, &mut buffer)
            } else {
                bitmap.set(first_bit, &mut buffer, part);
                Ok(())
            };
            if result.is_err() {
                break;
            }
            pending = match last.checked_add(1).and_then(|next| IovaRange::new(next, area.last())) {
                Some(tail) => Some(tail),
                None => rest.next(),
            };
            if last > window_last || last < area.last() {
                break;
            }
        }
        let bits = BitSlice::<u8, Lsb0>::from_slice(&buffer);
        let result = result.and_then(|()| bitmap.deliver(first_bit, bits, &buffer));
        if let Err(errno) = result {
            if how == ReadDirty::Clear {
                for (low, high) in runs(bits) {
                    let first = bitmap.last(first_bit + low) - (bitmap.unit - 1);
                    let again = IovaRange::new(first, bitmap.last(first_bit + high));
                    if let Some(again) = again.and_then(|again| again.intersect(&range)) {
                        domain.mark_dirty(again);
                    }
                }
                // Windows before this one are in the bitmap of a call that fails, where nobody may look. Their bits are not
                // kept here, so everything there comes again: twice is allowed, never is not.
                for earlier in areas.iter().take_while(|earlier| earlier.first() < area.first()) {
                    let last = earlier.last().min(area.first() - 1);
                    if let Some(again) = IovaRange::new(earlier.first(), last) {
                        domain.mark_dirty(again);
                    }
                }
            }
            return Err(errno);
        }
    }
    Ok(())
}

/// Reads one part into a window. Leaves cut by its ends are looked at only.
fn collect(
    domain: &dyn Domain,
    part: IovaRange,
    how: ReadDirty,
    bitmap: &Bitmap<'_>,
    first_bit: u64,
    buffer: &mut [u8],
) -> Result<(), Errno> {
    let mut middle = Some(part);
    let mut ends = [None; 2];
    if how == ReadDirty::Clear {
        if let Some(head) = leaf(domain, part.first()).filter(|leaf| leaf.first() < part.first()) {
            ends[0] = head.intersect(&part);
            middle = head.last().checked_add(1).and_then(|next| IovaRange::new(next, part.last()));
        }
        let cut = |rest: &IovaRange| leaf(domain, rest.last()).filter(|leaf| leaf.last() > rest.last());
        if let Some((rest, tail)) = middle.and_then(|rest| Some((rest, cut(&rest)?))) {
            ends[1] = tail.intersect(&rest);
            middle = tail.first().checked_sub(1).and_then(|last| IovaRange::new(rest.first(), last));
        }
    }
    let parts = [(ends[0], ReadDirty::Keep), (middle, how), (ends[1], ReadDirty::Keep)];
    for (range, how) in parts {
        let Some(range) = range else { continue };
        read(domain, range, how, bitmap, first_bit, buffer)?;
    }
    Ok(())
}

/// Reads one range, and flushes if something was cleared.
fn read(
    domain: &dyn Domain,
    range: IovaRange,
    how: ReadDirty,
    bitmap: &Bitmap<'_>,
    first_bit: u64,
    buffer: &mut [u8],
) -> Result<(), Errno> {
    let granule = domain.info().page_sizes.smallest().unwrap_or(4096);
    let mut sink = |run: IovaRange| {
        if let Some(run) = run.intersect(&range) {
            bitmap.set(first_bit, buffer, run);
        }
        Ok(())
    };
    let gather = domain.read_dirty(range, granule, how, &mut sink).map_err(|error| {
        log::error!("iommufd: dirty report of {range:?}: {error}");
        Errno::from(error)
    })?;
    if gather.is_none() {
        return Ok(());
    }
    domain.sync(gather).map_err(|error| {
        log::error!("iommufd: flush after the dirty report of {range:?}: {error}");
        error.into()
    })
}

impl Context {
    /// HWPT_GET_DIRTY_BITMAP, and its strict form.
    ///
    /// The standard form answers 0 over holes and for an unwritable bitmap, as Linux does; but it goes on behind a hole,
    /// and what it could not deliver stays dirty for the next report. Hardware errors are reported by both.
    pub(crate) fn get_dirty_bitmap(
        &self,
        request: &Request<HwptGetDirtyBitmap>,
        strict: bool,
        caller: &dyn Caller,
    ) -> Result<i64, Errno> {
        let body = request.body;
        if body.flags & !GET_DIRTY_NO_CLEAR != 0 || body.reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let hwpt = self.hwpt(body.hwpt_id)?;
        // Length 0 counts as 2^64, so it fits only at 0.
        let last = body.iova.checked_add(body.length.wrapping_sub(1)).ok_or(Errno::EOVERFLOW)?;
        let range = IovaRange::new(body.iova, last).ok_or(Errno::EOVERFLOW)?;
        let end = u128::from(last) + 1;
        let alignment = u128::from(hwpt.ioas.alignment());
        if !u128::from(body.iova).is_multiple_of(alignment) || !end.is_multiple_of(alignment) || body.page_size == 0 {
            return Err(Errno::EINVAL);
        }
        if !body.iova.is_multiple_of(body.page_size) || !end.is_multiple_of(body.page_size.into()) {
            return Err(Errno::EINVAL);
        }
        if strict && !body.page_size.is_power_of_two() {
            return Err(Errno::EINVAL);
        }
        if !hwpt.tracks() {
            return Err(Errno::EOPNOTSUPP);
        }
        if strict && !hwpt.tracking.load(Ordering::Acquire) {
            return Err(Errno::EINVAL);
        }
        let how = if body.flags & GET_DIRTY_NO_CLEAR != 0 { ReadDirty::Keep } else { ReadDirty::Clear };
        let page = 1 << body.page_size.trailing_zeros();
        let _inside = hwpt.ioas.share()?;
        let areas = hwpt.ioas.mapped(range)?;
        if strict && !covers(&areas, &range) {
            return Err(Errno::ENOENT);
        }
        let bitmap = Bitmap::new(caller, body.data, body.iova, page, &*hwpt.domain);
        match report(&hwpt, range, &areas, how, &bitmap) {
            Err(Errno::EFAULT) if !strict => {
                log::warn!("iommufd: dirty bitmap at {:#x} cannot be written; the rest stays dirty", body.data);
                Ok(0)
            }
            other => other.map(|()| 0),
        }
    }

    /// IOAS_UNMAP_DIRTY.
    pub(crate) fn unmap_dirty(&self, mut request: Request<IoasUnmapDirty>, caller: &dyn Caller) -> Result<i64, Errno> {
        let body = request.body;
        if body.flags != 0 || body.reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let hwpt = self.hwpt(body.hwpt_id)?;
        let hwpt: &Arc<Hwpt> = &hwpt;
        let range = asked(body.iova, body.length)?;
        let smallest = hwpt.domain.info().page_sizes.smallest().unwrap_or(4096);
        if !body.page_size.is_power_of_two() || body.page_size < smallest || !body.iova.is_multiple_of(body.page_size) {
            return Err(Errno::EINVAL);
        }
        if !hwpt.tracks() {
            return Err(Errno::EOPNOTSUPP);
        }
        let bitmap = Bitmap::new(caller, body.data, body.iova, body.page_size, &*hwpt.domain);
        let removed =
            hwpt.ioas.unmap_with(range, &mut |_, area| report(hwpt, area, &[area], ReadDirty::Keep, &bitmap))?;
        request.body.length = removed;
        request.reply(caller as &dyn UserMem)?;
        Ok(0)
    }
}

/// Do `areas` (ascending, disjoint, clipped to `range`) leave no hole?
fn covers(areas: &[IovaRange], range: &IovaRange) -> bool {
    let mut next = Some(range.first());
    for area in areas {
        if next != Some(area.first()) {
            return false;
        }
        next = area.last().checked_add(1);
    }
    areas.last().is_some_and(|area| area.last() == range.last())
}
