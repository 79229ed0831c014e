//! The file that the host sends again and again: which frames are here, where their bytes lie, and the digest of each pass.
//!
//! Pass after pass is laid end to end into the assembly pages, round and round. A pass is digested out of the region's
//! memory once it is whole, so that what came before a switch is read from memory that moved. Only a file too large to be
//! kept whole is digested while it comes. The digest's own state moves as well.

use crate::{
    event::{Events, Role},
    layout::Layout,
    memory::Region,
};
use migrate_wire::{
    PAGE,
    frame::{self, Header, Hello, Kind, MAX_WINDOW, Receiver, Start, Taken},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, digest::common::hazmat::SerializableState};
use std::collections::BTreeMap;

/// The host side's address before its first frame told it.
const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0x77, 0, 0xFF];
/// Pause between two hellos that nobody answered, in nanoseconds.
const HELLO_EVERY: u64 = 200_000_000;

/// The part that moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// Payload of the start frame.
    start: Option<Vec<u8>>,
    next: u64,
    ahead: [u64; 4],
    card: [u8; 6],
    host: [u8; 6],
    /// State of the running digest, the pass it is in, and its bytes so far.
    hash: Vec<u8>,
    hash_pass: u32,
    hash_at: u64,
    /// Where each pass that is not yet digested began, and ended.
    began: BTreeMap<u32, Role>,
    ended: BTreeMap<u32, Role>,
    good: u64,
    bad: u64,
}

/// One transfer, on the receiving side.
pub struct Transfer {
    role: Role,
    start: Option<Start>,
    rx: Receiver,
    card: [u8; 6],
    host: [u8; 6],
    hash: Sha256,
    hash_pass: u32,
    hash_at: u64,
    began: BTreeMap<u32, Role>,
    ended: BTreeMap<u32, Role>,
    good: u64,
    bad: u64,
    finished: bool,
    hello_due: bool,
    hello_last: Option<u64>,
    ack_due: bool,
    end_due: bool,
    frames: u64,
    refused: u64,
}

impl Transfer {
    /// Before the first frame; `card` is the card's address.
    pub fn new(role: Role, card: [u8; 6]) -> Self {
        Self {
            role,
            start: None,
            rx: Receiver::new(),
            card,
            host: HOST_MAC,
            hash: Sha256::new(),
            hash_pass: 0,
            hash_at: 0,
            began: BTreeMap::new(),
            ended: BTreeMap::new(),
            good: 0,
            bad: 0,
            finished: false,
            hello_due: true,
            hello_last: None,
            ack_due: false,
            end_due: false,
            frames: 0,
            refused: 0,
        }
    }

    /// What moves.
    pub fn save(&self) -> Saved {
        Saved {
            start: self.start.map(|start| start.encode().to_vec()),
            next: self.rx.next,
            ahead: self.rx.ahead,
            card: self.card,
            host: self.host,
            hash: self.hash.serialize().to_vec(),
            hash_pass: self.hash_pass,
            hash_at: self.hash_at,
            began: self.began.clone(),
            ended: self.ended.clone(),
            good: self.good,
            bad: self.bad,
        }
    }

