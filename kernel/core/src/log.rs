//! Kernel messages: to the serial port, and to a ring that `dmesg` reads.

use alloc::string::String;
use arch_x86_64::{serial, time};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Mutex;

/// Bytes of messages kept.
const RING: usize = 32 << 10;

struct Ring {
    bytes: [u8; RING],
    /// Bytes ever written.
    written: usize,
}

static MESSAGES: Mutex<Ring> = Mutex::new(Ring { bytes: [0; RING], written: 0 });
/// Messages stay off the serial port.
static QUIET: AtomicBool = AtomicBool::new(false);

impl Write for Ring {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for b in s.bytes() {
            self.bytes[self.written % RING] = b;
            self.written += 1;
        }
        Ok(())
    }
}

/// Text to the serial port; line ends as terminals want them.
pub struct Port;

impl Write for Port {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let mut port = serial::serial();
        for part in s.split_inclusive('\n') {
            match part.strip_suffix('\n') {
                Some(line) => {
                    port.write(line.as_bytes());
                    port.write(b"\r\n");
                }
                None => port.write(part.as_bytes()),
            }
        }
        Ok(())
    }
}

struct Kernel;

impl Log for Kernel {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        let now = time::now_ns() / 1000;
        let mark = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            _ => "",
        };
        let (s, us) = (now / 1_000_000, now % 1_000_000);
        // A message inside a message (a Display that logs) goes to the port only.
        if let Some(mut ring) = MESSAGES.try_lock() {
            let _ = writeln!(ring, "[{s:4}.{us:06}] {mark}{}", record.args());
        }
        if !QUIET.load(Ordering::Relaxed) {
            let _ = writeln!(Port, "[{s:4}.{us:06}] {mark}{}", record.args());
        }
    }
    fn flush(&self) {}
}

/// Installs the logger.
pub fn init(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
    let _ = log::set_logger(&Kernel);
    log::set_max_level(LevelFilter::Info);
}

/// The messages kept, oldest first.
pub fn messages() -> String {
    let ring = MESSAGES.lock();
    let mut out = alloc::vec::Vec::with_capacity(ring.written.min(RING));
    if ring.written > RING {
        let at = ring.written % RING;
        // The first line is cut: leave it out.
        let old = &ring.bytes[at..];
        let start = old.iter().position(|b| *b == b'\n').map_or(0, |n| n + 1);
        out.extend_from_slice(&old[start..]);
        out.extend_from_slice(&ring.bytes[..at]);
    } else {
        out.extend_from_slice(&ring.bytes[..ring.written]);
    }
    String::from_utf8_lossy(&out).into_owned()
}
