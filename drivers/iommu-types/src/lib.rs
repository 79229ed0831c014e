//! Words every IOMMU crate shares: addresses, streams, ranges, access rights, faults, errors.
//!
//! # Glossary
//!
//! *iova*: address a device uses. *pa* ([`Phys`]): physical address. *oa*: output address of a table.
//! *level 0*: the level of leaf entries of the smallest size. *item*: one translation, perhaps several contiguous
//! entries. *unit*: one IOMMU. *stream*: a requester (RID on PCI, DeviceID, StreamID). *domain*: one table plus its
//! cache tags. *gather*: what must be invalidated before memory is reused. Ranges are inclusive.
#![no_std]
#![forbid(unsafe_code)]

mod addr;
mod error;
mod fault;
mod features;

pub use addr::{Access, Iova, IovaRange, PageSizes, Pasid, Phys, PhysRange, PhysRun, StreamId, UnitId};
pub use error::{At, Blame, Error, Resource};
pub use fault::{Fault, FaultReason};
pub use features::{DirtyRule, Features, TableKind};
