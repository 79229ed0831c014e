//! Random operations against the oracle. Each failure names the seed.

use crate::setup::Setup;
use crate::world::{Broken, DomainId, Who, World, dev};
use iommu_api::ReadDirty;
use iommu_types::{Access, Error, IovaRange, Resource};
use soft_iommu::Rng;

const PAGE: u64 = 4096;
const RW: Access = Access::READ.union(Access::WRITE);

/// How much of what.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Operations.
    pub ops: u32,
    /// Domains alive at once.
    pub domains: usize,
    /// Devices.
    pub streams: u8,
    /// Domains can track, and do so for about half of the time.
    pub tracking: bool,
}

impl Plan {
    /// A few devices, a few domains.
    pub const fn new(ops: u32, tracking: bool) -> Self {
        Self { ops, domains: 4, streams: 3, tracking }
    }
}

struct Run {
    world: World,
    rng: Rng,
    plan: Plan,
    /// Where maps go: around table borders of every level.
    bases: Vec<u64>,
    requesters: Vec<Who>,
    /// Places unmapped a short while ago.
    ghosts: Vec<u64>,
    large: Vec<u64>,
    /// Where devices were a short while ago: they come back.
    hot: Vec<(Who, u64)>,
}

/// Runs `plan` on a new world.
///
/// # Errors
/// The story, with the seed.
pub fn run_random(setup: &Setup, seed: u64, plan: Plan) -> Result<(), Broken> {
    let told = |e: Broken| format!("seed {seed}: {e}");
    let mut world = World::new(setup).map_err(told)?;
    let mut requesters: Vec<Who> = (1..=plan.streams).map(|n| dev(n).into()).collect();
    if setup.pasids() {
        // Same and different pages of the PASID table, on one device and on two.
        requesters.extend([(dev(1), 1).into(), (dev(1), 70).into(), (dev(2), 1).into(), Who::from((dev(2), 4095))]);
    }
    world.warm_up(&requesters).map_err(told)?;
    let id = world.made(plan.tracking).map_err(told)?;
    let info = world.handle(id).info();
    let top = info.aperture.last();
    let mut bases = vec![0x10_0000, 0x3fe0_0000, 0x1_3fc0_0000];
    if top >= 1 << 40 {
        bases.extend([0x7f_ffc0_0000, (1 << 40) - 0x20_0000]);
    }
    bases.push((top + 1).saturating_sub(0x80_0000) & !0x1f_ffff);
    let large = [1 << 21, 1 << 30].into_iter().filter(|&s| info.page_sizes.has(s)).collect();
    let mut run =
        Run { world, rng: Rng::new(seed), plan, bases, requesters, ghosts: Vec::new(), large, hot: Vec::new() };
    for _ in 0..plan.ops {
        run.step().map_err(told)?;
    }
    run.world.finish().map_err(told)
}

impl Run {
    fn pick_domain(&mut self) -> DomainId {
        let list = self.world.domains();
        list[self.rng.below(list.len() as u64) as usize]
    }

    fn pick_stream(&mut self) -> Who {
        self.requesters[self.rng.below(self.requesters.len() as u64) as usize]
    }

    fn pick_iova(&mut self) -> u64 {
        let base = self.bases[self.rng.below(self.bases.len() as u64) as usize];
        base + self.rng.below(1024) * PAGE
    }

    fn step(&mut self) -> Result<(), Broken> {
        match self.rng.below(100) {
            0..=49 => self.access(),
            50..=62 => self.map(),
            63..=64 => self.map_large(),
            65..=74 => self.unmap(),
            75..=80 => self.attach(),
            81..=83 => self.block(),
            84..=85 => self.new_or_destroyed_domain(),
            86..=89 => self.unmap_under_dma(),
            90 => {
                let _ = self.world.faults();
                Ok(())
            }
            91..=92 if self.plan.tracking => self.track(),
            93..=99 if self.plan.tracking => self.report(),
            _ => self.access(),
        }
    }

