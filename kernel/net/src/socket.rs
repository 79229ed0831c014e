//! A program's socket.

use crate::connection::{Endpoint, State};
use crate::stack::Stack;
use alloc::sync::Arc;
use alloc::vec::Vec;
use smoltcp::socket::tcp::RecvError;
use uapi::Errno;
use uapi::linux::net::*;
use vfs::{Address, Event, File, FileKind, Ready, Received, Socket, Stat};

/// A TCP socket: a number in the stack.
pub(crate) struct TcpSocket {
    stack: Stack,
    id: usize,
}

impl TcpSocket {
    pub(crate) fn new(stack: Stack, id: usize) -> Self {
        Self { stack, id }
    }
}

impl Drop for TcpSocket {
    fn drop(&mut self) {
        self.stack.close(self.id);
    }
}

fn v4(address: Address) -> Result<Endpoint, Errno> {
    match address {
        Address::V4 { ip, port } => Ok((ip, port)),
        Address::V6 { .. } => Err(Errno::EAFNOSUPPORT),
    }
}

fn address((ip, port): Endpoint) -> Address {
    Address::V4 { ip, port }
}

impl File for TcpSocket {
    fn read(&self, _: u64, to: &mut [u8]) -> Result<usize, Errno> {
        self.receive(to, false).map(|received| received.bytes)
    }
    fn write(&self, _: u64, from: &[u8]) -> Result<usize, Errno> {
        self.send(from, None)
    }
    fn ready(&self) -> Ready {
        self.stack.ready(self.id)
    }
    fn event(&self) -> Option<Event> {
        self.stack.event(self.id)
    }
    fn stat(&self) -> Stat {
        Stat { mode: 0o777, ..Stat::anonymous(FileKind::Socket) }
    }
    fn socket(&self) -> Option<&dyn Socket> {
        Some(self)
    }
}

