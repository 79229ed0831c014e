//! The drivers over the models: the same scenarios for every vendor, table format and cache policy.
//!
//! A [`World`] is one modelled machine with a driver on it and an oracle beside it. Every operation is checked against
//! the oracle when it returns: a device reaches what is mapped and nothing else, a completed unmap leaves nothing
//! behind, a write is in the next dirty report, no frame is reused early, nothing leaks, and the model has seen no rule
//! of the specification broken. Operations answer `Err` with the story instead of panicking, so that a red twin (a
//! [`Setup`] with a fault planted in the machine) can ask for the failure.
#![forbid(unsafe_code)]

mod machine;
mod oracle;
mod random;
mod setup;
mod world;

pub use machine::{Machine, Memory, Registers, VirtualClock};
pub use oracle::{Extent, Space};
pub use random::{Plan, run_random};
pub use setup::{Setup, dirty_setups, setups, single_setups};
pub use world::{Broken, DomainId, Who, World, dev};
