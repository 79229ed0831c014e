//! /dev/iommu and /dev/vfio/devices/vfioN as files: the objects keep to themselves, this is the seam.

use crate::Errno;
use crate::cx::Cx;
use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering};
use ioas::{Account, PageSource};
use iommufd::{AccountMode, Capability, Context};
use mm::{AddressSpace, Memfd};
use spin::Once;
use task::Kernel;
use uapi::UserMem;
use uapi::iommufd::IOAS_ALLOC;
use uapi::linux::fs::{O_RDWR, makedev};
use uapi::linux::sched::{CAP_IPC_LOCK, CAP_SYS_RESOURCE};
use vfio::{DataFile, Device, DeviceFile};
use vfs::{Caller, File, FileKind, Mapping, Node, OpenFile, Stat};

/// CAP_SYS_RAWIO.
const CAP_SYS_RAWIO: u32 = 17;
/// Major number of misc devices.
const MISC: u32 = 10;
/// Major number that device files of VFIO get.
const VFIO: u32 = 511;

/// The node /dev/iommu. `first` is called when the first I/O address space of this machine was made.
pub fn iommu_node(first: impl Fn() + Send + Sync + 'static) -> Arc<Node> {
    let first: Arc<dyn Fn() + Send + Sync> = Arc::new(first);
    let made = Arc::new(Once::new());
    let open = move |_: u32| {
        let file = IommuFile { context: Context::new(), first: first.clone(), made: made.clone() };
        Ok(Arc::new(file) as Arc<dyn File>)
    };
    Node::device(makedev(MISC, 125), 0o660, Arc::new(open))
}

/// The node /dev/vfio/devices/vfioN of a device, N = `minor`.
pub fn vfio_node(device: Arc<Device>, minor: u32) -> Arc<Node> {
    let open = move |_: u32| Ok(Arc::new(VfioFile { file: device.open(), minor }) as Arc<dyn File>);
    Node::device(makedev(VFIO, minor), 0o600, Arc::new(open))
}

fn call(caller: &dyn Caller) -> Result<&Cx, Errno> {
    let caller: &dyn Any = caller;
    caller.downcast_ref().ok_or(Errno::EINVAL)
}

/// An open /dev/iommu.
pub struct IommuFile {
    /// Its objects.
    pub context: Arc<Context>,
    first: Arc<dyn Fn() + Send + Sync>,
    made: Arc<Once<()>>,
}

impl File for IommuFile {
    fn ioctl(&self, command: u32, arg: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        let value = self.context.ioctl(command, arg, call(caller)?)?;
        if command == IOAS_ALLOC {
            self.made.call_once(|| (self.first)());
        }
        Ok(value)
    }
    fn stat(&self) -> Stat {
        Stat { rdev: makedev(MISC, 125), ..Stat::anonymous(FileKind::Device) }
    }
}

/// An open VFIO device.
pub struct VfioFile {
    /// The device file.
    pub file: Arc<DeviceFile>,
    minor: u32,
}

impl File for VfioFile {
    fn read(&self, at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        self.file.read_at(at, to)
    }
    fn write(&self, at: u64, from: &[u8]) -> Result<usize, Errno> {
        self.file.write_at(at, from)
    }
    fn positioned(&self) -> bool {
        true
    }
    fn ioctl(&self, command: u32, arg: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        self.file.ioctl(command, arg, call(caller)?)
    }
    fn mmap(&self, offset: u64, length: u64, shared: bool, _write: bool) -> Result<Mapping, Errno> {
        if !shared {
            return Err(Errno::EINVAL);
        }
        let mapping = self.file.map(offset, length)?;
        Ok(Mapping::Device { base: mapping.phys, keep: self.file.clone() })
    }
    fn stat(&self) -> Stat {
        Stat { rdev: makedev(VFIO, self.minor), ..Stat::anonymous(FileKind::Device) }
    }
}

/// A migration data stream.
struct MigrationFile(Arc<DataFile>);

