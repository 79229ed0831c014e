//! Open file descriptions: a file, a position and flags, shared by every descriptor that dup or fork made.

use crate::walk::Place;
use crate::{File, Ready};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use spin::Mutex;
use uapi::Errno;
use uapi::linux::fs::*;

/// Where a read or write happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Position {
    /// At the description's own position, which moves.
    Current,
    /// At a byte; the description's position stays.
    At(u64),
}

/// An open file description.
pub struct OpenFile {
    /// What is open.
    pub file: Arc<dyn File>,
    /// Name it was opened under; directories and regular files have one.
    pub place: Option<Place>,
    offset: Mutex<u64>,
    flags: AtomicU32,
    /// SO_RCVTIMEO and SO_SNDTIMEO of a socket in nanoseconds; 0: for ever.
    pub timeouts: [AtomicU64; 2],
}

/// Flags that F_SETFL may change.
const CHANGEABLE: u32 = O_APPEND | O_NONBLOCK | O_ASYNC;

impl OpenFile {
    /// Opens `file` with `flags` (`O_*`; creation flags are forgotten).
    pub fn new(file: Arc<dyn File>, flags: u32) -> Arc<Self> {
        Self::named(file, flags, None)
    }
    /// The same, with the name it was opened under.
    pub fn named(file: Arc<dyn File>, flags: u32, place: Option<Place>) -> Arc<Self> {
        let keep = flags & !(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC);
        Arc::new(Self { file, place, offset: Mutex::new(0), flags: AtomicU32::new(keep), timeouts: Default::default() })
    }
    /// The `O_*` flags.
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }
    /// F_SETFL.
    pub fn set_flags(&self, flags: u32) {
        let keep = self.flags() & !CHANGEABLE;
        self.flags.store(keep | flags & CHANGEABLE, Ordering::Relaxed);
    }
    /// Should a call that would block fail instead?
    pub fn nonblocking(&self) -> bool {
        self.flags() & O_NONBLOCK != 0
    }
    /// May it be read?
    pub fn readable(&self) -> bool {
        self.flags() & O_PATH == 0 && self.flags() & O_ACCMODE != O_WRONLY
    }
    /// May it be written?
    pub fn writable(&self) -> bool {
        self.flags() & O_PATH == 0 && self.flags() & O_ACCMODE != O_RDONLY
    }
    /// Reads into `to`.
    ///
    /// # Errors
    /// `EBADF` if not open for reading; `ESPIPE` at a position of a stream; those of [`File::read`].
    pub fn read(&self, position: Position, to: &mut [u8]) -> Result<usize, Errno> {
        if !self.readable() {
            return Err(Errno::EBADF);
        }
        match position {
            Position::At(_) if !self.file.positioned() => Err(Errno::ESPIPE),
            Position::At(at) => self.file.read(at, to),
            Position::Current if !self.file.seekable() => self.file.read(0, to),
            Position::Current => {
                let mut offset = self.offset.lock();
                let count = self.file.read(*offset, to)?;
                *offset = offset.saturating_add(count as u64);
                Ok(count)
            }
        }
    }
    /// Writes `from`.
    ///
    /// # Errors
    /// `EBADF` if not open for writing; `ESPIPE` at a position of a stream; those of [`File::write`].
    pub fn write(&self, position: Position, from: &[u8]) -> Result<usize, Errno> {
        if !self.writable() {
            return Err(Errno::EBADF);
        }
        match position {
            Position::At(_) if !self.file.positioned() => Err(Errno::ESPIPE),
            Position::At(at) => self.file.write(at, from),
            Position::Current if !self.file.seekable() => self.file.write(0, from),
            Position::Current => {
                let mut offset = self.offset.lock();
                if self.flags() & O_APPEND != 0 {
                    let (count, end) = self.file.append(from)?;
                    *offset = end;
                    return Ok(count);
                }
                let count = self.file.write(*offset, from)?;
                *offset = offset.saturating_add(count as u64);
                Ok(count)
            }
        }
    }
    /// lseek(2).
    ///
    /// # Errors
    /// `ESPIPE` on a stream; `EINVAL` for an unknown `whence` or a negative result; `ENXIO` for data past the end.
    pub fn seek(&self, offset: i64, whence: u64) -> Result<u64, Errno> {
        if !self.file.seekable() {
            return Err(Errno::ESPIPE);
        }
        let mut position = self.offset.lock();
        let base = match whence {
            SEEK_SET => 0,
            SEEK_CUR => *position,
            SEEK_END => self.file.stat().size,
            // No file here has holes that are told: everything is data, and a hole is at the end.
            SEEK_DATA | SEEK_HOLE => {
                let size = self.file.stat().size;
                let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
                if from >= size {
                    return Err(Errno::ENXIO);
                }
                *position = if whence == SEEK_DATA { from } else { size };
                return Ok(*position);
            }
            _ => return Err(Errno::EINVAL),
        };
        let to = i128::from(base) + i128::from(offset);
        let to = u64::try_from(to).ok().filter(|to| i64::try_from(*to).is_ok()).ok_or(Errno::EINVAL)?;
        *position = to;
        Ok(to)
    }
    /// The position, and a way to change it while nothing else does (directory reads).
    pub fn with_offset<R>(&self, change: impl FnOnce(&mut u64) -> R) -> R {
        change(&mut self.offset.lock())
    }
    /// What could be done now.
    pub fn ready(&self) -> Ready {
        self.file.ready()
    }
}
