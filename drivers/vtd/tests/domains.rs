//! Domains, flushes, recovery of the queue, quirks, limits.

#[path = "../../io-pgtable/tests/arena/mod.rs"]
mod arena;
mod fake;

use arena::Arena;
use fake::*;
use iommu_api::{Domain, DomainSpec, IommuUnit, ReadDirty, TableMem, quarantined_tables};
use iommu_types::{Access, DirtyRule, Error, Iova, IovaRange, Phys, PhysRun, Resource, StreamId};
use std::sync::Arc;

const RW: Access = Access::READ.union(Access::WRITE);
const TRACK: DomainSpec = DomainSpec { dirty_tracking: true, nest_parent: false };
const DRAIN: u64 = 1 << 6 | 1 << 7;

fn stream(n: u8) -> StreamId {
    StreamId::pci(0, 0, n >> 3, n & 7)
}

fn map(domain: &Arc<dyn Domain>, iova: u64, phys: u64, length: u64) {
    let runs = [PhysRun { base: Phys(phys), length }];
    let gather = domain.map(Iova(iova), &runs, RW, 1 << 30).unwrap();
    domain.sync(gather).unwrap();
}

fn range(first: u64, length: u64) -> IovaRange {
    IovaRange::sized(first, length).unwrap()
}

/// The PASID-table entry of `stream`, PASID 0, or the context entry: its first two words.
fn entry(window: &Window, stream: StreamId) -> (Phys, u64, u64) {
    let word = |at| window.0.mem.walker_word(Phys(at));
    let (root, scalable) = window.with(|state| (state.get(RTADDR) & !0xfff, state.get(RTADDR) >> 10 & 1 == 1));
    let contexts = word(root) & !0xfff;
    let devfn = u64::from(stream.devfn());
    let at = if scalable {
        let directory = word(contexts + 32 * devfn) & !0xfff;
        word(directory) & !0xfff
    } else {
        contexts + 16 * devfn
    };
    (Phys(at), word(at), word(at + 8))
}

#[test]
fn a_map_is_silent_unless_the_unit_caches_absent_entries() {
    for (cap, flushes) in [(CAP_LEGACY, 0), (CAP_LEGACY | 1 << 7, 1)] {
        let window = Fake::window(cap, ECAP_LEGACY);
        let unit = up(&window);
        let domain = unit.make_domain(DomainSpec::default()).unwrap();
        unit.attach(stream(8), None, &domain).unwrap();
        // With caching mode the absent context entry was cached under id 0.
        let attach = window.descriptors();
        assert_eq!(attach.len(), 2 * flushes);
        if flushes > 0 {
            assert_eq!(attach[0].0, 1 | 3 << 4 | 8 << 32);
        }
        map(&domain, 0x10_0000, 0, 0x1000);
        assert_eq!(window.descriptors().len(), flushes);
        let (_, gather) = domain.unmap(range(0x10_0000, 0x1000)).unwrap();
        domain.sync(gather).unwrap();
        let did = entry(&window, stream(8)).2 >> 8 & 0xffff;
        assert_eq!(window.descriptors(), [(2 | 3 << 4 | DRAIN | did << 16, 0x10_0000 | 1 << 6)], "one page, leaf only");
    }
}

#[test]
fn a_write_buffer_is_flushed_before_anything_relies_on_it() {
    let window = Fake::window(CAP_LEGACY | 1 << 4, ECAP_LEGACY);
    let unit = up(&window);
    let domain = unit.make_domain(DomainSpec::default()).unwrap();
    unit.attach(stream(8), None, &domain).unwrap();
    map(&domain, 0, 0, 0x1000);
    let flushes = window.events().iter().filter(|e| matches!(e, Event::Command(c) if c & WBF != 0)).count();
    assert!(flushes >= 2, "attach and map: {flushes}");
}

#[test]
fn first_stage_flushes_go_by_pasid() {
    let window = Fake::window(CAP_FS, ECAP_FS);
    let unit = up(&window);
    let domain = unit.make_domain(DomainSpec::default()).unwrap();
    unit.attach(stream(8), None, &domain).unwrap();
    unit.attach(stream(9), None, &domain).unwrap();
    unit.attach(stream(9), Some(iommu_types::Pasid(7)), &domain).unwrap();
    map(&domain, 0x4000_0000, 0, 0x40_0000);
    window.events();
    let (_, gather) = domain.unmap(range(0x4000_0000, 0x40_0000)).unwrap();
    domain.sync(gather).unwrap();
    let did = entry(&window, stream(8)).2 & 0xffff;
    let want = |pasid: u64| (6 | 3 << 4 | did << 16 | pasid << 32, 0x4000_0000 | 1 << 6 | 10);
    // Two streams share PASID 0: one descriptor.
    assert_eq!(window.descriptors(), [want(0), want(7)]);
}

