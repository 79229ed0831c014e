//! Who a program is, what it may use, and what it runs on.

use crate::cx::{BUFFER, Cx};
use crate::{Answer, Errno, Outcome};
use task::{Credentials, Process};
use uapi::UserMem;
use uapi::linux::sched::*;
use uapi::linux::time::Timeval;

const DONE: Answer = Ok(Outcome::Done(0));
/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// Release that programs see: libraries ask for a minimum.
const RELEASE: &str = "6.6.0-portolan";

const fn done(value: u32) -> Answer {
    Ok(Outcome::Done(value as i64))
}

impl Cx {
    pub(crate) fn getpid(&self) -> Answer {
        done(self.process().pid)
    }
    pub(crate) fn gettid(&self) -> Answer {
        done(self.thread.tid)
    }
    pub(crate) fn getppid(&self) -> Answer {
        done(self.process().parent())
    }
    pub(crate) fn getresuid(&self) -> Answer {
        for at in &self.args[..3] {
            self.put(*at, &0u32)?;
        }
        DONE
    }
    /// setuid and its kin: there is user 0, and -1 for "as it is".
    pub(crate) fn become_nobody(&self, count: usize) -> Answer {
        let same = self.args[..count].iter().all(|id| matches!(*id as u32, 0 | u32::MAX));
        if same { DONE } else { Err(Errno::EPERM) }
    }
    fn some_process(&self, pid: u32) -> Result<alloc::sync::Arc<Process>, Errno> {
        if pid == 0 { Ok(self.process().clone()) } else { self.kernel().process(pid).ok_or(Errno::ESRCH) }
    }
    pub(crate) fn setpgid(&self) -> Answer {
        let process = self.some_process(self.args[0] as u32)?;
        if process.pid != self.process().pid && process.parent() != self.process().pid {
            return Err(Errno::ESRCH);
        }
        let group = self.args[1] as i32;
        if group < 0 {
            return Err(Errno::EINVAL);
        }
        process.set_group(if group == 0 { process.pid } else { group as u32 });
        DONE
    }
    pub(crate) fn getpgid(&self, pid: u32) -> Answer {
        done(self.some_process(pid)?.group())
    }
    pub(crate) fn getsid(&self) -> Answer {
        done(self.some_process(self.args[0] as u32)?.session())
    }
    pub(crate) fn setsid(&self) -> Answer {
        done(self.process().new_session()?)
    }
    pub(crate) fn capget(&self) -> Answer {
        let (header, data) = (self.args[0], self.args[1]);
        let [version, pid]: [u32; 2] = self.get(header)?;
        if version != CAPABILITY_VERSION {
            self.put(header, &CAPABILITY_VERSION)?;
            return if data == 0 { DONE } else { Err(Errno::EINVAL) };
        }
        if data == 0 {
            return DONE;
        }
        let Credentials { effective, permitted, inheritable } = self.some_process(pid)?.credentials();
        let half = |shift: u32| [effective, permitted, inheritable].map(|caps| (caps >> shift) as u32);
        self.put(data, &[half(0), half(32)])?;
        DONE
    }
    pub(crate) fn capset(&self) -> Answer {
        let [version, pid]: [u32; 2] = self.get(self.args[0])?;
        if version != CAPABILITY_VERSION {
            self.put(self.args[0], &CAPABILITY_VERSION)?;
            return Err(Errno::EINVAL);
        }
        if pid != 0 && pid != self.process().pid && pid != self.thread.tid {
            return Err(Errno::EPERM);
        }
        let [low, high]: [[u32; 3]; 2] = self.get(self.args[1])?;
        let caps = |index: usize| u64::from(low[index]) | u64::from(high[index]) << 32;
        let new = Credentials { effective: caps(0), permitted: caps(1), inheritable: caps(2) };
        let old = self.process().credentials();
        if new.permitted & !old.permitted != 0 || new.effective & !new.permitted != 0 {
            return Err(Errno::EPERM);
        }
        self.process().set_credentials(new);
        DONE
    }
    fn limit(&self, process: &Process, resource: u64) -> Result<(u64, u64), Errno> {
        let limits = process.limits();
        Ok(match resource {
            RLIMIT_NOFILE => limits.nofile,
            RLIMIT_STACK => limits.stack,
            RLIMIT_MEMLOCK => limits.memlock,
            0..=15 => (RLIM_INFINITY, RLIM_INFINITY),
            _ => return Err(Errno::EINVAL),
        })
    }
    fn set_limit(&self, process: &Process, resource: u64, [soft, hard]: [u64; 2]) -> Result<(), Errno> {
        if soft > hard {
            return Err(Errno::EINVAL);
        }
        let old = self.limit(process, resource)?;
        if hard > old.1 && !self.process().capable(CAP_SYS_RESOURCE) {
            return Err(Errno::EPERM);
        }
        let mut limits = process.limits();
        match resource {
            RLIMIT_NOFILE => limits.nofile = (soft, hard),
            RLIMIT_STACK => limits.stack = (soft, hard),
            RLIMIT_MEMLOCK => limits.memlock = (soft, hard),
            // Without an effect here.
            _ => {}
        }
        process.set_limits(limits);
        Ok(())
    }
    pub(crate) fn prlimit(&self) -> Answer {
        let [pid, resource, new, old, ..] = self.args;
        let process = self.some_process(pid as u32)?;
        let before = self.limit(&process, resource)?;
        if new != 0 {
            self.set_limit(&process, resource, self.get(new)?)?;
        }
        self.put_if(old, &[before.0, before.1])?;
        DONE
    }
    pub(crate) fn getrlimit(&self) -> Answer {
        let (soft, hard) = self.limit(self.process(), self.args[0])?;
        self.put(self.args[1], &[soft, hard])?;
        DONE
    }
    pub(crate) fn setrlimit(&self) -> Answer {
        self.set_limit(self.process(), self.args[0], self.get(self.args[1])?)?;
        DONE
    }
    pub(crate) fn getrusage(&self) -> Answer {
        let (own, children) = self.process().times();
        let counters = self.space.counters();
        let mut usage = Rusage::default();
        match self.args[0] as i32 {
            // RUSAGE_SELF and RUSAGE_THREAD.
            0 | 1 => {
                usage.user = Timeval::from_nanos(own);
                usage.max_rss = (counters.peak / 1024) as i64;
                usage.minor_faults = counters.faults as i64;
            }
            -1 => usage.user = Timeval::from_nanos(children),
            _ => return Err(Errno::EINVAL),
        }
        self.put(self.args[1], &usage)?;
        DONE
    }
    /// Times in hundredths of a second.
    pub(crate) fn times(&self) -> Answer {
        let (own, children) = self.process().times();
        let ticks = |nanos: u64| (nanos / 10_000_000) as i64;
        self.put_if(self.args[0], &[ticks(own), 0, ticks(children), 0])?;
        Ok(Outcome::Done(ticks(self.now())))
    }
    pub(crate) fn sysinfo(&self) -> Answer {
        let (free, all) = self.kernel().frames.usage();
        let info = Sysinfo {
            uptime: (self.now() / 1_000_000_000) as i64,
            total_ram: all * mm::PAGE,
            free_ram: free * mm::PAGE,
            procs: self.kernel().processes().len().min(u16::MAX as usize) as u16,
            unit: 1,
            ..Sysinfo::default()
        };
        self.put(self.args[0], &info)?;
        DONE
    }
    pub(crate) fn uname(&self) -> Answer {
        let mut names = [[0u8; 65]; 6];
        let machine = self.system.abi.layout.machine;
        let texts = ["Linux", "portolan", RELEASE, "#1 Portolan", machine, "(none)"];
        for (slot, text) in names.iter_mut().zip(texts) {
            slot[..text.len()].copy_from_slice(text.as_bytes());
        }
        self.put(self.args[0], &names)?;
        DONE
    }
    fn cpu_mask(&self) -> u64 {
        let cpus = self.kernel().machine.cpus();
        if cpus >= 64 { u64::MAX } else { (1 << cpus) - 1 }
    }
    pub(crate) fn sched_getaffinity(&self) -> Answer {
        let [tid, length, to, ..] = self.args;
        if tid as u32 != 0 && self.kernel().thread(tid as u32).is_none() {
            return Err(Errno::ESRCH);
        }
        if length < 8 || !length.is_multiple_of(8) {
            return Err(Errno::EINVAL);
        }
        self.put(to, &self.cpu_mask())?;
        Ok(Outcome::Done(8))
    }
    pub(crate) fn sched_getparam(&self) -> Answer {
        self.put(self.args[1], &0u32)?;
        DONE
    }
    pub(crate) fn getcpu(&self) -> Answer {
        self.put_if(self.args[0], &0u32)?;
        self.put_if(self.args[1], &0u32)?;
        DONE
    }
    pub(crate) fn getrandom(&self) -> Answer {
        let [to, length, flags, ..] = self.args;
        if flags & !(GRND_NONBLOCK | GRND_RANDOM | GRND_INSECURE) != 0 {
            return Err(Errno::EINVAL);
        }
        let length = length.min(BUFFER as u64) as usize;
        self.with_buffer(|buffer| {
            self.kernel().machine.random(&mut buffer[..length]);
            self.space.copy_out(to, &buffer[..length])
        })?;
        Ok(Outcome::Done(length as i64))
    }
}
