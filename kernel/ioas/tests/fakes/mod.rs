//! An imagined machine: frames with a pin ledger, page tables that hardware may have cached, units, and one counter that
//! makes the n-th thing that can fail do so.
#![allow(dead_code, missing_docs)]

use ioas::{Account, PageSource};
use iommu_api::{AttachError, DirtySink, Domain, DomainInfo, DomainSpec, Gather, IommuUnit, ReadDirty, Translation};
use iommu_types::{
    Access, DirtyRule, Error, Fault, Features, Iova, IovaRange, PageSizes, Pasid, Phys, PhysRun, Resource, StreamId,
    TableKind, UnitId,
};
use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use uapi::Errno;

pub const PAGE: u64 = 4096;

#[derive(Default)]
pub struct Machine {
    /// Counts down; the step that finds 1 fails. 0 and below: nothing fails.
    countdown: AtomicI64,
    /// Set when a failure was injected.
    pub failed: AtomicBool,
    /// Frame -> pins.
    pub pins: Mutex<HashMap<u64, u32>>,
    /// Frame -> domains that hardware may still reach it through.
    pub reachable: Mutex<HashMap<u64, u32>>,
    /// The next flush fails, once.
    pub break_flush: AtomicBool,
    /// Flushes fail from now on.
    pub flush_dead: AtomicBool,
    /// The next map fails half-way, once, and so does the flush after it was undone.
    pub break_map: AtomicBool,
    pub charged: AtomicU64,
    pub limit: AtomicU64,
}

impl Machine {
    pub fn new() -> Arc<Self> {
        let machine = Self::default();
        machine.limit.store(u64::MAX, Ordering::Relaxed);
        Arc::new(machine)
    }
    pub fn fail_at(&self, n: i64) {
        self.failed.store(false, Ordering::Relaxed);
        self.countdown.store(n, Ordering::Relaxed);
    }
    /// Did the injected failure happen? Stops injecting.
    pub fn stop_failing(&self) -> bool {
        self.countdown.store(0, Ordering::Relaxed);
        self.failed.swap(false, Ordering::Relaxed)
    }
    pub fn step(&self) -> bool {
        let now = self.countdown.load(Ordering::Relaxed);
        if now <= 0 {
            return false;
        }
        self.countdown.store(now - 1, Ordering::Relaxed);
        if now == 1 {
            self.failed.store(true, Ordering::Relaxed);
        }
        now == 1
    }
    pub fn pinned(&self) -> usize {
        self.pins.lock().unwrap().len()
    }
    pub fn max_pins(&self) -> u32 {
        self.pins.lock().unwrap().values().copied().max().unwrap_or(0)
    }
    pub fn account(self: &Arc<Self>) -> Arc<dyn Account> {
        Arc::new(FakeAccount(self.clone()))
    }
    pub fn charged(&self) -> u64 {
        self.charged.load(Ordering::Relaxed)
    }
    fn reach(&self, frame: u64, by: i32) {
        let mut reachable = self.reachable.lock().unwrap();
        let count = reachable.entry(frame).or_default();
        *count = count.checked_add_signed(by).expect("reachable count");
        if *count == 0 {
            reachable.remove(&frame);
        }
    }
}

struct FakeAccount(Arc<Machine>);

