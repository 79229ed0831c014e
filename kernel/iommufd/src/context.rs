//! One open /dev/iommu: dispatch, look-up, destruction.

use crate::Caller;
use crate::device::BoundDevice;
use crate::graph::{Graph, Object};
use crate::hwpt::Hwpt;
use alloc::sync::Arc;
use core::ops::Deref;
use core::sync::atomic::{AtomicU64, Ordering};
use ioas::Ioas;
use spin::{Mutex, MutexGuard};
use uapi::iommufd::{self as abi, MIN_SIZES};
use uapi::{Errno, Request, UserMem, extension, read_size};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

static NEXT: AtomicU64 = AtomicU64::new(1);

/// One open /dev/iommu.
pub struct Context {
    graph: Mutex<Graph>,
    /// Tells owners of groups apart.
    pub(crate) serial: u64,
}

/// An object that a call works on: it cannot be destroyed meanwhile.
pub(crate) struct Held<'a, T> {
    context: &'a Context,
    id: u32,
    object: T,
}

impl<T> Deref for Held<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.object
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        self.context.graph().unlink(self.id);
    }
}

impl Context {
    /// No objects.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { graph: Mutex::new(Graph::new()), serial: NEXT.fetch_add(1, Ordering::Relaxed) })
    }

    pub(crate) fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock()
    }

    /// Looks an object up; another kind is as unknown.
    pub(crate) fn hold<T>(&self, id: u32, pick: impl FnOnce(&Object) -> Option<T>) -> Result<Held<'_, T>, Errno> {
        let mut graph = self.graph();
        let object = pick(&graph.get(id)?).ok_or(Errno::ENOENT)?;
        graph.link(id);
        drop(graph);
        Ok(Held { context: self, id, object })
    }
    pub(crate) fn ioas(&self, id: u32) -> Result<Held<'_, Arc<Ioas>>, Errno> {
        self.hold(id, |object| if let Object::Ioas(ioas) = object { Some(ioas.clone()) } else { None })
    }
    pub(crate) fn hwpt(&self, id: u32) -> Result<Held<'_, Arc<Hwpt>>, Errno> {
        self.hold(id, |object| if let Object::Hwpt(hwpt) = object { Some(hwpt.clone()) } else { None })
    }
    pub(crate) fn device(&self, id: u32) -> Result<Held<'_, Arc<BoundDevice>>, Errno> {
        self.hold(id, |object| if let Object::Device(device) = object { Some(device.clone()) } else { None })
    }

    /// An ioctl: `command` and `argument` as the program passed them. The value is what the system call returns.
    ///
    /// # Errors
    /// By the rules of [`uapi::iommufd`] and [`uapi::extension`]; [`Errno::ERESTART`]: run the call again.
    pub fn ioctl(&self, command: u32, argument: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        let number = command & 0xff;
        let extension = (extension::HWPT_GET_DIRTY_STRICT..=extension::EXPLAIN).contains(&command);
        if !(abi::FIRST..=abi::LAST).contains(&number) && !extension {
            return Err(Errno::ENOTTY);
        }
        let size = read_size(caller as &dyn UserMem, argument)?;
        let call = Call { size, argument, caller };
        if extension {
            return self.extension(command, &call);
        }
        if command != abi::TYPE + number {
            return Err(Errno::ENOTTY);
        }
        match command {
            abi::DESTROY => self.destroy(call.read::<abi::Destroy>(command)?.body.id),
            abi::IOAS_ALLOC => self.ioas_alloc(call.read(command)?, caller),
            abi::IOAS_ALLOW_IOVAS => self.allow_iovas(&call.read(command)?, caller),
            abi::IOAS_COPY => self.ioas_copy(call.read(command)?, caller),
            abi::IOAS_IOVA_RANGES => self.iova_ranges(call.read(command)?, caller),
            abi::IOAS_MAP => self.ioas_map(call.read(command)?, caller),
            abi::IOAS_UNMAP => self.ioas_unmap(call.read(command)?, caller),
            abi::OPTION => self.option(call.read(command)?, caller),
            abi::VFIO_IOAS => self.vfio_ioas(call.read(command)?, caller),
            abi::HWPT_ALLOC => self.hwpt_alloc(call.read(command)?, caller),
            abi::GET_HW_INFO => self.get_hw_info(call.read(command)?, caller),
            abi::HWPT_SET_DIRTY_TRACKING => self.set_dirty_tracking(&call.read(command)?),
            abi::HWPT_GET_DIRTY_BITMAP => self.get_dirty_bitmap(&call.read(command)?, false, caller),
            abi::HWPT_INVALIDATE => self.invalidate(call.read(command)?, caller),
            abi::IOAS_MAP_FILE => self.ioas_map_file(call.read(command)?, caller),
            abi::IOAS_CHANGE_PROCESS => self.change_process(&call.read(command)?),
            _ => self.not_built(command, &call),
        }
    }

    fn extension(&self, command: u32, call: &Call<'_>) -> Result<i64, Errno> {
        match command {
            extension::HWPT_GET_DIRTY_STRICT => self.get_dirty_bitmap(&call.read_min(48)?, true, call.caller),
            extension::IOAS_UNMAP_DIRTY => self.unmap_dirty(call.read_min(48)?, call.caller),
            extension::EXPLAIN => self.explain(call.read_min(24)?, call.caller),
            _ => Err(Errno::ENOTTY),
        }
    }

    /// What belongs to nesting, fault queues and the like: the published checks, then that it is not here.
    fn not_built(&self, command: u32, call: &Call<'_>) -> Result<i64, Errno> {
        match command {
            abi::FAULT_QUEUE_ALLOC => call.read::<abi::FaultQueueAlloc>(command).and(Err(Errno::EOPNOTSUPP)),
            abi::VIOMMU_ALLOC => {
                let body = call.read::<abi::ViommuAlloc>(command)?.body;
                if body.flags == 0 && body.kind != 0 {
                    self.device(body.dev_id)?;
                }
                Err(Errno::EOPNOTSUPP)
            }
            abi::VDEVICE_ALLOC => call.read::<abi::VdeviceAlloc>(command).and(Err(Errno::ENOENT)),
            abi::VEVENTQ_ALLOC => {
                let body = call.read::<abi::VeventqAlloc>(command)?.body;
                if body.flags != 0 || body.reserved != 0 || body.kind == 0 {
                    return Err(Errno::EOPNOTSUPP);
                }
                if body.veventq_depth == 0 || body.veventq_depth > 1 << 19 {
                    return Err(Errno::EINVAL);
                }
                Err(Errno::ENOENT)
            }
            abi::HW_QUEUE_ALLOC => {
                let body = call.read::<abi::HwQueueAlloc>(command)?.body;
                if body.flags != 0 || body.kind == 0 {
                    return Err(Errno::EOPNOTSUPP);
                }
                let last = body.length.checked_sub(1).ok_or(Errno::EINVAL)?;
                body.nesting_parent_iova.checked_add(last).ok_or(Errno::EOVERFLOW)?;
                Err(Errno::ENOENT)
            }
            abi::IOAS_NOIOMMU_GET_PA => call.read::<abi::IoasNoiommuGetPa>(command).and(Err(Errno::EOPNOTSUPP)),
            _ => Err(Errno::ENOTTY),
        }
    }

    /// DESTROY: `ENOENT` unknown id, `EBUSY` in use.
    fn destroy(&self, id: u32) -> Result<i64, Errno> {
        let object = self.graph().take(id)?;
        self.take_down(id, object);
        Ok(0)
    }

    fn take_down(&self, id: u32, object: Object) {
        match object {
            // A table's last edge went first, so no domain holds the mappings and nothing is pinned.
            Object::Ioas(ioas) => {
                drop(ioas);
                self.graph().free(id);
            }
            Object::Hwpt(hwpt) => self.take_down_hwpt(hwpt),
            // Only its handle takes it down, and the handle counts as a user.
            Object::Device(_) => self.graph().free(id),
        }
    }

    /// Destroys an automatic table that lost its last device.
    pub(crate) fn destroy_if_unused(&self, id: u32) {
        let taken = self.graph().take(id);
        if let Ok(object) = taken {
            self.take_down(id, object);
        }
    }
}

impl Drop for Context {
    /// Devices are gone (each held a reference): leaves first, until nothing is left.
    fn drop(&mut self) {
        loop {
            let leaf = self.graph().any_leaf();
            let Some(id) = leaf else { return };
            self.destroy_if_unused(id);
        }
    }
}

/// One call: where its structure is and how long the program says it is.
struct Call<'a> {
    size: u32,
    argument: u64,
    caller: &'a dyn Caller,
}

impl Call<'_> {
    fn read<T: FromBytes + FromZeros + IntoBytes + Immutable>(&self, command: u32) -> Result<Request<T>, Errno> {
        let index = (command & 0xff).wrapping_sub(abi::FIRST) as usize;
        self.read_min(MIN_SIZES.get(index).copied().unwrap_or(size_of::<T>()))
    }
    fn read_min<T: FromBytes + FromZeros + IntoBytes + Immutable>(&self, min: usize) -> Result<Request<T>, Errno> {
        Request::read_with_size(self.caller as &dyn UserMem, self.argument, self.size, min)
    }
}
