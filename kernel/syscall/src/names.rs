//! Calls on names.

use crate::cx::Cx;
use crate::{Answer, Errno, Outcome};
use uapi::UserMem;
use uapi::linux::fs::*;
use uapi::linux::time::{Timespec, UTIME_NOW, UTIME_OMIT};
use vfs::{FileKind, OpenFile, Place, Stat};

const DONE: Answer = Ok(Outcome::Done(0));
/// Device number of everything here.
const DEVICE: u64 = 1;

/// Writes `stat` in the layout of the architecture.
pub(crate) fn fill_stat(cx: &Cx, at: u64, stat: &Stat) -> Result<(), Errno> {
    let time = Timespec::from_nanos(stat.mtime);
    let mode = stat.kind.mode() | stat.mode;
    let (size, blocks) = (stat.size as i64, stat.size.div_ceil(512) as i64);
    if cx.system.abi.layout.stat_x86 {
        let raw = StatX86 {
            dev: DEVICE,
            ino: stat.ino,
            nlink: u64::from(stat.nlink),
            mode,
            rdev: stat.rdev,
            size,
            blksize: 4096,
            blocks,
            atime: time,
            mtime: time,
            ctime: time,
            ..StatX86::default()
        };
        return cx.put(at, &raw);
    }
    let raw = StatGeneric {
        dev: DEVICE,
        ino: stat.ino,
        nlink: stat.nlink,
        mode,
        rdev: stat.rdev,
        size,
        blksize: 4096,
        blocks,
        atime: time,
        mtime: time,
        ctime: time,
        ..StatGeneric::default()
    };
    cx.put(at, &raw)
}

/// What statfs(2) tells: one file system, in memory.
pub(crate) fn statfs(cx: &Cx) -> Statfs {
    let (free, all) = cx.kernel().frames.usage();
    Statfs {
        kind: 0x0102_1994,
        bsize: 4096,
        blocks: [all, free, free],
        files: [1 << 20, 1 << 20],
        namelen: NAME_MAX as i64,
        frsize: 4096,
        ..Statfs::default()
    }
}

