//! A kernel without a CPU: threads are moved by setting their registers.
#![allow(dead_code)]

use mm::{Backing, MapRequest, Prot};
use std::sync::Arc;
use syscall::{System, Trap, X86_64, iommu_node};
use task::testing::TestKernel;
use task::{Status, Thread};
use uapi::UserMem;
use vfs::{Node, Viewer};

pub struct Bench {
    pub test: TestKernel,
    pub system: Arc<System>,
}

/// Where a test program "executes" its system calls: the address after the instruction.
const AFTER: u64 = 0x40_0102;
/// A buffer of 16 pages in every program.
pub const BUF: u64 = 0x10_0000;

/// Numbers of x86-64, typed from its table.
pub mod nr {
    pub const READ: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const OPEN: u64 = 2;
    pub const CLOSE: u64 = 3;
    pub const POLL: u64 = 7;
    pub const LSEEK: u64 = 8;
    pub const MMAP: u64 = 9;
    pub const MUNMAP: u64 = 11;
    pub const BRK: u64 = 12;
    pub const SIGACTION: u64 = 13;
    pub const SIGPROCMASK: u64 = 14;
    pub const SIGRETURN: u64 = 15;
    pub const IOCTL: u64 = 16;
    pub const PREAD: u64 = 17;
    pub const WRITEV: u64 = 20;
    pub const DUP2: u64 = 33;
    pub const PAUSE: u64 = 34;
    pub const NANOSLEEP: u64 = 35;
    pub const GETPID: u64 = 39;
    pub const SOCKET: u64 = 41;
    pub const SOCKETPAIR: u64 = 53;
    pub const CLONE: u64 = 56;
    pub const FORK: u64 = 57;
    pub const VFORK: u64 = 58;
    pub const EXECVE: u64 = 59;
    pub const EXIT: u64 = 60;
    pub const WAIT4: u64 = 61;
    pub const KILL: u64 = 62;
    pub const FCNTL: u64 = 72;
    pub const GETCWD: u64 = 79;
    pub const CHDIR: u64 = 80;
    pub const MKDIR: u64 = 83;
    pub const SIGALTSTACK: u64 = 131;
    pub const FUTEX: u64 = 202;
    pub const GETDENTS: u64 = 217;
    pub const SET_TID_ADDRESS: u64 = 218;
    pub const EXIT_GROUP: u64 = 231;
    pub const EPOLL_WAIT: u64 = 232;
    pub const EPOLL_CTL: u64 = 233;
    pub const TGKILL: u64 = 234;
    pub const EVENTFD2: u64 = 290;
    pub const EPOLL_CREATE1: u64 = 291;
    pub const PIPE2: u64 = 293;
    pub const PIDFD_OPEN: u64 = 434;
    pub const CLONE3: u64 = 435;
}

