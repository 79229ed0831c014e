//! Intel VT-d: [`spec`] (layouts only) and the driver.
//!
//! # How to use it
//!
//! ```text
//! let mut config = UnitConfig::new(UnitId(0), "vtd0");   // plain data, from the DMAR table
//! config.oem_id = *b"BOCHS ";                            // header of the DMAR table: quirks match on it
//! config.window = 0x1000;
//! let (unit, report) = Unit::bring_up(config, mmio, Arc::clone(&mem), Arc::clone(&clock))?;
//! // From here on translation is on and every stream is blocked.
//! let domain = unit.make_domain(DomainSpec { dirty_tracking: true, ..DomainSpec::default() })?;
//! let gather = domain.map(Iova(0x10_0000), &runs, Access::READ | Access::WRITE, 1 << 30)?;
//! domain.sync(gather)?;
//! unit.attach(StreamId::pci(0, 1, 0, 0), None, &domain)?;
//! ```
//!
//! `mmio: impl Mmio + 'static`, `mem: Arc<impl TableMem + 'static>`, `clock: Arc<impl Clock + 'static>`;
//! [`Unit`] implements [`iommu_api::IommuUnit`], so `Arc<Unit<..>>` coerces to `Arc<dyn IommuUnit>`. All units of a machine
//! that share domains must be made with the same three types.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bringup;
mod caps;
mod config;
mod domain;
mod faults;
mod ids;
mod inval;
mod queue;
mod shared;
pub mod spec;
mod structures;
mod unit;

pub use caps::QUIRKS;
pub use config::{BringUpReport, Budgets, Msi, UnitConfig};
pub use domain::VtdDomain;
pub use unit::Unit;
