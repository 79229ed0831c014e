//! Whatever a program passes: an errno, never a panic, and nothing is left over.

mod kit;

use kit::{BUF, Bench, failed, nr};
use std::sync::Arc;
use task::Status;
use uapi::Errno;

/// Numbers that make the calling thread wait, end or become another program on purpose.
fn ends(number: u64) -> bool {
    matches!(number, nr::EXIT | nr::EXIT_GROUP | nr::SIGRETURN)
}

#[test]
fn no_call_panics_on_hostile_arguments() {
    let bench = Bench::with_frames(2000);
    let values = [
        0,
        1,
        3,
        BUF,
        BUF + 0xfff9,
        u64::MAX,
        u64::MAX - 4095,
        1 << 63,
        0x7fff_ffff_f000,
        0x7fff_ffff_effc,
        0xffff_8000_0000_0000,
        0xdead_0000,
        4096,
        0xffff_ffff,
        0x8000_0000,
    ];
    let mut random = 7u64;
    let mut next = |limit: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % limit
    };
    for number in (0..460).filter(|number| !ends(*number)) {
        for round in 0..40 {
            let thread = bench.program();
            for file in ["/etc/motd", "/dev/iommu", "/proc/self/pagemap", "/tmp"] {
                let flags = if file == "/dev/iommu" { 2 } else { 0 };
                bench.open(&thread, file, flags);
            }
            bench.put64(&thread, BUF, &[BUF, 16, u64::MAX, 8, BUF + 64, 0x7fff_ffff, 1, 1 << 40]);
            let args: Vec<u64> =
                (0..6).map(|_| if round < 15 { values[round] } else { values[next(values.len())] }).collect();
            bench.enter(&thread, number, &args);
            // Whatever runs now, and whatever waits, is ended.
            for process in bench.test.kernel.processes() {
                bench.test.kernel.end_process(&process, Status::Killed(9));
            }
            drop(thread);
            while let Some(other) = bench.test.kernel.next() {
                bench.test.kernel.end_thread(&other);
            }
            for process in bench.test.kernel.processes() {
                assert!(process.ended().is_some(), "call {number} {args:x?}: a process lives on");
                bench.test.kernel.reap(process.pid);
            }
            // What a call put into files stays there; everything else is gone.
            assert!(bench.test.machine.used() < 64, "call {number} {args:x?} leaks frames");
        }
    }
}

#[test]
fn running_out_of_memory_in_fork_and_execve_leaks_nothing() {
    let bench = Bench::new();
    let mut refused = 0;
    for n in 0.. {
        let parent = bench.program();
        let path = bench.path(&parent, BUF, "/bin/prog");
        bench.put(&parent, BUF + 0x2000, &[1; 0x3000]);
        bench.test.machine.fail_after(Some(n));
        bench.enter(&parent, nr::FORK, &[]);
        let forked = bench.result(&parent);
        assert!(forked > 0 || forked == failed(Errno::ENOMEM), "{forked}");
        let running: Vec<_> = std::iter::from_fn(|| bench.next()).collect();
        let parent = running.iter().find(|thread| Arc::ptr_eq(thread, &parent)).unwrap().clone();
        bench.enter(&parent, nr::EXECVE, &[path, 0, 0]);
        bench.test.machine.fail_after(None);
        let result = bench.result(&parent);
        let fine = forked > 0 && result == 0;
        assert!(result == 0 || result == failed(Errno::ENOMEM), "{result}");
        drop(running);
        for process in bench.test.kernel.processes() {
            bench.test.kernel.end_process(&process, Status::Killed(9));
            for tid in process.thread_ids() {
                bench.test.kernel.end_thread(&bench.test.kernel.thread(tid).unwrap());
            }
            bench.test.kernel.reap(process.pid);
        }
        while let Some(thread) = bench.test.kernel.next() {
            bench.test.kernel.end_thread(&thread);
        }
        drop(parent);
        assert_eq!(bench.test.machine.used(), 0, "after failing allocation {n}");
        if fine {
            break;
        }
        refused += 1;
    }
    assert!(refused > 3);
}

#[test]
fn descriptors_run_out_with_emfile_and_nothing_is_half_done() {
    let bench = Bench::new();
    let thread = bench.program();
    for _ in 3..1024 {
        assert!(bench.open(&thread, "/etc/motd", 0) > 0);
    }
    assert_eq!(bench.open(&thread, "/etc/motd", 0), failed(Errno::EMFILE));
    assert_eq!(bench.done(&thread, nr::PIPE2, &[BUF, 0]), failed(Errno::EMFILE));
    assert_eq!(bench.done(&thread, nr::CLOSE, &[1000]), 0);
    assert_eq!(bench.done(&thread, nr::PIPE2, &[BUF, 0]), failed(Errno::EMFILE));
    assert_eq!(bench.open(&thread, "/etc/motd", 0), 1000);
    assert_eq!(bench.done(&thread, nr::CLOSE, &[1000]), 0);
    assert_eq!(bench.done(&thread, nr::CLOSE, &[999]), 0);
    assert_eq!(bench.done(&thread, nr::PIPE2, &[0xdead_0000, 0]), failed(Errno::EFAULT));
    assert_eq!(bench.done(&thread, nr::PIPE2, &[BUF, 0]), 0);
}

