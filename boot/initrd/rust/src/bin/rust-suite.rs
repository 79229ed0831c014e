//! One part of std per word on the command line. The output is the same on Linux; a suite compares the two.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

type Result = std::result::Result<(), Box<dyn std::error::Error>>;

type Part = (&'static str, fn() -> Result);

/// Runs the named parts, or all of them.
fn main() -> std::process::ExitCode {
    let parts: [Part; 8] = [
        ("memory", memory),
        ("float", float),
        ("threads", threads),
        ("tls", tls),
        ("files", files),
        ("sockets", sockets),
        ("time", time),
        ("process", process),
    ];
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.first().is_some_and(|word| word == "panic") {
        panic!("as asked");
    }
    if wanted.first().is_some_and(|word| word == "fault") {
        return fault();
    }
    let mut failed = 0;
    for (name, part) in parts {
        if !wanted.is_empty() && !wanted.iter().any(|word| word == name) {
            continue;
        }
        match part() {
            Ok(()) => println!("{name}: ok"),
            Err(why) => {
                println!("{name}: FAILED: {why}");
                failed += 1;
            }
        }
    }
    std::process::ExitCode::from(failed)
}

/// Says what was expected if the two differ.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Result {
    if got == want { Ok(()) } else { Err(format!("{what}: got {got:?}, wanted {want:?}").into()) }
}

fn memory() -> Result {
    // Large enough for mmap rather than brk, then grown in place or moved.
    let mut big: Vec<u64> = (0..1 << 20).collect();
    big.extend(0..1 << 20);
    same("sum", big.iter().sum::<u64>(), ((1u64 << 20) - 1) << 20)?;
    let mut map: HashMap<String, usize> = HashMap::new();
    for number in 0..10_000 {
        map.insert(format!("key {number}"), number);
    }
    same("map", map.get("key 4711"), Some(&4711))?;
    drop(big);
    same("zeroed", vec![0u8; 32 << 20].iter().any(|byte| *byte != 0), false)
}

fn float() -> Result {
    // Square roots and products in several threads at once: SSE state must be each thread's own.
    let workers: Vec<_> = (1..=4u32)
        .map(|worker| {
            thread::spawn(move || {
                let mut value = f64::from(worker);
                for _ in 0..200_000 {
                    value = (value * value + f64::from(worker)).sqrt();
                    if value > 1e6 {
                        value = f64::from(worker);
                    }
                }
                value
            })
        })
        .collect();
    for (worker, handle) in (1..=4u32).zip(workers) {
        // x <- sqrt(x^2 + w) adds w to the square each time.
        let got = handle.join().map_err(|_| "a worker panicked")?;
        let want = (f64::from(worker) * f64::from(worker) + 200_000.0 * f64::from(worker)).sqrt();
        if (got - want).abs() / want > 1e-6 {
            return Err(format!("worker {worker}: got {got}, wanted {want}").into());
        }
    }
    Ok(())
}

fn threads() -> Result {
    let total = Arc::new(Mutex::new(0u64));
    let lockless = Arc::new(AtomicU64::new(0));
    let barrier = Arc::new(Barrier::new(8));
    let workers: Vec<_> = (0..8u64)
        .map(|worker| {
            let (total, lockless, barrier) = (Arc::clone(&total), Arc::clone(&lockless), Arc::clone(&barrier));
            thread::spawn(move || {
                barrier.wait();
                for _ in 0..1000 {
                    if let Ok(mut total) = total.lock() {
                        *total += worker;
                    }
                    lockless.fetch_add(worker, Ordering::Relaxed);
                }
                worker
            })
        })
        .collect();
    let mut joined = 0;
    for worker in workers {
        joined += worker.join().map_err(|_| "a worker panicked")?;
    }
    same("joined", joined, 28)?;
    same("locked", *total.lock().map_err(|_| "poisoned")?, 28_000)?;
    same("atomic", lockless.load(Ordering::Relaxed), 28_000)?;

    let (tx, rx) = mpsc::channel();
    let sender = thread::spawn(move || (0..100).try_for_each(|number| tx.send(number)));
    same("channel", rx.iter().sum::<i32>(), 4950)?;
    sender.join().map_err(|_| "the sender panicked")??;

    let pair = Arc::new((Mutex::new(false), Condvar::new()));
    let waker = Arc::clone(&pair);
    let handle = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        if let Ok(mut flag) = waker.0.lock() {
            *flag = true;
        }
        waker.1.notify_all();
    });
    let guard = pair.0.lock().map_err(|_| "poisoned")?;
    let limit = Duration::from_secs(20);
    let (guard, waited) = pair.1.wait_timeout_while(guard, limit, |flag| !*flag).map_err(|_| "poisoned")?;
    same("condition", (*guard, waited.timed_out()), (true, false))?;
    drop(guard);
    handle.join().map_err(|_| "the waker panicked".into())
}

