//! Device table, host (v1) and guest (v2) tables, accessed and dirty bits.
mod amd_common;

use amd_common::*;
use soft_iommu::amd::{Caps, Config, Policy, Reason, Refused};
use soft_iommu::{Arena, Use};
use std::sync::Arc;

const A: u64 = 1 << 5;
const D: u64 = 1 << 6;

#[test]
fn feature_words_are_those_of_known_machines() {
    assert_eq!(Caps::qemu().efr(), 0x29d3);
    assert_eq!(Caps { hats: 3, ..Caps::qemu() }.efr(), 0x2dd3);
    assert_eq!(Caps { xt: true, ..Caps::qemu() }.efr(), 0x29d7);
    assert_eq!(Caps { ha: true, hd: true, ..Caps::qemu() }.efr(), 0x12_0000_0000_29d3);
    assert_eq!(Caps { pasid_bits: 16, ..Caps::plain() }.efr(), 15 << 32);
    assert_eq!(Caps { ht_range_ignore: true, interrupts_2048: true, ..Caps::plain() }.efr2(), 0x900);
}

#[test]
fn every_depth_reaches_the_page_and_only_it() {
    for (mode, iova) in [
        (1, 0x12_3000),
        (2, 0x3fed_c000),
        (3, 0x73_ffff_f000),
        (4, 0xffff_1234_5000),
        (5, 0x01ff_ffff_1234_5000),
        (6, 0xffff_ffff_ffff_f000),
    ] {
        let b = Bench::started(exact());
        let page = b.data();
        let (root, _) = b.host(mode, 1, iova, RW, leaf(page) | RW);
        b.v1(3, root, mode, 7, 0);
        assert_eq!(b.write(3, iova | 0xabc), Ok(page | 0xabc), "mode {mode}");
        assert_eq!(b.read(3, iova | 0xfff), Ok(page | 0xfff));
        assert_eq!(b.read(3, iova - 1), refused(Reason::NOT_PRESENT));
        if mode < 6 {
            assert_eq!(b.read(3, iova | 1 << (12 + 9 * mode)), refused(Reason::NOT_PRESENT), "beyond mode {mode}");
        }
        b.unit.dma_write(dev(3), None, iova | 0xff8, &[1, 2, 3]).unwrap();
        assert_eq!(b.get(page + 0xff8), 0x03_0201);
        assert_eq!(b.unit.take_writes()[0].pa, page + 0xff8);
        b.clean();
    }
}

#[test]
fn every_power_of_two_has_its_encoding() {
    // (level, size, page address field by hand): 8 KiB 0b0, 64 KiB 0b0111, 1 MiB; 4 MiB, 1 GiB / 2; 2 GiB.
    for (level, log2, field) in
        [(1, 13, 0x0), (1, 16, 0x7), (1, 20, 0x7f), (2, 22, 0x1ff), (2, 29, 0xffff), (3, 31, 0x3_ffff)]
    {
        let b = Bench::started(exact());
        let pa = 0x40_0000_0000;
        let entry = bits(&[(0, 0, 1), (11, 9, 7), (51, 12, pa >> 12 | field), (62, 61, 3)]);
        assert_eq!(entry, sized(pa, log2) | RW);
        let (root, at) = b.host(4, level, 0, RW, entry);
        // Replicated as often as the size asks: as many entries of this level as fit.
        for n in 0..1u64 << (log2 - (12 + 9 * (level as u32 - 1))) {
            b.put(at + 8 * n, entry);
        }
        b.v1(1, root, 4, 1, 0);
        let size = 1u64 << log2;
        for offset in [0, 0x1fff, size / 2 + 5, size - 1] {
            assert_eq!(b.write(1, offset), Ok(pa + offset), "2^{log2}");
        }
        assert_eq!(b.write(1, size), refused(Reason::NOT_PRESENT));
        b.clean();
    }
    // Default sizes: next level 0.
    for (level, log2) in [(1, 12), (2, 21), (3, 30), (4, 39)] {
        let b = Bench::started(exact());
        let (root, _) = b.host(4, level, 0, RW, leaf(0x80_0000_0000) | RW);
        b.v1(1, root, 4, 1, 0);
        assert_eq!(b.read(1, (1 << log2) - 1), Ok(0x80_0000_0000 + (1u64 << log2) - 1));
        assert_eq!(b.read(1, 1 << log2), refused(Reason::NOT_PRESENT));
        b.clean();
    }
}

