//! Waking waiters without losing a wake-up: counters instead of queues.
//!
//! A waiter takes a [`Ticket`] *before* it looks at the state, looks, and sleeps until a ticket has fired. Whoever
//! changes the state signals *after* the change. So a change between the look and the sleep has already fired the ticket.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

/// Signals so far, of all events: the scheduler looks at its waiters only when this moved.
static FIRED: AtomicU64 = AtomicU64::new(0);

/// Signals so far, of all events.
pub fn fired() -> u64 {
    FIRED.load(Ordering::Acquire)
}

/// Something that can happen to an object, again and again.
#[derive(Clone, Debug, Default)]
pub struct Event(Arc<AtomicU64>);

impl Event {
    /// A new event, never signalled.
    pub fn new() -> Self {
        Self::default()
    }
    /// It happened: every ticket taken before fires.
    pub fn signal(&self) {
        self.0.fetch_add(1, Ordering::Release);
        FIRED.fetch_add(1, Ordering::Release);
    }
    /// A ticket that fires at the next signal.
    pub fn ticket(&self) -> Ticket {
        Ticket { event: self.clone(), seen: self.0.load(Ordering::Acquire) }
    }
}

/// Fires at the first signal after it was taken.
#[derive(Clone, Debug)]
pub struct Ticket {
    event: Event,
    seen: u64,
}

impl Ticket {
    /// Was the event signalled since?
    pub fn fired(&self) -> bool {
        self.event.0.load(Ordering::Acquire) != self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_between_the_look_and_the_sleep_is_seen() {
        let event = Event::new();
        let ticket = event.ticket();
        assert!(!ticket.fired());
        event.clone().signal();
        assert!(ticket.fired());
        assert!(!event.ticket().fired());
    }
}