    fn access(&mut self) -> Result<(), Broken> {
        if !self.hot.is_empty() && self.rng.one_in(3) {
            let (who, iova) = self.hot[self.rng.below(self.hot.len() as u64) as usize];
            return self.world.dma(who, iova, !self.rng.one_in(4)).map(|_| ());
        }
        let stream = self.pick_stream();
        let write = self.rng.one_in(2);
        let known = self.world.attached(stream).map(|id| self.world.space(id));
        let mut iova = match known {
            Some(space) if !space.is_empty() && !self.rng.one_in(5) => {
                let n = self.rng.below(space.len() as u64) as usize;
                match space.extents().nth(n) {
                    Some((first, extent)) => first + self.rng.below((extent.last - first) / 8 + 1) * 8,
                    None => self.bases[0],
                }
            }
            _ if !self.ghosts.is_empty() && !self.rng.one_in(3) => {
                self.ghosts[self.rng.below(self.ghosts.len() as u64) as usize]
            }
            _ => self.pick_iova(),
        };
        // Now and then just outside.
        if self.rng.one_in(16) {
            iova = iova.wrapping_add(PAGE);
        }
        if iova & !0xf_ffff == 0xfee0_0000 && stream.pasid.is_none() {
            return Ok(());
        }
        if self.world.dma(stream, iova, write)? {
            if self.hot.len() == 12 {
                let oldest = self.rng.below(12) as usize;
                self.hot.remove(oldest);
            }
            self.hot.push((stream, iova));
        }
        Ok(())
    }

    fn map(&mut self) -> Result<(), Broken> {
        let id = self.pick_domain();
        if self.world.space(id).len() > 40 {
            return self.unmap();
        }
        let iova = self.pick_iova();
        let access = match self.rng.below(6) {
            0 => Access::READ,
            _ => RW,
        };
        let mut runs = Vec::new();
        for _ in 0..1 + self.rng.below(3) {
            let pages = 1 + self.rng.below(9);
            match self.world.frames(pages) {
                Some(pa) => runs.push((pa, pages * PAGE)),
                None => break,
            }
        }
        if runs.is_empty() {
            return self.unmap();
        }
        let total: u64 = runs.iter().map(|r| r.1).sum();
        let aperture = self.world.handle(id).info().aperture;
        let fits = IovaRange::sized(iova, total).is_some_and(|r| aperture.contains(&r));
        let done = self.world.try_map(id, iova, &runs, access, 1 << 30, true)?;
        if let Err(e) = done {
            for (pa, length) in runs {
                self.world.machine.arena.release(pa, (length / PAGE) as usize);
            }
            if fits && e != Error::Exists {
                return Err(self.world.broken(format!("map: {e}")));
            }
        } else if !fits {
            return Err(self.world.broken("mapped outside of the aperture"));
        }
        Ok(())
    }

    fn map_large(&mut self) -> Result<(), Broken> {
        let id = self.pick_domain();
        let Some(&size) = self.large.get(self.rng.below(self.large.len() as u64) as usize) else { return self.map() };
        let base = self.bases[self.rng.below(self.bases.len() as u64) as usize];
        let count = 1 + self.rng.below(3);
        // Sometimes aligned, sometimes off by a page on both sides, sometimes on one.
        let (skew_iova, skew_pa) = [(0, 0), (0, 0), (PAGE, PAGE), (0, PAGE)][self.rng.below(4) as usize];
        let iova = (base & !(size - 1)) + skew_iova;
        if size * count + skew_iova > 1 << 32 {
            return Ok(());
        }
        let odd = skew_pa != skew_iova;
        let length = if size == 1 << 30 && odd { 64 * PAGE } else { size * count };
        let pa = self.world.beyond(length + 4 * PAGE, size) + skew_pa;
        let max = if self.rng.one_in(4) && length <= 4 << 21 { PAGE } else { 1 << 30 };
        let aperture = self.world.handle(id).info().aperture;
        let Some(range) = IovaRange::sized(iova, length) else { return Ok(()) };
        let window = IovaRange::new(0xfee0_0000, 0xfeef_ffff).unwrap_or(range);
        if !aperture.contains(&range) || range.overlaps(&window) {
            return Ok(());
        }
        // In one run, in runs that touch, or with a page left out between two.
        let cut = (1 + self.rng.below(length / PAGE - 1)) * PAGE;
        let runs = match self.rng.below(3) {
            0 => vec![(pa, cut), (pa + cut, length - cut)],
            1 => vec![(pa, cut), (pa + cut + PAGE, length - cut)],
            _ => vec![(pa, length)],
        };
        match self.world.try_map(id, iova, &runs, RW, max, false)? {
            Ok(()) | Err(Error::Exists) => Ok(()),
            Err(e) => Err(self.world.broken(format!("map: {e}"))),
        }
    }

    fn unmap(&mut self) -> Result<(), Broken> {
        let id = self.pick_domain();
        let Some(range) = self.pick_unmap(id) else { return Ok(()) };
        self.remember(range);
        match self.world.try_unmap(id, range)? {
            Ok(()) | Err(Error::Invalid("cuts a leaf")) => Ok(()),
            Err(e) => Err(self.world.broken(format!("unmap: {e}"))),
        }
    }

