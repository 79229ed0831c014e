//! Hardware page tables: a domain filled with an address space.

use crate::context::Context;
use crate::device::BoundDevice;
use crate::graph::Object;
use crate::{Caller, Requester};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use ioas::Ioas;
use iommu_api::{Domain, DomainSpec, IommuUnit};
use iommu_types::DirtyRule;
use uapi::iommufd::{
    DIRTY_TRACKING_ENABLE, HWPT_DATA_NONE, HWPT_DIRTY_TRACKING, HWPT_FAULT_ID_VALID, HWPT_NEST_PARENT, HWPT_PASID,
    HwptAlloc, HwptInvalidate, HwptSetDirtyTracking,
};
use uapi::{Errno, Request, UserMem};

/// A paging domain of one address space.
pub(crate) struct Hwpt {
    pub id: u32,
    pub ioas_id: u32,
    pub ioas: Arc<Ioas>,
    pub domain: Arc<dyn Domain>,
    pub unit: Arc<dyn IommuUnit>,
    /// Made by an attach to the address space; goes with its last device.
    pub auto: bool,
    /// Writes are being tracked.
    pub tracking: AtomicBool,
    /// A stream could not be moved away: hardware may walk the table for ever.
    lost: AtomicBool,
}

impl Hwpt {
    /// Can it track writes?
    pub fn tracks(&self) -> bool {
        self.domain.info().dirty != DirtyRule::None
    }
    /// Hardware may go on walking the table: it is never freed.
    pub fn set_lost(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }
    /// Moves a stream here.
    pub fn take_stream(&self, requester: &Requester) -> Result<(), Errno> {
        if self.tracks() && requester.unit.features().dirty == DirtyRule::None {
            let missing = requester.unit.features().dirty_missing;
            log::warn!("iommufd: {} cannot move to a tracking table: {missing}", requester.stream);
            return Err(Errno::EINVAL);
        }
        requester.unit.attach(requester.stream, None, &self.domain).map_err(|error| {
            log::warn!("iommufd: attach of {}: {error}", requester.stream);
            error.into()
        })
    }
}

