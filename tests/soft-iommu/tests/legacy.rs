//! Legacy mode: root, context, second stage, faults, caches.
mod common;

use common::*;
use soft_iommu::vtd::{Caps, Config, Policy, Refused};
use soft_iommu::{Arena, Use};
use std::sync::Arc;

const RW: u64 = 3;

#[test]
fn capability_words_are_those_of_known_machines() {
    // Decoded by hand: CAP 00d2008c222f0606 and ECAP f00f42 are what QEMU 10.0 shows with interrupt remapping off.
    let caps = Caps {
        fault_records: 1,
        protected_memory: false,
        coherent: false,
        interrupt_remap: false,
        snoop_control: false,
        iotlb_offset: 0xf0,
        fs1gp: false,
        ..Caps::legacy()
    };
    assert_eq!(caps.cap(), 0x00d2_008c_222f_0606);
    assert_eq!(caps.ecap(), 0xf42);
    assert_eq!(Caps::qemu_fs().cap(), 0x01d2_008c_222f_0606);
    assert_eq!(Caps::qemu_fs().ecap(), 0x8800_0000_0f42);
    let ss = Caps { second_stage: true, first_stage: false, ..Caps::qemu_fs() };
    assert_eq!(ss.ecap(), 0x4800_0000_0f42);
    assert_eq!(Caps::legacy().domain_ids(), 65536);
}

#[test]
fn a_four_level_walk_reaches_the_page_and_only_it() {
    for caps in [Caps::legacy(), Caps { sagaw: 0b1100, mgaw: 57, ..Caps::legacy() }] {
        let mut b = Bench::new(Config::new(caps));
        let page = b.data();
        let (root, _) = b.table(4, 0, 0x12_3456_7000, page, RW, RW);
        b.legacy_context(dev(3), root, 2, 7);
        b.start(0);
        assert_eq!(b.write(3, 0x12_3456_7abc), Ok(page | 0xabc));
        assert_eq!(b.read(3, 0x12_3456_7fff), Ok(page | 0xfff));
        assert_eq!(b.write(3, 0x12_3456_8000), fault(0x05));
        assert_eq!(b.read(3, 0x12_3456_6fff), fault(0x06));
        assert_eq!(b.write(4, 0x12_3456_7000), fault(0x02));
        b.unit.dma_write(dev(3), None, 0x12_3456_7ff8, &[1, 2, 3]).unwrap();
        assert_eq!(b.arena.load64(page + 0xff8), 0x03_0201);
        assert_eq!(b.unit.take_writes()[0].pa, page + 0xff8);
        b.clean();
    }
}

#[test]
fn three_levels_and_large_leaves() {
    let mut b = Bench::new(Config::new(Caps::legacy39()));
    let (root, _) = b.table(3, 1, 0x4020_0000, 0x6_0020_0000, RW, RW | 1 << 7);
    b.legacy_context(dev(1), root, 1, 1);
    let (root, _) = b.table(3, 2, 0x40_0000_0000, 0x10_4000_0000, RW, 1 | 1 << 7);
    b.legacy_context(dev(2), root, 1, 2);
    b.start(0);
    assert_eq!(b.write(1, 0x403f_ffff), Ok(0x6_003f_ffff));
    assert_eq!(b.write(1, 0x4040_0000), fault(5));
    assert_eq!(b.read(2, 0x40_3fff_ffff), Ok(0x10_7fff_ffff));
    assert_eq!(b.write(2, 0x40_0000_0000), fault(5));
    // Beyond MGAW, and a context entry of a width the unit does not have.
    assert_eq!(b.read(1, 1 << 39), fault(4));
    b.clean();
    b.legacy_context(dev(5), root, 2, 3);
    assert_eq!(b.read(5, 0), fault(3));
    b.broke("context entry that hardware cannot use");
}

#[test]
fn a_right_missing_on_the_way_is_missing_at_the_leaf() {
    let mut b = legacy();
    let (root, _) = b.table(4, 0, 0x1000, b.data(), 1, RW);
    b.legacy_context(dev(1), root, 2, 1);
    b.start(0);
    assert!(b.read(1, 0x1000).is_ok());
    assert_eq!(b.write(1, 0x1000), fault(5));
    b.clean();
}

