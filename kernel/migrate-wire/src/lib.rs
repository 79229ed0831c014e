//! The migration stream: versioned, numbered sections, a checksum per frame.
//!
//! * [`stream`]: opening, frame header, checksums: what makes bytes into frames.
//! * [`message`]: what the numbered sections contain.
//! * [`order`]: which message may follow which, in both directions, and that no page was left out.
//! * [`digest`]: the 64-bit digest of a page and the fold over all of them.
//! * [`mod@frame`]: the file frames between the host and the moving network card; not part of the stream.
//!
//! A leaf crate: the program that migrates, the kernel and the host tool read it alike. A reader refuses what it does not
//! understand, with an [`Error`] that names the field.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod digest;
mod error;
pub mod frame;
pub mod message;
pub mod order;
pub mod stream;

pub use error::Error;

/// Bytes of a page on the wire.
pub const PAGE: usize = 4096;
