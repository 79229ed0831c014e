//! PASID directory and table entries (sections 9.5 and 9.6).

use bitfield_struct::bitfield;

/// PASID directory entry (9.5).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct DirectoryEntry {
    /// P (0).
    pub present: bool,
    /// FPD (1).
    pub fault_disable: bool,
    #[bits(10)]
    __: u16,
    /// SMPTBLPTR (63:12).
    #[bits(52)]
    pub table: u64,
}

/// PASID granular translation type (PGTT, 8:6). Open: a value that hardware invents stays a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pgtt(pub u8);
impl Pgtt {
    /// First stage only.
    pub const FIRST_STAGE: Self = Self(1);
    /// Second stage only.
    pub const SECOND_STAGE: Self = Self(2);
    /// First stage on second stage.
    pub const NESTED: Self = Self(3);
    /// No translation.
    pub const PASS_THROUGH: Self = Self(4);
}

/// Bits 127:0 of a PASID-table entry (9.6): one 128-bit store. The entry has 512 bits.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct PasidLow {
    /// P (0).
    pub present: bool,
    /// FPD (1).
    pub fault_disable: bool,
    /// AW (4:2): second stage, 1 = 3 levels, 2 = 4, 3 = 5.
    #[bits(3)]
    pub width: u8,
    /// SSEE (5).
    __: bool,
    /// PGTT (8:6).
    #[bits(3)]
    pub translation: u8,
    /// SSADE (9): accessed and dirty bits in the second stage. Needs ECAP.SSADS, and ECAP.SMPWC to be of use.
    pub ss_ad_enable: bool,
    #[bits(2)]
    __: u8,
    /// SSPTPTR (63:12).
    #[bits(52)]
    pub ss_table: u64,
    /// DID (79:64).
    pub domain: u16,
    #[bits(7)]
    __: u8,
    /// PWSNP (87): walks are snooped. Reserved without ECAP.SMPWC.
    pub walk_snoop: bool,
    /// PGSNP (88): accesses are snooped. Reserved without ECAP.SC.
    pub page_snoop: bool,
    #[bits(39)]
    __: u64,
}

/// Bits 255:128 of a PASID-table entry (9.6).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct PasidHigh {
    /// SRE (128): supervisor requests.
    pub supervisor: bool,
    __: bool,
    /// FSPM (131:130): 0 = 4 levels, 1 = 5.
    #[bits(2)]
    pub fs_mode: u8,
    /// WPE (132): write protection binds the supervisor.
    pub write_protect: bool,
    #[bits(7)]
    __: u8,
    /// FSPTPTR (191:140).
    #[bits(52)]
    pub fs_table: u64,
    __: u64,
}

/// Bytes in a PASID-table entry; 64 of them fill a page.
pub const ENTRY_BYTES: u64 = 64;
/// PASIDs per PASID table.
pub const PER_TABLE: u32 = 64;
