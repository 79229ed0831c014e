//! Extensions of this kernel: numbers 0xC0 and up of type `;`. Linux answers `ENOTTY`, so a program can ask.
//!
//! | command | on | what it adds |
//! |---|---|---|
//! | [`HWPT_GET_DIRTY_STRICT`] | /dev/iommu | the structure and checks of HWPT_GET_DIRTY_BITMAP, but a hole is `ENOENT`, a bitmap fault `EFAULT`, a page size that is no power of two `EINVAL`, tracking off `EINVAL`; on any failure every bit it cleared is set again |
//! | [`IOAS_UNMAP_DIRTY`] | /dev/iommu | unmaps as IOAS_UNMAP and ors into a bitmap, area by area, what devices wrote there; a write between the look and the removal is not seen, so let the device rest |
//! | [`EXPLAIN`] | /dev/iommu | text: why this group, these reserved regions, what capability is missing |
//! | [`DEVICE_COUNTERS`] | a VFIO device | register and configuration writes through this file since it was opened (writes through a BAR mapping are not seen) |
//!
//! All structures follow the rules of [`crate::Request`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Strict dirty read; takes [`crate::iommufd::HwptGetDirtyBitmap`].
pub const HWPT_GET_DIRTY_STRICT: u32 = 0x3bc0;
/// Unmap and report; takes [`IoasUnmapDirty`].
pub const IOAS_UNMAP_DIRTY: u32 = 0x3bc1;
/// Words for people; takes [`Explain`].
pub const EXPLAIN: u32 = 0x3bc2;
/// Counters of a device file; takes [`DeviceCounters`].
pub const DEVICE_COUNTERS: u32 = 0x3bc8;

/// IOAS_UNMAP_DIRTY. Failures of IOAS_UNMAP, and: `ENOENT` no such table of that address space; `EOPNOTSUPP` it does not track; `EINVAL` page size no power of two or below the iova alignment; `EFAULT` bitmap: the areas before it are gone and reported, the others stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoasUnmapDirty {
    /// Bytes of this structure.
    pub size: u32,
    /// The table whose bits are read; its address space is unmapped.
    pub hwpt_id: u32,
    /// Flags; unknown ones are `EOPNOTSUPP`.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
    /// First address; bit 0.
    pub iova: u64,
    /// Bytes; written back: bytes removed.
    pub length: u64,
    /// Bytes one bit stands for; a power of two.
    pub page_size: u64,
    /// The bitmap; bits are ored in.
    pub data: u64,
}

/// EXPLAIN: UTF-8 lines about an object, without a final zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Explain {
    /// Bytes of this structure.
    pub size: u32,
    /// Flags; unknown ones are `EOPNOTSUPP`.
    pub flags: u32,
    /// The object.
    pub id: u32,
    /// Room; written back: the whole length. What does not fit is cut.
    pub data_len: u32,
    /// Where to.
    pub data_uptr: u64,
}

/// DEVICE_COUNTERS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeviceCounters {
    /// Bytes of this structure.
    pub size: u32,
    /// Flags; unknown ones are `EOPNOTSUPP`.
    pub flags: u32,
    /// Writes to BARs.
    pub register_writes: u64,
    /// Writes to configuration space.
    pub config_writes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_documentation() {
        assert_eq!(size_of::<IoasUnmapDirty>(), 48);
        assert_eq!(size_of::<Explain>(), 24);
        assert_eq!(size_of::<DeviceCounters>(), 24);
    }
}
