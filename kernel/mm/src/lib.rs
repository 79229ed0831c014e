//! Address spaces and physical frames.
//!
//! # How the pieces hold together
//!
//! * A *mapping* ([`vma`]) says what a range of addresses means. A *page entry* ([`pages`]) says which frame a page has
//!   got, whether it is shared with another space until written (COW) and whether it was written since the last
//!   clear_refs (SOFT, soft-dirty).
//! * The CPU's tables are a cache of the two: an entry there is either absent or exactly
//!   `{frame, write = mapping writable && SOFT && !COW, exec = mapping executable}`. So a first write after clear_refs, or
//!   after fork, always faults, and losing a table entry costs a fault and nothing else.
//! * Each present page entry owns one count of its frame. Pins own further counts.
//! * Frames are released only after the tables that pointed at them were flushed.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod copy;
mod exec;
mod fault;
mod fork;
mod machine;
mod map;
mod pages;
mod pin;
mod remap;
mod report;
mod shmem;
mod space;
pub mod testing;
mod vma;

pub use exec::{Program, Start, load};
pub use fault::Fault;
pub use machine::{Frames, NewTables, NoMemory, PAGE, PageTables, Pte, exhausted};
pub(crate) use machine::{file_frame, page_frame};
pub use map::{Backing, MapRequest};
pub use report::Counters;
pub use shmem::{Memfd, Shmem, ShmemStores};
pub use space::{AddressSpace, FutexKey, MMAP_MIN, USER_END};
pub use vma::Prot;

pub(crate) use uapi::Errno;
