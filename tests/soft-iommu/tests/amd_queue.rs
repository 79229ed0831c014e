//! Commands, caches, event log, registers, torn entries, interrupts.
mod amd_common;

use amd_common::*;
use soft_iommu::amd::{Amd, Caps, Config, Interrupt, Policy, Quirks, Reason, Refused};
use soft_iommu::{Arena, Use};
use std::sync::Arc;

/// Device 1 with one 4 KiB page at 0x5000, domain 9; returns the page and the address of its entry.
fn one_page(b: &Bench) -> (u64, u64) {
    let page = b.data();
    let (root, at) = b.host(3, 1, 0x5000, RW, leaf(page) | RW);
    b.v1(1, root, 3, 9, 0);
    (page, at)
}

#[test]
fn a_translation_stays_until_a_wait_after_its_invalidation() {
    let mut b = Bench::started(full());
    let (page, at) = one_page(&b);
    assert_eq!(b.write(1, 0x5000), Ok(page));
    b.put(at, 0);
    assert_eq!(b.write(1, 0x5000), Ok(page), "not flushed");
    b.post(bits(&[(47, 32, 9), (63, 60, 3)]), 0x5000);
    b.ticks(20);
    assert_eq!(b.unit.r64(0x2000), 16);
    assert_eq!(b.write(1, 0x5000), Ok(page), "taken, not waited for");
    assert!(b.wait());
    assert_eq!(b.write(1, 0x5000), refused(Reason::NOT_PRESENT));
    // Absence is not cached.
    b.put(at, leaf(page) | RW);
    assert_eq!(b.write(1, 0x5000), Ok(page));
    b.clean();
}

#[test]
fn an_invalidation_removes_what_its_size_says() {
    // (second word, pages 0 to 15 that stay cached), S is bit 64: the lowest clear bit from 12 up.
    let cases: [(u64, u16); 8] = [
        (0x3000, !(1 << 3)),
        (0x3000 | 2, !(1 << 3)),
        (0x2001, !(3 << 2)),
        (0x5001, !(15 << 4)),
        (0x3001, !0xff),
        (0xb001, 0x00ff),
        (0x7001, 0),
        (0x7fff_ffff_ffff_f001, 0),
    ];
    for (second, stay) in cases {
        let mut b = Bench::started(full());
        let (root, at) = b.host(3, 1, 0, RW, 0);
        let pages: Vec<u64> = (0..16).map(|_| b.data()).collect();
        for (n, page) in pages.iter().enumerate() {
            b.put(at + 8 * n as u64, leaf(*page) | RW);
        }
        b.v1(1, root, 3, 9, 0);
        for n in 0..16 {
            assert_eq!(b.write(1, n << 12), Ok(pages[n as usize]));
            b.put(at + 8 * n, 0);
        }
        b.flush_pages(8, 0x7fff_ffff_ffff_f003);
        assert!(b.write(1, 0).is_ok(), "another domain");
        b.flush_pages(9, second);
        for n in 0..16 {
            assert_eq!(b.write(1, n << 12).is_ok(), stay >> n & 1 != 0, "{second:#x} page {n}");
        }
        b.clean();
    }
}

#[test]
fn part_of_a_large_page_takes_all_of_it_and_pieces_go_one_by_one() {
    let mut b = Bench::started(full());
    let (root, at) = b.host(3, 2, 0, RW, leaf(0x80_0000_0000) | RW);
    b.v1(1, root, 3, 9, 0);
    assert!(b.write(1, 0x10_0000).is_ok());
    b.put(at, 0);
    b.flush_pages(9, 0x3000);
    assert!(b.write(1, 0x10_0000).is_err());
    b.clean();
    // Hardware that keeps pieces: a flush of one page leaves others.
    let leaks = (0..32).any(|seed| {
        let mut b = Bench::started(full().policy(Policy::Adversarial(seed)));
        let (root, at) = b.host(3, 2, 0, RW, leaf(0x80_0000_0000) | RW);
        b.v1(1, root, 3, 9, 0);
        assert!(b.write(1, 0x10_0000).is_ok());
        b.put(at, 0);
        // Few ticks: entries are evicted at random.
        b.post(bits(&[(47, 32, 9), (63, 60, 3)]), 0x3000);
        b.post(bits(&[(63, 60, 1)]), 0);
        b.ticks(2);
        b.write(1, 0x10_0000).is_ok()
    });
    assert!(leaks);
}

