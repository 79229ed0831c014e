//! Registers, queues, structures and their refusals in the SMMUv3 model.
#![allow(missing_docs)]

mod smmu_common;

use smmu_common::*;
use soft_iommu::smmu::{Caps, Config, Irq, Policy, Reason, Refused};
use soft_iommu::{Arena, Use};
use std::sync::Arc;

#[test]
fn id_registers_of_a_known_implementation() {
    let caps = Caps::qemu();
    assert_eq!((caps.idr0(), caps.idr1(), caps.idr3(), caps.idr5()), (0x0d44_101b, 0x0273_0010, 0x1414, 0x74));
    let b = Bench::new(Config::new(caps));
    assert_eq!(
        (b.unit.r32(0), b.unit.r32(4), b.unit.r32(0xc), b.unit.r32(0x14)),
        (0x0d44_101b, 0x0273_0010, 0x1414, 0x74)
    );
    assert_eq!(b.unit.r64(0), 0);
    b.broke("64-bit access to a 32-bit register");
    // HTTU 7:6, ATS 10, PRI 16, CD2L 19, MSI 13, SEV 14; SSIDSIZE 10:6; RIL 10, BBML 12:11.
    let full = Caps::full();
    assert_eq!(full.idr0() >> 6 & 3, 2);
    assert_eq!(full.idr0() & (1 << 10 | 1 << 13 | 1 << 14 | 1 << 16 | 1 << 19), 0x0009_6400);
    assert_eq!((full.idr1() >> 6 & 31, full.idr3() >> 10 & 7), (16, 0b101));
    assert_eq!(Caps::from_idr(full.idr0(), full.idr1(), full.idr3(), full.idr5()), full);
}

#[test]
fn gbpa_bypasses_or_aborts_until_enabled() {
    let b = Bench::new(full());
    assert_eq!(b.write(1, 0x1234), Ok(0x1234));
    b.unit.w32(0x44, 1 << 31 | 1 << 20);
    assert_eq!(b.unit.r32(0x44) >> 31, 1, "Update");
    b.ticks(2);
    assert_eq!(b.unit.r32(0x44), 1 << 20);
    assert_eq!(b.write(1, 0x1234), Err(Refused::Aborted));
    b.clean();
    b.unit.w32(0x44, 0);
    b.broke("GBPA written without Update");
    b.unit.w32(0x44, 1 << 31);
    b.unit.w32(0x44, 1 << 31 | 1 << 20);
    b.broke("GBPA written before Update was clear");
    b.unit.inject(|i| i.gbpa_stuck = true);
    b.ticks(9);
    assert_eq!(b.unit.r32(0x44) >> 31, 1);
}

#[test]
fn acknowledgements_come_late_and_may_be_waited_for() {
    let b = Bench::new(Config { ack_delay: 5, ..full() });
    b.unit.w32(0x20, 8);
    assert_eq!((b.unit.r32(0x20), b.unit.r32(0x24)), (8, 0));
    b.unit.w32(0x20, 12);
    b.broke("CR0 written before CR0ACK followed");
    b.ticks(5);
    assert_eq!(b.unit.r32(0x24), 12);
    b.unit.inject(|i| i.cr0_stuck = 4);
    b.unit.w32(0x20, 0);
    b.ticks(9);
    assert_eq!(b.unit.r32(0x24), 4);
    b.unit.w32(0x20, 1 << 5);
    b.broke("reserved bits of CR0");
}

#[test]
fn registers_in_use_are_not_to_be_written() {
    let b = Bench::started(full());
    for at in [0x80, 0x90, 0xa0] {
        let was = b.unit.r64(at);
        b.unit.w64(at, 0x1000);
        b.broke("register written while its user is enabled");
        assert_eq!(b.unit.r64(at), was);
    }
    for at in [0x28, 0x2c, 0x88, 0x9c, 0x1_00a8] {
        b.unit.w32(at, 0);
        b.broke("register written while its user is enabled");
    }
    b.unit.w32(0x98, 32);
    b.broke("PROD out of range");
    b.unit.w32(0x1_00ac, 3);
    b.broke("CONS out of range");
}