impl Socket for TcpSocket {
    fn bind(&self, address: Address) -> Result<(), Errno> {
        self.stack.bind(self.id, v4(address)?)
    }
    fn listen(&self, backlog: u32) -> Result<(), Errno> {
        self.stack.listen(self.id, backlog)
    }
    fn accept(&self) -> Result<(Arc<dyn Socket>, Address), Errno> {
        let (socket, peer) = self.stack.accept(self.id)?;
        Ok((socket, address(peer)))
    }
    fn connect(&self, address: Address) -> Result<(), Errno> {
        self.stack.connect(self.id, v4(address)?)
    }
    fn send(&self, from: &[u8], to: Option<Address>) -> Result<usize, Errno> {
        if to.is_some() {
            return Err(Errno::EISCONN);
        }
        self.stack.with(self.id, |entry, nets, _| {
            if entry.shut_write {
                return Err(Errno::EPIPE);
            }
            match entry.state {
                State::Fresh | State::Failed | State::Listening { .. } => {
                    Err(entry.error.take().unwrap_or(Errno::ENOTCONN))
                }
                State::Connecting(_) => Err(Errno::EAGAIN),
                State::Connected(conn) => {
                    if let Some(error) = entry.error.take() {
                        return Err(error);
                    }
                    match nets.tcp(conn).send_slice(from) {
                        Ok(0) if !from.is_empty() => Err(Errno::EAGAIN),
                        Ok(count) => Ok(count),
                        Err(_) => Err(Errno::EPIPE),
                    }
                }
            }
        })
    }
    fn receive(&self, to: &mut [u8], peek: bool) -> Result<Received, Errno> {
        let bytes = self.stack.with(self.id, |entry, nets, _| {
            let conn = match entry.state {
                State::Fresh | State::Failed | State::Listening { .. } => {
                    return Err(entry.error.take().unwrap_or(Errno::ENOTCONN));
                }
                State::Connecting(_) => return Err(Errno::EAGAIN),
                State::Connected(conn) => conn,
            };
            let tcp = nets.tcp(conn);
            if tcp.can_recv() {
                let result = if peek {
                    tcp.peek_slice(to)
                } else {
                    // the ring buffer gives what lies in one piece; the other piece is there at once
                    tcp.recv_slice(to).and_then(|first| {
                        if first > 0 && first < to.len() && tcp.can_recv() {
                            tcp.recv_slice(&mut to[first..]).map(|second| first + second)
                        } else {
                            Ok(first)
                        }
                    })
                };
                return result.map_err(|_| Errno::ECONNRESET);
            }
            if let Some(error) = entry.error.take() {
                return Err(error);
            }
            if entry.shut_read || entry.eof || entry.broken || to.is_empty() {
                return Ok(0);
            }
            match tcp.recv_slice(to) {
                Err(RecvError::Finished | RecvError::InvalidState) => Ok(0),
                Ok(_) => Err(Errno::EAGAIN),
            }
        })?;
        Ok(Received { bytes, whole: bytes, from: None })
    }
    fn shutdown(&self, read: bool, write: bool) -> Result<(), Errno> {
        self.stack.with(self.id, |entry, nets, _| {
            let State::Connected(conn) = entry.state else { return Err(Errno::ENOTCONN) };
            entry.shut_read |= read;
            if write && !entry.shut_write {
                entry.shut_write = true;
                nets.tcp(conn).close();
            }
            Ok(())
        })
    }
    fn local(&self) -> Result<Address, Errno> {
        self.stack.with(self.id, |entry, _, _| Ok(address(entry.local)))
    }
    fn peer(&self) -> Result<Address, Errno> {
        self.stack.with(self.id, |entry, _, _| match (&entry.state, entry.peer) {
            (State::Connected(_), Some(peer)) if !entry.broken => Ok(address(peer)),
            _ => Err(Errno::ENOTCONN),
        })
    }
    fn set_option(&self, level: u64, name: u64, value: &[u8]) -> Result<(), Errno> {
        if value.len() < 4 {
            return Err(Errno::EINVAL);
        }
        match (level, name) {
            (
                SOL_SOCKET,
                SO_REUSEADDR | SO_REUSEPORT | SO_SNDBUF | SO_RCVBUF | SO_KEEPALIVE | SO_LINGER | SO_BROADCAST,
            )
            | (IPPROTO_TCP, TCP_NODELAY) => Ok(()),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }
    fn option(&self, level: u64, name: u64) -> Result<Vec<u8>, Errno> {
        let value = self.stack.with(self.id, |entry, nets, _| {
            let conn = match entry.state {
                State::Connecting(conn) | State::Connected(conn) => Some(conn),
                State::Fresh | State::Failed | State::Listening { .. } => None,
            };
            match (level, name) {
                (SOL_SOCKET, SO_ERROR) => Ok(entry.error.take().map_or(0, |error| i32::from(error.0))),
                (SOL_SOCKET, SO_TYPE) => Ok(SOCK_STREAM as i32),
                (SOL_SOCKET, SO_DOMAIN) => Ok(AF_INET.into()),
                (SOL_SOCKET, SO_PROTOCOL) => Ok(IPPROTO_TCP as i32),
                (SOL_SOCKET, SO_ACCEPTCONN) => Ok(matches!(entry.state, State::Listening { .. }).into()),
                (SOL_SOCKET, SO_SNDBUF) => Ok(conn.map_or(0, |conn| nets.tcp(conn).send_capacity() as i32)),
                (SOL_SOCKET, SO_RCVBUF) => Ok(conn.map_or(0, |conn| nets.tcp(conn).recv_capacity() as i32)),
                (SOL_SOCKET, SO_REUSEADDR | SO_REUSEPORT | SO_KEEPALIVE | SO_BROADCAST) => Ok(0),
                (IPPROTO_TCP, TCP_NODELAY) => Ok(1),
                _ => Err(Errno::ENOPROTOOPT),
            }
        })?;
        Ok(value.to_le_bytes().to_vec())
    }
}
