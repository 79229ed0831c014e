//! What a device with migratable state implements, and how the object model reaches a PCI function.
//!
//! * [`Function`]: one PCI function as `vfio` sees it: configuration space, BARs, reset, bus mastering.
//! * [`Migratable`]: the migration driver of one kind of device (`edu`, `igb`): quiesce, save, load, resume.
//! * [`Services`]: what the kernel lends such a driver for the time of a call: a clock and a private DMA page.
//! * [`state`]: the byte stream a driver saves: versioned, numbered sections, checksummed.
//!
//! # How the VFIO migration states call a driver
//!
//! | arc | calls |
//! |---|---|
//! | RUNNING -> STOP | [`Migratable::stop`] |
//! | STOP -> STOP_COPY | [`Migratable::save`] into the data fd |
//! | STOP_COPY -> STOP | nothing |
//! | STOP -> RESUMING | [`Migratable::begin_load`] (resets the device, starts what takes long: the link) |
//! | RESUMING -> STOP | [`Migratable::load`] with all bytes the data fd got; its failure is the failure of the arc |
//! | STOP -> RUNNING | [`Migratable::resume`] |
//! | any -> RUNNING by VFIO_DEVICE_RESET | [`Migratable::reset`] |
//!
//! Every call may spin on hardware, but never longer than the bound its documentation names.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod error;
mod function;
mod migrate;
pub mod state;

pub use error::Error;
pub use function::{Bar, BarKind, Function, Ids, MsixTable, Span, Width};
pub use migrate::{Clock, Cx, Migratable, PAGE, PageBytes, Services, States, Unreadable, until};
