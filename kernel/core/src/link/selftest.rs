//! `selftest=link`: two machines exchange bytes over TCP, without any program. With `peer=A.B.C.D` the machine connects and sends,
//! without it listens and receives. The receiver checks every byte, so both sides know.

use super::stack;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use arch_x86_64::time;
use boot::BootInfo;
use uapi::Errno;
use vfs::{Address, Domain, Socket, SocketFactory, SocketKind};

const PORT: u16 = 7;
/// Bytes that are sent.
const TOTAL: usize = 64 << 20;
/// What the receiver says when all of it was right.
const ANSWER: u8 = 0x42;
const PATIENCE_NS: u64 = 20_000_000_000;

/// Tries `f` until it is decided, polling the stack, at most [`PATIENCE_NS`].
fn until<T>(mut f: impl FnMut() -> Result<T, Errno>) -> Result<T, String> {
    let deadline = time::now_ns() + PATIENCE_NS;
    loop {
        match f() {
            Err(Errno::EAGAIN | Errno::EINPROGRESS | Errno::EALREADY) => {}
            Err(errno) => return Err(format!("{errno:?}")),
            Ok(value) => return Ok(value),
        }
        if time::now_ns() > deadline {
            return Err("nothing moved for 20 s".into());
        }
        stack().poll();
        core::hint::spin_loop();
    }
}

fn pattern(at: usize) -> u8 {
    (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3]
}

fn socket() -> Result<Arc<dyn Socket>, String> {
    stack().socket(Domain::Inet, SocketKind::Stream, 0).map_err(|errno| format!("socket: {errno:?}"))
}

fn send(peer: [u8; 4]) -> Result<String, String> {
    let socket = socket()?;
    let begun = time::now_ns();
    let mut piece = alloc::vec![0; 256 << 10];
    loop {
        // the other machine may not listen yet
        match until(|| socket.connect(Address::V4 { ip: peer, port: PORT })) {
            Ok(()) => break,
            Err(why) if time::now_ns() > begun + PATIENCE_NS => return Err(format!("connect: {why}")),
            Err(_) => {
                let pause = time::now_ns() + 100_000_000;
                while time::now_ns() < pause {
                    stack().poll();
                }
            }
        }
    }
    let begun = time::now_ns();
    let mut at = 0;
    while at < TOTAL {
        let length = piece.len().min(TOTAL - at);
        piece[..length].iter_mut().enumerate().for_each(|(i, byte)| *byte = pattern(at + i));
        let mut done = 0;
        while done < length {
            done += until(|| socket.send(&piece[done..length], None)).map_err(|why| format!("send: {why}"))?;
        }
        at += length;
    }
    let mut answer = [0];
    let got = until(|| socket.receive(&mut answer, false)).map_err(|why| format!("answer: {why}"))?;
    if got.bytes != 1 || answer[0] != ANSWER {
        return Err("the receiver did not confirm".into());
    }
    Ok(speed(begun))
}

fn speed(begun: u64) -> String {
    let ms = ((time::now_ns() - begun) / 1_000_000).max(1);
    format!("{} MiB in {ms} ms, {} MiB/s", TOTAL >> 20, (TOTAL as u64 >> 20) * 1000 / ms)
}

fn receive() -> Result<String, String> {
    let listener = socket()?;
    let bound = listener.bind(Address::V4 { ip: [0; 4], port: PORT }).and_then(|()| listener.listen(1));
    bound.map_err(|errno| format!("listen: {errno:?}"))?;
    let (socket, _) = until(|| listener.accept()).map_err(|why| format!("accept: {why}"))?;
    let begun = time::now_ns();
    let mut piece = alloc::vec![0; 256 << 10];
    let mut at = 0;
    while at < TOTAL {
        let got = until(|| socket.receive(&mut piece, false)).map_err(|why| format!("receive: {why}"))?.bytes;
        if got == 0 {
            return Err(format!("the stream ended after {at} bytes"));
        }
        if let Some(bad) = (0..got).find(|i| piece[*i] != pattern(at + i)) {
            return Err(format!("byte {} is wrong", at + bad));
        }
        at += got;
    }
    until(|| socket.send(&[ANSWER], None)).map_err(|why| format!("answer: {why}"))?;
    let words = speed(begun);
    // until the peer has it and closes
    let _ = until(|| socket.receive(&mut piece, false));
    Ok(words)
}

/// Runs one side; what was measured, or why it failed.
pub fn run(info: &BootInfo) -> Result<String, String> {
    if stack().address().is_none() {
        return Err("this machine has no link".into());
    }
    match info.option("peer") {
        None => receive(),
        Some(text) => match net::parse_address(&format!("{text}/0")) {
            Some((peer, _)) => send(peer),
            None => Err(format!("peer={text} is not A.B.C.D")),
        },
    }
}
