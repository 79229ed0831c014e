//! VT-d second-stage paging entries (VT-d 5.0 section 9.8).

use super::PtFormat;
use bitfield_struct::bitfield;
use iommu_types::{Access, Error, PageSizes, Phys, TableKind};

/// An entry of any level. Bits hardware ignores are left out of the accessors.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct VtdSsEntry {
    /// R (bit 0): reads are allowed.
    pub read: bool,
    /// W (bit 1): writes are allowed.
    pub write: bool,
    #[bits(5)]
    __: u8,
    /// PS (bit 7): above level 0, this entry is a leaf.
    pub large: bool,
    /// A (bit 8): used, where SSADE is set.
    pub accessed: bool,
    /// D (bit 9): written through, where SSADE is set.
    pub dirty: bool,
    __: bool,
    /// SNP (bit 11): the access is snooped whatever the request says; reserved without ECAP.SC.
    pub snoop: bool,
    /// Address bits 51:12.
    #[bits(40)]
    pub frame: u64,
    #[bits(10)]
    __: u16,
    /// TM (bit 62): transient mapping, for device TLBs only; never set here.
    pub transient: bool,
    __: bool,
}

/// The format.
pub struct VtdSs;

impl VtdSs {
    /// The snoop bit, for [`crate::PageTable::force_leaf_bits`].
    pub const SNOOP: u64 = VtdSsEntry::new().with_snoop(true).into_bits();
}

impl PtFormat for VtdSs {
    const KIND: TableKind = TableKind::VtdSecondStage;
    const LEVELS: (u8, u8) = (3, 5);
    const SIZES: PageSizes = PageSizes(1 << 12 | 1 << 21 | 1 << 30);
    const ACCESSED: u64 = VtdSsEntry::new().with_accessed(true).into_bits();
    const DIRTY: u64 = VtdSsEntry::new().with_dirty(true).into_bits();
    const ATTRIBUTES: u64 = VtdSsEntry::new().with_read(true).with_write(true).with_snoop(true).into_bits();

    fn rights(access: Access, _tracked: bool) -> Result<u64, Error> {
        let (read, write) = (access.contains(Access::READ), access.contains(Access::WRITE));
        if !read && !write {
            return Err(Error::Invalid("a mapping needs the right to read or to write"));
        }
        Ok(VtdSsEntry::new().with_read(read).with_write(write).into_bits())
    }
    #[inline]
    fn leaf(level: u8, phys: Phys, rights: u64) -> u64 {
        VtdSsEntry::new().with_large(level > 0).with_frame(phys.0 >> 12).into_bits() | rights
    }
    fn table(_level: u8, next: Phys) -> u64 {
        VtdSsEntry::new().with_read(true).with_write(true).with_frame(next.0 >> 12).into_bits()
    }
    #[inline]
    fn present(entry: u64) -> bool {
        entry & 3 != 0
    }
    #[inline]
    fn is_leaf(entry: u64, level: u8) -> bool {
        level == 0 || VtdSsEntry::from_bits(entry).large()
    }
    fn target(entry: u64) -> Phys {
        Phys(VtdSsEntry::from_bits(entry).frame() << 12)
    }
    fn access(entry: u64) -> Access {
        let entry = VtdSsEntry::from_bits(entry);
        let mut access = Access::empty();
        access.set(Access::READ, entry.read());
        access.set(Access::WRITE, entry.write());
        access
    }
    #[inline]
    fn writable(entry: u64) -> bool {
        VtdSsEntry::from_bits(entry).write()
    }
}
