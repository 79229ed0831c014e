//! GET_HW_INFO and EXPLAIN: what a unit can do, and why something is as it is.

use crate::Caller;
use crate::context::Context;
use crate::graph::Object;
use alloc::string::String;
use core::fmt::Write;
use iommu_api::IommuUnit;
use iommu_types::{DirtyRule, TableKind};
use uapi::extension::Explain;
use uapi::iommufd::{
    GetHwInfo, HW_CAP_DIRTY_TRACKING, HW_INFO_FLAG_INPUT_TYPE, HW_INFO_TYPE_INTEL_VTD, HW_INFO_TYPE_NONE, HwInfoVtd,
};
use uapi::{Errno, Request, UserMem};
use zerocopy::IntoBytes;

/// Writes zeros to `left` bytes at `at`.
fn clear(caller: &dyn Caller, mut at: u64, mut left: u64) -> Result<(), Errno> {
    let zeros = [0; 256];
    while left > 0 {
        let take = left.min(zeros.len() as u64);
        caller.copy_out(at, zeros.get(..take as usize).unwrap_or(&zeros))?;
        at = at.checked_add(take).ok_or(Errno::EFAULT)?;
        left -= take;
    }
    Ok(())
}

fn is_vtd(unit: &dyn IommuUnit) -> bool {
    matches!(unit.features().table, TableKind::VtdSecondStage | TableKind::X86FirstStage)
}

impl Context {
    /// GET_HW_INFO.
    pub(crate) fn get_hw_info(&self, mut request: Request<GetHwInfo>, caller: &dyn Caller) -> Result<i64, Errno> {
        let body = request.body;
        if body.flags & !HW_INFO_FLAG_INPUT_TYPE != 0 || body.reserved != [0; 3] {
            return Err(Errno::EOPNOTSUPP);
        }
        let device = self.device(body.dev_id)?;
        let unit = &*device.spec.unit;
        let wanted = if body.flags & HW_INFO_FLAG_INPUT_TYPE != 0 { body.data_type } else { HW_INFO_TYPE_NONE };
        let [cap_reg, ecap_reg] = unit.raw_capabilities();
        let vtd = HwInfoVtd { flags: 0, reserved: 0, cap_reg, ecap_reg };
        let (kind, data) =
            if is_vtd(unit) { (HW_INFO_TYPE_INTEL_VTD, vtd.as_bytes()) } else { (HW_INFO_TYPE_NONE, &[][..]) };
        if wanted != HW_INFO_TYPE_NONE && wanted != kind {
            return Err(Errno::EOPNOTSUPP);
        }
        let room = body.data_len as usize;
        if room > 0 {
            let known = data.get(..room.min(data.len())).unwrap_or(data);
            caller.copy_out(body.data_uptr, known)?;
            let rest = body.data_uptr.checked_add(known.len() as u64).ok_or(Errno::EFAULT)?;
            clear(caller, rest, (room - known.len()) as u64)?;
        }
        request.body.data_len = data.len() as u32;
        request.body.data_type = kind;
        request.body.out_max_pasid_log2 = 0;
        let tracks = unit.features().dirty != DirtyRule::None;
        request.body.out_capabilities = if tracks { HW_CAP_DIRTY_TRACKING } else { 0 };
        request.reply(caller as &dyn UserMem)?;
        Ok(0)
    }

    /// EXPLAIN.
    pub(crate) fn explain(&self, mut request: Request<Explain>, caller: &dyn Caller) -> Result<i64, Errno> {
        let body = request.body;
        if body.flags != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let object = self.hold(body.id, |object| Some(object.clone()))?;
        let text = describe(&object);
        let bytes = text.as_bytes();
        let fits = bytes.get(..bytes.len().min(body.data_len as usize)).unwrap_or(bytes);
        if !fits.is_empty() {
            caller.copy_out(body.data_uptr, fits)?;
        }
        request.body.data_len = bytes.len() as u32;
        request.reply(caller as &dyn UserMem)?;
        Ok(0)
    }
}

/// Lines for people. Writing to a `String` cannot fail.
fn describe(object: &Object) -> String {
    let mut text = String::new();
    match object {
        Object::Ioas(ioas) => {
            let (areas, domains) = ioas.counts();
            let _ = writeln!(text, "address space: {areas} areas, {domains} domains, alignment {}", ioas.alignment());
            for range in ioas.usable().unwrap_or_default() {
                let _ = writeln!(text, "usable {range:?}");
            }
        }
        Object::Hwpt(hwpt) => {
            let made = if hwpt.auto { "made by an attach" } else { "made by HWPT_ALLOC" };
            let info = hwpt.domain.info();
            let _ = writeln!(text, "table on {} of address space {}, {made}", hwpt.unit.name(), hwpt.ioas_id);
            let _ = writeln!(text, "{:?}, aperture {:?}, dirty {:?}", info.table, info.aperture, info.dirty);
        }
        Object::Device(device) => {
            let spec = &device.spec;
            let features = spec.unit.features();
            let _ = writeln!(text, "{} behind {}: {}", spec.name, spec.unit.name(), spec.unit.status());
            let _ = writeln!(text, "group {}: {}", spec.group.id(), spec.group.why());
            for reserved in &spec.reserved {
                let _ = writeln!(text, "reserved {:?}: {}", reserved.range, reserved.why);
            }
            if features.dirty == DirtyRule::None {
                let _ = writeln!(text, "no dirty tracking: missing {}", features.dirty_missing);
            }
        }
    }
    text
}
