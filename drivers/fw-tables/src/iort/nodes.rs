//! What each node says of itself.

use super::{Node, Parser, Role};
use crate::devices::{Counters, CountsFor, Host, NamedDevice, Target, ascii};
use crate::routes::MsiController;
use crate::spec::iort::{
    Kind, MemoryRange, NamedComponent, Node as Header, Pmcg, Rmr, RootComplex, SmmuV2, SmmuV3, Wired,
};
use crate::table::Piece;
use crate::topology::{AtsPorts, Coverage, Proximity, Reserved, ReservedKind, Unit, UnitKind, Why};
use crate::units::{Detail, Interrupt, SmmuInterrupts, SmmuV2 as V2, SmmuV3 as V3};
use alloc::string::String;
use alloc::vec::Vec;
use iommu_types::{Access, Phys, PhysRange, UnitId};
use zerocopy::little_endian::{U16, U32, U64};

/// Two pages of 64 KiB, SMMUv3 architecture section 6.1.
const SMMU_V3_WINDOW: u64 = 0x2_0000;

impl<'a> Parser<'a> {
    /// Gives every node its place in the topology.
    pub(super) fn roles(&mut self) {
        for index in 0..self.nodes.len() {
            self.assign(index, |parser, node| match node.kind {
                Kind::ITS_GROUP => parser.its_group(node),
                Kind::NAMED_COMPONENT => parser.named_component(node),
                Kind::ROOT_COMPLEX => parser.root_complex(node),
                Kind::SMMU_V2 => parser.smmu_v2(node),
                Kind::SMMU_V3 => parser.smmu_v3(node),
                _ => Some(Role::LeftOut),
            });
        }
        // These point at others, so they come after them.
        for index in 0..self.nodes.len() {
            self.assign(index, |parser, node| match node.kind {
                Kind::PMCG => parser.counters(node),
                Kind::RMR => parser.regions(node),
                _ => Some(node.role),
            });
        }
    }

