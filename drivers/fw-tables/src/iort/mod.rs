//! IORT (Arm DEN 0049 issue E.f) to [`Topology`].
//!
//! `nodes` reads what each node says of itself, `follow` goes along the id mappings between them. Node sizes come from
//! the length fields, never from the table's revision: real tables say revision 0 whatever is in them.

mod follow;
mod nodes;

use crate::check;
use crate::spec::iort::{Head, Kind, Mapping, Node as Header};
use crate::table::{Piece, Table};
use crate::topology::{Finding, Note, Topology};
use alloc::vec::Vec;
use iommu_types::{Error, UnitId};

const HEADER: usize = 36;
const FIXED: usize = 48;
const NODE: usize = 16;
const MAPPING: usize = 20;

/// HiSilicon Hip07 and Hip08 tables of OEM revision 0 count ids instead of ids minus one.
pub const QUIRK_ID_COUNT: &str = "hisi-id-count";

/// Reads an IORT table. `bytes` begin at the table's signature and may go on behind its end.
///
/// Nodes of unknown type are skipped with a [`Note`]; known ones that are cut or contradict themselves are left out with
/// a [`Finding`], and so are id mappings that point nowhere, overlap (the first counts) or go in a loop.
///
/// # Errors
/// [`Error::Firmware`] if this is no IORT, if it runs past `bytes`, or if a node has a length that does not let the walk go on: what
/// follows it is unknown then, and a unit could be among it.
pub fn parse_iort(bytes: &[u8]) -> Result<Topology, Error> {
    let table = Table::new(bytes, *b"IORT", FIXED)?;
    let mut rest = Piece { offset: HEADER, bytes: table.bytes.get(HEADER..).unwrap_or(&[]) };
    let head: &Head = rest.take().ok_or(Error::Firmware(table.at(HEADER, "cut in the fixed part")))?;
    let mut parser = Parser {
        topology: Topology::new(table.signature, table.revision, table.oem),
        table: &table,
        nodes: Vec::new(),
        id_count: false,
    };
    if !table.checksum_right {
        parser.wrong(9, "checksum is wrong");
    }
    let oem = table.oem;
    if &oem.id == b"HISI  " && matches!(&oem.table, b"HIP07   " | b"HIP08   ") && oem.revision == 0 {
        parser.id_count = true;
        parser.topology.quirks.push(QUIRK_ID_COUNT);
    }
    let first = head.first.get() as usize;
    if first < FIXED {
        return Err(Error::Firmware(table.at(40, "nodes begin inside the fixed part")));
    }
    let nodes = table.bytes.get(first..).ok_or(Error::Firmware(table.at(40, "nodes begin behind the table")))?;
    let mut rest = Piece { offset: first, bytes: nodes };
    let mut left = head.nodes.get();
    while left > 0 {
        let at = rest.offset;
        if rest.bytes.is_empty() {
            parser.wrong(HEADER, "more nodes counted than there are");
            break;
        }
        let fail = |reason| Error::Firmware(table.at(at, reason));
        let mut peek = rest;
        let head: &Header = peek.take().ok_or(fail("cut in a node header"))?;
        let length = usize::from(head.length.get());
        if length < NODE {
            return Err(fail("node length below its header"));
        }
        let whole = rest.split(length).ok_or(fail("node runs past the table"))?;
        parser.node(at, head, whole);
        left -= 1;
    }
    if !rest.bytes.is_empty() {
        parser.wrong(rest.offset, "bytes behind the last node");
    }
    parser.roles();
    parser.point();
    follow::follow(&mut parser);
    let mut topology = parser.topology;
    check::arm(&mut topology);
    Ok(topology)
}

/// An id mapping that can be used.
#[derive(Clone, Copy)]
struct Map {
    at: usize,
    /// Its place among the mappings of its node, with those that were left out.
    place: u32,
    first: u32,
    last: u32,
    output: u32,
    to: usize,
    single: bool,
}

/// What a node became in the topology; the number is its place there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    MsiController(u32),
    Unit(UnitId),
    Device(u32),
    Host(u32),
    Counters(u32),
    Region,
    LeftOut,
}

struct Node<'a> {
    at: usize,
    kind: Kind,
    revision: u8,
    whole: Piece<'a>,
    /// Up to the mappings, if there are any: fields behind that do not exist.
    fixed: Piece<'a>,
    maps: Vec<Map>,
    role: Role,
}

struct Parser<'a> {
    topology: Topology,
    table: &'a Table<'a>,
    nodes: Vec<Node<'a>>,
    id_count: bool,
}