    /// Goes on where another one stopped. It says hello with what it expects as soon as it may send.
    ///
    /// # Errors
    /// What is wrong with `saved`, in words.
    pub fn adopt(role: Role, saved: Saved) -> Result<Self, &'static str> {
        let start = match &saved.start {
            Some(payload) => Some(Start::decode(payload).map_err(|_| "a start frame that contradicts itself")?),
            None => None,
        };
        let hash = saved.hash.as_slice().try_into().map_err(|_| "a digest state of a wrong length")?;
        let hash = Sha256::deserialize(&hash).map_err(|_| "a digest state that cannot be")?;
        let mut new = Self::new(role, saved.card);
        new.start = start;
        new.rx = Receiver { next: saved.next, ahead: saved.ahead };
        let per_pass = start.map_or(1, |start| fpp(&start));
        let stride = start.map_or(0, |start| Self::stride(&start));
        let end = u128::from(saved.next / per_pass + 2) * u128::from(stride);
        if end > u64::MAX.into() || (start.is_none() && saved.next > 0) {
            return Err("more frames than there can be");
        }
        let file_bytes = start.map_or(0, |start| start.file_bytes);
        if saved.hash_at > file_bytes
            || u64::from(saved.hash_pass) > saved.next / per_pass
            || (start.is_none() && saved.hash_pass > 0)
        {
            return Err("digested more than was received");
        }
        new.host = saved.host;
        new.hash = hash;
        (new.hash_pass, new.hash_at) = (saved.hash_pass, saved.hash_at);
        if new.digested() > new.received() {
            return Err("digested more than was received");
        }
        (new.began, new.ended) = (saved.began, saved.ended);
        (new.good, new.bad) = (saved.good, saved.bad);
        Ok(new)
    }

    /// Data frames taken here.
    pub fn frames(&self) -> u64 {
        self.frames
    }
    /// Frames that were no frames of this protocol or were bent.
    pub fn refused(&self) -> u64 {
        self.refused
    }
    /// Passes with the right digest, and with a wrong one.
    pub fn passes(&self) -> (u64, u64) {
        (self.good, self.bad)
    }
    /// The host sent `end`, everything before it is here and every whole pass was digested.
    pub fn is_over(&self) -> bool {
        self.finished && self.start.is_none_or(|start| u64::from(self.hash_pass) == self.rx.next / fpp(&start))
    }

    /// Distance between the beginnings of two passes in the assembly pages.
    fn stride(start: &Start) -> u64 {
        start.file_bytes.next_multiple_of(8)
    }
    /// First assembly byte of a frame, counted over all passes.
    fn linear(start: &Start, number: u64) -> u64 {
        number / fpp(start) * Self::stride(start) + number % fpp(start) * u64::from(start.chunk)
    }
    /// Assembly bytes before which everything is here.
    fn received(&self) -> u64 {
        self.start.map_or(0, |start| Self::linear(&start, self.rx.next))
    }
    /// Assembly bytes before which everything was digested.
    fn digested(&self) -> u64 {
        self.start.map_or(0, |start| u64::from(self.hash_pass) * Self::stride(&start) + self.hash_at)
    }

    /// Takes a received frame; its bytes go into the assembly pages.
    pub fn frame(&mut self, bytes: &[u8], region: &Region, layout: &Layout, events: &dyn Events) {
        let (header, payload) = match frame::decode(bytes) {
            Ok(frame) => frame,
            Err(_) => return self.refused += 1,
        };
        match header.kind {
            Kind::Start => match (Start::decode(payload), self.start) {
                (Ok(start), None) => {
                    self.start = Some(start);
                    self.host = header.src;
                    self.ack_due = true;
                }
                // repeated until an ack comes; another file in the middle of a transfer is not one
                (Ok(start), Some(known)) if start == known => self.ack_due = true,
                _ => self.refused += 1,
            },
            Kind::Data => self.data(&header, payload, region, layout, events),
            Kind::End => {
                let number = self.start.map_or(0, |start| u64::from(header.pass) * fpp(&start) + u64::from(header.seq));
                if number == self.rx.next {
                    self.finished = true;
                    self.end_due = true;
                } else {
                    self.ack_due = true;
                }
            }
            // only the other side sends these
            Kind::Hello | Kind::Ack => self.refused += 1,
        }
    }

    fn data(&mut self, header: &Header, payload: &[u8], region: &Region, layout: &Layout, events: &dyn Events) {
        let Some(start) = self.start else {
            self.hello_due = true;
            return;
        };
        if header.seq >= start.frames_per_pass || payload.len() != start.len_of(header.seq) {
            return self.refused += 1;
        }
        let number = u64::from(header.pass) * fpp(&start) + u64::from(header.seq);
        self.ack_due = true;
        self.host = header.src;
        if self.rx.holds(number) || number > self.rx.next + u64::from(MAX_WINDOW) {
            return;
        }
        let at = Self::linear(&start, number);
        // bytes not yet digested are not overwritten
        while at + payload.len() as u64 > self.digested() + layout.assembly_bytes() {
            if self.digest(PAGE as u64, true, region, layout, events) == 0 {
                return;
            }
        }
        write_assembly(region, layout, at, payload);
        if self.rx.accept(number) != Taken::Fresh {
            return;
        }
        self.frames += 1;
        self.began.entry(header.pass).or_insert(self.role);
        let whole = self.rx.next / fpp(&start);
        let mut pass = self.hash_pass;
        while u64::from(pass) < whole {
            self.ended.entry(pass).or_insert(self.role);
            pass += 1;
        }
    }

    /// Digests up to `budget` bytes, if a pass is whole, the backlog grows, or `now` is demanded. Returns the bytes digested.
    pub fn digest(&mut self, budget: u64, now: bool, region: &Region, layout: &Layout, events: &dyn Events) -> u64 {
        let Some(start) = self.start else { return 0 };
        let mut done = 0;
        while done < budget {
            let whole = u64::from(self.hash_pass) < self.rx.next / fpp(&start);
            let backlog = self.received() - self.digested();
            if !(whole || now || backlog > layout.assembly_bytes() / 2) {
                break;
            }
            let here =
                if whole { start.file_bytes - self.hash_at } else { backlog.min(start.file_bytes - self.hash_at) };
            let count = here.min(PAGE as u64).min(budget - done);
            if count == 0 && !whole {
                break;
            }
            let mut piece = [0; PAGE];
            let piece = &mut piece[..count as usize];
            read_assembly(region, layout, self.digested(), piece);
            self.hash.update(&piece);
            self.hash_at += count;
            done += count;
            if self.hash_at == start.file_bytes {
                self.end_of_pass(&start, events);
            }
        }
        done
    }

    fn end_of_pass(&mut self, start: &Start, events: &dyn Events) {
        let sha256: [u8; 32] = std::mem::take(&mut self.hash).finalize().into();
        let pass = self.hash_pass;
        let began = self.began.remove(&pass).unwrap_or(self.role);
        let ended = self.ended.remove(&pass).unwrap_or(self.role);
        let right = sha256 == start.sha256;
        self.good += u64::from(right);
        self.bad += u64::from(!right);
        (self.hash_pass, self.hash_at) = (pass + 1, 0);
        events.emit(
            "pass",
            serde_json::json!({ "role": self.role, "pass": pass, "sha256": hex(&sha256), "began": began, "ended": ended }),
        );
    }

    /// Gives what is due to `send`, which says whether it took the frame. `now` in nanoseconds.
    pub fn replies(&mut self, now: u64, mut send: impl FnMut(&[u8]) -> bool) {
        let waited = self.hello_last.is_none_or(|last| now.saturating_sub(last) >= HELLO_EVERY);
        if self.hello_due && waited {
            let hello = Hello { destination: self.role == Role::Destination, window: MAX_WINDOW };
            if self.reply(Kind::Hello, &hello.encode(), &mut send) {
                self.hello_last = Some(now);
                // before the start frame it is repeated
                self.hello_due = self.start.is_none();
            }
        }
        if self.ack_due {
            self.ack_due = !self.reply(Kind::Ack, &self.rx.ack_payload(), &mut send);
        }
        if self.end_due {
            self.end_due = !self.reply(Kind::End, &[], &mut send);
        }
    }

    fn reply(&self, kind: Kind, payload: &[u8], send: &mut impl FnMut(&[u8]) -> bool) -> bool {
        let per_pass = self.start.map_or(1, |start| fpp(&start));
        let header = Header {
            dst: self.host,
            src: self.card,
            kind,
            pass: (self.rx.next / per_pass) as u32,
            seq: (self.rx.next % per_pass) as u32,
        };
        let mut out = [0; crate::igb::TX_BUFFER];
        // replies are at most 64 bytes; short ones are padded to Ethernet's 60
        frame::encode(&header, payload, &mut out).is_ok_and(|length| send(&out[..length.max(60)]))
    }
}

