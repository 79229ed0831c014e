//! Which handler a call goes to.

use crate::cx::Cx;
use crate::{Answer, Errno, Outcome};
use uapi::linux::nr::Call;

/// Is a call that a signal interrupted made again after the handler, if the action has SA_RESTART (signal(7))?
pub(crate) fn restartable(call: Call) -> bool {
    use Call::*;
    matches!(
        call,
        Read | Readv
            | Write
            | Writev
            | Pread64
            | Pwrite64
            | Preadv
            | Pwritev
            | Ioctl
            | Open
            | Openat
            | Wait4
            | Waitid
            | Accept
            | Accept4
            | Connect
            | Recvfrom
            | Recvmsg
            | Sendto
            | Sendmsg
            | Futex
            | Flock
            | Getrandom
    )
}

/// Does the call make something in the kernel that stays? Refused when memory is about to run out: the kernel's own
/// allocations cannot fail gracefully.
fn makes(call: Call) -> bool {
    use Call::*;
    matches!(
        call,
        Open | Openat
            | Creat
            | Mkdir
            | Mkdirat
            | Symlink
            | Symlinkat
            | Link
            | Linkat
            | Pipe
            | Pipe2
            | Eventfd
            | Eventfd2
            | MemfdCreate
            | EpollCreate
            | EpollCreate1
            | EpollCtl
            | Socket
            | Socketpair
            | Connect
            | Listen
            | Accept
            | Accept4
            | PidfdOpen
            | Mmap
            | Mremap
            | Mprotect
            | Brk
            | Clone
            | Clone3
            | Fork
            | Vfork
            | Execve
            | Execveat
    )
}

const DONE: Answer = Ok(Outcome::Done(0));