#[test]
fn bases_are_aligned_to_their_size() {
    let b = Bench::new(full());
    b.unit.w64(0x90, (b.cmdq + 0x20) | 4);
    b.cr0(8);
    b.broke("base is not aligned to its size");
    let b = Bench::new(full());
    b.unit.w64(0x90, b.cmdq | 9);
    b.cr0(8);
    b.broke("queue larger than IDR1 allows");
}

#[test]
fn caches_are_invalidated_before_translation_is_enabled() {
    let mut b = Bench::new(full());
    b.unit.w32(0x28, 0xd75);
    b.unit.w64(0x80, b.strtab);
    b.unit.w32(0x88, 8);
    b.queues();
    b.command(4, 31);
    b.cr0(0b1101);
    b.broke("enabled with unknown cache contents");
}

#[test]
fn a_bad_command_stops_the_queue_until_acknowledged() {
    let mut b = Bench::started(full());
    let cons = b.unit.r32(0x9c);
    b.post(0xff, 0);
    b.ticks(5);
    assert_eq!(b.unit.r32(0x9c), cons | 1 << 24, "CERROR_ILL, RD at the command");
    assert_eq!(b.unit.r32(0x60) ^ b.unit.r32(0x64), 1);
    assert!(!b.try_sync());
    // Overwrite with a harmless one (CMD_SYNC without signal) and acknowledge.
    let at = b.cmdq + 16 * u64::from(cons & 15);
    b.put(at, 0x46);
    b.unit.w32(0x64, b.unit.r32(0x60));
    b.ticks(20);
    assert_eq!(b.get(b.msi) as u32, 0xbeef);
    b.clean();
    b.unit.w32(0x64, b.unit.r32(0x64) ^ 4);
    b.broke("GERRORN toggles an error that is not active");
}

#[test]
fn commands_that_this_unit_does_not_have_are_illegal() {
    let none = Caps { s1p: false, ats: false, pri: false, stall_model: 1, ..Caps::full() };
    let one = Caps { s2p: false, ..Caps::full() };
    let ril = bits(&[(0, 0, 1), (11, 10, 1)]);
    for (caps, op, hi, code) in [
        (none, 0x12, 0, 1),
        (none, 0x05, 0, 1),
        (none, 0x40, 0, 1),
        (none, 0x41, 0, 1),
        (none, 0x44, 0, 1),
        (one, 0x28, 0, 1),
        (one, 0x2a, 0, 1),
        (Caps::full(), 0x20, 0, 1),           // EL2 without HYP
        (Caps::full(), 0x12, ril, 1),         // TG with NUM = SCALE = TTL = 0
        (Caps::full(), 0x40, 53, 1),          // ATC size
        (Caps::full(), 0x46 | 3 << 12, 0, 1), // CS reserved
    ] {
        let mut b = Bench::started(Config::new(caps));
        b.post(op, hi);
        b.ticks(5);
        assert_eq!(b.unit.r32(0x9c) >> 24, code, "{op:#x}");
    }
    let mut b = Bench::started(Config::new(Caps::v30()));
    b.command(0x12 | 3 << 12, 0x1000);
    b.broke("reserved bits of a command");
}

