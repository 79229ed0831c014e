//! mremap.

use crate::pages::Entry;
use crate::space::{Inner, MAX_MAPPINGS, page_range, round_up, user_range};
use crate::vma::Kind;
use crate::{AddressSpace, Errno, MMAP_MIN, NoMemory, PAGE};
use uapi::linux::mman::*;

impl AddressSpace {
    /// mremap(2). A range that spans several mappings is refused, as on Linux.
    ///
    /// # Errors
    /// `EINVAL` bad flags or alignment, or overlap; `EFAULT` if the old range is not mapped, or device memory would grow;
    /// `ENOMEM` no room.
    pub fn remap(&self, old: u64, old_length: u64, new_length: u64, flags: u64, target: u64) -> Result<u64, Errno> {
        let known = MREMAP_MAYMOVE | MREMAP_FIXED;
        if flags & !known != 0 || flags & MREMAP_FIXED != 0 && flags & MREMAP_MAYMOVE == 0 {
            return Err(Errno::EINVAL);
        }
        if !old.is_multiple_of(PAGE) || new_length == 0 || old_length == 0 {
            return Err(Errno::EINVAL);
        }
        let (start, end) = user_range(old, old_length).ok_or(Errno::EINVAL)?;
        let new_length = round_up(new_length).ok_or(Errno::ENOMEM)?;
        let length = end - start;
        let mut dropped = alloc::vec::Vec::new();
        let mut inner = self.lock();
        let (_, vma) = inner.vma(start).ok_or(Errno::EFAULT)?;
        if vma.end < end {
            return Err(Errno::EFAULT);
        }
        // What lies behind a device's window belongs to somebody else.
        if matches!(vma.kind, Kind::Device { .. }) && new_length > length {
            return Err(Errno::EFAULT);
        }
        let grows_in_place = vma.end == end;
        if inner.vmas.len() + 3 > MAX_MAPPINGS {
            return Err(Errno::ENOMEM);
        }
        if flags & MREMAP_FIXED == 0 {
            if new_length <= length {
                if new_length < length {
                    dropped = inner.cut(&*self.frames, start + new_length, end);
                }
                drop(inner);
                drop(dropped);
                return Ok(start);
            }
            let wanted = user_range(start, new_length);
            if let Some((_, new_end)) = wanted.filter(|(_, new_end)| grows_in_place && inner.vacant(end, *new_end)) {
                inner.split_at(start);
                if let Some(vma) = inner.vmas.get_mut(&start) {
                    vma.end = new_end;
                    // The new part counts as written; so the whole mapping has to.
                    vma.soft = true;
                }
                inner.merge(start, new_end);
                return Ok(start);
            }
            if flags & MREMAP_MAYMOVE == 0 {
                return Err(Errno::ENOMEM);
            }
        }
        let to = if flags & MREMAP_FIXED != 0 {
            let (to, to_end) = user_range(target, new_length).filter(|(to, _)| *to >= MMAP_MIN).ok_or(Errno::EINVAL)?;
            if to < end && start < to_end {
                return Err(Errno::EINVAL);
            }
            to
        } else {
            inner.find(0, new_length, 0x7fff_f000_0000).ok_or(Errno::ENOMEM)?
        };
        let moved = length.min(new_length);
        inner.reserve_moved(start, to, moved)?;
        if flags & MREMAP_FIXED != 0 {
            dropped = inner.cut(&*self.frames, to, to + new_length);
            // Cutting prunes empty leaves, those just reserved among them.
            inner.reserve_moved(start, to, moved)?;
        }
        inner.split_at(start);
        inner.split_at(end);
        let Some(mut vma) = inner.vmas.remove(&start) else { return Err(Errno::EFAULT) };
        let prot = vma.prot;
        if matches!(vma.kind, Kind::Device { .. }) {
            // Its entries are in the CPU's table only.
            (start..end).step_by(PAGE as usize).for_each(|va| inner.tables.clear(va));
        }
        vma.end = to + new_length;
        vma.soft = true;
        vma.floor = None;
        inner.vmas.insert(to, vma);
        inner.move_pages(start, to, moved, prot);
        // What is left of the old range: the part a shorter new length cuts off.
        inner.drop_pages(&*self.frames, start, end, Entry(0));
        inner.pages.prune(page_range(start, end));
        inner.merge(to, to + new_length);
        drop(inner);
        drop(dropped);
        Ok(to)
    }
}

/// Most entries moved at once: bounds the memory a move takes.
const BATCH: usize = 128;

impl Inner {
    /// Makes room at `to` for the pages that are there in `from..from + length`, and only for those: a large mapping may
    /// be nearly empty.
    fn reserve_moved(&mut self, from: u64, to: u64, length: u64) -> Result<(), NoMemory> {
        let (mut at, last) = (from / PAGE, (from + length) / PAGE - 1);
        while let Some(page) = self.pages.first(at..=last) {
            let target = page - from / PAGE + to / PAGE;
            if let Err(error) = self.pages.reserve(target..=target) {
                self.pages.prune(page_range(to, to + length));
                return Err(error);
            }
            at = page + 1;
        }
        Ok(())
    }
    /// Moves the pages of `from..from + length` to `to`, where leaves were reserved.
    fn move_pages(&mut self, from: u64, to: u64, length: u64, prot: crate::Prot) {
        let (mut at, last) = (from / PAGE, (from + length) / PAGE - 1);
        let mut batch = [(0, Entry(0)); BATCH];
        while let Some(first) = self.pages.first(at..=last) {
            let stop = last.min(first + BATCH as u64 - 1);
            let mut count = 0;
            let Self { tables, pages, .. } = self;
            pages.each(first..=stop, |page, entry| {
                if entry.present() {
                    tables.clear(page * PAGE);
                    batch[count] = (page - from / PAGE + to / PAGE, entry.with(Entry::SOFT));
                    count += 1;
                }
                *entry = Entry(0);
            });
            for (page, entry) in &batch[..count] {
                self.pages.update(*page, *entry);
                let _ = Self::install(&mut *self.tables, *page, prot, *entry);
            }
            at = stop + 1;
        }
        self.tables.flush();
    }
}
