//! One machine, one driver, one oracle.

use crate::machine::{Machine, Memory, Registers, VirtualClock};
use crate::oracle::{Extent, Space};
use crate::setup::Setup;
use iommu_api::{Domain, DomainSpec, IommuUnit, ReadDirty, SinkFull};
use iommu_types::{Access, Error, Fault, Iova, IovaRange, Pasid, Phys, PhysRun, StreamId, UnitId};
use soft_iommu::vtd::{Policy, Refused, Vtd};
use soft_iommu::{Arena, DmaWrite, Use};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use vtd::{BringUpReport, Unit, UnitConfig};

const PAGE: u64 = 4096;
/// Where the arena lies.
pub const MEMORY: u64 = 0x1_0000_0000;
/// Physical addresses beyond the arena, for large leaves nobody reads back.
const BEYOND: u64 = 0x20_0000_0000;
/// Pages of a report handed to a test.
const MANY: usize = 4096;
/// Operations kept for the story of a failure.
const STORY: usize = 30;

/// What went wrong, with the last operations before it.
pub type Broken = String;

/// Index of a domain in its world.
pub type DomainId = usize;

/// Device `n` on bus 0.
pub fn dev(n: u8) -> StreamId {
    StreamId::pci(0, 0, n, 0)
}

/// A requester, with or without a PASID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Who {
    /// The device.
    pub stream: StreamId,
    /// Its PASID.
    pub pasid: Option<Pasid>,
}

impl From<StreamId> for Who {
    fn from(stream: StreamId) -> Self {
        Self { stream, pasid: None }
    }
}

impl From<(StreamId, u32)> for Who {
    fn from((stream, pasid): (StreamId, u32)) -> Self {
        Self { stream, pasid: Some(Pasid(pasid)) }
    }
}

struct Place {
    handle: Arc<dyn Domain>,
    space: Space,
}

/// One machine with a driver on it.
pub struct World {
    /// Its setup.
    pub setup: Setup,
    /// Memory and first unit.
    pub machine: Arc<Machine>,
    /// The driver of the first unit.
    pub unit: Arc<dyn IommuUnit>,
    second: Option<(Arc<Machine>, Arc<dyn IommuUnit>)>,
    /// What bring-up of the first unit said.
    pub report: BringUpReport,
    places: Vec<Option<Place>>,
    streams: BTreeMap<Who, DomainId>,
    known: Vec<Who>,
    baseline: usize,
    story: Vec<String>,
    next_beyond: u64,
    remote_top: u64,
}

impl World {
    /// Brings the unit up; every stream is then blocked.
    ///
    /// # Errors
    /// The story, if bring-up failed or broke a rule.
    pub fn new(setup: &Setup) -> Result<Self, Broken> {
        Self::with(setup, |_, _| {})
    }

