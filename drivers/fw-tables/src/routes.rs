//! Which id a requester has at its IOMMU and at its interrupt controller.

use iommu_types::{Phys, UnitId};

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Source {
    /// The PCI functions of a segment; ids are requester ids.
    Pci {
        /// The segment.
        segment: u16,
    },
    /// A named device, by its place in [`Topology::devices`](crate::Topology::devices); ids count from 0.
    Device(u32),
    /// An IOMMU, for its own messages.
    Unit(UnitId),
    /// A group of performance counters, by its place in [`Topology::counters`](crate::Topology::counters), for its own messages.
    Counters(u32),
}

/// What comes out for an id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// The first id gives this, the next one more, and so on.
    From(u32),
    /// Every id gives this.
    Always(u32),
}

/// A run of ids of one source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ids {
    /// Who sends.
    pub source: Source,
    /// What of an id counts: an id belongs here if `first <= id & mask <= last`.
    pub mask: u32,
    /// First id.
    pub first: u32,
    /// Last id, included; not below `first`.
    pub last: u32,
}

impl Ids {
    /// Does the id belong to the run?
    pub fn holds(&self, source: Source, id: u32) -> bool {
        self.source == source && (self.first..=self.last).contains(&(id & self.mask))
    }

    /// Do both hold some id of one source? Masks are taken as all ones.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.source == other.source && self.first <= other.last && other.first <= self.last
    }
}

impl Output {
    /// What comes out for `id`, which belongs to `ids`.
    pub fn of(self, ids: &Ids, id: u32) -> u32 {
        match self {
            Self::From(base) => base.wrapping_add((id & ids.mask).wrapping_sub(ids.first)),
            Self::Always(id) => id,
        }
    }

    /// First and last id that comes out of a run.
    pub fn span(self, ids: &Ids) -> (u32, u32) {
        match self {
            Self::From(base) => (base, base.saturating_add(ids.last - ids.first)),
            Self::Always(id) => (id, id),
        }
    }
}

/// Bits that AMD firmware wants in the device table entries of a run (IVHD entry).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DteSettings {
    /// Bit 0 INITPass, 1 EIntPass, 2 NMIPass, 5:4 SysMgt, 6 Lint0Pass, 7 Lint1Pass.
    pub data: u8,
    /// Extended settings: bit 31 ATS must stay off.
    pub extended: u32,
}

impl DteSettings {
    /// Must address translation services stay off?
    pub fn ats_disabled(&self) -> bool {
        self.extended >> 31 != 0
    }
}

/// A run of ids that one unit translates for. Runs of one [`Topology`](crate::Topology) do not overlap; if firmware's did, the one that
/// counts was cut out of the other, and a finding says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamRoute {
    /// Whose ids.
    pub ids: Ids,
    /// The unit that translates for them.
    pub unit: UnitId,
    /// Their stream ids there (on AMD-Vi device ids).
    pub output: Output,
    /// What AMD firmware wants in the device table; nothing elsewhere.
    pub settings: DteSettings,
    /// Byte offset in its table.
    pub offset: u32,
}

/// A run of ids whose message interrupts one controller takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsiRoute {
    /// Whose ids.
    pub ids: Ids,
    /// Place in [`Topology::msi_controllers`](crate::Topology::msi_controllers).
    pub controller: u32,
    /// Their device ids there.
    pub output: Output,
    /// Byte offset in its table.
    pub offset: u32,
}

/// Takes message interrupts: a group of GIC ITSs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MsiController {
    /// Ids of its ITSs (as in MADT); empty from a device tree.
    pub its: alloc::vec::Vec<u32>,
    /// Path in the device tree; empty from ACPI.
    pub name: alloc::string::String,
    /// Registers; ACPI tells them in MADT.
    pub base: Option<Phys>,
    /// Byte offset in its table.
    pub offset: u32,
}