#[test]
fn orphans_do_not_become_zombies_for_ever() {
    let bench = Bench::new();
    let grandparent = bench.program();
    bench.enter(&grandparent, nr::FORK, &[]);
    let mut both = [bench.next().unwrap(), bench.next().unwrap()];
    both.sort_by_key(|thread| thread.tid);
    let parent = both[1].clone();
    bench.enter(&parent, nr::FORK, &[]);
    let mut both = [bench.next().unwrap(), bench.next().unwrap()];
    both.sort_by_key(|thread| thread.tid);
    let child = both[1].clone();
    bench.enter(&parent, nr::EXIT_GROUP, &[0]);
    assert_eq!(child.process.parent(), 1, "process 1 is the heir");
    bench.enter(&grandparent, nr::EXIT_GROUP, &[0]);
    assert_eq!(child.process.parent(), 0);
    bench.enter(&child, nr::EXIT_GROUP, &[0]);
    assert!(bench.next().is_none());
    bench.test.kernel.reap(1);
    assert!(bench.test.kernel.processes().iter().all(|process| process.pid == child.process.pid));
}

#[test]
fn a_signal_frame_at_the_bottom_of_memory_ends_the_program_only() {
    let bench = Bench::new();
    for low in 0..64 {
        let thread = bench.program();
        // Handler, SA_RESTORER, restorer, no mask.
        bench.put64(&thread, BUF, &[0x40_0180, 0x0400_0000, 0x40_0180, 0]);
        assert_eq!(bench.done(&thread, nr::SIGACTION, &[10, BUF, 0, 8]), 0);
        let frame = 8 + size_of::<uapi::linux::signal::UContextX86>() + size_of::<uapi::linux::signal::SigInfo>();
        let mut context = thread.context();
        let mut regs = context.regs();
        // Below it: the red zone of 128 bytes, then the frame, then nothing.
        regs.sp = 128 + frame as u64 - 32 + low;
        context.set_regs(&regs);
        drop(context);
        bench.kill(&thread, 10);
        bench.enter(&thread, nr::GETPID, &[]);
        assert_eq!(bench.test.kernel.ended(thread.process.pid), Some(Status::Killed(11)));
        bench.test.kernel.reap(thread.process.pid);
    }
}

#[test]
fn pipes_and_sockets_take_nothing_when_memory_is_about_to_run_out() {
    let bench = Bench::with_frames(4096);
    let thread = bench.program();
    assert_eq!(bench.done(&thread, nr::PIPE2, &[BUF, 0]), 0);
    let writer = u64::from(bench.get32(&thread, BUF + 4));
    assert_eq!(bench.done(&thread, nr::WRITE, &[writer, BUF, 100]), 100);
    let frames = &bench.test.kernel.frames;
    let mut taken = Vec::new();
    while frames.usage().0 > 4096 / 64 / 2 {
        taken.push(frames.alloc().unwrap());
    }
    assert_eq!(bench.done(&thread, nr::WRITE, &[writer, BUF, 100]), failed(Errno::ENOBUFS));
    taken.iter().for_each(|frame| frames.release(*frame));
    assert_eq!(bench.done(&thread, nr::WRITE, &[writer, BUF, 100]), 100);
    bench.end(thread);
}

#[test]
fn execve_with_many_arguments_is_enomem_when_memory_is_scarce() {
    let bench = Bench::with_frames(4096);
    let thread = bench.program();
    let path = bench.path(&thread, BUF, "/bin/prog");
    // Empty arguments, 7000 of them, and the end. There is room for the new program, but not for what it takes to make it.
    let empty = BUF + 0x100;
    bench.put64(&thread, BUF + 0x1000, &[empty; 7000]);
    let frames = &bench.test.kernel.frames;
    let mut taken = Vec::new();
    while frames.usage().0 > 100 {
        taken.push(frames.alloc().unwrap());
    }
    assert_eq!(bench.done(&thread, nr::EXECVE, &[path, BUF + 0x1000, 0]), failed(Errno::ENOMEM));
    taken.iter().for_each(|frame| frames.release(*frame));
    assert_eq!(bench.done(&thread, nr::EXECVE, &[path, BUF + 0x1000, 0]), 0);
    bench.end(thread);
}

#[test]
fn handlers_keep_nothing_aside_when_memory_is_about_to_run_out() {
    let bench = Bench::with_frames(4096);
    let frames = &bench.test.kernel.frames;
    for (scarce, ended) in [(false, None), (true, Some(Status::Killed(11)))] {
        let thread = bench.program();
        bench.put64(&thread, BUF, &[0x40_0180, 0x0400_0000, 0x40_0180, 0]);
        assert_eq!(bench.done(&thread, nr::SIGACTION, &[10, BUF, 0, 8]), 0);
        let mut context = thread.context();
        let mut regs = context.regs();
        // The frame itself needs no new page.
        bench.put(&thread, BUF + 0x6000, &[1; 0x2000]);
        regs.sp = BUF + 0x8000;
        context.set_regs(&regs);
        drop(context);
        let mut taken = Vec::new();
        while scarce && frames.usage().0 > 4096 / 64 / 2 {
            taken.push(frames.alloc().unwrap());
        }
        bench.kill(&thread, 10);
        bench.enter(&thread, nr::GETPID, &[]);
        assert_eq!(bench.test.kernel.ended(thread.process.pid), ended);
        taken.iter().for_each(|frame| frames.release(*frame));
        if ended.is_none() {
            bench.next().unwrap();
            bench.end(thread);
        }
    }
}