#[test]
fn sizes_and_levels_that_cannot_be_are_refused_and_reported() {
    for (level, entry, want, rule) in [
        (1, sized(0, 21) | RW, Reason::BAD_LEVEL, "page size that its level cannot have"),
        (2, sized(0, 20) | RW, Reason::BAD_LEVEL, "page size that its level cannot have"),
        (2, sized(0, 21) | RW, Reason::BAD_LEVEL, "page size that its level cannot have"),
        (2, bits(&[(0, 0, 1), (11, 9, 2)]) | RW, Reason::BAD_LEVEL, "next level not below its table"),
        (1, bits(&[(0, 0, 1), (11, 9, 1)]) | RW, Reason::BAD_LEVEL, "next level not below its table"),
        (1, leaf(0) | RW | 1 << 52, Reason::RESERVED, "reserved bits in a host entry"),
        (1, leaf(0) | RW | 1 << 58, Reason::RESERVED, "reserved bits in a host entry"),
        (2, bits(&[(0, 0, 1), (11, 9, 1)]) | RW | 1 << 59, Reason::RESERVED, "reserved bits in a host entry"),
        (1, leaf(1 << 48) | RW, Reason::RESERVED, "reserved bits in a host entry"),
    ] {
        let b = Bench::started(exact());
        let (root, _) = b.host(3, level, 0, RW, entry);
        b.v1(1, root, 3, 1, 0);
        assert_eq!(b.read(1, 0), refused(want), "{entry:#x}");
        b.broke(rule);
    }
    let b = Bench::started(exact());
    let (root, _) = b.host(3, 1, 0, RW, leaf(b.data()) | RW | 1 << 59 | 1 << 60 | 1 << 63 | 0x1e);
    b.v1(1, root, 3, 1, 0);
    assert!(b.read(1, 0).is_ok(), "U, FC and ignored bits");
    b.clean();
}

#[test]
fn a_pointer_may_skip_levels_whose_bits_are_zero() {
    let b = Bench::started(exact());
    let (page, root, low) = (b.data(), b.frame(), b.frame());
    // Root of level 4, entry 2 leads straight to a table of level 1.
    b.put(root + 16, bits(&[(0, 0, 1), (11, 9, 1), (51, 12, low >> 12)]) | RW);
    b.put(low + 8 * 5, leaf(page) | RW);
    b.v1(1, root, 4, 1, 0);
    assert_eq!(b.write(1, 2 << 39 | 0x5123), Ok(page | 0x123));
    for bit in [21, 29, 30, 38] {
        assert_eq!(b.write(1, 2 << 39 | 1 << bit | 0x5123), refused(Reason::NOT_PRESENT), "bit {bit}");
    }
    b.clean();
}

#[test]
fn a_right_missing_anywhere_is_missing() {
    for (entry, branch, last) in [(R, RW, RW), (RW, R, RW), (RW, RW, R)] {
        let b = Bench::started(exact());
        let (root, _) = b.host(3, 1, 0x1000, branch, leaf(b.data()) | last);
        b.device(1, [word0(root, 3, 0) & !(3 << 61) | entry, 1, 0, 0]);
        assert!(b.read(1, 0x1000).is_ok());
        assert_eq!(b.write(1, 0x1000), refused(Reason::DENIED));
        b.clean();
    }
}

#[test]
fn device_entries_pass_block_and_translate() {
    let b = Bench::started(exact());
    let page = b.data();
    // V=0 passes; TV=0 blocks; mode 0 passes with the rights of the entry.
    assert_eq!(b.write(1, page), Ok(page));
    assert_eq!(b.unit.stats().untranslated, 1);
    b.device(1, [1, 0, 0, 0]);
    assert_eq!(b.write(1, page), refused(Reason::NOT_PRESENT));
    b.device(1, [3, 0, 0, 0]);
    assert_eq!(b.write(1, page), refused(Reason::DENIED));
    b.device(1, [3 | R, 0, 0, 0]);
    assert_eq!(b.read(1, page), Ok(page));
    assert_eq!(b.write(1, page), refused(Reason::DENIED));
    // Beyond the table of 256 entries.
    let far = iommu_types::StreamId::pci(0, 1, 0, 0);
    assert_eq!(b.unit.probe(far, None, page, true), refused(Reason::DTE_INVALID));
    assert_eq!(b.write(1, 0xfee0_1000), Err(Refused::InterruptRange));
    assert_eq!(b.write(1, 0xfd_0000_0000), Err(Refused::HyperTransport));
    b.clean();
}

