//! Map, unmap, attach, replace, detach: what a device can reach, on every machine with every cache policy.
mod common;

use common::*;
use conformance::{Setup, World, dev, setups};
use iommu_api::DomainSpec;
use iommu_types::{Access, Error, FaultReason, Iova, IovaRange, Resource};
use soft_iommu::vtd::Caps;

#[test]
fn a_stream_that_was_never_attached_is_blocked_and_logged() {
    each(setups(), |w| {
        let _ = w.faults();
        for (n, iova) in [(1, 0x1000), (2, 0x0), (3, 0x4567_8000)] {
            w.dma(dev(n), iova, true)?;
            let list = w.faults();
            let fault = list.first().ok_or_else(|| w.broken("no fault was recorded"))?;
            check(w, fault.stream == dev(n), "fault names another stream")?;
            check(w, fault.iova.0 & !0xfff == iova & !0xfff, "fault names another address")?;
            check(w, fault.access.contains(Access::WRITE), "fault says read")?;
            let fits = matches!(fault.reason, FaultReason::Blocked | FaultReason::NotPresent);
            check(w, fits, &format!("fault says {:?} (code {:#x})", fault.reason, fault.code))?;
        }
        // A stream nobody told the driver about.
        w.dma(conformance::dev(9), 0x1000, true)?;
        w.dma(iommu_types::StreamId::pci(0, 5, 0, 0), 0x1000, false).map(|_| ())
    });
}

#[test]
fn faults_say_read_or_write_and_why() {
    each(setups(), |w| {
        let id = w.made(false)?;
        let pa = w.frames(1).ok_or("frames")?;
        w.map(id, 0x5000, &[(pa, PAGE)], Access::READ, PAGE, true)?;
        w.attach(dev(1), id)?;
        let _ = w.faults();
        w.dma(dev(1), 0x9123, false)?;
        let list = w.faults();
        let fault = list.first().copied().ok_or_else(|| w.broken("no fault was recorded"))?;
        check(w, fault.iova.0 & !0xfff == 0x9000 && fault.access == Access::READ, &format!("{fault:?}"))?;
        check(w, fault.stream == dev(1) && fault.pasid.is_none_or(|p| p.0 == 0), &format!("{fault:?}"))?;
        w.dma(dev(1), 0x5000, true)?;
        let list = w.faults();
        let fault = list.first().copied().ok_or_else(|| w.broken("no fault for a write to a read-only page"))?;
        check(w, fault.access == Access::WRITE, &format!("{fault:?}"))?;
        check(w, w.faults().is_empty(), "a drained fault came back")
    });
}

#[test]
fn unmap_then_dma_hits_nothing_even_with_a_stale_tlb() {
    each(setups(), |w| {
        let id = w.made(false)?;
        w.attach(dev(1), id)?;
        for (iova, count) in [(0x1000, 1), (0x20_0000, 3), (0x3fff_f000, 2), (0x7fff_e000, 17), (0x0, 1)] {
            w.map_new(id, iova, count, RW)?;
            for n in 0..count {
                w.dma(dev(1), iova + n * PAGE, n % 2 == 0)?;
                w.dma(dev(1), iova + n * PAGE, true)?;
            }
            w.unmap(id, pages(iova, count))?;
            for n in 0..count + 1 {
                w.dma(dev(1), iova + n * PAGE, true)?;
                w.dma(dev(1), iova + n * PAGE, false)?;
            }
        }
        Ok(())
    });
}

#[test]
fn every_start_and_length_of_an_unmap_is_flushed_whole() {
    // Address masks cover aligned powers of two only (reliability classes 2 and 3).
    each(setups(), |w| {
        let id = w.made(false)?;
        w.attach(dev(1), id)?;
        for start in 0..20u64 {
            for length in [1, 2, 3, 5, 8, 13, 16, 21] {
                let iova = 0x40_0000 + start * PAGE;
                w.map_new(id, iova, length, RW)?;
                for n in 0..length {
                    w.dma(dev(1), iova + n * PAGE, true)?;
                }
                w.unmap(id, pages(iova, length))?;
                for n in 0..length {
                    w.dma(dev(1), iova + n * PAGE, true)?;
                }
            }
        }
        Ok(())
    });
}

#[test]
fn a_remap_leads_to_the_new_page() {
    each(setups(), |w| {
        let id = w.made(false)?;
        w.attach(dev(1), id)?;
        for _ in 0..4 {
            w.map_new(id, 0x8000, 2, RW)?;
            w.dma(dev(1), 0x8000, true)?;
            w.dma(dev(1), 0x9000, false)?;
            w.unmap(id, pages(0x8000, 2))?;
        }
        Ok(())
    });
}

