//! A call in progress: who makes it, and access to its memory and descriptors.

use crate::system::System;
use crate::{Answer, Errno, Outcome};
use alloc::sync::Arc;
use alloc::vec::Vec;
use mm::AddressSpace;
use task::{Kernel, Process, Restart, Thread, WaitOn};
use uapi::UserMem;
use uapi::linux::fs::PATH_MAX;
use vfs::{Caller, FileKind, OpenFile, Place, Viewer};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// A system call in progress.
pub struct Cx {
    pub(crate) system: Arc<System>,
    /// Who makes it.
    pub thread: Arc<Thread>,
    /// Its memory.
    pub space: Arc<AddressSpace>,
    /// Its six arguments.
    pub args: [u64; 6],
}

impl Cx {
    pub(crate) fn kernel(&self) -> &Arc<Kernel> {
        &self.system.kernel
    }
    pub(crate) fn process(&self) -> &Arc<Process> {
        &self.thread.process
    }
    pub(crate) fn viewer(&self) -> Viewer {
        Viewer { pid: self.process().pid, tid: self.thread.tid }
    }
    /// An argument as a descriptor: its low 32 bits, signed.
    pub(crate) fn fd(&self, index: usize) -> i32 {
        self.args[index] as i32
    }
    pub(crate) fn file(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        self.process().file(fd)
    }
    pub(crate) fn install(&self, file: Arc<OpenFile>, close_on_exec: bool) -> Result<i32, Errno> {
        self.process().files().lock().insert(file, 0, close_on_exec)
    }
    pub(crate) fn cwd(&self) -> Place {
        self.process().fs().lock().cwd.clone()
    }
    /// Reads a structure.
    pub(crate) fn get<T: FromBytes + FromZeros + IntoBytes>(&self, at: u64) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.space.copy_in(at, value.as_mut_bytes())?;
        Ok(value)
    }
    /// Writes a structure.
    pub(crate) fn put<T: IntoBytes + Immutable>(&self, at: u64, value: &T) -> Result<(), Errno> {
        self.space.copy_out(at, value.as_bytes())
    }
    /// Writes a structure unless the address is null.
    pub(crate) fn put_if<T: IntoBytes + Immutable>(&self, at: u64, value: &T) -> Result<(), Errno> {
        if at == 0 { Ok(()) } else { self.put(at, value) }
    }
    /// Reads `length` bytes, at most `limit`.
    pub(crate) fn get_bytes(&self, at: u64, length: u64, limit: u64) -> Result<Vec<u8>, Errno> {
        if length > limit {
            return Err(Errno::EINVAL);
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length as usize).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(length as usize, 0);
        self.space.copy_in(at, &mut bytes)?;
        Ok(bytes)
    }
    pub(crate) fn path(&self, at: u64) -> Result<Vec<u8>, Errno> {
        self.space.copy_in_string(at, PATH_MAX - 1)
    }
    pub(crate) fn now(&self) -> u64 {
        self.kernel().machine.monotonic()
    }
    /// The absolute deadline of this call: kept from the first dispatch, or `timeout` nanoseconds from now.
    pub(crate) fn deadline(&self, timeout: Option<u64>) -> Option<u64> {
        let mut state = self.thread.state.lock();
        if let Some(Restart::Deadline(deadline)) = state.restart {
            return Some(deadline);
        }
        let deadline = self.now().saturating_add(timeout?);
        state.restart = Some(Restart::Deadline(deadline));
        Some(deadline)
    }
    /// Waits, and remembers that it does: a signal ends the call.
    pub(crate) fn wait(&self, wait: WaitOn) -> Answer {
        let mut state = self.thread.state.lock();
        let deadline = wait.deadline.unwrap_or(u64::MAX);
        state.restart.get_or_insert(Restart::Deadline(deadline));
        Ok(Outcome::Wait(wait))
    }
    /// Does `attempt` on `file`; if it would block, and may, waits for the file.
    pub(crate) fn blocking(
        &self,
        file: &OpenFile,
        nonblocking: bool,
        timeout: Option<u64>,
        mut attempt: impl FnMut() -> Result<i64, Errno>,
    ) -> Answer {
        match attempt() {
            Err(Errno::EAGAIN) if !nonblocking && !file.nonblocking() => {}
            result => return result.map(Outcome::Done),
        }
        // Tickets first, then the look that counts.
        let mut tickets = Vec::new();
        file.file.tickets(&mut tickets);
        match attempt() {
            Err(Errno::EAGAIN) => {}
            result => return result.map(Outcome::Done),
        }
        let deadline = self.deadline(timeout);
        if deadline.is_some_and(|deadline| deadline <= self.now()) {
            return Err(Errno::EAGAIN);
        }
        self.wait(WaitOn { tickets, deadline: deadline.filter(|deadline| *deadline != u64::MAX) })
    }
    /// Writes `total` bytes to a stream, as a blocking write has to: `attempt` gets the bytes done before and returns how
    /// many more went. Waits while some are left, unless it may not; a signal or an error then ends it with what was done.
    pub(crate) fn push(
        &self,
        file: &OpenFile,
        nonblocking: bool,
        timeout: Option<u64>,
        total: u64,
        attempt: impl Fn(u64) -> Result<i64, Errno>,
    ) -> Answer {
        let (mut done, kept) = match self.thread.state.lock().restart {
            Some(Restart::Written(done, deadline)) => (done, deadline),
            _ => (0, None),
        };
        let result = |done: u64, error: Errno| if done > 0 { Ok(Outcome::Done(done as i64)) } else { Err(error) };
        // What is written to a pipe or a socket waits in the kernel's own memory.
        if matches!(file.file.stat().kind, FileKind::Pipe | FileKind::Socket) && mm::exhausted(&*self.kernel().frames) {
            return result(done, Errno::ENOBUFS);
        }
        let mut tickets = Vec::new();
        for round in 0..2 {
            if round == 1 {
                if nonblocking || file.nonblocking() {
                    return result(done, Errno::EAGAIN);
                }
                // Tickets first, then the look that counts.
                file.file.tickets(&mut tickets);
            }
            let before = done;
            match attempt(done) {
                Ok(count) => done += count as u64,
                Err(Errno::EAGAIN) => continue,
                Err(error) => return result(done, error),
            }
            // A file that takes nothing without saying why would be asked for ever.
            if done >= total || done == before {
                return Ok(Outcome::Done(done as i64));
            }
        }
        if tickets.is_empty() {
            return result(done, Errno::EAGAIN);
        }
        let deadline = kept.or_else(|| timeout.map(|timeout| self.now().saturating_add(timeout)));
        if deadline.is_some_and(|deadline| deadline <= self.now()) {
            return result(done, Errno::EAGAIN);
        }
        self.thread.state.lock().restart = Some(Restart::Written(done, deadline));
        Ok(Outcome::Wait(WaitOn { tickets, deadline }))
    }
    /// Lends a buffer of [`BUFFER`] bytes.
    pub(crate) fn with_buffer<R>(&self, use_it: impl FnOnce(&mut [u8]) -> Result<R, Errno>) -> Result<R, Errno> {
        let spare = self.system.buffers.lock().pop();
        let mut buffer = match spare {
            Some(buffer) => buffer,
            None => {
                let mut buffer = Vec::new();
                buffer.try_reserve_exact(BUFFER).map_err(|_| Errno::ENOMEM)?;
                buffer.resize(BUFFER, 0);
                buffer
            }
        };
        let result = use_it(&mut buffer);
        let mut spare = self.system.buffers.lock();
        if spare.len() < 4 {
            spare.push(buffer);
        }
        result
    }
}

/// Bytes moved at once between a program and a file.
pub(crate) const BUFFER: usize = 65536;

impl Caller for Cx {
    fn memory(&self) -> &dyn UserMem {
        &*self.space
    }
    fn file(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        self.file(fd)
    }
    fn install(&self, file: Arc<OpenFile>) -> Result<i32, Errno> {
        self.install(file, true)
    }
    fn uninstall(&self, fd: i32) {
        let gone = self.process().files().lock().remove(fd);
        drop(gone);
    }
}
