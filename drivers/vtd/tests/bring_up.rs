//! Taking a unit over: order, what was on before, what is refused, deadlines.

#[path = "../../io-pgtable/tests/arena/mod.rs"]
mod arena;
mod fake;

use arena::Arena;
use fake::*;
use iommu_api::{DomainSpec, IommuUnit, ReservedRegion, TableMem};
use iommu_types::{Access, Error, FaultReason, Pasid, Phys, PhysRange, StreamId, TableKind};

fn position(events: &[Event], wanted: impl Fn(&Event) -> bool) -> usize {
    events.iter().position(wanted).expect("it happened")
}

#[test]
fn the_order_is_faults_queue_root_flush_translation() {
    for (cap, ecap) in [(CAP_LEGACY, ECAP_LEGACY), (CAP_LEGACY, ECAP_SS), (CAP_FS, ECAP_FS)] {
        let window = Fake::window(cap, ecap);
        let (unit, report) = bring_up(&window, config()).unwrap();
        assert!(!report.was_translating && !report.was_protecting);
        let events = window.events();
        let fault = position(&events, |e| matches!(e, Event::Write(FECTL, mask) if *mask == 1 << 31));
        let queue = position(&events, |e| matches!(e, Event::Command(c) if c & QIE != 0));
        let root = position(&events, |e| matches!(e, Event::Command(c) if c & SRTP != 0));
        let on = position(&events, |e| matches!(e, Event::Command(c) if c & TE != 0));
        assert!(fault < queue && queue < root && root < on);
        // Between root pointer and translation: context cache, PASID cache, IOTLB, all global.
        let scalable = ecap >> 43 & 1 != 0;
        let between: Vec<_> = events[root..on].iter().filter(|e| matches!(e, Event::Descriptor(..))).copied().collect();
        let drain = 1 << 6 | 1 << 7;
        let mut want = vec![Event::Descriptor(1 | 1 << 4, 0), Event::Descriptor(2 | 1 << 4 | drain, 0)];
        if scalable {
            want.insert(1, Event::Descriptor(7 | 3 << 4, 0));
        }
        assert_eq!(between, want);
        window.with(|state| {
            assert_eq!(state.get(RTADDR) >> 10 & 3, u64::from(scalable));
            assert_eq!(state.get(IQA) >> 11 & 1, u64::from(scalable), "256-bit descriptors in scalable mode");
        });
        // Blocked first: no root entry at all.
        let base = window.with(|state| state.get(RTADDR)) & !0xfff;
        assert!((0..512).all(|word| window.0.mem.walker_word(Phys(base + 8 * word)) == 0));
        assert!(unit.status().starts_with("translation on"));
    }
}

#[test]
fn what_a_walker_without_snooping_needs_is_published() {
    let mem = std::sync::Arc::new(Arena::new(64).with_stale_view());
    let window = Fake::over(&mem, CAP_LEGACY, ECAP_LEGACY);
    let unit = up(&window);
    let domain = unit.make_domain(DomainSpec::default()).unwrap();
    unit.attach(StreamId::pci(0, 3, 4, 1), None, &domain).unwrap();
    // Second reader: 9.1, 9.3. Root entry of bus 3, context entry 0x21.
    let root = window.with(|state| state.get(RTADDR)) & !0xfff;
    let root_entry = mem.walker_word(Phys(root + 16 * 3));
    assert_eq!(root_entry & 0xfff, 1);
    let context = (root_entry & !0xfff) + 16 * 0x21;
    let (low, high) = (mem.walker_word(Phys(context)), mem.walker_word(Phys(context + 8)));
    assert_eq!(low & 0xfff, 1, "present, second stage");
    assert_eq!(high & 7, 2, "4 levels");
    let did = high >> 8 & 0xffff;
    assert!((0..512).all(|word| mem.walker_word(Phys((low & !0xfff) + 8 * word)) == 0));
    unit.block(StreamId::pci(0, 3, 4, 1), None).unwrap();
    assert_eq!(mem.walker_word(Phys(context)), 0);
    // Device-selective context invalidation, then the domain.
    let drain = 1 << 6 | 1 << 7;
    let want = [(1 | 3 << 4 | did << 16 | 0x321 << 32, 0), (2 | 2 << 4 | drain | did << 16, 0)];
    assert_eq!(window.descriptors(), want);
}

