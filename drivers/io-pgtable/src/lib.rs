//! One walk/map/unmap/dirty engine and the table formats it is instantiated with.
//!
//! | format | module | levels | leaves | dirty |
//! |---|---|---|---|---|
//! | VT-d second stage | [`VtdSs`] | 3, 4, 5 | 4K 2M 1G | bit 9 |
//! | x86 long mode (VT-d first stage) | [`X86Fs`] | 4, 5 | 4K 2M 1G | bit 6, or bits 5 and 6 |
//! | AMD v1 | [`AmdV1`] | 1 to 6, fixed at creation | every power of two but 512G | bit 6 of any entry of the item |
//! | AMD v2 | [`AmdV2`] | 4, 5 | 4K 2M 1G | bit 6 |
//! | Arm stage 1, 4K granule | [`ArmS1`] | 2 to 4 | 4K 64K 2M 32M 1G 16G | DBM and AP\[2\] = 0 |
//! | Arm stage 2, 4K granule | [`ArmS2`] | 2 to 4, up to 16 tables at the top | as stage 1 | DBM and S2AP\[1\] = 1 |
//!
//! The engine ([`PageTable`]) keeps its position: a batch walks from the root once and then stays in the leaf table until
//! that table ends. It is generic over the format, so there is no indirect call per entry.
//!
//! Who may call what at once: any number of maps, unmaps and reports, as long as the ranges of maps and unmaps do not
//! overlap. [`PageTable::demote`] and [`PageTable::promote`] want their range for themselves, reports included. A table page is cut out of the tree only by a call whose range covers it whole, so no other call is in it.
#![no_std]
#![forbid(unsafe_code)]

mod dirty;
mod engine;
mod format;
mod resize;
mod unmap;

pub use engine::{AdBits, MapFailed, PageTable, TableConfig};
pub use format::{
    AmdV1, AmdV1Entry, AmdV2, ArmEntry, ArmS1, ArmS2, Modifier, PtFormat, VtdSs, VtdSsEntry, X86Fs, X86FsEntry,
};
pub use resize::{ResizeFailed, Resized, Swap};
