//! The migration driver of a device, and what the kernel lends it.

use crate::{Error, Function};
use iommu_types::Iova;

/// Bytes of the private page of [`Services::with_private_page`].
pub const PAGE: usize = 4096;

/// Time. On the machine a counter, on the host virtual time.
pub trait Clock {
    /// Nanoseconds since some fixed point; never goes back.
    fn now_ns(&self) -> u64;
    /// A breath in a polling loop: a spin hint on the machine, a step of virtual time on the host.
    fn relax(&self);
}

/// Polls `done` until it holds, at most `budget_ns` nanoseconds by `clock`. `done` is called at least once after the
/// deadline passed, so a long preemption between two polls is not a failure.
///
/// Returns whether it held.
pub fn until<C: Clock + ?Sized>(clock: &C, budget_ns: u64, mut done: impl FnMut() -> bool) -> bool {
    let deadline = clock.now_ns().saturating_add(budget_ns);
    loop {
        let late = clock.now_ns() >= deadline;
        if done() {
            return true;
        }
        if late {
            return false;
        }
        clock.relax();
    }
}

/// Bytes of a page that a device reads or writes at the same time: each access is a copy, none holds a reference.
pub trait PageBytes {
    /// Copies out of the page.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `offset + out.len()` passes [`PAGE`].
    fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), Error>;
    /// Copies into the page; what was written before a register write is visible to the device after it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `offset + data.len()` passes [`PAGE`].
    fn write(&self, offset: usize, data: &[u8]) -> Result<(), Error>;
}

/// What the kernel lends a driver for the time of a call.
pub trait Services: Clock {
    /// Runs `f` with a zeroed page that only this device can reach: the kernel moves the device to a private domain that maps
    /// exactly that page for reading and writing at the iova given to `f` (page aligned, below 2^28: `edu` may not reach further), and puts the device back where it was
    /// before returning, whatever `f` returned. The device must be quiet at both moments.
    ///
    /// # Errors
    /// What `f` returned; [`Error::Exhausted`] or [`Error::Iommu`] if page or domain could not be had (`f` was not called).
    fn with_private_page(&self, f: &mut dyn FnMut(Iova, &dyn PageBytes) -> Result<(), Error>) -> Result<(), Error>;
}

/// A function and the kernel's services, for the time of one call.
#[derive(Clone, Copy)]
pub struct Cx<'a> {
    /// The device.
    pub function: &'a dyn Function,
    /// The kernel.
    pub services: &'a dyn Services,
}

/// Optional migration states of a driver. RUNNING, STOP, STOP_COPY and RESUMING are always there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct States {
    /// RUNNING_P2P: the device can stop to start DMA while it still answers its registers.
    pub p2p: bool,
}

/// State that the device does not let anyone read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unreadable {
    /// What it is.
    pub what: &'static str,
    /// What becomes of it at the destination.
    pub becomes: &'static str,
}

/// The migration driver of one device. See the [crate documentation](crate) for when each method is called.
///
/// A failing method leaves the device in a state from which [`reset`](Self::reset) recovers.
pub trait Migratable: Send + Sync {
    /// Short name, as `igb`.
    fn name(&self) -> &'static str;
    /// Optional states.
    fn states(&self) -> States {
        States::default()
    }
    /// Upper bound of a saved state in bytes; what exceeds it is refused while it arrives. Also the expected size of the data.
    fn max_state_bytes(&self) -> usize;
    /// Quiesces: when it returns, the device starts no DMA and has none in flight, and will not by itself.
    /// Its registers can still be read. Stopping a stopped device does nothing.
    ///
    /// # Errors
    /// [`Error::Stuck`] if the device did not come to rest within 2 s, [`Error::Lost`] if it reads as all ones.
    fn stop(&mut self, cx: &Cx<'_>) -> Result<(), Error>;
    /// Starts a stopped device where it was stopped, or where the loaded state was.
    ///
    /// # Errors
    /// [`Error::Stuck`] or [`Error::Lost`], as [`stop`](Self::stop).
    fn resume(&mut self, cx: &Cx<'_>) -> Result<(), Error>;
    /// Writes the state of the stopped device to `sink`, in the form of [`crate::state`]. The device stays stopped and unchanged,
    /// so the same state can be saved again or resumed.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the device is not stopped; what `sink` returned; [`Error::Stuck`] or [`Error::Lost`].
    fn save(&mut self, cx: &Cx<'_>, sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error>;
    /// Prepares the stopped device to take a state: resets it and starts what takes long. The device stays quiet.
    ///
    /// # Errors
    /// [`Error::Stuck`], [`Error::Lost`] or [`Error::Unsupported`] if it cannot be reset.
    fn begin_load(&mut self, cx: &Cx<'_>) -> Result<(), Error>;
    /// Takes a whole saved state. All of `data` is validated before the first register is written.
    ///
    /// # Errors
    /// [`Error::BadState`] with the section and the reason: the device was not touched.
    /// [`Error::Stuck`] or [`Error::Lost`]: only a reset helps.
    fn load(&mut self, cx: &Cx<'_>, data: &[u8]) -> Result<(), Error>;
    /// Resets the device to what a program finds when it opens it.
    ///
    /// # Errors
    /// [`Error::Stuck`], [`Error::Lost`] or [`Error::Unsupported`] if it cannot be reset.
    fn reset(&mut self, cx: &Cx<'_>) -> Result<(), Error>;
    /// What cannot be read, and what becomes of it.
    fn unreadable(&self) -> &'static [Unreadable];
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    struct Virtual(Cell<u64>);
    impl Clock for Virtual {
        fn now_ns(&self) -> u64 {
            self.0.get()
        }
        fn relax(&self) {
            self.0.set(self.0.get() + 10);
        }
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let clock = Virtual(Cell::new(0));
        assert!(!until(&clock, 1000, || false));
        assert_eq!(clock.now_ns(), 1000);
        assert!(!until(&clock, 0, || false));
    }

    #[test]
    fn a_condition_that_came_true_during_a_long_preemption_still_counts() {
        let clock = Virtual(Cell::new(0));
        let polls = Cell::new(0);
        let done = || {
            polls.set(polls.get() + 1);
            clock.0.set(clock.0.get() + 5000); // the poll itself took longer than the budget
            polls.get() == 2
        };
        assert!(until(&clock, 1000, done));
    }
}