#[test]
fn scalable_entries_lead_where_they_should() {
    for (cap, ecap, first) in [(CAP_LEGACY, ECAP_SS, false), (CAP_FS, ECAP_FS, true)] {
        let window = Fake::window(cap, ecap);
        let (unit, mem) = (up(&window), &window.0.mem);
        let domain = unit.make_domain(DomainSpec::default()).unwrap();
        // Devices 16 and up use the upper half of the root entry and the second context table.
        let stream = StreamId::pci(0, 1, 17, 2);
        unit.attach(stream, None, &domain).unwrap();
        unit.attach(stream, Some(Pasid(130)), &domain).unwrap();
        let word = |at| mem.walker_word(Phys(at));
        let root = window.with(|state| state.get(RTADDR)) & !0xfff;
        assert_eq!(word(root + 16), 0);
        let context = (word(root + 16 + 8) & !0xfff) + 32 * (0x8a & 0x7f);
        assert_eq!(word(context) & 0xfff, 1 | 1 << 3 | 2 << 9, "P, PASIDE, PDTS: 512 entries");
        assert_eq!(word(context + 8), 0, "RID_PASID is 0");
        for pasid in [0, 130] {
            let table = word((word(context) & !0xfff) + 8 * (pasid / 64));
            let entry = (table & !0xfff) + 64 * (pasid % 64);
            let low = word(entry);
            assert_eq!(low & 0xfff, 1 | 2 << 2 | if first { 1 } else { 2 } << 6);
            assert_eq!(word(entry + 8) >> 16, 1 << 7, "PWSNP");
            let (fs, ss) = (word(entry + 16), low & !0xfff);
            assert_eq!((fs != 0, ss != 0), (first, !first));
            assert_eq!(fs & 0xfff, 0, "4 levels, no supervisor requests");
        }
        window.events();
        unit.block(stream, Some(Pasid(130))).unwrap();
        assert_eq!(word(context) & 1, 1, "requests without PASID still go through");
        let stale = window.descriptors();
        assert_eq!(stale[0].0 & 0x3f, 1 | 3 << 4, "context cache of the device: emulators need it");
        assert_eq!(stale[1].0 & 0x3f | stale[1].0 >> 32 << 32, 7 | 1 << 4 | 130 << 32, "PASID cache");
        assert_eq!(stale[2].0 & 0x3f, if first { 6 | 2 << 4 } else { 2 | 2 << 4 });
        unit.block(stream, None).unwrap();
        assert_eq!(word(context) & 1, 0, "nothing left: as if never attached");
        unit.attach(stream, None, &domain).unwrap();
        assert_eq!(word(context) & 1, 1);
        let refused = |stream, pasid| unit.attach(stream, pasid, &domain).unwrap_err();
        assert!(matches!(refused(stream, Some(Pasid(0))), Error::Invalid(_)));
        assert!(matches!(refused(stream, Some(Pasid(1024))), Error::Range(_)), "PSS = 9: 10 bits");
        assert!(matches!(refused(StreamId::pci(1, 1, 0, 0), None), Error::Invalid(_)));
        assert!(matches!(refused(StreamId { segment: 0, id: 0x1_0000 }, None), Error::Range(_)));
    }
}

#[test]
fn pasid_is_refused_where_there_is_none() {
    let window = Fake::window(CAP_LEGACY, ECAP_LEGACY);
    let unit = up(&window);
    let domain = unit.make_domain(DomainSpec::default()).unwrap();
    let refused = unit.attach(StreamId::pci(0, 0, 1, 0), Some(Pasid(1)), &domain).unwrap_err();
    assert!(matches!(refused, Error::Unsupported(what) if what.contains("ECAP.SMTS")));
    let window = Fake::window(CAP_LEGACY, ECAP_SS & !(1 << 40));
    let unit = up(&window);
    let domain = unit.make_domain(DomainSpec::default()).unwrap();
    let refused = unit.attach(StreamId::pci(0, 0, 1, 0), Some(Pasid(1)), &domain).unwrap_err();
    assert!(matches!(refused, Error::Unsupported(what) if what.contains("ECAP.PASID")));
}

#[test]
fn translation_on_at_entry_never_goes_off() {
    let window = Fake::window(CAP_LEGACY, ECAP_LEGACY);
    let old_queue = window.0.mem.alloc().unwrap();
    window.with(|state| {
        state.set(GSTS, u64::from(TE | QIE | SRTP));
        state.set(RTADDR, 0x1234_5000);
        state.set(IQA, old_queue.0);
    });
    let (_, report) = bring_up(&window, config()).unwrap();
    assert!(report.was_translating && report.notes.iter().any(|note| note.contains("old tables stay")));
    for event in window.events() {
        assert!(!matches!(event, Event::Command(command) if command & TE == 0), "{event:?}");
    }
    window.with(|state| assert!(state.get(RTADDR) != 0x1234_5000 && state.get(IQA) != old_queue.0));
}

