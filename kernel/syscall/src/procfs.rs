//! /proc and the usual nodes of /dev.

use crate::Errno;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt::Write;
use mm::{AddressSpace, PAGE};
use task::{Kernel, Process, Thread};
use uapi::linux::fs::makedev;
use vfs::{Directory, Entry, File, FileKind, Full, Node, NodeBody, Null, OpenFile, Random, Stat, Viewer, Zero};

/// Adds them to the kernel's tree.
pub(crate) fn install(kernel: &Arc<Kernel>) {
    let tree = &kernel.tree;
    let machine = kernel.machine.clone();
    let random = Random(Arc::new(move |to: &mut [u8]| machine.random(to)));
    let console = kernel.console();
    let add = |path: &str, node: Arc<Node>| {
        if let Err(error) = tree.install(path, node) {
            log::warn!("{path}: {error:?}");
        }
    };
    let shared = |file: Arc<dyn File>| Node::shared(file);
    add("/dev/null", shared(Arc::new(Null)));
    add("/dev/zero", shared(Arc::new(Zero)));
    add("/dev/full", shared(Arc::new(Full)));
    add("/dev/random", shared(Arc::new(random.clone())));
    add("/dev/urandom", shared(Arc::new(random)));
    add("/dev/console", shared(console.clone()));
    let tty = console.clone();
    add("/dev/tty", Node::device(makedev(5, 0), 0o666, Arc::new(move |_: u32| Ok(tty.clone()))));
    add("/dev/fd", Node::link(b"/proc/self/fd"));
    add("/dev/stdin", Node::link(b"/proc/self/fd/0"));
    add("/dev/stdout", Node::link(b"/proc/self/fd/1"));
    add("/dev/stderr", Node::link(b"/proc/self/fd/2"));
    for directory in ["/dev/shm", "/tmp", "/run", "/var/tmp"] {
        if tree.resolve(&tree.root(), directory.as_bytes(), Viewer::default(), true).is_err() {
            add(directory, Node::directory(0o1777));
        }
    }
    add("/proc", Node::dynamic(Arc::new(Root(Arc::downgrade(kernel)))));
}

fn entry(name: &str, kind: FileKind) -> Entry {
    Entry { name: name.as_bytes().to_vec(), ino: 1, kind }
}

struct Root(Weak<Kernel>);

/// Texts of /proc itself.
const TEXTS: [&str; 8] = ["meminfo", "cpuinfo", "uptime", "version", "filesystems", "mounts", "loadavg", "stat"];

fn text(kernel: &Kernel, name: &[u8]) -> Option<Vec<u8>> {
    let (free, all) = kernel.frames.usage();
    let kib = |pages: u64| pages * PAGE / 1024;
    let up = kernel.machine.monotonic();
    let text = match name {
        b"meminfo" => format!(
            "MemTotal:       {:8} kB\nMemFree:        {:8} kB\nMemAvailable:   {:8} kB\nBuffers:               0 kB\n\
             Cached:                0 kB\nSwapTotal:             0 kB\nSwapFree:              0 kB\n",
            kib(all),
            kib(free),
            kib(free)
        ),
        b"cpuinfo" => kernel.machine.cpuinfo(),
        b"uptime" => format!("{}.{:02} 0.00\n", up / 1_000_000_000, up / 10_000_000 % 100),
        b"version" => "Linux version 6.6.0-portolan (Portolan)\n".to_string(),
        b"filesystems" => "nodev\ttmpfs\nnodev\tproc\n".to_string(),
        b"mounts" => "rootfs / tmpfs rw 0 0\nproc /proc proc rw 0 0\n".to_string(),
        b"loadavg" => format!("0.00 0.00 0.00 1/{} 1\n", kernel.processes().len()),
        b"stat" => {
            let boot = (kernel.machine.realtime() - up.min(kernel.machine.realtime())) / 1_000_000_000;
            format!("cpu  0 0 0 0 0 0 0 0 0 0\nbtime {boot}\nprocesses {}\n", kernel.processes().len())
        }
        _ => return None,
    };
    Some(text.into_bytes())
}

