//! Scalable mode: PASID tables, first and second stage, accessed and dirty bits.
mod common;

use common::*;
use soft_iommu::vtd::{Caps, Config, Quirks, Reason, Refused};
use soft_iommu::{Arena, Use};
use std::sync::Arc;

/// First stage: P, R/W, U/S.
const PRWU: u64 = 7;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;

fn fs_bench(config: Config) -> (Bench, u64, u64, u64) {
    let mut b = Bench::new(config);
    let page = b.data();
    let (root, leaf) = b.table(4, 0, 0x12_3000, page, PRWU, PRWU);
    let slot = b.pasid_slot(dev(1), 0, false);
    b.first_stage(slot, root, 5, u64::from(config.caps.smpwc));
    b.start(1);
    (b, page, leaf, slot)
}

fn fs_flush(b: &mut Bench, did: u64, pasid: u64) {
    b.flush(bits(&[(3, 0, 6), (5, 4, 2), (31, 16, did), (51, 32, pasid)]), 0);
}

#[test]
fn first_stage_walk_sets_accessed_and_dirty() {
    let (b, page, leaf, _) = fs_bench(Config::new(Caps::scalable_fs()));
    assert_eq!(b.read(1, 0x12_3456), Ok(page | 0x456));
    assert_eq!(b.arena.load64(leaf), page | PRWU | A);
    assert_eq!(b.write(1, 0x12_3456), Ok(page | 0x456));
    assert_eq!(b.arena.load64(leaf), page | PRWU | A | D, "a read before does not hide the write");
    assert_eq!(b.write(1, 0x12_4000), fault(0x71));
    assert_eq!(b.read(1, 1 << 47), fault(0x80));
    assert_eq!(b.read(2, 0x12_3000), fault(0x41));
    b.clean();
}

#[test]
fn dirty_cleared_without_a_flush_is_not_set_again() {
    let (mut b, page, leaf, _) = fs_bench(Config::new(Caps::scalable_fs()));
    b.write(1, 0x12_3000).unwrap();
    b.put(leaf, page | PRWU | A);
    b.write(1, 0x12_3000).unwrap();
    assert_eq!(b.arena.load64(leaf) & D, 0, "the cached entry is dirty already");
    fs_flush(&mut b, 5, 0);
    b.write(1, 0x12_3000).unwrap();
    assert_eq!(b.arena.load64(leaf) & D, D);
    b.clean();
}

#[test]
fn an_update_needed_on_an_unsnooped_walk_is_fatal() {
    let caps = Caps { smpwc: false, ..Caps::scalable_fs() };
    let (b, page, leaf, _) = fs_bench(Config::new(caps));
    assert_eq!(b.read(1, 0x12_3000), fault(0x90));
    // Preset in every entry, it works.
    let mut b = Bench::new(Config::new(caps));
    let (root, _) = b.table(4, 0, 0x12_3000, page, PRWU | A, PRWU | A | D);
    let slot = b.pasid_slot(dev(1), 0, false);
    b.first_stage(slot, root, 5, 0);
    b.start(1);
    assert_eq!(b.write(1, 0x12_3000), Ok(page));
    assert_ne!(leaf, 0);
    b.clean();
}

#[test]
fn qemu_loses_the_dirty_bit_of_a_page_read_before() {
    // The table of measured cases: (leaf before, read first, leaf after).
    let cases = [(0, false, A | D), (0, true, A), (A, false, A)];
    for (before, read_first, after) in cases {
        let quirks = Quirks { fs_ad: true, ..Quirks::default() };
        let (b, page, leaf, _) = fs_bench(Config::new(Caps::qemu_fs()).quirks(quirks));
        b.put(leaf, page | PRWU | before);
        if read_first {
            b.read(1, 0x12_3000).unwrap();
        }
        b.write(1, 0x12_3000).unwrap();
        assert_eq!(b.arena.load64(leaf), page | PRWU | after, "{before:#x} {read_first}");
        b.clean();
    }
}