#[test]
fn errors_on_demand() {
    let mut b = Bench::started(full());
    b.unit.inject(|i| i.abort_in = 1);
    b.post(0x30, 0);
    b.ticks(3);
    assert_eq!(b.unit.r32(0x9c) >> 24, 2, "CERROR_ABT");
    b.unit.w32(0x64, b.unit.r32(0x60));
    b.sync();
    b.unit.inject(|i| i.atc_time_out_in = 1);
    b.post(bits(&[(7, 0, 0x40), (63, 32, sid(1))]), 52);
    assert!(!b.try_sync());
    assert_eq!(b.unit.r32(0x9c) >> 24, 3, "CERROR_ATC_INV_SYNC");
    b.unit.w32(0x64, b.unit.r32(0x60));
    b.ticks(9);
    assert_eq!(b.get(b.msi) as u32, 0xbeef, "retried");
    b.unit.inject(|i| i.mute_sync = true);
    assert!(!b.try_sync());
    b.unit.inject(|i| (i.mute_sync, i.queue_stalled) = (false, true));
    assert!(!b.try_sync());
    b.unit.inject(|i| (i.queue_stalled, i.dead) = (false, true));
    assert_eq!(b.unit.r32(0x9c), !0);
    assert_eq!(b.write(1, 0), Err(Refused::Dead));
}

#[test]
fn a_swallowed_invalidation_leaves_a_stale_entry() {
    let (mut b, page, entry, _) = s1_bench(full(), 0, RW);
    b.write(1, 0x12_3000).unwrap();
    b.put(entry, 0);
    b.unit.inject(|i| i.swallow = 1 << 0x12);
    let (lo, hi) = nh_va(3, 7, 0x12_3000, 1);
    b.command(lo, hi);
    assert_eq!(b.write(1, 0x12_3000), Ok(page));
}

#[test]
fn sync_signals_by_wire_event_and_message() {
    let mut b = Bench::started(full());
    b.post(0x46 | 2 << 12, 0);
    b.post(0x46 | 1 << 12, 0);
    b.post(bits(&[(7, 0, 0x46), (13, 12, 1), (63, 32, 77)]), 0x0808_0040);
    b.ticks(9);
    assert_eq!(b.unit.take_irqs(), [Irq::Sev, Irq::Sync]);
    assert_eq!(b.unit.take_messages(), [(0x0808_0040, 77)]);
    b.clean();
}

#[test]
fn events_overflow_once_and_are_acknowledged() {
    let mut b = Bench::started(full());
    b.unit.w32(0x50, 7);
    b.ticks(2);
    assert_eq!(b.unit.r32(0x54), 7);
    for n in 0..17 {
        assert_eq!(b.read(1, n << 12), fault(0x04), "no STE is C_BAD_STE");
    }
    assert_eq!(b.unit.r32(0x1_00a8), 1 << 31 | 16, "OVFLG, wrap bit");
    assert_eq!(b.unit.take_irqs(), [Irq::Event], "only from empty");
    assert_eq!(b.event(), [bits(&[(7, 0, 4), (63, 32, sid(1))]), 0, 0, 0]);
    b.unit.w32(0x1_00ac, 1 << 31 | 16);
    b.events_seen = 16;
    assert_eq!(b.unit.probe(dev(1), Some(iommu_types::Pasid(5)), 0, true), fault(0x04));
    // SSV 11, SSID 31:12.
    assert_eq!(b.event()[0], bits(&[(7, 0, 4), (11, 11, 1), (31, 12, 5), (63, 32, sid(1))]));
    b.clean();
}

#[test]
fn an_event_queue_outside_memory_is_gerror() {
    let mut b = Bench::new(full());
    b.eventq = 0x10_0000;
    b.start();
    let _ = b.read(1, 0);
    assert_eq!(b.unit.r32(0x60) ^ b.unit.r32(0x64), 4, "EVENTQ_ABT_ERR");
}

#[test]
fn page_requests_and_their_answers() {
    let mut b = Bench::started(full());
    let queue = b.frame();
    b.unit.w64(0xc0, queue | 4);
    b.cr0(0b1111);
    b.unit.page_request(dev(1), Some(iommu_types::Pasid(9)), 0x5000, 3, true, true);
    let want = bits(&[(31, 0, sid(1)), (51, 32, 9), (60, 60, 1), (61, 61, 1), (62, 62, 1), (63, 63, 1)]);
    assert_eq!((b.get(queue), b.get(queue + 8)), (want, 0x5003));
    // PRI_RESP 0x41: SSV 11, SSID 31:12, SID 63:32; PRGIndex 8:0, Resp 13:12 = 2 (success).
    b.command(bits(&[(7, 0, 0x41), (11, 11, 1), (31, 12, 9), (63, 32, sid(1))]), bits(&[(8, 0, 3), (13, 12, 2)]));
    assert_eq!(b.unit.take_responses(), [(dev(1).id, 3, 2)]);
    b.clean();
}

