//! Which functions there are.

use crate::caps::{
    Acs, Capability, Express, MessageInterrupts, PortType, SrIov, capabilities, extended_capabilities, find,
};
use crate::config::ConfigSpace;
use crate::spec::{cap, express, ext, header};
use alloc::vec::Vec;
use core::fmt;
use device_api::Ids;
use iommu_types::StreamId;

/// Buses behind a bridge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buses {
    /// First.
    pub secondary: u8,
    /// Last, included.
    pub subordinate: u8,
}

/// One function as found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FunctionInfo {
    /// Its requester id.
    pub stream: StreamId,
    /// Its identity.
    pub ids: Ids,
    /// Function 0 of its device says that there are more.
    pub multi_function: bool,
    /// Header type, 0 or 1; others were left out.
    pub header_type: u8,
    /// Buses behind it, if it is a bridge whose numbers make sense.
    pub bridge: Option<Buses>,
    /// Index in [`Tree::functions`] of the bridge it is behind.
    pub parent: Option<usize>,
    /// PCI Express capability; without one it is conventional PCI.
    pub express: Option<Express>,
    /// MSI and MSI-X.
    pub messages: MessageInterrupts,
    /// Offset of the Advanced Features capability (function level reset of conventional PCI).
    pub advanced: Option<u16>,
    /// Access control services.
    pub acs: Option<Acs>,
    /// Virtual functions.
    pub sriov: Option<SrIov>,
    /// Offset of the ATS capability.
    pub ats: Option<u16>,
    /// Offset of the PASID capability.
    pub pasid: Option<u16>,
    /// Offset of the ARI capability.
    pub ari: Option<u16>,
    /// All capabilities below 0x100.
    pub capabilities: Vec<Capability>,
    /// All extended capabilities.
    pub extended: Vec<Capability>,
}

impl FunctionInfo {
    /// Is it a PCI-to-PCI bridge?
    pub fn is_bridge(&self) -> bool {
        self.header_type == 1
    }
    /// Bytes of configuration space that answer.
    pub fn config_len(&self) -> u16 {
        if self.express.is_some() || !self.extended.is_empty() { 4096 } else { 256 }
    }
    /// BARs its header has room for.
    pub fn bar_count(&self) -> u8 {
        if self.is_bridge() { 2 } else { 6 }
    }
}

/// Something wrong with a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The function.
    pub stream: StreamId,
    /// What is wrong.
    pub reason: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pci {}: {}", self.stream, self.reason)
    }
}

/// The functions of a segment, ascending by the order in which buses were reached; parents before children.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tree {
    /// The functions.
    pub functions: Vec<FunctionInfo>,
    /// What looked wrong.
    pub findings: Vec<Finding>,
}

impl Tree {
    /// The function with this requester id.
    pub fn get(&self, stream: StreamId) -> Option<&FunctionInfo> {
        self.functions.iter().find(|function| function.stream == stream)
    }
    /// Buses behind a bridge.
    pub fn buses(&self, bridge: StreamId) -> Option<Buses> {
        self.get(bridge)?.bridge
    }
    /// The physical function of a virtual one that is switched on.
    pub fn physical_function(&self, stream: StreamId) -> Option<StreamId> {
        self.functions
            .iter()
            .find(|function| function.sriov.is_some_and(|vfs| vfs.streams(function.stream).any(|vf| vf == stream)))
            .map(|function| function.stream)
    }
    /// The bridges above a function, nearest first.
    pub fn above<'a>(&'a self, function: &'a FunctionInfo) -> impl Iterator<Item = &'a FunctionInfo> {
        // Parents come before children, so the chain ends.
        core::iter::successors(function.parent.and_then(|p| self.functions.get(p)), |bridge| {
            bridge.parent.and_then(|p| self.functions.get(p))
        })
    }
}

/// Finds every function of `segment` on the buses `first..=last` of its window: from bus `first` through bridges, then any bus that no
/// bridge leads to (further root buses). Reads only.
pub fn enumerate(config: &dyn ConfigSpace, segment: u16, first: u8, last: u8) -> Tree {
    let mut scan = Scan { config, segment, last, tree: Tree::default(), seen: [false; 256] };
    for root in first..=last {
        scan.bus(root, None);
    }
    scan.tree
}

struct Scan<'a> {
    config: &'a dyn ConfigSpace,
    segment: u16,
    last: u8,
    tree: Tree,
    seen: [bool; 256],
}