#[test]
fn the_descriptor_says_when_tables_went() {
    let window = Fake::window(CAP_LEGACY, ECAP_LEGACY);
    let unit = up(&window);
    let domain = unit.make_domain(DomainSpec::default()).unwrap();
    unit.attach(stream(8), None, &domain).unwrap();
    let runs = [PhysRun { base: Phys(0x1000), length: 0x20_0000 }];
    drop(domain.map(Iova(0), &runs, RW, 4096).unwrap());
    let (_, gather) = domain.unmap(range(0, 0x20_0000)).unwrap();
    assert_eq!(gather.tables(), 1);
    let before = window.0.mem.in_use();
    domain.sync(gather).unwrap();
    assert_eq!(window.0.mem.in_use(), before - 1, "freed after the flush");
    let (low, high) = window.descriptors()[0];
    assert_eq!((low & 0x3f, high), (2 | 3 << 4, 9), "512 pages, IH clear");
}

#[test]
fn one_domain_on_two_units_is_flushed_on_both() {
    let mem = Arc::new(Arena::new(128));
    let (one, two) = (Fake::over(&mem, CAP_LEGACY, ECAP_LEGACY), Fake::over(&mem, CAP_LEGACY, ECAP_LEGACY));
    let (first, second) = (up(&one), up(&two));
    let domain = first.make_domain(DomainSpec::default()).unwrap();
    // An id more is taken on the second unit, so that the ids differ.
    let other = second.make_domain(DomainSpec::default()).unwrap();
    second.attach(stream(1), None, &other).unwrap();
    first.attach(stream(8), None, &domain).unwrap();
    second.attach(stream(9), None, &domain).unwrap();
    map(&domain, 0, 0, 0x1000);
    let flush = || {
        let (_, gather) = domain.unmap(range(0, 0x1000)).unwrap();
        domain.sync(gather)
    };
    flush().unwrap();
    let ids = [one.descriptors(), two.descriptors()].map(|d| d.last().unwrap().0 >> 16 & 0xffff);
    assert_eq!(ids, [0, 1]);
    // A stuck unit does not keep the other from its flush, and the failure is told.
    map(&domain, 0, 0, 0x1000);
    one.with(|state| state.dead = true);
    assert!(matches!(flush(), Err(Error::Stuck { register: "IQH", .. })));
    assert_eq!(two.descriptors().len(), 1);
}

#[test]
fn domain_ids_are_bounded_by_the_unit() {
    for (cap, ids) in [(CAP_LEGACY & !7, 16), (CAP_LEGACY & !7 | 1 << 7, 15)] {
        let window = Fake::window(cap, ECAP_LEGACY);
        let unit = up(&window);
        let mut domains = Vec::new();
        for n in 0..ids {
            let domain = unit.make_domain(DomainSpec::default()).unwrap();
            unit.attach(stream(n), None, &domain).unwrap();
            domains.push(domain);
        }
        let one_more = unit.make_domain(DomainSpec::default()).unwrap();
        assert_eq!(unit.attach(stream(100), None, &one_more), Err(Error::Exhausted(Resource::DomainIds)));
        // Another stream in a domain that has an id needs none.
        unit.attach(stream(101), None, &domains[0]).unwrap();
        unit.block(stream(3), None).unwrap();
        unit.attach(stream(100), None, &one_more).unwrap();
        let mut seen: Vec<u64> =
            (0..ids).filter(|n| *n != 3).map(|n| entry(&window, stream(n)).2 >> 8 & 0xffff).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), usize::from(ids) - 1, "each domain its own id");
        assert!(seen.iter().all(|id| *id < 16 && (ids == 16 || *id != 0)));
    }
}