fn number(name: &[u8]) -> Option<u32> {
    if name.is_empty() || name.len() > 9 || name[0] == b'0' && name.len() > 1 {
        return None;
    }
    core::str::from_utf8(name).ok()?.parse().ok()
}

impl Directory for Root {
    fn lookup(&self, name: &[u8], viewer: Viewer) -> Option<Arc<Node>> {
        let kernel = self.0.upgrade()?;
        match name {
            b"self" => Some(Node::link(format!("{}", viewer.pid).as_bytes())),
            b"thread-self" => Some(Node::link(format!("{}/task/{}", viewer.pid, viewer.tid).as_bytes())),
            _ if TEXTS.iter().any(|text| text.as_bytes() == name) => {
                let (weak, name) = (self.0.clone(), name.to_vec());
                Some(Node::text(move || weak.upgrade().and_then(|kernel| text(&kernel, &name)).unwrap_or_default()))
            }
            _ => {
                let process = kernel.process(number(name)?)?;
                let thread = kernel.thread(process.pid);
                Some(Node::dynamic(Arc::new(Of { kernel: self.0.clone(), process, thread, task: false })))
            }
        }
    }
    fn list(&self, _viewer: Viewer) -> Vec<Entry> {
        let Some(kernel) = self.0.upgrade() else { return Vec::new() };
        let mut list: Vec<Entry> = TEXTS.iter().map(|name| entry(name, FileKind::Regular)).collect();
        list.extend(["self", "thread-self"].map(|name| entry(name, FileKind::Link)));
        list.extend(kernel.processes().iter().map(|process| entry(&format!("{}", process.pid), FileKind::Directory)));
        list
    }
}

/// Directory of a process, or of one of its threads.
struct Of {
    kernel: Weak<Kernel>,
    process: Arc<Process>,
    thread: Option<Arc<Thread>>,
    /// A thread's: without `task`.
    task: bool,
}

const OF_TEXTS: [&str; 9] = ["maps", "status", "stat", "statm", "cmdline", "comm", "limits", "mounts", "oom_score_adj"];

impl Of {
    fn text(process: &Process, thread: Option<&Thread>, name: &[u8]) -> Vec<u8> {
        let space = process.space();
        let counters = space.as_ref().map(|space| space.counters()).unwrap_or_default();
        let comm = thread.map(Thread::name).unwrap_or_default();
        let comm = String::from_utf8_lossy(&comm).into_owned();
        let threads = process.thread_ids().len();
        match name {
            b"maps" => space.map(|space| space.maps()).unwrap_or_default().into_bytes(),
            b"cmdline" => process.cmdline(),
            b"comm" => format!("{comm}\n").into_bytes(),
            b"oom_score_adj" => b"0\n".to_vec(),
            b"mounts" => b"rootfs / tmpfs rw 0 0\nproc /proc proc rw 0 0\n".to_vec(),
            b"limits" => limits(process).into_bytes(),
            b"statm" => {
                let pages = |bytes: u64| bytes / PAGE;
                let (size, resident, shared) = (pages(counters.size), pages(counters.resident), pages(counters.shared));
                format!("{size} {resident} {shared} 0 0 {} 0\n", pages(counters.data)).into_bytes()
            }
            b"stat" => stat(process, &comm, &counters, threads).into_bytes(),
            _ => status(process, thread, &comm, &counters, threads).into_bytes(),
        }
    }
}

fn state_letter(process: &Process) -> char {
    if process.ended().is_some() { 'Z' } else { 'R' }
}

