//! Along the id mappings: from a requester to its SMMU, and on to the controller that takes its messages.

use super::{Map, Node, Parser, Role};
use crate::routes::{DteSettings, Ids, MsiRoute, Output, Source, StreamRoute};
use crate::routeset::RouteSet;
use crate::spec::iort::Kind;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use iommu_types::UnitId;
use zerocopy::little_endian::U32;

/// Device, SMMU, ITS group is the longest chain of the specification; one more is followed and reported.
const LONGEST: usize = 4;
/// More pieces than this are no table of a machine.
const MOST_PIECES: usize = 1 << 14;

/// A run of ids under way.
#[derive(Clone, Copy)]
struct Way {
    source: Source,
    /// The ids of the source.
    from: u32,
    to: u32,
    /// What became of them; a single id for all of them if `always`.
    first: u32,
    last: u32,
    always: bool,
    /// An SMMU has translated for them already.
    translated: bool,
    steps: usize,
}

struct Follower<'p, 'a> {
    parser: &'p mut Parser<'a>,
    streams: RouteSet<StreamRoute>,
    messages: RouteSet<MsiRoute>,
    pieces: usize,
}

pub fn follow(parser: &mut Parser<'_>) {
    loops(parser);
    let starts: Vec<usize> = (0..parser.nodes.len()).collect();
    let mut follower = Follower { parser, streams: RouteSet::new(), messages: RouteSet::new(), pieces: 0 };
    for index in starts {
        follower.start(index);
    }
    let (streams, messages) = (follower.streams.into_vec(), follower.messages.into_vec());
    if follower.pieces > MOST_PIECES {
        parser.wrong(0, "more id ranges than can be followed, the rest is left out");
    }
    // The segment of an SMMU is that of the first host behind it.
    let mut segments = BTreeMap::new();
    for route in &streams {
        if let Source::Pci { segment } = route.ids.source {
            segments.entry(route.unit.0).or_insert(segment);
        }
    }
    for unit in &mut parser.topology.units {
        unit.segment = segments.get(&unit.id.0).copied().unwrap_or(0);
    }
    parser.topology.streams = streams;
    parser.topology.messages = messages;
}

/// Reports nodes whose mappings never end: what remains when all that do are taken away, last first.
fn loops(parser: &mut Parser<'_>) {
    let nodes = &parser.nodes;
    let targets: Vec<Vec<usize>> =
        nodes.iter().map(|node| node.maps.iter().filter_map(|map| parser.node_at(map.to)).collect()).collect();
    let mut into = vec![Vec::new(); nodes.len()];
    let mut left: Vec<usize> = targets.iter().map(Vec::len).collect();
    for (from, list) in targets.iter().enumerate() {
        for &to in list {
            if let Some(sources) = into.get_mut(to) {
                sources.push(from);
            }
        }
    }
    let mut done: Vec<usize> = left.iter().enumerate().filter(|(_, left)| **left == 0).map(|(at, _)| at).collect();
    while let Some(node) = done.pop() {
        for &from in into.get(node).into_iter().flatten() {
            if let Some(count) = left.get_mut(from) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    done.push(from);
                }
            }
        }
    }
    let endless: Vec<usize> =
        nodes.iter().zip(&left).filter(|(node, left)| **left > 0 && is_unit(node)).map(|(node, _)| node.at).collect();
    for at in endless {
        parser.wrong(at, "id mappings go in a loop");
    }
}

fn is_unit(node: &Node<'_>) -> bool {
    matches!(node.role, Role::Unit(_))
}

