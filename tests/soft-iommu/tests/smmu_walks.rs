//! Walks, caches and hardware updates of the SMMUv3 model, against structures typed from the figures.
#![allow(missing_docs)]

mod smmu_common;

use iommu_types::Pasid;
use smmu_common::*;
use soft_iommu::smmu::{Caps, Config, Policy, Refused};
use soft_iommu::{Arena, Use};
use std::sync::Arc;

#[test]
fn stage_1_translates_and_an_unmapped_page_is_f_translation() {
    let (mut b, page, _, _) = s1_bench(full(), 0, RW);
    assert_eq!(b.write(1, 0x12_3456), Ok(page + 0x456));
    assert_eq!(b.read(1, 0x12_4008), fault(0x10));
    // Event: type 7:0, SID 63:32; RnW 35, CLASS 41:40 = 2 (IN); address.
    assert_eq!(b.event(), [bits(&[(7, 0, 0x10), (63, 32, sid(1))]), bits(&[(35, 35, 1), (41, 40, 2)]), 0x12_4008, 0]);
    // The whole 48-bit half and not one bit more.
    assert_eq!(b.read(1, 1 << 48), fault(0x10));
    assert_eq!(b.read(1, u64::MAX), fault(0x10), "TTB1 is disabled");
    b.clean();
}

#[test]
fn blocks_of_both_sizes_and_faults_of_descriptors() {
    let (b, _, _, root) = s1_bench(full(), 0, RW);
    b.map(root, 0, 2, 0x4020_0000, 0x1_0020_0000, RW);
    b.map(root, 0, 1, 0x80_0000_0000, 0x1_4000_0000, RW);
    assert_eq!(b.write(1, 0x4021_2345), Ok(0x1_0021_2345));
    assert_eq!(b.write(1, 0x80_1234_5678), Ok(0x1_5234_5678));
    for (leaf, code) in [
        (RW | RO, 0x13),        // read only
        (RW & !(1 << 6), 0x13), // privileged only
        (RW & !AF, 0x12),       // access flag
        (RW & !2, 0x10),        // reserved type at level 3
        (RW | 1 << 45, 0x11),   // beyond the 44 bits of IPS
    ] {
        let (b, _, entry, _) = s1_bench(full(), 0, leaf);
        assert_eq!(b.write(1, 0x12_3000), fault(code), "{leaf:#x} at {entry:#x}");
        b.clean();
    }
}

#[test]
fn stage_2_translates_faults_carry_s2_and_ipa() {
    let (mut b, page, _, root) = s2_bench(full(), 0, S2RW);
    assert_eq!(b.write(1, 0x12_3456), Ok(page + 0x456));
    b.map(root, 1, 3, 0x12_5000, page, S2RW & !S2W);
    assert_eq!(b.write(1, 0x12_5010), fault(0x13));
    let want = bits(&[(39, 39, 1), (41, 40, 2)]);
    assert_eq!(b.event(), [bits(&[(7, 0, 0x13), (63, 32, sid(1))]), want, 0x12_5010, 0x12_5000]);
    // Input size 39 bits.
    assert_eq!(b.read(1, 1 << 39), fault(0x10));
    // A substream means nothing to stage 2.
    assert_eq!(b.unit.probe(dev(1), Some(Pasid(1)), 0x12_3000, false), fault(0x08));
    b.clean();
}

#[test]
fn concatenated_start_tables_at_stage_2() {
    // Start level 1 with 40 bits (T0SZ 24): two tables side by side.
    let b = Bench::started(full());
    let root = b.arena.alloc(2, Use::Table).unwrap();
    let page = b.data();
    let (next, last) = (b.frame(), b.frame());
    b.put(root + 8 * 513, next | 3);
    b.put(next, last | 3);
    b.put(last, page | S2RW);
    let mut ste = b.ste_s2(root, 3, 0);
    ste[2] = ste[2] & !(63 << 32) | 24 << 32;
    b.put_ste(1, ste);
    assert_eq!(b.write(1, 513 << 30), Ok(page));
    b.clean();
}

