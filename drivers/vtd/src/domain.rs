//! One table and where it is in use.

use crate::inval::{Batch, Change, iotlb_domain, pasid_cache_domain};
use crate::shared::Core;
use crate::structures::Target;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering};
use io_pgtable::{AdBits, MapFailed, PageTable, TableConfig, VtdSs, X86Fs};
use iommu_api::{Clock, DirtySink, Domain, DomainInfo, Gather, Mmio, ReadDirty, TableMem, Translation};
use iommu_types::{Access, DirtyRule, Error, Features, Iova, IovaRange, PhysRun, Resource, TableKind};
use spin::Mutex;

enum Table {
    Second(PageTable<VtdSs>),
    First(PageTable<X86Fs>),
}

/// Runs the same call on either format, monomorphised.
macro_rules! on_table {
    ($table:expr, $it:ident => $call:expr) => {
        match $table {
            Table::Second($it) => $call,
            Table::First($it) => $call,
        }
    };
}

/// The domain's place on one unit: an id in the unit's caches, and who uses it.
struct Tag<M, T, C> {
    core: Arc<Core<M, T, C>>,
    did: u16,
    /// (requester, PASID); empty: the id is not ours any more.
    users: Vec<(u16, u32)>,
}

/// A VT-d domain. The same one may be attached to streams of several units.
pub struct VtdDomain<M, T: TableMem, C> {
    mem: Arc<T>,
    table: Table,
    info: DomainInfo,
    levels: u8,
    coherent: bool,
    snoop_capable: bool,
    recheck: AtomicBool,
    tracking: AtomicBool,
    snoop: AtomicBool,
    /// A unit that uses the table caches absent entries, or must be told of new ones.
    report_added: AtomicBool,
    /// A flush failed: hardware may still use the tables, so they are never freed.
    tainted: AtomicBool,
    /// Tags are never removed, only emptied: a walk over them by index misses none.
    tags: Mutex<Vec<Tag<M, T, C>>>,
}

