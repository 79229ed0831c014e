//! Signals from the program's side.

mod kit;

use kit::{BUF, Bench, failed, nr};
use std::any::Any;
use std::sync::Arc;
use task::testing::TestContext;
use task::{Status, Thread};
use uapi::Errno;

/// Installs a handler at 0x400200 with a restorer at 0x400300.
fn handle(bench: &Bench, thread: &Arc<Thread>, signal: u64, flags: u64) {
    bench.put64(thread, BUF, &[0x40_0200, flags | 0x0400_0000, 0x40_0300, 0]);
    assert_eq!(bench.done(thread, nr::SIGACTION, &[signal, BUF, 0, 8]), 0);
}

fn float(thread: &Thread, set: Option<u64>) -> u64 {
    let mut context = thread.context();
    let context = (&mut **context as &mut dyn Any).downcast_mut::<TestContext>().unwrap();
    if let Some(value) = set {
        context.float = value;
    }
    context.float
}

#[test]
fn a_handler_runs_and_returns_to_where_the_program_was() {
    let bench = Bench::new();
    let thread = bench.program();
    handle(&bench, &thread, 10, 4);
    float(&thread, Some(1));
    let before = {
        let mut context = thread.context();
        let mut regs = context.regs();
        regs.gpr[3] = 0xb0b;
        context.set_regs(&regs);
        regs
    };
    assert_eq!(bench.done(&thread, nr::TGKILL, &[u64::from(thread.tid), u64::from(thread.tid), 10]), 0);
    let regs = thread.context().regs();
    // In the handler: number, siginfo, context; the return address is the restorer; aligned as after a call.
    assert_eq!((regs.ip, regs.gpr[7], regs.sp % 16), (0x40_0200, 10, 8));
    assert!(regs.sp < before.sp - 128, "the red zone is left alone");
    assert_eq!(bench.get64(&thread, regs.sp), 0x40_0300);
    let info = regs.gpr[6];
    assert_eq!(bench.get32(&thread, info), 10);
    assert_eq!(bench.get32(&thread, info + 8) as i32, -6, "SI_TKILL");
    assert_eq!(bench.get32(&thread, info + 16), thread.process.pid);
    assert_eq!(regs.gpr[2], regs.sp + 8);
    assert_eq!(bench.get64(&thread, regs.gpr[2] + 40 + 128), 0x40_0102, "rip in the context");
    assert_ne!(thread.state.lock().blocked & 1 << 9, 0);
    // The handler uses floating point and returns.
    float(&thread, Some(99));
    {
        let mut context = thread.context();
        let mut regs = context.regs();
        regs.sp += 8;
        regs.gpr[3] = 0;
        context.set_regs(&regs);
    }
    bench.enter(&thread, nr::SIGRETURN, &[]);
    bench.test.kernel.next().unwrap();
    let after = thread.context().regs();
    assert_eq!((after.ip, after.sp, after.gpr[3], after.gpr[0]), (0x40_0102, before.sp, 0xb0b, 0));
    assert_eq!(float(&thread, None), 1);
    assert_eq!(thread.state.lock().blocked, 0);
}

#[test]
fn default_actions_end_the_process_or_do_nothing() {
    let bench = Bench::new();
    for (signal, dies) in [(15, true), (1, true), (34, true), (17, false), (28, false), (18, false)] {
        let thread = bench.program();
        bench.enter(&thread, nr::PAUSE, &[]);
        bench.kill(&thread, signal);
        assert!(bench.next().is_none());
        let want = dies.then_some(Status::Killed(signal as u8));
        assert_eq!(bench.test.kernel.ended(thread.process.pid), want, "signal {signal}");
        bench.kill(&thread, 9);
        assert!(bench.next().is_none());
        assert!(bench.test.kernel.ended(thread.process.pid).is_some());
        bench.test.kernel.reap(thread.process.pid);
    }
    assert_eq!(bench.test.machine.used(), 0);
}