#[test]
fn ste_refusals() {
    let ok = |b: &Bench, stage: u32| {
        let (cd, root) = (b.frame(), b.frame());
        b.put_cd(cd, root, 1, 0);
        if stage == 1 { b.ste_s1(cd, 0, 3) } else { b.ste_s2(root, 3, 0) }
    };
    // (stage, word, bits flipped, with capabilities, code); 0x10 means: the entry is legal.
    let caps = Caps::full();
    let cases: &[(u32, usize, u64, Caps, u8)] = &[
        (1, 0, 0, caps, 0x10),
        (2, 0, 0, caps, 0x10),
        (1, 0, 1, caps, 4),                                        // V
        (1, 0, 0, Caps { s1p: false, ..caps }, 4),                 // no stage 1
        (2, 0, 0, Caps { s2p: false, ..caps }, 4),                 // no stage 2
        (1, 0, 17 << 59, caps, 4),                                 // S1CDMax > SSIDSIZE
        (1, 0, 1 << 59 | 3 << 4, caps, 4),                         // S1Fmt reserved
        (1, 0, 1 << 59 | 1 << 4, Caps { cd2l: false, ..caps }, 4), // 2-level CDs
        (1, 0, 1 << 50, caps, 4),                                  // S1ContextPtr beyond OAS
        (1, 1, 1 << 27, Caps { stall_model: 1, ..caps }, 4),       // S1STALLD
        (1, 1, 1 << 30, caps, 4),                                  // STRW reserved
        (1, 1, 2 << 30, caps, 4),                                  // STRW EL2 without HYP
        (1, 1, 3 << 28, caps, 4),                                  // EATS reserved
        (1, 1, 2 << 28, caps, 4),                                  // EATS split with NS1ATS
        (2, 1, 1 << 25, caps, 4),                                  // S2FWB
        (2, 2, 1 << 51, caps, 4),                                  // S2AA64
        (2, 2, 1 << 52, caps, 4),                                  // S2ENDI
        (2, 2, 1 << 46, caps, 4),                                  // S2TG
        (2, 2, 3 << 38, caps, 4),                                  // SL0 2: needs 40 bits
        (2, 2, 1 << 37, caps, 4),                                  // T0SZ 57
        (2, 2, 3 << 55, caps, 0x10),                               // S2HA, S2HD
        (2, 2, 3 << 55, Caps { httu: 1, ..caps }, 4),
        (2, 2, 1 << 56, Caps { httu: 0, ..caps }, 4),
        (2, 2, 1 << 57, Caps { stall_model: 1, ..caps }, 4), // S2S
        (2, 3, 1 << 50, caps, 4),                            // S2TTB beyond OAS
        (2, 2, 1 << 12, Caps { vmid16: false, ..caps }, 4),  // VMID of 16 bits
    ];
    for (n, &(stage, word, flip, caps, code)) in cases.iter().enumerate() {
        let b = Bench::started(Config::new(caps));
        let mut ste = ok(&b, stage);
        ste[word] ^= flip;
        b.put_ste(1, ste);
        assert_eq!(b.read(1, 0x1000), fault(code), "case {n}: stage {stage} word {word} ^ {flip:#x}");
    }
    let b = Bench::started(full());
    b.put_ste(1, [1, 0, 0, 0]);
    assert_eq!(b.read(1, 0x1000), Err(Refused::Aborted), "Config 0 aborts without an event");
    b.put_ste(2, [1 | 4 << 1, 0, 0, 0]);
    assert_eq!(b.read(2, 0x1000), Ok(0x1000));
    b.clean();
}

