//! Whole migrations between two fake machines over loopback TCP, with a host that sends a file, and with everything that
//! can happen to the connection between them.

use crate::{
    destination,
    fake::{Collector, Fake},
    source,
    source::exit,
};
use migrate_wire::{
    frame::{self, Header, Hello, Kind, Receiver, Start},
    message::section,
    stream::{HEAD_LEN, OPENING_LEN},
};
use sha2::{Digest, Sha256};
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

const PAGES: u32 = 4096;
const CARD: [u8; 6] = [0x52, 0x54, 0, 0x77, 1, 1];
const HOST: [u8; 6] = [2, 0, 0, 0x77, 0, 0xFF];

/// Sends a file to whichever machine runs, until `stop`, and checks that nothing acknowledged is ever asked for again.
fn host(machines: [Arc<Fake>; 2], at_destination: Arc<AtomicBool>, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let file: Vec<u8> = (0..60_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let start = Start::new(file.len() as u64, 1400, Sha256::digest(&file).into()).unwrap();
        let per_pass = u64::from(start.frames_per_pass);
        let (mut known, mut acked, mut next, mut last) = (false, Receiver::new(), 0u64, Instant::now());
        let mut limit = None;
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut out = [0; frame::MAX_FRAME];
        loop {
            assert!(Instant::now() < deadline, "the transfer does not end");
            let machine = &machines[usize::from(at_destination.load(Ordering::SeqCst))];
            while let Some(reply) = machine.sent() {
                let (header, payload) = frame::decode(&reply).unwrap();
                let number = u64::from(header.pass) * per_pass + u64::from(header.seq);
                match header.kind {
                    Kind::Hello => {
                        assert!(number >= acked.next, "hello asks for frame {number}, {} was acknowledged", acked.next);
                        assert_eq!(Hello::decode(payload).unwrap().destination, at_destination.load(Ordering::SeqCst));
                    }
                    Kind::Ack => {
                        known = true;
                        let ack = Receiver::from_ack(number, payload).unwrap();
                        if ack.next >= acked.next {
                            acked = ack;
                        }
                    }
                    Kind::End => return acked.next / per_pass,
                    kind => panic!("{kind:?} from the card"),
                }
            }
            if stop.load(Ordering::SeqCst) && limit.is_none() {
                limit = Some((acked.next / per_pass + 3) * per_pass);
            }
            let mut send = |kind, number: u64, payload: &[u8]| {
                let (pass, seq) = ((number / per_pass) as u32, (number % per_pass) as u32);
                let header = Header { dst: CARD, src: HOST, kind, pass, seq };
                let length = frame::encode(&header, payload, &mut out).unwrap();
                machine.inject(&out[..length.max(60)])
            };
            if !known {
                send(Kind::Start, 0, &start.encode());
            } else if limit == Some(acked.next) {
                send(Kind::End, acked.next, &[]);
            } else {
                if last.elapsed() > Duration::from_millis(30) {
                    (next, last) = (acked.next, Instant::now());
                }
                next = next.max(acked.next);
                while acked.holds(next) {
                    next += 1;
                }
                if next < acked.next + 64 && limit.is_none_or(|limit| next < limit) {
                    let seq = (next % per_pass) as u32;
                    let at = seq as usize * 1400;
                    if send(Kind::Data, next, &file[at..at + start.len_of(seq)]) {
                        next += 1;
                    }
                }
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    })
}

struct Run {
    source: u8,
    destination: u8,
    s: Arc<Collector>,
    d: Arc<Collector>,
    machines: [Arc<Fake>; 2],
}

/// What is between the two: gets each connection's two ends.
type Between = fn(TcpStream, TcpStream);

fn migrate(
    tracking: bool,
    between: Option<Between>,
    edit: impl Fn(&mut source::Options, &mut destination::Options),
) -> Run {
    migrate_with([PAGES, PAGES], tracking, between, edit)
}

fn migrate_with(
    pages: [u32; 2],
    tracking: bool,
    between: Option<Between>,
    edit: impl Fn(&mut source::Options, &mut destination::Options),
) -> Run {
    let machines = pages.map(|pages| Fake::new(pages, tracking));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut address = listener.local_addr().unwrap();
    if let Some(between) = between {
        let front = TcpListener::bind("127.0.0.1:0").unwrap();
        let behind = std::mem::replace(&mut address, front.local_addr().unwrap());
        std::thread::spawn(move || {
            let (from_source, _) = front.accept().unwrap();
            between(from_source, TcpStream::connect(behind).unwrap());
        });
    }
    let mut s_options = source::Options::new(address);
    let mut d_options = destination::Options::new(0);
    s_options.after_frames = 60;
    s_options.stop_pages = 200;
    s_options.max_rounds = 6;
    s_options.patience = Duration::from_secs(10);
    s_options.linger = Duration::from_secs(20);
    d_options.patience = Duration::from_secs(10);
    edit(&mut s_options, &mut d_options);
    source::prepare(&machines[0].region_for_test(), s_options.seed);
    destination::prepare(&machines[1].region_for_test(), d_options.seed);
    let (moved, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let flags = (moved.clone(), stop.clone());
    let d = Arc::new(Collector::calling(move |name| {
        if name == "running" {
            flags.0.store(true, Ordering::SeqCst);
            flags.1.store(true, Ordering::SeqCst);
        }
    }));
    let flag = stop.clone();
    let s = Arc::new(Collector::calling(move |name| {
        if name == "resumed" || name == "outcome_unknown" {
            flag.store(true, Ordering::SeqCst);
        }
    }));
    let sender = host(machines.clone(), moved, stop);
    let there = {
        let (machine, events) = (machines[1].clone(), d.clone());
        std::thread::spawn(move || destination::run(machine, events, &d_options, &listener))
    };
    let source = source::run(machines[0].clone(), s.clone(), &s_options);
    let destination = there.join().unwrap();
    if source != exit::UNKNOWN {
        assert!(sender.join().unwrap() > 0);
    }
    for machine in &machines {
        assert_eq!(machine.violations(), [""; 0]);
    }
    Run { source, destination, s, d, machines }
}

impl Fake {
    fn region_for_test(&self) -> crate::memory::Region {
        crate::machine::Machine::region(self)
    }
}

fn as_u64(value: &serde_json::Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("{field} in {value}"))
}

#[test]
fn a_running_transfer_moves_and_nothing_is_lost() {
    let run = migrate(true, None, |_, _| {});
    assert_eq!((run.source, run.destination), (exit::DONE, exit::DONE), "{:?} {:?}", run.s.names(), run.d.names());
    let rounds = run.s.named("round");
    assert!(rounds.len() >= 4, "{rounds:?}");
    assert_eq!(as_u64(&rounds[0], "pages_dirty"), u64::from(PAGES));
    for round in &rounds[1..] {
        assert!((1..u64::from(PAGES)).contains(&as_u64(round, "pages_device")), "{round}");
        assert!(as_u64(round, "pages_cpu") > 0, "{round}");
    }
    assert_eq!(as_u64(&run.d.named("verify")[0], "pages_lost"), 0);
    assert_eq!(as_u64(&run.d.named("verify")[0], "pages"), u64::from(PAGES));
    assert_eq!(as_u64(&run.d.named("first_frame")[0], "register_writes"), 0);
    assert_eq!(run.s.named("digest")[0]["digest"], run.d.named("digest")[0]["digest"]);
    let spanning = run.d.named("pass").iter().any(|p| p["began"] == "source" && p["ended"] == "destination");
    assert!(spanning, "a pass began before the switch and ended after it");
    assert!(!run.machines[0].runs() && run.machines[1].runs());
}

#[test]
fn without_device_dirty_bits_pages_are_lost_and_the_source_runs_on() {
    let run = migrate(true, None, |s, _| s.no_dirty = true);
    assert_eq!((run.source, run.destination), (exit::FAILED, exit::WRONG));
    assert!(as_u64(&run.d.named("verify")[0], "pages_lost") > 0);
    assert!(run.d.named("refused")[0]["message"].as_str().unwrap().starts_with("pages lost: "));
    assert!(run.machines[0].runs() && !run.machines[1].runs());
}

#[test]
fn without_soft_dirty_bits_pages_are_lost_and_the_source_runs_on() {
    let run = migrate(true, None, |s, _| s.no_soft_dirty = true);
    assert_eq!((run.source, run.destination), (exit::FAILED, exit::WRONG));
    assert!(as_u64(&run.d.named("verify")[0], "pages_lost") > 0);
    assert!(run.machines[0].runs() && !run.machines[1].runs());
}

#[test]
fn without_tracking_everything_is_sent_while_the_devices_stand_still() {
    let run = migrate(false, None, |_, _| {});
    assert_eq!((run.source, run.destination), (exit::DONE, exit::DONE));
    assert_eq!(run.s.named("note")[0]["message"], "no dirty bits: everything mapped counts as dirty");
    assert_eq!(run.s.named("round").len(), 0);
    assert_eq!(as_u64(&run.s.named("stop_copy")[0], "pages_dirty"), u64::from(PAGES));
    assert_eq!(as_u64(&run.d.named("verify")[0], "pages_lost"), 0);
}

#[test]
fn a_destination_with_another_region_refuses_and_says_why() {
    let run = migrate_with([PAGES, 2 * PAGES], true, None, |_, _| {});
    assert_eq!((run.source, run.destination), (exit::FAILED, exit::FAILED));
    assert!(
        run.s.named("resumed")[0]["why"].as_str().unwrap().contains("a region of 16777216 bytes there"),
        "{:?}",
        run.s.named("resumed")
    );
    assert!(run.machines[0].runs());
}

#[test]
fn a_destination_with_another_seed_refuses_before_it_is_ready() {
    let run = migrate(true, None, |_, d| d.seed = 77);
    assert_eq!((run.source, run.destination), (exit::FAILED, exit::FAILED));
    assert!(run.s.named("resumed")[0]["why"].as_str().unwrap().contains("seed"));
    assert!(run.machines[0].runs() && !run.machines[1].runs());
}

#[test]
fn nobody_listens_and_the_source_runs_on() {
    let machine = Fake::new(PAGES, true);
    source::prepare(&machine.region_for_test(), 1);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut options = source::Options::new(free);
    (options.connect, options.linger) = (Duration::from_millis(300), Duration::from_millis(50));
    let events = Arc::new(Collector::default());
    assert_eq!(source::run(machine.clone(), events.clone(), &options), exit::FAILED);
    assert_eq!(events.names(), ["ready", "resumed", "done"]);
    assert!(machine.runs());
}

/// Copies one direction until its end.
fn pipe(mut from: TcpStream, mut to: TcpStream) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    })
}