#[test]
fn table_pointers_need_pde() {
    let mut b = Bench::started(full());
    let (page, at) = one_page(&b);
    assert!(b.write(1, 0x5000).is_ok());
    // Another table in place of the last one.
    let (fresh, other) = (b.frame(), b.data());
    b.put(fresh + 8 * 5, leaf(other) | RW);
    let root = b.get(b.entry(1)) & 0xf_ffff_ffff_f000;
    let middle = b.get(root) & 0xf_ffff_ffff_f000;
    b.put(middle, bits(&[(0, 0, 1), (11, 9, 1), (51, 12, fresh >> 12)]) | RW);
    b.flush_pages(9, 0x7fff_ffff_ffff_f001);
    assert_eq!(b.write(1, 0x5000), Ok(page), "the old table is still walked");
    b.flush_pages(9, 0x5003);
    assert_eq!(b.write(1, 0x5000), Ok(other));
    b.clean();
    // Given back while a pointer to it may be cached: the walker is caught in it.
    b.put(middle, 0);
    b.arena.release(fresh, 1);
    b.flush_pages(9, 0x7fff_ffff_ffff_f001);
    let _ = b.write(1, 0x5000);
    b.broke("walker read a frame that is no table");
    let _ = at;
}

#[test]
fn a_device_entry_stays_until_it_is_named_and_its_translations_until_their_domain_is() {
    let mut b = Bench::started(full());
    let (page, _) = one_page(&b);
    let other = b.data();
    assert_eq!(b.write(1, 0x5000), Ok(page));
    let (root, _) = b.host(3, 1, 0x5000, RW, leaf(other) | RW);
    b.v1(1, root, 3, 10, 0);
    assert_eq!(b.write(1, 0x5000), Ok(page));
    b.flush_device(2);
    b.flush_domain(9);
    assert_eq!(b.write(1, 0x5000), Ok(page), "the old entry is cached");
    b.flush_device(1);
    assert_eq!(b.write(1, 0x5000), Ok(page), "found by requester");
    b.flush_domain(9);
    assert_eq!(b.write(1, 0x5000), Ok(other));
    b.clean();
    // Everything at once: opcode 8.
    b.v1(1, 0, 0, 0, 0);
    b.flush(8 << 60, 0);
    assert_eq!(b.write(1, other), Ok(other));
    assert_eq!(b.unit.stats().commands[8], 1);
    b.clean();
}

#[test]
fn one_domain_id_for_two_tables_is_reported() {
    let b = Bench::started(full());
    let (page, _) = one_page(&b);
    let (root, _) = b.host(3, 1, 0x5000, RW, leaf(b.data()) | RW);
    b.v1(2, root, 3, 9, 0);
    assert_eq!(b.write(1, 0x5000), Ok(page));
    assert_eq!(b.write(2, 0x5000), Ok(page), "found by domain id");
    b.broke("one domain id for two tables");
}

#[test]
fn rights_of_device_entries_are_not_shared_by_a_domain() {
    let b = Bench::started(full());
    let (page, _) = one_page(&b);
    let root = b.get(b.entry(1)) & 0xf_ffff_ffff_f000;
    b.device(2, [word0(root, 3, 0) & !W, 9, 0, 0]);
    assert_eq!(b.write(1, 0x5000), Ok(page));
    assert_eq!(b.write(2, 0x5000), refused(Reason::DENIED));
    assert_eq!(b.read(2, 0x5000), Ok(page));
    assert_eq!(b.write(1, 0x5000), Ok(page));
    b.clean();
}

