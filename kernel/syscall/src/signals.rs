//! Signals.

use crate::abi::Popped;
use crate::cx::Cx;
use crate::{Answer, Errno, Outcome};
use alloc::sync::Arc;
use task::{Process, mask_of};
use uapi::linux::signal::*;
use uapi::linux::time::Timespec;

const DONE: Answer = Ok(Outcome::Done(0));

fn signal_number(value: u64) -> Result<u32, Errno> {
    u32::try_from(value as i32).ok().filter(|signal| *signal <= NSIG).ok_or(Errno::EINVAL)
}

impl Cx {
    pub(crate) fn sigaction(&self) -> Answer {
        let [signal, new, old, size, ..] = self.args;
        let signal = signal_number(signal)?;
        if size != 8 || signal == 0 {
            return Err(Errno::EINVAL);
        }
        let action: Option<SigAction> = if new == 0 { None } else { Some(self.get(new)?) };
        if action.is_some() && matches!(signal, SIGKILL | SIGSTOP) {
            return Err(Errno::EINVAL);
        }
        let before = {
            let actions = self.process().actions();
            let mut actions = actions.lock();
            let before = actions.get(signal);
            if let Some(action) = action {
                actions.set(signal, action);
            }
            before
        };
        self.put_if(old, &before)?;
        DONE
    }
    pub(crate) fn sigprocmask(&self) -> Answer {
        let [how, new, old, size, ..] = self.args;
        if size != 8 {
            return Err(Errno::EINVAL);
        }
        let before = self.thread.state.lock().blocked;
        if new != 0 {
            let set: u64 = self.get(new)?;
            let mask = match how {
                SIG_BLOCK => before | set,
                SIG_UNBLOCK => before & !set,
                SIG_SETMASK => set,
                _ => return Err(Errno::EINVAL),
            };
            self.thread.set_blocked(mask);
        }
        self.put_if(old, &before)?;
        DONE
    }
    pub(crate) fn sigpending(&self) -> Answer {
        let pending = self.thread.pending() & self.thread.state.lock().blocked;
        self.put(self.args[0], &pending)?;
        DONE
    }
    pub(crate) fn sigsuspend(&self) -> Answer {
        self.temporary_mask(self.args[0], self.args[1])?;
        self.wait_for_signal(None)
    }
    pub(crate) fn pause(&self) -> Answer {
        self.wait_for_signal(None)
    }
    pub(crate) fn sigtimedwait(&self) -> Answer {
        let [set, info, timeout, size, ..] = self.args;
        if size != 8 {
            return Err(Errno::EINVAL);
        }
        let wanted = self.get::<u64>(set)? & !(mask_of(SIGKILL) | mask_of(SIGSTOP));
        let limit = match timeout {
            0 => None,
            at => Some(self.get::<Timespec>(at)?.nanos().ok_or(Errno::EINVAL)?),
        };
        let deadline = self.deadline(limit);
        if let Some(taken) = self.thread.take_signal(wanted) {
            self.put_if(info, &taken)?;
            return Ok(Outcome::Done(i64::from(taken.signo)));
        }
        if deadline.is_some_and(|deadline| deadline <= self.now()) {
            return Err(Errno::EAGAIN);
        }
        self.wait_for_signal(deadline.filter(|deadline| *deadline != u64::MAX))
    }
    pub(crate) fn sigaltstack(&self) -> Answer {
        let (new, old) = (self.args[0], self.args[1]);
        let stack: Option<AltStack> = if new == 0 { None } else { Some(self.get(new)?) };
        let sp = self.thread.context().regs().sp;
        let before = {
            let mut state = self.thread.state.lock();
            let mut before = state.alt_stack;
            let on_it = before.flags & SS_DISABLE == 0 && sp.wrapping_sub(before.base) < before.size;
            if on_it {
                before.flags |= SS_ONSTACK;
            }
            if let Some(stack) = stack {
                if on_it {
                    return Err(Errno::EPERM);
                }
                if stack.flags & !(SS_DISABLE | SS_ONSTACK | 1 << 31) != 0 {
                    return Err(Errno::EINVAL);
                }
                if stack.flags & SS_DISABLE == 0 && stack.size < MINSIGSTKSZ {
                    return Err(Errno::ENOMEM);
                }
                state.alt_stack = AltStack { flags: stack.flags & SS_DISABLE, pad: 0, ..stack };
            }
            before
        };
        self.put_if(old, &before)?;
        DONE
    }
    pub(crate) fn sigreturn(&self) -> Answer {
        let regs = self.thread.context().regs();
        let Popped { regs: mut back, mask, frame } = match (self.system.abi.pop_frame)(&*self.space, &regs) {
            Ok(popped) => popped,
            Err(_) => {
                log::warn!("{}: a signal handler returned through a bad frame", self.process().pid);
                self.kernel().end_process(self.process(), task::Status::Killed(SIGSEGV as u8));
                return Ok(Outcome::Gone);
            }
        };
        let saved = {
            let mut state = self.thread.state.lock();
            let at = state.saved.iter().rposition(|saved| saved.frame == frame);
            let saved = at.map(|at| state.saved.remove(at));
            if let Some(at) = at {
                // Handlers inside it were left without a return.
                state.saved.truncate(at);
            }
            saved
        };
        let mut context = self.thread.context();
        let tls = (regs.tls, regs.gs);
        if let Some(saved) = saved {
            *context = saved.context;
        }
        (back.tls, back.gs) = tls;
        context.set_regs(&back);
        drop(context);
        self.thread.set_blocked(mask);
        Ok(Outcome::Resume)
    }
    fn send(&self, target: &Arc<Process>, signal: u32) {
        if signal != 0 {
            self.kernel().signal_process(target, self.process().sender(signal, SI_USER));
        }
    }
    pub(crate) fn kill(&self) -> Answer {
        let signal = signal_number(self.args[1])?;
        let own = self.process();
        let pid = self.args[0] as i32;
        if pid > 0 {
            let target = self.kernel().process(pid as u32).ok_or(Errno::ESRCH)?;
            self.send(&target, signal);
            return DONE;
        }
        let targets: alloc::vec::Vec<_> = self
            .kernel()
            .processes()
            .into_iter()
            .filter(|process| match pid {
                -1 => process.pid != own.pid && process.pid != 1,
                0 => process.group() == own.group(),
                group => process.group() == group.unsigned_abs(),
            })
            .collect();
        if targets.is_empty() {
            return Err(Errno::ESRCH);
        }
        targets.iter().for_each(|target| self.send(target, signal));
        DONE
    }
    pub(crate) fn tgkill(&self, pid: Option<u32>, tid: u32, signal: u32) -> Answer {
        let signal = signal_number(u64::from(signal))?;
        if tid as i32 <= 0 || pid.is_some_and(|pid| pid as i32 <= 0) {
            return Err(Errno::EINVAL);
        }
        let thread = self.kernel().thread(tid).ok_or(Errno::ESRCH)?;
        if pid.is_some_and(|pid| thread.process.pid != pid) {
            return Err(Errno::ESRCH);
        }
        if signal != 0 {
            self.kernel().signal_thread(&thread, self.process().sender(signal, SI_TKILL));
        }
        DONE
    }
    pub(crate) fn pidfd_send_signal(&self) -> Answer {
        let signal = signal_number(self.args[1])?;
        let target = self.pidfd(self.fd(0))?;
        if target.ended().is_some() {
            return Err(Errno::ESRCH);
        }
        self.send(&target, signal);
        DONE
    }
}