/// Calls `edit` with each whole frame from the source before it is passed on; false ends both directions.
fn frames(mut from: TcpStream, mut to: TcpStream, mut edit: impl FnMut(u16, &mut Vec<u8>) -> bool) {
    let back = pipe(to.try_clone().unwrap(), from.try_clone().unwrap());
    let mut opening = [0; OPENING_LEN];
    from.read_exact(&mut opening).unwrap();
    to.write_all(&opening).unwrap();
    let mut head = [0; HEAD_LEN];
    while from.read_exact(&mut head).is_ok() {
        let mut whole = head.to_vec();
        whole.resize(HEAD_LEN + u32::from_le_bytes(head[8..12].try_into().unwrap()) as usize, 0);
        if from.read_exact(&mut whole[HEAD_LEN..]).is_err() {
            break;
        }
        if !edit(u16::from_le_bytes([head[0], head[1]]), &mut whole) {
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
            break;
        }
        if to.write_all(&whole).is_err() {
            break;
        }
    }
    let _ = back.join();
}

fn cut_at<const SECTION: u16>(from: TcpStream, to: TcpStream) {
    frames(from, to, |section, _| section != SECTION);
}

fn flip_in<const SECTION: u16>(from: TcpStream, to: TcpStream) {
    frames(from, to, |section, whole| {
        if section == SECTION {
            let at = whole.len() - 1;
            whole[at] ^= 0x10;
        }
        true
    });
}