#[test]
fn nothing_is_dropped_before_a_sync_after_the_tlbi() {
    let (mut b, page, entry, _) = s1_bench(full(), 0, RW);
    assert_eq!(b.write(1, 0x12_3000), Ok(page));
    b.put(entry, 0);
    assert_eq!(b.write(1, 0x12_3000), Ok(page), "stale, as allowed");
    let (lo, hi) = nh_va(3, 7, 0x12_3000, 1);
    b.post(lo, hi);
    b.ticks(20);
    assert_eq!(b.write(1, 0x12_3000), Ok(page), "consumed is not completed");
    b.sync();
    assert_eq!(b.write(1, 0x12_3000), fault(0x10));
    b.clean();
}

#[test]
fn invalidations_that_do_not_cover_leave_the_entry() {
    let va = 0x12_3000;
    let op = |n: u64, vmid: u64, asid: u64| bits(&[(7, 0, n), (47, 32, vmid), (63, 48, asid)]);
    // (command, does it cover)
    let cases = [
        ((op(0x12, 3, 8), va | 1), false),                              // other ASID
        ((op(0x12, 4, 7), va | 1), false),                              // other VMID
        ((op(0x12, 3, 7), (va + 0x1000) | 1), false),                   // other page
        ((op(0x2a, 3, 0), va), false),                                  // by IPA
        ((op(0x11, 3, 8), 0), false),                                   // NH_ASID
        ((op(0x12, 3, 7), bits(&[(9, 8, 2), (11, 10, 1)]) | 1), false), // address 0, level 2
        ((op(0x12, 3, 7), va | 1), true),
        ((op(0x13, 3, 0), va | 1), true),
        ((op(0x11, 3, 7), 0), true),
        ((op(0x10, 3, 0), 0), true),
        ((op(0x28, 3, 0), 0), true),
        ((0x30, 0), true),
        // 32 pages (NUM 16:12 = 31, SCALE 0) from 0x110000: up to 0x12ffff; level 3.
        ((op(0x12, 3, 7) | 31 << 12, 0x11_0000 | bits(&[(0, 0, 1), (9, 8, 3), (11, 10, 1)])), true),
        // The same with level hint 2: not that leaf.
        ((op(0x12, 3, 7) | 31 << 12 | 4 << 20, bits(&[(0, 0, 1), (9, 8, 2), (11, 10, 1)])), false),
        // (NUM 8 + 1) x 2^(SCALE 5) = 288 pages from 0: up to 0x11ffff.
        ((op(0x12, 3, 7) | 8 << 12 | 5 << 20, bits(&[(0, 0, 1), (11, 10, 1)])), false),
        ((op(0x12, 3, 7) | 9 << 12 | 5 << 20, bits(&[(0, 0, 1), (11, 10, 1)])), true),
    ];
    for (n, ((lo, hi), covers)) in cases.into_iter().enumerate() {
        let (mut b, page, entry, _) = s1_bench(full(), 0, RW);
        b.write(1, va).unwrap();
        b.put(entry, 0);
        b.command(lo, hi);
        assert_eq!(b.write(1, va), if covers { fault(0x10) } else { Ok(page) }, "case {n}");
        b.clean();
    }
}

#[test]
fn a_global_entry_outlives_its_asid_but_not_its_address() {
    let (mut b, page, entry, _) = s1_bench(full(), 0, RW & !NG);
    b.write(1, 0x12_3000).unwrap();
    b.put(entry, 0);
    b.command(bits(&[(7, 0, 0x11), (47, 32, 3), (63, 48, 7)]), 0);
    assert_eq!(b.write(1, 0x12_3000), Ok(page));
    let (lo, hi) = nh_va(3, 9, 0x12_3000, 1);
    b.command(lo, hi);
    assert_eq!(b.write(1, 0x12_3000), fault(0x10));
}