impl<M: Mmio + 'static, T: TableMem + 'static, C: Clock + 'static> VtdDomain<M, T, C> {
    /// An empty domain that fits `features`.
    pub(crate) fn new(mem: &Arc<T>, features: &Features, track: bool) -> Result<Self, Error> {
        let dirty = if track { features.dirty } else { DirtyRule::None };
        if track && dirty == DirtyRule::None {
            return Err(Error::NoTracking(features.dirty_missing));
        }
        let first = features.table == TableKind::X86FirstStage;
        let last = 1u64.checked_shl(features.iova_bits.into()).map_or(u64::MAX, |end| end - 1);
        let aperture = IovaRange::new(0, last).ok_or(Error::Invalid("empty aperture"))?;
        let ad = match (track, first) {
            (true, _) => AdBits::Hardware,
            // The first stage always updates A and D (9.7), and without SMPWC an update is fatal: leave nothing to do.
            (false, true) => AdBits::Preset,
            (false, false) => AdBits::Unused,
        };
        let config = TableConfig {
            levels: features.levels,
            aperture,
            phys_bits: features.phys_bits,
            page_sizes: features.page_sizes,
            coherent: features.coherent_walk,
            dirty,
            ad,
        };
        let table = if first {
            Table::First(PageTable::new(&**mem, config)?)
        } else {
            Table::Second(PageTable::new(&**mem, config)?)
        };
        let page_sizes = on_table!(&table, table => table.config().page_sizes);
        Ok(Self {
            mem: Arc::clone(mem),
            table,
            info: DomainInfo { table: features.table, aperture, page_sizes, dirty },
            levels: features.levels,
            coherent: features.coherent_walk,
            snoop_capable: features.snoop_control,
            // Where A and D are set from the start, no walker stores them.
            recheck: AtomicBool::new(features.ad_plain_store && track),
            tracking: AtomicBool::new(false),
            snoop: AtomicBool::new(false),
            report_added: AtomicBool::new(features.caches_absent || features.write_buffer),
            tainted: AtomicBool::new(false),
            tags: Mutex::new(Vec::new()),
        })
    }

    /// Can a unit with `features` walk this table, and keep what the domain promises?
    pub(crate) fn fits(&self, features: &Features) -> Result<(), Error> {
        if features.table != self.info.table || features.levels != self.levels {
            return Err(Error::Invalid("the unit uses another kind of table"));
        }
        if features.iova_bits < 64 && self.info.aperture.last() >> features.iova_bits != 0 {
            return Err(Error::Invalid("the domain's aperture is wider than the unit's"));
        }
        if self.info.page_sizes.0 & !features.page_sizes.0 != 0 {
            return Err(Error::Invalid("the domain may have page sizes that the unit lacks"));
        }
        if self.coherent && !features.coherent_walk {
            return Err(Error::Invalid("the unit does not snoop, and the domain's table is not published"));
        }
        let same = self.info.dirty == features.dirty;
        let wider = matches!(self.info.dirty, DirtyRule::AccessedOrDirty { .. }) && features.dirty != DirtyRule::None;
        if self.info.dirty != DirtyRule::None && !same && !wider {
            return Err(Error::Invalid("the domain tracks writes and the unit cannot, or not this way"));
        }
        if self.snoop.load(Ordering::Acquire) && !features.snoop_control {
            return Err(Error::Invalid("the domain enforces coherency and the unit cannot: ECAP.SC (bit 7)"));
        }
        Ok(())
    }

    /// Adds a user on `core`'s unit, with the domain's id there. From now on every flush includes it.
    pub(crate) fn add_user(&self, core: &Arc<Core<M, T, C>>, source: u16, pasid: u32) -> Result<u16, Error> {
        let features = &core.features;
        if features.caches_absent || features.write_buffer {
            self.report_added.store(true, Ordering::Release);
        }
        if features.ad_plain_store && self.info.dirty != DirtyRule::None {
            self.recheck.store(true, Ordering::Release);
        }
        let full = |_| Error::Exhausted(Resource::Memory);
        let mut tags = self.tags.lock();
        let at = match tags.iter().position(|tag| Arc::ptr_eq(&tag.core, core)) {
            Some(at) => at,
            None => {
                tags.try_reserve(1).map_err(full)?;
                tags.push(Tag { core: Arc::clone(core), did: 0, users: Vec::new() });
                tags.len() - 1
            }
        };
        let tag = &mut tags[at];
        tag.users.try_reserve(1).map_err(full)?;
        if tag.users.is_empty() {
            tag.did = core.dids.lock().take()?;
        }
        tag.users.push((source, pasid));
        Ok(tag.did)
    }

    /// Removes a user whose entry is gone and flushed; the last one gives the id back.
    pub(crate) fn remove_user(&self, core: &Arc<Core<M, T, C>>, source: u16, pasid: u32) {
        let mut tags = self.tags.lock();
        let Some(tag) = tags.iter_mut().find(|tag| Arc::ptr_eq(&tag.core, core)) else { return };
        let Some(at) = tag.users.iter().position(|user| *user == (source, pasid)) else { return };
        tag.users.swap_remove(at);
        if tag.users.is_empty() {
            core.dids.lock().give(tag.did);
        }
    }

    /// What an entry that leads here says, as the domain is now. Call it with the unit's structures locked, so that a
    /// change of tracking either is in it or finds the entry.
    pub(crate) fn target(&self, did: u16) -> Target {
        let second = self.info.table == TableKind::VtdSecondStage;
        Target {
            did,
            table: self.info.table,
            root: on_table!(&self.table, table => table.root()),
            levels: self.levels,
            ad: second && self.tracking.load(Ordering::Acquire),
            snoop: self.snoop.load(Ordering::Acquire),
        }
    }

    /// Hardware may use the tables for ever.
    pub(crate) fn taint(&self) {
        self.tainted.store(true, Ordering::Release);
    }

    /// Runs what `describe` puts into a batch on every unit in use, one after the other, without a lock while waiting.
    fn on_every_unit(&self, describe: impl Fn(&Tag<M, T, C>, &mut Batch)) -> Result<(), Error> {
        let mut result = Ok(());
        for at in 0.. {
            let mut batch = Batch::new();
            let core = {
                let tags = self.tags.lock();
                let Some(tag) = tags.get(at) else { break };
                if tag.users.is_empty() {
                    continue;
                }
                describe(tag, &mut batch);
                Arc::clone(&tag.core)
            };
            // One stuck unit must not keep the others from being flushed.
            if let Err(error) = core.flush(batch) {
                result = Err(error);
            }
        }
        result
    }

    fn flush(&self, gather: &Gather) -> Result<(), Error> {
        let change = Change { range: gather.range(), leaf_only: !gather.needs_tables() };
        let first = self.info.table == TableKind::X86FirstStage;
        self.on_every_unit(|tag, batch| {
            if !first {
                return change.second_stage(tag.core.cap, tag.did, batch);
            }
            for (at, (_, pasid)) in tag.users.iter().enumerate() {
                if !tag.users[..at].iter().any(|(_, earlier)| earlier == pasid) {
                    change.first_stage(tag.core.cap, tag.did, *pasid, batch);
                }
            }
        })
        .inspect_err(|_| self.taint())
    }

    /// Quirk `qemu-ad-store`: whatever a late A/D store brought back into `range` is zeroed and flushed again.
    fn recheck(&self, range: IovaRange, gather: &mut Gather) -> Result<(), Error> {
        if !self.recheck.load(Ordering::Acquire) {
            return Ok(());
        }
        self.flush(gather)?;
        let back = on_table!(&self.table, table => table.sweep(&*self.mem, range));
        if back > 0 {
            log::debug!("qemu-ad-store: {back} entries in {range:?} had come back");
            gather.add(range, true);
            self.flush(gather)?;
        }
        Ok(())
    }

    /// Edits the PASID entries of all users and makes the units see it.
    fn update_entries(
        &self,
        edit: fn(crate::spec::pasid::PasidLow, bool) -> crate::spec::pasid::PasidLow,
        on: bool,
    ) -> Result<(), Error> {
        self.on_every_unit(|tag, batch| {
            let structures = tag.core.structures.lock();
            for (source, pasid) in &tag.users {
                structures.update(&*tag.core.mem, *source, *pasid, tag.did, edit, on);
            }
            if tag.core.scalable {
                batch.push(pasid_cache_domain(tag.did));
            }
            batch.push(iotlb_domain(tag.core.cap, tag.did));
        })
        .inspect_err(|_| self.taint())
    }
}

