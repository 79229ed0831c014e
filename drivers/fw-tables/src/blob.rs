//! Bounds checks before a device tree blob goes to the `fdt` crate, which takes offsets, lengths and tags as they come and
//! panics on wrong ones. Devicetree specification 0.4, chapter 5.

use alloc::vec::Vec;
use fdt::Fdt;
use fdt::node::FdtNode;
use iommu_types::{At, Error};

pub const TABLE: [u8; 4] = *b"fdt ";
const MAGIC: u32 = 0xd00d_feed;
const HEADER: usize = 40;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;
/// The crate recurses over nodes, and so does nothing else here: deeper trees are no machine's.
const DEEPEST: usize = 32;
/// Longest name; the specification allows 31 bytes.
const LONGEST: usize = 255;

/// An error location in a blob.
pub fn at(offset: usize, reason: &'static str) -> At {
    At { table: TABLE, offset: offset as u32, reason }
}

fn fail(offset: usize, reason: &'static str) -> Error {
    Error::Firmware(at(offset, reason))
}

/// A blob that was checked: the crate can walk it.
pub struct Blob {
    bytes: Vec<u8>,
    /// Where each node begins in the blob as it came, depth first.
    offsets: Vec<u32>,
    pub version: u8,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Length of the string at the front.
fn end_of(text: &[u8]) -> Option<usize> {
    text.iter().take(LONGEST + 1).position(|byte| *byte == 0)
}

impl Blob {
    /// Checks header, structure block and every string that the structure block names. Copies the blob without the NOP tags of its structure
    /// block: the crate does not see what follows one between two properties.
    pub fn new(bytes: &[u8]) -> Result<Self, Error> {
        let field = |index: usize| word(bytes, 4 * index).ok_or(fail(0, "shorter than a header"));
        if field(0)? != MAGIC {
            return Err(fail(0, "another magic number"));
        }
        let total = field(1)? as usize;
        let bytes = bytes.get(..total).ok_or(fail(4, "total size past the memory that holds the blob"))?;
        if total < HEADER {
            return Err(fail(4, "total size below the header"));
        }
        let (version, compatible) = (field(5)?, field(6)?);
        if version < 17 || compatible > 17 {
            return Err(fail(20, "version of the format is not 17 or compatible"));
        }
        let block = |offset: usize, size: usize, reason| -> Result<&[u8], Error> {
            let (from, length) = (field(offset)? as usize, field(size)? as usize);
            let to = from.checked_add(length).ok_or(fail(4 * size, reason))?;
            if from < HEADER {
                return Err(fail(4 * offset, reason));
            }
            bytes.get(from..to).ok_or(fail(4 * size, reason))
        };
        let structure = block(2, 9, "structure block outside the blob")?;
        let strings = block(3, 8, "strings block outside the blob")?;
        let base = field(2)? as usize;
        if !base.is_multiple_of(4) {
            return Err(fail(8, "structure block is not aligned"));
        }
        let mut walk = Walk { structure, strings, base, at: 0, kept: Vec::new(), offsets: Vec::new() };
        walk.tree()?;
        // Header, strings, structure: without memory reservations, which the crate reads only when asked.
        let mut copy = Vec::with_capacity(HEADER + strings.len() + walk.kept.len() + 4);
        let start = (HEADER + strings.len()).next_multiple_of(4);
        let size = start + walk.kept.len();
        let header = [MAGIC, size as u32, start as u32, HEADER as u32, size as u32, 17, 16, 0];
        copy.extend(header.iter().flat_map(|word| word.to_be_bytes()));
        copy.extend((strings.len() as u32).to_be_bytes());
        copy.extend((walk.kept.len() as u32).to_be_bytes());
        copy.extend_from_slice(strings);
        copy.resize(start, 0);
        copy.extend_from_slice(&walk.kept);
        Ok(Self { bytes: copy, offsets: walk.offsets, version: version.min(255) as u8 })
    }

    /// All nodes, parents before their children.
    pub fn nodes(&self) -> Result<Vec<Node<'_>>, Error> {
        let tree = Fdt::new(&self.bytes).map_err(|_| fail(0, "header that the fdt crate does not take"))?;
        let root = tree.find_node("/").ok_or(fail(0, "no root node"))?;
        let mut nodes = Vec::new();
        self.add(&mut nodes, None, root);
        Ok(nodes)
    }

    fn add<'a>(&self, nodes: &mut Vec<Node<'a>>, parent: Option<usize>, node: FdtNode<'_, 'a>) {
        let index = nodes.len();
        let offset = self.offsets.get(index).copied().unwrap_or(0);
        let properties = node.properties().map(|property| (property.name, property.value)).collect();
        nodes.push(Node { name: node.name, parent, offset, properties });
        for child in node.children() {
            self.add(nodes, Some(index), child);
        }
    }
}

