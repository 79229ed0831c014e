//! /dev/iommu: numbers, structures and flags.
//!
//! Type `;` (0x3B), no direction and size bits: the command is `0x3B00 + nr`, nr 0x80..=0x95. A structure's first field
//! is its size ([`crate::Request`] has the rules). Words for failures: `ENOTTY` unknown command; `E2BIG` non-zero unknown
//! tail; `EOPNOTSUPP` a known field asks for something that is not supported, or a reserved field is not zero; `EINVAL` bad
//! value; `ENOENT` no such id or iova; `ENOMEM`; `EOVERFLOW` arithmetic; `EBUSY` in use.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Type byte of all iommufd and VFIO commands, shifted into place.
pub const TYPE: u32 = 0x3b00;
/// First command number.
pub const FIRST: u32 = 0x80;
/// Last command number.
pub const LAST: u32 = 0x95;

/// Command of [`Destroy`].
pub const DESTROY: u32 = TYPE + 0x80;
/// Command of [`IoasAlloc`].
pub const IOAS_ALLOC: u32 = TYPE + 0x81;
/// Command of [`IoasAllowIovas`].
pub const IOAS_ALLOW_IOVAS: u32 = TYPE + 0x82;
/// Command of [`IoasCopy`].
pub const IOAS_COPY: u32 = TYPE + 0x83;
/// Command of [`IoasIovaRanges`].
pub const IOAS_IOVA_RANGES: u32 = TYPE + 0x84;
/// Command of [`IoasMap`].
pub const IOAS_MAP: u32 = TYPE + 0x85;
/// Command of [`IoasUnmap`].
pub const IOAS_UNMAP: u32 = TYPE + 0x86;
/// Command of [`OptionCmd`].
pub const OPTION: u32 = TYPE + 0x87;
/// Command of [`VfioIoas`].
pub const VFIO_IOAS: u32 = TYPE + 0x88;
/// Command of [`HwptAlloc`].
pub const HWPT_ALLOC: u32 = TYPE + 0x89;
/// Command of [`GetHwInfo`].
pub const GET_HW_INFO: u32 = TYPE + 0x8a;
/// Command of [`HwptSetDirtyTracking`].
pub const HWPT_SET_DIRTY_TRACKING: u32 = TYPE + 0x8b;
/// Command of [`HwptGetDirtyBitmap`].
pub const HWPT_GET_DIRTY_BITMAP: u32 = TYPE + 0x8c;
/// Command of [`HwptInvalidate`].
pub const HWPT_INVALIDATE: u32 = TYPE + 0x8d;
/// Command of [`FaultQueueAlloc`].
pub const FAULT_QUEUE_ALLOC: u32 = TYPE + 0x8e;
/// Command of [`IoasMapFile`].
pub const IOAS_MAP_FILE: u32 = TYPE + 0x8f;
/// Command of [`ViommuAlloc`].
pub const VIOMMU_ALLOC: u32 = TYPE + 0x90;
/// Command of [`VdeviceAlloc`].
pub const VDEVICE_ALLOC: u32 = TYPE + 0x91;
/// Command of [`IoasChangeProcess`].
pub const IOAS_CHANGE_PROCESS: u32 = TYPE + 0x92;
/// Command of [`VeventqAlloc`].
pub const VEVENTQ_ALLOC: u32 = TYPE + 0x93;
/// Command of [`HwQueueAlloc`].
pub const HW_QUEUE_ALLOC: u32 = TYPE + 0x94;
/// Command of [`IoasNoiommuGetPa`].
pub const IOAS_NOIOMMU_GET_PA: u32 = TYPE + 0x95;

/// Smallest size of each command's structure that was ever published, in bytes, from nr 0x80 on.
pub const MIN_SIZES: [usize; 22] =
    [8, 12, 24, 40, 32, 40, 24, 24, 12, 24, 32, 16, 48, 32, 16, 40, 24, 24, 8, 28, 40, 40];

