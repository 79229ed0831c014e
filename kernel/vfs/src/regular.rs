//! Contents of regular files, and open regular files, texts and directories.

use crate::tree::{Entry, Node, NodeBody};
use crate::walk::Viewer;
use crate::{Caller, File, Mapping, Pages, Stat};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use spin::Mutex;
use uapi::Errno;
use uapi::linux::fs::FIONREAD;

/// Contents of a regular file.
pub trait Store: Send + Sync {
    /// Bytes.
    fn size(&self) -> u64;
    /// Reads at `at`; returns the bytes read, 0 at the end.
    ///
    /// # Errors
    /// `EIO`.
    fn read_at(&self, at: u64, to: &mut [u8]) -> Result<usize, Errno>;
    /// Writes at `at`, growing the file; bytes between are zero.
    ///
    /// # Errors
    /// `ENOSPC`, `EFBIG`; `EROFS` if it must be copied first.
    fn write_at(&self, at: u64, from: &[u8]) -> Result<usize, Errno>;
    /// Sets the size.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn truncate(&self, size: u64) -> Result<(), Errno>;
    /// Its pages, if a mapping can share them.
    fn pages(&self) -> Option<Arc<dyn Pages>> {
        None
    }
}

/// Makes empty stores for new files.
pub trait NewStore: Send + Sync {
    /// # Errors
    /// `ENOMEM`.
    fn new_store(&self) -> Result<Arc<dyn Store>, Errno>;
}

/// Bytes of the initial archive: never written, copied to a new store on the first write.
pub struct RomStore(pub &'static [u8]);

impl Store for RomStore {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&self, at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        Ok(copy_from(self.0, at, to))
    }
    fn write_at(&self, _at: u64, _from: &[u8]) -> Result<usize, Errno> {
        Err(Errno::EROFS)
    }
    fn truncate(&self, _size: u64) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }
}

fn copy_from(from: &[u8], at: u64, to: &mut [u8]) -> usize {
    let rest = usize::try_from(at).ok().and_then(|at| from.get(at..)).unwrap_or(&[]);
    let count = rest.len().min(to.len());
    to[..count].copy_from_slice(&rest[..count]);
    count
}

/// Stores that keep their bytes in the kernel's heap, at most 1 MiB each: for tests and small machines.
pub struct VecStores;
struct VecStore(Mutex<Vec<u8>>);

/// Largest [`VecStores`] file in bytes.
const VEC_LIMIT: usize = 1 << 20;

impl NewStore for VecStores {
    fn new_store(&self) -> Result<Arc<dyn Store>, Errno> {
        Ok(Arc::new(VecStore(Mutex::new(Vec::new()))))
    }
}

impl Store for VecStore {
    fn size(&self) -> u64 {
        self.0.lock().len() as u64
    }
    fn read_at(&self, at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        Ok(copy_from(&self.0.lock(), at, to))
    }
    fn write_at(&self, at: u64, from: &[u8]) -> Result<usize, Errno> {
        let mut bytes = self.0.lock();
        let at = usize::try_from(at).map_err(|_| Errno::EFBIG)?;
        let end = at.checked_add(from.len()).filter(|end| *end <= VEC_LIMIT).ok_or(Errno::EFBIG)?;
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[at..end].copy_from_slice(from);
        Ok(from.len())
    }
    fn truncate(&self, size: u64) -> Result<(), Errno> {
        let size = usize::try_from(size).ok().filter(|size| *size <= VEC_LIMIT).ok_or(Errno::EFBIG)?;
        self.0.lock().resize(size, 0);
        Ok(())
    }
}

/// An open regular file.
pub(crate) struct RegularFile {
    pub node: Arc<Node>,
    pub stores: Arc<dyn NewStore>,
}

