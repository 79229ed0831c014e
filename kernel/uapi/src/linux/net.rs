//! Sockets.
use super::constants;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

constants! {
    AF_UNSPEC: u16 = 0,
    AF_UNIX: u16 = 1,
    AF_INET: u16 = 2,
    AF_INET6: u16 = 10,
    SOCK_STREAM: u64 = 1,
    SOCK_DGRAM: u64 = 2,
    SOCK_SEQPACKET: u64 = 5,
    SOCK_TYPE_MASK: u64 = 0xf,
    SOCK_NONBLOCK: u64 = 0o4000,
    SOCK_CLOEXEC: u64 = 0o2000000,
    SOL_SOCKET: u64 = 1,
    IPPROTO_TCP: u64 = 6,
    SO_REUSEADDR: u64 = 2,
    SO_TYPE: u64 = 3,
    SO_ERROR: u64 = 4,
    SO_BROADCAST: u64 = 6,
    SO_SNDBUF: u64 = 7,
    SO_RCVBUF: u64 = 8,
    SO_KEEPALIVE: u64 = 9,
    SO_LINGER: u64 = 13,
    SO_REUSEPORT: u64 = 15,
    SO_RCVTIMEO: u64 = 20,
    SO_SNDTIMEO: u64 = 21,
    SO_ACCEPTCONN: u64 = 30,
    SO_PROTOCOL: u64 = 38,
    SO_DOMAIN: u64 = 39,
    TCP_NODELAY: u64 = 1,
    MSG_OOB: u64 = 1,
    MSG_PEEK: u64 = 2,
    MSG_TRUNC: u64 = 0x20,
    MSG_DONTWAIT: u64 = 0x40,
    MSG_WAITALL: u64 = 0x100,
    MSG_NOSIGNAL: u64 = 0x4000,
    MSG_MORE: u64 = 0x8000,
    MSG_CMSG_CLOEXEC: u64 = 0x4000_0000,
    SHUT_RD: u64 = 0,
    SHUT_WR: u64 = 1,
    SHUT_RDWR: u64 = 2,
}

/// `struct msghdr`, 56 bytes.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MsgHdr {
    /// Address buffer.
    pub name: u64,
    /// Its bytes.
    pub name_len: u32,
    /// Zero.
    pub pad: u32,
    /// Array of iovec.
    pub iov: u64,
    /// Its length.
    pub iov_len: u64,
    /// Ancillary data.
    pub control: u64,
    /// Its bytes.
    pub control_len: u64,
    /// Out: `MSG_*`.
    pub flags: u32,
    /// Zero.
    pub tail: u32,
}

/// `struct mmsghdr`, 64 bytes.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MMsgHdr {
    /// The message.
    pub header: MsgHdr,
    /// Bytes moved.
    pub length: u32,
    /// Zero.
    pub pad: u32,
}

#[cfg(test)]
mod tests {
    #[test]
    fn layouts_are_those_of_the_manual() {
        assert_eq!(core::mem::size_of::<super::MsgHdr>(), 56);
        assert_eq!(core::mem::size_of::<super::MMsgHdr>(), 64);
        assert_eq!(core::mem::offset_of!(super::MsgHdr, flags), 48);
    }
}
