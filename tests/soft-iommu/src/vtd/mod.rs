//! One Intel VT-d unit (architecture specification, revisions 4.1 and 5.x; section numbers are those of 4.1).
//!
//! What hardware *may* do to software that follows the rules, it does here:
//!
//! * An IOTLB entry is found by its tag (domain id, and PASID for first stage) and also by the requester that used it,
//!   without a look at the context entry, until an IOTLB invalidation covers it (6.2.5).
//! * Paging-structure caches keep pointers to table pages until an invalidation without the hint covers them (6.2.6).
//! * Invalidation descriptors take effect when a later wait descriptor completes, not when the head passes them
//!   (6.5.2.9); IOTLB invalidations then run after the context- and PASID-cache invalidations queued before them.
//! * With caching mode, refusals are cached too (6.1).
//! * Walks that are not snooped read the arena's second view.

mod cache;
mod config;
mod fault;
mod paging;
mod queue;
mod regs;
mod torn;
mod walk;

pub use config::{Caps, Config, Inject, Policy, Quirks};
pub use fault::{Reason, Refused};

use crate::{Arena, DmaWrite, Rng, Use, Violation};
use iommu_types::{Pasid, StreamId};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE: u64 = 4096;
/// Translations remembered for prefetching.
const RECENT: usize = 64;

/// What a unit did so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stats {
    /// Table walks, prefetches included.
    pub walks: u64,
    /// Translations from the IOTLB.
    pub hits: u64,
    /// Descriptors taken from the queue, by type (0 to 15).
    pub descriptors: [u64; 16],
    /// Accesses refused by translation.
    pub faults: u64,
    /// Write-buffer flushes by command.
    pub write_buffer_flushes: u64,
    /// A/D bits set in tables.
    pub ad_updates: u64,
    /// Speculative walks.
    pub prefetches: u64,
}

/// The modelled unit. All methods may be called from several threads.
pub struct Vtd {
    arena: Arc<Arena>,
    unit: Mutex<Unit>,
}

struct InFlight {
    stream: StreamId,
    pasid: Option<Pasid>,
    iova: u64,
    pa: u64,
    data: Vec<u8>,
    late: Vec<(u64, u64)>,
}

/// State behind the lock.
struct Unit {
    arena: Arc<Arena>,
    config: Config,
    inject: Inject,
    rng: Rng,
    // Registers.
    gsts: u32,
    pending: Option<regs::Pending>,
    rtaddr: u64,
    latched: Option<u64>,
    owed: u8,
    ccmd: u64,
    iva: u64,
    iotlb: u64,
    fault_status: u32,
    fectl: u32,
    fedata: u32,
    feaddr: u32,
    feuaddr: u32,
    records: Vec<fault::Record>,
    next_record: usize,
    first_record: u8,
    aflog: u64,
    pmen: u32,
    pmen_wanted: bool,
    plm: [u32; 2],
    phm: [u64; 2],
    iqh: u64,
    iqt: u64,
    iqa: u64,
    iqercd: u64,
    ics: u32,
    iectl: u32,
    iedata: u32,
    ieaddr: u32,
    ieuaddr: u32,
    irta: u64,
    // Behind the registers.
    waiting: Vec<cache::Inv>,
    cache: cache::Caches,
    messages: Vec<(u64, u32)>,
    // The world.
    seq: u64,
    writes: Vec<DmaWrite>,
    in_flight: Vec<InFlight>,
    late: Option<Vec<(u64, u64)>>,
    recent: Vec<(u16, Option<u32>, u64, bool)>,
    stats: Stats,
    torn: torn::Watch,
}

