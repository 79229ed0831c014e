//! BARs, commands and reset of one function.

mod fake;

use device_api::{Bar, BarKind, Clock, Error, Function as _, Span, Width};
use fake::*;
use iommu_types::Phys;
use pci::*;
use std::sync::Mutex;

const CARD: iommu_types::StreamId = iommu_types::StreamId { segment: 0, id: 0x100 };

/// The BARs of an 82576: 128 KiB of registers, 128 KiB of flash, 32 ports, 16 KiB with the MSI-X table in 64 bits.
fn card() -> Function {
    endpoint(0x8086, 0x10c9)
        .bar(0, 0xfe80_0000, 0x2_0000, 0)
        .bar(1, 0xfe82_0000, 0x2_0000, 0)
        .bar(2, 0xc000, 0x20, 1)
        .bar(3, 0x1_fe84_0000, 0x4000, 0xc)
        .cap(0x11, 0x70, &[9, 0, 3, 0, 0, 0, 3, 0x20, 0, 0])
}

const MEMORY: BarKind = BarKind::Memory { wide: false, prefetchable: false };

#[test]
fn bars_are_sized_with_decoding_off_and_left_as_they_were() {
    let mut function = card();
    function.put(4, 2, 7);
    let fake = Fake::new(vec![(CARD, function)]);
    let bars = size_bars(&fake, CARD, 6);
    assert_eq!(bars[0], Some(RawBar { phys: Phys(0xfe80_0000), size: 0x2_0000, kind: MEMORY }));
    assert_eq!(bars[2], Some(RawBar { phys: Phys(0xc000), size: 0x20, kind: BarKind::Io }));
    let wide = BarKind::Memory { wide: true, prefetchable: true };
    assert_eq!(bars[3], Some(RawBar { phys: Phys(0x1_fe84_0000), size: 0x4000, kind: wide }));
    assert_eq!((bars[4], bars[5]), (None, None));
    assert_eq!(fake.get(CARD, 0x1c, 4), 0xfe84_000c);
    assert_eq!(fake.get(CARD, 0x20, 4), 1);
    assert_eq!(fake.get(CARD, 4, 2), 7);
    let log = fake.log.lock().unwrap();
    assert_eq!(log[0], (CARD, 4, 4), "decoding goes off first, bus mastering stays");
    assert_eq!(*log.last().unwrap(), (CARD, 4, 7), "and comes back last");
}

#[test]
fn a_bar_of_4_gib_and_one_with_16_port_bits_are_sized() {
    let mut function = endpoint(1, 1).bar(0, 0x20_0000_0000, 1 << 32, 0xc).bar(2, 0xc000, 0x100, 1);
    function.writable[0x1a..0x1c].fill(0);
    let bars = size_bars(&Fake::new(vec![(CARD, function)]), CARD, 6);
    assert_eq!(bars[0].unwrap().size, 1 << 32);
    assert_eq!(bars[2].unwrap().size, 0x100);
}

#[test]
fn a_function_that_is_gone_has_no_bars() {
    assert_eq!(size_bars(&Fake::default(), CARD, 6), [None; 6]);
}

/// Remembers accesses.
#[derive(Default)]
struct Space(Mutex<Vec<(u64, u64)>>);
impl BarSpace for Space {
    fn read(&self, _: BarKind, at: Phys, width: Width) -> u64 {
        at.0 + width.bytes()
    }
    fn write(&self, _: BarKind, at: Phys, _: Width, value: u64) {
        self.0.lock().unwrap().push((at.0, value));
    }
}

fn function<'a>(fake: &'a Fake, space: &'a Space) -> PciFunction<&'a Fake, &'a Space, &'a Fake> {
    let tree = enumerate(fake, 0, 0, 255);
    PciFunction::new(tree.get(CARD).unwrap().clone(), fake, space, fake)
}

#[test]
fn a_function_is_handed_out_quiet_and_decoding() {
    let mut start = card();
    start.put(4, 2, 5);
    let fake = Fake::new(vec![(CARD, start)]);
    let space = Space::default();
    let function = function(&fake, &space);
    assert_eq!(function.command(), 0x0403, "memory and ports on, bus master and interrupt pin off");
    let bars = function.bars();
    assert_eq!(
        bars[0],
        Some(Bar {
            phys: Phys(0xfe80_0000),
            size: 0x2_0000,
            kind: MEMORY,
            mappable: Some(Span { offset: 0, length: 0x2_0000 })
        })
    );
    assert_eq!(bars[2].unwrap().mappable, None, "ports");
    assert_eq!(bars[3].unwrap().mappable, Some(Span { offset: 0x1000, length: 0x3000 }), "not the page with the table");
    function.bus_master(true);
    assert_eq!(fake.get(CARD, 4, 2), 0x0407);
    function.bus_master(false);
    assert_eq!(fake.get(CARD, 4, 2), 0x0403);
}