#[test]
fn attach_is_idempotent_replace_flushes_the_old_id_and_block_too() {
    let window = Fake::window(CAP_LEGACY, ECAP_SS);
    let unit = up(&window);
    let (a, b) = (unit.make_domain(DomainSpec::default()).unwrap(), unit.make_domain(DomainSpec::default()).unwrap());
    unit.block(stream(8), None).unwrap();
    unit.attach(stream(8), None, &a).unwrap();
    let old = entry(&window, stream(8)).2 & 0xffff;
    unit.attach(stream(8), None, &a).unwrap();
    assert_eq!(window.descriptors(), []);
    unit.attach(stream(8), None, &b).unwrap();
    let new = entry(&window, stream(8)).2 & 0xffff;
    assert_ne!(old, new);
    let want = [(1 | 3 << 4 | 8 << 32, 0), (7 | 1 << 4 | old << 16, 0), (2 | 2 << 4 | DRAIN | old << 16, 0)];
    assert_eq!(window.descriptors(), want);
    unit.block(stream(8), None).unwrap();
    unit.block(stream(8), None).unwrap();
    assert_eq!(window.descriptors().len(), 3);
    assert_eq!(entry(&window, stream(8)).1, 0);
}

#[test]
fn a_refused_descriptor_is_skipped_and_everything_invalidated() {
    for refuse in [1, 2] {
        let window = Fake::window(CAP_LEGACY, ECAP_SS);
        let unit = up(&window);
        let domain = unit.make_domain(DomainSpec::default()).unwrap();
        unit.attach(stream(8), None, &domain).unwrap();
        map(&domain, 0, 0, 0x1000);
        window.events();
        window.with(|state| state.refuse = refuse);
        let (_, gather) = domain.unmap(range(0, 0x1000)).unwrap();
        let result = domain.sync(gather);
        assert_eq!(window.with(|state| state.get(FSTS)) & 0x70, 0, "cleared");
        match refuse {
            1 => {
                result.unwrap();
                let all = [(1 | 1 << 4, 0), (7 | 3 << 4, 0), (2 | 1 << 4 | DRAIN, 0)];
                assert_eq!(window.descriptors(), all);
            }
            // The coarse one was refused as well.
            _ => assert!(matches!(result, Err(Error::Stuck { register: "FSTS.IQE (bit 4)", .. })), "{result:?}"),
        }
        // The queue lives on.
        map(&domain, 0x1000, 0, 0x1000);
        let (_, gather) = domain.unmap(range(0x1000, 0x1000)).unwrap();
        domain.sync(gather).unwrap();
    }
}

#[test]
fn work_dropped_by_a_device_timeout_is_repeated() {
    let window = Fake::window(CAP_LEGACY, ECAP_SS);
    let unit = up(&window);
    let domain = unit.make_domain(DomainSpec::default()).unwrap();
    unit.attach(stream(8), None, &domain).unwrap();
    map(&domain, 0, 0, 0x1000);
    window.events();
    window.with(|state| state.time_out = 2);
    let (_, gather) = domain.unmap(range(0, 0x1000)).unwrap();
    domain.sync(gather).unwrap();
    assert_eq!(window.descriptors().len(), 3, "twice for nothing, once for good");
    assert_eq!(window.with(|state| state.get(FSTS)) & 0x70, 0);
}

#[test]
fn after_a_failed_flush_nothing_is_freed() {
    let window = Fake::window(CAP_LEGACY, ECAP_LEGACY);
    let unit = up(&window);
    let domain = unit.make_domain(DomainSpec::default()).unwrap();
    unit.attach(stream(8), None, &domain).unwrap();
    drop(domain.map(Iova(0), &[PhysRun { base: Phys(0x1000), length: 0x20_0000 }], RW, 4096).unwrap());
    let used = window.0.mem.in_use();
    let quarantined = quarantined_tables();
    window.with(|state| state.dead = true);
    let (_, gather) = domain.unmap(range(0, 0x20_0000)).unwrap();
    let Err(Error::Stuck { register: "IQH", want, got, .. }) = domain.sync(gather) else { panic!() };
    assert!(want != got);
    assert!(quarantined_tables() > quarantined);
    // The stream cannot be blocked either: it counts as lost, and its domain is held.
    assert!(matches!(unit.block(stream(8), None), Err(Error::Stuck { .. })));
    assert!(matches!(unit.attach(stream(8), None, &domain), Err(Error::Lost(_))));
    drop(domain);
    drop(unit);
    assert_eq!(window.0.mem.in_use(), used, "not one page was given back");
}

