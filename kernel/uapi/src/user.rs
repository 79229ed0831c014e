//! Access to the memory of a user program: a number from user space is an allegation until it was read here.

use crate::Errno;

/// Memory of the calling program. Every copy-out marks the pages soft-dirty.
pub trait UserMem {
    /// Copies from the program at `from`.
    ///
    /// # Errors
    /// `EFAULT`; `to` may have been filled in part.
    fn copy_in(&self, from: u64, to: &mut [u8]) -> Result<(), Errno>;
    /// Copies to the program at `to`.
    ///
    /// # Errors
    /// `EFAULT`; a part may have been written.
    fn copy_out(&self, to: u64, from: &[u8]) -> Result<(), Errno>;
    /// Ors `bits` into the program's bytes at `at`.
    ///
    /// # Errors
    /// `EFAULT`; a part may have been set.
    fn or_bits(&self, at: u64, bits: &[u8]) -> Result<(), Errno>;
}
