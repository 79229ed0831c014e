//! What the numbered sections contain. Numbers are little endian, texts UTF-8.
//!
//! | nr | message | direction | body |
//! |---|---|---|---|
//! | 1 | hello | to destination | session u64, region bytes u64, first iova u64, page bytes u32, flags u32 (bit 0: device writes are tracked), n u32, n times vendor u16 and device u16 |
//! | 2 | accept | to source | session u64 |
//! | 3 | refuse | both | the reason; last message |
//! | 4 | round | to destination | number u32, kind u32 (0 pre-copy, 1 stopped), pages u32 that follow |
//! | 5 | pages | to destination | n u32, n page numbers u32, n times 4096 bytes |
//! | 6 | round end | to destination | number u32, pages u32 |
//! | 7 | device state | to destination | device u32 (place in hello), offset u32, total u32, bytes |
//! | 8 | host state | to destination | what the program itself knows: rings, transfer |
//! | 9 | digests | to destination | first page u32, n u32, n digests u64 |
//! | 10 | end | to destination | rounds u32, zero u32, pages u64 (repeats counted), fold u64 over all digests |
//! | 11 | ready | to source | session u64, fold u64 of the destination's own memory |
//! | 12 | fenced | to destination | session u64: the source's devices are stopped and will not run again on their own |
//! | 13 | go | to destination | session u64: run |
//! | 14 | running | to source | session u64: the devices run here |
//!
//! A number that is not in this table is refused, unless its frame carries
//! [`SKIPPABLE`](crate::stream::SKIPPABLE).

use crate::{
    Error, PAGE,
    stream::{Head, Writer},
};
use alloc::vec::Vec;

/// Most pages of one frame.
pub const BATCH: usize = 64;
/// Most digests of one frame.
pub const DIGEST_BATCH: usize = 16384;
/// Most bytes of device state in one frame.
pub const STATE_CHUNK: usize = 128 * 1024;
/// Most devices in a hello.
pub const MAX_DEVICES: usize = 16;
/// Longest reason in bytes.
pub const MAX_REASON: usize = 1024;

/// Section numbers.
pub mod section {
    /// [`Message::Hello`](super::Message::Hello)
    pub const HELLO: u16 = 1;
    /// [`Message::Accept`](super::Message::Accept)
    pub const ACCEPT: u16 = 2;
    /// [`Message::Refuse`](super::Message::Refuse)
    pub const REFUSE: u16 = 3;
    /// [`Message::Round`](super::Message::Round)
    pub const ROUND: u16 = 4;
    /// [`Message::Pages`](super::Message::Pages)
    pub const PAGES: u16 = 5;
    /// [`Message::RoundEnd`](super::Message::RoundEnd)
    pub const ROUND_END: u16 = 6;
    /// [`Message::DeviceState`](super::Message::DeviceState)
    pub const DEVICE_STATE: u16 = 7;
    /// [`Message::HostState`](super::Message::HostState)
    pub const HOST_STATE: u16 = 8;
    /// [`Message::Digests`](super::Message::Digests)
    pub const DIGESTS: u16 = 9;
    /// [`Message::End`](super::Message::End)
    pub const END: u16 = 10;
    /// [`Message::Ready`](super::Message::Ready)
    pub const READY: u16 = 11;
    /// [`Message::Fenced`](super::Message::Fenced)
    pub const FENCED: u16 = 12;
    /// [`Message::Go`](super::Message::Go)
    pub const GO: u16 = 13;
    /// [`Message::Running`](super::Message::Running)
    pub const RUNNING: u16 = 14;
}
use section::*;

/// Identity of a device that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceId {
    /// PCI vendor id.
    pub vendor: u16,
    /// PCI device id.
    pub device: u16,
}

/// What the source wants to move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Chosen by the source; comes back in each answer, so that an answer of an earlier attempt is not taken for one of this.
    pub session: u64,
    /// Bytes of the region, a multiple of [`PAGE`], at most 2^32-1 pages.
    pub region_bytes: u64,
    /// Where the region begins for the devices.
    pub iova: u64,
    /// Whether rounds follow what devices wrote. If not, everything is sent while the devices stand still.
    pub tracking: bool,
    /// The devices, in the order of their state.
    pub devices: Vec<DeviceId>,
}

/// When a round is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RoundKind {
    /// The devices run.
    PreCopy = 0,
    /// The devices are stopped: the last round.
    Stopped = 1,
}

