//! Binding devices, and moving them to tables.

use crate::context::{Context, Held};
use crate::device::BoundDevice;
use crate::graph::Object;
use crate::group::Group;
use crate::hwpt::Hwpt;
use crate::{DeviceSpec, Requester};
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu_api::{Domain, DomainSpec};
use iommu_types::IovaRange;
use uapi::Errno;

/// A bound device. Dropping it blocks its streams (with the last device of the group), and unbinds it.
pub struct DeviceHandle {
    context: Arc<Context>,
    id: u32,
    device: Arc<BoundDevice>,
}

impl Context {
    /// Makes a device an object of this file. Dropping the handle detaches and unbinds it.
    ///
    /// # Errors
    /// `EBUSY` if the group belongs to another file, or to the kernel, or the device is bound; `EINVAL` for a device that firmware wants
    /// mapped one to one; `ENOMEM`.
    pub fn bind(self: &Arc<Self>, device: DeviceSpec) -> Result<DeviceHandle, Errno> {
        if let Some(direct) = device.reserved.iter().find(|reserved| reserved.direct) {
            log::warn!("iommufd: {} refused: firmware wants {:?} mapped ({})", device.name, direct.range, direct.why);
            return Err(Errno::EINVAL);
        }
        device.group.bind(self.serial, device.stream)?;
        let device = Arc::new(BoundDevice { spec: device });
        let mut graph = self.graph();
        match graph.reserve() {
            Ok(id) => {
                graph.publish(id, Object::Device(device.clone()));
                // The handle is a user: DESTROY of a bound device is EBUSY.
                graph.link(id);
                drop(graph);
                Ok(DeviceHandle { context: self.clone(), id, device })
            }
            Err(errno) => {
                drop(graph);
                device.spec.group.unbind(device.spec.stream);
                Err(errno)
            }
        }
    }

    /// The automatic tables of an address space, to try in turn.
    fn auto_tables(&self, ioas_id: u32) -> Result<Vec<u32>, Errno> {
        let graph = self.graph();
        let mut ids = Vec::new();
        for (id, object) in graph.iter() {
            if matches!(object, Object::Hwpt(hwpt) if hwpt.auto && hwpt.ioas_id == ioas_id) {
                ids.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                ids.push(id);
            }
        }
        Ok(ids)
    }
}

/// Reserves what each device cannot use. All or none.
fn reserve(hwpt: &Hwpt, devices: &[(u32, Arc<BoundDevice>)]) -> Result<(), Errno> {
    for (index, (id, device)) in devices.iter().enumerate() {
        let mut ranges: Vec<IovaRange> = Vec::new();
        let reserved = ranges.try_reserve_exact(device.spec.reserved.len()).map_err(|_| Errno::ENOMEM);
        let reserved = reserved.and_then(|()| {
            ranges.extend(device.spec.reserved.iter().map(|reserved| reserved.range));
            hwpt.ioas.reserve((*id).into(), &ranges)
        });
        if let Err(errno) = reserved {
            unreserve(hwpt, devices.get(..index).unwrap_or_default());
            return Err(errno);
        }
    }
    Ok(())
}

fn unreserve(hwpt: &Hwpt, devices: &[(u32, Arc<BoundDevice>)]) {
    for (id, _) in devices {
        hwpt.ioas.unreserve((*id).into());
    }
}

/// Blocks a stream; what cannot be blocked may go on walking `hwpt` for ever.
fn block(requester: &Requester, hwpt: &Hwpt) {
    if let Err(error) = requester.unit.block(requester.stream, None) {
        log::error!("iommufd: {} cannot be blocked: {error}", requester.stream);
        hwpt.set_lost();
    }
}

