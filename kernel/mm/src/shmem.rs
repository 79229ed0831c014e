//! Memory objects that several mappings share: anonymous shared memory, memfd, contents of tmpfs files.

use crate::pages::{Entry, PageMap};
use crate::space::next_id;
use crate::{Errno, Frames, PAGE, file_frame, page_frame};
use alloc::sync::Arc;
use iommu_types::Phys;
use spin::Mutex;
use vfs::{File, FileKind, Mapping, NewStore, Pages, Stat, Store};

/// Largest object in bytes.
const LIMIT: u64 = 1 << 44;

/// fcntl seals.
mod seal {
    pub const SEAL: u32 = 1;
    pub const SHRINK: u32 = 2;
    pub const GROW: u32 = 4;
    pub const WRITE: u32 = 8;
    pub const FUTURE_WRITE: u32 = 16;
    pub const ALL: u32 = 31;
}

struct State {
    pages: PageMap,
    size: u64,
    seals: u32,
}

/// A memory object. Holes read as zero and cost nothing.
pub struct Shmem {
    frames: Arc<dyn Frames>,
    state: Mutex<State>,
    id: u64,
}

impl Shmem {
    /// An object of `size` bytes, all hole.
    pub fn new(frames: Arc<dyn Frames>, size: u64) -> Arc<Self> {
        let state = State { pages: PageMap::default(), size, seals: seal::SEAL };
        Arc::new(Self { frames, state: Mutex::new(state), id: next_id() })
    }
    pub(crate) fn frames(&self) -> &dyn Frames {
        &*self.frames
    }
    fn frame(&self, state: &mut State, index: u64, written: bool) -> Result<Phys, Errno> {
        let entry = state.pages.get(index);
        if entry.present() {
            return Ok(entry.frame());
        }
        // The frame first: an entry without one would take memory that nothing limits.
        let frame = if written { file_frame(&*self.frames) } else { page_frame(&*self.frames) }?;
        state.pages.put(index, Entry::new(frame, 0)).inspect_err(|_| self.frames.release(frame))?;
        Ok(frame)
    }
}

impl Drop for Shmem {
    fn drop(&mut self) {
        let frames = &*self.frames;
        self.state.get_mut().pages.look(0..=u64::MAX / PAGE, |_, entry| frames.release(entry.frame()));
    }
}

impl Pages for Shmem {
    fn page(&self, index: u64) -> Result<Phys, Errno> {
        let mut state = self.state.lock();
        if index >= state.size.div_ceil(PAGE) {
            return Err(Errno::EFAULT);
        }
        let frame = self.frame(&mut state, index, false)?;
        self.frames.retain(frame);
        Ok(frame)
    }
    fn id(&self) -> u64 {
        self.id
    }
}

impl Store for Shmem {
    fn size(&self) -> u64 {
        self.state.lock().size
    }
    fn read_at(&self, at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        let state = self.state.lock();
        let count = state.size.saturating_sub(at).min(to.len() as u64) as usize;
        let mut done = 0;
        while done < count {
            let at = at + done as u64;
            let part = ((PAGE - at % PAGE) as usize).min(count - done);
            let entry = state.pages.get(at / PAGE);
            let to = &mut to[done..done + part];
            if entry.present() {
                self.frames.read(Phys(entry.frame().0 + at % PAGE), to);
            } else {
                to.fill(0);
            }
            done += part;
        }
        Ok(count)
    }
    fn write_at(&self, at: u64, from: &[u8]) -> Result<usize, Errno> {
        let mut state = self.state.lock();
        if state.seals & (seal::WRITE | seal::FUTURE_WRITE) != 0 {
            return Err(Errno::EPERM);
        }
        // Nothing written does not make it larger.
        if from.is_empty() {
            return Ok(0);
        }
        let end = at.checked_add(from.len() as u64).filter(|end| *end <= LIMIT).ok_or(Errno::EFBIG)?;
        if end > state.size && state.seals & seal::GROW != 0 {
            return Err(Errno::EPERM);
        }
        let mut done = 0;
        while done < from.len() {
            let at = at + done as u64;
            let part = ((PAGE - at % PAGE) as usize).min(from.len() - done);
            let frame = match self.frame(&mut state, at / PAGE, true) {
                Ok(frame) => frame,
                // A full memory is a full disk; what was written stays.
                Err(_) if done == 0 => return Err(Errno::ENOSPC),
                Err(_) => break,
            };
            self.frames.write(Phys(frame.0 + at % PAGE), &from[done..done + part]);
            done += part;
        }
        state.size = state.size.max(at + done as u64);
        Ok(done)
    }
    /// Pages past the end stay with mappings that have them, until those go; nobody else sees them.
    fn truncate(&self, size: u64) -> Result<(), Errno> {
        if size > LIMIT {
            return Err(Errno::EFBIG);
        }
        let mut state = self.state.lock();
        let old = state.size;
        if size < old && state.seals & seal::SHRINK != 0 || size > old && state.seals & seal::GROW != 0 {
            return Err(Errno::EPERM);
        }
        if size < old {
            let first = size.div_ceil(PAGE);
            state.pages.each(first..=u64::MAX / PAGE, |_, entry| {
                self.frames.release(entry.frame());
                *entry = Entry(0);
            });
            state.pages.prune(first..=u64::MAX / PAGE);
            // What is cut off of the last page must read as zero if the object grows again.
            let entry = state.pages.get(size / PAGE);
            if !size.is_multiple_of(PAGE) && entry.present() {
                let zeros = [0; 256];
                let mut at = size % PAGE;
                while at < PAGE {
                    let part = (PAGE - at).min(zeros.len() as u64);
                    self.frames.write(Phys(entry.frame().0 + at), &zeros[..part as usize]);
                    at += part;
                }
            }
        }
        state.size = size;
        Ok(())
    }
}

