//! A machine for tests: registers without a CPU, a clock that stands still, and the frames and tables of
//! [`mm::testing`].

use crate::{Context, Kernel, Machine, Parts, Regs};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use mm::testing::TestMachine;
use mm::{NoMemory, ShmemStores};
use spin::Mutex;
use vfs::{Console, Tree};

/// Registers of a test thread; `float` stands for its floating-point state.
#[derive(Clone, Default)]
pub struct TestContext {
    /// Integer registers.
    pub regs: Regs,
    /// The rest.
    pub float: u64,
}

impl Context for TestContext {
    fn regs(&self) -> Regs {
        self.regs
    }
    fn set_regs(&mut self, regs: &Regs) {
        self.regs = *regs;
    }
    fn duplicate(&self) -> Result<Box<dyn Context>, NoMemory> {
        Ok(Box::new(self.clone()))
    }
}

/// Clocks of a test machine.
#[derive(Default)]
pub struct TestClock(AtomicU64);

impl TestClock {
    /// Moves time on by `nanos`.
    pub fn advance(&self, nanos: u64) {
        self.0.fetch_add(nanos, Ordering::Relaxed);
    }
}

struct TestCpu(Arc<TestClock>);

/// Realtime at the start of a test machine, nanoseconds since 1970.
pub const TEST_EPOCH: u64 = 1_700_000_000_000_000_000;

impl Machine for TestCpu {
    fn new_context(&self, entry: u64, stack: u64) -> Result<Box<dyn Context>, NoMemory> {
        Ok(Box::new(TestContext { regs: Regs { ip: entry, sp: stack, ..Regs::default() }, float: 0 }))
    }
    fn monotonic(&self) -> u64 {
        self.0.0.load(Ordering::Relaxed)
    }
    fn realtime(&self) -> u64 {
        TEST_EPOCH + self.monotonic()
    }
    fn random(&self, to: &mut [u8]) {
        to.fill(4);
    }
    fn hwcap(&self) -> [u64; 2] {
        [0, 0]
    }
    fn platform(&self) -> &'static str {
        "x86_64"
    }
    fn elf_machine(&self) -> u16 {
        62
    }
    fn min_signal_stack(&self) -> u64 {
        2048
    }
    fn cpuinfo(&self) -> String {
        String::from("processor\t: 0\n")
    }
}

/// A kernel on a test machine, and its parts.
pub struct TestKernel {
    /// The kernel.
    pub kernel: Arc<Kernel>,
    /// Frames and tables.
    pub machine: Arc<TestMachine>,
    /// Time.
    pub clock: Arc<TestClock>,
    /// The console; [`Console::input`] types.
    pub console: Arc<Console>,
    /// What was written to it.
    pub output: Arc<Mutex<Vec<u8>>>,
}

impl TestKernel {
    /// A kernel with `frames` frames and an empty tree.
    pub fn new(frames: u64) -> Self {
        let machine = TestMachine::new(frames);
        let clock = Arc::new(TestClock::default());
        let output = Arc::new(Mutex::new(Vec::new()));
        let sink = output.clone();
        let console = Arc::new(Console::new(Box::new(move |bytes| sink.lock().extend_from_slice(bytes))));
        let now = clock.clone();
        let tree = Tree::new(
            Arc::new(ShmemStores(machine.clone())),
            Box::new(move || TEST_EPOCH + now.0.load(Ordering::Relaxed)),
        );
        let kernel = Kernel::new(Parts {
            machine: Arc::new(TestCpu(clock.clone())),
            frames: machine.clone(),
            tables: machine.tables(),
            tree: Arc::new(tree),
            console: console.clone(),
        });
        Self { kernel, machine, clock, console, output }
    }
}
