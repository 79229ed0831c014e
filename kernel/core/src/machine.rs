//! The machine under the processes: `task`'s traits over the architecture.

use alloc::boxed::Box;
use alloc::string::String;
use arch_x86_64::user::UserContext;
use arch_x86_64::{cpu, fpu, time};
use core::fmt::Write;
use mm::NoMemory;
use task::{Context, Machine, Regs};

/// All CPU state of a thread.
#[derive(Debug)]
pub struct Cpu(pub UserContext);

impl Context for Cpu {
    fn regs(&self) -> Regs {
        let r = &self.0.regs;
        let mut gpr = [0; 32];
        let encoded = [
            r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14,
            r.r15,
        ];
        gpr[..16].copy_from_slice(&encoded);
        Regs { gpr, ip: r.rip, sp: r.rsp, flags: r.rflags, tls: self.0.fs_base(), gs: self.0.gs_base() }
    }
    fn set_regs(&mut self, regs: &Regs) {
        let r = &mut self.0.regs;
        let g = &regs.gpr;
        (r.rax, r.rcx, r.rdx, r.rbx, r.rbp, r.rsi, r.rdi) = (g[0], g[1], g[2], g[3], g[5], g[6], g[7]);
        (r.r8, r.r9, r.r10, r.r11) = (g[8], g[9], g[10], g[11]);
        (r.r12, r.r13, r.r14, r.r15) = (g[12], g[13], g[14], g[15]);
        // `run_user` masks the flags and turns an address outside the user half into a fault. Bases outside are not set.
        (r.rip, r.rsp, r.rflags) = (regs.ip, regs.sp, regs.flags);
        self.0.set_fs_base(regs.tls);
        self.0.set_gs_base(regs.gs);
    }
    fn duplicate(&self) -> Result<Box<dyn Context>, NoMemory> {
        Ok(Box::new(Self(self.0.duplicate().ok_or(NoMemory)?)))
    }
}

/// This machine.
#[derive(Clone, Copy, Debug)]
pub struct X86 {
    /// Nanoseconds since 1970 when the monotonic clock was 0.
    epoch: u64,
}

impl X86 {
    /// Reads the wall clock once.
    pub fn new() -> Self {
        Self { epoch: (time::wall_clock_seconds() * 1_000_000_000).saturating_sub(time::now_ns()) }
    }
}

impl Machine for X86 {
    fn new_context(&self, entry: u64, stack: u64) -> Result<Box<dyn Context>, NoMemory> {
        Ok(Box::new(Cpu(UserContext::new(entry, stack).ok_or(NoMemory)?)))
    }
    fn monotonic(&self) -> u64 {
        time::now_ns()
    }
    fn realtime(&self) -> u64 {
        self.epoch + time::now_ns()
    }
    fn random(&self, to: &mut [u8]) {
        for chunk in to.chunks_mut(8) {
            chunk.copy_from_slice(&cpu::random().to_le_bytes()[..chunk.len()]);
        }
    }
    fn hwcap(&self) -> [u64; 2] {
        // Bit 1 of the second word: programs may use RDFSBASE and friends.
        [cpu::hwcap(), u64::from(cpu::features().fsgsbase) << 1]
    }
    fn platform(&self) -> &'static str {
        "x86_64"
    }
    fn elf_machine(&self) -> u16 {
        62
    }
    fn min_signal_stack(&self) -> u64 {
        // FP state, its alignment, and about 1 KiB of registers and signal information.
        (fpu::state_bytes() as u64 + 64 + 1024).next_multiple_of(64)
    }
    fn cpuinfo(&self) -> String {
        let mut text = String::new();
        for n in 0..self.cpus() {
            let _ = writeln!(text, "processor\t: {n}");
            let _ = cpu::describe(&mut text);
            text.push('\n');
        }
        text
    }
}