/// Before GO the source resumes and the destination does not run, wherever the stream is cut.
#[test]
fn a_cut_before_go_lets_the_source_run_and_never_the_destination() {
    for between in [
        cut_at::<{ section::HELLO }> as Between,
        cut_at::<{ section::ROUND }>,
        cut_at::<{ section::PAGES }>,
        cut_at::<{ section::DEVICE_STATE }>,
        cut_at::<{ section::HOST_STATE }>,
        cut_at::<{ section::DIGESTS }>,
        cut_at::<{ section::END }>,
    ] {
        let run = migrate(true, Some(between), |_, _| {});
        assert_eq!((run.source, run.destination), (exit::FAILED, exit::FAILED));
        assert!(run.machines[0].runs() && !run.machines[1].runs());
        assert_eq!(run.d.named("running").len(), 0);
        assert_eq!(run.s.named("go").len(), 0);
    }
}

#[test]
fn a_flipped_bit_is_refused_and_the_source_runs_on() {
    for between in [
        flip_in::<{ section::HELLO }> as Between,
        flip_in::<{ section::ROUND }>,
        flip_in::<{ section::PAGES }>,
        flip_in::<{ section::DEVICE_STATE }>,
        flip_in::<{ section::HOST_STATE }>,
        flip_in::<{ section::DIGESTS }>,
        flip_in::<{ section::END }>,
    ] {
        let run = migrate(true, Some(between), |_, _| {});
        assert_eq!((run.source, run.destination), (exit::FAILED, exit::FAILED));
        assert!(
            run.d.named("refused")[0]["message"].as_str().unwrap().contains("checksum"),
            "{:?}",
            run.d.named("refused")
        );
        assert!(run.machines[0].runs() && !run.machines[1].runs());
    }
}

