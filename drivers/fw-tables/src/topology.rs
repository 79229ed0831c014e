//! What firmware says about IOMMUs, the same for every vendor.

use crate::devices::{Counters, Host, NamedDevice, Oem, Target};
use crate::routes::{DteSettings, MsiController, MsiRoute, Source, StreamRoute};
use crate::units::Detail;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use iommu_types::{Access, At, Phys, PhysRange, StreamId, UnitId};

/// Which driver a unit needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum UnitKind {
    /// Intel VT-d, from DMAR.
    Vtd,
    /// AMD-Vi, from IVRS.
    AmdVi,
    /// Arm SMMUv3, from IORT or a device tree.
    SmmuV3,
    /// Arm SMMUv1 or v2: recognised, so that what stands behind it is known; there is no driver.
    SmmuV2,
}

/// One step of a scope's path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Hop {
    /// Device number, 0..=31.
    pub device: u8,
    /// Function number, 0..=7.
    pub function: u8,
}

/// What a scope names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum ScopeKind {
    /// One PCI function.
    Endpoint,
    /// A bridge and everything behind it.
    SubHierarchy,
    /// The interrupt source of the IOAPIC with this id (as in MADT).
    IoApic(u8),
    /// The interrupt source of the HPET with this number.
    Hpet(u8),
    /// A device that ACPI names; the number leads to its name.
    AcpiDevice(u8),
}

/// One entry of a list of devices: start at a bus, follow the path through bridges.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scope {
    /// What it names.
    pub kind: ScopeKind,
    /// Bus the path starts on.
    pub start_bus: u8,
    /// At least one step; all but the last are bridges.
    pub path: Vec<Hop>,
    /// Byte offset in its table, for messages.
    pub offset: u32,
}

/// Secondary and subordinate bus of a bridge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusRange {
    /// First bus behind it.
    pub secondary: u8,
    /// Last bus behind it.
    pub subordinate: u8,
}

/// What a scope needs to know of the PCI tree that was enumerated.
pub trait BusResolver {
    /// Bus numbers behind a bridge; `None` if there is no function or it is no bridge.
    fn buses(&self, bridge: StreamId) -> Option<BusRange>;
    /// Is there such a function?
    fn exists(&self, stream: StreamId) -> bool;
    /// The physical function of a virtual one: it is covered by the unit of its physical function (VT-d 5.0 section 8.3.1).
    fn physical_function(&self, _stream: StreamId) -> Option<StreamId> {
        None
    }
}

impl Scope {
    /// The requester id its path leads to: intermediate bridges give the next bus number. `None` if one of them is no
    /// bridge.
    pub fn stream(&self, segment: u16, resolver: &dyn BusResolver) -> Option<StreamId> {
        let (last, bridges) = self.path.split_last()?;
        let mut bus = self.start_bus;
        for hop in bridges {
            bus = resolver.buses(StreamId::pci(segment, bus, hop.device, hop.function))?.secondary;
        }
        Some(StreamId::pci(segment, bus, last.device, last.function))
    }

    /// Does it name `stream`? Interrupt sources never do.
    pub fn covers(&self, segment: u16, stream: StreamId, resolver: &dyn BusResolver) -> bool {
        if stream.segment != segment {
            return false;
        }
        let Some(named) = self.stream(segment, resolver) else { return false };
        match self.kind {
            ScopeKind::Endpoint | ScopeKind::AcpiDevice(_) => named == stream,
            ScopeKind::SubHierarchy => {
                named == stream
                    || resolver.buses(named).is_some_and(|b| (b.secondary..=b.subordinate).contains(&stream.bus()))
            }
            ScopeKind::IoApic(_) | ScopeKind::Hpet(_) => false,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ScopeKind::Endpoint => write!(f, "function ")?,
            ScopeKind::SubHierarchy => write!(f, "bridge ")?,
            ScopeKind::IoApic(id) => write!(f, "ioapic {id} ")?,
            ScopeKind::Hpet(id) => write!(f, "hpet {id} ")?,
            ScopeKind::AcpiDevice(id) => write!(f, "acpi device {id} ")?,
        }
        write!(f, "{:02x}", self.start_bus)?;
        for (index, hop) in self.path.iter().enumerate() {
            write!(f, "{}{:02x}.{}", if index == 0 { ':' } else { '/' }, hop.device, hop.function)?;
        }
        Ok(())
    }
}