#[test]
fn a_leaf_invalidation_keeps_the_way_to_the_table() {
    let (mut b, page, entry, root) = s1_bench(full(), 0, RW);
    b.write(1, 0x12_3000).unwrap();
    // A new last-level table; the old one still has the entry.
    let next = b.frame();
    let l1 = b.get(root) & 0xffff_ffff_f000;
    let l2 = b.get(l1) & 0xffff_ffff_f000;
    b.put(l2, 0);
    let (lo, hi) = nh_va(3, 7, 0x12_3000, 1);
    b.command(lo, hi);
    assert_eq!(b.write(1, 0x12_3000), Ok(page), "through the cached table descriptor");
    let (lo, hi) = nh_va(3, 7, 0x12_3000, 0);
    b.command(lo, hi);
    assert_eq!(b.write(1, 0x12_3000), fault(0x10));
    assert_ne!((next, entry), (0, 0));
    b.clean();
}

#[test]
fn a_freed_table_that_is_walked_is_reported() {
    let (mut b, _, entry, root) = s1_bench(full(), 0, RW);
    b.write(1, 0x12_3000).unwrap();
    let l1 = b.get(root) & 0xffff_ffff_f000;
    let l2 = b.get(l1) & 0xffff_ffff_f000;
    b.put(l2, 0);
    b.arena.release(entry & !0xfff, 1);
    let (lo, hi) = nh_va(3, 7, 0x12_3000, 1);
    b.command(lo, hi);
    let _ = b.write(1, 0x12_3000);
    b.broke("hardware used a frame that is not held");
}

#[test]
fn a_contiguous_run_is_one_entry_and_falls_as_one() {
    let (mut b, _, _, root) = s1_bench(full(), 0, RW);
    let run = b.arena.alloc(16, Use::Data).unwrap();
    let entries: Vec<u64> =
        (0..16).map(|n| b.map(root, 0, 3, 0x20_0000 + n * 4096, run + n * 4096, RW | CONT)).collect();
    b.write(1, 0x20_0000).unwrap();
    b.put(entries[5], 0);
    assert_eq!(b.write(1, 0x20_5000), Ok(run + 0x5000), "cached as one");
    let (lo, hi) = nh_va(3, 7, 0x20_f000, 1);
    b.command(lo, hi);
    entries.iter().for_each(|&e| b.put(e, 0));
    assert_eq!(b.write(1, 0x20_5000), fault(0x10), "any page of it drops all");
    b.clean();
    entries.iter().enumerate().for_each(|(n, &e)| b.put(e, (run + n as u64 * 4096) | RW | CONT));
    b.put(entries[3], run | RW | CONT);
    b.write(1, 0x20_0000).unwrap();
    b.broke("contiguous run is not uniform");
}

#[test]
fn access_flag_and_dirty_state_at_stage_1() {
    // HD 42, HA 43: hd_ha 3 both, 2 HA only.
    let clean = RW & !AF | RO | DBM;
    let (b, page, entry, _) = s1_bench(full(), 3, clean);
    assert_eq!(b.read(1, 0x12_3000), Ok(page));
    assert_eq!(b.get(entry), page | clean | AF, "a read sets AF only");
    assert_eq!(b.write(1, 0x12_3000), Ok(page));
    assert_eq!(b.get(entry), page | (clean | AF) & !RO, "a write clears AP[2]");
    b.clean();

    let (b, page, entry, _) = s1_bench(full(), 2, clean);
    assert_eq!(b.write(1, 0x12_3000), fault(0x13), "HA alone");
    assert_eq!(b.get(entry) & !AF, page | clean);
    let (b, _, _, _) = s1_bench(full(), 0, clean | AF);
    assert_eq!(b.write(1, 0x12_3000), fault(0x13), "DBM without HD is nothing");
    let (b, _, _, _) = s1_bench(full(), 3, clean & !DBM);
    assert_eq!(b.write(1, 0x12_3000), fault(0x13), "read only stays read only");
}

