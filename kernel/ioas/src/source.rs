//! Where the pages of a mapping come from, and who pays for them.

use alloc::vec::Vec;
use iommu_types::PhysRun;
use uapi::Errno;

/// The memory of one program (or one file), to pin from. It outlives the program: after an exit, pins already taken
/// stay valid until they are given back, and new ones fail.
pub trait PageSource: Send + Sync {
    /// Pins the pages that hold `length` bytes at `address` (both multiples of 4 KiB) and appends their physical runs,
    /// in order, neighbours merged, to `runs`. `write`: devices will write; breaks copy-on-write first. A read-only pin
    /// of a private page still unshares it, so that device and program keep seeing the same memory.
    ///
    /// # Errors
    /// `EFAULT` where nothing is mapped, the rights are missing, or the program is gone; `ENOMEM`. Nothing stays pinned.
    fn pin(&self, address: u64, length: u64, write: bool, runs: &mut Vec<PhysRun>) -> Result<(), Errno>;
    /// Gives back runs that [`pin`](Self::pin) returned, whole or cut at page boundaries. Cannot fail.
    fn unpin(&self, runs: &[PhysRun]);
}

/// Whom pinned memory is charged to. It outlives the program, as [`PageSource`] does.
pub trait Account: Send + Sync {
    /// Charges `bytes` (a multiple of 4 KiB) before they are pinned for good.
    ///
    /// # Errors
    /// `ENOMEM` over the limit; nothing was charged.
    fn charge(&self, bytes: u64) -> Result<(), Errno>;
    /// Gives a charge back, whole or in parts.
    fn uncharge(&self, bytes: u64);
}
