//! System calls from the program's side: results, waiting, waking.

mod kit;

use kit::{BUF, Bench, failed, nr};
use std::sync::Arc;
use uapi::Errno;

#[test]
fn an_unknown_call_is_enosys_and_changes_nothing() {
    let bench = Bench::new();
    let thread = bench.program();
    for number in [9999, u64::MAX, 1 << 32, 156, 335] {
        assert_eq!(bench.done(&thread, number, &[1, 2, 3]), failed(Errno::ENOSYS));
    }
    assert_eq!(bench.done(&thread, nr::GETPID, &[]), i64::from(thread.process.pid));
}

#[test]
fn files_are_read_and_written_through_descriptors() {
    let bench = Bench::new();
    let thread = bench.program();
    let fd = bench.open(&thread, "/etc/motd", 0);
    assert_eq!(fd, 3);
    assert_eq!(bench.done(&thread, nr::READ, &[3, BUF, 5]), 5);
    assert_eq!(bench.get(&thread, BUF, 5), b"hello");
    assert_eq!(bench.done(&thread, nr::PREAD, &[3, BUF, 100, 6]), 6);
    assert_eq!(bench.done(&thread, nr::LSEEK, &[3, 0, 2]), 12);
    assert_eq!(bench.done(&thread, nr::WRITE, &[3, BUF, 1]), failed(Errno::EBADF));
    assert_eq!(bench.done(&thread, nr::READ, &[3, 0xdead_0000, 1]), 0, "the end comes before the pointer");
    assert_eq!(bench.done(&thread, nr::PREAD, &[3, 0xdead_0000, 1, 0]), failed(Errno::EFAULT));
    assert_eq!(bench.done(&thread, nr::READ, &[77, BUF, 1]), failed(Errno::EBADF));
    let new = bench.open(&thread, "/tmp/new", 0o102);
    assert_eq!(new, 4);
    // A write from memory that ends in the middle: what was there is written.
    assert_eq!(bench.done(&thread, nr::WRITE, &[4, BUF + 0xfff0, 0x20]), failed(Errno::EFAULT));
    bench.put64(&thread, BUF, &[BUF + 0x100, 3, BUF + 0x200, 0, BUF + 0x300, 2]);
    bench.put(&thread, BUF + 0x100, b"abc");
    bench.put(&thread, BUF + 0x300, b"de");
    assert_eq!(bench.done(&thread, nr::WRITEV, &[4, BUF, 3]), 5);
    assert_eq!(bench.done(&thread, nr::WRITEV, &[4, BUF, 1025]), failed(Errno::EINVAL));
    bench.put64(&thread, BUF + 8, &[u64::MAX]);
    assert_eq!(bench.done(&thread, nr::WRITEV, &[4, BUF, 1]), failed(Errno::EINVAL));
    assert_eq!(bench.done(&thread, nr::PREAD, &[4, BUF, 100, 0]), 5);
    assert_eq!(bench.get(&thread, BUF, 5), b"abcde");
    assert_eq!(bench.done(&thread, nr::CLOSE, &[4]), 0);
    assert_eq!(bench.done(&thread, nr::CLOSE, &[4]), failed(Errno::EBADF));
    assert_eq!(bench.open(&thread, "/etc/none", 0), failed(Errno::ENOENT));
    assert_eq!(bench.done(&thread, nr::OPEN, &[0xdead_0000, 0]), failed(Errno::EFAULT));
}

#[test]
fn standard_output_is_the_console_and_input_waits_for_a_line() {
    let bench = Bench::new();
    let thread = bench.program();
    bench.put(&thread, BUF, b"hi\n");
    assert_eq!(bench.done(&thread, nr::WRITE, &[1, BUF, 3]), 3);
    assert_eq!(bench.test.output.lock().as_slice(), b"hi\r\n");
    assert_eq!(bench.call(&thread, nr::READ, &[0, BUF, 100]), None);
    bench.test.console.input(b"typ");
    assert!(bench.next().is_none());
    bench.test.console.input(b"ed\n");
    assert!(Arc::ptr_eq(&bench.next().unwrap(), &thread));
    assert_eq!(bench.result(&thread), 6);
    assert_eq!(bench.get(&thread, BUF, 6), b"typed\n");
}

