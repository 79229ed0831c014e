//! AMD-Vi v2 (guest) tables: the long-mode layout of the processor, at host addresses (48882 section 2.2.6).

use super::{PtFormat, X86Fs};
use iommu_types::{Access, Error, PageSizes, Phys, TableKind};

/// The format: entries as in [`X86Fs`]. Bit 63 (NX) only where EFR.NXSup is set, so never by default.
pub struct AmdV2;

impl PtFormat for AmdV2 {
    const KIND: TableKind = TableKind::AmdV2;
    const LEVELS: (u8, u8) = X86Fs::LEVELS;
    const SIZES: PageSizes = X86Fs::SIZES;
    const ACCESSED: u64 = X86Fs::ACCESSED;
    const DIRTY: u64 = X86Fs::DIRTY;
    const ATTRIBUTES: u64 = X86Fs::ATTRIBUTES;

    fn rights(access: Access, tracked: bool) -> Result<u64, Error> {
        X86Fs::rights(access, tracked)
    }
    #[inline]
    fn leaf(level: u8, phys: Phys, rights: u64) -> u64 {
        X86Fs::leaf(level, phys, rights)
    }
    fn table(level: u8, next: Phys) -> u64 {
        X86Fs::table(level, next)
    }
    #[inline]
    fn present(entry: u64) -> bool {
        X86Fs::present(entry)
    }
    #[inline]
    fn is_leaf(entry: u64, level: u8) -> bool {
        X86Fs::is_leaf(entry, level)
    }
    fn target(entry: u64) -> Phys {
        X86Fs::target(entry)
    }
    fn access(entry: u64) -> Access {
        X86Fs::access(entry)
    }
    #[inline]
    fn writable(entry: u64) -> bool {
        X86Fs::writable(entry)
    }
}