#[test]
fn completion_wait_stores_and_interrupts() {
    let mut b = Bench::started(full());
    b.unit.set_msi(0xfee0_1000, 0x41);
    b.post(bits(&[(1, 1, 1), (63, 60, 1)]), 0);
    b.ticks(1);
    assert_eq!(b.unit.r64(0x2020) & 4, 4);
    assert_eq!(b.unit.take_messages(), [(0xfee0_1000, 0x41)]);
    b.unit.w64(0x2020, 4);
    assert_eq!(b.unit.r64(0x2020) & 4, 0);
    assert!(b.wait());
    b.unit.inject(|i| i.mute_store = true);
    assert!(!b.wait());
    // The ring wraps after 256 commands.
    b.unit.inject(|i| i.mute_store = false);
    for _ in 0..300 {
        assert!(b.wait());
    }
    b.clean();
    // With IntCapXTEn (51) the x2APIC register at 0x170: destination 31:8 and 63:56, vector 39:32.
    b.unit.w64(0x18, b.control() | 1 << 51);
    b.unit.w64(0x170, bits(&[(31, 8, 0x12_3456), (39, 32, 0x99), (63, 56, 0x7f)]));
    b.post(bits(&[(1, 1, 1), (63, 60, 1)]), 0);
    b.ticks(1);
    assert_eq!(b.unit.take_messages(), [(0x7f12_3400_fee5_6000, 0x99)]);
    b.clean();
}

#[test]
fn illegal_commands_halt_with_an_event_and_restart() {
    let plain = Config::new(Caps::plain());
    for (config, lo, hi) in [
        (full(), 0, 0),
        (full(), 9 << 60, 0),
        (full(), bits(&[(63, 60, 1), (52, 52, 1)]), 0),
        (full(), bits(&[(63, 60, 2), (16, 16, 1)]), 0),
        (full(), bits(&[(63, 60, 2)]), 1),
        (full(), bits(&[(63, 60, 3), (20, 20, 1)]), 0),
        (full(), bits(&[(63, 60, 3), (48, 48, 1)]), 0),
        (full(), bits(&[(63, 60, 3)]), 1 << 3),
        (full(), bits(&[(63, 60, 3), (19, 0, 1)]), 0),
        (full(), bits(&[(63, 60, 3)]), 0xffff_ffff_ffff_f001),
        (full(), bits(&[(63, 60, 5), (16, 16, 1)]), 0),
        (full(), bits(&[(63, 60, 8), (0, 0, 1)]), 0),
        (plain, bits(&[(63, 60, 8)]), 0),
        (plain, bits(&[(63, 60, 4)]), 0),
        (plain, bits(&[(63, 60, 6)]), 0),
        (plain, bits(&[(63, 60, 3)]), 4),
    ] {
        let mut b = Bench::started(config);
        assert!(b.wait());
        b.post(lo, hi);
        b.ticks(5);
        assert_eq!(b.unit.r64(0x2020) & 0x10, 0, "{lo:#x} {hi:#x}");
        assert_eq!(b.unit.r64(0x2000), 16, "the head stays");
        // ILLEGAL_COMMAND_ERROR: code 5, address of the command.
        assert_eq!(b.event(0), [5 << 60, b.commands + 16]);
        assert_eq!(b.unit.r64(0x2018), 16);
        b.broke("command refused");
        // Off, head and tail to zero, on.
        b.unit.w64(0x18, b.control() & !(1 << 12));
        b.ticks(2);
        b.unit.w64(0x08, b.unit.r64(0x08));
        b.unit.w64(0x18, b.control());
        b.ticks(2);
        assert_eq!(b.unit.r64(0x2020) & 0x10, 0x10);
        b.clean();
    }
}

#[test]
fn fetch_errors_and_time_outs_halt() {
    let mut b = Bench::started(full());
    b.unit.inject(|i| i.fetch_error_in = 1);
    assert!(!b.wait());
    assert_eq!(b.event(0), [bits(&[(58, 57, 1), (63, 60, 6)]), b.commands]);
    let mut b = Bench::started(full());
    b.unit.inject(|i| i.time_out_in = 1);
    b.post(bits(&[(15, 0, 0x18), (63, 60, 4)]), 0x7fff_ffff_ffff_f001);
    b.ticks(2);
    assert_eq!(b.event(0), [bits(&[(15, 0, 0x18), (63, 60, 7)]), b.commands]);
    assert_eq!(b.unit.r64(0x2020) & 0x10, 0);
    b.clean();
    let mut b = Bench::started(full());
    b.unit.inject(|i| i.swallow = 1 << 3);
    let (_, at) = one_page(&b);
    assert!(b.write(1, 0x5000).is_ok());
    b.put(at, 0);
    b.flush_domain(9);
    assert!(b.write(1, 0x5000).is_ok(), "red twin: the flush did nothing");
    b.unit.inject(|i| i.dead = true);
    assert_eq!(b.unit.r64(0x2020), u64::MAX);
    assert!(!b.wait());
}

