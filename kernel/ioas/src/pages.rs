//! Memory behind mappings: pinned once, charged once, shared by every mapping that was copied from the first.
//!
//! A [`Pages`] is a linear range of one source. It is pinned in chunks of 2 MiB of source address, so that books are kept
//! per chunk and giving pins back never allocates; a chunk is pinned while at least one (mapping, domain) holds it. Without
//! a domain nothing is pinned.

use crate::{Account, PageSource};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use iommu_types::{Phys, PhysRun};
use spin::Mutex;
use uapi::Errno;

/// Size of a page of a source, in bytes.
pub(crate) const PAGE: u64 = 4096;
const CHUNK_SHIFT: u32 = 21;

static QUARANTINED: AtomicU64 = AtomicU64::new(0);

/// Bytes of pinned memory never given back, because a flush failed and a device may still reach them.
pub fn quarantined_bytes() -> u64 {
    QUARANTINED.load(Ordering::Relaxed)
}

/// Runs to map in one call, neighbours merged.
#[derive(Debug, Default)]
pub(crate) struct Runs(Vec<PhysRun>);

impl Runs {
    /// The most runs of one call: 16 KiB of heap.
    const LIMIT: usize = 1024;

    pub(crate) fn new() -> Result<Self, Errno> {
        let mut runs = Vec::new();
        runs.try_reserve_exact(Self::LIMIT).map_err(|_| Errno::ENOMEM)?;
        Ok(Self(runs))
    }
    pub(crate) fn as_slice(&self) -> &[PhysRun] {
        &self.0
    }
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
    /// `false` if there is no room.
    fn push(&mut self, run: PhysRun) -> bool {
        if let Some(last) = self.0.last_mut()
            && last.base.0.checked_add(last.length) == Some(run.base.0)
            && let Some(length) = last.length.checked_add(run.length)
        {
            last.length = length;
            return true;
        }
        if self.0.len() == Self::LIMIT {
            return false;
        }
        self.0.push(run);
        true
    }
}

/// Takes a batch of runs and where it is in its slice.
pub(crate) type UseRuns<'a> = &'a mut dyn FnMut(u64, &[PhysRun]) -> Result<(), Errno>;

struct Chunk {
    index: u64,
    holders: u32,
    bytes: u64,
    runs: Vec<PhysRun>,
}

/// A linear range of one source.
pub struct Pages {
    source: Arc<dyn PageSource>,
    account: Arc<dyn Account>,
    start: u64,
    /// Last byte, included.
    last: u64,
    writable: bool,
    chunks: Mutex<Vec<Chunk>>,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pages {:#x}..={:#x}", self.start, self.last)
    }
}

impl Pages {
    /// `length` bytes at `start` of `source`; pinned for writing if `writable`. Nothing is pinned yet.
    ///
    /// # Errors
    /// `EOVERFLOW` if the range wraps; `EINVAL` for length 0 or within a page of 2^64.
    pub fn new(
        source: Arc<dyn PageSource>,
        account: Arc<dyn Account>,
        start: u64,
        length: u64,
        writable: bool,
    ) -> Result<Arc<Self>, Errno> {
        let end = start.checked_add(length).ok_or(Errno::EOVERFLOW)?;
        if length == 0 || length > u64::MAX - PAGE {
            return Err(Errno::EINVAL);
        }
        Ok(Arc::new(Self { source, account, start, last: end - 1, writable, chunks: Mutex::new(Vec::new()) }))
    }

    /// May devices write?
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// Source address of the byte at `offset`.
    pub fn address(&self, offset: u64) -> u64 {
        self.start.wrapping_add(offset)
    }

    /// Bytes pinned now.
    pub fn pinned_bytes(&self) -> u64 {
        self.chunks.lock().iter().map(|chunk| chunk.bytes).sum()
    }

    /// First and last byte of the pages in a chunk.
    fn bounds(&self, index: u64) -> (u64, u64) {
        let first = (index << CHUNK_SHIFT).max(self.start & !(PAGE - 1));
        let last = (index << CHUNK_SHIFT | ((1 << CHUNK_SHIFT) - 1)).min(self.last | (PAGE - 1));
        (first, last)
    }

