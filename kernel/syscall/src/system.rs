//! From a trap to the next thing the thread does.

use crate::abi::{Abi, SignalFrame};
use crate::cx::Cx;
use crate::{Errno, dispatch, procfs};
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use mm::Fault;
use spin::Mutex;
use task::{DefaultAction, Kernel, Restart, SavedContext, Status, Thread, WaitOn, default_action, mask_of};
use uapi::linux::nr::Call;
use uapi::linux::signal::*;

/// Why a program stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trap {
    /// It makes a system call.
    Call,
    /// A page is missing, or forbids the access.
    PageFault {
        /// The address.
        address: u64,
        /// A write.
        write: bool,
        /// An instruction fetch.
        exec: bool,
    },
    /// Another exception.
    Exception {
        /// Signal it stands for (SIGILL, SIGFPE, SIGTRAP, SIGSEGV, SIGBUS).
        signal: u32,
        /// What happened, for the log.
        what: &'static str,
    },
    /// An interrupt: its time is over, or a device was served.
    Interrupt,
}

/// What became of a system call.
#[derive(Debug)]
pub enum Outcome {
    /// Its result.
    Done(i64),
    /// Call it again when this is over.
    Wait(WaitOn),
    /// The registers are as they should be already (execve, a return from a signal handler).
    Resume,
    /// The thread is no more.
    Gone,
}

/// The system-call side of a kernel.
pub struct System {
    /// Its processes.
    pub kernel: Arc<Kernel>,
    pub(crate) abi: &'static Abi,
    /// Numbers that were asked for and are not there: each is logged once.
    unknown: Mutex<BTreeSet<u64>>,
    /// When the thread that runs was let run, monotonic nanoseconds.
    started: AtomicU64,
    /// Buffers for copies between programs and files.
    pub(crate) buffers: Mutex<Vec<Vec<u8>>>,
}