#[test]
fn reserved_bits_fault_and_are_reported() {
    let cases: [(u32, u64, &str); 5] = [
        (0, 1 << 46, "bit HAW of a leaf"),
        (0, 1 << 62, "TM without device TLBs"),
        (1, 1 << 7 | 1 << 13, "low address bit of a 2 MiB leaf"),
        (2, 1 << 7 | 1 << 21, "low address bit of a 1 GiB leaf"),
        (3, 1 << 7, "a leaf at level 3"),
    ];
    for (level, extra, why) in cases {
        let mut b = legacy();
        let (root, _) = b.table(4, level, 0, 0, RW, RW | extra);
        b.legacy_context(dev(1), root, 2, 1);
        b.start(0);
        assert_eq!(b.read(1, 0), fault(0x0c), "{why}");
        b.broke("reserved bits in a second-stage entry");
    }
    let mut b = Bench::new(Config::new(Caps { sslps: 0, ..Caps::legacy() }));
    let (root, _) = b.table(4, 1, 0, 0, RW, RW | 1 << 7);
    b.legacy_context(dev(1), root, 2, 1);
    b.start(0);
    assert_eq!(b.read(1, 0), fault(0x0c), "2 MiB leaf without SSLPS");
    b.broke("reserved bits in a second-stage entry");
}

#[test]
fn snoop_bit_needs_snoop_control() {
    for (sc, want) in [(true, None), (false, Some(0x0c))] {
        let mut b = Bench::new(Config::new(Caps { snoop_control: sc, ..Caps::legacy() }));
        let (root, _) = b.table(4, 0, 0, b.data(), RW, RW | 1 << 11);
        b.legacy_context(dev(1), root, 2, 1);
        b.start(0);
        assert_eq!(b.read(1, 0).err().map(|e| matches!(e, Refused::Fault(r) if Some(r.0) == want)), want.map(|_| true));
    }
}

#[test]
fn structures_out_of_memory_and_reserved_structure_bits() {
    let mut b = legacy();
    b.start(0);
    let root_entry = b.root;
    b.put(root_entry, 0x7_0000_0001);
    assert_eq!(b.read(1, 0), fault(0x09));
    b.put(root_entry, b.frame() | 0x11);
    assert_eq!(b.read(1, 0), fault(0x0a));
    b.broke("reserved bits in a root entry");
    b.put(root_entry, 0);
    assert_eq!(b.read(1, 0), fault(0x01));
    b.legacy_context(dev(1), 0x7_0000_0000, 2, 1);
    assert_eq!(b.read(1, 0), fault(0x07));
    b.legacy_context(dev(2), b.frame(), 2, 1);
    let at = (b.arena.load64(b.root) & !0xfff) + 16 * 16;
    b.put(at + 8, bits(&[(2, 0, 2), (7, 7, 1), (23, 8, 1)]));
    assert_eq!(b.read(2, 0), fault(0x0b));
    b.broke("reserved bits in a context entry");
}

#[test]
fn the_interrupt_window_is_not_memory() {
    let mut b = legacy();
    let (root, _) = b.table(4, 0, 0xfee0_0000, b.data(), RW, RW);
    b.legacy_context(dev(1), root, 2, 1);
    let (root, _) = b.table(4, 0, 0x1000, 0xfee0_1000, RW, RW);
    b.legacy_context(dev(2), root, 2, 2);
    b.start(0);
    assert_eq!(b.write(1, 0xfee0_0000), Err(Refused::InterruptRange));
    assert_eq!(b.write(2, 0x1000), fault(0x0e));
}

#[test]
fn a_removed_page_stays_reachable_until_its_invalidation_completed() {
    let mut b = legacy();
    let page = b.data();
    let (root, leaf) = b.table(4, 0, 0x1000, page, RW, RW);
    b.legacy_context(dev(1), root, 2, 9);
    b.start(0);
    assert_eq!(b.write(1, 0x1000), Ok(page));
    b.put(leaf, 0);
    assert_eq!(b.write(1, 0x1000), Ok(page), "stale");
    // Wrong domain, wrong page, too small a mask: nothing.
    let psi = |did: u64| bits(&[(3, 0, 2), (5, 4, 3), (7, 6, 3), (31, 16, did)]);
    b.flush(psi(8), bits(&[(63, 12, 1)]));
    b.flush(psi(9), bits(&[(63, 12, 2)]));
    b.flush(psi(9), bits(&[(5, 0, 1), (63, 12, 2)]));
    assert_eq!(b.write(1, 0x1000), Ok(page), "not covered");
    // Covered, but no wait has completed yet.
    b.post(psi(9), bits(&[(5, 0, 1), (63, 12, 0)]));
    for _ in 0..9 {
        b.unit.tick();
    }
    assert_eq!(b.unit.r64(0x80), b.unit.r64(0x88), "the head has passed it");
    assert_eq!(b.write(1, 0x1000), Ok(page), "head is not completion");
    assert!(b.wait());
    assert_eq!(b.write(1, 0x1000), fault(5));
    b.clean();
}