/// GO was lost: the source cannot know, so neither runs.
#[test]
fn a_cut_that_swallows_go_leaves_both_standing_still() {
    let run = migrate(true, Some(cut_at::<{ section::GO }>), |_, _| {});
    assert_eq!((run.source, run.destination), (exit::UNKNOWN, exit::FAILED));
    assert_eq!(run.s.named("outcome_unknown").len(), 1);
    assert!(!run.machines[0].runs() && !run.machines[1].runs());
}

#[test]
fn a_flipped_bit_in_go_leaves_both_standing_still() {
    let run = migrate(true, Some(flip_in::<{ section::GO }>), |_, _| {});
    assert_eq!((run.source, run.destination), (exit::UNKNOWN, exit::FAILED));
    assert!(!run.machines[0].runs() && !run.machines[1].runs());
}

/// GO arrived, the answer did not: only the destination runs.
#[test]
fn a_cut_behind_go_leaves_the_source_fenced_while_the_destination_runs() {
    fn between(from: TcpStream, to: TcpStream) {
        let (source, there) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        frames(from, to, move |section, whole| {
            if section == section::GO {
                let _ = source.shutdown(Shutdown::Both);
                let _ = (&there).write_all(whole);
                whole.clear();
            }
            true
        });
    }
    let run = migrate(true, Some(between), |_, _| {});
    assert_eq!((run.source, run.destination), (exit::UNKNOWN, exit::DONE));
    assert!(!run.machines[0].runs() && run.machines[1].runs());
    assert_eq!(run.s.names().last().unwrap(), "done");
}

/// The destination's machine dies: no reset, no end, only silence.
#[test]
fn a_destination_that_falls_silent_counts_as_gone() {
    fn between(from: TcpStream, to: TcpStream) {
        let (mut pages, mut held) = (0, None);
        frames(from.try_clone().unwrap(), to, |section, _| {
            pages += u32::from(section == section::PAGES);
            if pages == 20 {
                held = from.try_clone().ok();
                std::thread::sleep(Duration::from_secs(8));
            }
            pages < 20
        });
        drop(held);
    }
    let begun = Instant::now();
    let run = migrate(true, Some(between), |s, d| {
        s.patience = Duration::from_secs(1);
        d.patience = Duration::from_secs(1);
        s.max_rounds = 1;
    });
    assert_eq!((run.source, run.destination), (exit::FAILED, exit::FAILED));
    assert!(run.machines[0].runs() && !run.machines[1].runs());
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn something_that_is_no_devhost_is_refused() {
    fn between(mut from: TcpStream, to: TcpStream) {
        let _ = from.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = to.shutdown(Shutdown::Both);
        std::thread::sleep(Duration::from_millis(200));
    }
    let run = migrate(true, Some(between), |_, _| {});
    assert_eq!((run.source, run.destination), (exit::FAILED, exit::FAILED));
    assert_eq!(run.s.named("resumed")[0]["why"], "not a migration stream");
}
