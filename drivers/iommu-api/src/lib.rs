//! The boundaries between page tables, IOMMU drivers and the object model (DESIGN section 4).
//!
//! | trait | on the machine | on the host |
//! |---|---|---|
//! | [`Mmio`] | volatile window | register file of the model |
//! | [`TableMem`], [`Coherency`] | frame allocator, direct map, cache clean | arena that the model reads |
//! | [`Clock`] | TSC | virtual; waiting ticks the model |
//! | [`Domain`], [`IommuUnit`] | a vendor driver | the same driver over the model |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod domain;
mod gather;
mod machine;
mod unit;

pub use domain::{DirtySink, Domain, DomainInfo, ReadDirty, SinkFull, Translation};
pub use gather::{Gather, quarantined_tables};
pub use machine::{Clock, Coherency, Mmio, TableMem, TimedOut, WORDS, Words};
pub use unit::{AttachError, DomainSpec, IommuUnit, ReservedRegion};
