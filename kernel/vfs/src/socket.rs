//! Sockets: what a network stack implements.

use crate::File;
use alloc::sync::Arc;
use alloc::vec::Vec;
use uapi::Errno;

/// Address family of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Domain {
    /// AF_INET.
    Inet,
    /// AF_INET6.
    Inet6,
}

/// Type of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketKind {
    /// SOCK_STREAM: TCP.
    Stream,
    /// SOCK_DGRAM: UDP.
    Datagram,
}

/// A socket address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Address {
    /// `struct sockaddr_in`.
    V4 {
        /// Address, most significant byte first.
        ip: [u8; 4],
        /// Port.
        port: u16,
    },
    /// `struct sockaddr_in6`.
    V6 {
        /// Address, most significant byte first.
        ip: [u8; 16],
        /// Port.
        port: u16,
    },
}

impl Address {
    /// From the bytes of a `struct sockaddr`.
    ///
    /// # Errors
    /// `EINVAL` if too short, `EAFNOSUPPORT` for another family.
    pub fn decode(bytes: &[u8]) -> Result<Self, Errno> {
        let [f0, f1, p0, p1, ..] = *bytes else { return Err(Errno::EINVAL) };
        let port = u16::from_be_bytes([p0, p1]);
        match u16::from_le_bytes([f0, f1]) {
            uapi::linux::net::AF_INET => {
                let ip = bytes.get(4..8).and_then(|ip| ip.try_into().ok()).ok_or(Errno::EINVAL)?;
                if bytes.len() < 16 {
                    return Err(Errno::EINVAL);
                }
                Ok(Self::V4 { ip, port })
            }
            uapi::linux::net::AF_INET6 => {
                let ip = bytes.get(8..24).and_then(|ip| ip.try_into().ok()).ok_or(Errno::EINVAL)?;
                Ok(Self::V6 { ip, port })
            }
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }
    /// As the bytes of a `struct sockaddr_in` (16) or `sockaddr_in6` (28).
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::V4 { ip, port } => {
                bytes.extend_from_slice(&uapi::linux::net::AF_INET.to_le_bytes());
                bytes.extend_from_slice(&port.to_be_bytes());
                bytes.extend_from_slice(ip);
                bytes.resize(16, 0);
            }
            Self::V6 { ip, port } => {
                bytes.extend_from_slice(&uapi::linux::net::AF_INET6.to_le_bytes());
                bytes.extend_from_slice(&port.to_be_bytes());
                bytes.extend_from_slice(&[0; 4]);
                bytes.extend_from_slice(ip);
                bytes.resize(28, 0);
            }
        }
        bytes
    }
}

/// What a receive gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Bytes stored. 0 on a stream: the other side sends no more.
    pub bytes: usize,
    /// Bytes the datagram had; equal to `bytes` on a stream.
    pub whole: usize,
    /// Who sent it; `None` on a stream.
    pub from: Option<Address>,
}

/// A socket. [`File::read`] and [`File::write`] are receive and send; [`File::socket`] returns `Some(self)`.
pub trait Socket: File {
    /// bind(2).
    ///
    /// # Errors
    /// `EADDRINUSE`, `EADDRNOTAVAIL`, `EINVAL` if bound already.
    fn bind(&self, address: Address) -> Result<(), Errno>;
    /// listen(2).
    ///
    /// # Errors
    /// `EADDRINUSE`, `EINVAL`.
    fn listen(&self, backlog: u32) -> Result<(), Errno>;
    /// A connection that arrived, and who made it.
    ///
    /// # Errors
    /// `EAGAIN` if there is none; `EINVAL` if not listening.
    fn accept(&self) -> Result<(Arc<dyn Socket>, Address), Errno>;
    /// connect(2), asked again until it is decided. The first call starts; `EINPROGRESS` from the call that started it,
    /// `EALREADY` while it is on its way, `Ok` once (the first call after it was established), `EISCONN` after that.
    ///
    /// # Errors
    /// Also `ECONNREFUSED`, `ETIMEDOUT`, `ENETUNREACH`: decided, and failed.
    fn connect(&self, address: Address) -> Result<(), Errno>;
    /// Sends, to `to` if given.
    ///
    /// # Errors
    /// `EAGAIN`, `EPIPE` (the caller raises SIGPIPE), `ENOTCONN`, `ECONNRESET`, `EDESTADDRREQ`.
    fn send(&self, from: &[u8], to: Option<Address>) -> Result<usize, Errno>;
    /// Receives; with `peek` the bytes stay.
    ///
    /// # Errors
    /// `EAGAIN`, `ENOTCONN`, `ECONNRESET`.
    fn receive(&self, to: &mut [u8], peek: bool) -> Result<Received, Errno>;
    /// shutdown(2): `read`, `write` or both.
    ///
    /// # Errors
    /// `ENOTCONN`.
    fn shutdown(&self, read: bool, write: bool) -> Result<(), Errno>;
    /// Own address.
    ///
    /// # Errors
    /// None that are usual; an unbound socket has address 0 and port 0.
    fn local(&self) -> Result<Address, Errno>;
    /// The other side's address.
    ///
    /// # Errors
    /// `ENOTCONN`.
    fn peer(&self) -> Result<Address, Errno>;
    /// setsockopt(2). `SO_REUSEADDR`, buffer sizes, `TCP_NODELAY` and the like may be accepted without effect;
    /// timeouts (`SO_RCVTIMEO`, `SO_SNDTIMEO`) are kept by the caller.
    ///
    /// # Errors
    /// `ENOPROTOOPT`, `EINVAL`.
    fn set_option(&self, level: u64, name: u64, value: &[u8]) -> Result<(), Errno>;
    /// getsockopt(2): the value. `SO_ERROR` returns the pending error and clears it.
    ///
    /// # Errors
    /// `ENOPROTOOPT`.
    fn option(&self, level: u64, name: u64) -> Result<Vec<u8>, Errno>;
}

/// Makes sockets.
pub trait SocketFactory: Send + Sync {
    /// socket(2). `protocol` is 0 or an `IPPROTO_*`.
    ///
    /// # Errors
    /// `EAFNOSUPPORT`, `EPROTONOSUPPORT`, `ENOBUFS`.
    fn socket(&self, domain: Domain, kind: SocketKind, protocol: u32) -> Result<Arc<dyn Socket>, Errno>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_the_layout_of_the_manual() {
        let bytes = [2, 0, 0x1e, 0x61, 10, 77, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0];
        let address = Address::V4 { ip: [10, 77, 0, 2], port: 7777 };
        assert_eq!(Address::decode(&bytes), Ok(address));
        assert_eq!(address.encode(), bytes);
        assert_eq!(Address::decode(&bytes[..15]), Err(Errno::EINVAL));
        assert_eq!(Address::decode(&[1, 0, 0, 0]), Err(Errno::EAFNOSUPPORT));
        let v6 = Address::V6 { ip: [0xfe; 16], port: 1 };
        assert_eq!(v6.encode().len(), 28);
        assert_eq!(Address::decode(&v6.encode()), Ok(v6));
    }
}
