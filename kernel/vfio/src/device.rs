//! One PCI function that programs may own.

use crate::DeviceFile;
use crate::config::View;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::AtomicBool;
use device_api::{Function, Migratable};
use iommu_api::{Clock, TableMem};
use iommufd::DeviceSpec;
use spin::Mutex;
use uapi::vfio::{MIGRATION_P2P, MIGRATION_STOP_COPY};

/// What [`Device::new`] takes.
pub struct DeviceParts {
    /// File name, as "vfio0".
    pub name: String,
    /// The function.
    pub function: Arc<dyn Function>,
    /// Unit, stream, group, reserved regions.
    pub spec: DeviceSpec,
    /// Its migration driver, if there is one.
    pub migration: Option<Box<dyn Migratable>>,
    /// Where the private page of a migration driver comes from.
    pub memory: Arc<dyn TableMem>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// What is fixed about a migration driver.
#[derive(Clone, Copy)]
pub(crate) struct Migration {
    pub name: &'static str,
    /// Flags of feature MIGRATION.
    pub abilities: u64,
    /// Upper bound of a saved state in bytes.
    pub limit: usize,
}

/// One PCI function that programs may own.
pub struct Device {
    pub(crate) parts: DeviceParts,
    pub(crate) view: View,
    pub(crate) migration: Option<Migration>,
    /// Out of here while it works, which it does outside of every lock.
    pub(crate) driver: Mutex<Option<Box<dyn Migratable>>>,
    /// A file is bound.
    pub(crate) bound: AtomicBool,
    /// The last owner's reset failed: the device must be reset before the next.
    pub(crate) stale: AtomicBool,
}

impl Device {
    /// A device that nobody opened. Its stream must be blocked and bus mastering off.
    pub fn new(mut parts: DeviceParts) -> Arc<Self> {
        let driver = parts.migration.take();
        let migration = driver.as_ref().map(|driver| {
            let p2p = if driver.states().p2p { MIGRATION_P2P } else { 0 };
            let abilities = MIGRATION_STOP_COPY | p2p;
            Migration { name: driver.name(), abilities, limit: driver.max_state_bytes() }
        });
        let view = View::new(&*parts.function);
        let (bound, stale) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { parts, view, migration, driver: Mutex::new(driver), bound, stale })
    }
    /// File name, as "vfio0".
    pub fn name(&self) -> &str {
        &self.parts.name
    }
    /// The function.
    pub fn function(&self) -> &Arc<dyn Function> {
        &self.parts.function
    }
    /// Unit, stream, group, reserved regions.
    pub fn spec(&self) -> &DeviceSpec {
        &self.parts.spec
    }
    /// Name of its migration driver, if there is one.
    pub fn migration(&self) -> Option<&'static str> {
        self.migration.map(|migration| migration.name)
    }
    /// A file on the device. Several may be open; one can be bound.
    pub fn open(self: &Arc<Self>) -> Arc<DeviceFile> {
        DeviceFile::new(self.clone())
    }
    pub(crate) fn can_reset(&self) -> bool {
        self.migration.is_some() || self.parts.function.can_reset().is_ok()
    }
}
