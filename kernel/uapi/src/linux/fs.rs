//! Files: open flags, stat structures, directory entries, poll, terminals.
use super::constants;
use super::time::Timespec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

constants! {
    O_ACCMODE: u32 = 3,
    O_RDONLY: u32 = 0,
    O_WRONLY: u32 = 1,
    O_RDWR: u32 = 2,
    O_CREAT: u32 = 0o100,
    O_EXCL: u32 = 0o200,
    O_NOCTTY: u32 = 0o400,
    O_TRUNC: u32 = 0o1000,
    O_APPEND: u32 = 0o2000,
    O_NONBLOCK: u32 = 0o4000,
    O_DSYNC: u32 = 0o10000,
    O_ASYNC: u32 = 0o20000,
    O_DIRECTORY: u32 = 0o200000,
    O_NOFOLLOW: u32 = 0o400000,
    O_CLOEXEC: u32 = 0o2000000,
    O_PATH: u32 = 0o10000000,
    O_TMPFILE: u32 = 0o20000000,
    AT_FDCWD: i32 = -100,
    AT_SYMLINK_NOFOLLOW: u64 = 0x100,
    AT_REMOVEDIR: u64 = 0x200,
    AT_SYMLINK_FOLLOW: u64 = 0x400,
    AT_NO_AUTOMOUNT: u64 = 0x800,
    AT_EMPTY_PATH: u64 = 0x1000,
    S_IFMT: u32 = 0o170000,
    S_IFSOCK: u32 = 0o140000,
    S_IFLNK: u32 = 0o120000,
    S_IFREG: u32 = 0o100000,
    S_IFBLK: u32 = 0o060000,
    S_IFDIR: u32 = 0o040000,
    S_IFCHR: u32 = 0o020000,
    S_IFIFO: u32 = 0o010000,
    SEEK_SET: u64 = 0,
    SEEK_CUR: u64 = 1,
    SEEK_END: u64 = 2,
    SEEK_DATA: u64 = 3,
    SEEK_HOLE: u64 = 4,
    F_DUPFD: u64 = 0,
    F_GETFD: u64 = 1,
    F_SETFD: u64 = 2,
    F_GETFL: u64 = 3,
    F_SETFL: u64 = 4,
    F_GETLK: u64 = 5,
    F_SETLK: u64 = 6,
    F_SETLKW: u64 = 7,
    F_SETOWN: u64 = 8,
    F_GETOWN: u64 = 9,
    F_DUPFD_CLOEXEC: u64 = 1030,
    F_SETPIPE_SZ: u64 = 1031,
    F_GETPIPE_SZ: u64 = 1032,
    F_ADD_SEALS: u64 = 1033,
    F_GET_SEALS: u64 = 1034,
    F_SEAL_SEAL: u64 = 1,
    FD_CLOEXEC: u64 = 1,
    DT_UNKNOWN: u8 = 0,
    DT_FIFO: u8 = 1,
    DT_CHR: u8 = 2,
    DT_DIR: u8 = 4,
    DT_BLK: u8 = 6,
    DT_REG: u8 = 8,
    DT_LNK: u8 = 10,
    DT_SOCK: u8 = 12,
    POLLIN: u16 = 1,
    POLLPRI: u16 = 2,
    POLLOUT: u16 = 4,
    POLLERR: u16 = 8,
    POLLHUP: u16 = 0x10,
    POLLNVAL: u16 = 0x20,
    POLLRDNORM: u16 = 0x40,
    POLLWRNORM: u16 = 0x100,
    POLLRDHUP: u16 = 0x2000,
    EPOLL_CTL_ADD: u64 = 1,
    EPOLL_CTL_DEL: u64 = 2,
    EPOLL_CTL_MOD: u64 = 3,
    EPOLLET: u32 = 1 << 31,
    EPOLLONESHOT: u32 = 1 << 30,
    EFD_SEMAPHORE: u64 = 1,
    FALLOC_FL_KEEP_SIZE: u64 = 1,
    FALLOC_FL_PUNCH_HOLE: u64 = 2,
    RENAME_NOREPLACE: u64 = 1,
    RENAME_EXCHANGE: u64 = 2,
    TCGETS: u32 = 0x5401,
    TCSETS: u32 = 0x5402,
    TCSETSW: u32 = 0x5403,
    TCSETSF: u32 = 0x5404,
    TIOCGPGRP: u32 = 0x540f,
    TIOCSPGRP: u32 = 0x5410,
    TIOCGWINSZ: u32 = 0x5413,
    TIOCSWINSZ: u32 = 0x5414,
    FIONREAD: u32 = 0x541b,
    FIONBIO: u32 = 0x5421,
    FIONCLEX: u32 = 0x5450,
    FIOCLEX: u32 = 0x5451,
    PATH_MAX: usize = 4096,
    NAME_MAX: usize = 255,
    IOV_MAX: u64 = 1024,
    /// Most bytes one read or write moves.
    MAX_RW_COUNT: u64 = 0x7fff_f000,
}

