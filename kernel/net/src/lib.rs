//! Sockets over smoltcp: TCP over IPv4, on a link and on 127.0.0.0/8.
//!
//! * [`Link`]: what a network card gives and takes: whole Ethernet frames. The stack never waits for it.
//! * [`Stack`]: interfaces, connections, and [`vfs::SocketFactory`] for programs.
//! * [`virtio`]: what the link card's driver needs so that it really goes through the IOMMU.
//!
//! Nothing here blocks: calls return `EAGAIN`, and each socket has an event that is signalled by [`Stack::poll`], which the kernel calls
//! whenever it is idle, after interrupts, and at the deadline that the last call returned. Socket calls poll as well, so that bytes
//! leave at once.
//!
//! What is not here, and refused: UDP (`EPROTONOSUPPORT`), IPv6 (`EAFNOSUPPORT`), routes beyond the link's own network
//! (`ENETUNREACH`), urgent data, options that change how TCP works.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod connection;
mod link;
mod socket;
mod stack;
#[cfg(test)]
mod tests;
pub mod virtio;

pub use link::Link;
pub use stack::{Stack, parse_address};
