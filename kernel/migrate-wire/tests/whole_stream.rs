//! Whole streams: round trip, cuts, flipped bits, and each rule of the order.

use migrate_wire::{
    Error, PAGE, digest,
    message::{BATCH, DeviceId, End, Hello, Message, Round, RoundKind, parse, section},
    order::{FromDestination, FromSource},
    stream::{self, HEAD_LEN, OPENING_LEN, Reader, Role, SKIPPABLE, Writer},
};
use proptest::prelude::*;

const SESSION: u64 = 0x1122_3344_5566_7788;

fn hello(pages: u32) -> Hello {
    Hello {
        session: SESSION,
        region_bytes: u64::from(pages) * PAGE as u64,
        iova: 0x1000_0000,
        tracking: true,
        devices: vec![DeviceId { vendor: 0x8086, device: 0x10c9 }, DeviceId { vendor: 0x1234, device: 0x11e8 }],
    }
}

fn content(number: u32, round: u32) -> Vec<u8> {
    (0..PAGE).map(|at| (at as u32 ^ number.wrapping_mul(31) ^ round) as u8).collect()
}

/// Source direction: round 0 with all pages, round 1 with `dirty`, stopped round with the first page.
fn long_direction(pages: u32, dirty: &[u32], state: &[u8]) -> Vec<u8> {
    let mut out = stream::opening(Role::Source).to_vec();
    let mut w = Writer::new();
    w.hello(&mut out, &hello(pages));
    let mut memory: Vec<Vec<u8>> = (0..pages).map(|n| content(n, 0)).collect();
    let all: Vec<u32> = (0..pages).collect();
    for (number, kind, set) in
        [(0, RoundKind::PreCopy, &all[..]), (1, RoundKind::PreCopy, dirty), (2, RoundKind::Stopped, &[0])]
    {
        w.round(&mut out, &Round { number, kind, pages: set.len() as u32 });
        for batch in set.chunks(BATCH) {
            batch.iter().for_each(|page| memory[*page as usize] = content(*page, number));
            w.pages(&mut out, batch, |page, body| body.extend(&memory[page as usize]));
        }
        w.round_end(&mut out, number, set.len() as u32);
    }
    w.device_state(&mut out, 0, state);
    w.device_state(&mut out, 1, b"");
    w.frame(&mut out, 999, SKIPPABLE, |body| body.extend(b"from a later version"));
    w.host_state(&mut out, b"host");
    let digests: Vec<u64> =
        memory.iter().zip(0..).map(|(m, n)| digest::page(n, m.as_slice().try_into().unwrap())).collect();
    w.digests(&mut out, &digests);
    let mut fold = digest::Fold::new();
    digests.iter().for_each(|d| fold.add(*d));
    let sent = u64::from(pages) + dirty.len() as u64 + 1;
    w.end(&mut out, &End { rounds: 3, pages: sent, fold: fold.value() });
    w.fenced(&mut out, SESSION);
    w.go(&mut out, SESSION);
    out
}

/// What a destination would do with the bytes; the memory it ends with, and its digests.
#[derive(Debug, Default, PartialEq)]
struct Taken {
    memory: Vec<Vec<u8>>,
    state: Vec<u8>,
    digests: Vec<u64>,
    skipped: Vec<u16>,
}

fn read(bytes: &[u8]) -> Result<Taken, Error> {
    let (opening, mut rest) = bytes.split_first_chunk::<OPENING_LEN>().ok_or(Error::Cut)?;
    stream::check_opening(opening, Role::Source)?;
    let (mut reader, mut order, mut taken) = (Reader::new(), FromSource::new(), Taken::default());
    while !order.may_run() {
        let (head, tail) = rest.split_first_chunk::<HEAD_LEN>().ok_or(Error::Cut)?;
        let head = reader.head(head)?;
        let (body, tail) = tail.split_at_checked(head.length).ok_or(Error::Cut)?;
        head.check(body)?;
        let message = parse(&head, body)?;
        order.take(&message)?;
        match message {
            Message::Hello(hello) => taken.memory = vec![vec![]; (hello.region_bytes / PAGE as u64) as usize],
            Message::Pages(pages) => pages.iter().for_each(|(n, page)| taken.memory[n as usize] = page.to_vec()),
            Message::DeviceState(state) => taken.state.extend(state.bytes),
            Message::Digests(digests) => taken.digests.extend(digests.iter()),
            Message::Skipped(section) => taken.skipped.push(section),
            _ => {}
        }
        rest = tail;
    }
    if rest.is_empty() { Ok(taken) } else { Err(Error::Cut) }
}