impl File for MigrationFile {
    fn read(&self, _at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        self.0.read(to)
    }
    fn write(&self, _at: u64, from: &[u8]) -> Result<usize, Errno> {
        self.0.write(from)
    }
    fn ioctl(&self, command: u32, arg: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        self.0.ioctl(command, arg, call(caller)?)
    }
    fn stat(&self) -> Stat {
        Stat::anonymous(FileKind::Anonymous)
    }
}

/// CAP_IPC_LOCK: nothing is charged.
struct Free;

impl Account for Free {
    fn charge(&self, _bytes: u64) -> Result<(), Errno> {
        Ok(())
    }
    fn uncharge(&self, _bytes: u64) {}
}

/// The process's own sum, VmLck.
struct OfProcess {
    space: Arc<AddressSpace>,
    limit: u64,
}

impl Account for OfProcess {
    fn charge(&self, bytes: u64) -> Result<(), Errno> {
        self.space.charge(bytes, self.limit)
    }
    fn uncharge(&self, bytes: u64) {
        self.space.uncharge(bytes);
    }
}

/// The user's sum over all processes: there is one user.
struct OfUser {
    kernel: Arc<Kernel>,
    limit: u64,
}

fn add(sum: &AtomicU64, bytes: u64, limit: u64) -> Result<(), Errno> {
    let add = |now: u64| now.checked_add(bytes).filter(|sum| *sum <= limit);
    sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map(drop).map_err(|_| Errno::ENOMEM)
}

impl Account for OfUser {
    fn charge(&self, bytes: u64) -> Result<(), Errno> {
        add(&self.kernel.locked, bytes, self.limit)
    }
    fn uncharge(&self, bytes: u64) {
        let take = |now: u64| Some(now.saturating_sub(bytes));
        let _ = self.kernel.locked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
    }
}

impl UserMem for Cx {
    fn copy_in(&self, from: u64, to: &mut [u8]) -> Result<(), Errno> {
        self.space.copy_in(from, to)
    }
    fn copy_out(&self, to: u64, from: &[u8]) -> Result<(), Errno> {
        self.space.copy_out(to, from)
    }
    fn or_bits(&self, at: u64, bits: &[u8]) -> Result<(), Errno> {
        self.space.or_bits(at, bits)
    }
}

impl iommufd::Caller for Cx {
    fn page_source(&self) -> Arc<dyn PageSource> {
        self.space.clone()
    }
    fn file_source(&self, fd: i32) -> Result<Arc<dyn PageSource>, Errno> {
        let file = self.file(fd)?;
        let object: &dyn Any = &*file.file;
        Ok(object.downcast_ref::<Memfd>().ok_or(Errno::EINVAL)?.0.clone())
    }
    fn account(&self, mode: AccountMode) -> Arc<dyn Account> {
        if self.process().capable(CAP_IPC_LOCK) {
            return Arc::new(Free);
        }
        let limit = self.process().limits().memlock.0;
        match mode {
            AccountMode::User => Arc::new(OfUser { kernel: self.kernel().clone(), limit }),
            AccountMode::Process => Arc::new(OfProcess { space: self.space.clone(), limit }),
        }
    }
    fn capable(&self, capability: Capability) -> bool {
        self.process().capable(match capability {
            Capability::SysResource => CAP_SYS_RESOURCE,
            Capability::SysRawio => CAP_SYS_RAWIO,
        })
    }
}

impl vfio::Caller for Cx {
    fn iommufd(&self, fd: i32) -> Result<Arc<Context>, Errno> {
        let file = self.file(fd)?;
        let object: &dyn Any = &*file.file;
        object.downcast_ref::<IommuFile>().map(|file| file.context.clone()).ok_or(Errno::EBADFD)
    }
    fn install(&self, file: Arc<DataFile>) -> Result<i32, Errno> {
        Cx::install(self, OpenFile::new(Arc::new(MigrationFile(file)), O_RDWR), true)
    }
    fn uninstall(&self, fd: i32) {
        Caller::uninstall(self, fd);
    }
}
