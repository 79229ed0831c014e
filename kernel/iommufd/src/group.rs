//! Devices that hardware cannot keep apart move together: one owner, one table.
//!
//! Moving streams waits for hardware, so it is not done under the lock: the group is marked busy, and who meets the mark
//! has its call run again ([`Errno::ERESTART`]) or, when it cannot fail (close), waits for the bounded work inside.

use crate::hwpt::Hwpt;
use crate::{GroupSpec, Requester};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu_types::StreamId;
use spin::Mutex;
use uapi::Errno;

pub(crate) struct State {
    /// Serial of the owning file; 0 for none.
    owner: u64,
    /// Streams of the devices bound.
    bound: Vec<StreamId>,
    busy: bool,
    pub hwpt: Option<Arc<Hwpt>>,
    /// Object ids of the devices attached.
    pub attached: Vec<u32>,
}

/// A group and who owns it.
pub struct Group {
    spec: GroupSpec,
    /// What the kernel itself drives in it: no program owns such a group.
    kept: Option<String>,
    state: Mutex<State>,
}

/// Nobody else changes the group until this is dropped.
pub(crate) struct Inside<'a>(&'a Group);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.state.lock().busy = false;
    }
}

impl Group {
    /// A group that nobody owns; its streams are blocked.
    pub fn new(spec: GroupSpec) -> Arc<Self> {
        let state = State { owner: 0, bound: Vec::new(), busy: false, hwpt: None, attached: Vec::new() };
        Arc::new(Self { spec, kept: None, state: Mutex::new(state) })
    }
    /// A group in which the kernel drives a device of its own, named by `device`: an attach would move that device's
    /// stream as well, so every bind is `EBUSY` (as on Linux where a group has another driver).
    pub fn kept(spec: GroupSpec, device: String) -> Arc<Self> {
        let state = State { owner: 0, bound: Vec::new(), busy: false, hwpt: None, attached: Vec::new() };
        Arc::new(Self { spec, kept: Some(device), state: Mutex::new(state) })
    }
    /// Its number.
    pub fn id(&self) -> u32 {
        self.spec.id
    }
    /// Why its members belong together, in words.
    pub fn why(&self) -> &str {
        &self.spec.why
    }
    /// Every stream of it.
    pub fn requesters(&self) -> &[Requester] {
        &self.spec.requesters
    }

    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock())
    }

    pub(crate) fn enter(&self) -> Result<Inside<'_>, Errno> {
        self.with(|state| {
            if state.busy {
                return Err(Errno::ERESTART);
            }
            state.busy = true;
            Ok(Inside(self))
        })
    }
    /// For paths that cannot fail.
    pub(crate) fn wait(&self) -> Inside<'_> {
        loop {
            if let Ok(inside) = self.enter() {
                return inside;
            }
            core::hint::spin_loop();
        }
    }

    /// Makes the file `serial` the owner, or finds that it is.
    pub(crate) fn bind(&self, serial: u64, stream: StreamId) -> Result<(), Errno> {
        if let Some(device) = &self.kept {
            log::warn!("iommufd: {stream} refused: the kernel itself uses {device} of its group");
            return Err(Errno::EBUSY);
        }
        self.with(|state| {
            if state.owner != 0 && state.owner != serial || state.bound.contains(&stream) {
                return Err(Errno::EBUSY);
            }
            state.bound.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            state.bound.push(stream);
            state.owner = serial;
            Ok(())
        })
    }
    pub(crate) fn unbind(&self, stream: StreamId) {
        self.with(|state| {
            state.bound.retain(|bound| *bound != stream);
            if state.bound.is_empty() {
                state.owner = 0;
            }
        });
    }
}