/// Map flag: at `iova`, not where there is room.
pub const MAP_FIXED_IOVA: u32 = 1;
/// Map flag: devices may write.
pub const MAP_WRITEABLE: u32 = 2;
/// Map flag: devices may read.
pub const MAP_READABLE: u32 = 4;
/// HWPT flag: parent of nested tables.
pub const HWPT_NEST_PARENT: u32 = 1;
/// HWPT flag: can track writes.
pub const HWPT_DIRTY_TRACKING: u32 = 2;
/// HWPT flag: `fault_id` counts.
pub const HWPT_FAULT_ID_VALID: u32 = 4;
/// HWPT flag: for PASID attach.
pub const HWPT_PASID: u32 = 8;
/// Vendor data of a table: none.
pub const HWPT_DATA_NONE: u32 = 0;
/// Vendor data: VT-d first stage.
pub const HWPT_DATA_VTD_S1: u32 = 1;
/// Vendor data: SMMUv3.
pub const HWPT_DATA_ARM_SMMUV3: u32 = 2;
/// Vendor data: AMD.
pub const HWPT_DATA_AMD_GUEST: u32 = 3;
/// No vendor information, or as input: the default.
pub const HW_INFO_TYPE_NONE: u32 = 0;
/// [`HwInfoVtd`].
pub const HW_INFO_TYPE_INTEL_VTD: u32 = 1;
/// SMMUv3.
pub const HW_INFO_TYPE_ARM_SMMUV3: u32 = 2;
/// Tegra241 command queues.
pub const HW_INFO_TYPE_TEGRA241: u32 = 3;
/// AMD.
pub const HW_INFO_TYPE_AMD: u32 = 4;
/// `data_type` is an input.
pub const HW_INFO_FLAG_INPUT_TYPE: u32 = 1;
/// Start tracking; without it, stop.
pub const DIRTY_TRACKING_ENABLE: u32 = 1;
/// Look, but do not clear.
pub const GET_DIRTY_NO_CLEAR: u32 = 1;
/// Whose limit pins count against: 0 the user's, 1 the process's.
pub const OPTION_RLIMIT_MODE: u32 = 0;
/// 1: large leaves allowed (default); 0: smallest pages only.
pub const OPTION_HUGE_PAGES: u32 = 1;
/// OPTION: set.
pub const OPTION_OP_SET: u16 = 0;
/// OPTION: get.
pub const OPTION_OP_GET: u16 = 1;
/// VFIO_IOAS: get.
pub const VFIO_IOAS_GET: u16 = 0;
/// VFIO_IOAS: set.
pub const VFIO_IOAS_SET: u16 = 1;
/// VFIO_IOAS: clear.
pub const VFIO_IOAS_CLEAR: u16 = 2;
/// The unit tracks writes.
pub const HW_CAP_DIRTY_TRACKING: u64 = 1;
/// PASID execute permission.
pub const HW_CAP_PASID_EXEC: u64 = 2;
/// PASID privileged mode.
pub const HW_CAP_PASID_PRIV: u64 = 4;
/// No ATS.
pub const HW_CAP_ATS_NOT_SUPPORTED: u64 = 8;

/// DESTROY: removes an object. `ENOENT` unknown id; `EBUSY` in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Destroy {
    /// Bytes of this structure.
    pub size: u32,
    /// The object.
    pub id: u32,
}

/// IOAS_ALLOC: a new I/O address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoasAlloc {
    /// Bytes of this structure.
    pub size: u32,
    /// Flags; unknown ones are `EOPNOTSUPP`.
    pub flags: u32,
    /// Its id.
    pub out_ioas_id: u32,
}

/// IOAS_ALLOW_IOVAS: where automatic placement may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoasAllowIovas {
    /// Bytes of this structure.
    pub size: u32,
    /// The address space.
    pub ioas_id: u32,
    /// Ranges given; 0 clears the list.
    pub num_iovas: u32,
    /// Zero.
    pub reserved: u32,
    /// Array of [`IovaRange`].
    pub allowed_iovas: u64,
}

