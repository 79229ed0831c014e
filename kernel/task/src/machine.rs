//! What processes need of the machine: registers of a thread, clocks, random bytes.

use alloc::boxed::Box;
use alloc::string::String;
use core::any::Any;
use mm::NoMemory;

/// The integer registers of a thread, in the numbering of the architecture's instruction encoding.
///
/// x86-64: rax rcx rdx rbx rsp rbp rsi rdi r8..r15 (`gpr[4]` mirrors `sp` and is ignored when set). aarch64: x0..x30.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Regs {
    /// General registers.
    pub gpr: [u64; 32],
    /// Instruction pointer.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Flags.
    pub flags: u64,
    /// Thread pointer (FS base, TPIDR_EL0).
    pub tls: u64,
    /// Second base register (GS base); 0 where there is none.
    pub gs: u64,
}

/// All CPU state of one thread: integer registers, and floating-point state that only the machine looks into.
///
/// kernel/core implements it over the architecture's own structure and downcasts (`context as &mut dyn Any`) to run it.
pub trait Context: Any + Send {
    /// The integer registers.
    fn regs(&self) -> Regs;
    /// Sets them. Values come from programs: what the CPU must not see (privileged flags, addresses outside the user
    /// half) is masked here or refused by a fault of the program when it runs.
    fn set_regs(&mut self, regs: &Regs);
    /// The same state again, floating point included.
    ///
    /// # Errors
    /// [`NoMemory`].
    fn duplicate(&self) -> Result<Box<dyn Context>, NoMemory>;
}

/// The machine under the processes.
pub trait Machine: Send + Sync {
    /// State of a thread that starts at `entry` with stack pointer `stack`, all else zero or as the ABI wants it.
    ///
    /// # Errors
    /// [`NoMemory`].
    fn new_context(&self, entry: u64, stack: u64) -> Result<Box<dyn Context>, NoMemory>;
    /// Nanoseconds since start; never goes back.
    fn monotonic(&self) -> u64;
    /// Nanoseconds since 1970.
    fn realtime(&self) -> u64;
    /// Fills `to` with random bytes.
    fn random(&self, to: &mut [u8]);
    /// AT_HWCAP and AT_HWCAP2 (x86-64: CPUID 1 EDX; 0).
    fn hwcap(&self) -> [u64; 2];
    /// AT_PLATFORM, such as "x86_64".
    fn platform(&self) -> &'static str;
    /// `e_machine` of programs it runs (62 x86-64, 183 aarch64).
    fn elf_machine(&self) -> u16;
    /// AT_MINSIGSTKSZ in bytes: a signal frame with all register state.
    fn min_signal_stack(&self) -> u64;
    /// CPUs that run programs.
    fn cpus(&self) -> u32 {
        1
    }
    /// Text of /proc/cpuinfo.
    fn cpuinfo(&self) -> String;
}
