//! IORT tables typed byte by byte from Arm DEN 0049 issue E.f.

use super::{place, seal};

/// A mapping: input 0:4, count minus one 4:4, output 8:4, reference 12:4, flags 16:4. The reference is the number of a node here; `iort` turns
/// it into an offset.
pub fn map(input: u64, count: u64, output: u64, node: u64) -> Vec<u8> {
    place(20, &[(0, 4, input), (4, 4, count), (8, 4, output), (12, 4, node)])
}
pub fn single(output: u64, node: u64) -> Vec<u8> {
    place(20, &[(8, 4, output), (12, 4, node), (16, 4, 1)])
}

/// Header of 16 bytes: type 0:1, length 1:2, revision 3:1, mappings 8:4, their offset 12:4.
pub fn node(kind: u64, revision: u64, mut fixed: Vec<u8>, maps: &[Vec<u8>]) -> Vec<u8> {
    let offset = fixed.len() as u32;
    fixed.extend(maps.concat());
    let length = fixed.len() as u16;
    fixed[0] = kind as u8;
    fixed[1..3].copy_from_slice(&length.to_le_bytes());
    fixed[3] = revision as u8;
    fixed[8..12].copy_from_slice(&(maps.len() as u32).to_le_bytes());
    fixed[12..16].copy_from_slice(&if maps.is_empty() { 0 } else { offset }.to_le_bytes());
    fixed
}

/// Type 0: count 16:4, ids from 20.
pub fn its(ids: &[u64]) -> Vec<u8> {
    let mut fields = vec![(16, 4, ids.len() as u64)];
    fields.extend(ids.iter().enumerate().map(|(at, id)| (20 + 4 * at, 4, *id)));
    node(0, 1, place(20 + 4 * ids.len(), &fields), &[])
}
/// Type 1: flags 16:4, coherency 20:4, address bits 28:1, name from 29.
pub fn component(name: &str, flags: u64, maps: &[Vec<u8>]) -> Vec<u8> {
    let mut fixed = place(29, &[(16, 4, flags), (20, 4, 1), (28, 1, 40)]);
    fixed.extend(name.bytes());
    fixed.push(0);
    fixed.resize(fixed.len().next_multiple_of(4), 0);
    node(1, 2, fixed, maps)
}
/// Type 2: coherency 16:4, ATS 24:4, segment 28:4, address bits 32:1, PASID width 33:2, flags 36:4.
pub fn root(segment: u64, ats: u64, maps: &[Vec<u8>]) -> Vec<u8> {
    let fields = [(16, 4, 1), (24, 4, ats), (28, 4, segment), (32, 1, 48), (33, 2, 20), (36, 4, 1)];
    node(2, 4, place(40, &fields), maps)
}
/// Type 3: base 16:8, span 24:8, model 32:4, flags 36:4, global interrupts 40:4, contexts 44:4 and 48:4, counters 52:4 and 56:4; then NSgIrpt
/// and NSgCfgIrpt (60:16) and the context interrupts (76).
pub fn smmu_v2(base: u64, span: u64, maps: &[Vec<u8>]) -> Vec<u8> {
    let fields = [
        (16, 8, base),
        (24, 8, span),
        (32, 4, 3),
        (36, 4, 2),
        (40, 4, 60),
        (44, 4, 2),
        (48, 4, 76),
        (60, 4, 0x61),
        (64, 4, 1),
        (76, 4, 0x81),
        (84, 4, 0x82),
        (88, 4, 1),
    ];
    node(3, 3, place(92, &fields), maps)
}

/// Type 4: base 16:8, flags 24:4, VATOS 32:8, model 40:4, event 44:4, PRI 48:4, GERR 52:4, sync 56:4, proximity 60:4, mapping index 64:4.
pub struct Smmu {
    pub revision: u64,
    pub size: usize,
    pub base: u64,
    pub flags: u64,
    pub gsivs: [u64; 4],
    pub proximity: u64,
    pub index: u64,
}

impl Default for Smmu {
    fn default() -> Self {
        Self { revision: 4, size: 68, base: 0x905_0000, flags: 0, gsivs: [106, 107, 109, 108], proximity: 0, index: 0 }
    }
}

pub fn smmu_v3(of: &Smmu, maps: &[Vec<u8>]) -> Vec<u8> {
    let mut fields = vec![(16, 8, of.base), (24, 4, of.flags), (40, 4, 1)];
    fields.extend(of.gsivs.iter().enumerate().map(|(at, gsiv)| (44 + 4 * at, 4, *gsiv)));
    if of.size >= 68 {
        fields.extend([(60, 4, of.proximity), (64, 4, of.index)]);
    }
    node(4, of.revision, place(of.size, &fields), maps)
}
/// Type 5: base 16:8, overflow 24:4, node 28:4 (here its number), page 1 32:8.
pub fn pmcg(base: u64, overflow: u64, of: u64, page1: u64, maps: &[Vec<u8>]) -> Vec<u8> {
    node(5, 2, place(40, &[(16, 8, base), (24, 4, overflow), (28, 4, of), (32, 8, page1)]), maps)
}
/// Type 6: flags 16:4, ranges 20:4, their offset 24:4; ranges base 0:8, length 8:8, reserved 16:4.
pub fn rmr(ranges: &[(u64, u64)], maps: &[Vec<u8>]) -> Vec<u8> {
    let at = 28 + 20 * maps.len();
    let fixed = place(28, &[(16, 4, 1), (20, 4, ranges.len() as u64), (24, 4, at as u64)]);
    let mut out = node(6, 3, fixed, maps);
    for &(base, length) in ranges {
        out.extend(place(20, &[(0, 8, base), (8, 8, length)]));
    }
    let length = out.len() as u16;
    out[1..3].copy_from_slice(&length.to_le_bytes());
    out
}

/// Where each node of a table begins.
pub fn offsets(nodes: &[Vec<u8>]) -> Vec<usize> {
    nodes.iter().scan(48, |at, node| Some(core::mem::replace(at, *at + node.len()))).collect()
}

/// A whole table: nodes 36:4, their offset 40:4. Numbers of nodes in references become offsets; one that is no number becomes 7.
pub fn iort(nodes: &[Vec<u8>]) -> Vec<u8> {
    let starts = offsets(nodes);
    let mut out = place(48, &[(36, 4, nodes.len() as u64), (40, 4, 48)]);
    out[0..4].copy_from_slice(b"IORT");
    for node in nodes {
        let start = out.len();
        out.extend(node);
        let word = |at: usize| u32::from_le_bytes(node[at..at + 4].try_into().unwrap()) as usize;
        let mut references: Vec<usize> = (0..word(8)).map(|at| word(12) + 20 * at + 12).collect();
        if node[0] == 5 && node.len() >= 32 {
            references.push(28);
        }
        for at in references.into_iter().filter(|at| at + 4 <= node.len()) {
            let to = starts.get(word(at)).copied().unwrap_or(7) as u32;
            out[start + at..start + at + 4].copy_from_slice(&to.to_le_bytes());
        }
    }
    seal(&mut out);
    out
}
