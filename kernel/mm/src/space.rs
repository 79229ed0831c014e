//! Address spaces: the state, and how ranges are cut out of it.

use crate::pages::{Entry, PageMap};
use crate::vma::{Kind, Vma};
use crate::{Errno, Frames, NewTables, NoMemory, PAGE, PageTables, Pte};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU64, Ordering};
use iommu_types::Phys;
use spin::{Mutex, MutexGuard};

/// First address after the user half.
pub const USER_END: u64 = 0x7fff_ffff_f000;
/// Lowest address that can be mapped (Linux's mmap_min_addr).
pub const MMAP_MIN: u64 = 0x1_0000;
/// Most mappings of one space (Linux: 65530); bounds the kernel memory one program can take.
pub(crate) const MAX_MAPPINGS: usize = 32768;

/// What identifies a futex word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FutexKey {
    /// A word of one address space: its id, the address.
    Private(u64, u64),
    /// A word of a shared object: its id, the offset in bytes.
    Shared(u64, u64),
}

pub(crate) struct Inner {
    pub tables: Box<dyn PageTables>,
    pub vmas: BTreeMap<u64, Vma>,
    pub pages: PageMap,
    /// Start and end of the heap.
    pub brk: (u64, u64),
    /// Present pages.
    pub resident: u64,
    /// Most pages that were ever present.
    pub peak: u64,
    /// Of them, pages of shared objects.
    pub resident_shared: u64,
    /// The program ended: nothing can be mapped or pinned any more.
    pub dead: bool,
    /// Stack's top, for /proc/self/maps and stat.
    pub stack: u64,
    /// One page to read files into.
    pub scratch: Vec<u8>,
}

/// The memory of a process; threads share it.
pub struct AddressSpace {
    pub(crate) frames: Arc<dyn Frames>,
    pub(crate) new_tables: Arc<dyn NewTables>,
    pub(crate) inner: Mutex<Inner>,
    id: u64,
    root: Phys,
    /// Pages pinned through this space.
    pub(crate) pinned: AtomicU64,
    /// Bytes charged to VmLck from outside (pins accounted to the process).
    pub(crate) charged: AtomicU64,
    /// Faults that needed no device.
    pub(crate) faults: AtomicU64,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A new identity for a space or a shared object.
pub(crate) fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// Page numbers of `start..end` (multiples of a page, not empty).
pub(crate) fn page_range(start: u64, end: u64) -> RangeInclusive<u64> {
    start / PAGE..=end / PAGE - 1
}

/// `length` in whole pages; `None` if that passes the address space.
pub(crate) fn round_up(length: u64) -> Option<u64> {
    length.checked_add(PAGE - 1).map(|length| length & !(PAGE - 1))
}

/// The range `start..start + length` in whole pages, inside the user half; `None` if it is not.
pub(crate) fn user_range(start: u64, length: u64) -> Option<(u64, u64)> {
    let end = start.checked_add(round_up(length)?)?;
    (start.is_multiple_of(PAGE) && end <= USER_END).then_some((start, end))
}

impl AddressSpace {
    /// An empty space.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(frames: Arc<dyn Frames>, new_tables: Arc<dyn NewTables>) -> Result<Arc<Self>, Errno> {
        let tables = new_tables.new_tables()?;
        let root = tables.root();
        let mut scratch = Vec::new();
        scratch.try_reserve_exact(PAGE as usize).map_err(|_| Errno::ENOMEM)?;
        scratch.resize(PAGE as usize, 0);
        let inner = Inner {
            tables,
            vmas: BTreeMap::new(),
            pages: PageMap::default(),
            brk: (0, 0),
            resident: 0,
            peak: 0,
            resident_shared: 0,
            dead: false,
            stack: 0,
            scratch,
        };
        Ok(Arc::new(Self {
            frames,
            new_tables,
            inner: Mutex::new(inner),
            id: next_id(),
            root,
            pinned: AtomicU64::new(0),
            charged: AtomicU64::new(0),
            faults: AtomicU64::new(0),
        }))
    }
    /// Root of the CPU's tables.
    pub fn root(&self) -> Phys {
        self.root
    }
    /// A number that no other space has.
    pub fn id(&self) -> u64 {
        self.id
    }
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
    /// Identity of the futex word at `address`; with `private` the program says that no other space waits there.
    ///
    /// # Errors
    /// `EINVAL` if not a multiple of 4; `EFAULT` if nothing is mapped there.
    pub fn futex_key(&self, address: u64, private: bool) -> Result<FutexKey, Errno> {
        if !address.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        if address >= USER_END {
            return Err(Errno::EFAULT);
        }
        if private {
            return Ok(FutexKey::Private(self.id, address));
        }
        let inner = self.lock();
        let (start, vma) = inner.vma(address).ok_or(Errno::EFAULT)?;
        Ok(match &vma.kind {
            Kind::Shared { pages, offset, .. } => FutexKey::Shared(pages.id(), offset + (address - start)),
            _ => FutexKey::Private(self.id, address),
        })
    }
    /// The program ended: every mapping goes. Pins that were taken stay valid; new ones fail with `EFAULT`.
    pub fn destroy(&self) {
        let gone = {
            let mut inner = self.lock();
            inner.dead = true;
            inner.cut(&*self.frames, 0, USER_END)
        };
        // Closing the files behind the mappings may take down devices: not under the lock.
        drop(gone);
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        drop(inner.cut(&*self.frames, 0, USER_END));
    }
}