#[test]
fn a_dirty_state_cleared_without_tlbi_is_lost() {
    for s2 in [false, true] {
        let (mut b, page, entry, _) =
            if s2 { s2_bench(full(), 3, S2RW & !S2W | DBM) } else { s1_bench(full(), 3, RW | RO | DBM) };
        let dirty = |b: &Bench| (b.get(entry) & 1 << 7 != 0) == s2;
        let clear = |b: &Bench| b.put(entry, if s2 { page | S2RW & !S2W | DBM } else { page | RW | RO | DBM });
        b.write(1, 0x12_3000).unwrap();
        assert!(dirty(&b));
        clear(&b);
        b.write(1, 0x12_3000).unwrap();
        assert!(!dirty(&b), "lost: the cached entry is writable");
        let (lo, hi) = if s2 { (bits(&[(7, 0, 0x2a), (47, 32, 3)]), 0x12_3001) } else { nh_va(3, 7, 0x12_3000, 1) };
        b.command(lo, hi);
        b.write(1, 0x12_3000).unwrap();
        assert!(dirty(&b));
        b.clean();
    }
}

#[test]
fn hardware_update_of_a_walk_that_is_not_snooped_is_reported() {
    let config = Config::new(Caps { cohacc: false, ..Caps::full() });
    let (b, _, _, _) = s1_bench(config, 3, RW | RO | DBM);
    b.write(1, 0x12_3000).unwrap();
    b.broke("hardware update through a walk that is not snooped");
}

/// Nested: stage 2 identity (VMID 3) over the arena by pages of 2 MiB, stage 1 above it.
fn nested(hd_ha: u64) -> (Bench, u64, u64, u64) {
    let b = Bench::started(full());
    let (s2, _) = b.table(1, 3, 0x12_3000, b.data(), S2RW);
    let page = b.data();
    let (root, entry) = b.table(0, 3, 0x55_5000, 0x9_9000, if hd_ha == 0 { RW } else { RW | RO | DBM });
    let leaf = b.map(s2, 1, 3, 0x9_9000, page, if hd_ha == 0 { S2RW } else { S2RW & !S2W | DBM });
    let cd = b.frame();
    b.put_cd(cd, root, 7, hd_ha);
    let mut walk = vec![cd, root];
    let mut at = root;
    for level in 0..3 {
        at = b.get(at + (0x55_5000u64 >> (39 - 9 * level) & 511) * 8) & 0xffff_ffff_f000;
        walk.push(at);
    }
    for pa in walk {
        b.map(s2, 1, 3, pa, pa, if hd_ha == 0 { S2RW & !S2W } else { S2RW & !S2W | DBM });
    }
    let (one, two) = (b.ste_s1(cd, 0, 3), b.ste_s2(s2, 3, hd_ha));
    b.put_ste(1, [one[0] | 7 << 1, one[1], two[2], two[3]]);
    (b, page, entry, leaf)
}

#[test]
fn nested_entries_need_more_than_an_invalidation_by_ipa() {
    let (mut b, page, _, leaf) = nested(0);
    assert_eq!(b.write(1, 0x55_5123), Ok(page + 0x123));
    b.put(leaf, 0);
    b.command(bits(&[(7, 0, 0x2a), (47, 32, 3)]), 0x9_9000);
    assert_eq!(b.write(1, 0x55_5000), Ok(page), "both stages in one entry");
    b.command(bits(&[(7, 0, 0x10), (47, 32, 3)]), 0);
    assert_eq!(b.write(1, 0x55_5000), fault(0x10));
    let event = b.event();
    assert_eq!(event[1], bits(&[(39, 39, 1), (41, 40, 2)]));
    assert_eq!((event[2], event[3]), (0x55_5000, 0x9_9000));
    b.clean();
}

#[test]
fn an_update_of_stage_1_dirties_the_page_of_its_table() {
    let (b, page, entry, leaf) = nested(3);
    let s2_of_table = {
        // Found through the STE: S2TTB, three levels.
        let mut at = b.get(b.ste_at(1) + 24);
        for level in 1..3 {
            at = b.get(at + (entry >> (39 - 9 * level) & 511) * 8) & 0xffff_ffff_f000;
        }
        at + (entry >> 12 & 511) * 8
    };
    b.read(1, 0x55_5000).unwrap();
    assert_eq!((b.get(s2_of_table) & S2W, b.get(leaf) & S2W, b.get(entry) & RO), (0, 0, RO));
    assert_eq!(b.write(1, 0x55_5000), Ok(page));
    assert_eq!((b.get(s2_of_table) & S2W, b.get(leaf) & S2W, b.get(entry) & RO), (S2W, S2W, 0));
    b.clean();
}

