//! Two machines joined by a cable, and one with itself.

use super::*;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;
use uapi::Errno;
use uapi::linux::net::*;
use vfs::{Address, Domain, Ready, Socket, SocketFactory, SocketKind};

/// One direction of the cable: frames, and which one of how many is dropped.
type Wire = Arc<Mutex<VecDeque<Vec<u8>>>>;

struct Cable {
    mac: [u8; 6],
    out: Wire,
    into: Wire,
    lose_every: u64,
    sent: u64,
    room: usize,
}

impl Link for Cable {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }
    fn max_frame(&self) -> usize {
        9014
    }
    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        let Some(next) = self.into.lock().pop_front() else { return false };
        *frame = next;
        true
    }
    fn can_send(&mut self) -> bool {
        self.out.lock().len() < self.room
    }
    fn send(&mut self, length: usize, fill: &mut dyn FnMut(&mut [u8])) {
        let mut frame = vec![0; length];
        fill(&mut frame);
        self.sent += 1;
        if self.lose_every == 0 || !self.sent.is_multiple_of(self.lose_every) {
            self.out.lock().push_back(frame);
        }
    }
    fn flush(&mut self) {}
}

struct Bench {
    a: Stack,
    b: Stack,
    now: Arc<AtomicU64>,
}

const A: [u8; 4] = [10, 77, 0, 1];
const B: [u8; 4] = [10, 77, 0, 2];

fn clock(now: &Arc<AtomicU64>) -> Box<dyn Fn() -> u64 + Send + Sync> {
    let now = now.clone();
    Box::new(move || now.load(Ordering::Relaxed))
}

impl Bench {
    fn lossy(lose_every: u64) -> Self {
        let now = Arc::new(AtomicU64::new(1_000_000));
        let (ab, ba) = (Wire::default(), Wire::default());
        let (a, b) = (Stack::new(clock(&now), 1), Stack::new(clock(&now), 2));
        for (stack, last, out, into, ip) in [(&a, 1, &ab, &ba, A), (&b, 2, &ba, &ab, B)] {
            let (out, into) = (out.clone(), into.clone());
            let cable = Cable { mac: [0x52, 0x54, 0, 0x77, 0, last], out, into, lose_every, sent: 0, room: 64 };
            stack.attach(Box::new(cable), ip, 24).unwrap();
        }
        Self { a, b, now }
    }
    fn new() -> Self {
        Self::lossy(0)
    }
    /// Polls both for a while, 1 ms of virtual time per step.
    fn run(&self, ms: u64) {
        for _ in 0..ms {
            self.a.poll();
            self.b.poll();
            self.now.fetch_add(1_000_000, Ordering::Relaxed);
        }
    }
    /// A connected pair: client on a, server on b.
    fn pair(&self) -> (Arc<dyn Socket>, Arc<dyn Socket>) {
        let listener = listener(&self.b, [0; 4], 7777);
        let client = socket(&self.a);
        assert_eq!(client.connect(v4(B, 7777)), Err(Errno::EINPROGRESS));
        self.run(20);
        let (server, from) = listener.accept().unwrap();
        assert!(matches!(from, Address::V4 { ip: A, port: 49152.. }));
        assert_eq!(client.connect(v4(B, 7777)), Ok(()));
        (client, server)
    }
}

fn v4(ip: [u8; 4], port: u16) -> Address {
    Address::V4 { ip, port }
}

fn socket(stack: &Stack) -> Arc<dyn Socket> {
    stack.socket(Domain::Inet, SocketKind::Stream, 0).unwrap()
}

fn listener(stack: &Stack, ip: [u8; 4], port: u16) -> Arc<dyn Socket> {
    let listener = socket(stack);
    listener.bind(v4(ip, port)).unwrap();
    listener.listen(8).unwrap();
    listener
}

fn receive(socket: &Arc<dyn Socket>) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; 65536];
    let received = socket.receive(&mut bytes, false)?;
    bytes.truncate(received.bytes);
    Ok(bytes)
}

fn error_of(socket: &Arc<dyn Socket>) -> i32 {
    i32::from_le_bytes(socket.option(SOL_SOCKET, SO_ERROR).unwrap().try_into().unwrap())
}

fn has(socket: &Arc<dyn Socket>, what: Ready) -> bool {
    socket.ready().0 & what.0 == what.0
}

