//! Registers, invalidation queue, fault records and misbehaviour on demand.
mod common;

use common::*;
use soft_iommu::vtd::{Caps, Config, Quirks};

#[test]
fn commands_change_one_field_and_show_in_the_status() {
    let b = legacy();
    b.unit.w64(0x20, b.root);
    b.unit.w32(0x18, 1 << 30);
    assert_eq!(b.unit.r32(0x1c), 0, "not yet");
    b.unit.tick();
    assert_eq!(b.unit.r32(0x1c), 1 << 30);
    b.clean();
    b.unit.w32(0x18, 1 << 31 | 1 << 26);
    b.broke("GCMD changes more than one field");
    b.unit.w32(0x18, 1 << 26);
    b.broke("GCMD written before the last command's status");
}

#[test]
fn a_new_root_needs_global_invalidation() {
    let b = legacy();
    b.unit.w64(0x20, b.root);
    b.command(30, true);
    b.command(31, true);
    b.broke("root pointer set without global invalidation");

    let b = Bench::new(Config::new(Caps { esrtps: true, ..Caps::legacy() }));
    b.unit.w64(0x20, b.root);
    b.command(30, true);
    b.command(31, true);
    b.clean();

    let mut b = legacy();
    b.start(0);
    b.unit.begin_op();
    b.unit.w64(0x20, b.frame());
    b.command(30, true);
    b.unit.end_op();
    b.broke("root pointer set without global invalidation");
}

#[test]
fn translation_needs_a_root_and_the_mode_stays() {
    let b = legacy();
    b.command(31, true);
    b.broke("translation enabled without a root pointer");
    let mut b = Bench::new(Config::new(Caps::scalable_fs()));
    b.start(1);
    b.unit.w64(0x20, b.root);
    b.command(30, true);
    b.broke("table mode changed while translation is on");
    b.unit.w64(0x20, b.root | 2 << 10);
    b.broke("reserved bits in RTADDR");
    let b = legacy();
    b.unit.w64(0x20, b.root | 1 << 10);
    b.broke("reserved bits in RTADDR");
}

#[test]
fn sixty_four_bit_registers_take_two_halves() {
    let b = legacy();
    b.unit.w32(0x20, b.root as u32);
    b.unit.w32(0x24, (b.root >> 32) as u32);
    assert_eq!(b.unit.r64(0x20), b.root);
    assert_eq!(u64::from(b.unit.r32(0x0c)), Caps::legacy().cap() >> 32);
    b.clean();
    b.unit.w32(0x08, 0);
    b.broke("write to a reserved or read-only register");
    b.unit.w64(0x18, 0);
    b.broke("64-bit write of what is no 64-bit register");
    let _ = b.unit.r32(0xf00);
    b.broke("read of a reserved register");
}

#[test]
fn register_invalidation_while_the_queue_is_off() {
    let mut b = Bench::new(Config::new(Caps { qi: false, ..Caps::legacy() }));
    let page = b.data();
    let (root, leaf) = b.table(4, 0, 0x1000, page, 3, 3);
    b.legacy_context(dev(1), root, 2, 9);
    b.start(0);
    b.write(1, 0x1000).unwrap();
    b.put(leaf, 0);
    // IVA then IOTLB: IVT 63, IIRG 61:60 = 3 (page), DR 49, DW 48, DID 47:32.
    b.unit.w64(0x300, 0x1000);
    b.unit.w64(0x308, bits(&[(63, 63, 1), (61, 60, 3), (49, 48, 3), (47, 32, 9)]));
    assert_eq!(b.unit.r64(0x308) >> 63, 1);
    b.unit.tick();
    assert_eq!(b.unit.r64(0x308) >> 57 & 0x43, 3, "IVT clear, IAIG page");
    assert_eq!(b.write(1, 0x1000), fault(5));
    b.unit.w64(0x28, bits(&[(63, 63, 1), (62, 61, 3), (31, 16, 8), (15, 0, 9)]));
    b.unit.tick();
    assert_eq!(b.unit.r64(0x28) >> 59 & 0x13, 3);
    b.clean();
    b.unit.inject(|i| i.command_stuck = true);
    b.unit.w64(0x28, bits(&[(63, 63, 1), (62, 61, 1)]));
    b.unit.tick();
    assert_eq!(b.unit.r64(0x28) >> 63, 1);
}