#[test]
fn substreams_linear_and_two_level() {
    for fmt in [0, 1] {
        let b = Bench::started(full());
        let page = b.data();
        let (root, _) = b.table(0, 3, 0x1000, page, RW);
        let mut cds = b.arena.alloc(2, Use::Table).unwrap();
        let table = cds;
        if fmt == 1 {
            cds = b.frame();
            b.put(table + 8, cds | 1); // substreams 64 to 127
            b.put_cd(cds + 64 * 2, root, 9, 0);
        } else {
            b.put_cd(cds + 64 * 66, root, 9, 0);
        }
        let mut ste = b.ste_s1(table, 7, 3);
        ste[0] |= fmt << 4;
        b.put_ste(1, ste);
        let at = |ssid| b.unit.probe(dev(1), Some(Pasid(ssid)), 0x1000, true);
        assert_eq!(at(66), Ok(page));
        assert_eq!(at(67), fault(0x0a), "CD not valid");
        assert_eq!(at(128), fault(0x08), "beyond S1CDMax");
        assert_eq!(b.write(1, 0x1000), fault(0x06), "S1DSS 0: no substream, no service");
        ste[1] |= 1; // S1DSS: bypass
        b.put_ste(2, ste);
        assert_eq!(b.write(2, 0x1000), Ok(0x1000));
        b.clean();
    }
}

#[test]
fn break_before_make_by_what_hardware_cached() {
    for (bbml, want) in [(0, true), (2, false)] {
        let config = Config::new(Caps { bbml, ..Caps::full() });
        let b = Bench::started(config.policy(Policy::Adversarial(5)));
        let block = 0x4040_0000;
        let (root, entry) = b.table(0, 2, 0x20_0000, block, RW);
        let cd = b.frame();
        b.put_cd(cd, root, 7, 0);
        b.put_ste(1, b.ste_s1(cd, 0, 3));
        b.read(1, 0x20_0000).unwrap();
        let table = b.frame();
        (0..512).for_each(|n| b.put(table + 8 * n, (block + 4096 * n) | RW));
        b.put(entry, table | 3);
        (0..200).for_each(|_| b.unit.sample());
        if want {
            b.broke("live translation replaced by another size");
        } else {
            b.clean();
        }
    }
}

#[test]
fn break_before_make_by_the_journal() {
    let (b, page, entry, _) = s1_bench(full(), 0, RW);
    b.write(1, 0x12_3000).unwrap();
    b.unit.begin_op();
    b.put(entry, page | RW | RO); // permission only
    b.unit.end_op();
    b.clean();
    b.unit.begin_op();
    b.put(entry, b.data() | RW);
    b.unit.end_op();
    b.broke("live translation replaced by another output");
}

#[test]
fn exact_policy_sees_every_change_at_once() {
    let (b, _, entry, _) = s1_bench(full().policy(Policy::Exact), 0, RW);
    b.write(1, 0x12_3000).unwrap();
    b.put(entry, 0);
    assert_eq!(b.write(1, 0x12_3000), fault(0x10));
}

#[test]
fn what_was_not_published_is_not_seen() {
    let config = Config::new(Caps { cohacc: false, ..Caps::full() }).policy(Policy::Exact);
    let mut b = Bench::over(Arc::new(Arena::with_stale_view(BASE, 16)), config);
    (0..4).for_each(|n| b.arena.publish(b.strtab + n * 4096, 4096));
    b.start();
    let page = b.data();
    let (root, entry) = b.table(0, 3, 0x12_3000, page, RW);
    let cd = b.frame();
    b.put_cd(cd, root, 7, 0);
    b.put_ste(1, b.ste_s1(cd, 0, 3));
    assert_ne!(b.write(1, 0x12_3000), Ok(page));
    b.arena.publish_all();
    b.arena.clear_violations();
    assert_eq!(b.write(1, 0x12_3000), Ok(page));
    b.put(entry, 0);
    assert_eq!(b.write(1, 0x12_3000), Ok(page), "the old view");
    b.arena.publish(entry, 8);
    assert_eq!(b.write(1, 0x12_3000), fault(0x10));
    b.clean();
}

