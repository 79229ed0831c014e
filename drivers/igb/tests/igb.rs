//! The driver over a card in memory.

mod fake;

use device_api::{Error, Function, Migratable, state};
use fake::*;
use igb::{Igb, matches};

/// What a program does: link, a receive ring of 32, a transmit ring of 32, filters, interrupts.
fn used() -> Machine {
    let machine = Machine::new(0x33);
    machine.bus_master(true);
    for (register, value) in [
        (0x20, 0x0420_1340u32),
        (0xc000, 0x0400_0000),
        (0xc004, 1),
        (0xc008, 512),
        (0xc00c, 0x0200_0002),
        (0xc028, ENABLE | 1 << 16),
        (0xc018, 31),
        (0xe000, 0x0420_0000),
        (0xe008, 512),
        (0xe028, ENABLE),
        (0x400, 0xa404_00fa),
        (0x5210, 0x55),   // multicast table
        (0x5600, 0x8001), // VLAN table
        (0x5c00, 0x0101_0101),
        (0x5818, 2),
        (0x1514, 0x10),
        (0x1700, 0x80),
        (0xd0, 0x85),
        (0x1524, 3),
        (0x100, 0x801a),
    ] {
        machine.w32(0, register, value).unwrap();
    }
    machine.pass(500 * MS);
    for _ in 0..13 {
        assert!(machine.frame());
    }
    machine.w32(0, 0xe018, 5).unwrap();
    assert_eq!(machine.card().sent, 5);
    machine
}

fn save(driver: &mut Igb, machine: &Machine) -> Vec<u8> {
    let mut out = Vec::new();
    driver
        .save(&machine.cx(), &mut |bytes| {
            out.extend_from_slice(bytes);
            Ok(())
        })
        .unwrap();
    out
}

fn saved() -> Vec<u8> {
    let machine = used();
    let mut driver = Igb::new();
    driver.stop(&machine.cx()).unwrap();
    save(&mut driver, &machine)
}

/// A card that is ready to take a state, its link up.
fn expecting() -> (Machine, Igb) {
    let machine = Machine::new(0x99);
    let mut driver = Igb::new();
    driver.stop(&machine.cx()).unwrap();
    driver.begin_load(&machine.cx()).unwrap();
    machine.pass(500 * MS);
    machine.card().log.clear();
    (machine, driver)
}

#[test]
fn the_next_frame_goes_where_the_other_card_stopped() {
    let data = saved();
    assert_eq!(data.len(), Igb::new().max_state_bytes());
    let (there, mut driver) = expecting();
    driver.load(&there.cx(), &data).unwrap();
    assert!(!there.frame(), "not running yet");
    assert_eq!(there.card().command & 4, 0);
    driver.resume(&there.cx()).unwrap();
    assert!(there.frame() && there.frame());
    let card = there.card();
    assert_eq!(card.received, [13, 14]);
    assert_eq!((card.get(0xc000), card.get(0xc004), card.get(0xc008), card.get(0xc018)), (0x0400_0000, 1, 512, 31));
    assert_eq!((card.get(0xe010), card.get(0xe018), card.sent), (5, 5, 0), "nothing is sent twice");
    assert_eq!(
        (card.get(0x5210), card.get(0x5600), card.get(0x5c00), card.get(0x5818)),
        (0x55, 0x8001, 0x0101_0101, 2)
    );
    assert_eq!((card.get(0x5400), card.get(0x5404)), (0x1100_5452, 0x8000_3322), "the address moves with the state");
    assert_eq!((card.get(0xd0), card.get(0x1524), card.get(0x1514), card.get(0x1700)), (0x85, 3, 0x10, 0x80));
    assert_eq!((card.get(0x100), card.get(0x400)), (0x801a, 0xa404_00fa));
    assert_eq!(card.get(0) & 4, 0, "requests are allowed again");
    assert_eq!(card.command & 4, 4);
}