    fn assign(&mut self, index: usize, read: impl Fn(&mut Self, &Node<'a>) -> Option<Role>) {
        let Some(slot) = self.nodes.get_mut(index) else { return };
        // Taken out for the time of the call, so that it can be read while the topology grows.
        let empty = Piece { offset: slot.at, bytes: &[] };
        let node = Node {
            at: slot.at,
            kind: slot.kind,
            revision: slot.revision,
            whole: core::mem::replace(&mut slot.whole, empty),
            fixed: core::mem::replace(&mut slot.fixed, empty),
            maps: core::mem::take(&mut slot.maps),
            role: slot.role,
        };
        let role = read(self, &node).unwrap_or_else(|| {
            self.wrong(node.at, "node shorter than its fixed part, left out");
            Role::LeftOut
        });
        if let Some(slot) = self.nodes.get_mut(index) {
            *slot = Node { role, ..node };
        }
    }

    fn its_group(&mut self, node: &Node<'a>) -> Option<Role> {
        let mut body = node.body();
        let count = body.take::<U32>()?.get() as usize;
        if count > body.bytes.len() / 4 {
            self.wrong(node.at, "more ITSs counted than the group holds");
        }
        let mut its = Vec::new();
        while its.len() < count
            && let Some(id) = body.take::<U32>()
        {
            its.push(id.get());
        }
        if its.is_empty() {
            self.wrong(node.at, "ITS group without an ITS");
        }
        let place = self.topology.msi_controllers.len() as u32;
        let offset = node.at as u32;
        self.topology.msi_controllers.push(MsiController { its, name: String::new(), base: None, offset });
        Some(Role::MsiController(place))
    }

    fn named_component(&mut self, node: &Node<'a>) -> Option<Role> {
        let mut body = node.body();
        let fixed: &NamedComponent = body.take()?;
        if !body.bytes.contains(&0) {
            self.wrong(node.at, "device name without its closing zero");
        }
        let place = self.topology.devices.len() as u32;
        self.topology.devices.push(NamedDevice {
            name: ascii(body.bytes),
            acpi: None,
            coherent: fixed.memory.coherent.get() & 1 != 0,
            address_bits: fixed.address_bits,
            pasid_bits: (fixed.flags.get() >> 1 & 0x1f) as u8,
            stall: fixed.flags.get() & 1 != 0,
            offset: node.at as u32,
        });
        Some(Role::Device(place))
    }

    fn root_complex(&mut self, node: &Node<'a>) -> Option<Role> {
        let fixed: &RootComplex = node.body().take()?;
        let Ok(segment) = u16::try_from(fixed.segment.get()) else {
            self.wrong(node.at, "root complex of a segment above 65535, left out");
            return Some(Role::LeftOut);
        };
        if self.topology.hosts.iter().any(|host| host.segment == segment) {
            self.wrong(node.at, "second root complex of its segment");
        }
        let ats = fixed.ats.get();
        let pasid = node.field::<U32>(36).is_some_and(|flags| flags.get() & 1 != 0);
        let width = node.field::<U16>(33).map_or(0, |field| (field.get() & 0x1f) as u8);
        let place = self.topology.hosts.len() as u32;
        self.topology.hosts.push(Host {
            segment,
            name: String::new(),
            ecam: None,
            buses: None,
            coherent: fixed.memory.coherent.get() & 1 != 0,
            ats: ats & 1 != 0,
            pri: ats & 2 != 0,
            pasid_forward: ats & 4 != 0,
            pasid_bits: if pasid { width } else { 0 },
            address_bits: node.field::<u8>(32).copied().unwrap_or(0),
            offset: node.at as u32,
        });
        if ats & 1 != 0 {
            self.topology.ats.push(AtsPorts { segment, all: true, scopes: Vec::new() });
        }
        Some(Role::Host(place))
    }

    fn smmu_v3(&mut self, node: &Node<'a>) -> Option<Role> {
        let fixed: &SmmuV3 = node.body().take()?;
        let flags = fixed.flags.get();
        let line = |gsiv: U32| (gsiv.get() != 0).then_some(Interrupt { gsiv: gsiv.get(), edge: true });
        let base = fixed.base.get();
        if base & 0xffff != 0 {
            self.wrong(node.at, "SMMUv3 registers do not begin at 64 KiB");
        }
        let detail = Detail::SmmuV3(V3 {
            model: fixed.model.get(),
            coherent: flags & 1 != 0,
            httu_override: (flags >> 1 & 3) as u8,
            vatos: (fixed.vatos.get() != 0).then_some(Phys(fixed.vatos.get())),
            interrupts: SmmuInterrupts {
                event: line(fixed.event),
                pri: line(fixed.pri),
                gerror: line(fixed.gerror),
                sync: line(fixed.sync),
                combined: None,
            },
        });
        let role = self.unit(node, UnitKind::SmmuV3, base, SMMU_V3_WINDOW, detail);
        if flags & 8 != 0
            && role != Role::LeftOut
            && let Some(domain) = node.field::<U32>(60)
        {
            self.topology.proximity.push(Proximity { base: Phys(base), domain: domain.get() });
        }
        Some(role)
    }

    fn smmu_v2(&mut self, node: &Node<'a>) -> Option<Role> {
        let fixed: &SmmuV2 = node.body().take()?;
        let flags = fixed.flags.get();
        let detail = Detail::SmmuV2(V2 {
            model: fixed.model.get(),
            dvm: flags & 1 != 0,
            coherent: flags & 2 != 0,
            // NSgIrpt and NSgCfgIrpt; the second is 0 where there is none.
            global: self.lines(node, fixed.global_offset.get(), 2),
            contexts: self.lines(node, fixed.context_offset.get(), fixed.contexts.get()),
        });
        if fixed.span.get() == 0 {
            self.wrong(node.at, "SMMU whose registers have no length, left out");
            return Some(Role::LeftOut);
        }
        Some(self.unit(node, UnitKind::SmmuV2, fixed.base.get(), fixed.span.get(), detail))
    }

    fn lines(&mut self, node: &Node<'a>, offset: u32, count: u32) -> Vec<Interrupt> {
        let mut rest = node.whole;
        let mut lines = Vec::new();
        if count == 0 || rest.split(offset as usize).is_none() || rest.bytes.len() / 8 < count as usize {
            if count != 0 {
                self.wrong(node.at, "interrupts outside their node, left out");
            }
            return lines;
        }
        for _ in 0..count {
            let Some(wired) = rest.take::<Wired>() else { break };
            if wired.gsiv.get() != 0 {
                lines.push(Interrupt { gsiv: wired.gsiv.get(), edge: wired.flags.get() & 1 != 0 });
            }
        }
        lines
    }

    fn unit(&mut self, node: &Node<'a>, kind: UnitKind, base: u64, size: u64, detail: Detail) -> Role {
        if base == 0 || base == u64::MAX || base & 0xfff != 0 {
            self.wrong(node.at, "unit without a usable register address, left out");
            return Role::LeftOut;
        }
        if base.checked_add(size - 1).is_none() {
            self.wrong(node.at, "unit whose registers pass the last address, left out");
            return Role::LeftOut;
        }
        let Ok(id) = u16::try_from(self.topology.units.len()) else {
            self.wrong(node.at, "more units than can be numbered, left out");
            return Role::LeftOut;
        };
        self.topology.units.push(Unit {
            id: UnitId(id),
            kind,
            base: Phys(base),
            size,
            segment: 0,
            coverage: Coverage::default(),
            detail,
            offset: node.at as u32,
        });
        Role::Unit(UnitId(id))
    }

    fn counters(&mut self, node: &Node<'a>) -> Option<Role> {
        let fixed: &Pmcg = node.body().take()?;
        let of = self.node_at(fixed.of.get() as usize).and_then(|at| self.nodes.get(at)).map(|node| node.role);
        let of = match of {
            Some(Role::Unit(id)) => CountsFor::Unit(id),
            Some(Role::Device(place)) => CountsFor::Device(place),
            Some(Role::Host(place)) => CountsFor::Host(place),
            _ => {
                self.wrong(node.at, "counters of a node that is not there");
                CountsFor::Unknown
            }
        };
        let overflow = fixed.overflow.get();
        let place = self.topology.counters.len() as u32;
        self.topology.counters.push(Counters {
            base: Phys(fixed.base.get()),
            page1: node.field::<U64>(32).map(|page| Phys(page.get())).filter(|page| page.0 != 0),
            overflow: (overflow != 0).then_some(Interrupt { gsiv: overflow, edge: true }),
            of,
            offset: node.at as u32,
        });
        Some(Role::Counters(place))
    }

    fn regions(&mut self, node: &Node<'a>) -> Option<Role> {
        let fixed: &Rmr = node.body().take()?;
        let mut targets = Vec::new();
        for map in &node.maps {
            // Section 3.1.7: the outputs are the streams, whatever the inputs say.
            let to = self.node_at(map.to).and_then(|at| self.nodes.get(at)).map(|to| to.role);
            if let Some(Role::Unit(unit)) = to {
                let last = map.output.saturating_add(map.last - map.first);
                targets.push(Target::Streams { unit, first: map.output, last });
            }
        }
        if targets.is_empty() {
            self.wrong(node.at, "region for no device");
        }
        let mut rest = node.whole;
        let count = fixed.ranges.get() as usize;
        if rest.split(fixed.range_offset.get() as usize).is_none()
            || rest.bytes.len() / size_of::<MemoryRange>() < count
        {
            self.wrong(node.at, "memory ranges outside their node, left out");
            return Some(Role::Region);
        }
        if count == 0 {
            self.wrong(node.at, "reserved range node without a range");
        }
        for _ in 0..count {
            let at = rest.offset;
            let Some(range) = rest.take::<MemoryRange>() else { break };
            let (base, length) = (range.base.get(), range.length.get());
            let Some(more) = length.checked_sub(1) else {
                self.wrong(at, "region of no length, left out");
                continue;
            };
            let Some(end) = base.checked_add(more) else {
                self.wrong(at, "region passes the last address, left out");
                continue;
            };
            if base & 0xfff != 0 || end & 0xfff != 0xfff {
                self.wrong(at, "region is not whole pages, widened");
            } else if base & 0xffff != 0 || end & 0xffff != 0xffff {
                self.wrong(at, "region is not whole pages of 64 KiB");
            }
            self.topology.reserved.push(Reserved {
                range: PhysRange { first: Phys(base & !0xfff), last: Phys(end | 0xfff) },
                segment: 0,
                scopes: Vec::new(),
                targets: targets.clone(),
                access: Access::READ | Access::WRITE,
                direct: true,
                why: Why { table: self.table.signature, offset: at as u32, kind: ReservedKind::Rmr },
            });
        }
        Some(Role::Region)
    }
}

impl<'a> Node<'a> {
    /// What follows the header, up to the mappings.
    fn body(&self) -> Piece<'a> {
        let mut body = self.fixed;
        let _: Option<&Header> = body.take();
        body
    }

    /// A field that only later revisions have, by its offset in the node.
    pub(super) fn field<T>(&self, offset: usize) -> Option<&'a T>
    where
        T: zerocopy::FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned,
    {
        let mut rest = self.fixed;
        rest.split(offset)?;
        rest.take()
    }
}