#[test]
fn events_have_the_fields_of_the_figures() {
    let b = Bench::started(full());
    one_page(&b);
    assert!(b.write(1, 0x7010).is_err());
    assert!(b.read(1, 0x7010).is_err());
    let who = (15, 0, u64::from(dev(1).id));
    // IO_PAGE_FAULT: domain 47:32, PR 52, RW 53, PE 54, code 2.
    assert_eq!(b.event(0), [bits(&[who, (47, 32, 9), (53, 53, 1), (63, 60, 2)]), 0x7010]);
    assert_eq!(b.event(1), [bits(&[who, (47, 32, 9), (63, 60, 2)]), 0x7010]);
    let (root, _) = b.host(3, 1, 0x6000, RW, leaf(b.data()) | R);
    b.v1(2, root, 3, 8, 0);
    assert!(b.write(2, 0x6004).is_err());
    let flags = [(15, 0, u64::from(dev(2).id)), (47, 32, 8), (52, 52, 1), (53, 53, 1), (54, 54, 1), (63, 60, 2)];
    assert_eq!(b.event(2), [bits(&flags), 0x6004]);
    b.clean();
    // ILLEGAL_DEV_TABLE_ENTRY: RZ 55, code 1.
    b.device(3, [3 | 4, 0, 0, 0]);
    assert!(b.read(3, 0x1000).is_err());
    assert_eq!(b.event(3), [bits(&[(15, 0, u64::from(dev(3).id)), (55, 55, 1), (63, 60, 1)]), 0x1000]);
    // A PASID: 15:0 in 47:32, 19:16 in 19:16, GN 48, US 50.
    b.device(4, [3, 0, 0, 0]);
    assert!(b.unit.probe(dev(4), pasid(0x5_1234), 0x1000, false).is_err());
    let who = (15, 0, u64::from(dev(4).id));
    let want = bits(&[who, (19, 16, 5), (47, 32, 0x1234), (48, 48, 1), (50, 50, 1), (63, 60, 2)]);
    assert_eq!(b.event(4), [want, 0x1000]);
    // SA (98) mutes, SE (97) tells once.
    b.device(5, [1, 1 << 34, 0, 0]);
    b.device(6, [1, 1 << 33, 0, 0]);
    for _ in 0..3 {
        assert!(b.read(5, 0).is_err());
        assert!(b.read(6, 0).is_err());
    }
    assert_eq!(b.unit.r64(0x2018), 16 * 6);
    assert_eq!(b.event(5)[0] & 0xffff, u64::from(dev(6).id));
}

#[test]
fn the_log_overflows_once_and_restarts() {
    let b = Bench::started(full());
    b.unit.set_msi(0xfee0_0000, 1);
    b.device(1, [1, 0, 0, 0]);
    for n in 0..300u64 {
        assert!(b.read(1, n).is_err());
    }
    // 255 records fit; EventOverflow 0, EventLogInt 1, EventLogRun 3 clear.
    assert_eq!(b.unit.r64(0x2020) & 0xb, 3);
    assert_eq!((b.unit.stats().events, b.unit.stats().lost_events), (255, 45));
    assert_eq!(b.unit.take_messages().len(), 256);
    assert_eq!(b.unit.r64(0x2018), 16 * 255);
    b.unit.w64(0x2010, 16 * 255);
    b.unit.w64(0x18, b.control() & !4);
    b.ticks(2);
    b.unit.w64(0x2020, 3);
    b.unit.w64(0x18, b.control());
    b.ticks(2);
    assert_eq!(b.unit.r64(0x2020) & 0xb, 8);
    assert!(b.read(1, 0x77).is_err());
    assert_eq!(b.event(255)[1], 0x77);
    assert_eq!(b.unit.r64(0x2018), 0);
    b.clean();
}

