//! The kernel as processes see it: tables of processes and threads, and what they are made of.

use crate::futex::Futexes;
use crate::sched::Sched;
use crate::{Machine, Process, Status, Thread};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use mm::{Frames, NewTables};
use spin::{Mutex, Once};
use uapi::Errno;
use vfs::{File, SocketFactory, Tree};

/// What a kernel is put together from.
pub struct Parts {
    /// Clocks, registers, random bytes.
    pub machine: Arc<dyn Machine>,
    /// Memory.
    pub frames: Arc<dyn Frames>,
    /// CPU tables.
    pub tables: Arc<dyn NewTables>,
    /// Names.
    pub tree: Arc<Tree>,
    /// Standard input and output of the first programs; also /dev/console.
    pub console: Arc<dyn File>,
}

/// The kernel.
pub struct Kernel {
    /// Clocks, registers, random bytes.
    pub machine: Arc<dyn Machine>,
    /// Memory.
    pub frames: Arc<dyn Frames>,
    pub(crate) tables: Arc<dyn NewTables>,
    /// Names.
    pub tree: Arc<Tree>,
    pub(crate) console: Arc<dyn File>,
    sockets: Once<Arc<dyn SocketFactory>>,
    processes: Mutex<BTreeMap<u32, Arc<Process>>>,
    threads: Mutex<BTreeMap<u32, Arc<Thread>>>,
    pub(crate) sched: Mutex<Sched>,
    pub(crate) futexes: Futexes,
    next_id: AtomicU32,
    /// Bytes all processes together have charged as locked memory.
    pub locked: AtomicU64,
}

/// Most threads of all processes together.
const MAX_THREADS: usize = 4096;

impl Kernel {
    /// A kernel without processes.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { machine, frames, tables, tree, console } = parts;
        Arc::new(Self {
            machine,
            frames,
            tables,
            tree,
            console,
            sockets: Once::new(),
            processes: Mutex::new(BTreeMap::new()),
            threads: Mutex::new(BTreeMap::new()),
            sched: Mutex::new(Sched::default()),
            futexes: Futexes::default(),
            next_id: AtomicU32::new(1),
            locked: AtomicU64::new(0),
        })
    }
    /// Gives it a network; the first one counts.
    pub fn set_sockets(&self, sockets: Arc<dyn SocketFactory>) {
        self.sockets.call_once(|| sockets);
    }
    /// Its network.
    ///
    /// # Errors
    /// `EAFNOSUPPORT` if it has none.
    pub fn sockets(&self) -> Result<&Arc<dyn SocketFactory>, Errno> {
        self.sockets.get().ok_or(Errno::EAFNOSUPPORT)
    }
    /// The console.
    pub fn console(&self) -> Arc<dyn File> {
        self.console.clone()
    }
    /// A process or zombie.
    pub fn process(&self, pid: u32) -> Option<Arc<Process>> {
        self.processes.lock().get(&pid).cloned()
    }
    /// All processes and zombies.
    pub fn processes(&self) -> Vec<Arc<Process>> {
        self.processes.lock().values().cloned().collect()
    }
    /// A thread.
    pub fn thread(&self, tid: u32) -> Option<Arc<Thread>> {
        self.threads.lock().get(&tid).cloned()
    }
    /// The threads of a process.
    pub fn threads_of(&self, process: &Process) -> Vec<Arc<Thread>> {
        process.thread_ids().into_iter().filter_map(|tid| self.thread(tid)).collect()
    }
    /// How a process ended that the kernel itself started ([`spawn`](Self::spawn)); `None` while it runs. A process
    /// that nobody knows counts as exited with 0.
    pub fn ended(&self, pid: u32) -> Option<Status> {
        self.process(pid).map_or(Some(Status::Exited(0)), |process| process.ended())
    }
    /// Forgets a process that ended.
    pub fn reap(&self, pid: u32) {
        let gone = {
            let mut processes = self.processes.lock();
            match processes.get(&pid) {
                Some(process) if process.ended().is_some() => processes.remove(&pid),
                _ => None,
            }
        };
        drop(gone);
    }
    /// A new process or thread id.
    ///
    /// # Errors
    /// `EAGAIN` if there are too many.
    pub(crate) fn new_id(&self) -> Result<u32, Errno> {
        if self.threads.lock().len() >= MAX_THREADS {
            return Err(Errno::EAGAIN);
        }
        // Linux's default range; a number in use is skipped.
        for _ in 0..2 * MAX_THREADS {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed) % 4_194_304;
            if id > 0 && self.thread(id).is_none() && self.process(id).is_none() {
                return Ok(id);
            }
        }
        Err(Errno::EAGAIN)
    }
    pub(crate) fn insert_process(&self, process: &Arc<Process>) {
        self.processes.lock().insert(process.pid, process.clone());
    }
    pub(crate) fn insert_thread(&self, thread: &Arc<Thread>) {
        thread.process.state.lock().threads.insert(thread.tid);
        self.threads.lock().insert(thread.tid, thread.clone());
    }
    pub(crate) fn remove_thread(&self, thread: &Thread) -> bool {
        self.threads.lock().remove(&thread.tid).is_some()
    }
    /// Adds to the CPU time of a thread's process.
    pub fn account(&self, thread: &Thread, nanos: u64) {
        thread.process.time.fetch_add(nanos, Ordering::Relaxed);
    }
}
