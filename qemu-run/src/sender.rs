//! Sends the file to the moving card: numbered frames, acknowledged, sent again when they were not; without sockets or clock, so
//! that it can be tested. `crate::feed` runs it.

use migrate_wire::frame::{FrameError, Header, Hello, Kind, MAX_FRAME, MAX_WINDOW, Receiver, Start, decode, encode};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One of the two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where the transfer begins.
    Source,
    /// Where it ends.
    Destination,
}

impl Side {
    /// As in events: `source` or `destination`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// First wait for an acknowledgement; it doubles with each time the same frame is sent.
const PATIENCE: Duration = Duration::from_millis(500);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(4);
/// Start and end frames are repeated this often.
const REPEAT: Duration = Duration::from_millis(100);

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Data frames sent for the first time.
    pub sent: u64,
    /// Data frames sent again.
    pub resent: u64,
    /// Of those, frames that had been acknowledged before: must stay 0.
    pub resent_acknowledged: u64,
    /// Frames that the source had acknowledged and the destination does not hold: must stay 0.
    pub promises_broken: u64,
    /// Acknowledged in order, over all passes.
    pub acknowledged: u64,
    /// Frames that came back and could not be read.
    pub unreadable: u64,
}

struct Flight {
    due: Instant,
    patience: Duration,
    times: u32,
}

/// The state of a transfer.
pub struct Sender {
    file: Vec<u8>,
    start: Start,
    to: [u8; 6],
    from: [u8; 6],
    active: Side,
    greeted: bool,
    window: u16,
    started: bool,
    repeat: Option<Instant>,
    known: Receiver,
    next: u64,
    flight: BTreeMap<u64, Flight>,
    ending: bool,
    ended: bool,
    counts: Counts,
}

/// What `Sender::pick` chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Describe the file.
    Start,
    /// Data frame of that number.
    Data(u64),
    /// No more passes.
    End,
}

impl Sender {
    /// Nothing is sent before the source says hello. `None` if the file is empty or too large.
    pub fn new(file: Vec<u8>, chunk: u32, sha256: [u8; 32], to: [u8; 6], from: [u8; 6]) -> Option<Self> {
        let start = Start::new(file.len() as u64, chunk, sha256)?;
        Some(Self {
            file,
            start,
            to,
            from,
            active: Side::Source,
            greeted: false,
            window: 0,
            started: false,
            repeat: None,
            known: Receiver::new(),
            next: 0,
            flight: BTreeMap::new(),
            ending: false,
            ended: false,
            counts: Counts::default(),
        })
    }

    /// Who gets the frames.
    pub fn active(&self) -> Side {
        self.active
    }

    /// Counters.
    pub fn counts(&self) -> Counts {
        Counts { acknowledged: self.known.next, ..self.counts }
    }

    /// Data frames per pass.
    pub fn frames_per_pass(&self) -> u32 {
        self.start.frames_per_pass
    }

    /// Sends no new data; ends the transfer once everything under way is acknowledged.
    pub fn finish(&mut self) {
        self.ending = true;
    }

    /// The other side confirmed the end.
    pub fn ended(&self) -> bool {
        self.ended
    }

    fn number(&self, header: &Header) -> u64 {
        u64::from(header.pass) * u64::from(self.start.frames_per_pass) + u64::from(header.seq)
    }

    /// A frame came from the card of `side`.
    pub fn take(&mut self, side: Side, frame: &[u8], now: Instant) {
        let (header, payload) = match decode(frame) {
            Ok(good) => good,
            Err(FrameError::NotOurs) => return,
            Err(_) => {
                self.counts.unreadable += 1;
                return;
            }
        };
        let next = self.number(&header);
        match header.kind {
            Kind::Hello => match Hello::decode(payload) {
                Ok(hello) => self.hello(side, hello, next, now),
                Err(_) => self.counts.unreadable += 1,
            },
            Kind::Ack => match Receiver::from_ack(next, payload) {
                // It cannot hold what was never sent.
                Ok(has) if has.next <= self.next => self.acknowledged(side, &has),
                _ => self.counts.unreadable += 1,
            },
            Kind::End => self.ended |= self.ending && side == self.active,
            Kind::Start | Kind::Data => self.counts.unreadable += 1,
        }
    }

    fn hello(&mut self, side: Side, hello: Hello, next: u64, now: Instant) {
        if hello.destination != (side == Side::Destination) || self.active == Side::Destination && side == Side::Source
        {
            return;
        }
        self.window = hello.window;
        if side == Side::Destination && !self.greeted {
            self.greeted = true;
            self.counts.promises_broken += self.known.next.saturating_sub(next);
        }
        if side == Side::Destination {
            self.moved(now);
        }
    }

    /// The card runs at the destination: frames go there, and what is not acknowledged goes at once. The new machine cannot
    /// announce itself before its first frame, because until then it writes no register.
    pub fn moved(&mut self, now: Instant) {
        if self.active == Side::Destination {
            return;
        }
        self.active = Side::Destination;
        for flight in self.flight.values_mut() {
            flight.due = now;
            flight.patience = PATIENCE;
        }
    }

