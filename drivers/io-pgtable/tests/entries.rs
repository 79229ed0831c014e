//! Entries as they are in memory, against (msb, lsb, value) triples typed from the specifications. VT-d: 5.0 section 9.8;
//! AMD: 48882 section 2.2.3; Arm: DDI 0487 section D8.3.

mod arena;
mod reader;

use arena::{Arena, BASE};
use io_pgtable::{AdBits, AmdV1, ArmS1, ArmS2, PageTable, PtFormat, TableConfig, VtdSs};
use iommu_api::TableMem;
use iommu_types::{Access, DirtyRule, Iova, IovaRange, PageSizes, Phys, PhysRun};
use reader::bits;

const RW: Access = Access::READ.union(Access::WRITE);

/// Maps one item at iova `size` of three levels, and returns the top entry and the first leaf entry.
fn entries<F: PtFormat>(size: u32, phys: u64, access: Access, dirty: DirtyRule, ad: AdBits) -> (u64, Vec<u64>) {
    let mem = Arena::new(8);
    let config = TableConfig {
        levels: 3,
        aperture: IovaRange::sized(0, 1 << 39).unwrap(),
        phys_bits: 46,
        page_sizes: PageSizes(!0),
        coherent: true,
        dirty,
        ad,
    };
    let table = PageTable::<F>::new(&mem, config).unwrap();
    let runs = [PhysRun { base: Phys(phys), length: 1 << size }];
    table.map(&mem, Iova(1 << size), &runs, access, 1 << size, false).unwrap().release(&mem);
    let top = mem.load64(Phys(table.root().0 + 8 * (1u64 << size >> 30)));
    let level = (u64::from(size) - 12) / 9;
    let count = 1u64 << (u64::from(size) - 12 - 9 * level);
    // Tables were taken in order: the leaf table is the last one.
    let leaf = BASE + 4096 * (2 - level);
    let slot = (1u64 << size >> (12 + 9 * level)) & 511;
    let list = (0..count).map(|n| mem.load64(Phys(leaf + 8 * (slot + n)))).collect();
    (top, list)
}

#[test]
fn vtd_second_stage() {
    let (top, leaf) = entries::<VtdSs>(12, 0x12_3456_7000, Access::READ, DirtyRule::None, AdBits::Preset);
    assert_eq!(top, bits(&[(1, 0, 3), (8, 8, 1), (51, 12, BASE / 4096 + 1)]));
    assert_eq!(leaf, [bits(&[(0, 0, 1), (8, 8, 1), (51, 12, 0x0123_4567)])]);
}

#[test]
fn amd_v1() {
    let (top, leaf) = entries::<AmdV1>(12, 0x12_3456_7000, RW, DirtyRule::None, AdBits::Unused);
    assert_eq!(top, bits(&[(0, 0, 1), (11, 9, 2), (51, 12, BASE / 4096 + 1), (61, 61, 1), (62, 62, 1)]));
    assert_eq!(leaf, [bits(&[(0, 0, 1), (51, 12, 0x0123_4567), (61, 61, 1), (62, 62, 1)])]);
    // 2 MiB is the size of a level: next level 0.
    let (top, leaf) = entries::<AmdV1>(21, 0x12_3460_0000, Access::READ, DirtyRule::Bit(6), AdBits::Hardware);
    assert_eq!(top, bits(&[(0, 0, 1), (5, 5, 1), (11, 9, 2), (51, 12, BASE / 4096 + 1), (61, 61, 1), (62, 62, 1)]));
    assert_eq!(leaf, [bits(&[(0, 0, 1), (51, 12, 0x0123_4600), (61, 61, 1)])]);
    // The other sizes: next level 7, ones from bit 12 to the bit two below the size, then a zero.
    for (size, ones, count) in [(13, 0, 2), (14, 1, 4), (16, 7, 16), (20, 0x7f, 256), (22, 0x1ff, 2), (29, 0xffff, 256)]
    {
        let (_, leaf) = entries::<AmdV1>(size, 0x12_4000_0000, Access::WRITE, DirtyRule::None, AdBits::Preset);
        let want = [(0, 0, 1), (5, 5, 1), (6, 6, 1), (11, 9, 7), (51, 12, 0x0124_0000 | ones), (62, 62, 1)];
        assert_eq!(leaf, vec![bits(&want); count], "2^{size}");
    }
}