fn stat(process: &Process, comm: &str, counters: &mm::Counters, threads: usize) -> String {
    let (own, children) = process.times();
    let ticks = |nanos: u64| nanos / 10_000_000;
    let stack = process.space().map_or(0, |space| space.layout().2);
    let (pid, state, ppid) = (process.pid, state_letter(process), process.parent());
    let mut text = format!("{pid} ({comm}) {state} {ppid} {} {} 0 -1 0 ", process.group(), process.session());
    let _ = write!(text, "{} 0 0 0 {} 0 {} 0 20 0 {threads} 0 0 ", counters.faults, ticks(own), ticks(children));
    let _ = write!(text, "{} {} 18446744073709551615 0 0 {stack} ", counters.size, counters.resident / PAGE);
    text.push_str("0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n");
    text
}

fn status(process: &Process, thread: Option<&Thread>, comm: &str, counters: &mm::Counters, threads: usize) -> String {
    let mut text = String::new();
    let tid = thread.map_or(process.pid, |thread| thread.tid);
    let (pid, state, ppid) = (process.pid, state_letter(process), process.parent());
    let _ = write!(
        text,
        "Name:\t{comm}\nState:\t{state}\nTgid:\t{pid}\nPid:\t{tid}\nPPid:\t{ppid}\nTracerPid:\t0\n\
         Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nFDSize:\t{}\nGroups:\t\n",
        vfs::MAX_FDS
    );
    for (name, bytes) in [
        ("VmPeak", counters.size),
        ("VmSize", counters.size),
        ("VmLck", counters.locked),
        ("VmPin", counters.pinned),
        ("VmHWM", counters.peak),
        ("VmRSS", counters.resident),
        ("RssAnon", counters.resident - counters.shared.min(counters.resident)),
        ("RssShmem", counters.shared),
        ("VmData", counters.data),
        ("VmStk", counters.stack),
    ] {
        let _ = writeln!(text, "{name}:\t{:8} kB", bytes / 1024);
    }
    let blocked = thread.map_or(0, |thread| thread.state.lock().blocked);
    let pending = thread.map_or(0, Thread::pending);
    let caps = process.credentials();
    let _ = write!(
        text,
        "Threads:\t{threads}\nSigPnd:\t{pending:016x}\nSigBlk:\t{blocked:016x}\nCapInh:\t{:016x}\nCapPrm:\t{:016x}\n\
         CapEff:\t{:016x}\nCpus_allowed_list:\t0\n",
        caps.inheritable, caps.permitted, caps.effective
    );
    text
}

fn limits(process: &Process) -> String {
    let limits = process.limits();
    let mut text = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for (name, (soft, hard), unit) in [
        ("Max stack size", limits.stack, "bytes"),
        ("Max open files", limits.nofile, "files"),
        ("Max locked memory", limits.memlock, "bytes"),
    ] {
        let show = |value: u64| if value == u64::MAX { "unlimited".to_string() } else { value.to_string() };
        let _ = writeln!(text, "{name:<25} {:<20} {:<20} {unit:<10}", show(soft), show(hard));
    }
    text
}

impl Directory for Of {
    fn lookup(&self, name: &[u8], _viewer: Viewer) -> Option<Arc<Node>> {
        let process = &self.process;
        match name {
            b"exe" => Some(Node::link(&process.exe())),
            b"cwd" => Some(Node::link(&process.fs().lock().cwd.path())),
            b"root" => Some(Node::link(b"/")),
            b"fd" => Some(Node::dynamic(Arc::new(Fds(process.clone())))),
            b"task" if !self.task => {
                Some(Node::dynamic(Arc::new(Tasks { kernel: self.kernel.clone(), process: process.clone() })))
            }
            b"pagemap" => {
                let space = process.space()?;
                let open = move |_: u32| Ok(Arc::new(Pagemap(space.clone())) as Arc<dyn File>);
                Some(Node::device(0, 0o400, Arc::new(open)))
            }
            b"clear_refs" => {
                let space = process.space()?;
                let open = move |_: u32| Ok(Arc::new(ClearRefs(space.clone())) as Arc<dyn File>);
                Some(Node::device(0, 0o200, Arc::new(open)))
            }
            _ if OF_TEXTS.iter().any(|text| text.as_bytes() == name) => {
                let (process, thread, name) = (process.clone(), self.thread.clone(), name.to_vec());
                Some(Node::text(move || Self::text(&process, thread.as_deref(), &name)))
            }
            _ => None,
        }
    }
    fn list(&self, _viewer: Viewer) -> Vec<Entry> {
        let mut list: Vec<Entry> = OF_TEXTS.iter().map(|name| entry(name, FileKind::Regular)).collect();
        list.extend(["pagemap", "clear_refs"].map(|name| entry(name, FileKind::Regular)));
        list.extend(["exe", "cwd", "root"].map(|name| entry(name, FileKind::Link)));
        list.push(entry("fd", FileKind::Directory));
        if !self.task {
            list.push(entry("task", FileKind::Directory));
        }
        list
    }
}

