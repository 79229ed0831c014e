//! IVRS tables typed byte by byte from AMD I/O Virtualization Technology 3.09 section 5.2.

use super::{place, seal};

/// IVinfo of the corpus' newer machines: 48-bit physical, 64-bit virtual, DmaRemapSup and EFRSup.
pub const INFO: u64 = 0x20_3043;

/// A whole table: IVinfo 36:4, reserved 40:8, blocks from 48.
pub fn ivrs(info: u64, blocks: &[Vec<u8>]) -> Vec<u8> {
    let mut out = place(48, &[(8, 1, 2), (36, 4, info)]);
    out[0..4].copy_from_slice(b"IVRS");
    out.extend(blocks.concat());
    seal(&mut out);
    out
}

/// IVHD: type 0:1, flags 1:1, length 2:2, device 4:2, capability 6:2, base 8:8, segment 16:2, info 18:2, attributes 20:4; in 11h and 40h
/// EFR 24:8, EFR2 32:8.
pub struct Ivhd {
    pub kind: u64,
    pub device: u64,
    pub segment: u64,
    pub base: u64,
    pub attributes: u64,
    pub efr: u64,
}

impl Default for Ivhd {
    fn default() -> Self {
        Self { kind: 0x11, device: 2, segment: 0, base: 0xfd00_0000, attributes: 0, efr: 0 }
    }
}

pub fn ivhd(of: &Ivhd, entries: &[Vec<u8>]) -> Vec<u8> {
    let fixed = if of.kind == 0x10 { 24 } else { 40 };
    let mut out = place(
        fixed,
        &[
            (0, 1, of.kind),
            (1, 1, 0xb0),
            (4, 2, of.device),
            (6, 2, 0x40),
            (8, 8, of.base),
            (16, 2, of.segment),
            (18, 2, 0x0102),
            (20, 4, of.attributes),
        ],
    );
    if fixed == 40 {
        out[24..32].copy_from_slice(&of.efr.to_le_bytes());
        out[32..40].copy_from_slice(&0x77u64.to_le_bytes());
    }
    out.extend(entries.concat());
    let length = out.len() as u16;
    out[2..4].copy_from_slice(&length.to_le_bytes());
    out
}

/// Entry of 4 bytes: type 0:1, device 1:2, settings 3:1.
pub fn entry4(kind: u64, device: u64, settings: u64) -> Vec<u8> {
    place(4, &[(0, 1, kind), (1, 2, device), (3, 1, settings)])
}
/// Alias 42h, 43h: source 5:2.
pub fn alias(kind: u64, device: u64, source: u64) -> Vec<u8> {
    place(8, &[(0, 1, kind), (1, 2, device), (5, 2, source)])
}
/// Extended 46h, 47h: settings 4:4.
pub fn extended(kind: u64, device: u64, settings: u64) -> Vec<u8> {
    place(8, &[(0, 1, kind), (1, 2, device), (4, 4, settings)])
}
/// Special 48h: settings 3:1, handle 4:1, source 5:2, variety 7:1.
pub fn special(settings: u64, handle: u64, source: u64, variety: u64) -> Vec<u8> {
    place(8, &[(0, 1, 0x48), (3, 1, settings), (4, 1, handle), (5, 2, source), (7, 1, variety)])
}
/// ACPI device F0h: HID 4:8, CID 12:8, UID format 20:1, length 21:1, UID from 22.
pub fn hid(device: u64, name: &[u8; 8], format: u64, unique: &[u8]) -> Vec<u8> {
    let mut out = place(22, &[(0, 1, 0xf0), (1, 2, device), (20, 1, format), (21, 1, unique.len() as u64)]);
    out[4..12].copy_from_slice(name);
    out.extend(unique);
    out
}
/// IVMD: type 0:1, flags 1:1, length 2:2, device 4:2, last device 6:2, segment 8:2, start 16:8, length 24:8.
pub fn ivmd(kind: u64, flags: u64, devices: (u64, u64), base: u64, length: u64) -> Vec<u8> {
    let fields =
        [(0, 1, kind), (1, 1, flags), (2, 2, 32), (4, 2, devices.0), (6, 2, devices.1), (16, 8, base), (24, 8, length)];
    place(32, &fields)
}
/// A block of a type nobody documents.
pub fn unknown_block(kind: u64, bytes: usize) -> Vec<u8> {
    let mut out = place(bytes, &[(0, 1, kind), (2, 2, bytes as u64)]);
    out[4..].fill(0xa5);
    out
}
