//! I/O remapping table, Arm DEN 0049 issue E.f. Revisions append fields: what is optional is read by its offset.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// What follows the header, section 3.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Head {
    pub nodes: U32,
    /// Of the first node, from the start of the table.
    pub first: U32,
    pub reserved: U32,
}

/// Type of a node, section 3.1. Open: a value from the future stays a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Kind(pub u8);
impl Kind {
    pub const ITS_GROUP: Self = Self(0);
    pub const NAMED_COMPONENT: Self = Self(1);
    pub const ROOT_COMPLEX: Self = Self(2);
    pub const SMMU_V2: Self = Self(3);
    pub const SMMU_V3: Self = Self(4);
    pub const PMCG: Self = Self(5);
    pub const RMR: Self = Self(6);
}

/// Start of every node.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Node {
    pub kind: u8,
    /// Bytes of the node, its mappings and arrays included.
    pub length: U16,
    pub revision: u8,
    /// Reserved before table revision 1.
    pub identifier: U32,
    pub mappings: U32,
    /// Of the mapping array, from the start of the node.
    pub mapping_offset: U32,
}

/// Id mapping, section 3.1.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Mapping {
    pub input: U32,
    /// How many ids, minus one.
    pub count: U32,
    pub output: U32,
    /// Offset of the node that takes the ids, from the start of the table.
    pub reference: U32,
    /// Bit 0 single mapping: any input gives `output`.
    pub flags: U32,
}

/// Memory access properties, section 3.1.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct MemoryAccess {
    /// 1: the device is fully coherent.
    pub coherent: U32,
    pub hints: u8,
    pub reserved: U16,
    /// Bit 0 CPM, bit 1 DACS.
    pub flags: u8,
}

/// Named component, section 3.1.2, after [`Node`]; the name follows, ending in a zero byte.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NamedComponent {
    /// Bit 0 stall supported, bits 5:1 substream id width.
    pub flags: U32,
    pub memory: MemoryAccess,
    /// Width of the addresses it can use, in bits.
    pub address_bits: u8,
}

/// Root complex, section 3.1.3, after [`Node`]. Optional: address size limit (32:1), PASID width (33:2, bits 4:0), flags (36:4, bit 0
/// PASID supported).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RootComplex {
    pub memory: MemoryAccess,
    /// Bit 0 ATS, bit 1 PRI, bit 2 PASID is forwarded on translated requests.
    pub ats: U32,
    pub segment: U32,
}

/// SMMUv1 or v2, section 3.1.4, after [`Node`].
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SmmuV2 {
    pub base: U64,
    pub span: U64,
    /// 0 v1, 1 v2, 2 MMU-400, 3 MMU-500, 4 MMU-401, 5 ThunderX.
    pub model: U32,
    /// Bit 0 DVM, bit 1 coherent walks.
    pub flags: U32,
    /// Offset of the global interrupts, from the start of the node.
    pub global_offset: U32,
    pub contexts: U32,
    /// Offset of the context interrupts, from the start of the node.
    pub context_offset: U32,
    pub counters: U32,
    pub counter_offset: U32,
}

/// One interrupt of an SMMUv1 or v2.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Wired {
    pub gsiv: U32,
    /// Bit 0 edge triggered.
    pub flags: U32,
}

/// SMMUv3, section 3.1.5, after [`Node`]. Optional: proximity domain (60:4), index of the mapping of its own messages (64:4).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SmmuV3 {
    pub base: U64,
    /// Bit 0 COHACC override, bits 2:1 HTTU override, bit 3 proximity domain valid, bit 4 mapping index valid.
    pub flags: U32,
    pub reserved: U32,
    pub vatos: U64,
    /// 0 generic, 1 HiSilicon Hi161x, 2 Cavium CN99xx.
    pub model: U32,
    pub event: U32,
    pub pri: U32,
    pub gerror: U32,
    pub sync: U32,
}

/// Performance monitoring counter group, section 3.1.6, after [`Node`]. Optional: page 1 (32:8).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Pmcg {
    pub base: U64,
    /// 0: it sends messages instead.
    pub overflow: U32,
    /// Offset of the node it counts for, from the start of the table.
    pub of: U32,
}

/// Reserved memory range node, section 3.1.7, after [`Node`].
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Rmr {
    /// Bit 0 remapping permitted, bit 1 privileged, bits 9:2 attributes.
    pub flags: U32,
    pub ranges: U32,
    /// Offset of the descriptors, from the start of the node.
    pub range_offset: U32,
}

/// Memory range descriptor, section 3.1.7.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct MemoryRange {
    pub base: U64,
    pub length: U64,
    pub reserved: U32,
}