/// Head of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Counted from 0; round 0 has every page.
    pub number: u32,
    /// When.
    pub kind: RoundKind,
    /// Pages that follow.
    pub pages: u32,
}

/// Pages of a round, read in place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pages<'a> {
    numbers: &'a [u8],
    bytes: &'a [u8],
}

impl core::fmt::Debug for Pages<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter().map(|(number, _)| number)).finish()
    }
}

impl<'a> Pages<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.numbers.len() / 4
    }
    /// Whether there is none; a reader never gets such a frame.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }
    /// Page numbers with their bytes.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &'a [u8; PAGE])> + use<'a> {
        let numbers = self.numbers.as_chunks::<4>().0.iter().map(|n| u32::from_le_bytes(*n));
        numbers.zip(self.bytes.as_chunks::<PAGE>().0)
    }
}

/// Digests of consecutive pages, read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests<'a> {
    /// Number of the first page.
    pub first: u32,
    bytes: &'a [u8],
}

impl<'a> Digests<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.bytes.len() / 8
    }
    /// Whether there is none; a reader never gets such a frame.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
    /// The digests, from page [`first`](Self::first) on.
    pub fn iter(&self) -> impl Iterator<Item = u64> + use<'a> {
        self.bytes.as_chunks::<8>().0.iter().map(|d| u64::from_le_bytes(*d))
    }
}

/// A piece of the saved state of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceState<'a> {
    /// Place in [`Hello::devices`].
    pub device: u32,
    /// Where the piece belongs.
    pub offset: u32,
    /// Bytes of the whole state.
    pub total: u32,
    /// The piece.
    pub bytes: &'a [u8],
}

/// Closes the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Rounds sent, the stopped one included.
    pub rounds: u32,
    /// Pages sent, repeats counted.
    pub pages: u64,
    /// Fold over the digests of all pages.
    pub fold: u64,
}

/// A message that was read; it borrows from the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// See [`Hello`].
    Hello(Hello),
    /// The destination has the same region and devices; holds the session.
    Accept(u64),
    /// The side that wrote it does not go on; the reason.
    Refuse(&'a str),
    /// See [`Round`].
    Round(Round),
    /// See [`Pages`].
    Pages(Pages<'a>),
    /// Number of the round, and pages sent in it.
    RoundEnd(u32, u32),
    /// See [`DeviceState`].
    DeviceState(DeviceState<'a>),
    /// What the migrating program knows.
    HostState(&'a [u8]),
    /// See [`Digests`].
    Digests(Digests<'a>),
    /// See [`End`].
    End(End),
    /// Everything arrived and was verified: session, and the fold of the destination's own memory.
    Ready(u64, u64),
    /// The source is fenced; holds the session.
    Fenced(u64),
    /// The destination may run; holds the session.
    Go(u64),
    /// The destination runs; holds the session.
    Running(u64),
    /// A section this reader does not know, which may be skipped; its number.
    Skipped(u16),
}

/// Takes a body apart from its start.
struct Fields<'a> {
    section: u16,
    whole: usize,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.length())?;
        self.rest = rest;
        Ok(*head)
    }
    fn u16(&mut self) -> Result<u16, Error> {
        Ok(u16::from_le_bytes(self.bytes()?))
    }
    fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }
    fn u64(&mut self) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }
    fn length(&self) -> Error {
        Error::Length { section: self.section, length: self.whole }
    }
    fn value<T>(&self, what: &'static str) -> Result<T, Error> {
        Err(Error::Value { section: self.section, what })
    }
    fn end<T>(self, value: T) -> Result<T, Error> {
        if self.rest.is_empty() { Ok(value) } else { Err(self.length()) }
    }
}