#[test]
fn register_invalidation_beside_the_queue_never_completes() {
    let mut b = legacy();
    b.start(0);
    b.unit.w64(0x28, bits(&[(63, 63, 1), (62, 61, 1)]));
    for _ in 0..20 {
        b.unit.tick();
    }
    assert_eq!(b.unit.r64(0x28) >> 63, 1);
    b.broke("register-based invalidation while the queue is on");
}

#[test]
fn bad_descriptors_stop_the_queue_with_the_reason() {
    let sm = Caps::scalable_fs();
    // (capabilities, TTM, descriptor, IQEI)
    let cases = [
        (Caps::legacy(), 0, (0, 0), 3),
        (Caps::legacy(), 0, (0xf, 0), 3),
        (Caps::legacy(), 0, (bits(&[(3, 0, 1)]), 0), 4),
        (Caps::legacy(), 0, (bits(&[(3, 0, 1), (5, 4, 1), (8, 8, 1)]), 0), 4),
        (Caps::legacy(), 0, (bits(&[(3, 0, 1), (5, 4, 1)]), 1), 4),
        (Caps::legacy(), 0, (bits(&[(3, 0, 2), (5, 4, 3)]), bits(&[(5, 0, 19)])), 4), // AM over MAMV
        (Caps::legacy(), 0, (bits(&[(3, 0, 2), (5, 4, 1), (32, 32, 1)]), 0), 4),
        (Caps::legacy(), 0, (bits(&[(3, 0, 6), (5, 4, 2)]), 0), 3),
        (Caps::legacy(), 0, (bits(&[(3, 0, 3)]), 0), 3), // no device TLBs
        (sm, 1, (bits(&[(3, 0, 6)]), 0), 4),
        (sm, 1, (bits(&[(3, 0, 7), (5, 4, 2)]), 0), 4),
        (sm, 0, (bits(&[(3, 0, 7), (5, 4, 3)]), 0), 7),
    ];
    for (caps, ttm, (lo, hi), iqei) in cases {
        let mut b = Bench::new(Config::new(caps));
        b.start(ttm);
        let head = b.unit.r64(0x80);
        b.post(lo, hi);
        assert!(!b.wait(), "{lo:#x}");
        assert_eq!(b.unit.r32(0x34) & 0x70, 0x10, "IQE for {lo:#x}");
        assert_eq!(b.unit.r64(0x80), head, "head stays at {lo:#x}");
        assert_eq!(b.unit.r64(0xb0) & 15, iqei, "{lo:#x}");
        b.broke("descriptor refused");
    }
}

#[test]
fn the_queue_goes_on_once_the_descriptor_is_replaced_and_iqe_cleared() {
    let mut b = legacy();
    b.start(0);
    let head = b.unit.r64(0x80);
    b.post(0, 0);
    assert!(!b.wait());
    let queue = b.unit.r64(0x90) & !0xfff;
    b.put(queue + head, bits(&[(3, 0, 1), (5, 4, 1)]));
    for _ in 0..9 {
        b.unit.tick();
    }
    assert_eq!(b.unit.r64(0x80), head, "IQE still set");
    b.unit.w32(0x34, 0x10);
    for _ in 0..9 {
        b.unit.tick();
    }
    assert_eq!(b.unit.r64(0x80), b.unit.r64(0x88));
    assert_eq!(b.unit.r32(0x34), 0);
}

#[test]
fn tails_must_be_descriptor_aligned_and_in_the_queue() {
    for (caps, tail, iqei) in [(Caps::legacy(), 4096, 1), (Caps::legacy(), 8, 6), (Caps::scalable_fs(), 16, 6)] {
        let mut b = Bench::new(Config::new(caps));
        b.start(u64::from(caps.scalable));
        b.unit.w64(0x88, tail);
        assert_eq!(b.unit.r64(0xb0) & 15, iqei);
        b.broke("IQT out of range or misaligned");
    }
}

