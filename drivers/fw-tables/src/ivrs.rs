//! IVRS (AMD I/O Virtualization Technology 3.09, section 5.2) to [`Topology`].

use crate::check;
use crate::devices::{AcpiIds, NamedDevice, Target, UniqueId, ascii};
use crate::routes::{DteSettings, Ids, Output, Source, StreamRoute};
use crate::routeset::RouteSet;
use crate::spec::ivrs::{AcpiHid, Alias, Block, Entry, EntryKind, Extended, Head, Ivhd, IvhdMore, Ivmd, Kind, Special};
use crate::table::{Piece, Table};
use crate::topology::{
    Coverage, Finding, Flags, Hop, Note, Reserved, ReservedKind, Scope, ScopeKind, Topology, Unit, UnitKind, Why,
};
use crate::units::{AmdVi, Detail};
use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec::Vec;
use iommu_types::{Access, Error, Phys, PhysRange, StreamId, UnitId};

const HEADER: usize = 36;
const FIXED: usize = 48;
/// Register window without and with performance counters, section 3.4.
const WINDOW: u64 = 0x4000;
const WINDOW_COUNTERS: u64 = 0x8_0000;

/// Reads an IVRS table. `bytes` begin at the table's signature and may go on behind its end.
///
/// Of the IVHD blocks of one IOMMU (same segment and device id) the one of the highest type counts, as section 5.2.2
/// asks. Blocks and entries of unknown type are skipped by their length with a [`Note`]; known ones that are cut or
/// contradict themselves are left out with a [`Finding`]. Within an IVHD a later entry wins over an earlier one; between two
/// IOMMUs the narrower range does, and of equal ones the first.
///
/// # Errors
/// [`Error::Firmware`] if this is no IVRS, if it runs past `bytes`, or if a block has a length that does not let the walk go on: what
/// follows it is unknown then, and a unit could be among it.
pub fn parse_ivrs(bytes: &[u8]) -> Result<Topology, Error> {
    let table = Table::new(bytes, *b"IVRS", FIXED)?;
    let mut rest = Piece { offset: HEADER, bytes: table.bytes.get(HEADER..).unwrap_or(&[]) };
    let head: &Head = rest.take().ok_or(Error::Firmware(table.at(HEADER, "cut in the fixed part")))?;
    let info = head.info.get();
    let mut topology = Topology::new(table.signature, table.revision, table.oem);
    topology.flags = Flags { dma_opt_in: info & 2 != 0, ..Flags::default() };
    let mut parser = Parser { topology, table: &table, routes: Vec::new() };
    if !table.checksum_right {
        parser.wrong(9, "checksum is wrong");
    }
    let bits = (info >> 8 & 0x7f) as u8;
    if !(32..=64).contains(&bits) {
        parser.wrong(HEADER, "physical address size that cannot be, taken as 64 bits");
    } else {
        parser.topology.host_address_bits = bits;
    }
    let mut blocks = Vec::new();
    while !rest.bytes.is_empty() {
        let at = rest.offset;
        if rest.bytes.iter().all(|byte| *byte == 0) {
            parser.wrong(at, "zero bytes behind the last block");
            break;
        }
        let fail = |reason| Error::Firmware(table.at(at, reason));
        let mut peek = rest;
        let head: &Block = peek.take().ok_or(fail("cut in a block header"))?;
        let length = usize::from(head.length.get());
        if length < size_of::<Block>() {
            return Err(fail("block length below its header"));
        }
        let mut body = rest.split(length).ok_or(fail("block runs past the table"))?;
        let _: Option<&Block> = body.take();
        blocks.push((at, head, body));
    }
    parser.hardware(&blocks);
    for &(at, head, body) in &blocks {
        parser.block(at, head, body);
    }
    let streams = parser.merge();
    let mut topology = parser.topology;
    topology.streams = streams;
    topology.flags.interrupt_remapping = topology
        .units
        .iter()
        .any(|unit| unit.coverage.scopes.iter().any(|scope| matches!(scope.kind, ScopeKind::IoApic(_))));
    check::ivrs(&mut topology);
    Ok(topology)
}

type Found<'a> = (usize, &'a Block, Piece<'a>);

struct Parser<'a> {
    topology: Topology,
    table: &'a Table<'a>,
    /// Of all units, each unit's without overlaps.
    routes: Vec<StreamRoute>,
}

/// A range entry that waits for its end.
struct Open {
    at: usize,
    first: u16,
    alias: Option<u16>,
    settings: DteSettings,
}

impl<'a> Parser<'a> {
    fn wrong(&mut self, offset: usize, reason: &'static str) {
        self.topology.findings.push(Finding(self.table.at(offset, reason)));
    }