/// Reads the body of a frame whose checksum was right.
///
/// # Errors
/// [`Error::UnknownSection`], [`Error::Length`], [`Error::Value`].
pub fn parse<'a>(head: &Head, body: &'a [u8]) -> Result<Message<'a>, Error> {
    let mut f = Fields { section: head.section, whole: body.len(), rest: body };
    match head.section {
        HELLO => hello(f),
        ACCEPT => f.u64().and_then(|session| f.end(Message::Accept(session))),
        REFUSE => match core::str::from_utf8(body) {
            Ok(reason) if reason.len() <= MAX_REASON => Ok(Message::Refuse(reason)),
            Ok(_) => Err(f.length()),
            Err(_) => f.value("the reason is not UTF-8"),
        },
        ROUND => {
            let (number, kind, pages) = (f.u32()?, f.u32()?, f.u32()?);
            let kind = match kind {
                0 => RoundKind::PreCopy,
                1 => RoundKind::Stopped,
                _ => return f.value("unknown kind of round"),
            };
            f.end(Message::Round(Round { number, kind, pages }))
        }
        PAGES => {
            let count = f.u32()? as usize;
            if count == 0 || count > BATCH {
                return f.value("number of pages in a frame");
            }
            let (numbers, bytes) = f.rest.split_at_checked(4 * count).ok_or_else(|| f.length())?;
            if bytes.len() != count * PAGE {
                return Err(f.length());
            }
            Ok(Message::Pages(Pages { numbers, bytes }))
        }
        ROUND_END => {
            let (number, pages) = (f.u32()?, f.u32()?);
            f.end(Message::RoundEnd(number, pages))
        }
        DEVICE_STATE => {
            let (device, offset, total) = (f.u32()?, f.u32()?, f.u32()?);
            let length = f.rest.len();
            if length > STATE_CHUNK {
                return Err(f.length());
            }
            if offset.checked_add(length as u32).is_none_or(|end| end > total) {
                return f.value("device state past its end");
            }
            Ok(Message::DeviceState(DeviceState { device, offset, total, bytes: f.rest }))
        }
        HOST_STATE => Ok(Message::HostState(body)),
        DIGESTS => {
            let (first, count) = (f.u32()?, f.u32()? as usize);
            if count == 0 || count > DIGEST_BATCH {
                return f.value("number of digests in a frame");
            }
            if f.rest.len() != 8 * count {
                return Err(f.length());
            }
            Ok(Message::Digests(Digests { first, bytes: f.rest }))
        }
        END => {
            let (rounds, zero, pages, fold) = (f.u32()?, f.u32()?, f.u64()?, f.u64()?);
            if zero != 0 {
                return f.value("a reserved field is not zero");
            }
            f.end(Message::End(End { rounds, pages, fold }))
        }
        READY => {
            let (session, fold) = (f.u64()?, f.u64()?);
            f.end(Message::Ready(session, fold))
        }
        FENCED => f.u64().and_then(|session| f.end(Message::Fenced(session))),
        GO => f.u64().and_then(|session| f.end(Message::Go(session))),
        RUNNING => f.u64().and_then(|session| f.end(Message::Running(session))),
        other if head.skippable => Ok(Message::Skipped(other)),
        other => Err(Error::UnknownSection(other)),
    }
}

fn hello<'a>(mut f: Fields<'a>) -> Result<Message<'a>, Error> {
    let (session, region_bytes, iova) = (f.u64()?, f.u64()?, f.u64()?);
    let (page, flags, count) = (f.u32()?, f.u32()?, f.u32()? as usize);
    if page as usize != PAGE {
        return f.value("page size");
    }
    if flags > 1 {
        return f.value("unknown flags");
    }
    if region_bytes == 0 || region_bytes % PAGE as u64 != 0 || region_bytes / PAGE as u64 > u32::MAX.into() {
        return f.value("region size");
    }
    if iova % PAGE as u64 != 0 || iova.checked_add(region_bytes - 1).is_none() {
        return f.value("region address");
    }
    if count > MAX_DEVICES {
        return f.value("number of devices");
    }
    let mut devices = Vec::with_capacity(count);
    for _ in 0..count {
        devices.push(DeviceId { vendor: f.u16()?, device: f.u16()? });
    }
    f.end(Message::Hello(Hello { session, region_bytes, iova, tracking: flags == 1, devices }))
}