/// Which requesters a unit translates for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Coverage {
    /// Every requester of the segment that no other unit names.
    pub rest_of_segment: bool,
    /// Those named.
    pub scopes: Vec<Scope>,
}

/// One IOMMU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unit {
    /// Its number: the order in the table.
    pub id: UnitId,
    /// Which driver it needs.
    pub kind: UnitKind,
    /// Physical address of its registers.
    pub base: Phys,
    /// Bytes of its register window.
    pub size: u64,
    /// PCI segment it serves.
    pub segment: u16,
    /// Which requesters it translates for; from IVRS, IORT and device trees [`Topology::streams`] says more.
    pub coverage: Coverage,
    /// What its driver needs besides.
    pub detail: Detail,
    /// Byte offset in its table.
    pub offset: u32,
}

/// Why a region is reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ReservedKind {
    /// Reserved memory region of DMAR: firmware's device goes on using it after the system started.
    Rmrr,
    /// Memory definition of IVRS, unity mapped.
    IvmdUnity,
    /// Memory definition of IVRS that AMD-Vi may leave untranslated by its exclusion range; a one-to-one mapping serves as well.
    IvmdExclusion,
    /// Reserved memory range of IORT.
    Rmr,
    /// `iommu-addresses` of a device tree.
    IommuAddresses,
}

impl ReservedKind {
    /// Its name in the specification that it comes from.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rmrr => "RMRR",
            Self::IvmdUnity => "IVMD unity",
            Self::IvmdExclusion => "IVMD exclusion",
            Self::Rmr => "RMR",
            Self::IommuAddresses => "iommu-addresses",
        }
    }
}

/// Where a reservation comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Why {
    /// Table signature.
    pub table: [u8; 4],
    /// Byte offset of the structure.
    pub offset: u32,
    /// Which kind of structure.
    pub kind: ReservedKind,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = core::str::from_utf8(&self.table).unwrap_or("????");
        write!(f, "{name}+{:#x} ({})", self.offset, self.kind.name())
    }
}

/// Memory that firmware uses through devices: to be mapped one to one for exactly those, and for no other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reserved {
    /// The memory; whole 4 KiB pages.
    pub range: PhysRange,
    /// PCI segment of the scopes.
    pub segment: u16,
    /// The devices, by place in the PCI tree.
    pub scopes: Vec<Scope>,
    /// The devices, by id or name.
    pub targets: Vec<Target>,
    /// What they do with it.
    pub access: Access,
    /// Must be mapped one to one. If not, the range is only not to be used for anything else.
    pub direct: bool,
    /// Who says so.
    pub why: Why,
}

/// Root ports below which ATS may be used (ATSR).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AtsPorts {
    /// PCI segment.
    pub segment: u16,
    /// All ports of the segment; `scopes` says nothing then.
    pub all: bool,
    /// The ports.
    pub scopes: Vec<Scope>,
}

/// A device integrated in the chip whose properties firmware tells (SATC, SIDP).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceProperties {
    /// PCI segment.
    pub segment: u16,
    /// The device.
    pub scope: Scope,
    /// It does not work without its address translation cache (SATC ATC_REQUIRED; SIDP flag bit 4).
    pub atc_required: bool,
    /// The flags byte of the SIDP scope, 0 from SATC: bit 0 no nesting, bit 1 no PWSNP, bit 2 no PGSNP for requests without PASID, bit 3 hardened ATC.
    pub flags: u8,
}