#[test]
fn arm_stage_1() {
    let (top, leaf) = entries::<ArmS1>(12, 0x12_3456_7000, RW, DirtyRule::None, AdBits::Unused);
    assert_eq!(top, bits(&[(1, 0, 3), (47, 12, BASE / 4096 + 1)]));
    // AttrIndx 0, AP 01, SH inner, AF, nG, PXN, UXN.
    let common = [(0, 0, 1), (9, 8, 3), (10, 10, 1), (11, 11, 1), (54, 53, 3)];
    let with = |more: &[(u32, u32, u64)]| bits(&common) | bits(more);
    assert_eq!(leaf, [with(&[(1, 1, 1), (7, 6, 1), (47, 12, 0x0123_4567)])]);
    let (_, leaf) = entries::<ArmS1>(12, 0x12_3456_7000, Access::READ, DirtyRule::ArmDbmStage1, AdBits::Hardware);
    assert_eq!(leaf, [with(&[(1, 1, 1), (7, 6, 3), (47, 12, 0x0123_4567)])], "read-only has no DBM");
    // Tracked: writable and clean. A block has bit 1 clear.
    let (_, leaf) = entries::<ArmS1>(21, 0x12_3460_0000, RW, DirtyRule::ArmDbmStage1, AdBits::Hardware);
    assert_eq!(leaf, [with(&[(7, 6, 3), (51, 51, 1), (47, 12, 0x0123_4600)])]);
    let (_, leaf) = entries::<ArmS1>(21, 0x12_3460_0000, RW, DirtyRule::ArmDbmStage1, AdBits::Preset);
    assert_eq!(leaf, [with(&[(7, 6, 1), (51, 51, 1), (47, 12, 0x0123_4600)])]);
    // 64 KiB and 32 MiB: 16 entries, each with its own address, and the hint.
    for (size, bit1, step) in [(16, 1, 1), (25, 0, 512)] {
        let (_, leaf) = entries::<ArmS1>(size, 0x12_4000_0000, RW, DirtyRule::ArmDbmStage1, AdBits::Hardware);
        let want: Vec<u64> = (0..16)
            .map(|n| with(&[(1, 1, bit1), (7, 6, 3), (51, 51, 1), (52, 52, 1), (47, 12, 0x0124_0000 + n * step)]))
            .collect();
        assert_eq!(leaf, want);
    }
    // Device memory: AttrIndx 1, of which MAIR says Device-nGnRE; SH outer. Execution on request.
    let (_, leaf) = entries::<ArmS1>(12, 0x1000, RW | Access::MMIO, DirtyRule::None, AdBits::Unused);
    let device = [(1, 0, 3), (4, 2, 1), (7, 6, 1), (9, 8, 2), (10, 10, 1), (11, 11, 1), (47, 12, 1), (54, 53, 3)];
    assert_eq!(leaf, [bits(&device)]);
    assert_eq!(ArmS1::MAIR, bits(&[(7, 0, 0xff), (15, 8, 4)]));
    let (_, leaf) = entries::<ArmS1>(12, 0x1000, RW | Access::EXEC, DirtyRule::None, AdBits::Unused);
    assert_eq!(leaf, [bits(&[(1, 0, 3), (7, 6, 1), (9, 8, 3), (10, 10, 1), (11, 11, 1), (47, 12, 1)])]);
}

#[test]
fn arm_stage_2() {
    let (top, leaf) = entries::<ArmS2>(12, 0x12_3456_7000, RW, DirtyRule::None, AdBits::Unused);
    assert_eq!(top, bits(&[(1, 0, 3), (47, 12, BASE / 4096 + 1)]));
    // MemAttr 1111, SH inner, AF, XN 10.
    let common = [(0, 0, 1), (5, 2, 0xf), (9, 8, 3), (10, 10, 1), (54, 53, 2)];
    let with = |more: &[(u32, u32, u64)]| bits(&common) | bits(more);
    assert_eq!(leaf, [with(&[(1, 1, 1), (7, 6, 3), (47, 12, 0x0123_4567)])]);
    for (access, s2ap, dbm) in [(Access::READ, 1, 0), (Access::WRITE, 0, 1), (RW, 1, 1)] {
        let (_, leaf) = entries::<ArmS2>(21, 0x12_3460_0000, access, DirtyRule::ArmDbmStage2, AdBits::Hardware);
        assert_eq!(leaf, [with(&[(7, 6, s2ap), (51, 51, dbm), (47, 12, 0x0123_4600)])]);
    }
    let (_, leaf) = entries::<ArmS2>(16, 0x12_4000_0000, Access::WRITE, DirtyRule::None, AdBits::Unused);
    let want: Vec<u64> =
        (0..16).map(|n| with(&[(1, 1, 1), (7, 6, 2), (52, 52, 1), (47, 12, 0x0124_0000 + n)])).collect();
    assert_eq!(leaf, want);
    let (_, leaf) = entries::<ArmS2>(12, 0x1000, RW | Access::MMIO, DirtyRule::None, AdBits::Unused);
    let device = [(1, 0, 3), (5, 2, 1), (7, 6, 3), (9, 8, 2), (10, 10, 1), (47, 12, 1), (54, 53, 2)];
    assert_eq!(leaf, [bits(&device)]);
}