#[test]
fn a_blocked_signal_waits_until_it_is_let_through() {
    let bench = Bench::new();
    let thread = bench.program();
    bench.put64(&thread, BUF, &[1 << 14]);
    assert_eq!(bench.done(&thread, nr::SIGPROCMASK, &[0, BUF, BUF + 8, 8]), 0);
    bench.kill(&thread, 15);
    assert_eq!(bench.done(&thread, nr::GETPID, &[]), i64::from(thread.process.pid));
    bench.enter(&thread, nr::SIGPROCMASK, &[1, BUF, 0, 8]);
    assert!(bench.next().is_none());
    assert_eq!(bench.test.kernel.ended(thread.process.pid), Some(Status::Killed(15)));
    // KILL and STOP cannot be blocked.
    let thread = bench.program();
    bench.put64(&thread, BUF, &[u64::MAX]);
    assert_eq!(bench.done(&thread, nr::SIGPROCMASK, &[2, BUF, 0, 8]), 0);
    assert_eq!(thread.state.lock().blocked, !(1 << 8 | 1 << 18));
    assert_eq!(bench.done(&thread, nr::SIGPROCMASK, &[2, BUF, 0, 4]), failed(Errno::EINVAL));
    assert_eq!(bench.done(&thread, nr::SIGPROCMASK, &[7, BUF, 0, 8]), failed(Errno::EINVAL));
    assert_eq!(bench.done(&thread, nr::SIGACTION, &[9, BUF, 0, 8]), failed(Errno::EINVAL));
    assert_eq!(bench.done(&thread, nr::SIGACTION, &[65, 0, 0, 8]), failed(Errno::EINVAL));
}

#[test]
fn a_sleep_is_interrupted_and_tells_what_was_left() {
    let bench = Bench::new();
    let thread = bench.program();
    handle(&bench, &thread, 14, 0x1000_0000);
    bench.put64(&thread, BUF, &[5, 0]);
    assert_eq!(bench.call(&thread, nr::NANOSLEEP, &[BUF, BUF + 16]), None);
    bench.test.clock.advance(2_000_000_000);
    bench.kill(&thread, 14);
    let next = bench.next().unwrap();
    assert!(Arc::ptr_eq(&next, &thread));
    let regs = thread.context().regs();
    assert_eq!(regs.ip, 0x40_0200);
    // What the handler returns to: the result of the sleep is EINTR, whatever SA_RESTART says.
    assert_eq!(bench.get64(&thread, regs.gpr[2] + 40 + 104) as i64, failed(Errno::EINTR));
    assert_eq!((bench.get64(&thread, BUF + 16), bench.get64(&thread, BUF + 24)), (3, 0));
}

#[test]
fn a_signal_before_the_call_is_made_again_ends_it_all_the_same() {
    let bench = Bench::new();
    let thread = bench.program();
    handle(&bench, &thread, 14, 0);
    bench.put64(&thread, BUF, &[5, 0]);
    assert_eq!(bench.call(&thread, nr::NANOSLEEP, &[BUF, 0]), None);
    bench.kill(&thread, 14);
    // Woken, it stands before its instruction; the timer comes first.
    assert!(Arc::ptr_eq(&bench.test.kernel.next().unwrap(), &thread));
    bench.system.handle(&thread, syscall::Trap::Interrupt);
    bench.test.kernel.next().unwrap();
    let regs = thread.context().regs();
    assert_eq!(regs.ip, 0x40_0200);
    let frame = regs.gpr[2] + 40;
    assert_eq!((bench.get64(&thread, frame + 104) as i64, bench.get64(&thread, frame + 128)), (-4, 0x40_0102));
    assert!(thread.state.lock().restart.is_none(), "the handler's own calls start afresh");
    // An interrupt without a signal changes nothing: the call goes on.
    let thread = bench.program();
    bench.put64(&thread, BUF, &[5, 0]);
    assert_eq!(bench.call(&thread, nr::NANOSLEEP, &[BUF, 0]), None);
    bench.test.clock.advance(1_000_000_000);
    thread.wake.signal();
    bench.test.kernel.next().unwrap();
    bench.system.handle(&thread, syscall::Trap::Interrupt);
    assert!(bench.next().is_none());
    assert_eq!(bench.test.kernel.deadline(), Some(5_000_000_000));
}

