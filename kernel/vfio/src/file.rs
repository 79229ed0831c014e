//! One open device file.

use crate::{Caller, Device};
use alloc::sync::Arc;
use iommu_types::Phys;
use uapi::Errno;

/// What mmap of a BAR gives: the pages of a program's mapping, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// First physical address, a multiple of 4 KiB. Device memory: map it uncached, never executable.
    pub phys: Phys,
    /// Bytes, a multiple of 4 KiB.
    pub length: u64,
}

/// One open device file. Before a successful BIND_IOMMUFD everything else is `EINVAL`.
pub struct DeviceFile {
    device: Arc<Device>,
}

impl DeviceFile {
    pub(crate) fn new(device: Arc<Device>) -> Arc<Self> {
        Arc::new(Self { device })
    }
    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }
    /// An ioctl, by the rules of [`uapi::vfio`]. The value is what the system call returns.
    ///
    /// # Errors
    /// By those rules; [`Errno::ERESTART`]: run the call again.
    pub fn ioctl(&self, command: u32, argument: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        let _ = (command, argument, caller);
        Err(Errno::ENOTTY)
    }
    /// Reads registers: `offset` is `region << 40 | offset in it`. Never past the region's end.
    ///
    /// # Errors
    /// `EINVAL` not bound, no such region, or an offset past its end; `EIO` memory decoding is off or the device is gone.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<usize, Errno> {
        let _ = (offset, out);
        Err(Errno::EINVAL)
    }
    /// Writes registers; see [`read_at`](Self::read_at).
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let _ = (offset, data);
        Err(Errno::EINVAL)
    }
    /// The physical pages behind `length` bytes at `offset`, for a shared mapping (a private one is the caller's `EINVAL`).
    /// The mapping must hold a reference to this file, so that the device is not closed under it.
    ///
    /// # Errors
    /// `EINVAL` not bound, misaligned, past the region's end, or a region that cannot be mapped.
    pub fn map(&self, offset: u64, length: u64) -> Result<Mapping, Errno> {
        let _ = (offset, length);
        Err(Errno::EINVAL)
    }
}
