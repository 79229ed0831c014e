//! Intel VT-d: `spec` (layouts only) and the driver.
//!
//! # How to use it
//!
//! ```ignore
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

mod config;

pub use config::{BringUpReport, Budgets, Msi, UnitConfig};

use alloc::string::String;
use alloc::sync::Arc;
use core::marker::PhantomData;
use iommu_api::{AttachError, Clock, Domain, DomainSpec, IommuUnit, Mmio, TableMem};
use iommu_types::{Error, Fault, Features, Pasid, StreamId, UnitId};

/// Names of the quirks that [`UnitConfig::quirks_off`] understands.
pub const QUIRKS: &[&str] = &["qemu-fs-ad", "qemu-ad-store"];

/// One VT-d unit, translating.
pub struct Unit<M, T, C> {
    parts: PhantomData<fn() -> (M, T, C)>,
}

impl<M: Mmio + 'static, T: TableMem + 'static, C: Clock + 'static> Unit<M, T, C> {
    /// Takes the unit over and turns translation on with every stream blocked (DESIGN section 6).
    ///
    /// # Errors
    /// [`Error::Impossible`] for capability registers that cannot be, [`Error::Unsupported`] for a unit that lacks what the
    /// driver needs, [`Error::Stuck`] if it does not answer in time, [`Error::Exhausted`] for memory.
    pub fn bring_up(
        config: UnitConfig,
        mmio: M,
        mem: Arc<T>,
        clock: Arc<C>,
    ) -> Result<(Arc<Self>, BringUpReport), Error> {
        let _ = (config, mmio, mem, clock);
        Err(Error::Unsupported("not yet"))
    }
}

impl<M: Mmio + 'static, T: TableMem + 'static, C: Clock + 'static> IommuUnit for Unit<M, T, C> {
    fn id(&self) -> UnitId {
        unimplemented!()
    }
    fn name(&self) -> &str {
        unimplemented!()
    }
    fn features(&self) -> Features {
        unimplemented!()
    }
    fn raw_capabilities(&self) -> [u64; 2] {
        unimplemented!()
    }
    fn make_domain(&self, _: DomainSpec) -> Result<Arc<dyn Domain>, Error> {
        unimplemented!()
    }
    fn attach(&self, _: StreamId, _: Option<Pasid>, _: &Arc<dyn Domain>) -> Result<(), AttachError> {
        unimplemented!()
    }
    fn block(&self, _: StreamId, _: Option<Pasid>) -> Result<(), Error> {
        unimplemented!()
    }
    fn drain_faults(&self, _: &mut dyn FnMut(Fault)) {}
    fn status(&self) -> String {
        unimplemented!()
    }
}