#[test]
fn a_read_is_made_again_after_a_handler_that_says_so() {
    let bench = Bench::new();
    for (flags, again) in [(0x1000_0000, true), (0, false)] {
        let thread = bench.program();
        handle(&bench, &thread, 10, flags);
        assert_eq!(bench.call(&thread, nr::READ, &[0, BUF, 10]), None);
        bench.kill(&thread, 10);
        bench.next().unwrap();
        let regs = thread.context().regs();
        assert_eq!(regs.ip, 0x40_0200);
        let (rax, rip) = (bench.get64(&thread, regs.gpr[2] + 40 + 104), bench.get64(&thread, regs.gpr[2] + 40 + 128));
        if again {
            assert_eq!((rax, rip), (0, 0x40_0100), "read is call 0, made again");
        } else {
            assert_eq!((rax as i64, rip), (failed(Errno::EINTR), 0x40_0102));
        }
        bench.end(thread);
    }
    assert_eq!(bench.test.machine.used(), 0);
}

#[test]
fn a_signal_ends_a_long_write_with_what_was_written() {
    let bench = Bench::new();
    let thread = bench.program();
    handle(&bench, &thread, 10, 0x1000_0000);
    bench.done(&thread, nr::PIPE2, &[BUF, 0]);
    bench.put64(&thread, 0x40_1000, &[BUF, 0x1_0000, BUF, 0x1_0000]);
    assert_eq!(bench.call(&thread, nr::WRITEV, &[4, 0x40_1000, 2]), None);
    bench.kill(&thread, 10);
    bench.next().unwrap();
    let regs = thread.context().regs();
    assert_eq!(regs.ip, 0x40_0200);
    assert_eq!(bench.get64(&thread, regs.gpr[2] + 40 + 104), 0x1_0000);
}

#[test]
fn writing_where_nobody_reads_raises_sigpipe() {
    let bench = Bench::new();
    let thread = bench.program();
    bench.done(&thread, nr::PIPE2, &[BUF, 0]);
    bench.done(&thread, nr::CLOSE, &[3]);
    bench.enter(&thread, nr::WRITE, &[4, BUF, 1]);
    assert!(bench.next().is_none());
    assert_eq!(bench.test.kernel.ended(thread.process.pid), Some(Status::Killed(13)));
    let thread = bench.program();
    bench.put64(&thread, BUF, &[1, 0, 0, 0]);
    bench.done(&thread, nr::SIGACTION, &[13, BUF, 0, 8]);
    bench.done(&thread, nr::PIPE2, &[BUF, 0]);
    bench.done(&thread, nr::CLOSE, &[3]);
    assert_eq!(bench.done(&thread, nr::WRITE, &[4, BUF, 1]), failed(Errno::EPIPE));
}

#[test]
fn a_fault_with_a_handler_runs_on_the_alternate_stack() {
    let bench = Bench::new();
    let thread = bench.program();
    handle(&bench, &thread, 11, 0x0800_0004);
    bench.put64(&thread, BUF, &[BUF + 0x8000, 0, 0x4000]);
    assert_eq!(bench.done(&thread, nr::SIGALTSTACK, &[BUF, 0]), 0);
    bench.system.handle(&thread, syscall::Trap::PageFault { address: 0x10, write: false, exec: false });
    bench.test.kernel.next().unwrap();
    let regs = thread.context().regs();
    assert_eq!(regs.ip, 0x40_0200);
    assert!((BUF + 0x8000..BUF + 0xc000).contains(&regs.sp));
    assert_eq!(bench.get64(&thread, regs.gpr[6] + 16), 0x10, "si_addr");
    // A second fault inside the handler, with the signal blocked, ends it.
    bench.system.handle(&thread, syscall::Trap::PageFault { address: 0x10, write: false, exec: false });
    assert_eq!(bench.test.kernel.ended(thread.process.pid), Some(Status::Killed(11)));
}

#[test]
fn without_room_for_the_frame_the_process_ends() {
    let bench = Bench::new();
    let thread = bench.program();
    handle(&bench, &thread, 10, 0);
    {
        let mut context = thread.context();
        let mut regs = context.regs();
        regs.sp = 0x1000;
        context.set_regs(&regs);
    }
    bench.kill(&thread, 10);
    bench.enter(&thread, nr::GETPID, &[]);
    assert!(bench.next().is_none());
    assert_eq!(bench.test.kernel.ended(thread.process.pid), Some(Status::Killed(11)));
    // Nor does a bad frame on the way back.
    let thread = bench.program();
    {
        let mut context = thread.context();
        let mut regs = context.regs();
        regs.sp = 0xdead_0000;
        context.set_regs(&regs);
    }
    bench.enter(&thread, nr::SIGRETURN, &[]);
    assert_eq!(bench.test.kernel.ended(thread.process.pid), Some(Status::Killed(11)));
}
