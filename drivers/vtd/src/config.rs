//! What the caller tells a unit before it is touched, and what the unit tells back.

use alloc::string::String;
use alloc::vec::Vec;
use iommu_api::ReservedRegion;
use iommu_types::{Phys, StreamId, TableKind, UnitId};

/// Plain data about one unit: what the DMAR table says, and choices of the caller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnitConfig {
    /// Number of the unit in the order firmware lists them.
    pub id: UnitId,
    /// Short name for logs, as "vtd0".
    pub name: String,
    /// PCI segment the unit serves.
    pub segment: u16,
    /// Bytes in the register window (a multiple of 4 KiB). Offsets that the capability registers announce must lie inside.
    pub window: usize,
    /// OEM id of the DMAR table's header: quirks are matched on it.
    pub oem_id: [u8; 6],
    /// Bits of a physical address (the DMAR header's host address width + 1), 32..=52.
    pub phys_bits: u8,
    /// Memory that firmware reserves for streams behind this unit (RMRR): mapped for those streams only, before
    /// translation goes on.
    pub reserved: Vec<ReservedRegion>,
    /// Streams known behind the unit; their context tables are there from the start. Others may be attached as well.
    pub streams: Vec<StreamId>,
    /// Which table to use; `None` lets the capabilities decide (a table that can track writes first).
    pub table: Option<TableKind>,
    /// Names of quirks that must not be applied (see [`crate::QUIRKS`]).
    pub quirks_off: Vec<&'static str>,
    /// Message for fault events; `None` leaves the interrupt masked, and somebody polls `drain_faults`.
    pub fault_msi: Option<Msi>,
    /// How long the unit may take.
    pub budgets: Budgets,
}

impl UnitConfig {
    /// A unit with the usual choices: segment 0, 4 KiB window, 48 physical bits, nothing reserved, one second of patience.
    pub fn new(id: UnitId, name: &str) -> Self {
        Self {
            id,
            name: String::from(name),
            segment: 0,
            window: 0x1000,
            oem_id: *b"      ",
            phys_bits: 48,
            reserved: Vec::new(),
            streams: Vec::new(),
            table: None,
            quirks_off: Vec::new(),
            fault_msi: None,
            budgets: Budgets::default(),
        }
    }
}

/// A message-signalled interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msi {
    /// Where it is written.
    pub address: Phys,
    /// What is written.
    pub data: u32,
}

/// Deadlines in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budgets {
    /// A global command (GCMD, PMEN) until its status bit follows.
    pub command_ns: u64,
    /// A batch of invalidations until its wait descriptor wrote its status.
    pub invalidate_ns: u64,
}

impl Default for Budgets {
    fn default() -> Self {
        Self { command_ns: 1_000_000_000, invalidate_ns: 1_000_000_000 }
    }
}

/// What bring-up found and did, for the log and for `lsiommu`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BringUpReport {
    /// Scalable mode (else legacy mode).
    pub scalable: bool,
    /// Translation was on at entry.
    pub was_translating: bool,
    /// Protected memory regions were on at entry.
    pub was_protecting: bool,
    /// Names of the quirks applied.
    pub quirks: Vec<&'static str>,
    /// Streams that reach reserved memory, and why.
    pub reserved: Vec<ReservedRegion>,
    /// Fault records that were pending at entry and were cleared.
    pub stale_faults: u32,
    /// Anything else a person should read, one line each.
    pub notes: Vec<String>,
}
