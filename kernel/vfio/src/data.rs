//! The file of one migration session.

use crate::Caller;
use uapi::Errno;

/// A stream without position: the saved state comes out (STOP_COPY) or goes in (RESUMING).
pub struct DataFile {}

impl DataFile {
    /// The next bytes of the state; 0 at its end.
    ///
    /// # Errors
    /// `EBADF` on a session that takes a state; `ENODEV` once the session is over.
    pub fn read(&self, out: &mut [u8]) -> Result<usize, Errno> {
        let _ = out;
        Err(Errno::ENODEV)
    }
    /// More bytes of a state. They are checked when the device leaves RESUMING.
    ///
    /// # Errors
    /// `EBADF` on a session that gives a state; `ENODEV` once it is over; `ENOSPC` beyond the largest state of the
    /// device; `ENOMEM`.
    pub fn write(&self, data: &[u8]) -> Result<usize, Errno> {
        let _ = data;
        Err(Errno::ENODEV)
    }
    /// MIG_GET_PRECOPY_INFO is the only command, and no driver here has PRE_COPY.
    ///
    /// # Errors
    /// `ENOTTY` another command; `EFAULT`; `EINVAL`.
    pub fn ioctl(&self, command: u32, argument: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        let _ = (command, argument, caller);
        Err(Errno::ENOTTY)
    }
}
