//! Threads.

use crate::signal::Pending;
use crate::{Context, Process, Waiter};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use mm::AddressSpace;
use spin::{Mutex, MutexGuard};
use uapi::linux::signal::{AltStack, SS_DISABLE};
use vfs::Event;

/// What an interrupted call remembers until it is dispatched again. Gone when the call is done.
pub enum Restart {
    /// When it gives up: monotonic nanoseconds.
    Deadline(u64),
    /// A blocking write of which the first bytes are gone: how many, and when it gives up.
    Written(u64, Option<u64>),
    /// Waiting on a futex, until a deadline if there is one.
    Futex(Arc<Waiter>, Option<u64>),
    /// vfork: waiting for the child to have its own memory.
    Vfork(Arc<Process>),
}

/// State kept aside while a signal handler runs.
pub struct SavedContext {
    /// Stack pointer of the handler's frame.
    pub frame: u64,
    /// Everything, floating point included.
    pub context: Box<dyn Context>,
}

/// What changes about a thread.
pub struct ThreadState {
    /// Of the call it is in.
    pub restart: Option<Restart>,
    /// Cleared and woken when it ends (CLONE_CHILD_CLEARTID); 0: nothing.
    pub clear_tid: u64,
    /// Head of its list of robust futexes; 0: none.
    pub robust: u64,
    /// Blocked signals.
    pub blocked: u64,
    /// Mask to go back to after the call (sigsuspend, ppoll).
    pub restore_mask: Option<u64>,
    pub(crate) pending: Pending,
    /// Alternate signal stack.
    pub alt_stack: AltStack,
    /// Contexts below running handlers.
    pub saved: Vec<SavedContext>,
    /// Name (PR_SET_NAME), up to 15 bytes.
    pub name: [u8; 16],
}

/// A thread.
pub struct Thread {
    /// Thread id.
    pub tid: u32,
    /// Its process.
    pub process: Arc<Process>,
    pub(crate) context: Mutex<Box<dyn Context>>,
    /// What changes.
    pub state: Mutex<ThreadState>,
    /// Signalled when something outside its call wants it to run: a signal, its end.
    pub wake: Event,
    /// It alone has to go (execve by another thread, exit).
    pub(crate) gone: AtomicBool,
}

impl Thread {
    pub(crate) fn new(tid: u32, process: Arc<Process>, context: Box<dyn Context>) -> Arc<Self> {
        let state = ThreadState {
            restart: None,
            clear_tid: 0,
            robust: 0,
            blocked: 0,
            restore_mask: None,
            pending: Pending::default(),
            alt_stack: AltStack { flags: SS_DISABLE, ..AltStack::default() },
            saved: Vec::new(),
            name: [0; 16],
        };
        Arc::new(Self {
            tid,
            process,
            context: Mutex::new(context),
            state: Mutex::new(state),
            wake: Event::new(),
            gone: AtomicBool::new(false),
        })
    }
    /// Its registers. Locked while it runs.
    pub fn context(&self) -> MutexGuard<'_, Box<dyn Context>> {
        self.context.lock()
    }
    /// Its memory. A thread that runs has one; `None` after its process ended.
    pub fn space(&self) -> Option<Arc<AddressSpace>> {
        self.process.space()
    }
    /// Does it have to go?
    pub fn must_end(&self) -> bool {
        self.gone.load(Ordering::Acquire) || self.process.ending().is_some()
    }
    /// Its name.
    pub fn name(&self) -> Vec<u8> {
        let name = self.state.lock().name;
        name.iter().copied().take_while(|byte| *byte != 0).collect()
    }
    /// Names it; 15 bytes are kept.
    pub fn set_name(&self, name: &[u8]) {
        let mut kept = [0; 16];
        let count = name.iter().position(|byte| *byte == 0).unwrap_or(name.len()).min(15);
        kept[..count].copy_from_slice(&name[..count]);
        self.state.lock().name = kept;
    }
}