/// IOAS_COPY: maps what another address space maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoasCopy {
    /// Bytes of this structure.
    pub size: u32,
    /// [`MAP_FIXED_IOVA`], [`MAP_WRITEABLE`], [`MAP_READABLE`].
    pub flags: u32,
    /// Where to.
    pub dst_ioas_id: u32,
    /// Where from.
    pub src_ioas_id: u32,
    /// Bytes.
    pub length: u64,
    /// Where; written back.
    pub dst_iova: u64,
    /// From where.
    pub src_iova: u64,
}

/// IOAS_IOVA_RANGES: what can be mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoasIovaRanges {
    /// Bytes of this structure.
    pub size: u32,
    /// The address space.
    pub ioas_id: u32,
    /// Room in the array; written back: ranges there are.
    pub num_iovas: u32,
    /// Zero.
    pub reserved: u32,
    /// Array of [`IovaRange`].
    pub allowed_iovas: u64,
    /// Alignment of iova and length, in bytes.
    pub out_iova_alignment: u64,
}

/// IOAS_MAP: maps memory of the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoasMap {
    /// Bytes of this structure.
    pub size: u32,
    /// [`MAP_FIXED_IOVA`], [`MAP_WRITEABLE`], [`MAP_READABLE`].
    pub flags: u32,
    /// The address space.
    pub ioas_id: u32,
    /// Zero.
    pub reserved: u32,
    /// Address in the program.
    pub user_va: u64,
    /// Bytes.
    pub length: u64,
    /// Where; written back.
    pub iova: u64,
}

/// IOAS_UNMAP: removes whole mappings. Iova 0 with length 2^64-1: all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoasUnmap {
    /// Bytes of this structure.
    pub size: u32,
    /// The address space.
    pub ioas_id: u32,
    /// First address.
    pub iova: u64,
    /// Bytes; written back: bytes removed.
    pub length: u64,
}

/// OPTION: reads or sets an option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OptionCmd {
    /// Bytes of this structure.
    pub size: u32,
    /// [`OPTION_RLIMIT_MODE`] or [`OPTION_HUGE_PAGES`].
    pub option_id: u32,
    /// [`OPTION_OP_SET`] or [`OPTION_OP_GET`].
    pub op: u16,
    /// Zero.
    pub reserved: u16,
    /// The address space of HUGE_PAGES; 0 for RLIMIT_MODE.
    pub object_id: u32,
    /// The value; written back.
    pub val64: u64,
}

/// VFIO_IOAS: the address space that type1 calls use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VfioIoas {
    /// Bytes of this structure.
    pub size: u32,
    /// The address space; written back by GET.
    pub ioas_id: u32,
    /// [`VFIO_IOAS_GET`], [`VFIO_IOAS_SET`] or [`VFIO_IOAS_CLEAR`].
    pub op: u16,
    /// Zero.
    pub reserved: u16,
}

/// HWPT_ALLOC: a hardware page table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HwptAlloc {
    /// Bytes of this structure.
    pub size: u32,
    /// Flags; unknown ones are `EOPNOTSUPP`.
    pub flags: u32,
    /// A device whose unit makes it.
    pub dev_id: u32,
    /// The address space (or parent table).
    pub pt_id: u32,
    /// Its id.
    pub out_hwpt_id: u32,
    /// Zero.
    pub reserved: u32,
    /// Vendor data; 0 for none.
    pub data_type: u32,
    /// Bytes of vendor data.
    pub data_len: u32,
    /// Vendor data.
    pub data_uptr: u64,
    /// Fault queue, with [`HWPT_FAULT_ID_VALID`].
    pub fault_id: u32,
    /// Not checked, as on Linux.
    pub reserved2: u32,
}