impl Bench {
    pub fn new() -> Self {
        Self::with_frames(4096)
    }
    pub fn with_frames(frames: u64) -> Self {
        let test = TestKernel::new(frames);
        let system = System::new(test.kernel.clone(), &X86_64);
        let tree = &test.kernel.tree;
        tree.install("/bin/prog", Node::rom(Box::leak(elf().into_boxed_slice()), 0o755)).unwrap();
        tree.install("/bin/noexec", Node::rom(b"#!nothing", 0o755)).unwrap();
        tree.install("/etc/motd", Node::rom(b"hello world\n", 0o644)).unwrap();
        tree.install("/dev/iommu", iommu_node(|| ())).unwrap();
        Self { test, system }
    }
    /// A new program, not queued, with a buffer at [`BUF`].
    pub fn program(&self) -> Arc<Thread> {
        let pid = self.test.kernel.spawn(b"/bin/prog", vec![b"prog".to_vec()], vec![]).unwrap();
        let thread = self.test.kernel.next().unwrap();
        assert_eq!(thread.tid, pid);
        self.buffer(&thread);
        thread
    }
    pub fn buffer(&self, thread: &Thread) {
        let request =
            MapRequest { address: BUF, length: 0x1_0000, prot: Prot::RW, flags: 0x32, backing: Backing::Anonymous };
        assert_eq!(thread.space().unwrap().map(request), Ok(BUF));
    }
    pub fn put(&self, thread: &Thread, at: u64, bytes: &[u8]) {
        thread.space().unwrap().copy_out(at, bytes).unwrap();
    }
    pub fn put64(&self, thread: &Thread, at: u64, words: &[u64]) {
        for (index, word) in words.iter().enumerate() {
            self.put(thread, at + index as u64 * 8, &word.to_le_bytes());
        }
    }
    pub fn get(&self, thread: &Thread, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        thread.space().unwrap().copy_in(at, &mut bytes).unwrap();
        bytes
    }
    pub fn get32(&self, thread: &Thread, at: u64) -> u32 {
        u32::from_le_bytes(self.get(thread, at, 4).try_into().unwrap())
    }
    pub fn get64(&self, thread: &Thread, at: u64) -> u64 {
        u64::from_le_bytes(self.get(thread, at, 8).try_into().unwrap())
    }
    /// Lets the thread make a call; it is queued, parked or gone afterwards.
    pub fn enter(&self, thread: &Arc<Thread>, number: u64, args: &[u64]) {
        let mut context = thread.context();
        let mut regs = context.regs();
        regs.gpr[0] = number;
        for (register, value) in [7, 6, 2, 10, 8, 9].into_iter().zip(args.iter().chain(std::iter::repeat(&0))) {
            regs.gpr[register] = *value;
        }
        regs.ip = AFTER;
        context.set_regs(&regs);
        drop(context);
        self.system.handle(thread, Trap::Call);
    }
    /// The next thread that can run. One that waited makes its call again first, as its instruction would.
    pub fn next(&self) -> Option<Arc<Thread>> {
        for _ in 0..1000 {
            let thread = self.test.kernel.next()?;
            let again = thread.context().regs().ip == AFTER - 2;
            if !again {
                return Some(thread);
            }
            let mut context = thread.context();
            let mut regs = context.regs();
            regs.ip = AFTER;
            context.set_regs(&regs);
            drop(context);
            self.system.handle(&thread, Trap::Call);
        }
        panic!("a call is made again for ever");
    }
    /// The result in the registers.
    pub fn result(&self, thread: &Thread) -> i64 {
        thread.context().regs().gpr[0] as i64
    }
    /// A call of a thread that runs alone: its result, or `None` if it waits.
    pub fn call(&self, thread: &Arc<Thread>, number: u64, args: &[u64]) -> Option<i64> {
        self.enter(thread, number, args);
        let next = self.next()?;
        assert!(Arc::ptr_eq(&next, thread), "another thread runs");
        Some(self.result(thread))
    }
    /// The same, where waiting would be wrong.
    pub fn done(&self, thread: &Arc<Thread>, number: u64, args: &[u64]) -> i64 {
        self.call(thread, number, args).expect("the call waits")
    }
    /// A path at a place of the buffer, with its end.
    pub fn path(&self, thread: &Thread, at: u64, path: &str) -> u64 {
        self.put(thread, at, format!("{path}\0").as_bytes());
        at
    }
    pub fn open(&self, thread: &Arc<Thread>, path: &str, flags: u64) -> i64 {
        let at = self.path(thread, BUF + 0xf000, path);
        self.done(thread, nr::OPEN, &[at, flags, 0o644])
    }
    /// Ends a program and forgets it.
    pub fn end(&self, thread: Arc<Thread>) {
        let pid = thread.process.pid;
        self.enter(&thread, nr::EXIT_GROUP, &[0]);
        drop(thread);
        while let Some(other) = self.next() {
            // Whoever is left over ends too.
            self.test.kernel.end_process(&other.process, Status::Killed(9));
            self.test.kernel.end_thread(&other);
        }
        self.test.kernel.reap(pid);
    }
    /// Sends a signal from outside.
    pub fn kill(&self, thread: &Thread, signal: u32) {
        let info = uapi::linux::signal::SigInfo::new(signal, 0);
        self.test.kernel.signal_process(&thread.process, info);
    }
    pub fn resolve(&self, path: &str) -> bool {
        let tree = &self.test.kernel.tree;
        tree.resolve(&tree.root(), path.as_bytes(), Viewer::default(), true).is_ok()
    }
}

/// One executable page at 0x400000, one writable page at 0x401000.
pub fn elf() -> Vec<u8> {
    let mut elf = vec![0; 0x2000];
    let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1, 0, 0, 0]);
    put(24, &0x40_0180u64.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 2, 0]);
    for (index, flags, base) in [(0, 5u32, 0u64), (1, 6, 0x1000)] {
        let at = 64 + index * 56;
        put(at, &1u32.to_le_bytes());
        put(at + 4, &flags.to_le_bytes());
        for (word, value) in [base, 0x40_0000 + base, 0, 0x1000, 0x1000, 0x1000].into_iter().enumerate() {
            put(at + 8 + word * 8, &value.to_le_bytes());
        }
    }
    elf
}

/// -errno.
pub fn failed(error: uapi::Errno) -> i64 {
    error.as_return()
}
