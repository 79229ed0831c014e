//! Who runs next: round robin over those that can, and a list of those that wait.

use crate::{Kernel, Thread};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use vfs::Ticket;

/// What a thread waits for: any of the tickets, or the deadline.
#[derive(Default, Debug)]
pub struct WaitOn {
    /// Fire when trying again may help.
    pub tickets: Vec<Ticket>,
    /// Monotonic nanoseconds.
    pub deadline: Option<u64>,
}

impl WaitOn {
    /// Until a ticket fires.
    pub fn ticket(ticket: Ticket) -> Self {
        Self { tickets: Vec::from([ticket]), deadline: None }
    }
    fn over(&self, now: u64) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now) || self.tickets.iter().any(Ticket::fired)
    }
}

#[derive(Default)]
pub(crate) struct Sched {
    ready: VecDeque<Arc<Thread>>,
    waiting: Vec<(Arc<Thread>, WaitOn)>,
    /// Signals of all events when the waiting list was last looked through.
    seen: u64,
    /// No waiting thread has an earlier deadline.
    earliest: Option<u64>,
}

impl Sched {
    fn wake(&mut self, now: u64) {
        let fired = vfs::fired();
        if fired == self.seen && self.earliest.is_none_or(|earliest| earliest > now) {
            return;
        }
        self.seen = fired;
        self.earliest = None;
        let mut at = 0;
        while at < self.waiting.len() {
            if self.waiting[at].1.over(now) {
                // In the order they began to wait: futexes and locks stay fair.
                let (thread, _) = self.waiting.remove(at);
                self.ready.push_back(thread);
            } else {
                let deadline = self.waiting[at].1.deadline;
                self.earliest = [self.earliest, deadline].into_iter().flatten().min();
                at += 1;
            }
        }
    }
}

impl Kernel {
    /// The next thread to run on this CPU; it is no longer queued. Threads that have to end are ended on the way.
    pub fn next(&self) -> Option<Arc<Thread>> {
        loop {
            let thread = {
                let now = self.machine.monotonic();
                let mut sched = self.sched.lock();
                sched.wake(now);
                sched.ready.pop_front()?
            };
            if !thread.must_end() {
                return Some(thread);
            }
            self.end_thread(&thread);
        }
    }
    /// Queues a thread that can run.
    pub fn ready(&self, thread: Arc<Thread>) {
        self.sched.lock().ready.push_back(thread);
    }
    /// Parks a thread. The tickets were taken before the state was looked at, so nothing is missed.
    pub fn park(&self, thread: Arc<Thread>, wait: WaitOn) {
        let mut sched = self.sched.lock();
        if wait.over(self.machine.monotonic()) {
            return sched.ready.push_back(thread);
        }
        sched.earliest = [sched.earliest, wait.deadline].into_iter().flatten().min();
        sched.waiting.push((thread, wait));
    }
    /// When the first waiting thread wants to run at the latest, in monotonic nanoseconds: how long a CPU may sleep.
    pub fn deadline(&self) -> Option<u64> {
        self.sched.lock().earliest
    }
    /// Is a thread ready, or would one be if looked at now?
    pub fn busy(&self) -> bool {
        let mut sched = self.sched.lock();
        sched.wake(self.machine.monotonic());
        !sched.ready.is_empty()
    }
}
