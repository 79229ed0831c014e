//! I/O virtualization reporting structure, AMD I/O Virtualization Technology specification 3.09, section 5.2.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// What follows the header, section 5.2.1.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Head {
    /// IVinfo: bit 0 EFRSup, bit 1 DmaRemapSup, bits 7:5 guest address size, 14:8 physical address size, 21:15 virtual
    /// address size, bit 22 HtAtsResv.
    pub info: U32,
    pub reserved: U64,
}

/// Type of a definition block. Open: a value from the future stays a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Kind(pub u8);
impl Kind {
    pub const IVHD_10: Self = Self(0x10);
    pub const IVHD_11: Self = Self(0x11);
    pub const IVHD_40: Self = Self(0x40);
    /// Memory that all peripherals use.
    pub const IVMD_ALL: Self = Self(0x20);
    /// Memory that one peripheral uses.
    pub const IVMD_ONE: Self = Self(0x21);
    /// Memory that a range of peripherals uses.
    pub const IVMD_RANGE: Self = Self(0x22);
}

/// Start of every block.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Block {
    pub kind: u8,
    pub flags: u8,
    /// Bytes of the block, these four included.
    pub length: U16,
    /// IVHD: PCI function of the IOMMU. IVMD: peripheral, or the first of a range.
    pub device: U16,
}

/// Hardware definition block, section 5.2.2.1, after [`Block`]; entries follow in type 10h.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ivhd {
    /// Offset of the IOMMU's capability block in its configuration space.
    pub capability: U16,
    pub base: U64,
    pub segment: U16,
    /// Bits 4:0 message number, 12:8 HyperTransport unit id.
    pub info: U16,
    /// Type 10h: feature reporting. 11h and 40h: attributes. Bits 16:13 and 22:17 count the performance counters in both.
    pub attributes: U32,
}

/// What types 11h and 40h have in addition, section 5.2.2.2; entries follow.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IvhdMore {
    /// Image of the extended feature register, MMIO offset 30h.
    pub efr: U64,
    /// Image of the second extended feature register, MMIO offset 1A0h; reserved in older tables.
    pub efr2: U64,
}

/// Type of a device entry, sections 5.2.2.4 to 5.2.2.6. Bits 7:6 give the length up to 0xEF.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EntryKind(pub u8);
impl EntryKind {
    pub const PAD_4: Self = Self(0x00);
    pub const ALL: Self = Self(0x01);
    pub const SELECT: Self = Self(0x02);
    pub const RANGE: Self = Self(0x03);
    pub const RANGE_END: Self = Self(0x04);
    pub const PAD_8: Self = Self(0x40);
    pub const ALIAS: Self = Self(0x42);
    pub const ALIAS_RANGE: Self = Self(0x43);
    pub const EXTENDED: Self = Self(0x46);
    pub const EXTENDED_RANGE: Self = Self(0x47);
    pub const SPECIAL: Self = Self(0x48);
    pub const ACPI_HID: Self = Self(0xf0);
}

/// Start of every device entry.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Entry {
    pub kind: u8,
    pub device: U16,
    /// Bits of the device table entry: 0 INITPass, 1 EIntPass, 2 NMIPass, 5:4 SysMgt, 6 Lint0Pass, 7 Lint1Pass.
    pub settings: u8,
}

/// Alias entries 42h and 43h, after [`Entry`].
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Alias {
    pub reserved: u8,
    /// Requests of the device carry this id.
    pub source: U16,
    pub reserved2: u8,
}

/// Extended entries 46h and 47h, after [`Entry`].
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Extended {
    /// Bit 31 AtsDisabled.
    pub settings: U32,
}

/// Special device entry 48h, after [`Entry`].
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Special {
    /// IOAPIC id or HPET number.
    pub handle: u8,
    /// Its requests carry this id.
    pub source: U16,
    /// 1 IOAPIC, 2 HPET.
    pub variety: u8,
}

/// ACPI device entry F0h, after [`Entry`]; the unique id follows.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct AcpiHid {
    pub hardware_id: [u8; 8],
    pub compatible_id: [u8; 8],
    /// 0 none, 1 integer of 8 bytes, 2 string.
    pub unique_format: u8,
    /// Bytes of the unique id.
    pub unique_length: u8,
}

/// Memory definition block, section 5.2.2.7, after [`Block`].
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ivmd {
    /// Last peripheral of type 22h.
    pub last: U16,
    pub segment: U16,
    pub reserved: [u8; 6],
    pub base: U64,
    pub length: U64,
}