thread_local! {
    static OWN: std::cell::Cell<u64> = const { std::cell::Cell::new(7) };
}

fn tls() -> Result {
    OWN.set(1);
    let other = thread::spawn(|| {
        let before = OWN.get();
        OWN.set(99);
        thread::yield_now();
        (before, OWN.get())
    });
    same("the other thread's", other.join().map_err(|_| "it panicked")?, (7, 99))?;
    same("this thread's", OWN.get(), 1)
}

fn files() -> Result {
    let dir = std::path::Path::new("/tmp/rust-suite");
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir)?;
    let path = dir.join("file");
    let mut file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    file.write_all(b"0123456789")?;
    file.seek(SeekFrom::Start(5))?;
    file.write_all(b"abc")?;
    file.seek(SeekFrom::End(-6))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    same("read back", text.as_str(), "4abc89")?;
    same("length", file.metadata()?.len(), 10)?;
    file.set_len(4)?;
    same("cut", fs::read(&path)?, b"0123".to_vec())?;
    let mut more = fs::OpenOptions::new().append(true).open(&path)?;
    more.write_all(b"+")?;
    same("appended", fs::read_to_string(&path)?, "0123+".to_owned())?;
    let renamed = dir.join("renamed");
    fs::rename(&path, &renamed)?;
    let mut names: Vec<_> = fs::read_dir(dir)?.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    same("listing", names, vec!["renamed".into()])?;
    fs::remove_file(&renamed)?;
    let missing = fs::File::open(&renamed).err().map(|error| error.raw_os_error());
    same("missing file", missing, Some(Some(2)))?;
    let exists = fs::create_dir(dir).err().map(|error| error.raw_os_error());
    same("existing directory", exists, Some(Some(17)))?;
    let is_dir = fs::read(dir).err().map(|error| error.raw_os_error());
    same("reading a directory", is_dir, Some(Some(21)))?;
    fs::remove_dir(dir)?;
    Ok(())
}

fn sockets() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let server = thread::spawn(move || -> std::io::Result<usize> {
        let (mut stream, _) = listener.accept()?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        bytes.reverse();
        stream.write_all(&bytes)?;
        Ok(bytes.len())
    });
    let mut client = TcpStream::connect(address)?;
    client.set_nodelay(true)?;
    let sent: Vec<u8> = (0..100_000u32).map(|number| number as u8).collect();
    client.write_all(&sent)?;
    client.shutdown(Shutdown::Write)?;
    let mut back = Vec::new();
    client.read_to_end(&mut back)?;
    back.reverse();
    same("echo", back == sent, true)?;
    same("server", server.join().map_err(|_| "the server panicked")??, 100_000)?;
    let refused = TcpStream::connect(address).err().map(|error| error.raw_os_error());
    same("connecting to nobody", refused, Some(Some(111)))?;
    let quiet = TcpListener::bind("127.0.0.1:0")?;
    quiet.set_nonblocking(true)?;
    let again = quiet.accept().err().map(|error| error.raw_os_error());
    same("nobody to accept", again, Some(Some(11)))
}

fn time() -> Result {
    let began = Instant::now();
    thread::sleep(Duration::from_millis(50));
    let slept = began.elapsed();
    if slept < Duration::from_millis(50) || slept > Duration::from_secs(20) {
        return Err(format!("slept {slept:?} instead of 50 ms").into());
    }
    SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(())
}

fn process() -> Result {
    let me = std::env::current_exe()?;
    let output = std::process::Command::new(&me).arg("tls").env("LEFT", "1").output()?;
    same("child's output", String::from_utf8_lossy(&output.stdout).into_owned(), "tls: ok\n".to_owned())?;
    same("child's status", output.status.code(), Some(0))?;
    let missing = std::process::Command::new("/no/such/program").status().err().map(|error| error.raw_os_error());
    same("missing program", missing, Some(Some(2)))
}

/// Ends by SIGSEGV: recursion into the guard page of a thread's stack is the one fault that safe code can make.
fn fault() -> std::process::ExitCode {
    fn deeper(level: u64) -> u64 {
        let page = [level; 512];
        let page = std::hint::black_box(page);
        if level == u64::MAX { page[0] } else { deeper(level + 1) + page[511] }
    }
    std::process::ExitCode::from(deeper(0) as u8)
}
