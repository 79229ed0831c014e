//! Memory.

use crate::cx::Cx;
use crate::{Answer, Errno, Outcome};
use mm::{Backing, MapRequest, PAGE, Prot, USER_END};
use uapi::UserMem;
use uapi::linux::mman::*;

const DONE: Answer = Ok(Outcome::Done(0));

impl Cx {
    pub(crate) fn mmap(&self) -> Answer {
        let [address, length, prot, flags, _, offset] = self.args;
        if prot & !(PROT_READ | PROT_WRITE | PROT_EXEC) != 0 {
            return Err(Errno::EINVAL);
        }
        // There is no pool of huge pages.
        if flags & MAP_HUGETLB != 0 {
            return Err(Errno::ENOMEM);
        }
        if !offset.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let prot = Prot::from_bits(prot);
        let backing = if flags & MAP_ANONYMOUS != 0 {
            Backing::Anonymous
        } else {
            let file = self.file(self.fd(4))?;
            if length == 0 {
                return Err(Errno::EINVAL);
            }
            let shared = flags & MAP_TYPE != MAP_PRIVATE;
            let bytes = length.checked_next_multiple_of(PAGE).ok_or(Errno::ENOMEM)?;
            if !file.readable() || shared && prot.write && !file.writable() {
                return Err(Errno::EACCES);
            }
            let mapping = file.file.mmap(offset, bytes, shared, prot.write)?;
            Backing::File { file, offset, mapping }
        };
        let at = self.space.map(MapRequest { address, length, prot, flags, backing })?;
        Ok(Outcome::Done(at as i64))
    }
    pub(crate) fn munmap(&self) -> Answer {
        self.space.unmap(self.args[0], self.args[1])?;
        DONE
    }
    pub(crate) fn mprotect(&self) -> Answer {
        let prot = self.args[2];
        if prot & !(PROT_READ | PROT_WRITE | PROT_EXEC | PROT_GROWSDOWN | PROT_GROWSUP) != 0 {
            return Err(Errno::EINVAL);
        }
        self.space.protect(self.args[0], self.args[1], Prot::from_bits(prot))?;
        DONE
    }
    pub(crate) fn mremap(&self) -> Answer {
        let [old, old_length, new_length, flags, target, _] = self.args;
        Ok(Outcome::Done(self.space.remap(old, old_length, new_length, flags, target)? as i64))
    }
    pub(crate) fn madvise(&self) -> Answer {
        self.space.advise(self.args[0], self.args[1], self.args[2])?;
        DONE
    }
    /// Shared pages are the file: nothing has to be written back.
    pub(crate) fn msync(&self) -> Answer {
        let [at, length, flags, ..] = self.args;
        let end = at.checked_add(length).filter(|end| *end <= USER_END).ok_or(Errno::ENOMEM)?;
        if !at.is_multiple_of(PAGE) || flags & !7 != 0 || flags & 5 == 5 {
            return Err(Errno::EINVAL);
        }
        if end > at && !self.space.is_mapped(at, end) {
            return Err(Errno::ENOMEM);
        }
        DONE
    }
    pub(crate) fn mincore(&self) -> Answer {
        let [at, length, to, ..] = self.args;
        if !at.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let end = at.checked_add(length).filter(|end| *end <= USER_END).ok_or(Errno::ENOMEM)?;
        if end > at && !self.space.is_mapped(at, end) {
            return Err(Errno::ENOMEM);
        }
        let mut words = [0; 512];
        let pages = length.div_ceil(PAGE);
        for page in (0..pages).step_by(64) {
            let count = (pages - page).min(64) as usize;
            self.space.pagemap((at / PAGE + page) * 8, &mut words[..count * 8])?;
            let mut present = [0; 64];
            for (byte, word) in present.iter_mut().zip(words.chunks_exact(8)) {
                *byte = word[7] >> 7;
            }
            self.space.copy_out(to.wrapping_add(page), &present[..count])?;
        }
        DONE
    }
    pub(crate) fn brk(&self) -> Answer {
        Ok(Outcome::Done(self.space.brk(self.args[0]) as i64))
    }
    /// brk that fails: it tells where the heap ends.
    pub(crate) fn brk_stays(&self) -> Answer {
        Ok(Outcome::Done(self.space.brk(0) as i64))
    }
    pub(crate) fn mlock(&self, lock: bool) -> Answer {
        self.space.set_locked(self.args[0], self.args[1], lock)?;
        DONE
    }
    /// Every entry into the kernel is a barrier for the thread that enters; others pass one at their next trap.
    pub(crate) fn membarrier(&self) -> Answer {
        match self.args[0] {
            // QUERY: PRIVATE_EXPEDITED and its registration.
            0 => Ok(Outcome::Done(0x18)),
            8 | 16 if self.args[1] == 0 => DONE,
            _ => Err(Errno::EINVAL),
        }
    }
}
