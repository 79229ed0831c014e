//! The kernel's access to a program's memory.

use crate::pages::Entry;
use crate::space::Inner;
use crate::vma::Kind;
use crate::{AddressSpace, Errno, PAGE, USER_END};
use iommu_types::Phys;
use uapi::UserMem;

impl AddressSpace {
    /// Goes over `length` bytes at `at` page by page: `act` gets the physical address, and which bytes of the request.
    fn walk(
        &self,
        at: u64,
        length: usize,
        write: bool,
        mut act: impl FnMut(Phys, core::ops::Range<usize>),
    ) -> Result<(), Errno> {
        let end = at.checked_add(length as u64).filter(|end| *end <= USER_END).ok_or(Errno::EFAULT)?;
        if length == 0 {
            return Ok(());
        }
        let mut inner = self.lock();
        let mut change = false;
        let mut at = at;
        let mut done = 0;
        let mut result = Ok(());
        while at < end {
            let page = at / PAGE;
            let stop = ((page + 1) * PAGE).min(end);
            let before = inner.pages.get(page);
            let entry = match inner.accessible(&*self.frames, page, write) {
                Ok(entry) => entry,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            };
            change |= entry != before;
            let count = (stop - at) as usize;
            act(Phys(entry.frame().0 + at % PAGE), done..done + count);
            done += count;
            at = stop;
        }
        if change {
            inner.tables.flush();
        }
        result
    }
    /// Reads a string that ends in a zero byte; at most `limit` bytes without it.
    ///
    /// # Errors
    /// `EFAULT`; `ENAMETOOLONG` if no end is found.
    pub fn copy_in_string(&self, from: u64, limit: usize) -> Result<alloc::vec::Vec<u8>, Errno> {
        let mut string = alloc::vec::Vec::new();
        let mut at = from;
        let mut chunk = [0; 256];
        loop {
            // Never past the page: the next one may not be there, and need not.
            let room = (PAGE - at % PAGE).min(chunk.len() as u64) as usize;
            self.copy_in(at, &mut chunk[..room])?;
            match chunk[..room].iter().position(|byte| *byte == 0) {
                Some(end) => string.extend_from_slice(&chunk[..end]),
                None => string.extend_from_slice(&chunk[..room]),
            }
            if string.len() > limit {
                return Err(Errno::ENAMETOOLONG);
            }
            if chunk[..room].contains(&0) {
                return Ok(string);
            }
            at = at.checked_add(room as u64).ok_or(Errno::EFAULT)?;
        }
    }
}

impl Inner {
    /// The entry of a page that the kernel may read or write for the program. Device memory is `EFAULT`: it has no
    /// frame, and a stray access there has side effects.
    pub fn accessible(&mut self, frames: &dyn crate::Frames, page: u64, write: bool) -> Result<Entry, Errno> {
        if self.vma(page * PAGE).is_none() {
            // As when the program touches it: a buffer may lie below the part of the stack used so far.
            self.grow_stack(page * PAGE)?;
        }
        let (_, vma) = self.vma(page * PAGE).ok_or(Errno::EFAULT)?;
        if matches!(vma.kind, Kind::Device { .. }) || !vma.prot.any() || write && !vma.prot.write {
            return Err(Errno::EFAULT);
        }
        let entry = self.pages.get(page);
        if entry.present() && (!write || entry.has(Entry::SOFT) && !entry.has(Entry::COW)) {
            return Ok(entry);
        }
        let entry = self.present(frames, page, write, false)?;
        if entry.present() { Ok(entry) } else { Err(Errno::EFAULT) }
    }
}

impl UserMem for AddressSpace {
    fn copy_in(&self, from: u64, to: &mut [u8]) -> Result<(), Errno> {
        let length = to.len();
        self.walk(from, length, false, |phys, part| self.frames.read(phys, &mut to[part]))
    }
    fn copy_out(&self, to: u64, from: &[u8]) -> Result<(), Errno> {
        self.walk(to, from.len(), true, |phys, part| self.frames.write(phys, &from[part]))
    }
    fn or_bits(&self, at: u64, bits: &[u8]) -> Result<(), Errno> {
        self.walk(at, bits.len(), true, |phys, part| self.frames.or(phys, &bits[part]))
    }
}
