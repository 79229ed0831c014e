//! Firmware tables to one neutral [`Topology`]: which IOMMUs there are, which requesters each translates for and under which stream id,
//! which memory firmware uses through which device, where message interrupts go, and what looks wrong.
//!
//! [`parse_dmar`] reads the table of Intel VT-d, [`parse_ivrs`] that of AMD-Vi, [`parse_iort`] that of Arm; [`parse_device_tree`] a flattened
//! device tree; [`parse_mcfg`] the windows of PCI Express configuration space. All trust no field: an answer is a topology
//! with notes and findings, or [`Error::Firmware`](iommu_types::Error::Firmware) with table, offset and reason.
//!
//! * A **note** is something skipped because it is not known here (a structure type from the future).
//! * A **finding** is a contradiction: the table says something that cannot be true or breaks a rule of its specification.
//!   What can be used in spite of it is kept, the rest is left out; the finding says which.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod blob;
mod check;
mod devices;
mod devicetree;
mod dmar;
mod iort;
mod ivrs;
mod mcfg;
mod routes;
mod routeset;
mod spec;
mod table;
mod topology;
mod units;

pub use devices::{AcpiIds, Counters, CountsFor, Host, NamedDevice, Oem, Target, UniqueId};
pub use devicetree::parse_device_tree;
pub use dmar::parse_dmar;
pub use iort::{QUIRK_ID_COUNT, parse_iort};
pub use ivrs::parse_ivrs;
pub use mcfg::{EcamWindow, Mcfg, parse_mcfg};
pub use routes::{DteSettings, Ids, MsiController, MsiRoute, Output, Source, StreamRoute};
pub use topology::{
    AcpiDevice, AtsPorts, BusRange, BusResolver, Coverage, DeviceProperties, Finding, Flags, Hop, Note, Proximity,
    Reserved, ReservedKind, Scope, ScopeKind, Topology, Unit, UnitKind, Why,
};
pub use units::{AmdVi, Detail, Interrupt, SmmuInterrupts, SmmuV2, SmmuV3};