/// GET_HW_INFO: what the unit of a device can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetHwInfo {
    /// Bytes of this structure.
    pub size: u32,
    /// [`HW_INFO_FLAG_INPUT_TYPE`].
    pub flags: u32,
    /// The device.
    pub dev_id: u32,
    /// Room for vendor data; written back: the kernel's length.
    pub data_len: u32,
    /// Where to.
    pub data_uptr: u64,
    /// Wanted type, with INPUT_TYPE; written back: the type given.
    pub data_type: u32,
    /// Bits of PASID enabled on the device.
    pub out_max_pasid_log2: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// [`HW_CAP_DIRTY_TRACKING`] and others.
    pub out_capabilities: u64,
}

/// HWPT_SET_DIRTY_TRACKING: starts (and clears) or stops tracking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HwptSetDirtyTracking {
    /// Bytes of this structure.
    pub size: u32,
    /// [`DIRTY_TRACKING_ENABLE`].
    pub flags: u32,
    /// The table.
    pub hwpt_id: u32,
    /// Not checked, as on Linux.
    pub reserved: u32,
}

/// HWPT_GET_DIRTY_BITMAP: ors into a bitmap what devices wrote. Bit n is the page at `iova + n * page_size`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HwptGetDirtyBitmap {
    /// Bytes of this structure.
    pub size: u32,
    /// The table.
    pub hwpt_id: u32,
    /// [`GET_DIRTY_NO_CLEAR`].
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
    /// First address.
    pub iova: u64,
    /// Bytes.
    pub length: u64,
    /// Bytes one bit stands for.
    pub page_size: u64,
    /// The bitmap.
    pub data: u64,
}

/// HWPT_INVALIDATE: caches of a nested table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HwptInvalidate {
    /// Bytes of this structure.
    pub size: u32,
    /// The nested table.
    pub hwpt_id: u32,
    /// Entries.
    pub data_uptr: u64,
    /// Their type.
    pub data_type: u32,
    /// Bytes of one.
    pub entry_len: u32,
    /// How many; written back: done.
    pub entry_num: u32,
    /// Zero.
    pub reserved: u32,
}

/// FAULT_QUEUE_ALLOC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FaultQueueAlloc {
    /// Bytes of this structure.
    pub size: u32,
    /// Flags; unknown ones are `EOPNOTSUPP`.
    pub flags: u32,
    /// Its id.
    pub out_fault_id: u32,
    /// Its file.
    pub out_fault_fd: u32,
}

/// IOAS_MAP_FILE: maps memory of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoasMapFile {
    /// Bytes of this structure.
    pub size: u32,
    /// [`MAP_FIXED_IOVA`], [`MAP_WRITEABLE`], [`MAP_READABLE`].
    pub flags: u32,
    /// The address space.
    pub ioas_id: u32,
    /// The file.
    pub fd: i32,
    /// Offset in it.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// Where; written back.
    pub iova: u64,
}

/// VIOMMU_ALLOC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ViommuAlloc {
    /// Bytes of this structure.
    pub size: u32,
    /// Flags; unknown ones are `EOPNOTSUPP`.
    pub flags: u32,
    /// Type.
    pub kind: u32,
    /// Device.
    pub dev_id: u32,
    /// Parent table.
    pub hwpt_id: u32,
    /// Its id.
    pub out_viommu_id: u32,
    /// Bytes of vendor data.
    pub data_len: u32,
    /// Zero.
    pub reserved: u32,
    /// Vendor data.
    pub data_uptr: u64,
}

/// VDEVICE_ALLOC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VdeviceAlloc {
    /// Bytes of this structure.
    pub size: u32,
    /// The vIOMMU.
    pub viommu_id: u32,
    /// The device.
    pub dev_id: u32,
    /// Its id.
    pub out_vdevice_id: u32,
    /// The guest's id of it.
    pub virt_id: u64,
}

