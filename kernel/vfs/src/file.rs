//! What a file is.

use crate::{Event, Socket, Ticket};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use iommu_types::Phys;
use uapi::{Errno, UserMem};

/// What poll(2) asks: `POLL*` bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ready(pub u16);

impl Ready {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Readable (POLLIN, POLLRDNORM).
    pub const READ: Self = Self(0x41);
    /// Writable (POLLOUT, POLLWRNORM).
    pub const WRITE: Self = Self(0x104);
    /// Both, as regular files always are.
    pub const BOTH: Self = Self(0x145);
    /// An error is pending (POLLERR).
    pub const ERROR: Self = Self(8);
    /// The other side is gone (POLLHUP).
    pub const HANGUP: Self = Self(0x10);
    /// The other side sends no more (POLLRDHUP).
    pub const READ_HANGUP: Self = Self(0x2000);

    /// Those of either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// These, if `yes`.
    #[must_use]
    pub const fn when(self, yes: bool) -> Self {
        if yes { self } else { Self::NONE }
    }
}

/// Type of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Symbolic link.
    Link,
    /// Character device.
    Device,
    /// Pipe.
    Pipe,
    /// Socket.
    Socket,
    /// Anonymous inode (eventfd, epoll, iommufd objects).
    Anonymous,
}

impl FileKind {
    /// The `S_IF*` bits.
    pub const fn mode(self) -> u32 {
        use uapi::linux::fs::*;
        match self {
            Self::Regular => S_IFREG,
            Self::Directory => S_IFDIR,
            Self::Link => S_IFLNK,
            Self::Device => S_IFCHR,
            Self::Pipe => S_IFIFO,
            Self::Socket => S_IFSOCK,
            Self::Anonymous => 0,
        }
    }
    /// The `DT_*` value.
    pub const fn dirent(self) -> u8 {
        use uapi::linux::fs::*;
        match self {
            Self::Regular => DT_REG,
            Self::Directory => DT_DIR,
            Self::Link => DT_LNK,
            Self::Device => DT_CHR,
            Self::Pipe => DT_FIFO,
            Self::Socket => DT_SOCK,
            Self::Anonymous => DT_UNKNOWN,
        }
    }
}

/// What stat(2) tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Type.
    pub kind: FileKind,
    /// Rights, `0..=0o7777`.
    pub mode: u32,
    /// Inode number.
    pub ino: u64,
    /// Links.
    pub nlink: u32,
    /// Bytes.
    pub size: u64,
    /// Device number of a device node (`makedev`).
    pub rdev: u64,
    /// Last change, nanoseconds since 1970.
    pub mtime: u64,
}

impl Stat {
    /// An object without a name: inode 1, rights 0600.
    pub const fn anonymous(kind: FileKind) -> Self {
        Self { kind, mode: 0o600, ino: 1, nlink: 1, size: 0, rdev: 0, mtime: 0 }
    }
}

/// Pages that everyone who maps them shares: memfd, shared anonymous memory, tmpfs files.
pub trait Pages: Send + Sync {
    /// The frame of page `index` (4 KiB), allocated and zeroed if it was a hole. A count was taken for the caller.
    ///
    /// # Errors
    /// `EFAULT` past the end of the object (the CPU's view: SIGBUS), `ENOMEM`.
    fn page(&self, index: u64) -> Result<Phys, Errno>;
    /// Identity of the object, for futexes in shared memory; unique while the object lives.
    fn id(&self) -> u64;
}

/// What mmap(2) of a file gives.
pub enum Mapping {
    /// Shared pages; a private mapping copies them on write.
    Pages(Arc<dyn Pages>),
    /// Bytes to be copied from [`File::read`] page by page; private mappings only.
    Copy,
    /// Device memory: uncached, shared mappings only. `base` is where offset 0 of the request lies.
    Device {
        /// Physical address of the first byte mapped (4 KiB aligned).
        base: Phys,
        /// Dropped when the last piece of the mapping is gone.
        keep: Arc<dyn Any + Send + Sync>,
    },
}

