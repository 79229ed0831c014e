//! Signals: actions, pending sets, and what happens by default.

use crate::{Kernel, Process, Status, Thread};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use uapi::linux::signal::*;

/// The bit of a signal (1..=64) in a mask.
pub const fn mask_of(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// Signals that can be neither caught, blocked nor ignored.
pub(crate) const UNBLOCKABLE: u64 = mask_of(SIGKILL) | mask_of(SIGSTOP);

/// What a signal does without a handler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DefaultAction {
    /// The process ends.
    Terminate,
    /// Nothing. Stopping and continuing count as nothing: there is no job control here.
    Ignore,
}

/// What `signal` does without a handler.
pub const fn default_action(signal: u32) -> DefaultAction {
    match signal {
        SIGCHLD | SIGURG | SIGWINCH | SIGCONT | SIGSTOP | SIGTSTP | SIGTTIN | SIGTTOU => DefaultAction::Ignore,
        _ => DefaultAction::Terminate,
    }
}

/// The table of signal actions of a process.
#[derive(Clone)]
pub struct Actions(pub [SigAction; NSIG as usize]);

impl Default for Actions {
    fn default() -> Self {
        Self([SigAction::default(); NSIG as usize])
    }
}

impl Actions {
    /// The action of `signal`, 1..=64; anything else has the default action.
    pub fn get(&self, signal: u32) -> SigAction {
        self.0.get((signal as usize).wrapping_sub(1)).copied().unwrap_or_default()
    }
    /// Sets it; does nothing for other numbers.
    pub fn set(&mut self, signal: u32, action: SigAction) {
        if let Some(slot) = self.0.get_mut((signal as usize).wrapping_sub(1)) {
            *slot = action;
        }
    }
    /// Is the signal dropped when it is sent?
    pub fn ignores(&self, signal: u32) -> bool {
        match self.get(signal).handler {
            SIG_IGN => signal != SIGKILL,
            SIG_DFL => default_action(signal) == DefaultAction::Ignore,
            _ => false,
        }
    }
    /// execve: handlers go, what is ignored stays so.
    pub fn reset(&mut self) {
        for action in &mut self.0 {
            if action.handler != SIG_IGN {
                *action = SigAction::default();
            }
        }
    }
}

/// Signals sent and not yet taken.
#[derive(Default)]
pub(crate) struct Pending(BTreeMap<u32, SigInfo>);

impl Pending {
    pub fn add(&mut self, info: SigInfo) {
        self.0.entry(info.signo as u32).or_insert(info);
    }
    pub fn mask(&self) -> u64 {
        self.0.keys().fold(0, |mask, signal| mask | mask_of(*signal))
    }
    /// Takes the lowest signal in `wanted`.
    pub fn take(&mut self, wanted: u64) -> Option<SigInfo> {
        let signal = *self.0.keys().find(|signal| wanted & mask_of(**signal) != 0)?;
        self.0.remove(&signal)
    }
}

impl Kernel {
    /// Sends a signal to a process; any of its threads takes it.
    pub fn signal_process(&self, process: &Process, info: SigInfo) {
        let signal = info.signo as u32;
        if signal == SIGKILL {
            return self.end_process(process, Status::Killed(SIGKILL as u8));
        }
        let threads = self.threads_of(process);
        // One that is blocked is kept although it is ignored now: the action may change, or sigwait takes it.
        let blocked = threads.iter().any(|thread| thread.state.lock().blocked & mask_of(signal) != 0);
        if !blocked && process.actions().lock().ignores(signal) {
            return;
        }
        process.state.lock().pending.add(info);
        for thread in threads {
            thread.wake.signal();
        }
    }
    /// Sends a signal to one thread.
    pub fn signal_thread(&self, thread: &Thread, info: SigInfo) {
        let signal = info.signo as u32;
        if signal == SIGKILL {
            return self.end_process(&thread.process, Status::Killed(SIGKILL as u8));
        }
        let blocked = thread.state.lock().blocked & mask_of(signal) != 0;
        if !blocked && thread.process.actions().lock().ignores(signal) {
            return;
        }
        thread.state.lock().pending.add(info);
        thread.wake.signal();
    }
}

impl Thread {
    /// Signals that wait for this thread and that it does not block.
    pub fn deliverable(&self) -> u64 {
        let process = self.process.state.lock().pending.mask();
        let state = self.state.lock();
        (process | state.pending.mask()) & !(state.blocked & !UNBLOCKABLE)
    }
    /// All signals that wait for this thread.
    pub fn pending(&self) -> u64 {
        let process = self.process.state.lock().pending.mask();
        process | self.state.lock().pending.mask()
    }
    /// Takes one of the signals in `wanted` that wait for this thread.
    pub fn take_signal(&self, wanted: u64) -> Option<SigInfo> {
        let own = self.state.lock().pending.take(wanted);
        own.or_else(|| self.process.state.lock().pending.take(wanted))
    }
    /// Sets the mask of blocked signals; returns the old one.
    pub fn set_blocked(&self, mask: u64) -> u64 {
        core::mem::replace(&mut self.state.lock().blocked, mask & !UNBLOCKABLE)
    }
}

/// Who sends: for `siginfo` of kill and tgkill.
pub(crate) fn from_process(signal: u32, code: i32, sender: &Arc<Process>) -> SigInfo {
    SigInfo { first: u64::from(sender.pid), ..SigInfo::new(signal, code) }
}