impl Inner {
    /// The mapping that holds `at`, with its start.
    pub fn vma(&self, at: u64) -> Option<(u64, &Vma)> {
        self.vmas.range(..=at).next_back().map(|(start, vma)| (*start, vma)).filter(|(_, vma)| at < vma.end)
    }
    /// Is nothing mapped in `start..end`?
    pub fn vacant(&self, start: u64, end: u64) -> bool {
        self.vmas.range(..end).next_back().is_none_or(|(_, vma)| vma.end <= start)
    }
    /// Is every byte of `start..end` mapped?
    pub fn covered(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        while at < end {
            match self.vma(at) {
                Some((_, vma)) => at = vma.end,
                None => return false,
            }
        }
        true
    }
    /// Cuts the mapping around `at` in two, so that one begins there.
    pub fn split_at(&mut self, at: u64) {
        let Some((&start, vma)) = self.vmas.range_mut(..at).next_back() else { return };
        if at < vma.end {
            let high = vma.split(start, at);
            self.vmas.insert(at, high);
        }
    }
    /// Starts of the mappings inside `start..end`, which was cut out at both ends.
    pub fn starts(&self, start: u64, end: u64) -> Vec<u64> {
        self.vmas.range(start..end).map(|(start, _)| *start).collect()
    }
    /// Joins neighbours around and inside `start..=end` that are alike.
    pub fn merge(&mut self, start: u64, end: u64) {
        let mut at = self.vmas.range(..start).next_back().map_or(start, |(start, _)| *start);
        loop {
            let mut ahead = self.vmas.range(at..);
            let Some((&low, vma)) = ahead.next() else { return };
            let Some((&high, next)) = ahead.next() else { return };
            if low > end {
                return;
            }
            if vma.end == high && vma.continues(low, next) {
                let end = next.end;
                self.vmas.remove(&high);
                if let Some(vma) = self.vmas.get_mut(&low) {
                    vma.end = end;
                }
                at = low;
            } else {
                at = high;
            }
        }
    }
    /// What the CPU's table has to say about a page.
    pub fn pte(prot: Prot, entry: Entry) -> Option<Pte> {
        (entry.present() && prot.any()).then(|| Pte {
            phys: entry.frame(),
            write: prot.write && entry.has(Entry::SOFT) && !entry.has(Entry::COW),
            exec: prot.exec,
            device: false,
        })
    }
    /// Makes the CPU's table agree with a page; if that takes memory that is not there, the page faults again later.
    pub fn install(tables: &mut dyn PageTables, page: u64, prot: Prot, entry: Entry) -> Result<(), NoMemory> {
        match Self::pte(prot, entry) {
            Some(pte) => tables.set(page * PAGE, pte).inspect_err(|_| tables.clear(page * PAGE)),
            None => {
                tables.clear(page * PAGE);
                Ok(())
            }
        }
    }
    /// Unmaps `start..end`. Returns the mappings that went, to be dropped where no lock is held.
    pub fn cut(&mut self, frames: &dyn Frames, start: u64, end: u64) -> Vec<Vma> {
        self.split_at(start);
        self.split_at(end);
        let starts = self.starts(start, end);
        let gone: Vec<(u64, Vma)> =
            starts.iter().filter_map(|start| Some((*start, self.vmas.remove(start)?))).collect();
        for (start, vma) in &gone {
            if matches!(vma.kind, Kind::Device { .. }) {
                (*start..vma.end).step_by(PAGE as usize).for_each(|va| self.tables.clear(va));
            }
        }
        self.drop_pages(frames, start, end, Entry(0));
        self.pages.prune(page_range(start, end));
        gone.into_iter().map(|(_, vma)| vma).collect()
    }
    /// Releases the frames of `start..end` and leaves `mark` instead of each.
    pub fn drop_pages(&mut self, frames: &dyn Frames, start: u64, end: u64, mark: Entry) {
        let range = page_range(start, end);
        let Self { tables, pages, resident, resident_shared, .. } = self;
        pages.look(range.clone(), |page, entry| {
            if entry.present() {
                tables.clear(page * PAGE);
            }
        });
        // No CPU may reach a frame that is given back.
        tables.flush();
        pages.each(range, |_, entry| {
            if entry.present() {
                *resident -= 1;
                *resident_shared -= u64::from(entry.has(Entry::SHARED));
                frames.release(entry.frame());
                *entry = mark;
            } else if mark == Entry(0) {
                *entry = mark;
            }
        });
    }
    /// Counts a page that became present.
    pub fn count_present(&mut self, entry: Entry) {
        self.resident += 1;
        self.peak = self.peak.max(self.resident);
        self.resident_shared += u64::from(entry.has(Entry::SHARED));
    }
}

use crate::vma::Prot;

impl From<NoMemory> for Errno {
    fn from(_: NoMemory) -> Self {
        Self::ENOMEM
    }
}