/// The messages, written. Each appends one frame to `out`.
impl Writer {
    fn words(&mut self, out: &mut Vec<u8>, section: u16, words: &[u64]) {
        self.frame(out, section, 0, |body| words.iter().for_each(|word| body.extend(word.to_le_bytes())));
    }
    /// Appends a hello. At most [`MAX_DEVICES`] devices.
    pub fn hello(&mut self, out: &mut Vec<u8>, hello: &Hello) {
        self.frame(out, HELLO, 0, |body| {
            for word in [hello.session, hello.region_bytes, hello.iova] {
                body.extend(word.to_le_bytes());
            }
            for word in [PAGE as u32, hello.tracking.into(), hello.devices.len() as u32] {
                body.extend(word.to_le_bytes());
            }
            for id in &hello.devices {
                body.extend(id.vendor.to_le_bytes());
                body.extend(id.device.to_le_bytes());
            }
        });
    }
    /// Appends an accept.
    pub fn accept(&mut self, out: &mut Vec<u8>, session: u64) {
        self.words(out, ACCEPT, &[session]);
    }
    /// Appends a refusal; a reason over [`MAX_REASON`] bytes is cut at a character.
    pub fn refuse(&mut self, out: &mut Vec<u8>, reason: &str) {
        let end = (0..=MAX_REASON.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
        self.frame(out, REFUSE, 0, |body| body.extend(&reason.as_bytes()[..end]));
    }
    /// Appends the head of a round.
    pub fn round(&mut self, out: &mut Vec<u8>, round: &Round) {
        self.frame(out, ROUND, 0, |body| {
            for word in [round.number, round.kind as u32, round.pages] {
                body.extend(word.to_le_bytes());
            }
        });
    }
    /// Appends the pages `numbers`, 1 to [`BATCH`]; `copy` appends the bytes of one page.
    pub fn pages(&mut self, out: &mut Vec<u8>, numbers: &[u32], mut copy: impl FnMut(u32, &mut Vec<u8>)) {
        self.frame(out, PAGES, 0, |body| {
            body.reserve(4 + numbers.len() * (4 + PAGE));
            body.extend((numbers.len() as u32).to_le_bytes());
            numbers.iter().for_each(|number| body.extend(number.to_le_bytes()));
            numbers.iter().for_each(|number| copy(*number, body));
        });
    }
    /// Appends the end of a round.
    pub fn round_end(&mut self, out: &mut Vec<u8>, number: u32, pages: u32) {
        self.frame(out, ROUND_END, 0, |body| {
            body.extend(number.to_le_bytes());
            body.extend(pages.to_le_bytes());
        });
    }
    /// Appends one device's state, in pieces of [`STATE_CHUNK`]; at least one, even if it is empty.
    pub fn device_state(&mut self, out: &mut Vec<u8>, device: u32, state: &[u8]) {
        let mut offset = 0;
        loop {
            let piece = &state[offset..state.len().min(offset + STATE_CHUNK)];
            self.frame(out, DEVICE_STATE, 0, |body| {
                for word in [device, offset as u32, state.len() as u32] {
                    body.extend(word.to_le_bytes());
                }
                body.extend(piece);
            });
            offset += piece.len();
            if offset == state.len() {
                return;
            }
        }
    }
    /// Appends the program's own state, at most [`MAX_BODY`](crate::stream::MAX_BODY) bytes.
    pub fn host_state(&mut self, out: &mut Vec<u8>, state: &[u8]) {
        self.frame(out, HOST_STATE, 0, |body| body.extend(state));
    }
    /// Appends the digests of all pages, in as many frames as needed.
    pub fn digests(&mut self, out: &mut Vec<u8>, digests: &[u64]) {
        let mut first = 0u32;
        for piece in digests.chunks(DIGEST_BATCH) {
            self.frame(out, DIGESTS, 0, |body| {
                body.extend(first.to_le_bytes());
                body.extend((piece.len() as u32).to_le_bytes());
                piece.iter().for_each(|digest| body.extend(digest.to_le_bytes()));
            });
            first += piece.len() as u32;
        }
    }
    /// Appends the end of the data.
    pub fn end(&mut self, out: &mut Vec<u8>, end: &End) {
        self.words(out, END, &[end.rounds.into(), end.pages, end.fold]);
    }
    /// Appends a ready.
    pub fn ready(&mut self, out: &mut Vec<u8>, session: u64, fold: u64) {
        self.words(out, READY, &[session, fold]);
    }
    /// Appends a fenced.
    pub fn fenced(&mut self, out: &mut Vec<u8>, session: u64) {
        self.words(out, FENCED, &[session]);
    }
    /// Appends a go.
    pub fn go(&mut self, out: &mut Vec<u8>, session: u64) {
        self.words(out, GO, &[session]);
    }
    /// Appends a running.
    pub fn running(&mut self, out: &mut Vec<u8>, session: u64) {
        self.words(out, RUNNING, &[session]);
    }
}