impl<'a> Parser<'a> {
    fn wrong(&mut self, offset: usize, reason: &'static str) {
        self.topology.findings.push(Finding(self.table.at(offset, reason)));
    }

    /// The node that begins at an offset of the table.
    fn node_at(&self, offset: usize) -> Option<usize> {
        self.nodes.binary_search_by_key(&offset, |node| node.at).ok()
    }

    fn node(&mut self, at: usize, head: &Header, whole: Piece<'a>) {
        let kind = Kind(head.kind);
        let (count, offset) = (head.mappings.get() as usize, head.mapping_offset.get() as usize);
        let mut node =
            Node { at, kind, revision: head.revision, whole, fixed: whole, maps: Vec::new(), role: Role::LeftOut };
        if kind.0 > Kind::RMR.0 {
            let at = self.table.at(at, "node of unknown type");
            self.topology.notes.push(Note { at, kind: head.kind.into() });
        } else if count > 0 {
            if offset < NODE || offset > whole.bytes.len() {
                self.wrong(at, "id mappings outside their node, left out");
            } else {
                let (mut front, mut maps) = (whole, whole);
                if let Some(fixed) = front.split(offset) {
                    node.fixed = fixed;
                }
                let _: Option<Piece<'_>> = maps.split(offset);
                self.mappings(&mut node, maps, count);
            }
        }
        self.nodes.push(node);
    }

    fn mappings(&mut self, node: &mut Node<'a>, mut rest: Piece<'a>, count: usize) {
        if count > rest.bytes.len() / MAPPING {
            self.wrong(node.at, "more id mappings counted than the node holds");
        }
        for place in 0..count as u32 {
            let at = rest.offset;
            let Some(map) = rest.take::<Mapping>() else { break };
            let single = map.flags.get() & 1 != 0;
            // The field holds the number of ids minus one; of a single mapping it says nothing.
            let more = match (single, self.id_count) {
                (true, _) => 0,
                (_, true) => map.count.get().saturating_sub(1),
                _ => map.count.get(),
            };
            let first = if single { 0 } else { map.input.get() };
            let (Some(last), Some(_)) = (first.checked_add(more), map.output.get().checked_add(more)) else {
                self.wrong(at, "id mapping passes the last id, left out");
                continue;
            };
            let to = map.reference.get() as usize;
            node.maps.push(Map { at, place, first, last, output: map.output.get(), to, single });
        }
    }

    /// Drops mappings that point at nothing that takes ids, and tells of those that cannot be right.
    fn point(&mut self) {
        for index in 0..self.nodes.len() {
            let Some(node) = self.nodes.get(index) else { break };
            let (kind, role) = (node.kind, node.role);
            let mut kept = Vec::new();
            let mut wrong = Vec::new();
            for map in &node.maps {
                let to = self.node_at(map.to).and_then(|at| self.nodes.get(at)).map(|to| (to.kind, to.role));
                let reason = match to {
                    None => "id mapping points at no node, left out",
                    Some((_, Role::LeftOut)) => "id mapping points at a node that is left out, left out too",
                    Some((_, Role::MsiController(_))) if role == Role::Region => {
                        "reserved range for an interrupt controller, left out"
                    }
                    Some((_, Role::Unit(_))) if matches!(role, Role::Unit(_)) => {
                        kept.push(*map);
                        "id mapping from one SMMU into another"
                    }
                    Some((_, Role::Unit(_) | Role::MsiController(_))) => {
                        kept.push(*map);
                        continue;
                    }
                    Some(_) => "id mapping points at a node that takes no ids, left out",
                };
                wrong.push((map.at, reason));
            }
            let mut ranges: Vec<_> = kept.iter().filter(|map| !map.single).map(|m| (m.first, m.last, m.at)).collect();
            ranges.sort_unstable();
            // The streams of reserved ranges are in the outputs; their inputs say nothing.
            if kind != Kind::RMR {
                for (before, after) in ranges.iter().zip(ranges.iter().skip(1)) {
                    if after.0 <= before.1 {
                        wrong.push((before.2.max(after.2), "id mappings of one node overlap, the first counts"));
                    }
                }
            }
            if kind == Kind::ITS_GROUP && !kept.is_empty() {
                wrong.push((kept.first().map_or(0, |map| map.at), "id mapping out of an interrupt controller"));
                kept.clear();
            }
            if let Some(node) = self.nodes.get_mut(index) {
                node.maps = kept;
            }
            for (at, reason) in wrong {
                self.wrong(at, reason);
            }
        }
    }
}
