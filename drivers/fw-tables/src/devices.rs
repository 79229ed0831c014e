//! What stands in front of IOMMUs, as firmware tells it: named devices, PCI hosts, counters.

use crate::units::Interrupt;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use iommu_types::{Phys, PhysRange, UnitId};

/// A device that is no PCI function, or that firmware names besides. Its streams are the routes whose source is its place in the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedDevice {
    /// Path in the ACPI name space or in the device tree, or the ACPI hardware id; bytes that are not ASCII became `?`.
    pub name: String,
    /// How to find it in ACPI, if by its ids.
    pub acpi: Option<AcpiIds>,
    /// Its requests are coherent with CPU caches.
    pub coherent: bool,
    /// Width of the addresses it can use, in bits; 0 if firmware does not say.
    pub address_bits: u8,
    /// Width of its PASIDs (substream ids), in bits; 0 for none.
    pub pasid_bits: u8,
    /// Its requests may wait for a page (stall model).
    pub stall: bool,
    /// Byte offset in its table.
    pub offset: u32,
}

/// Ids of a device in the ACPI name space (IVHD entry 0xF0).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcpiIds {
    /// `_HID`, as `AMDI0020`.
    pub hardware: String,
    /// `_CID`; empty if there is none.
    pub compatible: String,
    /// `_UID`.
    pub unique: UniqueId,
}

/// `_UID` of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UniqueId {
    /// There is none.
    None,
    /// A number.
    Integer(u64),
    /// A string, often a path.
    Text(String),
}

impl fmt::Display for AcpiIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.hardware)?;
        match &self.unique {
            UniqueId::None => Ok(()),
            UniqueId::Integer(number) => write!(f, ":{number}"),
            UniqueId::Text(text) => write!(f, ":{text}"),
        }
    }
}

/// A PCI host bridge (IORT root complex or device tree node).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// Its segment.
    pub segment: u16,
    /// Path in the device tree; empty from ACPI.
    pub name: String,
    /// Configuration space, if the table tells.
    pub ecam: Option<PhysRange>,
    /// First and last bus, if the table tells.
    pub buses: Option<(u8, u8)>,
    /// Requests are coherent with CPU caches.
    pub coherent: bool,
    /// Address translation services work through it.
    pub ats: bool,
    /// So does the page request interface.
    pub pri: bool,
    /// PASIDs go with translated requests.
    pub pasid_forward: bool,
    /// Width of PASIDs, in bits; 0 for none.
    pub pasid_bits: u8,
    /// Width of the addresses behind it, in bits; 0 if the table does not say.
    pub address_bits: u8,
    /// Byte offset in its table.
    pub offset: u32,
}

/// What a group of performance counters counts for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CountsFor {
    /// An IOMMU.
    Unit(UnitId),
    /// A named device, by its place in the list.
    Device(u32),
    /// The PCI host at this place in the list.
    Host(u32),
    /// The table points nowhere, or at something that cannot be counted for.
    Unknown,
}

/// Performance monitoring counter group (PMCG).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counters {
    /// First register page.
    pub base: Phys,
    /// Second register page, if there is one.
    pub page1: Option<Phys>,
    /// Overflow interrupt; `None`: it sends messages.
    pub overflow: Option<Interrupt>,
    /// What it counts for.
    pub of: CountsFor,
    /// Byte offset in its table.
    pub offset: u32,
}

/// For whom a region is reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Target {
    /// PCI functions of a segment, by requester id.
    Requesters {
        /// The segment.
        segment: u16,
        /// First requester id.
        first: u32,
        /// Last, included.
        last: u32,
    },
    /// Streams of a unit.
    Streams {
        /// The unit.
        unit: UnitId,
        /// First stream id.
        first: u32,
        /// Last, included.
        last: u32,
    },
    /// The named device at this place in the list.
    Device(u32),
}

/// Who made a table, for quirks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Oem {
    /// OEM id; zeros from a device tree.
    pub id: [u8; 6],
    /// OEM table id.
    pub table: [u8; 8],
    /// OEM revision.
    pub revision: u32,
}

impl fmt::Display for Oem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| -> String {
            let seen = bytes.iter().map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { ' ' });
            String::from(seen.collect::<String>().trim_end())
        };
        write!(f, "{} {} {:#x}", text(&self.id), text(&self.table), self.revision)
    }
}

/// Bytes of firmware as text: ASCII, up to the first zero byte.
pub fn ascii(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let raw: Vec<u8> = bytes.iter().take(end).copied().collect();
    raw.iter().map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '?' }).collect()
}