impl Vtd {
    /// A unit after reset, over `arena`.
    pub fn new(arena: Arc<Arena>, config: Config) -> Self {
        let seed = if let Policy::Adversarial(seed) = config.policy { seed } else { 0 };
        let unit = Unit {
            arena: arena.clone(),
            inject: Inject::default(),
            rng: Rng::new(seed),
            gsts: 0,
            pending: None,
            rtaddr: 0,
            latched: None,
            owed: 0,
            ccmd: 0,
            iva: 0,
            iotlb: 0,
            fault_status: 0,
            fectl: 1 << 31,
            fedata: 0,
            feaddr: 0,
            feuaddr: 0,
            records: vec![fault::Record::default(); usize::from(config.caps.fault_records)],
            next_record: 0,
            first_record: 0,
            aflog: 0,
            pmen: 0,
            pmen_wanted: false,
            plm: [0; 2],
            phm: [0; 2],
            iqh: 0,
            iqt: 0,
            iqa: 0,
            iqercd: 0,
            ics: 0,
            iectl: 1 << 31,
            iedata: 0,
            ieaddr: 0,
            ieuaddr: 0,
            irta: 0,
            waiting: Vec::new(),
            cache: cache::Caches::default(),
            messages: Vec::new(),
            seq: 0,
            writes: Vec::new(),
            in_flight: Vec::new(),
            late: None,
            recent: Vec::new(),
            stats: Stats::default(),
            torn: torn::Watch::default(),
            config,
        };
        Self { arena, unit: Mutex::new(unit) }
    }

    fn lock(&self) -> MutexGuard<'_, Unit> {
        self.unit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory it works on.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Its configuration.
    pub fn config(&self) -> Config {
        self.lock().config
    }

    /// Reads a 32-bit register.
    pub fn r32(&self, offset: usize) -> u32 {
        self.lock().r32(offset)
    }
    /// Reads a 64-bit register.
    pub fn r64(&self, offset: usize) -> u64 {
        self.lock().r64(offset)
    }
    /// Writes a 32-bit register. A sampling point.
    pub fn w32(&self, offset: usize, value: u32) {
        let mut unit = self.lock();
        unit.sample();
        unit.w32(offset, value);
    }
    /// Writes a 64-bit register. A sampling point.
    pub fn w64(&self, offset: usize, value: u64) {
        let mut unit = self.lock();
        unit.sample();
        unit.w64(offset, value);
    }

    /// One step of time: a pending command may complete, and one descriptor is taken from the queue.
    pub fn tick(&self) {
        let mut unit = self.lock();
        unit.sample();
        unit.tick();
    }

    /// A moment at which hardware may look at memory, as after a store of the driver. Does nothing unless the policy is
    /// [`Policy::Adversarial`].
    pub fn sample(&self) {
        self.lock().sample();
    }

    /// Changes the misbehaviour.
    pub fn inject(&self, change: impl FnOnce(&mut Inject)) {
        change(&mut self.lock().inject);
    }

    /// The unit as firmware left it: root pointer latched (`rtaddr` as the register), translation on or off, and the
    /// protected regions on (low range, high range) or off. The queue is off and faults are masked.
    pub fn firmware_left(&self, rtaddr: u64, translating: bool, protected: Option<([u32; 2], [u64; 2])>) {
        let mut unit = self.lock();
        unit.rtaddr = rtaddr;
        unit.latched = Some(rtaddr);
        unit.gsts = regs::RTPS | if translating { regs::TES } else { 0 };
        if let Some((low, high)) = protected {
            unit.plm = low;
            unit.phm = high;
            unit.pmen = 1 << 31 | 1;
            unit.pmen_wanted = true;
        }
    }

    /// The unit as firmware left it with its queue on: IQA as the register, head and tail equal.
    pub fn firmware_left_queue(&self, iqa: u64, tail: u64) {
        let mut unit = self.lock();
        unit.iqa = iqa;
        unit.iqh = tail;
        unit.iqt = tail;
        unit.gsts |= regs::QIES;
    }

