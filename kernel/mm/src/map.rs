//! mmap, munmap, mprotect, madvise, brk.

use crate::pages::Entry;
use crate::shmem::Shmem;
use crate::space::{Inner, MAX_MAPPINGS, page_range, round_up, user_range};
use crate::vma::{Kind, Prot, Vma};
use crate::{AddressSpace, Errno, MMAP_MIN, PAGE, USER_END};
use alloc::sync::Arc;
use uapi::linux::mman::*;
use vfs::{Mapping, OpenFile};

/// What a new mapping shows.
pub enum Backing {
    /// Zeroes.
    Anonymous,
    /// A file from `offset` on; `mapping` is what [`vfs::File::mmap`] gave.
    File {
        /// The open file.
        file: Arc<OpenFile>,
        /// Bytes, a multiple of a page.
        offset: u64,
        /// Its answer.
        mapping: Mapping,
    },
}

/// A request to mmap(2), as the program made it.
pub struct MapRequest {
    /// Hint, or the place with `MAP_FIXED`.
    pub address: u64,
    /// Bytes.
    pub length: u64,
    /// Rights.
    pub prot: Prot,
    /// `MAP_*`.
    pub flags: u64,
    /// Contents.
    pub backing: Backing,
}

/// Mappings are placed below this, downwards: it leaves room for the stack.
const TOP: u64 = 0x7fff_f000_0000;
/// Ceiling for MAP_32BIT.
const TOP_32BIT: u64 = 0x8000_0000;