#[test]
fn cd_refusals() {
    let caps = Caps::full();
    let cases: &[(usize, u64, Caps, u8)] = &[
        (0, 0, caps, 0x10),
        (0, 1 << 31, caps, 0x0a), // V
        (0, 1 << 41, caps, 0x0a), // AA64
        (0, 1 << 15, caps, 0x0a), // ENDI
        (0, 1 << 6, caps, 0x0a),  // TG0
        (0, 1 << 5, caps, 0x0a),  // T0SZ 48
        (0, 3 << 42, caps, 0x10), // HA, HD
        (0, 3 << 42, Caps { httu: 1, ..caps }, 0x0a),
        (0, 2 << 42, Caps { httu: 1, ..caps }, 0x10),
        (0, 2 << 42, Caps { httu: 0, ..caps }, 0x0a),
        (0, 1 << 44, Caps { stall_model: 1, ..caps }, 0x0a), // S
        (0, 0, Caps { stall_model: 2, ..caps }, 0x0a),
        (0, 1 << 46, Caps { term_model: true, ..caps }, 0x0a), // A
        (0, 1 << 62, Caps { asid16: false, ..caps }, 0x0a),    // ASID
        (1, 1 << 50, caps, 0x0a),                              // TTB0 beyond OAS
    ];
    for (n, &(word, flip, caps, code)) in cases.iter().enumerate() {
        let b = Bench::started(Config::new(caps));
        let (cd, root) = (b.frame(), b.frame());
        b.put_cd(cd, root, 7, 0);
        let at = cd + 8 * word as u64;
        b.put(at, b.get(at) ^ flip);
        b.put_ste(1, b.ste_s1(cd, 0, 3));
        assert_eq!(b.read(1, 0x1000), fault(code), "case {n}: word {word} ^ {flip:#x}");
    }
}

#[test]
fn two_level_stream_tables() {
    let mut b = Bench::new(full());
    let (l1, l2) = (b.frame(), b.frame());
    b.unit.w32(0x28, 0xd75);
    b.unit.w32(0x2c, 2);
    b.unit.w64(0x80, l1);
    // FMT 17:16 = 1, SPLIT 10:6 = 6, LOG2SIZE 5:0 = 12.
    b.unit.w32(0x88, bits(&[(17, 16, 1), (10, 6, 6), (5, 0, 12)]) as u32);
    b.queues();
    b.flush_all();
    b.cr0(0b1101);
    // Device 9 is stream 72: slot 1, entry 8. SPAN 4:0 = 5: 16 entries.
    assert_eq!(b.read(9, 0x1000), fault(0x02), "SPAN 0");
    assert_eq!(b.event()[0], bits(&[(7, 0, 2), (63, 32, 72)]));
    b.put(l2 + 64 * 8, 1 | 4 << 1);
    b.put(l1 + 8, l2 | 5);
    assert_eq!(b.read(9, 0x1000), fault(0x02), "the level-1 descriptor is cached");
    b.command(bits(&[(7, 0, 3), (63, 32, 72)]), 1);
    assert_eq!(b.read(9, 0x1000), fault(0x02), "a leaf invalidation keeps it");
    b.command(bits(&[(7, 0, 3), (63, 32, 72)]), 0);
    assert_eq!(b.read(9, 0x1000), Ok(0x1000));
    assert_eq!(b.read(10, 0x1000), fault(0x02), "stream 80 is the first beyond SPAN");
    b.clean();
}

