//! Processes.

use crate::signal::{Actions, Pending, from_process};
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use mm::AddressSpace;
use spin::Mutex;
use uapi::Errno;
use uapi::linux::signal::{SIGCHLD, SigInfo};
use vfs::{Event, FdTable, OpenFile, Place};

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// exit(2), the low eight bits.
    Exited(u8),
    /// By a signal.
    Killed(u8),
}

impl Status {
    /// The number wait4(2) stores.
    pub const fn wait_status(self) -> u32 {
        match self {
            Self::Exited(code) => (code as u32) << 8,
            Self::Killed(signal) => signal as u32,
        }
    }
    /// The number a shell shows: the code, or 128 + signal.
    pub const fn shell_status(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => 128u8.wrapping_add(signal),
        }
    }
}

/// Where names start, and which rights new files do not get.
#[derive(Clone)]
pub struct FsContext {
    /// Current directory.
    pub cwd: Place,
    /// umask(2), `0..=0o777`.
    pub umask: u32,
}

/// Resource limits that have an effect here.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// RLIMIT_NOFILE, soft and hard.
    pub nofile: (u64, u64),
    /// RLIMIT_STACK, soft and hard, bytes.
    pub stack: (u64, u64),
    /// RLIMIT_MEMLOCK, soft and hard, bytes.
    pub memlock: (u64, u64),
}

/// Capabilities. Every program starts with all of them: there is one user, root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// Effective, bit n = capability n.
    pub effective: u64,
    /// Permitted.
    pub permitted: u64,
    /// Inheritable.
    pub inheritable: u64,
}

/// All capabilities there are.
const ALL_CAPS: u64 = (1 << (uapi::linux::sched::CAP_LAST_CAP + 1)) - 1;

/// The memory of one or more processes (vfork shares it); goes when the last of them lets go.
pub(crate) struct SharedSpace(pub Arc<AddressSpace>);

impl Drop for SharedSpace {
    fn drop(&mut self) {
        self.0.destroy();
    }
}

/// Signal actions, shared with CLONE_SIGHAND.
pub type SharedActions = Arc<Mutex<Actions>>;
/// Descriptors, shared with CLONE_FILES.
pub type SharedFiles = Arc<Mutex<FdTable>>;
/// Names, shared with CLONE_FS.
pub type SharedFs = Arc<Mutex<FsContext>>;

pub(crate) struct State {
    /// Process that waits for it; 0: the kernel.
    pub parent: u32,
    pub group: u32,
    pub session: u32,
    /// Threads that have not ended.
    pub threads: BTreeSet<u32>,
    /// Set once: every thread has to go.
    pub ending: Option<Status>,
    /// What the last thread that called exit(2) said.
    pub last_exit: Status,
    /// Set once: the last thread is gone. A zombie until it is waited for.
    pub ended: Option<Status>,
    pub exit_signal: u32,
    pub pending: Pending,
    /// Program, for /proc/self/exe.
    pub exe: Vec<u8>,
    /// Arguments, each with its zero, for /proc/self/cmdline.
    pub cmdline: Vec<u8>,
    pub limits: Limits,
    pub credentials: Credentials,
    /// CPU time of children that were waited for, nanoseconds.
    pub children_time: u64,
}

/// A process: what its threads share.
pub struct Process {
    /// Process id, from 1.
    pub pid: u32,
    pub(crate) state: Mutex<State>,
    pub(crate) space: Mutex<Option<Arc<SharedSpace>>>,
    files: Mutex<SharedFiles>,
    fs: Mutex<SharedFs>,
    actions: Mutex<SharedActions>,
    /// Signalled when a child changed state.
    pub children: Event,
    /// Signalled when it ended (pidfd).
    pub end: Event,
    /// vfork: it has its own memory, or is gone; the parent may go on.
    pub(crate) released: AtomicBool,
    pub(crate) release: Event,
    /// CPU time, nanoseconds.
    pub(crate) time: AtomicU64,
}

/// What a new process gets.
pub(crate) struct NewProcess {
    pub pid: u32,
    pub parent: u32,
    pub group: u32,
    pub session: u32,
    pub exit_signal: u32,
    pub space: Arc<SharedSpace>,
    pub files: SharedFiles,
    pub fs: SharedFs,
    pub actions: SharedActions,
    pub exe: Vec<u8>,
    pub cmdline: Vec<u8>,
    pub limits: Limits,
    pub credentials: Credentials,
}

impl Default for Limits {
    fn default() -> Self {
        let open = vfs::MAX_FDS as u64;
        Self { nofile: (open, open), stack: (8 << 20, u64::MAX), memlock: (8 << 20, 8 << 20) }
    }
}

impl Default for Credentials {
    fn default() -> Self {
        Self { effective: ALL_CAPS, permitted: ALL_CAPS, inheritable: 0 }
    }
}