/// NUMA node of a unit (RHSA).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proximity {
    /// Register base that names the unit.
    pub base: Phys,
    /// ACPI proximity domain.
    pub domain: u32,
}

/// A device that ACPI names (ANDD).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcpiDevice {
    /// Number used by scopes.
    pub number: u8,
    /// Path in the ACPI name space, as `\_SB.PCI0.I2C0`; bytes that are not ASCII became `?`.
    pub name: String,
}

/// Platform-wide statements.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    /// The platform supports interrupt remapping.
    pub interrupt_remapping: bool,
    /// Firmware asks not to switch to x2APIC mode.
    pub x2apic_opt_out: bool,
    /// Firmware asks for DMA protection (DMA_CTRL_PLATFORM_OPT_IN).
    pub dma_opt_in: bool,
}

/// Something skipped because this version does not know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Note {
    /// Where, and what kind of thing.
    pub at: At,
    /// Its type number.
    pub kind: u16,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = core::str::from_utf8(&self.at.table).unwrap_or("????");
        write!(f, "{name}+{:#x}: {} {:#x}, skipped", self.at.offset, self.at.reason, self.kind)
    }
}

/// A contradiction in a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finding(
    /// Where, and what is wrong.
    pub At,
);

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = core::str::from_utf8(&self.0.table).unwrap_or("????");
        write!(f, "{name}+{:#x}: {}", self.0.offset, self.0.reason)
    }
}