/// IOAS_CHANGE_PROCESS: moves charges to the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoasChangeProcess {
    /// Bytes of this structure.
    pub size: u32,
    /// Zero.
    pub reserved: u32,
}

/// VEVENTQ_ALLOC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VeventqAlloc {
    /// Bytes of this structure.
    pub size: u32,
    /// Flags; unknown ones are `EOPNOTSUPP`.
    pub flags: u32,
    /// The vIOMMU.
    pub viommu_id: u32,
    /// Type.
    pub kind: u32,
    /// Events it holds.
    pub veventq_depth: u32,
    /// Its id.
    pub out_veventq_id: u32,
    /// Its file.
    pub out_veventq_fd: u32,
    /// Zero.
    pub reserved: u32,
}

/// HW_QUEUE_ALLOC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HwQueueAlloc {
    /// Bytes of this structure.
    pub size: u32,
    /// Flags; unknown ones are `EOPNOTSUPP`.
    pub flags: u32,
    /// The vIOMMU.
    pub viommu_id: u32,
    /// Type.
    pub kind: u32,
    /// Which queue.
    pub index: u32,
    /// Its id.
    pub out_hw_queue_id: u32,
    /// Where its memory is.
    pub nesting_parent_iova: u64,
    /// Bytes.
    pub length: u64,
}

/// IOAS_NOIOMMU_GET_PA: only without an IOMMU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoasNoiommuGetPa {
    /// Bytes of this structure.
    pub size: u32,
    /// Flags; unknown ones are `EOPNOTSUPP`.
    pub flags: u32,
    /// The address space.
    pub ioas_id: u32,
    /// Zero.
    pub reserved: u32,
    /// Address.
    pub iova: u64,
    /// Bytes.
    pub length: u64,
    /// Physical address.
    pub out_phys: u64,
}

/// Inclusive range of iova.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IovaRange {
    /// First address.
    pub start: u64,
    /// Last address, included.
    pub last: u64,
}