#[test]
fn a_requester_hits_without_its_context_entry_until_the_iotlb_is_flushed() {
    let mut b = legacy();
    let page = b.data();
    let (root, _) = b.table(4, 0, 0x1000, page, RW, RW);
    b.legacy_context(dev(1), root, 2, 9);
    b.start(0);
    assert_eq!(b.write(1, 0x1000), Ok(page));
    b.put((b.arena.load64(b.root) & !0xfff) + 16 * 8, 0);
    b.flush(bits(&[(3, 0, 1), (5, 4, 3), (31, 16, 9), (47, 32, 8)]), 0);
    assert_eq!(b.write(1, 0x1000), Ok(page), "IOTLB entry by requester");
    b.flush(bits(&[(3, 0, 2), (5, 4, 2), (7, 6, 3), (31, 16, 9)]), 0);
    assert_eq!(b.write(1, 0x1000), fault(2));
    b.clean();
}

#[test]
fn a_context_entry_is_kept_until_device_or_domain_or_all_is_invalidated() {
    // (descriptor, is it gone)
    let cases = [
        (bits(&[(3, 0, 1), (5, 4, 1)]), true),
        (bits(&[(3, 0, 1), (5, 4, 2), (31, 16, 9)]), true),
        (bits(&[(3, 0, 1), (5, 4, 2), (31, 16, 8)]), false),
        (bits(&[(3, 0, 1), (5, 4, 3), (31, 16, 9), (47, 32, 8)]), true),
        (bits(&[(3, 0, 1), (5, 4, 3), (31, 16, 8), (47, 32, 8)]), false),
        (bits(&[(3, 0, 1), (5, 4, 3), (31, 16, 9), (47, 32, 9)]), false),
        (bits(&[(3, 0, 1), (5, 4, 3), (31, 16, 9), (47, 32, 9), (49, 48, 3)]), true),
        (bits(&[(3, 0, 1), (5, 4, 3), (31, 16, 9), (47, 32, 0xc), (49, 48, 1)]), true),
    ];
    for (descriptor, gone) in cases {
        let mut b = legacy();
        let (page, other) = (b.data(), b.data());
        let (root, _) = b.table(4, 0, 0x1000, page, RW, RW);
        b.legacy_context(dev(1), root, 2, 9);
        b.start(0);
        assert_eq!(b.write(1, 0x1000), Ok(page));
        let (root, _) = b.table(4, 0, 0x1000, other, RW, RW);
        b.legacy_context(dev(1), root, 2, 10);
        b.post(descriptor, 0);
        b.flush(bits(&[(3, 0, 2), (5, 4, 1), (7, 6, 3)]), 0);
        assert_eq!(b.write(1, 0x1000), Ok(if gone { other } else { page }), "{descriptor:#x}");
        b.clean();
    }
}

#[test]
fn a_stale_table_pointer_survives_an_invalidation_with_the_hint() {
    let mut b = legacy();
    let (page, other) = (b.data(), b.data());
    let (root, leaf) = b.table(4, 0, 0x1000, page, RW, RW);
    b.legacy_context(dev(1), root, 2, 9);
    b.start(0);
    assert_eq!(b.write(1, 0x1000), Ok(page));
    // Another table page in place of the last-level one; the old page keeps its entry.
    let new = b.frame();
    b.put(new + 8, other | RW);
    let walk = |at: u64, index: u64| (b.arena.load64(at) & !0xfff) + 8 * index;
    let level1 = walk(walk(root, 0), 0);
    b.put(level1, new | RW);
    let psi = bits(&[(3, 0, 2), (5, 4, 3), (7, 6, 3), (31, 16, 9)]);
    b.flush(psi, bits(&[(6, 6, 1), (63, 12, 1)]));
    assert_eq!(b.write(1, 0x1000), Ok(page), "hint keeps the pointer to {leaf:#x}");
    b.flush(psi, bits(&[(6, 6, 0), (63, 12, 1)]));
    assert_eq!(b.write(1, 0x1000), Ok(other));
    b.clean();
}

