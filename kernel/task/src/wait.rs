//! wait4(2) and waitid(2).

use crate::{Kernel, Process, Status, WaitOn};
use core::sync::atomic::Ordering;
use uapi::Errno;

/// Which child is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitFor {
    /// Any.
    Any,
    /// This one.
    Pid(u32),
    /// Any of a process group.
    Group(u32),
}

/// A child that ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waited {
    /// Its pid.
    pub pid: u32,
    /// How.
    pub status: Status,
    /// CPU time, nanoseconds.
    pub time: u64,
}

impl Kernel {
    /// A child that ended, or what to wait for. With `keep` it stays a zombie.
    ///
    /// # Errors
    /// `ECHILD` if there is no such child.
    pub fn wait(&self, process: &Process, which: WaitFor, keep: bool) -> Result<Result<Waited, WaitOn>, Errno> {
        let ticket = process.children.ticket();
        let mut any = false;
        for child in self.processes().into_iter().filter(|child| child.parent() == process.pid) {
            let wanted = match which {
                WaitFor::Any => true,
                WaitFor::Pid(pid) => child.pid == pid,
                WaitFor::Group(group) => child.group() == group,
            };
            if !wanted {
                continue;
            }
            any = true;
            if let Some(status) = child.ended() {
                let (own, children) = child.times();
                if !keep {
                    process.state.lock().children_time += own + children;
                    self.reap(child.pid);
                }
                return Ok(Ok(Waited { pid: child.pid, status, time: child.time.load(Ordering::Relaxed) }));
            }
        }
        if any { Ok(Err(WaitOn::ticket(ticket))) } else { Err(Errno::ECHILD) }
    }
}
