//! Descriptor tables.

use crate::OpenFile;
use alloc::sync::Arc;
use alloc::vec::Vec;
use uapi::Errno;

/// Most descriptors of one process (the soft RLIMIT_NOFILE that Linux starts with).
pub const MAX_FDS: usize = 1024;

#[derive(Clone)]
struct Slot {
    file: Arc<OpenFile>,
    close_on_exec: bool,
}

/// The descriptors of a process. Files that leave the table are handed to the caller, to be dropped where no lock is
/// held: closing may take down a device.
#[derive(Clone, Default)]
pub struct FdTable {
    slots: Vec<Option<Slot>>,
}

impl FdTable {
    /// No descriptors.
    pub const fn new() -> Self {
        Self { slots: Vec::new() }
    }
    fn index(fd: i32) -> Result<usize, Errno> {
        usize::try_from(fd).ok().filter(|fd| *fd < MAX_FDS).ok_or(Errno::EBADF)
    }
    fn slot(&self, fd: i32) -> Result<&Slot, Errno> {
        self.slots.get(Self::index(fd)?).and_then(Option::as_ref).ok_or(Errno::EBADF)
    }
    /// The file behind `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn get(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        self.slot(fd).map(|slot| slot.file.clone())
    }
    /// Puts `file` at the lowest free descriptor from `from` up.
    ///
    /// # Errors
    /// `EMFILE`; `EINVAL` if `from` is out of range.
    pub fn insert(&mut self, file: Arc<OpenFile>, from: i32, close_on_exec: bool) -> Result<i32, Errno> {
        let from = Self::index(from).map_err(|_| Errno::EINVAL)?;
        let free = (from..MAX_FDS).find(|at| self.slots.get(*at).is_none_or(Option::is_none)).ok_or(Errno::EMFILE)?;
        self.put(free, Slot { file, close_on_exec });
        Ok(free as i32)
    }
    fn put(&mut self, at: usize, slot: Slot) -> Option<Slot> {
        if self.slots.len() <= at {
            self.slots.resize(at + 1, None);
        }
        self.slots[at].replace(slot)
    }
    /// Puts `file` at `fd`; returns what was there.
    ///
    /// # Errors
    /// `EBADF` if `fd` is out of range.
    pub fn replace(
        &mut self,
        fd: i32,
        file: Arc<OpenFile>,
        close_on_exec: bool,
    ) -> Result<Option<Arc<OpenFile>>, Errno> {
        let at = Self::index(fd)?;
        Ok(self.put(at, Slot { file, close_on_exec }).map(|slot| slot.file))
    }
    /// Takes `fd` out.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn remove(&mut self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        let at = Self::index(fd)?;
        self.slots.get_mut(at).and_then(Option::take).map(|slot| slot.file).ok_or(Errno::EBADF)
    }
    /// Is `fd` closed by execve?
    ///
    /// # Errors
    /// `EBADF`.
    pub fn close_on_exec(&self, fd: i32) -> Result<bool, Errno> {
        self.slot(fd).map(|slot| slot.close_on_exec)
    }
    /// Sets that.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn set_close_on_exec(&mut self, fd: i32, on: bool) -> Result<(), Errno> {
        let at = Self::index(fd)?;
        self.slots.get_mut(at).and_then(Option::as_mut).ok_or(Errno::EBADF)?.close_on_exec = on;
        Ok(())
    }
    /// Takes out everything that execve closes.
    pub fn take_close_on_exec(&mut self) -> Vec<Arc<OpenFile>> {
        let marked = |slot: &mut Option<Slot>| slot.take_if(|slot| slot.close_on_exec).map(|slot| slot.file);
        self.slots.iter_mut().filter_map(marked).collect()
    }
    /// Takes out the descriptors `first..=last`.
    pub fn take_range(&mut self, first: u32, last: u32) -> Vec<Arc<OpenFile>> {
        let last = (last as usize).min(self.slots.len().saturating_sub(1));
        let Some(range) = self.slots.get_mut(first as usize..=last) else { return Vec::new() };
        range.iter_mut().filter_map(|slot| slot.take().map(|slot| slot.file)).collect()
    }
    /// The open descriptors, ascending.
    pub fn open(&self) -> Vec<i32> {
        (0..self.slots.len()).filter(|at| self.slots[*at].is_some()).map(|at| at as i32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Null;

    fn null() -> Arc<OpenFile> {
        OpenFile::new(Arc::new(Null), 2)
    }

    #[test]
    fn the_lowest_free_descriptor_is_given() {
        let mut table = FdTable::new();
        for want in 0..3 {
            assert_eq!(table.insert(null(), 0, false), Ok(want));
        }
        table.remove(1).unwrap();
        assert_eq!(table.insert(null(), 0, true), Ok(1));
        assert_eq!(table.insert(null(), 10, false), Ok(10));
        assert_eq!(table.open(), [0, 1, 2, 10]);
        assert_eq!(table.take_close_on_exec().len(), 1);
        assert_eq!(table.get(1).err(), Some(Errno::EBADF));
    }

    #[test]
    fn hostile_numbers_are_ebadf_and_a_full_table_is_emfile() {
        let mut table = FdTable::new();
        for fd in [-1, i32::MIN, 1024, i32::MAX] {
            assert_eq!(table.get(fd).err(), Some(Errno::EBADF));
            assert_eq!(table.remove(fd).err(), Some(Errno::EBADF));
            assert_eq!(table.replace(fd, null(), false).err(), Some(Errno::EBADF));
        }
        assert_eq!(table.insert(null(), -1, false), Err(Errno::EINVAL));
        for _ in 0..MAX_FDS {
            table.insert(null(), 0, false).unwrap();
        }
        assert_eq!(table.insert(null(), 0, false), Err(Errno::EMFILE));
        assert_eq!(table.take_range(5, u32::MAX).len(), MAX_FDS - 5);
        assert!(table.take_range(2000, 1).is_empty());
    }
}
