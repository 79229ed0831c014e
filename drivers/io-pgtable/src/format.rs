//! What the engine asks of a table layout.

mod vtd_ss;
mod x86_fs;

pub use vtd_ss::{VtdSs, VtdSsEntry};
pub use x86_fs::{X86Fs, X86FsEntry};

use iommu_types::{Access, Error, PageSizes, Phys, TableKind};

/// One table layout: tables of 512 64-bit entries, 9 bits of iova per level, level 0 holding 4 KiB leaves.
pub trait PtFormat: Send + Sync + 'static {
    /// Its name in the common vocabulary.
    const KIND: TableKind;
    /// Fewest and most levels.
    const LEVELS: (u8, u8);
    /// Leaf sizes the layout can express.
    const SIZES: PageSizes;
    /// Bit of an entry, leaf or not, that hardware sets when it uses it.
    const ACCESSED: u64;
    /// Bit of a leaf that hardware sets when it writes through it.
    const DIRTY: u64;

    /// The bits of a leaf that give `access`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `access` gives no right.
    fn rights(access: Access) -> Result<u64, Error>;
    /// A leaf at `level` (0 = 4 KiB) that leads to `phys`, with the bits of [`rights`](Self::rights). The address is kept in
    /// place (bits 51:12), so the leaf of the next 4 KiB is this one plus 4096.
    fn leaf(level: u8, phys: Phys, rights: u64) -> u64;
    /// An entry that leads to the next table.
    fn table(next: Phys) -> u64;
    /// Does hardware look at the entry at all?
    fn present(entry: u64) -> bool;
    /// Is a present entry at `level` a leaf?
    fn is_leaf(entry: u64, level: u8) -> bool;
    /// Where a present entry leads.
    fn target(entry: u64) -> Phys;
    /// The rights of a leaf.
    fn access(entry: u64) -> Access;
    /// Can a device write through the leaf?
    fn writable(entry: u64) -> bool;
}
