//! Every allocation fails once: the operation answers so, changes nothing, and works afterwards; nothing leaks.
mod common;

use common::*;
use conformance::{Broken, DomainId, World, dev, setups};
use iommu_types::{Error, Resource};
use soft_iommu::vtd::Policy;

const FULL: Error = Error::Exhausted(Resource::Memory);

/// Runs `operation` with the nth allocation failing, n = 1, 2, ... until it succeeds untouched.
fn sweep(
    w: &mut World,
    what: &str,
    mut operation: impl FnMut(&mut World) -> Result<Result<(), Error>, Broken>,
) -> Result<u32, Broken> {
    for n in 1..200 {
        w.machine.arena.fail_at(n);
        let answer = operation(w)?;
        let untouched = w.machine.arena.failure_pending();
        w.machine.arena.fail_at(0);
        match (untouched, answer) {
            (true, Ok(())) => return Ok(n),
            (false, Err(FULL)) => {}
            // A driver may do with less than it asked for.
            (false, Ok(())) => return Ok(n),
            (_, other) => return Err(w.broken(format!("{what}, allocation {n} failing: {other:?}"))),
        }
        w.rules()?;
    }
    Err(w.broken(format!("{what} never succeeds")))
}

fn reaches(w: &mut World, id: DomainId) -> Result<(), Broken> {
    for page in [0x1000, 0x2000, 0x4000_0000, 0x7f_0000_0000, 0x20_0000, 0x3f_ffff_f000] {
        for n in [1, 2, 20] {
            w.dma(dev(n), page, true)?;
            w.dma(dev(n), page, false)?;
        }
    }
    let _ = id;
    Ok(())
}

#[test]
fn mapping_unwinds() {
    each(setups(), |w| {
        let id = w.made(false)?;
        w.attach(dev(1), id)?;
        w.map_new(id, 0x1000, 1, RW)?;
        // Deep, across two tables of every level below the root, in two runs.
        let edge = 0x40_0000_0000u64 - 2 * PAGE;
        let pa = w.beyond(8 * PAGE, PAGE);
        let n = sweep(w, "map", |w| {
            let answer = w.try_map(id, edge, &[(pa, 3 * PAGE), (pa + 4 * PAGE, PAGE)], RW, PAGE, false)?;
            reaches(w, id)?;
            Ok(answer)
        })?;
        check(w, n > 2, "the map allocated next to nothing")?;
        // A large leaf in a fresh region.
        let size = 1 << 21;
        let pa = w.beyond(size, size);
        sweep(w, "map of 2 MiB", |w| {
            let answer =
                w.try_map(id, 0x7f_0000_0000 & w.handle(id).info().aperture.last(), &[(pa, size)], RW, size, false)?;
            reaches(w, id)?;
            Ok(answer)
        })?;
        Ok(())
    });
}

#[test]
fn attaching_unwinds_and_leaves_the_stream_where_it_was() {
    each(setups(), |w| {
        let (a, b) = (w.made(false)?, w.made(false)?);
        w.map_new(a, 0x1000, 1, RW)?;
        w.map_new(b, 0x2000, 1, RW)?;
        w.attach(dev(1), a)?;
        // A stream with tables, one without, one on a bus without.
        for stream in [dev(1), dev(20), iommu_types::StreamId::pci(0, 0x42, 3, 1)] {
            sweep(w, "attach", |w| {
                let answer = w.try_attach(stream, b)?;
                w.dma(stream, 0x1000, true)?;
                w.dma(stream, 0x2000, true)?;
                w.dma(dev(1), 0x1000, true)?;
                Ok(answer)
            })?;
            w.block(stream)?;
            w.dma(stream, 0x2000, true)?;
        }
        w.rebase();
        Ok(())
    });
}

#[test]
fn making_domains_unwinds() {
    each(setups(), |w| {
        let tracking = w.setup.tracks;
        sweep(w, "make_domain", |w| {
            let spec = iommu_api::DomainSpec { dirty_tracking: tracking, ..Default::default() };
            let held = w.machine.arena.live_tables();
            Ok(match w.make(spec) {
                Ok(_) => Ok(()),
                Err(e) => {
                    check(w, w.machine.arena.live_tables() == held, "a failed make_domain leaks")?;
                    Err(e)
                }
            })
        })?;
        Ok(())
    });
}

#[test]
fn unmap_block_and_sync_never_allocate() {
    each(setups(), |w| {
        let id = w.made(w.setup.tracks)?;
        w.attach(dev(1), id)?;
        w.map_new(id, 0x1000, 20, RW)?;
        w.map_new(id, 0x4000_0000, 20, RW)?;
        let before = w.machine.arena.requests();
        if w.setup.tracks {
            w.track(id, true)?;
            w.dma(dev(1), 0x1000, true)?;
            w.report(id, pages(0x1000, 20), iommu_api::ReadDirty::Clear)?;
        }
        w.unmap(id, pages(0x3000, 3))?;
        w.unmap(id, pages(0, 0x5_0000))?;
        w.block(dev(1))?;
        w.destroy(id)?;
        check(w, w.machine.arena.requests() == before, "something was allocated")
    });
}

#[test]
fn bring_up_gives_everything_back_when_it_fails() {
    for setup in setups() {
        let setup = setup.policy(Policy::KeepAll);
        for n in 1..100 {
            let (machine, outcome) = World::try_bring_up(&setup, |machine, config| {
                config.streams = vec![dev(1), dev(2)];
                machine.arena.fail_at(n);
            });
            assert_eq!(machine.arena.violations(), [], "{}: allocation {n} failing", setup.name);
            match outcome {
                Ok(_) => {
                    assert!(n > 1, "{}: bring-up allocates nothing", setup.name);
                    break;
                }
                Err(e) => {
                    assert_eq!(e, FULL, "{}: allocation {n} failing", setup.name);
                    // Once the queue is on, hardware knows addresses, and the pages must not be given back.
                    let known = machine.model.r32(0x1c) != 0;
                    let held = machine.arena.live_tables();
                    assert!(held == 0 || known, "{}: leak with allocation {n} failing", setup.name);
                    assert!(!machine.model.translating());
                }
            }
        }
    }
}
