//! devhost: drives an igb and an edu from user space over iommufd and VFIO, and moves them, with the memory they write, to
//! another machine. It runs here and on Linux alike. Command line and events: docs/protocol.md.
//!
//! | module | job |
//! |---|---|
//! | [`sys`] | system calls and layouts; with [`memory`] the only unsafe code |
//! | [`memory`] | the region and register windows, as atomics |
//! | [`machine`] | what migration needs of a machine, as a trait; [`vfio`] is the real one, [`fake`] the one of the tests |
//! | [`igb`], [`edu`] | drivers: rings, doorbells, DMA engine |
//! | [`layout`] | which page of the region is for what |
//! | [`transfer`] | the file that the host sends: acknowledgement, assembly, digest of each pass |
//! | [`engine`] | drivers and transfer together, run by one thread, and their saved form |
//! | [`peer`] | the migration stream over TCP |
//! | [`source`], [`destination`] | the two sides |
//! | [`suite`] | small checks for the QEMU suites |

pub mod args;
pub mod bitmap;
pub mod destination;
pub mod edu;
pub mod engine;
pub mod event;
pub mod fake;
pub mod igb;
pub mod layout;
pub mod machine;
pub mod memory;
pub mod peer;
pub mod source;
pub mod suite;
pub mod sys;
pub mod transfer;
pub mod vfio;

#[cfg(test)]
mod loopback;
