//! read, write and their kin: bytes between a program and a file, through a buffer of the kernel's.

use crate::cx::{BUFFER, Cx};
use crate::{Answer, Errno, Outcome};
use alloc::vec::Vec;
use uapi::UserMem;
use uapi::linux::fs::*;
use uapi::linux::signal::{SI_USER, SIGPIPE};
use vfs::{OpenFile, Position};

/// A range of the program's memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub at: u64,
    pub length: u64,
}

impl Cx {
    /// Reads into the spans; stops at a short read.
    pub(crate) fn read_spans(&self, file: &OpenFile, position: Position, spans: &[Span]) -> Result<i64, Errno> {
        let mut done = 0u64;
        self.with_buffer(|buffer| {
            for span in spans {
                let mut at = 0;
                while at < span.length || span.length == 0 && spans.len() == 1 {
                    let want = (span.length - at).min(BUFFER as u64) as usize;
                    let here = match position {
                        Position::Current => Position::Current,
                        Position::At(start) => Position::At(start.checked_add(done).ok_or(Errno::EINVAL)?),
                    };
                    let count = match file.read(here, &mut buffer[..want]) {
                        Ok(count) => count,
                        Err(_) if done > 0 => return Ok(()),
                        Err(error) => return Err(error),
                    };
                    match self.space.copy_out(span.at.wrapping_add(at), &buffer[..count]) {
                        Ok(()) => {}
                        Err(_) if done > 0 => return Ok(()),
                        Err(error) => return Err(error),
                    }
                    done += count as u64;
                    at += count as u64;
                    if count < want || want == 0 || !file.file.seekable() && !more(file) {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })?;
        Ok(done as i64)
    }
    /// Writes from the spans; stops at a short write.
    pub(crate) fn write_spans(&self, file: &OpenFile, position: Position, spans: &[Span]) -> Result<i64, Errno> {
        let mut done = 0u64;
        self.with_buffer(|buffer| {
            for span in spans {
                let mut at = 0;
                while at < span.length || span.length == 0 && spans.len() == 1 {
                    let want = (span.length - at).min(BUFFER as u64) as usize;
                    let here = match position {
                        Position::Current => Position::Current,
                        Position::At(start) => Position::At(start.checked_add(done).ok_or(Errno::EINVAL)?),
                    };
                    let result = self
                        .space
                        .copy_in(span.at.wrapping_add(at), &mut buffer[..want])
                        .and_then(|()| file.write(here, &buffer[..want]));
                    let count = match result {
                        Ok(count) => count,
                        Err(_) if done > 0 => return Ok(()),
                        Err(error) => return Err(error),
                    };
                    done += count as u64;
                    at += count as u64;
                    if count < want || want == 0 {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
        .inspect_err(|error| self.broken_pipe(*error, false))?;
        Ok(done as i64)
    }
    /// Writing where nobody reads raises SIGPIPE, unless the call said not to.
    pub(crate) fn broken_pipe(&self, error: Errno, quiet: bool) {
        if error == Errno::EPIPE && !quiet {
            let info = self.process().sender(SIGPIPE, SI_USER);
            self.kernel().signal_thread(&self.thread, info);
        }
    }
    /// The caller's array of `struct iovec`.
    pub(crate) fn spans(&self, at: u64, count: u64) -> Result<Vec<Span>, Errno> {
        if count > IOV_MAX {
            return Err(Errno::EINVAL);
        }
        let bytes = self.get_bytes(at, count * 16, IOV_MAX * 16)?;
        let mut spans = Vec::with_capacity(count as usize);
        let mut total = 0u64;
        for pair in bytes.chunks_exact(16) {
            let long = |part: &[u8]| part.try_into().map(u64::from_le_bytes).unwrap_or(0);
            let (at, length) = (long(&pair[..8]), long(&pair[8..]));
            total = total.checked_add(length).filter(|_| i64::try_from(length).is_ok()).ok_or(Errno::EINVAL)?;
            // A longer request is cut, as on Linux.
            let length = length.min(MAX_RW_COUNT.saturating_sub(total - length));
            if length > 0 {
                spans.push(Span { at, length });
            }
        }
        i64::try_from(total).map_err(|_| Errno::EINVAL)?;
        Ok(spans)
    }
    fn span(&self) -> Span {
        Span { at: self.args[1], length: self.args[2].min(MAX_RW_COUNT) }
    }
    fn transfer(&self, position: Position, spans: &[Span], write: bool) -> Answer {
        let file = self.file(self.fd(0))?;
        // Rights come before everything else, also for an empty list.
        if write && !file.writable() || !write && !file.readable() {
            return Err(Errno::EBADF);
        }
        let timeout = match file.timeouts[usize::from(write)].load(core::sync::atomic::Ordering::Relaxed) {
            0 => None,
            timeout => Some(timeout),
        };
        if write && position == Position::Current && !file.file.seekable() {
            let total = spans.iter().map(|span| span.length).sum();
            let part = |done| self.write_spans(&file, position, &after(spans, done));
            return self.push(&file, false, timeout, total, part);
        }
        self.blocking(&file, false, timeout, || {
            if write { self.write_spans(&file, position, spans) } else { self.read_spans(&file, position, spans) }
        })
    }
    pub(crate) fn read(&self) -> Answer {
        self.transfer(Position::Current, &[self.span()], false)
    }
    pub(crate) fn write(&self) -> Answer {
        self.transfer(Position::Current, &[self.span()], true)
    }
    fn position(&self, index: usize) -> Result<Position, Errno> {
        i64::try_from(self.args[index]).map(|at| Position::At(at as u64)).map_err(|_| Errno::EINVAL)
    }
    pub(crate) fn pread(&self) -> Answer {
        self.transfer(self.position(3)?, &[self.span()], false)
    }
    pub(crate) fn pwrite(&self) -> Answer {
        self.transfer(self.position(3)?, &[self.span()], true)
    }
    fn vector_position(&self, positioned: bool) -> Result<Position, Errno> {
        // preadv2: -1 is the current position. The offset is in one register on 64-bit machines.
        if positioned && self.args[3] != u64::MAX { self.position(3) } else { Ok(Position::Current) }
    }
    pub(crate) fn readv(&self, positioned: bool) -> Answer {
        let spans = self.spans(self.args[1], self.args[2])?;
        self.transfer(self.vector_position(positioned)?, &spans, false)
    }
    pub(crate) fn writev(&self, positioned: bool) -> Answer {
        let spans = self.spans(self.args[1], self.args[2])?;
        self.transfer(self.vector_position(positioned)?, &spans, true)
    }
    /// Copies up to `limit` bytes between two files; stops when one of them would block.
    fn pump(
        &self,
        from: &OpenFile,
        mut read_at: Option<u64>,
        to: &OpenFile,
        mut write_at: Option<u64>,
        limit: u64,
    ) -> Result<u64, Errno> {
        let position = |at: Option<u64>| at.map_or(Position::Current, Position::At);
        let mut done = 0;
        self.with_buffer(|buffer| {
            while done < limit {
                let want = (limit - done).min(BUFFER as u64) as usize;
                let count = match from.read(position(read_at), &mut buffer[..want]) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(_) if done > 0 => break,
                    Err(error) => return Err(error),
                };
                let (wrote, error) = match to.write(position(write_at), &buffer[..count]) {
                    Ok(wrote) => (wrote, None),
                    Err(error) => (0, Some(error)),
                };
                // What could not be written is as if it had not been read.
                match &mut read_at {
                    Some(at) => *at += wrote as u64,
                    None if wrote < count => {
                        from.seek(wrote as i64 - count as i64, SEEK_CUR)?;
                    }
                    None => {}
                }
                write_at = write_at.map(|at| at + wrote as u64);
                done += wrote as u64;
                match error {
                    Some(error) if done == 0 => return Err(error),
                    Some(_) => break,
                    None if wrote < count => break,
                    None => {}
                }
            }
            Ok(())
        })?;
        Ok(done)
    }
    pub(crate) fn sendfile(&self) -> Answer {
        let (to, from) = (self.file(self.fd(0))?, self.file(self.fd(1))?);
        if !from.file.seekable() {
            return Err(Errno::EINVAL);
        }
        let at = self.args[2];
        let start = if at == 0 { None } else { Some(self.get::<u64>(at)?) };
        let limit = self.args[3].min(MAX_RW_COUNT);
        self.blocking(&to, false, None, || {
            let done = self.pump(&from, start, &to, None, limit)?;
            if let Some(start) = start {
                self.put(at, &(start + done))?;
            }
            Ok(done as i64)
        })
    }
    pub(crate) fn copy_file_range(&self) -> Answer {
        let (from, to) = (self.file(self.fd(0))?, self.file(self.fd(2))?);
        if !from.file.seekable() || !to.file.seekable() || self.args[5] != 0 {
            return Err(Errno::EINVAL);
        }
        let place = |at: u64| if at == 0 { Ok(None) } else { self.get::<u64>(at).map(Some) };
        let (read_at, write_at) = (place(self.args[1])?, place(self.args[3])?);
        let done = self.pump(&from, read_at, &to, write_at, self.args[4].min(MAX_RW_COUNT))?;
        for (at, start) in [(self.args[1], read_at), (self.args[3], write_at)] {
            if let Some(start) = start {
                self.put(at, &(start + done))?;
            }
        }
        Ok(Outcome::Done(done as i64))
    }
}

/// What is left of `spans` after `done` bytes.
pub(crate) fn after(spans: &[Span], mut done: u64) -> Vec<Span> {
    let mut rest = Vec::with_capacity(spans.len());
    for span in spans {
        let skip = done.min(span.length);
        done -= skip;
        if skip < span.length || span.length == 0 {
            rest.push(Span { at: span.at.wrapping_add(skip), length: span.length - skip });
        }
    }
    rest
}

/// Can a stream give more at once?
fn more(file: &OpenFile) -> bool {
    file.ready().0 & POLLIN != 0
}
