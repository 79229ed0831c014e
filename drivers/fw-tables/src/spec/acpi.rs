//! Table header, ACPI 6.5 section 5.2.6, and MCFG, PCI Firmware 3.3 section 4.1.2.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// System description table header, 36 bytes.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    pub signature: [u8; 4],
    /// Bytes of the whole table, header included.
    pub length: U32,
    pub revision: u8,
    /// Makes the sum of all bytes zero.
    pub checksum: u8,
    pub oem_id: [u8; 6],
    pub oem_table_id: [u8; 8],
    pub oem_revision: U32,
    pub creator_id: U32,
    pub creator_revision: U32,
}

/// What follows the header of MCFG.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct McfgHead {
    pub reserved: U64,
}

/// One configuration space window.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct McfgEntry {
    /// Where bus 0 of the segment would be, even if `first_bus` is not 0.
    pub base: U64,
    pub segment: U16,
    pub first_bus: u8,
    pub last_bus: u8,
    pub reserved: U32,
}