#[test]
fn illegal_device_entries_are_refused_and_reported() {
    let plain = Config::new(Caps::plain()).policy(Policy::Exact);
    let five = Config::new(Caps { hats: 1, ..Caps::plain() }).policy(Policy::Exact);
    for (config, words, want) in [
        (exact(), [word0(0, 0, 0) | 1 << 2, 0, 0, 0], Reason::DTE_RESERVED),
        (exact(), [word0(0, 0, 0) | 1 << 6, 0, 0, 0], Reason::DTE_RESERVED),
        (exact(), [word0(0, 0, 0) | 1 << 63, 0, 0, 0], Reason::DTE_RESERVED),
        (exact(), [word0(0, 0, 0), 1 << 42, 0, 0], Reason::DTE_RESERVED),
        (exact(), [word0(0, 0, 0), 0, 1 << 52, 0], Reason::DTE_RESERVED),
        (exact(), [word0(0, 0, 0), 0, 0, 1], Reason::DTE_RESERVED),
        (exact(), [word0(0, 7, 0), 0, 0, 0], Reason::DTE_INVALID),
        (exact(), [word0(0, 0, 2), 0, 0, 0], Reason::DTE_INVALID),
        (exact(), [word0(0, 0, 0), 0, bits(&[(0, 0, 1), (4, 1, 10)]), 0], Reason::DTE_INVALID),
        (plain, [word0(0, 0, 1), 0, 0, 0], Reason::DTE_RESERVED),
        (plain, [word0(0, 0, 3), 0, 0, 0], Reason::DTE_RESERVED),
        (plain, [word0(0, 0, 0) | 1 << 55, 0, 0, 0], Reason::DTE_RESERVED),
        (plain, [word0(0, 5, 0), 0, 0, 0], Reason::DTE_INVALID),
        (five, [word0(0, 6, 0), 0, 0, 0], Reason::DTE_INVALID),
    ] {
        let b = Bench::started(config);
        b.device(1, words);
        assert_eq!(b.read(1, 0x1000), refused(want), "{words:#x?}");
        b.broke("illegal device table entry");
    }
}

#[test]
fn accessed_and_dirty_follow_had() {
    for (had, after_read, after_write) in [(0, 0, 0), (1, A, A), (3, A, A | D)] {
        for policy in [Policy::Exact, Policy::KeepAll] {
            let b = Bench::started(full().policy(policy));
            let entry = leaf(b.data()) | RW;
            let (root, at) = b.host(3, 1, 0x5000, RW, entry);
            b.v1(1, root, 3, 1, had);
            assert!(b.read(1, 0x5000).is_ok());
            assert_eq!(b.get(at), entry | after_read, "HAD {had}");
            // A clean entry in the cache is walked again by the first write.
            assert!(b.write(1, 0x5000).is_ok());
            assert_eq!(b.get(at), entry | after_write, "HAD {had}");
            b.clean();
        }
    }
}

#[test]
fn a_denied_write_sets_neither_bit_on_the_leaf() {
    let b = Bench::started(exact());
    let entry = leaf(b.data()) | R;
    let (root, at) = b.host(3, 1, 0x5000, RW, entry);
    b.v1(1, root, 3, 1, 3);
    assert_eq!(b.write(1, 0x5000), refused(Reason::DENIED));
    assert_eq!(b.get(at), entry);
}

#[test]
fn dirty_cleared_without_a_flush_stays_clear() {
    let mut b = Bench::started(full());
    let entry = leaf(b.data()) | RW;
    let (root, at) = b.host(3, 1, 0x5000, RW, entry);
    b.v1(1, root, 3, 9, 3);
    assert!(b.write(1, 0x5000).is_ok());
    b.put(at, entry);
    assert!(b.write(1, 0x5000).is_ok());
    assert_eq!(b.get(at), entry, "the cache knows it as dirty");
    b.flush_pages(9, 0x5000);
    assert!(b.write(1, 0x5000).is_ok());
    assert_eq!(b.get(at), entry | A | D);
    b.clean();
}