/// VT-d capability registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HwInfoVtd {
    /// Errata; 0 here.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
    /// CAP_REG (VT-d 5.0 section 11.4.2).
    pub cap_reg: u64,
    /// ECAP_REG (11.4.3).
    pub ecap_reg: u64,
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
        layout!(Destroy, 8, id @ 4);
        layout!(IoasAlloc, 12, flags @ 4, out_ioas_id @ 8);
        layout!(IoasAllowIovas, 24, ioas_id @ 4, num_iovas @ 8, reserved @ 12, allowed_iovas @ 16);
        layout!(IoasCopy, 40, flags @ 4, dst_ioas_id @ 8, src_ioas_id @ 12, length @ 16, dst_iova @ 24, src_iova @ 32);
        layout!(IoasIovaRanges, 32, ioas_id @ 4, num_iovas @ 8, reserved @ 12, allowed_iovas @ 16, out_iova_alignment @ 24);
        layout!(IoasMap, 40, flags @ 4, ioas_id @ 8, reserved @ 12, user_va @ 16, length @ 24, iova @ 32);
        layout!(IoasUnmap, 24, ioas_id @ 4, iova @ 8, length @ 16);
        layout!(OptionCmd, 24, option_id @ 4, op @ 8, reserved @ 10, object_id @ 12, val64 @ 16);
        layout!(VfioIoas, 12, ioas_id @ 4, op @ 8, reserved @ 10);
        layout!(HwptAlloc, 48, flags @ 4, dev_id @ 8, pt_id @ 12, out_hwpt_id @ 16, reserved @ 20, data_type @ 24, data_len @ 28, data_uptr @ 32, fault_id @ 40, reserved2 @ 44);
        layout!(GetHwInfo, 40, flags @ 4, dev_id @ 8, data_len @ 12, data_uptr @ 16, data_type @ 24, out_max_pasid_log2 @ 28, reserved @ 29, out_capabilities @ 32);
        layout!(HwptSetDirtyTracking, 16, flags @ 4, hwpt_id @ 8, reserved @ 12);
        layout!(HwptGetDirtyBitmap, 48, hwpt_id @ 4, flags @ 8, reserved @ 12, iova @ 16, length @ 24, page_size @ 32, data @ 40);
        layout!(HwptInvalidate, 32, hwpt_id @ 4, data_uptr @ 8, data_type @ 16, entry_len @ 20, entry_num @ 24, reserved @ 28);
        layout!(FaultQueueAlloc, 16, flags @ 4, out_fault_id @ 8, out_fault_fd @ 12);
        layout!(IoasMapFile, 40, flags @ 4, ioas_id @ 8, fd @ 12, start @ 16, length @ 24, iova @ 32);
        layout!(ViommuAlloc, 40, flags @ 4, kind @ 8, dev_id @ 12, hwpt_id @ 16, out_viommu_id @ 20, data_len @ 24, reserved @ 28, data_uptr @ 32);
        layout!(VdeviceAlloc, 24, viommu_id @ 4, dev_id @ 8, out_vdevice_id @ 12, virt_id @ 16);
        layout!(IoasChangeProcess, 8, reserved @ 4);
        layout!(VeventqAlloc, 32, flags @ 4, viommu_id @ 8, kind @ 12, veventq_depth @ 16, out_veventq_id @ 20, out_veventq_fd @ 24, reserved @ 28);
        layout!(HwQueueAlloc, 40, flags @ 4, viommu_id @ 8, kind @ 12, index @ 16, out_hw_queue_id @ 20, nesting_parent_iova @ 24, length @ 32);
        layout!(IoasNoiommuGetPa, 40, flags @ 4, ioas_id @ 8, reserved @ 12, iova @ 16, length @ 24, out_phys @ 32);
        layout!(IovaRange, 16, start @ 0, last @ 8);
        layout!(HwInfoVtd, 24, flags @ 0, reserved @ 4, cap_reg @ 8, ecap_reg @ 16);
    }

    #[test]
    fn every_command_has_its_number_and_first_size() {
        let want = [
            (DESTROY, 0x3b80, 8),
            (IOAS_ALLOC, 0x3b81, 12),
            (IOAS_ALLOW_IOVAS, 0x3b82, 24),
            (IOAS_COPY, 0x3b83, 40),
            (IOAS_IOVA_RANGES, 0x3b84, 32),
            (IOAS_MAP, 0x3b85, 40),
            (IOAS_UNMAP, 0x3b86, 24),
            (OPTION, 0x3b87, 24),
            (VFIO_IOAS, 0x3b88, 12),
            (HWPT_ALLOC, 0x3b89, 24),
            (GET_HW_INFO, 0x3b8a, 32),
            (HWPT_SET_DIRTY_TRACKING, 0x3b8b, 16),
            (HWPT_GET_DIRTY_BITMAP, 0x3b8c, 48),
            (HWPT_INVALIDATE, 0x3b8d, 32),
            (FAULT_QUEUE_ALLOC, 0x3b8e, 16),
            (IOAS_MAP_FILE, 0x3b8f, 40),
            (VIOMMU_ALLOC, 0x3b90, 24),
            (VDEVICE_ALLOC, 0x3b91, 24),
            (IOAS_CHANGE_PROCESS, 0x3b92, 8),
            (VEVENTQ_ALLOC, 0x3b93, 28),
            (HW_QUEUE_ALLOC, 0x3b94, 40),
            (IOAS_NOIOMMU_GET_PA, 0x3b95, 40),
        ];
        assert_eq!(want.len(), MIN_SIZES.len());
        for (index, (command, number, min)) in want.into_iter().enumerate() {
            assert_eq!(command, number);
            assert_eq!(command, TYPE + FIRST + index as u32);
            assert_eq!(MIN_SIZES[index], min, "{number:#x}");
        }
        assert_eq!(TYPE + LAST, IOAS_NOIOMMU_GET_PA);
    }
}
