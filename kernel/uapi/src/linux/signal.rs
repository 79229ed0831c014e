//! Signals: numbers, actions, masks.
use super::constants;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

constants! {
    SIGHUP: u32 = 1,
    SIGINT: u32 = 2,
    SIGQUIT: u32 = 3,
    SIGILL: u32 = 4,
    SIGTRAP: u32 = 5,
    SIGABRT: u32 = 6,
    SIGBUS: u32 = 7,
    SIGFPE: u32 = 8,
    SIGKILL: u32 = 9,
    SIGUSR1: u32 = 10,
    SIGSEGV: u32 = 11,
    SIGUSR2: u32 = 12,
    SIGPIPE: u32 = 13,
    SIGALRM: u32 = 14,
    SIGTERM: u32 = 15,
    SIGCHLD: u32 = 17,
    SIGCONT: u32 = 18,
    SIGSTOP: u32 = 19,
    SIGTSTP: u32 = 20,
    SIGTTIN: u32 = 21,
    SIGTTOU: u32 = 22,
    SIGURG: u32 = 23,
    SIGWINCH: u32 = 28,
    SIGSYS: u32 = 31,
    /// Highest signal number.
    NSIG: u32 = 64,
    SIG_DFL: u64 = 0,
    SIG_IGN: u64 = 1,
    SIG_BLOCK: u64 = 0,
    SIG_UNBLOCK: u64 = 1,
    SIG_SETMASK: u64 = 2,
    SA_NOCLDSTOP: u64 = 1,
    SA_NOCLDWAIT: u64 = 2,
    SA_SIGINFO: u64 = 4,
    SA_RESTORER: u64 = 0x0400_0000,
    SA_ONSTACK: u64 = 0x0800_0000,
    SA_RESTART: u64 = 0x1000_0000,
    SA_NODEFER: u64 = 0x4000_0000,
    SA_RESETHAND: u64 = 0x8000_0000,
    SS_ONSTACK: u32 = 1,
    SS_DISABLE: u32 = 2,
    /// Smallest alternate stack, bytes.
    MINSIGSTKSZ: u64 = 2048,
    SI_USER: i32 = 0,
    SI_KERNEL: i32 = 128,
    SI_TKILL: i32 = -6,
    SEGV_MAPERR: i32 = 1,
    SEGV_ACCERR: i32 = 2,
    CLD_EXITED: i32 = 1,
    CLD_KILLED: i32 = 2,
    CLD_DUMPED: i32 = 3,
}

/// The kernel's `struct sigaction` on x86-64 (aarch64: the same, the restorer unused).
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigAction {
    /// `SIG_DFL`, `SIG_IGN` or an address.
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Where a handler returns to.
    pub restorer: u64,
    /// Blocked while the handler runs; bit n-1 is signal n.
    pub mask: u64,
}

/// `stack_t`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AltStack {
    /// Lowest address.
    pub base: u64,
    /// `SS_*`.
    pub flags: u32,
    /// Zero.
    pub pad: u32,
    /// Bytes.
    pub size: u64,
}

/// `siginfo_t`, 128 bytes: the fields that kill, faults and child exits use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigInfo {
    /// Signal number.
    pub signo: i32,
    /// Zero.
    pub errno: i32,
    /// `SI_*`, `SEGV_*`, `CLD_*`.
    pub code: i32,
    /// Zero.
    pub pad: i32,
    /// kill and SIGCHLD: pid (low half), uid (high half). Faults: the address.
    pub first: u64,
    /// SIGCHLD: status in the low half.
    pub second: u64,
    /// Zero.
    pub rest: [u64; 12],
}

impl SigInfo {
    /// A record with only number and code set.
    pub const fn new(signo: u32, code: i32) -> Self {
        Self { signo: signo as i32, errno: 0, code, pad: 0, first: 0, second: 0, rest: [0; 12] }
    }
}

/// `struct sigcontext` of x86-64, 256 bytes.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigContextX86 {
    /// r8 to r15.
    pub r8_15: [u64; 8],
    /// rdi.
    pub rdi: u64,
    /// rsi.
    pub rsi: u64,
    /// rbp.
    pub rbp: u64,
    /// rbx.
    pub rbx: u64,
    /// rdx.
    pub rdx: u64,
    /// rax.
    pub rax: u64,
    /// rcx.
    pub rcx: u64,
    /// rsp.
    pub rsp: u64,
    /// rip.
    pub rip: u64,
    /// rflags.
    pub flags: u64,
    /// cs, gs, fs, ss, 16 bits each.
    pub segments: u64,
    /// Error code of the fault.
    pub err: u64,
    /// Vector of the fault.
    pub trap: u64,
    /// Mask before the handler.
    pub old_mask: u64,
    /// Address of the fault.
    pub cr2: u64,
    /// Where the floating-point state was saved; 0 if it stayed in the kernel.
    pub fpstate: u64,
    /// Zero.
    pub reserved: [u64; 8],
}

/// `struct ucontext` of x86-64, as the kernel writes it.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UContextX86 {
    /// Zero.
    pub flags: u64,
    /// Zero.
    pub link: u64,
    /// Alternate stack.
    pub stack: AltStack,
    /// Registers.
    pub context: SigContextX86,
    /// Mask to restore.
    pub mask: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};

    #[test]
    fn layouts_are_those_of_the_manual() {
        assert_eq!(size_of::<SigAction>(), 32);
        assert_eq!(size_of::<AltStack>(), 24);
        assert_eq!(size_of::<SigInfo>(), 128);
        assert_eq!(size_of::<SigContextX86>(), 256);
        assert_eq!(offset_of!(UContextX86, context), 40);
        assert_eq!(offset_of!(UContextX86, mask), 296);
        assert_eq!(offset_of!(SigContextX86, rip), 128);
        assert_eq!(offset_of!(SigInfo, first), 16);
    }
}
