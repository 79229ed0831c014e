//! Root and context entries (sections 9.1 to 9.4). Each is one 128-bit store.

use bitfield_struct::bitfield;

/// Root entry, legacy mode (9.1): the low word; the high word is 0. In scalable mode (9.2) both words have this layout: the
/// low one for devices 0 to 15 of the bus, the high one for 16 to 31.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RootEntry {
    /// P (0).
    pub present: bool,
    #[bits(11)]
    __: u16,
    /// CTP (63:12): context table.
    #[bits(52)]
    pub frame: u64,
}

/// Context entry, legacy mode (9.3).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct LegacyContext {
    /// P (0).
    pub present: bool,
    /// FPD (1): faults are not recorded.
    pub fault_disable: bool,
    /// TT (3:2): 0 = second stage, untranslated requests only.
    #[bits(2)]
    pub translation: u8,
    __: u8,
    /// SSPTPTR (63:12).
    #[bits(52)]
    pub table: u64,
    /// AW (66:64): 1 = 3 levels, 2 = 4, 3 = 5.
    #[bits(3)]
    pub width: u8,
    #[bits(5)]
    __: u8,
    /// DID (87:72).
    pub domain: u16,
    #[bits(40)]
    __: u64,
}

/// Context entry, scalable mode (9.4): its low 128 bits; the high 128 are 0.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct ScalableContext {
    /// P (0).
    pub present: bool,
    /// FPD (1).
    pub fault_disable: bool,
    /// DTE (2): device TLB.
    pub device_tlb: bool,
    /// PASIDE (3): requests with PASID.
    pub pasid_enable: bool,
    /// PRE (4): page requests.
    pub page_request: bool,
    #[bits(4)]
    __: u8,
    /// PDTS (11:9): the directory has 2^(PDTS + 7) entries.
    #[bits(3)]
    pub directory_size: u8,
    /// PASIDDIRPTR (63:12).
    #[bits(52)]
    pub directory: u64,
    /// RID_PASID (83:64): the PASID of requests without one.
    #[bits(20)]
    pub rid_pasid: u32,
    #[bits(44)]
    __: u64,
}
