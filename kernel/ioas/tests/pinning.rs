//! Pins: once, only with a domain, given back after the flush, none left behind by any failure.
#![allow(missing_docs)]

mod fakes;

use fakes::{FakeDomain, FakeSource, Machine, PAGE};
use ioas::{Ioas, Place, quarantined_bytes};
use iommu_types::{Access, IovaRange};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use uapi::Errno;

const RW: Access = Access::READ.union(Access::WRITE);
const MIB: u64 = 1 << 20;

fn map(ioas: &Ioas, source: &Arc<FakeSource>, va: u64, length: u64, iova: u64) -> Result<u64, Errno> {
    ioas.map(source.clone(), source.machine.account(), va, length, Place::Fixed(iova), RW)
}

fn check(domain: &FakeDomain, source: &FakeSource, iova: u64, va: u64, length: u64) {
    for at in (0..length).step_by(PAGE as usize) {
        assert_eq!(domain.phys(iova + at), Some(source.phys(va + at)), "iova {:#x}", iova + at);
    }
}

#[test]
fn nothing_is_pinned_without_a_domain_and_once_with_two() {
    let machine = Machine::new();
    let source = FakeSource::new(&machine, 1 << 30, 1);
    let ioas = Ioas::new();
    map(&ioas, &source, 0x7000, 5 * MIB, 0x10_0000).unwrap();
    assert_eq!((machine.pinned(), machine.charged()), (0, 0));
    let (a, b) = (FakeDomain::new(&machine, false), FakeDomain::new(&machine, false));
    ioas.attach_domain(1, a.clone()).unwrap();
    ioas.attach_domain(2, b.clone()).unwrap();
    assert_eq!((machine.pinned() as u64, machine.max_pins()), (5 * MIB / PAGE, 1));
    assert_eq!(machine.charged(), 5 * MIB);
    for domain in [&a, &b] {
        check(domain, &source, 0x10_0000, 0x7000, 5 * MIB);
        assert_eq!(domain.mapped_bytes(), 5 * MIB);
    }
    ioas.detach_domain(1);
    assert_eq!(a.mapped_bytes(), 0);
    assert_eq!(machine.pinned() as u64, 5 * MIB / PAGE);
    ioas.detach_domain(2);
    assert_eq!((machine.pinned(), machine.charged()), (0, 0));
    assert_eq!(ioas.alignment(), 1);
}

#[test]
fn a_copy_shares_pins_and_charge_and_outlives_the_original() {
    let machine = Machine::new();
    let source = FakeSource::new(&machine, 1 << 30, 3);
    let (one, two) = (Ioas::new(), Ioas::new());
    let (a, b) = (FakeDomain::new(&machine, false), FakeDomain::new(&machine, false));
    one.attach_domain(1, a).unwrap();
    two.attach_domain(1, b.clone()).unwrap();
    map(&one, &source, 8 * MIB, 2 * MIB, 0).unwrap();
    map(&one, &source, 16 * MIB, 6 * MIB, 2 * MIB).unwrap();
    let pinned = machine.pinned();
    let slices = one.slices(IovaRange::sized(MIB, 4 * MIB).unwrap()).unwrap();
    assert_eq!(slices.len(), 2);
    let at = two.map_slices(&slices, Place::Fixed(64 * MIB), Access::READ).unwrap();
    assert_eq!((machine.pinned(), machine.max_pins(), machine.charged()), (pinned, 1, 8 * MIB));
    check(&b, &source, at, 9 * MIB, MIB);
    check(&b, &source, at + MIB, 16 * MIB, 3 * MIB);
    assert_eq!(one.unmap_all(), Ok(8 * MIB));
    check(&b, &source, at + MIB, 16 * MIB, 3 * MIB);
    drop(slices);
    assert_eq!(two.unmap_all(), Ok(4 * MIB));
    assert_eq!((machine.pinned(), machine.charged()), (0, 0));
}

#[test]
fn a_copy_of_a_hole_is_enoent() {
    let machine = Machine::new();
    let source = FakeSource::new(&machine, 1 << 30, 1);
    let ioas = Ioas::new();
    map(&ioas, &source, 0, 4 * PAGE, 0x10000).unwrap();
    map(&ioas, &source, 0, 4 * PAGE, 0x15000).unwrap();
    for (first, length) in [(0x10000, 0x6000), (0xf000, 0x1000), (0xf000, 0x2000), (0x18000, 0x1001), (0x30000, 1)] {
        assert_eq!(ioas.slices(IovaRange::sized(first, length).unwrap()).unwrap_err(), Errno::ENOENT, "{first:#x}");
    }
    assert_eq!(ioas.slices(IovaRange::sized(0x10fff, 2).unwrap()).unwrap().len(), 1);
}

