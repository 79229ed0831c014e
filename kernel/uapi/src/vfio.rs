//! /dev/vfio/devices/vfioN: numbers, structures and flags.
//!
//! Type `;` (0x3B), nr `100 + n`. Each structure starts with `argsz`, the bytes the program gave: fewer than the first
//! published size is `EINVAL`; what the structure cannot hold (capability chains) is left out and `argsz` says what it takes.
//! Only BIND_IOMMUFD follows the rules of [`crate::Request`] in full.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Takes [`DeviceInfo`].
pub const DEVICE_GET_INFO: u32 = 0x3b6b;
/// Takes [`RegionInfo`].
pub const DEVICE_GET_REGION_INFO: u32 = 0x3b6c;
/// Takes [`IrqInfo`].
pub const DEVICE_GET_IRQ_INFO: u32 = 0x3b6d;
/// Takes [`IrqSet`].
pub const DEVICE_SET_IRQS: u32 = 0x3b6e;
/// Takes nothing.
pub const DEVICE_RESET: u32 = 0x3b6f;
/// Not here: `ENOTTY`.
pub const DEVICE_PCI_HOT_RESET_INFO: u32 = 0x3b70;
/// Not here: `ENOTTY`.
pub const DEVICE_PCI_HOT_RESET: u32 = 0x3b71;
/// Not here: `ENOTTY`.
pub const DEVICE_IOEVENTFD: u32 = 0x3b74;
/// Takes [`DeviceFeature`].
pub const DEVICE_FEATURE: u32 = 0x3b75;
/// Takes [`BindIommufd`].
pub const DEVICE_BIND_IOMMUFD: u32 = 0x3b76;
/// Takes [`AttachIommufdPt`].
pub const DEVICE_ATTACH_IOMMUFD_PT: u32 = 0x3b77;
/// Takes [`DetachIommufdPt`].
pub const DEVICE_DETACH_IOMMUFD_PT: u32 = 0x3b78;
/// On the data file; takes [`PrecopyInfo`].
pub const MIG_GET_PRECOPY_INFO: u32 = 0x3b79;

/// Device flag: can be reset.
pub const DEVICE_FLAGS_RESET: u32 = 1;
/// Device flag: a PCI function.
pub const DEVICE_FLAGS_PCI: u32 = 2;
/// Device flag: has a capability chain.
pub const DEVICE_FLAGS_CAPS: u32 = 0x80;
/// Region flag.
pub const REGION_FLAG_READ: u32 = 1;
/// Region flag.
pub const REGION_FLAG_WRITE: u32 = 2;
/// Region flag.
pub const REGION_FLAG_MMAP: u32 = 4;
/// Region flag: has a capability chain.
pub const REGION_FLAG_CAPS: u32 = 8;
/// Expansion ROM; 0..=5 are the BARs.
pub const REGION_ROM: u32 = 6;
/// Configuration space.
pub const REGION_CONFIG: u32 = 7;
/// VGA ranges.
pub const REGION_VGA: u32 = 8;
/// Regions of a PCI function.
pub const NUM_REGIONS: u32 = 9;
/// Interrupt index.
pub const IRQ_INTX: u32 = 0;
/// Interrupt index.
pub const IRQ_MSI: u32 = 1;
/// Interrupt index.
pub const IRQ_MSIX: u32 = 2;
/// Interrupt index.
pub const IRQ_ERR: u32 = 3;
/// Interrupt index.
pub const IRQ_REQ: u32 = 4;
/// Interrupt indexes of a PCI function.
pub const NUM_IRQS: u32 = 5;
/// Irq flag.
pub const IRQ_INFO_EVENTFD: u32 = 1;
/// Irq flag.
pub const IRQ_INFO_MASKABLE: u32 = 2;
/// Irq flag.
pub const IRQ_INFO_AUTOMASKED: u32 = 4;
/// Irq flag.
pub const IRQ_INFO_NORESIZE: u32 = 8;
/// SET_IRQS: NONE 1, BOOL 2, EVENTFD 4.
pub const IRQ_SET_DATA_MASK: u32 = 7;
/// SET_IRQS: MASK 8, UNMASK 0x10, TRIGGER 0x20.
pub const IRQ_SET_ACTION_MASK: u32 = 0x38;
/// BIND flag: a token is given.
pub const BIND_TOKEN: u32 = 1;
/// ATTACH and DETACH flag.
pub const ATTACH_PASID: u32 = 1;
/// Feature number.
pub const FEATURE_MASK: u32 = 0xffff;
/// Read it.
pub const FEATURE_GET: u32 = 0x10000;
/// Set it.
pub const FEATURE_SET: u32 = 0x20000;
/// Only ask whether it is there.
pub const FEATURE_PROBE: u32 = 0x40000;
/// [`Migration`], GET.
pub const FEATURE_MIGRATION: u32 = 1;
/// [`MigDeviceState`], GET and SET.
pub const FEATURE_MIG_DEVICE_STATE: u32 = 2;
/// [`MigDataSize`], GET.
pub const FEATURE_MIG_DATA_SIZE: u32 = 9;
/// Only a reset leaves it.
pub const STATE_ERROR: u32 = 0;
/// The device starts no DMA.
pub const STATE_STOP: u32 = 1;
/// Normal.
pub const STATE_RUNNING: u32 = 2;
/// Stopped; the data file gives the state.
pub const STATE_STOP_COPY: u32 = 3;
/// Stopped; the data file takes a state.
pub const STATE_RESUMING: u32 = 4;
/// Runs, but starts no DMA.
pub const STATE_RUNNING_P2P: u32 = 5;
/// Runs; the data file gives early state.
pub const STATE_PRE_COPY: u32 = 6;
/// Both.
pub const STATE_PRE_COPY_P2P: u32 = 7;
/// [`SparseMmap`]: only these parts can be mapped.
pub const CAP_SPARSE_MMAP: u16 = 1;
/// Vendor region type.
pub const CAP_TYPE: u16 = 2;
/// The MSI-X table may be mapped too.
pub const CAP_MSIX_MAPPABLE: u16 = 3;
/// Migration flag.
pub const MIGRATION_STOP_COPY: u64 = 1;
/// Migration flag.
pub const MIGRATION_P2P: u64 = 2;
/// Migration flag.
pub const MIGRATION_PRE_COPY: u64 = 4;