pub(crate) fn dispatch(cx: &Cx, call: Call) -> Answer {
    use Call::*;
    // A call that waited has made its object before (vfork's child).
    let first = cx.thread.state.lock().restart.is_none();
    if first && makes(call) && mm::exhausted(&*cx.kernel().frames) {
        return if call == Brk { cx.brk_stays() } else { Err(Errno::ENOMEM) };
    }
    match call {
        // Files by descriptor.
        Read => cx.read(),
        Write => cx.write(),
        Pread64 => cx.pread(),
        Pwrite64 => cx.pwrite(),
        Readv => cx.readv(false),
        Writev => cx.writev(false),
        Preadv | Preadv2 => cx.readv(true),
        Pwritev | Pwritev2 => cx.writev(true),
        Lseek => cx.lseek(),
        Sendfile => cx.sendfile(),
        CopyFileRange => cx.copy_file_range(),
        Close => cx.close(),
        CloseRange => cx.close_range(),
        Dup => cx.dup(),
        Dup2 => cx.dup2(),
        Dup3 => cx.dup3(),
        Fcntl => cx.fcntl(),
        Ioctl => cx.ioctl(),
        Fstat => cx.fstat(),
        Ftruncate => cx.ftruncate(),
        Fallocate => cx.fallocate(),
        Fsync | Fdatasync => cx.fsync(),
        Flock | Fadvise64 => cx.fsync(),
        Getdents64 => cx.getdents(),
        Pipe => cx.pipe(0),
        Pipe2 => cx.pipe(cx.args[1]),
        Eventfd => cx.eventfd(0),
        Eventfd2 => cx.eventfd(cx.args[1]),
        MemfdCreate => cx.memfd_create(),
        PidfdOpen => cx.pidfd_open(),
        PidfdSendSignal => cx.pidfd_send_signal(),
        Fstatfs => cx.fstatfs(),
        Fchmod => cx.fchmod(),
        Fchdir => cx.fchdir(),
        Fchown => cx.fsync(),
        // Files by name.
        Open => cx.open(),
        Openat => cx.openat(),
        Creat => cx.creat(),
        Stat => cx.stat(true),
        Lstat => cx.stat(false),
        Newfstatat => cx.newfstatat(),
        Statx => cx.statx(),
        Access => cx.access(),
        Faccessat => cx.faccessat(),
        Faccessat2 => cx.faccessat(),
        Getcwd => cx.getcwd(),
        Chdir => cx.chdir(),
        Mkdir => cx.mkdir(),
        Mkdirat => cx.mkdirat(),
        Rmdir => cx.rmdir(),
        Unlink => cx.unlink(),
        Unlinkat => cx.unlinkat(),
        Rename => cx.rename(),
        Renameat => cx.renameat(0),
        Renameat2 => cx.renameat(cx.args[4]),
        Link => cx.link(),
        Linkat => cx.linkat(),
        Symlink => cx.symlink(),
        Symlinkat => cx.symlinkat(),
        Readlink => cx.readlink(),
        Readlinkat => cx.readlinkat(),
        Truncate => cx.truncate(),
        Chmod => cx.chmod(),
        Fchmodat => cx.fchmodat(),
        Chown | Lchown => cx.chown(),
        Fchownat => cx.fchownat(),
        Utimensat => cx.utimensat(),
        Statfs => cx.statfs(),
        Umask => cx.umask(),
        // Readiness.
        Poll => cx.poll(),
        Ppoll => cx.ppoll(),
        Select => cx.select(),
        Pselect6 => cx.pselect(),
        EpollCreate => cx.epoll_create(0),
        EpollCreate1 => cx.epoll_create(cx.args[0]),
        EpollCtl => cx.epoll_ctl(),
        EpollWait => cx.epoll_wait(),
        EpollPwait => cx.epoll_pwait(),
        EpollPwait2 => cx.epoll_pwait2(),
        // Memory.
        Mmap => cx.mmap(),
        Munmap => cx.munmap(),
        Mprotect => cx.mprotect(),
        Mremap => cx.mremap(),
        Madvise => cx.madvise(),
        Msync => cx.msync(),
        Mincore => cx.mincore(),
        Brk => cx.brk(),
        Mlock | Mlock2 => cx.mlock(true),
        Munlock => cx.mlock(false),
        Mlockall | Munlockall => DONE,
        Membarrier => cx.membarrier(),
        // Processes and threads.
        Clone => cx.clone_call(),
        Clone3 => cx.clone3(),
        Fork => cx.fork(),
        Vfork => cx.vfork(),
        Execve => cx.execve(),
        Execveat => cx.execveat(),
        Exit => cx.exit(),
        ExitGroup => cx.exit_group(),
        Wait4 => cx.wait4(),
        Waitid => cx.waitid(),
        Futex => cx.futex(),
        SetTidAddress => cx.set_tid_address(),
        SetRobustList => cx.set_robust_list(),
        GetRobustList => cx.get_robust_list(),
        // glibc and others go on without it.
        Rseq => Err(Errno::ENOSYS),
        SchedYield => DONE,
        ArchPrctl => cx.arch_prctl(),
        Prctl => cx.prctl(),
        Unshare => cx.unshare(),
        // Identity and limits.
        Getpid => cx.getpid(),
        Gettid => cx.gettid(),
        Getppid => cx.getppid(),
        Getuid | Getgid | Geteuid | Getegid => DONE,
        Getresuid | Getresgid => cx.getresuid(),
        Setuid | Setgid => cx.become_nobody(1),
        Setreuid | Setregid => cx.become_nobody(2),
        Setresuid | Setresgid => cx.become_nobody(3),
        Getgroups => DONE,
        Setgroups => DONE,
        Setpgid => cx.setpgid(),
        Getpgid => cx.getpgid(cx.args[0] as u32),
        Getpgrp => cx.getpgid(0),
        Getsid => cx.getsid(),
        Setsid => cx.setsid(),
        Capget => cx.capget(),
        Capset => cx.capset(),
        Prlimit64 => cx.prlimit(),
        Getrlimit => cx.getrlimit(),
        Setrlimit => cx.setrlimit(),
        Getrusage => cx.getrusage(),
        Times => cx.times(),
        Sysinfo => cx.sysinfo(),
        Uname => cx.uname(),
        Personality => DONE,
        Getpriority => Ok(Outcome::Done(20)),
        Setpriority => DONE,
        SchedGetaffinity => cx.sched_getaffinity(),
        SchedSetaffinity => DONE,
        SchedGetparam => cx.sched_getparam(),
        SchedSetparam | SchedSetscheduler | SchedGetscheduler => DONE,
        SchedGetPriorityMax | SchedGetPriorityMin => DONE,
        Getcpu => cx.getcpu(),
        Getrandom => cx.getrandom(),
        Sync => DONE,
        // Time.
        ClockGettime => cx.clock_gettime(),
        ClockGetres => cx.clock_getres(),
        ClockSettime => Err(Errno::EPERM),
        ClockNanosleep => cx.clock_nanosleep(),
        Nanosleep => cx.nanosleep(),
        Gettimeofday => cx.gettimeofday(),
        Time => cx.time(),
        // Timers that send signals are not there: nothing is armed.
        Alarm => DONE,
        Getitimer => cx.no_timer(),
        Setitimer => Err(Errno::ENOSYS),
        // Signals.
        RtSigaction => cx.sigaction(),
        RtSigprocmask => cx.sigprocmask(),
        RtSigreturn => cx.sigreturn(),
        RtSigpending => cx.sigpending(),
        RtSigsuspend => cx.sigsuspend(),
        RtSigtimedwait => cx.sigtimedwait(),
        Sigaltstack => cx.sigaltstack(),
        Kill => cx.kill(),
        Tkill => cx.tgkill(None, cx.args[0] as u32, cx.args[1] as u32),
        Tgkill => cx.tgkill(Some(cx.args[0] as u32), cx.args[1] as u32, cx.args[2] as u32),
        Pause => cx.pause(),
        // Sockets.
        Socket => cx.socket(),
        Socketpair => cx.socketpair(),
        Bind => cx.bind(),
        Connect => cx.connect(),
        Listen => cx.listen(),
        Accept => cx.accept(0),
        Accept4 => cx.accept(cx.args[3]),
        Sendto => cx.sendto(),
        Recvfrom => cx.recvfrom(),
        Sendmsg => cx.sendmsg(),
        Recvmsg => cx.recvmsg(),
        Sendmmsg => cx.sendmmsg(),
        Recvmmsg => cx.recvmmsg(),
        Shutdown => cx.shutdown(),
        Getsockname => cx.getsockname(),
        Getpeername => cx.getpeername(),
        Setsockopt => cx.setsockopt(),
        Getsockopt => cx.getsockopt(),
    }
}