impl System {
    /// The system calls of `kernel`, by the convention `abi`. Adds /proc and the usual nodes of /dev to its tree.
    pub fn new(kernel: Arc<Kernel>, abi: &'static Abi) -> Arc<Self> {
        procfs::install(&kernel);
        let unknown = Mutex::new(BTreeSet::new());
        let started = AtomicU64::new(0);
        Arc::new(Self { kernel, abi, unknown, started, buffers: Mutex::new(Vec::new()) })
    }
    /// Deals with a trap of `thread`, which [`Kernel::next`] gave, and queues it again or lets it go.
    pub fn handle(self: &Arc<Self>, thread: &Arc<Thread>, trap: Trap) {
        let kernel = &self.kernel;
        let now = kernel.machine.monotonic();
        kernel.account(thread, now.saturating_sub(self.started.load(Ordering::Relaxed)).min(1_000_000_000));
        // Taken before anything is looked at: a signal that comes now is seen by the park below.
        let wake = thread.wake.ticket();
        let outcome = if thread.must_end() {
            Outcome::Gone
        } else {
            match trap {
                Trap::Call => self.call(thread),
                Trap::PageFault { address, write, exec } => {
                    self.page_fault(thread, address, write, exec);
                    Outcome::Resume
                }
                Trap::Exception { signal, what } => {
                    self.fault(thread, signal, SI_KERNEL, thread.context().regs().ip, what);
                    Outcome::Resume
                }
                Trap::Interrupt => Outcome::Resume,
            }
        };
        let outcome = if trap != Trap::Call && self.at_waiting_call(thread) {
            // It stands before the instruction of a call that waited, and a signal came: the call has to end (or to be
            // forgotten) before a handler makes calls of its own.
            let mut context = thread.context();
            let mut regs = context.regs();
            regs.ip = regs.ip.wrapping_add(self.abi.instruction);
            context.set_regs(&regs);
            drop(context);
            self.call(thread)
        } else {
            outcome
        };
        match outcome {
            Outcome::Gone => return kernel.end_thread(thread),
            Outcome::Wait(mut wait) => {
                if !thread.must_end() {
                    // When it runs again it makes the call again: back to the instruction, all other registers as they are.
                    let mut context = thread.context();
                    let mut regs = context.regs();
                    regs.ip = regs.ip.wrapping_sub(self.abi.instruction);
                    context.set_regs(&regs);
                    drop(context);
                    wait.tickets.push(wake);
                    return kernel.park(thread.clone(), wait);
                }
            }
            Outcome::Done(value) => {
                let mut context = thread.context();
                let mut regs = context.regs();
                (self.abi.set_result)(&mut regs, value);
                context.set_regs(&regs);
                drop(context);
                self.before_return(thread);
            }
            Outcome::Resume => self.before_return(thread),
        }
        if thread.must_end() {
            return kernel.end_thread(thread);
        }
        kernel.ready(thread.clone());
    }
    /// A thread that [`Kernel::next`] gave is about to run: its CPU time starts now.
    pub fn starts(&self) {
        self.started.store(self.kernel.machine.monotonic(), Ordering::Relaxed);
    }
    fn at_waiting_call(&self, thread: &Thread) -> bool {
        !thread.must_end() && thread.state.lock().restart.is_some() && self.interrupts(thread)
    }
    fn call(self: &Arc<Self>, thread: &Arc<Thread>) -> Outcome {
        let regs = thread.context().regs();
        let number = (self.abi.number)(&regs);
        let Some(call) = (self.abi.call)(number) else {
            if self.unknown.lock().insert(number) {
                let name = String::from_utf8_lossy(&thread.name()).into_owned();
                log::info!("{name}[{}]: system call {number} is not known here", thread.process.pid);
            }
            return Outcome::Done(Errno::ENOSYS.as_return());
        };
        let Some(space) = thread.space() else { return Outcome::Gone };
        let arguments = (self.abi.arguments)(&regs);
        let cx = Cx { system: self.clone(), thread: thread.clone(), space, args: arguments };
        // A call that waited and was woken by a signal that it must answer.
        let waited = thread.state.lock().restart.is_some();
        if waited && self.interrupts(thread) && !matches!(call, Call::Vfork | Call::Clone | Call::Clone3) {
            return self.interrupted(&cx, call);
        }
        let outcome = match dispatch::dispatch(&cx, call) {
            Ok(outcome) => outcome,
            // Another CPU is at the same object: look again soon.
            Err(Errno::ERESTART) => Outcome::Wait(WaitOn { tickets: Vec::new(), deadline: Some(0) }),
            Err(error) => Outcome::Done(error.as_return()),
        };
        if let Outcome::Wait(_) = outcome
            && self.interrupts(thread)
            && !matches!(call, Call::Vfork | Call::Clone | Call::Clone3)
        {
            return self.interrupted(&cx, call);
        }
        if !matches!(outcome, Outcome::Wait(_)) {
            thread.state.lock().restart = None;
        }
        outcome
    }
    /// Is there a signal that ends the call the thread waits in: one with a handler, or one that kills?
    fn interrupts(&self, thread: &Thread) -> bool {
        let deliverable = thread.deliverable();
        if deliverable == 0 {
            return false;
        }
        let actions = thread.process.actions();
        let actions = actions.lock();
        (1..=NSIG).any(|signal| deliverable & mask_of(signal) != 0 && !actions.ignores(signal))
    }
    fn interrupted(&self, cx: &Cx, call: Call) -> Outcome {
        let thread = &cx.thread;
        let restart = {
            let actions = thread.process.actions();
            let actions = actions.lock();
            let deliverable = thread.deliverable();
            let first = (1..=NSIG).find(|signal| deliverable & mask_of(*signal) != 0 && !actions.ignores(*signal));
            let flags = first.map_or(0, |signal| actions.get(signal).flags);
            flags & SA_RESTART != 0 && dispatch::restartable(call)
        };
        let left = cx.sleep_left(call);
        let written = match thread.state.lock().restart {
            Some(Restart::Written(done, _)) if done > 0 => Some(done),
            _ => None,
        };
        if self.kernel.abandon(thread) {
            return Outcome::Done(0);
        }
        if let Some(done) = written {
            // What is gone cannot be written again.
            return Outcome::Done(done as i64);
        }
        if restart {
            // The handler returns to the system-call instruction: registers are still those of the call.
            let mut context = thread.context();
            let mut regs = context.regs();
            regs.ip = regs.ip.wrapping_sub(self.abi.instruction);
            context.set_regs(&regs);
            return Outcome::Resume;
        }
        if let Some((at, left)) = left {
            let _ = cx.put(at, &uapi::linux::time::Timespec::from_nanos(left));
        }
        Outcome::Done(Errno::EINTR.as_return())
    }
    fn page_fault(&self, thread: &Arc<Thread>, address: u64, write: bool, exec: bool) {
        let Some(space) = thread.space() else { return };
        let (signal, code, what) = match space.handle_fault(address, write, exec) {
            Ok(()) => return,
            Err(Fault::NoMapping) => (SIGSEGV, SEGV_MAPERR, "nothing is mapped there"),
            Err(Fault::Access) => (SIGSEGV, SEGV_ACCERR, "the mapping forbids it"),
            Err(Fault::Bus) => (SIGBUS, 2, "past the end of the mapped object"),
            Err(Fault::NoMemory) => (SIGKILL, SI_KERNEL, "out of memory"),
        };
        let how = match (write, exec) {
            (_, true) => "execute",
            (true, _) => "write",
            _ => "read",
        };
        if self.forced(thread, signal) {
            let ip = thread.context().regs().ip;
            let name = String::from_utf8_lossy(&thread.name()).into_owned();
            log::warn!("{name}[{}]: {how} of {address:#x} at ip {ip:#x}: {what}", thread.process.pid);
        }
        self.force_signal(thread, SigInfo { first: address, ..SigInfo::new(signal, code) });
    }
    fn fault(&self, thread: &Arc<Thread>, signal: u32, code: i32, ip: u64, what: &str) {
        if self.forced(thread, signal) {
            let name = String::from_utf8_lossy(&thread.name()).into_owned();
            log::warn!("{name}[{}]: {what} at ip {ip:#x}", thread.process.pid);
        }
        self.force_signal(thread, SigInfo { first: ip, ..SigInfo::new(signal, code) });
    }
    /// Will this fault end the process?
    fn forced(&self, thread: &Thread, signal: u32) -> bool {
        let action = thread.process.actions().lock().get(signal);
        let blocked = thread.state.lock().blocked & mask_of(signal) != 0;
        matches!(action.handler, SIG_DFL | SIG_IGN) || blocked || signal == SIGKILL
    }
    /// A fault cannot be ignored or blocked: without a handler that can run, the process ends.
    fn force_signal(&self, thread: &Arc<Thread>, info: SigInfo) {
        let signal = info.signo as u32;
        if self.forced(thread, signal) {
            return self.kernel.end_process(&thread.process, Status::Killed(signal as u8));
        }
        self.kernel.signal_thread(thread, info);
    }
    /// Takes the signals that wait: handlers get their frames, default actions are done.
    fn before_return(&self, thread: &Arc<Thread>) {
        loop {
            let deliverable = thread.deliverable();
            if deliverable == 0 || thread.must_end() {
                break;
            }
            let Some(info) = thread.take_signal(deliverable) else { break };
            let signal = info.signo as u32;
            let action = {
                let actions = thread.process.actions();
                let mut actions = actions.lock();
                let action = actions.get(signal);
                if action.flags & SA_RESETHAND != 0 && !matches!(action.handler, SIG_DFL | SIG_IGN) {
                    actions.set(signal, SigAction::default());
                }
                action
            };
            match action.handler {
                SIG_IGN => {}
                SIG_DFL if default_action(signal) == DefaultAction::Ignore => {}
                SIG_DFL => {
                    let name = String::from_utf8_lossy(&thread.name()).into_owned();
                    log::info!("{name}[{}]: ended by signal {signal}", thread.process.pid);
                    self.kernel.end_process(&thread.process, Status::Killed(signal as u8));
                }
                _ => {
                    if self.push_handler(thread, action, info).is_err() {
                        log::warn!("{}: no room for the frame of signal {signal}", thread.process.pid);
                        self.kernel.end_process(&thread.process, Status::Killed(SIGSEGV as u8));
                    }
                }
            }
        }
        // The mask of sigsuspend or ppoll was for the wait only; a handler's frame has the right one already.
        let mut state = thread.state.lock();
        if let Some(mask) = state.restore_mask.take() {
            state.blocked = mask;
        }
    }
    fn push_handler(&self, thread: &Arc<Thread>, action: SigAction, info: SigInfo) -> Result<(), Errno> {
        let signal = info.signo as u32;
        let space = thread.space().ok_or(Errno::EFAULT)?;
        // What is kept aside stays until the handler returns, and handlers nest.
        if mm::exhausted(&*self.kernel.frames) {
            return Err(Errno::ENOMEM);
        }
        let saved = thread.context().duplicate()?;
        let regs = saved.regs();
        let mut state = thread.state.lock();
        let alt = state.alt_stack;
        let on_alt = regs.sp.wrapping_sub(alt.base) < alt.size;
        let usable = action.flags & SA_ONSTACK != 0 && alt.flags & SS_DISABLE == 0 && !on_alt;
        let below = if usable { alt.base.wrapping_add(alt.size) } else { regs.sp };
        let mask = state.restore_mask.take().unwrap_or(state.blocked);
        let frame = SignalFrame { regs: &regs, mask, action, info, alt_stack: alt, below };
        drop(state);
        let started = (self.abi.push_frame)(&*space, &frame)?;
        state = thread.state.lock();
        // Frames that a longjmp left behind lie below the new one.
        state.saved.retain(|saved| saved.frame > started.sp);
        state.saved.push(SavedContext { frame: started.sp, context: saved });
        if state.saved.len() > MAX_NESTED {
            return Err(Errno::EFAULT);
        }
        let own = if action.flags & SA_NODEFER == 0 { mask_of(signal) } else { 0 };
        state.blocked = (state.blocked | action.mask | own) & !(mask_of(SIGKILL) | mask_of(SIGSTOP));
        drop(state);
        thread.context().set_regs(&started);
        Ok(())
    }
}

/// Handlers that may run inside each other.
const MAX_NESTED: usize = 64;
