//! socketpair(AF_UNIX): two queues crossed, of bytes or of messages. No names, no ancillary data.

use crate::Errno;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use spin::Mutex;
use uapi::linux::fs::FIONREAD;
use uapi::linux::net::*;
use vfs::{Address, Caller, Event, File, FileKind, Ready, Received, Socket, Stat, Ticket};

/// Bytes waiting in one direction; also the longest message.
const CAPACITY: usize = 212_992;
/// Messages waiting in one direction: an empty one takes memory too.
const MAX_MESSAGES: usize = 1024;
/// On a stream, small pieces become one of up to so many bytes.
const PIECE: usize = 4096;

struct State {
    /// Messages; on a stream the borders mean nothing.
    messages: VecDeque<Vec<u8>>,
    bytes: usize,
    reader: bool,
    writer: bool,
}

/// One direction.
struct Queue {
    state: Mutex<State>,
    event: Event,
}

/// How the bytes are delivered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// SOCK_STREAM.
    Stream,
    /// SOCK_SEQPACKET: messages, and an end.
    Packets,
    /// SOCK_DGRAM.
    Datagrams,
}

struct End {
    from: Arc<Queue>,
    to: Arc<Queue>,
    delivery: Delivery,
}

/// Two connected sockets.
pub(crate) fn pair(delivery: Delivery) -> (Arc<dyn File>, Arc<dyn File>) {
    let queue = || {
        let state = State { messages: VecDeque::new(), bytes: 0, reader: true, writer: true };
        Arc::new(Queue { state: Mutex::new(state), event: Event::new() })
    };
    let (one, two) = (queue(), queue());
    let end = |from: &Arc<Queue>, to: &Arc<Queue>| End { from: from.clone(), to: to.clone(), delivery };
    (Arc::new(end(&one, &two)), Arc::new(end(&two, &one)))
}

