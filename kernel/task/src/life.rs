//! Beginning and end of processes and threads.

use crate::process::{NewProcess, SharedSpace};
use crate::{Actions, Context, Credentials, FsContext, Kernel, Limits, Process, Restart, Status, Thread, WaitOn};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use mm::{AddressSpace, Program, Start};
use spin::Mutex;
use uapi::linux::fs::O_RDWR;
use uapi::linux::sched::*;
use uapi::linux::signal::*;
use uapi::{Errno, UserMem};
use vfs::{FdTable, OpenFile};

/// clone(2) and clone3(2), decoded.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneRequest {
    /// `CLONE_*`.
    pub flags: u64,
    /// Stack pointer of the child; 0: the parent's.
    pub stack: u64,
    /// Thread pointer, with CLONE_SETTLS.
    pub tls: u64,
    /// Where the parent wants the child's id.
    pub parent_tid: u64,
    /// Where the child wants it, or wants it cleared at its end.
    pub child_tid: u64,
    /// Signal to the parent at the child's end; 0: none.
    pub exit_signal: u32,
}

/// execve(2), decoded.
pub struct ExecRequest {
    /// The program.
    pub file: Arc<OpenFile>,
    /// Name it was called by.
    pub name: Vec<u8>,
    /// Arguments.
    pub argv: Vec<Vec<u8>>,
    /// Environment.
    pub envp: Vec<Vec<u8>>,
}

/// Flags of clone that are understood. Those without an effect here are named too.
const KNOWN: u64 = CLONE_VM
    | CLONE_FS
    | CLONE_FILES
    | CLONE_SIGHAND
    | CLONE_PIDFD
    | CLONE_VFORK
    | CLONE_PARENT
    | CLONE_THREAD
    | CLONE_SYSVSEM
    | CLONE_SETTLS
    | CLONE_PARENT_SETTID
    | CLONE_CHILD_CLEARTID
    | CLONE_DETACHED
    | CLONE_CHILD_SETTID
    | CLONE_CLEAR_SIGHAND;

fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

fn joined(argv: &[Vec<u8>]) -> Vec<u8> {
    let mut line = Vec::new();
    for argument in argv {
        line.extend_from_slice(argument);
        line.push(0);
    }
    line
}

