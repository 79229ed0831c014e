//! Calls on descriptors.

use crate::cx::Cx;
use crate::names::{fill_stat, statfs};
use crate::{Answer, Errno, Outcome};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use uapi::UserMem;
use uapi::linux::fs::*;
use uapi::linux::mman::{MFD_ALLOW_SEALING, MFD_CLOEXEC, MFD_EXEC, MFD_HUGETLB, MFD_NOEXEC_SEAL};
use vfs::{DirFile, EventFd, File, FileKind, OpenFile, Ready, Stat};

/// A process as a file: readable once it ended.
pub(crate) struct PidFd(pub Arc<task::Process>);

impl File for PidFd {
    fn ready(&self) -> Ready {
        Ready::READ.when(self.0.ended().is_some())
    }
    fn event(&self) -> Option<vfs::Event> {
        Some(self.0.end.clone())
    }
    fn stat(&self) -> Stat {
        Stat::anonymous(FileKind::Anonymous)
    }
}

const fn done(value: u64) -> Answer {
    Ok(Outcome::Done(value as i64))
}

impl Cx {
    pub(crate) fn lseek(&self) -> Answer {
        let file = self.file(self.fd(0))?;
        // Linux looks at this before it asks whether the file can seek at all.
        if self.args[2] > uapi::linux::fs::SEEK_HOLE {
            return Err(Errno::EINVAL);
        }
        done(file.seek(self.args[1] as i64, self.args[2])?)
    }
    pub(crate) fn close(&self) -> Answer {
        let gone = self.process().files().lock().remove(self.fd(0))?;
        // Outside the lock: this may be the last reference, and take down a device.
        drop(gone);
        done(0)
    }
    pub(crate) fn close_range(&self) -> Answer {
        let (first, last, flags) = (self.args[0] as u32, self.args[1] as u32, self.args[2]);
        if first > last || flags & !6 != 0 {
            return Err(Errno::EINVAL);
        }
        if flags & 4 != 0 {
            let files = self.process().files();
            let mut files = files.lock();
            for fd in files.open().into_iter().filter(|fd| (first..=last).contains(&(*fd as u32))) {
                files.set_close_on_exec(fd, true)?;
            }
            return done(0);
        }
        let gone = self.process().files().lock().take_range(first, last);
        drop(gone);
        done(0)
    }
    pub(crate) fn dup(&self) -> Answer {
        let files = self.process().files();
        let mut files = files.lock();
        let file = files.get(self.fd(0))?;
        done(files.insert(file, 0, false)? as u64)
    }
    fn dup_to(&self, close_on_exec: bool) -> Answer {
        let (from, to) = (self.fd(0), self.fd(1));
        let old = {
            let files = self.process().files();
            let mut files = files.lock();
            let file = files.get(from)?;
            files.replace(to, file, close_on_exec)?
        };
        drop(old);
        done(to as u64)
    }
    pub(crate) fn dup2(&self) -> Answer {
        if self.fd(0) == self.fd(1) {
            self.file(self.fd(0))?;
            return done(self.fd(0) as u64);
        }
        self.dup_to(false)
    }
    pub(crate) fn dup3(&self) -> Answer {
        let flags = self.args[2] as u32;
        if self.fd(0) == self.fd(1) || flags & !O_CLOEXEC != 0 {
            return Err(Errno::EINVAL);
        }
        self.dup_to(flags & O_CLOEXEC != 0)
    }
    pub(crate) fn fcntl(&self) -> Answer {
        let (fd, argument) = (self.fd(0), self.args[2]);
        let file = self.file(fd)?;
        let files = self.process().files();
        match self.args[1] {
            F_DUPFD => done(files.lock().insert(file, argument as i32, false)? as u64),
            F_DUPFD_CLOEXEC => done(files.lock().insert(file, argument as i32, true)? as u64),
            F_GETFD => done(u64::from(files.lock().close_on_exec(fd)?)),
            F_SETFD => {
                files.lock().set_close_on_exec(fd, argument & FD_CLOEXEC != 0)?;
                done(0)
            }
            F_GETFL => done(u64::from(file.flags())),
            F_SETFL => {
                file.set_flags(argument as u32);
                done(0)
            }
            F_ADD_SEALS if argument == 0 => file.file.seal(0).map(|_| Outcome::Done(0)),
            F_ADD_SEALS => {
                if !file.writable() {
                    return Err(Errno::EPERM);
                }
                file.file.seal(u32::try_from(argument).map_err(|_| Errno::EINVAL)?)?;
                done(0)
            }
            F_GET_SEALS => done(u64::from(file.file.seal(0)?)),
            F_GETPIPE_SZ if file.file.stat().kind == FileKind::Pipe => done(vfs::PIPE_CAPACITY as u64),
            F_SETPIPE_SZ if file.file.stat().kind == FileKind::Pipe => done(vfs::PIPE_CAPACITY as u64),
            // Record locks: one program at a time is the use here, and nobody holds one.
            F_SETLK | F_SETLKW => done(0),
            F_GETLK => {
                let mut lock: [u8; 32] = self.get(argument)?;
                lock[0] = 2;
                self.put(argument, &lock)?;
                done(0)
            }
            F_SETOWN | F_GETOWN => done(0),
            _ => Err(Errno::EINVAL),
        }
    }
    pub(crate) fn ioctl(&self) -> Answer {
        let fd = self.fd(0);
        let file = self.file(fd)?;
        if file.flags() & O_PATH != 0 {
            return Err(Errno::EBADF);
        }
        let (command, argument) = (self.args[1] as u32, self.args[2]);
        match command {
            FIONBIO => {
                let on: u32 = self.get(argument)?;
                let flags = file.flags() & !O_NONBLOCK | if on != 0 { O_NONBLOCK } else { 0 };
                file.set_flags(flags);
            }
            FIOCLEX | FIONCLEX => {
                self.process().files().lock().set_close_on_exec(fd, command == FIOCLEX)?;
            }
            _ => return file.file.ioctl(command, argument, self).map(Outcome::Done),
        }
        done(0)
    }
    pub(crate) fn fstat(&self) -> Answer {
        let stat = self.file(self.fd(0))?.file.stat();
        fill_stat(self, self.args[1], &stat)?;
        done(0)
    }
    pub(crate) fn fstatfs(&self) -> Answer {
        self.file(self.fd(0))?;
        self.put(self.args[1], &statfs(self))?;
        done(0)
    }
    pub(crate) fn ftruncate(&self) -> Answer {
        let file = self.file(self.fd(0))?;
        if !file.writable() {
            return Err(Errno::EINVAL);
        }
        let size = u64::try_from(self.args[1] as i64).map_err(|_| Errno::EINVAL)?;
        file.file.truncate(size)?;
        done(0)
    }
    pub(crate) fn fallocate(&self) -> Answer {
        let file = self.file(self.fd(0))?;
        if !file.writable() {
            return Err(Errno::EBADF);
        }
        let (mode, offset, length) = (self.args[1], self.args[2] as i64, self.args[3] as i64);
        if offset < 0 || length <= 0 {
            return Err(Errno::EINVAL);
        }
        if !file.file.seekable() {
            return Err(Errno::ESPIPE);
        }
        let end = offset.checked_add(length).ok_or(Errno::EFBIG)? as u64;
        let size = file.file.stat().size;
        match mode {
            // Nothing is reserved: memory is found when it is written.
            0 if end > size => file.file.truncate(end)?,
            0 | FALLOC_FL_KEEP_SIZE => {}
            mode if mode == FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE => {
                let zeros = [0; 4096];
                let mut at = offset as u64;
                while at < end.min(size) {
                    let part = (end.min(size) - at).min(zeros.len() as u64) as usize;
                    at += file.file.write(at, &zeros[..part])? as u64;
                }
            }
            _ => return Err(Errno::EOPNOTSUPP),
        }
        done(0)
    }
    /// Calls that only ask whether the descriptor is there: everything is in memory, and there is one user.
    pub(crate) fn fsync(&self) -> Answer {
        self.file(self.fd(0))?;
        done(0)
    }
    pub(crate) fn fchmod(&self) -> Answer {
        let file = self.file(self.fd(0))?;
        if let Some(place) = &file.place {
            place.node().set_mode(self.args[1] as u32);
        }
        done(0)
    }
    pub(crate) fn fchdir(&self) -> Answer {
        let file = self.file(self.fd(0))?;
        let place = file.place.clone().ok_or(Errno::ENOTDIR)?;
        self.enter(place)
    }
    pub(crate) fn getdents(&self) -> Answer {
        let file = self.file(self.fd(0))?;
        let (at, room) = (self.args[1], self.args[2].min(1 << 20) as usize);
        let object: &dyn Any = &*file.file;
        let directory = object.downcast_ref::<DirFile>().ok_or(Errno::ENOTDIR)?;
        let mut bytes: Vec<u8> = Vec::new();
        file.with_offset(|offset| {
            let reached = directory.entries(*offset, self.viewer(), &mut |entry, next| {
                let size = (19 + entry.name.len() + 1).next_multiple_of(8);
                if bytes.len() + size > room {
                    return if bytes.is_empty() { Err(Errno::EINVAL) } else { Ok(false) };
                }
                let start = bytes.len();
                bytes.extend_from_slice(&entry.ino.to_le_bytes());
                bytes.extend_from_slice(&next.to_le_bytes());
                bytes.extend_from_slice(&(size as u16).to_le_bytes());
                bytes.push(entry.kind.dirent());
                bytes.extend_from_slice(&entry.name);
                bytes.resize(start + size, 0);
                Ok(true)
            })?;
            self.space.copy_out(at, &bytes)?;
            *offset = reached;
            Ok(Outcome::Done(bytes.len() as i64))
        })
    }
    /// Installs two files, writes their descriptors to `at`; nothing stays if that fails.
    pub(crate) fn install_pair(
        &self,
        at: u64,
        (one, two): (Arc<OpenFile>, Arc<OpenFile>),
        close_on_exec: bool,
    ) -> Answer {
        let files = self.process().files();
        let first = files.lock().insert(one, 0, close_on_exec)?;
        let second = files.lock().insert(two, 0, close_on_exec);
        let second = match second {
            Ok(second) => second,
            Err(error) => {
                let gone = files.lock().remove(first);
                drop(gone);
                return Err(error);
            }
        };
        if let Err(error) = self.put(at, &[first, second]) {
            for fd in [first, second] {
                let gone = files.lock().remove(fd);
                drop(gone);
            }
            return Err(error);
        }
        done(0)
    }
    pub(crate) fn pipe(&self, flags: u64) -> Answer {
        let flags = flags as u32;
        const O_DIRECT: u32 = 0o40000;
        if flags & !(O_CLOEXEC | O_NONBLOCK | O_DIRECT) != 0 {
            return Err(Errno::EINVAL);
        }
        let (reader, writer) = vfs::pipe();
        let keep = flags & O_NONBLOCK;
        let pair = (OpenFile::new(reader, O_RDONLY | keep), OpenFile::new(writer, O_WRONLY | keep));
        self.install_pair(self.args[0], pair, flags & O_CLOEXEC != 0)
    }
    pub(crate) fn eventfd(&self, flags: u64) -> Answer {
        let known = u64::from(O_CLOEXEC | O_NONBLOCK) | EFD_SEMAPHORE;
        if flags & !known != 0 {
            return Err(Errno::EINVAL);
        }
        let event = EventFd::new(self.args[0] & 0xffff_ffff, flags & EFD_SEMAPHORE != 0);
        let file = OpenFile::new(Arc::new(event), O_RDWR | flags as u32 & O_NONBLOCK);
        done(self.install(file, flags as u32 & O_CLOEXEC != 0)? as u64)
    }
    pub(crate) fn memfd_create(&self) -> Answer {
        let flags = self.args[1];
        // The size of huge pages is in the upper bits; there are none to give.
        if flags & MFD_HUGETLB != 0 {
            return Err(Errno::ENOMEM);
        }
        if flags & !(MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC) != 0 {
            return Err(Errno::EINVAL);
        }
        let name = self.space.copy_in_string(self.args[0], 249).map_err(|error| match error {
            Errno::ENAMETOOLONG => Errno::EINVAL,
            error => error,
        })?;
        drop(name);
        let memfd = mm::Memfd::new(self.kernel().frames.clone(), flags & MFD_ALLOW_SEALING != 0);
        let file = OpenFile::new(Arc::new(memfd), O_RDWR);
        done(self.install(file, flags & MFD_CLOEXEC != 0)? as u64)
    }
    pub(crate) fn pidfd_open(&self) -> Answer {
        if self.args[1] as u32 & !O_NONBLOCK != 0 || self.args[0] as i32 <= 0 {
            return Err(Errno::EINVAL);
        }
        let process = self.kernel().process(self.args[0] as u32).ok_or(Errno::ESRCH)?;
        let file = OpenFile::new(Arc::new(PidFd(process)), O_RDWR | self.args[1] as u32);
        done(self.install(file, true)? as u64)
    }
    /// The process behind a pidfd.
    pub(crate) fn pidfd(&self, fd: i32) -> Result<Arc<task::Process>, Errno> {
        let file = self.file(fd)?;
        let object: &dyn Any = &*file.file;
        object.downcast_ref::<PidFd>().map(|pidfd| pidfd.0.clone()).ok_or(Errno::EBADF)
    }
}
