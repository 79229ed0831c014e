//! The IOAS commands.

use crate::context::Context;
use crate::graph::Object;
use crate::{AccountMode, Caller};
use alloc::sync::Arc;
use alloc::vec::Vec;
use ioas::{Account, Ioas, PageSource, Place};
use iommu_types::{Access, IovaRange};
use uapi::iommufd::{self as abi, MAP_FIXED_IOVA, MAP_READABLE, MAP_WRITEABLE};
use uapi::{Errno, Request, UserMem, read_plain};
use zerocopy::IntoBytes;

/// The most ranges of an allow list; bounds what a program can take of the kernel's heap.
const ALLOW_LIMIT: usize = 65536;

/// Flags of MAP and COPY.
fn access(flags: u32) -> Result<(Access, bool), Errno> {
    let mut access = Access::empty();
    access.set(Access::READ, flags & MAP_READABLE != 0);
    access.set(Access::WRITE, flags & MAP_WRITEABLE != 0);
    if access.is_empty() { Err(Errno::EINVAL) } else { Ok((access, flags & MAP_FIXED_IOVA != 0)) }
}

const KNOWN: u32 = MAP_FIXED_IOVA | MAP_WRITEABLE | MAP_READABLE;

fn place(fixed: bool, iova: u64) -> Place {
    if fixed { Place::Fixed(iova) } else { Place::Anywhere }
}

impl Context {
    fn account(&self, caller: &dyn Caller) -> Arc<dyn Account> {
        let process = self.graph().charge_process;
        caller.account(if process { AccountMode::Process } else { AccountMode::User })
    }

    /// IOAS_ALLOC.
    pub(crate) fn ioas_alloc(&self, mut request: Request<abi::IoasAlloc>, caller: &dyn Caller) -> Result<i64, Errno> {
        if request.body.flags != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let id = self.graph().reserve()?;
        request.body.out_ioas_id = id;
        if let Err(errno) = request.reply(caller as &dyn UserMem) {
            self.graph().free(id);
            return Err(errno);
        }
        self.graph().publish(id, Object::Ioas(Arc::new(Ioas::new())));
        Ok(0)
    }

    /// IOAS_ALLOW_IOVAS.
    pub(crate) fn allow_iovas(
        &self,
        request: &Request<abi::IoasAllowIovas>,
        caller: &dyn Caller,
    ) -> Result<i64, Errno> {
        let body = request.body;
        if body.reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let ioas = self.ioas(body.ioas_id)?;
        let mut ranges: Vec<IovaRange> = Vec::new();
        for index in 0..u64::from(body.num_iovas) {
            let at = body.allowed_iovas.checked_add(index * 16).ok_or(Errno::EFAULT)?;
            let given: abi::IovaRange = read_plain(caller as &dyn UserMem, at)?;
            let range = IovaRange::new(given.start, given.last).filter(|_| given.start < given.last);
            let range = range.ok_or(Errno::EINVAL)?;
            let at = ranges.partition_point(|other| other.last() < range.first());
            if ranges.get(at).is_some_and(|other| other.overlaps(&range)) {
                return Err(Errno::EINVAL);
            }
            if ranges.len() >= ALLOW_LIMIT {
                return Err(Errno::ENOMEM);
            }
            ranges.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            ranges.insert(at, range);
        }
        ioas.allow(ranges)?;
        Ok(0)
    }

    /// IOAS_IOVA_RANGES.
    pub(crate) fn iova_ranges(
        &self,
        mut request: Request<abi::IoasIovaRanges>,
        caller: &dyn Caller,
    ) -> Result<i64, Errno> {
        let body = request.body;
        if body.reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let ioas = self.ioas(body.ioas_id)?;
        let ranges = ioas.usable()?;
        for (index, range) in ranges.iter().enumerate().take(body.num_iovas as usize) {
            let at = body.allowed_iovas.checked_add(index as u64 * 16).ok_or(Errno::EFAULT)?;
            caller.copy_out(at, abi::IovaRange { start: range.first(), last: range.last() }.as_bytes())?;
        }
        request.body.num_iovas = ranges.len() as u32;
        request.body.out_iova_alignment = ioas.alignment();
        request.reply(caller as &dyn UserMem)?;
        if ranges.len() > body.num_iovas as usize { Err(Errno::EMSGSIZE) } else { Ok(0) }
    }

    /// IOAS_MAP.
    pub(crate) fn ioas_map(&self, mut request: Request<abi::IoasMap>, caller: &dyn Caller) -> Result<i64, Errno> {
        let body = request.body;
        if body.flags & !KNOWN != 0 || body.reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if body.iova == u64::MAX || body.length == u64::MAX {
            return Err(Errno::EOVERFLOW);
        }
        let (access, fixed) = access(body.flags)?;
        let ioas = self.ioas(body.ioas_id)?;
        let account = self.account(caller);
        let place = place(fixed, body.iova);
        request.body.iova = ioas.map(caller.page_source(), account, body.user_va, body.length, place, access)?;
        // The mapping stays if the reply faults, as on Linux.
        request.reply(caller as &dyn UserMem)?;
        Ok(0)
    }