    /// Pins a chunk, or counts one more holder of it.
    fn hold(&self, index: u64) -> Result<(), Errno> {
        if let Some(chunk) = self.chunks.lock().iter_mut().find(|chunk| chunk.index == index) {
            chunk.holders = chunk.holders.checked_add(1).ok_or(Errno::ENOMEM)?;
            return Ok(());
        }
        let (first, last) = self.bounds(index);
        let bytes = last - first + 1;
        let mut runs = Vec::new();
        self.source.pin(first, bytes, self.writable, &mut runs)?;
        if runs.iter().try_fold(0u64, |sum, run| sum.checked_add(run.length)) != Some(bytes) {
            log::error!("ioas: a page source gave another length than {bytes:#x} bytes at {first:#x}");
            self.source.unpin(&runs);
            return Err(Errno::EFAULT);
        }
        if let Err(errno) = self.account.charge(bytes) {
            self.source.unpin(&runs);
            return Err(errno);
        }
        let surplus = {
            let mut chunks = self.chunks.lock();
            let at = chunks.partition_point(|chunk| chunk.index < index);
            if let Some(chunk) = chunks.get_mut(at).filter(|chunk| chunk.index == index) {
                // Another CPU pinned it meanwhile: its frames are the chunk's.
                match chunk.holders.checked_add(1) {
                    Some(holders) => {
                        chunk.holders = holders;
                        Some((runs, Ok(())))
                    }
                    None => Some((runs, Err(Errno::ENOMEM))),
                }
            } else if chunks.try_reserve(1).is_err() {
                Some((runs, Err(Errno::ENOMEM)))
            } else {
                chunks.insert(at, Chunk { index, holders: 1, bytes, runs });
                None
            }
        };
        match surplus {
            Some((runs, result)) => {
                self.source.unpin(&runs);
                self.account.uncharge(bytes);
                result
            }
            None => Ok(()),
        }
    }

    /// Counts one holder less; the last one gives the pins back.
    fn give_back(&self, index: u64) {
        let gone = {
            let mut chunks = self.chunks.lock();
            let at = chunks.partition_point(|chunk| chunk.index < index);
            let Some(chunk) = chunks.get_mut(at).filter(|chunk| chunk.index == index) else { return };
            chunk.holders -= 1;
            (chunk.holders == 0).then(|| chunks.remove(at))
        };
        if let Some(chunk) = gone {
            self.source.unpin(&chunk.runs);
            self.account.uncharge(chunk.bytes);
        }
    }

    /// Appends the runs of source bytes `from..=to` of one held chunk to `out`. Returns the first byte that had no room.
    fn append(&self, index: u64, from: u64, to: u64, out: &mut Runs) -> Option<u64> {
        let chunks = self.chunks.lock();
        let at = chunks.partition_point(|chunk| chunk.index < index);
        let chunk = chunks.get(at).filter(|chunk| chunk.index == index)?;
        let (mut here, _) = self.bounds(index);
        for run in &chunk.runs {
            let end = here.saturating_add(run.length);
            let (first, past) = (from.max(here), to.saturating_add(1).min(end));
            if first < past {
                let base = Phys(run.base.0 + (first - here));
                if !out.push(PhysRun { base, length: past - first }) {
                    return Some(first);
                }
            }
            here = end;
        }
        None
    }
}

/// A part of a [`Pages`], as one mapping uses it.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Whose.
    pub pages: Arc<Pages>,
    /// First byte in it.
    pub offset: u64,
    /// Bytes; more than zero.
    pub length: u64,
}

impl Slice {
    fn ends(&self) -> (u64, u64) {
        let first = self.pages.address(self.offset);
        (first, first + (self.length - 1))
    }

    /// Pins the slice chunk by chunk and hands its physical runs, batch by batch and in order, to `use_runs` with the
    /// offset of the batch in the slice. `held` counts the chunks pinned: after a failure the caller first undoes what
    /// `use_runs` did and then gives exactly these back.
    ///
    /// # Errors
    /// What a pin or `use_runs` returned.
    pub(crate) fn hold(&self, batch: &mut Runs, held: &mut u64, use_runs: UseRuns<'_>) -> Result<(), Errno> {
        let (first, last) = self.ends();
        let mut batch_start = first;
        batch.clear();
        for index in first >> CHUNK_SHIFT..=last >> CHUNK_SHIFT {
            self.pages.hold(index)?;
            *held += 1;
            let (low, high) = self.pages.bounds(index);
            let (mut from, to) = (low.max(first), high.min(last));
            while let Some(stopped) = self.pages.append(index, from, to, batch) {
                use_runs(batch_start - first, batch.as_slice())?;
                batch.clear();
                (batch_start, from) = (stopped, stopped);
            }
        }
        if !batch.as_slice().is_empty() {
            use_runs(batch_start - first, batch.as_slice())?;
        }
        Ok(())
    }

    /// Gives the first `held` chunks back.
    pub(crate) fn give_back(&self, held: u64) {
        let first = self.ends().0 >> CHUNK_SHIFT;
        for index in first..first.saturating_add(held) {
            self.pages.give_back(index);
        }
    }

    /// Chunks a successful [`hold`](Self::hold) counted.
    pub(crate) fn chunks(&self) -> u64 {
        let (first, last) = self.ends();
        (last >> CHUNK_SHIFT) - (first >> CHUNK_SHIFT) + 1
    }

    /// Keeps what [`hold`](Self::hold) took for ever: a device may still reach it.
    pub(crate) fn quarantine(&self) {
        QUARANTINED.fetch_add(self.length, Ordering::Relaxed);
        log::error!(
            "ioas: {:#x} bytes stay pinned for ever: a flush failed and a device may still reach them",
            self.length
        );
    }
}
