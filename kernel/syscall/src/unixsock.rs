//! socketpair(AF_UNIX): two pipes crossed.

use crate::Errno;
use alloc::sync::Arc;
use alloc::vec::Vec;
use spin::Mutex;
use uapi::linux::fs::POLLHUP;
use uapi::linux::net::*;
use vfs::{Address, Event, File, FileKind, Ready, Received, Socket, Stat, Ticket};

/// One end: what it reads from and what it writes to. A side that was shut down is `None`.
struct End {
    reader: Mutex<Option<Arc<dyn File>>>,
    writer: Mutex<Option<Arc<dyn File>>>,
    /// Both ends signal when one shuts down.
    events: [Event; 2],
}

/// Two connected stream sockets.
pub(crate) fn pair() -> (Arc<dyn File>, Arc<dyn File>) {
    let ((one_reader, one_writer), (two_reader, two_writer)) = (vfs::pipe(), vfs::pipe());
    let events = [one_reader.event().unwrap_or_default(), two_reader.event().unwrap_or_default()];
    let end = |reader, writer| End {
        reader: Mutex::new(Some(reader)),
        writer: Mutex::new(Some(writer)),
        events: events.clone(),
    };
    (Arc::new(end(one_reader, two_writer)), Arc::new(end(two_reader, one_writer)))
}

impl End {
    fn reader(&self) -> Option<Arc<dyn File>> {
        self.reader.lock().clone()
    }
    fn writer(&self) -> Option<Arc<dyn File>> {
        self.writer.lock().clone()
    }
}

impl File for End {
    fn read(&self, at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        self.reader().map_or(Ok(0), |reader| reader.read(at, to))
    }
    fn write(&self, at: u64, from: &[u8]) -> Result<usize, Errno> {
        // A stream socket takes what fits, also of a short write.
        self.writer().ok_or(Errno::EPIPE)?.write(at, from)
    }
    fn ready(&self) -> Ready {
        let read = self.reader().map_or(Ready::READ.or(Ready::READ_HANGUP), |reader| {
            let ready = reader.ready();
            // The end of the stream can be read.
            ready.or(Ready::READ.or(Ready::READ_HANGUP).when(ready.0 & POLLHUP != 0))
        });
        let write = self.writer().map_or(Ready::WRITE, |writer| writer.ready());
        read.or(write)
    }
    fn tickets(&self, to: &mut Vec<Ticket>) {
        to.extend(self.events.iter().map(Event::ticket));
    }
    fn event(&self) -> Option<Event> {
        // For edge-triggered epoll: what arrives.
        Some(self.events[0].clone())
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
        self.write(0, from)
    }
    fn receive(&self, to: &mut [u8], peek: bool) -> Result<Received, Errno> {
        if peek {
            return Err(Errno::EOPNOTSUPP);
        }
        let bytes = self.read(0, to)?;
        Ok(Received { bytes, whole: bytes, from: None })
    }
    fn shutdown(&self, read: bool, write: bool) -> Result<(), Errno> {
        let gone =
            (if read { self.reader.lock().take() } else { None }, if write { self.writer.lock().take() } else { None });
        // Dropping an end signals its event.
        drop(gone);
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
        let value: u32 = match (level, name) {
            (SOL_SOCKET, SO_ERROR) => 0,
            (SOL_SOCKET, SO_TYPE) => SOCK_STREAM as u32,
            (SOL_SOCKET, SO_DOMAIN) => u32::from(AF_UNIX),
            (SOL_SOCKET, SO_SNDBUF | SO_RCVBUF) => vfs::PIPE_CAPACITY as u32,
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
        let (one, two) = pair();
        let mut buffer = [0; 8];
        assert_eq!(one.write(0, b"ping"), Ok(4));
        assert_eq!(two.read(0, &mut buffer), Ok(4));
        assert_eq!(two.read(0, &mut buffer), Err(Errno::EAGAIN));
        let mut tickets = Vec::new();
        two.tickets(&mut tickets);
        one.socket().unwrap().shutdown(false, true).unwrap();
        assert!(tickets.iter().any(Ticket::fired));
        assert_eq!(two.read(0, &mut buffer), Ok(0));
        assert_ne!(two.ready().0 & POLLIN, 0);
        assert_eq!(two.write(0, b"still"), Ok(5));
        assert_eq!(one.read(0, &mut buffer), Ok(5));
        drop(one);
        assert_eq!(two.write(0, b"x"), Err(Errno::EPIPE));
    }
}
