//! What a call needs of the program that makes it. The adapter between files and objects (kernel/syscall) implements it.

use alloc::sync::Arc;
use ioas::{Account, PageSource};
use uapi::{Errno, UserMem};

/// A right that some calls ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Capability {
    /// CAP_SYS_RESOURCE: change OPTION RLIMIT_MODE.
    SysResource,
    /// CAP_SYS_RAWIO: IOAS_NOIOMMU_GET_PA.
    SysRawio,
}

/// Whose limit pinned memory counts against (OPTION RLIMIT_MODE).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccountMode {
    /// The user's sum over all processes, against the caller's RLIMIT_MEMLOCK (default).
    User,
    /// The process's own sum (VmLck).
    Process,
}

/// The calling program.
pub trait Caller: UserMem {
    /// Its memory, to pin from; addresses are the program's.
    fn page_source(&self) -> Arc<dyn PageSource>;
    /// The memory of an open file (memfd), to pin from; addresses are offsets in the file.
    ///
    /// # Errors
    /// `EBADF` no such file; `EINVAL` not a memfd; `EOPNOTSUPP` not supported (default).
    fn file_source(&self, fd: i32) -> Result<Arc<dyn PageSource>, Errno> {
        log::warn!("iommufd: IOAS_MAP_FILE of fd {fd}: files cannot be pinned here");
        Err(Errno::EOPNOTSUPP)
    }
    /// Whom to charge for pins of a mapping made now. With CAP_IPC_LOCK the account has no limit.
    fn account(&self, mode: AccountMode) -> Arc<dyn Account>;
    /// Does the program have this right?
    fn capable(&self, capability: Capability) -> bool;
}
