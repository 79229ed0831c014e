//! The PVH start information (`struct hvm_start_info`, Xen's public `arch-x86/hvm/start_info.h`, versions 0 and 1).

use crate::info::{BootInfo, MAX_CMDLINE, MAX_REGIONS, MemoryKind, MemoryRegion};

/// `magic` of a start information block: "xEn3" with the top bit of the E set.
pub const MAGIC: u32 = 0x336e_c578;

/// Why a start information block was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Memory at this physical address cannot be read.
    Unreadable(u64),
    /// The first word is not [`MAGIC`].
    Magic(u32),
    /// Version 0 has no memory map, and without one there is nothing to run in.
    NoMemoryMap,
}

/// Copies bytes of physical memory; false if they cannot be reached.
pub trait ReadPhys {
    /// Fills `to` from physical address `at`.
    fn read(&self, at: u64, to: &mut [u8]) -> bool;
}

fn bytes<const N: usize>(memory: &impl ReadPhys, at: u64) -> Result<[u8; N], Error> {
    let mut out = [0; N];
    if memory.read(at, &mut out) { Ok(out) } else { Err(Error::Unreadable(at)) }
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}

/// Reads the block at physical address `start`.
///
/// The command line and the memory map are copied; the initial archive stays where it is.
///
/// # Errors
/// [`Error`]; a bad module or command line is left out instead.
pub fn parse(start: u64, memory: &impl ReadPhys) -> Result<BootInfo, Error> {
    let head: [u8; 40] = bytes(memory, start)?;
    let magic = u32_at(&head, 0);
    if magic != MAGIC {
        return Err(Error::Magic(magic));
    }
    let (version, modules) = (u32_at(&head, 4), u32_at(&head, 12));
    let (module_list, cmdline, rsdp) = (u64_at(&head, 16), u64_at(&head, 24), u64_at(&head, 32));
    let mut info = BootInfo::empty();
    if version == 0 {
        return Err(Error::NoMemoryMap);
    }
    let more: [u8; 12] = bytes(memory, start + 40)?;
    let (map, entries) = (u64_at(&more, 0), u32_at(&more, 8));
    if map == 0 || entries == 0 {
        return Err(Error::NoMemoryMap);
    }
    for i in 0..u64::from(entries).min(4 * MAX_REGIONS as u64) {
        let e: [u8; 24] = bytes(memory, map.wrapping_add(i * 24))?;
        let kind = match u32_at(&e, 16) {
            1 => MemoryKind::Usable,
            3 => MemoryKind::AcpiReclaim,
            4 => MemoryKind::AcpiNvs,
            5 => MemoryKind::Bad,
            _ => MemoryKind::Reserved,
        };
        info.memory.push(MemoryRegion { base: u64_at(&e, 0), length: u64_at(&e, 8), kind });
    }
    if modules > 0
        && module_list != 0
        && let Ok(module) = bytes::<32>(memory, module_list)
    {
        let (base, length) = (u64_at(&module, 0), u64_at(&module, 8));
        if length > 0 && base.checked_add(length).is_some() {
            info.initrd = Some((base, length));
        }
    }
    if cmdline != 0 {
        let mut line = [0u8; MAX_CMDLINE];
        let mut len = 0;
        while len < MAX_CMDLINE && memory.read(cmdline + len as u64, &mut line[len..=len]) && line[len] != 0 {
            len += 1;
        }
        info.set_cmdline(&line[..len]);
    }
    info.rsdp = (rsdp != 0).then_some(rsdp);
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    struct Flat(Vec<u8>);
    impl ReadPhys for Flat {
        fn read(&self, at: u64, to: &mut [u8]) -> bool {
            let Ok(at) = usize::try_from(at) else { return false };
            match at.checked_add(to.len()).and_then(|end| self.0.get(at..end)) {
                Some(from) => {
                    to.copy_from_slice(from);
                    true
                }
                None => false,
            }
        }
    }

    /// A machine of 0x1000 bytes with its block at 0x100.
    fn machine() -> Flat {
        let mut m = std::vec![0u8; 0x1000];
        let mut put = |at: usize, b: &[u8]| m[at..at + b.len()].copy_from_slice(b);
        put(0x100, &[0x78, 0xc5, 0x6e, 0x33, 1, 0, 0, 0]); // magic, version
        put(0x10c, &[1]); // one module
        put(0x110, &[0x00, 0x02]); // modules at 0x200
        put(0x118, &[0x00, 0x03]); // command line at 0x300
        put(0x120, &[0xe0, 0x5a, 0x0f]); // rsdp
        put(0x128, &[0x00, 0x04]); // map at 0x400
        put(0x130, &[2]); // two entries
        put(0x200, &[0, 0, 0x30, 0, 0, 0, 0, 0, 0x10]); // 0x300000, 16 bytes
        put(0x300, b"exec=/init a\0junk");
        put(0x408, &[0, 0xfc, 9]); // 0..0x9fc00
        put(0x410, &[1]);
        put(0x418, &[0, 0, 0x10]); // 0x100000
        put(0x420, &[0, 0, 0x40]); // 4 MiB
        put(0x428, &[7]); // a type nobody defined
        Flat(m)
    }

    #[test]
    fn a_version_1_block_is_read() {
        let info = parse(0x100, &machine()).unwrap();
        assert_eq!(info.cmdline(), "exec=/init a");
        assert_eq!(info.initrd, Some((0x30_0000, 16)));
        assert_eq!(info.rsdp, Some(0xf_5ae0));
        assert!(info.handover.is_none());
        assert_eq!(
            info.memory.regions(),
            [
                MemoryRegion { base: 0, length: 0x9_fc00, kind: MemoryKind::Usable },
                MemoryRegion { base: 0x10_0000, length: 0x40_0000, kind: MemoryKind::Reserved },
            ]
        );
    }

    #[test]
    fn a_wrong_magic_an_old_version_and_a_hole_are_refused() {
        let mut m = machine();
        m.0[0x100] = 0;
        assert_eq!(parse(0x100, &m).unwrap_err(), Error::Magic(0x336e_c500));
        let mut m = machine();
        m.0[0x104] = 0;
        assert_eq!(parse(0x100, &m).unwrap_err(), Error::NoMemoryMap);
        let mut m = machine();
        m.0[0x12c] = 1;
        assert_eq!(parse(0x100, &m).unwrap_err(), Error::Unreadable(0x1_0000_0400));
        assert_eq!(parse(0x2000, &machine()).unwrap_err(), Error::Unreadable(0x2000));
    }

    #[test]
    fn a_module_that_wraps_is_left_out() {
        let mut m = machine();
        m.0[0x208..0x210].fill(0xff);
        assert_eq!(parse(0x100, &m).unwrap().initrd, None);
    }
}
