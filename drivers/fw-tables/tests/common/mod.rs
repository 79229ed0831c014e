//! Tables typed byte by byte from VT-d 5.0 section 8, without the crate's own layouts.
#![allow(dead_code)]

pub mod iort;
pub mod ivrs;
pub mod tree;

use fw_tables::{BusRange, BusResolver};
use iommu_types::StreamId;

/// Places little-endian fields: (byte offset, bytes, value).
pub fn place(size: usize, fields: &[(usize, usize, u64)]) -> Vec<u8> {
    let mut out = vec![0; size];
    for &(at, width, value) in fields {
        out[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    }
    out
}

/// Device scope: type 0:1, length 1:1, flags 2:1, enumeration id 4:1, start bus 5:1, path from 6.
pub fn scope(target: u8, flags: u8, id: u8, bus: u8, path: &[(u8, u8)]) -> Vec<u8> {
    let length = 6 + 2 * path.len() as u64;
    let mut out =
        place(6, &[(0, 1, target.into()), (1, 1, length), (2, 1, flags.into()), (4, 1, id.into()), (5, 1, bus.into())]);
    out.extend(path.iter().flat_map(|&(device, function)| [device, function]));
    out
}

fn structure(kind: u64, mut fixed: Vec<u8>, tail: &[Vec<u8>]) -> Vec<u8> {
    fixed.extend(tail.concat());
    let length = fixed.len() as u64;
    fixed[0..2].copy_from_slice(&kind.to_le_bytes()[..2]);
    fixed[2..4].copy_from_slice(&length.to_le_bytes()[..2]);
    fixed
}

/// Section 8.3.
pub fn drhd(flags: u64, size: u64, segment: u64, base: u64, scopes: &[Vec<u8>]) -> Vec<u8> {
    structure(0, place(16, &[(4, 1, flags), (5, 1, size), (6, 2, segment), (8, 8, base)]), scopes)
}
/// Section 8.4.
pub fn rmrr(segment: u64, base: u64, limit: u64, scopes: &[Vec<u8>]) -> Vec<u8> {
    structure(1, place(24, &[(6, 2, segment), (8, 8, base), (16, 8, limit)]), scopes)
}
/// Section 8.5.
pub fn atsr(flags: u64, segment: u64, scopes: &[Vec<u8>]) -> Vec<u8> {
    structure(2, place(8, &[(4, 1, flags), (6, 2, segment)]), scopes)
}
/// Section 8.6.
pub fn rhsa(base: u64, domain: u64) -> Vec<u8> {
    structure(3, place(20, &[(8, 8, base), (16, 4, domain)]), &[])
}
/// Section 8.7.
pub fn andd(number: u64, name: &[u8]) -> Vec<u8> {
    structure(4, place(8, &[(7, 1, number)]), &[name.to_vec()])
}
/// Section 8.8.
pub fn satc(flags: u64, segment: u64, scopes: &[Vec<u8>]) -> Vec<u8> {
    structure(5, place(8, &[(4, 1, flags), (6, 2, segment)]), scopes)
}
/// Section 8.9.
pub fn sidp(segment: u64, scopes: &[Vec<u8>]) -> Vec<u8> {
    structure(6, place(8, &[(6, 2, segment)]), scopes)
}
/// A structure of a type nobody knows.
pub fn unknown(kind: u64, bytes: usize) -> Vec<u8> {
    structure(kind, vec![0xa5; bytes.max(4)], &[])
}

/// A whole table with a right length and checksum.
pub fn dmar(width: u64, flags: u64, structures: &[Vec<u8>]) -> Vec<u8> {
    let mut out = place(48, &[(8, 1, 1), (36, 1, width), (37, 1, flags)]);
    out[0..4].copy_from_slice(b"DMAR");
    out.extend(structures.concat());
    seal(&mut out);
    out
}

/// Sets length and checksum.
pub fn seal(table: &mut [u8]) {
    let length = table.len() as u32;
    table[4..8].copy_from_slice(&length.to_le_bytes());
    table[9] = 0;
    table[9] = table.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
}

/// A PCI tree: functions, and bridges with their buses.
#[derive(Default)]
pub struct Tree {
    pub functions: Vec<StreamId>,
    pub bridges: Vec<(StreamId, u8, u8)>,
    pub virtual_functions: Vec<(StreamId, StreamId)>,
}

impl BusResolver for Tree {
    fn buses(&self, bridge: StreamId) -> Option<BusRange> {
        let &(_, secondary, subordinate) = self.bridges.iter().find(|(at, ..)| *at == bridge)?;
        Some(BusRange { secondary, subordinate })
    }
    fn exists(&self, stream: StreamId) -> bool {
        self.functions.contains(&stream) || self.bridges.iter().any(|(at, ..)| *at == stream)
    }
    fn physical_function(&self, stream: StreamId) -> Option<StreamId> {
        self.virtual_functions.iter().find(|(vf, _)| *vf == stream).map(|(_, pf)| *pf)
    }
}