#[test]
fn a_failed_attach_leaves_the_stream_where_it_was() {
    for ecap in [ECAP_LEGACY, ECAP_SS, ECAP_FS] {
        let window = Fake::window(CAP_FS, ecap);
        let unit = up(&window);
        let (a, b) =
            (unit.make_domain(DomainSpec::default()).unwrap(), unit.make_domain(DomainSpec::default()).unwrap());
        unit.attach(stream(8), None, &a).unwrap();
        let before = entry(&window, stream(8));
        window.with(|state| state.dead = true);
        assert!(matches!(unit.attach(stream(8), None, &b), Err(Error::Stuck { .. })));
        assert_eq!(entry(&window, stream(8)), before);
        window.with(|state| state.dead = false);
        let used = window.0.mem.in_use();
        drop(b);
        assert_eq!(window.0.mem.in_use(), used, "hardware may have seen it");
        unit.attach(stream(8), None, &a).unwrap();
        unit.block(stream(8), None).unwrap();
    }
}

#[test]
fn pages_come_back_when_a_domain_goes() {
    for ecap in [ECAP_LEGACY, ECAP_SS, ECAP_FS] {
        let window = Fake::window(CAP_FS, ecap);
        let unit = up(&window);
        let mem = &window.0.mem;
        let warm = unit.make_domain(DomainSpec::default()).unwrap();
        unit.attach(stream(8), None, &warm).unwrap();
        unit.block(stream(8), None).unwrap();
        drop(warm);
        let before = mem.in_use();
        for n in 0.. {
            mem.fail_at(Some(n));
            let done = (|| {
                let domain = unit.make_domain(DomainSpec::default())?;
                unit.attach(stream(8), None, &domain)?;
                let runs = [PhysRun { base: Phys(0x1000), length: 0x60_0000 }];
                let gather = domain.map(Iova(0x3fe0_0000), &runs, RW, 1 << 30)?;
                domain.sync(gather)
            })();
            mem.fail_at(None);
            let _ = unit.block(stream(8), None);
            assert_eq!(mem.in_use(), before, "leaked when allocation {n} failed");
            match done {
                Ok(()) if n > 3 => break,
                Ok(()) => panic!("{n} allocations"),
                Err(error) => assert_eq!(error, Error::Exhausted(Resource::Memory)),
            }
        }
    }
}

#[test]
fn second_stage_tracking_switches_the_entry_and_flushes_what_it_cleans() {
    let window = Fake::window(CAP_LEGACY, ECAP_SS);
    let unit = up(&window);
    let domain = unit.make_domain(TRACK).unwrap();
    assert_eq!(domain.info().dirty, DirtyRule::Bit(9));
    unit.attach(stream(8), None, &domain).unwrap();
    map(&domain, 0x10_0000, 0, 0x2000);
    let mut none = |_: IovaRange| Ok(());
    let off = domain.read_dirty(range(0, 1 << 30), 4096, ReadDirty::Clear, &mut none);
    assert!(matches!(off, Err(Error::Invalid(_))));
    let enabled = |n| entry(&window, stream(n)).1 >> 9 & 1;
    assert_eq!(enabled(8), 0);
    window.events();
    domain.set_tracking(true).unwrap();
    domain.set_tracking(true).unwrap();
    assert_eq!(enabled(8), 1);
    let did = entry(&window, stream(8)).2 & 0xffff;
    assert_eq!(window.descriptors(), [(7 | did << 16, 0), (2 | 2 << 4 | DRAIN | did << 16, 0)]);
    // Attached later: enabled from the start.
    unit.attach(stream(9), None, &domain).unwrap();
    assert_eq!(enabled(9), 1);
    domain.mark_dirty(range(0x10_1000, 0x1000));
    window.events();
    let mut runs = Vec::new();
    let mut sink = |run: IovaRange| {
        runs.push(run);
        Ok(())
    };
    let gather = domain.read_dirty(range(0, 1 << 30), 4096, ReadDirty::Clear, &mut sink).unwrap();
    assert_eq!(runs, [range(0x10_1000, 0x1000)]);
    assert_eq!(window.descriptors(), [], "the flush is the caller's sync");
    domain.sync(gather).unwrap();
    assert_eq!(window.descriptors(), [(2 | 3 << 4 | DRAIN | did << 16, 0x10_1000 | 1 << 6)]);
    domain.set_tracking(false).unwrap();
    assert_eq!((enabled(8), enabled(9)), (0, 0));
}