#[test]
fn the_table_mode_found_on_is_kept() {
    let on_in = |ecap, mode: u64| {
        let window = Fake::window(CAP_LEGACY, ecap);
        window.with(|state| {
            state.set(GSTS, u64::from(TE | SRTP));
            state.set(RTADDR, 0x1234_5000 | mode << 10);
        });
        (bring_up(&window, config()).map(|(_, report)| report), window)
    };
    let (kept, window) = on_in(ECAP_SS, 0);
    assert!(!kept.unwrap().scalable);
    assert_eq!(window.with(|state| state.get(RTADDR)) >> 10 & 3, 0);
    let (refused, _) = on_in(ECAP_LEGACY, 1);
    assert!(matches!(refused, Err(Error::Unsupported(what)) if what.contains("ADMS")));
    // With abort-DMA mode there is a way over.
    let (changed, window) = on_in(ECAP_SS | 1 << 52, 0);
    assert!(changed.unwrap().scalable);
    let modes: Vec<u64> = window
        .events()
        .into_iter()
        .filter_map(|event| if let Event::Write(RTADDR, value) = event { Some(value >> 10 & 3) } else { None })
        .collect();
    assert_eq!(modes, [3, 1]);
}

#[test]
fn protected_regions_go_off_last() {
    let window = Fake::window(CAP_LEGACY | 1 << 5, ECAP_LEGACY);
    window.with(|state| state.set(PMEN, 1 << 31 | 1));
    let (_, report) = bring_up(&window, config()).unwrap();
    assert!(report.was_protecting);
    let events = window.events();
    let on = position(&events, |e| matches!(e, Event::Command(c) if c & TE != 0));
    let off = position(&events, |e| matches!(e, Event::Write(PMEN, 0 | 1)));
    assert!(on < off);
    assert_eq!(window.with(|state| state.get(PMEN)), 0);
}

#[test]
fn each_wait_has_a_deadline_and_names_its_bit() {
    for (bit, name) in [(QIE, "GSTS.QIES"), (SRTP, "GSTS.RTPS"), (TE, "GSTS.TES")] {
        let window = Fake::window(CAP_LEGACY, ECAP_LEGACY);
        window.with(|state| state.deaf = bit);
        let error = bring_up(&window, config()).err().unwrap();
        let Error::Stuck { register, want, got: 0, .. } = error else { panic!("{error:?}") };
        assert!(register.starts_with(name) && want == u64::from(bit), "{register}");
    }
    let window = Fake::window(CAP_LEGACY, ECAP_LEGACY);
    window.with(|state| state.dead = true);
    assert!(matches!(bring_up(&window, config()).err(), Some(Error::Stuck { register: "IQH", .. })));
}

#[test]
fn no_memory_is_an_error_at_every_point() {
    for n in 0.. {
        let window = Fake::window(CAP_FS, ECAP_FS);
        window.0.mem.fail_at(Some(n));
        let mut config = config();
        config.streams.push(StreamId::pci(0, 2, 0, 0));
        config.reserved.push(reserved(0x8_0000, 0x8_ffff, StreamId::pci(0, 0, 29, 0)));
        match bring_up(&window, config) {
            Ok(_) => {
                assert!(n > 8, "only {n} allocations seen");
                return;
            }
            Err(error) => assert!(matches!(error, Error::Exhausted(_)), "{error:?}"),
        }
    }
}

fn reserved(first: u64, last: u64, stream: StreamId) -> ReservedRegion {
    ReservedRegion {
        range: PhysRange { first: Phys(first), last: Phys(last) },
        streams: vec![stream],
        reason: "DMAR+0x80 RMRR",
    }
}

