//! What /proc tells of an address space: pagemap, clear_refs, maps, counters.

use crate::pages::Entry;
use crate::space::{Inner, page_range};
use crate::vma::Kind;
use crate::{AddressSpace, Errno, PAGE, USER_END};
use alloc::string::String;
use core::fmt::Write;
use core::sync::atomic::Ordering;
use uapi::linux::mman::{PAGEMAP_EXCLUSIVE, PAGEMAP_FILE, PAGEMAP_PRESENT, PAGEMAP_SOFT_DIRTY};

/// Sizes of an address space, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Mapped.
    pub size: u64,
    /// Present.
    pub resident: u64,
    /// Most that ever was.
    pub peak: u64,
    /// Present, of shared objects.
    pub shared: u64,
    /// Pinned for devices (VmPin).
    pub pinned: u64,
    /// Locked or charged (VmLck).
    pub locked: u64,
    /// Private writable.
    pub data: u64,
    /// The stack.
    pub stack: u64,
    /// Faults.
    pub faults: u64,
}

impl AddressSpace {
    /// Sizes now.
    pub fn counters(&self) -> Counters {
        let inner = self.lock();
        let mut counters = Counters {
            resident: inner.resident * PAGE,
            peak: inner.peak * PAGE,
            shared: inner.resident_shared * PAGE,
            pinned: self.pinned.load(Ordering::Relaxed) * PAGE,
            locked: self.charged.load(Ordering::Relaxed),
            faults: self.faults.load(Ordering::Relaxed),
            ..Counters::default()
        };
        for (start, vma) in &inner.vmas {
            let size = vma.end - start;
            counters.size += size;
            counters.locked += if vma.locked { size } else { 0 };
            counters.stack += if vma.floor.is_some() { size } else { 0 };
            counters.data += if vma.prot.write && vma.kind.private() { size } else { 0 };
        }
        counters
    }
    /// Charges `bytes` to VmLck, at most up to `limit` in all.
    ///
    /// # Errors
    /// `ENOMEM` over the limit.
    pub fn charge(&self, bytes: u64, limit: u64) -> Result<(), Errno> {
        let add = |now: u64| now.checked_add(bytes).filter(|sum| *sum <= limit);
        self.charged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map(drop).map_err(|_| Errno::ENOMEM)
    }
    /// Gives a charge back.
    pub fn uncharge(&self, bytes: u64) {
        let take = |now: u64| Some(now.saturating_sub(bytes));
        let _ = self.charged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
    }
    /// Reads /proc/self/pagemap at byte `at`: 8 bytes per page, physical addresses hidden. Returns the bytes written.
    ///
    /// # Errors
    /// `EINVAL` unless both `at` and the length are multiples of 8.
    pub fn pagemap(&self, at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        if !at.is_multiple_of(8) || !to.len().is_multiple_of(8) {
            return Err(Errno::EINVAL);
        }
        let first = at / 8;
        let pages = (USER_END / PAGE).saturating_sub(first).min(to.len() as u64 / 8);
        if pages == 0 {
            return Ok(0);
        }
        let to = &mut to[..pages as usize * 8];
        to.fill(0);
        let last = first + pages - 1;
        let inner = self.lock();
        let mut or = |page: u64, bits: u64| {
            let at = (page - first) as usize * 8;
            for (byte, bit) in to[at..at + 8].iter_mut().zip(bits.to_le_bytes()) {
                *byte |= bit;
            }
        };
        let from = inner.vma(first * PAGE).map_or(first * PAGE, |(start, _)| start);
        for (start, vma) in inner.vmas.range(from..(last + 1) * PAGE) {
            let (low, high) = ((start / PAGE).max(first), (vma.end / PAGE - 1).min(last));
            if vma.soft && low <= high {
                (low..=high).for_each(|page| or(page, PAGEMAP_SOFT_DIRTY));
            }
        }
        inner.pages.look(first..=last, |page, entry| {
            let mut bits = if entry.has(Entry::SOFT) { PAGEMAP_SOFT_DIRTY } else { 0 };
            if entry.present() {
                bits |= PAGEMAP_PRESENT;
                if entry.has(Entry::SHARED) {
                    bits |= PAGEMAP_FILE;
                } else if !entry.has(Entry::COW) {
                    bits |= PAGEMAP_EXCLUSIVE;
                }
            }
            or(page, bits);
        });
        Ok(to.len())
    }
    /// Writing "4" to /proc/self/clear_refs: from now on only new writes count.
    ///
    /// When this returns, every CPU has lost its right to write: a write after it faults and is seen.
    pub fn clear_soft_dirty(&self) {
        let mut inner = self.lock();
        let Inner { vmas, pages, tables, .. } = &mut *inner;
        for (&start, vma) in vmas.iter_mut() {
            vma.soft = false;
            let prot = vma.prot;
            pages.each(page_range(start, vma.end), |page, entry| {
                if !entry.present() {
                    *entry = Entry(0);
                } else if entry.has(Entry::SOFT) {
                    let writable = prot.write && !entry.has(Entry::COW);
                    *entry = entry.without(Entry::SOFT);
                    if writable {
                        let _ = Inner::install(&mut **tables, page, prot, *entry);
                    }
                }
            });
        }
        inner.tables.flush();
    }
    /// Text of /proc/self/maps.
    pub fn maps(&self) -> String {
        let mut text = String::new();
        let inner = self.lock();
        for (start, vma) in &inner.vmas {
            let right = |yes, letter| if yes { letter } else { '-' };
            let shared = !vma.kind.private();
            let (inode, offset, name) = match vma.kind.file() {
                Some((file, offset)) => {
                    let name = file.place.as_ref().map(|place| place.path()).unwrap_or_default();
                    (file.file.stat().ino, offset, String::from_utf8_lossy(&name).into_owned())
                }
                None if vma.floor.is_some() => (0, 0, String::from("[stack]")),
                None if matches!(vma.kind, Kind::Anonymous) && *start < inner.brk.1 && vma.end > inner.brk.0 => {
                    (0, 0, String::from("[heap]"))
                }
                None => (0, 0, String::new()),
            };
            let line = alloc::format!(
                "{start:08x}-{:08x} {}{}{}{} {offset:08x} 00:01 {inode}",
                vma.end,
                right(vma.prot.read, 'r'),
                right(vma.prot.write, 'w'),
                right(vma.prot.exec, 'x'),
                if shared { 's' } else { 'p' },
            );
            if name.is_empty() {
                let _ = writeln!(text, "{line}");
            } else {
                let _ = writeln!(text, "{line:<72} {name}");
            }
        }
        text
    }
    /// Is every byte of `start..end` mapped?
    pub fn is_mapped(&self, start: u64, end: u64) -> bool {
        self.lock().covered(start, end)
    }
    /// Start and end of the heap, and top of the stack, in bytes.
    pub fn layout(&self) -> (u64, u64, u64) {
        let inner = self.lock();
        (inner.brk.0, inner.brk.1, inner.stack)
    }
}