#[test]
fn tracking_is_refused_by_name_and_mixed_attach_is_invalid() {
    let mem = Arc::new(Arena::new(128));
    let (able, unable) = (Fake::over(&mem, CAP_LEGACY, ECAP_SS), Fake::over(&mem, CAP_LEGACY, ECAP_SS & !(1 << 45)));
    let (able, unable) = (up(&able), up(&unable));
    assert_eq!(unable.make_domain(TRACK).err(), Some(Error::NoTracking("ECAP.SSADS (bit 45)")));
    let nested = DomainSpec { nest_parent: true, ..DomainSpec::default() };
    assert!(matches!(able.make_domain(nested), Err(Error::Unsupported(_))));
    let domain = able.make_domain(TRACK).unwrap();
    assert!(matches!(unable.attach(stream(8), None, &domain), Err(Error::Invalid(_))));
    let plain = able.make_domain(DomainSpec::default()).unwrap();
    unable.attach(stream(8), None, &plain).unwrap();
    assert!(matches!(plain.set_tracking(true), Err(Error::NoTracking(_))));
    // Other widths, kinds, coherency.
    let narrow = up(&Fake::over(&mem, 0x00d2_008c_2226_0206, ECAP_LEGACY));
    assert!(matches!(narrow.attach(stream(8), None, &plain), Err(Error::Invalid(_))));
    let first = up(&Fake::over(&mem, CAP_FS, ECAP_FS));
    assert!(matches!(first.attach(stream(8), None, &plain), Err(Error::Invalid(_))));
    let deaf = up(&Fake::over(&mem, CAP_LEGACY, ECAP_LEGACY));
    assert!(matches!(deaf.attach(stream(8), None, &plain), Err(Error::Invalid(_))));
}

#[test]
fn coherency_is_enforced_or_refused_by_name() {
    for ecap in [ECAP_LEGACY, ECAP_SS, ECAP_FS] {
        let unit = up(&Fake::window(CAP_FS, ecap));
        let domain = unit.make_domain(DomainSpec::default()).unwrap();
        assert_eq!(domain.enforce_coherency(), Err(Error::Unsupported("snoop control: ECAP.SC (bit 7)")));

        let window = Fake::window(CAP_FS, ecap | 1 << 7);
        let unit = up(&window);
        let domain = unit.make_domain(DomainSpec::default()).unwrap();
        unit.attach(stream(8), None, &domain).unwrap();
        map(&domain, 0, 0, 0x1000);
        window.events();
        domain.enforce_coherency().unwrap();
        assert!(!window.descriptors().is_empty());
        if ecap == ECAP_FS {
            assert_eq!(entry(&window, stream(8)).2 >> 24 & 1, 1, "PGSNP");
        }
    }
}

/// QEMU: the walker stores an entry it read earlier, A and D added, over the zero that unmap wrote. `true` if the page is
/// still reachable after unmap and sync.
fn survives_a_late_store(quirk_off: bool) -> bool {
    let window = Fake::window(CAP_FS, ECAP_FS & !(1 << 48));
    let mut config = config();
    config.oem_id = *b"BOCHS ";
    if quirk_off {
        config.quirks_off.push("qemu-ad-store");
    }
    let (unit, _) = bring_up(&window, config).unwrap();
    assert!(!unit.features().coherent_walk && unit.features().ad_plain_store != quirk_off);
    let domain = unit.make_domain(TRACK).unwrap();
    unit.attach(stream(8), None, &domain).unwrap();
    map(&domain, 0x10_0000, 0x5000, 0x2000);
    let mut at = window.0.mem.walker_word(Phys(entry(&window, stream(8)).0.0 + 16)) & !0xfff;
    for shift in [39, 30, 21] {
        at = window.0.mem.walker_word(Phys(at + 8 * (0x10_0000 >> shift & 511))) & !0xfff;
    }
    let leaf = Phys(at + 8 * 0x100);
    let old = window.0.mem.load64(leaf);
    assert_eq!(old & 0xfff, 7, "present, writable, user; A and D clear");
    let mem = Arc::clone(&window.0.mem);
    let mut once = true;
    window.with(|state| {
        state.hook = Some(Box::new(move |low| {
            if low & 0xf == 6 && std::mem::take(&mut once) {
                mem.store64(leaf, old | 0x60);
            }
        }));
    });
    let (bytes, gather) = domain.unmap(range(0x10_0000, 0x1000)).unwrap();
    assert_eq!(bytes, 0x1000);
    domain.sync(gather).unwrap();
    let page = domain.translate(Iova(0x10_1000)).expect("the neighbour stays");
    assert_eq!(page.phys, Phys(0x6000));
    domain.translate(Iova(0x10_0000)).is_some()
}

#[test]
fn an_entry_that_a_late_store_brings_back_is_removed_again() {
    assert!(!survives_a_late_store(false));
}

#[test]
fn an_entry_that_a_late_store_brings_back_stays_without_the_quirk() {
    assert!(survives_a_late_store(true));
}

