//! DMAR (VT-d 5.0 section 8) to [`Topology`].

use crate::check;
use crate::spec::dmar::{Andd, DeviceScope, Drhd, Flagged, Head, Kind, Rhsa, Rmrr, Structure, Target};
use crate::table::{Piece, Table};
use crate::topology::{
    AcpiDevice, AtsPorts, Coverage, DeviceProperties, Finding, Flags, Hop, Note, Proximity, Reserved, ReservedKind,
    Scope, ScopeKind, Topology, Unit, UnitKind, Why,
};
use crate::units::Detail;
use alloc::string::String;
use alloc::vec::Vec;
use iommu_types::{Access, Error, Phys, PhysRange, UnitId};

const HEADER: usize = 36;
const FIXED: usize = 48;
const SCOPE: usize = 6;

/// Reads a DMAR table. `bytes` begin at the table's signature and may go on behind its end.
///
/// Structures of unknown type are skipped with a [`Note`]; known ones that are cut or contradict themselves are left out
/// with a [`Finding`].
///
/// # Errors
/// [`Error::Firmware`] if this is no DMAR, if it runs past `bytes`, or if a structure has a length that does not let the walk go on: what
/// follows it is unknown then, and a unit could be among it.
pub fn parse_dmar(bytes: &[u8]) -> Result<Topology, Error> {
    let table = Table::new(bytes, *b"DMAR", FIXED)?;
    let mut rest = Piece { offset: HEADER, bytes: table.bytes.get(HEADER..).unwrap_or(&[]) };
    let head: &Head = rest.take().ok_or(Error::Firmware(table.at(HEADER, "cut in the fixed part")))?;
    let mut topology = Topology::new(table.signature, table.revision, table.oem);
    topology.host_address_bits = head.width.saturating_add(1).min(64);
    topology.flags = Flags {
        interrupt_remapping: head.flags & 1 != 0,
        x2apic_opt_out: head.flags & 2 != 0,
        dma_opt_in: head.flags & 4 != 0,
    };
    let mut parser = Parser { topology, table: &table };
    if !table.checksum_right {
        parser.wrong(9, "checksum is wrong");
    }
    if head.width > 63 {
        parser.wrong(HEADER, "host address width above 64 bits, taken as 64");
    }
    while !rest.bytes.is_empty() {
        let at = rest.offset;
        if rest.bytes.iter().all(|byte| *byte == 0) {
            parser.wrong(at, "zero bytes behind the last structure");
            break;
        }
        let fail = |reason| Error::Firmware(table.at(at, reason));
        let mut peek = rest;
        let head: &Structure = peek.take().ok_or(fail("cut in a structure header"))?;
        let length = usize::from(head.length.get());
        if length < 4 {
            return Err(fail("structure length below its header"));
        }
        let mut body = rest.split(length).ok_or(fail("structure runs past the table"))?;
        let _: Option<&Structure> = body.take();
        parser.structure(Kind(head.kind.get()), at, body);
    }
    let mut topology = parser.topology;
    check::dmar(&mut topology);
    Ok(topology)
}

struct Parser<'a> {
    topology: Topology,
    table: &'a Table<'a>,
}