#[test]
fn the_link_comes_up_before_the_state_arrives() {
    let data = saved();
    let (there, mut driver) = expecting();
    let before = device_api::Clock::now_ns(&there);
    driver.load(&there.cx(), &data).unwrap();
    driver.resume(&there.cx()).unwrap();
    assert!(there.frame());
    assert_eq!(device_api::Clock::now_ns(&there), before, "nobody waited");
    // The red twin: a state that arrives at once has to wait for the link.
    let there = Machine::new(0x99);
    driver = Igb::new();
    driver.load(&there.cx(), &data).unwrap();
    assert!((500 * MS..600 * MS).contains(&device_api::Clock::now_ns(&there)));
    assert_eq!(there.card().resets, 1, "load resets the card itself if nobody did");
}

#[test]
fn nothing_runs_before_everything_is_in_place() {
    let data = saved();
    let (there, mut driver) = expecting();
    driver.load(&there.cx(), &data).unwrap();
    let loading = std::mem::take(&mut there.card().log);
    assert!(loading.iter().all(|(register, value)| *register != 0x100 || value & 2 == 0), "receiver off");
    assert!(loading.iter().all(|(register, value)| *register != 0x400 || value & 2 == 0), "transmitter off");
    assert!(loading.iter().all(|(register, value)| *register != 0xd0 || *value == 0), "interrupts masked");
    assert!(loading.iter().all(|(register, value)| *register != BUS_MASTER || *value == 0), "cut off");
    driver.resume(&there.cx()).unwrap();
    let log = there.card().log.clone();
    let place = |what: (u64, u32)| log.iter().position(|entry| *entry == what).unwrap_or_else(|| panic!("{what:x?}"));
    let order = [
        place((0xc028, ENABLE | 1 << 16)), // queue on, head checked
        place((BUS_MASTER, 1)),
        place((0xc018, 31)),         // receive tail
        place((0x400, 0xa404_00fa)), // transmitter
        place((0xe018, 5)),          // transmit tail
        place((0x100, 0x801a)),      // receiver
    ];
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(
        log[order[5] + 1..].iter().map(|(register, _)| *register).collect::<Vec<_>>(),
        [0xc8, 0x1520],
        "then the causes"
    );
}

#[test]
fn a_stopped_card_is_cut_off_and_goes_on_where_it_was() {
    let machine = used();
    let mut driver = Igb::new();
    machine.card().log.clear();
    driver.stop(&machine.cx()).unwrap();
    {
        let card = machine.card();
        assert_eq!(card.command & 4, 0);
        assert_eq!((card.get(0x100) & 2, card.get(0x400) & 2), (0, 0));
        assert_eq!((card.get(0xc028) & ENABLE, card.get(0xe028) & ENABLE), (0, 0));
        let place = |register| card.log.iter().position(|entry| entry.0 == register).unwrap();
        assert!(place(0x100) < place(0xc028) && place(0xc028) < place(0xe028), "receiver first");
        assert_eq!(
            card.log.iter().rfind(|entry| entry.0 < 0x20 || entry.0 == BUS_MASTER),
            Some(&(BUS_MASTER, 0)),
            "bus mastering last"
        );
        assert_eq!(card.statistics, 13, "no register was read that a read clears");
    }
    assert!(!machine.frame());
    driver.stop(&machine.cx()).unwrap();
    let first = save(&mut driver, &machine);
    assert_eq!(save(&mut driver, &machine), first);
    driver.resume(&machine.cx()).unwrap();
    assert!(machine.frame());
    assert_eq!(machine.card().received.last(), Some(&13));
    assert_eq!(machine.card().get(0), 0x0010_0209);
}

#[test]
fn queued_packets_are_sent_before_the_card_stops_or_after_the_switch() {
    let machine = used();
    // The card is slow: the tail moved and the head did not.
    machine.card().faults.no_transmit = true;
    machine.w32(0, 0xe018, 9).unwrap();
    let mut driver = Igb::new();
    let before = device_api::Clock::now_ns(&machine);
    driver.stop(&machine.cx()).unwrap();
    assert!((100 * MS..110 * MS).contains(&(device_api::Clock::now_ns(&machine) - before)), "bounded");
    let data = save(&mut driver, &machine);
    let (there, mut driver) = expecting();
    driver.load(&there.cx(), &data).unwrap();
    driver.resume(&there.cx()).unwrap();
    assert_eq!(there.card().sent, 4);
}