impl Process {
    pub(crate) fn new(new: NewProcess) -> Arc<Self> {
        Arc::new(Self {
            pid: new.pid,
            state: Mutex::new(State {
                parent: new.parent,
                group: new.group,
                session: new.session,
                threads: BTreeSet::new(),
                ending: None,
                last_exit: Status::Exited(0),
                ended: None,
                exit_signal: new.exit_signal,
                pending: Pending::default(),
                exe: new.exe,
                cmdline: new.cmdline,
                limits: new.limits,
                credentials: new.credentials,
                children_time: 0,
            }),
            space: Mutex::new(Some(new.space)),
            files: Mutex::new(new.files),
            fs: Mutex::new(new.fs),
            actions: Mutex::new(new.actions),
            children: Event::new(),
            end: Event::new(),
            released: AtomicBool::new(false),
            release: Event::new(),
            time: AtomicU64::new(0),
        })
    }
    /// Its memory; `None` once it ended.
    pub fn space(&self) -> Option<Arc<AddressSpace>> {
        self.space.lock().as_ref().map(|shared| shared.0.clone())
    }
    /// Its descriptors.
    pub fn files(&self) -> SharedFiles {
        self.files.lock().clone()
    }
    pub(crate) fn replace_files(&self, files: SharedFiles) -> SharedFiles {
        core::mem::replace(&mut self.files.lock(), files)
    }
    /// Its names.
    pub fn fs(&self) -> SharedFs {
        self.fs.lock().clone()
    }
    /// Its signal actions.
    pub fn actions(&self) -> SharedActions {
        self.actions.lock().clone()
    }
    pub(crate) fn replace_actions(&self, actions: SharedActions) {
        *self.actions.lock() = actions;
    }
    /// The open file behind `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn file(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        self.files().lock().get(fd)
    }
    /// Parent's pid; 0 if the kernel started it.
    pub fn parent(&self) -> u32 {
        self.state.lock().parent
    }
    /// Process group.
    pub fn group(&self) -> u32 {
        self.state.lock().group
    }
    /// Session.
    pub fn session(&self) -> u32 {
        self.state.lock().session
    }
    /// setpgid(2).
    pub fn set_group(&self, group: u32) {
        self.state.lock().group = group;
    }
    /// setsid(2).
    ///
    /// # Errors
    /// `EPERM` for a group leader.
    pub fn new_session(&self) -> Result<u32, Errno> {
        let mut state = self.state.lock();
        if state.group == self.pid {
            return Err(Errno::EPERM);
        }
        (state.group, state.session) = (self.pid, self.pid);
        Ok(self.pid)
    }
    /// Path of its program.
    pub fn exe(&self) -> Vec<u8> {
        self.state.lock().exe.clone()
    }
    /// Its arguments, each with a zero at the end.
    pub fn cmdline(&self) -> Vec<u8> {
        self.state.lock().cmdline.clone()
    }
    /// Its limits.
    pub fn limits(&self) -> Limits {
        self.state.lock().limits
    }
    /// Changes them.
    pub fn set_limits(&self, limits: Limits) {
        self.state.lock().limits = limits;
    }
    /// Its capabilities.
    pub fn credentials(&self) -> Credentials {
        self.state.lock().credentials
    }
    /// Changes them.
    pub fn set_credentials(&self, credentials: Credentials) {
        self.state.lock().credentials = credentials;
    }
    /// Has it a capability (`CAP_*`)?
    pub fn capable(&self, capability: u32) -> bool {
        self.credentials().effective >> capability & 1 != 0
    }
    /// Ids of its threads.
    pub fn thread_ids(&self) -> Vec<u32> {
        self.state.lock().threads.iter().copied().collect()
    }
    /// Do its threads have to go?
    pub fn ending(&self) -> Option<Status> {
        self.state.lock().ending
    }
    /// How it ended, once all threads are gone.
    pub fn ended(&self) -> Option<Status> {
        self.state.lock().ended
    }
    /// CPU time of its own and of children waited for, nanoseconds.
    pub fn times(&self) -> (u64, u64) {
        (self.time.load(Ordering::Relaxed), self.state.lock().children_time)
    }
    /// Has the vfork parent of this process been let go?
    pub fn vfork_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }
    /// Signalled when it is.
    pub fn vfork_event(&self) -> &Event {
        &self.release
    }
    pub(crate) fn let_parent_go(&self) {
        self.released.store(true, Ordering::Release);
        self.release.signal();
    }
    /// `siginfo` of a signal this process sends.
    pub fn sender(self: &Arc<Self>, signal: u32, code: i32) -> SigInfo {
        from_process(signal, code, self)
    }
    /// `siginfo` of SIGCHLD about this process.
    pub(crate) fn obituary(&self, status: Status) -> SigInfo {
        use uapi::linux::signal::{CLD_EXITED, CLD_KILLED};
        let (code, value) = match status {
            Status::Exited(code) => (CLD_EXITED, code),
            Status::Killed(signal) => (CLD_KILLED, signal),
        };
        SigInfo { first: u64::from(self.pid), second: u64::from(value), ..SigInfo::new(SIGCHLD, code) }
    }
}
