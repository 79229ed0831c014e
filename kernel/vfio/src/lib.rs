//! /dev/vfio/devices/vfioN.
//!
//! kernel/core makes one [`Device`] per PCI function and puts it into the file tree; [`Device::open`] gives a
//! [`DeviceFile`] per open file, whose methods are the file's. Dropping it resets the device, takes bus mastering away,
//! blocks its stream and unbinds it. A migration session has its own file, [`DataFile`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod caller;
mod config;
mod data;
mod device;
mod feature;
mod file;
mod regions;
mod services;
mod states;

pub use caller::Caller;
pub use data::DataFile;
pub use device::{Device, DeviceParts};
pub use file::DeviceFile;
pub use regions::Mapping;
