//! The loop of a CPU: poll devices, run the next thread, handle its trap, or sleep.

use crate::machine::{Cpu, X86};
use crate::platform::user;
use crate::{console, memory};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch_x86_64::user::Trap;
use arch_x86_64::{apic, cpu, time, trap};
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;
use syscall::{System, X86_64};
use task::{Kernel, Parts, Status, Thread};
use uapi::Errno;
use uapi::linux::signal::{SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP};
use vfs::Console;

/// A thread runs at most this long before others and devices have their turn.
const SLICE_NS: u64 = 2_000_000;
/// Devices are looked at at least this often while programs run.
const POLL_NS: u64 = 100_000;
/// The serial port is slow to ask.
const CONSOLE_NS: u64 = 5_000_000;
/// Longest sleep: devices that raise no interrupt are polled.
const IDLE_NS: u64 = 250_000;
/// Arming the timer again is not worth it for less.
const SLACK_NS: u64 = 20_000;

/// Asked regularly: does what a device has to do; returns when it wants to be asked at the latest, in monotonic
/// nanoseconds.
pub type Poller = Box<dyn FnMut() -> Option<u64> + Send>;

static POLLERS: Mutex<Vec<Poller>> = Mutex::new(Vec::new());

/// Adds a device to be polled.
pub fn on_poll(poller: Poller) {
    POLLERS.lock().push(poller);
}

/// Programs, and what they need.
pub struct Runner {
    /// Processes.
    pub kernel: Arc<Kernel>,
    system: Arc<System>,
    terminal: Arc<Console>,
    polled: AtomicU64,
    console_polled: AtomicU64,
    /// When the first poller wants to be asked again; 0: none does.
    wanted: AtomicU64,
    /// When the timer will fire; 0: not armed.
    armed: AtomicU64,
}

impl Runner {
    /// Makes the processes' side of the kernel over the initial archive.
    pub fn new(archive: &'static [u8]) -> Self {
        let machine = X86::new();
        let terminal = Arc::new(Console::new(Box::new(console::write)));
        let tree = crate::files::tree(archive, machine);
        let kernel = Kernel::new(Parts {
            machine: Arc::new(machine),
            frames: memory::shared(),
            tables: Arc::new(user::MakeTables),
            tree,
            console: terminal.clone(),
        });
        let system = System::new(kernel.clone(), &X86_64);
        let zero = || AtomicU64::new(0);
        Self { kernel, system, terminal, polled: zero(), console_polled: zero(), wanted: zero(), armed: zero() }
    }

    /// Starts a program with the console as its standard files; returns its pid.
    ///
    /// # Errors
    /// As execve(2).
    pub fn spawn(&self, argv: &[Vec<u8>], envp: Vec<Vec<u8>>) -> Result<u32, Errno> {
        let path = argv.first().ok_or(Errno::ENOENT)?;
        self.kernel.spawn(path, argv.to_vec(), envp)
    }

    /// Runs threads until process `pid` has ended; returns how. The process is forgotten then.
    pub fn until_ended(&self, pid: u32) -> Status {
        loop {
            if let Some(status) = self.kernel.ended(pid) {
                self.kernel.reap(pid);
                return status;
            }
            self.step(true);
        }
    }

    /// One turn: polls, and runs one thread until it traps, or sleeps for a moment if none can run.
    pub fn step(&self, feed_terminal: bool) {
        self.poll(feed_terminal);
        match self.kernel.next() {
            Some(thread) => self.run(&thread),
            None => self.sleep(),
        }
    }

    fn run(&self, thread: &Arc<Thread>) {
        // Keeps the page tables alive while they are loaded.
        let Some(space) = thread.space() else { return self.kernel.end_thread(thread) };
        let begin = time::now_ns();
        self.arm(begin + SLICE_NS, begin);
        self.system.starts();
        let trap = {
            let mut context = thread.context();
            let Some(cpu) = (&mut **context as &mut dyn Any).downcast_mut::<Cpu>() else {
                panic!("a thread's registers are not this machine's");
            };
            user::run(&mut cpu.0, space.root())
        };
        if trap == Trap::Interrupt(trap::TIMER) {
            self.armed.store(0, Ordering::Relaxed);
        }
        self.system.handle(thread, convert(trap));
    }

    /// Makes sure that the timer fires by `at` and by the first deadline.
    fn arm(&self, at: u64, now: u64) {
        let at = self.kernel.deadline().map_or(at, |deadline| at.min(deadline));
        let armed = self.armed.load(Ordering::Relaxed);
        if armed == 0 || armed > at + SLACK_NS || armed < now {
            apic::arm_timer(at.saturating_sub(now));
            self.armed.store(at.max(1), Ordering::Relaxed);
        }
    }

    fn sleep(&self) {
        let now = time::now_ns();
        let wanted = self.wanted.load(Ordering::Relaxed);
        let until = if wanted == 0 { now + IDLE_NS } else { wanted.clamp(now, now + IDLE_NS) };
        self.arm(until, now);
        cpu::idle();
        if trap::take_pending(trap::TIMER) {
            self.armed.store(0, Ordering::Relaxed);
        }
    }

    fn poll(&self, feed_terminal: bool) {
        let now = time::now_ns();
        if now < self.polled.load(Ordering::Relaxed) + POLL_NS {
            return;
        }
        self.polled.store(now, Ordering::Relaxed);
        let wanted = POLLERS.lock().iter_mut().filter_map(|poller| poller()).min();
        self.wanted.store(wanted.unwrap_or(0), Ordering::Relaxed);
        if now >= self.console_polled.load(Ordering::Relaxed) + CONSOLE_NS {
            self.console_polled.store(now, Ordering::Relaxed);
            if console::poll() && feed_terminal {
                let mut bytes = [0; 64];
                let count = console::read(&mut bytes);
                self.terminal.input(&bytes[..count]);
            }
        }
    }
}

fn convert(trap: Trap) -> syscall::Trap {
    match trap {
        Trap::Syscall => syscall::Trap::Call,
        Trap::PageFault { addr, write, exec, present: _ } => syscall::Trap::PageFault { address: addr, write, exec },
        Trap::Exception { vector, code: _ } => {
            // As Linux maps them: divide and FP errors, breakpoints, bad opcodes, alignment, all else.
            let signal = match vector {
                0 | 16 | 19 => SIGFPE,
                1 | 3 => SIGTRAP,
                6 => SIGILL,
                17 => SIGBUS,
                _ => SIGSEGV,
            };
            syscall::Trap::Exception { signal, what: trap::exception_name(vector.into()) }
        }
        Trap::Interrupt(_) => syscall::Trap::Interrupt,
    }
}
