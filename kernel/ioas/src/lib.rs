//! I/O address spaces: interval tree, pinning, filling domains.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod source;

pub use source::{Account, PageSource};
