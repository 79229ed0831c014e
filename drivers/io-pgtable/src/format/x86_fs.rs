//! VT-d first-stage paging entries, the long-mode layout of the processor (VT-d 5.0 section 9.7).

use super::PtFormat;
use bitfield_struct::bitfield;
use iommu_types::{Access, Error, PageSizes, Phys, TableKind};

/// An entry of any level.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct X86FsEntry {
    /// P (bit 0).
    pub present: bool,
    /// R/W (bit 1): writes are allowed.
    pub write: bool,
    /// U/S (bit 2): requests without supervisor privilege, that is all of ours, are allowed. Must be 1 at every level.
    pub user: bool,
    /// PWT (bit 3).
    pub write_through: bool,
    /// PCD (bit 4).
    pub cache_disable: bool,
    /// A (bit 5): used.
    pub accessed: bool,
    /// D (bit 6): written through; leaves only.
    pub dirty: bool,
    /// PS (bit 7): above level 0, this entry is a leaf (at level 0 the bit is PAT).
    pub large: bool,
    #[bits(4)]
    __: u8,
    /// Address bits 51:12.
    #[bits(40)]
    pub frame: u64,
    #[bits(11)]
    __: u16,
    /// XD (bit 63): no instruction fetch.
    pub no_execute: bool,
}

/// The format. There is no write-only page in it: the right to write brings the right to read.
pub struct X86Fs;

impl X86Fs {
    /// The XD bit, for [`crate::PageTable::force_leaf_bits`]. Not set by default: requests for execution are gone from VT-d,
    /// and units that lack them may treat the bit as reserved.
    pub const NO_EXECUTE: u64 = X86FsEntry::new().with_no_execute(true).into_bits();
}

impl PtFormat for X86Fs {
    const KIND: TableKind = TableKind::X86FirstStage;
    const LEVELS: (u8, u8) = (4, 5);
    const SIZES: PageSizes = PageSizes(1 << 12 | 1 << 21 | 1 << 30);
    const ACCESSED: u64 = X86FsEntry::new().with_accessed(true).into_bits();
    const DIRTY: u64 = X86FsEntry::new().with_dirty(true).into_bits();
    const ATTRIBUTES: u64 = X86FsEntry::new()
        .with_present(true)
        .with_write(true)
        .with_user(true)
        .with_write_through(true)
        .with_cache_disable(true)
        .with_no_execute(true)
        .into_bits();

    fn rights(access: Access, _tracked: bool) -> Result<u64, Error> {
        if !access.intersects(Access::READ | Access::WRITE) {
            return Err(Error::Invalid("a mapping needs the right to read or to write"));
        }
        let write = access.contains(Access::WRITE);
        Ok(X86FsEntry::new().with_present(true).with_user(true).with_write(write).into_bits())
    }
    #[inline]
    fn leaf(level: u8, phys: Phys, rights: u64) -> u64 {
        X86FsEntry::new().with_large(level > 0).with_frame(phys.0 >> 12).into_bits() | rights
    }
    fn table(_level: u8, next: Phys) -> u64 {
        let entry = X86FsEntry::new().with_present(true).with_write(true).with_user(true);
        entry.with_frame(next.0 >> 12).into_bits()
    }
    #[inline]
    fn present(entry: u64) -> bool {
        entry & 1 != 0
    }
    #[inline]
    fn is_leaf(entry: u64, level: u8) -> bool {
        level == 0 || X86FsEntry::from_bits(entry).large()
    }
    fn target(entry: u64) -> Phys {
        Phys(X86FsEntry::from_bits(entry).frame() << 12)
    }
    fn access(entry: u64) -> Access {
        let entry = X86FsEntry::from_bits(entry);
        let mut access = Access::READ;
        access.set(Access::WRITE, entry.write());
        access
    }
    #[inline]
    fn writable(entry: u64) -> bool {
        X86FsEntry::from_bits(entry).write()
    }
}