#[test]
fn waits_interrupt_and_errors_can_be_injected() {
    let mut b = legacy();
    b.start(0);
    b.unit.w32(0xa4, 0x42);
    b.unit.w32(0xa8, 0xfee0_1000);
    b.post(bits(&[(3, 0, 5), (4, 4, 1)]), 0);
    b.unit.tick();
    assert_eq!(b.unit.r32(0x9c), 1);
    assert_eq!(b.unit.r32(0xa0), 3 << 30, "masked: pending");
    b.unit.w32(0xa0, 0);
    assert_eq!(b.unit.take_messages(), [(0xfee0_1000, 0x42)]);

    b.unit.inject(|i| i.time_out_in = 1);
    assert!(!b.wait());
    assert_eq!(b.unit.r32(0x34) & 0x70, 0x40);
    assert_eq!(b.unit.r64(0x80), b.unit.r64(0x88), "an aborted wait is passed");
    b.unit.w32(0x34, 0x40);
    assert!(b.wait());

    b.unit.inject(|i| i.completion_error_in = 1);
    assert!(b.wait());
    assert_eq!(b.unit.r32(0x34) & 0x70, 0x20);
    b.unit.w32(0x34, 0x20);

    b.unit.inject(|i| i.refuse_in = 1);
    assert!(!b.wait());
    assert_eq!(b.unit.r32(0x34) & 0x70, 0x10);
    b.unit.w32(0x34, 0x10);
    assert!(b.wait());

    b.unit.inject(|i| i.mute_status = true);
    assert!(!b.wait());
    assert_eq!(b.unit.r64(0x80), b.unit.r64(0x88));
    b.unit.inject(|i| i.queue_stalled = true);
    b.post(bits(&[(3, 0, 1), (5, 4, 1)]), 0);
    b.unit.tick();
    assert_ne!(b.unit.r64(0x80), b.unit.r64(0x88));
    b.clean();
    b.unit.inject(|i| i.dead = true);
    assert_eq!(b.unit.r32(0x1c), u32::MAX);
    assert_eq!(b.unit.r64(0x08), u64::MAX);
}

#[test]
fn a_stuck_status_bit_stays() {
    let b = legacy();
    b.unit.inject(|i| i.gsts_stuck = 1 << 26);
    b.command(26, true);
    assert_eq!(b.unit.r32(0x1c), 0);
}

#[test]
fn faults_are_recorded_field_by_field_and_cleared_by_writing_one() {
    let mut b = Bench::new(Config::new(Caps::scalable_fs()));
    let slot = b.pasid_slot(dev(3), 1, true);
    b.put(slot, 0);
    b.start(1);
    b.unit.w32(0x3c, 0x33);
    b.unit.w32(0x40, 0xfee0_2000);
    let _ = b.unit.probe(dev(3), pasid(1), 0x1234_5678, false);
    // F 127, T1 126 (read), PV 123:104, FR 103:96, PP 95, SID 79:64; FI 63:12.
    assert_eq!(b.unit.r64(0x220), 0x1234_5000);
    let want = bits(&[(63, 63, 1), (62, 62, 1), (59, 40, 1), (39, 32, 0x59), (31, 31, 1), (15, 0, 0x18)]);
    assert_eq!(b.unit.r64(0x228), want);
    assert_eq!(b.unit.r32(0x34), 2, "PPF, FRI 0");
    assert_eq!(b.unit.r32(0x38), 3 << 30);
    b.unit.w32(0x38, 0);
    assert_eq!(b.unit.take_messages(), [(0xfee0_2000, 0x33)]);
    let _ = b.write(4, 0x1000);
    assert_eq!(b.unit.r64(0x238), bits(&[(63, 63, 1), (39, 32, 0x41), (15, 0, 0x20)]));
    // Clearing the first moves FRI to the second.
    b.unit.w32(0x22c, 1 << 31);
    assert_eq!(b.unit.r32(0x34), 1 << 8 | 2);
    b.unit.w64(0x238, 1 << 63);
    assert_eq!(b.unit.r32(0x34), 0);
    b.clean();
}

