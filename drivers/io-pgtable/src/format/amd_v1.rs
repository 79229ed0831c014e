//! AMD-Vi v1 (host) page tables (48882 section 2.2.3).

use super::PtFormat;
use crate::engine::shift;
use bitfield_struct::bitfield;
use iommu_types::{Access, Error, PageSizes, Phys, TableKind};

/// An entry of any level: a PDE if `next_level` is 1..=6, a PTE if it is 0 or 7. Ignored bits are left out.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct AmdV1Entry {
    /// PR (bit 0).
    pub present: bool,
    #[bits(4)]
    __: u8,
    /// A (bit 5): used, where the DTE asks for it (HAD).
    pub accessed: bool,
    /// D (bit 6): written through, where the DTE asks for it; PTEs only.
    pub dirty: bool,
    #[bits(2)]
    __: u8,
    /// Next level (bits 11:9): of the table below, counted from 1; 0 a page of the level's size, 7 one whose size is in the
    /// address.
    #[bits(3)]
    pub next_level: u8,
    /// Address bits 51:12. With next level 7: n ones from bit 12 up, then a zero, make 2^(13 + n) bytes.
    #[bits(40)]
    pub frame: u64,
    #[bits(7)]
    __: u8,
    /// U (bit 59): for device TLBs; never set here.
    pub untranslated: bool,
    /// FC (bit 60): the access is coherent whatever the request says; PTEs only.
    pub force_coherent: bool,
    /// IR (bit 61): reads are allowed, at this level and below.
    pub read: bool,
    /// IW (bit 62): writes likewise.
    pub write: bool,
    __: bool,
}

/// The format. A size that is not a level's own is written 2^n times over, all entries alike; hardware may set A and D in any
/// one of them, so the item is dirty if one is.
pub struct AmdV1;

/// The page is as large as the address says.
const SIZED: u8 = 7;

impl AmdV1 {
    /// The FC bit, for [`crate::PageTable::force_leaf_bits`].
    pub const FORCE_COHERENT: u64 = AmdV1Entry::new().with_force_coherent(true).into_bits();
}

impl PtFormat for AmdV1 {
    const KIND: TableKind = TableKind::AmdV1;
    const LEVELS: (u8, u8) = (1, 6);
    /// Every power of two, but no 512 GiB: hardware has an erratum there, and Linux leaves that size out too.
    const SIZES: PageSizes = PageSizes(((1 << 52) - (1 << 12)) & !(1 << 39));
    const ACCESSED: u64 = AmdV1Entry::new().with_accessed(true).into_bits();
    const DIRTY: u64 = AmdV1Entry::new().with_dirty(true).into_bits();
    const ATTRIBUTES: u64 =
        AmdV1Entry::new().with_present(true).with_force_coherent(true).with_read(true).with_write(true).into_bits();

    fn rights(access: Access, _tracked: bool) -> Result<u64, Error> {
        let (read, write) = (access.contains(Access::READ), access.contains(Access::WRITE));
        if !read && !write {
            return Err(Error::Invalid("a mapping needs the right to read or to write"));
        }
        Ok(AmdV1Entry::new().with_present(true).with_read(read).with_write(write).into_bits())
    }
    #[inline]
    fn leaf(_level: u8, phys: Phys, rights: u64) -> u64 {
        AmdV1Entry::new().with_frame(phys.0 >> 12).into_bits() | rights
    }
    #[inline]
    fn member(level: u8, phys: Phys, log2: u32, _index: u64, rights: u64) -> u64 {
        if log2 == 0 {
            return Self::leaf(level, phys, rights);
        }
        let ones = (1u64 << (shift(level) + log2 - 13)) - 1;
        AmdV1Entry::new().with_next_level(SIZED).with_frame(phys.0 >> 12 | ones).into_bits() | rights
    }
    #[inline]
    fn group(entry: u64, level: u8) -> u32 {
        let entry = AmdV1Entry::from_bits(entry);
        if entry.next_level() != SIZED {
            return 0;
        }
        // Never more than a table holds, whatever the entry says.
        (13 + entry.frame().trailing_ones()).saturating_sub(shift(level)).min(8)
    }
    fn table(level: u8, next: Phys) -> u64 {
        let entry = AmdV1Entry::new().with_present(true).with_read(true).with_write(true);
        entry.with_next_level(level & 7).with_frame(next.0 >> 12).into_bits()
    }
    #[inline]
    fn present(entry: u64) -> bool {
        entry & 1 != 0
    }
    #[inline]
    fn is_leaf(entry: u64, level: u8) -> bool {
        level == 0 || matches!(AmdV1Entry::from_bits(entry).next_level(), 0 | SIZED)
    }
    fn target(entry: u64) -> Phys {
        Phys(AmdV1Entry::from_bits(entry).frame() << 12)
    }
    fn access(entry: u64) -> Access {
        let entry = AmdV1Entry::from_bits(entry);
        let mut access = Access::empty();
        access.set(Access::READ, entry.read());
        access.set(Access::WRITE, entry.write());
        access
    }
    #[inline]
    fn writable(entry: u64) -> bool {
        AmdV1Entry::from_bits(entry).write()
    }
}
