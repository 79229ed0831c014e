//! One PCI function that programs may own.

use crate::DeviceFile;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use device_api::{Function, Migratable};
use iommu_api::{Clock, TableMem};
use iommufd::DeviceSpec;

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

/// One PCI function that programs may own.
pub struct Device {
    parts: DeviceParts,
}

impl Device {
    /// A device that nobody opened. Its stream must be blocked and bus mastering off.
    pub fn new(parts: DeviceParts) -> Arc<Self> {
        Arc::new(Self { parts })
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
    /// A file on the device. Several may be open; one can be bound.
    pub fn open(self: &Arc<Self>) -> Arc<DeviceFile> {
        DeviceFile::new(self.clone())
    }
}
