//! Sockets.

use crate::cx::{BUFFER, Cx};
use crate::io::{Span, after};
use crate::unixsock::Delivery;
use crate::{Answer, Errno, Outcome};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use task::WaitOn;
use uapi::UserMem;
use uapi::linux::fs::{MAX_RW_COUNT, O_NONBLOCK, O_RDWR};
use uapi::linux::net::*;
use uapi::linux::time::Timeval;
use vfs::{Address, Domain, OpenFile, Received, Socket, SocketKind};

const DONE: Answer = Ok(Outcome::Done(0));

/// A `struct sockaddr` is never longer.
const ADDRESS_LIMIT: u64 = 128;

impl Cx {
    pub(crate) fn socket_file(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        let file = self.file(fd)?;
        if file.file.socket().is_none() { Err(Errno::ENOTSOCK) } else { Ok(file) }
    }
    fn with_socket<R>(&self, act: impl FnOnce(&dyn Socket) -> Result<R, Errno>) -> Result<R, Errno> {
        let file = self.file(self.fd(0))?;
        act(file.file.socket().ok_or(Errno::ENOTSOCK)?)
    }
    fn address(&self, at: u64, length: u64) -> Result<Address, Errno> {
        let bytes = self.get_bytes(at, u64::from(length as u32), ADDRESS_LIMIT)?;
        Address::decode(&bytes)
    }
    /// Writes an address where the program wants one, cut to its room; the length is that of the whole.
    fn put_address(&self, at: u64, length_at: u64, address: Option<Address>) -> Result<(), Errno> {
        if at == 0 {
            return Ok(());
        }
        let room: u32 = self.get(length_at)?;
        if room as i32 <= -1 {
            return Err(Errno::EINVAL);
        }
        let bytes = address.map(|address| address.encode()).unwrap_or_default();
        self.space.copy_out(at, &bytes[..bytes.len().min(room as usize)])?;
        self.put(length_at, &(bytes.len() as u32))
    }
    fn install_socket(&self, socket: Arc<dyn vfs::File>, flags: u64) -> Result<i32, Errno> {
        let keep = if flags & SOCK_NONBLOCK != 0 { O_NONBLOCK } else { 0 };
        self.install(OpenFile::new(socket, O_RDWR | keep), flags & SOCK_CLOEXEC != 0)
    }
    pub(crate) fn socket(&self) -> Answer {
        let [domain, kind, protocol, ..] = self.args;
        let flags = kind & !SOCK_TYPE_MASK;
        if flags & !(SOCK_NONBLOCK | SOCK_CLOEXEC) != 0 {
            return Err(Errno::EINVAL);
        }
        let domain = match u16::try_from(domain) {
            Ok(AF_INET) => Domain::Inet,
            Ok(AF_INET6) => Domain::Inet6,
            _ => return Err(Errno::EAFNOSUPPORT),
        };
        let kind = match kind & SOCK_TYPE_MASK {
            SOCK_STREAM => SocketKind::Stream,
            SOCK_DGRAM => SocketKind::Datagram,
            _ => return Err(Errno::ESOCKTNOSUPPORT),
        };
        let socket = self.kernel().sockets()?.socket(domain, kind, protocol as u32)?;
        Ok(Outcome::Done(i64::from(self.install_socket(socket, flags)?)))
    }
    pub(crate) fn socketpair(&self) -> Answer {
        let [domain, kind, _, at, ..] = self.args;
        let flags = kind & !SOCK_TYPE_MASK;
        if domain != u64::from(AF_UNIX) {
            return Err(Errno::EOPNOTSUPP);
        }
        if flags & !(SOCK_NONBLOCK | SOCK_CLOEXEC) != 0 {
            return Err(Errno::EINVAL);
        }
        let delivery = match kind & SOCK_TYPE_MASK {
            SOCK_STREAM => Delivery::Stream,
            SOCK_SEQPACKET => Delivery::Packets,
            SOCK_DGRAM => Delivery::Datagrams,
            _ => return Err(Errno::ESOCKTNOSUPPORT),
        };
        let keep = O_RDWR | if flags & SOCK_NONBLOCK != 0 { O_NONBLOCK } else { 0 };
        let (one, two) = crate::unixsock::pair(delivery);
        let pair = (OpenFile::new(one, keep), OpenFile::new(two, keep));
        self.install_pair(at, pair, flags & SOCK_CLOEXEC != 0)
    }
    pub(crate) fn bind(&self) -> Answer {
        let address = self.address(self.args[1], self.args[2])?;
        self.with_socket(|socket| socket.bind(address))?;
        DONE
    }
    pub(crate) fn listen(&self) -> Answer {
        let backlog = (self.args[1] as i32).clamp(0, 4096) as u32;
        self.with_socket(|socket| socket.listen(backlog))?;
        DONE
    }
    pub(crate) fn connect(&self) -> Answer {
        let file = self.socket_file(self.fd(0))?;
        let socket = file.file.socket().ok_or(Errno::ENOTSOCK)?;
        let address = self.address(self.args[1], self.args[2])?;
        let mut tickets = Vec::new();
        file.file.tickets(&mut tickets);
        match socket.connect(address) {
            Ok(()) => DONE,
            Err(error @ (Errno::EINPROGRESS | Errno::EALREADY)) => {
                if file.nonblocking() {
                    return Err(error);
                }
                let timeout = file.timeouts[1].load(Ordering::Relaxed);
                let deadline = self.deadline(if timeout == 0 { None } else { Some(timeout) });
                if deadline.is_some_and(|deadline| deadline <= self.now()) {
                    return Err(Errno::EINPROGRESS);
                }
                self.wait(WaitOn { tickets, deadline: deadline.filter(|deadline| *deadline != u64::MAX) })
            }
            Err(error) => Err(error),
        }
    }
    pub(crate) fn accept(&self, flags: u64) -> Answer {
        if flags & !(SOCK_NONBLOCK | SOCK_CLOEXEC) != 0 {
            return Err(Errno::EINVAL);
        }
        let file = self.socket_file(self.fd(0))?;
        let timeout = receive_timeout(&file);
        self.blocking(&file, false, timeout, || {
            let socket = file.file.socket().ok_or(Errno::ENOTSOCK)?;
            let (connection, peer) = socket.accept()?;
            let fd = self.install_socket(connection, flags)?;
            if let Err(error) = self.put_address(self.args[1], self.args[2], Some(peer)) {
                vfs::Caller::uninstall(self, fd);
                return Err(error);
            }
            Ok(i64::from(fd))
        })
    }
    /// Sends what the spans hold: in one piece if it fits the buffer, else as a stream.
    fn send_spans(&self, socket: &dyn Socket, spans: &[Span], to: Option<Address>) -> Result<i64, Errno> {
        let mut done = 0;
        self.with_buffer(|buffer| {
            let mut filled = 0;
            let mut send = |bytes: &[u8]| -> Result<bool, Errno> {
                match socket.send(bytes, to) {
                    Ok(count) => {
                        done += count as i64;
                        Ok(count == bytes.len())
                    }
                    Err(_) if done > 0 => Ok(false),
                    Err(error) => Err(error),
                }
            };
            for span in spans {
                let mut at = 0;
                while at < span.length {
                    let part = (span.length - at).min((BUFFER - filled) as u64) as usize;
                    self.space.copy_in(span.at.wrapping_add(at), &mut buffer[filled..filled + part])?;
                    filled += part;
                    at += part as u64;
                    if filled == BUFFER {
                        if !send(buffer)? {
                            return Ok(());
                        }
                        filled = 0;
                    }
                }
            }
            if filled > 0 || spans.iter().all(|span| span.length == 0) {
                send(&buffer[..filled])?;
            }
            Ok(())
        })?;
        Ok(done)
    }
    fn receive_spans(&self, socket: &dyn Socket, spans: &[Span], peek: bool) -> Result<Received, Errno> {
        let total = spans.iter().map(|span| span.length).sum::<u64>().min(BUFFER as u64) as usize;
        self.with_buffer(|buffer| {
            let received = socket.receive(&mut buffer[..total], peek)?;
            let mut rest = &buffer[..received.bytes.min(total)];
            for span in spans {
                let (part, after) = rest.split_at(rest.len().min(span.length as usize));
                self.space.copy_out(span.at, part)?;
                rest = after;
            }
            Ok(received)
        })
    }
    fn send_message(&self, fd: i32, spans: &[Span], to: Option<Address>, flags: u64) -> Answer {
        let file = self.socket_file(fd)?;
        if flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let timeout = match file.timeouts[1].load(Ordering::Relaxed) {
            0 => None,
            timeout => Some(timeout),
        };
        let total = spans.iter().map(|span| span.length).sum();
        self.push(&file, flags & MSG_DONTWAIT != 0, timeout, total, |done| {
            let socket = file.file.socket().ok_or(Errno::ENOTSOCK)?;
            self.send_spans(socket, &after(spans, done), to)
                .inspect_err(|error| self.broken_pipe(*error, flags & MSG_NOSIGNAL != 0))
        })
    }
    pub(crate) fn sendto(&self) -> Answer {
        let [fd, at, length, flags, address, address_length] = self.args;
        let to = if address == 0 { None } else { Some(self.address(address, address_length)?) };
        self.send_message(fd as i32, &[Span { at, length: length.min(MAX_RW_COUNT) }], to, flags)
    }
    pub(crate) fn recvfrom(&self) -> Answer {
        let [fd, at, length, flags, address, address_length] = self.args;
        let file = self.socket_file(fd as i32)?;
        let spans = [Span { at, length: length.min(MAX_RW_COUNT) }];
        self.blocking(&file, flags & MSG_DONTWAIT != 0, receive_timeout(&file), || {
            let socket = file.file.socket().ok_or(Errno::ENOTSOCK)?;
            let received = self.receive_spans(socket, &spans, flags & MSG_PEEK != 0)?;
            self.put_address(address, address_length, received.from)?;
            Ok(if flags & MSG_TRUNC != 0 { received.whole } else { received.bytes } as i64)
        })
    }
    fn message(&self, at: u64) -> Result<(MsgHdr, Vec<Span>), Errno> {
        let header: MsgHdr = self.get(at)?;
        let spans = self.spans(header.iov, header.iov_len).map_err(|error| match error {
            Errno::EINVAL if header.iov_len > uapi::linux::fs::IOV_MAX => Errno::EMSGSIZE,
            error => error,
        })?;
        Ok((header, spans))
    }
    fn sendmsg_at(&self, at: u64, flags: u64) -> Answer {
        let (header, spans) = self.message(at)?;
        let to = match header.name {
            0 => None,
            name => Some(self.address(name, u64::from(header.name_len))?),
        };
        // Ancillary data (descriptors, credentials) has nowhere to go.
        if header.control != 0 && header.control_len > 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        self.send_message(self.fd(0), &spans, to, flags)
    }
    pub(crate) fn sendmsg(&self) -> Answer {
        self.sendmsg_at(self.args[1], self.args[2])
    }
    fn recvmsg_at(&self, at: u64, flags: u64) -> Answer {
        let (mut header, spans) = self.message(at)?;
        let file = self.socket_file(self.fd(0))?;
        self.blocking(&file, flags & MSG_DONTWAIT != 0, receive_timeout(&file), || {
            let socket = file.file.socket().ok_or(Errno::ENOTSOCK)?;
            let received = self.receive_spans(socket, &spans, flags & MSG_PEEK != 0)?;
            let mut bytes = received.from.map(|from| from.encode()).unwrap_or_default();
            let whole = bytes.len() as u32;
            bytes.truncate(header.name_len as usize);
            if header.name != 0 {
                self.space.copy_out(header.name, &bytes)?;
            }
            header.name_len = if header.name != 0 { whole } else { 0 };
            header.control_len = 0;
            header.flags = if received.whole > received.bytes { MSG_TRUNC as u32 } else { 0 };
            self.put(at, &header)?;
            Ok(if flags & MSG_TRUNC != 0 { received.whole } else { received.bytes } as i64)
        })
    }
    pub(crate) fn recvmsg(&self) -> Answer {
        self.recvmsg_at(self.args[1], self.args[2])
    }
    /// Several messages: one is moved, which both calls may do.
    fn first_of_many(&self, one: impl Fn(&Self, u64) -> Answer) -> Answer {
        let (at, count) = (self.args[1], self.args[2]);
        if count as u32 == 0 {
            return DONE;
        }
        match one(self, at)? {
            Outcome::Done(bytes) => {
                self.put(at.wrapping_add(size_of::<MsgHdr>() as u64), &(bytes as u32))?;
                Ok(Outcome::Done(1))
            }
            other => Ok(other),
        }
    }
    pub(crate) fn sendmmsg(&self) -> Answer {
        self.first_of_many(|cx, at| cx.sendmsg_at(at, cx.args[3]))
    }
    pub(crate) fn recvmmsg(&self) -> Answer {
        self.first_of_many(|cx, at| cx.recvmsg_at(at, cx.args[3]))
    }
    pub(crate) fn shutdown(&self) -> Answer {
        let (read, write) = match self.args[1] {
            SHUT_RD => (true, false),
            SHUT_WR => (false, true),
            SHUT_RDWR => (true, true),
            _ => return Err(Errno::EINVAL),
        };
        self.with_socket(|socket| socket.shutdown(read, write))?;
        DONE
    }
    pub(crate) fn getsockname(&self) -> Answer {
        let address = self.with_socket(|socket| socket.local())?;
        self.put_address(self.args[1], self.args[2], Some(address))?;
        DONE
    }
    pub(crate) fn getpeername(&self) -> Answer {
        let address = self.with_socket(|socket| socket.peer())?;
        self.put_address(self.args[1], self.args[2], Some(address))?;
        DONE
    }
    pub(crate) fn setsockopt(&self) -> Answer {
        let [fd, level, name, at, length, _] = self.args;
        let file = self.socket_file(fd as i32)?;
        let length = u64::from(length as u32);
        if let (SOL_SOCKET, SO_RCVTIMEO | SO_SNDTIMEO) = (level, name) {
            if length < 16 {
                return Err(Errno::EINVAL);
            }
            let time = self.get::<Timeval>(at)?.nanos().ok_or(Errno::EDOM)?;
            file.timeouts[usize::from(name == SO_SNDTIMEO)].store(time, Ordering::Relaxed);
            return DONE;
        }
        let value = self.get_bytes(at, length, 4096)?;
        self.with_socket(|socket| socket.set_option(level, name, &value))?;
        DONE
    }
    pub(crate) fn getsockopt(&self) -> Answer {
        let [fd, level, name, at, length_at, _] = self.args;
        let file = self.socket_file(fd as i32)?;
        let room: u32 = self.get(length_at)?;
        if (room as i32) < 0 {
            return Err(Errno::EINVAL);
        }
        let value = if let (SOL_SOCKET, SO_RCVTIMEO | SO_SNDTIMEO) = (level, name) {
            let time = Timeval::from_nanos(file.timeouts[usize::from(name == SO_SNDTIMEO)].load(Ordering::Relaxed));
            zerocopy::IntoBytes::as_bytes(&time).to_vec()
        } else {
            self.with_socket(|socket| socket.option(level, name))?
        };
        let count = value.len().min(room as usize);
        self.space.copy_out(at, &value[..count])?;
        self.put(length_at, &(count as u32))?;
        DONE
    }
}

fn receive_timeout(file: &OpenFile) -> Option<u64> {
    match file.timeouts[0].load(Ordering::Relaxed) {
        0 => None,
        timeout => Some(timeout),
    }
}
