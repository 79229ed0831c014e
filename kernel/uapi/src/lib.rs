//! Linux struct layouts, numbers and errno.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod errno;
pub mod extension;
pub mod iommufd;
pub mod linux;
mod request;
#[cfg(test)]
mod testing;
mod user;
pub mod vfio;

pub use errno::Errno;
pub use request::{Request, read_plain, read_size};
pub use user::UserMem;