#[test]
fn only_the_replica_that_was_walked_gets_the_bits() {
    let b = Bench::started(full());
    let run = b.arena.alloc(16, Use::Data).unwrap();
    let entry = sized(run, 16) | RW;
    let (root, at) = b.host(3, 1, 0x2_0000, RW, entry);
    for n in 0..16 {
        b.put(at + 8 * n, entry);
    }
    b.v1(1, root, 3, 1, 3);
    assert_eq!(b.write(1, 0x2_3004), Ok(run + 0x3004));
    // The whole 64 KiB is cached as dirty: no other entry is touched.
    assert_eq!(b.write(1, 0x2_7000), Ok(run + 0x7000));
    for n in 0..16 {
        assert_eq!(b.get(at + 8 * n), if n == 3 { entry | A | D } else { entry }, "entry {n}");
    }
    b.clean();
}

/// GCR3 table of one level and four levels of guest tables for one page; mode 0.
fn guest(b: &Bench, n: u8, who: u32, iova: u64, branch: u64, last: u64) -> u64 {
    let gcr3 = b.frame();
    let mut table = b.frame();
    b.put(gcr3 + 8 * u64::from(who), table | 1);
    for level in (1..4).rev() {
        let next = b.frame();
        b.put(table + (iova >> (12 + 9 * level) & 511) * 8, next | branch);
        table = next;
    }
    let at = table + (iova >> 12 & 511) * 8;
    b.put(at, last);
    // GV 55, GLX 57:56 = 0, GCR3 14:12 in 60:58, 30:15 in 95:80, 51:31 in 127:107.
    let a = gcr3 >> 12 & 7;
    b.device(
        n,
        [
            word0(0, 0, 0) | bits(&[(55, 55, 1), (60, 58, a)]),
            bits(&[(15, 0, 5), (31, 16, gcr3 >> 15 & 0xffff), (63, 43, gcr3 >> 31)]),
            0,
            0,
        ],
    );
    at
}

#[test]
fn guest_tables_translate_by_pasid_and_set_their_bits() {
    let mut b = Bench::started(full());
    let page = b.data();
    let at = guest(&b, 1, 3, 0x7f12_3456_7000, 7, page | 7);
    assert_eq!(b.unit.probe(dev(1), pasid(3), 0x7f12_3456_7010, false), Ok(page | 0x10));
    assert_eq!(b.get(at), page | 7 | A);
    assert_eq!(b.unit.probe(dev(1), pasid(3), 0x7f12_3456_7010, true), Ok(page | 0x10));
    assert_eq!(b.get(at), page | 7 | A | D);
    assert_eq!(b.unit.probe(dev(1), pasid(4), 0x7f12_3456_7010, true), refused(Reason::NOT_PRESENT));
    assert_eq!(b.unit.probe(dev(1), pasid(512), 0x7f12_3456_7010, true), refused(Reason::NOT_PRESENT));
    assert_eq!(b.unit.probe(dev(1), pasid(3), 1 << 47, true), refused(Reason::NOT_PRESENT), "not canonical");
    // Without PASID the entry's host mode counts: 0, so the address passes.
    assert_eq!(b.read(1, page), Ok(page));
    // A host invalidation leaves guest translations; one with GN (66) and the PASID removes them.
    b.put(at, 0);
    b.flush_domain(5);
    assert!(b.unit.probe(dev(1), pasid(3), 0x7f12_3456_7010, true).is_ok());
    b.flush(bits(&[(19, 0, 3), (47, 32, 5), (63, 60, 3)]), 0x7f12_3456_7000 | 4);
    assert_eq!(b.unit.probe(dev(1), pasid(3), 0x7f12_3456_7010, true), refused(Reason::NOT_PRESENT));
    b.clean();
}

#[test]
fn guest_rights_and_reserved_bits() {
    for (last, write, want) in [(5, true, Reason::DENIED), (3, false, Reason::DENIED), (0, false, Reason::NOT_PRESENT)]
    {
        let b = Bench::started(exact());
        let page = b.data();
        guest(&b, 1, 0, 0x1000, 7, if last == 0 { 0 } else { page | last });
        assert_eq!(b.unit.probe(dev(1), pasid(0), 0x1000, write), refused(want));
        b.clean();
    }
    let b = Bench::started(exact());
    guest(&b, 1, 0, 0x1000, 7, 1 << 48 | 7);
    assert_eq!(b.unit.probe(dev(1), pasid(0), 0x1000, false), refused(Reason::RESERVED));
    b.broke("reserved bits in a guest entry");
    // A PASID without GV.
    b.device(2, [word0(0, 0, 0), 0, 0, 0]);
    assert_eq!(b.unit.probe(dev(2), pasid(0), 0x1000, false), refused(Reason::NOT_PRESENT));
}