#[test]
fn records_may_be_empty_late_or_not_announced() {
    let quirk = |quirks: Quirks| {
        let b = Bench::started(full().quirks(quirks));
        b.device(1, [1, 0, 0, 0]);
        assert!(b.read(1, 0x1234).is_err());
        b
    };
    let b = quirk(Quirks { empty_events: true, ..Quirks::default() });
    assert_eq!((b.event(0), b.unit.r64(0x2018)), ([0, 0], 16));
    let b = quirk(Quirks { event_tail_stuck: true, ..Quirks::default() });
    assert_eq!((b.event(0)[1], b.unit.r64(0x2018)), (0x1234, 0));
    let b = quirk(Quirks { late_events: true, ..Quirks::default() });
    assert_eq!((b.event(0), b.unit.r64(0x2018)), ([0, 0], 16));
    b.ticks(1);
    assert_eq!(b.event(0)[1], 0x1234);
    let b = quirk(Quirks { quiet_blocked: true, ..Quirks::default() });
    assert_eq!(b.unit.r64(0x2018), 0);
    let mut b = Bench::started(full().quirks(Quirks { head_at_wrap: true, ..Quirks::default() }));
    for _ in 0..256 {
        assert!(b.wait());
    }
    assert_eq!(b.unit.r64(0x2000), 0x1000);
    assert!(b.wait());
    assert_eq!(b.unit.r64(0x2000), 16);
}

#[test]
fn registers_refuse_what_the_specification_forbids() {
    let b = Bench::started(full());
    for (offset, value, rule) in [
        (0x00, 0, "device table changed while enabled"),
        (0x08, 8 << 56, "command buffer changed while enabled"),
        (0x10, 8 << 56, "event log changed while enabled"),
        (0x2008, 8, "ring pointer out of range or misaligned"),
        (0x2008, 0x1000, "ring pointer out of range or misaligned"),
        (0x2010, 0x1000, "ring pointer out of range or misaligned"),
        (0x2000, 0, "command head written while running"),
        (0x2018, 0, "event tail written while running"),
        (0x30, 1, "write to a reserved or read-only register"),
        (0x58, 1, "write to a reserved or read-only register"),
        (0x20, 4, "reserved bits in a register"),
        (0x04, 0, "misaligned register access"),
    ] {
        b.clean();
        b.unit.w64(offset, value);
        b.broke(rule);
    }
    let b = Bench::new(Config::new(Caps::plain()));
    for (offset, value, rule) in [
        (0x00, 0x200, "reserved bits in a register"),
        (0x08, BASE | 7 << 56, "ring shorter than 256 entries"),
        (0x08, BASE | 8 << 56 | 1 << 60, "reserved bits in a register"),
        (0x10, BASE | 8 << 56 | 1, "reserved bits in a register"),
        (0x18, 1 << 16, "control bit without its feature"),
        (0x18, 1 << 50, "control bit without its feature"),
    ] {
        b.clean();
        b.unit.w64(offset, value);
        b.broke(rule);
    }
    let b = Bench::new(full());
    b.unit.w64(0x18, 1);
    b.broke("translation enabled without a device table");
    // Halves of a register.
    b.unit.w32(0x2c, 0x12);
    b.unit.w32(0x28, 0x3456_7fff);
    assert_eq!(b.unit.r64(0x28), 0x12_3456_7000);
    assert_eq!(b.unit.r32(0x2c), 0x12);
}

#[test]
fn the_exclusion_range_is_not_translated() {
    let b = Bench::started(exact());
    b.device(1, [1, 0, 0, 0]);
    b.device(2, [1, 1 << 39, 0, 0]);
    b.unit.w64(0x28, 0x80_5000);
    b.unit.w64(0x20, 0x80_2000 | 1);
    // EX is bit 103 of the entry; Allow, bit 1 of the base, is for everybody.
    assert!(b.read(1, 0x80_2000).is_err());
    assert_eq!(b.read(2, 0x80_5fff), Ok(0x80_5fff));
    assert!(b.read(2, 0x80_6000).is_err());
    b.unit.w64(0x20, 0x80_2000 | 3);
    assert_eq!(b.read(1, 0x80_2000), Ok(0x80_2000));
    b.clean();
}

