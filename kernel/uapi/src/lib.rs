//! Linux struct layouts, numbers and errno.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod errno;
mod user;

pub use errno::Errno;
pub use user::UserMem;
