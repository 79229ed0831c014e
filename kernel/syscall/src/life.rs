//! Processes and threads: clone, execve, exit, wait, futex.

use crate::cx::Cx;
use crate::files::PidFd;
use crate::{Answer, Errno, Outcome};
use alloc::sync::Arc;
use alloc::vec::Vec;
use task::{CloneRequest, ExecRequest, Restart, Status, WaitFor, WaitOn, Waited};
use uapi::UserMem;
use uapi::linux::fs::{AT_EMPTY_PATH, AT_FDCWD, O_RDWR};
use uapi::linux::sched::*;
use uapi::linux::signal::{CLD_EXITED, CLD_KILLED, SIGCHLD, SigInfo};
use uapi::linux::time::{Timespec, Timeval};
use vfs::{FileKind, OpenFile};

const DONE: Answer = Ok(Outcome::Done(0));
/// Most bytes of arguments and environment that are read in; the loader's own limit is a little lower.
const ARGS_LIMIT: usize = 2 << 20;
/// Longest single argument.
const ARG_LIMIT: usize = 128 << 10;

impl Cx {
    fn spawn(&self, request: &CloneRequest, pidfd: u64) -> Answer {
        // vfork: dispatched again while the child has the parent's memory.
        let waiting = match &self.thread.state.lock().restart {
            Some(Restart::Vfork(child)) => Some(child.clone()),
            _ => None,
        };
        if let Some(child) = waiting {
            return Ok(match self.kernel().vfork_wait(&self.thread, &child) {
                Some(wait) => Outcome::Wait(wait),
                None => Outcome::Done(i64::from(child.pid)),
            });
        }
        let child = self.kernel().clone_thread(&self.thread, request)?;
        let (tid, process) = (child.tid, child.process.clone());
        if request.flags & CLONE_PIDFD != 0 {
            let file = OpenFile::new(Arc::new(PidFd(process.clone())), O_RDWR);
            let given = self.install(file, true).and_then(|fd| self.put(pidfd, &fd));
            if let Err(error) = given {
                // Nobody will know of the child: it never runs.
                self.kernel().end_process(&process, Status::Killed(9));
                self.kernel().end_thread(&child);
                self.kernel().reap(process.pid);
                return Err(error);
            }
        }
        self.kernel().start(child);
        if request.flags & CLONE_VFORK != 0
            && let Some(wait) = self.kernel().vfork_wait(&self.thread, &process)
        {
            return Ok(Outcome::Wait(wait));
        }
        Ok(Outcome::Done(i64::from(tid)))
    }
    pub(crate) fn clone_call(&self) -> Answer {
        let [flags, stack, parent_tid, fourth, fifth, _] = self.args;
        let (child_tid, tls) = if self.system.abi.layout.clone_tls_last { (fourth, fifth) } else { (fifth, fourth) };
        let request = CloneRequest {
            flags: flags & 0xffff_ff00,
            stack,
            tls,
            parent_tid,
            child_tid,
            exit_signal: (flags & 0xff) as u32,
        };
        if flags & CLONE_PIDFD != 0 && flags & CLONE_PARENT_SETTID != 0 {
            return Err(Errno::EINVAL);
        }
        self.spawn(&request, parent_tid)
    }
    pub(crate) fn clone3(&self) -> Answer {
        let (at, size) = (self.args[0], self.args[1]);
        let known = size_of::<CloneArgs>() as u64;
        if size < 64 {
            return Err(Errno::EINVAL);
        }
        if size > 4096 {
            return Err(Errno::E2BIG);
        }
        let mut bytes = self.get_bytes(at, size, 4096)?;
        if bytes.len() as u64 > known && bytes[known as usize..].iter().any(|byte| *byte != 0) {
            return Err(Errno::E2BIG);
        }
        bytes.resize(known as usize, 0);
        let args: CloneArgs = zerocopy::FromBytes::read_from_bytes(&bytes).map_err(|_| Errno::EINVAL)?;
        if args.set_tid != 0 || args.set_tid_size != 0 || args.flags & 0xff != 0 || args.exit_signal > 64 {
            return Err(Errno::EINVAL);
        }
        if (args.stack == 0) != (args.stack_size == 0) {
            return Err(Errno::EINVAL);
        }
        let stack = args.stack.checked_add(args.stack_size).ok_or(Errno::EINVAL)?;
        let request = CloneRequest {
            flags: args.flags,
            stack,
            tls: args.tls,
            parent_tid: args.parent_tid,
            child_tid: args.child_tid,
            exit_signal: args.exit_signal as u32,
        };
        self.spawn(&request, args.pidfd)
    }
    pub(crate) fn fork(&self) -> Answer {
        self.spawn(&CloneRequest { exit_signal: SIGCHLD, ..CloneRequest::default() }, 0)
    }
    pub(crate) fn vfork(&self) -> Answer {
        let flags = CLONE_VM | CLONE_VFORK;
        self.spawn(&CloneRequest { flags, exit_signal: SIGCHLD, ..CloneRequest::default() }, 0)
    }
    /// A null-terminated array of strings.
    fn strings(&self, mut at: u64, budget: &mut usize) -> Result<Vec<Vec<u8>>, Errno> {
        let mut strings = Vec::new();
        if at == 0 {
            return Ok(strings);
        }
        loop {
            let pointer: u64 = self.get(at)?;
            if pointer == 0 {
                return Ok(strings);
            }
            let string = self.space.copy_in_string(pointer, ARG_LIMIT).map_err(|error| match error {
                Errno::ENAMETOOLONG => Errno::E2BIG,
                error => error,
            })?;
            *budget = budget.checked_sub(string.len() + 9).ok_or(Errno::E2BIG)?;
            // A string costs more here than in the budget.
            if mm::exhausted(&*self.kernel().frames) {
                return Err(Errno::ENOMEM);
            }
            strings.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            strings.push(string);
            at = at.wrapping_add(8);
        }
    }
    fn exec_at(&self, fd: i32, path: u64, argv: u64, envp: u64, flags: u64) -> Answer {
        let name = self.path(path)?;
        let file = if name.is_empty() && flags & AT_EMPTY_PATH != 0 {
            self.file(fd)?
        } else {
            let start = if fd == AT_FDCWD || name.first() == Some(&b'/') {
                self.cwd()
            } else {
                self.file(fd)?.place.clone().ok_or(Errno::ENOTDIR)?
            };
            self.kernel().tree.open(&start, &name, 0, 0, self.viewer())?
        };
        let stat = file.file.stat();
        if stat.kind != FileKind::Regular || stat.mode & 0o111 == 0 {
            return Err(Errno::EACCES);
        }
        let mut budget = ARGS_LIMIT;
        let argv = self.strings(argv, &mut budget)?;
        let envp = self.strings(envp, &mut budget)?;
        // The new program's stack is put together in the kernel's memory: copies of what was read, in growing vectors.
        let read = (ARGS_LIMIT - budget) as u64;
        if self.kernel().frames.usage().0 * mm::PAGE < read * 8 {
            return Err(Errno::ENOMEM);
        }
        self.kernel().exec(&self.thread, &ExecRequest { file, name, argv, envp })?;
        Ok(Outcome::Resume)
    }
    pub(crate) fn execve(&self) -> Answer {
        self.exec_at(AT_FDCWD, self.args[0], self.args[1], self.args[2], 0)
    }
    pub(crate) fn execveat(&self) -> Answer {
        self.exec_at(self.fd(0), self.args[1], self.args[2], self.args[3], self.args[4])
    }
    pub(crate) fn exit(&self) -> Answer {
        self.kernel().exit_thread(&self.thread, self.args[0] as u8);
        Ok(Outcome::Gone)
    }
    pub(crate) fn exit_group(&self) -> Answer {
        self.kernel().end_process(self.process(), Status::Exited(self.args[0] as u8));
        Ok(Outcome::Gone)
    }
    fn rusage_of(waited: &Waited) -> Rusage {
        Rusage { user: Timeval::from_nanos(waited.time), ..Rusage::default() }
    }
    pub(crate) fn wait4(&self) -> Answer {
        let [pid, status, options, usage, ..] = self.args;
        if options & !(WNOHANG | WUNTRACED | WCONTINUED | 0x6000_0000) != 0 {
            return Err(Errno::EINVAL);
        }
        let which = match pid as i32 {
            -1 => WaitFor::Any,
            0 => WaitFor::Group(self.process().group()),
            pid if pid > 0 => WaitFor::Pid(pid as u32),
            group => WaitFor::Group(group.unsigned_abs()),
        };
        match self.kernel().wait(self.process(), which, false)? {
            Ok(waited) => {
                self.put_if(status, &waited.status.wait_status())?;
                self.put_if(usage, &Self::rusage_of(&waited))?;
                Ok(Outcome::Done(i64::from(waited.pid)))
            }
            Err(_) if options & WNOHANG != 0 => DONE,
            Err(wait) => self.wait(wait),
        }
    }
    pub(crate) fn waitid(&self) -> Answer {
        let [kind, id, info, options, usage, _] = self.args;
        let known = WNOHANG | WUNTRACED | WEXITED | WCONTINUED | WNOWAIT | 0x6000_0000;
        if options & !known != 0 || options & (WEXITED | WUNTRACED | WCONTINUED) == 0 {
            return Err(Errno::EINVAL);
        }
        let which = match kind {
            P_ALL => WaitFor::Any,
            P_PID => WaitFor::Pid(id as u32),
            P_PGID if id as u32 == 0 => WaitFor::Group(self.process().group()),
            P_PGID => WaitFor::Group(id as u32),
            P_PIDFD => WaitFor::Pid(self.pidfd(id as i32)?.pid),
            _ => return Err(Errno::EINVAL),
        };
        match self.kernel().wait(self.process(), which, options & WNOWAIT != 0)? {
            Ok(waited) => {
                let (code, value) = match waited.status {
                    Status::Exited(code) => (CLD_EXITED, code),
                    Status::Killed(signal) => (CLD_KILLED, signal),
                };
                let record =
                    SigInfo { first: u64::from(waited.pid), second: u64::from(value), ..SigInfo::new(SIGCHLD, code) };
                self.put_if(info, &record)?;
                self.put_if(usage, &Self::rusage_of(&waited))?;
                DONE
            }
            Err(_) if options & WNOHANG != 0 => {
                self.put_if(info, &SigInfo::new(0, 0))?;
                DONE
            }
            Err(wait) => self.wait(wait),
        }
    }
    pub(crate) fn set_tid_address(&self) -> Answer {
        self.thread.state.lock().clear_tid = self.args[0];
        Ok(Outcome::Done(i64::from(self.thread.tid)))
    }
    pub(crate) fn set_robust_list(&self) -> Answer {
        if self.args[1] != 24 {
            return Err(Errno::EINVAL);
        }
        self.thread.state.lock().robust = self.args[0];
        DONE
    }
    pub(crate) fn get_robust_list(&self) -> Answer {
        let thread = match self.args[0] as u32 {
            0 => self.thread.clone(),
            tid => self.kernel().thread(tid).ok_or(Errno::ESRCH)?,
        };
        let head = thread.state.lock().robust;
        self.put(self.args[1], &head)?;
        self.put(self.args[2], &24u64)?;
        DONE
    }
    pub(crate) fn futex(&self) -> Answer {
        let [address, operation, value, fourth, second, sixth] = self.args;
        let (kernel, thread) = (self.kernel(), &self.thread);
        let private = operation & FUTEX_PRIVATE_FLAG != 0;
        let (value, sixth) = (value as u32, sixth as u32);
        let command = operation & 0x7f;
        let done = |count: u32| Ok(Outcome::Done(i64::from(count)));
        match command {
            FUTEX_WAIT | FUTEX_WAIT_BITSET => {
                let bits = if command == FUTEX_WAIT { u32::MAX } else { sixth };
                let deadline = match fourth {
                    0 => None,
                    at => {
                        let time = self.get::<Timespec>(at)?.nanos().ok_or(Errno::EINVAL)?;
                        let now = self.now();
                        Some(if command == FUTEX_WAIT {
                            now.saturating_add(time)
                        } else if operation & FUTEX_CLOCK_REALTIME != 0 {
                            now.saturating_add(time.saturating_sub(kernel.machine.realtime()))
                        } else {
                            time
                        })
                    }
                };
                Ok(match kernel.futex_wait(thread, address, value, bits, private, deadline)? {
                    None => Outcome::Done(0),
                    Some(wait) => Outcome::Wait(wait),
                })
            }
            FUTEX_WAKE => done(kernel.futex_wake(thread, address, value, u32::MAX, private)?),
            FUTEX_WAKE_BITSET => done(kernel.futex_wake(thread, address, value, sixth, private)?),
            FUTEX_REQUEUE | FUTEX_CMP_REQUEUE => {
                let compare = command == FUTEX_CMP_REQUEUE;
                let expect = compare.then_some(sixth);
                let limits = (value, fourth as u32);
                let (woken, moved) = kernel.futex_requeue(thread, (address, second), limits, expect, private)?;
                done(if compare { woken + moved } else { woken })
            }
            FUTEX_WAKE_OP => {
                let limits = (value, fourth as u32);
                done(kernel.futex_wake_op(thread, (address, second), limits, sixth, private)?)
            }
            _ => Err(Errno::ENOSYS),
        }
    }
    pub(crate) fn arch_prctl(&self) -> Answer {
        let (code, value) = (self.args[0], self.args[1]);
        let mut context = self.thread.context();
        let mut regs = context.regs();
        match code {
            ARCH_SET_FS | ARCH_SET_GS if value >= mm::USER_END => return Err(Errno::EPERM),
            ARCH_SET_FS => regs.tls = value,
            ARCH_SET_GS => regs.gs = value,
            ARCH_GET_FS | ARCH_GET_GS => {
                drop(context);
                self.put(value, &if code == ARCH_GET_FS { regs.tls } else { regs.gs })?;
                return DONE;
            }
            _ => return Err(Errno::EINVAL),
        }
        context.set_regs(&regs);
        DONE
    }
    pub(crate) fn prctl(&self) -> Answer {
        let argument = self.args[1];
        match self.args[0] {
            PR_SET_NAME => {
                let mut name = self.space.copy_in_string(argument, 4096)?;
                name.truncate(15);
                self.thread.set_name(&name);
                DONE
            }
            PR_GET_NAME => {
                let name = self.thread.state.lock().name;
                self.space.copy_out(argument, &name)?;
                DONE
            }
            PR_GET_DUMPABLE => Ok(Outcome::Done(1)),
            PR_CAPBSET_READ if argument > u64::from(CAP_LAST_CAP) => Err(Errno::EINVAL),
            PR_CAPBSET_READ => Ok(Outcome::Done(1)),
            PR_SET_DUMPABLE | PR_SET_PDEATHSIG | PR_SET_NO_NEW_PRIVS | PR_SET_VMA => DONE,
            PR_GET_NO_NEW_PRIVS => DONE,
            _ => Err(Errno::EINVAL),
        }
    }
    pub(crate) fn unshare(&self) -> Answer {
        // What a process with one of each shares with nobody.
        if self.args[0] & !(CLONE_FILES | CLONE_FS | CLONE_SYSVSEM) != 0 { Err(Errno::EINVAL) } else { DONE }
    }
    /// Waits for a signal and nothing else.
    pub(crate) fn wait_for_signal(&self, deadline: Option<u64>) -> Answer {
        self.wait(WaitOn { tickets: Vec::new(), deadline })
    }
}
