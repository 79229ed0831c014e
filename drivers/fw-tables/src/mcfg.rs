//! MCFG, PCI Firmware 3.3 section 4.1.2: where configuration space is in memory.

use crate::spec::acpi::{McfgEntry, McfgHead};
use crate::table::{Piece, Table};
use crate::topology::Finding;
use alloc::vec::Vec;
use iommu_types::{Error, Phys};

const HEADER: usize = 36;
const FIXED: usize = 44;

/// Configuration space of a run of buses, 1 MiB per bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EcamWindow {
    /// Where bus 0 of the segment is, or would be: bus n is at `base + (n << 20)`.
    pub base: Phys,
    /// PCI segment.
    pub segment: u16,
    /// First bus.
    pub first_bus: u8,
    /// Last bus, included.
    pub last_bus: u8,
}

impl EcamWindow {
    /// First and last byte of the window.
    pub fn span(&self) -> (Phys, Phys) {
        let first = self.base.0 + (u64::from(self.first_bus) << 20);
        (Phys(first), Phys(self.base.0 + (u64::from(self.last_bus) << 20) + 0xf_ffff))
    }
}

/// The windows, and what was wrong.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mcfg {
    /// Windows that can be used.
    pub windows: Vec<EcamWindow>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Reads an MCFG table. `bytes` begin at the table's signature and may go on behind its end.
///
/// # Errors
/// [`Error::Firmware`] if this is no MCFG or it runs past `bytes`.
pub fn parse_mcfg(bytes: &[u8]) -> Result<Mcfg, Error> {
    let table = Table::new(bytes, *b"MCFG", FIXED)?;
    let mut rest = Piece { offset: HEADER, bytes: table.bytes.get(HEADER..).unwrap_or(&[]) };
    let _: Option<&McfgHead> = rest.take();
    let mut mcfg = Mcfg::default();
    if !table.checksum_right {
        mcfg.findings.push(Finding(table.at(9, "checksum is wrong")));
    }
    loop {
        let at = rest.offset;
        let Some(entry) = rest.take::<McfgEntry>() else {
            if !rest.bytes.is_empty() {
                mcfg.findings.push(Finding(table.at(at, "cut in an entry, left out")));
            }
            break;
        };
        let window = EcamWindow {
            base: Phys(entry.base.get()),
            segment: entry.segment.get(),
            first_bus: entry.first_bus,
            last_bus: entry.last_bus,
        };
        let overlaps = mcfg.windows.iter().any(|other| {
            other.segment == window.segment && other.first_bus <= window.last_bus && window.first_bus <= other.last_bus
        });
        let reason = if window.last_bus < window.first_bus {
            "window ends before it begins, left out"
        } else if window.base.0 == 0 || window.base.0 & 0xf_ffff != 0 || window.base.0 > u64::MAX - 0xfff_ffff {
            "window without a usable address, left out"
        } else if overlaps {
            "window for buses that have one already, left out"
        } else {
            mcfg.windows.push(window);
            continue;
        };
        mcfg.findings.push(Finding(table.at(at, reason)));
    }
    Ok(mcfg)
}
