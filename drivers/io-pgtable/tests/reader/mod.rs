//! Second reader: walks a table as hardware does. Fields are (msb, lsb) pairs typed from the specifications (VT-d 5.0 9.7
//! and 9.8, AMD 48882 2.2.3 and 2.2.6, DDI 0487 D8.3); nothing is shared with the formats under test.
#![allow(dead_code)]

use iommu_types::{DirtyRule, Phys, TableKind};

pub fn field(word: u64, msb: u32, lsb: u32) -> u64 {
    word << (63 - msb) >> (63 - msb + lsb)
}

/// A word from (msb, lsb, value) triples.
pub fn bits(fields: &[(u32, u32, u64)]) -> u64 {
    fields.iter().fold(0, |word, (msb, lsb, value)| {
        assert!(*value >> (msb - lsb) <= 1, "{value:#x} does not fit {msb}:{lsb}");
        word | value << lsb
    })
}

/// One item as hardware would find it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    pub phys: u64,
    pub size: u64,
    pub read: bool,
    pub write: bool,
    /// In any entry of the item. Never on Arm, where AF is checked to be set.
    pub accessed: bool,
    /// Likewise.
    pub dirty: bool,
    /// The entry of the address asked for: the one that hardware updates.
    pub at: Phys,
    /// The first entry of the item, and how many there are.
    pub first: Phys,
    pub entries: u64,
}

struct Leaf {
    read: bool,
    write: bool,
    accessed: bool,
    dirty: bool,
    /// log2 of the item.
    size: u32,
    phys: u64,
    /// All but what may differ between the entries of an item.
    same: u64,
}

enum Entry {
    Absent,
    Table(u64),
    Leaf(Leaf),
}

fn decode(kind: TableKind, entry: u64, level: u32) -> Entry {
    let bit = |n| field(entry, n, n) == 1;
    let own = 12 + 9 * level;
    match kind {
        TableKind::VtdSecondStage => {
            if !bit(0) && !bit(1) {
                return Entry::Absent;
            }
            assert_eq!(field(entry, 6, 2), 0, "X, EMT, IPAT are not ours");
            assert_eq!(field(entry, 63, 52), 0);
            let phys = field(entry, 51, 12) << 12;
            if level > 0 && !bit(7) {
                assert!(bit(0) && bit(1), "rights are decided by the leaf");
                return Entry::Table(phys);
            }
            let (accessed, dirty) = (bit(8), bit(9));
            Entry::Leaf(Leaf { read: bit(0), write: bit(1), accessed, dirty, size: own, phys, same: 0 })
        }
        TableKind::X86FirstStage | TableKind::AmdV2 => {
            if !bit(0) {
                return Entry::Absent;
            }
            assert!(bit(2), "U/S must be 1 at every level");
            assert_eq!(field(entry, 4, 3), 0);
            assert_eq!(field(entry, 63, 52), 0);
            let phys = field(entry, 51, 12) << 12;
            if level > 0 && !bit(7) {
                assert!(bit(1), "rights are decided by the leaf");
                return Entry::Table(phys);
            }
            Entry::Leaf(Leaf { read: true, write: bit(1), accessed: bit(5), dirty: bit(6), size: own, phys, same: 0 })
        }
        TableKind::AmdV1 => {
            if !bit(0) {
                return Entry::Absent;
            }
            assert_eq!((field(entry, 4, 1), field(entry, 8, 7), field(entry, 59, 52)), (0, 0, 0));
            let address = field(entry, 51, 12);
            let next = field(entry, 11, 9);
            let (size, phys) = match next {
                0 => (own, address << 12),
                7 => {
                    let ones = address.trailing_ones();
                    (13 + ones, (address & (address + 1)) << 12)
                }
                next => {
                    assert_eq!(next, u64::from(level), "a PDE leads one level down");
                    assert!(bit(61) && bit(62) && !bit(6), "rights are decided by the leaf");
                    return Entry::Table(address << 12);
                }
            };
            let same = entry & !bits(&[(6, 5, 3)]);
            Entry::Leaf(Leaf { read: bit(61), write: bit(62), accessed: bit(5), dirty: bit(6), size, phys, same })
        }
        TableKind::ArmStage1 | TableKind::ArmStage2 => {
            if !bit(0) {
                return Entry::Absent;
            }
            let phys = field(entry, 47, 12) << 12;
            if level > 0 && bit(1) {
                assert_eq!((field(entry, 63, 48), field(entry, 11, 2)), (0, 0));
                return Entry::Table(phys);
            }
            assert_eq!(bit(1), level == 0, "a page has bit 1, a block has not");
            assert!(bit(10), "AF");
            assert_eq!((field(entry, 63, 55), field(entry, 50, 48)), (0, 0));
            let (dbm, seven) = (bit(51), bit(7));
            let (read, write, dirty) = if kind == TableKind::ArmStage1 {
                assert!(bit(6) && bit(11) && !bit(5), "AP[1], nG, NS");
                (true, dbm || !seven, !seven)
            } else {
                assert!(!bit(11));
                (bit(6), dbm || seven, seven)
            };
            let size = own + if bit(52) { 4 } else { 0 };
            let same = entry & !bits(&[(47, 12, (1 << 36) - 1), (7, 7, u64::from(dbm))]);
            Entry::Leaf(Leaf { read, write, accessed: false, dirty, size, phys, same })
        }
    }
}

