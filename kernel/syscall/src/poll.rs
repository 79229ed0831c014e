//! poll, select, epoll.

use crate::cx::Cx;
use crate::{Answer, Errno, Outcome};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use task::WaitOn;
use uapi::UserMem;
use uapi::linux::fs::*;
use uapi::linux::time::{Timespec, Timeval};
use vfs::{Epoll, Interest, MAX_FDS, OpenFile, Ticket};

/// Bits that are told whether asked for or not.
const ALWAYS: u16 = POLLERR | POLLHUP;

/// A descriptor that is asked about; `None` if it is not open.
type Asked = (Option<Arc<OpenFile>>, u16);

impl Cx {
    /// Looks at files until `report` finds something to return or the timeout is over, then returns `report`'s last
    /// word. `timeout`: nanoseconds, `None` for ever.
    fn poll_files(
        &self,
        files: &[Asked],
        timeout: Option<u64>,
        report: impl Fn(&[u16]) -> Result<i64, Errno>,
    ) -> Answer {
        let look = || -> Vec<u16> {
            let bits = |(file, events): &Asked| match file {
                Some(file) => file.ready().0 & (events | ALWAYS),
                None => POLLNVAL,
            };
            files.iter().map(bits).collect()
        };
        let deadline = self.deadline(timeout);
        let over = deadline.is_some_and(|deadline| deadline <= self.now());
        let mut found = look();
        if found.iter().any(|bits| *bits != 0) || over {
            return report(&found).map(Outcome::Done);
        }
        let mut tickets: Vec<Ticket> = Vec::new();
        files.iter().filter_map(|(file, _)| file.as_ref()).for_each(|file| file.file.tickets(&mut tickets));
        found = look();
        if found.iter().any(|bits| *bits != 0) {
            return report(&found).map(Outcome::Done);
        }
        self.wait(WaitOn { tickets, deadline: deadline.filter(|deadline| *deadline != u64::MAX) })
    }
    fn poll_with(&self, timeout: Option<u64>) -> Answer {
        let (at, count) = (self.args[0], self.args[1]);
        if count > MAX_FDS as u64 {
            return Err(Errno::EINVAL);
        }
        let bytes = self.get_bytes(at, count * 8, MAX_FDS as u64 * 8)?;
        let ignored = |fd: i32| fd < 0;
        let mut files = Vec::with_capacity(count as usize);
        let mut slots = Vec::with_capacity(count as usize);
        for (index, entry) in bytes.chunks_exact(8).enumerate() {
            let [a, b, c, d, e, f, ..] = *entry else { continue };
            let fd = i32::from_le_bytes([a, b, c, d]);
            if !ignored(fd) {
                files.push((self.file(fd).ok(), u16::from_le_bytes([e, f])));
                slots.push(index);
            }
        }
        self.poll_files(&files, timeout, |found| {
            let mut bytes = bytes.clone();
            bytes.chunks_exact_mut(8).for_each(|entry| entry[6..].fill(0));
            for (slot, bits) in slots.iter().zip(found) {
                bytes[slot * 8 + 6..slot * 8 + 8].copy_from_slice(&bits.to_le_bytes());
            }
            self.space.copy_out(at, &bytes)?;
            Ok(found.iter().filter(|bits| **bits != 0).count() as i64)
        })
    }
    /// A timeout in milliseconds; negative is for ever.
    fn millis(&self, value: u64) -> Option<u64> {
        u64::try_from(value as i32).ok().map(|millis| millis * 1_000_000)
    }
    fn timespec(&self, at: u64) -> Result<Option<u64>, Errno> {
        if at == 0 {
            return Ok(None);
        }
        self.get::<Timespec>(at)?.nanos().map(Some).ok_or(Errno::EINVAL)
    }
    pub(crate) fn poll(&self) -> Answer {
        self.poll_with(self.millis(self.args[2]))
    }
    pub(crate) fn ppoll(&self) -> Answer {
        let timeout = self.timespec(self.args[2])?;
        self.temporary_mask(self.args[3], self.args[4])?;
        self.poll_with(timeout)
    }
    /// Sets the mask for the time of this call, unless it is set already from before it waited.
    pub(crate) fn temporary_mask(&self, at: u64, size: u64) -> Result<(), Errno> {
        if at == 0 || self.thread.state.lock().restore_mask.is_some() {
            return Ok(());
        }
        if size != 8 {
            return Err(Errno::EINVAL);
        }
        let mask: u64 = self.get(at)?;
        let old = self.thread.set_blocked(mask);
        self.thread.state.lock().restore_mask = Some(old);
        Ok(())
    }
    fn select_with(&self, timeout: Option<u64>) -> Answer {
        let count = usize::try_from(self.args[0] as i32).map_err(|_| Errno::EINVAL)?.min(MAX_FDS);
        let length = count.div_ceil(64) * 8;
        // Read, write, exception sets, and what each asks of poll.
        const READS: u16 = POLLIN | POLLRDNORM | POLLHUP | POLLERR;
        const WRITES: u16 = POLLOUT | POLLWRNORM | POLLERR;
        let asks = [READS, WRITES, POLLPRI];
        let mut sets = Vec::new();
        for at in &self.args[1..4] {
            sets.push(if *at == 0 { Vec::new() } else { self.get_bytes(*at, length as u64, 128)? });
        }
        let has = |set: &[u8], fd: usize| set.get(fd / 8).is_some_and(|byte| byte >> (fd % 8) & 1 != 0);
        let mut files = Vec::new();
        let mut fds = Vec::new();
        for fd in 0..count {
            let events = (0..3).filter(|set| has(&sets[*set], fd)).fold(0, |events, set| events | asks[set]);
            if events != 0 {
                files.push((Some(self.file(fd as i32)?), events));
                fds.push(fd);
            }
        }
        self.poll_files(&files, timeout, |found| {
            let mut total = 0;
            for (set, asked) in asks.iter().enumerate().filter(|(set, _)| !sets[*set].is_empty()) {
                let mut bytes = alloc::vec![0; length];
                for (fd, bits) in fds.iter().zip(found) {
                    if has(&sets[set], *fd) && bits & asked != 0 {
                        bytes[fd / 8] |= 1 << (fd % 8);
                        total += 1;
                    }
                }
                self.space.copy_out(self.args[1 + set], &bytes)?;
            }
            Ok(total)
        })
    }
    pub(crate) fn select(&self) -> Answer {
        let timeout = match self.args[4] {
            0 => None,
            at => Some(self.get::<Timeval>(at)?.nanos().ok_or(Errno::EINVAL)?),
        };
        self.select_with(timeout)
    }
    pub(crate) fn pselect(&self) -> Answer {
        let timeout = self.timespec(self.args[4])?;
        if self.args[5] != 0 {
            let [at, size]: [u64; 2] = self.get(self.args[5])?;
            self.temporary_mask(at, size)?;
        }
        self.select_with(timeout)
    }
    pub(crate) fn epoll_create(&self, flags: u64) -> Answer {
        if flags & !u64::from(O_CLOEXEC) != 0 {
            return Err(Errno::EINVAL);
        }
        let file = OpenFile::new(Arc::new(Epoll::new()), O_RDWR);
        Ok(Outcome::Done(i64::from(self.install(file, flags != 0)?)))
    }
    fn with_epoll<R>(&self, act: impl FnOnce(&Epoll) -> Result<R, Errno>) -> Result<R, Errno> {
        let file = self.file(self.fd(0))?;
        let object: &dyn Any = &*file.file;
        act(object.downcast_ref::<Epoll>().ok_or(Errno::EINVAL)?)
    }
    pub(crate) fn epoll_ctl(&self) -> Answer {
        let fd = self.fd(2);
        let file = self.file(fd)?;
        if fd == self.fd(0) {
            return Err(Errno::EINVAL);
        }
        let interest = || -> Result<Interest, Errno> {
            let bytes = self.get_bytes(self.args[3], self.epoll_event_size(), 16)?;
            let (events, data) = (&bytes[..4], &bytes[bytes.len() - 8..]);
            Ok(Interest {
                events: u32::from_le_bytes(events.try_into().map_err(|_| Errno::EINVAL)?),
                data: u64::from_le_bytes(data.try_into().map_err(|_| Errno::EINVAL)?),
            })
        };
        self.with_epoll(|epoll| match self.args[1] {
            EPOLL_CTL_ADD => epoll.add(fd, &file, interest()?),
            EPOLL_CTL_MOD => epoll.modify(fd, &file, interest()?),
            EPOLL_CTL_DEL => epoll.remove(fd, &file),
            _ => Err(Errno::EINVAL),
        })?;
        Ok(Outcome::Done(0))
    }
    fn epoll_event_size(&self) -> u64 {
        if self.system.abi.layout.epoll_packed { 12 } else { 16 }
    }
    fn epoll_wait_with(&self, timeout: Option<u64>) -> Answer {
        let limit = usize::try_from(self.args[2] as i32).ok().filter(|limit| *limit > 0).ok_or(Errno::EINVAL)?;
        let file = self.file(self.fd(0))?;
        let take = || -> Result<Option<i64>, Errno> {
            let found = self.with_epoll(|epoll| Ok(epoll.take(limit.min(MAX_FDS))))?;
            if found.is_empty() {
                return Ok(None);
            }
            let size = self.epoll_event_size() as usize;
            let mut bytes = Vec::new();
            for (bits, data) in &found {
                bytes.extend_from_slice(&bits.to_le_bytes());
                bytes.resize(bytes.len() + size - 12, 0);
                bytes.extend_from_slice(&data.to_le_bytes());
            }
            self.space.copy_out(self.args[1], &bytes)?;
            Ok(Some(found.len() as i64))
        };
        let deadline = self.deadline(timeout);
        if let Some(count) = take()? {
            return Ok(Outcome::Done(count));
        }
        if deadline.is_some_and(|deadline| deadline <= self.now()) {
            return Ok(Outcome::Done(0));
        }
        let mut tickets = Vec::new();
        file.file.tickets(&mut tickets);
        if let Some(count) = take()? {
            return Ok(Outcome::Done(count));
        }
        self.wait(WaitOn { tickets, deadline: deadline.filter(|deadline| *deadline != u64::MAX) })
    }
    pub(crate) fn epoll_wait(&self) -> Answer {
        self.epoll_wait_with(self.millis(self.args[3]))
    }
    pub(crate) fn epoll_pwait(&self) -> Answer {
        self.temporary_mask(self.args[4], self.args[5])?;
        self.epoll_wait_with(self.millis(self.args[3]))
    }
    pub(crate) fn epoll_pwait2(&self) -> Answer {
        let timeout = self.timespec(self.args[3])?;
        self.temporary_mask(self.args[4], self.args[5])?;
        self.epoll_wait_with(timeout)
    }
}