#[test]
fn every_single_failure_of_map_and_attach_leaves_nothing_behind() {
    for run in [1, 700, 4096] {
        let machine = Machine::new();
        let source = FakeSource::new(&machine, 1 << 30, run);
        let mut failures = 0;
        for n in 1.. {
            let ioas = Ioas::new();
            map(&ioas, &source, 0x1000, 3 * MIB, 0x40_0000).unwrap();
            let (a, b) = (FakeDomain::new(&machine, false), FakeDomain::new(&machine, false));
            machine.fail_at(n);
            let result = ioas
                .attach_domain(1, a.clone())
                .and_then(|()| ioas.attach_domain(2, b.clone()))
                .and_then(|()| map(&ioas, &source, 64 * MIB, 7 * MIB, 0x1000_0000));
            let failed = machine.stop_failing();
            assert_eq!(failed, result.is_err(), "failure {n} was swallowed: {result:?}");
            let (areas, domains) = ioas.counts();
            // What an aperture forbids is forbidden only by domains that are there.
            assert_eq!(ioas.usable().unwrap() == [IovaRange::ALL], domains == 0, "failure {n}");
            assert_eq!(areas, if result.is_ok() { 2 } else { 1 });
            let bytes = areas as u64 * 3 * MIB + if result.is_ok() { 4 * MIB } else { 0 };
            for (index, domain) in [&a, &b].into_iter().enumerate() {
                assert_eq!(domain.mapped_bytes(), if index < domains { bytes } else { 0 }, "failure {n}");
            }
            let pinned = if domains > 0 { bytes } else { 0 };
            assert_eq!((machine.pinned() as u64 * PAGE, machine.charged()), (pinned, pinned), "failure {n}");
            ioas.detach_domain(1);
            ioas.detach_domain(2);
            assert_eq!((machine.pinned(), machine.charged()), (0, 0), "failure {n}");
            if !failed {
                break;
            }
            failures += 1;
        }
        assert!(failures > 10, "only {failures} things could fail");
    }
}

#[test]
fn a_failed_flush_keeps_the_frames_for_ever_and_says_eio() {
    let machine = Machine::new();
    let source = FakeSource::new(&machine, 1 << 30, 1);
    let ioas = Ioas::new();
    ioas.attach_domain(1, FakeDomain::new(&machine, false)).unwrap();
    map(&ioas, &source, 0, 2 * MIB, 0).unwrap();
    map(&ioas, &source, 4 * MIB, 2 * MIB, 4 * MIB).unwrap();
    let before = quarantined_bytes();
    machine.break_flush.store(true, Ordering::Relaxed);
    assert_eq!(ioas.unmap(IovaRange::sized(0, 2 * MIB).unwrap()), Err(Errno::EIO));
    assert_eq!(quarantined_bytes() - before, 2 * MIB);
    assert_eq!(ioas.counts().0, 1);
    assert_eq!(ioas.unmap_all(), Ok(2 * MIB));
    assert_eq!(machine.pinned() as u64, 2 * MIB / PAGE);
    machine.flush_dead.store(true, Ordering::Relaxed);
    map(&ioas, &source, 4 * MIB, 2 * MIB, 4 * MIB).unwrap_err();
    ioas.detach_domain(1);
    assert!(quarantined_bytes() - before >= 4 * MIB);
}

#[test]
fn a_map_whose_undoing_is_not_flushed_keeps_its_frames_for_ever() {
    let machine = Machine::new();
    let source = FakeSource::new(&machine, 1 << 30, 1);
    let ioas = Ioas::new();
    ioas.attach_domain(1, FakeDomain::new(&machine, false)).unwrap();
    machine.break_map.store(true, Ordering::Relaxed);
    assert_eq!(map(&ioas, &source, 0, 2 * MIB, 0), Err(Errno::EIO));
    // Hardware may still reach them, so the source must not have them back.
    assert_eq!(machine.pinned() as u64, 2 * MIB / PAGE);
    assert_eq!(ioas.counts().0, 0);
}

#[test]
fn exit_of_the_program_keeps_old_pins_and_refuses_new_ones() {
    let machine = Machine::new();
    let source = FakeSource::new(&machine, 1 << 30, 1);
    let ioas = Ioas::new();
    let a = FakeDomain::new(&machine, false);
    ioas.attach_domain(1, a.clone()).unwrap();
    map(&ioas, &source, 0, MIB, 0).unwrap();
    source.end.store(0, Ordering::Relaxed);
    check(&a, &source, 0, 0, MIB);
    assert_eq!(map(&ioas, &source, MIB, MIB, MIB), Err(Errno::EFAULT));
    // Shared chunks are pinned already, so a second domain needs no new pins.
    ioas.attach_domain(2, FakeDomain::new(&machine, false)).unwrap();
    assert_eq!(ioas.unmap_all(), Ok(MIB));
    assert_eq!(machine.pinned(), 0);
}