struct Tasks {
    kernel: Weak<Kernel>,
    process: Arc<Process>,
}

impl Directory for Tasks {
    fn lookup(&self, name: &[u8], _viewer: Viewer) -> Option<Arc<Node>> {
        let thread = self.kernel.upgrade()?.thread(number(name)?)?;
        if thread.process.pid != self.process.pid {
            return None;
        }
        let (kernel, process) = (self.kernel.clone(), self.process.clone());
        Some(Node::dynamic(Arc::new(Of { kernel, process, thread: Some(thread), task: true })))
    }
    fn list(&self, _viewer: Viewer) -> Vec<Entry> {
        let ids = self.process.thread_ids();
        ids.iter().map(|tid| entry(&format!("{tid}"), FileKind::Directory)).collect()
    }
}

struct Fds(Arc<Process>);

fn label(file: &OpenFile) -> Vec<u8> {
    if let Some(place) = &file.place {
        return place.path();
    }
    let stat = file.file.stat();
    match stat.kind {
        FileKind::Pipe => format!("pipe:[{}]", stat.ino).into_bytes(),
        FileKind::Socket => format!("socket:[{}]", stat.ino).into_bytes(),
        FileKind::Regular => b"/memfd: (deleted)".to_vec(),
        FileKind::Device => b"/dev/console".to_vec(),
        _ => b"anon_inode:[object]".to_vec(),
    }
}

impl Directory for Fds {
    fn lookup(&self, name: &[u8], _viewer: Viewer) -> Option<Arc<Node>> {
        let file = self.0.file(number(name)? as i32).ok()?;
        Some(Node::new(NodeBody::Open(label(&file), file), 0o700))
    }
    fn list(&self, _viewer: Viewer) -> Vec<Entry> {
        let open = self.0.files().lock().open();
        open.iter().map(|fd| entry(&format!("{fd}"), FileKind::Link)).collect()
    }
}

struct Pagemap(Arc<AddressSpace>);

impl File for Pagemap {
    fn read(&self, at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        self.0.pagemap(at, to)
    }
    fn seekable(&self) -> bool {
        true
    }
    fn stat(&self) -> Stat {
        Stat { mode: 0o400, ..Stat::anonymous(FileKind::Regular) }
    }
}

struct ClearRefs(Arc<AddressSpace>);

impl File for ClearRefs {
    fn write(&self, _at: u64, from: &[u8]) -> Result<usize, Errno> {
        match from.trim_ascii() {
            b"4" => self.0.clear_soft_dirty(),
            // Referenced bits and the peak are not kept.
            b"1" | b"2" | b"3" | b"5" => {}
            _ => return Err(Errno::EINVAL),
        }
        Ok(from.len())
    }
    fn seekable(&self) -> bool {
        true
    }
    fn truncate(&self, _size: u64) -> Result<(), Errno> {
        Ok(())
    }
    fn stat(&self) -> Stat {
        Stat { mode: 0o200, ..Stat::anonymous(FileKind::Regular) }
    }
}