#[test]
fn a_whole_stream_is_read_as_it_was_written() {
    let state: Vec<u8> = (0..300_000u32).map(|at| at as u8).collect();
    let taken = read(&long_direction(130, &[5, 129, 7], &state)).unwrap();
    assert_eq!(taken.memory.len(), 130);
    for (number, page) in taken.memory.iter().enumerate() {
        let round = match number {
            0 => 2,
            5 | 7 | 129 => 1,
            _ => 0,
        };
        assert!(*page == content(number as u32, round), "page {number}");
        assert_eq!(taken.digests[number], digest::page(number as u32, page.as_slice().try_into().unwrap()));
    }
    assert_eq!(taken.state, state);
    assert_eq!(taken.skipped, [999]);
}

#[test]
fn a_stream_cut_at_any_byte_never_says_run() {
    let whole = long_direction(2, &[1], b"state");
    for end in (0..whole.len()).filter(|end| end % 7 == 0 || *end > whole.len() - 2000 || *end < 400) {
        assert_eq!(read(&whole[..end]), Err(Error::Cut), "cut at {end}");
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    // Every bit of all that is not page content, and one bit of each byte of the content.
    let whole = long_direction(1, &[0], b"state");
    let mut bent = whole.clone();
    for at in 0..whole.len() {
        let plain = whole[at] == content(0, 0)[at % PAGE];
        for bit in 0..if plain { 1 } else { 8 } {
            bent[at] ^= 1 << bit;
            assert!(read(&bent).is_err(), "byte {at} bit {bit}");
            bent[at] ^= 1 << bit;
        }
    }
}

/// Frames, parsed and given to the order check one after the other.
fn order_of(build: impl FnOnce(&mut Writer, &mut Vec<u8>)) -> Result<(), Error> {
    let mut out = Vec::new();
    build(&mut Writer::new(), &mut out);
    let (mut reader, mut order, mut rest) = (Reader::new(), FromSource::new(), &out[..]);
    while let Some((head, tail)) = rest.split_first_chunk::<HEAD_LEN>() {
        let head = reader.head(head)?;
        order.take(&parse(&head, &tail[..head.length])?)?;
        rest = &tail[head.length..];
    }
    Ok(())
}

fn zero(_: u32, body: &mut Vec<u8>) {
    body.resize(body.len() + PAGE, 0);
}

fn round(number: u32, pages: u32) -> Round {
    Round { number, kind: RoundKind::PreCopy, pages }
}

fn bad_value(section: u16, what: &'static str) -> Result<(), Error> {
    Err(Error::Value { section, what })
}

#[test]
fn each_rule_of_the_order_has_its_refusal() {
    let after_hello = |build: &dyn Fn(&mut Writer, &mut Vec<u8>)| {
        order_of(|w, out| {
            w.hello(out, &hello(3));
            build(w, out);
        })
    };
    let after_round = |build: &dyn Fn(&mut Writer, &mut Vec<u8>)| {
        after_hello(&|w, out| {
            w.round(out, &Round { number: 0, kind: RoundKind::Stopped, pages: 3 });
            w.pages(out, &[0, 2, 1], zero);
            w.round_end(out, 0, 3);
            build(w, out);
        })
    };
    assert_eq!(order_of(|w, out| w.go(out, SESSION)), Err(Error::Order { section: section::GO, at: "before hello" }));
    assert_eq!(
        after_hello(&|w, out| w.go(out, SESSION)),
        Err(Error::Order { section: section::GO, at: "between rounds" })
    );
    assert_eq!(
        after_hello(&|w, out| w.hello(out, &hello(3))),
        Err(Error::Order { section: section::HELLO, at: "between rounds" })
    );
    assert_eq!(
        after_hello(&|w, out| w.round(out, &round(0, 2))),
        bad_value(section::ROUND, "round 0 leaves pages out")
    );
    assert_eq!(after_hello(&|w, out| w.round(out, &round(1, 3))), bad_value(section::ROUND, "rounds do not count"));
    let in_round = |numbers: &'static [u32]| {
        after_hello(&|w, out| {
            w.round(out, &round(0, 3));
            w.pages(out, numbers, zero);
        })
    };
    assert_eq!(in_round(&[0, 1, 2]), Ok(()));
    assert_eq!(in_round(&[0, 1, 1]), bad_value(section::PAGES, "a page twice in round 0"));
    assert_eq!(in_round(&[3]), bad_value(section::PAGES, "page number past the region"));
    assert_eq!(in_round(&[0, 1, 2, 2]), bad_value(section::PAGES, "more pages than announced"));
    assert_eq!(
        after_hello(&|w, out| {
            w.round(out, &round(0, 3));
            w.pages(out, &[0, 1], zero);
            w.round_end(out, 0, 3);
        }),
        bad_value(section::ROUND_END, "not the round that was announced")
    );
    assert_eq!(
        after_round(&|w, out| w.round(out, &round(1, 1))),
        Err(Error::Order { section: section::ROUND, at: "among device states" })
    );
    assert_eq!(
        after_round(&|w, out| w.host_state(out, b"")),
        Err(Error::Order { section: section::HOST_STATE, at: "among device states" })
    );
    assert_eq!(
        after_round(&|w, out| w.device_state(out, 1, b"")),
        bad_value(section::DEVICE_STATE, "pieces do not follow each other")
    );
    let after_states = |build: &dyn Fn(&mut Writer, &mut Vec<u8>)| {
        after_round(&|w, out| {
            w.device_state(out, 0, b"igb");
            w.device_state(out, 1, b"edu");
            w.host_state(out, b"");
            build(w, out);
        })
    };
    assert_eq!(
        after_states(&|w, out| w.digests(out, &[1; 4])),
        bad_value(section::DIGESTS, "digests do not follow each other")
    );
    let mut fold = digest::Fold::new();
    (1..4).for_each(|d| fold.add(d));
    let end = End { rounds: 1, pages: 3, fold: fold.value() };
    let after_digests = |end: End, build: &dyn Fn(&mut Writer, &mut Vec<u8>)| {
        after_states(&|w, out| {
            w.digests(out, &[1, 2, 3]);
            w.end(out, &end);
            build(w, out);
        })
    };
    for bad in [End { rounds: 2, ..end }, End { pages: 4, ..end }, End { fold: 0, ..end }] {
        assert_eq!(after_digests(bad, &|_, _| {}), bad_value(section::END, "not what was sent"));
    }
    assert_eq!(
        after_digests(end, &|w, out| w.go(out, SESSION)),
        Err(Error::Order { section: section::GO, at: "before fenced" })
    );
    assert_eq!(after_digests(end, &|w, out| w.fenced(out, 1)), bad_value(section::FENCED, "another session"));
    assert_eq!(
        after_digests(end, &|w, out| {
            w.fenced(out, SESSION);
            w.go(out, SESSION + 1);
        }),
        bad_value(section::GO, "another session")
    );
    assert_eq!(
        after_digests(end, &|w, out| {
            w.fenced(out, SESSION);
            w.go(out, SESSION);
        }),
        Ok(())
    );
    assert!(
        after_hello(&|w, out| {
            w.refuse(out, "no");
            w.round(out, &round(0, 3));
        })
        .is_err()
    );
}