#[test]
fn a_freed_table_page_that_is_still_cached_is_reported() {
    let mut b = legacy();
    let (root, leaf) = b.table(4, 0, 0x1000, b.data(), RW, RW);
    b.legacy_context(dev(1), root, 2, 9);
    b.start(0);
    assert!(b.write(1, 0x1000).is_ok());
    b.arena.release(leaf & !0xfff, 1);
    let _ = b.write(1, 0x2000);
    b.broke("walker read a frame that is no table");
}

#[test]
fn dma_into_a_freed_frame_is_reported() {
    let mut b = legacy();
    let page = b.data();
    let (root, _) = b.table(4, 0, 0x1000, page, RW, RW);
    b.legacy_context(dev(1), root, 2, 9);
    b.start(0);
    b.unit.dma_write(dev(1), None, 0x1000, &[1]).unwrap();
    b.clean();
    b.arena.release(page, 1);
    b.unit.dma_write(dev(1), None, 0x1000, &[1]).unwrap();
    b.broke("dma reached a frame that is not data");
}

#[test]
fn exact_policy_caches_nothing() {
    let mut b = Bench::new(exact(Caps::legacy()));
    let (root, leaf) = b.table(4, 0, 0x1000, b.data(), RW, RW);
    b.legacy_context(dev(1), root, 2, 9);
    b.start(0);
    assert!(b.write(1, 0x1000).is_ok());
    b.put(leaf, 0);
    assert_eq!(b.write(1, 0x1000), fault(5));
    assert_eq!(b.unit.cached(), [0; 4]);
}

#[test]
fn caching_mode_keeps_refusals_and_forbids_domain_0() {
    let mut b = Bench::new(Config::new(Caps { caching_mode: true, ..Caps::legacy() }));
    let page = b.data();
    let (root, leaf) = b.table(4, 0, 0x1000, page, RW, RW);
    b.put(leaf, 0);
    b.start(0);
    assert_eq!(b.write(1, 0x1000), fault(1));
    b.legacy_context(dev(1), root, 2, 9);
    assert_eq!(b.write(1, 0x1000), fault(1), "absent context kept");
    // Refused contexts carry domain 0.
    b.flush(bits(&[(3, 0, 1), (5, 4, 3), (31, 16, 9), (47, 32, 8)]), 0);
    assert_eq!(b.write(1, 0x1000), fault(1));
    b.flush(bits(&[(3, 0, 1), (5, 4, 3), (31, 16, 0), (47, 32, 8)]), 0);
    assert_eq!(b.write(1, 0x1000), fault(5));
    b.put(leaf, page | RW);
    assert_eq!(b.write(1, 0x1000), fault(5), "absent page kept");
    b.flush(bits(&[(3, 0, 2), (5, 4, 3), (7, 6, 3), (31, 16, 9)]), bits(&[(63, 12, 1)]));
    assert_eq!(b.write(1, 0x1000), Ok(page));
    b.clean();
    b.legacy_context(dev(2), root, 2, 0);
    let _ = b.write(2, 0x1000);
    b.broke("domain id 0 with caching mode");
}

#[test]
fn domain_ids_are_bounded() {
    let mut b = Bench::new(Config::new(Caps { nd: 0, ..Caps::legacy() }));
    let (root, _) = b.table(4, 0, 0x1000, b.data(), RW, RW);
    b.legacy_context(dev(1), root, 2, 15);
    b.legacy_context(dev(2), root, 2, 16);
    b.start(0);
    assert!(b.write(1, 0x1000).is_ok());
    b.clean();
    let _ = b.write(2, 0x1000);
    b.broke("domain id beyond CAP.ND");
}