#[test]
fn a_table_of_small_pages_replaced_by_a_large_leaf_is_forgotten() {
    each(setups(), |w| {
        let id = w.made(false)?;
        w.attach(dev(1), id)?;
        let size = 1 << 21;
        for round in 0..2 {
            let pa = w.beyond(size, size);
            w.map(id, 0x4000_0000, &[(pa, size)], RW, PAGE, false)?;
            for n in [0, 1, 255, 511] {
                w.dma(dev(1), 0x4000_0000 + n * PAGE, true)?;
            }
            w.unmap(id, pages(0x4000_0000, 512))?;
            w.dma(dev(1), 0x4000_0000, true)?;
            let pa = w.beyond(size, size);
            w.map(id, 0x4000_0000, &[(pa, size)], RW, 1 << 30, false)?;
            for n in [0, 1, 255, 511] {
                w.dma(dev(1), 0x4000_0000 + n * PAGE, round == 0)?;
            }
            let info = w.handle(id).info();
            let item = w.handle(id).translate(Iova(0x4000_0000)).ok_or_else(|| w.broken("translate finds nothing"))?;
            check(w, item.size == if info.page_sizes.has(size) { size } else { PAGE }, "leaf size")?;
            w.unmap(id, pages(0x4000_0000, 512))?;
            w.dma(dev(1), 0x4000_0000 + 511 * PAGE, true)?;
        }
        Ok(())
    });
}

#[test]
fn a_large_leaf_is_used_only_where_memory_has_no_gap() {
    each(setups(), |w| {
        let id = w.made(false)?;
        w.attach(dev(1), id)?;
        let (size, half) = (1u64 << 21, 1u64 << 20);
        let base = w.beyond(8 * size, 4 * size);
        // Touching, with a gap, in the wrong order, and touching after a gap.
        let lists = [
            vec![(base, half), (base + half, half)],
            vec![(base, half), (base + size, half)],
            vec![(base + half, half), (base, half)],
            vec![(base + 2 * size, half), (base + 3 * size, half), (base + 4 * size, size)],
            vec![(base, PAGE), (base + 2 * PAGE, size)],
        ];
        for runs in lists {
            let total: u64 = runs.iter().map(|r| r.1).sum();
            w.map(id, 0x4000_0000, &runs, RW, 1 << 30, false)?;
            for at in (0..total).step_by(1 << 18).chain([total - PAGE, half - PAGE, half]) {
                w.dma(dev(1), 0x4000_0000 + at, true)?;
            }
            w.dma(dev(1), 0x4000_0000 + total, true)?;
            w.unmap(id, IovaRange::sized(0x4000_0000, total).ok_or("")?)?;
        }
        Ok(())
    });
}

#[test]
fn a_leaf_is_never_cut_in_two() {
    each(setups(), |w| {
        let id = w.made(false)?;
        w.attach(dev(1), id)?;
        for size in [1u64 << 21, 1 << 30] {
            if !w.handle(id).info().page_sizes.has(size) {
                continue;
            }
            let iova = 4 << 30;
            let pa = w.beyond(size, size);
            w.map(id, iova, &[(pa, size)], RW, size, false)?;
            w.dma(dev(1), iova + size - 8, true)?;
            for range in
                [pages(iova, 1), pages(iova + PAGE, 7), IovaRange::new(iova + 8 * PAGE, iova + size - 1).ok_or("")?]
            {
                let answer = w.try_unmap(id, range)?;
                check(w, matches!(answer, Err(Error::Invalid(_))), &format!("unmap of a part answers {answer:?}"))?;
                w.dma(dev(1), iova, true)?;
                w.dma(dev(1), iova + size - 8, false)?;
            }
            w.unmap(id, IovaRange::sized(iova - PAGE, size + 2 * PAGE).ok_or("")?)?;
            w.dma(dev(1), iova + size - 8, true)?;
        }
        Ok(())
    });
}

#[test]
fn replace_and_detach_take_effect_when_they_return() {
    each(setups(), |w| {
        let (a, b) = (w.made(false)?, w.made(false)?);
        w.map_new(a, 0x1000, 4, RW)?;
        w.map_new(b, 0x1000, 2, RW)?;
        w.map_new(b, 0x9000, 1, RW)?;
        for round in 0..3 {
            w.attach(dev(1), a)?;
            w.attach(dev(2), if round == 1 { b } else { a })?;
            for n in [1, 2] {
                for page in [0x1000, 0x3000, 0x9000] {
                    w.dma(dev(n), page, true)?;
                }
            }
            w.attach(dev(1), b)?;
            for n in [1, 2] {
                for page in [0x1000, 0x3000, 0x9000] {
                    w.dma(dev(n), page, true)?;
                }
            }
            w.block(dev(1))?;
            for page in [0x1000, 0x3000, 0x9000] {
                w.dma(dev(1), page, true)?;
                w.dma(dev(2), page, false)?;
            }
            w.block(dev(1))?; // idempotent
        }
        Ok(())
    });
}

