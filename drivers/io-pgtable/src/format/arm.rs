//! Arm VMSAv8-64 descriptors, 4 KiB granule, 48-bit output addresses, both stages (DDI 0487 section D8.3).
//!
//! Tables count their levels from the leaf, as everywhere in this crate: the architecture's level 3 is level 0 here.

use super::{Modifier, PtFormat};
use crate::Swap;
use bitfield_struct::bitfield;
use iommu_types::{Access, DirtyRule, Error, PageSizes, Phys, TableKind};

/// A descriptor of any level. Bits 11:2 and 54:53 mean different things at the two stages: the raw fields are here, their
/// values below.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ArmEntry {
    /// Valid (bit 0).
    pub valid: bool,
    /// Bit 1: a table above level 0, a page at level 0; 0 is a block.
    pub table_or_page: bool,
    /// Stage 1: AttrIndx (bits 4:2), NS (5). Stage 2: MemAttr (5:2).
    #[bits(4)]
    pub attr: u8,
    /// Stage 1: AP[2:1]. Stage 2: S2AP[1:0].
    #[bits(2)]
    pub permission: u8,
    /// SH (bits 9:8).
    #[bits(2)]
    pub shareability: u8,
    /// AF (bit 10): without it an access faults, or hardware sets it. Always set here.
    pub accessed: bool,
    /// nG (bit 11), stage 1: tagged with the ASID.
    pub not_global: bool,
    /// Address bits 47:12.
    #[bits(36)]
    pub frame: u64,
    #[bits(3)]
    __: u8,
    /// DBM (bit 51): a write makes the entry writable instead of faulting.
    pub dirty_modifier: bool,
    /// Contiguous (bit 52): one of 16 entries that make one item.
    pub contiguous: bool,
    /// Stage 1: PXN (53), UXN (54). Stage 2: XN[1:0].
    #[bits(2)]
    pub no_execute: u8,
    #[bits(9)]
    __: u16,
}

const SIZES: PageSizes = PageSizes(1 << 12 | 1 << 16 | 1 << 21 | 1 << 25 | 1 << 30 | 1 << 34);
const INNER_SHAREABLE: u8 = 3;
const OUTER_SHAREABLE: u8 = 2;
/// Bit 7: AP[2] at stage 1 (1 = read-only), S2AP[1] at stage 2 (1 = writable).
const WRITE_BIT: u64 = 1 << 7;
const ATTRIBUTES: u64 = ArmEntry::new()
    .with_valid(true)
    .with_attr(0xf)
    .with_permission(3)
    .with_shareability(3)
    .with_accessed(true)
    .with_not_global(true)
    .with_dirty_modifier(true)
    .with_no_execute(3)
    .into_bits();

fn leaf(level: u8, phys: Phys, rights: u64) -> u64 {
    ArmEntry::new().with_table_or_page(level == 0).with_frame(phys.0 >> 12).into_bits() | rights
}

fn member(level: u8, phys: Phys, log2: u32, index: u64, rights: u64) -> u64 {
    let own = Phys(phys.0 + (index << crate::engine::shift(level)));
    ArmEntry::from_bits(leaf(level, own, rights)).with_contiguous(log2 > 0).into_bits()
}

fn group(entry: u64) -> u32 {
    if ArmEntry::from_bits(entry).contiguous() { 4 } else { 0 }
}

fn table(next: Phys) -> u64 {
    ArmEntry::new().with_valid(true).with_table_or_page(true).with_frame(next.0 >> 12).into_bits()
}

fn target(entry: u64) -> Phys {
    Phys(ArmEntry::from_bits(entry).frame() << 12)
}

/// What both stages share of a leaf: valid, AF, shareability.
fn common(access: Access) -> ArmEntry {
    let device = access.contains(Access::MMIO);
    let shareability = if device { OUTER_SHAREABLE } else { INNER_SHAREABLE };
    ArmEntry::new().with_valid(true).with_accessed(true).with_shareability(shareability)
}

/// Stage 1. There is no write-only page in it, and no privilege: AP[1] is set, so that requests of both kinds pass.
pub struct ArmS1;

impl ArmS1 {
    /// MAIR that the entries index: 0 normal memory, write-back, read and write allocate; 1 Device-nGnRE. The rest is unused.
    pub const MAIR: u64 = 0x04_ff;
    const ATTR_DEVICE: u8 = 1;
    /// AP[2:1] = 01: read and write at both privilege levels; 11: read only.
    const AP_READ_WRITE: u8 = 1;
    const AP_READ_ONLY: u8 = 3;
}

impl PtFormat for ArmS1 {
    const KIND: TableKind = TableKind::ArmStage1;
    const LEVELS: (u8, u8) = (2, 4);
    const SIZES: PageSizes = SIZES;
    const PHYS_BITS: u8 = 48;
    const ACCESSED: u64 = 0;
    const DIRTY: u64 = 0;
    const MODIFIER: Option<Modifier> = Some(Modifier { rule: DirtyRule::ArmDbmStage1, bit: WRITE_BIT, low: true });
    /// DDI 0487 section D8.16.1: a change of block size needs break-before-make, unless the unit says BBML 2.
    const SWAP: Swap = Swap::BreakFirst;
    const ATTRIBUTES: u64 = ATTRIBUTES;

