//! Which message may follow which.
//!
//! ```text
//!  to destination: hello (round pages* round-end)+ device-state+ host-state digests+ end fenced go
//!  to source:      accept ready running
//!  refuse:         in place of any message, and nothing after it
//! ```
//!
//! Round 0 has every page exactly once: none is left out because it is zero. Rounds count from 0; the last one, and only
//! that, is sent with stopped devices.

use crate::{
    Error,
    message::{DeviceState, End, Message, Round, RoundKind, section},
};
use alloc::{vec, vec::Vec};

/// What a stream is at, for the destination, which reads the long direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Start,
    /// Next round; holds its number.
    Rounds(u32),
    /// In a round; pages still to come.
    InRound(Round, u32),
    /// State of a device; holds its place and the next offset.
    States(u32, u32),
    Digests(u32),
    End,
    Fence,
    Go,
    Over,
}

impl At {
    const fn name(self) -> &'static str {
        match self {
            Self::Start => "before hello",
            Self::Rounds(_) => "between rounds",
            Self::InRound(..) => "inside a round",
            Self::States(..) => "among device states",
            Self::Digests(_) => "among digests",
            Self::End => "before the end",
            Self::Fence => "before fenced",
            Self::Go => "before go",
            Self::Over => "after the last message",
        }
    }
}

/// Checks what the destination reads.
#[derive(Debug)]
pub struct FromSource {
    at: At,
    session: u64,
    pages: u32,
    devices: u32,
    /// Bit per page: it came in round 0.
    seen: Vec<u64>,
    sent: u64,
    rounds: u32,
    fold: crate::digest::Fold,
    host_state: bool,
}

/// Most pages the destination is ready to count before it accepted a hello: 1 TiB of memory.
const MAX_PAGES: u64 = 1 << 28;

const fn value<T>(section: u16, what: &'static str) -> Result<T, Error> {
    Err(Error::Value { section, what })
}

impl Default for FromSource {
    fn default() -> Self {
        Self::new()
    }
}

impl FromSource {
    /// Before the first message.
    pub fn new() -> Self {
        Self {
            at: At::Start,
            session: 0,
            pages: 0,
            devices: 0,
            seen: Vec::new(),
            sent: 0,
            rounds: 0,
            fold: crate::digest::Fold::new(),
            host_state: false,
        }
    }

    /// Whether GO was read: the one moment after which the destination may run.
    pub const fn may_run(&self) -> bool {
        matches!(self.at, At::Over)
    }

    fn order(&self, section: u16) -> Error {
        Error::Order { section, at: self.at.name() }
    }

    fn session(&self, section: u16, session: u64) -> Result<(), Error> {
        if session == self.session { Ok(()) } else { value(section, "another session") }
    }

    /// Takes the next message into account.
    ///
    /// # Errors
    /// [`Error::Order`], or [`Error::Value`] if it contradicts an earlier one. The stream is then of no more use.
    pub fn take(&mut self, message: &Message<'_>) -> Result<(), Error> {
        self.at = match (self.at, message) {
            (at, Message::Skipped(_)) => at,
            (at, Message::Refuse(_)) if at != At::Over => At::End,
            (At::Start, Message::Hello(hello)) => {
                let pages = hello.region_bytes / crate::PAGE as u64;
                if pages > MAX_PAGES {
                    return value(section::HELLO, "region too large");
                }
                (self.session, self.pages, self.devices) = (hello.session, pages as u32, hello.devices.len() as u32);
                self.seen = vec![0; pages.div_ceil(64) as usize];
                At::Rounds(0)
            }
            (At::Rounds(next), Message::Round(round)) => {
                if round.number != next {
                    return value(section::ROUND, "rounds do not count");
                }
                if next == 0 && round.pages != self.pages {
                    return value(section::ROUND, "round 0 leaves pages out");
                }
                if round.pages > self.pages {
                    return value(section::ROUND, "more pages than there are");
                }
                At::InRound(*round, round.pages)
            }
            (At::InRound(round, left), Message::Pages(pages)) => {
                if pages.len() > left as usize {
                    return value(section::PAGES, "more pages than announced");
                }
                for (number, _) in pages.iter() {
                    self.page(&round, number)?;
                }
                At::InRound(round, left - pages.len() as u32)
            }
            (At::InRound(round, left), Message::RoundEnd(number, pages)) => {
                if left != 0 || *number != round.number || *pages != round.pages {
                    return value(section::ROUND_END, "not the round that was announced");
                }
                self.rounds += 1;
                self.sent += u64::from(round.pages);
                match round.kind {
                    RoundKind::PreCopy => At::Rounds(round.number.saturating_add(1)),
                    RoundKind::Stopped => At::States(0, 0),
                }
            }
            (At::States(device, offset), Message::DeviceState(state)) if device < self.devices => {
                Self::state(device, offset, state)?
            }
            (At::States(device, 0), Message::HostState(_)) if device == self.devices && !self.host_state => {
                self.host_state = true;
                At::Digests(0)
            }
            (At::Digests(next), Message::Digests(digests)) => {
                let end = u64::from(next) + digests.len() as u64;
                if digests.first != next || end > self.pages.into() {
                    return value(section::DIGESTS, "digests do not follow each other");
                }
                digests.iter().for_each(|digest| self.fold.add(digest));
                if end == u64::from(self.pages) { At::End } else { At::Digests(end as u32) }
            }
            (At::End, Message::End(End { rounds, pages, fold })) if self.host_state => {
                if (*rounds, *pages, *fold) != (self.rounds, self.sent, self.fold.value()) {
                    return value(section::END, "not what was sent");
                }
                At::Fence
            }
            (At::Fence, Message::Fenced(session)) => {
                self.session(section::FENCED, *session)?;
                At::Go
            }
            (At::Go, Message::Go(session)) => {
                self.session(section::GO, *session)?;
                At::Over
            }
            (_, other) => return Err(self.order(number(other))),
        };
        if matches!(message, Message::Refuse(_)) {
            // nothing but another opening may follow; `host_state` off keeps `End` shut
            self.host_state = false;
        }
        Ok(())
    }