#[test]
fn tables_not_marked_cacheable_are_not_snooped() {
    let config = full().policy(Policy::Exact);
    let b = Bench::over(Arc::new(Arena::with_stale_view(BASE, 16)), config);
    let mut b = b;
    b.start();
    let page = b.data();
    let (root, _) = b.table(0, 3, 0x12_3000, page, RW);
    let cd = b.frame();
    b.put(cd + 8, root);
    b.put(cd, cd0(7, 0) & !(0xf << 8)); // IR0 = OR0 = 0
    b.put_ste(1, b.ste_s1(cd, 0, 3));
    assert_ne!(b.write(1, 0x12_3000), Ok(page));
    b.put(cd, cd0(7, 0));
    b.arena.clear_violations();
    assert_eq!(b.write(1, 0x12_3000), Ok(page));
    b.clean();
}

#[test]
fn a_device_tlb_forgets_on_atc_inv_only() {
    let (mut b, page, entry, _) = s1_bench(full(), 0, RW);
    let mut ste = b.ste_s1(0, 0, 3);
    ste[0] = b.get(b.ste_at(1));
    ste[1] |= 1 << 28; // EATS 29:28
    b.put_ste(1, ste);
    b.unit.ats_write(dev(1), None, 0x12_3000, &[1; 8]).unwrap();
    b.put(entry, 0);
    let (lo, hi) = nh_va(3, 7, 0x12_3000, 1);
    b.command(lo, hi);
    b.unit.ats_write(dev(1), None, 0x12_3000, &[2; 8]).unwrap();
    assert_eq!(b.get(page), 0x0202_0202_0202_0202);
    // ATC_INV 0x40: SID 63:32; Size 5:0 = 1 (two pages), address 63:12.
    b.command(bits(&[(7, 0, 0x40), (63, 32, sid(1))]), 0x12_2001);
    assert_eq!(b.unit.ats_write(dev(1), None, 0x12_3000, &[3; 8]), fault(0x10).map(|_| ()));
    assert_eq!(b.unit.take_writes().len(), 2);
    b.clean();
}

#[test]
fn a_write_in_flight_lands_before_the_sync_completes() {
    let (mut b, page, entry, _) = s1_bench(full(), 0, RW);
    b.unit.begin_dma(dev(1), None, 0x12_3000, &[9; 8]).unwrap();
    b.put(entry, 0);
    assert_eq!(b.get(page), 0);
    let (lo, hi) = nh_va(3, 7, 0x12_3000, 1);
    b.command(lo, hi);
    assert_eq!(b.get(page), 0x0909_0909_0909_0909);
    b.clean();
}

#[test]
fn a_stalled_write_is_retried_by_resume() {
    let (mut b, page, entry, root) = s1_bench(full(), 0, 0);
    let cd = b.get(b.ste_at(1)) & 0xf_ffff_ffff_ffc0;
    b.put(cd, cd0(7, 0) | 1 << 44);
    assert_eq!(b.unit.dma_write(dev(1), None, 0x12_3000, &[5; 8]), Err(Refused::Stalled(1)));
    let event = b.event();
    assert_eq!(event[1], bits(&[(15, 0, 1), (31, 31, 1), (41, 40, 2)]));
    b.put(entry, page | RW);
    // RESUME 0x44: Ac 12, SID 63:32; STAG 15:0.
    b.command(bits(&[(7, 0, 0x44), (12, 12, 1), (63, 32, sid(1))]), 1);
    assert_eq!(b.get(page), 0x0505_0505_0505_0505);
    assert_ne!(root, 0);
    b.clean();
}