/// A region's place in the device file: `index << REGION_SHIFT`.
pub const REGION_SHIFT: u32 = 40;

/// DEVICE_GET_INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeviceInfo {
    /// Bytes the program gave.
    pub argsz: u32,
    /// Flags.
    pub flags: u32,
    /// Regions.
    pub num_regions: u32,
    /// Interrupt indexes.
    pub num_irqs: u32,
    /// Capability chain, 0 for none.
    pub cap_offset: u32,
    /// Zero.
    pub pad: u32,
}

/// GET_REGION_INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegionInfo {
    /// Bytes the program gave.
    pub argsz: u32,
    /// Flags.
    pub flags: u32,
    /// Which region.
    pub index: u32,
    /// Capability chain, 0 for none.
    pub cap_offset: u32,
    /// Bytes; 0 if there is none.
    pub region_size: u64,
    /// Where it is in the device file.
    pub offset: u64,
}

/// GET_IRQ_INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IrqInfo {
    /// Bytes the program gave.
    pub argsz: u32,
    /// Flags.
    pub flags: u32,
    /// Which index.
    pub index: u32,
    /// Vectors.
    pub count: u32,
}

/// SET_IRQS; data follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IrqSet {
    /// Bytes the program gave.
    pub argsz: u32,
    /// Flags.
    pub flags: u32,
    /// Which index.
    pub index: u32,
    /// First vector.
    pub start: u32,
    /// Vectors.
    pub count: u32,
}

/// DEVICE_FEATURE; data follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeviceFeature {
    /// Bytes the program gave.
    pub argsz: u32,
    /// Feature in the low 16 bits, and [`FEATURE_GET`], [`FEATURE_SET`], [`FEATURE_PROBE`].
    pub flags: u32,
}

/// BIND_IOMMUFD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindIommufd {
    /// Bytes the program gave.
    pub argsz: u32,
    /// [`BIND_TOKEN`].
    pub flags: u32,
    /// File of /dev/iommu.
    pub iommufd: i32,
    /// Id of the device there.
    pub out_devid: u32,
    /// Token.
    pub token_uuid_ptr: u64,
}

/// ATTACH_IOMMUFD_PT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AttachIommufdPt {
    /// Bytes the program gave.
    pub argsz: u32,
    /// [`ATTACH_PASID`].
    pub flags: u32,
    /// Address space or table; written back: the table used.
    pub pt_id: u32,
    /// PASID.
    pub pasid: u32,
}

/// DETACH_IOMMUFD_PT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DetachIommufdPt {
    /// Bytes the program gave.
    pub argsz: u32,
    /// [`ATTACH_PASID`].
    pub flags: u32,
    /// PASID.
    pub pasid: u32,
}

