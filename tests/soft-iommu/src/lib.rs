//! Executable model of IOMMU hardware, written from the specifications.
//!
//! The model shares no constant with the drivers it checks: a number that both sides need is typed twice, once here
//! from the figure in the specification and once there. It depends on `iommu-types` only.
//!
//! * [`Arena`] is the physical memory. What the driver stored but did not publish can be hidden from the walker
//!   (*stale view*), and each allocation can be made to fail.
//! * [`vtd::Vtd`] is one Intel VT-d unit: registers, invalidation queue, table walks, caches, faults. It keeps every
//!   translation it ever used until an invalidation that covers it has *completed*, as hardware is allowed to.
//! * [`amd::Amd`] is one AMD unit, in the same style: device table, command buffer, event log, v1 and v2 tables.
//! * [`smmu::Smmu`] is one Arm SMMUv3, in the same spirit.
//! * The ghost record ([`DmaWrite`]) is the truth: each write that reached memory, whatever the tables say later.
//! * [`Violation`]s are what software did that the specification forbids. A scenario ends with none.
//!
//! Time is virtual: nothing happens in the unit but in a register access, a DMA, or [`vtd::Vtd::tick`].
#![forbid(unsafe_code)]

pub mod amd;
mod arena;
mod ghost;
pub mod smmu;
mod util;
pub mod vtd;

pub use arena::{Arena, Store, Use};
pub use ghost::{DmaWrite, Violation};
pub use util::Rng;
