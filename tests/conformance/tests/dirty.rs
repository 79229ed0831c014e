//! No lost write: what a device wrote after one report is in the next.
mod common;

use common::*;
use conformance::{Broken, Setup, World, dev, dirty_setups, setups};
use iommu_api::{DomainSpec, ReadDirty, SinkFull};
use iommu_types::{Access, DirtyRule, Error, IovaRange};
use soft_iommu::vtd::{Caps, Policy, Quirks};

fn all(w: &World, id: usize) -> IovaRange {
    w.handle(id).info().aperture
}

fn clear(w: &mut World, id: usize) -> Result<Vec<u64>, Broken> {
    let range = all(w, id);
    w.report(id, range, ReadDirty::Clear)
}

fn exact_rule(w: &World) -> bool {
    matches!(w.unit.features().dirty, DirtyRule::Bit(_))
}

#[test]
fn features_and_domains_name_the_missing_capability() {
    for setup in setups() {
        let mut w = World::new(&setup).unwrap_or_else(|e| panic!("{e}"));
        let features = w.unit.features();
        assert_eq!(features.dirty != DirtyRule::None, setup.tracks, "{}: {features:?}", setup.name);
        let made = w.make(DomainSpec { dirty_tracking: true, ..DomainSpec::default() });
        if setup.tracks {
            assert!(made.is_ok(), "{}: {made:?}", setup.name);
        } else {
            let Err(Error::NoTracking(why)) = made else { panic!("{}: {made:?}", setup.name) };
            assert!(!why.is_empty() && why == features.dirty_missing, "{}: {why}", setup.name);
            if setup.name.starts_with("sm") && setup.name.ends_with("unsnooped") && !setup.name.contains("structures") {
                assert!(why.contains("SMPWC"), "{}: {why}", setup.name);
            }
        }
    }
}

#[test]
fn a_domain_not_made_for_it_does_not_track() {
    each(dirty_setups(), |w| {
        let id = w.made(false)?;
        let handle = w.handle(id);
        let started = handle.set_tracking(true);
        check(w, matches!(started, Err(Error::NoTracking(_))), &format!("{started:?}"))?;
        let range = all(w, id);
        let read = handle.read_dirty(range, PAGE, ReadDirty::Clear, &mut |_| Ok(()));
        check(w, matches!(read, Err(Error::NoTracking(_))), "read_dirty on it")
    });
}

#[test]
fn a_write_is_reported_once_and_again_when_written_again() {
    each(dirty_setups(), |w| {
        let id = w.made(true)?;
        w.attach(dev(1), id)?;
        w.map_new(id, 0x1000, 8, RW)?;
        w.map_new(id, 0x40_0000, 3, RW)?;
        w.track(id, true)?;
        let clean = clear(w, id)?;
        check(w, clean.is_empty(), &format!("untouched pages reported: {clean:x?}"))?;
        for round in 0..4 {
            w.dma(dev(1), 0x3000, true)?;
            w.dma(dev(1), 0x40_1000, true)?;
            if round % 2 == 1 {
                w.dma(dev(1), 0x3000, true)?;
            }
            let pages = clear(w, id)?;
            check(w, pages == [3, 0x401], &format!("round {round}: {pages:x?}"))?;
            let pages = clear(w, id)?;
            check(w, pages.is_empty(), &format!("round {round}: reported twice {pages:x?}"))?;
        }
        Ok(())
    });
}

#[test]
fn read_then_write_is_reported() {
    each(dirty_setups(), |w| {
        let id = w.made(true)?;
        w.attach(dev(1), id)?;
        w.map_new(id, 0x1000, 4, RW)?;
        w.track(id, true)?;
        for _ in 0..3 {
            w.dma(dev(1), 0x1000, false)?;
            w.dma(dev(1), 0x1000, true)?;
            let pages = clear(w, id)?;
            check(w, pages.contains(&1), "not reported")?;
            // Read in one round, written in the next.
            w.dma(dev(1), 0x2000, false)?;
            let pages = clear(w, id)?;
            check(w, !exact_rule(w) || pages.is_empty(), &format!("a read counts as a write: {pages:x?}"))?;
            w.dma(dev(1), 0x2000, true)?;
            clear(w, id)?;
        }
        Ok(())
    });
}