#[test]
fn a_late_plain_store_brings_an_entry_back() {
    let quirks = Quirks { fs_ad: true, ad_store: true, ..Quirks::default() };
    let (mut b, page, leaf, _) = fs_bench(Config::new(Caps::qemu_fs()).quirks(quirks));
    b.unit.begin_dma(dev(1), None, 0x12_3000, &[0x77; 8]).unwrap();
    assert_eq!(b.arena.load64(leaf), page | PRWU, "on its way");
    b.put(leaf, 0);
    fs_flush(&mut b, 5, 0);
    assert_eq!(b.arena.load64(leaf), page | PRWU | A | D, "resurrected");
    assert_eq!(b.arena.load64(page), 0x7777_7777_7777_7777);
    assert!(b.write(1, 0x12_3000).is_ok());
    b.clean();
}

#[test]
fn user_and_write_rights_and_reserved_bits_of_the_first_stage() {
    let cases = [
        (PRWU, 5, true, 0x85),               // leaf without R/W
        (5, PRWU, true, 0x85),               // branch without R/W
        (PRWU, 3, false, 0x81),              // leaf without U/S
        (3, PRWU, false, 0x81),              // branch without U/S
        (PRWU, PRWU | 1 << 63, false, 0x72), // XD without NXE
        (PRWU, PRWU | 1 << 47, false, 0x72), // beyond HAW
        (PRWU, 6, false, 0x71),              // not present
    ];
    for (branch, leaf_bits, write, code) in cases {
        let mut b = Bench::new(Config::new(Caps::scalable_fs()));
        let (root, _) = b.table(4, 0, 0x1000, b.data(), branch, leaf_bits);
        let slot = b.pasid_slot(dev(1), 0, false);
        b.first_stage(slot, root, 5, 1);
        b.start(1);
        assert_eq!(b.unit.probe(dev(1), None, 0x1000, write), fault(code), "{branch:#x} {leaf_bits:#x}");
    }
}

#[test]
fn large_first_stage_leaves() {
    for (level, iova, offset) in [(1, 0x4020_0000u64, 0x1f_ffff), (2, 0x8000_0000, 0x3fff_ffff)] {
        let mut b = Bench::new(Config::new(Caps::scalable_fs()));
        // Bit 12 of a large leaf is PAT, no address.
        let (root, leaf) = b.table(4, level, iova, 0x10_4000_0000, PRWU, PRWU | 1 << 7 | 1 << 12);
        let slot = b.pasid_slot(dev(1), 0, false);
        b.first_stage(slot, root, 5, 1);
        b.start(1);
        assert_eq!(b.write(1, iova + offset), Ok(0x10_4000_0000 + offset));
        assert_eq!(b.arena.load64(leaf) & (A | D), A | D);
        b.clean();
    }
}

#[test]
fn second_stage_dirty_needs_the_enable_in_the_pasid_entry() {
    let mut b = Bench::new(Config::new(Caps::scalable_ss()));
    let page = b.data();
    let (root, leaf) = b.table(4, 0, 0x1000, page, 3, 3);
    let slot = b.pasid_slot(dev(1), 0, false);
    b.second_stage(slot, root, 2, 5, 0, 1);
    b.start(1);
    b.write(1, 0x1000).unwrap();
    assert_eq!(b.arena.load64(leaf), page | 3);
    // Enabled, but the cached entry knows nothing of it.
    b.second_stage(slot, root, 2, 5, 1, 1);
    b.write(1, 0x1000).unwrap();
    assert_eq!(b.arena.load64(leaf), page | 3);
    b.flush(bits(&[(3, 0, 7), (5, 4, 1), (31, 16, 5)]), 0);
    b.write(1, 0x1000).unwrap();
    assert_eq!(b.arena.load64(leaf), page | 3, "PASID cache alone is not enough");
    b.flush(bits(&[(3, 0, 2), (5, 4, 2), (7, 6, 3), (31, 16, 5)]), 0);
    b.read(1, 0x1000).unwrap();
    assert_eq!(b.arena.load64(leaf), page | 3 | 1 << 8);
    b.write(1, 0x1000).unwrap();
    assert_eq!(b.arena.load64(leaf), page | 3 | 1 << 8 | 1 << 9);
    assert_eq!(b.write(1, 0x2000), fault(0x79));
    assert_eq!(b.write(1, 1 << 48), fault(0x84));
    b.clean();
    // Enabled without snooped walks: fatal.
    let slot = b.pasid_slot(dev(2), 0, false);
    b.second_stage(slot, root, 2, 6, 1, 0);
    b.put(leaf, page | 3);
    assert_eq!(b.write(2, 0x1000), fault(0x7c));
}