impl Account for FakeAccount {
    fn charge(&self, bytes: u64) -> Result<(), Errno> {
        if self.0.step() || self.0.charged() + bytes > self.0.limit.load(Ordering::Relaxed) {
            return Err(Errno::ENOMEM);
        }
        self.0.charged.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
    fn uncharge(&self, bytes: u64) {
        let before = self.0.charged.fetch_sub(bytes, Ordering::Relaxed);
        assert!(before >= bytes, "uncharged more than was charged");
    }
}

/// Program memory from 0 to `end`, with frames that are neighbours only within `run` pages.
pub struct FakeSource {
    pub machine: Arc<Machine>,
    pub end: AtomicU64,
    pub run: u64,
    /// Read-only below this address.
    pub read_only: u64,
}

impl FakeSource {
    pub fn new(machine: &Arc<Machine>, end: u64, run: u64) -> Arc<Self> {
        Arc::new(Self { machine: machine.clone(), end: end.into(), run, read_only: 0 })
    }
    /// The frame of the page at `va`: mixed so that runs are scattered, but a bijection.
    pub fn phys(&self, va: u64) -> u64 {
        let page = va / PAGE;
        let (group, inside) = (page / self.run, page % self.run);
        // Reversed groups: neighbours in the program are not neighbours in memory.
        let group = 0x10_0000 / self.run - 1 - group;
        0x1_0000_0000 + (group * self.run + inside) * PAGE + va % PAGE
    }
}

impl PageSource for FakeSource {
    fn pin(&self, address: u64, length: u64, write: bool, runs: &mut Vec<PhysRun>) -> Result<(), Errno> {
        assert!(address.is_multiple_of(PAGE) && length.is_multiple_of(PAGE) && length > 0);
        let end = self.end.load(Ordering::Relaxed);
        if self.machine.step() {
            return Err(Errno::EFAULT);
        }
        if address.checked_add(length).is_none_or(|past| past > end) || write && address < self.read_only {
            return Err(Errno::EFAULT);
        }
        let mut pins = self.machine.pins.lock().unwrap();
        for va in (address..address + length).step_by(PAGE as usize) {
            let base = self.phys(va);
            *pins.entry(base).or_default() += 1;
            match runs.last_mut() {
                Some(last) if last.base.0 + last.length == base => last.length += PAGE,
                _ => runs.push(PhysRun { base: Phys(base), length: PAGE }),
            }
        }
        Ok(())
    }
    fn unpin(&self, runs: &[PhysRun]) {
        let mut pins = self.machine.pins.lock().unwrap();
        let reachable = self.machine.reachable.lock().unwrap();
        for run in runs {
            for frame in (run.base.0..run.base.0 + run.length).step_by(PAGE as usize) {
                let count = pins.get_mut(&frame).expect("unpinned what was not pinned");
                *count -= 1;
                if *count == 0 {
                    pins.remove(&frame);
                    assert!(!reachable.contains_key(&frame), "frame {frame:#x} was given back before the flush");
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
pub struct Leaf {
    pub size: u64,
    pub phys: u64,
    pub access: Access,
    pub dirty: bool,
    /// Unmapped, but hardware may have it cached.
    pub stale: bool,
}

pub struct FakeDomain {
    pub machine: Arc<Machine>,
    pub info: DomainInfo,
    pub leaves: Mutex<BTreeMap<u64, Leaf>>,
    /// Unmapped ranges not flushed yet.
    pub stale: Mutex<Vec<(u64, u64, Vec<u64>)>>,
    pub tracking: AtomicBool,
    pub syncs: AtomicU64,
    /// Hardware caches absent entries: a map must be flushed too.
    pub caching: bool,
    pub unflushed_maps: AtomicU64,
}

pub const APERTURE_LAST: u64 = (1 << 39) - 1;

impl FakeDomain {
    pub fn new(machine: &Arc<Machine>, tracking: bool) -> Arc<Self> {
        let info = DomainInfo {
            table: TableKind::VtdSecondStage,
            aperture: IovaRange::new(0, APERTURE_LAST).unwrap(),
            page_sizes: PageSizes(1 << 12 | 1 << 21),
            dirty: if tracking { DirtyRule::Bit(9) } else { DirtyRule::None },
        };
        Self::with(machine, info)
    }
    pub fn with(machine: &Arc<Machine>, info: DomainInfo) -> Arc<Self> {
        Arc::new(Self {
            machine: machine.clone(),
            info,
            leaves: Mutex::default(),
            stale: Mutex::default(),
            tracking: AtomicBool::new(false),
            syncs: AtomicU64::new(0),
            caching: true,
            unflushed_maps: AtomicU64::new(0),
        })
    }
    pub fn phys(&self, iova: u64) -> Option<u64> {
        self.translate(Iova(iova)).map(|item| item.phys.0)
    }
    pub fn mapped_bytes(&self) -> u64 {
        self.leaves.lock().unwrap().values().map(|leaf| leaf.size).sum()
    }
    pub fn largest_leaf(&self) -> u64 {
        self.leaves.lock().unwrap().values().map(|leaf| leaf.size).max().unwrap_or(0)
    }
    /// A device writes to `iova`.
    pub fn write(&self, iova: u64) -> bool {
        let mut leaves = self.leaves.lock().unwrap();
        let Some((start, leaf)) = leaves.range_mut(..=iova).next_back() else { return false };
        if iova - start >= leaf.size || !leaf.access.contains(Access::WRITE) {
            return false;
        }
        leaf.dirty = true;
        true
    }
}

impl Domain for FakeDomain {
    fn info(&self) -> DomainInfo {
        self.info
    }
    fn map(&self, iova: Iova, runs: &[PhysRun], access: Access, max_leaf: u64) -> Result<Gather, Error> {
        if self.machine.step() {
            return Err(Error::Exhausted(Resource::Memory));
        }
        let total: u64 = runs.iter().map(|run| run.length).sum();
        let range = IovaRange::sized(iova.0, total).ok_or(Error::Range("empty"))?;
        if !self.info.aperture.contains(&range) {
            return Err(Error::Range("aperture"));
        }
        if !range.aligned(PAGE) || access.is_empty() {
            return Err(Error::Invalid("alignment or rights"));
        }
        if self.machine.break_map.swap(false, Ordering::Relaxed) {
            for run in runs {
                (run.base.0..run.base.0 + run.length).step_by(PAGE as usize).for_each(|f| self.machine.reach(f, 1));
            }
            return Err(Error::Stuck { unit: UnitId(0), register: "IQH", want: 1, got: 0 });
        }
        let mut leaves = self.leaves.lock().unwrap();
        if leaves.range(..=range.last()).next_back().is_some_and(|(start, leaf)| start + leaf.size > iova.0) {
            return Err(Error::Exists);
        }
        let mut at = iova.0;
        for run in runs {
            assert!(run.base.0.is_multiple_of(PAGE) && run.length.is_multiple_of(PAGE) && run.length > 0);
            let mut done = 0;
            while done < run.length {
                let phys = run.base.0 + done;
                let large = 2 << 20;
                let fits = at.is_multiple_of(large)
                    && phys.is_multiple_of(large)
                    && run.length - done >= large
                    && max_leaf >= large;
                let size = if fits { large } else { PAGE };
                for frame in (phys..phys + size).step_by(PAGE as usize) {
                    assert!(
                        self.machine.pins.lock().unwrap().contains_key(&frame),
                        "mapped a frame that is not pinned"
                    );
                    self.machine.reach(frame, 1);
                }
                leaves.insert(at, Leaf { size, phys, access, dirty: false, stale: false });
                at += size;
                done += size;
            }
        }
        let mut gather = Gather::none();
        if self.caching {
            gather.add(range, false);
            self.unflushed_maps.fetch_add(1, Ordering::Relaxed);
        }
        Ok(gather)
    }
    fn unmap(&self, range: IovaRange) -> Result<(u64, Gather), Error> {
        let mut leaves = self.leaves.lock().unwrap();
        let hit: Vec<(u64, Leaf)> = leaves
            .iter()
            .map(|(start, leaf)| (*start, *leaf))
            .filter(|(start, leaf)| range.overlaps(&IovaRange::sized(*start, leaf.size).unwrap()))
            .collect();
        if hit.iter().any(|(start, leaf)| !range.contains(&IovaRange::sized(*start, leaf.size).unwrap())) {
            return Err(Error::Invalid("a leaf lies partly in the range"));
        }
        let (mut bytes, mut gather) = (0, Gather::none());
        let mut frames = Vec::new();
        for (start, leaf) in hit {
            leaves.remove(&start);
            bytes += leaf.size;
            frames.extend((leaf.phys..leaf.phys + leaf.size).step_by(PAGE as usize));
            gather.add(IovaRange::sized(start, leaf.size).unwrap(), true);
        }
        if let Some(range) = gather.range() {
            self.stale.lock().unwrap().push((range.first(), range.last(), frames));
        }
        Ok((bytes, gather))
    }
    fn translate(&self, iova: Iova) -> Option<Translation> {
        let leaves = self.leaves.lock().unwrap();
        let (start, leaf) = leaves.range(..=iova.0).next_back()?;
        let offset = iova.0 - start;
        (offset < leaf.size).then_some(Translation {
            phys: Phys(leaf.phys + offset),
            access: leaf.access,
            size: leaf.size,
            dirty: leaf.dirty,
        })
    }
    fn set_tracking(&self, on: bool) -> Result<(), Error> {
        if self.info.dirty == DirtyRule::None {
            return Err(Error::NoTracking("ECAP.SSADS (bit 45)"));
        }
        if self.machine.step() {
            return Err(Error::Stuck { unit: UnitId(0), register: "IQH", want: 1, got: 0 });
        }
        if on {
            self.leaves.lock().unwrap().values_mut().for_each(|leaf| leaf.dirty = false);
        }
        self.tracking.store(on, Ordering::Relaxed);
        Ok(())
    }
    fn read_dirty(
        &self,
        range: IovaRange,
        granule: u64,
        how: ReadDirty,
        sink: &mut dyn DirtySink,
    ) -> Result<Gather, Error> {
        assert!(granule.is_power_of_two() && granule >= PAGE && range.aligned(PAGE));
        if self.info.dirty == DirtyRule::None {
            return Err(Error::NoTracking("ECAP.SSADS (bit 45)"));
        }
        if !self.tracking.load(Ordering::Relaxed) {
            return Err(Error::Invalid("tracking is off"));
        }
        let mut leaves = self.leaves.lock().unwrap();
        let mut gather = Gather::none();
        let mut cleared = Vec::new();
        let first = leaves.range(..=range.first()).next_back().map_or(0, |(start, _)| *start);
        for (start, leaf) in leaves.range_mut(first..=range.last()) {
            let whole = IovaRange::sized(*start, leaf.size).unwrap();
            let Some(part) = whole.intersect(&range) else { continue };
            if !leaf.dirty {
                continue;
            }
            if sink.dirty(part).is_err() {
                for start in cleared {
                    leaves.get_mut(&start).unwrap().dirty = true;
                }
                return Err(Error::Sink);
            }
            if how == ReadDirty::Clear {
                leaf.dirty = false;
                cleared.push(*start);
                gather.add(whole, false);
            }
        }
        Ok(gather)
    }
    fn mark_dirty(&self, range: IovaRange) {
        for (start, leaf) in self.leaves.lock().unwrap().iter_mut() {
            if IovaRange::sized(*start, leaf.size).unwrap().overlaps(&range) {
                leaf.dirty = true;
            }
        }
    }
    fn sync(&self, gather: Gather) -> Result<(), Error> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        if gather.is_none() {
            return Ok(());
        }
        if self.machine.break_flush.swap(false, Ordering::Relaxed)
            || self.machine.flush_dead.load(Ordering::Relaxed)
            || self.machine.step()
        {
            return Err(Error::Stuck { unit: UnitId(0), register: "IQH", want: 1, got: 0 });
        }
        self.unflushed_maps.store(0, Ordering::Relaxed);
        let range = gather.range().unwrap_or(IovaRange::ALL);
        let mut stale = self.stale.lock().unwrap();
        stale.retain(|(first, last, frames)| {
            let inside = range.first() <= *first && *last <= range.last();
            if inside {
                frames.iter().for_each(|frame| self.machine.reach(*frame, -1));
            }
            !inside
        });
        Ok(())
    }
    fn enforce_coherency(&self) -> Result<(), Error> {
        Ok(())
    }
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

pub struct FakeUnit {
    pub machine: Arc<Machine>,
    pub features: Features,
    /// Stream -> its domain.
    pub attached: Mutex<HashMap<StreamId, Arc<FakeDomain>>>,
    pub domains: Mutex<Vec<Arc<FakeDomain>>>,
    pub aperture: IovaRange,
    pub id: UnitId,
    /// Refuses every attach with `Invalid`.
    pub picky: AtomicBool,
}

impl FakeUnit {
    pub fn new(machine: &Arc<Machine>, tracking: bool) -> Arc<Self> {
        let dirty = if tracking { DirtyRule::Bit(9) } else { DirtyRule::None };
        Arc::new(Self {
            machine: machine.clone(),
            features: Features {
                table: TableKind::VtdSecondStage,
                levels: 3,
                iova_bits: 39,
                phys_bits: 39,
                page_sizes: PageSizes(1 << 12 | 1 << 21),
                coherent_walk: true,
                domain_ids: 256,
                caches_absent: true,
                write_buffer: false,
                snoop_control: false,
                dirty,
                dirty_missing: "ECAP.SSADS (bit 45)",
                interrupt_remap: false,
                ad_plain_store: false,
            },
            attached: Mutex::default(),
            domains: Mutex::default(),
            aperture: IovaRange::new(0, APERTURE_LAST).unwrap(),
            id: UnitId(u16::from(tracking)),
            picky: AtomicBool::new(false),
        })
    }
    pub fn at(&self, stream: StreamId) -> Option<Arc<FakeDomain>> {
        self.attached.lock().unwrap().get(&stream).cloned()
    }
    pub fn last_domain(&self) -> Arc<FakeDomain> {
        self.domains.lock().unwrap().last().unwrap().clone()
    }
}

impl IommuUnit for FakeUnit {
    fn id(&self) -> UnitId {
        self.id
    }
    fn name(&self) -> &str {
        "fake0"
    }
    fn features(&self) -> Features {
        self.features
    }
    fn raw_capabilities(&self) -> [u64; 2] {
        [0x1111_2222_3333_4444, 0x5555_6666_7777_8888]
    }
    fn make_domain(&self, spec: DomainSpec) -> Result<Arc<dyn Domain>, Error> {
        if spec.dirty_tracking && self.features.dirty == DirtyRule::None {
            return Err(Error::NoTracking("ECAP.SSADS (bit 45)"));
        }
        if self.machine.step() {
            return Err(Error::Exhausted(Resource::DomainIds));
        }
        let dirty = if spec.dirty_tracking { self.features.dirty } else { DirtyRule::None };
        let info = DomainInfo {
            table: self.features.table,
            aperture: self.aperture,
            page_sizes: self.features.page_sizes,
            dirty,
        };
        let domain = FakeDomain::with(&self.machine, info);
        self.domains.lock().unwrap().push(domain.clone());
        Ok(domain)
    }
    fn attach(&self, stream: StreamId, pasid: Option<Pasid>, domain: &Arc<dyn Domain>) -> Result<(), AttachError> {
        assert_eq!(pasid, None);
        let domain = domain.clone().as_any().downcast::<FakeDomain>().map_err(|_| Error::Invalid("foreign"))?;
        if self.picky.load(Ordering::Relaxed) {
            return Err(Error::Invalid("picky"));
        }
        if self.machine.step() {
            return Err(Error::Exhausted(Resource::DomainIds));
        }
        assert_eq!(domain.unflushed_maps.load(Ordering::Relaxed), 0, "attached with maps not flushed");
        self.attached.lock().unwrap().insert(stream, domain);
        Ok(())
    }
    fn block(&self, stream: StreamId, pasid: Option<Pasid>) -> Result<(), Error> {
        assert_eq!(pasid, None);
        if self.machine.flush_dead.load(Ordering::Relaxed) {
            return Err(Error::Stuck { unit: self.id, register: "IQH", want: 1, got: 0 });
        }
        self.attached.lock().unwrap().remove(&stream);
        Ok(())
    }
    fn drain_faults(&self, _sink: &mut dyn FnMut(Fault)) {}
    fn status(&self) -> String {
        "translation on".into()
    }
}
