//! Pinning: memory that devices reach.

use crate::pages::Entry;
use crate::shmem::Shmem;
use crate::space::{Inner, user_range};
use crate::vma::Kind;
use crate::{AddressSpace, Errno, Frames, PAGE};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use ioas::PageSource;
use iommu_types::{Phys, PhysRun};
use vfs::Pages;

/// Frames pinned so far by one call: merged into runs, or given back.
struct Batch<'a> {
    frames: &'a dyn Frames,
    runs: &'a mut Vec<PhysRun>,
    /// Runs before this one belong to the caller.
    first: usize,
}

impl Batch<'_> {
    fn add(&mut self, frame: Phys) -> Result<(), Errno> {
        let first = self.first;
        let last = self.runs[first..].last_mut();
        match last {
            Some(run) if run.base.0 + run.length == frame.0 => run.length += PAGE,
            _ => {
                self.runs.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                self.runs.push(PhysRun { base: frame, length: PAGE });
            }
        }
        self.frames.pin(frame);
        Ok(())
    }
    fn undo(self) {
        unpin(self.frames, &self.runs[self.first..]);
        self.runs.truncate(self.first);
    }
}

fn unpin(frames: &dyn Frames, runs: &[PhysRun]) -> u64 {
    let mut count = 0;
    for run in runs {
        for at in (run.base.0..run.base.0 + run.length).step_by(PAGE as usize) {
            frames.unpin(Phys(at));
            count += 1;
        }
    }
    count
}

impl PageSource for AddressSpace {
    fn pin(&self, address: u64, length: u64, write: bool, runs: &mut Vec<PhysRun>) -> Result<(), Errno> {
        let (start, end) = user_range(address, length).ok_or(Errno::EFAULT)?;
        let first = runs.len();
        let mut batch = Batch { frames: &*self.frames, runs, first };
        let mut inner = self.lock();
        if inner.dead {
            return Err(Errno::EFAULT);
        }
        let result = (start / PAGE..end / PAGE)
            .try_for_each(|page| inner.pinnable(&*self.frames, page, write).and_then(|frame| batch.add(frame)));
        // Copy-on-write broke, or pages came in.
        inner.tables.flush();
        drop(inner);
        match result {
            Ok(()) => {
                self.pinned.fetch_add((end - start) / PAGE, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                batch.undo();
                Err(error)
            }
        }
    }
    fn unpin(&self, runs: &[PhysRun]) {
        let count = unpin(&*self.frames, runs);
        self.pinned.fetch_sub(count, Ordering::Relaxed);
    }
}

impl Inner {
    /// The frame of a page, present and this space's own if the mapping is private.
    fn pinnable(&mut self, frames: &dyn Frames, page: u64, write: bool) -> Result<Phys, Errno> {
        let (_, vma) = self.vma(page * PAGE).ok_or(Errno::EFAULT)?;
        let (prot, private) = (vma.prot, vma.kind.private());
        if matches!(vma.kind, Kind::Device { .. }) || !prot.any() || write && !prot.write {
            return Err(Errno::EFAULT);
        }
        let entry = self.pages.get(page);
        if entry.present() && !entry.has(Entry::COW) {
            return Ok(entry.frame());
        }
        // A read-only pin of a shared frame would go stale when the program writes and gets a copy: copy now.
        let entry = self.populate(frames, page, private)?;
        Self::install(&mut *self.tables, page, prot, entry)?;
        Ok(entry.frame())
    }
}

/// A memfd as a source: addresses are offsets.
impl PageSource for Shmem {
    fn pin(&self, address: u64, length: u64, _write: bool, runs: &mut Vec<PhysRun>) -> Result<(), Errno> {
        let end = address.checked_add(length).ok_or(Errno::EFAULT)?;
        let first = runs.len();
        let frames = self.frames();
        let mut batch = Batch { frames, runs, first };
        let result = (address / PAGE..end.div_ceil(PAGE)).try_for_each(|index| {
            let frame = self.page(index)?;
            let added = batch.add(frame);
            frames.release(frame);
            added
        });
        if result.is_err() {
            batch.undo();
        }
        result
    }
    fn unpin(&self, runs: &[PhysRun]) {
        unpin(self.frames(), runs);
    }
}