#[test]
fn a_pipe_read_waits_for_the_writer_and_is_told_the_end() {
    let bench = Bench::new();
    let reader = bench.program();
    assert_eq!(bench.done(&reader, nr::PIPE2, &[BUF, 0]), 0);
    let (read, write) = (bench.get32(&reader, BUF), bench.get32(&reader, BUF + 4));
    assert_eq!((read, write), (3, 4));
    bench.enter(&reader, nr::FORK, &[]);
    let (parent, child) = (bench.next().unwrap(), bench.next().unwrap());
    let (parent, child) = if Arc::ptr_eq(&parent, &reader) { (parent, child) } else { (child, parent) };
    assert_eq!(bench.result(&child), 0);
    assert_eq!(bench.result(&parent), i64::from(child.tid));
    bench.enter(&parent, nr::CLOSE, &[4]);
    assert!(Arc::ptr_eq(&bench.next().unwrap(), &parent));
    bench.enter(&parent, nr::READ, &[3, BUF, 100]);
    assert!(bench.next().is_none(), "the parent waits, the child has not been queued");
    bench.put(&child, BUF, b"message");
    bench.enter(&child, nr::WRITE, &[4, BUF, 7]);
    let mut woken = [bench.next().unwrap(), bench.next().unwrap()];
    woken.sort_by_key(|thread| thread.tid);
    assert_eq!(bench.result(&parent), 7);
    assert_eq!(bench.get(&parent, BUF, 7), b"message");
    bench.enter(&parent, nr::READ, &[3, BUF, 100]);
    bench.enter(&child, nr::EXIT_GROUP, &[3]);
    let next = bench.next().unwrap();
    assert!(Arc::ptr_eq(&next, &parent));
    assert_eq!(bench.result(&parent), 0);
    assert_eq!(bench.done(&parent, nr::WAIT4, &[u64::MAX, BUF, 0, 0]), i64::from(child.tid));
    assert_eq!(bench.get32(&parent, BUF), 3 << 8);
    assert_eq!(bench.done(&parent, nr::WAIT4, &[u64::MAX, BUF, 0, 0]), failed(Errno::ECHILD));
}

#[test]
fn a_blocking_write_ends_when_everything_is_written() {
    let bench = Bench::new();
    let thread = bench.program();
    assert_eq!(bench.done(&thread, nr::PIPE2, &[BUF, 0]), 0);
    let reader = thread.process.file(3).unwrap();
    bench.put(&thread, BUF, &(0..=255).cycle().take(0x1_0000).collect::<Vec<u8>>());
    // Two spans of 64 KiB into a pipe that holds one.
    bench.put64(&thread, 0x40_1000, &[BUF, 0x1_0000, BUF, 0x1_0000]);
    assert_eq!(bench.call(&thread, nr::WRITEV, &[4, 0x40_1000, 2]), None);
    let mut total = Vec::new();
    let mut piece = [0; 0x7001];
    while total.len() < 0x1_8000 {
        let count = reader.file.read(0, &mut piece).unwrap();
        total.extend_from_slice(&piece[..count]);
        if total.len() < 0x1_0000 {
            assert!(bench.next().is_none(), "it still waits");
        } else if bench.next().is_some() {
            break;
        }
    }
    assert_eq!(bench.result(&thread), 0x2_0000);
    while let Ok(count) = reader.file.read(0, &mut piece) {
        total.extend_from_slice(&piece[..count]);
    }
    assert_eq!(total.len(), 0x2_0000);
    assert!(total.iter().enumerate().all(|(at, byte)| *byte == at as u8), "in order, nothing twice");
    // Without blocking, what fits.
    assert_eq!(bench.done(&thread, nr::FCNTL, &[4, 4, 0o4000]), 0);
    assert_eq!(bench.done(&thread, nr::WRITEV, &[4, 0x40_1000, 2]), 0x1_0000);
    assert_eq!(bench.done(&thread, nr::WRITEV, &[4, 0x40_1000, 2]), failed(Errno::EAGAIN));
}

#[test]
fn sleeping_ends_at_its_deadline_and_not_before() {
    let bench = Bench::new();
    let thread = bench.program();
    bench.put64(&thread, BUF, &[1, 500]);
    assert_eq!(bench.call(&thread, nr::NANOSLEEP, &[BUF, 0]), None);
    assert_eq!(bench.test.kernel.deadline(), Some(1_000_000_500));
    bench.test.clock.advance(1_000_000_499);
    assert!(bench.next().is_none());
    bench.test.clock.advance(1);
    assert!(bench.next().is_some());
    assert_eq!(bench.result(&thread), 0);
    for bad in [[u64::MAX, 0], [0, 1_000_000_000]] {
        bench.put64(&thread, BUF, &bad);
        assert_eq!(bench.done(&thread, nr::NANOSLEEP, &[BUF, 0]), failed(Errno::EINVAL));
    }
}