impl AddressSpace {
    /// Maps; returns the address.
    ///
    /// # Errors
    /// `EINVAL` bad length, alignment or flags; `ENOMEM` no room; `EEXIST` for MAP_FIXED_NOREPLACE; `EACCES` write
    /// rights on a shared mapping of a file not open for writing; `EPERM` below the lowest address.
    pub fn map(&self, request: MapRequest) -> Result<u64, Errno> {
        let MapRequest { address, length, prot, flags, backing } = request;
        if length == 0 {
            return Err(Errno::EINVAL);
        }
        let length = round_up(length).filter(|length| *length <= USER_END).ok_or(Errno::ENOMEM)?;
        let shared = match flags & MAP_TYPE {
            MAP_SHARED | MAP_SHARED_VALIDATE => true,
            MAP_PRIVATE => false,
            _ => return Err(Errno::EINVAL),
        };
        let mut may_write = true;
        let kind = match backing {
            Backing::Anonymous if shared => {
                let pages = Shmem::new(self.frames.clone(), length);
                Kind::Shared { pages, file: None, offset: 0 }
            }
            Backing::Anonymous => Kind::Anonymous,
            Backing::File { file, offset, mapping } => {
                offset.checked_add(length).filter(|end| i64::try_from(*end).is_ok()).ok_or(Errno::EOVERFLOW)?;
                if !file.readable() {
                    return Err(Errno::EACCES);
                }
                if shared && !file.writable() {
                    may_write = false;
                    if prot.write {
                        return Err(Errno::EACCES);
                    }
                }
                match mapping {
                    Mapping::Pages(pages) if shared => Kind::Shared { pages, file: Some(file), offset },
                    Mapping::Pages(pages) => Kind::PagesCopy { pages, file: Some(file), offset },
                    Mapping::Copy if shared => return Err(Errno::ENODEV),
                    Mapping::Copy => Kind::FileCopy { file, offset },
                    Mapping::Device { .. } if !shared => return Err(Errno::EINVAL),
                    Mapping::Device { base, keep } => Kind::Device { base, file, keep },
                }
            }
        };
        let floor = None;
        let locked = flags & MAP_LOCKED != 0;
        let vma = Vma { end: 0, prot, kind, soft: true, floor, locked, no_fork: false, may_write };
        let (start, gone) = self.place(address, length, flags, vma)?;
        drop(gone);
        if flags & (MAP_POPULATE | MAP_LOCKED) != 0 {
            // As on Linux, populating is a wish: what fails here faults later.
            let mut inner = self.lock();
            let _ = inner.populate_range(&*self.frames, start, start + length, false);
            inner.tables.flush();
        }
        Ok(start)
    }
    fn place(&self, address: u64, length: u64, flags: u64, vma: Vma) -> Result<(u64, alloc::vec::Vec<Vma>), Errno> {
        let mut inner = self.lock();
        if inner.dead || inner.vmas.len() >= MAX_MAPPINGS {
            return Err(Errno::ENOMEM);
        }
        let fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0;
        let start = if fixed {
            if !address.is_multiple_of(PAGE) {
                return Err(Errno::EINVAL);
            }
            let (start, end) = user_range(address, length).ok_or(Errno::ENOMEM)?;
            if start < MMAP_MIN {
                return Err(Errno::EPERM);
            }
            if flags & MAP_FIXED_NOREPLACE != 0 && !inner.vacant(start, end) {
                return Err(Errno::EEXIST);
            }
            start
        } else {
            let top = if flags & MAP_32BIT != 0 { TOP_32BIT } else { TOP };
            inner.find(address, length, top).ok_or(Errno::ENOMEM)?
        };
        let gone = if fixed { inner.cut(&*self.frames, start, start + length) } else { alloc::vec::Vec::new() };
        inner.vmas.insert(start, Vma { end: start + length, ..vma });
        inner.merge(start, start + length);
        Ok((start, gone))
    }
    /// munmap(2).
    ///
    /// # Errors
    /// `EINVAL` for a bad range.
    pub fn unmap(&self, address: u64, length: u64) -> Result<(), Errno> {
        if length == 0 {
            return Err(Errno::EINVAL);
        }
        let (start, end) = user_range(address, length).ok_or(Errno::EINVAL)?;
        let gone = {
            let mut inner = self.lock();
            // A hole in the middle of a mapping makes one more.
            let splits = inner.vma(start).is_some_and(|(low, vma)| low < start && end < vma.end);
            if splits && inner.vmas.len() >= MAX_MAPPINGS {
                return Err(Errno::ENOMEM);
            }
            inner.cut(&*self.frames, start, end)
        };
        drop(gone);
        Ok(())
    }
    /// mprotect(2).
    ///
    /// # Errors
    /// `EINVAL` misaligned; `ENOMEM` if part of the range is not mapped; `EACCES` if the file does not allow it.
    pub fn protect(&self, address: u64, length: u64, prot: Prot) -> Result<(), Errno> {
        if !address.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        if length == 0 {
            return Ok(());
        }
        let (start, end) = user_range(address, length).ok_or(Errno::ENOMEM)?;
        let mut inner = self.lock();
        if !inner.covered(start, end) || inner.vmas.len() + 2 > MAX_MAPPINGS {
            return Err(Errno::ENOMEM);
        }
        inner.split_at(start);
        inner.split_at(end);
        let starts = inner.starts(start, end);
        if prot.write && starts.iter().any(|start| inner.vmas.get(start).is_some_and(|vma| !vma.may_write)) {
            inner.merge(start, end);
            return Err(Errno::EACCES);
        }
        for start in starts {
            let Inner { vmas, tables, pages, .. } = &mut *inner;
            let Some(vma) = vmas.get_mut(&start) else { continue };
            if vma.prot == prot {
                continue;
            }
            vma.prot = prot;
            if matches!(vma.kind, Kind::Device { .. }) {
                (start..vma.end).step_by(PAGE as usize).for_each(|va| tables.clear(va));
            }
            pages.look(page_range(start, vma.end), |page, entry| {
                // Losing the entry is harmless: it faults in again with the new rights.
                let _ = Inner::install(&mut **tables, page, prot, entry);
            });
        }
        inner.merge(start, end);
        inner.tables.flush();
        Ok(())
    }
    /// madvise(2).
    ///
    /// # Errors
    /// `EINVAL` misaligned or unknown; `ENOMEM` if part of the range is not mapped; those of populating.
    pub fn advise(&self, address: u64, length: u64, advice: u64) -> Result<(), Errno> {
        if !address.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let (start, end) = user_range(address, length).ok_or(Errno::EINVAL)?;
        if start == end {
            return Ok(());
        }
        let mut inner = self.lock();
        let covered = inner.covered(start, end);
        match advice {
            MADV_DONTNEED => {
                // The page reads as zero (or as its file) from now on: that is a change, and is reported as one.
                inner.drop_pages(&*self.frames, start, end, Entry(Entry::SOFT));
            }
            10 | 11 => {
                if inner.vmas.len() + 2 > MAX_MAPPINGS {
                    return Err(Errno::ENOMEM);
                }
                inner.split_at(start);
                inner.split_at(end);
                for (_, vma) in inner.vmas.range_mut(start..end) {
                    vma.no_fork = advice == MADV_DONTFORK;
                }
                inner.merge(start, end);
            }
            MADV_POPULATE_READ | MADV_POPULATE_WRITE => {
                let result = inner.populate_range(&*self.frames, start, end, advice == MADV_POPULATE_WRITE);
                inner.tables.flush();
                if covered {
                    result?;
                }
            }
            // Hints without an effect that a program could see: NORMAL, RANDOM, SEQUENTIAL, WILLNEED, FREE, MERGEABLE,
            // HUGEPAGE and their opposites, DONTDUMP, COLD, PAGEOUT, COLLAPSE.
            0..=3 | MADV_FREE | 12..=21 | 25 => {}
            _ => return Err(Errno::EINVAL),
        }
        if covered { Ok(()) } else { Err(Errno::ENOMEM) }
    }
    /// mlock(2) and munlock(2): present from now on, and counted in VmLck.
    ///
    /// # Errors
    /// `ENOMEM` if part of the range is not mapped, or there is no memory.
    pub fn set_locked(&self, address: u64, length: u64, locked: bool) -> Result<(), Errno> {
        let base = address & !(PAGE - 1);
        let length = length.checked_add(address - base).ok_or(Errno::EINVAL)?;
        let (start, end) = user_range(base, length).ok_or(Errno::ENOMEM)?;
        if start == end {
            return Ok(());
        }
        let mut inner = self.lock();
        if !inner.covered(start, end) || inner.vmas.len() + 2 > MAX_MAPPINGS {
            return Err(Errno::ENOMEM);
        }
        inner.split_at(start);
        inner.split_at(end);
        for (_, vma) in inner.vmas.range_mut(start..end) {
            vma.locked = locked;
        }
        inner.merge(start, end);
        let result = if locked { inner.populate_range(&*self.frames, start, end, false) } else { Ok(()) };
        inner.tables.flush();
        result.map_err(|_| Errno::ENOMEM)
    }
    /// brk(2): moves the end of the heap to `to` if that can be; returns the end as it is now.
    pub fn brk(&self, to: u64) -> u64 {
        let mut inner = self.lock();
        let (start, end) = inner.brk;
        if to < start || to >= TOP || inner.dead {
            return end;
        }
        let (Some(old), Some(new)) = (round_up(end), round_up(to)) else { return end };
        if new > old {
            // A page stays free above the heap, so that it never touches the next mapping.
            if !inner.vacant(old, new + PAGE) || inner.vmas.len() >= MAX_MAPPINGS {
                return end;
            }
            inner.vmas.insert(old, anonymous(new, Prot::RW));
            inner.merge(old, new);
        } else if new < old {
            drop(inner.cut(&*self.frames, new, old));
        }
        inner.brk.1 = to;
        to
    }
}

/// A private anonymous mapping up to `end`.
pub(crate) fn anonymous(end: u64, prot: Prot) -> Vma {
    Vma { end, prot, kind: Kind::Anonymous, soft: true, floor: None, locked: false, no_fork: false, may_write: true }
}

impl Inner {
    /// A free place of `length` bytes: at the hint if that is free, else the highest below `top`.
    pub fn find(&self, hint: u64, length: u64, top: u64) -> Option<u64> {
        let hint = hint & !(PAGE - 1);
        if hint >= MMAP_MIN
            && let Some((start, end)) = user_range(hint, length)
            && end <= TOP
            && self.vacant(start, end)
        {
            return Some(start);
        }
        let mut limit = top;
        for (start, vma) in self.vmas.range(..top).rev() {
            if vma.end < limit && limit - vma.end >= length {
                break;
            }
            limit = limit.min(*start);
        }
        let start = limit.checked_sub(length).filter(|start| *start >= MMAP_MIN)?;
        self.vacant(start, limit).then_some(start)
    }
}