#[test]
fn tables_out_of_memory_are_hardware_errors() {
    let b = Bench::started(exact());
    b.v1(1, 0x1_0000_0000, 3, 1, 0);
    assert_eq!(b.read(1, 0x20_1000), refused(Reason::TABLE_ACCESS));
    // PAGE_TAB_HARDWARE_ERROR: code 4, type 58:57 = 1, address of the entry.
    assert_eq!(b.event(0), [bits(&[(15, 0, 8), (47, 32, 1), (58, 57, 1), (63, 60, 4)]), 0x1_0000_0000]);
}

#[test]
fn unpublished_entries_are_invisible_where_snooping_is_off() {
    let arena = Arc::new(Arena::with_stale_view(BASE, 16));
    let b = Bench::over(arena, exact());
    b.arena.publish(b.table, 8192);
    b.start();
    let (root, at) = b.host(3, 1, 0x1000, RW, leaf(b.data()) | RW);
    // SD is bit 102: page-table walks are not snooped.
    b.device(1, [word0(root, 3, 0), bits(&[(15, 0, 1), (38, 38, 1)]), 0, 0]);
    assert!(b.read(1, 0x1000).is_err());
    b.arena.clear_violations();
    for page in [root, at & !0xfff] {
        b.arena.publish(page, 4096);
    }
    b.arena.publish(b.get(root) & !0xfff & 0xf_ffff_ffff_ffff, 4096);
    assert!(b.read(1, 0x1000).is_ok());
    b.clean();
}

/// Word 0 and 1 of an entry with GV 55 and GLX 57:56: GCR3 14:12 in 60:58, 30:15 in 95:80, 51:31 in 127:107.
fn with_guest(word: u64, domain: u64, glx: u64, gcr3: u64) -> [u64; 2] {
    [
        word | bits(&[(55, 55, 1), (57, 56, glx), (60, 58, gcr3 >> 12 & 7)]),
        bits(&[(15, 0, domain), (31, 16, gcr3 >> 15 & 0xffff), (63, 43, gcr3 >> 31)]),
    ]
}

#[test]
fn gcr3_tables_of_three_levels_five_level_guests_and_large_leaves() {
    let b = Bench::started(exact());
    let (top, middle, low, root) = (b.frame(), b.frame(), b.frame(), b.frame());
    let who = 0xa_5678u32;
    b.put(top + 8 * u64::from(who >> 18), middle | 1);
    b.put(middle + 8 * u64::from(who >> 9 & 511), low | 1);
    b.put(low + 8 * u64::from(who & 511), root | 1);
    // GPM 183:182 = 1: five levels.
    let [a, c] = with_guest(word0(0, 0, 0), 5, 2, top);
    b.device(1, [a, c, 1 << 54, 0]);
    let mut table = root;
    let iova = 0x00ff_1234_5678_9000u64;
    for level in [4, 3] {
        let next = b.frame();
        b.put(table + (iova >> (12 + 9 * level) & 511) * 8, next | 7);
        table = next;
    }
    // 1 GiB, then 2 MiB beside it.
    b.put(table + (iova >> 30 & 511) * 8, 0x80_4000_0000 | 0x87);
    assert_eq!(b.unit.probe(dev(1), pasid(who), iova, true), Ok(0x80_4000_0000 | iova & 0x3fff_ffff));
    let next = b.frame();
    b.put(table + (iova >> 30 & 511) * 8, next | 7);
    b.put(next + (iova >> 21 & 511) * 8, 0x80_4020_0000 | 0x87);
    assert_eq!(b.unit.probe(dev(1), pasid(who), iova, true), Ok(0x80_4020_0000 | iova & 0x1f_ffff));
    assert_eq!(b.unit.probe(dev(1), pasid(who + 1), iova, true), refused(Reason::NOT_PRESENT));
    b.clean();
    b.put(next + (iova >> 21 & 511) * 8, 0x80_4020_2000 | 0x87);
    assert_eq!(b.unit.probe(dev(1), pasid(who), iova, true), refused(Reason::RESERVED));
    b.broke("reserved bits in a guest entry");
}