/// Words 0 and 1 by one 128-bit store, then 2 and 3.
fn halves(b: &Bench, n: u8, words: [u64; 4], order: [usize; 2]) {
    for half in order {
        let value = u128::from(words[2 * half]) | u128::from(words[2 * half + 1]) << 64;
        b.arena.store128(b.entry(n) + 16 * half as u64, value);
    }
}

#[test]
fn entries_stored_word_by_word_are_torn() {
    let b = Bench::started(full());
    let (root, other) = (b.frame(), b.frame());
    b.v1(1, root, 3, 9, 0);
    let next = [word0(other, 4, 0), 10, 0, 0];
    b.unit.begin_op();
    b.put(b.entry(1) + 8, next[1]);
    b.put(b.entry(1), next[0]);
    b.unit.end_op();
    b.broke("torn entry");
    // One 128-bit store holds all that DMA needs.
    b.v1(1, root, 3, 9, 0);
    b.unit.begin_op();
    halves(&b, 1, next, [1, 0]);
    b.unit.end_op();
    b.clean();
    // Or through an entry that blocks; but V=0 passes everything.
    for (through, fine) in [(3, true), (1, true), (0, false)] {
        b.v1(1, root, 3, 9, 0);
        b.unit.begin_op();
        b.put(b.entry(1), through);
        b.put(b.entry(1) + 8, next[1]);
        b.put(b.entry(1), next[0]);
        b.unit.end_op();
        if fine { b.clean() } else { b.broke("torn entry") }
    }
    // HAD alone is one word.
    b.v1(1, root, 3, 9, 0);
    b.unit.begin_op();
    b.put(b.entry(1), word0(root, 3, 3));
    b.unit.end_op();
    b.clean();
}

#[test]
fn interrupts_are_torn_apart_from_dma() {
    let b = Bench::started(full());
    let (root, table) = (b.frame(), b.frame());
    // IV 128, IntTabLen 132:129, root 179:134, IntCtl 189:188.
    let irq = |at: u64| bits(&[(0, 0, 1), (4, 1, 8), (51, 6, at >> 6), (61, 60, 2)]);
    b.device(1, [word0(root, 3, 0), 9, irq(table), 0]);
    b.unit.begin_op();
    halves(&b, 1, [word0(root, 4, 0), 10, irq(table + 128), 0], [0, 1]);
    b.unit.end_op();
    b.clean();
    b.unit.begin_op();
    b.put(b.entry(1) + 16, 0);
    b.put(b.entry(1) + 16, irq(table));
    b.unit.end_op();
    b.broke("torn entry");
}