/// `struct stat` of x86-64, 144 bytes.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatX86 {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Links.
    pub nlink: u64,
    /// Type and rights.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Zero.
    pub pad: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Bytes.
    pub size: i64,
    /// Preferred transfer size.
    pub blksize: i64,
    /// 512-byte blocks.
    pub blocks: i64,
    /// Last access.
    pub atime: Timespec,
    /// Last change of content.
    pub mtime: Timespec,
    /// Last change of metadata.
    pub ctime: Timespec,
    /// Zero.
    pub unused: [i64; 3],
}

/// The generic `struct stat` (aarch64 and later), 128 bytes.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatGeneric {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Type and rights.
    pub mode: u32,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Zero.
    pub pad: u64,
    /// Bytes.
    pub size: i64,
    /// Preferred transfer size.
    pub blksize: i32,
    /// Zero.
    pub pad2: i32,
    /// 512-byte blocks.
    pub blocks: i64,
    /// Last access.
    pub atime: Timespec,
    /// Last change of content.
    pub mtime: Timespec,
    /// Last change of metadata.
    pub ctime: Timespec,
    /// Zero.
    pub unused: [u32; 2],
}

/// `struct statx_timestamp`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatxTime {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds.
    pub nsec: u32,
    /// Zero.
    pub pad: i32,
}

/// `struct statx`, 256 bytes.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Statx {
    /// Which fields are valid.
    pub mask: u32,
    /// Preferred transfer size.
    pub blksize: u32,
    /// Attributes.
    pub attributes: u64,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Type and rights.
    pub mode: u16,
    /// Zero.
    pub pad: u16,
    /// Inode.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// 512-byte blocks.
    pub blocks: u64,
    /// Supported attributes.
    pub attributes_mask: u64,
    /// Last access.
    pub atime: StatxTime,
    /// Creation.
    pub btime: StatxTime,
    /// Last change of metadata.
    pub ctime: StatxTime,
    /// Last change of content.
    pub mtime: StatxTime,
    /// Device number of a device node.
    pub rdev_major: u32,
    /// Device number of a device node.
    pub rdev_minor: u32,
    /// Device.
    pub dev_major: u32,
    /// Device.
    pub dev_minor: u32,
    /// Zero.
    pub spare: [u64; 14],
}

/// `STATX_BASIC_STATS`.
pub const STATX_BASIC_STATS: u32 = 0x7ff;

/// The kernel's `struct termios`, 36 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termios {
    /// Input modes.
    pub iflag: u32,
    /// Output modes.
    pub oflag: u32,
    /// Control modes.
    pub cflag: u32,
    /// Local modes.
    pub lflag: u32,
    /// Line discipline.
    pub line: u8,
    /// Control characters.
    pub cc: [u8; 19],
}

/// `struct winsize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Winsize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
    /// Pixels.
    pub x: u16,
    /// Pixels.
    pub y: u16,
}

/// `struct statfs`, 120 bytes.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Statfs {
    /// Magic number of the file system.
    pub kind: i64,
    /// Block size, bytes.
    pub bsize: i64,
    /// Blocks: all, free, available.
    pub blocks: [u64; 3],
    /// Inodes: all, free.
    pub files: [u64; 2],
    /// File-system id.
    pub fsid: u64,
    /// Longest name.
    pub namelen: i64,
    /// Fragment size.
    pub frsize: i64,
    /// Mount flags.
    pub flags: i64,
    /// Zero.
    pub spare: [i64; 4],
}

/// Number of a device node from major and minor (the encoding of `makedev`).
pub const fn makedev(major: u32, minor: u32) -> u64 {
    let (major, minor) = (major as u64, minor as u64);
    (major & 0xfff) << 8 | (major & 0xffff_f000) << 32 | minor & 0xff | (minor & 0xffff_ff00) << 12
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};

    #[test]
    fn layouts_are_those_of_the_manual() {
        assert_eq!(size_of::<StatX86>(), 144);
        assert_eq!(offset_of!(StatX86, size), 48);
        assert_eq!(offset_of!(StatX86, mtime), 88);
        assert_eq!(size_of::<StatGeneric>(), 128);
        assert_eq!(size_of::<Statx>(), 256);
        assert_eq!(offset_of!(Statx, mtime), 112);
        assert_eq!(offset_of!(Statx, dev_major), 136);
        assert_eq!(size_of::<Termios>(), 36);
        assert_eq!(size_of::<Statfs>(), 120);
        assert_eq!(makedev(1, 3), 0x103);
        assert_eq!(makedev(0x1234, 0x56789), 0x1000_5672_3489);
    }
}