#[test]
fn overflow_stops_recording_until_cleared() {
    let mut b = legacy();
    b.start(0);
    for n in 0..9 {
        let _ = b.write(n, 0x1000);
    }
    assert_eq!(b.unit.r32(0x34), 3, "PPF and PFO");
    for n in 0..8 {
        b.unit.w32(0x220 + 16 * n + 12, 1 << 31);
    }
    let _ = b.write(1, 0x1000);
    assert_eq!(b.unit.r32(0x34), 1, "PFO still set: nothing recorded");
    b.unit.w32(0x34, 1);
    let _ = b.write(1, 0x1000);
    assert_eq!(b.unit.r32(0x34), 2);
    b.clean();
}

#[test]
fn fault_processing_disable_and_compression_keep_quiet() {
    let mut b = legacy();
    b.legacy_context(dev(1), b.frame(), 2, 1);
    let at = (b.arena.load64(b.root) & !0xfff) + 16 * 8;
    b.put(at, b.arena.load64(at) | 2);
    b.start(0);
    assert_eq!(b.write(1, 0x1000), fault(5));
    assert_eq!(b.unit.r32(0x34), 0);

    let quirks = Quirks { compress_faults: true, ..Quirks::default() };
    let mut b = Bench::new(Config::new(Caps { fault_records: 1, ..Caps::legacy() }).quirks(quirks));
    b.start(0);
    let _ = b.write(1, 0x1000);
    let _ = b.write(1, 0x2000);
    assert_eq!(b.unit.r32(0x34), 2);
    let _ = b.write(2, 0x2000);
    assert_eq!(b.unit.r32(0x34), 3);
}

#[test]
fn a_write_in_flight_lands_before_a_draining_invalidation_completes() {
    for (drain, landed) in [(3, true), (0, false)] {
        let mut b = legacy();
        let page = b.data();
        let (root, leaf) = b.table(4, 0, 0x1000, page, 3, 3);
        b.legacy_context(dev(1), root, 2, 9);
        b.start(0);
        b.unit.begin_dma(dev(1), None, 0x1000, &[9]).unwrap();
        assert_eq!(b.arena.load64(page), 0);
        b.put(leaf, 0);
        b.flush(bits(&[(3, 0, 2), (5, 4, 2), (7, 6, drain), (31, 16, 9)]), 0);
        assert_eq!(b.arena.load64(page) == 9, landed);
        b.arena.release(page, 1);
        b.unit.land();
        if !landed {
            b.broke("dma reached a frame that is not data");
        }
        b.clean();
    }
}

#[test]
fn what_firmware_left_on_is_on() {
    let b = legacy();
    let page = b.data();
    let (root, _) = b.table(4, 0, 0x1000, page, 3, 3);
    b.legacy_context(dev(1), root, 2, 9);
    b.unit.firmware_left(b.root, true, Some(([0, 0], [0, 0])));
    assert_eq!(b.unit.r32(0x1c), 0xc000_0000);
    assert_eq!(b.unit.r32(0x64), 1 << 31 | 1);
    assert_eq!(b.write(1, 0x1000), Ok(page));
    b.clean();
}

#[test]
fn a_swallowed_invalidation_leaves_the_entry() {
    let mut b = legacy();
    let page = b.data();
    let (root, leaf) = b.table(4, 0, 0x1000, page, 3, 3);
    b.legacy_context(dev(1), root, 2, 9);
    b.start(0);
    b.unit.inject(|i| i.swallow = 1 << 2);
    b.write(1, 0x1000).unwrap();
    b.put(leaf, 0);
    b.flush(bits(&[(3, 0, 2), (5, 4, 1), (7, 6, 3)]), 0);
    assert_eq!(b.write(1, 0x1000), Ok(page));
}