    /// A device writes. Stops at the first page that refuses; what was written before stays written.
    ///
    /// # Errors
    /// [`Refused`], recorded in the fault records as the specification says.
    pub fn dma_write(&self, stream: StreamId, pasid: Option<Pasid>, iova: u64, data: &[u8]) -> Result<(), Refused> {
        let mut unit = self.lock();
        let mut done = 0;
        while done < data.len() {
            let at = iova.wrapping_add(done as u64);
            let take = ((PAGE - at % PAGE) as usize).min(data.len() - done);
            let pa = unit.access(stream, pasid, at, true)?;
            unit.deliver(stream, pasid, at, pa, &data[done..done + take]);
            done += take;
        }
        Ok(())
    }

    /// A device reads.
    ///
    /// # Errors
    /// As [`dma_write`](Self::dma_write).
    pub fn dma_read(&self, stream: StreamId, pasid: Option<Pasid>, iova: u64, out: &mut [u8]) -> Result<(), Refused> {
        let mut unit = self.lock();
        let mut done = 0;
        while done < out.len() {
            let at = iova.wrapping_add(done as u64);
            let take = ((PAGE - at % PAGE) as usize).min(out.len() - done);
            let pa = unit.access(stream, pasid, at, false)?;
            unit.reached(pa, "read");
            self.arena.read_bytes(pa, &mut out[done..done + take]);
            done += take;
        }
        Ok(())
    }

    /// Where a one-byte access would land; faults, caches and A/D change as for a real one, memory does not.
    ///
    /// # Errors
    /// As [`dma_write`](Self::dma_write).
    pub fn probe(&self, stream: StreamId, pasid: Option<Pasid>, iova: u64, write: bool) -> Result<u64, Refused> {
        self.lock().access(stream, pasid, iova, write)
    }

    /// A write within one page that is translated now and lands later: at [`land`](Self::land), or when an IOTLB
    /// invalidation that drains writes is processed. With the quirk `ad_store` its A/D update, computed now, is stored
    /// when it lands, whatever the entry holds then.
    ///
    /// # Errors
    /// As [`dma_write`](Self::dma_write).
    pub fn begin_dma(&self, stream: StreamId, pasid: Option<Pasid>, iova: u64, data: &[u8]) -> Result<(), Refused> {
        let mut unit = self.lock();
        let late = unit.config.quirks.ad_store;
        unit.late = late.then(Vec::new);
        let pa = unit.access(stream, pasid, iova, true);
        let late = unit.late.take().unwrap_or_default();
        let data = data[..data.len().min((PAGE - iova % PAGE) as usize)].to_vec();
        unit.in_flight.push(InFlight { stream, pasid, iova, pa: pa?, data, late });
        Ok(())
    }

    /// Lets every write begun by [`begin_dma`](Self::begin_dma) land.
    pub fn land(&self) {
        self.lock().land();
    }

    /// Writes that reached memory since the last call.
    pub fn take_writes(&self) -> Vec<DmaWrite> {
        std::mem::take(&mut self.lock().writes)
    }

    /// Messages (address, data) the unit sent for faults and invalidation completions since the last call.
    pub fn take_messages(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.lock().messages)
    }

    /// Starts an operation of the driver: stores to structures are kept for [`end_op`](Self::end_op).
    pub fn begin_op(&self) {
        let mut unit = self.lock();
        unit.learn_structures();
        self.arena.start_journal();
    }

    /// Ends it: every entry of the root, context, PASID-directory and PASID tables must at each store have been as
    /// before, as after, or not present; and a new root pointer must have been followed by global invalidations.
    pub fn end_op(&self) {
        let mut unit = self.lock();
        unit.learn_structures();
        let journal = self.arena.take_journal();
        unit.check_torn(&journal);
        unit.check_owed();
    }

    /// Broken rules so far, of this unit and of the memory.
    pub fn violations(&self) -> Vec<Violation> {
        self.arena.violations()
    }

    /// What it did so far.
    pub fn stats(&self) -> Stats {
        self.lock().stats
    }

    /// Is translation on?
    pub fn translating(&self) -> bool {
        self.lock().gsts & regs::TES != 0
    }

    /// Cached entries: contexts, PASIDs, translations, table pointers.
    pub fn cached(&self) -> [usize; 4] {
        self.lock().cache.sizes()
    }
}