#[test]
fn attaching_again_to_the_same_domain_changes_nothing() {
    each(setups(), |w| {
        let a = w.made(false)?;
        w.map_new(a, 0x1000, 1, RW)?;
        for _ in 0..3 {
            w.attach(dev(1), a)?;
            w.dma(dev(1), 0x1000, true)?;
        }
        Ok(())
    });
}

#[test]
fn a_domain_id_used_again_brings_nothing_back() {
    let list = setups().into_iter().filter(|s| s.name.contains("few-ids") || s.name.ends_with("-cm")).collect();
    each(list, |w| {
        for round in 0..40u64 {
            let id = w.made(false)?;
            w.attach(dev(1), id)?;
            w.map_new(id, 0x1000 * (1 + round % 3), 1, RW)?;
            for page in 1..5 {
                w.dma(dev(1), 0x1000 * page, true)?;
            }
            if round % 2 == 0 {
                w.attach(dev(2), id)?;
                w.dma(dev(2), 0x1000, true)?;
                w.block(dev(2))?;
            }
            w.block(dev(1))?;
            w.destroy(id)?;
            w.dma(dev(1), 0x1000, true)?;
        }
        Ok(())
    });
}

#[test]
fn a_replaced_domain_gives_its_id_back() {
    let list = setups().into_iter().filter(|s| s.name.contains("few-ids")).collect();
    each(list, |w| {
        let mut old = w.made(false)?;
        w.map_new(old, 0x1000, 1, RW)?;
        w.attach(dev(1), old)?;
        for round in 2..40 {
            let new = w.made(false)?;
            w.map_new(new, 0x1000 * (1 + round % 4), 1, RW)?;
            w.attach(dev(1), new)?;
            w.destroy(old)?;
            for page in 1..6 {
                w.dma(dev(1), 0x1000 * page, true)?;
            }
            old = new;
        }
        Ok(())
    });
}

#[test]
fn domain_ids_run_out_with_an_error_and_come_back() {
    let list = setups().into_iter().filter(|s| s.name.contains("few-ids")).collect();
    each(list, |w| {
        let mut made = Vec::new();
        let mut ended = None;
        for n in 0..20u8 {
            let stream = dev(n + 10);
            match w.make(DomainSpec::default()) {
                Ok(id) => {
                    made.push((stream, id));
                    match w.try_attach(stream, id)? {
                        Ok(()) => {}
                        Err(e) => {
                            ended = Some(e);
                            break;
                        }
                    }
                }
                Err(e) => {
                    ended = Some(e);
                    break;
                }
            }
        }
        check(w, ended == Some(Error::Exhausted(Resource::DomainIds)), &format!("{ended:?} with 16 domain ids"))?;
        check(w, made.len() >= 13, &format!("only {} domains", made.len()))?;
        let (stream, id) = made[0];
        w.block(stream)?;
        w.destroy(id)?;
        let id = w.made(false)?;
        w.attach(stream, id)?;
        for (stream, _) in made {
            w.block(stream)?;
        }
        // The context tables of those streams may stay; they are no leak of a domain.
        w.rebase();
        Ok(())
    });
}