#[test]
fn only_what_was_written_is_reported() {
    each(dirty_setups(), |w| {
        let id = w.made(true)?;
        w.attach(dev(1), id)?;
        w.map_new(id, 0x10_0000, 64, RW)?;
        w.track(id, true)?;
        for n in (0..64).step_by(7) {
            w.dma(dev(1), 0x10_0000 + n * PAGE, true)?;
        }
        let pages = clear(w, id)?;
        let want: Vec<u64> = (0..64).step_by(7).map(|n| 0x100 + n).collect();
        check(w, pages == want, &format!("{pages:x?}"))
    });
}

#[test]
fn every_page_of_a_report_is_flushed_whatever_lies_between() {
    each(dirty_setups(), |w| {
        let id = w.made(true)?;
        w.attach(dev(1), id)?;
        // Over the ends of tables of two levels.
        let (first, count) = (0x4000_0000 - 40 * PAGE, 90);
        w.map_new(id, first, count, RW)?;
        w.track(id, true)?;
        for step in [1, 3, 17, 41, 60] {
            for _ in 0..2 {
                for n in (0..count).step_by(step) {
                    w.dma(dev(1), first + n * PAGE, true)?;
                }
                let pages = clear(w, id)?;
                let want = (0..count).step_by(step).count();
                check(w, pages.len() == want, &format!("step {step}: {} pages of {want}", pages.len()))?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_large_leaf_asked_for_in_part_keeps_the_rest() {
    each(dirty_setups(), |w| {
        let id = w.made(true)?;
        w.attach(dev(1), id)?;
        for size in [1u64 << 21, 1 << 30] {
            if !w.handle(id).info().page_sizes.has(size) {
                continue;
            }
            let iova = 2 * size;
            let pa = w.beyond(size, size);
            w.map(id, iova, &[(pa, size)], RW, size, false)?;
            w.track(id, true)?;
            for part in [pages(iova, 3), pages(iova + size - 5 * PAGE, 5), pages(iova + 8 * PAGE, 1)] {
                w.dma(dev(1), iova + size / 2, true)?;
                w.report(id, part, ReadDirty::Clear)?;
                // Some word of the leaf's other part was written, and the oracle still waits for it.
                let rest = w.report(id, pages(iova + size / 2, 1), ReadDirty::Keep)?;
                check(w, rest.len() == 1, "the rest of the leaf was forgotten")?;
                w.report(id, IovaRange::sized(iova, size).ok_or("")?, ReadDirty::Clear)?;
            }
            w.track(id, false)?;
            w.unmap(id, IovaRange::sized(iova, size).ok_or("")?)?;
        }
        Ok(())
    });
}

#[test]
fn attached_before_or_after_tracking_starts_nothing_is_lost() {
    each(dirty_setups(), |w| {
        let id = w.made(true)?;
        w.map_new(id, 0x1000, 4, RW)?;
        w.attach(dev(1), id)?;
        w.dma(dev(1), 0x1000, true)?; // cached before tracking
        w.track(id, true)?;
        w.dma(dev(1), 0x1000, true)?;
        w.attach(dev(2), id)?; // after
        w.dma(dev(2), 0x2000, true)?;
        let pages = clear(w, id)?;
        check(w, pages == [1, 2], &format!("{pages:x?}"))?;
        // Detached and back.
        w.block(dev(1))?;
        w.attach(dev(1), id)?;
        w.dma(dev(1), 0x3000, true)?;
        // Written, then the writer leaves before the report.
        w.dma(dev(2), 0x4000, true)?;
        w.block(dev(2))?;
        let pages = clear(w, id)?;
        check(w, pages == [3, 4], &format!("{pages:x?}"))?;
        w.track(id, false)?;
        w.dma(dev(1), 0x1000, true)?;
        w.track(id, true)?;
        let pages = clear(w, id)?;
        check(w, pages.is_empty(), &format!("starting did not clear: {pages:x?}"))?;
        w.dma(dev(1), 0x1000, true)?;
        w.track(id, true)?; // idempotent: not a new start
        let pages = clear(w, id)?;
        check(w, pages == [1], &format!("{pages:x?}"))
    });
}

#[test]
fn tracking_follows_a_replace() {
    each(dirty_setups(), |w| {
        let (a, b) = (w.made(true)?, w.made(true)?);
        w.map_new(a, 0x1000, 2, RW)?;
        w.map_new(b, 0x1000, 2, RW)?;
        w.track(a, true)?;
        w.attach(dev(1), b)?;
        w.dma(dev(1), 0x1000, true)?;
        w.attach(dev(1), a)?;
        w.dma(dev(1), 0x1000, true)?;
        w.attach(dev(1), b)?;
        w.dma(dev(1), 0x2000, true)?;
        w.track(b, true)?;
        w.dma(dev(1), 0x2000, true)?;
        let pages = clear(w, a)?;
        check(w, pages == [1], &format!("{pages:x?}"))?;
        let pages = clear(w, b)?;
        check(w, pages == [2], &format!("{pages:x?}"))
    });
}

#[test]
fn mapped_while_tracking_counts_from_the_first_write() {
    each(dirty_setups(), |w| {
        let id = w.made(true)?;
        w.attach(dev(1), id)?;
        w.track(id, true)?;
        for round in 0..3 {
            w.map_new(id, 0x1000, 3, RW)?;
            w.dma(dev(1), 0x2000, true)?;
            let pages = clear(w, id)?;
            check(w, pages.contains(&2), &format!("round {round}: {pages:x?}"))?;
            w.dma(dev(1), 0x3000, true)?;
            w.unmap(id, pages_of(1, 3))?;
            let pages = clear(w, id)?;
            check(w, pages.is_empty(), &format!("unmapped pages reported: {pages:x?}"))?;
        }
        Ok(())
    });
}

fn pages_of(first: u64, count: u64) -> IovaRange {
    pages(first * PAGE, count)
}

#[test]
fn a_large_leaf_is_reported_whole() {
    each(dirty_setups(), |w| {
        let id = w.made(true)?;
        w.attach(dev(1), id)?;
        let size = 1 << 21;
        let pa = w.beyond(2 * size, size);
        w.map(id, 0x4000_0000, &[(pa, 2 * size)], RW, size, false)?;
        w.track(id, true)?;
        w.dma(dev(1), 0x4000_0000 + 77 * PAGE, true)?;
        let pages = clear(w, id)?;
        let leaf = w.handle(id).translate(iommu_types::Iova(0x4000_0000)).map_or(0, |t| t.size);
        let want = if leaf == size { 512 } else { 1 };
        check(w, pages.len() == want, &format!("{} pages", pages.len()))?;
        // Clipped to the asked range.
        w.dma(dev(1), 0x4020_0000, true)?;
        let pages = w.report(id, pages_of(0x40200, 3), ReadDirty::Keep)?;
        check(w, pages.len() == if leaf == size { 3 } else { 1 }, &format!("{pages:x?}"))?;
        let pages = clear(w, id)?;
        check(w, !pages.is_empty() && pages[0] == 0x40200, &format!("{pages:x?}"))
    });
}

#[test]
fn keep_only_looks() {
    each(dirty_setups(), |w| {
        let id = w.made(true)?;
        w.attach(dev(1), id)?;
        w.map_new(id, 0x1000, 2, RW)?;
        w.track(id, true)?;
        w.dma(dev(1), 0x1000, true)?;
        for _ in 0..3 {
            let range = all(w, id);
            let pages = w.report(id, range, ReadDirty::Keep)?;
            check(w, pages == [1], &format!("{pages:x?}"))?;
        }
        let pages = clear(w, id)?;
        check(w, pages == [1], &format!("{pages:x?}"))
    });
}

#[test]
fn a_report_that_cannot_be_delivered_is_undone() {
    each(dirty_setups(), |w| {
        let id = w.made(true)?;
        w.attach(dev(1), id)?;
        w.map_new(id, 0x1000, 6, RW)?;
        w.track(id, true)?;
        for n in [1, 3, 5] {
            w.dma(dev(1), n * PAGE, true)?;
        }
        for room in 0..3 {
            let handle = w.handle(id);
            let mut taken = 0;
            let mut sink = |_: IovaRange| {
                taken += 1;
                if taken > room { Err(SinkFull) } else { Ok(()) }
            };
            let answer = handle.read_dirty(all(w, id), PAGE, ReadDirty::Clear, &mut sink);
            check(w, matches!(answer, Err(Error::Sink)), &format!("{room}: {:?}", answer.as_ref().err()))?;
            // Written meanwhile as well.
            w.dma(dev(1), 6 * PAGE, true)?;
            let range = all(w, id);
            let pages = w.report(id, range, ReadDirty::Keep)?;
            check(w, pages == [1, 3, 5, 6], &format!("{room}: {pages:x?}"))?;
        }
        clear(w, id)?;
        w.handle(id).mark_dirty(pages_of(2, 2));
        let pages = clear(w, id)?;
        check(w, pages == [2, 3], &format!("marked: {pages:x?}"))
    });
}

#[test]
fn read_only_pages_are_never_dirty() {
    each(dirty_setups(), |w| {
        let id = w.made(true)?;
        w.attach(dev(1), id)?;
        let pa = w.frames(2).ok_or("frames")?;
        w.map(id, 0x1000, &[(pa, 2 * PAGE)], Access::READ, PAGE, true)?;
        w.track(id, true)?;
        w.dma(dev(1), 0x1000, false)?;
        w.dma(dev(1), 0x2000, true)?; // refused
        let pages = clear(w, id)?;
        check(w, pages.is_empty(), &format!("{pages:x?}"))
    });
}

#[test]
fn granules_larger_than_a_page_round_outwards_inside_the_range() {
    each(dirty_setups(), |w| {
        let id = w.made(true)?;
        w.attach(dev(1), id)?;
        w.map_new(id, 0x4_0000, 16, RW)?;
        w.track(id, true)?;
        w.dma(dev(1), 0x4_5000, true)?;
        let mut runs = Vec::new();
        let handle = w.handle(id);
        let mut sink = |r: IovaRange| {
            runs.push((r.first(), r.last()));
            Ok(())
        };
        let range = IovaRange::new(0x4_0000, 0x4_ffff).ok_or("")?;
        let gather =
            handle.read_dirty(range, 0x4000, ReadDirty::Clear, &mut sink).map_err(|e| w.broken(format!("{e}")))?;
        handle.sync(gather).map_err(|e| w.broken(format!("{e}")))?;
        check(w, runs == [(0x4_4000, 0x4_7fff)], &format!("{runs:x?}"))?;
        w.track(id, false)
    });
}

#[test]
fn a_write_in_flight_during_the_report_is_in_this_one_or_the_next() {
    each(dirty_setups(), |w| {
        let id = w.made(true)?;
        w.attach(dev(1), id)?;
        w.map_new(id, 0x1000, 4, RW)?;
        w.track(id, true)?;
        for n in [1, 2, 3] {
            w.begin_dma(dev(1), n * PAGE)?;
            clear(w, id)?;
            clear(w, id)?;
            w.land();
            clear(w, id)?;
        }
        Ok(())
    });
}

/// A machine like QEMU but for one thing: walks are snooped, so that the driver takes the dirty bit at its word.
fn qemu_that_claims_to_track() -> Setup {
    let mut setup = Setup::new("qemu-fs-snooped", Caps { smpwc: true, coherent: true, ..Caps::qemu_fs() });
    setup.config.quirks = Quirks { fs_ad: true, ..Quirks::default() };
    setup.tracks = true;
    setup
}

fn read_then_write(w: &mut World) -> Result<(), Broken> {
    let id = w.made(true)?;
    w.attach(dev(1), id)?;
    w.map_new(id, 0x1000, 2, RW)?;
    w.track(id, true)?;
    w.dma(dev(1), 0x1000, false)?;
    w.dma(dev(1), 0x1000, true)?;
    clear(w, id).map(|_| ())
}

#[test]
fn read_then_write_is_lost_without_qemu_fs_ad() {
    for policy in policies() {
        let mut setup = qemu_that_claims_to_track().policy(policy);
        setup.quirks_off = vec!["qemu-fs-ad"];
        let told = one(&setup, read_then_write).expect_err("the loss must show");
        assert!(told.contains("lost write"), "{told}");
        // Under QEMU's name the quirk applies, and nothing is lost.
        setup.quirks_off.clear();
        setup.oem = *b"BOCHS ";
        one(&setup, read_then_write).unwrap_or_else(|e| panic!("{e}"));
        one(&Setup::qemu_fs().policy(policy), read_then_write).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn write_after_a_report_is_lost_if_the_report_does_not_flush() {
    // Red twin of the flush after clearing: IOTLB and PASID-IOTLB descriptors are swallowed.
    for setup in dirty_setups().into_iter().filter(|s| !s.config.quirks.fs_ad) {
        let mut setup = setup.policy(Policy::KeepAll);
        setup.swallow = 1 << 2 | 1 << 6;
        let told = one(&setup, |w| {
            let id = w.made(true)?;
            w.attach(dev(1), id)?;
            w.map_new(id, 0x1000, 2, RW)?;
            w.track(id, true)?;
            for _ in 0..2 {
                w.dma(dev(1), 0x1000, true)?;
                clear(w, id)?;
            }
            Ok(())
        });
        assert!(told.is_err(), "{}: nothing was lost", setup.name);
    }
}
