//! The migration stream: versioned, numbered sections, a checksum per frame.
#![no_std]
#![forbid(unsafe_code)]
pub mod frame;
