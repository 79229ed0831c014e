//! DMA remapping reporting table, VT-d 5.0 section 8.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// What follows the header, section 8.1.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Head {
    /// Host address width minus one, in bits.
    pub width: u8,
    /// Bit 0 INTR_REMAP, bit 1 X2APIC_OPT_OUT, bit 2 DMA_CTRL_PLATFORM_OPT_IN.
    pub flags: u8,
    pub reserved: [u8; 10],
}

/// Type of a remapping structure, section 8.2. Open: a value from the future stays a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Kind(pub u16);
impl Kind {
    pub const DRHD: Self = Self(0);
    pub const RMRR: Self = Self(1);
    pub const ATSR: Self = Self(2);
    pub const RHSA: Self = Self(3);
    pub const ANDD: Self = Self(4);
    pub const SATC: Self = Self(5);
    pub const SIDP: Self = Self(6);
}

/// Start of every remapping structure.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Structure {
    pub kind: U16,
    /// Bytes of the structure, these four included.
    pub length: U16,
}

/// DMA remapping hardware unit, section 8.3, after [`Structure`].
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Drhd {
    /// Bit 0 INCLUDE_PCI_ALL.
    pub flags: u8,
    /// Bits 3:0: the register set takes 2^n pages of 4 KiB.
    pub size: u8,
    pub segment: U16,
    pub base: U64,
}

/// Reserved memory region, section 8.4.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Rmrr {
    pub reserved: U16,
    pub segment: U16,
    pub base: U64,
    /// Last address, included.
    pub limit: U64,
}

/// Root port ATS capability, section 8.5; the same layout for SATC (8.8) and SIDP (8.9).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Flagged {
    /// ATSR: bit 0 ALL_PORTS. SATC: bit 0 ATC_REQUIRED. SIDP: reserved.
    pub flags: u8,
    pub reserved: u8,
    pub segment: U16,
}

/// Remapping hardware static affinity, section 8.6.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Rhsa {
    pub reserved: U32,
    pub base: U64,
    pub proximity: U32,
}

/// ACPI name-space device declaration, section 8.7; the name follows, ending in a zero byte.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Andd {
    pub reserved: [u8; 3],
    pub number: u8,
}

/// Type of a device scope, section 8.3.1. Open.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Target(pub u8);
impl Target {
    pub const ENDPOINT: Self = Self(1);
    pub const SUB_HIERARCHY: Self = Self(2);
    pub const IOAPIC: Self = Self(3);
    pub const HPET: Self = Self(4);
    pub const ACPI_DEVICE: Self = Self(5);
}

/// Device scope, section 8.3.1; pairs of device and function follow.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DeviceScope {
    pub target: u8,
    /// Bytes, these six included.
    pub length: u8,
    /// In SIDP the properties of the device; reserved elsewhere.
    pub flags: u8,
    pub reserved: u8,
    /// IOAPIC id, HPET number or ACPI device number.
    pub id: u8,
    pub start_bus: u8,
}
