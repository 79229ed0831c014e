//! Hardware that does not answer, or refuses: a typed error in bounded time, and nothing given away.
mod common;

use common::*;
use conformance::{Broken, Setup, World, dev, setups, single_setups};
use iommu_types::{Blame, Error, Iova};
use soft_iommu::vtd::{Inject, Policy};

fn queue_setups() -> Vec<Setup> {
    single_setups().into_iter().filter(|s| s.config.caps.qi).map(|s| s.policy(Policy::KeepAll)).collect()
}

type Faults = &'static [(&'static str, fn(&mut Inject))];

/// A mapped and used page, then `fault`, then an unmap. Returns the driver's answer.
fn unmap_with(w: &mut World, fault: fn(&mut Inject)) -> Result<Result<(), Error>, Broken> {
    let id = w.made(false)?;
    w.attach(dev(1), id)?;
    w.map_new(id, 0x1000, 2, RW)?;
    w.dma(dev(1), 0x1000, true)?;
    w.model().inject(fault);
    w.try_unmap(id, pages(0x1000, 2))
}

#[test]
fn a_queue_that_stops_is_a_typed_error_and_the_tables_stay_quarantined() {
    let faults: Faults = &[
        ("stalled", |i| i.queue_stalled = true),
        ("mute", |i| i.mute_status = true),
        ("every descriptor refused", |i| i.refuse_all = true),
    ];
    for setup in queue_setups() {
        for &(name, fault) in faults {
            let run = || -> Result<(), Broken> {
                let mut w = World::new(&setup)?;
                w.warm_up(&[dev(1)])?;
                let held = w.machine.arena.live_tables();
                let answer = unmap_with(&mut w, fault)?;
                let Err(e) = answer else { return Err(w.broken(format!("{name}: unmap says it is flushed"))) };
                if e.blame() != Blame::Hardware {
                    return Err(w.broken(format!("{name}: {e:?} does not blame hardware")));
                }
                let Error::Stuck { register, .. } = e else { return Err(w.broken(format!("{name}: {e:?}"))) };
                check(&w, !register.is_empty(), "no register named")?;
                // The table pages that were cut out are held for ever, not reused under a walker.
                check(&w, w.machine.arena.live_tables() >= held, "tables were freed without a flush")?;
                let _ = w.model().probe(dev(1), None, 0x1000, true);
                w.rules()
            };
            run().unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

#[test]
fn one_refused_descriptor_is_survived() {
    let faults: Faults = &[
        ("first refused", |i| i.refuse_in = 1),
        ("second refused", |i| i.refuse_in = 2),
        ("device time-out", |i| i.time_out_in = 1),
        ("second time-out", |i| i.time_out_in = 2),
        ("completion error", |i| i.completion_error_in = 1),
    ];
    for setup in queue_setups() {
        for &(name, fault) in faults {
            let run = || -> Result<(), Broken> {
                let mut w = World::new(&setup)?;
                w.warm_up(&[dev(1)])?;
                let answer = unmap_with(&mut w, fault)?;
                w.model().inject(|i| *i = Inject::default());
                match answer {
                    // Said to be flushed: then it must be.
                    Ok(()) => {
                        w.dma(dev(1), 0x1000, true)?;
                        w.dma(dev(1), 0x2000, true)?;
                    }
                    Err(e) if e.blame() == Blame::Hardware => {}
                    Err(e) => return Err(w.broken(format!("{e:?}"))),
                }
                // The queue works again.
                let id = w.made(false)?;
                w.attach(dev(2), id)?;
                for _ in 0..3 {
                    w.map_new(id, 0x5000, 3, RW)?;
                    w.dma(dev(2), 0x6000, true)?;
                    w.unmap(id, pages(0x5000, 3))?;
                    w.dma(dev(2), 0x6000, true)?;
                }
                Ok(())
            };
            run().unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

#[test]
fn a_queue_that_comes_back_after_a_stall_serves_again() {
    for setup in queue_setups() {
        let run = || -> Result<(), Broken> {
            let mut w = World::new(&setup)?;
            w.warm_up(&[dev(1), dev(2)])?;
            let answer = unmap_with(&mut w, |i| i.queue_stalled = true)?;
            check(&w, answer.is_err(), "a stalled queue flushed")?;
            w.model().inject(|i| i.queue_stalled = false);
            for _ in 0..2000 {
                w.model().tick();
            }
            // Either it serves again, and then properly, or every flush goes on failing; never a false yes.
            let id = w.made(false)?;
            let Ok(()) = w.try_attach(dev(2), id)? else { return Ok(()) };
            w.map_new(id, 0x5000, 1, RW)?;
            w.dma(dev(2), 0x5000, true)?;
            if w.try_unmap(id, pages(0x5000, 1))?.is_ok() {
                w.dma(dev(2), 0x5000, true)?;
            }
            Ok(())
        };
        run().unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn attach_and_block_report_a_stalled_queue() {
    for setup in queue_setups() {
        let run = || -> Result<(), Broken> {
            let mut w = World::new(&setup)?;
            w.warm_up(&[dev(1)])?;
            let id = w.made(false)?;
            w.map_new(id, 0x1000, 1, RW)?;
            w.attach(dev(1), id)?;
            w.dma(dev(1), 0x1000, true)?;
            w.model().inject(|i| i.queue_stalled = true);
            let blocked = w.unit.block(dev(1), None);
            let Err(e) = blocked else { return Err(w.broken("blocked without a flush")) };
            check(&w, e.blame() == Blame::Hardware, &format!("{e:?}"))
        };
        run().unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn a_report_over_a_stalled_queue_is_not_complete() {
    for setup in queue_setups().into_iter().filter(|s| s.tracks) {
        let run = || -> Result<(), Broken> {
            let mut w = World::new(&setup)?;
            w.warm_up(&[dev(1)])?;
            let id = w.made(true)?;
            w.map_new(id, 0x1000, 4, RW)?;
            w.attach(dev(1), id)?;
            w.track(id, true)?;
            w.dma(dev(1), 0x2000, true)?;
            w.model().inject(|i| i.queue_stalled = true);
            let handle = w.handle(id);
            let gather = handle
                .read_dirty(pages(0x1000, 4), PAGE, iommu_api::ReadDirty::Clear, &mut |_| Ok(()))
                .map_err(|e| w.broken(format!("{e}")))?;
            check(&w, handle.sync(gather).is_err(), "synced over a stalled queue")?;
            check(&w, handle.translate(Iova(0x1000)).is_some(), "the mapping went")
        };
        run().unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn bring_up_of_a_unit_that_does_not_answer_fails_with_the_register() {
    let faults: Faults = &[
        ("SRTP", |i| i.gsts_stuck = 1 << 30),
        ("TE", |i| i.gsts_stuck = 1 << 31),
        ("QIE", |i| i.gsts_stuck = 1 << 26),
        ("gone", |i| i.dead = true),
    ];
    for setup in single_setups() {
        for &(name, fault) in faults {
            let (machine, outcome) = World::try_bring_up(&setup, |machine, _| machine.model.inject(fault));
            let Err(e) = outcome else { panic!("{}: {name}: came up", setup.name) };
            assert_eq!(e.blame(), Blame::Hardware, "{}: {name}: {e:?}", setup.name);
            match e {
                Error::Stuck { register, .. } => assert!(register.starts_with("GSTS"), "{name}: {register}"),
                Error::Impossible { .. } => assert_eq!(name, "gone"),
                other => panic!("{}: {name}: {other:?}", setup.name),
            }
            assert_eq!(machine.arena.violations(), [], "{}: {name}", setup.name);
        }
    }
}

#[test]
fn a_unit_that_leaves_the_bus_is_an_error_not_a_hang() {
    for setup in queue_setups() {
        let run = || -> Result<(), Broken> {
            let mut w = World::new(&setup)?;
            w.warm_up(&[dev(1)])?;
            let answer = unmap_with(&mut w, |i| i.dead = true)?;
            let Err(e) = answer else { return Err(w.broken("a dead unit flushed")) };
            check(&w, e.blame() == Blame::Hardware, &format!("{e:?}"))?;
            let _ = w.faults(); // must end
            let _ = w.unit.status();
            Ok(())
        };
        run().unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn fault_records_overflow_and_come_back() {
    for setup in single_setups() {
        let run = || -> Result<(), Broken> {
            let mut w = World::new(&setup)?;
            for round in 0..3 {
                for n in 1..20 {
                    w.dma(dev(n), 0x1000, true)?;
                }
                let list = w.faults();
                let records = usize::from(setup.config.caps.fault_records);
                check(&w, !list.is_empty() && list.len() <= records, &format!("round {round}: {}", list.len()))?;
                check(&w, w.faults().is_empty(), "faults came back")?;
            }
            Ok(())
        };
        run().unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn a_stuck_unit_does_not_keep_the_other_from_being_flushed() {
    for setup in setups().into_iter().filter(|s| s.second.is_some()) {
        let run = || -> Result<(), Broken> {
            let mut w = World::new(&setup)?;
            w.warm_up(&[dev(1), dev(2)])?;
            let id = w.made(false)?;
            w.attach(dev(1), id)?; // second unit
            w.attach(dev(2), id)?; // first unit
            w.map_new(id, 0x1000, 1, RW)?;
            w.dma(dev(1), 0x1000, true)?;
            w.dma(dev(2), 0x1000, true)?;
            w.model().inject(|i| i.queue_stalled = true);
            let answer = w.try_unmap(id, pages(0x1000, 1))?;
            check(&w, answer.is_err_and(|e| e.blame() == Blame::Hardware), "flushed over a stalled queue")?;
            w.dma(dev(1), 0x1000, true)?; // refused: the oracle has it unmapped
            w.rules()
        };
        run().unwrap_or_else(|e| panic!("{e}"));
    }
}