    fn acknowledged(&mut self, side: Side, has: &Receiver) {
        self.started = true;
        if side == Side::Destination {
            let reach = self.known.next + 1 + u64::from(MAX_WINDOW);
            let broken = (self.known.next..reach).filter(|n| self.known.holds(*n) && !has.holds(*n)).count() as u64;
            self.counts.promises_broken += broken + self.known.next.saturating_sub(has.next);
        }
        self.known = union(&self.known, has);
        let known = self.known;
        self.flight.retain(|number, _| !known.holds(*number));
    }

    /// What to send now, if anything. It is only noted as sent by [`Sender::sent`].
    pub fn pick(&self, now: Instant) -> Option<Choice> {
        if self.window == 0 || self.ended {
            return None;
        }
        let repeat = self.repeat.is_none_or(|at| now >= at);
        if !self.started {
            return repeat.then_some(Choice::Start);
        }
        if let Some((number, _)) = self.flight.iter().find(|(_, flight)| now >= flight.due) {
            return Some(Choice::Data(*number));
        }
        if self.ending {
            return (self.flight.is_empty() && repeat).then_some(Choice::End);
        }
        (self.next < self.known.next + u64::from(self.window)).then_some(Choice::Data(self.next))
    }

    /// Writes the chosen frame; returns its length.
    pub fn write(&self, choice: Choice, out: &mut [u8; MAX_FRAME]) -> usize {
        let frames = u64::from(self.start.frames_per_pass);
        let place = |number: u64| ((number / frames) as u32, (number % frames) as u32);
        let describe = self.start.encode();
        let (kind, (pass, seq), payload): (_, _, &[u8]) = match choice {
            Choice::Start => (Kind::Start, (0, 0), &describe),
            Choice::End => (Kind::End, place(self.next), &[]),
            Choice::Data(number) => {
                let (pass, seq) = place(number);
                let from = seq as usize * self.start.chunk as usize;
                (Kind::Data, (pass, seq), &self.file[from..from + self.start.len_of(seq)])
            }
        };
        let header = Header { dst: self.to, src: self.from, kind, pass, seq };
        encode(&header, payload, out).unwrap_or(0)
    }

    /// The chosen frame went out.
    pub fn sent(&mut self, choice: Choice, now: Instant) {
        let Choice::Data(number) = choice else {
            self.repeat = Some(now + REPEAT);
            return;
        };
        if number == self.next {
            self.next += 1;
            self.counts.sent += 1;
        } else {
            self.counts.resent += 1;
            self.counts.resent_acknowledged += u64::from(self.known.holds(number));
        }
        let flight = self.flight.entry(number).or_insert(Flight { due: now, patience: PATIENCE, times: 0 });
        flight.due = now + flight.patience;
        flight.patience = (flight.patience * 2).min(LONGEST);
        flight.times += 1;
    }
}

/// What at least one of the two holds.
fn union(a: &Receiver, b: &Receiver) -> Receiver {
    let (low, mut both) = if a.next <= b.next { (a, *b) } else { (b, *a) };
    for number in both.next..=low.next + u64::from(MAX_WINDOW) {
        if low.holds(number) {
            both.accept(number);
        }
    }
    both
}

#[cfg(test)]
mod tests {
    use super::*;
    use migrate_wire::frame::Taken;

    const CARD: [u8; 6] = [2; 6];
    const HOST: [u8; 6] = [4; 6];

    fn sender(bytes: usize) -> Sender {
        Sender::new((0..bytes).map(|n| n as u8).collect(), 100, [9; 32], CARD, HOST).unwrap()
    }

    fn back(kind: Kind, pass: u32, seq: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = [0; MAX_FRAME];
        let len = encode(&Header { dst: HOST, src: CARD, kind, pass, seq }, payload, &mut out).unwrap();
        out[..len].to_vec()
    }

    fn hello(destination: bool, window: u16, next: u32) -> Vec<u8> {
        back(Kind::Hello, 0, next, &Hello { destination, window }.encode())
    }

    fn ack(rx: &Receiver) -> Vec<u8> {
        back(Kind::Ack, 0, rx.next as u32, &rx.ack_payload())
    }

    /// Sends all that may be sent now; returns the data numbers.
    fn drain(sender: &mut Sender, now: Instant) -> Vec<u64> {
        let mut numbers = Vec::new();
        while let Some(choice) = sender.pick(now) {
            sender.sent(choice, now);
            if let Choice::Data(number) = choice {
                numbers.push(number);
            }
        }
        numbers
    }

    fn started(window: u16) -> (Sender, Instant, Receiver) {
        let (mut s, now, rx) = (sender(100_000), Instant::now(), Receiver::new());
        assert_eq!(s.pick(now), None, "nothing before hello");
        s.take(Side::Source, &hello(false, window, 0), now);
        assert_eq!(s.pick(now), Some(Choice::Start));
        s.sent(Choice::Start, now);
        assert_eq!(s.pick(now), None, "start is repeated later, data waits for its ack");
        assert_eq!(s.pick(now + REPEAT), Some(Choice::Start));
        s.take(Side::Source, &ack(&rx), now);
        (s, now, rx)
    }