#[test]
fn pasid_entries_that_hardware_refuses() {
    let good = [bits(&[(0, 0, 1), (8, 6, 1)]), bits(&[(15, 0, 5), (23, 23, 1)]), 0];
    let with = |w: usize, extra: u64| {
        let mut words = good;
        words[w] |= extra;
        words
    };
    let fs = Caps::scalable_fs();
    let cases = [
        (fs, [0, 0, 0], 0x59),
        (fs, with(0, 1 << 10), 0x5a),
        (fs, with(0, 1 << 9), 0x5a), // SSADE without SSADS
        (fs, with(1, 1 << 16), 0x5a),
        (fs, with(2, 1 << 8), 0x5a),
        (Caps { smpwc: false, ..fs }, good, 0x5a), // PWSNP
        (Caps { snoop_control: false, ..fs }, with(1, 1 << 24), 0x5a),
        (fs, with(0, 2 << 6), 0x5b), // nested
        (fs, with(2, 1 << 2), 0x5b), // five levels
    ];
    for (caps, words, code) in cases {
        let mut b = Bench::new(Config::new(caps));
        let slot = b.pasid_slot(dev(1), 0, false);
        for (n, word) in words.iter().enumerate().rev() {
            b.put(slot + 8 * n as u64, *word | if n == 2 { b.root } else { 0 });
        }
        b.start(1);
        assert_eq!(b.read(1, 0x1000), fault(code), "{words:#x?}");
    }
}

#[test]
fn pasids_are_checked_against_the_context_entry() {
    let mut b = Bench::new(Config::new(Caps::scalable_fs()));
    let page = b.data();
    let (root, _) = b.table(4, 0, 0x1000, page, PRWU, PRWU);
    let slot = b.pasid_slot(dev(1), 70, true);
    b.first_stage(slot, root, 5, 1);
    let slot = b.pasid_slot(dev(2), 0, false);
    b.first_stage(slot, root, 6, 1);
    b.start(1);
    let probe = |d: u8, p: u32| b.unit.probe(dev(d), pasid(p), 0x1000, false);
    assert_eq!(probe(1, 70), Ok(page));
    assert_eq!(probe(1, 71), fault(0x59));
    assert_eq!(probe(1, 128), fault(0x51));
    assert_eq!(probe(1, 1 << 13), fault(0x46));
    assert_eq!(probe(2, 0), fault(0x45));
    assert_eq!(b.read(2, 0x1000), Ok(page));
    b.clean();
}

#[test]
fn legacy_tables_refuse_pasids() {
    let mut b = legacy();
    b.start(0);
    assert_eq!(b.unit.probe(dev(1), pasid(1), 0x1000, false), fault(0x31));
}

