//! Processes: clone(2), wait4(2), futex(2), auxiliary vector, resource structures.
use super::constants;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

constants! {
    CLONE_VM: u64 = 0x100,
    CLONE_FS: u64 = 0x200,
    CLONE_FILES: u64 = 0x400,
    CLONE_SIGHAND: u64 = 0x800,
    CLONE_PIDFD: u64 = 0x1000,
    CLONE_VFORK: u64 = 0x4000,
    CLONE_PARENT: u64 = 0x8000,
    CLONE_THREAD: u64 = 0x1_0000,
    CLONE_NEWNS: u64 = 0x2_0000,
    CLONE_SYSVSEM: u64 = 0x4_0000,
    CLONE_SETTLS: u64 = 0x8_0000,
    CLONE_PARENT_SETTID: u64 = 0x10_0000,
    CLONE_CHILD_CLEARTID: u64 = 0x20_0000,
    CLONE_DETACHED: u64 = 0x40_0000,
    CLONE_CHILD_SETTID: u64 = 0x100_0000,
    /// New name spaces: cgroup, UTS, IPC, user, pid, net.
    CLONE_NAMESPACES: u64 = 0x7e00_0000 | 0x2_0000,
    CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000,
    WNOHANG: u64 = 1,
    WUNTRACED: u64 = 2,
    WEXITED: u64 = 4,
    WCONTINUED: u64 = 8,
    WNOWAIT: u64 = 0x0100_0000,
    P_ALL: u64 = 0,
    P_PID: u64 = 1,
    P_PGID: u64 = 2,
    P_PIDFD: u64 = 3,
    FUTEX_WAIT: u64 = 0,
    FUTEX_WAKE: u64 = 1,
    FUTEX_REQUEUE: u64 = 3,
    FUTEX_CMP_REQUEUE: u64 = 4,
    FUTEX_WAKE_OP: u64 = 5,
    FUTEX_WAIT_BITSET: u64 = 9,
    FUTEX_WAKE_BITSET: u64 = 10,
    FUTEX_PRIVATE_FLAG: u64 = 128,
    FUTEX_CLOCK_REALTIME: u64 = 256,
    FUTEX_WAITERS: u32 = 0x8000_0000,
    FUTEX_OWNER_DIED: u32 = 0x4000_0000,
    FUTEX_TID_MASK: u32 = 0x3fff_ffff,
    AT_NULL: u64 = 0,
    AT_PHDR: u64 = 3,
    AT_PHENT: u64 = 4,
    AT_PHNUM: u64 = 5,
    AT_PAGESZ: u64 = 6,
    AT_BASE: u64 = 7,
    AT_FLAGS: u64 = 8,
    AT_ENTRY: u64 = 9,
    AT_UID: u64 = 11,
    AT_EUID: u64 = 12,
    AT_GID: u64 = 13,
    AT_EGID: u64 = 14,
    AT_PLATFORM: u64 = 15,
    AT_HWCAP: u64 = 16,
    AT_CLKTCK: u64 = 17,
    AT_SECURE: u64 = 23,
    AT_RANDOM: u64 = 25,
    AT_HWCAP2: u64 = 26,
    AT_EXECFN: u64 = 31,
    AT_MINSIGSTKSZ: u64 = 51,
    ARCH_SET_GS: u64 = 0x1001,
    ARCH_SET_FS: u64 = 0x1002,
    ARCH_GET_FS: u64 = 0x1003,
    ARCH_GET_GS: u64 = 0x1004,
    PR_SET_PDEATHSIG: u64 = 1,
    PR_GET_DUMPABLE: u64 = 3,
    PR_SET_DUMPABLE: u64 = 4,
    PR_SET_NAME: u64 = 15,
    PR_GET_NAME: u64 = 16,
    PR_CAPBSET_READ: u64 = 23,
    PR_SET_NO_NEW_PRIVS: u64 = 38,
    PR_GET_NO_NEW_PRIVS: u64 = 39,
    PR_SET_VMA: u64 = 0x5356_4d41,
    RLIMIT_STACK: u64 = 3,
    RLIMIT_NOFILE: u64 = 7,
    RLIMIT_MEMLOCK: u64 = 8,
    RLIMIT_AS: u64 = 9,
    RLIM_INFINITY: u64 = u64::MAX,
    GRND_NONBLOCK: u64 = 1,
    GRND_RANDOM: u64 = 2,
    GRND_INSECURE: u64 = 4,
    CAP_IPC_LOCK: u32 = 14,
    CAP_SYS_RESOURCE: u32 = 24,
    /// Highest capability number.
    CAP_LAST_CAP: u32 = 40,
}

/// `struct clone_args`, 88 bytes; clone3 takes 64 or more.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CloneArgs {
    /// `CLONE_*`, without an exit signal.
    pub flags: u64,
    /// Where to write the pidfd.
    pub pidfd: u64,
    /// Where to write the child's tid, in the child.
    pub child_tid: u64,
    /// Where to write it, in the parent.
    pub parent_tid: u64,
    /// Sent to the parent at the end.
    pub exit_signal: u64,
    /// Lowest address of the child's stack.
    pub stack: u64,
    /// Its bytes.
    pub stack_size: u64,
    /// Thread pointer.
    pub tls: u64,
    /// Chosen pids.
    pub set_tid: u64,
    /// How many.
    pub set_tid_size: u64,
    /// Control group.
    pub cgroup: u64,
}

/// `struct rusage`, 144 bytes.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rusage {
    /// User time.
    pub user: super::time::Timeval,
    /// System time.
    pub system: super::time::Timeval,
    /// Peak resident set, KiB.
    pub max_rss: i64,
    /// Unused by Linux.
    pub unused: [i64; 3],
    /// Minor faults.
    pub minor_faults: i64,
    /// The rest; zero.
    pub rest: [i64; 9],
}

/// `struct sysinfo`, 112 bytes.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Sysinfo {
    /// Seconds since start.
    pub uptime: i64,
    /// Load averages.
    pub loads: [u64; 3],
    /// RAM, in units.
    pub total_ram: u64,
    /// Free, in units.
    pub free_ram: u64,
    /// Shared, buffers, swap total, swap free.
    pub other: [u64; 4],
    /// Processes.
    pub procs: u16,
    /// Zero.
    pub pad: [u16; 3],
    /// High memory, total and free.
    pub high: [u64; 2],
    /// Bytes per unit.
    pub unit: u32,
    /// Zero.
    pub tail: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};

    #[test]
    fn layouts_are_those_of_the_manual() {
        assert_eq!(size_of::<CloneArgs>(), 88);
        assert_eq!(offset_of!(CloneArgs, tls), 56);
        assert_eq!(size_of::<Rusage>(), 144);
        assert_eq!(size_of::<Sysinfo>(), 112);
        assert_eq!(offset_of!(Sysinfo, procs), 80);
        assert_eq!(offset_of!(Sysinfo, unit), 104);
    }
}