impl Cx {
    /// Where a relative path starts.
    fn start(&self, fd: i32, path: &[u8]) -> Result<Place, Errno> {
        if path.first() == Some(&b'/') || fd == AT_FDCWD {
            return Ok(self.cwd());
        }
        let file = self.file(fd)?;
        let place = file.place.clone().ok_or(Errno::ENOTDIR)?;
        if place.node().kind() != FileKind::Directory { Err(Errno::ENOTDIR) } else { Ok(place) }
    }
    /// A path in the caller's memory, and where it starts.
    fn at(&self, fd: i32, path: u64) -> Result<(Place, alloc::vec::Vec<u8>), Errno> {
        let path = self.path(path)?;
        Ok((self.start(fd, &path)?, path))
    }
    fn mode(&self, mode: u64) -> u32 {
        mode as u32 & 0o7777 & !self.process().fs().lock().umask
    }
    fn open_at(&self, fd: i32, path: u64, flags: u32, mode: u64) -> Answer {
        let layout = &self.system.abi.layout;
        let mut known = flags & !(layout.open_directory | layout.open_nofollow);
        // From the architecture's bits to ours.
        if flags & layout.open_directory != 0 {
            known |= O_DIRECTORY;
        }
        if flags & layout.open_nofollow != 0 {
            known |= O_NOFOLLOW;
        }
        let flags = known;
        if flags & O_ACCMODE == 3 {
            return Err(Errno::EINVAL);
        }
        let (from, path) = self.at(fd, path)?;
        if flags & O_TMPFILE != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        // A full table is told before anything is made.
        let files = self.process().files();
        let tree = &self.kernel().tree;
        let file = tree.open(&from, &path, flags, self.mode(mode), self.viewer())?;
        let fd = files.lock().insert(file, 0, flags & O_CLOEXEC != 0)?;
        Ok(Outcome::Done(i64::from(fd)))
    }
    pub(crate) fn open(&self) -> Answer {
        self.open_at(AT_FDCWD, self.args[0], self.args[1] as u32, self.args[2])
    }
    pub(crate) fn openat(&self) -> Answer {
        self.open_at(self.fd(0), self.args[1], self.args[2] as u32, self.args[3])
    }
    pub(crate) fn creat(&self) -> Answer {
        self.open_at(AT_FDCWD, self.args[0], O_CREAT | O_WRONLY | O_TRUNC, self.args[1])
    }
    /// stat of `path` from `fd`, or of `fd` itself with AT_EMPTY_PATH and an empty path.
    fn stat_at(&self, fd: i32, path: u64, flags: u64) -> Result<Stat, Errno> {
        let name = if path == 0 && flags & AT_EMPTY_PATH != 0 { alloc::vec::Vec::new() } else { self.path(path)? };
        if name.is_empty() && flags & AT_EMPTY_PATH != 0 {
            return if fd == AT_FDCWD { Ok(self.cwd().node().stat()) } else { Ok(self.file(fd)?.file.stat()) };
        }
        let from = self.start(fd, &name)?;
        self.kernel().tree.stat(&from, &name, self.viewer(), flags & AT_SYMLINK_NOFOLLOW == 0)
    }
    pub(crate) fn stat(&self, follow: bool) -> Answer {
        let flags = if follow { 0 } else { AT_SYMLINK_NOFOLLOW };
        let stat = self.stat_at(AT_FDCWD, self.args[0], flags)?;
        fill_stat(self, self.args[1], &stat)?;
        DONE
    }
    pub(crate) fn newfstatat(&self) -> Answer {
        let stat = self.stat_at(self.fd(0), self.args[1], self.args[3])?;
        fill_stat(self, self.args[2], &stat)?;
        DONE
    }
    pub(crate) fn statx(&self) -> Answer {
        let stat = self.stat_at(self.fd(0), self.args[1], self.args[2])?;
        let time =
            StatxTime { sec: (stat.mtime / 1_000_000_000) as i64, nsec: (stat.mtime % 1_000_000_000) as u32, pad: 0 };
        let raw = Statx {
            mask: STATX_BASIC_STATS,
            blksize: 4096,
            nlink: stat.nlink,
            mode: (stat.kind.mode() | stat.mode) as u16,
            ino: stat.ino,
            size: stat.size,
            blocks: stat.size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            rdev_major: (stat.rdev >> 8 & 0xfff) as u32,
            rdev_minor: (stat.rdev & 0xff | stat.rdev >> 12 & 0xffff_ff00) as u32,
            dev_minor: DEVICE as u32,
            ..Statx::default()
        };
        self.put(self.args[4], &raw)?;
        DONE
    }
    /// The one user may read and write everything; execute what somebody may execute.
    fn access_at(&self, fd: i32, path: u64, mode: u64, flags: u64) -> Answer {
        if mode & !7 != 0 {
            return Err(Errno::EINVAL);
        }
        let stat = self.stat_at(fd, path, flags)?;
        if mode & 1 != 0 && stat.kind == FileKind::Regular && stat.mode & 0o111 == 0 {
            return Err(Errno::EACCES);
        }
        DONE
    }
    pub(crate) fn access(&self) -> Answer {
        self.access_at(AT_FDCWD, self.args[0], self.args[1], 0)
    }
    pub(crate) fn faccessat(&self) -> Answer {
        // faccessat(2) has three arguments, faccessat2(2) four; the fourth register of the former is noise.
        self.access_at(self.fd(0), self.args[1], self.args[2], self.args[3] & (AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH))
    }
    pub(crate) fn getcwd(&self) -> Answer {
        let mut path = self.cwd().path();
        path.push(0);
        if path.len() as u64 > self.args[1] {
            return Err(Errno::ERANGE);
        }
        self.space.copy_out(self.args[0], &path)?;
        Ok(Outcome::Done(path.len() as i64))
    }
    pub(crate) fn enter(&self, place: Place) -> Answer {
        if place.node().kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let fs = self.process().fs();
        let old = core::mem::replace(&mut fs.lock().cwd, place);
        drop(old);
        DONE
    }
    pub(crate) fn chdir(&self) -> Answer {
        let path = self.path(self.args[0])?;
        let place = self.kernel().tree.resolve(&self.cwd(), &path, self.viewer(), true)?;
        self.enter(place)
    }
    fn mkdir_at(&self, fd: i32, path: u64, mode: u64) -> Answer {
        let (from, path) = self.at(fd, path)?;
        self.kernel().tree.mkdir(&from, &path, self.mode(mode), self.viewer())?;
        DONE
    }
    pub(crate) fn mkdir(&self) -> Answer {
        self.mkdir_at(AT_FDCWD, self.args[0], self.args[1])
    }
    pub(crate) fn mkdirat(&self) -> Answer {
        self.mkdir_at(self.fd(0), self.args[1], self.args[2])
    }
    fn unlink_at(&self, fd: i32, path: u64, directory: bool) -> Answer {
        let (from, path) = self.at(fd, path)?;
        self.kernel().tree.unlink(&from, &path, directory, self.viewer())?;
        DONE
    }
    pub(crate) fn rmdir(&self) -> Answer {
        self.unlink_at(AT_FDCWD, self.args[0], true)
    }
    pub(crate) fn unlink(&self) -> Answer {
        self.unlink_at(AT_FDCWD, self.args[0], false)
    }
    pub(crate) fn unlinkat(&self) -> Answer {
        if self.args[2] & !AT_REMOVEDIR != 0 {
            return Err(Errno::EINVAL);
        }
        self.unlink_at(self.fd(0), self.args[1], self.args[2] & AT_REMOVEDIR != 0)
    }
    fn rename_at(&self, from: (i32, u64), to: (i32, u64), flags: u64) -> Answer {
        if flags & !RENAME_NOREPLACE != 0 {
            return Err(Errno::EINVAL);
        }
        let (from, old) = self.at(from.0, from.1)?;
        let (to, new) = self.at(to.0, to.1)?;
        let replace = flags & RENAME_NOREPLACE == 0;
        self.kernel().tree.rename((&from, &old), (&to, &new), replace, self.viewer())?;
        DONE
    }
    pub(crate) fn rename(&self) -> Answer {
        self.rename_at((AT_FDCWD, self.args[0]), (AT_FDCWD, self.args[1]), 0)
    }
    pub(crate) fn renameat(&self, flags: u64) -> Answer {
        self.rename_at((self.fd(0), self.args[1]), (self.fd(2), self.args[3]), flags)
    }
    fn link_at(&self, from: (i32, u64), to: (i32, u64), flags: u64) -> Answer {
        let (start, old) = self.at(from.0, from.1)?;
        let follow = flags & AT_SYMLINK_FOLLOW != 0;
        let place = self.kernel().tree.resolve(&start, &old, self.viewer(), follow)?;
        let (to, new) = self.at(to.0, to.1)?;
        self.kernel().tree.link(place.node(), &to, &new, self.viewer())?;
        DONE
    }
    pub(crate) fn link(&self) -> Answer {
        self.link_at((AT_FDCWD, self.args[0]), (AT_FDCWD, self.args[1]), 0)
    }
    pub(crate) fn linkat(&self) -> Answer {
        self.link_at((self.fd(0), self.args[1]), (self.fd(2), self.args[3]), self.args[4])
    }
    fn symlink_at(&self, target: u64, fd: i32, path: u64) -> Answer {
        let target = self.path(target)?;
        let (from, path) = self.at(fd, path)?;
        self.kernel().tree.symlink(&target, &from, &path, self.viewer())?;
        DONE
    }
    pub(crate) fn symlink(&self) -> Answer {
        self.symlink_at(self.args[0], AT_FDCWD, self.args[1])
    }
    pub(crate) fn symlinkat(&self) -> Answer {
        self.symlink_at(self.args[0], self.fd(1), self.args[2])
    }
    fn readlink_at(&self, fd: i32, path: u64, to: u64, room: u64) -> Answer {
        if room as i32 <= 0 {
            return Err(Errno::EINVAL);
        }
        let (from, path) = self.at(fd, path)?;
        let target = self.kernel().tree.readlink(&from, &path, self.viewer())?;
        let count = target.len().min(room as i32 as usize);
        self.space.copy_out(to, &target[..count])?;
        Ok(Outcome::Done(count as i64))
    }
    pub(crate) fn readlink(&self) -> Answer {
        self.readlink_at(AT_FDCWD, self.args[0], self.args[1], self.args[2])
    }
    pub(crate) fn readlinkat(&self) -> Answer {
        self.readlink_at(self.fd(0), self.args[1], self.args[2], self.args[3])
    }
    fn opened(&self, fd: i32, path: u64, flags: u32) -> Result<alloc::sync::Arc<OpenFile>, Errno> {
        let (from, path) = self.at(fd, path)?;
        self.kernel().tree.open(&from, &path, flags, 0, self.viewer())
    }
    pub(crate) fn truncate(&self) -> Answer {
        let size = u64::try_from(self.args[1] as i64).map_err(|_| Errno::EINVAL)?;
        self.opened(AT_FDCWD, self.args[0], O_WRONLY)?.file.truncate(size)?;
        DONE
    }
    fn chmod_at(&self, fd: i32, path: u64, mode: u64) -> Answer {
        let (from, path) = self.at(fd, path)?;
        self.kernel().tree.resolve(&from, &path, self.viewer(), true)?.node().set_mode(mode as u32);
        DONE
    }
    pub(crate) fn chmod(&self) -> Answer {
        self.chmod_at(AT_FDCWD, self.args[0], self.args[1])
    }
    pub(crate) fn fchmodat(&self) -> Answer {
        self.chmod_at(self.fd(0), self.args[1], self.args[2])
    }
    /// There is one user: changing the owner to it succeeds, to others too, without an effect.
    pub(crate) fn chown(&self) -> Answer {
        self.stat_at(AT_FDCWD, self.args[0], AT_SYMLINK_NOFOLLOW)?;
        DONE
    }
    pub(crate) fn fchownat(&self) -> Answer {
        self.stat_at(self.fd(0), self.args[1], self.args[4])?;
        DONE
    }
    pub(crate) fn utimensat(&self) -> Answer {
        let now = self.kernel().machine.realtime();
        let stamp = if self.args[2] == 0 {
            Some(now)
        } else {
            let times: [Timespec; 2] = [self.get(self.args[2])?, self.get(self.args[2].wrapping_add(16))?];
            match times[1].nsec {
                UTIME_NOW => Some(now),
                UTIME_OMIT => None,
                _ => Some(times[1].nanos().ok_or(Errno::EINVAL)?),
            }
        };
        let place = if self.args[1] == 0 {
            self.file(self.fd(0))?.place.clone()
        } else {
            let (from, path) = self.at(self.fd(0), self.args[1])?;
            let follow = self.args[3] & AT_SYMLINK_NOFOLLOW == 0;
            Some(self.kernel().tree.resolve(&from, &path, self.viewer(), follow)?)
        };
        if let (Some(place), Some(stamp)) = (place, stamp) {
            place.node().set_mtime(stamp);
        }
        DONE
    }
    pub(crate) fn statfs(&self) -> Answer {
        self.stat_at(AT_FDCWD, self.args[0], 0)?;
        self.put(self.args[1], &statfs(self))?;
        DONE
    }
    pub(crate) fn umask(&self) -> Answer {
        let fs = self.process().fs();
        let old = core::mem::replace(&mut fs.lock().umask, self.args[0] as u32 & 0o777);
        Ok(Outcome::Done(i64::from(old)))
    }
}