/// A node of the tree.
pub struct Node<'a> {
    pub name: &'a str,
    /// Its place in the list.
    pub parent: Option<usize>,
    pub offset: u32,
    properties: Vec<(&'a str, &'a [u8])>,
}

impl<'a> Node<'a> {
    pub fn property(&self, name: &str) -> Option<&'a [u8]> {
        self.properties.iter().find(|(is, _)| *is == name).map(|(_, value)| *value)
    }

    /// First cell of a property.
    pub fn cell(&self, name: &str) -> Option<u32> {
        word(self.property(name)?, 0)
    }

    /// Does `compatible` list it?
    pub fn is(&self, compatible: &str) -> bool {
        let list = self.property("compatible").unwrap_or(&[]);
        list.split(|byte| *byte == 0).any(|name| name == compatible.as_bytes())
    }
}

/// The cells of a property value; a rest below four bytes is left out.
pub fn cells(value: &[u8]) -> Vec<u32> {
    value.as_chunks::<4>().0.iter().map(|cell| u32::from_be_bytes(*cell)).collect()
}

struct Walk<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
    /// Of the structure block in the blob.
    base: usize,
    at: usize,
    kept: Vec<u8>,
    offsets: Vec<u32>,
}

impl Walk<'_> {
    fn tree(&mut self) -> Result<(), Error> {
        let mut depth = 0usize;
        // Properties come before children, section 5.4.1: the crate misses or trips over later ones.
        let mut children = [false; DEEPEST + 1];
        loop {
            let place = self.base + self.at;
            match self.take()? {
                NOP => continue,
                BEGIN_NODE => {
                    if depth == 0 && !self.offsets.is_empty() {
                        return Err(fail(place, "second root node"));
                    }
                    if depth == DEEPEST {
                        return Err(fail(place, "tree deeper than 32 nodes"));
                    }
                    if let Some(flag) = children.get_mut(depth) {
                        *flag = true;
                    }
                    depth += 1;
                    if let Some(flag) = children.get_mut(depth) {
                        *flag = false;
                    }
                    self.offsets.push(place as u32);
                    self.keep(BEGIN_NODE);
                    self.name(depth == 1)?;
                }
                END_NODE => {
                    depth = depth.checked_sub(1).ok_or(fail(place, "end of a node that did not begin"))?;
                    self.keep(END_NODE);
                }
                PROP => {
                    if depth == 0 {
                        return Err(fail(place, "property outside every node"));
                    }
                    if children.get(depth).copied().unwrap_or(true) {
                        return Err(fail(place, "property behind a child node"));
                    }
                    self.property(place)?;
                }
                END if depth == 0 && !self.offsets.is_empty() => {
                    self.keep(END);
                    return Ok(());
                }
                END => return Err(fail(place, "end of the tree inside a node")),
                _ => return Err(fail(place, "unknown tag")),
            }
        }
    }

    fn take(&mut self) -> Result<u32, Error> {
        let cell = word(self.structure, self.at).ok_or(fail(self.base + self.at, "structure block is cut"))?;
        self.at += 4;
        Ok(cell)
    }

    fn keep(&mut self, tag: u32) {
        self.kept.extend(tag.to_be_bytes());
    }

    /// Keeps `length` bytes and what fills them up to a whole cell.
    fn keep_bytes(&mut self, length: usize) -> Result<(), Error> {
        let cut = fail(self.base + self.at, "structure block is cut");
        let padded = length.checked_next_multiple_of(4).ok_or(cut)?;
        let end = self.at.checked_add(padded).ok_or(cut)?;
        self.kept.extend_from_slice(self.structure.get(self.at..end).ok_or(cut)?);
        self.at = end;
        Ok(())
    }

    fn name(&mut self, root: bool) -> Result<(), Error> {
        let place = self.base + self.at;
        let rest = self.structure.get(self.at..).unwrap_or(&[]);
        let length = end_of(rest).ok_or(fail(place, "node name does not end"))?;
        let name = rest.get(..length).unwrap_or(&[]);
        if root != name.is_empty() {
            return Err(fail(place, "name of the root, or none of another node"));
        }
        if core::str::from_utf8(name).is_err() {
            return Err(fail(place, "node name is no text"));
        }
        self.keep_bytes(length + 1)
    }

    fn property(&mut self, place: usize) -> Result<(), Error> {
        let (length, name) = (self.take()?, self.take()?);
        let text = self.strings.get(name as usize..).ok_or(fail(place, "property name outside the strings block"))?;
        let end = end_of(text).ok_or(fail(place, "property name does not end"))?;
        if core::str::from_utf8(text.get(..end).unwrap_or(&[])).is_err() {
            return Err(fail(place, "property name is no text"));
        }
        self.keep(PROP);
        self.keep(length);
        self.keep(name);
        self.keep_bytes(length as usize)
    }
}
