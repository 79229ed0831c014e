//! System-call decoding and dispatch.
//!
//! [`System::handle`] takes why a program stopped and does what it asks. Calls are restartable: one that has to wait
//! parks its thread with the registers as they are, and is dispatched again from the start when something it waits for
//! happened. What it must not forget between (an absolute deadline, its place in a futex queue) is in
//! [`task::Restart`]. So nothing blocks inside the kernel, and every handler is one function from front to back.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod abi;
mod cx;
mod dev;
mod dispatch;
mod files;
mod ids;
mod io;
mod life;
mod memory;
mod names;
mod poll;
mod procfs;
mod signals;
mod sockets;
mod system;
mod time;
mod unixsock;

pub use abi::{Abi, Popped, SignalFrame, X86_64};
pub use cx::Cx;
pub use dev::{IommuFile, VfioFile, iommu_node, vfio_node};
pub use system::{Outcome, System, Trap};

pub(crate) use uapi::Errno;
/// What a handler returns.
pub(crate) type Answer = Result<Outcome, Errno>;
