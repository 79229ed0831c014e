//! PCI Express as far as DMA isolation needs it: which functions there are, what they can do, which share a requester id or can
//! reach each other behind the IOMMU's back, and how to make one quiet or reset it.
//!
//! Everything works over [`ConfigSpace`], a window that may lie: a function that reads as all ones, capability lists that
//! loop and bridges that point at themselves end in a finding, never in a loop or a panic.
//!
//! Order at start: [`enumerate`], then [`quiet_all`] (bus mastering off everywhere), [`enable_acs`] on the
//! ports, [`groups`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bars;
mod caps;
mod config;
mod control;
mod describe;
mod enumerate;
mod function;
mod groups;
mod reset;
mod spec;

pub use bars::{RawBar, size_bars};
pub use caps::{Acs, Capability, Express, MessageInterrupts, PortType, SrIov, capabilities, extended_capabilities};
pub use config::ConfigSpace;
pub use control::{bus_master, enable_acs, intx, memory_decoding, port_decoding, quiet_all};
pub use describe::{class_name, line};
pub use enumerate::{Buses, Finding, FunctionInfo, Tree, enumerate};
pub use function::{BarSpace, PciFunction};
pub use groups::{Alias, Group, Reason, groups};
pub use reset::{ResetKind, function_level_reset, reset_kind};
