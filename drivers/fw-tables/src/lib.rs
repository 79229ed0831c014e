//! Firmware tables to one neutral [`Topology`]: which IOMMUs there are, which requesters each translates for, which memory
//! firmware uses through which device, and what looks wrong.
//!
//! [`parse_dmar`] reads the table of Intel VT-d, [`parse_mcfg`] the windows of PCI Express configuration space. Both trust no field: an
//! answer is a topology with notes and findings, or [`Error::Firmware`](iommu_types::Error::Firmware) with table, offset
//! and reason.
//!
//! * A **note** is something skipped because it is not known here (a structure type from the future).
//! * A **finding** is a contradiction: the table says something that cannot be true or breaks a rule of its specification.
//!   What can be used in spite of it is kept, the rest is left out; the finding says which.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod check;
mod dmar;
mod mcfg;
mod spec;
mod table;
mod topology;

pub use dmar::parse_dmar;
pub use mcfg::{EcamWindow, Mcfg, parse_mcfg};
pub use topology::{
    AcpiDevice, AtsPorts, BusRange, BusResolver, Coverage, DeviceProperties, Finding, Flags, Hop, Note, Proximity,
    Reserved, ReservedKind, Scope, ScopeKind, Topology, Unit, UnitKind, Why,
};
