//! The /dev/iommu object model.
//!
//! One [`Context`] per open file. The adapter between files and objects calls [`Context::ioctl`] with what the program
//! passed and a [`Caller`] for its memory. Dropping the last reference destroys everything, leaves first: the file holds
//! one, every bound device another, as on Linux.
//!
//! A call may return [`uapi::Errno::ERESTART`]: another CPU is changing the same object and waiting for hardware. Nothing
//! was changed; the dispatcher runs the call again. A program never sees it.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod attach;
mod caller;
mod context;
mod device;
mod dirty;
mod graph;
mod group;
mod hw_info;
mod hwpt;
mod ioas_ops;
mod option;

pub use attach::DeviceHandle;
pub use caller::{AccountMode, Caller, Capability};
pub use context::Context;
pub use device::{DeviceSpec, GroupSpec, Requester, Reserved};
pub use group::Group;
