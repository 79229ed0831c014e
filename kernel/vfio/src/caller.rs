//! What a device file needs of the calling program beyond its memory.

use crate::DataFile;
use alloc::sync::Arc;
use iommufd::Context;
use uapi::Errno;

/// The calling program.
pub trait Caller: iommufd::Caller {
    /// The /dev/iommu file behind a file descriptor.
    ///
    /// # Errors
    /// `EBADF` not open; `EBADFD` another kind of file.
    fn iommufd(&self, fd: i32) -> Result<Arc<Context>, Errno>;
    /// Gives the file a descriptor, close-on-exec. Seeking on it is `ESPIPE`.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`.
    fn install(&self, file: Arc<DataFile>) -> Result<i32, Errno>;
    /// Takes back a descriptor that [`install`](Self::install) gave in this call.
    fn uninstall(&self, fd: i32);
}
