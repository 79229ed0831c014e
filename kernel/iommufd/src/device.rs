//! Devices and groups, as the machine describes them.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu_api::IommuUnit;
use iommu_types::{IovaRange, StreamId};

/// Iova that a device cannot use, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reserved {
    /// The range, included at both ends.
    pub range: IovaRange,
    /// In words, as "MSI window" or "DMAR+0x80 RMRR".
    pub why: String,
    /// Firmware wants it mapped one to one at all times (RMRR): such a device is refused.
    pub direct: bool,
}

impl Reserved {
    /// The window that x86 decodes as interrupts: 0xfee00000..=0xfeefffff.
    pub fn x86_msi() -> Self {
        let range = IovaRange::new(0xfee0_0000, 0xfeef_ffff).unwrap_or(IovaRange::ALL);
        Self { range, why: String::from("MSI window"), direct: false }
    }
}

/// One requester of a group, and the unit that translates it.
#[derive(Clone)]
pub struct Requester {
    /// The unit.
    pub unit: Arc<dyn IommuUnit>,
    /// The stream.
    pub stream: StreamId,
}

/// What [`Group::new`] takes: devices that hardware cannot keep apart move together.
#[derive(Clone)]
pub struct GroupSpec {
    /// Number, as in /sys/kernel/iommu_groups.
    pub id: u32,
    /// Every stream of it, aliases included.
    pub requesters: Vec<Requester>,
    /// Why these belong together, in words ("alone: every port on the way has ACS").
    pub why: String,
}

/// A device as the object model sees it.
#[derive(Clone)]
pub struct DeviceSpec {
    /// For logs, as "0000:01:00.0 8086:10c9".
    pub name: String,
    /// Its unit.
    pub unit: Arc<dyn IommuUnit>,
    /// Its own stream.
    pub stream: StreamId,
    /// Its group; shared by all devices of the group.
    pub group: Arc<crate::Group>,
    /// What it cannot use.
    pub reserved: Vec<Reserved>,
}

/// A device as an object of one file.
pub(crate) struct BoundDevice {
    pub spec: DeviceSpec,
}