impl RegularFile {
    fn store(&self) -> Result<Arc<dyn Store>, Errno> {
        match self.node.body() {
            NodeBody::Regular(store) => Ok(store.lock().clone()),
            _ => Err(Errno::EISDIR),
        }
    }
    /// Does `change`, on a copy of the store if it is read-only; the copy then is the file.
    fn change<R>(&self, change: impl Fn(&dyn Store) -> Result<R, Errno>) -> Result<R, Errno> {
        let NodeBody::Regular(slot) = self.node.body() else { return Err(Errno::EISDIR) };
        let store = slot.lock().clone();
        let result = match change(&*store) {
            Err(Errno::EROFS) => {
                let copy = self.copy(&*store)?;
                let mut slot = slot.lock();
                if Arc::ptr_eq(&slot, &store) {
                    *slot = copy;
                }
                let store = slot.clone();
                drop(slot);
                change(&*store)
            }
            other => other,
        };
        self.node.touch();
        result
    }
    fn copy(&self, from: &dyn Store) -> Result<Arc<dyn Store>, Errno> {
        let to = self.stores.new_store()?;
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(COPY_CHUNK).map_err(|_| Errno::ENOMEM)?;
        buffer.resize(COPY_CHUNK, 0);
        let mut at = 0;
        loop {
            let count = from.read_at(at, &mut buffer)?;
            if count == 0 {
                return Ok(to);
            }
            let mut done = 0;
            while done < count {
                let wrote = to.write_at(at + done as u64, &buffer[done..count])?;
                if wrote == 0 {
                    return Err(Errno::ENOSPC);
                }
                done += wrote;
            }
            at += count as u64;
        }
    }
}

const COPY_CHUNK: usize = 16384;

impl File for RegularFile {
    fn read(&self, at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        self.store()?.read_at(at, to)
    }
    fn write(&self, at: u64, from: &[u8]) -> Result<usize, Errno> {
        self.change(|store| store.write_at(at, from))
    }
    fn seekable(&self) -> bool {
        true
    }
    fn ioctl(&self, command: u32, arg: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        if command != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let size = u32::try_from(self.store()?.size()).unwrap_or(u32::MAX);
        caller.memory().copy_out(arg, &size.to_le_bytes())?;
        Ok(0)
    }
    fn mmap(&self, _offset: u64, _length: u64, shared: bool, _write: bool) -> Result<Mapping, Errno> {
        if let Some(pages) = self.store()?.pages() {
            return Ok(Mapping::Pages(pages));
        }
        if !shared {
            return Ok(Mapping::Copy);
        }
        let pages = self.change(|store| store.pages().ok_or(Errno::EROFS));
        pages.map(Mapping::Pages).map_err(|error| if error == Errno::EROFS { Errno::ENODEV } else { error })
    }
    fn stat(&self) -> Stat {
        self.node.stat()
    }
    fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.change(|store| store.truncate(size))
    }
}

/// An open synthetic text: made when it is opened, so that reads at several positions agree.
pub(crate) struct OpenText {
    pub text: Vec<u8>,
    pub stat: Stat,
}

impl File for OpenText {
    fn read(&self, at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        Ok(copy_from(&self.text, at, to))
    }
    fn seekable(&self) -> bool {
        true
    }
    fn stat(&self) -> Stat {
        self.stat
    }
}

/// An open directory.
pub struct DirFile {
    pub(crate) node: Arc<Node>,
    pub(crate) snapshot: Mutex<Option<Box<[Entry]>>>,
}

impl DirFile {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node, snapshot: Mutex::new(None) }
    }
    /// Hands entries from position `from` on to `take`, until it returns false; returns the position reached. The list
    /// is that of the moment when position 0 was read, so that removing what was listed skips nothing.
    ///
    /// # Errors
    /// `ENOENT` if the directory is gone.
    pub fn entries(
        &self,
        from: u64,
        viewer: Viewer,
        take: &mut dyn FnMut(&Entry, u64) -> Result<bool, Errno>,
    ) -> Result<u64, Errno> {
        let mut list = self.snapshot.lock().take();
        if from == 0 || list.is_none() {
            list = Some(self.node.list(viewer)?.into_boxed_slice());
        }
        let list = list.unwrap_or_default();
        let mut at = from;
        let mut result = Ok(());
        while let Some(entry) = usize::try_from(at).ok().and_then(|index| list.get(index)) {
            match take(entry, at + 1) {
                Ok(true) => at += 1,
                Ok(false) => break,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        *self.snapshot.lock() = Some(list);
        result.map(|()| at)
    }
}

impl File for DirFile {
    fn read(&self, _at: u64, _to: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::EISDIR)
    }
    fn write(&self, _at: u64, _from: &[u8]) -> Result<usize, Errno> {
        Err(Errno::EISDIR)
    }
    fn seekable(&self) -> bool {
        true
    }
    fn stat(&self) -> Stat {
        self.node.stat()
    }
}
