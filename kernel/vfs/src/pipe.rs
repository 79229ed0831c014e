//! Pipes.

use crate::{Event, File, FileKind, Ready, Stat};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use spin::Mutex;
use uapi::Errno;
use uapi::linux::fs::FIONREAD;

/// Bytes a pipe holds.
pub const PIPE_CAPACITY: usize = 65536;
/// Writes up to this size are not interleaved with others (PIPE_BUF).
const ATOMIC: usize = 4096;

struct State {
    bytes: VecDeque<u8>,
    reader: bool,
    writer: bool,
}

struct Pipe {
    state: Mutex<State>,
    event: Event,
}

struct Reader(Arc<Pipe>);
struct Writer(Arc<Pipe>);

/// A new pipe: the end to read from and the end to write to.
pub fn pipe() -> (Arc<dyn File>, Arc<dyn File>) {
    let state = State { bytes: VecDeque::new(), reader: true, writer: true };
    let pipe = Arc::new(Pipe { state: Mutex::new(state), event: Event::new() });
    (Arc::new(Reader(pipe.clone())), Arc::new(Writer(pipe)))
}

impl Pipe {
    fn stat(&self) -> Stat {
        Stat::anonymous(FileKind::Pipe)
    }
    fn ioctl(&self, command: u32, arg: u64, caller: &dyn crate::Caller) -> Result<i64, Errno> {
        if command != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let waiting = self.state.lock().bytes.len() as u32;
        caller.memory().copy_out(arg, &waiting.to_le_bytes())?;
        Ok(0)
    }
}

impl File for Reader {
    fn read(&self, _at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        let mut state = self.0.state.lock();
        if state.bytes.is_empty() {
            return if state.writer && !to.is_empty() { Err(Errno::EAGAIN) } else { Ok(0) };
        }
        let count = to.len().min(state.bytes.len());
        let (front, back) = state.bytes.as_slices();
        let split = front.len().min(count);
        to[..split].copy_from_slice(&front[..split]);
        to[split..count].copy_from_slice(&back[..count - split]);
        state.bytes.drain(..count);
        drop(state);
        self.0.event.signal();
        Ok(count)
    }
    fn write(&self, _at: u64, _from: &[u8]) -> Result<usize, Errno> {
        Err(Errno::EBADF)
    }
    fn ready(&self) -> Ready {
        let state = self.0.state.lock();
        Ready::READ.when(!state.bytes.is_empty()).or(Ready::HANGUP.when(!state.writer))
    }
    fn event(&self) -> Option<Event> {
        Some(self.0.event.clone())
    }
    fn stat(&self) -> Stat {
        self.0.stat()
    }
    fn ioctl(&self, command: u32, arg: u64, caller: &dyn crate::Caller) -> Result<i64, Errno> {
        self.0.ioctl(command, arg, caller)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.state.lock().reader = false;
        self.0.event.signal();
    }
}

impl File for Writer {
    fn read(&self, _at: u64, _to: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::EBADF)
    }
    fn write(&self, _at: u64, from: &[u8]) -> Result<usize, Errno> {
        let mut state = self.0.state.lock();
        if !state.reader {
            return Err(Errno::EPIPE);
        }
        let room = PIPE_CAPACITY - state.bytes.len();
        if !from.is_empty() && (room == 0 || from.len() <= ATOMIC && room < from.len()) {
            return Err(Errno::EAGAIN);
        }
        let count = room.min(from.len());
        state.bytes.try_reserve(count).map_err(|_| Errno::ENOMEM)?;
        state.bytes.extend(&from[..count]);
        drop(state);
        self.0.event.signal();
        Ok(count)
    }
    fn ready(&self) -> Ready {
        let state = self.0.state.lock();
        let room = PIPE_CAPACITY - state.bytes.len() >= ATOMIC;
        Ready::WRITE.when(room).or(Ready::ERROR.when(!state.reader))
    }
    fn event(&self) -> Option<Event> {
        Some(self.0.event.clone())
    }
    fn stat(&self) -> Stat {
        self.0.stat()
    }
    fn ioctl(&self, command: u32, arg: u64, caller: &dyn crate::Caller) -> Result<i64, Errno> {
        self.0.ioctl(command, arg, caller)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.state.lock().writer = false;
        self.0.event.signal();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_and_the_end_is_told() {
        let (reader, writer) = pipe();
        let mut buffer = [0; 4];
        assert_eq!(reader.read(0, &mut buffer), Err(Errno::EAGAIN));
        let ticket = reader.event().unwrap().ticket();
        assert_eq!(writer.write(0, b"abcdef"), Ok(6));
        assert!(ticket.fired());
        assert_eq!(reader.read(0, &mut buffer), Ok(4));
        assert_eq!(&buffer, b"abcd");
        drop(writer);
        assert_eq!(reader.ready(), Ready::READ.or(Ready::HANGUP));
        assert_eq!(reader.read(0, &mut buffer), Ok(2));
        assert_eq!(reader.read(0, &mut buffer), Ok(0));
    }

    #[test]
    fn a_full_pipe_is_eagain_and_a_small_write_is_never_torn() {
        let (reader, writer) = pipe();
        assert_eq!(writer.write(0, &alloc::vec![1; PIPE_CAPACITY - 10]), Ok(PIPE_CAPACITY - 10));
        assert_eq!(writer.write(0, &[2; 11]), Err(Errno::EAGAIN));
        assert_eq!(writer.write(0, &[2; 5000]), Ok(10));
        assert_eq!(writer.write(0, &[2]), Err(Errno::EAGAIN));
        assert_eq!(writer.ready(), Ready::NONE);
        drop(reader);
        assert_eq!(writer.write(0, &[2]), Err(Errno::EPIPE));
        assert_eq!(writer.ready(), Ready::ERROR);
    }
}