impl Context {
    /// Makes a table and fills it. Its id is reserved, not visible: publish or take it down.
    pub(crate) fn build_hwpt(
        &self,
        unit: &Arc<dyn IommuUnit>,
        ioas_id: u32,
        ioas: &Arc<Ioas>,
        spec: DomainSpec,
        auto: bool,
    ) -> Result<Arc<Hwpt>, Errno> {
        let id = self.graph().reserve()?;
        let built = unit.make_domain(spec).map_err(|error| {
            log::warn!("iommufd: {}: no domain: {error}", unit.name());
            Errno::from(error)
        });
        let built = built.and_then(|domain| ioas.attach_domain(id.into(), domain.clone()).map(|()| domain));
        let domain = match built {
            Ok(domain) => domain,
            Err(errno) => {
                self.graph().free(id);
                return Err(errno);
            }
        };
        self.graph().link(ioas_id);
        let (ioas, unit) = (ioas.clone(), unit.clone());
        let (tracking, lost) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Arc::new(Hwpt { id, ioas_id, ioas, domain, unit, auto, tracking, lost }))
    }

    /// Empties a table that nobody uses and frees its id, which must be reserved.
    pub(crate) fn take_down_hwpt(&self, hwpt: Arc<Hwpt>) {
        if hwpt.lost.load(Ordering::Relaxed) {
            log::error!("iommufd: table {} stays for ever: hardware may still walk it", hwpt.id);
            self.graph().unlink(hwpt.ioas_id);
            // Its address space and every pin stay with it, and its id: the address space knows the domain by it.
            core::mem::forget(hwpt);
            return;
        }
        hwpt.ioas.detach_domain(hwpt.id.into());
        let mut graph = self.graph();
        graph.unlink(hwpt.ioas_id);
        graph.free(hwpt.id);
    }

    /// HWPT_ALLOC.
    pub(crate) fn hwpt_alloc(&self, mut request: Request<HwptAlloc>, caller: &dyn Caller) -> Result<i64, Errno> {
        const KNOWN: u32 = HWPT_NEST_PARENT | HWPT_DIRTY_TRACKING | HWPT_FAULT_ID_VALID | HWPT_PASID;
        let body = request.body;
        if body.reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if (body.data_type == HWPT_DATA_NONE) != (body.data_len == 0) {
            return Err(Errno::EINVAL);
        }
        let device = self.device(body.dev_id)?;
        let device: &Arc<BoundDevice> = &device;
        let parent = self.hold(body.pt_id, |object| Some(object.clone())).map_err(|_| Errno::EINVAL)?;
        let ioas = match &*parent {
            Object::Ioas(ioas) => ioas,
            // No driver here nests.
            Object::Hwpt(_) => return Err(Errno::EOPNOTSUPP),
            Object::Device(_) => return Err(Errno::EINVAL),
        };
        // Nesting, fault queues and PASID are not built; vendor data only describes nested tables.
        if body.flags & !KNOWN != 0 || body.flags & !HWPT_DIRTY_TRACKING != 0 || body.data_type != HWPT_DATA_NONE {
            return Err(Errno::EOPNOTSUPP);
        }
        let tracking = body.flags & HWPT_DIRTY_TRACKING != 0;
        let unit = &device.spec.unit;
        if tracking && unit.features().dirty == DirtyRule::None {
            log::info!("iommufd: {}: no dirty tracking: {}", unit.name(), unit.features().dirty_missing);
            return Err(Errno::EOPNOTSUPP);
        }
        let spec = DomainSpec { dirty_tracking: tracking, nest_parent: false };
        let hwpt = self.build_hwpt(unit, body.pt_id, ioas, spec, false)?;
        request.body.out_hwpt_id = hwpt.id;
        if let Err(errno) = request.reply(caller as &dyn UserMem) {
            self.take_down_hwpt(hwpt);
            return Err(errno);
        }
        self.graph().publish(hwpt.id, Object::Hwpt(hwpt));
        Ok(0)
    }

    /// HWPT_SET_DIRTY_TRACKING.
    pub(crate) fn set_dirty_tracking(&self, request: &Request<HwptSetDirtyTracking>) -> Result<i64, Errno> {
        if request.body.flags & !DIRTY_TRACKING_ENABLE != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let hwpt = self.hwpt(request.body.hwpt_id)?;
        if !hwpt.tracks() {
            return Err(Errno::EOPNOTSUPP);
        }
        let _inside = hwpt.ioas.share()?;
        let on = request.body.flags & DIRTY_TRACKING_ENABLE != 0;
        // Off before it is off: a report in between counts everything rather than nothing.
        if !on {
            hwpt.tracking.store(false, Ordering::Release);
        }
        match hwpt.domain.set_tracking(on) {
            Ok(()) => {
                hwpt.tracking.store(on, Ordering::Release);
                Ok(0)
            }
            Err(error) => {
                log::error!("iommufd: tracking of table {}: {error}", hwpt.id);
                Err(error.into())
            }
        }
    }

    /// HWPT_INVALIDATE: there are no nested tables here, so no id is right. The reply says that nothing was done.
    pub(crate) fn invalidate(&self, mut request: Request<HwptInvalidate>, caller: &dyn Caller) -> Result<i64, Errno> {
        let body = request.body;
        let bad_entries = body.entry_num > 0
            && (body.data_uptr == 0 || body.entry_len == 0 || body.entry_len > 4096 || body.entry_num > 1 << 19);
        let errno = if body.reserved != 0 {
            Errno::EOPNOTSUPP
        } else if bad_entries {
            Errno::EINVAL
        } else if self.graph().get(body.hwpt_id).is_err() {
            Errno::ENOENT
        } else {
            Errno::EINVAL
        };
        request.body.entry_num = 0;
        request.reply(caller as &dyn UserMem)?;
        Err(errno)
    }
}