impl Kernel {
    /// Loads a program into a new address space.
    fn load(&self, request: &ExecRequest) -> Result<(Arc<AddressSpace>, Start), Errno> {
        let space = AddressSpace::new(self.frames.clone(), self.tables.clone())?;
        let mut random = [0; 16];
        self.machine.random(&mut random);
        let program = Program {
            file: request.file.clone(),
            name: &request.name,
            argv: &request.argv,
            envp: &request.envp,
            machine: self.machine.elf_machine(),
            hwcap: self.machine.hwcap(),
            platform: self.machine.platform(),
            random,
            min_signal_stack: self.machine.min_signal_stack(),
        };
        let start = mm::load(&space, &program)?;
        Ok((space, start))
    }
    /// Starts a program from inside the kernel, with the console as standard input, output and error; returns its pid.
    ///
    /// # Errors
    /// As open(2) and execve(2).
    pub fn spawn(&self, path: &[u8], argv: Vec<Vec<u8>>, envp: Vec<Vec<u8>>) -> Result<u32, Errno> {
        let root = self.tree.root();
        let file = self.tree.open(&root, path, 0, 0, vfs::Viewer::default())?;
        if file.file.stat().kind != vfs::FileKind::Regular {
            return Err(Errno::EACCES);
        }
        let exe = file.place.as_ref().map(|place| place.path()).unwrap_or_default();
        let request = ExecRequest { file, name: path.to_vec(), argv, envp };
        let (space, start) = self.load(&request)?;
        let context = self.machine.new_context(start.entry, start.stack)?;
        let mut table = FdTable::new();
        let console = OpenFile::new(self.console.clone(), O_RDWR);
        for _ in 0..3 {
            table.insert(console.clone(), 0, false)?;
        }
        let pid = self.new_id()?;
        let process = Process::new(NewProcess {
            pid,
            parent: 0,
            group: pid,
            session: pid,
            exit_signal: 0,
            space: Arc::new(SharedSpace(space)),
            files: Arc::new(Mutex::new(table)),
            fs: Arc::new(Mutex::new(FsContext { cwd: root, umask: 0o022 })),
            actions: Arc::new(Mutex::new(Actions::default())),
            exe,
            cmdline: joined(&request.argv),
            limits: Limits::default(),
            credentials: Credentials::default(),
        });
        self.insert_process(&process);
        let thread = Thread::new(pid, process, context);
        thread.set_name(file_name(path));
        self.insert_thread(&thread);
        self.ready(thread);
        Ok(pid)
    }
    /// clone(2): makes a thread or a process; returns it, not yet queued ([`start`](Self::start)).
    ///
    /// # Errors
    /// `EINVAL` flags that contradict each other or are unknown; `EAGAIN`; `ENOMEM`; `EFAULT`.
    pub fn clone_thread(&self, parent: &Arc<Thread>, request: &CloneRequest) -> Result<Arc<Thread>, Errno> {
        let flags = request.flags;
        let has = |flag: u64| flags & flag != 0;
        if flags & !KNOWN != 0
            || has(CLONE_THREAD) && !has(CLONE_SIGHAND)
            || has(CLONE_SIGHAND) && !has(CLONE_VM)
            || has(CLONE_SIGHAND) && has(CLONE_CLEAR_SIGHAND)
            || has(CLONE_THREAD) && has(CLONE_PIDFD)
            || request.exit_signal > NSIG
        {
            return Err(Errno::EINVAL);
        }
        if has(CLONE_SETTLS) && request.tls >= mm::USER_END {
            return Err(Errno::EPERM);
        }
        let tid = self.new_id()?;
        let mut context = parent.context().duplicate()?;
        let mut regs = context.regs();
        // The child's result: register 0 in the encoding of x86-64 and of aarch64.
        regs.gpr[0] = 0;
        if request.stack != 0 {
            regs.sp = request.stack;
        }
        if has(CLONE_SETTLS) {
            regs.tls = request.tls;
        }
        context.set_regs(&regs);
        let process = if has(CLONE_THREAD) { parent.process.clone() } else { self.fork(parent, tid, request)? };
        let child = Thread::new(tid, process, context);
        {
            let from = parent.state.lock();
            let mut to = child.state.lock();
            to.blocked = from.blocked;
            to.name = from.name;
            // The alternate stack is the parent's, except for a thread of the same memory.
            if !has(CLONE_VM) || has(CLONE_VFORK) {
                to.alt_stack = from.alt_stack;
            }
            if has(CLONE_CHILD_CLEARTID) {
                to.clear_tid = request.child_tid;
            }
        }
        let id = tid.to_le_bytes();
        if has(CLONE_PARENT_SETTID) {
            parent.space().ok_or(Errno::EFAULT)?.copy_out(request.parent_tid, &id)?;
        }
        if has(CLONE_CHILD_SETTID)
            && let Some(space) = child.space()
        {
            // As on Linux: a bad address here is the child's own problem.
            let _ = space.copy_out(request.child_tid, &id);
        }
        if !has(CLONE_THREAD) {
            self.insert_process(&child.process);
        }
        self.insert_thread(&child);
        Ok(child)
    }
    fn fork(&self, parent: &Arc<Thread>, pid: u32, request: &CloneRequest) -> Result<Arc<Process>, Errno> {
        let has = |flag: u64| request.flags & flag != 0;
        let from = &parent.process;
        let space = if has(CLONE_VM) {
            from.space.lock().clone().ok_or(Errno::EFAULT)?
        } else {
            Arc::new(SharedSpace(from.space().ok_or(Errno::EFAULT)?.fork()?))
        };
        let files = if has(CLONE_FILES) { from.files() } else { Arc::new(Mutex::new(from.files().lock().clone())) };
        let fs = if has(CLONE_FS) { from.fs() } else { Arc::new(Mutex::new(from.fs().lock().clone())) };
        let actions = if has(CLONE_SIGHAND) {
            from.actions()
        } else {
            let mut actions = from.actions().lock().clone();
            if has(CLONE_CLEAR_SIGHAND) {
                actions.reset();
            }
            Arc::new(Mutex::new(actions))
        };
        let state = from.state.lock();
        Ok(Process::new(NewProcess {
            pid,
            parent: if has(CLONE_PARENT) { state.parent } else { from.pid },
            group: state.group,
            session: state.session,
            exit_signal: request.exit_signal,
            space,
            files,
            fs,
            actions,
            exe: state.exe.clone(),
            cmdline: state.cmdline.clone(),
            limits: state.limits,
            credentials: state.credentials,
        }))
    }
    /// Queues a thread made by [`clone_thread`](Self::clone_thread).
    pub fn start(&self, thread: Arc<Thread>) {
        self.ready(thread);
    }
    /// vfork: what the parent waits for; `None` when it may go on.
    pub fn vfork_wait(&self, parent: &Thread, child: &Arc<Process>) -> Option<WaitOn> {
        let ticket = child.vfork_event().ticket();
        if child.vfork_released() {
            return None;
        }
        parent.state.lock().restart = Some(Restart::Vfork(child.clone()));
        Some(WaitOn::ticket(ticket))
    }
    /// execve(2): on success the thread runs the new program, and is the only one of its process.
    ///
    /// # Errors
    /// `ENOEXEC`, `E2BIG`, `ENOMEM`; nothing changed.
    pub fn exec(&self, thread: &Arc<Thread>, request: &ExecRequest) -> Result<(), Errno> {
        let process = &thread.process;
        let (space, start) = self.load(request)?;
        let context = self.machine.new_context(start.entry, start.stack)?;
        // From here on nothing fails.
        for other in self.threads_of(process) {
            if other.tid != thread.tid {
                // Its words are in the old memory, which is still there.
                self.abandon(&other);
                self.futex_exit(&other);
                other.gone.store(true, Ordering::Release);
                other.wake.signal();
            }
        }
        self.futex_exit(thread);
        let old_context: Box<dyn Context> = core::mem::replace(&mut *thread.context(), context);
        let old_space = process.space.lock().replace(Arc::new(SharedSpace(space)));
        let mut own = process.files().lock().clone();
        let closed = own.take_close_on_exec();
        let old_files = process.replace_files(Arc::new(Mutex::new(own)));
        let mut actions = process.actions().lock().clone();
        actions.reset();
        process.replace_actions(Arc::new(Mutex::new(actions)));
        {
            let mut state = thread.state.lock();
            state.alt_stack = AltStack { flags: SS_DISABLE, ..AltStack::default() };
            state.saved.clear();
            state.restart = None;
        }
        thread.set_name(file_name(&request.name));
        {
            let mut state = process.state.lock();
            state.exe = request.file.place.as_ref().map(|place| place.path()).unwrap_or_default();
            state.cmdline = joined(&request.argv);
        }
        process.let_parent_go();
        drop((old_context, closed, old_files, old_space));
        Ok(())
    }
    /// exit(2): ends one thread, and its process if it was the last.
    pub fn exit_thread(&self, thread: &Arc<Thread>, code: u8) {
        {
            let mut state = thread.process.state.lock();
            state.last_exit = Status::Exited(code);
        }
        thread.gone.store(true, Ordering::Release);
        self.end_thread(thread);
    }
    /// exit_group(2), or a signal: every thread of the process has to go. The first status counts.
    pub fn end_process(&self, process: &Process, status: Status) {
        process.state.lock().ending.get_or_insert(status);
        for thread in self.threads_of(process) {
            thread.wake.signal();
        }
    }
    /// Ends a thread that runs nowhere and is on no queue.
    pub fn end_thread(&self, thread: &Arc<Thread>) {
        self.abandon(thread);
        self.futex_exit(thread);
        if !self.remove_thread(thread) {
            return;
        }
        let process = &thread.process;
        let status = {
            let mut state = process.state.lock();
            state.threads.remove(&thread.tid);
            if !state.threads.is_empty() {
                return;
            }
            state.ending.unwrap_or(state.last_exit)
        };
        self.bury(process, status);
    }
    fn bury(&self, process: &Arc<Process>, status: Status) {
        // Dropped without a lock: closing files may take down devices, and pins must see a dead space.
        let space = process.space.lock().take();
        drop(space);
        let files = process.replace_files(Arc::new(Mutex::new(FdTable::new())));
        drop(files);
        process.let_parent_go();
        let parent = process.parent();
        for child in self.processes().into_iter().filter(|child| child.parent() == process.pid) {
            // Orphans go to process 1; without one, the kernel forgets them at their end.
            let heir = if process.pid != 1 && self.process(1).is_some_and(|one| one.ended().is_none()) { 1 } else { 0 };
            let ended = {
                let mut state = child.state.lock();
                state.parent = heir;
                state.ended.is_some()
            };
            match (ended, self.process(heir)) {
                (true, Some(heir)) => heir.children.signal(),
                (true, None) => self.reap(child.pid),
                _ => {}
            }
        }
        let exit_signal = {
            let mut state = process.state.lock();
            state.ended = Some(status);
            state.exit_signal
        };
        process.end.signal();
        let Some(parent) = self.process(parent) else { return };
        let action = parent.actions().lock().get(SIGCHLD);
        if action.handler == SIG_IGN || action.flags & SA_NOCLDWAIT != 0 {
            self.reap(process.pid);
        } else if exit_signal != 0 {
            let info = SigInfo { signo: exit_signal as i32, ..process.obituary(status) };
            self.signal_process(&parent, info);
        }
        parent.children.signal();
    }
}