#[test]
fn what_was_not_published_is_not_seen() {
    let arena = Arc::new(Arena::with_stale_view(BASE, 16));
    let mut b = Bench::over(arena, Config::new(Caps { coherent: false, ..Caps::legacy() }));
    b.arena.publish(b.root, 4096);
    let page = b.data();
    let (root, leaf) = b.table(4, 0, 0x1000, page, RW, RW);
    b.legacy_context(dev(1), root, 2, 9);
    b.start(0);
    assert_eq!(b.write(1, 0x1000), fault(1), "root entry not published");
    b.arena.publish_all();
    assert_eq!(b.write(1, 0x1000), Ok(page));
    b.clean();
    // A table page whose zeroes were not published leads into the trap.
    let fresh = b.frame();
    b.put((b.arena.load64(b.arena.load64(root) & !0xfff) & !0xfff) + 8, fresh | RW);
    b.arena.publish((b.arena.load64(b.arena.load64(root) & !0xfff) & !0xfff) + 8, 8);
    let _ = b.write(1, 0x20_0000);
    assert_ne!(leaf, 0);
    b.unit.dma_write(dev(1), None, 0x20_0000, &[1]).unwrap();
    b.broke("dma reached a frame that is not data");
}

#[test]
fn a_write_buffer_hides_stores_until_flushed_or_invalidated() {
    let arena = Arc::new(Arena::with_stale_view(BASE, 16));
    let mut b = Bench::over(arena, Config::new(Caps { rwbf: true, ..Caps::legacy() }));
    b.start(0);
    let page = b.data();
    let (root, _) = b.table(4, 0, 0x1000, page, RW, RW);
    b.legacy_context(dev(1), root, 2, 9);
    assert_eq!(b.write(1, 0x1000), fault(1));
    b.command(27, true);
    assert_eq!(b.write(1, 0x1000), Ok(page));
    assert_eq!(b.unit.stats().write_buffer_flushes, 1);
}

#[test]
fn untranslated_before_te_and_protected_regions_block() {
    let b = legacy();
    assert_eq!(b.write(1, 0x1234), Ok(0x1234));
    b.unit.w32(0x68, 0);
    b.unit.w32(0x6c, 0x20_0000);
    b.unit.w32(0x64, 1 << 31);
    b.unit.tick();
    assert_eq!(b.unit.r32(0x64), 1 << 31 | 1);
    assert_eq!(b.write(1, 0x3f_ffff), Err(Refused::Protected));
    assert_eq!(b.write(1, 0x40_0000), Ok(0x40_0000));
    b.unit.w32(0x64, 0);
    b.unit.tick();
    assert_eq!(b.write(1, 0x1234), Ok(0x1234));
    b.clean();
}

#[test]
fn random_evictions_and_prefetches_never_invent_a_translation() {
    for seed in 0..8 {
        let mut b = Bench::new(Config::new(Caps::legacy()).policy(Policy::Adversarial(seed)));
        let page = b.data();
        let (root, leaf) = b.table(4, 0, 0x1000, page, RW, RW);
        b.legacy_context(dev(1), root, 2, 9);
        b.start(0);
        for _ in 0..200 {
            assert_eq!(b.write(1, 0x1000), Ok(page));
            assert_eq!(b.write(1, 0x2000), fault(5));
            b.unit.tick();
        }
        b.put(leaf, 0);
        b.flush(bits(&[(3, 0, 2), (5, 4, 2), (7, 6, 3), (31, 16, 9)]), 0);
        for _ in 0..50 {
            assert_eq!(b.write(1, 0x1000), fault(5), "seed {seed}");
            b.unit.tick();
        }
        assert!(b.unit.stats().prefetches > 0);
        b.clean();
    }
}

#[test]
fn allocation_fails_when_asked_and_owners_are_kept() {
    let arena = Arena::new(BASE, 2);
    arena.fail_at(2);
    let first = arena.alloc(1, Use::Table).unwrap();
    assert!(arena.failure_pending());
    assert_eq!(arena.alloc(1, Use::Table), None);
    assert!(!arena.failure_pending());
    let run = arena.alloc(5, Use::Table).unwrap();
    assert_eq!(run % (8 * 4096), 0);
    assert_eq!(arena.live_tables(), 6);
    arena.release(first, 1);
    arena.release(run, 5);
    assert_eq!(arena.live_tables(), 0);
    assert_eq!(arena.violations(), []);
    arena.release(first, 1);
    assert_eq!(arena.violations().len(), 1);
    // Newest first, zeroed.
    let page = arena.alloc(1, Use::Data).unwrap();
    assert_eq!(arena.owner(page), Some(Use::Data));
    arena.write_bytes(page + 6, &[0xaa, 0xbb, 0xcc]);
    assert_eq!(arena.load64(page), 0xbbaa << 48);
    let mut back = [0; 3];
    arena.read_bytes(page + 6, &mut back);
    assert_eq!(back, [0xaa, 0xbb, 0xcc]);
}
