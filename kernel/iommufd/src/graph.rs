//! Objects by id, and who uses whom.
//!
//! Ids are the lowest free from 1 up; 0 never exists. A slot counts its users: edges of the graph, and calls that work
//! on the object now. An object goes only when nobody uses it. A slot without an object is reserved: its object is being
//! built or taken down, and look-ups do not see it.

use crate::device::BoundDevice;
use crate::hwpt::Hwpt;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bitvec::prelude::{BitArray, Lsb0};
use ioas::Ioas;
use uapi::Errno;

/// The most objects of one file; bounds what a program can take of the kernel's heap.
pub(crate) const LIMIT: usize = 4096;
const WORDS: usize = LIMIT / 64;

#[derive(Clone)]
pub(crate) enum Object {
    Ioas(Arc<Ioas>),
    Hwpt(Arc<Hwpt>),
    Device(Arc<BoundDevice>),
}

#[derive(Default)]
struct Slot {
    object: Option<Object>,
    users: u32,
    /// Its object is gone; the id goes with the last user.
    retired: bool,
}

pub(crate) struct Graph {
    used: BitArray<[u64; WORDS], Lsb0>,
    /// By id - 1; as long as the highest id ever used.
    slots: Vec<Slot>,
    /// The address space of type1 calls; 0 for none.
    pub vfio_ioas: u32,
    /// Charge the process, not the user (OPTION RLIMIT_MODE).
    pub charge_process: bool,
}

impl Graph {
    pub const fn new() -> Self {
        Self { used: BitArray::ZERO, slots: Vec::new(), vfio_ioas: 0, charge_process: false }
    }
    pub fn is_empty(&self) -> bool {
        self.used.not_any()
    }
    /// Takes the lowest free id; look-ups do not see it yet.
    pub fn reserve(&mut self) -> Result<u32, Errno> {
        let index = self.used.first_zero().ok_or(Errno::ENOMEM)?;
        if index >= self.slots.len() {
            self.slots.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            self.slots.push(Slot::default());
        }
        self.used.set(index, true);
        Ok(index as u32 + 1)
    }
    fn slot(&mut self, id: u32) -> Option<&mut Slot> {
        self.slots.get_mut((id as usize).checked_sub(1)?)
    }
    /// Makes a reserved id visible.
    pub fn publish(&mut self, id: u32, object: Object) {
        if let Some(slot) = self.slot(id) {
            slot.object = Some(object);
        }
    }
    /// Gives a reserved id back.
    pub fn free(&mut self, id: u32) {
        if let Some(slot) = self.slot(id) {
            *slot = Slot::default();
            self.used.set(id as usize - 1, false);
        }
    }
    pub fn get(&mut self, id: u32) -> Result<Object, Errno> {
        self.slot(id).and_then(|slot| slot.object.clone()).ok_or(Errno::ENOENT)
    }
    /// One user more; the id may be reserved only.
    pub fn link(&mut self, id: u32) {
        if let Some(slot) = self.slot(id) {
            slot.users += 1;
        }
    }
    pub fn unlink(&mut self, id: u32) {
        let Some(slot) = self.slot(id) else { return };
        slot.users = slot.users.saturating_sub(1);
        if slot.users == 0 && slot.retired {
            self.free(id);
        }
    }
    /// Takes an object out while calls may still look at it: nobody finds it again, its id is free when they are done.
    pub fn retire(&mut self, id: u32) {
        let Some(slot) = self.slot(id) else { return };
        slot.object = None;
        slot.retired = true;
        if slot.users == 0 {
            self.free(id);
        }
    }
    /// Takes an unused object out; its id stays reserved until [`free`](Self::free).
    pub fn take(&mut self, id: u32) -> Result<Object, Errno> {
        let slot = self.slot(id).ok_or(Errno::ENOENT)?;
        if slot.object.is_none() {
            return Err(Errno::ENOENT);
        }
        if slot.users > 0 {
            return Err(Errno::EBUSY);
        }
        let object = slot.object.take().ok_or(Errno::ENOENT)?;
        if self.vfio_ioas == id {
            self.vfio_ioas = 0;
        }
        Ok(object)
    }
    /// Ids and objects, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Object)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| Some((index as u32 + 1, slot.object.as_ref()?)))
    }
    /// An object that nobody uses, if there is one.
    pub fn any_leaf(&self) -> Option<u32> {
        let index = self.slots.iter().position(|slot| slot.object.is_some() && slot.users == 0)?;
        Some(index as u32 + 1)
    }
}