#[test]
fn a_card_without_a_link_needs_none_at_the_other_side() {
    let machine = used();
    machine.card().faults.no_cable = true;
    let mut driver = Igb::new();
    driver.stop(&machine.cx()).unwrap();
    let data = save(&mut driver, &machine);
    let (there, mut driver) = expecting();
    there.card().faults.no_cable = true;
    driver.load(&there.cx(), &data).unwrap();
}

#[test]
fn a_phy_that_was_set_otherwise_is_set_so_and_negotiates_again() {
    let machine = used();
    machine.w32(0, 0x20, 0x0424_0c01).unwrap(); // advertise less
    machine.w32(0, 0x20, 0x0420_1300).unwrap();
    machine.pass(500 * MS);
    let mut driver = Igb::new();
    driver.stop(&machine.cx()).unwrap();
    let data = save(&mut driver, &machine);
    let (there, mut driver) = expecting();
    driver.load(&there.cx(), &data).unwrap();
    assert_eq!(there.card().phy[&4], 0x0c01);
    assert_eq!(there.card().phy[&0], 0x1100);
    driver.resume(&there.cx()).unwrap();
    assert!(there.frame());
}

fn stuck(register: &'static str, want: u64, got: u64) -> Result<(), Error> {
    Err(Error::Stuck { stream: STREAM, register, want, got })
}

#[test]
fn a_card_that_does_not_come_to_rest_is_named_with_its_register() {
    let cases = [
        (0xc028, ENABLE, "RXDCTL, bit 25 (queue enabled)"),
        (0xe028, ENABLE, "TXDCTL, bit 25 (queue enabled)"),
        (0x8, 1 << 19, "STATUS, bit 19 (master enabled)"),
    ];
    for (register, bits, name) in cases {
        let machine = used();
        machine.card().faults.sticky = Some((register, bits));
        let before = device_api::Clock::now_ns(&machine);
        assert_eq!(Igb::new().stop(&machine.cx()), stuck(name, 0, bits.into()));
        assert!(device_api::Clock::now_ns(&machine) - before < 2000 * MS);
    }
}

#[test]
fn a_card_that_does_not_take_a_head_is_refused() {
    let data = saved();
    let (there, mut driver) = expecting();
    there.card().faults.dead = Some(0xc010);
    assert_eq!(driver.load(&there.cx(), &data), stuck("RDH", 13, 0));
    // Or takes it, and forgets it when the queue is switched on: memory must not be reachable by then.
    let (there, mut driver) = expecting();
    there.card().faults.head_restarts = true;
    driver.load(&there.cx(), &data).unwrap();
    assert_eq!(driver.resume(&there.cx()), stuck("RDH", 13, 0));
    assert_eq!(there.card().command & 4, 0);
    assert_eq!(there.card().get(0x100) & 2, 0);
}

#[test]
fn a_link_that_does_not_come_is_named() {
    let data = saved();
    let (there, mut driver) = expecting();
    there.card().faults.no_cable = true;
    assert_eq!(driver.load(&there.cx(), &data), stuck("STATUS, bit 1 (link up)", 2, 0));
    assert!(device_api::Clock::now_ns(&there) < 6000 * MS);
}

#[test]
fn a_card_that_is_gone_or_has_virtual_functions_is_refused() {
    let machine = used();
    machine.card().faults.gone = true;
    assert_eq!(Igb::new().stop(&machine.cx()), Err(Error::Lost(STREAM)));
    assert_eq!(Igb::new().reset(&machine.cx()), Err(Error::Lost(STREAM)));
    let machine = used();
    machine.card().faults.sticky = Some((8, 1 << 18));
    let words = "a card with virtual functions switched on cannot be moved";
    assert_eq!(Igb::new().stop(&machine.cx()), Err(Error::Unsupported(words)));
    assert!(machine.frame(), "it was not touched");
    machine.card().faults.no_reset = true;
    assert_eq!(Igb::new().begin_load(&machine.cx()), Err(Error::Unsupported("no function level reset")));
}