impl Scan<'_> {
    /// Scans a bus and, without recursion, all buses behind it.
    fn bus(&mut self, bus: u8, parent: Option<usize>) {
        let mut todo = Vec::new();
        todo.push((bus, parent));
        while let Some((bus, parent)) = todo.pop() {
            match self.seen.get_mut(usize::from(bus)) {
                Some(seen) if !*seen => *seen = true,
                _ => continue,
            }
            let start = self.tree.functions.len();
            self.devices(bus, parent);
            for index in (start..self.tree.functions.len()).rev() {
                if let Some(buses) = self.tree.functions.get(index).and_then(|f| f.bridge) {
                    todo.push((buses.secondary, Some(index)));
                }
            }
        }
    }

    fn devices(&mut self, bus: u8, parent: Option<usize>) {
        let above = parent.and_then(|p| self.tree.functions.get(p));
        let above_express = above.and_then(|bridge| bridge.express.map(|express| (bridge.stream, express)));
        // Section 7.3.1: a port leads to one device, number 0.
        let single = above_express
            .is_some_and(|(_, express)| matches!(express.port, PortType::RootPort | PortType::DownstreamPort));
        let ari = single
            && above_express.is_some_and(|(port, express)| {
                self.config.read16(port, express.offset + express::DEVICE_CONTROL2) & express::ARI_FORWARDING != 0
            });
        for device in 0..if single { 1 } else { 32 } {
            let zero = StreamId::pci(self.segment, bus, device, 0);
            let Some(index) = self.function(zero, parent, None) else { continue };
            let Some(found) = self.tree.functions.get(index) else { continue };
            let (multi, chain) = (found.multi_function, found.ari.filter(|_| ari));
            if let Some(offset) = chain {
                self.ari_chain(zero, offset, parent);
            } else if multi {
                for function in 1..8 {
                    self.function(StreamId::pci(self.segment, bus, device, function), parent, Some(true));
                }
            }
        }
    }

    /// Section 7.8.7: each function names the next one; numbers ascend, or the chain is broken.
    fn ari_chain(&mut self, zero: StreamId, mut offset: u16, parent: Option<usize>) {
        let mut at = zero;
        loop {
            let next = self.config.read8(at, offset + 5);
            if next == 0 {
                return;
            }
            if next <= at.devfn() {
                return self.wrong(at, "next function number does not ascend");
            }
            at = StreamId { segment: zero.segment, id: zero.id & 0xff00 | u32::from(next) };
            let Some(index) = self.function(at, parent, Some(true)) else { return };
            match self.tree.functions.get(index).and_then(|f| f.ari) {
                Some(next) => offset = next,
                None => return,
            }
        }
    }

    fn wrong(&mut self, stream: StreamId, reason: &'static str) {
        self.tree.findings.push(Finding { stream, reason });
    }

    /// Adds the function at `at` if there is one; `multi` is what function 0 said.
    fn function(&mut self, at: StreamId, parent: Option<usize>, multi: Option<bool>) -> Option<usize> {
        let config = self.config;
        let id = config.read32(at, header::ID);
        if id & 0xffff == 0xffff || id & 0xffff == 0 {
            return None;
        }
        let kind = config.read8(at, header::TYPE);
        let header_type = kind & 0x7f;
        if header_type > 1 {
            self.wrong(at, "header of unknown type, left out");
            return None;
        }
        let class = config.read32(at, header::CLASS);
        let (list, sound) = capabilities(config, at);
        if !sound {
            self.wrong(at, "capability list is broken, read as far as it goes");
        }
        let express = Express::read(config, at, &list);
        let extended = if express.is_some() {
            let (extended, sound) = extended_capabilities(config, at);
            if !sound {
                self.wrong(at, "extended capability list is broken, read as far as it goes");
            }
            extended
        } else {
            Vec::new()
        };
        let subsystem = if header_type == 0 { config.read32(at, header::SUBSYSTEM) } else { 0 };
        let bridge = if header_type == 1 { self.bridge(at, parent) } else { None };
        self.tree.functions.push(FunctionInfo {
            stream: at,
            ids: Ids {
                vendor: id as u16,
                device: (id >> 16) as u16,
                subsystem_vendor: subsystem as u16,
                subsystem: (subsystem >> 16) as u16,
                revision: class as u8,
                class: class >> 8,
            },
            multi_function: multi.unwrap_or(kind & 0x80 != 0),
            header_type,
            bridge,
            parent,
            express,
            messages: MessageInterrupts::read(config, at, &list),
            advanced: find(&list, cap::ADVANCED.into()),
            acs: Acs::read(config, at, &extended),
            sriov: SrIov::read(config, at, &extended),
            ats: find(&extended, ext::ATS),
            pasid: find(&extended, ext::PASID),
            ari: find(&extended, ext::ARI),
            capabilities: list,
            extended,
        });
        Some(self.tree.functions.len() - 1)
    }

    /// The bus numbers of a bridge, if they lead forward, inside the range of the bridge above, to buses nobody else leads to.
    fn bridge(&mut self, at: StreamId, parent: Option<usize>) -> Option<Buses> {
        let raw = self.config.read32(at, header::BUSES);
        let buses = Buses { secondary: (raw >> 8) as u8, subordinate: (raw >> 16) as u8 };
        if buses.secondary == 0 && buses.subordinate == 0 {
            self.wrong(at, "bridge without bus numbers, not followed");
            return None;
        }
        let outer = parent.and_then(|p| self.tree.functions.get(p)).and_then(|f| f.bridge);
        let inside = outer.is_none_or(|o| buses.secondary > o.secondary && buses.subordinate <= o.subordinate);
        let taken =
            self.tree.functions.iter().filter_map(|f| f.bridge.map(|b| (f.parent, b))).any(|(other, b)| {
                other == parent && b.secondary <= buses.subordinate && buses.secondary <= b.subordinate
            });
        let seen = self.seen.get(usize::from(buses.secondary)).is_none_or(|seen| *seen);
        let reason = if buses.secondary <= at.bus() || buses.subordinate < buses.secondary {
            "bridge leads backwards, not followed"
        } else if !inside || buses.subordinate > self.last {
            "bridge leads past the range of the bridge above, not followed"
        } else if taken || seen {
            "bridge leads to buses of another bridge, not followed"
        } else {
            return Some(buses);
        };
        self.wrong(at, reason);
        None
    }
}