impl<'a> Follower<'_, 'a> {
    /// The mappings of a node, one by one, so that routes and findings can be added meanwhile.
    fn map(&self, node: usize, at: usize) -> Option<Map> {
        self.parser.nodes.get(node)?.maps.get(at).copied()
    }

    fn start(&mut self, index: usize) {
        let Some(node) = self.parser.nodes.get(index) else { return };
        let role = node.role;
        match role {
            Role::Host(place) => {
                let Some(segment) = self.parser.topology.hosts.get(place as usize).map(|host| host.segment) else {
                    return;
                };
                for map in (0..).map_while(|at| self.map(index, at)).collect::<Vec<_>>() {
                    if !map.single && map.last > 0xffff {
                        self.parser.wrong(map.at, "ids above ffff, which no PCI function has");
                    }
                    // A single mapping stands for all functions.
                    let (from, to) = if map.single { (0, 0xffff) } else { (map.first, map.last) };
                    self.leave(Source::Pci { segment }, from, to, &map);
                }
            }
            Role::Device(place) => {
                // Each single mapping is one more stream, or one more message id, of the device.
                let (mut streams, mut messages) = (0, 0);
                for map in (0..).map_while(|at| self.map(index, at)).collect::<Vec<_>>() {
                    if !map.single {
                        self.leave(Source::Device(place), map.first, map.last, &map);
                        continue;
                    }
                    let to_unit =
                        self.parser.node_at(map.to).and_then(|at| self.parser.nodes.get(at)).is_some_and(is_unit);
                    let next = if to_unit { &mut streams } else { &mut messages };
                    let id = *next;
                    *next += 1;
                    self.leave(Source::Device(place), id, id, &map);
                }
            }
            Role::Counters(place) => {
                if let Some(map) = self.map(index, 0) {
                    self.leave(Source::Counters(place), 0, 0, &Map { single: true, ..map });
                }
            }
            Role::Unit(unit) => self.own_messages(index, unit),
            Role::MsiController(_) | Role::Region | Role::LeftOut => {}
        }
    }

    /// The mapping of an SMMUv3's own messages: by index; valid by flag since revision 5, before that unless all interrupts are wired.
    fn own_messages(&mut self, index: usize, unit: UnitId) {
        let Some(node) = self.parser.nodes.get(index).filter(|node| node.kind == Kind::SMMU_V3) else { return };
        let word = |offset| node.field::<U32>(offset).map(|field| field.get());
        let wired = [44, 48, 52, 56].iter().all(|offset| word(*offset).is_some_and(|gsiv| gsiv != 0));
        let valid = match node.revision {
            0 => false,
            1..=4 => !wired,
            5.. => word(24).is_some_and(|flags| flags & 0x10 != 0),
        };
        let Some(at) = word(64).filter(|_| valid) else { return };
        let (place, single) = (node.at, node.maps.iter().any(|map| map.single));
        match node.maps.iter().find(|map| map.place == at).copied() {
            Some(map) if map.single => self.leave(Source::Unit(unit), 0, 0, &map),
            // Index 0 of a table that has no such mapping: firmware left the field alone.
            _ if at == 0 && !single => {}
            _ => self.parser.wrong(place, "mapping index does not lead to a single mapping"),
        }
    }

    /// Ids of a source go out by one of its own mappings.
    fn leave(&mut self, source: Source, from: u32, to: u32, map: &Map) {
        let way = Way {
            source,
            from,
            to,
            first: map.output,
            last: if map.single { map.output } else { map.output.saturating_add(map.last - map.first) },
            always: map.single,
            translated: matches!(source, Source::Unit(_)),
            steps: 0,
        };
        self.arrive(way, map);
    }

    /// Ids arrive where a mapping points.
    fn arrive(&mut self, way: Way, map: &Map) {
        self.pieces += 1;
        if self.pieces > MOST_PIECES || way.steps > LONGEST {
            return;
        }
        let Some(index) = self.parser.node_at(map.to) else { return };
        let Some(role) = self.parser.nodes.get(index).map(|node| node.role) else { return };
        let ids = Ids { source: way.source, mask: u32::MAX, first: way.from, last: way.to };
        let output = if way.always { Output::Always(way.first) } else { Output::From(way.first) };
        let offset = map.at as u32;
        match role {
            Role::MsiController(controller) => {
                let twice = self.messages.put_first(MsiRoute { ids, controller, output, offset });
                if twice && matches!(way.source, Source::Pci { .. }) && way.steps == 0 {
                    self.parser.wrong(map.at, "message ids of a segment mapped twice, the first counts");
                }
            }
            Role::Unit(unit) => {
                if !way.translated {
                    let settings = DteSettings::default();
                    let twice = self.streams.put_first(StreamRoute { ids, unit, output, settings, offset });
                    if twice && matches!(way.source, Source::Pci { .. }) {
                        self.parser.wrong(map.at, "ids of a segment mapped twice, the first counts");
                    }
                }
                let mut at = 0;
                while let Some(next) = self.map(index, at) {
                    at += 1;
                    if !next.single {
                        self.pass(Way { translated: true, steps: way.steps + 1, ..way }, &next);
                    }
                }
            }
            _ => {}
        }
    }

    /// The part of a run that a mapping of an SMMU takes goes on.
    fn pass(&mut self, way: Way, map: &Map) {
        let (first, last) = (way.first.max(map.first), way.last.min(map.last));
        if first > last {
            return;
        }
        let onward = |id: u32| map.output.saturating_add(id.saturating_sub(map.first));
        let (from, to) = if way.always {
            (way.from, way.to)
        } else {
            let at = |id: u32| way.from.saturating_add(id.saturating_sub(way.first));
            (at(first), at(last))
        };
        self.arrive(Way { from, to, first: onward(first), last: onward(last), ..way }, map);
    }
}