/// Who makes a call: the memory and the descriptors of a process.
///
/// Adapters that need more downcast `self as &dyn Any` to the kernel's own type.
pub trait Caller: Any + Send + Sync {
    /// Its memory.
    fn memory(&self) -> &dyn UserMem;
    /// The open file behind descriptor `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    fn file(&self, fd: i32) -> Result<Arc<crate::OpenFile>, Errno>;
    /// Gives `file` the lowest free descriptor, close-on-exec.
    ///
    /// # Errors
    /// `EMFILE`.
    fn install(&self, file: Arc<crate::OpenFile>) -> Result<i32, Errno>;
    /// Takes back a descriptor that [`install`](Self::install) returned, when a later step failed.
    fn uninstall(&self, fd: i32);
}

/// An open object. Methods never block: what cannot be done now is `EAGAIN`, and [`event`](Self::event) is signalled
/// when trying again may help.
#[allow(unused_variables)]
pub trait File: Any + Send + Sync {
    /// Reads into `to`, from byte `at` if the file is seekable. Returns the bytes read; 0 at the end.
    ///
    /// # Errors
    /// `EAGAIN`; `EINVAL` if it cannot be read.
    fn read(&self, at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }
    /// Writes from `from`, at byte `at` if the file is seekable. Returns the bytes written.
    ///
    /// # Errors
    /// `EAGAIN`; `EINVAL` if it cannot be written; `EPIPE`.
    fn write(&self, at: u64, from: &[u8]) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }
    /// Appends, and returns the new end too. Only seekable files are asked.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn append(&self, from: &[u8]) -> Result<(usize, u64), Errno> {
        let end = self.stat().size;
        let count = self.write(end, from)?;
        Ok((count, end + count as u64))
    }
    /// Does it have a position?
    fn seekable(&self) -> bool {
        false
    }
    /// Can it be read or written at a position (pread) although lseek makes no sense?
    fn positioned(&self) -> bool {
        self.seekable()
    }
    /// ioctl(2). `arg` is an allegation: a number or an address in the caller's memory.
    ///
    /// # Errors
    /// `ENOTTY` if it knows no such command.
    fn ioctl(&self, command: u32, arg: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        Err(Errno::ENOTTY)
    }
    /// Asked by mmap(2): `offset` and `length` are multiples of 4 KiB, `shared` is MAP_SHARED, `write` PROT_WRITE.
    ///
    /// # Errors
    /// `ENODEV` if it cannot be mapped.
    fn mmap(&self, offset: u64, length: u64, shared: bool, write: bool) -> Result<Mapping, Errno> {
        Err(Errno::ENODEV)
    }
    /// What could be done now without `EAGAIN`.
    fn ready(&self) -> Ready {
        Ready::BOTH
    }
    /// Signalled when [`ready`](Self::ready) may have changed; `None` if it never changes.
    fn event(&self) -> Option<Event> {
        None
    }
    /// Appends the tickets to wait for. Only a file that stands for several others needs more than its own event.
    fn tickets(&self, to: &mut Vec<Ticket>) {
        to.extend(self.event().map(|event| event.ticket()));
    }
    /// Type, rights, size.
    fn stat(&self) -> Stat;
    /// Sets the size in bytes; new bytes read as zero.
    ///
    /// # Errors
    /// `EINVAL` if it has no size.
    fn truncate(&self, size: u64) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }
    /// fcntl(F_ADD_SEALS): adds `seals` (0 asks), returns those that hold.
    ///
    /// # Errors
    /// `EINVAL` if it has none; `EPERM` if sealed against sealing.
    fn seal(&self, seals: u32) -> Result<u32, Errno> {
        Err(Errno::EINVAL)
    }
    /// It as a socket.
    fn socket(&self) -> Option<&dyn Socket> {
        None
    }
}