    fn note(&mut self, offset: usize, reason: &'static str, kind: u8) {
        self.topology.notes.push(Note { at: self.table.at(offset, reason), kind: kind.into() });
    }

    /// Brings the routes of all units together. Boards with two and more IOMMUs do overlap: the last unit takes all buses up to ff, of which
    /// the one with the legacy bridge takes a few for its alias. The narrower statement is the one that was meant.
    fn merge(&mut self) -> Vec<StreamRoute> {
        let mut routes = core::mem::take(&mut self.routes);
        routes.reverse();
        routes.sort_by_key(|route| core::cmp::Reverse(route.ids.last - route.ids.first));
        let mut set = RouteSet::new();
        for route in routes {
            if !set.overlapping(&route.ids).is_empty() {
                self.wrong(route.offset as usize, "device id named by two units, the narrower range counts");
            }
            set.put_last(route);
        }
        set.into_vec()
    }

    /// Picks the block that counts of each IOMMU, and reads it.
    fn hardware(&mut self, blocks: &[Found<'a>]) {
        let mut order: Vec<(u16, u16)> = Vec::new();
        let mut best: BTreeMap<(u16, u16), (&Found<'a>, &'a Ivhd)> = BTreeMap::new();
        for found in blocks.iter().filter(|found| is_ivhd(found.1.kind)) {
            let &(at, head, mut body) = found;
            let fixed: Option<&Ivhd> = body.take();
            let more = Kind(head.kind) == Kind::IVHD_10 || body.take::<IvhdMore>().is_some();
            let Some(fixed) = fixed.filter(|_| more) else {
                self.wrong(at, "block shorter than its fixed part, left out");
                continue;
            };
            let key = (fixed.segment.get(), head.device.get());
            let Some(&(other, old)) = best.get(&key) else {
                order.push(key);
                best.insert(key, (found, fixed));
                continue;
            };
            if other.1.kind == head.kind {
                self.wrong(at, "unit described twice by blocks of one type, the first counts");
                continue;
            }
            if old.base.get() != fixed.base.get() {
                self.wrong(at, "blocks of one unit name different registers, the highest type counts");
            }
            if other.1.kind < head.kind {
                best.insert(key, (found, fixed));
            }
        }
        for key in order {
            if let Some(&(&(at, head, body), fixed)) = best.get(&key) {
                self.unit(at, head, fixed, body);
            }
        }
    }

    fn block(&mut self, at: usize, head: &Block, body: Piece<'_>) {
        match Kind(head.kind) {
            kind if is_ivhd(kind.0) => {}
            Kind::IVMD_ALL | Kind::IVMD_ONE | Kind::IVMD_RANGE => {
                if self.memory(at, head, body).is_none() {
                    self.wrong(at, "block shorter than its fixed part, left out");
                }
            }
            Kind(other) => self.note(at, "block of unknown type", other),
        }
    }

    fn unit(&mut self, at: usize, head: &Block, fixed: &Ivhd, mut body: Piece<'_>) {
        let _: Option<&Ivhd> = body.take();
        let more: Option<&IvhdMore> = if Kind(head.kind) == Kind::IVHD_10 { None } else { body.take() };
        let base = fixed.base.get();
        if base == 0 || base == u64::MAX || base & (WINDOW - 1) != 0 {
            return self.wrong(at, "unit without a usable register address, left out");
        }
        // EFR bit 9 PCSup; without the image, a number of counter banks.
        let counters = match more {
            Some(more) => more.efr.get() & 1 << 9 != 0,
            None => fixed.attributes.get() >> 17 & 0x3f != 0,
        };
        let size = if counters { WINDOW_COUNTERS } else { WINDOW };
        if base.checked_add(size - 1).is_none() {
            return self.wrong(at, "unit whose registers pass the last address, left out");
        }
        let Ok(id) = u16::try_from(self.topology.units.len()) else {
            return self.wrong(at, "more units than can be numbered, left out");
        };
        let (id, segment) = (UnitId(id), fixed.segment.get());
        let mut entries = Entries { unit: id, segment, routes: RouteSet::new(), scopes: Vec::new(), rest: None };
        self.entries(&mut entries, body);
        self.routes.extend(entries.routes.into_vec());
        self.topology.units.push(Unit {
            id,
            kind: UnitKind::AmdVi,
            base: Phys(base),
            size,
            segment,
            coverage: Coverage { rest_of_segment: entries.rest.is_some(), scopes: entries.scopes },
            detail: Detail::AmdVi(AmdVi {
                function: StreamId { segment, id: head.device.get().into() },
                capability: fixed.capability.get(),
                ivhd: head.kind,
                flags: head.flags,
                info: fixed.info.get(),
                attributes: fixed.attributes.get(),
                efr: more.map(|more| more.efr.get()),
                efr2: more.map(|more| more.efr2.get()),
                rest: entries.rest.unwrap_or_default(),
            }),
            offset: at as u32,
        });
    }

    fn entries(&mut self, out: &mut Entries, mut rest: Piece<'_>) {
        let mut open: Option<Open> = None;
        while !rest.bytes.is_empty() {
            let at = rest.offset;
            let Some(length) = entry_length(rest.bytes) else {
                self.wrong(at, "entry of unknown type and length, the rest of the block is left out");
                break;
            };
            let Some(mut body) = rest.split(length) else {
                self.wrong(at, "entry runs past its block, left out");
                break;
            };
            let Some(head) = body.take::<Entry>() else { break };
            let kind = EntryKind(head.kind);
            if matches!(kind, EntryKind::PAD_4 | EntryKind::PAD_8) {
                continue;
            }
            if kind != EntryKind::RANGE_END
                && let Some(open) = open.take()
            {
                self.wrong(open.at, "range without its end, left out");
            }
            let first = head.device.get();
            let settings = DteSettings { data: head.settings, extended: 0 };
            // Cannot fail: the length of the type holds the layout.
            let whole = match kind {
                EntryKind::ALL => {
                    out.rest = Some(settings);
                    Some(())
                }
                EntryKind::SELECT => {
                    out.add(at, (first, first), None, settings);
                    Some(())
                }
                EntryKind::RANGE => {
                    open = Some(Open { at, first, alias: None, settings });
                    Some(())
                }
                EntryKind::RANGE_END => {
                    match open.take() {
                        None => self.wrong(at, "end of a range that did not begin"),
                        Some(open) if first < open.first => {
                            self.wrong(open.at, "range ends before it begins, left out");
                        }
                        Some(open) => out.add(open.at, (open.first, first), open.alias, open.settings),
                    }
                    Some(())
                }
                EntryKind::ALIAS => {
                    body.take::<Alias>().map(|alias| out.add(at, (first, first), Some(alias.source.get()), settings))
                }
                EntryKind::ALIAS_RANGE => body
                    .take::<Alias>()
                    .map(|alias| open = Some(Open { at, first, alias: Some(alias.source.get()), settings })),
                EntryKind::EXTENDED => body.take::<Extended>().map(|more| {
                    let settings = DteSettings { extended: more.settings.get(), ..settings };
                    out.add(at, (first, first), None, settings);
                }),
                EntryKind::EXTENDED_RANGE => body.take::<Extended>().map(|more| {
                    let settings = DteSettings { extended: more.settings.get(), ..settings };
                    open = Some(Open { at, first, alias: None, settings });
                }),
                EntryKind::SPECIAL => body.take::<Special>().map(|special| self.special(out, at, special, settings)),
                EntryKind::ACPI_HID => self.acpi_device(out, at, first, settings, body),
                EntryKind(other) => {
                    self.note(at, "device entry of unknown type", other);
                    Some(())
                }
            };
            if whole.is_none() {
                self.wrong(at, "entry shorter than its fixed part, left out");
            }
        }
        if let Some(open) = open {
            self.wrong(open.at, "range without its end, left out");
        }
    }

    fn special(&mut self, out: &mut Entries, at: usize, special: &Special, settings: DteSettings) {
        let kind = match special.variety {
            1 => ScopeKind::IoApic(special.handle),
            2 => ScopeKind::Hpet(special.handle),
            other => return self.note(at, "special device of unknown variety", other),
        };
        let source = special.source.get();
        let [devfn, bus] = source.to_le_bytes();
        let path = [Hop { device: devfn >> 3, function: devfn & 7 }].to_vec();
        out.scopes.push(Scope { kind, start_bus: bus, path, offset: at as u32 });
        out.add(at, (source, source), None, settings);
    }

    fn acpi_device(
        &mut self,
        out: &mut Entries,
        at: usize,
        device: u16,
        settings: DteSettings,
        mut body: Piece<'_>,
    ) -> Option<()> {
        let fixed: &AcpiHid = body.take()?;
        let unique = match (fixed.unique_format, body.bytes) {
            (0, []) => UniqueId::None,
            (1, bytes) if bytes.len() == 8 => {
                UniqueId::Integer(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
            }
            (2, bytes) if !bytes.is_empty() => UniqueId::Text(ascii(bytes)),
            _ => {
                self.wrong(at, "unique id does not have the length of its format, taken as none");
                UniqueId::None
            }
        };
        let (hardware, compatible) = (ascii(&fixed.hardware_id), ascii(&fixed.compatible_id));
        if hardware.is_empty() {
            self.wrong(at, "ACPI device without a hardware id");
        }
        let acpi = AcpiIds { hardware, compatible, unique };
        let source = Source::Device(self.topology.devices.len() as u32);
        self.topology.devices.push(NamedDevice {
            name: acpi.to_string(),
            acpi: Some(acpi),
            coherent: true,
            address_bits: 0,
            pasid_bits: 0,
            stall: false,
            offset: at as u32,
        });
        out.routes.put_last(StreamRoute {
            ids: Ids { source, mask: u32::MAX, first: 0, last: 0 },
            unit: out.unit,
            output: Output::Always(device.into()),
            settings,
            offset: at as u32,
        });
        Some(())
    }

    fn memory(&mut self, at: usize, head: &Block, mut body: Piece<'_>) -> Option<()> {
        let fixed: &Ivmd = body.take()?;
        let (base, length, first) = (fixed.base.get(), fixed.length.get(), head.device.get());
        let (first, last) = match Kind(head.kind) {
            Kind::IVMD_ALL => (0, u16::MAX),
            Kind::IVMD_ONE => (first, first),
            _ => (first, fixed.last.get()),
        };
        // Flags, section 5.2.2.7: 0 unity, 1 read, 2 write, 3 exclusion range; read and write say nothing with exclusion.
        let [unity, read, write, exclusion] = [0, 1, 2, 3].map(|bit| head.flags >> bit & 1 != 0);
        let access = match (exclusion, read, write) {
            (true, ..) => Access::READ | Access::WRITE,
            (_, read, write) => {
                let mut access = Access::empty();
                access.set(Access::READ, read);
                access.set(Access::WRITE, write);
                access
            }
        };
        let reason = match (length.checked_sub(1).map(|span| base.checked_add(span)), last < first) {
            (None, _) => "region of no length, left out",
            (Some(None), _) => "region passes the last address, left out",
            (_, true) => "region whose devices end before they begin, left out",
            _ if !unity && !exclusion => "region that is neither unity mapped nor excluded, left out",
            _ if access.is_empty() => "region that nobody may read or write, left out",
            (Some(Some(end)), _) => {
                if base & 0xfff != 0 || end & 0xfff != 0xfff {
                    self.wrong(at, "region is not whole pages, widened");
                }
                let kind = if exclusion { ReservedKind::IvmdExclusion } else { ReservedKind::IvmdUnity };
                let segment = fixed.segment.get();
                self.topology.reserved.push(Reserved {
                    range: PhysRange { first: Phys(base & !0xfff), last: Phys(end | 0xfff) },
                    segment,
                    scopes: Vec::new(),
                    targets: [Target::Requesters { segment, first: first.into(), last: last.into() }].to_vec(),
                    access,
                    direct: true,
                    why: Why { table: self.table.signature, offset: at as u32, kind },
                });
                return Some(());
            }
        };
        self.wrong(at, reason);
        Some(())
    }
}

/// What the entries of one IVHD say.
struct Entries {
    unit: UnitId,
    segment: u16,
    routes: RouteSet<StreamRoute>,
    scopes: Vec<Scope>,
    rest: Option<DteSettings>,
}

impl Entries {
    fn add(&mut self, at: usize, (first, last): (u16, u16), alias: Option<u16>, settings: DteSettings) {
        let source = Source::Pci { segment: self.segment };
        self.routes.put_last(StreamRoute {
            ids: Ids { source, mask: u32::MAX, first: first.into(), last: last.into() },
            unit: self.unit,
            output: alias.map_or(Output::From(first.into()), |id| Output::Always(id.into())),
            settings,
            offset: at as u32,
        });
    }
}

fn is_ivhd(kind: u8) -> bool {
    matches!(Kind(kind), Kind::IVHD_10 | Kind::IVHD_11 | Kind::IVHD_40)
}

/// Bytes of the entry at the front; `None` if its type does not tell.
fn entry_length(bytes: &[u8]) -> Option<usize> {
    const HID: usize = size_of::<Entry>() + size_of::<AcpiHid>();
    match *bytes.first()? {
        0..=0x3f => Some(4),
        0x40..=0x7f => Some(8),
        0x80..=0xbf => Some(16),
        0xc0..=0xef => Some(32),
        // If the length byte itself is cut off, so is the entry: the caller's split fails.
        0xf0 => Some(HID + bytes.get(HID - 1).map_or(0, |length| usize::from(*length))),
        0xf1.. => None,
    }
}
