//! IOMMU groups: functions that cannot be kept apart, with the reason.
//!
//! Two functions are in one group if they share a requester id, or if one can reach the other without passing the root complex, where the IOMMU is.
//! The rules are those of PCIe 6.0 section 6.12: without access control services a port may send a request straight
//! to a sibling, and a device with several functions may do so inside.

use crate::caps::PortType;
use crate::enumerate::{FunctionInfo, Tree};
use alloc::vec::Vec;
use core::fmt;
use iommu_types::StreamId;

/// Why functions share a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// Alone: nothing below the root complex lets another function reach it.
    Isolated,
    /// The functions of this device can talk to each other inside: it has several and no access control services.
    MultiFunction(StreamId),
    /// This port can send requests back down: its access control services are missing or off.
    PortWithoutAcs(StreamId),
    /// Behind this bridge to conventional PCI all requests carry one requester id.
    SharedRequester(StreamId),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Isolated => write!(f, "isolated"),
            Self::MultiFunction(at) => write!(f, "device {at} has several functions and no ACS"),
            Self::PortWithoutAcs(at) => write!(f, "port {at} has no ACS"),
            Self::SharedRequester(at) => write!(f, "bridge {at} makes all behind it one requester"),
        }
    }
}

/// Functions that can only be given away together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Ascending requester ids.
    pub members: Vec<StreamId>,
    /// Why; [`Reason::Isolated`] alone for a single member.
    pub reasons: Vec<Reason>,
}

/// A requester id under which a function's requests reach the IOMMU.
pub type Alias = StreamId;

impl FunctionInfo {
    /// Can a request of this function, or forwarded by it, reach a peer without the IOMMU seeing it? `None` if not.
    fn leak(&self) -> Option<Reason> {
        let isolates = self.acs.is_some_and(|acs| acs.isolates());
        match self.express.map(|express| express.port) {
            // Conventional PCI is a shared bus; bridges between the two forward what they like.
            None | Some(PortType::ToPci | PortType::FromPci) if self.is_bridge() => {
                Some(Reason::SharedRequester(self.stream))
            }
            Some(PortType::RootPort | PortType::DownstreamPort) => {
                (!isolates).then_some(Reason::PortWithoutAcs(self.stream))
            }
            _ => (self.multi_function && !isolates).then_some(Reason::MultiFunction(device_of(self.stream))),
        }
    }

    /// Can it reach the other functions of its own device?
    fn mixes_inside(&self) -> bool {
        self.multi_function && !self.acs.is_some_and(|acs| acs.isolates())
    }
}

fn device_of(stream: StreamId) -> StreamId {
    StreamId { id: stream.id & !7, ..stream }
}

impl Tree {
    /// The requester ids under which requests of `stream` can reach the IOMMU, its own first: behind a bridge to conventional PCI
    /// the bridge answers for all. All of them need the same translation.
    pub fn aliases(&self, stream: StreamId) -> Vec<Alias> {
        let mut out = Vec::new();
        out.push(stream);
        let Some(function) = self.get(stream) else { return out };
        for bridge in self.above(function) {
            let alias = match (bridge.express.map(|express| express.port), bridge.bridge) {
                // PCI Express to PCI bridge 1.0 section 2.3: the secondary bus, device 0, function 0.
                (Some(PortType::ToPci), Some(buses)) => StreamId::pci(stream.segment, buses.secondary, 0, 0),
                (None | Some(PortType::FromPci), _) => bridge.stream,
                _ => continue,
            };
            if !out.contains(&alias) {
                out.push(alias);
            }
        }
        out
    }
}

/// Sorts all functions into groups. Access control counts as it is switched on now, so call [`enable_acs`](crate::enable_acs) first.
pub fn groups(tree: &Tree) -> Vec<Group> {
    let mut sets = Sets { owner: (0..tree.functions.len()).collect(), links: Vec::new() };
    for (index, function) in tree.functions.iter().enumerate() {
        // Everything from here up to the topmost bridge that leaks is one.
        let above: Vec<&FunctionInfo> = tree.above(function).collect();
        let Some(top) = above.iter().rposition(|bridge| bridge.leak().is_some()) else {
            sets.join_siblings(tree, index, function);
            continue;
        };
        let mut parent = function.parent;
        for bridge in above.iter().take(top + 1) {
            let Some(to) = parent else { break };
            sets.join(index, to, bridge.leak());
            parent = bridge.parent;
        }
        sets.join_siblings(tree, index, function);
    }
    sets.groups(tree)
}

fn same_device(a: &FunctionInfo, b: &FunctionInfo) -> bool {
    a.parent == b.parent && device_of(a.stream) == device_of(b.stream)
}

struct Sets {
    owner: Vec<usize>,
    links: Vec<(usize, Reason)>,
}

impl Sets {
    fn root(&self, mut index: usize) -> usize {
        // Owners only ever point to smaller indices, so this ends.
        while let Some(&owner) = self.owner.get(index) {
            if owner >= index {
                break;
            }
            index = owner;
        }
        index
    }

    fn join_siblings(&mut self, tree: &Tree, index: usize, function: &FunctionInfo) {
        if !function.mixes_inside() {
            return;
        }
        let siblings = tree.functions.iter().enumerate().skip(index + 1);
        for (other, _) in siblings.filter(|(_, other)| same_device(function, other) && other.mixes_inside()) {
            self.join(index, other, Some(Reason::MultiFunction(device_of(function.stream))));
        }
    }

    fn join(&mut self, a: usize, b: usize, reason: Option<Reason>) {
        let (a, b) = (self.root(a), self.root(b));
        self.links.extend(reason.map(|reason| (a, reason)));
        if let Some(slot) = self.owner.get_mut(a.max(b)) {
            *slot = a.min(b);
        }
    }

    fn groups(self, tree: &Tree) -> Vec<Group> {
        let mut out: Vec<(usize, Group)> = Vec::new();
        for (index, function) in tree.functions.iter().enumerate() {
            let root = self.root(index);
            match out.iter_mut().find(|(key, _)| *key == root) {
                Some((_, group)) => group.members.push(function.stream),
                None => {
                    let links = self.links.iter().filter(|(at, _)| self.root(*at) == root);
                    let mut reasons: Vec<Reason> = links.map(|(_, reason)| *reason).collect();
                    reasons.sort_unstable();
                    reasons.dedup();
                    if reasons.is_empty() {
                        reasons.push(Reason::Isolated);
                    }
                    out.push((root, Group { members: alloc::vec![function.stream], reasons }));
                }
            }
        }
        for (_, group) in &mut out {
            group.members.sort_unstable_by_key(|member| member.id);
        }
        out.into_iter().map(|(_, group)| group).collect()
    }
}