#[test]
fn reserved_memory_is_mapped_for_its_streams_and_for_no_other() {
    let window = Fake::window(CAP_LEGACY, ECAP_LEGACY);
    let (usb, gpu) = (StreamId::pci(0, 0, 29, 0), StreamId::pci(0, 0, 2, 0));
    let mut config = config();
    config.reserved.push(reserved(0x7_f000, 0x8_0fff, usb));
    // Listed again, overlapping; an impossible one; one beyond the unit.
    config.reserved.push(reserved(0x8_0000, 0x8_1fff, usb));
    config.reserved.push(reserved(0x9000, 0x1fff, usb));
    config.reserved.push(reserved(0x10_0000, 0x10_0fff, gpu));
    config.reserved.push(reserved(0x10_0000, 0x10_0fff, StreamId::pci(7, 0, 2, 0)));
    let (unit, report) = bring_up(&window, config).unwrap();
    assert_eq!(report.reserved.len(), 5);
    assert_eq!(report.notes.len(), 2, "{:?}", report.notes);
    let mem = &window.0.mem;
    let root = window.with(|state| state.get(RTADDR)) & !0xfff;
    let contexts = mem.walker_word(Phys(root)) & !0xfff;
    let reaches = |stream: StreamId, iova: u64| {
        let mut at = mem.walker_word(Phys(contexts + 16 * u64::from(stream.devfn())));
        for shift in [39, 30, 21, 12] {
            if at & 3 == 0 {
                return None;
            }
            at = mem.walker_word(Phys((at & !0xfff) + 8 * (iova >> shift & 511)));
        }
        (at & 3 == 3).then_some(at & !0xfff)
    };
    for page in [0x7_f000, 0x8_0000, 0x8_1000] {
        assert_eq!((reaches(usb, page), reaches(gpu, page)), (Some(page), None));
    }
    assert_eq!((reaches(usb, 0x8_2000), reaches(usb, 0x1000)), (None, None));
    assert_eq!((reaches(gpu, 0x10_0000), reaches(usb, 0x10_0000)), (Some(0x10_0000), None));
    assert!(unit.status().contains("2 streams in 2 domains"), "{}", unit.status());
}

fn put_fault(window: &Window, index: usize, low: u64, high: u64) {
    window.with(|state| {
        state.set(RECORDS + 16 * index, low);
        state.set(RECORDS + 16 * index + 8, high | 1 << 63);
        let status = state.get(FSTS) & 0xff | 2 | (index as u64) << 8;
        state.set(FSTS, status);
    });
}

#[test]
fn faults_are_decoded_drained_and_cleared() {
    // Four records.
    let window = Fake::window(CAP_LEGACY | 3 << 40, ECAP_LEGACY);
    put_fault(&window, 0, 0x5000, 0x08 | 6 << 32);
    let (unit, report) = bring_up(&window, config()).unwrap();
    assert_eq!(report.stale_faults, 1);
    // Wrapping: records 3 and 0.
    put_fault(&window, 0, 0x7000, 0x0321 | 1 << 31 | 0x71 << 32 | 0xabc << 40 | 1 << 62);
    put_fault(&window, 3, 0x6000, 0x0321 | 5 << 32 | 0xffff << 40);
    window.with(|state| state.set(FSTS, state.get(FSTS) | 1));
    let mut faults = Vec::new();
    unit.drain_faults(&mut |fault| faults.push(fault));
    assert_eq!(faults.len(), 2);
    assert_eq!((faults[0].stream, faults[0].iova.0), (StreamId::pci(0, 3, 4, 1), 0x6000));
    assert_eq!((faults[0].access, faults[0].pasid, faults[0].reason), (Access::WRITE, None, FaultReason::Permission));
    assert_eq!((faults[1].access, faults[1].pasid), (Access::READ, Some(Pasid(0xabc))));
    assert_eq!((faults[1].reason, faults[1].code), (FaultReason::NotPresent, 0x71));
    assert_eq!(
        format!("{}", faults[0]),
        "iommu0: 0000:03:04.1 write to iova 0x6000 refused: nothing mapped there, or no right to write (code 0x5)"
    );
    assert_eq!(window.with(|state| state.get(FSTS)) & 3, 0, "overflow and pending are cleared");
    unit.drain_faults(&mut |fault| panic!("{fault}"));
    // A register window that went away is not a storm of faults.
    window.with(|state| state.set(FSTS, 0xffff_ffff));
    unit.drain_faults(&mut |fault| panic!("{fault}"));
}

#[test]
fn a_wanted_table_is_used_or_refused() {
    let mut wanted = config();
    wanted.table = Some(TableKind::X86FirstStage);
    assert!(matches!(bring_up(&Fake::window(CAP_LEGACY, ECAP_LEGACY), wanted.clone()), Err(Error::Unsupported(_))));
    let both = ECAP_SS | ECAP_FS;
    let (unit, _) = bring_up(&Fake::window(CAP_FS, both), wanted).unwrap();
    assert_eq!(unit.features().table, TableKind::X86FirstStage);
    assert_eq!(up(&Fake::window(CAP_FS, both)).features().table, TableKind::VtdSecondStage);
}