    fn remember(&mut self, range: IovaRange) {
        if self.ghosts.len() > 64 {
            self.ghosts.drain(..32);
        }
        self.ghosts.extend([range.first(), range.last() & !(PAGE - 1)]);
    }

    fn pick_unmap(&mut self, id: DomainId) -> Option<IovaRange> {
        let space = self.world.space(id);
        if space.is_empty() {
            return None;
        }
        let n = self.rng.below(space.len() as u64) as usize;
        let (first, extent) = space.extents().nth(n)?;
        let pages = (extent.last - first) / PAGE + 1;
        Some(match self.rng.below(4) {
            // A part.
            0 => {
                let from = self.rng.below(pages);
                let count = 1 + self.rng.below(pages - from);
                IovaRange::sized(first + from * PAGE, count * PAGE)?
            }
            // The extent with holes and perhaps neighbours.
            1 => {
                let before = (first / PAGE).min(self.rng.below(20));
                let last = extent.last.saturating_add(self.rng.below(20) * PAGE);
                IovaRange::new(first - before * PAGE, last.min(self.world.handle(id).info().aperture.last()))?
            }
            _ => IovaRange::new(first, extent.last)?,
        })
    }

    fn attach(&mut self) -> Result<(), Broken> {
        let (stream, id) = (self.pick_stream(), self.pick_domain());
        self.world.attach(stream, id)
    }

    fn block(&mut self) -> Result<(), Broken> {
        let stream = self.pick_stream();
        self.world.block(stream)
    }

    fn new_or_destroyed_domain(&mut self) -> Result<(), Broken> {
        let list = self.world.domains();
        if list.len() < self.plan.domains {
            let spec = iommu_api::DomainSpec { dirty_tracking: self.plan.tracking, ..Default::default() };
            return match self.world.make(spec) {
                Ok(_) | Err(Error::Exhausted(Resource::DomainIds)) => Ok(()),
                Err(e) => Err(self.world.broken(format!("make_domain: {e}"))),
            };
        }
        let id = self.pick_domain();
        for who in self.requesters.clone() {
            if self.world.attached(who) == Some(id) {
                self.world.block(who)?;
            }
        }
        self.world.destroy(id)
    }

    /// A write is on its way while its page is unmapped.
    fn unmap_under_dma(&mut self) -> Result<(), Broken> {
        let stream = self.pick_stream();
        let Some(id) = self.world.attached(stream) else { return Ok(()) };
        let space = self.world.space(id);
        if space.is_empty() {
            return Ok(());
        }
        let n = self.rng.below(space.len() as u64) as usize;
        let Some((first, extent)) = space.extents().nth(n) else { return Ok(()) };
        if !extent.access.contains(Access::WRITE) {
            return Ok(());
        }
        let pages = (extent.last - first) / PAGE + 1;
        let iova = first + self.rng.below(pages) * PAGE;
        self.world.begin_dma(stream, iova)?;
        let range = IovaRange::new(first, extent.last).ok_or("an extent")?;
        self.remember(range);
        match self.world.try_unmap(id, range)? {
            Ok(()) => {}
            // The write lands in memory that is still mapped.
            Err(Error::Invalid("cuts a leaf")) => self.world.land(),
            Err(e) => return Err(self.world.broken(format!("unmap: {e}"))),
        }
        self.world.dma(stream, iova, true).map(|_| ())
    }

    fn track(&mut self) -> Result<(), Broken> {
        let id = self.pick_domain();
        let on = !self.rng.one_in(4);
        self.world.track(id, on)
    }

    fn report(&mut self) -> Result<(), Broken> {
        let list: Vec<_> = self.world.domains().into_iter().filter(|&id| self.world.space(id).tracking).collect();
        if list.is_empty() {
            return self.track();
        }
        let id = list[self.rng.below(list.len() as u64) as usize];
        let aperture = self.world.handle(id).info().aperture;
        let range = match self.rng.below(3) {
            0 => aperture,
            1 => {
                let first = self.pick_iova();
                let pages = 1 + self.rng.below(512);
                match IovaRange::sized(first, pages * PAGE).and_then(|r| r.intersect(&aperture)) {
                    Some(range) => range,
                    None => return Ok(()),
                }
            }
            _ => match self.pick_unmap(id).and_then(|r| r.intersect(&aperture)) {
                Some(range) => range,
                None => return Ok(()),
            },
        };
        let how = if self.rng.one_in(5) { ReadDirty::Keep } else { ReadDirty::Clear };
        self.world.report(id, range, how).map(|_| ())
    }
}
