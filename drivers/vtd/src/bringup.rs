//! Taking a unit over (DESIGN section 6): validate, fault reporting, queue, blocked root, reserved memory, root pointer,
//! invalidate, translation, protected regions last.
//!
//! If translation is on at entry it stays on: our root replaces the old one by one command, and the old tables are not
//! touched. That needs the same table mode (RTADDR.TTM); so the mode found is kept, or, on units that can abort every
//! request (ECAP.ADMS), the change goes through that state. There is no moment at which a request passes untranslated.

use crate::caps::{self, Plan};
use crate::domain::VtdDomain;
use crate::inval;
use crate::shared::Core;
use crate::spec::regs::{self, Cap, Ecap, FaultStatus, RootAddress, TTM_ABORT, TTM_LEGACY, TTM_SCALABLE, global};
use crate::unit::Unit;
use crate::{BringUpReport, UnitConfig};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use iommu_api::{Clock, Domain, Mmio, TableMem};
use iommu_types::{Access, Error, Iova, PhysRun, StreamId};

impl<M: Mmio + 'static, T: TableMem + 'static, C: Clock + 'static> Unit<M, T, C> {
    /// Takes the unit over and turns translation on with every stream blocked.
    ///
    /// # Errors
    /// [`Error::Impossible`] for capability registers that cannot be, [`Error::Unsupported`] for a unit that lacks what the
    /// driver needs, [`Error::Stuck`] if it does not answer in time, [`Error::Exhausted`] for memory.
    pub fn bring_up(
        config: UnitConfig,
        mmio: M,
        mem: Arc<T>,
        clock: Arc<C>,
    ) -> Result<(Arc<Self>, BringUpReport), Error> {
        let mut report = BringUpReport::default();
        let (cap, ecap) = (Cap::from_bits(mmio.r64(regs::CAP)), Ecap::from_bits(mmio.r64(regs::ECAP)));
        caps::validate(&config, mmio.r32(regs::VER), cap, ecap)?;

        let status = mmio.r32(regs::GSTS);
        report.was_translating = status & global::TRANSLATION != 0;
        let found = RootAddress::from_bits(mmio.r64(regs::RTADDR)).mode();
        let plan = choose(&config, cap, ecap, report.was_translating.then_some(found), &mut report)?;
        report.scalable = plan.scalable;
        report.quirks = plan.quirks.clone();
        if status & global::INTERRUPTS != 0 {
            report.notes.push(String::from("interrupt remapping was on and stays as it is"));
        }

        let core = Core::new(&config, &plan, (cap, ecap), mmio, mem, clock)?;
        let prepared = core.prepare(&config, &mut report);
        let unit = Self::new(core);
        let started = prepared
            .and_then(|()| unit.map_reserved(&config, &mut report))
            .and_then(|()| unit.core.start(report.was_translating, found, &mut report));
        if let Err(error) = started {
            // Hardware may hold the addresses by now: the pages are not given back.
            log::error!("{}: bring-up failed: {error}", config.name);
            return Err(error);
        }
        log::info!(
            "{}: translation on, {} mode, {:?} with {} levels, {} domain ids, quirks {:?}",
            config.name,
            if plan.scalable { "scalable" } else { "legacy" },
            plan.features.table,
            plan.features.levels,
            plan.features.domain_ids,
            plan.quirks,
        );
        Ok((Arc::new(unit), report))
    }

    /// Maps reserved memory one to one, for the streams that firmware names and for no other. Streams with the same
    /// regions share a domain.
    fn map_reserved(&self, config: &UnitConfig, report: &mut BringUpReport) -> Result<(), Error> {
        let mut regions_of: BTreeMap<StreamId, Vec<usize>> = BTreeMap::new();
        for (at, region) in config.reserved.iter().enumerate() {
            for stream in &region.streams {
                regions_of.entry(*stream).or_default().push(at);
            }
        }
        let mut by_regions: BTreeMap<Vec<usize>, Vec<StreamId>> = BTreeMap::new();
        for (stream, regions) in regions_of {
            by_regions.entry(regions).or_default().push(stream);
        }
        for (regions, streams) in by_regions {
            let domain = Arc::new(VtdDomain::new(&self.core.mem, &self.core.features, false)?);
            for region in regions.iter().filter_map(|at| config.reserved.get(*at)) {
                let (first, last) = (region.range.first.0 & !0xfff, region.range.last.0 | 0xfff);
                if first > last || last == u64::MAX {
                    report.notes.push(format!("{}: impossible range, not mapped", region.reason));
                    continue;
                }
                let runs = [PhysRun { base: region.range.first, length: last - first + 1 }]
                    .map(|run| PhysRun { base: iommu_types::Phys(first), ..run });
                match domain.map(Iova(first), &runs, Access::READ | Access::WRITE, 1 << 30) {
                    Ok(gather) => domain.sync(gather)?,
                    // Firmware lists the same memory twice on some machines.
                    Err(Error::Exists) => self.map_page_by_page(&*domain, first, last)?,
                    Err(error @ (Error::Range(_) | Error::Invalid(_))) => {
                        report.notes.push(format!("{}: {error}, not mapped", region.reason));
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            for stream in streams {
                if let Err(error) = self.attach_own(stream, None, &domain) {
                    if matches!(error, Error::Stuck { .. } | Error::Exhausted(_)) {
                        return Err(error);
                    }
                    report.notes.push(format!("{stream}: reserved memory not mapped: {error}"));
                }
            }
        }
        report.reserved = config.reserved.clone();
        Ok(())
    }

    fn map_page_by_page(&self, domain: &VtdDomain<M, T, C>, first: u64, last: u64) -> Result<(), Error> {
        for page in (first..=last).step_by(4096) {
            let run = [PhysRun { base: iommu_types::Phys(page), length: 4096 }];
            match domain.map(Iova(page), &run, Access::READ | Access::WRITE, 4096) {
                Ok(gather) => domain.sync(gather)?,
                Err(Error::Exists) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Mode and table; see the module's head for what translation at entry means.
fn choose(
    config: &UnitConfig,
    cap: Cap,
    ecap: Ecap,
    entry_mode: Option<u8>,
    report: &mut BringUpReport,
) -> Result<Plan, Error> {
    let free = caps::decide(config, cap, ecap, None)?;
    let Some(mode) = entry_mode else { return Ok(free) };
    let ours = if free.scalable { TTM_SCALABLE } else { TTM_LEGACY };
    if mode == ours || mode == TTM_ABORT || ecap.adms() {
        report.notes.push(String::from("translation was on: old tables stay in force until ours replace them"));
        return Ok(free);
    }
    let kept = caps::decide(config, cap, ecap, Some(mode)).map_err(|_| {
        Error::Unsupported("translation is on in another mode, and ECAP.ADMS (bit 52) is missing to leave it safely")
    })?;
    report.notes.push(format!("translation was on in mode {mode}: the mode is kept"));
    Ok(kept)
}

impl<M: Mmio, T: TableMem, C: Clock> Core<M, T, C> {
    /// Fault reporting, queue, context tables of known streams.
    fn prepare(&self, config: &UnitConfig, report: &mut BringUpReport) -> Result<(), Error> {
        self.mmio.w32(regs::FECTL, regs::FECTL_MASK);
        if let Some(msi) = config.fault_msi {
            self.mmio.w32(regs::FEDATA, msi.data);
            self.mmio.w32(regs::FEADDR, msi.address.0 as u32);
            self.mmio.w32(regs::FEUADDR, (msi.address.0 >> 32) as u32);
        }
        report.stale_faults = self.drain_faults(&mut |fault| log::warn!("{}: before bring-up: {fault}", self.name));
        self.mmio.w32(regs::FSTS, FaultStatus::new().with_overflow(true).into_bits());
        if config.fault_msi.is_some() {
            self.mmio.w32(regs::FECTL, 0);
        }
        self.stop_old_queue(report)?;
        self.mmio.w64(regs::IQT, 0);
        self.mmio.w64(regs::IQA, self.queue.address());
        self.command(global::QUEUE, true, "GSTS.QIES (bit 26)")?;
        let structures = self.structures.lock();
        for stream in config.streams.iter().filter(|stream| stream.segment == self.segment) {
            if let Ok(source) = u16::try_from(stream.id) {
                structures.prepare(&*self.mem, source)?;
            }
        }
        Ok(())
    }

    /// A queue that was on at entry is drained, then switched off: its memory is not ours.
    fn stop_old_queue(&self, report: &mut BringUpReport) -> Result<(), Error> {
        let errors = FaultStatus::new().with_queue_error(true).with_completion_error(true).with_timeout_error(true);
        self.mmio.w32(regs::FSTS, errors.into_bits());
        if self.mmio.r32(regs::GSTS) & global::QUEUE == 0 {
            return Ok(());
        }
        report.notes.push(String::from("the invalidation queue was on: replaced"));
        let idle = self.clock.until(self.budgets.invalidate_ns, &mut || {
            self.mmio.r64(regs::IQH) & 0x7_fff0 == self.mmio.r64(regs::IQT) & 0x7_fff0
        });
        if idle.is_err() {
            report.notes.push(String::from("the old invalidation queue did not drain"));
        }
        self.command(global::QUEUE, false, "GSTS.QIES (bit 26)")
    }

    fn set_root(&self, frame: u64, mode: u8) -> Result<(), Error> {
        self.mmio.w64(regs::RTADDR, RootAddress::new().with_mode(mode).with_frame(frame).into_bits());
        self.command(global::ROOT_POINTER, true, "GSTS.RTPS (bit 30)")
    }

    /// Root pointer, global invalidation, translation, protected regions.
    fn start(&self, translating: bool, found: u8, report: &mut BringUpReport) -> Result<(), Error> {
        let mode = if self.scalable { TTM_SCALABLE } else { TTM_LEGACY };
        let root = self.structures.lock().root.0 >> 12;
        // With translation on, the new root is walked at once: a write buffer must not hide it (CAP.RWBF).
        self.flush(inval::Batch::new())?;
        if translating && found != mode && found != TTM_ABORT {
            // Only with ECAP.ADMS, see `choose`: between the two modes every request is aborted.
            self.set_root(root, TTM_ABORT)?;
            report.notes.push(format!("changed from mode {found} through abort-DMA mode"));
        }
        // One bit per command: some units obey TE before SRTP when both are in one write.
        self.set_root(root, mode)?;
        self.live.store(true, Ordering::Release);
        self.flush(inval::everything(self.scalable, self.cap))?;
        if self.mmio.r32(regs::GSTS) & global::TRANSLATION == 0 {
            self.command(global::TRANSLATION, true, "GSTS.TES (bit 31)")?;
        }
        if self.cap.plmr() || self.cap.phmr() {
            let enable = self.mmio.r32(regs::PMEN);
            report.was_protecting = enable & (regs::PMEN_ENABLE | regs::PMEN_STATUS) != 0;
            if report.was_protecting {
                // Last: until here they kept devices out where no table did.
                self.mmio.w32(regs::PMEN, enable & !regs::PMEN_ENABLE);
                self.until("PMEN.PRS (bit 0)", regs::PMEN, regs::PMEN_STATUS, 0)?;
            }
        }
        Ok(())
    }
}
