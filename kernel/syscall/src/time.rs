//! Clocks and sleeping.

use crate::cx::Cx;
use crate::{Answer, Errno, Outcome};
use task::{Restart, WaitOn};
use uapi::linux::nr::Call;
use uapi::linux::time::*;

const DONE: Answer = Ok(Outcome::Done(0));

impl Cx {
    fn clock(&self, clock: u64) -> Result<u64, Errno> {
        let machine = &self.kernel().machine;
        Ok(match clock {
            CLOCK_REALTIME | CLOCK_REALTIME_COARSE | 11 => machine.realtime(),
            CLOCK_MONOTONIC | CLOCK_MONOTONIC_RAW | CLOCK_MONOTONIC_COARSE | CLOCK_BOOTTIME => machine.monotonic(),
            CLOCK_PROCESS_CPUTIME_ID | CLOCK_THREAD_CPUTIME_ID => self.process().times().0,
            _ => return Err(Errno::EINVAL),
        })
    }
    pub(crate) fn clock_gettime(&self) -> Answer {
        let now = self.clock(self.args[0])?;
        self.put(self.args[1], &Timespec::from_nanos(now))?;
        DONE
    }
    pub(crate) fn clock_getres(&self) -> Answer {
        self.clock(self.args[0])?;
        self.put_if(self.args[1], &Timespec { sec: 0, nsec: 1 })?;
        DONE
    }
    pub(crate) fn gettimeofday(&self) -> Answer {
        self.put_if(self.args[0], &Timeval::from_nanos(self.kernel().machine.realtime()))?;
        self.put_if(self.args[1], &[0u32; 2])?;
        DONE
    }
    pub(crate) fn time(&self) -> Answer {
        let now = (self.kernel().machine.realtime() / 1_000_000_000) as i64;
        self.put_if(self.args[0], &now)?;
        Ok(Outcome::Done(now))
    }
    /// Sleeps until `deadline` on the monotonic clock.
    fn sleep(&self, deadline: u64) -> Answer {
        let deadline = {
            let mut state = self.thread.state.lock();
            match state.restart {
                Some(Restart::Deadline(deadline)) => deadline,
                _ => {
                    state.restart = Some(Restart::Deadline(deadline));
                    deadline
                }
            }
        };
        if deadline <= self.now() {
            return DONE;
        }
        self.wait(WaitOn { tickets: alloc::vec::Vec::new(), deadline: Some(deadline) })
    }
    pub(crate) fn nanosleep(&self) -> Answer {
        let time = self.get::<Timespec>(self.args[0])?.nanos().ok_or(Errno::EINVAL)?;
        self.sleep(self.now().saturating_add(time))
    }
    pub(crate) fn clock_nanosleep(&self) -> Answer {
        let [clock, flags, ..] = self.args;
        let now = self.clock(clock)?;
        let time = self.get::<Timespec>(self.args[2])?.nanos().ok_or(Errno::EINVAL)?;
        let length = if flags & TIMER_ABSTIME != 0 { time.saturating_sub(now) } else { time };
        self.sleep(self.now().saturating_add(length))
    }
    /// What an interrupted sleep still had to go, and where the program wants to know.
    pub(crate) fn sleep_left(&self, call: Call) -> Option<(u64, u64)> {
        let at = match call {
            Call::Nanosleep => self.args[1],
            Call::ClockNanosleep if self.args[1] & TIMER_ABSTIME == 0 => self.args[3],
            _ => return None,
        };
        match self.thread.state.lock().restart {
            Some(Restart::Deadline(deadline)) if at != 0 => Some((at, deadline.saturating_sub(self.now()))),
            _ => None,
        }
    }
    /// getitimer: no timer is armed.
    pub(crate) fn no_timer(&self) -> Answer {
        self.put_if(self.args[1], &[0u64; 4])?;
        DONE
    }
}