    /// The same, with a hand on the machine and the configuration before the driver touches it.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with(setup: &Setup, prepare: impl FnOnce(&Machine, &mut UnitConfig)) -> Result<Self, Broken> {
        let (machine, outcome) = Self::try_bring_up(setup, prepare);
        let (unit, report) = outcome.map_err(|e| format!("{}: bring-up: {e}", setup.name))?;
        let second = match setup.second {
            Some(caps) => {
                let mut other = setup.clone();
                other.config.caps = caps;
                let (machine, outcome) = Self::one_more(&other, machine.arena.clone(), |_, _| {}, UnitId(1));
                let (unit, _) = outcome.map_err(|e| format!("{}: bring-up of the second: {e}", setup.name))?;
                Some((machine, unit))
            }
            None => None,
        };
        let world = Self {
            setup: setup.clone(),
            machine,
            unit,
            second,
            report,
            places: Vec::new(),
            streams: BTreeMap::new(),
            known: Vec::new(),
            baseline: 0,
            story: Vec::new(),
            next_beyond: 0,
            remote_top: 1 << setup.config.caps.haw,
        };
        world.rules()?;
        if !world.machine.model.translating() {
            return Err(world.broken("translation is off after bring-up"));
        }
        // Red twins begin here: a machine broken from the start would already show in bring-up.
        for machine in world.machines() {
            machine.model.inject(|i| i.swallow = setup.swallow);
        }
        world.machine.arena.swallow_publish(setup.swallow_publish);
        Ok(world)
    }

    /// Bring-up alone, for what happens when it fails.
    #[allow(clippy::type_complexity)]
    pub fn try_bring_up(
        setup: &Setup,
        prepare: impl FnOnce(&Machine, &mut UnitConfig),
    ) -> (Arc<Machine>, Result<(Arc<dyn IommuUnit>, BringUpReport), Error>) {
        let mib = 64;
        let arena = if setup.stale { Arena::with_stale_view(MEMORY, mib) } else { Arena::new(MEMORY, mib) };
        Self::one_more(setup, Arc::new(arena), prepare, UnitId(0))
    }

    #[allow(clippy::type_complexity)]
    fn one_more(
        setup: &Setup,
        arena: Arc<Arena>,
        prepare: impl FnOnce(&Machine, &mut UnitConfig),
        id: UnitId,
    ) -> (Arc<Machine>, Result<(Arc<dyn IommuUnit>, BringUpReport), Error>) {
        let model = Arc::new(Vtd::new(arena.clone(), setup.config));
        let sampling = matches!(setup.config.policy, Policy::Adversarial(_));
        let machine = Machine::new(arena, model, sampling);
        let mut config = UnitConfig::new(id, if id.0 == 0 { "vtd0" } else { "vtd1" });
        config.oem_id = setup.oem;
        config.phys_bits = setup.config.caps.haw;
        config.table = setup.table;
        config.quirks_off = setup.quirks_off.clone();
        config.budgets.command_ns = 20_000;
        config.budgets.invalidate_ns = 40_000;
        prepare(&machine, &mut config);
        let clock = VirtualClock::new(vec![machine.clone()]);
        machine.model.begin_op();
        let made = Unit::bring_up(config, Registers(machine.clone()), Arc::new(Memory(machine.clone())), clock);
        machine.model.end_op();
        (machine, made.map(|(unit, report)| (unit as Arc<dyn IommuUnit>, report)))
    }

    /// A failure, with the story so far.
    pub fn broken(&self, what: impl AsRef<str>) -> Broken {
        let mut out = format!("{} ({:?}): {}", self.setup.name, self.setup.config.policy, what.as_ref());
        for line in &self.story {
            let _ = write!(out, "\n    {line}");
        }
        out
    }

    fn tell(&mut self, line: String) {
        if self.story.len() == STORY {
            self.story.remove(0);
        }
        self.story.push(line);
    }

    /// No rule of the specification was broken.
    ///
    /// # Errors
    /// The first violation.
    pub fn rules(&self) -> Result<(), Broken> {
        if self.machine.arena.violation_count() == 0 {
            return Ok(());
        }
        let list = self.machine.arena.violations();
        Err(self.broken(format!("{} rules broken, the first: {}", self.machine.arena.violation_count(), list[0])))
    }

    fn machines(&self) -> Vec<&Arc<Machine>> {
        std::iter::once(&self.machine).chain(self.second.as_ref().map(|s| &s.0)).collect()
    }

    /// The machine and the driver that serve a device.
    fn side(&self, stream: StreamId) -> (Arc<Machine>, Arc<dyn IommuUnit>) {
        match &self.second {
            Some((machine, unit)) if stream.id >> 3 & 1 != 0 => (machine.clone(), unit.clone()),
            _ => (self.machine.clone(), self.unit.clone()),
        }
    }

    /// The driver that serves a device.
    pub fn unit_of(&self, stream: StreamId) -> Arc<dyn IommuUnit> {
        self.side(stream).1
    }

    /// The model that serves a device.
    pub fn model_of(&self, stream: StreamId) -> Arc<Vtd> {
        self.side(stream).0.model.clone()
    }

    /// The model.
    pub fn model(&self) -> &Vtd {
        &self.machine.model
    }

    fn place(&self, id: DomainId) -> &Place {
        self.places[id].as_ref().expect("a domain of the scenario")
    }

    /// The driver's domain.
    pub fn handle(&self, id: DomainId) -> Arc<dyn Domain> {
        self.place(id).handle.clone()
    }

    /// The oracle's view of it.
    pub fn space(&self, id: DomainId) -> &Space {
        &self.place(id).space
    }

    /// Domains alive.
    pub fn domains(&self) -> Vec<DomainId> {
        (0..self.places.len()).filter(|&n| self.places[n].is_some()).collect()
    }

    /// The domain a stream is attached to.
    pub fn attached(&self, who: impl Into<Who>) -> Option<DomainId> {
        self.streams.get(&who.into()).copied()
    }

    /// Attaches and blocks each stream once, so that its tables exist; what is held then is the baseline for leaks.
    ///
    /// # Errors
    /// The story.
    pub fn warm_up<W: Into<Who> + Copy>(&mut self, streams: &[W]) -> Result<(), Broken> {
        self.known = streams.iter().map(|w| (*w).into()).collect();
        let id = self.make(DomainSpec::default()).map_err(|e| self.broken(format!("make_domain: {e}")))?;
        for who in self.known.clone() {
            self.attach(who, id)?;
            self.block(who)?;
        }
        self.destroy(id)?;
        self.baseline = self.machine.arena.live_tables();
        Ok(())
    }

    /// Forgets the baseline: [`finish`](Self::finish) then does not count tables.
    pub fn rebase(&mut self) {
        self.baseline = 0;
    }

    /// A new domain, or the driver's error.
    ///
    /// # Errors
    /// The driver's.
    pub fn make(&mut self, spec: DomainSpec) -> Result<DomainId, Error> {
        self.tell(format!("make_domain {spec:?}"));
        let handle = self.unit.make_domain(spec)?;
        self.places.push(Some(Place { handle, space: Space::default() }));
        Ok(self.places.len() - 1)
    }

    /// A new domain that must be possible.
    ///
    /// # Errors
    /// The story.
    pub fn made(&mut self, tracking: bool) -> Result<DomainId, Broken> {
        let spec = DomainSpec { dirty_tracking: tracking, ..DomainSpec::default() };
        self.make(spec).map_err(|e| self.broken(format!("make_domain: {e}")))
    }

    /// Unmaps everything and gives the domain up. No stream may be attached.
    ///
    /// # Errors
    /// The story.
    pub fn destroy(&mut self, id: DomainId) -> Result<(), Broken> {
        // Extents that touch may share a leaf.
        let mut ranges: Vec<IovaRange> = Vec::new();
        for (first, extent) in self.place(id).space.extents() {
            let range = IovaRange::new(first, extent.last).expect("an extent");
            match ranges.last_mut() {
                Some(last) if last.last().checked_add(1) == Some(first) => *last = last.hull(&range),
                _ => ranges.push(range),
            }
        }
        for range in ranges {
            self.unmap(id, range)?;
        }
        self.tell(format!("destroy {id}"));
        self.places[id] = None;
        self.rules()
    }

    /// Moves a stream to a domain.
    ///
    /// # Errors
    /// The story, if the driver refuses or breaks a rule.
    pub fn attach(&mut self, who: impl Into<Who>, id: DomainId) -> Result<(), Broken> {
        match self.try_attach(who, id)? {
            Ok(()) => Ok(()),
            Err(e) => Err(self.broken(format!("attach: {e}"))),
        }
    }

    /// The same, with the driver's own answer inside.
    ///
    /// # Errors
    /// The story, if a rule is broken.
    pub fn try_attach(&mut self, who: impl Into<Who>, id: DomainId) -> Result<Result<(), Error>, Broken> {
        let who = who.into();
        self.tell(format!("attach {who:?} to {id}"));
        let handle = self.handle(id);
        let (machine, unit) = self.side(who.stream);
        machine.model.begin_op();
        let done = unit.attach(who.stream, who.pasid, &handle);
        machine.model.end_op();
        if done.is_ok() {
            self.streams.insert(who, id);
        }
        self.settle()?;
        Ok(done)
    }

    /// Blocks a stream.
    ///
    /// # Errors
    /// The story.
    pub fn block(&mut self, who: impl Into<Who>) -> Result<(), Broken> {
        let who = who.into();
        self.tell(format!("block {who:?}"));
        let (machine, unit) = self.side(who.stream);
        machine.model.begin_op();
        let done = unit.block(who.stream, who.pasid);
        machine.model.end_op();
        done.map_err(|e| self.broken(format!("block: {e}")))?;
        self.streams.remove(&who);
        self.settle()
    }

    /// `pages` frames of the arena.
    pub fn frames(&mut self, pages: u64) -> Option<u64> {
        self.machine.arena.alloc(pages as usize, Use::Data)
    }

    /// Addresses beyond the arena, aligned to `align`.
    pub fn beyond(&mut self, bytes: u64, align: u64) -> u64 {
        let at = (BEYOND + self.next_beyond).next_multiple_of(align);
        let at = if at + bytes >= self.remote_top { BEYOND.next_multiple_of(align) } else { at };
        self.next_beyond = at + bytes - BEYOND;
        at
    }

    /// Maps `runs` from `iova`; owned runs are frames of the arena.
    ///
    /// # Errors
    /// The story, if the driver's answer is not what the oracle expects.
    pub fn map(
        &mut self,
        id: DomainId,
        iova: u64,
        runs: &[(u64, u64)],
        access: Access,
        max_leaf: u64,
        owned: bool,
    ) -> Result<(), Broken> {
        match self.try_map(id, iova, runs, access, max_leaf, owned)? {
            Ok(()) => Ok(()),
            Err(e) => Err(self.broken(format!("map: {e}"))),
        }
    }

    /// The same, with the driver's own answer inside.
    ///
    /// # Errors
    /// The story, if a rule is broken, or if the driver mapped over something.
    pub fn try_map(
        &mut self,
        id: DomainId,
        iova: u64,
        runs: &[(u64, u64)],
        access: Access,
        max_leaf: u64,
        owned: bool,
    ) -> Result<Result<(), Error>, Broken> {
        let length: u64 = runs.iter().map(|r| r.1).sum();
        let range = IovaRange::sized(iova, length).ok_or("empty map")?;
        self.tell(format!("map {range:?} of {id} to {runs:x?} {access:?} max {max_leaf:#x}"));
        let list: Vec<PhysRun> = runs.iter().map(|&(base, length)| PhysRun { base: Phys(base), length }).collect();
        let handle = self.handle(id);
        let taken = self.place(id).space.overlaps(&range);
        match handle.map(Iova(iova), &list, access, max_leaf) {
            Ok(gather) => {
                if taken {
                    return Err(self.broken("mapped over something that is mapped"));
                }
                handle.sync(gather).map_err(|e| self.broken(format!("sync after map: {e}")))?;
                let mut at = iova;
                for &(pa, length) in runs {
                    let extent = Extent { last: at + (length - 1), pa, access, owned };
                    self.places[id].as_mut().expect("alive").space.add(at, extent);
                    at = at.wrapping_add(length);
                }
                self.rules()?;
                Ok(Ok(()))
            }
            Err(e) => {
                if taken && !matches!(e, Error::Exists | Error::Exhausted(_)) {
                    return Err(self.broken(format!("map over something answers {e}")));
                }
                self.rules()?;
                Ok(Err(e))
            }
        }
    }

    /// Maps `pages` new frames.
    ///
    /// # Errors
    /// The story.
    pub fn map_new(&mut self, id: DomainId, iova: u64, pages: u64, access: Access) -> Result<u64, Broken> {
        let pa = self.frames(pages).ok_or_else(|| self.broken("no frames left for the scenario"))?;
        self.map(id, iova, &[(pa, pages * PAGE)], access, 1 << 30, true)?;
        Ok(pa)
    }

    /// Unmaps, waits, and gives the frames back.
    ///
    /// # Errors
    /// The story.
    pub fn unmap(&mut self, id: DomainId, range: IovaRange) -> Result<(), Broken> {
        match self.try_unmap(id, range)? {
            Ok(()) => Ok(()),
            Err(e) => Err(self.broken(format!("unmap {range:?}: {e}"))),
        }
    }

    /// The same, with the driver's own answer inside. After a failed sync the frames are not given back.
    ///
    /// # Errors
    /// The story, if the byte count is wrong, a leaf was cut in two, or a rule is broken.
    pub fn try_unmap(&mut self, id: DomainId, range: IovaRange) -> Result<Result<(), Error>, Broken> {
        self.tell(format!("unmap {range:?} of {id}"));
        let handle = self.handle(id);
        let cut = [
            range.first().checked_sub(1).map(|b| (b, range.first())),
            range.last().checked_add(1).map(|a| (range.last(), a)),
        ]
        .into_iter()
        .flatten()
        .any(|(low, high)| match (handle.translate(Iova(low)), handle.translate(Iova(high))) {
            (Some(a), Some(_)) => high & (a.size - 1) != 0,
            _ => false,
        });
        let done = handle.unmap(range);
        match done {
            Ok((bytes, gather)) => {
                if cut {
                    return Err(self.broken("unmap cut a leaf in two"));
                }
                let gone = self.places[id].as_mut().expect("alive").space.remove(&range);
                let want: u64 = gone.iter().map(|(first, e)| e.last - first + 1).sum();
                if bytes != want {
                    return Err(self.broken(format!("unmap says {bytes:#x} bytes, {want:#x} were mapped")));
                }
                if let Err(e) = handle.sync(gather) {
                    self.rules()?;
                    return Ok(Err(e));
                }
                for (first, extent) in gone.iter().filter(|(_, e)| e.owned) {
                    self.machine.arena.release(extent.pa, ((extent.last - first + 1) / PAGE) as usize);
                }
                self.settle()?;
                Ok(Ok(()))
            }
            Err(Error::Invalid(_)) if cut => Ok(Err(Error::Invalid("cuts a leaf"))),
            Err(e) => Ok(Err(e)),
        }
    }

    /// A device accesses 8 bytes at `iova`; the outcome must be what the oracle says.
    ///
    /// # Errors
    /// The story.
    pub fn dma(&mut self, who: impl Into<Who>, iova: u64, write: bool) -> Result<bool, Broken> {
        let (who, iova) = (who.into(), iova & !7);
        let (machine, _) = self.side(who.stream);
        let want = self.attached(who).and_then(|id| self.place(id).space.target(iova, write));
        self.tell(format!("dma {} {who:?} {iova:#x}", if write { "write" } else { "read" }));
        let got = if write {
            machine.model.dma_write(who.stream, who.pasid, iova, &iova.to_le_bytes())
        } else {
            machine.model.dma_read(who.stream, who.pasid, iova, &mut [0; 8])
        };
        let landed = self.collect();
        match (want, got) {
            (Some(pa), Ok(())) => {
                if write && landed.last().map(|w| w.pa) != Some(pa) {
                    return Err(self.broken(format!("write landed at {:x?}, mapped to {pa:#x}", landed.first())));
                }
            }
            (None, Err(Refused::Fault(_))) => {}
            (None, Ok(())) => return Err(self.broken("a device reached memory that is not mapped for it")),
            (_, Err(e)) => return Err(self.broken(format!("mapped to {want:x?}, but refused: {e:?}"))),
        }
        self.rules()?;
        Ok(want.is_some())
    }

    /// A write that is translated now and lands later.
    ///
    /// # Errors
    /// The story, if it is refused.
    pub fn begin_dma(&mut self, who: impl Into<Who>, iova: u64) -> Result<(), Broken> {
        let who = who.into();
        self.tell(format!("dma begins {who:?} {iova:#x}"));
        let (machine, _) = self.side(who.stream);
        machine
            .model
            .begin_dma(who.stream, who.pasid, iova, &[0xdd; 8])
            .map_err(|e| self.broken(format!("in-flight write refused: {e:?}")))
    }

    /// Lets writes on their way land.
    pub fn land(&mut self) {
        for machine in self.machines() {
            machine.model.land();
        }
        self.collect();
    }

    /// Takes the ghost's writes into the oracle.
    fn collect(&mut self) -> Vec<DmaWrite> {
        let writes: Vec<DmaWrite> = self.machines().iter().flat_map(|m| m.model.take_writes()).collect();
        for write in &writes {
            let who = Who { stream: write.stream, pasid: write.pasid };
            if let Some(&id) = self.streams.get(&who)
                && let Some(place) = self.places[id].as_mut()
                && place.space.find(write.iova).is_some()
            {
                place.space.wrote(write.iova);
            }
        }
        writes
    }

    /// After an operation: late writes and rules.
    fn settle(&mut self) -> Result<(), Broken> {
        self.collect();
        self.rules()
    }

    /// Starts or stops tracking.
    ///
    /// # Errors
    /// The story.
    pub fn track(&mut self, id: DomainId, on: bool) -> Result<(), Broken> {
        self.tell(format!("set_tracking {on} of {id}"));
        let handle = self.handle(id);
        self.machine.model.begin_op();
        let done = handle.set_tracking(on);
        self.machine.model.end_op();
        done.map_err(|e| self.broken(format!("set_tracking: {e}")))?;
        self.collect();
        let space = &mut self.places[id].as_mut().expect("alive").space;
        if on != space.tracking {
            space.dirty.clear();
        }
        space.tracking = on;
        self.rules()
    }

    /// A dirty report over `range` in 4 KiB pages; every write since the last one must be in it. Returns the
    /// pages (at most 4096 of them).
    ///
    /// # Errors
    /// The story.
    pub fn report(&mut self, id: DomainId, range: IovaRange, how: ReadDirty) -> Result<Vec<u64>, Broken> {
        self.tell(format!("read_dirty {range:?} {how:?} of {id}"));
        let handle = self.handle(id);
        let mut runs: Vec<IovaRange> = Vec::new();
        let mut sink = |run: IovaRange| -> Result<(), SinkFull> {
            runs.push(run);
            Ok(())
        };
        let gather =
            handle.read_dirty(range, PAGE, how, &mut sink).map_err(|e| self.broken(format!("read_dirty: {e}")))?;
        handle.sync(gather).map_err(|e| self.broken(format!("sync after read_dirty: {e}")))?;
        self.collect();
        let mut last = None;
        for run in &runs {
            if !range.contains(run) || last.is_some_and(|l| run.first() <= l) {
                return Err(self.broken(format!("report out of order or out of range: {runs:?}")));
            }
            last = Some(run.last());
        }
        let reported = |page: u64| {
            let after = runs.partition_point(|r| r.first() <= page * PAGE);
            after > 0 && runs[after - 1].holds(page * PAGE)
        };
        let space = &mut self.places[id].as_mut().expect("alive").space;
        let known = range.first() / PAGE..=range.last() / PAGE;
        let (told, lost): (Vec<u64>, Vec<u64>) = space.dirty.range(known).partition(|p| reported(**p));
        let stray = runs.iter().find(|run| {
            let mapped: u64 = space.inside(run).iter().map(|(first, e)| e.last - first + 1).sum();
            mapped != run.len()
        });
        if how == ReadDirty::Clear {
            for page in &told {
                space.dirty.remove(page);
            }
        }
        if let Some(page) = lost.first() {
            return Err(self.broken(format!(
                "lost write: page {:#x} ({} pages) not reported",
                page * PAGE,
                lost.len()
            )));
        }
        if let Some(run) = stray {
            return Err(self.broken(format!("report names {run:?}, not all of which is mapped")));
        }
        let pages = runs.iter().flat_map(|r| r.first() / PAGE..=r.last() / PAGE).take(MANY).collect();
        self.rules()?;
        Ok(pages)
    }

    /// Everything the driver has to say about faults.
    pub fn faults(&self) -> Vec<Fault> {
        let mut list = Vec::new();
        self.unit.drain_faults(&mut |fault| list.push(fault));
        if let Some((_, unit)) = &self.second {
            unit.drain_faults(&mut |fault| list.push(fault));
        }
        list
    }

    /// Blocks, unmaps and destroys everything, and counts what is left.
    ///
    /// # Errors
    /// The story: a leak, or anything on the way.
    pub fn finish(mut self) -> Result<(), Broken> {
        for who in self.streams.keys().copied().collect::<Vec<_>>() {
            self.block(who)?;
        }
        for id in self.domains() {
            self.destroy(id)?;
        }
        for who in self.known.clone() {
            for iova in [0, 0x1000, 0x10_0000] {
                self.dma(who, iova, true)?;
            }
        }
        let left = self.machine.arena.live_tables();
        if self.baseline != 0 && left != self.baseline {
            return Err(self.broken(format!("{left} table frames held at the end, {} at the start", self.baseline)));
        }
        self.rules()
    }
}