impl Unit {
    fn violate(&self, rule: &'static str, detail: String) {
        self.arena.violate(rule, detail);
    }

    fn caches(&self) -> bool {
        self.config.policy != Policy::Exact
    }

    fn adversarial(&self) -> bool {
        matches!(self.config.policy, Policy::Adversarial(_))
    }

    /// Hardware takes a look, evicts or prefetches.
    fn sample(&mut self) {
        if !self.adversarial() {
            return;
        }
        if self.rng.one_in(4) {
            let arena = self.arena.clone();
            arena.evict_line(&mut self.rng);
        }
        if self.rng.one_in(16) {
            self.cache.evict_one(&mut self.rng);
        }
        if !self.recent.is_empty() && self.gsts & regs::TES != 0 && self.rng.one_in(3) {
            let (sid, pasid, iova, write) = self.recent[self.rng.below(self.recent.len() as u64) as usize];
            self.stats.prefetches += 1;
            let _ = self.translate(sid, pasid, iova, write, true);
        }
    }

    /// One access within a page: translation, protected regions, fault record.
    fn access(&mut self, stream: StreamId, pasid: Option<Pasid>, iova: u64, write: bool) -> Result<u64, Refused> {
        let sid = stream.id as u16;
        let pasid = pasid.map(|p| p.0);
        if pasid.is_none() && iova & !0xf_ffff == 0xfee0_0000 {
            return Err(Refused::InterruptRange);
        }
        let pa = if self.gsts & regs::TES == 0 {
            iova
        } else {
            if self.adversarial() {
                let item = (sid, pasid, iova, write);
                if self.recent.len() < RECENT {
                    self.recent.push(item);
                } else {
                    let at = self.rng.below(RECENT as u64) as usize;
                    self.recent[at] = item;
                }
            }
            match self.translate(sid, pasid, iova, write, false) {
                Ok(pa) => pa,
                Err(fail) => {
                    self.record(fail, sid, pasid, iova, write);
                    return Err(Refused::Fault(fail.reason));
                }
            }
        };
        if self.pmen & 1 != 0 && self.protected(pa) {
            return Err(Refused::Protected);
        }
        Ok(pa)
    }

    /// Protected regions (10.4.16): limits are inclusive, low bits taken as ones.
    fn protected(&self, pa: u64) -> bool {
        let low = u64::from(self.plm[0])..=u64::from(self.plm[1]) | 0x1f_ffff;
        let high = self.phm[0]..=self.phm[1] | 0x1f_ffff;
        low.contains(&pa) || (self.phm[1] != 0 && high.contains(&pa))
    }

    fn deliver(&mut self, stream: StreamId, pasid: Option<Pasid>, iova: u64, pa: u64, data: &[u8]) {
        self.reached(pa, "write");
        self.arena.write_bytes(pa, data);
        self.writes.push(DmaWrite { seq: self.seq, stream, pasid, iova, pa, len: data.len() as u32 });
        self.seq += 1;
    }

    /// A translated access reached `pa`: nobody gave that frame to a device unless it is data.
    fn reached(&self, pa: u64, verb: &str) {
        if self.gsts & regs::TES == 0 {
            return;
        }
        match self.arena.owner(pa) {
            None | Some(Use::Data) => {}
            Some(owner) => {
                self.violate("dma reached a frame that is not data", format!("{verb} of {pa:#x} ({owner:?})"))
            }
        }
    }

    fn land(&mut self) {
        for dma in std::mem::take(&mut self.in_flight) {
            for (at, value) in dma.late {
                self.arena.hw_store(at, value);
            }
            self.deliver(dma.stream, dma.pasid, dma.iova, dma.pa, &dma.data);
        }
    }
}