/// MIG_GET_PRECOPY_INFO, on the data file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PrecopyInfo {
    /// Bytes the program gave.
    pub argsz: u32,
    /// Flags.
    pub flags: u32,
    /// Bytes of the first part left.
    pub initial_bytes: u64,
    /// Bytes changed since.
    pub dirty_bytes: u64,
}

/// Head of a capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CapHeader {
    /// Which.
    pub id: u16,
    /// Of its layout.
    pub version: u16,
    /// Offset of the next from the start of the structure, 0 for none.
    pub next: u32,
}

/// One mappable part of a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SparseArea {
    /// In the region.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// REGION_INFO_CAP_SPARSE_MMAP; [`SparseArea`]s follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SparseMmap {
    /// [`CAP_SPARSE_MMAP`].
    pub id: u16,
    /// 1.
    pub version: u16,
    /// Offset of the next.
    pub next: u32,
    /// Areas.
    pub nr_areas: u32,
    /// Zero.
    pub reserved: u32,
}

/// Feature MIGRATION.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Migration {
    /// [`MIGRATION_STOP_COPY`], [`MIGRATION_P2P`], [`MIGRATION_PRE_COPY`].
    pub flags: u64,
}

/// Feature MIG_DEVICE_STATE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MigDeviceState {
    /// State.
    pub device_state: u32,
    /// File of the session, or -1.
    pub data_fd: i32,
}

/// Feature MIG_DATA_SIZE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MigDataSize {
    /// Expected bytes.
    pub stop_copy_length: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    macro_rules! layout {
        ($name:ident, $size:literal $(, $field:ident @ $offset:literal)+) => {
            assert_eq!(size_of::<$name>(), $size, stringify!($name));
            $(assert_eq!(offset_of!($name, $field), $offset, concat!(stringify!($name), ".", stringify!($field)));)+
        };
    }

    #[test]
    fn every_structure_matches_the_published_layout() {
        layout!(DeviceInfo, 24, argsz @ 0, flags @ 4, num_regions @ 8, num_irqs @ 12, cap_offset @ 16, pad @ 20);
        layout!(RegionInfo, 32, argsz @ 0, flags @ 4, index @ 8, cap_offset @ 12, region_size @ 16, offset @ 24);
        layout!(IrqInfo, 16, argsz @ 0, flags @ 4, index @ 8, count @ 12);
        layout!(IrqSet, 20, argsz @ 0, flags @ 4, index @ 8, start @ 12, count @ 16);
        layout!(DeviceFeature, 8, argsz @ 0, flags @ 4);
        layout!(BindIommufd, 24, argsz @ 0, flags @ 4, iommufd @ 8, out_devid @ 12, token_uuid_ptr @ 16);
        layout!(AttachIommufdPt, 16, argsz @ 0, flags @ 4, pt_id @ 8, pasid @ 12);
        layout!(DetachIommufdPt, 12, argsz @ 0, flags @ 4, pasid @ 8);
        layout!(PrecopyInfo, 24, argsz @ 0, flags @ 4, initial_bytes @ 8, dirty_bytes @ 16);
        layout!(CapHeader, 8, id @ 0, version @ 2, next @ 4);
        layout!(SparseArea, 16, offset @ 0, size @ 8);
        layout!(SparseMmap, 16, id @ 0, version @ 2, next @ 4, nr_areas @ 8, reserved @ 12);
        layout!(Migration, 8, flags @ 0);
        layout!(MigDeviceState, 8, device_state @ 0, data_fd @ 4);
        layout!(MigDataSize, 8, stop_copy_length @ 0);
    }

    #[test]
    fn every_command_has_its_number() {
        let want = [
            (DEVICE_GET_INFO, 0x3b6b),
            (DEVICE_GET_REGION_INFO, 0x3b6c),
            (DEVICE_GET_IRQ_INFO, 0x3b6d),
            (DEVICE_SET_IRQS, 0x3b6e),
            (DEVICE_RESET, 0x3b6f),
            (DEVICE_PCI_HOT_RESET_INFO, 0x3b70),
            (DEVICE_PCI_HOT_RESET, 0x3b71),
            (DEVICE_IOEVENTFD, 0x3b74),
            (DEVICE_FEATURE, 0x3b75),
            (DEVICE_BIND_IOMMUFD, 0x3b76),
            (DEVICE_ATTACH_IOMMUFD_PT, 0x3b77),
            (DEVICE_DETACH_IOMMUFD_PT, 0x3b78),
            (MIG_GET_PRECOPY_INFO, 0x3b79),
        ];
        for (command, number) in want {
            assert_eq!(command, number);
        }
    }
}
