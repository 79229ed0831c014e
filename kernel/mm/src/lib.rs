//! Address spaces and physical frames.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod machine;

pub use machine::{Frames, NewTables, NoMemory, PAGE, PageTables, Pte};