#[test]
fn interrupt_entries_of_both_widths() {
    for wide in [false, true] {
        let mut b = Bench::new(if wide { full() } else { Config::new(Caps::plain()) });
        b.start();
        let table = b.frame();
        let size = if wide { 16 } else { 4 };
        let at = table + 6 * size;
        if wide {
            // RemapEn 0, IntType 4:2, DM 6, destination 31:8 and 127:120, vector 71:64.
            b.put(at, bits(&[(0, 0, 1), (6, 6, 1), (31, 8, 0x1234)]));
            b.put(at + 8, bits(&[(7, 0, 0x55), (63, 56, 1)]));
        } else {
            b.put(at, bits(&[(0, 0, 1), (6, 6, 1), (15, 8, 0x34), (23, 16, 0x55)]));
        }
        let words = |ctl: u64| [3, 0, bits(&[(0, 0, 1), (4, 1, 5), (51, 6, table >> 6), (61, 60, ctl)]), 0];
        b.device(1, words(2));
        let destination = if wide { 0x0100_1234 } else { 0x34 };
        let want = Interrupt { remapped: true, vector: 0x55, destination, logical: true, kind: 0 };
        assert_eq!(b.unit.interrupt(dev(1), 0xfee0_0000, 6), Ok(want));
        // Kept until INVALIDATE_INTERRUPT_TABLE names the device.
        b.put(at, 0);
        assert_eq!(b.unit.interrupt(dev(1), 0xfee0_0000, 6), Ok(want));
        b.flush(bits(&[(15, 0, u64::from(dev(1).id)), (63, 60, 5)]), 0);
        let none = Err(Refused::Fault(Reason::NOT_PRESENT));
        assert_eq!(b.unit.interrupt(dev(1), 0xfee0_0000, 6), none);
        // I is bit 51.
        assert_eq!(b.event(0)[0] >> 51 & 1, 1);
        assert_eq!(b.unit.interrupt(dev(1), 0xfee0_0000, 32), none, "beyond the table");
        // IV=0 and IntCtl=1 pass, IntCtl=0 refuses.
        b.device(2, [3, 0, 0, 0]);
        b.device(3, words(1));
        b.device(4, words(0));
        assert!(!b.unit.interrupt(dev(2), 0xfee0_3000, 0x41).unwrap().remapped);
        assert_eq!(b.unit.interrupt(dev(3), 0xfee0_3000, 0x41).unwrap().destination, 3);
        assert_eq!(b.unit.interrupt(dev(4), 0xfee0_3000, 0), none);
        // IG, bit 133: refused without an event.
        let before = b.unit.r64(0x2018);
        let [a, c, d, e] = words(0);
        b.device(5, [a, c, d | 1 << 5, e]);
        assert_eq!(b.unit.interrupt(dev(5), 0xfee0_3000, 0), none);
        assert_eq!(b.unit.r64(0x2018), before);
        b.clean();
    }
}

#[test]
fn writes_in_flight_land_before_the_wait_ends() {
    let mut b = Bench::started(full());
    let (page, at) = one_page(&b);
    b.unit.begin_dma(dev(1), None, 0x5008, &[7]).unwrap();
    b.put(at, 0);
    assert_eq!(b.get(page + 8), 0);
    b.flush_domain(9);
    assert_eq!(b.get(page + 8), 7);
    assert_eq!(b.unit.take_writes().len(), 1);
    b.clean();
}

#[test]
fn firmware_may_have_left_it_on() {
    let arena = Arc::new(Arena::new(BASE, 16));
    let table = arena.alloc(2, Use::Table).unwrap();
    let unit = Amd::new(arena.clone(), full());
    unit.firmware_left(table | 1, BASE | 8 << 56, BASE | 8 << 56, 0x1005, 0x40);
    assert!(unit.translating());
    assert_eq!((unit.r64(0x2000), unit.r64(0x2008)), (0x40, 0x40));
    assert_eq!(unit.r64(0x2020), 0x18);
    arena.store64(table + 32 * 8, 1);
    assert!(unit.probe(dev(1), None, 0x1000, true).is_err());
}

#[test]
fn adversarial_hardware_loses_no_write_to_software_that_flushes() {
    for seed in 0..40 {
        let mut b = Bench::started(full().policy(Policy::Adversarial(seed)));
        let run = b.arena.alloc(16, Use::Data).unwrap();
        let entry = sized(run, 16) | RW;
        let (root, at) = b.host(4, 1, 0, RW, entry);
        (0..16).for_each(|n| b.put(at + 8 * n, entry));
        b.v1(1, root, 4, 9, 3);
        for round in 0..20u64 {
            let page = (round * 7 + seed) % 16;
            b.unit.dma_write(dev(1), None, page << 12, &[1]).unwrap();
            assert!(b.unit.take_writes().iter().all(|w| w.pa == run + (page << 12)));
            // Any of the sixteen may have it.
            let dirty = (0..16).any(|n| b.get(at + 8 * n) & 1 << 6 != 0);
            assert!(dirty, "seed {seed} round {round}");
            (0..16).for_each(|n| b.put(at + 8 * n, entry));
            b.flush_pages(9, 0x7001);
        }
        (0..16).for_each(|n| b.put(at + 8 * n, 0));
        b.flush_domain(9);
        assert_eq!(b.write(1, 0x3000), refused(Reason::NOT_PRESENT));
        b.clean();
    }
}

