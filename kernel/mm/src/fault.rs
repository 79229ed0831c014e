//! Page faults, and everything else that makes a page present.

use crate::machine::scarce;
use crate::pages::Entry;
use crate::space::Inner;
use crate::vma::{Kind, Vma};
use crate::{AddressSpace, Errno, Frames, PAGE, Pte, USER_END, page_frame};
use core::sync::atomic::Ordering;
use iommu_types::Phys;

/// Why a fault cannot be mended. Each ends the program by a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing is mapped there: SIGSEGV, SEGV_MAPERR.
    NoMapping,
    /// The mapping forbids it: SIGSEGV, SEGV_ACCERR.
    Access,
    /// Past the end of the object that is mapped: SIGBUS.
    Bus,
    /// No frame or no table page: SIGKILL.
    NoMemory,
}

impl From<Fault> for Errno {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NoMemory => Self::ENOMEM,
            Fault::NoMapping | Fault::Access | Fault::Bus => Self::EFAULT,
        }
    }
}

impl From<crate::NoMemory> for Fault {
    fn from(_: crate::NoMemory) -> Self {
        Self::NoMemory
    }
}

/// Guard gap below a growing stack, in bytes.
const STACK_GAP: u64 = 0x10_0000;
/// Pages that one write fault makes present in a large anonymous mapping: fewer traps when memory is filled in order.
const AROUND: u64 = 16;
/// From this size in bytes on, a mapping counts as large.
const LARGE: u64 = 2 << 20;

impl AddressSpace {
    /// The CPU faulted at `address`. `Ok`: the access can be tried again.
    ///
    /// # Errors
    /// [`Fault`]: the program's doing, or no memory.
    pub fn handle_fault(&self, address: u64, write: bool, exec: bool) -> Result<(), Fault> {
        if address >= USER_END {
            return Err(Fault::NoMapping);
        }
        self.faults.fetch_add(1, Ordering::Relaxed);
        let mut inner = self.lock();
        let page = address / PAGE;
        if inner.vma(address).is_none() {
            inner.grow_stack(address)?;
        }
        inner.present(&*self.frames, page, write, exec)?;
        if write {
            inner.fault_around(&*self.frames, page);
        }
        inner.tables.flush();
        Ok(())
    }
}

