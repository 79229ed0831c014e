//! OPTION.

use crate::context::Context;
use crate::{Caller, Capability};
use uapi::iommufd::{OPTION_HUGE_PAGES, OPTION_OP_GET, OPTION_OP_SET, OPTION_RLIMIT_MODE, OptionCmd};
use uapi::{Errno, Request};

/// Where `val64` is; only it is written back.
const VAL64: usize = 16;

impl Context {
    pub(crate) fn option(&self, request: Request<OptionCmd>, caller: &dyn Caller) -> Result<i64, Errno> {
        let body = request.body;
        if body.reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let value = match body.option_id {
            OPTION_RLIMIT_MODE => self.rlimit_mode(&body, caller)?,
            OPTION_HUGE_PAGES => self.huge_pages(&body)?,
            _ => return Err(Errno::EOPNOTSUPP),
        };
        caller.copy_out(request.field(VAL64), &value.to_le_bytes())?;
        Ok(0)
    }

    /// 0: pins count against the user's limit; 1: against the process's.
    fn rlimit_mode(&self, body: &OptionCmd, caller: &dyn Caller) -> Result<u64, Errno> {
        if body.object_id != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        match body.op {
            OPTION_OP_GET => Ok(self.graph().charge_process.into()),
            OPTION_OP_SET => {
                if !caller.capable(Capability::SysResource) {
                    return Err(Errno::EPERM);
                }
                let mut graph = self.graph();
                if !graph.is_empty() {
                    return Err(Errno::EBUSY);
                }
                if body.val64 > 1 {
                    return Err(Errno::EINVAL);
                }
                graph.charge_process = body.val64 == 1;
                Ok(body.val64)
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    /// 1: large leaves allowed; 0: 4 KiB only.
    fn huge_pages(&self, body: &OptionCmd) -> Result<u64, Errno> {
        let ioas = self.ioas(body.object_id)?;
        match body.op {
            OPTION_OP_GET => Ok(ioas.huge().into()),
            OPTION_OP_SET => {
                let huge = match body.val64 {
                    0 => false,
                    1 => true,
                    _ => return Err(Errno::EINVAL),
                };
                ioas.set_huge(huge)?;
                Ok(body.val64)
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}