#[test]
fn poll_tells_what_is_ready_and_when_the_time_is_over() {
    let bench = Bench::new();
    let thread = bench.program();
    assert_eq!(bench.done(&thread, nr::EVENTFD2, &[0, 0]), 3);
    let entry = |fd: i32, events: u16| u64::from(fd as u32) | u64::from(events) << 32;
    bench.put64(&thread, BUF, &[entry(3, 1), entry(-5, 1), entry(50, 1)]);
    assert_eq!(bench.done(&thread, nr::POLL, &[BUF, 3, u64::MAX]), 1);
    assert_eq!(bench.get64(&thread, BUF + 16) >> 48, 0x20, "POLLNVAL");
    assert_eq!(bench.call(&thread, nr::POLL, &[BUF, 2, 10]), None);
    bench.test.clock.advance(10_000_000);
    assert!(bench.next().is_some());
    assert_eq!(bench.result(&thread), 0);
    // For ever, until somebody writes.
    assert_eq!(bench.call(&thread, nr::POLL, &[BUF, 2, u64::MAX]), None);
    bench.test.clock.advance(u64::MAX / 4);
    assert!(bench.next().is_none());
    thread.process.file(3).unwrap().file.write(0, &1u64.to_le_bytes()).unwrap();
    assert!(bench.next().is_some());
    assert_eq!(bench.result(&thread), 1);
    assert_eq!(bench.get64(&thread, BUF) >> 48, 1);
    assert_eq!(bench.done(&thread, nr::POLL, &[BUF, 5000, 0]), failed(Errno::EINVAL));
    // The same through epoll.
    assert_eq!(bench.done(&thread, nr::EPOLL_CREATE1, &[0]), 4);
    bench.put(&thread, BUF, &1u32.to_le_bytes());
    bench.put64(&thread, BUF + 4, &[0x1234_5678_9abc]);
    assert_eq!(bench.done(&thread, nr::EPOLL_CTL, &[4, 1, 3, BUF]), 0);
    assert_eq!(bench.done(&thread, nr::EPOLL_WAIT, &[4, BUF + 0x100, 8, u64::MAX]), 1);
    assert_eq!(bench.get64(&thread, BUF + 0x104), 0x1234_5678_9abc);
    assert_eq!(bench.done(&thread, nr::EPOLL_WAIT, &[4, BUF, 0, 0]), failed(Errno::EINVAL));
}

#[test]
fn execve_replaces_the_program_and_closes_what_is_marked() {
    let bench = Bench::new();
    let thread = bench.program();
    let path = bench.path(&thread, BUF + 0x100, "/bin/prog");
    bench.put64(&thread, BUF, &[path, path, 0]);
    assert_eq!(bench.open(&thread, "/etc/motd", 0o2000000), 3);
    assert_eq!(bench.open(&thread, "/etc/motd", 0), 4);
    let used = bench.test.machine.used();
    bench.enter(&thread, nr::EXECVE, &[path, BUF, 0]);
    let next = bench.next().unwrap();
    assert!(Arc::ptr_eq(&next, &thread));
    let regs = thread.context().regs();
    assert_eq!(regs.ip, 0x40_0180);
    assert_eq!(bench.get64(&thread, regs.sp), 2);
    assert!(bench.test.machine.used() <= used);
    assert_eq!(thread.process.file(3).err(), Some(Errno::EBADF));
    assert!(thread.process.file(4).is_ok());
    assert_eq!(thread.process.cmdline(), b"/bin/prog\0/bin/prog\0");
    bench.buffer(&thread);
    for (path, error) in [
        ("/bin/none", Errno::ENOENT),
        ("/bin/noexec", Errno::ENOEXEC),
        ("/etc/motd", Errno::EACCES),
        ("/etc", Errno::EACCES),
    ] {
        let path = bench.path(&thread, BUF + 0x100, path);
        assert_eq!(bench.done(&thread, nr::EXECVE, &[path, 0, 0]), failed(error));
    }
    let path = bench.path(&thread, BUF + 0x100, "/bin/prog");
    assert_eq!(bench.done(&thread, nr::EXECVE, &[path, 0xdead_0000, 0]), failed(Errno::EFAULT));
}