/// A seeded mix of map, unmap, DMA and device changes by software that follows the rules; what went wrong, if anything.
fn churn(seed: u64, policy: Policy, swallow: u16) -> Result<(), String> {
    let mut b = Bench::started(full().policy(policy));
    b.unit.inject(|i| i.swallow = swallow);
    let mut rng = soft_iommu::Rng::new(seed + 1);
    let frames: Vec<u64> = (0..32).map(|_| b.data()).collect();
    let tables = [b.host(4, 1, 0, RW, 0), b.host(4, 1, 0, RW, 0)];
    let mut mapped = [[None::<usize>; 64]; 2];
    let mut written = [[false; 64]; 2];
    let mut domain = [0usize, 1];
    for (n, table) in tables.iter().enumerate() {
        b.v1(n as u8 + 1, table.0, 4, 20 + n as u64, 3);
    }
    for step in 0..3000 {
        let (which, page) = (rng.below(2) as usize, rng.below(64) as usize);
        let slot = tables[which].1 + 8 * page as u64;
        let iova = (page as u64) << 12;
        match (rng.below(8), mapped[which][page]) {
            (0 | 1, None) => {
                let frame = rng.below(32) as usize;
                b.put(slot, leaf(frames[frame]) | RW);
                mapped[which][page] = Some(frame);
                written[which][page] = false;
            }
            (2, Some(_)) => {
                b.put(slot, 0);
                b.flush_pages(20 + which as u64, iova);
                mapped[which][page] = None;
            }
            (3, Some(frame)) => {
                if b.get(slot) & 1 << 6 == 0 && written[which][page] {
                    return Err(format!("seed {seed} step {step}: lost write to page {page}"));
                }
                b.put(slot, leaf(frames[frame]) | RW);
                b.flush_pages(20 + which as u64, iova);
                written[which][page] = false;
            }
            (4, _) if rng.one_in(10) => {
                let device = rng.below(2) as usize;
                let old = domain[device];
                b.unit.begin_op();
                let words = u128::from(word0(tables[which].0, 4, 3)) | (20 + which as u128) << 64;
                b.arena.store128(b.entry(device as u8 + 1), words);
                b.unit.end_op();
                b.flush_device(device as u8 + 1);
                b.flush_domain(20 + old as u64);
                domain[device] = which;
            }
            _ => {
                let device = rng.below(2) as usize;
                let write = rng.one_in(2);
                let got = b.unit.probe(dev(device as u8 + 1), None, iova, write).ok();
                let want = mapped[domain[device]][page].map(|f| frames[f]);
                if got != want {
                    return Err(format!("seed {seed} step {step}: page {page} is at {got:x?}, not {want:x?}"));
                }
                if write && want.is_some() {
                    written[domain[device]][page] = true;
                }
                // The log is read.
                b.unit.w64(0x2010, b.unit.r64(0x2018));
            }
        }
        b.unit.sample();
    }
    b.unit.violations().first().map_or(Ok(()), |v| Err(v.to_string()))
}

#[test]
fn software_that_follows_the_rules_meets_no_surprise() {
    for seed in 0..12 {
        churn(seed, Policy::Adversarial(seed), 0).unwrap();
    }
    churn(99, Policy::KeepAll, 0).unwrap();
    churn(7, Policy::Exact, 0).unwrap();
}

#[test]
fn software_whose_invalidations_do_nothing_is_caught() {
    for opcode in [2, 3] {
        assert!(churn(99, Policy::KeepAll, 1 << opcode).is_err(), "opcode {opcode}");
        let caught = (0..12).filter(|&s| churn(s, Policy::Adversarial(s), 1 << opcode).is_err()).count();
        assert!(caught >= 10, "opcode {opcode}: {caught} of 12 seeds");
        // What caches nothing catches nothing.
        churn(7, Policy::Exact, 1 << opcode).unwrap();
    }
}

#[test]
fn a_ring_that_is_overrun_is_reported() {
    let mut b = Bench::started(full());
    b.unit.inject(|i| i.queue_stalled = true);
    for _ in 0..255 {
        b.post(bits(&[(63, 60, 1)]), 0);
    }
    b.clean();
    b.post(bits(&[(63, 60, 1)]), 0);
    b.broke("command tail passed the head");
}
