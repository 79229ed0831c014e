//! One open /dev/iommu.

use crate::{Caller, DeviceSpec};
use alloc::sync::Arc;
use uapi::Errno;

/// One open /dev/iommu.
pub struct Context {}

impl Context {
    /// No objects.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {})
    }
    /// An ioctl: `command` and `argument` as the program passed them. The value is what the system call returns.
    ///
    /// # Errors
    /// By the rules of [`uapi::iommufd`]; [`Errno::ERESTART`]: run the call again.
    pub fn ioctl(&self, command: u32, argument: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        let _ = (command, argument, caller);
        Err(Errno::ENOTTY)
    }
    /// Makes a device an object of this file. Dropping the handle detaches and unbinds it.
    ///
    /// # Errors
    /// `EBUSY` if the group belongs to another file; `EINVAL` for a device that firmware wants mapped one to one.
    pub fn bind(self: &Arc<Self>, device: DeviceSpec) -> Result<DeviceHandle, Errno> {
        let _ = device;
        Err(Errno::EINVAL)
    }
}

/// A bound device.
pub struct DeviceHandle {
    context: Arc<Context>,
    id: u32,
}

impl DeviceHandle {
    /// Its object id.
    pub fn id(&self) -> u32 {
        self.id
    }
    /// The file it is bound to.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }
}