#[test]
fn a_vfork_parent_waits_until_its_child_has_its_own_memory() {
    let bench = Bench::new();
    let parent = bench.program();
    bench.enter(&parent, nr::VFORK, &[]);
    let child = bench.next().unwrap();
    assert!(!Arc::ptr_eq(&child, &parent));
    bench.put(&child, BUF, b"shared");
    let path = bench.path(&child, BUF + 0x100, "/bin/prog");
    assert!(bench.test.kernel.next().is_none());
    bench.enter(&child, nr::EXECVE, &[path, 0, 0]);
    let mut both = [bench.next().unwrap(), bench.next().unwrap()];
    both.sort_by_key(|thread| thread.tid);
    assert_eq!(bench.result(&parent), i64::from(child.tid));
    assert_eq!(bench.get(&parent, BUF, 6), b"shared");
    bench.enter(&child, nr::EXIT_GROUP, &[0]);
    assert_eq!(bench.done(&parent, nr::WAIT4, &[u64::from(child.tid), 0, 0, 0]), i64::from(child.tid));
    bench.end(parent);
    drop((child, both));
    assert_eq!(bench.test.machine.used(), 0);
}

#[test]
fn threads_share_memory_and_their_end_clears_a_word() {
    let bench = Bench::new();
    let main = bench.program();
    bench.put(&main, BUF + 8, &77u32.to_le_bytes());
    // VM FS FILES SIGHAND THREAD SYSVSEM SETTLS PARENT_SETTID CHILD_CLEARTID, as pthread_create does.
    let flags = 0x3d_0f00;
    bench.enter(&main, nr::CLONE, &[flags, BUF + 0x8000, BUF + 4, BUF + 8, 0x7000]);
    let mut both = [bench.next().unwrap(), bench.next().unwrap()];
    both.sort_by_key(|thread| thread.tid);
    let [_, thread] = both;
    assert_eq!(bench.get32(&main, BUF + 4), thread.tid);
    let regs = thread.context().regs();
    assert_eq!((regs.gpr[0], regs.sp, regs.tls), (0, BUF + 0x8000, 0x7000));
    assert_eq!(thread.process.pid, main.process.pid);
    // pthread_join.
    bench.enter(&main, nr::FUTEX, &[BUF + 8, 0, 77, 0]);
    bench.enter(&thread, nr::EXIT, &[0]);
    assert!(Arc::ptr_eq(&bench.next().unwrap(), &main));
    assert_eq!(bench.result(&main), 0);
    assert_eq!(bench.get32(&main, BUF + 8), 0);
    for bad in [0x1_0000, 0x800, 0x1000_0000, 0x2_0000 | 0x100] {
        assert_eq!(bench.done(&main, nr::CLONE, &[bad, 0, 0, 0, 0]), failed(Errno::EINVAL));
    }
    // exit_group by one takes the other along, also while it waits.
    bench.enter(&main, nr::CLONE, &[flags, BUF + 0x8000, BUF + 4, BUF + 8, 0]);
    let one = bench.next().unwrap();
    let two = bench.next().unwrap();
    bench.enter(&one, nr::PAUSE, &[]);
    bench.enter(&two, nr::EXIT_GROUP, &[9]);
    assert!(bench.next().is_none());
    assert_eq!(bench.test.kernel.ended(main.process.pid), Some(task::Status::Exited(9)));
    drop((main, thread, one, two));
    assert_eq!(bench.test.machine.used(), 0);
}

#[test]
fn a_process_that_faults_dies_with_the_signal_of_the_fault() {
    let bench = Bench::new();
    for (trap, signal) in [
        (syscall::Trap::PageFault { address: 8, write: true, exec: false }, 11),
        (syscall::Trap::PageFault { address: 0x40_0000, write: true, exec: false }, 11),
        (syscall::Trap::Exception { signal: 4, what: "invalid opcode" }, 4),
    ] {
        let thread = bench.program();
        bench.system.handle(&thread, trap);
        assert!(bench.next().is_none());
        assert_eq!(bench.test.kernel.ended(thread.process.pid), Some(task::Status::Killed(signal)));
        assert_eq!(task::Status::Killed(signal).shell_status(), 128 + signal);
        bench.test.kernel.reap(thread.process.pid);
    }
    assert_eq!(bench.test.machine.used(), 0);
}