/// Contents of tmpfs files, mappable.
pub struct ShmemStores(pub Arc<dyn Frames>);

struct SharedStore(Arc<Shmem>);

impl NewStore for ShmemStores {
    fn new_store(&self) -> Result<Arc<dyn Store>, Errno> {
        Ok(Arc::new(SharedStore(Shmem::new(self.0.clone(), 0))))
    }
}

impl Store for SharedStore {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_at(&self, at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        self.0.read_at(at, to)
    }
    fn write_at(&self, at: u64, from: &[u8]) -> Result<usize, Errno> {
        self.0.write_at(at, from)
    }
    fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.0.truncate(size)
    }
    fn pages(&self) -> Option<Arc<dyn Pages>> {
        Some(self.0.clone())
    }
}

/// An open memfd.
pub struct Memfd(pub Arc<Shmem>);

impl Memfd {
    /// An empty one; `sealable` is MFD_ALLOW_SEALING.
    pub fn new(frames: Arc<dyn Frames>, sealable: bool) -> Self {
        let object = Shmem::new(frames, 0);
        if sealable {
            object.state.lock().seals = 0;
        }
        Self(object)
    }
}

impl File for Memfd {
    fn read(&self, at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        self.0.read_at(at, to)
    }
    fn write(&self, at: u64, from: &[u8]) -> Result<usize, Errno> {
        self.0.write_at(at, from)
    }
    fn seekable(&self) -> bool {
        true
    }
    fn mmap(&self, _offset: u64, _length: u64, shared: bool, write: bool) -> Result<Mapping, Errno> {
        if shared && write && self.0.state.lock().seals & (seal::WRITE | seal::FUTURE_WRITE) != 0 {
            return Err(Errno::EPERM);
        }
        Ok(Mapping::Pages(self.0.clone()))
    }
    fn stat(&self) -> Stat {
        Stat { size: self.0.size(), mode: 0o777, ..Stat::anonymous(FileKind::Regular) }
    }
    fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.0.truncate(size)
    }
    fn seal(&self, seals: u32) -> Result<u32, Errno> {
        let mut state = self.0.state.lock();
        if seals != 0 {
            if seals & !seal::ALL != 0 {
                return Err(Errno::EINVAL);
            }
            if state.seals & seal::SEAL != 0 {
                return Err(Errno::EPERM);
            }
            state.seals |= seals;
        }
        Ok(state.seals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestMachine;
    use crate::{Backing, MapRequest, Prot};
    use uapi::UserMem;
    use uapi::linux::mman::{MAP_ANONYMOUS, MAP_PRIVATE};

    #[test]
    fn entries_do_not_grow_when_there_is_no_frame_for_their_page() {
        let machine = TestMachine::new(640);
        let object = Shmem::new(machine.clone(), 0);
        let mut at = 0;
        while let Ok(count) = object.write_at(at, &[1; 4096]) {
            at += count as u64;
        }
        let far = 1 << 40;
        assert_eq!(object.write_at(far, &[1]), Err(Errno::ENOSPC));
        assert!(!object.state.lock().pages.has_room(far / PAGE));
        let space = machine.space();
        let (length, flags) = (1 << 40, MAP_PRIVATE | MAP_ANONYMOUS);
        let request = MapRequest { address: 0, length, prot: Prot::RW, flags, backing: Backing::Anonymous };
        let start = space.map(request).unwrap();
        let mut page = start / PAGE;
        while space.copy_out(page * PAGE, &[1]).is_ok() {
            page += 1;
        }
        let far = start / PAGE + 100_000;
        assert_eq!(space.copy_out(far * PAGE, &[1]), Err(Errno::ENOMEM));
        assert!(!space.lock().pages.has_room(far));
    }
}
