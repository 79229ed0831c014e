//! One open device file: dispatch, bind, attach, reset, close.

use crate::config::{Own, command};
use crate::services::Lent;
use crate::{Caller, DataFile, Device};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use device_api::Migratable;
use iommufd::DeviceHandle;
use spin::Mutex;
use uapi::extension::{DEVICE_COUNTERS, DeviceCounters};
use uapi::vfio::{
    self as abi, ATTACH_PASID, AttachIommufdPt, BIND_TOKEN, BindIommufd, DetachIommufdPt, STATE_PRE_COPY, STATE_RUNNING,
};
use uapi::{Errno, Request, UserMem, read_plain, read_size};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

pub(crate) struct State {
    /// Of the binding; `None` before.
    pub handle: Option<Arc<DeviceHandle>>,
    /// A call changes the device and waits for it.
    busy: bool,
    pub own: Own,
    /// Migration state.
    pub state: u32,
    pub session: Option<Arc<DataFile>>,
    /// The program wrote the command register since the device was stopped.
    pub commanded: bool,
}

/// One open device file. Before a successful BIND_IOMMUFD everything else is `EINVAL`.
pub struct DeviceFile {
    pub(crate) device: Arc<Device>,
    pub(crate) state: Mutex<State>,
    pub(crate) register_writes: AtomicU64,
    pub(crate) config_writes: AtomicU64,
}

/// Nobody else changes the device through this file until this is dropped.
pub(crate) struct Inside<'a>(&'a DeviceFile);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.state.lock().busy = false;
    }
}

/// Errors of device drivers, for a program.
pub(crate) fn errno(error: device_api::Error) -> Errno {
    use device_api::Error;
    match error {
        Error::Invalid(_) | Error::BadState { .. } => Errno::EINVAL,
        Error::Unsupported(_) => Errno::EOPNOTSUPP,
        Error::Sink(number) => Errno(u16::try_from(number).unwrap_or(Errno::EIO.0)),
        Error::Exhausted(_) => Errno::ENOMEM,
        Error::Stuck { .. } | Error::Lost(_) => Errno::EIO,
        Error::Iommu(error) => error.into(),
    }
}

/// Reads the first `min` bytes of a structure (the rest stays zero) and checks that the program has that much.
///
/// # Errors
/// `EFAULT`; `EINVAL` if argsz, the first field, is below `min`.
pub(crate) fn read_head<T: FromBytes + FromZeros + IntoBytes>(
    mem: &dyn UserMem,
    at: u64,
    min: usize,
) -> Result<T, Errno> {
    let mut body = T::new_zeroed();
    let bytes = body.as_mut_bytes();
    mem.copy_in(at, bytes.get_mut(..min).ok_or(Errno::EINVAL)?)?;
    let argsz = bytes.first_chunk::<4>().map_or(0, |raw| u32::from_le_bytes(*raw));
    if (argsz as usize) < min { Err(Errno::EINVAL) } else { Ok(body) }
}

impl DeviceFile {
    pub(crate) fn new(device: Arc<Device>) -> Arc<Self> {
        let state = State {
            handle: None,
            busy: false,
            own: Own::new(&**device.function()),
            state: STATE_RUNNING,
            session: None,
            commanded: false,
        };
        Arc::new(Self {
            device,
            state: Mutex::new(state),
            register_writes: AtomicU64::new(0),
            config_writes: AtomicU64::new(0),
        })
    }
    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The binding.
    ///
    /// # Errors
    /// `EINVAL` before BIND.
    pub(crate) fn handle(&self) -> Result<Arc<DeviceHandle>, Errno> {
        self.state.lock().handle.clone().ok_or(Errno::EINVAL)
    }