#[test]
fn an_ste_is_cached_even_if_invalid_until_cfgi_and_sync() {
    let mut b = Bench::started(full());
    assert_eq!(b.read(1, 0x1000), fault(4));
    b.put_ste(1, [1 | 4 << 1, 0, 0, 0]);
    assert_eq!(b.read(1, 0x1000), fault(4), "the invalid entry is cached");
    b.post(bits(&[(7, 0, 3), (63, 32, sid(1))]), 1);
    b.ticks(5);
    assert_eq!(b.read(1, 0x1000), fault(4));
    b.sync();
    assert_eq!(b.read(1, 0x1000), Ok(0x1000));
    // CFGI_STE_RANGE over streams 8 to 15 (Range 4:0 = 2).
    b.put_ste(1, [1, 0, 0, 0]);
    b.command(bits(&[(7, 0, 4), (63, 32, 0)]), 2);
    assert_eq!(b.read(1, 0x1000), Ok(0x1000), "0 to 7 do not cover 8");
    b.command(bits(&[(7, 0, 4), (63, 32, 8)]), 2);
    assert_eq!(b.read(1, 0x1000), Err(Refused::Aborted));
    b.clean();
}

#[test]
fn a_cd_is_cached_by_stream_and_substream() {
    let (mut b, page, _, _) = s1_bench(full(), 0, RW);
    b.write(1, 0x12_3000).unwrap();
    let cd = b.get(b.ste_at(1)) & 0xf_ffff_ffff_ffc0;
    b.put(cd, 0);
    assert_eq!(b.write(1, 0x12_3000), Ok(page));
    // CFGI_CD 5: SSID 31:12, SID 63:32; another substream, then this one.
    b.command(bits(&[(7, 0, 5), (31, 12, 1), (63, 32, sid(1))]), 1);
    assert_eq!(b.write(1, 0x12_3000), Ok(page));
    b.command(bits(&[(7, 0, 5), (63, 32, sid(1))]), 1);
    assert_eq!(b.write(1, 0x12_3000), fault(0x0a));
    b.clean();
}

#[test]
fn torn_entries_show_and_unused_words_may_change_first() {
    // From bypass to stage 2: the words that bypass does not use first, CFGI and sync, then word 0.
    let mut b = Bench::started(full());
    let s2 = b.ste_s2(b.frame(), 3, 0);
    let at = b.ste_at(1);
    b.put_ste(1, [1 | 4 << 1, 0, 0, 0]);
    b.unit.begin_op();
    b.put(at + 24, s2[3]);
    b.put(at + 16, s2[2]);
    b.cfgi_ste(1);
    b.put(at, s2[0]);
    b.cfgi_ste(1);
    b.unit.end_op();
    b.clean();
    // Word 0 first.
    b.put_ste(2, [1 | 4 << 1, 0, 0, 0]);
    let at = b.ste_at(2);
    b.unit.begin_op();
    b.put(at, s2[0]);
    b.put(at + 16, s2[2]);
    b.put(at + 24, s2[3]);
    b.cfgi_ste(2);
    b.unit.end_op();
    b.broke("torn entry");
    // In order, but without the CFGI between: a fetch in parts may mix.
    b.put_ste(3, [1 | 4 << 1, 0, 0, 0]);
    let at = b.ste_at(3);
    b.unit.begin_op();
    b.put(at + 24, s2[3]);
    b.put(at + 16, s2[2]);
    b.put(at, s2[0]);
    b.cfgi_ste(3);
    b.unit.end_op();
    b.broke("torn entry");
}

#[test]
fn what_is_not_linked_yet_may_be_written_in_any_order() {
    let mut b = Bench::started(full());
    b.write(1, 0x1000).unwrap_err();
    b.unit.begin_op();
    let (cd, root) = (b.frame(), b.frame());
    b.put(cd, cd0(7, 0));
    b.put(cd + 8, root);
    let ste = b.ste_s1(cd, 0, 3);
    let at = b.ste_at(1);
    b.put(at + 8, ste[1]);
    b.put(at + 16, ste[2]);
    b.cfgi_ste(1);
    b.put(at, ste[0]);
    b.cfgi_ste(1);
    b.unit.end_op();
    b.clean();
    // Without the first CFGI, V may be seen before the rest.
    b.unit.begin_op();
    let at = b.ste_at(2);
    b.put(at + 8, ste[1]);
    b.put(at + 16, ste[2]);
    b.put(at, ste[0]);
    b.cfgi_ste(2);
    b.unit.end_op();
    b.broke("torn entry");
}

