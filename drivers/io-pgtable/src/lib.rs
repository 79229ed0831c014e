//! One walk/map/unmap/dirty engine and the table formats it is instantiated with.
//!
//! | format | module | levels | leaves | dirty |
//! |---|---|---|---|---|
//! | VT-d second stage | [`VtdSs`] | 3, 4, 5 | 4K 2M 1G | bit 9 |
//! | x86 long mode (VT-d first stage) | [`X86Fs`] | 4, 5 | 4K 2M 1G | bit 6, or bits 5 and 6 |
//!
//! The engine ([`PageTable`]) keeps its position: a batch walks from the root once and then stays in the leaf table until
//! that table ends. It is generic over the format, so there is no indirect call per entry.
//!
//! Who may call what at once: any number of maps, unmaps and reports, as long as the ranges of maps and unmaps do not
//! overlap. A table page is cut out of the tree only by a call whose range covers it whole, so no other call is in it.
#![no_std]
#![forbid(unsafe_code)]

mod dirty;
mod engine;
mod format;
mod unmap;

pub use engine::{AdBits, MapFailed, PageTable, TableConfig};
pub use format::{PtFormat, VtdSs, VtdSsEntry, X86Fs, X86FsEntry};