impl Inner {
    /// Lets the stack above `address` grow down to it.
    pub(crate) fn grow_stack(&mut self, address: u64) -> Result<(), Fault> {
        let (&start, vma) = self.vmas.range(address..).next().ok_or(Fault::NoMapping)?;
        let floor = vma.floor.ok_or(Fault::NoMapping)?;
        let bottom = address & !(PAGE - 1);
        if bottom < floor {
            return Err(Fault::NoMapping);
        }
        let below = self.vmas.range(..start).next_back();
        if below.is_some_and(|(_, vma)| vma.prot.any() && vma.end.saturating_add(STACK_GAP) > bottom) {
            return Err(Fault::NoMapping);
        }
        if let Some(vma) = self.vmas.remove(&start) {
            self.vmas.insert(bottom, vma);
        }
        Ok(())
    }
    fn fault_around(&mut self, frames: &dyn Frames, page: u64) {
        let Some((start, vma)) = self.vma(page * PAGE) else { return };
        if !matches!(vma.kind, Kind::Anonymous) || vma.end - start < LARGE {
            return;
        }
        let last = (page | (AROUND - 1)).min(vma.end / PAGE - 1);
        for next in page + 1..=last {
            if self.pages.get(next).0 != 0 || self.present(frames, next, true, false).is_err() {
                return;
            }
        }
    }
    /// Makes `page` present with the rights for the access, in entry and table. Returns the entry.
    pub fn present(&mut self, frames: &dyn Frames, page: u64, write: bool, exec: bool) -> Result<Entry, Fault> {
        let (start, vma) = self.vma(page * PAGE).ok_or(Fault::NoMapping)?;
        let prot = vma.prot;
        if write && !prot.write || exec && !prot.exec || !prot.any() {
            return Err(Fault::Access);
        }
        if let Kind::Device { base, .. } = vma.kind {
            let phys = Phys(base.0 + (page * PAGE - start));
            self.tables.set(page * PAGE, Pte { phys, write: prot.write, exec: false, device: true })?;
            return Ok(Entry(0));
        }
        let entry = self.populate(frames, page, write)?;
        Self::install(&mut *self.tables, page, prot, entry)?;
        Ok(entry)
    }
    /// Makes `page` present and, if `write`, its own and soft-dirty; leaves the table alone except that it never keeps
    /// an old frame. The mapping must exist and not be a device's; rights were checked.
    pub fn populate(&mut self, frames: &dyn Frames, page: u64, write: bool) -> Result<Entry, Fault> {
        let entry = self.pages.get(page);
        if !entry.present() {
            return self.fill(frames, page, write);
        }
        if !write {
            return Ok(entry);
        }
        let mut new = entry.with(Entry::SOFT);
        if entry.has(Entry::COW) {
            new = new.without(Entry::COW);
            if frames.count(entry.frame()) != 1 {
                let copy = page_frame(frames)?;
                frames.copy(entry.frame(), copy);
                new = new.moved(copy);
                // The old frame goes to its other owners, who may write it: nobody here may still read it by a stale
                // translation.
                self.tables.clear(page * PAGE);
                self.tables.flush();
                frames.release(entry.frame());
            }
        }
        if new != entry {
            self.pages.update(page, new);
        }
        Ok(new)
    }
    fn fill(&mut self, frames: &dyn Frames, page: u64, write: bool) -> Result<Entry, Fault> {
        // Entries take memory too, and stay when there is no frame for the page.
        if !self.pages.has_room(page) && scarce(frames) {
            return Err(Fault::NoMemory);
        }
        self.pages.reserve(page..=page)?;
        let va = page * PAGE;
        let (start, vma) = self.vma(va).ok_or(Fault::NoMapping)?;
        let entry = match &vma.kind {
            Kind::Anonymous => Entry::new(page_frame(frames)?, 0),
            Kind::FileCopy { file, offset } => {
                let (file, at) = (file.clone(), offset + (va - start));
                let frame = page_frame(frames)?;
                match Self::read_page(&mut self.scratch, &file, at) {
                    Ok(count) => frames.write(frame, &self.scratch[..count]),
                    Err(fault) => {
                        frames.release(frame);
                        return Err(fault);
                    }
                }
                Entry::new(frame, 0)
            }
            Kind::PagesCopy { pages, offset, .. } => {
                let shared = pages.page((offset + (va - start)) / PAGE).map_err(object_fault)?;
                if write {
                    let own = page_frame(frames).inspect_err(|_| frames.release(shared))?;
                    frames.copy(shared, own);
                    frames.release(shared);
                    Entry::new(own, 0)
                } else {
                    Entry::new(shared, Entry::COW)
                }
            }
            Kind::Shared { pages, offset, .. } => {
                Entry::new(pages.page((offset + (va - start)) / PAGE).map_err(object_fault)?, Entry::SHARED)
            }
            Kind::Device { .. } => return Err(Fault::Access),
        };
        // What becomes present counts as written: its contents were not part of any earlier report.
        let entry = entry.with(Entry::SOFT);
        if self.pages.put(page, entry).is_err() {
            frames.release(entry.frame());
            return Err(Fault::NoMemory);
        }
        self.count_present(entry);
        Ok(entry)
    }
    /// Reads one page of a file; `Bus` past its end.
    fn read_page(scratch: &mut [u8], file: &vfs::OpenFile, at: u64) -> Result<usize, Fault> {
        let mut done = 0;
        while done < scratch.len() {
            match file.file.read(at + done as u64, &mut scratch[done..]) {
                Ok(0) if done == 0 => return Err(Fault::Bus),
                Ok(0) => break,
                Ok(count) => done += count,
                Err(_) => return Err(Fault::Bus),
            }
        }
        Ok(done)
    }
    /// Makes every page of `start..end` present (MAP_POPULATE); pages of writable private mappings as if written.
    pub fn populate_range(
        &mut self,
        frames: &dyn Frames,
        start: u64,
        end: u64,
        force_write: bool,
    ) -> Result<(), Fault> {
        let mut at = start;
        while at < end {
            let (_, vma) = self.vma(at).ok_or(Fault::NoMapping)?;
            let Vma { end: vma_end, prot, .. } = *vma;
            let device = matches!(vma.kind, Kind::Device { .. });
            if force_write && !prot.write || !prot.any() {
                return Err(Fault::Access);
            }
            let write = force_write || prot.write && vma.kind.private();
            let stop = vma_end.min(end);
            for page in at / PAGE..stop / PAGE {
                if device {
                    self.present(frames, page, false, false)?;
                    continue;
                }
                let entry = self.populate(frames, page, write)?;
                Self::install(&mut *self.tables, page, prot, entry)?;
            }
            at = stop;
        }
        Ok(())
    }
}

fn object_fault(error: Errno) -> Fault {
    if error == Errno::ENOMEM { Fault::NoMemory } else { Fault::Bus }
}