impl End {
    fn close(&self, read: bool, write: bool) {
        if read {
            let mut state = self.from.state.lock();
            state.reader = false;
            let gone = core::mem::take(&mut state.messages);
            state.bytes = 0;
            drop(state);
            drop(gone);
            self.from.event.signal();
        }
        if write {
            self.to.state.lock().writer = false;
            self.to.event.signal();
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.close(true, true);
    }
}

impl File for End {
    fn read(&self, _at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        self.receive(to, false).map(|received| received.bytes)
    }
    fn write(&self, _at: u64, from: &[u8]) -> Result<usize, Errno> {
        self.send(from, None)
    }
    fn ioctl(&self, command: u32, arg: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        if command != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let waiting = self.from.state.lock().bytes as u32;
        caller.memory().copy_out(arg, &waiting.to_le_bytes())?;
        Ok(0)
    }
    fn ready(&self) -> Ready {
        let incoming = self.from.state.lock();
        let over = !incoming.writer || !incoming.reader;
        let read = Ready::READ.when(!incoming.messages.is_empty() || over).or(Ready::READ_HANGUP.when(over));
        drop(incoming);
        let outgoing = self.to.state.lock();
        let gone = !outgoing.reader;
        read.or(Ready::WRITE.when(gone || outgoing.bytes < CAPACITY / 2 && outgoing.messages.len() < MAX_MESSAGES))
            .or(Ready::HANGUP.when(gone && over))
    }
    fn tickets(&self, to: &mut Vec<Ticket>) {
        to.extend([self.from.event.ticket(), self.to.event.ticket()]);
    }
    fn event(&self) -> Option<Event> {
        // For edge-triggered epoll: what arrives.
        Some(self.from.event.clone())
    }
    fn stat(&self) -> Stat {
        Stat { mode: 0o777, ..Stat::anonymous(FileKind::Socket) }
    }
    fn socket(&self) -> Option<&dyn Socket> {
        Some(self)
    }
}

impl Socket for End {
    fn bind(&self, _address: Address) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }
    fn listen(&self, _backlog: u32) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }
    fn accept(&self) -> Result<(Arc<dyn Socket>, Address), Errno> {
        Err(Errno::EINVAL)
    }
    fn connect(&self, _address: Address) -> Result<(), Errno> {
        Err(Errno::EISCONN)
    }
    fn send(&self, from: &[u8], to: Option<Address>) -> Result<usize, Errno> {
        if to.is_some() {
            return Err(Errno::EISCONN);
        }
        let stream = self.delivery == Delivery::Stream;
        if !stream && from.len() > CAPACITY {
            return Err(Errno::EMSGSIZE);
        }
        let mut state = self.to.state.lock();
        if !state.reader || !state.writer {
            return Err(Errno::EPIPE);
        }
        let room = CAPACITY - state.bytes;
        if room == 0 || !stream && room < from.len() {
            return Err(Errno::EAGAIN);
        }
        if stream && from.is_empty() {
            return Ok(0);
        }
        let count = from.len().min(room);
        if let Some(last) = state.messages.back_mut()
            && stream
            && last.len() + count <= PIECE
        {
            last.try_reserve(count).map_err(|_| Errno::ENOBUFS)?;
            last.extend_from_slice(&from[..count]);
            state.bytes += count;
            drop(state);
            self.to.event.signal();
            return Ok(count);
        }
        if state.messages.len() >= MAX_MESSAGES {
            return Err(Errno::EAGAIN);
        }
        let mut message = Vec::new();
        message.try_reserve_exact(count).map_err(|_| Errno::ENOBUFS)?;
        message.extend_from_slice(&from[..count]);
        state.messages.push_back(message);
        state.bytes += count;
        drop(state);
        self.to.event.signal();
        Ok(count)
    }
    fn receive(&self, to: &mut [u8], peek: bool) -> Result<Received, Errno> {
        let mut state = self.from.state.lock();
        if state.messages.is_empty() {
            let over = !state.writer || !state.reader || to.is_empty() && self.delivery == Delivery::Stream;
            // A datagram socket has no end: its other side may be gone, and more may come from elsewhere.
            let nothing = Received { bytes: 0, whole: 0, from: None };
            return if over { Ok(nothing) } else { Err(Errno::EAGAIN) };
        }
        if self.delivery != Delivery::Stream {
            let Some(message) = (if peek { state.messages.front().cloned() } else { state.messages.pop_front() })
            else {
                return Err(Errno::EAGAIN);
            };
            if !peek {
                state.bytes -= message.len();
            }
            drop(state);
            let bytes = message.len().min(to.len());
            to[..bytes].copy_from_slice(&message[..bytes]);
            self.from.event.signal();
            return Ok(Received { bytes, whole: message.len(), from: None });
        }
        let mut bytes = 0;
        for message in &state.messages {
            let part = message.len().min(to.len() - bytes);
            to[bytes..bytes + part].copy_from_slice(&message[..part]);
            bytes += part;
            if bytes == to.len() {
                break;
            }
        }
        if !peek {
            let mut left = bytes;
            while let Some(front) = state.messages.front_mut() {
                if front.len() > left {
                    front.drain(..left);
                    break;
                }
                left -= front.len();
                state.messages.pop_front();
                if left == 0 {
                    break;
                }
            }
            state.bytes -= bytes;
        }
        drop(state);
        self.from.event.signal();
        Ok(Received { bytes, whole: bytes, from: None })
    }
    fn shutdown(&self, read: bool, write: bool) -> Result<(), Errno> {
        self.close(read, write);
        Ok(())
    }
    fn local(&self) -> Result<Address, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    fn peer(&self) -> Result<Address, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    fn set_option(&self, level: u64, _name: u64, _value: &[u8]) -> Result<(), Errno> {
        if level == SOL_SOCKET { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
    }
    fn option(&self, level: u64, name: u64) -> Result<Vec<u8>, Errno> {
        let kind = match self.delivery {
            Delivery::Stream => SOCK_STREAM,
            Delivery::Packets => SOCK_SEQPACKET,
            Delivery::Datagrams => SOCK_DGRAM,
        };
        let value: u32 = match (level, name) {
            (SOL_SOCKET, SO_ERROR) => 0,
            (SOL_SOCKET, SO_TYPE) => kind as u32,
            (SOL_SOCKET, SO_DOMAIN) => u32::from(AF_UNIX),
            (SOL_SOCKET, SO_SNDBUF | SO_RCVBUF) => CAPACITY as u32,
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(value.to_le_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uapi::linux::fs::POLLIN;

    #[test]
    fn bytes_cross_and_a_shutdown_is_told() {
        let (one, two) = pair(Delivery::Stream);
        let mut buffer = [0; 8];
        assert_eq!(one.write(0, b"pi"), Ok(2));
        assert_eq!(one.write(0, b"ngs"), Ok(3));
        assert_eq!(two.socket().unwrap().receive(&mut buffer[..4], true).unwrap().bytes, 4);
        assert_eq!(two.read(0, &mut buffer[..4]), Ok(4));
        assert_eq!(&buffer[..4], b"ping");
        assert_eq!(two.read(0, &mut buffer), Ok(1));
        assert_eq!(two.read(0, &mut buffer), Err(Errno::EAGAIN));
        let mut tickets = Vec::new();
        two.tickets(&mut tickets);
        one.socket().unwrap().shutdown(false, true).unwrap();
        assert!(tickets.iter().any(Ticket::fired));
        assert_eq!(two.read(0, &mut buffer), Ok(0));
        assert_ne!(two.ready().0 & POLLIN, 0);
        assert_eq!(one.write(0, b"x"), Err(Errno::EPIPE));
        assert_eq!(two.write(0, b"still"), Ok(5));
        assert_eq!(one.read(0, &mut buffer), Ok(5));
        drop(one);
        assert_eq!(two.write(0, b"x"), Err(Errno::EPIPE));
    }

    #[test]
    fn packets_keep_their_borders() {
        let (one, two) = pair(Delivery::Packets);
        let mut buffer = [0; 8];
        assert_eq!(one.write(0, b"first"), Ok(5));
        assert_eq!(one.write(0, b"two"), Ok(3));
        assert_eq!(
            two.socket().unwrap().receive(&mut buffer[..2], false),
            Ok(Received { bytes: 2, whole: 5, from: None })
        );
        assert_eq!(two.read(0, &mut buffer), Ok(3));
        assert_eq!(one.write(0, &alloc::vec![0; CAPACITY + 1]), Err(Errno::EMSGSIZE));
        assert_eq!(one.write(0, &alloc::vec![0; CAPACITY]), Ok(CAPACITY));
        assert_eq!(one.write(0, b"x"), Err(Errno::EAGAIN));
        drop(two);
        assert_eq!(one.write(0, b"x"), Err(Errno::EPIPE));
    }

    #[test]
    fn empty_and_tiny_messages_take_no_end_of_memory() {
        let mut buffer = [0; 8];
        for delivery in [Delivery::Datagrams, Delivery::Packets] {
            let (one, two) = pair(delivery);
            let sent = (0..100_000).take_while(|_| one.write(0, b"").is_ok()).count();
            assert_eq!(sent, MAX_MESSAGES);
            assert_eq!(one.write(0, b""), Err(Errno::EAGAIN));
            assert_eq!(one.ready().0 & uapi::linux::fs::POLLOUT, 0);
            assert_eq!(two.read(0, &mut buffer), Ok(0));
            assert_eq!(one.write(0, b"x"), Ok(1));
        }
        // A stream takes all it has room for, whatever the pieces.
        let (one, two) = pair(Delivery::Stream);
        let sent = (0..2 * CAPACITY).take_while(|n| one.write(0, &[*n as u8]).is_ok()).count();
        assert_eq!(sent, CAPACITY);
        for n in 0..CAPACITY / 8 {
            assert_eq!(two.read(0, &mut buffer), Ok(8));
            assert_eq!(buffer, core::array::from_fn(|at| (n * 8 + at) as u8));
        }
        assert_eq!(two.read(0, &mut buffer), Err(Errno::EAGAIN));
    }
}
