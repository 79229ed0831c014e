//! Device tree to [`Topology`]: the generic IOMMU bindings (`iommus`, `iommu-map`, `msi-map`, `msi-parent`, `iommu-addresses`), the nodes of
//! SMMUs, and PCI hosts.

use crate::blob::{self, Blob, Node, TABLE, cells};
use crate::check;
use crate::devices::{Host, NamedDevice, Oem, Target};
use crate::routes::{DteSettings, Ids, MsiController, MsiRoute, Output, Source, StreamRoute};
use crate::routeset::RouteSet;
use crate::topology::{AtsPorts, Coverage, Finding, Note, Reserved, ReservedKind, Topology, Unit, UnitKind, Why};
use crate::units::{Detail, Interrupt, SmmuInterrupts, SmmuV2, SmmuV3};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use iommu_types::{Access, Error, Phys, PhysRange, UnitId};

/// SMMUv1 and v2, with the model number IORT has for each.
const SMMU_V2: [(&str, u32); 6] = [
    ("arm,smmu-v1", 0),
    ("arm,smmu-v2", 1),
    ("arm,mmu-400", 2),
    ("arm,mmu-500", 3),
    ("arm,mmu-401", 4),
    ("cavium,smmu-v2", 5),
];

/// More entries of maps than any machine has.
const MOST_ENTRIES: usize = 4096;

/// Reads a flattened device tree, version 17. `bytes` begin at its magic number and may go on behind its end.
///
/// Nodes whose `status` is neither absent nor `okay` are not there. An IOMMU that has no driver here becomes a [`Note`]; properties that are cut,
/// point nowhere or overlap are left out with a [`Finding`], which names the offset of their node.
///
/// # Errors
/// [`Error::Firmware`] with table `fdt ` if the header, the tags or the strings of the blob are not as the specification says.
pub fn parse_device_tree(bytes: &[u8]) -> Result<Topology, Error> {
    let blob = Blob::new(bytes)?;
    let nodes = blob.nodes()?;
    let mut phandles = BTreeMap::new();
    let mut twice = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        if let Some(phandle) = node.cell("phandle").or_else(|| node.cell("linux,phandle"))
            && phandles.insert(phandle, index).is_some()
        {
            twice.push(node.offset);
        }
    }
    let mut reader = Reader {
        topology: Topology::new(TABLE, blob.version, Oem::default()),
        nodes: &nodes,
        phandles,
        units: BTreeMap::new(),
        controllers: BTreeMap::new(),
        devices: BTreeMap::new(),
        streams: RouteSet::new(),
        messages: RouteSet::new(),
        entries: 0,
    };
    for offset in twice {
        reader.wrong(offset, "phandle of another node too");
    }
    let there: Vec<usize> = (0..nodes.len()).filter(|index| reader.is_there(*index)).collect();
    for &index in &there {
        reader.unit(index);
        reader.controller(index);
    }
    for &index in &there {
        reader.host(index);
        reader.device(index);
    }
    for &index in &there {
        reader.region(index);
    }
    let mut topology = reader.topology;
    topology.streams = reader.streams.into_vec();
    topology.messages = reader.messages.into_vec();
    check::arm(&mut topology);
    Ok(topology)
}

struct Reader<'a> {
    topology: Topology,
    nodes: &'a [Node<'a>],
    phandles: BTreeMap<u32, usize>,
    /// By node.
    units: BTreeMap<usize, UnitId>,
    controllers: BTreeMap<usize, u32>,
    devices: BTreeMap<usize, u32>,
    streams: RouteSet<StreamRoute>,
    messages: RouteSet<MsiRoute>,
    /// Entries of maps so far.
    entries: usize,
}

impl<'a> Reader<'a> {
    fn wrong(&mut self, offset: u32, reason: &'static str) {
        self.topology.findings.push(Finding(blob::at(offset as usize, reason)));
    }

    fn node(&self, index: usize) -> Option<&'a Node<'a>> {
        self.nodes.get(index)
    }