    #[test]
    fn never_more_than_the_window_is_under_way() {
        let (mut s, now, mut rx) = started(4);
        assert_eq!(drain(&mut s, now), [0, 1, 2, 3]);
        rx.accept(0);
        rx.accept(2);
        s.take(Side::Source, &ack(&rx), now);
        assert_eq!(drain(&mut s, now), [4]);
    }

    #[test]
    fn only_what_is_missing_is_sent_again_and_later_each_time() {
        let (mut s, now, mut rx) = started(4);
        drain(&mut s, now);
        rx.accept(0);
        rx.accept(2);
        s.take(Side::Source, &ack(&rx), now);
        assert_eq!(drain(&mut s, now + PATIENCE), [1, 3, 4]);
        assert_eq!(drain(&mut s, now + PATIENCE * 2), [4]);
        assert_eq!(drain(&mut s, now + PATIENCE * 3), [1, 3]);
        assert_eq!((s.counts().resent, s.counts().resent_acknowledged), (5, 0));
    }

    #[test]
    fn after_the_switch_the_rest_goes_to_the_destination_and_nothing_acknowledged_does() {
        let (mut s, now, mut rx) = started(8);
        drain(&mut s, now);
        for number in [0, 1, 5] {
            rx.accept(number);
        }
        s.take(Side::Source, &ack(&rx), now);
        drain(&mut s, now);
        s.take(Side::Destination, &hello(true, 8, 2), now);
        assert_eq!(s.active(), Side::Destination);
        assert_eq!(drain(&mut s, now), [2, 3, 4, 6, 7, 8, 9]);
        s.take(Side::Source, &hello(false, 8, 2), now);
        assert_eq!(s.active(), Side::Destination, "there is no way back");
        s.take(Side::Destination, &ack(&rx), now);
        let counts = s.counts();
        assert_eq!((counts.resent_acknowledged, counts.promises_broken), (0, 0));
    }

    #[test]
    fn a_destination_that_forgot_an_acknowledged_frame_is_noticed() {
        let (mut s, now, mut rx) = started(8);
        drain(&mut s, now);
        for number in [0, 1, 5] {
            rx.accept(number);
        }
        s.take(Side::Source, &ack(&rx), now);
        let mut forgetful = Receiver::new();
        forgetful.accept(0);
        forgetful.accept(1);
        s.take(Side::Destination, &hello(true, 8, 2), now);
        assert_eq!(s.counts().promises_broken, 0);
        s.take(Side::Destination, &ack(&forgetful), now);
        assert_eq!(s.counts().promises_broken, 1);
    }

    #[test]
    fn the_end_comes_after_everything_and_needs_an_answer() {
        let (mut s, now, mut rx) = started(2);
        drain(&mut s, now);
        s.finish();
        assert_eq!(s.pick(now), None);
        rx.accept(0);
        rx.accept(1);
        s.take(Side::Source, &ack(&rx), now);
        let later = now + REPEAT;
        assert_eq!(s.pick(later), Some(Choice::End));
        s.sent(Choice::End, later);
        assert_eq!(s.pick(later + REPEAT), Some(Choice::End));
        s.take(Side::Source, &back(Kind::End, 0, 2, &[]), later);
        assert!(s.ended());
        assert_eq!(s.pick(later + REPEAT), None);
    }

    #[test]
    fn the_file_arrives_whole_over_a_line_that_loses_and_repeats() {
        let (mut s, mut now, mut rx) = started(16);
        let (mut got, mut dice) = (vec![0u8; 100_000], 1u64);
        let mut roll = || {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (dice >> 60) < 3
        };
        while rx.next < 1000 {
            now += Duration::from_millis(50);
            while let Some(choice) = s.pick(now) {
                let mut out = [0; MAX_FRAME];
                let len = s.write(choice, &mut out);
                s.sent(choice, now);
                let (header, payload) = decode(&out[..len]).unwrap();
                if header.kind == Kind::Data && header.pass == 0 && !roll() {
                    let from = header.seq as usize * 100;
                    assert_ne!(rx.accept(u64::from(header.seq)), Taken::TooFar);
                    got[from..from + payload.len()].copy_from_slice(payload);
                }
            }
            if !roll() {
                s.take(Side::Source, &ack(&rx), now);
            }
        }
        assert!(got.iter().enumerate().all(|(at, byte)| *byte == at as u8));
        assert_eq!(s.counts().resent_acknowledged, 0);
    }

    #[test]
    fn nonsense_is_counted_and_changes_nothing() {
        let (mut s, now, rx) = started(4);
        let mut far = Receiver::new();
        far.next = 999;
        s.take(Side::Source, &ack(&far), now);
        s.take(Side::Source, &back(Kind::Data, 0, 0, b"x"), now);
        s.take(Side::Source, &back(Kind::Ack, 0, 0, b"x"), now);
        let mut bad = ack(&rx);
        bad[40] ^= 1;
        s.take(Side::Source, &bad, now);
        s.take(Side::Source, &[0; 60], now);
        assert_eq!(s.counts().unreadable, 4);
        assert_eq!(drain(&mut s, now), [0, 1, 2, 3]);
    }
}
