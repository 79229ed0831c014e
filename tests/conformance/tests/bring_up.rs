//! The unit as firmware left it; reserved memory; order of bring-up.
mod common;

use common::*;
use conformance::{Machine, Setup, World, dev, single_setups};
use iommu_api::ReservedRegion;
use iommu_types::{Phys, PhysRange};
use soft_iommu::Use;
use soft_iommu::vtd::{Caps, Policy};

#[test]
fn a_fresh_unit_comes_up_blocked_on_every_machine() {
    for setup in single_setups() {
        for policy in policies() {
            let mut w = World::new(&setup.clone().policy(policy)).unwrap_or_else(|e| panic!("{e}"));
            for n in 0..32 {
                w.dma(dev(n), 0x1000 * u64::from(n), n % 2 == 0).unwrap_or_else(|e| panic!("{e}"));
            }
            assert!(!w.report.was_translating && !w.report.was_protecting);
            assert_eq!(w.report.scalable, setup.config.caps.scalable, "{}", setup.name);
        }
    }
}

/// Firmware's tables: `stream` reaches one page; legacy mode, four levels or three.
fn firmware_tables(machine: &Machine, aw: u64) -> (u64, u64) {
    let arena = &machine.arena;
    let frame = || arena.alloc(1, Use::Table).unwrap();
    let (root, contexts, page) = (frame(), frame(), arena.alloc(1, Use::Data).unwrap());
    let mut table = frame();
    let top = table;
    for level in (1..=aw + 1).rev() {
        let next = frame();
        arena.store64(table + 8 * (0x4000_0000u64 >> (12 + 9 * level) & 511), next | 3);
        table = next;
    }
    arena.store64(table, page | 3);
    arena.store64(contexts + 16 * 8 + 8, 5 << 8 | aw);
    arena.store64(contexts + 16 * 8, top | 1);
    arena.store64(root, contexts | 1);
    arena.publish_all();
    (root, page)
}

#[test]
fn translation_left_on_by_firmware_is_never_an_open_window() {
    for setup in single_setups().into_iter().filter(|s| !s.config.caps.scalable) {
        for policy in policies().into_iter().chain((100..120).map(Policy::Adversarial)) {
            let aw = if setup.config.caps.mgaw == 39 { 1 } else { 2 };
            let mut page = 0;
            let mut w = World::with(&setup.clone().policy(policy), |machine, _| {
                let (root, data) = firmware_tables(machine, aw);
                page = data;
                machine.model.firmware_left(root, true, None);
                assert_eq!(machine.model.probe(dev(1), None, 0x4000_0000, true), Ok(data));
                machine.watch_window();
            })
            .unwrap_or_else(|e| panic!("{e}"));
            assert!(!w.machine.window_opened(), "{}: translation was off for a moment", setup.name);
            assert!(w.report.was_translating, "{}", setup.name);
            // What firmware mapped is gone, out of the caches too.
            w.dma(dev(1), 0x4000_0000, true).unwrap_or_else(|e| panic!("{e}"));
        }
    }
}

/// Scalable units that find translation on in legacy mode may keep that mode, change it through abort-DMA mode, or say
/// that they cannot; translation is never off.
#[test]
fn legacy_tables_of_firmware_are_left_behind_on_scalable_units() {
    let (mut kept, mut changed, mut refused) = (0, 0, 0);
    for setup in single_setups().into_iter().filter(|s| s.config.caps.scalable) {
        for (abort_mode, policy) in [(false, Policy::KeepAll), (true, Policy::KeepAll), (true, Policy::Adversarial(3))]
        {
            let mut setup = setup.clone().policy(policy);
            setup.config.caps.abort_mode = abort_mode;
            let came = World::with(&setup, |machine, _| {
                let (root, _) = firmware_tables(machine, 2);
                machine.model.firmware_left(root, true, None);
                let _ = machine.model.probe(dev(1), None, 0x4000_0000, true);
                machine.watch_window();
            });
            let mut w = match came {
                Ok(w) => w,
                Err(e) if !abort_mode && e.contains("ECAP.ADMS") => {
                    refused += 1;
                    continue;
                }
                Err(e) => panic!("{e}"),
            };
            assert!(w.report.was_translating && !w.machine.window_opened(), "{}", setup.name);
            assert_eq!(w.report.scalable, abort_mode, "{}: mode", setup.name);
            if w.report.scalable {
                changed += 1
            } else {
                kept += 1
            }
            w.dma(dev(1), 0x4000_0000, true).unwrap_or_else(|e| panic!("{e}"));
            w.warm_up(&[dev(1)]).unwrap_or_else(|e| panic!("{e}"));
            let id = w.made(false).unwrap_or_else(|e| panic!("{e}"));
            w.attach(dev(1), id).unwrap_or_else(|e| panic!("{e}"));
            w.map_new(id, 0x4000_0000, 1, RW).unwrap_or_else(|e| panic!("{e}"));
            w.dma(dev(1), 0x4000_0000, true).unwrap_or_else(|e| panic!("{e}"));
            w.finish().unwrap_or_else(|e| panic!("{e}"));
        }
    }
    assert!(kept > 0 && changed > 0 && refused > 0, "{kept} {changed} {refused}");
}

/// A root table without entries, in the mode that the driver will use: RTADDR.
fn empty_root(machine: &Machine, setup: &Setup) -> u64 {
    let root = machine.arena.alloc(1, Use::Table).unwrap();
    machine.arena.publish_all();
    root | u64::from(setup.config.caps.scalable) << 10
}