/// Moves every stream of a group from `old` to `new`, or none.
fn move_group(group: &Group, old: Option<&Hwpt>, new: &Hwpt) -> Result<(), Errno> {
    for (index, requester) in group.requesters().iter().enumerate() {
        let Err(errno) = new.take_stream(requester) else { continue };
        for moved in group.requesters().iter().take(index) {
            let back = old.map_or(Err(Errno::ENOENT), |old| old.take_stream(moved));
            if back.is_err() {
                block(moved, new);
            }
        }
        return Err(errno);
    }
    Ok(())
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
    fn group(&self) -> &Group {
        &self.device.spec.group
    }
    /// Is it attached?
    pub fn attached(&self) -> bool {
        self.group().with(|state| state.attached.contains(&self.id))
    }

    /// Attaches the device to a table, or to an address space by a table made for it; an attached device moves. Returns
    /// the id of the table.
    ///
    /// # Errors
    /// `ENOENT` no such id; `EINVAL` another kind of object, another device of the group is on another table, or the unit
    /// cannot use the table (a tracking table, and it cannot track); `EADDRINUSE` a mapping is where the device cannot
    /// reach; hardware errors. The device is where it was.
    pub fn attach(&self, pt_id: u32) -> Result<u32, Errno> {
        let _inside = self.group().enter()?;
        let held = self.context.hold(pt_id, |object| Some(object.clone()))?;
        match &*held {
            Object::Hwpt(hwpt) => self.attach_table(hwpt).map(|()| hwpt.id),
            Object::Device(_) => Err(Errno::EINVAL),
            Object::Ioas(ioas) => {
                for id in self.context.auto_tables(pt_id)? {
                    let Ok(hwpt) = self.context.hwpt(id) else { continue };
                    let hwpt: &Held<'_, Arc<Hwpt>> = &hwpt;
                    match self.attach_table(hwpt) {
                        Err(Errno::EINVAL) => continue,
                        other => return other.map(|()| id),
                    }
                }
                let unit = &self.device.spec.unit;
                let hwpt = self.context.build_hwpt(unit, pt_id, ioas, DomainSpec::default(), true)?;
                if let Err(errno) = self.attach_table(&hwpt) {
                    self.context.take_down_hwpt(hwpt);
                    return Err(errno);
                }
                let id = hwpt.id;
                self.context.graph().publish(id, Object::Hwpt(hwpt));
                Ok(id)
            }
        }
    }

    /// The devices of the group that are attached, and this one.
    fn movers(&self, attached: &[u32]) -> Result<Vec<(u32, Arc<BoundDevice>)>, Errno> {
        let mut all = Vec::new();
        all.try_reserve_exact(attached.len() + 1).map_err(|_| Errno::ENOMEM)?;
        for id in attached {
            all.push((*id, self.context.device(*id)?.clone()));
        }
        if !attached.contains(&self.id) {
            all.push((self.id, self.device.clone()));
        }
        Ok(all)
    }

    fn attach_table(&self, new: &Arc<Hwpt>) -> Result<(), Errno> {
        let group = self.group();
        let (old, attached) = group.with(|state| {
            let mut attached = Vec::new();
            attached.try_reserve_exact(state.attached.len()).map_err(|_| Errno::ENOMEM)?;
            attached.extend_from_slice(&state.attached);
            state.attached.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            Ok::<_, Errno>((state.hwpt.clone(), attached))
        })?;
        let was_attached = attached.contains(&self.id);
        match &old {
            Some(old) if Arc::ptr_eq(old, new) => {
                if was_attached {
                    return Ok(());
                }
                // The streams of the group are there already.
                reserve(new, &[(self.id, self.device.clone())])?;
            }
            Some(_) if !was_attached => return Err(Errno::EINVAL),
            _ => {
                let devices = self.movers(&attached)?;
                let same_space = old.as_ref().is_some_and(|old| Arc::ptr_eq(&old.ioas, &new.ioas));
                if !same_space {
                    reserve(new, &devices)?;
                }
                if let Err(errno) = move_group(group, old.as_deref(), new) {
                    if !same_space {
                        unreserve(new, &devices);
                    }
                    return Err(errno);
                }
                if let Some(old) = old.as_ref().filter(|_| !same_space) {
                    unreserve(old, &devices);
                }
            }
        }
        group.with(|state| {
            state.hwpt = Some(new.clone());
            if !was_attached {
                state.attached.push(self.id);
            }
        });
        let replaced = old.filter(|old| !Arc::ptr_eq(old, new));
        {
            let mut graph = self.context.graph();
            if let Some(old) = &replaced {
                for _ in &attached {
                    graph.unlink(old.id);
                    graph.link(new.id);
                }
            }
            if !was_attached {
                graph.link(new.id);
                graph.link(self.id);
            }
        }
        if let Some(old) = replaced.filter(|old| old.auto) {
            self.context.destroy_if_unused(old.id);
        }
        Ok(())
    }

    /// Takes the device off its table; its streams are blocked when no device of the group is left there. Nothing happens
    /// to a device that is not attached. A stream that hardware does not block keeps its table, and every pin, for ever.
    ///
    /// # Errors
    /// [`Errno::ERESTART`] while the group is changing.
    pub fn detach(&self) -> Result<(), Errno> {
        let _inside = self.group().enter()?;
        self.detach_inside();
        Ok(())
    }

    fn detach_inside(&self) {
        let group = self.group();
        let hwpt = group.with(|state| {
            let at = state.attached.iter().position(|id| *id == self.id)?;
            state.attached.swap_remove(at);
            if state.attached.is_empty() { state.hwpt.take() } else { state.hwpt.clone() }
        });
        let Some(hwpt) = hwpt else { return };
        if group.with(|state| state.hwpt.is_none()) {
            for requester in group.requesters() {
                block(requester, &hwpt);
            }
        }
        hwpt.ioas.unreserve(self.id.into());
        {
            let mut graph = self.context.graph();
            graph.unlink(hwpt.id);
            graph.unlink(self.id);
        }
        let (id, auto) = (hwpt.id, hwpt.auto);
        drop(hwpt);
        if auto {
            self.context.destroy_if_unused(id);
        }
    }

    /// Moves the device's own stream to `domain` while `f` runs, and back to where it was (its table, or blocked).
    /// The device must be quiet at both moments.
    ///
    /// # Errors
    /// What the unit returned; `f` has run if the way back failed, and the stream is blocked then, or lost: the domain and
    /// what it maps must then be kept for ever ([`iommu_types::Error::Lost`]).
    pub fn with_private_domain(&self, domain: &Arc<dyn Domain>, f: &mut dyn FnMut()) -> Result<(), iommu_types::Error> {
        let spec = &self.device.spec;
        let _inside = self.group().wait();
        let home = self.group().with(|state| state.hwpt.clone());
        spec.unit.attach(spec.stream, None, domain)?;
        f();
        let back = match &home {
            Some(hwpt) => spec.unit.attach(spec.stream, None, &hwpt.domain),
            None => spec.unit.block(spec.stream, None),
        };
        let Err(error) = back else { return Ok(()) };
        log::error!("iommufd: {} did not come back from its private domain: {error}", spec.stream);
        match spec.unit.block(spec.stream, None) {
            Ok(()) => Err(error),
            Err(_) => Err(iommu_types::Error::Lost(spec.stream)),
        }
    }
}

impl Drop for DeviceHandle {
    fn drop(&mut self) {
        {
            let _inside = self.group().wait();
            self.detach_inside();
        }
        let spec = &self.device.spec;
        spec.group.unbind(spec.stream);
        let mut graph = self.context.graph();
        graph.unlink(self.id);
        graph.retire(self.id);
    }
}
