//! All `unsafe` of the kernel binary: entry, heap, frames as bytes, firmware tables, device windows, user mode.

pub mod firmware;
pub mod frames;
pub mod heap;
pub mod pci;
pub mod probe;
pub mod start;
pub mod table_mem;
pub mod user;
pub mod virtio;
pub mod windows;