/// Moves `bytes` from one to the other and compares.
fn transfer(bench: &Bench, from: &Arc<dyn Socket>, to: &Arc<dyn Socket>, bytes: &[u8], most_ms: u64) {
    let (mut sent, mut got) = (0, Vec::new());
    for _ in 0..most_ms {
        while sent < bytes.len() {
            match from.send(&bytes[sent..], None) {
                Ok(count) => sent += count,
                Err(error) => {
                    assert_eq!(error, Errno::EAGAIN);
                    break;
                }
            }
        }
        bench.run(1);
        loop {
            match receive(to) {
                Ok(piece) => got.extend(piece),
                Err(error) => {
                    assert_eq!(error, Errno::EAGAIN);
                    break;
                }
            }
        }
        if got.len() == bytes.len() {
            break;
        }
    }
    assert!(got == bytes, "{} of {} bytes", got.len(), bytes.len());
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn bytes_cross_the_link_in_order() {
    let bench = Bench::new();
    let (client, server) = bench.pair();
    transfer(&bench, &client, &server, &pattern(3_000_000), 500);
    transfer(&bench, &server, &client, &pattern(100_000), 500);
}

#[test]
fn a_connection_inside_the_machine_wakes_whoever_waits_for_it() {
    let bench = Bench::new();
    let listener = listener(&bench.a, [0; 4], 8080);
    let client = socket(&bench.a);
    // Others' calls look at every socket, so that it was seen writable before it is connected.
    bench.run(2);
    let ticket = client.event().unwrap().ticket();
    assert_eq!(client.connect(v4(A, 8080)), Err(Errno::EINPROGRESS));
    bench.run(5);
    assert!(ticket.fired());
    assert_eq!(client.connect(v4(A, 8080)), Ok(()));
    drop(listener);
}

#[test]
fn lost_frames_are_sent_again() {
    let bench = Bench::lossy(23);
    let (client, server) = bench.pair();
    transfer(&bench, &client, &server, &pattern(1_000_000), 60_000);
}

#[test]
fn a_reader_that_lets_the_window_close_again_and_again_gets_everything() {
    for (inside, pause) in [(false, 1), (false, 7), (false, 300), (false, 3000), (true, 1), (true, 7), (true, 300)] {
        let bench = Bench::new();
        let (client, server) = if inside {
            let listener = listener(&bench.a, [0; 4], 8080);
            let client = socket(&bench.a);
            let _ = client.connect(v4(A, 8080));
            bench.run(5);
            (client, listener.accept().unwrap().0)
        } else {
            bench.pair()
        };
        let bytes = pattern(3_000_000);
        let (mut sent, mut got) = (0, Vec::new());
        for _ in 0..200 {
            while let Ok(count) = client.send(&bytes[sent..], None) {
                sent += count;
                if sent == bytes.len() {
                    break;
                }
            }
            bench.run(pause);
            while let Ok(piece) = receive(&server) {
                got.extend(piece);
            }
        }
        assert!(got == bytes, "inside {inside} pause {pause}: {} bytes", got.len());
    }
}

#[test]
fn an_idle_connection_lasts() {
    let bench = Bench::new();
    let (client, server) = bench.pair();
    transfer(&bench, &client, &server, b"before", 20);
    for _ in 0..1000 {
        bench.now.fetch_add(1_000_000_000, Ordering::Relaxed);
        bench.run(1);
    }
    transfer(&bench, &server, &client, b"after", 3000);
}

#[test]
fn a_peer_that_does_not_acknowledge_is_given_up() {
    let bench = Bench::new();
    let (client, _server) = bench.pair();
    client.send(b"into the void", None).unwrap();
    for _ in 0..200 {
        bench.now.fetch_add(1_000_000_000, Ordering::Relaxed);
        bench.a.poll();
    }
    assert!(has(&client, Ready::ERROR));
    assert_eq!(receive(&client), Err(Errno::ECONNRESET));
}

#[test]
fn connect_is_reported_once_and_then_is_eisconn() {
    let bench = Bench::new();
    let listener = listener(&bench.b, B, 7777);
    let client = socket(&bench.a);
    let event = client.event().unwrap();
    let ticket = event.ticket();
    assert_eq!(client.connect(v4(B, 7777)), Err(Errno::EINPROGRESS));
    assert_eq!(client.connect(v4(B, 7777)), Err(Errno::EALREADY));
    assert_eq!(client.send(b"x", None), Err(Errno::EAGAIN));
    assert_eq!(client.ready(), Ready::NONE);
    assert!(!ticket.fired());
    bench.run(20);
    assert!(ticket.fired() && has(&client, Ready::WRITE));
    assert_eq!(error_of(&client), 0);
    assert_eq!(client.connect(v4(B, 7777)), Ok(()));
    assert_eq!(client.connect(v4(B, 7777)), Err(Errno::EISCONN));
    assert_eq!(client.peer(), Ok(v4(B, 7777)));
    assert!(has(&listener, Ready::READ));
}

#[test]
fn nobody_listens_and_the_connection_is_refused() {
    let bench = Bench::new();
    let client = socket(&bench.a);
    let ticket = client.event().unwrap().ticket();
    assert_eq!(client.connect(v4(B, 9)), Err(Errno::EINPROGRESS));
    bench.run(20);
    assert!(ticket.fired() && has(&client, Ready::ERROR.or(Ready::HANGUP)));
    assert_eq!(error_of(&client), 111);
    let again = socket(&bench.a);
    assert_eq!(again.connect(v4(B, 9)), Err(Errno::EINPROGRESS));
    bench.run(20);
    assert_eq!(again.connect(v4(B, 9)), Err(Errno::ECONNREFUSED));
}

#[test]
fn a_machine_that_does_not_answer_is_a_timeout() {
    let bench = Bench::new();
    let client = socket(&bench.a);
    assert_eq!(client.connect(v4([10, 77, 0, 99], 9)), Err(Errno::EINPROGRESS));
    for _ in 0..130 {
        bench.now.fetch_add(1_000_000_000, Ordering::Relaxed);
        bench.run(1);
    }
    assert_eq!(client.connect(v4([10, 77, 0, 99], 9)), Err(Errno::ETIMEDOUT));
}

#[test]
fn addresses_without_a_way_are_refused_at_once() {
    let bench = Bench::new();
    assert_eq!(socket(&bench.a).connect(v4([10, 78, 0, 1], 9)), Err(Errno::ENETUNREACH));
    let alone = Stack::new(Box::new(|| 0), 1);
    assert_eq!(socket(&alone).connect(v4(B, 9)), Err(Errno::ENETUNREACH));
    assert_eq!(socket(&bench.a).bind(v4(B, 9)), Err(Errno::EADDRNOTAVAIL));
    let v6 = Address::V6 { ip: [0; 16], port: 1 };
    assert_eq!(socket(&bench.a).connect(v6), Err(Errno::EAFNOSUPPORT));
    assert_eq!(bench.a.socket(Domain::Inet6, SocketKind::Stream, 0).err(), Some(Errno::EAFNOSUPPORT));
    assert_eq!(bench.a.socket(Domain::Inet, SocketKind::Datagram, 0).err(), Some(Errno::EPROTONOSUPPORT));
}

#[test]
fn an_end_of_the_stream_reads_as_zero_and_the_other_way_stays_open() {
    let bench = Bench::new();
    let (client, server) = bench.pair();
    client.send(b"last words", None).unwrap();
    client.shutdown(false, true).unwrap();
    assert_eq!(client.send(b"x", None), Err(Errno::EPIPE));
    bench.run(20);
    assert_eq!(receive(&server), Ok(b"last words".to_vec()));
    assert_eq!(receive(&server), Ok(vec![]));
    assert!(has(&server, Ready::READ_HANGUP) && !has(&server, Ready::HANGUP));
    transfer(&bench, &server, &client, b"an answer", 50);
    drop(server);
    bench.run(50);
    assert_eq!(receive(&client), Ok(vec![]));
    assert_eq!(receive(&client), Ok(vec![]));
    bench.run(20_000);
    assert_eq!(receive(&client), Ok(vec![]), "the end stays the end when the connection is forgotten");
}

#[test]
fn unread_bytes_at_close_reset_the_connection() {
    let bench = Bench::new();
    let (client, server) = bench.pair();
    client.send(b"never read", None).unwrap();
    bench.run(20);
    let ticket = client.event().unwrap().ticket();
    drop(server);
    bench.run(20);
    assert!(ticket.fired() && has(&client, Ready::ERROR.or(Ready::HANGUP)));
    assert_eq!(receive(&client), Err(Errno::ECONNRESET));
    assert_eq!(receive(&client), Ok(vec![]));
    assert_eq!(client.send(b"x", None), Err(Errno::EPIPE));
}

#[test]
fn a_reader_is_woken_each_time_bytes_come() {
    let bench = Bench::new();
    let (client, server) = bench.pair();
    for round in 0..5u8 {
        assert_eq!(receive(&server), Err(Errno::EAGAIN));
        let ticket = server.event().unwrap().ticket();
        bench.run(5);
        assert!(!ticket.fired());
        client.send(&[round], None).unwrap();
        bench.run(5);
        assert!(ticket.fired(), "round {round}");
        assert_eq!(receive(&server), Ok(vec![round]));
    }
}

#[test]
fn a_writer_is_woken_when_there_is_room_again() {
    let bench = Bench::new();
    let (client, server) = bench.pair();
    while client.send(&[7; 65536], None).is_ok() {
        bench.run(1);
    }
    let ticket = client.event().unwrap().ticket();
    assert!(!has(&client, Ready::WRITE));
    bench.run(20);
    assert!(!ticket.fired());
    while receive(&server).is_ok() {
        bench.run(1);
    }
    assert!(ticket.fired() && has(&client, Ready::WRITE));
}

#[test]
fn several_connections_in_one_burst_are_all_accepted() {
    let bench = Bench::new();
    let listener = listener(&bench.b, [0; 4], 7777);
    let clients: Vec<_> = (0..6).map(|_| socket(&bench.a)).collect();
    for client in &clients {
        assert_eq!(client.connect(v4(B, 7777)), Err(Errno::EINPROGRESS));
    }
    bench.run(50);
    let servers: Vec<_> = core::iter::from_fn(|| listener.accept().ok()).collect();
    assert_eq!(servers.len(), 6);
    assert_eq!(listener.accept().err(), Some(Errno::EAGAIN));
    for client in &clients {
        assert_eq!(client.connect(v4(B, 7777)), Ok(()));
    }
}

#[test]
fn a_backlog_that_is_full_takes_more_after_accept() {
    let bench = Bench::new();
    let listener = socket(&bench.b);
    listener.bind(v4([0; 4], 7777)).unwrap();
    listener.listen(1).unwrap();
    let clients: Vec<_> = (0..8).map(|_| socket(&bench.a)).collect();
    for client in &clients {
        let _ = client.connect(v4(B, 7777));
        bench.run(10);
    }
    let made = core::iter::from_fn(|| listener.accept().ok()).count();
    assert!((1..8).contains(&made), "{made}");
    bench.run(10);
    let late = socket(&bench.a);
    assert_eq!(late.connect(v4(B, 7777)), Err(Errno::EINPROGRESS));
    bench.run(20);
    assert!(listener.accept().is_ok());
}

#[test]
fn a_machine_talks_to_itself() {
    let bench = Bench::new();
    for (listens, asks) in
        [([0; 4], [127, 0, 0, 1]), ([0; 4], A), (A, A), ([127, 0, 0, 1], [127, 0, 0, 1]), ([0; 4], [0; 4])]
    {
        let listener = listener(&bench.a, listens, 8080);
        let client = socket(&bench.a);
        assert_eq!(client.connect(v4(asks, 8080)), Err(Errno::EINPROGRESS));
        bench.run(5);
        assert_eq!(client.connect(v4(asks, 8080)), Ok(()), "{listens:?} {asks:?}");
        let (server, _) = listener.accept().unwrap();
        transfer(&bench, &client, &server, &pattern(500_000), 500);
    }
    let elsewhere = listener(&bench.a, A, 8081);
    let client = socket(&bench.a);
    let _ = client.connect(v4([127, 0, 0, 1], 8081));
    bench.run(5);
    assert_eq!(client.connect(v4([127, 0, 0, 1], 8081)), Err(Errno::ECONNREFUSED));
    drop(elsewhere);
}

#[test]
fn ports_are_held_while_bound_and_free_afterwards() {
    let bench = Bench::new();
    let first = listener(&bench.a, [0; 4], 5000);
    assert_eq!(socket(&bench.a).bind(v4(A, 5000)), Err(Errno::EADDRINUSE));
    assert_eq!(first.bind(v4(A, 5001)), Err(Errno::EINVAL));
    drop(first);
    let second = listener(&bench.a, A, 5000);
    assert_eq!(second.local(), Ok(v4(A, 5000)));
    let any = socket(&bench.a);
    any.bind(v4([0; 4], 0)).unwrap();
    assert!(matches!(any.local(), Ok(Address::V4 { port: 49152.., .. })));
}

#[test]
fn calls_in_the_wrong_state_have_their_errno() {
    let bench = Bench::new();
    let fresh = socket(&bench.a);
    assert_eq!(receive(&fresh), Err(Errno::ENOTCONN));
    assert_eq!(fresh.send(b"x", None), Err(Errno::ENOTCONN));
    assert_eq!(fresh.shutdown(true, true), Err(Errno::ENOTCONN));
    assert_eq!(fresh.peer(), Err(Errno::ENOTCONN));
    assert_eq!(fresh.accept().err(), Some(Errno::EINVAL));
    let listener = listener(&bench.a, A, 6000);
    assert_eq!(listener.connect(v4(B, 1)), Err(Errno::EINVAL));
    assert_eq!(listener.accept().err(), Some(Errno::EAGAIN));
    let (client, _server) = bench.pair();
    assert_eq!(client.listen(1), Err(Errno::EINVAL));
    assert_eq!(client.set_option(SOL_SOCKET, 9999, &[0; 4]), Err(Errno::ENOPROTOOPT));
    assert_eq!(client.set_option(IPPROTO_TCP, TCP_NODELAY, &[1]), Err(Errno::EINVAL));
    assert_eq!(client.set_option(IPPROTO_TCP, TCP_NODELAY, &[1, 0, 0, 0]), Ok(()));
    assert_eq!(client.option(SOL_SOCKET, SO_TYPE), Ok(vec![1, 0, 0, 0]));
}

#[test]
fn peeked_bytes_stay() {
    let bench = Bench::new();
    let (client, server) = bench.pair();
    client.send(b"abc", None).unwrap();
    bench.run(5);
    let mut two = [0; 2];
    assert_eq!(server.receive(&mut two, true).unwrap().bytes, 2);
    assert_eq!(receive(&server), Ok(b"abc".to_vec()));
}

#[test]
fn closed_sockets_leave_nothing_behind() {
    let bench = Bench::new();
    for _ in 0..40 {
        let (client, server) = bench.pair();
        drop(client);
        drop(server);
        bench.run(20);
    }
    bench.run(70_000);
    assert_eq!(bench.a.poll(), None, "no timer is left");
    assert_eq!(bench.b.poll(), None);
}

#[test]
fn a_frame_of_garbage_is_dropped() {
    let bench = Bench::new();
    let (client, server) = bench.pair();
    let (out, into) = (Wire::default(), Wire::default());
    let lone = Stack::new(Box::new(|| 0), 3);
    let cable = Cable { mac: [2; 6], out, into: into.clone(), lose_every: 0, sent: 0, room: 8 };
    lone.attach(Box::new(cable), A, 24).unwrap();
    assert!(
        lone.attach(
            Box::new(Cable {
                mac: [4; 6],
                out: Wire::default(),
                into: Wire::default(),
                lose_every: 0,
                sent: 0,
                room: 8
            }),
            A,
            24
        )
        .is_err()
    );
    for length in 0..200 {
        into.lock().push_back(pattern(length));
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45]);
        frame.extend(pattern(length));
        into.lock().push_back(frame);
        lone.poll();
    }
    transfer(&bench, &client, &server, b"still alive", 20);
}

#[test]
fn addresses_are_parsed_or_refused() {
    assert_eq!(parse_address("10.77.0.1/24"), Some(([10, 77, 0, 1], 24)));
    for bad in [
        "10.77.0.1",
        "10.77.0/24",
        "10.77.0.256/24",
        "10.77.0.1/33",
        "10.77.0.1.2/24",
        "1.2.3.x/8",
        "127.0.0.1/8",
        "0.0.0.0/0",
        "+1.2.3.4/8",
        "/",
    ] {
        assert_eq!(parse_address(bad), None, "{bad}");
    }
}