#[test]
fn what_each_invalidation_of_scalable_mode_reaches() {
    // (descriptor, first-stage page gone, second-stage page gone); first stage: did 5 pasid 0, second stage: did 6.
    let page = |ty, did: u64, pasid: u64| bits(&[(3, 0, ty), (5, 4, 3), (31, 16, did), (51, 32, pasid)]);
    let whole = bits(&[(63, 12, 1)]);
    let other = bits(&[(63, 12, 9)]);
    let cases = [
        (page(6, 5, 0), whole, true, false),
        (page(6, 5, 0), other, false, false),
        (page(6, 5, 1), whole, false, false),
        (page(6, 6, 0), whole, false, false), // type 6 does not reach second-stage entries
        (page(2, 5, 0), other, true, false),  // type 2 drops all first-stage entries of its domain
        (page(2, 6, 0), whole, false, true),
        (page(2, 6, 0), other, false, false),
        (bits(&[(3, 0, 6), (5, 4, 2), (31, 16, 5)]), 0, true, false),
        (bits(&[(3, 0, 2), (5, 4, 2), (31, 16, 5)]), 0, true, false),
        (bits(&[(3, 0, 2), (5, 4, 2), (31, 16, 6)]), 0, false, true),
        (bits(&[(3, 0, 2), (5, 4, 1)]), 0, true, true),
    ];
    for (lo, hi, first_gone, second_gone) in cases {
        let caps = Caps { second_stage: true, ..Caps::scalable_fs() };
        let mut b = Bench::new(Config::new(caps));
        let (fs_root, fs_leaf) = b.table(4, 0, 0x1000, b.data(), PRWU, PRWU);
        let (ss_root, ss_leaf) = b.table(4, 0, 0x1000, b.data(), 3, 3);
        let slot = b.pasid_slot(dev(1), 0, false);
        b.first_stage(slot, fs_root, 5, 1);
        let slot = b.pasid_slot(dev(2), 0, false);
        b.second_stage(slot, ss_root, 2, 6, 0, 1);
        b.start(1);
        b.read(1, 0x1000).unwrap();
        b.read(2, 0x1000).unwrap();
        b.put(fs_leaf, 0);
        b.put(ss_leaf, 0);
        b.flush(lo, hi);
        assert_eq!(b.read(1, 0x1000).is_err(), first_gone, "{lo:#x} {hi:#x}");
        assert_eq!(b.read(2, 0x1000).is_err(), second_gone, "{lo:#x} {hi:#x}");
        b.clean();
    }
}

#[test]
fn a_pasid_entry_is_kept_until_its_cache_is_invalidated() {
    let drop = |g: u64, did: u64, pasid: u64| bits(&[(3, 0, 7), (5, 4, g), (31, 16, did), (51, 32, pasid)]);
    let cases = [
        (drop(3, 0, 0), true),
        (drop(0, 5, 0), true),
        (drop(0, 6, 0), false),
        (drop(1, 5, 0), true),
        (drop(1, 5, 1), false),
        (drop(1, 6, 0), false),
    ];
    for (descriptor, gone) in cases {
        let (mut b, page, _, slot) = fs_bench(Config::new(Caps::scalable_fs()));
        assert_eq!(b.read(1, 0x12_3000), Ok(page));
        b.put(slot, 0);
        b.post(descriptor, 0);
        b.flush(bits(&[(3, 0, 2), (5, 4, 1)]), 0);
        let after = b.read(1, 0x12_3000);
        assert_eq!(after, if gone { fault(0x59) } else { Ok(page) }, "{descriptor:#x}");
        b.clean();
    }
}

#[test]
fn qemu_keeps_the_pasid_entry_with_the_context_entry() {
    let quirks = Quirks { pasid_in_context: true, ..Quirks::default() };
    let (mut b, page, _, slot) = fs_bench(Config::new(Caps::scalable_fs()).quirks(quirks));
    b.read(1, 0x12_3000).unwrap();
    b.put(slot, 0);
    b.post(bits(&[(3, 0, 7), (5, 4, 3)]), 0);
    b.flush(bits(&[(3, 0, 2), (5, 4, 1)]), 0);
    assert_eq!(b.read(1, 0x12_3000), Ok(page));
    b.post(bits(&[(3, 0, 1), (5, 4, 3), (47, 32, 8)]), 0);
    b.flush(bits(&[(3, 0, 2), (5, 4, 1)]), 0);
    assert_eq!(b.read(1, 0x12_3000), fault(0x59));
}