/// Everything a table says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topology {
    /// Signature of the table it was read from; `fdt ` for a device tree.
    pub table: [u8; 4],
    /// Revision of the table; of a device tree the version of its format.
    pub revision: u8,
    /// Who made the table.
    pub oem: Oem,
    /// Width of physical addresses that DMA can reach, in bits.
    pub host_address_bits: u8,
    /// Platform-wide statements.
    pub flags: Flags,
    /// The IOMMUs, in table order.
    pub units: Vec<Unit>,
    /// Which ids each unit translates for, by source and first id; empty from DMAR, which names devices by their place in the PCI tree.
    pub streams: Vec<StreamRoute>,
    /// Where message interrupts go, by source and first id; empty on x86.
    pub messages: Vec<MsiRoute>,
    /// What takes message interrupts.
    pub msi_controllers: Vec<MsiController>,
    /// Devices that are no PCI functions.
    pub devices: Vec<NamedDevice>,
    /// PCI host bridges.
    pub hosts: Vec<Host>,
    /// Performance counters.
    pub counters: Vec<Counters>,
    /// Memory firmware uses through devices.
    pub reserved: Vec<Reserved>,
    /// Where ATS may be used.
    pub ats: Vec<AtsPorts>,
    /// Devices with properties.
    pub properties: Vec<DeviceProperties>,
    /// NUMA nodes of units.
    pub proximity: Vec<Proximity>,
    /// Devices that ACPI names.
    pub acpi_devices: Vec<AcpiDevice>,
    /// Names of the rules bent for this platform when its table was read.
    pub quirks: Vec<&'static str>,
    /// What was skipped.
    pub notes: Vec<Note>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Topology {
    /// Says nothing yet.
    pub(crate) fn new(table: [u8; 4], revision: u8, oem: Oem) -> Self {
        Self {
            table,
            revision,
            oem,
            host_address_bits: 64,
            flags: Flags::default(),
            units: Vec::new(),
            streams: Vec::new(),
            messages: Vec::new(),
            msi_controllers: Vec::new(),
            devices: Vec::new(),
            hosts: Vec::new(),
            counters: Vec::new(),
            reserved: Vec::new(),
            ats: Vec::new(),
            properties: Vec::new(),
            proximity: Vec::new(),
            acpi_devices: Vec::new(),
            quirks: Vec::new(),
            notes: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// The route that `id` of a source takes, if an IOMMU translates for it by a list of ids.
    pub fn route(&self, source: Source, id: u32) -> Option<&StreamRoute> {
        self.streams.iter().find(|route| route.ids.holds(source, id))
    }

    /// The unit that translates for a PCI function, and the stream id the function has there (on AMD-Vi the id of its
    /// device table entry). `None`: no IOMMU stands between it and memory.
    pub fn stream_for(&self, function: StreamId, resolver: &dyn BusResolver) -> Option<(UnitId, u32)> {
        match self.route(Source::Pci { segment: function.segment }, function.id) {
            Some(route) => Some((route.unit, route.output.of(&route.ids, function.id))),
            None => Some((self.unit_for(function, resolver)?, function.id)),
        }
    }

    /// What AMD firmware wants in the device table entry of a PCI function; nothing elsewhere.
    pub fn dte_settings(&self, function: StreamId) -> DteSettings {
        let rest = || {
            let mut units = self.units.iter().filter(|u| u.segment == function.segment && u.coverage.rest_of_segment);
            match units.next().map(|unit| &unit.detail) {
                Some(Detail::AmdVi(amd)) => amd.rest,
                _ => DteSettings::default(),
            }
        };
        self.route(Source::Pci { segment: function.segment }, function.id).map_or_else(rest, |route| route.settings)
    }

    /// Streams of the named device at a place in the list: unit, first and last stream id.
    pub fn device_streams(&self, device: u32) -> impl Iterator<Item = (UnitId, u32, u32)> {
        self.streams.iter().filter(move |route| route.ids.source == Source::Device(device)).map(|route| {
            let (first, last) = route.output.span(&route.ids);
            (route.unit, first, last)
        })
    }

    /// What takes the message interrupts of `id` of a source, and its device id there.
    pub fn messages_of(&self, source: Source, id: u32) -> Option<(&MsiController, u32)> {
        let route = self.messages.iter().find(|route| route.ids.holds(source, id))?;
        Some((self.msi_controllers.get(route.controller as usize)?, route.output.of(&route.ids, id)))
    }

    /// The unit that translates for `stream`: the one that names it, else the one that takes the rest of its segment. `None`: no IOMMU stands
    /// between this device and memory.
    ///
    /// A list of ids is exact. Where devices are named by their place, a function named itself wins over a bridge above it,
    /// whichever unit comes first.
    pub fn unit_for(&self, stream: StreamId, resolver: &dyn BusResolver) -> Option<UnitId> {
        if let Some(route) = self.route(Source::Pci { segment: stream.segment }, stream.id) {
            return Some(route.unit);
        }
        let stream = resolver.physical_function(stream).unwrap_or(stream);
        let named = |exact: bool| {
            self.units.iter().find(|unit| {
                let mut scopes = unit.coverage.scopes.iter();
                scopes.any(|scope| {
                    (scope.kind != ScopeKind::SubHierarchy) == exact && scope.covers(unit.segment, stream, resolver)
                })
            })
        };
        let rest = || self.units.iter().find(|unit| unit.segment == stream.segment && unit.coverage.rest_of_segment);
        named(true).or_else(|| named(false)).or_else(rest).map(|unit| unit.id)
    }

    /// The regions reserved for `stream`; those that are `direct` are to be mapped one to one for it.
    pub fn reserved_for<'a>(
        &'a self,
        stream: StreamId,
        resolver: &'a dyn BusResolver,
    ) -> impl Iterator<Item = &'a Reserved> {
        let function = resolver.physical_function(stream).unwrap_or(stream);
        let route = self.route(Source::Pci { segment: stream.segment }, stream.id);
        let translated = route.map(|route| (route.unit, route.output.of(&route.ids, stream.id)));
        self.reserved.iter().filter(move |region| {
            region.scopes.iter().any(|s| s.covers(region.segment, function, resolver))
                || region.targets.iter().any(|target| match *target {
                    Target::Requesters { segment, first, last } => {
                        segment == stream.segment && (first..=last).contains(&stream.id)
                    }
                    Target::Streams { unit, first, last } => {
                        translated.is_some_and(|(at, id)| at == unit && (first..=last).contains(&id))
                    }
                    Target::Device(_) => false,
                })
        })
    }

    /// The regions reserved for the named device at a place in the list.
    pub fn reserved_for_device(&self, device: u32) -> impl Iterator<Item = &Reserved> {
        self.reserved.iter().filter(move |region| {
            region.targets.iter().any(|target| match *target {
                Target::Device(at) => at == device,
                Target::Streams { unit, first, last } => {
                    self.device_streams(device).any(|(at, from, to)| at == unit && first <= to && from <= last)
                }
                Target::Requesters { .. } => false,
            })
        })
    }

    /// May a device below the root port `port` use ATS?
    pub fn ats_allowed(&self, port: StreamId, resolver: &dyn BusResolver) -> bool {
        self.ats.iter().any(|ports| {
            ports.segment == port.segment
                && (ports.all || ports.scopes.iter().any(|s| s.stream(ports.segment, resolver) == Some(port)))
        })
    }

    /// The unit that remaps interrupts of the IOAPIC with this id, and the requester id it uses.
    pub fn ioapic(&self, id: u8, resolver: &dyn BusResolver) -> Option<(UnitId, StreamId)> {
        self.interrupt_source(ScopeKind::IoApic(id), resolver)
    }

    /// The unit that remaps message interrupts of the HPET with this number, and the requester id it uses.
    pub fn hpet(&self, number: u8, resolver: &dyn BusResolver) -> Option<(UnitId, StreamId)> {
        self.interrupt_source(ScopeKind::Hpet(number), resolver)
    }

    fn interrupt_source(&self, kind: ScopeKind, resolver: &dyn BusResolver) -> Option<(UnitId, StreamId)> {
        self.units.iter().find_map(|unit| {
            let scope = unit.coverage.scopes.iter().find(|scope| scope.kind == kind)?;
            Some((unit.id, scope.stream(unit.segment, resolver)?))
        })
    }

    /// NUMA node of a unit.
    pub fn proximity_of(&self, unit: &Unit) -> Option<u32> {
        self.proximity.iter().find(|entry| entry.base == unit.base).map(|entry| entry.domain)
    }

    /// Name of the device with this ACPI device number.
    pub fn acpi_name(&self, number: u8) -> Option<&str> {
        self.acpi_devices.iter().find(|device| device.number == number).map(|device| device.name.as_str())
    }

    /// Checks the scopes against the PCI tree that was found: paths that lead nowhere, bridges that are none.
    /// Firmware often names devices that are switched off, so this is worth a log line and no more.
    pub fn check_scopes(&self, resolver: &dyn BusResolver) -> Vec<Finding> {
        let mut found = Vec::new();
        let units = self.units.iter().flat_map(|unit| unit.coverage.scopes.iter().map(|s| (unit.segment, s)));
        let regions = self.reserved.iter().flat_map(|region| region.scopes.iter().map(|s| (region.segment, s)));
        for (segment, scope) in units.chain(regions) {
            let reason = match (scope.kind, scope.stream(segment, resolver)) {
                // Interrupt sources and ACPI devices have a requester id but need not show up on the bus.
                (ScopeKind::IoApic(_) | ScopeKind::Hpet(_) | ScopeKind::AcpiDevice(_), Some(_)) => continue,
                (_, None) => "scope path goes through a function that is no bridge",
                (_, Some(stream)) if !resolver.exists(stream) => "scope names a function that is not there",
                (ScopeKind::SubHierarchy, Some(stream)) if resolver.buses(stream).is_none() => {
                    "scope calls a bridge what is none"
                }
                (ScopeKind::Endpoint, Some(stream)) if resolver.buses(stream).is_some() => {
                    "scope calls an endpoint what is a bridge"
                }
                _ => continue,
            };
            found.push(Finding(At { table: self.table, offset: scope.offset, reason }));
        }
        found
    }
}
