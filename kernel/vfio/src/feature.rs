//! DEVICE_FEATURE: migration.

use crate::file::{DeviceFile, errno, read_body, read_head};
use crate::{Caller, DataFile, states};
use alloc::sync::Arc;
use alloc::vec::Vec;
use device_api::Error;
use iommufd::DeviceHandle;
use uapi::vfio::{
    DeviceFeature, FEATURE_GET, FEATURE_MASK, FEATURE_MIG_DATA_SIZE, FEATURE_MIG_DEVICE_STATE, FEATURE_MIGRATION,
    FEATURE_PROBE, FEATURE_SET, MigDataSize, MigDeviceState, Migration, STATE_ERROR, STATE_RESUMING, STATE_RUNNING,
    STATE_RUNNING_P2P, STATE_STOP, STATE_STOP_COPY,
};
use uapi::{Errno, UserMem};
use zerocopy::IntoBytes;

/// Offset of the data behind the head.
const DATA: u64 = 8;

/// Is there something to do (`true`), or was it only a question?
fn check(flags: u32, argsz: u32, supported: u32, payload: usize) -> Result<bool, Errno> {
    let operation = flags & (FEATURE_GET | FEATURE_SET);
    if operation & !supported != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & FEATURE_PROBE != 0 {
        return Ok(false);
    }
    if operation == 0 || (argsz as usize) < size_of::<DeviceFeature>() + payload {
        return Err(Errno::EINVAL);
    }
    Ok(true)
}

/// Does an error leave the device in a state that nobody knows?
fn wrecks(error: &Error) -> bool {
    matches!(
        error,
        Error::Stuck { .. }
            | Error::Lost(_)
            | Error::Iommu(iommu_types::Error::Stuck { .. } | iommu_types::Error::Lost(_))
    )
}