#[test]
fn register_accesses_stay_inside_their_bar() {
    let fake = Fake::new(vec![(CARD, card())]);
    let space = Space::default();
    let function = function(&fake, &space);
    assert_eq!(function.r32(0, 0x1_fffc), Ok(0xfe82_0000));
    assert_eq!(function.r32(0, 0x2_0000), Err(Error::Invalid("register past the end of its BAR")));
    assert_eq!(function.r32(0, u64::MAX - 3), Err(Error::Invalid("register past the end of its BAR")));
    assert_eq!(function.r32(0, 2), Err(Error::Invalid("register access is not aligned")));
    assert_eq!(function.r32(4, 0), Err(Error::Invalid("no such BAR")));
    assert_eq!(function.r32(200, 0), Err(Error::Invalid("no such BAR")));
    function.w32(3, 8, 5).unwrap();
    assert_eq!(*space.0.lock().unwrap(), [(0x1_fe84_0008, 5)]);
}

#[test]
fn configuration_space_is_read_and_written_at_any_offset() {
    let fake = Fake::new(vec![(CARD, card())]);
    let space = Space::default();
    let function = function(&fake, &space);
    let mut raw = [0; 5];
    function.config_read(1, &mut raw);
    assert_eq!(raw, [0x80, 0xc9, 0x10, 0x03, 0x04]);
    let mut end = [0; 6];
    function.config_read(0xffc, &mut end);
    assert_eq!(end, [0, 0, 0, 0, 0xff, 0xff]);
    function.config_write(0x3c, &[7, 9, 9]);
    assert_eq!(fake.get(CARD, 0x3c, 4), 7, "only the line is writable");
    function.config_write(0xfff, &[1, 2]);
}

#[test]
fn a_reset_gives_back_the_header_but_not_bus_mastering() {
    let mut start = card();
    start.put(4, 2, 7).put(0xa8, 2, 0x2810).put(0xc8, 1, 0x10).put(0x3c, 1, 11);
    start.reset = Some((0xa9, 300_000_000));
    let fake = Fake::new(vec![(CARD, start)]);
    let space = Space::default();
    let function = function(&fake, &space);
    function.bus_master(true);
    function.reset().unwrap();
    assert_eq!(fake.functions.lock().unwrap()[&CARD.id].resets, 1);
    assert_eq!(fake.get(CARD, 0x10, 4), 0xfe80_0000);
    assert_eq!(fake.get(CARD, 0x20, 4), 1);
    assert_eq!(fake.get(CARD, 0xa8, 2), 0x2810, "device control, without the reset bit");
    assert_eq!(fake.get(CARD, 0xc8, 1), 0x10);
    assert_eq!(fake.get(CARD, 0x3c, 1), 11);
    assert_eq!(fake.get(CARD, 4, 2), 0x0403, "quiet");
    assert!(fake.now_ns() >= 300_000_000);
}

#[test]
fn a_reset_waits_for_what_is_under_way_but_not_for_ever() {
    let mut start = card();
    start.put(0xaa, 2, 0x20); // transactions pending, always
    let fake = Fake::new(vec![(CARD, start)]);
    function(&fake, &Space::default()).reset().unwrap();
    assert!((200_000_000..300_000_000).contains(&fake.now_ns()));
}

#[test]
fn a_function_that_does_not_come_back_is_stuck() {
    let mut start = card();
    start.reset = Some((0xa9, u64::MAX));
    let fake = Fake::new(vec![(CARD, start)]);
    let result = function(&fake, &Space::default()).reset();
    assert_eq!(result, Err(Error::Stuck { stream: CARD, register: "vendor id after reset", want: 0, got: 0xffff }));
    assert!(fake.now_ns() < 1_300_000_000, "bounded");
}

#[test]
fn reset_says_why_it_cannot() {
    let express = Fake::new(vec![(CARD, Function::new(1, 1, 0).express(0, false))]);
    let words = "no function level reset: bit 28 of its device capabilities is clear";
    assert_eq!(function(&express, &Space::default()).can_reset(), Err(words));
    assert_eq!(function(&express, &Space::default()).reset(), Err(Error::Unsupported(words)));
    let edu = Fake::new(vec![(CARD, Function::new(0x1234, 0x11e8, 0xff00))]);
    let words = "no function level reset: conventional PCI without Advanced Features";
    assert_eq!(function(&edu, &Space::default()).can_reset(), Err(words));
    let half = Fake::new(vec![(CARD, Function::new(1, 1, 0).cap(0x13, 0x50, &[6, 1]))]);
    assert_eq!(function(&half, &Space::default()).can_reset(), Err(words), "no FLR bit");
    let whole = Fake::new(vec![(CARD, Function::new(1, 1, 0).cap(0x13, 0x50, &[6, 3]))]);
    assert_eq!(function(&whole, &Space::default()).can_reset(), Ok(()));
}

#[test]
fn at_start_every_function_but_bridges_is_made_quiet() {
    let with = |mut function: Function| {
        function.put(4, 2, 7);
        function
    };
    let fake = Fake::new(vec![
        (at(0, 1, 0), with(port(4, 0, 1, 1))),
        (at(0, 2, 0), with(endpoint(1, 1))),
        (at(0, 3, 0), endpoint(1, 1)),
        (CARD, with(card())),
    ]);
    let tree = enumerate(&fake, 0, 0, 255);
    assert_eq!(quiet_all(&fake, &tree), 2);
    assert_eq!(fake.get(at(0, 1, 0), 4, 2), 7, "bridges go on forwarding");
    assert_eq!(fake.get(at(0, 2, 0), 4, 2), 3);
    assert_eq!(fake.get(CARD, 4, 2), 3);
    assert_eq!(quiet_all(&fake, &tree), 0);
}