/// Guest tables whose addresses are guest physical, over host tables that shift everything by 4 GiB.
#[test]
fn nested_tables_pass_twice_and_dirty_both() {
    let mut b = Bench::started(full());
    let shift = 0x1_0000_0000u64;
    let (root, last) = b.host(3, 1, BASE + shift, RW, 0);
    let last = last & !0xfff;
    // Host leaves for the 2 MiB of the arena from its base.
    let host = |b: &Bench, pa: u64, rights: u64| {
        let at = last + (pa >> 12 & 511) * 8;
        b.put(at, leaf(pa) | rights);
        at
    };
    let (gcr3, page) = (b.frame(), b.data());
    let mut table = b.frame();
    let first = table;
    b.put(gcr3, (table + shift) | 1);
    host(&b, gcr3, RW);
    for level in (1..4).rev() {
        let next = b.frame();
        host(&b, table, RW);
        b.put(table + (0x7000u64 >> (12 + 9 * level) & 511) * 8, (next + shift) | 7);
        table = next;
    }
    let table_leaf = host(&b, table, RW);
    let at = table + 8 * 7;
    b.put(at, (page + shift) | 7);
    let page_leaf = host(&b, page, RW);
    // HAD 3; GIoV 54: requests without PASID are PASID 0.
    let [a, c] = with_guest(word0(root, 3, 3) | 1 << 54, 5, 0, gcr3 + shift);
    b.device(1, [a, c, 0, 0]);
    assert_eq!(b.write(1, 0x7123), Ok(page | 0x123));
    assert_eq!(b.get(at), (page + shift) | 7 | A | D);
    assert_eq!(b.get(page_leaf), leaf(page) | RW | A | D);
    assert_eq!(b.get(table_leaf), leaf(table) | RW | A | D, "the update of the guest entry wrote to its page");
    b.clean();
    // The host page goes: a host invalidation of that guest physical page removes the nested translation.
    b.put(page_leaf, 0);
    b.flush_pages(5, 0x2000);
    assert!(b.write(1, 0x7123).is_ok(), "another page");
    b.flush_pages(5, (page + shift) & !0xfff);
    assert_eq!(b.write(1, 0x7123), refused(Reason::NOT_PRESENT));
    b.put(page_leaf, leaf(page) | R);
    assert_eq!(b.write(1, 0x7123), refused(Reason::DENIED));
    assert_eq!(b.read(1, 0x7123), Ok(page | 0x123));
    b.clean();
    let _ = first;
}

#[test]
fn a_gcr3_entry_stays_until_its_pasid_or_its_device_is_named() {
    for by_device in [false, true] {
        let mut b = Bench::started(full());
        let (page, other) = (b.data(), b.data());
        let at = guest(&b, 1, 3, 0x1000, 7, page | 7);
        assert_eq!(b.unit.probe(dev(1), pasid(3), 0x1000, true), Ok(page));
        let words: [u64; 4] = std::array::from_fn(|n| b.get(b.entry(1) + 8 * n as u64));
        let gcr3 = words[0] >> 58 & 7 | (words[1] >> 16 & 0xffff) << 3 | words[1] >> 43 << 19;
        let old = b.get(gcr3 << 12 | 24);
        let fresh = b.frame();
        let mut table = fresh;
        for level in (1..4).rev() {
            let next = b.frame();
            b.put(table, next | 7);
            table = next;
            let _ = level;
        }
        b.put(table + 8, other | 7);
        b.put(gcr3 << 12 | 24, fresh | 1);
        // Leaves only: PDE 65 clear, GN 66.
        b.flush(bits(&[(19, 0, 3), (47, 32, 5), (63, 60, 3)]), 0x7fff_ffff_ffff_f005);
        assert_eq!(b.unit.probe(dev(1), pasid(3), 0x1000, true), Ok(page));
        if by_device {
            b.flush_device(1);
            assert_eq!(b.unit.probe(dev(1), pasid(3), 0x1000, true), Ok(page), "found by requester");
        }
        b.flush(bits(&[(19, 0, 3), (47, 32, 5), (63, 60, 3)]), 0x7fff_ffff_ffff_f007);
        assert_eq!(b.unit.probe(dev(1), pasid(3), 0x1000, true), Ok(other));
        b.clean();
        let _ = (at, old);
    }
}