/// iova, pa, length, rights, is this the right answer, what it is.
type Refusal = (u64, u64, u64, Access, fn(&Error) -> bool, &'static str);

#[test]
fn what_cannot_be_mapped_is_refused_and_changes_nothing() {
    each(setups(), |w| {
        let id = w.made(false)?;
        w.attach(dev(1), id)?;
        w.map_new(id, 0x10_0000, 4, RW)?;
        let top = w.handle(id).info().aperture.last();
        let pa = w.beyond(64 * PAGE, PAGE);
        let big = 1u64 << w.setup.config.caps.haw;
        let cases: [Refusal; 8] = [
            (0x10_3000, pa, PAGE, RW, |e| *e == Error::Exists, "over a page"),
            (0x10_0000 - 8 * PAGE, pa, 16 * PAGE, RW, |e| *e == Error::Exists, "around pages"),
            (0x1008, pa, PAGE, RW, |e| matches!(e, Error::Invalid(_)), "iova off by 8"),
            (0x1000, pa + 16, PAGE, RW, |e| matches!(e, Error::Invalid(_)), "pa off by 16"),
            (0x1000, pa, PAGE + 1, RW, |e| matches!(e, Error::Invalid(_)), "length off by one"),
            (0x1000, pa, PAGE, Access::empty(), |e| matches!(e, Error::Invalid(_)), "no right"),
            ((top - 0xfff) & !0xfff, pa, 2 * PAGE, RW, |e| matches!(e, Error::Range(_)), "past the aperture"),
            (0x1000, big - PAGE, 2 * PAGE, RW, |e| matches!(e, Error::Range(_)), "past the physical width"),
        ];
        for (iova, pa, length, access, fits, why) in cases {
            let answer = w.try_map(id, iova, &[(pa, length)], access, 1 << 30, false)?;
            check(w, answer.as_ref().is_err_and(fits), &format!("{why}: {answer:?}"))?;
            for page in [0x0f_8000, 0x10_0000, 0x10_3000, 0x10_4000, 0x1000] {
                w.dma(dev(1), page, true)?;
            }
        }
        // Two runs, the second collides: nothing of the first stays.
        let answer = w.try_map(id, 0xf_e000, &[(pa, PAGE), (pa + PAGE, 2 * PAGE)], RW, 1 << 30, false)?;
        check(w, answer == Err(Error::Exists), &format!("{answer:?}"))?;
        w.dma(dev(1), 0xf_e000, true)?;
        w.dma(dev(1), 0xf_f000, true).map(|_| ())
    });
}

#[test]
fn both_ends_of_the_aperture_can_be_mapped() {
    each(setups(), |w| {
        let id = w.made(false)?;
        w.attach(dev(1), id)?;
        let top = w.handle(id).info().aperture.last();
        for iova in [0, (top - 0xfff) & !0xfff] {
            w.map_new(id, iova, 1, RW)?;
            w.dma(dev(1), iova, true)?;
            w.dma(dev(1), iova + 0xff8, false)?;
            w.unmap(id, pages(iova, 1))?;
            w.dma(dev(1), iova, true)?;
        }
        Ok(())
    });
}

#[test]
fn translate_tells_what_is_mapped() {
    each(setups(), |w| {
        let id = w.made(false)?;
        let pa = w.map_new(id, 0x5000, 2, Access::READ)?;
        let item = w.handle(id).translate(Iova(0x6010)).ok_or_else(|| w.broken("nothing there"))?;
        check(w, item.phys.0 == pa + 0x1010 && item.size == PAGE, &format!("{item:?}"))?;
        check(w, item.access == Access::READ, &format!("{item:?}"))?;
        check(w, w.handle(id).translate(Iova(0x7000)).is_none(), "something there")
    });
}

#[test]
fn a_write_in_flight_lands_before_the_unmap_returns() {
    each(setups(), |w| {
        let id = w.made(false)?;
        w.attach(dev(1), id)?;
        for iova in [0x1000, 0x20_1000, 0x4000_0000] {
            let pa = w.map_new(id, iova, 1, RW)?;
            w.begin_dma(dev(1), iova)?;
            w.unmap(id, pages(iova, 1))?;
            // A landing after the frame was given back would be a broken rule; it must have landed by now, unless the
            // unit cannot drain, and then nothing is in flight in the model either.
            w.land();
            w.rules()?;
            check(w, w.machine.arena.load64(pa) == 0xdddd_dddd_dddd_dddd, "the write is lost")?;
            w.dma(dev(1), iova, true)?;
        }
        Ok(())
    });
}

#[test]
fn a_late_store_of_the_walker_does_not_bring_a_page_back() {
    each(vec![Setup::qemu_fs()], |w| {
        let id = w.made(true)?;
        w.attach(dev(1), id)?;
        for iova in [0x1000, 0x20_1000, 0x7fff_f000] {
            w.map_new(id, iova, 1, RW)?;
            w.begin_dma(dev(1), iova)?;
            w.unmap(id, pages(iova, 1))?;
            check(w, w.handle(id).translate(Iova(iova)).is_none(), "the entry is back")?;
            w.dma(dev(1), iova, true)?;
        }
        Ok(())
    });
}

#[test]
fn a_page_comes_back_without_qemu_ad_store() {
    let mut setup = Setup::qemu_fs();
    setup.quirks_off = vec!["qemu-ad-store"];
    let story = |w: &mut World| {
        let id = w.made(true)?;
        w.attach(dev(1), id)?;
        w.map_new(id, 0x1000, 1, RW)?;
        w.begin_dma(dev(1), 0x1000)?;
        w.unmap(id, pages(0x1000, 1))?;
        w.dma(dev(1), 0x1000, true).map(|_| ())
    };
    let told = one(&setup, story).expect_err("the loss must show");
    assert!(told.contains("not mapped for it") || told.contains("frame that is not data"), "{told}");
}

#[test]
fn many_streams_on_many_buses() {
    each(vec![Setup::new("legacy4", Caps::legacy()), Setup::new("sm-fs", Caps::scalable_fs())], |w| {
        let id = w.made(false)?;
        w.map_new(id, 0x1000, 1, RW)?;
        for (bus, device, function) in [(0, 0x1f, 7), (1, 0, 0), (0x7f, 0x10, 0), (0xff, 0xf, 7), (0xff, 0x1f, 7)] {
            let stream = iommu_types::StreamId::pci(0, bus, device, function);
            w.dma(stream, 0x1000, true)?;
            w.attach(stream, id)?;
            w.dma(stream, 0x1000, true)?;
            w.block(stream)?;
            w.dma(stream, 0x1000, true)?;
        }
        w.rebase();
        Ok(())
    });
}

#[test]
fn pasids_of_one_device_lead_to_different_domains() {
    let list = setups().into_iter().filter(Setup::pasids).collect();
    each(list, |w| {
        let (a, b) = (w.made(false)?, w.made(false)?);
        w.map_new(a, 0x1000, 1, RW)?;
        w.map_new(b, 0x1000, 1, RW)?;
        w.map_new(b, 0x2000, 1, RW)?;
        // Around the borders of the PASID table (64) and of the directory page (32768).
        for pasid in [1, 63, 64, 4095, 32767] {
            w.dma((dev(1), pasid), 0x1000, true)?;
            w.attach((dev(1), pasid), a)?;
            w.attach(dev(1), b)?;
            for page in [0x1000, 0x2000] {
                w.dma(dev(1), page, true)?;
                w.dma((dev(1), pasid), page, true)?;
                w.dma((dev(2), pasid), page, true)?;
            }
            w.attach((dev(1), pasid), b)?;
            w.dma((dev(1), pasid), 0x2000, true)?;
            w.block(dev(1))?;
            w.dma((dev(1), pasid), 0x1000, true)?;
            w.dma(dev(1), 0x1000, true)?;
            w.unmap(b, pages(0x2000, 1))?;
            w.dma((dev(1), pasid), 0x2000, true)?;
            w.block((dev(1), pasid))?;
            w.dma((dev(1), pasid), 0x1000, true)?;
            w.map_new(b, 0x2000, 1, RW)?;
        }
        w.rebase();
        Ok(())
    });
}

#[test]
fn pasids_that_cannot_be_are_refused() {
    each(setups(), |w| {
        let id = w.made(false)?;
        for pasid in [0, 1, 32768, 1 << 20, u32::MAX] {
            let fine = pasid == 1 && w.setup.pasids();
            let answer = w.try_attach((dev(1), pasid), id)?;
            check(w, answer.is_ok() == fine, &format!("pasid {pasid}: {answer:?}"))?;
            if fine {
                w.block((dev(1), pasid))?;
            } else {
                let fits = matches!(answer, Err(Error::Unsupported(_) | Error::Invalid(_) | Error::Range(_)));
                check(w, fits, &format!("pasid {pasid}: {answer:?}"))?;
            }
        }
        let far = iommu_types::StreamId::pci(1, 0, 1, 0);
        let answer = w.try_attach(far, id)?;
        check(w, matches!(answer, Err(Error::Invalid(_))), &format!("another segment: {answer:?}"))?;
        w.rebase();
        Ok(())
    });
}

#[test]
fn coherency_can_be_enforced_where_the_unit_can() {
    each(setups(), |w| {
        let (a, b) = (w.made(false)?, w.made(false)?);
        w.map_new(a, 0x1000, 2, RW)?;
        w.attach(dev(1), a)?;
        w.dma(dev(1), 0x1000, true)?;
        let answer = w.handle(a).enforce_coherency();
        if w.setup.config.caps.snoop_control {
            check(w, answer.is_ok(), &format!("{answer:?}"))?;
        } else {
            check(w, matches!(answer, Err(Error::Unsupported(why)) if why.contains("SC")), &format!("{answer:?}"))?;
        }
        // Whatever it answers, what was mapped stays mapped and what comes is mapped the same way.
        w.dma(dev(1), 0x1000, true)?;
        w.map_new(a, 0x8000, 1, RW)?;
        w.dma(dev(1), 0x8000, true)?;
        w.attach(dev(2), a)?;
        w.dma(dev(2), 0x2000, true)?;
        w.attach(dev(2), b)?;
        w.dma(dev(2), 0x2000, true).map(|_| ())
    });
}
