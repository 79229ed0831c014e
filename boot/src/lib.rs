//! From a boot protocol to one neutral [`BootInfo`].
//!
//! The entry code (32-bit, [`pvh`]) builds throw-away page tables, enters long mode and calls `kernel_entry`, which the
//! kernel binary defines. Layout of the boot address space:
//!
//! | virtual | physical |
//! |---|---|
//! | 0 .. 4 GiB | the same (entry code only) |
//! | [`DIRECT_MAP`] .. +4 GiB | 0 .. 4 GiB |
//! | [`KERNEL_BASE`] .. +1 GiB | 0 .. 1 GiB |
#![no_std]

#[cfg(test)]
extern crate std;

#[cfg(target_os = "none")]
mod entry;
pub mod info;
pub mod pvh;

pub use info::{BootInfo, Handover, MemoryKind, MemoryMap, MemoryRegion, decode};

/// Where physical address 0 appears in the kernel's address space.
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Virtual minus physical address of the kernel image.
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// Bytes that the boot page tables map at [`DIRECT_MAP`].
pub const BOOT_MAPPED: u64 = 4 << 30;
