//! Several threads at once: a device that writes, a program that maps and unmaps, a migration that copies.
mod common;

use common::*;
use conformance::{World, dev, dirty_setups, setups};
use iommu_api::{ReadDirty, SinkFull};
use iommu_types::{Iova, IovaRange, Phys, PhysRun};
use soft_iommu::vtd::Policy;
use soft_iommu::{Rng, Use};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const COUNT: u64 = 48;
const FIRST: u64 = 0x3fff_8000; // over the end of a table of every level below the third

/// Virtual time runs once per polling thread, so deadlines are far away here.
fn patient(setup: &conformance::Setup) -> World {
    World::with(setup, |_, config| {
        config.budgets.command_ns = 1 << 40;
        config.budgets.invalidate_ns = 1 << 40;
    })
    .unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_migration_loses_nothing_while_the_device_writes() {
    for setup in dirty_setups() {
        for policy in [Policy::KeepAll, Policy::Adversarial(11)] {
            let mut w = patient(&setup.clone().policy(policy));
            let streams = [dev(1), dev(2)];
            let mut prepare = || -> Result<(usize, u64), String> {
                w.warm_up(&streams)?;
                let id = w.made(true)?;
                let pa = w.map_new(id, FIRST, COUNT, RW)?;
                w.attach(dev(1), id)?;
                w.attach(dev(2), id)?;
                w.track(id, true)?;
                Ok((id, pa))
            };
            let (id, pa) = prepare().unwrap_or_else(|e| panic!("{e}"));
            let domain = w.handle(id);
            let arena = w.machine.arena.clone();
            let (stop, accesses) = (AtomicBool::new(false), AtomicU64::new(0));
            let word = |page: u64, n: u64| pa + page * PAGE + 8 * n;
            let mut copy = vec![[0u64; 8]; COUNT as usize];
            let mut sent = 0usize;
            std::thread::scope(|scope| {
                for (n, stream) in streams.into_iter().enumerate() {
                    let (w, stop, accesses) = (&w, &stop, &accesses);
                    scope.spawn(move || {
                        let mut rng = Rng::new(n as u64 + 5);
                        while !stop.load(Ordering::Relaxed) {
                            accesses.fetch_add(1, Ordering::Relaxed);
                            let iova = FIRST + rng.below(COUNT) * PAGE + (4 * n as u64 + rng.below(4)) * 8;
                            let side = w.model_of(stream);
                            if rng.one_in(4) {
                                side.dma_read(stream, None, iova, &mut [0; 8]).expect("mapped");
                            } else {
                                side.dma_write(stream, None, iova, &rng.next_u64().to_le_bytes()).expect("mapped");
                            }
                        }
                    });
                }
                let (other, frames, quit) = (domain.clone(), arena.clone(), &stop);
                scope.spawn(move || {
                    let mut rng = Rng::new(99);
                    while !quit.load(Ordering::Relaxed) {
                        let pages = 1 + rng.below(6);
                        let Some(base) = frames.alloc(pages as usize, Use::Data) else { break };
                        let iova = 0x9000_0000 + rng.below(1000) * PAGE;
                        let run = [PhysRun { base: Phys(base), length: pages * PAGE }];
                        let gather = other.map(Iova(iova), &run, RW, 1 << 30).expect("map");
                        other.sync(gather).expect("sync");
                        let range = IovaRange::sized(iova, pages * PAGE).expect("range");
                        let (bytes, gather) = other.unmap(range).expect("unmap");
                        other.sync(gather).expect("sync");
                        assert_eq!(bytes, pages * PAGE);
                        frames.release(base, pages as usize);
                    }
                });
                let mut round = |sent: &mut usize| {
                    let mut runs = Vec::new();
                    let mut sink = |run: IovaRange| -> Result<(), SinkFull> {
                        runs.push(run);
                        Ok(())
                    };
                    let range = IovaRange::sized(FIRST, COUNT * PAGE).expect("range");
                    let gather = domain.read_dirty(range, PAGE, ReadDirty::Clear, &mut sink).expect("report");
                    domain.sync(gather).expect("sync");
                    for run in runs {
                        for page in (run.first() - FIRST) / PAGE..=(run.last() - FIRST) / PAGE {
                            for n in 0..8 {
                                copy[page as usize][n as usize] = arena.load64(word(page, n));
                            }
                            *sent += 1;
                        }
                    }
                };
                let mut rounds = 0;
                while rounds < 20 || accesses.load(Ordering::Relaxed) < 1500 {
                    round(&mut sent);
                    rounds += 1;
                }
                stop.store(true, Ordering::Relaxed);
                // Writes that are under way end before the model answers once more.
                let _ = (w.model_of(dev(1)).stats(), w.model_of(dev(2)).stats());
                std::thread::sleep(std::time::Duration::from_millis(2));
                round(&mut sent);
            });
            // The devices have stopped; whatever they wrote since the last round is in one more.
            let mut runs = Vec::new();
            let mut sink = |run: IovaRange| -> Result<(), SinkFull> {
                runs.push(run);
                Ok(())
            };
            let range = IovaRange::sized(FIRST, COUNT * PAGE).expect("range");
            let gather = domain.read_dirty(range, PAGE, ReadDirty::Clear, &mut sink).expect("report");
            domain.sync(gather).expect("sync");
            let last = |page: u64| runs.iter().any(|r| r.holds(FIRST + page * PAGE));
            for page in 0..COUNT {
                for n in 0..8 {
                    let now = arena.load64(word(page, n));
                    let same = copy[page as usize][n as usize] == now || last(page);
                    assert!(same, "{} {policy:?}: page {page} differs and nobody said so", setup.name);
                }
            }
            assert!(sent > 0, "{}: nothing was dirty", setup.name);
            w.rules().unwrap_or_else(|e| panic!("{e}"));
        }
    }
}

#[test]
fn threads_that_attach_map_and_unmap_share_one_queue() {
    for setup in setups().into_iter().filter(|s| s.name != "legacy4-few-ids") {
        let mut w = patient(&setup.policy(Policy::KeepAll));
        let streams = [dev(1), dev(2), dev(3)];
        w.warm_up(&streams).unwrap_or_else(|e| panic!("{e}"));
        let held = w.machine.arena.live_tables();
        std::thread::scope(|scope| {
            for (n, stream) in streams.into_iter().enumerate() {
                let w = &w;
                scope.spawn(move || {
                    let unit = w.unit_of(stream);
                    let model = w.model_of(stream);
                    let arena = &w.machine.arena;
                    for round in 0..12u64 {
                        let domain = unit.make_domain(Default::default()).expect("domain");
                        let base = arena.alloc(3, Use::Data).expect("frames");
                        let run = [PhysRun { base: Phys(base), length: 3 * PAGE }];
                        let iova = 0x20_0000 * (round % 3) + 0x1000 * n as u64;
                        unit.attach(stream, None, &domain).expect("attach");
                        domain.sync(domain.map(Iova(iova), &run, RW, PAGE).expect("map")).expect("sync");
                        model.dma_write(stream, None, iova + PAGE, &round.to_le_bytes()).expect("mapped");
                        assert_eq!(arena.load64(base + PAGE), round);
                        let (bytes, gather) = domain.unmap(pages(iova, 3)).expect("unmap");
                        domain.sync(gather).expect("sync");
                        assert_eq!(bytes, 3 * PAGE);
                        arena.release(base, 3);
                        assert!(model.dma_write(stream, None, iova + PAGE, &[1]).is_err(), "reached after unmap");
                        unit.block(stream, None).expect("block");
                    }
                });
            }
        });
        assert_eq!(w.machine.arena.live_tables(), held, "{}: leak", w.setup.name);
        w.rules().unwrap_or_else(|e| panic!("{e}"));
    }
}