#[test]
fn a_pidfd_can_be_polled_for_the_end() {
    let bench = Bench::new();
    let parent = bench.program();
    bench.enter(&parent, nr::FORK, &[]);
    let mut both = [bench.next().unwrap(), bench.next().unwrap()];
    both.sort_by_key(|thread| thread.tid);
    let child = both[1].clone();
    bench.enter(&parent, nr::PIDFD_OPEN, &[u64::from(child.tid), 0]);
    bench.next().unwrap();
    let fd = bench.result(&parent);
    bench.put64(&parent, BUF, &[fd as u64 | 1 << 32]);
    bench.enter(&parent, nr::POLL, &[BUF, 1, u64::MAX]);
    assert!(bench.next().is_none());
    bench.enter(&child, nr::EXIT_GROUP, &[0]);
    assert!(Arc::ptr_eq(&bench.next().unwrap(), &parent));
    assert_eq!(bench.result(&parent), 1);
    assert_eq!(bench.done(&parent, nr::PIDFD_OPEN, &[12345, 0]), failed(Errno::ESRCH));
}

#[test]
fn soft_dirty_goes_through_proc() {
    let bench = Bench::new();
    let thread = bench.program();
    let pagemap = bench.open(&thread, "/proc/self/pagemap", 0) as u64;
    let clear = bench.open(&thread, "/proc/self/clear_refs", 1) as u64;
    bench.put(&thread, BUF, b"4\n");
    bench.put(&thread, BUF + 0x1000, b"x");
    assert_eq!(bench.done(&thread, nr::WRITE, &[clear, BUF, 2]), 2);
    // read(2) into a page is a write to it, and is reported.
    assert_eq!(bench.done(&thread, nr::PREAD, &[pagemap, BUF + 0x2000, 16, BUF / 4096 * 8]), 16);
    assert_eq!(bench.get64(&thread, BUF + 0x2000) >> 55, 0x100 | 2, "present, exclusive, clean");
    assert_eq!(bench.done(&thread, nr::PREAD, &[pagemap, BUF + 0x3000, 24, BUF / 4096 * 8]), 24);
    assert_eq!(bench.get64(&thread, BUF + 0x3000 + 16) >> 55 & 1, 1, "the page read into");
    assert_eq!(bench.get64(&thread, BUF + 0x3000 + 8) >> 55 & 1, 0);
    bench.put(&thread, BUF, b"9");
    assert_eq!(bench.done(&thread, nr::WRITE, &[clear, BUF, 1]), failed(Errno::EINVAL));
    assert_eq!(bench.done(&thread, nr::PREAD, &[pagemap, BUF, 7, 0]), failed(Errno::EINVAL));
    let status = bench.open(&thread, "/proc/self/status", 0) as u64;
    let count = bench.done(&thread, nr::READ, &[status, BUF, 4096]) as usize;
    let text = String::from_utf8(bench.get(&thread, BUF, count)).unwrap();
    assert!(
        text.contains("VmPin:\t       0 kB") && text.contains("VmLck:\t       0 kB") && text.contains("Name:\tprog")
    );
}

#[test]
fn the_iommu_is_reached_through_its_file() {
    let bench = Bench::new();
    let thread = bench.program();
    let fd = bench.open(&thread, "/dev/iommu", 2) as u64;
    // IOMMU_IOAS_ALLOC {size 12, flags, out_ioas_id}, then IOMMU_DESTROY {size 8, id}.
    bench.put(&thread, BUF, &[12, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(bench.done(&thread, nr::IOCTL, &[fd, 0x3b81, BUF]), 0);
    let id = bench.get32(&thread, BUF + 8);
    bench.put64(&thread, BUF, &[8 | u64::from(id) << 32]);
    assert_eq!(bench.done(&thread, nr::IOCTL, &[fd, 0x3b80, BUF]), 0);
    assert_eq!(bench.done(&thread, nr::IOCTL, &[fd, 0x3b80, BUF]), failed(Errno::ENOENT));
    assert_eq!(bench.done(&thread, nr::IOCTL, &[fd, 0x3b80, 0xdead_0000]), failed(Errno::EFAULT));
    assert_eq!(bench.done(&thread, nr::IOCTL, &[fd, 0x5401, BUF]), failed(Errno::ENOTTY));
    assert_eq!(bench.done(&thread, nr::IOCTL, &[99, 0x3b80, BUF]), failed(Errno::EBADF));
}

#[test]
fn pins_of_an_io_address_space_outlive_the_program() {
    let bench = Bench::new();
    let thread = bench.program();
    let fd = bench.open(&thread, "/dev/iommu", 2) as u64;
    bench.put(&thread, BUF, &[12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bench.done(&thread, nr::IOCTL, &[fd, 0x3b81, BUF]), 0);
    let file = thread.process.file(fd as i32).unwrap();
    bench.end(thread);
    // The file is the last holder; it goes without the program.
    drop(file);
    assert_eq!(bench.test.machine.used(), 0);
}