impl<M: Mmio + 'static, T: TableMem + 'static, C: Clock + 'static> Domain for VtdDomain<M, T, C> {
    fn info(&self) -> DomainInfo {
        self.info
    }

    fn map(&self, iova: Iova, runs: &[PhysRun], access: Access, max_leaf: u64) -> Result<Gather, Error> {
        let report_added = self.report_added.load(Ordering::Acquire);
        let mapped = on_table!(&self.table, table => {
            table.map(&*self.mem, iova, runs, access, max_leaf, report_added)
        });
        match mapped {
            Ok(gather) => Ok(gather),
            Err(MapFailed { error, mut gather }) => {
                if let Some(range) = gather.range() {
                    // What was undone lies from the start of the request; beyond it nothing was touched.
                    let undone = IovaRange::new(iova.0, range.last()).unwrap_or(range);
                    if gather.has_unmapped() {
                        self.recheck(undone, &mut gather)?;
                    }
                }
                self.sync(gather)?;
                Err(error)
            }
        }
    }

    fn unmap(&self, range: IovaRange) -> Result<(u64, Gather), Error> {
        let (bytes, mut gather) = on_table!(&self.table, table => table.unmap(&*self.mem, range))?;
        if bytes > 0 {
            self.recheck(range, &mut gather)?;
        }
        Ok((bytes, gather))
    }

    fn translate(&self, iova: Iova) -> Option<Translation> {
        on_table!(&self.table, table => table.translate(&*self.mem, iova))
    }

    fn set_tracking(&self, on: bool) -> Result<(), Error> {
        if self.info.dirty == DirtyRule::None {
            return Err(Error::NoTracking("the domain was not made for it"));
        }
        if self.tracking.swap(on, Ordering::AcqRel) == on {
            return Ok(());
        }
        let switched = self.switch_tracking(on);
        if switched.is_err() {
            self.tracking.store(!on, Ordering::Release);
        }
        switched
    }

    fn read_dirty(
        &self,
        range: IovaRange,
        granule: u64,
        how: ReadDirty,
        sink: &mut dyn DirtySink,
    ) -> Result<Gather, Error> {
        if self.info.dirty == DirtyRule::None {
            return Err(Error::NoTracking("the domain was not made for it"));
        }
        if !self.tracking.load(Ordering::Acquire) {
            return Err(Error::Invalid("tracking is off"));
        }
        on_table!(&self.table, table => table.read_dirty(&*self.mem, range, granule, how, sink))
    }

    fn mark_dirty(&self, range: IovaRange) {
        on_table!(&self.table, table => table.mark_dirty(&*self.mem, range));
    }

    fn sync(&self, gather: Gather) -> Result<(), Error> {
        if gather.is_none() {
            return Ok(());
        }
        // On failure the gather is dropped, and with it its tables go to quarantine.
        self.flush(&gather)?;
        gather.release(&*self.mem);
        Ok(())
    }

    fn enforce_coherency(&self) -> Result<(), Error> {
        let all = self.tags.lock().iter().all(|tag| tag.users.is_empty() || tag.core.features.snoop_control);
        if !self.snoop_capable || !all {
            return Err(Error::Unsupported("snoop control: ECAP.SC (bit 7)"));
        }
        if self.snoop.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        match &self.table {
            Table::Second(table) => {
                let gather = table.force_leaf_bits(&*self.mem, VtdSs::SNOOP);
                self.sync(gather)
            }
            Table::First(_) => self.update_entries(|low, on| low.with_page_snoop(on), true),
        }
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl<M: Mmio + 'static, T: TableMem + 'static, C: Clock + 'static> VtdDomain<M, T, C> {
    fn switch_tracking(&self, on: bool) -> Result<(), Error> {
        if self.info.table == TableKind::VtdSecondStage {
            self.update_entries(|low, on| low.with_ss_ad_enable(on), on)?;
        }
        if on {
            // After the switch, so that what is written from the flush on leaves its mark.
            let gather = on_table!(&self.table, table => table.set_clean(&*self.mem))?;
            self.sync(gather)?;
        }
        Ok(())
    }
}

impl<M, T: TableMem, C> Drop for VtdDomain<M, T, C> {
    fn drop(&mut self) {
        // No unit leads here any more: each attached stream holds the domain.
        let gather = on_table!(&self.table, table => table.take_apart(&*self.mem));
        if !self.tainted.load(Ordering::Acquire) {
            gather.release(&*self.mem);
        }
        // Else dropped: into quarantine.
    }
}