    /// IOAS_MAP_FILE.
    pub(crate) fn ioas_map_file(
        &self,
        mut request: Request<abi::IoasMapFile>,
        caller: &dyn Caller,
    ) -> Result<i64, Errno> {
        let body = request.body;
        if body.flags & !KNOWN != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if body.iova == u64::MAX || body.length == u64::MAX {
            return Err(Errno::EOVERFLOW);
        }
        let (access, fixed) = access(body.flags)?;
        let ioas = self.ioas(body.ioas_id)?;
        let last = body.length.checked_sub(1).ok_or(Errno::EINVAL)?;
        body.start.checked_add(last).ok_or(Errno::EOVERFLOW)?;
        let source: Arc<dyn PageSource> = caller.file_source(body.fd)?;
        let (account, place) = (self.account(caller), place(fixed, body.iova));
        request.body.iova = ioas.map(source, account, body.start, body.length, place, access)?;
        request.reply(caller as &dyn UserMem)?;
        Ok(0)
    }

    /// IOAS_COPY.
    pub(crate) fn ioas_copy(&self, mut request: Request<abi::IoasCopy>, caller: &dyn Caller) -> Result<i64, Errno> {
        let body = request.body;
        if body.flags & !KNOWN != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if body.length == u64::MAX || body.src_iova == u64::MAX || body.dst_iova == u64::MAX {
            return Err(Errno::EOVERFLOW);
        }
        let (access, fixed) = access(body.flags)?;
        let slices = {
            let source = self.ioas(body.src_ioas_id)?;
            let last = body.length.checked_sub(1).ok_or(Errno::EINVAL)?;
            let last = body.src_iova.checked_add(last).ok_or(Errno::EOVERFLOW)?;
            source.slices(IovaRange::new(body.src_iova, last).ok_or(Errno::EOVERFLOW)?)?
        };
        let target = self.ioas(body.dst_ioas_id)?;
        request.body.dst_iova = target.map_slices(&slices, place(fixed, body.dst_iova), access)?;
        request.reply(caller as &dyn UserMem)?;
        Ok(0)
    }

    /// IOAS_UNMAP.
    pub(crate) fn ioas_unmap(&self, mut request: Request<abi::IoasUnmap>, caller: &dyn Caller) -> Result<i64, Errno> {
        let body = request.body;
        let ioas = self.ioas(body.ioas_id)?;
        request.body.length = if body.iova == 0 && body.length == u64::MAX {
            ioas.unmap_all()?
        } else {
            ioas.unmap(asked(body.iova, body.length)?)?
        };
        request.reply(caller as &dyn UserMem)?;
        Ok(0)
    }

    /// VFIO_IOAS.
    pub(crate) fn vfio_ioas(&self, mut request: Request<abi::VfioIoas>, caller: &dyn Caller) -> Result<i64, Errno> {
        if request.body.reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        match request.body.op {
            abi::VFIO_IOAS_GET => {
                let id = self.graph().vfio_ioas;
                if id == 0 {
                    return Err(Errno::ENODEV);
                }
                request.body.ioas_id = id;
                request.reply(caller as &dyn UserMem)?;
            }
            abi::VFIO_IOAS_SET => {
                let mut graph = self.graph();
                let Object::Ioas(_) = graph.get(request.body.ioas_id)? else { return Err(Errno::ENOENT) };
                graph.vfio_ioas = request.body.ioas_id;
            }
            abi::VFIO_IOAS_CLEAR => self.graph().vfio_ioas = 0,
            _ => return Err(Errno::EOPNOTSUPP),
        }
        Ok(0)
    }

    /// IOAS_CHANGE_PROCESS: charges of mappings of program memory cannot move, and file mappings are charged the same way
    /// here.
    pub(crate) fn change_process(&self, request: &Request<abi::IoasChangeProcess>) -> Result<i64, Errno> {
        if request.body.reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let mapped = self.graph().iter().any(|(_, object)| matches!(object, Object::Ioas(ioas) if ioas.counts().0 > 0));
        if mapped { Err(Errno::EINVAL) } else { Ok(0) }
    }
}

/// A range as UNMAP takes it.
pub(crate) fn asked(iova: u64, length: u64) -> Result<IovaRange, Errno> {
    if iova == u64::MAX || length == u64::MAX {
        return Err(Errno::EOVERFLOW);
    }
    let last = length.checked_sub(1).ok_or(Errno::EINVAL)?;
    let last = iova.checked_add(last).ok_or(Errno::EOVERFLOW)?;
    IovaRange::new(iova, last).ok_or(Errno::EOVERFLOW)
}