#[test]
fn a_torn_cd_shows() {
    let (mut b, _, _, _) = s1_bench(full(), 0, RW);
    b.write(1, 0x12_3000).unwrap();
    let cd = b.get(b.ste_at(1)) & 0xf_ffff_ffff_ffc0;
    b.unit.begin_op();
    b.put(cd + 8, b.frame()); // the new TTB0 under the old ASID
    b.put(cd, cd0(8, 0));
    b.command(bits(&[(7, 0, 5), (63, 32, sid(1))]), 1);
    b.unit.end_op();
    b.broke("torn entry");
    b.unit.begin_op();
    b.put(cd, 0);
    b.command(bits(&[(7, 0, 5), (63, 32, sid(1))]), 1);
    b.put(cd + 8, b.frame());
    b.command(bits(&[(7, 0, 5), (63, 32, sid(1))]), 1);
    b.put(cd, cd0(8, 0));
    b.command(bits(&[(7, 0, 5), (63, 32, sid(1))]), 1);
    b.unit.end_op();
    b.clean();
}

#[test]
fn what_firmware_left_translates() {
    let b = Bench::new(full());
    b.put_ste(1, [1 | 4 << 1, 0, 0, 0]);
    b.unit.firmware_left(b.strtab, 8);
    assert!(b.unit.translating());
    assert_eq!((b.unit.r32(0x20), b.unit.r32(0x24)), (1, 1));
    assert_eq!(b.read(1, 0x1000), Ok(0x1000));
    assert_eq!(b.read(2, 0x1000), Err(Refused::Fault(Reason::BAD_STE)));
    assert_eq!(b.unit.r32(0x1_00a8), 0, "nobody listens");
}

#[test]
fn random_maps_and_unmaps_are_never_stale_for_a_correct_driver() {
    for seed in 0..4 {
        let arena = Arc::new(Arena::new(BASE, 16));
        let mut b = Bench::over(arena, full().policy(Policy::Adversarial(seed)));
        b.start();
        let pages: Vec<u64> = (0..8).map(|_| b.arena.alloc(1, Use::Data).unwrap()).collect();
        let (root, first) = b.table(0, 3, 0x10_0000, pages[0], 0);
        b.put(first, 0);
        let cd = b.frame();
        b.put_cd(cd, root, 7, 3);
        b.put_ste(1, b.ste_s1(cd, 0, 3));
        let mut rng = soft_iommu::Rng::new(seed + 100);
        let mut live = [None; 16];
        for _ in 0..4000 {
            let slot = rng.below(16);
            let va = 0x10_0000 + slot * 4096;
            let entry = first + 8 * slot;
            match live[slot as usize] {
                None => {
                    let page = pages[rng.below(8) as usize];
                    b.put(entry, page | RW | RO | DBM);
                    live[slot as usize] = Some(page);
                }
                Some(page) if rng.one_in(3) => {
                    b.put(entry, 0);
                    let (lo, hi) = nh_va(3, 7, va, 1);
                    b.command(lo, hi);
                    live[slot as usize] = None;
                    assert_ne!(page, 0);
                }
                Some(page) => {
                    assert_eq!(b.write(1, va), Ok(page));
                    assert_eq!(b.get(entry) & RO, 0, "dirty");
                    if rng.one_in(2) {
                        b.put(entry, page | RW | RO | DBM);
                        let (lo, hi) = nh_va(3, 7, va, 1);
                        b.command(lo, hi);
                    }
                }
            }
            b.unit.sample();
            let other = rng.below(16);
            let want = live[other as usize].map_or(fault(0x10), Ok);
            assert_eq!(b.read(1, 0x10_0000 + other * 4096), want, "seed {seed}");
        }
        assert!(b.unit.stats().prefetches > 100);
        b.clean();
    }
}