impl Parser<'_> {
    fn wrong(&mut self, offset: usize, reason: &'static str) {
        self.topology.findings.push(Finding(self.table.at(offset, reason)));
    }

    fn structure(&mut self, kind: Kind, at: usize, body: Piece<'_>) {
        let whole = match kind {
            Kind::DRHD => self.unit(at, body),
            Kind::RMRR => self.region(at, body),
            Kind::ATSR => self.ats(body),
            Kind::RHSA => self.affinity(body),
            Kind::ANDD => self.acpi_device(at, body),
            Kind::SATC => self.properties(body, false),
            Kind::SIDP => self.properties(body, true),
            _ => {
                let at = self.table.at(at, "structure of unknown type");
                self.topology.notes.push(Note { at, kind: kind.0 });
                Some(())
            }
        };
        if whole.is_none() {
            self.wrong(at, "structure shorter than its fixed part, left out");
        }
    }

    fn unit(&mut self, at: usize, mut body: Piece<'_>) -> Option<()> {
        let fixed: &Drhd = body.take()?;
        let base = fixed.base.get();
        if base == 0 || base == u64::MAX || base & 0xfff != 0 {
            self.wrong(at, "unit without a usable register address, left out");
            return Some(());
        }
        // Section 8.3, size: bits 3:0, a power of two in pages; older tables have zero, which is one page as well.
        let size = 4096u64 << (fixed.size & 15);
        if base.checked_add(size - 1).is_none() {
            self.wrong(at, "unit whose registers pass the last address, left out");
            return Some(());
        }
        let Ok(id) = u16::try_from(self.topology.units.len()) else {
            self.wrong(at, "more units than can be numbered, left out");
            return Some(());
        };
        let scopes = self.scopes(body).into_iter().map(|(scope, _)| scope).collect();
        self.topology.units.push(Unit {
            id: UnitId(id),
            kind: UnitKind::Vtd,
            base: Phys(base),
            size,
            segment: fixed.segment.get(),
            coverage: Coverage { rest_of_segment: fixed.flags & 1 != 0, scopes },
            detail: Detail::Vtd,
            offset: at as u32,
        });
        Some(())
    }

    fn region(&mut self, at: usize, mut body: Piece<'_>) -> Option<()> {
        let fixed: &Rmrr = body.take()?;
        let (base, limit) = (fixed.base.get(), fixed.limit.get());
        if limit < base {
            let empty = limit.wrapping_add(1) == base;
            self.wrong(
                at,
                if empty { "region of no length, left out" } else { "region ends before it begins, left out" },
            );
            return Some(());
        }
        // Section 8.4: base 4 KiB aligned, limit + 1 too. Widening maps more for that device than firmware asked for, never less.
        if base & 0xfff != 0 || limit & 0xfff != 0xfff {
            self.wrong(at, "region is not whole pages, widened");
        }
        let range = PhysRange { first: Phys(base & !0xfff), last: Phys(limit | 0xfff) };
        let scopes: Vec<Scope> = self.scopes(body).into_iter().map(|(scope, _)| scope).collect();
        if scopes.is_empty() {
            self.wrong(at, "region for no device");
        }
        let why = Why { table: self.table.signature, offset: at as u32, kind: ReservedKind::Rmrr };
        self.topology.reserved.push(Reserved {
            range,
            segment: fixed.segment.get(),
            scopes,
            targets: Vec::new(),
            access: Access::READ | Access::WRITE,
            direct: true,
            why,
        });
        Some(())
    }

    fn ats(&mut self, mut body: Piece<'_>) -> Option<()> {
        let fixed: &Flagged = body.take()?;
        let scopes = self.scopes(body).into_iter().map(|(scope, _)| scope).collect();
        self.topology.ats.push(AtsPorts { segment: fixed.segment.get(), all: fixed.flags & 1 != 0, scopes });
        Some(())
    }

    fn affinity(&mut self, mut body: Piece<'_>) -> Option<()> {
        let fixed: &Rhsa = body.take()?;
        self.topology.proximity.push(Proximity { base: Phys(fixed.base.get()), domain: fixed.proximity.get() });
        Some(())
    }

    fn acpi_device(&mut self, at: usize, mut body: Piece<'_>) -> Option<()> {
        let fixed: &Andd = body.take()?;
        let end = body.bytes.iter().position(|byte| *byte == 0);
        if end.is_none() {
            self.wrong(at, "device name without its closing zero");
        }
        let raw = body.bytes.get(..end.unwrap_or(body.bytes.len())).unwrap_or(&[]);
        let name: String = raw.iter().map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '?' }).collect();
        if self.topology.acpi_name(fixed.number).is_some() {
            self.wrong(at, "device number declared twice, the first name counts");
        }
        self.topology.acpi_devices.push(AcpiDevice { number: fixed.number, name });
        Some(())
    }

    fn properties(&mut self, mut body: Piece<'_>, by_scope: bool) -> Option<()> {
        let fixed: &Flagged = body.take()?;
        for (scope, flags) in self.scopes(body) {
            self.topology.properties.push(DeviceProperties {
                segment: fixed.segment.get(),
                scope,
                // Section 8.9.1: in SIDP each scope carries its own flags.
                atc_required: if by_scope { flags & 0x10 != 0 } else { fixed.flags & 1 != 0 },
                flags: if by_scope { flags } else { 0 },
            });
        }
        Some(())
    }

    /// The device scopes in the rest of a structure, each with its flags byte. What is cut ends the list with a finding.
    fn scopes(&mut self, mut rest: Piece<'_>) -> Vec<(Scope, u8)> {
        let mut list = Vec::new();
        while !rest.bytes.is_empty() {
            let at = rest.offset;
            let mut peek = rest;
            let Some(head) = peek.take::<DeviceScope>() else {
                self.wrong(at, "bytes behind the last scope");
                break;
            };
            let length = usize::from(head.length);
            if length < SCOPE {
                self.wrong(at, "scope length below its header, the rest of the structure is left out");
                break;
            }
            let Some(mut body) = rest.split(length) else {
                self.wrong(at, "scope runs past its structure, left out");
                break;
            };
            let _: Option<&DeviceScope> = body.take();
            let kind = match Target(head.target) {
                Target::ENDPOINT => ScopeKind::Endpoint,
                Target::SUB_HIERARCHY => ScopeKind::SubHierarchy,
                Target::IOAPIC => ScopeKind::IoApic(head.id),
                Target::HPET => ScopeKind::Hpet(head.id),
                Target::ACPI_DEVICE => ScopeKind::AcpiDevice(head.id),
                Target(other) => {
                    let at = self.table.at(at, "scope of unknown type");
                    self.topology.notes.push(Note { at, kind: other.into() });
                    continue;
                }
            };
            let (pairs, odd) = body.bytes.as_chunks::<2>();
            if pairs.is_empty() || !odd.is_empty() {
                self.wrong(at, "scope path is empty or odd, left out");
                continue;
            }
            if pairs.iter().any(|[device, function]| *device > 31 || *function > 7) {
                self.wrong(at, "scope path has a device above 31 or a function above 7, left out");
                continue;
            }
            let path = pairs.iter().map(|&[device, function]| Hop { device, function }).collect();
            list.push((Scope { kind, start_bus: head.start_bus, path, offset: at as u32 }, head.flags));
        }
        list
    }
}
