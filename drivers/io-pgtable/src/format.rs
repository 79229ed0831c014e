//! What the engine asks of a table layout.

mod amd_v1;
mod amd_v2;
mod arm;
mod vtd_ss;
mod x86_fs;

pub use amd_v1::{AmdV1, AmdV1Entry};
pub use amd_v2::AmdV2;
pub use arm::{ArmEntry, ArmS1, ArmS2};
pub use vtd_ss::{VtdSs, VtdSsEntry};
pub use x86_fs::{X86Fs, X86FsEntry};

use crate::Swap;
use iommu_types::{Access, DirtyRule, Error, PageSizes, Phys, TableKind};

/// How a layout with a dirty-bit modifier shows a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Modifier {
    /// The rule it stands for.
    pub rule: DirtyRule,
    /// The bit hardware changes on a write.
    pub bit: u64,
    /// Is the page written when the bit is 0 (as opposed to 1)?
    pub low: bool,
}

/// One table layout: tables of 512 64-bit entries, 9 bits of iova per level, level 0 holding 4 KiB leaves.
///
/// An item may take 2^n neighbouring entries of one table, at a multiple of 2^n ([`group`](Self::group)).
pub trait PtFormat: Send + Sync + 'static {
    /// Its name in the common vocabulary.
    const KIND: TableKind;
    /// Fewest and most levels.
    const LEVELS: (u8, u8);
    /// Item sizes the layout can express. A size between those of two levels takes several entries of the lower one.
    const SIZES: PageSizes;
    /// Bits of an output address that fit into an entry.
    const PHYS_BITS: u8 = 52;
    /// Most tables side by side at the top.
    const TOP_TABLES: u64 = 1;
    /// Bit of an entry, leaf or not, that hardware sets when it uses it; 0 if leaves always have it set.
    const ACCESSED: u64;
    /// Bit of a leaf that hardware sets when it writes through it; 0 if there is none.
    const DIRTY: u64;
    /// The other way to show a write.
    const MODIFIER: Option<Modifier> = None;
    /// How items may be replaced by others of another size on a unit that promises nothing beyond the specification.
    const SWAP: Swap = Swap::Direct;
    /// Bits of a leaf that are neither address nor size nor state: see [`attributes`](Self::attributes).
    const ATTRIBUTES: u64;

    /// The bits of a leaf that give `access`. `tracked`: writes are to be recorded by [`MODIFIER`](Self::MODIFIER), and the
    /// leaf starts clean.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `access` gives no right.
    fn rights(access: Access, tracked: bool) -> Result<u64, Error>;
    /// A leaf of one entry at `level` (0 = 4 KiB) that leads to `phys`, with the bits of [`rights`](Self::rights). The
    /// address is kept in place (bits 51:12), so the leaf of the next 4 KiB is this one plus 4096.
    fn leaf(level: u8, phys: Phys, rights: u64) -> u64;
    /// Entry `index` of an item of 2^`log2` entries at `level` that leads to `phys`; a leaf if `log2` is 0.
    #[inline]
    fn member(level: u8, phys: Phys, log2: u32, index: u64, rights: u64) -> u64 {
        let _ = log2;
        Self::leaf(level, Phys(phys.0 + (index << crate::engine::shift(level))), rights)
    }
    /// log2 of the number of entries of the item that a leaf at `level` belongs to; 0..=8.
    #[inline]
    fn group(entry: u64, level: u8) -> u32 {
        let _ = (entry, level);
        0
    }
    /// An entry at `level` that leads to a table of the level below.
    fn table(level: u8, next: Phys) -> u64;
    /// Does hardware look at the entry at all?
    fn present(entry: u64) -> bool;
    /// Is a present entry at `level` a leaf?
    fn is_leaf(entry: u64, level: u8) -> bool;
    /// Where a present entry leads. Bits below the size of the item may be part of its encoding.
    fn target(entry: u64) -> Phys;
    /// The rights of a leaf.
    fn access(entry: u64) -> Access;
    /// Can a device write through the leaf?
    fn writable(entry: u64) -> bool;
    /// What [`rights`](Self::rights) and forced bits put into a leaf, in its clean state.
    #[inline]
    fn attributes(entry: u64) -> u64 {
        entry & Self::ATTRIBUTES
    }
}