#[test]
fn memlock_limit_is_enomem_and_counters_return_to_zero() {
    let machine = Machine::new();
    machine.limit.store(4 * MIB, Ordering::Relaxed);
    let source = FakeSource::new(&machine, 1 << 30, 1);
    let ioas = Ioas::new();
    ioas.attach_domain(1, FakeDomain::new(&machine, false)).unwrap();
    map(&ioas, &source, 0, 3 * MIB, 0).unwrap();
    assert_eq!(map(&ioas, &source, 16 * MIB, 3 * MIB, 16 * MIB), Err(Errno::ENOMEM));
    assert_eq!(machine.charged(), 3 * MIB);
    ioas.unmap_all().unwrap();
    assert_eq!((machine.charged(), machine.pinned()), (0, 0));
}

#[test]
fn large_leaves_only_where_allowed_and_possible() {
    let machine = Machine::new();
    let source = FakeSource::new(&machine, 1 << 30, 512);
    for huge in [true, false] {
        let ioas = Ioas::new();
        ioas.set_huge(huge).unwrap();
        let domain = FakeDomain::new(&machine, false);
        ioas.attach_domain(1, domain.clone()).unwrap();
        map(&ioas, &source, 2 * MIB, 8 * MIB, 6 * MIB).unwrap();
        check(&domain, &source, 6 * MIB, 2 * MIB, 8 * MIB);
        assert_eq!(domain.largest_leaf(), if huge { 2 * MIB } else { PAGE });
        ioas.detach_domain(1);
    }
}

#[test]
fn misaligned_mappings_live_until_a_domain_wants_pages() {
    let machine = Machine::new();
    let source = FakeSource::new(&machine, 1 << 30, 1);
    let domain = FakeDomain::new(&machine, false);
    // (address, length, iova)
    for (va, length, iova) in [(0, 100, 0x1000), (0, PAGE, 0x1001), (1, PAGE, 0x1000)] {
        let ioas = Ioas::new();
        map(&ioas, &source, va, length, iova).unwrap();
        assert_eq!(ioas.attach_domain(1, domain.clone()), Err(Errno::EADDRINUSE), "{va} {length} {iova}");
        assert_eq!(ioas.alignment(), 1);
        assert_eq!(ioas.usable().unwrap(), [IovaRange::ALL]);
        assert_eq!(ioas.set_huge(false), Err(Errno::EADDRINUSE));
    }
}

#[test]
fn an_aperture_over_a_mapping_or_a_promise_is_eaddrinuse() {
    let machine = Machine::new();
    let source = FakeSource::new(&machine, 1 << 30, 1);
    let domain = FakeDomain::new(&machine, false);
    let ioas = Ioas::new();
    map(&ioas, &source, 0, PAGE, fakes::APERTURE_LAST + 1).unwrap();
    assert_eq!(ioas.attach_domain(1, domain.clone()), Err(Errno::EADDRINUSE));
    ioas.unmap_all().unwrap();
    ioas.allow(vec![IovaRange::new(0, fakes::APERTURE_LAST + 1).unwrap()]).unwrap();
    assert_eq!(ioas.attach_domain(1, domain.clone()), Err(Errno::EADDRINUSE));
    ioas.allow(vec![]).unwrap();
    ioas.attach_domain(1, domain).unwrap();
    assert_eq!(ioas.usable().unwrap(), [IovaRange::new(0, fakes::APERTURE_LAST).unwrap()]);
    ioas.detach_domain(1);
    assert_eq!(ioas.usable().unwrap(), [IovaRange::ALL]);
}

#[test]
fn automatic_placement_keeps_the_memorys_offset_and_skips_what_is_taken() {
    let machine = Machine::new();
    let source = FakeSource::new(&machine, 1 << 40, 1);
    let ioas = Ioas::new();
    let place = |va, length| ioas.map(source.clone(), machine.account(), va, length, Place::Anywhere, RW);
    assert_eq!(place(0x7f00_0000, PAGE), Ok(0x1000)); // never 0
    assert_eq!(place(0x7f00_0000, 2 * MIB), Ok(2 * MIB)); // aligned so that a large leaf fits
    assert_eq!(place(0x7f00_1000, PAGE), Ok(0x2000));
    assert_eq!(place(0x7f00_0803, 1), Ok(0x3803)); // the offset in the page is kept
    assert_eq!(place(0, u64::MAX / 2), Err(Errno::EOVERFLOW));
    ioas.allow(vec![IovaRange::new(0x10_0000, 0x10_2fff).unwrap()]).unwrap();
    assert_eq!(place(0x7f00_0000, 2 * PAGE), Ok(0x10_0000));
    assert_eq!(place(0x7f00_0000, 2 * PAGE), Err(Errno::ENOSPC));
    assert_eq!(place(0x7f00_0000, PAGE), Ok(0x10_2000));
    ioas.allow(vec![]).unwrap();
    ioas.unmap_all().unwrap();
    ioas.set_huge(false).unwrap();
    assert_eq!(place(0x7f00_0800, PAGE), Err(Errno::EINVAL)); // aligned to 2 KiB only
}