    pub(crate) fn enter(&self) -> Result<Inside<'_>, Errno> {
        let mut state = self.state.lock();
        if state.busy {
            return Err(Errno::ERESTART);
        }
        state.busy = true;
        Ok(Inside(self))
    }

    /// An ioctl, by the rules of [`uapi::vfio`]. The value is what the system call returns.
    ///
    /// # Errors
    /// By those rules; [`Errno::ERESTART`]: run the call again.
    pub fn ioctl(&self, command: u32, argument: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        if command == abi::DEVICE_BIND_IOMMUFD {
            return self.bind(argument, caller);
        }
        let handle = self.handle()?;
        match command {
            abi::DEVICE_ATTACH_IOMMUFD_PT => self.attach(&handle, argument, caller),
            abi::DEVICE_DETACH_IOMMUFD_PT => self.detach(&handle, argument, caller),
            abi::DEVICE_GET_INFO => self.get_info(argument, caller),
            abi::DEVICE_GET_REGION_INFO => self.get_region_info(argument, caller),
            abi::DEVICE_GET_IRQ_INFO => self.get_irq_info(argument, caller),
            abi::DEVICE_SET_IRQS => self.set_irqs(argument, caller),
            abi::DEVICE_RESET => self.reset(&handle),
            abi::DEVICE_FEATURE => self.feature(&handle, argument, caller),
            DEVICE_COUNTERS => self.counters(argument, caller),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn bind(&self, argument: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        let mem = caller as &dyn UserMem;
        let size = read_size(mem, argument)?;
        let mut request: Request<BindIommufd> = Request::read_with_size(mem, argument, size, 16)?;
        if request.body.flags & !BIND_TOKEN != 0 || request.body.iommufd < 0 {
            return Err(Errno::EINVAL);
        }
        let _inside = self.enter()?;
        if self.handle().is_ok() {
            return Err(Errno::EINVAL);
        }
        let context = caller.iommufd(request.body.iommufd)?;
        // No device here takes a token.
        if request.body.flags & BIND_TOKEN != 0 {
            return Err(Errno::EINVAL);
        }
        if self.device.bound.swap(true, Ordering::Acquire) {
            return Err(Errno::EINVAL);
        }
        let bound = context.bind(self.device.spec().clone()).map(Arc::new).and_then(|handle| {
            self.clean(&handle)?;
            request.body.out_devid = handle.id();
            request.reply(mem)?;
            Ok(handle)
        });
        match bound {
            Ok(handle) => {
                let mut state = self.state.lock();
                state.own = Own::new(&**self.device.function());
                state.state = STATE_RUNNING;
                state.handle = Some(handle);
                Ok(0)
            }
            Err(errno) => {
                self.device.bound.store(false, Ordering::Release);
                Err(errno)
            }
        }
    }

    /// Resets a device whose last owner left it unclean.
    fn clean(&self, handle: &DeviceHandle) -> Result<(), Errno> {
        if !self.device.stale.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.reset_device(handle).map_err(|error| {
            log::error!("vfio: {} is not clean, and its reset failed: {error}", self.device.name());
            Errno::EIO
        })?;
        self.device.stale.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn attach(&self, handle: &DeviceHandle, argument: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        let mem = caller as &dyn UserMem;
        let body: AttachIommufdPt = read_head(mem, argument, 12)?;
        if body.flags & !ATTACH_PASID != 0 {
            return Err(Errno::EINVAL);
        }
        if body.flags & ATTACH_PASID != 0 {
            read_head::<AttachIommufdPt>(mem, argument, 16)?;
            return Err(Errno::EOPNOTSUPP);
        }
        let _inside = self.enter()?;
        let hwpt = handle.attach(body.pt_id)?;
        if let Err(errno) = mem.copy_out(argument.wrapping_add(8), &hwpt.to_le_bytes()) {
            self.device.function().bus_master(false);
            handle.detach()?;
            return Err(errno);
        }
        self.master();
        Ok(0)
    }

    fn detach(&self, handle: &DeviceHandle, argument: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        let mem = caller as &dyn UserMem;
        let body: DetachIommufdPt = read_head(mem, argument, 8)?;
        if body.flags & !ATTACH_PASID != 0 {
            return Err(Errno::EINVAL);
        }
        if body.flags & ATTACH_PASID != 0 {
            read_head::<DetachIommufdPt>(mem, argument, 12)?;
            return Err(Errno::EOPNOTSUPP);
        }
        let _inside = self.enter()?;
        self.device.function().bus_master(false);
        let result = handle.detach();
        if result.is_err() {
            self.master();
        }
        result.map(|()| 0)
    }

    /// Sets bus mastering as the program wants it, if the device is attached and runs. A stopped device is its
    /// migration driver's.
    pub(crate) fn master(&self) {
        let state = self.state.lock();
        let Some(handle) = &state.handle else { return };
        if matches!(state.state, STATE_RUNNING | STATE_PRE_COPY) {
            let wanted = state.own.command & command::MASTER != 0;
            self.device.function().bus_master(wanted && handle.attached());
        }
    }

    /// Runs `f` with the migration driver, outside of every lock; the caller is [`Inside`]. `None` without a driver.
    /// Also tells what the driver asked of bus mastering.
    pub(crate) fn drive<R>(
        &self,
        handle: &DeviceHandle,
        f: impl FnOnce(&mut dyn Migratable, &Lent<'_>) -> R,
    ) -> Option<(R, Option<bool>)> {
        let parts = &self.device.parts;
        let mut driver: Box<dyn Migratable> = self.device.driver.lock().take()?;
        let lent = Lent::new(&*parts.function, handle, &parts.spec.unit, &*parts.memory, &*parts.clock);
        let result = f(&mut *driver, &lent);
        let asked = lent.asked();
        *self.device.driver.lock() = Some(driver);
        Some((result, asked))
    }

    /// Resets the device: by its migration driver, or alone.
    pub(crate) fn reset_device(&self, handle: &DeviceHandle) -> Result<(), device_api::Error> {
        let function = self.device.function();
        function.bus_master(false);
        match self.drive(handle, |driver, lent| driver.reset(&lent.cx())) {
            Some((result, _)) => result,
            None => function.reset(),
        }
    }

    /// RESET: back to RUNNING from any migration state. The command register keeps the program's value, as Linux restores it.
    fn reset(&self, handle: &DeviceHandle) -> Result<i64, Errno> {
        if !self.device.can_reset() {
            return Err(Errno::EINVAL);
        }
        let _inside = self.enter()?;
        let result = self.reset_device(handle);
        if let Err(error) = &result {
            log::error!("vfio: reset of {}: {error}", self.device.name());
        }
        let session = {
            let mut state = self.state.lock();
            state.state = if result.is_ok() { STATE_RUNNING } else { abi::STATE_ERROR };
            state.session.take()
        };
        if let Some(session) = session {
            session.end();
        }
        result.map_err(errno)?;
        self.master();
        Ok(0)
    }

    fn counters(&self, argument: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        let mem = caller as &dyn UserMem;
        let mut request: Request<DeviceCounters> = Request::read(mem, argument, 24)?;
        if request.body.flags != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        request.body.register_writes = self.register_writes.load(Ordering::Relaxed);
        request.body.config_writes = self.config_writes.load(Ordering::Relaxed);
        request.reply(mem)?;
        Ok(0)
    }
}

impl Drop for DeviceFile {
    /// Nothing of this owner may be left when the next comes: session ended, device reset, bus mastering off, stream
    /// blocked, unbound.
    fn drop(&mut self) {
        let (handle, session) = {
            let mut state = self.state.lock();
            (state.handle.take(), state.session.take())
        };
        if let Some(session) = session {
            session.end();
        }
        let Some(handle) = handle else { return };
        if self.device.can_reset() {
            if let Err(error) = self.reset_device(&handle) {
                log::error!(
                    "vfio: reset of {} at close: {error}; the next owner has to wait for one",
                    self.device.name()
                );
                self.device.stale.store(true, Ordering::Relaxed);
            }
        } else {
            log::warn!("vfio: {} cannot be reset; its registers stay as the program left them", self.device.name());
        }
        self.device.function().bus_master(false);
        drop(handle);
        self.device.bound.store(false, Ordering::Release);
    }
}

/// Writes the first min(argsz, ours) bytes of a structure back.
pub(crate) fn write_head<T: IntoBytes + Immutable>(
    mem: &dyn UserMem,
    at: u64,
    argsz: u32,
    body: &T,
) -> Result<(), Errno> {
    let bytes = body.as_bytes();
    mem.copy_out(at, bytes.get(..bytes.len().min(argsz as usize)).unwrap_or(bytes))
}

/// Reads a whole structure that has no argsz rule of its own.
pub(crate) fn read_body<T: FromBytes + FromZeros + IntoBytes>(mem: &dyn UserMem, at: u64) -> Result<T, Errno> {
    read_plain(mem, at)
}