#[test]
fn a_queue_left_on_by_firmware_is_taken_over() {
    for setup in single_setups().into_iter().filter(|s| s.config.caps.qi) {
        for translating in [false, true] {
            let mut w = World::with(&setup, |machine, _| {
                let root = empty_root(machine, &setup);
                let queue = machine.arena.alloc(1, Use::Table).unwrap();
                machine.model.firmware_left(root, translating, None);
                machine.model.firmware_left_queue(queue, 0x40);
            })
            .unwrap_or_else(|e| panic!("{e}"));
            w.warm_up(&[dev(1)]).unwrap_or_else(|e| panic!("{e}"));
            w.dma(dev(1), 0x4000_0000, true).unwrap_or_else(|e| panic!("{e}"));
        }
    }
}

#[test]
fn protected_regions_left_on_by_firmware_are_taken_off_last() {
    for setup in single_setups().into_iter().filter(|s| s.config.caps.protected_memory) {
        for policy in policies() {
            let all = ([0, 0xffff_ffff], [0x1_0000_0000, (1 << setup.config.caps.haw) - 1]);
            let w = World::with(&setup.clone().policy(policy), |machine, _| {
                machine.model.firmware_left(0, false, Some(all));
            });
            let mut w = w.unwrap_or_else(|e| panic!("{e}"));
            assert!(w.report.was_protecting, "{}", setup.name);
            w.warm_up(&[dev(1)]).unwrap_or_else(|e| panic!("{e}"));
            let id = w.made(false).unwrap_or_else(|e| panic!("{e}"));
            w.attach(dev(1), id).unwrap_or_else(|e| panic!("{e}"));
            w.map_new(id, 0x1000, 1, RW).unwrap_or_else(|e| panic!("{e}"));
            w.dma(dev(1), 0x1000, true).unwrap_or_else(|e| panic!("{e}"));
            w.finish().unwrap_or_else(|e| panic!("{e}"));
        }
    }
}

#[test]
fn pending_faults_of_the_firmware_are_cleared() {
    for setup in single_setups() {
        let w = World::with(&setup, |machine, _| {
            machine.model.firmware_left(empty_root(machine, &setup), true, None);
            for n in 0..3 {
                let _ = machine.model.probe(dev(n), None, 0x1000, true);
            }
        })
        .unwrap_or_else(|e| panic!("{e}"));
        assert!(w.report.stale_faults >= 1, "{}: {:?}", setup.name, w.report);
        assert!(w.faults().is_empty(), "{}: stale faults are reported as new", setup.name);
    }
}

#[test]
fn reserved_memory_is_reached_by_its_devices_only() {
    for setup in single_setups() {
        for policy in policies() {
            let setup = setup.clone().policy(policy);
            // Few ids are taken by reserved memory too.
            let (first, last) = (0x7a00_0000, 0x7a01_ffff);
            let w = World::with(&setup, |_, config| {
                config.reserved = vec![ReservedRegion {
                    range: PhysRange { first: Phys(first), last: Phys(last) },
                    streams: vec![dev(0x1a), dev(0x1d)],
                    reason: "DMAR+0x80 RMRR",
                }];
            })
            .unwrap_or_else(|e| panic!("{e}"));
            let probe = |n: u8, iova: u64| w.model().probe(dev(n), None, iova, true);
            for n in [0x1a, 0x1d] {
                assert_eq!(probe(n, first), Ok(first), "{}", setup.name);
                assert_eq!(probe(n, last), Ok(last), "{}", setup.name);
                assert!(probe(n, first - 1).is_err() && probe(n, last + 1).is_err(), "{}", setup.name);
            }
            assert!(probe(0x1b, first).is_err(), "{}", setup.name);
            assert_eq!(w.report.reserved.len(), 1, "{}", setup.name);
            assert_eq!(w.report.reserved[0].reason, "DMAR+0x80 RMRR");
            w.rules().unwrap_or_else(|e| panic!("{e}"));
        }
    }
}

#[test]
fn a_unit_without_a_queue_is_served_by_registers_or_refused_in_words() {
    let setup = Setup::new("legacy4-no-qi", Caps { qi: false, interrupt_remap: false, ..Caps::legacy() });
    let (machine, outcome) = World::try_bring_up(&setup, |_, _| {});
    assert_eq!(machine.arena.violations(), []);
    match outcome {
        Err(iommu_types::Error::Unsupported(why)) => {
            assert!(why.contains("QI"), "{why}");
            assert_eq!(machine.arena.live_tables(), 0);
        }
        Err(e) => panic!("{e:?}"),
        Ok(_) => {
            drop(machine);
            each(vec![setup], |w| {
                let id = w.made(false)?;
                w.attach(dev(1), id)?;
                for _ in 0..3 {
                    w.map_new(id, 0x1000, 3, RW)?;
                    w.dma(dev(1), 0x2000, true)?;
                    w.unmap(id, pages(0x1000, 3))?;
                    w.dma(dev(1), 0x2000, true)?;
                }
                w.block(dev(1))
            });
        }
    }
}

#[test]
fn a_unit_that_can_translate_nothing_is_refused() {
    for caps in [
        Caps { sagaw: 0, ..Caps::legacy() },
        Caps { scalable: true, second_stage: false, first_stage: false, sagaw: 0, ..Caps::legacy() },
    ] {
        let (machine, outcome) = World::try_bring_up(&Setup::new("useless", caps), |_, _| {});
        let e = outcome.err().expect("it cannot come up");
        assert!(matches!(e, iommu_types::Error::Unsupported(_) | iommu_types::Error::Impossible { .. }), "{e:?}");
        assert_eq!(machine.arena.live_tables(), 0);
    }
}