impl DeviceFile {
    pub(crate) fn feature(&self, handle: &DeviceHandle, argument: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        const KNOWN: u32 = FEATURE_MASK | FEATURE_GET | FEATURE_SET | FEATURE_PROBE;
        const BOTH: u32 = FEATURE_GET | FEATURE_SET;
        let mem = caller as &dyn UserMem;
        let head: DeviceFeature = read_head(mem, argument, size_of::<DeviceFeature>())?;
        if head.flags & !KNOWN != 0 || head.flags & BOTH == BOTH && head.flags & FEATURE_PROBE == 0 {
            return Err(Errno::EINVAL);
        }
        // Every feature here is about migration.
        let migration = self.device.migration.ok_or(Errno::ENOTTY)?;
        let data = argument.wrapping_add(DATA);
        match head.flags & FEATURE_MASK {
            FEATURE_MIGRATION => {
                if check(head.flags, head.argsz, FEATURE_GET, size_of::<Migration>())? {
                    mem.copy_out(data, Migration { flags: migration.abilities }.as_bytes())?;
                }
                Ok(0)
            }
            FEATURE_MIG_DATA_SIZE => {
                if check(head.flags, head.argsz, FEATURE_GET, size_of::<MigDataSize>())? {
                    mem.copy_out(data, MigDataSize { stop_copy_length: migration.limit as u64 }.as_bytes())?;
                }
                Ok(0)
            }
            FEATURE_MIG_DEVICE_STATE => {
                if !check(head.flags, head.argsz, BOTH, size_of::<MigDeviceState>())? {
                    return Ok(0);
                }
                if head.flags & FEATURE_GET != 0 {
                    let device_state = self.state.lock().state;
                    mem.copy_out(data, MigDeviceState { device_state, data_fd: -1 }.as_bytes())?;
                    return Ok(0);
                }
                self.set_state(handle, data, caller)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn set_state(&self, handle: &DeviceHandle, data: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        let mem = caller as &dyn UserMem;
        let wanted: MigDeviceState = read_body(mem, data)?;
        let moved = {
            let _inside = self.enter()?;
            self.go(handle, wanted.device_state)
        };
        let file = match moved {
            Ok(Some(file)) => file,
            other => {
                mem.copy_out(data, MigDeviceState { data_fd: -1, ..wanted }.as_bytes())?;
                return other.map(|_| 0);
            }
        };
        let data_fd = caller.install(file)?;
        if let Err(errno) = mem.copy_out(data, MigDeviceState { data_fd, ..wanted }.as_bytes()) {
            caller.uninstall(data_fd);
            return Err(errno);
        }
        Ok(0)
    }

    /// Goes to `target` arc by arc. After a failure the device is in the last state it reached, or in ERROR. Returns the
    /// file of a session that began.
    fn go(&self, handle: &DeviceHandle, target: u32) -> Result<Option<Arc<DataFile>>, Errno> {
        let migration = self.device.migration.ok_or(Errno::ENOTTY)?;
        let mut file = None;
        loop {
            let now = self.state.lock().state;
            // A request for the state it is in is checked too: ERROR is no target.
            let next = states::next(now, target, migration.abilities).ok_or(Errno::EINVAL)?;
            if now == target {
                return Ok(file);
            }
            match self.arc(handle, now, next, migration.limit) {
                Ok(began) => {
                    file = began;
                    self.state.lock().state = next;
                }
                Err(error) => {
                    let name = self.device.name();
                    log::error!("vfio: {name}: migration state {now} to {next} (of a way to {target}): {error}");
                    if wrecks(&error) {
                        self.end_session();
                        self.device.function().bus_master(false);
                        self.state.lock().state = STATE_ERROR;
                    }
                    return Err(errno(error));
                }
            }
            if next == STATE_RUNNING {
                self.resumed();
            }
        }
    }

    /// The program's command register counts again.
    fn resumed(&self) {
        self.state.lock().commanded = false;
        self.master();
    }

    fn end_session(&self) {
        let session = self.state.lock().session.take();
        if let Some(session) = session {
            session.end();
        }
    }

    /// One arc.
    fn arc(&self, handle: &DeviceHandle, now: u32, next: u32, limit: usize) -> Result<Option<Arc<DataFile>>, Error> {
        const GONE: Error = Error::Invalid("the migration driver is at work");
        match (now, next) {
            (STATE_RUNNING, STATE_STOP | STATE_RUNNING_P2P) => {
                self.state.lock().commanded = false;
                self.drive(handle, |driver, lent| driver.stop(&lent.cx())).ok_or(GONE)?.0?;
            }
            (STATE_STOP | STATE_RUNNING_P2P, STATE_RUNNING) => {
                let (result, asked) = self.drive(handle, |driver, lent| driver.resume(&lent.cx())).ok_or(GONE)?;
                result?;
                let mut state = self.state.lock();
                if let Some(on) = asked.filter(|_| !state.commanded) {
                    state.own.set_master(on);
                }
            }
            (STATE_STOP, STATE_STOP_COPY) => {
                let mut saved: Vec<u8> = Vec::new();
                let mut sink = |bytes: &[u8]| {
                    if bytes.len() > limit.saturating_sub(saved.len()) {
                        return Err(Error::Sink(Errno::ENOSPC.0.into()));
                    }
                    saved.try_reserve(bytes.len()).map_err(|_| Error::Sink(Errno::ENOMEM.0.into()))?;
                    saved.extend_from_slice(bytes);
                    Ok(())
                };
                self.drive(handle, |driver, lent| driver.save(&lent.cx(), &mut sink)).ok_or(GONE)?.0?;
                return Ok(Some(self.begin_session(DataFile::saved(saved))));
            }
            (STATE_STOP, STATE_RESUMING) => {
                self.drive(handle, |driver, lent| driver.begin_load(&lent.cx())).ok_or(GONE)?.0?;
                return Ok(Some(self.begin_session(DataFile::loading(limit))));
            }
            (STATE_RESUMING, STATE_STOP) => {
                let session = self.state.lock().session.clone();
                let data = session.as_ref().map(|session| session.take()).unwrap_or_default();
                let loaded = self.drive(handle, |driver, lent| driver.load(&lent.cx(), &data)).ok_or(GONE)?.0;
                if let Err(error) = loaded {
                    if let Some(session) = session {
                        session.put_back(data);
                    }
                    return Err(error);
                }
                self.end_session();
            }
            (STATE_STOP_COPY, STATE_STOP) => self.end_session(),
            // The driver's stop covers both; between them nothing is left to do.
            (STATE_RUNNING_P2P, STATE_STOP) | (STATE_STOP, STATE_RUNNING_P2P) => {}
            _ => return Err(Error::Unsupported("this arc of the migration states")),
        }
        Ok(None)
    }

    fn begin_session(&self, file: Arc<DataFile>) -> Arc<DataFile> {
        self.state.lock().session = Some(file.clone());
        file
    }
}