/// QEMU: a page that was read before it was written ends with A=1 D=0. What the next report says about it.
fn read_then_write_is_reported(quirk_off: bool) -> bool {
    // A unit that claims SMPWC, so that tracking is possible without the quirk as well.
    let window = Fake::window(CAP_FS, ECAP_FS);
    let mut config = config();
    config.oem_id = *b"BOCHS ";
    if quirk_off {
        config.quirks_off.push("qemu-fs-ad");
    }
    let (unit, _) = bring_up(&window, config).unwrap();
    let domain = unit.make_domain(TRACK).unwrap();
    unit.attach(stream(8), None, &domain).unwrap();
    map(&domain, 0, 0x5000, 0x1000);
    domain.set_tracking(true).unwrap();
    let mut at = window.0.mem.walker_word(Phys(entry(&window, stream(8)).0.0 + 16)) & !0xfff;
    for _ in 0..3 {
        at = window.0.mem.walker_word(Phys(at)) & !0xfff;
    }
    window.0.mem.walker_or(Phys(at), 1 << 5);
    let mut reported = false;
    let mut sink = |_: IovaRange| {
        reported = true;
        Ok(())
    };
    let gather = domain.read_dirty(range(0, 0x1000), 4096, ReadDirty::Clear, &mut sink).unwrap();
    domain.sync(gather).unwrap();
    reported
}

#[test]
fn read_then_write_is_reported_on_qemu_first_stage() {
    assert!(read_then_write_is_reported(false));
}

#[test]
fn read_then_write_is_lost_without_the_quirk() {
    assert!(!read_then_write_is_reported(true));
}

#[test]
fn untracked_first_stage_entries_leave_the_walker_nothing_to_store() {
    let window = Fake::window(CAP_FS, ECAP_FS & !(1 << 48));
    let unit = up(&window);
    assert_eq!(unit.make_domain(TRACK).err(), Some(Error::NoTracking("ECAP.SMPWC (bit 48)")));
    let domain = unit.make_domain(DomainSpec::default()).unwrap();
    unit.attach(stream(8), None, &domain).unwrap();
    map(&domain, 0, 0x5000, 0x1000);
    let mut at = window.0.mem.walker_word(Phys(entry(&window, stream(8)).0.0 + 16));
    for _ in 0..4 {
        at = window.0.mem.walker_word(Phys(at & !0xfff));
        assert_eq!(at >> 5 & 1, 1, "A is set at every level");
    }
    assert_eq!(at >> 6 & 1, 1, "D is set in the leaf");
}

#[test]
fn many_cpus_share_the_queue() {
    let window = Fake::window(CAP_LEGACY, ECAP_SS);
    let unit = up(&window);
    std::thread::scope(|scope| {
        for n in 0..4u8 {
            let unit = &unit;
            scope.spawn(move || {
                let domain = unit.make_domain(DomainSpec::default()).unwrap();
                for round in 0..300u64 {
                    unit.attach(stream(n), None, &domain).unwrap();
                    map(&domain, round << 12, 0, 0x1000);
                    let (bytes, gather) = domain.unmap(range(round << 12, 0x1000)).unwrap();
                    assert_eq!(bytes, 0x1000);
                    domain.sync(gather).unwrap();
                    if round % 8 == 0 {
                        unit.block(stream(n), None).unwrap();
                    }
                }
                unit.block(stream(n), None).unwrap();
            });
        }
    });
    assert!(unit.status().contains("0 streams in 0 domains"), "{}", unit.status());
    assert!(unit.status().contains("(0 errors)"), "{}", unit.status());
}

#[test]
fn a_failed_map_is_flushed_and_leaves_nothing() {
    let window = Fake::window(CAP_LEGACY, ECAP_LEGACY);
    let unit = up(&window);
    let domain = unit.make_domain(DomainSpec::default()).unwrap();
    unit.attach(stream(8), None, &domain).unwrap();
    map(&domain, 0x4000, 0, 0x1000);
    window.events();
    let runs = [PhysRun { base: Phys(0x1000), length: 0x8000 }];
    assert_eq!(domain.map(Iova(0), &runs, RW, 4096).err(), Some(Error::Exists));
    let (low, high) = window.descriptors()[0];
    assert_eq!((low & 0x3f, high), (2 | 3 << 4, 2 | 1 << 6), "the four pages that were there for a moment");
    assert!(domain.translate(Iova(0)).is_none() && domain.translate(Iova(0x4000)).is_some());
}