    fn rights(access: Access, tracked: bool) -> Result<u64, Error> {
        if !access.intersects(Access::READ | Access::WRITE) {
            return Err(Error::Invalid("a mapping needs the right to read or to write"));
        }
        let write = access.contains(Access::WRITE);
        // Writable and clean is AP[2] = 1 with DBM: the first write clears AP[2].
        let ap = if write && !tracked { Self::AP_READ_WRITE } else { Self::AP_READ_ONLY };
        Ok(common(access)
            .with_attr(if access.contains(Access::MMIO) { Self::ATTR_DEVICE } else { 0 })
            .with_permission(ap)
            .with_not_global(true)
            .with_dirty_modifier(write && tracked)
            .with_no_execute(if access.contains(Access::EXEC) { 0 } else { 3 })
            .into_bits())
    }
    #[inline]
    fn leaf(level: u8, phys: Phys, rights: u64) -> u64 {
        leaf(level, phys, rights)
    }
    #[inline]
    fn member(level: u8, phys: Phys, log2: u32, index: u64, rights: u64) -> u64 {
        member(level, phys, log2, index, rights)
    }
    #[inline]
    fn group(entry: u64, _level: u8) -> u32 {
        group(entry)
    }
    fn table(_level: u8, next: Phys) -> u64 {
        table(next)
    }
    #[inline]
    fn present(entry: u64) -> bool {
        entry & 1 != 0
    }
    #[inline]
    fn is_leaf(entry: u64, level: u8) -> bool {
        level == 0 || !ArmEntry::from_bits(entry).table_or_page()
    }
    fn target(entry: u64) -> Phys {
        target(entry)
    }
    fn access(entry: u64) -> Access {
        let mut access = Access::READ;
        access.set(Access::WRITE, Self::writable(entry));
        let entry = ArmEntry::from_bits(entry);
        access.set(Access::MMIO, entry.attr() & 7 == Self::ATTR_DEVICE);
        access.set(Access::EXEC, entry.no_execute() == 0);
        access
    }
    #[inline]
    fn writable(entry: u64) -> bool {
        ArmEntry::from_bits(entry).dirty_modifier() || entry & WRITE_BIT == 0
    }
    #[inline]
    fn attributes(entry: u64) -> u64 {
        let clean = if ArmEntry::from_bits(entry).dirty_modifier() { WRITE_BIT } else { 0 };
        entry & ATTRIBUTES | clean
    }
}

/// Stage 2. Up to 16 tables side by side at the top.
pub struct ArmS2;

impl ArmS2 {
    /// MemAttr[3:0]: normal memory, write-back inside and out; Device-nGnRE.
    const MEMORY: u8 = 0xf;
    const DEVICE: u8 = 0x1;
    /// S2AP[0].
    const READ: u8 = 1;
    /// S2AP[1].
    const WRITE: u8 = 2;
    /// XN[1:0] = 10: nothing executes, with FEAT_XNX and without.
    const NO_EXECUTE: u8 = 2;
}

impl PtFormat for ArmS2 {
    const KIND: TableKind = TableKind::ArmStage2;
    const LEVELS: (u8, u8) = (2, 4);
    const SIZES: PageSizes = SIZES;
    const PHYS_BITS: u8 = 48;
    const TOP_TABLES: u64 = 16;
    const ACCESSED: u64 = 0;
    const DIRTY: u64 = 0;
    const MODIFIER: Option<Modifier> = Some(Modifier { rule: DirtyRule::ArmDbmStage2, bit: WRITE_BIT, low: false });
    const SWAP: Swap = Swap::BreakFirst;
    const ATTRIBUTES: u64 = ATTRIBUTES;

    fn rights(access: Access, tracked: bool) -> Result<u64, Error> {
        let (read, write) = (access.contains(Access::READ), access.contains(Access::WRITE));
        if !read && !write {
            return Err(Error::Invalid("a mapping needs the right to read or to write"));
        }
        // Writable and clean is S2AP[1] = 0 with DBM: the first write sets S2AP[1].
        let s2ap = if read { Self::READ } else { 0 } | if write && !tracked { Self::WRITE } else { 0 };
        Ok(common(access)
            .with_attr(if access.contains(Access::MMIO) { Self::DEVICE } else { Self::MEMORY })
            .with_permission(s2ap)
            .with_dirty_modifier(write && tracked)
            .with_no_execute(if access.contains(Access::EXEC) { 0 } else { Self::NO_EXECUTE })
            .into_bits())
    }
    #[inline]
    fn leaf(level: u8, phys: Phys, rights: u64) -> u64 {
        leaf(level, phys, rights)
    }
    #[inline]
    fn member(level: u8, phys: Phys, log2: u32, index: u64, rights: u64) -> u64 {
        member(level, phys, log2, index, rights)
    }
    #[inline]
    fn group(entry: u64, _level: u8) -> u32 {
        group(entry)
    }
    fn table(_level: u8, next: Phys) -> u64 {
        table(next)
    }
    #[inline]
    fn present(entry: u64) -> bool {
        entry & 1 != 0
    }
    #[inline]
    fn is_leaf(entry: u64, level: u8) -> bool {
        level == 0 || !ArmEntry::from_bits(entry).table_or_page()
    }
    fn target(entry: u64) -> Phys {
        target(entry)
    }
    fn access(entry: u64) -> Access {
        let mut access = Access::empty();
        access.set(Access::WRITE, Self::writable(entry));
        let entry = ArmEntry::from_bits(entry);
        access.set(Access::READ, entry.permission() & Self::READ != 0);
        access.set(Access::MMIO, entry.attr() == Self::DEVICE);
        access.set(Access::EXEC, entry.no_execute() == 0);
        access
    }
    #[inline]
    fn writable(entry: u64) -> bool {
        ArmEntry::from_bits(entry).dirty_modifier() || entry & WRITE_BIT != 0
    }
    #[inline]
    fn attributes(entry: u64) -> u64 {
        let state = if ArmEntry::from_bits(entry).dirty_modifier() { WRITE_BIT } else { 0 };
        entry & ATTRIBUTES & !state
    }
}