fn fpp(start: &Start) -> u64 {
    start.frames_per_pass.into()
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Calls `f` with the region offset and length of each piece of assembly bytes `at..at + length`.
fn pieces(layout: &Layout, at: u64, length: usize, mut f: impl FnMut(usize, usize, usize)) {
    let mut done = 0;
    while done < length {
        let linear = (at + done as u64) % layout.assembly_bytes();
        let (page, inside) = ((linear / PAGE as u64) as usize, (linear % PAGE as u64) as usize);
        let count = (PAGE - inside).min(length - done);
        f(layout.assembly[page] as usize * PAGE + inside, done, count);
        done += count;
    }
}

fn write_assembly(region: &Region, layout: &Layout, at: u64, bytes: &[u8]) {
    pieces(layout, at, bytes.len(), |to, from, count| region.write(to, &bytes[from..from + count]));
}

fn read_assembly(region: &Region, layout: &Layout, at: u64, out: &mut [u8]) {
    let length = out.len();
    pieces(layout, at, length, |from, to, count| region.read(from, &mut out[to..to + count]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fake, layout::MIN_PAGES};

    const CARD: [u8; 6] = [0x52, 0x54, 0, 0x77, 1, 1];

    struct Bench {
        region: Region,
        layout: Layout,
        events: fake::Collector,
        file: Vec<u8>,
        start: Start,
    }

    impl Bench {
        fn new(bytes: usize, chunk: u32) -> Self {
            let file: Vec<u8> = (0..bytes as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let start = Start::new(bytes as u64, chunk, Sha256::digest(&file).into()).unwrap();
            let layout = Layout::new(MIN_PAGES, 3);
            Self { region: fake::region(MIN_PAGES), layout, events: fake::Collector::default(), file, start }
        }
        fn frame(&self, kind: Kind, number: u64, payload: &[u8]) -> Vec<u8> {
            let per = u64::from(self.start.frames_per_pass);
            let header =
                Header { dst: CARD, src: [2; 6], kind, pass: (number / per) as u32, seq: (number % per) as u32 };
            let mut out = vec![0; frame::MAX_FRAME];
            let length = frame::encode(&header, payload, &mut out).unwrap();
            out.truncate(length.max(60));
            out
        }
        fn give(&self, transfer: &mut Transfer, frame: &[u8]) {
            transfer.frame(frame, &self.region, &self.layout, &self.events);
        }
        fn start(&self, transfer: &mut Transfer) {
            self.give(transfer, &self.frame(Kind::Start, 0, &self.start.encode()));
        }
        fn data(&self, transfer: &mut Transfer, number: u64) {
            let seq = (number % u64::from(self.start.frames_per_pass)) as usize;
            let at = seq * self.start.chunk as usize;
            let piece = &self.file[at..at + self.start.len_of(seq as u32)];
            self.give(transfer, &self.frame(Kind::Data, number, piece));
        }
        fn digest(&self, transfer: &mut Transfer) {
            while transfer.digest(1 << 16, false, &self.region, &self.layout, &self.events) > 0 {}
        }
    }

    fn sent(transfer: &mut Transfer, now: u64) -> Vec<(Kind, u32, u32, Vec<u8>)> {
        let mut out = Vec::new();
        transfer.replies(now, |bytes| {
            let (header, payload) = frame::decode(bytes).unwrap();
            out.push((header.kind, header.pass, header.seq, payload.to_vec()));
            true
        });
        out
    }

    #[test]
    fn hello_is_repeated_until_the_start_comes() {
        let bench = Bench::new(5000, 1400);
        let mut t = Transfer::new(Role::Source, CARD);
        let hello = (Kind::Hello, 0, 0, vec![0, 0, 0, 1]);
        assert_eq!(sent(&mut t, 0), std::slice::from_ref(&hello));
        assert_eq!(sent(&mut t, 1), []);
        assert_eq!(sent(&mut t, HELLO_EVERY), [hello]);
        bench.start(&mut t);
        let (kind, ..) = sent(&mut t, 2 * HELLO_EVERY)[1].clone();
        assert_eq!(kind, Kind::Ack);
        assert_eq!(sent(&mut t, 3 * HELLO_EVERY), []);
    }

    #[test]
    fn passes_in_any_order_have_the_digest_of_the_file() {
        let bench = Bench::new(100_003, 1399);
        let mut t = Transfer::new(Role::Source, CARD);
        bench.start(&mut t);
        for base in (0..3 * 72).step_by(8) {
            for swap in [3, 1, 0, 7, 5, 2, 6, 4, 4] {
                bench.data(&mut t, base + swap);
            }
            bench.digest(&mut t);
        }
        assert_eq!(t.passes(), (3, 0));
        assert_eq!(t.frames(), 3 * 72);
        bench.give(&mut t, &bench.frame(Kind::End, 216, &[]));
        assert!(t.is_over());
        assert!(sent(&mut t, 0).iter().any(|reply| (reply.0, reply.1, reply.2) == (Kind::End, 3, 0)));
        assert_eq!(bench.events.named("pass").len(), 3);
    }

    #[test]
    fn a_file_larger_than_the_assembly_pages_is_digested_while_it_comes() {
        let bench = Bench::new(20 << 20, 1400);
        assert!(bench.layout.assembly_bytes() < 10 << 20);
        let mut t = Transfer::new(Role::Source, CARD);
        bench.start(&mut t);
        for number in 0..u64::from(bench.start.frames_per_pass) {
            bench.data(&mut t, number);
        }
        bench.digest(&mut t);
        assert_eq!(t.passes(), (1, 0));
    }

    #[test]
    fn an_end_that_comes_too_early_is_answered_with_what_is_missing() {
        let bench = Bench::new(5000, 1400);
        let mut t = Transfer::new(Role::Source, CARD);
        bench.start(&mut t);
        bench.data(&mut t, 0);
        bench.give(&mut t, &bench.frame(Kind::End, 4, &[]));
        assert!(!t.is_over());
        assert!(sent(&mut t, 0).iter().all(|reply| reply.0 != Kind::End));
    }

    #[test]
    fn bent_foreign_and_contradicting_frames_change_nothing() {
        let bench = Bench::new(5000, 1400);
        let mut t = Transfer::new(Role::Source, CARD);
        bench.start(&mut t);
        let mut bent = bench.frame(Kind::Data, 0, &[1; 1400]);
        bent[40] ^= 1;
        bench.give(&mut t, &bent);
        bench.give(&mut t, &bench.frame(Kind::Data, 0, &[1; 1399]));
        bench.give(&mut t, &bench.frame(Kind::Hello, 0, &[0, 0, 0, 1]));
        bench.give(&mut t, &bench.frame(Kind::Start, 0, &Start::new(9, 1, [0; 32]).unwrap().encode()));
        assert_eq!((t.refused(), t.frames()), (4, 0));
        bench.data(&mut t, 300);
        assert_eq!(t.frames(), 0, "a frame past the window is not taken");
    }

    #[test]
    fn a_pass_goes_on_after_a_move_and_says_where_it_began() {
        let bench = Bench::new(50_000, 1400);
        let mut t = Transfer::new(Role::Source, CARD);
        bench.start(&mut t);
        for number in (0..50).filter(|n| *n != 45) {
            bench.data(&mut t, number);
        }
        bench.digest(&mut t);
        let json = serde_json::to_string(&t.save()).unwrap();
        let mut t = Transfer::adopt(Role::Destination, serde_json::from_str(&json).unwrap()).unwrap();
        assert_eq!(sent(&mut t, 0), [(Kind::Hello, 1, 9, vec![1, 0, 0, 1])], "hello names the missing frame");
        for number in 45..80 {
            bench.data(&mut t, number);
        }
        bench.digest(&mut t);
        let passes = bench.events.named("pass");
        let ends: Vec<_> =
            passes.iter().map(|e| (e["role"].as_str(), e["began"].as_str(), e["ended"].as_str())).collect();
        let (s, d) = (Some("source"), Some("destination"));
        assert_eq!(ends, [(s, s, s), (d, s, d)]);
        assert_eq!(t.passes(), (2, 0));
    }

    #[test]
    fn saved_state_that_cannot_be_is_refused() {
        let bench = Bench::new(50_000, 1400);
        let mut t = Transfer::new(Role::Source, CARD);
        bench.start(&mut t);
        bench.data(&mut t, 0);
        let good = t.save();
        let with = |edit: &dyn Fn(&mut Saved)| {
            let mut saved = good.clone();
            edit(&mut saved);
            Transfer::adopt(Role::Destination, saved).err()
        };
        assert_eq!(with(&|_| {}), None);
        assert!(with(&|s| s.hash.truncate(3)).is_some());
        assert!(with(&|s| s.hash_pass = 9).is_some());
        assert!(with(&|s| s.hash_at = u64::MAX).is_some());
        assert!(with(&|s| s.start = Some(vec![1])).is_some());
        assert!(with(&|s| s.next = u64::MAX).is_some());
        assert!(with(&|s| (s.start, s.next) = (None, 1)).is_some());
    }
}
