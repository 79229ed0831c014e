//! Runs a [`Sender`] over the two machines' wires: one thread, sockets that never block, a pace.

use crate::machine::{CARD_MAC, HOST_MAC, Wire};
use crate::sender::{Counts, Sender, Side};
use anyhow::{Context, Result};
use migrate_wire::frame::{MAX_FRAME, MAX_PAYLOAD};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The pace may be exceeded by this many bytes after a pause.
const BURST: f64 = 32.0 * 1024.0;
/// Between looks at the sockets.
const TICK: Duration = Duration::from_micros(500);

struct Shared {
    sender: Mutex<Sender>,
    stop: AtomicBool,
}

impl Shared {
    fn sender(&self) -> MutexGuard<'_, Sender> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transfer under way; dropping it ends the thread.
pub struct Feed {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Line {
    side: Side,
    socket: UnixDatagram,
    peer: PathBuf,
}

impl Line {
    fn open(side: Side, wire: &Wire) -> Result<Self> {
        let socket = UnixDatagram::bind(&wire.host)
            .with_context(|| format!("cannot make the socket {}", wire.host.display()))?;
        socket.set_nonblocking(true)?;
        Ok(Self { side, socket, peer: wire.qemu.clone() })
    }
}

impl Feed {
    /// Begins to wait for the source's hello. `rate`: payload bytes per second.
    ///
    /// # Errors
    /// The file is empty or a socket cannot be made.
    pub fn start(file: Vec<u8>, sha256: [u8; 32], rate: u64, source: &Wire, destination: &Wire) -> Result<Self> {
        let sender = Sender::new(file, MAX_PAYLOAD as u32, sha256, CARD_MAC, HOST_MAC);
        let sender = sender.context("the input file is empty, or too large to number its frames")?;
        let lines = [Line::open(Side::Source, source)?, Line::open(Side::Destination, destination)?];
        let shared = Arc::new(Shared { sender: Mutex::new(sender), stop: AtomicBool::new(false) });
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || run(&shared, &lines, rate as f64)
        });
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Counters.
    pub fn counts(&self) -> Counts {
        self.shared.sender().counts()
    }

    /// Who gets the frames.
    pub fn active(&self) -> Side {
        self.shared.sender().active()
    }

    /// Data frames per pass.
    pub fn frames_per_pass(&self) -> u32 {
        self.shared.sender().frames_per_pass()
    }

    /// The card runs at the destination now.
    pub fn moved(&self) {
        self.shared.sender().moved(Instant::now());
    }

    /// Ends the transfer in order.
    pub fn finish(&self) {
        self.shared.sender().finish();
    }

    /// The receiver confirmed the end.
    pub fn ended(&self) -> bool {
        self.shared.sender().ended()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, lines: &[Line; 2], rate: f64) {
    let (mut buffer, mut out) = ([0; 2048], [0; MAX_FRAME]);
    let (mut tokens, mut last) = (BURST, Instant::now());
    while !shared.stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        tokens = (tokens + rate * (now - last).as_secs_f64()).min(BURST.max(rate * TICK.as_secs_f64() * 4.0));
        last = now;
        let mut sender = shared.sender();
        // The source first: what it acknowledged before the switch must be known when the destination speaks.
        for line in lines {
            while let Ok(len) = line.socket.recv(&mut buffer) {
                sender.take(line.side, &buffer[..len], now);
            }
        }
        while tokens > 0.0 {
            let Some(choice) = sender.pick(now) else { break };
            let len = sender.write(choice, &mut out);
            let Some(line) = lines.iter().find(|line| line.side == sender.active()) else { break };
            // A full queue, or a machine that is not there (yet): try again at the next tick.
            if line.socket.send_to(&out[..len], &line.peer).is_err() {
                break;
            }
            sender.sent(choice, now);
            tokens -= len as f64;
        }
        drop(sender);
        std::thread::sleep(TICK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Scratch;
    use migrate_wire::frame::{Header, Hello, Kind, Receiver, decode, encode};

    /// A machine that receives, as devhost does: hello until start, then acks.
    fn card(wire: &Wire, destination: bool, mut rx: Receiver, until: u64) -> Receiver {
        let socket = UnixDatagram::bind(&wire.qemu).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let say = |kind, next: u64, payload: &[u8]| {
            let mut out = [0; MAX_FRAME];
            let header = Header { dst: HOST_MAC, src: CARD_MAC, kind, pass: (next / 3) as u32, seq: (next % 3) as u32 };
            let len = encode(&header, payload, &mut out).unwrap();
            let _ = socket.send_to(&out[..len], &wire.host);
        };
        let mut buffer = [0; 2048];
        while rx.next < until {
            say(Kind::Hello, rx.next, &Hello { destination, window: 8 }.encode());
            while rx.next < until {
                let Ok(len) = socket.recv(&mut buffer) else { break };
                let (header, payload) = decode(&buffer[..len]).unwrap();
                if header.kind == Kind::Data {
                    assert_eq!(payload[0], header.seq as u8);
                    rx.accept(u64::from(header.pass) * 3 + u64::from(header.seq));
                }
                say(Kind::Ack, rx.next, &rx.ack_payload());
            }
        }
        rx
    }

    #[test]
    fn a_transfer_moves_from_one_socket_to_the_other() {
        let scratch = Scratch::new().unwrap();
        let wire =
            |name: &str| Wire { qemu: scratch.path(&format!("{name}.q")), host: scratch.path(&format!("{name}.h")) };
        let (source, destination) = (wire("s"), wire("d"));
        let file: Vec<u8> = (0..3 * MAX_PAYLOAD).map(|at| (at / MAX_PAYLOAD) as u8).collect();
        let feed = Feed::start(file, [0; 32], 10_000_000, &source, &destination).unwrap();
        assert_eq!(feed.frames_per_pass(), 3);
        let rx = card(&source, false, Receiver::new(), 20);
        assert_eq!(feed.active(), Side::Source);
        let rx = card(&destination, true, rx, 40);
        assert_eq!(feed.active(), Side::Destination);
        let counts = feed.counts();
        assert!(counts.acknowledged >= 20 && rx.next >= 40);
        assert_eq!((counts.promises_broken, counts.resent_acknowledged, counts.unreadable), (0, 0, 0));
    }
}