    /// The node and those above it, up to the root.
    fn up(&self, index: usize) -> impl Iterator<Item = &'a Node<'a>> + use<'a> {
        let nodes = self.nodes;
        core::iter::successors(nodes.get(index), move |node| node.parent.and_then(|parent| nodes.get(parent)))
    }

    fn is_there(&self, index: usize) -> bool {
        self.up(index).all(|node| match node.property("status") {
            None => true,
            Some(status) => status.starts_with(b"ok"),
        })
    }

    fn path(&self, index: usize) -> String {
        let mut names: Vec<&str> = self.up(index).map(|node| node.name).collect();
        names.reverse();
        let path: String = names.join("/").chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect();
        if path.is_empty() { String::from("/") } else { path }
    }

    /// `dma-coherent` of the node or of a bus above it, unless `dma-noncoherent` is nearer.
    fn coherent(&self, index: usize) -> bool {
        self.up(index)
            .find_map(|node| {
                let no = node.property("dma-noncoherent").map(|_| false);
                node.property("dma-coherent").map(|_| true).or(no)
            })
            .unwrap_or(false)
    }

    /// Cells of addresses and sizes of the children of a node; the defaults are those of the specification.
    fn widths(&self, bus: Option<usize>) -> (usize, usize) {
        let bus = bus.and_then(|bus| self.node(bus));
        let cell = |name, default| bus.and_then(|bus| bus.cell(name)).unwrap_or(default) as usize;
        (cell("#address-cells", 2), cell("#size-cells", 1))
    }

    /// First entry of `reg` as the CPU sees it: address and size.
    fn registers(&mut self, index: usize) -> Option<(u64, u64)> {
        let node = self.node(index)?;
        let (address, size) = self.widths(node.parent);
        let reg = cells(node.property("reg")?);
        let mut reg = reg.as_slice();
        let (at, size) = (number(&mut reg, address)?, number(&mut reg, size)?);
        match self.translate(node.parent, at) {
            Some(at) => Some((at, size)),
            None => {
                self.wrong(node.offset, "registers behind a bus that does not translate them");
                None
            }
        }
    }

    /// An address of the children of `bus`, as the root sees it.
    fn translate(&self, bus: Option<usize>, mut address: u64) -> Option<u64> {
        let mut bus = bus;
        while let Some(at) = bus {
            let node = self.node(at)?;
            let Some(above) = node.parent else { return Some(address) };
            let ranges = cells(node.property("ranges")?);
            let ((child, size), (parent, _)) = (self.widths(bus), self.widths(Some(above)));
            let mut rest = ranges.as_slice();
            if child.saturating_add(parent).saturating_add(size) == 0 {
                // Entries of no cells would never end.
                return None;
            }
            let mut found = rest.is_empty().then_some(address);
            while found.is_none() {
                let (from, to) = (number(&mut rest, child)?, number(&mut rest, parent)?);
                let length = number(&mut rest, size)?;
                if let Some(inside) = address.checked_sub(from).filter(|inside| *inside < length) {
                    found = Some(to.checked_add(inside)?);
                }
            }
            address = found?;
            bus = Some(above);
        }
        Some(address)
    }

    fn unit(&mut self, index: usize) {
        let Some(node) = self.node(index) else { return };
        let v2 = SMMU_V2.iter().find(|(name, _)| node.is(name)).map(|(_, model)| *model);
        let (kind, detail) = if node.is("arm,smmu-v3") {
            let interrupts = self.smmu_interrupts(index);
            let model =
                if node.is("cavium,cn9900-smmu-v3") { 2 } else { u32::from(node.is("hisilicon,hi161x-smmu-v3")) };
            let coherent = self.coherent(index);
            let detail = SmmuV3 { model, coherent, httu_override: 0, vatos: None, interrupts };
            (UnitKind::SmmuV3, Detail::SmmuV3(detail))
        } else if let Some(model) = v2 {
            let lines: Vec<Interrupt> = self.lines(index).into_iter().flatten().collect();
            let (global, contexts) =
                lines.split_at(lines.len().min(node.cell("#global-interrupts").unwrap_or(1) as usize));
            let detail = SmmuV2 {
                model,
                dvm: false,
                coherent: self.coherent(index),
                global: global.to_vec(),
                contexts: contexts.to_vec(),
            };
            (UnitKind::SmmuV2, Detail::SmmuV2(detail))
        } else {
            if let Some(cells) = node.cell("#iommu-cells") {
                let at = blob::at(node.offset as usize, "IOMMU without a driver here, cells of its ids");
                self.topology.notes.push(Note { at, kind: cells.min(0xffff) as u16 });
            }
            return;
        };
        let reason = match self.registers(index) {
            None => "unit without registers, left out",
            Some((_, 0)) => "unit whose registers have no length, left out",
            Some((base, _)) if base == 0 || base & 0xfff != 0 => "unit without a usable register address, left out",
            Some((base, size)) if base.checked_add(size - 1).is_none() => {
                "unit whose registers pass the last address, left out"
            }
            Some((base, size)) => match u16::try_from(self.topology.units.len()) {
                Err(_) => "more units than can be numbered, left out",
                Ok(id) => {
                    self.units.insert(index, UnitId(id));
                    return self.topology.units.push(Unit {
                        id: UnitId(id),
                        kind,
                        base: Phys(base),
                        size,
                        segment: 0,
                        coverage: Coverage::default(),
                        detail,
                        offset: node.offset,
                    });
                }
            },
        };
        self.wrong(node.offset, reason);
    }

    /// `interrupts` of a node whose interrupt parent is a GIC: three cells or more, kind (0 SPI, 1 PPI), number, flags.
    fn lines(&mut self, index: usize) -> Vec<Option<Interrupt>> {
        let Some(node) = self.node(index) else { return Vec::new() };
        let Some(value) = node.property("interrupts").map(cells) else { return Vec::new() };
        let parent = self.up(index).find_map(|node| node.cell("interrupt-parent"));
        let parent = parent.and_then(|phandle| self.phandles.get(&phandle)).and_then(|at| self.node(*at));
        let width = parent.and_then(|parent| parent.cell("#interrupt-cells")).unwrap_or(0) as usize;
        if width < 3 {
            self.wrong(node.offset, "interrupts of a controller that is no GIC, left out");
            return Vec::new();
        }
        let lines = value.chunks_exact(width).map(|line| match line {
            [kind @ (0 | 1), number, flags, ..] => {
                let gsiv = number.checked_add(if *kind == 0 { 32 } else { 16 })?;
                Some(Interrupt { gsiv, edge: flags & 3 != 0 })
            }
            _ => None,
        });
        lines.collect()
    }

    fn smmu_interrupts(&mut self, index: usize) -> SmmuInterrupts {
        let lines = self.lines(index);
        let names = self.node(index).and_then(|node| node.property("interrupt-names")).unwrap_or(&[]);
        let names: Vec<&[u8]> = names.split(|byte| *byte == 0).collect();
        let line = |wanted: &str| {
            let at = names.iter().position(|name| *name == wanted.as_bytes())?;
            lines.get(at).copied().flatten()
        };
        SmmuInterrupts {
            event: line("eventq"),
            pri: line("priq"),
            gerror: line("gerror"),
            sync: line("cmdq-sync"),
            combined: line("combined"),
        }
    }

    fn controller(&mut self, index: usize) {
        let Some(node) = self.node(index) else { return };
        if node.property("msi-controller").is_none() {
            return;
        }
        let base = self.registers(index).map(|(base, _)| Phys(base));
        let place = self.topology.msi_controllers.len() as u32;
        let (name, offset) = (self.path(index), node.offset);
        self.topology.msi_controllers.push(MsiController { its: Vec::new(), name, base, offset });
        self.controllers.insert(index, place);
    }

    fn host(&mut self, index: usize) {
        let Some(node) = self.node(index) else { return };
        // Bridges behind a host are `pci` too; only the host stands on another bus.
        let is_pci = |node: &Node<'_>| node.property("device_type") == Some(b"pci\0");
        if !is_pci(node) || node.parent.and_then(|parent| self.node(parent)).is_some_and(is_pci) {
            return;
        }
        let next = self.topology.hosts.iter().map(|host| host.segment.saturating_add(1)).max().unwrap_or(0);
        let segment = match node.cell("linux,pci-domain").map(u16::try_from) {
            None => next,
            Some(Ok(segment)) => segment,
            Some(Err(_)) => return self.wrong(node.offset, "PCI host of a segment above 65535, left out"),
        };
        if self.topology.hosts.iter().any(|host| host.segment == segment) {
            self.wrong(node.offset, "second PCI host of its segment");
        }
        let buses = match node.property("bus-range").map(cells).as_deref() {
            None => None,
            Some(&[first, last]) if first <= last && last <= 255 => Some((first as u8, last as u8)),
            Some(_) => {
                self.wrong(node.offset, "bus range that cannot be, left out");
                None
            }
        };
        let ecam = if node.is("pci-host-ecam-generic") { self.registers(index) } else { None };
        let ecam = ecam.and_then(|(base, size)| {
            let last = base.checked_add(size.checked_sub(1)?)?;
            Some(PhysRange { first: Phys(base), last: Phys(last) })
        });
        let ats = node.property("ats-supported").is_some();
        self.topology.hosts.push(Host {
            segment,
            name: self.path(index),
            ecam,
            buses,
            coherent: self.coherent(index),
            ats,
            pri: false,
            pasid_forward: false,
            pasid_bits: 0,
            address_bits: 0,
            offset: node.offset,
        });
        if ats {
            self.topology.ats.push(AtsPorts { segment, all: true, scopes: Vec::new() });
        }
        self.iommu_map(node, segment);
        self.msi_map(node, segment);
    }

    /// Entries of `iommu-map` and `msi-map`: first requester id, phandle, first id there, how many. The id is one cell in both bindings.
    fn map_entries(&mut self, node: &Node<'_>, name: &str) -> Vec<(u32, u32, u32, u32, Option<usize>)> {
        let Some(value) = node.property(name) else { return Vec::new() };
        let value = cells(value);
        let (entries, rest) = value.as_chunks::<4>();
        if !rest.is_empty() {
            self.wrong(node.offset, "map of ids is cut, its last entry is left out");
        }
        let mut list = Vec::new();
        for &[first, phandle, output, length] in entries {
            self.entries += 1;
            if self.entries > MOST_ENTRIES {
                self.wrong(node.offset, "more map entries than can be followed, the rest is left out");
                break;
            }
            let more = length.checked_sub(1);
            let last = more.and_then(|more| first.checked_add(more));
            let fits = more.is_some_and(|more| output.checked_add(more).is_some());
            let reason = match (more, last.filter(|_| fits)) {
                (None, _) => "map of ids has an entry of no length, left out",
                (_, None) => "map of ids passes the last id, left out",
                (_, Some(last)) => {
                    list.push((first, last, phandle, output, self.phandles.get(&phandle).copied()));
                    continue;
                }
            };
            self.wrong(node.offset, reason);
        }
        list
    }

    fn iommu_map(&mut self, node: &Node<'_>, segment: u16) {
        let mask = node.cell("iommu-map-mask").unwrap_or(u32::MAX);
        for (first, last, _, output, to) in self.map_entries(node, "iommu-map") {
            let Some(to) = to else {
                self.wrong(node.offset, "iommu-map points at no node, left out");
                continue;
            };
            let Some(&unit) = self.units.get(&to) else {
                if self.node(to).is_none_or(|to| to.cell("#iommu-cells").is_none()) {
                    self.wrong(node.offset, "iommu-map points at a node that is no IOMMU, left out");
                }
                continue;
            };
            let ids = Ids { source: Source::Pci { segment }, mask, first, last };
            let (settings, offset) = (DteSettings::default(), node.offset);
            if self.streams.put_first(StreamRoute { ids, unit, output: Output::From(output), settings, offset }) {
                self.wrong(node.offset, "iommu-map names ids twice, the first counts");
            }
            if let Some(unit) = self.topology.units.iter_mut().find(|u| u.id == unit) {
                unit.segment = segment;
            }
        }
    }

    fn msi_map(&mut self, node: &Node<'_>, segment: u16) {
        let source = Source::Pci { segment };
        let mask = node.cell("msi-map-mask").unwrap_or(u32::MAX);
        for (first, last, _, output, to) in self.map_entries(node, "msi-map") {
            let Some(&controller) = to.and_then(|to| self.controllers.get(&to)) else {
                self.wrong(node.offset, "msi-map points at no MSI controller, left out");
                continue;
            };
            let ids = Ids { source, mask, first, last };
            if self.messages.put_first(MsiRoute { ids, controller, output: Output::From(output), offset: node.offset })
            {
                self.wrong(node.offset, "msi-map names ids twice, the first counts");
            }
        }
        // Without a map all functions go to the parent under their requester id.
        if node.property("msi-map").is_none()
            && let Some(phandle) = node.cell("msi-parent")
        {
            match self.phandles.get(&phandle).and_then(|to| self.controllers.get(to)) {
                None => self.wrong(node.offset, "msi-parent points at no MSI controller, left out"),
                Some(&controller) => {
                    let ids = Ids { source, mask: u32::MAX, first: 0, last: 0xffff };
                    let route = MsiRoute { ids, controller, output: Output::From(0), offset: node.offset };
                    let _ = self.messages.put_first(route);
                }
            }
        }
    }

    /// A node with `iommus`: phandle and as many cells as the IOMMU asks for, again and again.
    fn device(&mut self, index: usize) {
        let Some(node) = self.node(index) else { return };
        let Some(value) = node.property("iommus") else { return };
        let value = cells(value);
        let mut rest = value.as_slice();
        let place = self.topology.devices.len() as u32;
        self.topology.devices.push(NamedDevice {
            name: self.path(index),
            acpi: None,
            coherent: self.coherent(index),
            address_bits: 0,
            pasid_bits: node.cell("pasid-num-bits").unwrap_or(0).min(20) as u8,
            stall: node.property("dma-can-stall").is_some(),
            offset: node.offset,
        });
        self.devices.insert(index, place);
        let (source, mut id) = (Source::Device(place), 0);
        while let Some((phandle, more)) = rest.split_first() {
            let Some(to) = self.phandles.get(phandle).copied() else {
                self.wrong(node.offset, "iommus points at no node, the rest of it is left out");
                break;
            };
            let Some(width) = self.node(to).and_then(|to| to.cell("#iommu-cells")) else {
                self.wrong(node.offset, "iommus points at a node that is no IOMMU, the rest of it is left out");
                break;
            };
            let Some((arguments, more)) = more.split_at_checked(width as usize) else {
                self.wrong(node.offset, "iommus is cut");
                break;
            };
            rest = more;
            if let (Some(&unit), Some(&stream)) = (self.units.get(&to), arguments.first()) {
                let ids = Ids { source, mask: u32::MAX, first: id, last: id };
                let (settings, offset) = (DteSettings::default(), node.offset);
                let _ =
                    self.streams.put_first(StreamRoute { ids, unit, output: Output::Always(stream), settings, offset });
                id += 1;
            }
        }
        self.device_messages(node, source);
    }

    fn device_messages(&mut self, node: &Node<'_>, source: Source) {
        let Some(value) = node.property("msi-parent").map(cells) else { return };
        let Some((phandle, arguments)) = value.split_first() else { return };
        match self.phandles.get(phandle).and_then(|to| self.controllers.get(to)) {
            None => self.wrong(node.offset, "msi-parent points at no MSI controller, left out"),
            Some(&controller) => {
                let ids = Ids { source, mask: u32::MAX, first: 0, last: 0 };
                let output = Output::Always(arguments.first().copied().unwrap_or(0));
                let _ = self.messages.put_first(MsiRoute { ids, controller, output, offset: node.offset });
            }
        }
    }

    /// `iommu-addresses` of a node below `/reserved-memory`: phandle of a device, address and size as the device sees them.
    fn region(&mut self, index: usize) {
        let Some(node) = self.node(index) else { return };
        let Some(value) = node.property("iommu-addresses") else { return };
        let memory = if node.property("reg").is_some() { self.registers(index) } else { None };
        let value = cells(value);
        let mut rest = value.as_slice();
        while let Some((phandle, more)) = rest.split_first() {
            rest = more;
            let Some(to) = self.phandles.get(phandle).copied() else {
                return self.wrong(node.offset, "iommu-addresses points at no node, the rest of it is left out");
            };
            let (address, size) = self.widths(self.node(to).and_then(|to| to.parent));
            let (Some(base), Some(length)) = (number(&mut rest, address), number(&mut rest, size)) else {
                return self.wrong(node.offset, "iommu-addresses is cut");
            };
            let reason = match (length.checked_sub(1).map(|more| base.checked_add(more)), self.devices.get(&to)) {
                (None, _) => "region of no length, left out",
                (Some(None), _) => "region passes the last address, left out",
                (_, None) => "region of a device that no IOMMU translates for, left out",
                (Some(Some(end)), Some(&device)) => {
                    if base & 0xfff != 0 || end & 0xfff != 0xfff {
                        self.wrong(node.offset, "region is not whole pages, widened");
                    }
                    self.topology.reserved.push(Reserved {
                        range: PhysRange { first: Phys(base & !0xfff), last: Phys(end | 0xfff) },
                        segment: 0,
                        scopes: Vec::new(),
                        targets: [Target::Device(device)].to_vec(),
                        access: Access::READ | Access::WRITE,
                        // Memory at another address was mapped by firmware in its own tables, which are not known here.
                        direct: memory.is_some_and(|(at, size)| at == base && size >= length),
                        why: Why { table: TABLE, offset: node.offset, kind: ReservedKind::IommuAddresses },
                    });
                    continue;
                }
            };
            self.wrong(node.offset, reason);
        }
    }
}

/// Takes a number of `width` cells off the front. Cells above the lowest two must be zero: such addresses (PCI's three cells) are no numbers.
fn number(cells: &mut &[u32], width: usize) -> Option<u64> {
    let (front, rest) = cells.split_at_checked(width)?;
    *cells = rest;
    let (high, low) = front.split_at(width.saturating_sub(2));
    if high.iter().any(|cell| *cell != 0) {
        return None;
    }
    Some(low.iter().fold(0, |sum, cell| sum << 32 | u64::from(*cell)))
}