#[test]
fn an_unknown_section_is_refused_unless_it_may_be_skipped() {
    assert_eq!(order_of(|w, out| w.frame(out, 77, SKIPPABLE, |_| {})), Ok(()));
    assert_eq!(order_of(|w, out| w.frame(out, 77, 0, |_| {})), Err(Error::UnknownSection(77)));
    assert_eq!(order_of(|w, out| w.frame(out, 0, 0, |_| {})), Err(Error::UnknownSection(0)));
}

#[test]
fn bodies_of_a_wrong_length_or_value_are_refused() {
    let body = |section: u16, bytes: &[u8]| order_of(|w, out| w.frame(out, section, 0, |body| body.extend(bytes)));
    for section in [section::HELLO, section::ACCEPT, section::ROUND, section::ROUND_END, section::END, section::READY] {
        assert_eq!(body(section, &[0; 3]), Err(Error::Length { section, length: 3 }));
    }
    for section in
        [section::PAGES, section::DEVICE_STATE, section::DIGESTS, section::FENCED, section::GO, section::RUNNING]
    {
        assert_eq!(body(section, &[0; 3]), Err(Error::Length { section, length: 3 }));
    }
    assert_eq!(body(section::GO, &[0; 9]), Err(Error::Length { section: section::GO, length: 9 }));
    assert_eq!(body(section::PAGES, &[0; 4]), bad_value(section::PAGES, "number of pages in a frame"));
    assert_eq!(body(section::PAGES, &[65, 0, 0, 0]), bad_value(section::PAGES, "number of pages in a frame"));
    assert_eq!(
        body(section::PAGES, &[1, 0, 0, 0, 0, 0, 0, 0, 1]),
        Err(Error::Length { section: section::PAGES, length: 9 })
    );
    assert_eq!(body(section::DIGESTS, &[0; 8]), bad_value(section::DIGESTS, "number of digests in a frame"));
    assert_eq!(body(section::REFUSE, &[0xFF]), bad_value(section::REFUSE, "the reason is not UTF-8"));
    assert_eq!(
        body(section::ROUND, &[0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]),
        bad_value(section::ROUND, "unknown kind of round")
    );
    let state = [0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 9];
    assert_eq!(body(section::DEVICE_STATE, &state), bad_value(section::DEVICE_STATE, "device state past its end"));
    let with = |edit: &dyn Fn(&mut Hello)| {
        let mut changed = hello(3);
        edit(&mut changed);
        order_of(|w, out| w.hello(out, &changed))
    };
    assert_eq!(with(&|h| h.region_bytes = 4097), bad_value(section::HELLO, "region size"));
    assert_eq!(with(&|h| h.region_bytes = 0), bad_value(section::HELLO, "region size"));
    assert_eq!(with(&|h| h.region_bytes = 1 << 42), bad_value(section::HELLO, "region too large"));
    assert_eq!(with(&|h| h.iova = 1), bad_value(section::HELLO, "region address"));
    assert_eq!(with(&|h| h.iova = u64::MAX - 4095), bad_value(section::HELLO, "region address"));
    assert_eq!(with(&|h| h.devices = vec![h.devices[0]; 17]), bad_value(section::HELLO, "number of devices"));
}