/// `word`: memory as hardware reads it.
pub fn walk(word: &dyn Fn(Phys) -> u64, kind: TableKind, levels: u8, root: Phys, iova: u64) -> Option<Seen> {
    let levels = u32::from(levels);
    let mut table = root.0 + 4096 * iova.checked_shr(12 + 9 * levels).unwrap_or(0);
    for level in (0..levels).rev() {
        let lsb = 12 + 9 * level;
        let slot = field(iova, (lsb + 8).min(63), lsb);
        let at = Phys(table + 8 * slot);
        match decode(kind, word(at), level) {
            Entry::Absent => return None,
            Entry::Table(next) => table = next,
            Entry::Leaf(leaf) => {
                assert!((lsb..lsb + 9).contains(&leaf.size), "a size of another level: 2^{}", leaf.size);
                let entries = 1 << (leaf.size - lsb);
                let first = slot & !(entries - 1);
                let (mut accessed, mut dirty) = (false, false);
                let size = 1u64 << leaf.size;
                let mut base = 0;
                for n in 0..entries {
                    let Entry::Leaf(one) = decode(kind, word(Phys(table + 8 * (first + n))), level) else {
                        panic!("entry {n} of {entries} is no leaf")
                    };
                    assert_eq!((one.size, one.same), (leaf.size, leaf.same), "entries of an item differ");
                    let replicated = kind == TableKind::AmdV1;
                    let start = if replicated { one.phys } else { one.phys - (n << lsb) };
                    assert!(n == 0 || start == base);
                    base = start;
                    accessed |= one.accessed;
                    dirty |= one.dirty;
                }
                assert_eq!(base & (size - 1), 0, "an item at a misaligned address");
                let phys = base + (iova & (size - 1));
                let first = Phys(table + 8 * first);
                let (read, write) = (leaf.read, leaf.write);
                return Some(Seen { phys, size, read, write, accessed, dirty, at, first, entries });
            }
        }
    }
    unreachable!()
}

/// Bits that hardware sets and clears in an entry when it writes through it.
pub fn on_write(kind: TableKind) -> (u64, u64) {
    match kind {
        TableKind::VtdSecondStage => (bits(&[(8, 8, 1), (9, 9, 1)]), 0),
        TableKind::X86FirstStage | TableKind::AmdV1 | TableKind::AmdV2 => (bits(&[(5, 5, 1), (6, 6, 1)]), 0),
        TableKind::ArmStage1 => (0, bits(&[(7, 7, 1)])),
        TableKind::ArmStage2 => (bits(&[(7, 7, 1)]), 0),
    }
}

/// Bits that it sets when it reads.
pub fn on_read(kind: TableKind) -> u64 {
    match kind {
        TableKind::VtdSecondStage => bits(&[(8, 8, 1)]),
        TableKind::ArmStage1 | TableKind::ArmStage2 => 0,
        _ => bits(&[(5, 5, 1)]),
    }
}

pub fn is_arm(kind: TableKind) -> bool {
    matches!(kind, TableKind::ArmStage1 | TableKind::ArmStage2)
}

/// Has the layout write-only pages?
pub fn has_write_only(kind: TableKind) -> bool {
    matches!(kind, TableKind::VtdSecondStage | TableKind::AmdV1 | TableKind::ArmStage2)
}

pub fn rule(kind: TableKind) -> DirtyRule {
    match kind {
        TableKind::VtdSecondStage => DirtyRule::Bit(9),
        TableKind::X86FirstStage => DirtyRule::AccessedOrDirty { accessed: 5, dirty: 6 },
        TableKind::AmdV1 | TableKind::AmdV2 => DirtyRule::Bit(6),
        TableKind::ArmStage1 => DirtyRule::ArmDbmStage1,
        TableKind::ArmStage2 => DirtyRule::ArmDbmStage2,
    }
}

/// log2 of the item sizes of the layout, from the specifications, and not above `most`.
pub fn sizes(kind: TableKind, most: u32) -> Vec<u32> {
    let all: Vec<u32> = match kind {
        TableKind::AmdV1 => (12..=51).filter(|size| *size != 39).collect(),
        TableKind::ArmStage1 | TableKind::ArmStage2 => vec![12, 16, 21, 25, 30, 34],
        _ => vec![12, 21, 30],
    };
    all.into_iter().filter(|size| *size <= most).collect()
}

/// Bits of iova that a table takes in these tests: all that fit, but for the top of six levels, which has its own test.
pub fn iova_bits(kind: TableKind, levels: u8) -> u32 {
    let own = 12 + 9 * u32::from(levels);
    match kind {
        TableKind::X86FirstStage | TableKind::AmdV2 => own - 1,
        TableKind::AmdV1 => own.min(60),
        // Concatenated: 2, 4, 8, 16 tables at the top.
        TableKind::ArmStage2 => own + u32::from(5 - levels) + 1,
        _ => own,
    }
}