#[test]
fn entries_half_written_while_present_are_torn() {
    let (b, _, _, slot) = fs_bench(Config::new(Caps::scalable_fs()));
    b.unit.begin_op();
    // Domain id changed under a present entry, then the root: the state between is neither.
    b.put(slot + 8, bits(&[(15, 0, 9), (23, 23, 1)]));
    b.put(slot + 16, b.root);
    b.unit.end_op();
    b.broke("torn entry");

    b.unit.begin_op();
    b.put(slot, 0);
    b.put(slot + 8, bits(&[(15, 0, 5), (23, 23, 1)]));
    b.put(slot, bits(&[(0, 0, 1), (8, 6, 1)]));
    b.unit.end_op();
    b.clean();

    let b = legacy();
    b.unit.w64(0x20, b.root);
    b.command(30, true);
    b.legacy_context(dev(1), b.frame(), 2, 1);
    let at = (b.arena.load64(b.root) & !0xfff) + 16 * 8;
    b.unit.begin_op();
    b.arena.store128(at, u128::from(b.root | 1) | 0x0302 << 64);
    b.unit.end_op();
    assert!(b.arena.violations().iter().all(|v| v.rule != "torn entry"));
    b.unit.begin_op();
    b.put(at + 8, bits(&[(2, 0, 2), (23, 8, 9)]));
    b.put(at, b.frame() | 1);
    b.unit.end_op();
    b.broke("torn entry");
}

#[test]
fn abort_mode_refuses_everything() {
    let mut b = Bench::new(Config::new(Caps { abort_mode: true, ..Caps::scalable_fs() }));
    b.start(3);
    assert_eq!(b.read(1, 0), Err(Refused::Fault(Reason(0x33))));
    b.clean();
    // Translation stays on while the mode changes through it.
    b.unit.w64(0x20, b.root | 1 << 10);
    b.command(30, true);
    assert!(b.unit.translating());
    b.clean();
    let mut b = Bench::new(Config::new(Caps::scalable_fs()));
    b.start(3);
    b.broke("reserved bits in RTADDR");
}

#[test]
fn caching_mode_keeps_absence_but_not_a_missing_right() {
    let mut b = Bench::new(Config::new(Caps { caching_mode: true, ..Caps::scalable_fs() }));
    let page = b.data();
    let (root, leaf) = b.table(4, 0, 0x1000, page, PRWU, 5);
    let slot = b.pasid_slot(dev(1), 0, false);
    b.first_stage(slot, root, 5, 1);
    b.start(1);
    assert_eq!(b.write(1, 0x1000), fault(0x85));
    assert_eq!(b.read(1, 0x1000), Ok(page));
    assert_eq!(b.read(1, 0x2000), fault(0x71));
    b.put(leaf + 8, page | PRWU);
    assert_eq!(b.read(1, 0x2000), fault(0x71));
    fs_flush(&mut b, 5, 0);
    assert_eq!(b.read(1, 0x2000), Ok(page));
    b.clean();
}

#[test]
fn unsnooped_structures_of_scalable_mode_are_read_from_the_second_view() {
    let arena = Arc::new(Arena::with_stale_view(BASE, 16));
    let mut b = Bench::over(arena, Config::new(Caps { coherent: false, ..Caps::scalable_fs() }));
    let page = b.data();
    let (root, _) = b.table(4, 0, 0x1000, page, PRWU, PRWU);
    let slot = b.pasid_slot(dev(1), 0, false);
    b.first_stage(slot, root, 5, 1);
    b.arena.publish_all();
    b.start(1);
    // The paging structures are snooped (PWSNP): published or not.
    assert_eq!(b.read(1, 0x1000), Ok(page));
    b.put(slot, 0);
    b.flush(bits(&[(3, 0, 7), (5, 4, 3)]), 0);
    b.flush(bits(&[(3, 0, 2), (5, 4, 1)]), 0);
    assert_eq!(b.read(1, 0x1000), Ok(page), "the cleared entry was not published");
    b.arena.publish(slot, 8);
    b.flush(bits(&[(3, 0, 7), (5, 4, 3)]), 0);
    b.flush(bits(&[(3, 0, 2), (5, 4, 1)]), 0);
    assert_eq!(b.read(1, 0x1000), fault(0x59));
    assert_eq!(b.arena.owner(page), Some(Use::Data));
    b.clean();
}