#[test]
fn the_answers_come_in_order_and_for_this_session() {
    let mut order = FromDestination::new(SESSION);
    assert_eq!(
        order.take(&Message::Ready(SESSION, 0)),
        Err(Error::Order { section: section::READY, at: "before accept" })
    );
    assert_eq!(order.take(&Message::Accept(1)), bad_value(section::ACCEPT, "another session"));
    assert_eq!(order.take(&Message::Accept(SESSION)), Ok(()));
    assert_eq!(
        order.take(&Message::Running(SESSION)),
        Err(Error::Order { section: section::RUNNING, at: "before ready" })
    );
    assert_eq!(order.take(&Message::Ready(SESSION, 0)), Ok(()));
    assert_eq!(order.take(&Message::Go(SESSION)), Err(Error::Order { section: section::GO, at: "before running" }));
    assert_eq!(order.take(&Message::Running(SESSION)), Ok(()));
    assert!(order.take(&Message::Refuse("late")).is_err());
}

#[test]
fn a_long_reason_is_cut_at_a_character() {
    let mut out = Vec::new();
    Writer::new().refuse(&mut out, &"ä".repeat(600));
    let head = Reader::new().head(out[..HEAD_LEN].try_into().unwrap()).unwrap();
    assert_eq!(parse(&head, &out[HEAD_LEN..]), Ok(Message::Refuse(&"ä".repeat(512))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn round_trip(pages in 1u32..200, dirty in prop::collection::vec(0u32..200, 0..20), state in prop::collection::vec(any::<u8>(), 0..600)) {
        let dirty: Vec<u32> = dirty.into_iter().map(|page| page % pages).take(pages as usize).collect();
        let taken = read(&long_direction(pages, &dirty, &state)).unwrap();
        prop_assert_eq!(taken.state, state);
        for (number, page) in taken.memory.iter().enumerate() {
            let number = number as u32;
            let round = if number == 0 { 2 } else { dirty.contains(&number).into() };
            prop_assert!(*page == content(number, round));
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), section in 0u16..20) {
        let mut out = stream::opening(Role::Source).to_vec();
        Writer::new().frame(&mut out, section, 0, |body| body.extend(&bytes));
        prop_assert!(read(&out).is_err());
        prop_assert!(read(&bytes).is_err());
    }

    #[test]
    fn a_bent_stream_is_refused(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = long_direction(5, &[1, 3], b"some state");
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(read(&bytes).is_err());
    }
}
