//! Who may change an address space now.
//!
//! Maps, unmaps and dirty reads share the gate; changing the set of domains needs it alone. All of them wait for hardware,
//! so nobody waits for the gate under a lock: a call that finds it shut is run again ([`Errno::ERESTART`]). Only paths
//! that cannot fail (a file is closed) wait, each at most as long as the bounded waits of the operation inside.

use core::sync::atomic::{AtomicU32, Ordering};
use uapi::Errno;

const ALONE: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicU32);

/// Inside, with others.
#[derive(Debug)]
pub struct Shared<'a>(&'a Gate);

/// Inside, alone.
#[derive(Debug)]
pub(crate) struct Alone<'a>(&'a Gate);

impl Gate {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }
    pub(crate) fn share(&self) -> Result<Shared<'_>, Errno> {
        self.0
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |inside| (inside < ALONE - 1).then(|| inside + 1))
            .map(|_| Shared(self))
            .map_err(|_| Errno::ERESTART)
    }
    pub(crate) fn alone(&self) -> Result<Alone<'_>, Errno> {
        self.0
            .compare_exchange(0, ALONE, Ordering::Acquire, Ordering::Relaxed)
            .map(|_| Alone(self))
            .map_err(|_| Errno::ERESTART)
    }
    /// For paths that cannot fail.
    pub(crate) fn wait_alone(&self) -> Alone<'_> {
        loop {
            if let Ok(alone) = self.alone() {
                return alone;
            }
            core::hint::spin_loop();
        }
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_share_and_one_is_alone() {
        let gate = Gate::default();
        let (a, b) = (gate.share().unwrap(), gate.share().unwrap());
        assert_eq!(gate.alone().unwrap_err(), Errno::ERESTART);
        drop(a);
        assert!(gate.alone().is_err());
        drop(b);
        let alone = gate.alone().unwrap();
        assert_eq!(gate.share().unwrap_err(), Errno::ERESTART);
        drop(alone);
        assert!(gate.share().is_ok());
        drop(gate.wait_alone());
    }
}