    fn page(&mut self, round: &Round, number: u32) -> Result<(), Error> {
        if number >= self.pages {
            return value(section::PAGES, "page number past the region");
        }
        if round.number == 0 {
            let (word, mask) = ((number / 64) as usize, 1u64 << (number % 64));
            if self.seen[word] & mask != 0 {
                return value(section::PAGES, "a page twice in round 0");
            }
            self.seen[word] |= mask;
        }
        Ok(())
    }

    fn state(device: u32, offset: u32, state: &DeviceState<'_>) -> Result<At, Error> {
        if state.device != device || state.offset != offset {
            return value(section::DEVICE_STATE, "pieces do not follow each other");
        }
        // parse() made sure that the sum is at most `total`
        let end = offset + state.bytes.len() as u32;
        if end == state.total {
            Ok(At::States(device + 1, 0))
        } else if state.bytes.is_empty() {
            value(section::DEVICE_STATE, "an empty piece")
        } else {
            Ok(At::States(device, end))
        }
    }
}

/// Checks what the source reads: accept, ready, running, or a refusal.
#[derive(Debug)]
pub struct FromDestination {
    session: u64,
    next: u16,
}

impl FromDestination {
    /// Before the first answer; `session` as sent in the hello.
    pub const fn new(session: u64) -> Self {
        Self { session, next: section::ACCEPT }
    }

    /// Takes the next message into account.
    ///
    /// # Errors
    /// [`Error::Order`], or [`Error::Value`] for another session.
    pub fn take(&mut self, message: &Message<'_>) -> Result<(), Error> {
        let (session, next) = match (self.next, message) {
            (_, Message::Skipped(_)) => return Ok(()),
            (1.., Message::Refuse(_)) => (self.session, 0),
            (section::ACCEPT, Message::Accept(session)) => (*session, section::READY),
            (section::READY, Message::Ready(session, _)) => (*session, section::RUNNING),
            (section::RUNNING, Message::Running(session)) => (*session, 0),
            (at, other) => {
                let at = match at {
                    section::ACCEPT => "before accept",
                    section::READY => "before ready",
                    section::RUNNING => "before running",
                    _ => "after the last message",
                };
                return Err(Error::Order { section: number(other), at });
            }
        };
        if session != self.session {
            return value(number(message), "another session");
        }
        self.next = next;
        Ok(())
    }
}

/// Section number of a message.
pub const fn number(message: &Message<'_>) -> u16 {
    match message {
        Message::Hello(_) => section::HELLO,
        Message::Accept(_) => section::ACCEPT,
        Message::Refuse(_) => section::REFUSE,
        Message::Round(_) => section::ROUND,
        Message::Pages(_) => section::PAGES,
        Message::RoundEnd(..) => section::ROUND_END,
        Message::DeviceState(_) => section::DEVICE_STATE,
        Message::HostState(_) => section::HOST_STATE,
        Message::Digests(_) => section::DIGESTS,
        Message::End(_) => section::END,
        Message::Ready(..) => section::READY,
        Message::Fenced(_) => section::FENCED,
        Message::Go(_) => section::GO,
        Message::Running(_) => section::RUNNING,
        Message::Skipped(section) => *section,
    }
}