#[test]
fn save_needs_a_stopped_card_and_passes_a_refusing_sink_on() {
    let machine = used();
    let mut driver = Igb::new();
    let running = driver.save(&machine.cx(), &mut |_| Ok(()));
    assert_eq!(running, Err(Error::Invalid("save of a card that is not stopped")));
    driver.stop(&machine.cx()).unwrap();
    assert_eq!(driver.save(&machine.cx(), &mut |_| Err(Error::Sink(28))), Err(Error::Sink(28)));
    driver.resume(&machine.cx()).unwrap();
    assert!(machine.frame());
}

#[test]
fn bad_data_is_refused_before_the_card_is_touched() {
    let data = saved();
    let (there, mut driver) = expecting();
    for end in 0..data.len() {
        assert!(matches!(driver.load(&there.cx(), &data[..end]), Err(Error::BadState { .. })), "cut at {end}");
    }
    for bit in (0..data.len() * 8).step_by(7) {
        let mut bent = data.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(driver.load(&there.cx(), &bent), Err(Error::BadState { .. })), "bit {bit}");
    }
    assert_eq!(there.card().log, []);
    driver.load(&there.cx(), &data).unwrap();
}

/// The sections of a saved state, changed and put together again with a right checksum.
fn edited(edit: impl Fn(u16, &mut Vec<u32>)) -> Vec<u8> {
    let data = saved();
    let reader = state::Reader::new(&data, 0x8086_10c9, 1).unwrap();
    let mut writer = state::Writer::new(0x8086_10c9, 1);
    for number in 1..=7 {
        let section = reader.need(number).unwrap();
        let mut words = section.word_list(section.data.len() / 4).unwrap();
        edit(number, &mut words);
        writer.words(number, &words);
    }
    writer.finish()
}

#[test]
fn data_that_no_card_can_have_had_is_refused() {
    let cases: [(u16, usize, u32, &str); 12] = [
        (1, 0, 0x100, "command register with bits that are not the program's"),
        (1, 1, 2, "link is neither up nor down"),
        (1, 2, 1 << 26, "control register that would reset the card"),
        (1, 2, 1 << 2, "control register that would reset the card"),
        (1, 3, 1 << 13, "control register that would reset the card"),
        (2, 0, 0x9140, "PHY register that would reset the link"),
        (2, 1, 0x1_0000, "PHY register that would reset the link"),
        (6, 0, 8, "ring base is not aligned"),
        (6, 2, 520, "ring length is no multiple of 128 bytes up to 512 KiB"),
        (6, 2, 0x8_0080, "ring length is no multiple of 128 bytes up to 512 KiB"),
        (6, 3, 32, "head past the ring"),
        (7, 4, 33, "tail past the ring"),
    ];
    assert!(Igb::new().load(&expecting().0.cx(), &edited(|_, _| ())).is_ok());
    for (section, word, value, reason) in cases {
        let data = edited(|number, words| {
            if number == section {
                words[word] = value;
            }
        });
        let (there, mut driver) = expecting();
        assert_eq!(driver.load(&there.cx(), &data), Err(Error::BadState { section, reason }));
        assert_eq!(there.card().log, []);
    }
    for section in 1..=7 {
        let data = edited(|number, words| {
            if number == section {
                words.push(0);
            }
        });
        assert_eq!(
            expecting().1.load(&expecting().0.cx(), &data),
            Err(Error::BadState { section, reason: "wrong length" })
        );
    }
}

#[test]
fn reset_forgets_everything() {
    let machine = used();
    let mut driver = Igb::new();
    driver.stop(&machine.cx()).unwrap();
    driver.reset(&machine.cx()).unwrap();
    assert_eq!(machine.card().command & 4, 0);
    assert_eq!(machine.card().get(0xc008), 0);
    driver.resume(&machine.cx()).unwrap();
    assert_eq!(machine.card().get(0x100), 0, "there is nothing to resume");
}

#[test]
fn the_driver_is_for_the_82576_only() {
    let ids = Machine::new(0).ids();
    assert!(matches(&ids));
    assert!(!matches(&device_api::Ids { device: 0x10ca, ..ids }), "a virtual function");
    assert!(Igb::new().unreadable().iter().any(|entry| entry.what.starts_with("transmit contexts")));
}
