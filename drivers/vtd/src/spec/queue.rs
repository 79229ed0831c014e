//! Invalidation descriptors (section 6.5.2): the low 128 bits. Those of 256 bits have zeroes above.

use bitfield_struct::bitfield;

/// Descriptor type (bits 3:0; bits 11:9, the upper part of the type, are 0 for all of these).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind(pub u8);
impl Kind {
    /// Context cache.
    pub const CONTEXT: Self = Self(1);
    /// IOTLB.
    pub const IOTLB: Self = Self(2);
    /// Device TLB.
    pub const DEVICE_TLB: Self = Self(3);
    /// Interrupt entry cache.
    pub const INTERRUPT: Self = Self(4);
    /// Wait.
    pub const WAIT: Self = Self(5);
    /// PASID-based IOTLB: first-stage entries.
    pub const PASID_IOTLB: Self = Self(6);
    /// PASID cache.
    pub const PASID_CACHE: Self = Self(7);

    /// Its name in messages.
    pub const fn name(self) -> &'static str {
        match self.0 {
            1 => "context",
            2 => "iotlb",
            3 => "device-tlb",
            4 => "interrupt",
            5 => "wait",
            6 => "pasid-iotlb",
            7 => "pasid-cache",
            _ => "unknown",
        }
    }
}

/// Context-cache invalidate (6.5.2.1).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct ContextInvalidate {
    /// Type (3:0).
    #[bits(4)]
    pub kind: u8,
    /// G (5:4): 1 global, 2 domain, 3 device.
    #[bits(2)]
    pub granularity: u8,
    #[bits(10)]
    __: u16,
    /// DID (31:16).
    pub domain: u16,
    /// SID (47:32).
    pub source: u16,
    /// FM (49:48): function mask.
    #[bits(2)]
    pub function_mask: u8,
    #[bits(14)]
    __: u16,
    __: u64,
}

/// PASID-cache invalidate (6.5.2.2).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct PasidCacheInvalidate {
    /// Type (3:0).
    #[bits(4)]
    pub kind: u8,
    /// G (5:4): 0 all of a domain, 1 one PASID of a domain, 3 global.
    #[bits(2)]
    pub granularity: u8,
    #[bits(10)]
    __: u16,
    /// DID (31:16).
    pub domain: u16,
    /// PASID (51:32).
    #[bits(20)]
    pub pasid: u32,
    #[bits(12)]
    __: u16,
    __: u64,
}

/// IOTLB invalidate (6.5.2.3).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct IotlbInvalidate {
    /// Type (3:0).
    #[bits(4)]
    pub kind: u8,
    /// G (5:4): 1 global, 2 domain, 3 pages.
    #[bits(2)]
    pub granularity: u8,
    /// DW (6): drain writes.
    pub drain_writes: bool,
    /// DR (7): drain reads.
    pub drain_reads: bool,
    #[bits(8)]
    __: u8,
    /// DID (31:16).
    pub domain: u16,
    __: u32,
    /// AM (69:64): 2^AM pages, aligned to their size.
    #[bits(6)]
    pub mask: u8,
    /// IH (70): only leaf entries changed.
    pub leaf_only: bool,
    #[bits(5)]
    __: u8,
    /// ADDR (127:76).
    #[bits(52)]
    pub frame: u64,
}

/// PASID-based IOTLB invalidate (6.5.2.4).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct PasidIotlbInvalidate {
    /// Type (3:0).
    #[bits(4)]
    pub kind: u8,
    /// G (5:4): 2 all of a PASID, 3 pages of a PASID.
    #[bits(2)]
    pub granularity: u8,
    #[bits(10)]
    __: u16,
    /// DID (31:16).
    pub domain: u16,
    /// PASID (51:32).
    #[bits(20)]
    pub pasid: u32,
    #[bits(12)]
    __: u16,
    /// AM (69:64).
    #[bits(6)]
    pub mask: u8,
    /// IH (70).
    pub leaf_only: bool,
    #[bits(5)]
    __: u8,
    /// ADDR (127:76).
    #[bits(52)]
    pub frame: u64,
}

/// Invalidation wait (6.5.2.8).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct Wait {
    /// Type (3:0).
    #[bits(4)]
    pub kind: u8,
    /// IF (4): interrupt.
    pub interrupt: bool,
    /// SW (5): write the status.
    pub status_write: bool,
    /// FN (6): later descriptors start after this one.
    pub fence: bool,
    /// PD (7): page-request drain.
    pub drain: bool,
    #[bits(24)]
    __: u32,
    /// Status data (63:32).
    pub status: u32,
    #[bits(2)]
    __: u8,
    /// Status address (127:66), in 4 bytes.
    #[bits(62)]
    pub address: u64,
}
