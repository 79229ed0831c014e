//! I/O address spaces: what is mapped where, pinning, filling domains.
//!
//! An [`Ioas`] is a set of disjoint areas, each a [`Slice`] of a [`Pages`]. Every attached domain holds all of them;
//! without a domain nothing is pinned. Changes happen in three steps: under the lock the area is entered and marked busy;
//! outside of it memory is pinned and tables and caches of hardware are changed; under the lock the mark is taken off (or
//! the area removed). Frames are given back only after the flush; if the flush fails, never ([`quarantined_bytes`]).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod areas;
mod domains;
mod gate;
mod map;
mod pages;
mod source;
mod space;

pub use domains::DomainKey;
pub use gate::Shared;
pub use map::{Ioas, Look, Place};
pub use pages::{Pages, Slice, quarantined_bytes};
pub use source::{Account, PageSource};
