//! What a unit can do, in one struct: decisions read it, quirks edit it in one place (rule `caps-decide`).

use crate::PageSizes;

/// Which table a domain of the unit uses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TableKind {
    /// VT-d second stage (9.8), 3, 4 or 5 levels.
    VtdSecondStage,
    /// x86 long-mode layout: VT-d first stage (9.7).
    X86FirstStage,
    /// AMD-Vi v1.
    AmdV1,
    /// AMD-Vi v2.
    AmdV2,
    /// Arm stage 1.
    ArmStage1,
    /// Arm stage 2.
    ArmStage2,
}

/// How a leaf shows that a device wrote.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DirtyRule {
    /// It does not: every mapped page counts as dirty.
    None,
    /// Bit `n` of the entry is set by a write.
    Bit(u8),
    /// Bit `accessed` or bit `dirty` is set: for walkers that lose the dirty bit of a page read before it was written.
    AccessedOrDirty {
        /// The accessed bit.
        accessed: u8,
        /// The dirty bit.
        dirty: u8,
    },
    /// Arm dirty-bit modifier, stage 1: DBM = 1 and AP[2] = 0.
    ArmDbmStage1,
    /// Arm dirty-bit modifier, stage 2: DBM = 1 and S2AP[1] = 1.
    ArmDbmStage2,
}

/// Abilities of one unit, after quirks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// Preferred table.
    pub table: TableKind,
    /// Levels of that table (3, 4 or 5).
    pub levels: u8,
    /// Width of an iova in bits.
    pub iova_bits: u8,
    /// Width of an output address in bits.
    pub phys_bits: u8,
    /// Leaf sizes.
    pub page_sizes: PageSizes,
    /// Are the walker's reads snooped?
    pub coherent_walk: bool,
    /// Domain ids that hardware can tell apart.
    pub domain_ids: u32,
    /// Does hardware cache not-present entries (VT-d caching mode)?
    pub caches_absent: bool,
    /// Must a write buffer be flushed before hardware sees a table change (VT-d RWBF)?
    pub write_buffer: bool,
    /// Can device accesses be forced coherent?
    pub snoop_control: bool,
    /// How writes are tracked.
    pub dirty: DirtyRule,
    /// Why they are not, when `dirty` is `None`: the missing capability, as "ECAP.SSADS (bit 45)".
    pub dirty_missing: &'static str,
    /// Interrupt remapping there.
    pub interrupt_remap: bool,
    /// The unit's walker updates A and D by a plain store (quirk `qemu-ad-store`): re-read after the flush.
    pub ad_plain_store: bool,
}
