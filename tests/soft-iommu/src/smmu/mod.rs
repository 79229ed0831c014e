//! One Arm SMMUv3 (Arm IHI 0070; tables from the Arm ARM, chapter D8), non-secure, 4 KiB granule, little endian.
//!
//! What this model does on purpose, because the architecture allows it:
//! * STEs, CDs and their level-1 descriptors are cached, invalid ones too, until a CFGI that covers them was followed
//!   by a completed CMD_SYNC (3.21.3, 4.3).
//! * Translations are cached by VMID and ASID, never by stream; those of nested streams hold both stages in one entry,
//!   which an invalidation by IPA does not reach (4.4.3). A run of contiguous entries is one entry.
//! * Table descriptors are cached until a TLBI without Leaf covers them; a level hint narrows it further (4.4.1).
//! * TLBIs take effect when a later CMD_SYNC completes (4.7.3), on what was there when they were consumed.
//! * A cached writable entry is not looked at again: a dirty state cleared without TLBI stays cleared (3.13).
//! * What is not marked cacheable (CR1, STE, CD) or not snooped (COHACC) is read from the arena's second view.
//!
//! Left out: secure state, AArch32, 16 KiB and 64 KiB granules, ATOS, ECMDQ, MPAM, broadcast TLB maintenance.

mod cache;
mod cd;
mod config;
mod event;
mod queue;
mod regs;
mod ste;
mod torn;
mod walk;

pub use config::{Caps, Config, Inject, Policy};
pub use event::{Irq, Reason, Refused};

use crate::{Arena, DmaWrite, Rng, Use, Violation};
use iommu_types::{Pasid, StreamId};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE: u64 = 4096;
/// Translations remembered for prefetching.
const RECENT: usize = 64;
/// Commands remembered.
const TRACE: usize = 1 << 16;

/// Bits `msb:lsb`.
fn field(word: u64, msb: u32, lsb: u32) -> u64 {
    word >> lsb & (u64::MAX >> (63 - (msb - lsb)))
}

/// What a unit did so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Table walks of one stage, prefetches included.
    pub walks: u64,
    /// Translations from the TLB.
    pub hits: u64,
    /// STEs and CDs fetched.
    pub fetches: u64,
    /// Commands consumed, by opcode.
    pub commands: [u64; 128],
    /// CMD_SYNCs completed.
    pub syncs: u64,
    /// Accesses refused.
    pub faults: u64,
    /// Descriptors updated by hardware.
    pub updates: u64,
    /// Speculative walks.
    pub prefetches: u64,
    /// Changes of SMMUEN.
    pub enables: u64,
}

/// The modelled unit. All methods may be called from several threads.
pub struct Smmu {
    arena: Arc<Arena>,
    unit: Mutex<Unit>,
}

struct InFlight {
    stream: StreamId,
    pasid: Option<Pasid>,
    iova: u64,
    pa: u64,
    data: Vec<u8>,
}

struct Stalled {
    tag: u16,
    stream: StreamId,
    pasid: Option<Pasid>,
    iova: u64,
    data: Vec<u8>,
}

/// State behind the lock.
struct Unit {
    arena: Arc<Arena>,
    config: Config,
    inject: Inject,
    rng: Rng,
    // Registers.
    cr0: regs::Late,
    cr0_ack: u32,
    cr1: u32,
    cr2: u32,
    gbpa: regs::Late,
    gbpa_shown: u32,
    /// What is in force.
    gbpa_live: u32,
    irq: regs::Late,
    irq_ack: u32,
    gerror: u32,
    gerrorn: u32,
    /// GERROR, event queue, PRI queue: MSI address and data.
    irq_cfg: [(u64, u32); 3],
    strtab_base: u64,
    strtab_cfg: u32,
    cmdq_base: u64,
    cmdq_prod: u32,
    cmdq_cons: u32,
    cmdq_err: u32,
    eventq: event::OutQueue,
    priq: event::OutQueue,
    // Behind the registers.
    /// Invalidations since reset still missing: bit 0 CFGI_ALL, bit 1 TLBI_NSNH_ALL.
    owed: u8,
    waiting: Vec<(u64, cache::Inv)>,
    cache: cache::Caches,
    messages: Vec<(u64, u32)>,
    irqs: Vec<Irq>,
    responses: Vec<(u32, u16, u8)>,
    trace: Vec<[u64; 2]>,
    next_stag: u16,
    stalled: Vec<Stalled>,
    // The world.
    seq: u64,
    writes: Vec<DmaWrite>,
    in_flight: Vec<InFlight>,
    recent: Vec<(u32, Option<u32>, u64)>,
    stats: Stats,
    torn: torn::Watch,
}

impl Smmu {
    /// A unit after reset, over `arena`.
    pub fn new(arena: Arc<Arena>, config: Config) -> Self {
        let seed = if let Policy::Adversarial(seed) = config.policy { seed } else { 0 };
        let unit = Unit {
            arena: arena.clone(),
            inject: Inject::default(),
            rng: Rng::new(seed),
            cr0: regs::Late::default(),
            cr0_ack: 0,
            cr1: 0,
            cr2: 0,
            gbpa: regs::Late { value: config.gbpa, ticks: None },
            gbpa_shown: config.gbpa,
            gbpa_live: config.gbpa,
            irq: regs::Late::default(),
            irq_ack: 0,
            gerror: 0,
            gerrorn: 0,
            irq_cfg: [(0, 0); 3],
            strtab_base: 0,
            strtab_cfg: 0,
            cmdq_base: 0,
            cmdq_prod: 0,
            cmdq_cons: 0,
            cmdq_err: 0,
            eventq: event::OutQueue::default(),
            priq: event::OutQueue::default(),
            owed: 3,
            waiting: Vec::new(),
            cache: cache::Caches::default(),
            messages: Vec::new(),
            irqs: Vec::new(),
            responses: Vec::new(),
            trace: Vec::new(),
            next_stag: 1,
            stalled: Vec::new(),
            seq: 0,
            writes: Vec::new(),
            in_flight: Vec::new(),
            recent: Vec::new(),
            stats: Stats {
                walks: 0,
                hits: 0,
                fetches: 0,
                commands: [0; 128],
                syncs: 0,
                faults: 0,
                updates: 0,
                prefetches: 0,
                enables: 0,
            },
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
    /// Reads a 32-bit register; page 1 is at 0x10000.
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
    /// One step of time: acknowledgements may show, and one command is taken from the queue.
    pub fn tick(&self) {
        let mut unit = self.lock();
        if unit.inject.dead {
            return;
        }
        unit.sample();
        unit.acknowledge();
        unit.consume();
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

    /// The unit as firmware left it: translating through that stream table, command and event queues off.
    pub fn firmware_left(&self, strtab_base: u64, strtab_cfg: u32) {
        let mut unit = self.lock();
        unit.strtab_base = strtab_base;
        unit.strtab_cfg = strtab_cfg;
        unit.cr0.value = 1;
        unit.cr0_ack = 1;
        unit.cr1 = 0xd75;
    }

    /// A device writes. Stops at the first page that refuses; what was written before stays written.
    ///
    /// # Errors
    /// [`Refused`], recorded in the event queue as the specification says.
    pub fn dma_write(&self, stream: StreamId, pasid: Option<Pasid>, iova: u64, data: &[u8]) -> Result<(), Refused> {
        self.lock().write_through(stream, pasid, iova, data)
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

    /// Where a one-byte access would land; events, caches and hardware updates as for a real one, memory unchanged.
    ///
    /// # Errors
    /// As [`dma_write`](Self::dma_write).
    pub fn probe(&self, stream: StreamId, pasid: Option<Pasid>, iova: u64, write: bool) -> Result<u64, Refused> {
        self.lock().access(stream, pasid, iova, write)
    }

    /// A write within one page that is translated now and lands later: at [`land`](Self::land), or when a CMD_SYNC
    /// completes.
    ///
    /// # Errors
    /// As [`dma_write`](Self::dma_write).
    pub fn begin_dma(&self, stream: StreamId, pasid: Option<Pasid>, iova: u64, data: &[u8]) -> Result<(), Refused> {
        let mut unit = self.lock();
        let pa = unit.access(stream, pasid, iova, true)?;
        let data = data[..data.len().min((PAGE - iova % PAGE) as usize)].to_vec();
        unit.in_flight.push(InFlight { stream, pasid, iova, pa, data });
        Ok(())
    }

    /// Lets every write begun by [`begin_dma`](Self::begin_dma) land.
    pub fn land(&self) {
        self.lock().land();
    }

    /// A device with a TLB of its own writes within one page: it asks once (for write), keeps the answer until an
    /// ATC_INV that covers it, and uses it without asking again.
    ///
    /// # Errors
    /// As [`dma_write`](Self::dma_write); [`Refused::Aborted`] also if the STE does not allow ATS.
    pub fn ats_write(&self, stream: StreamId, pasid: Option<Pasid>, iova: u64, data: &[u8]) -> Result<(), Refused> {
        let mut unit = self.lock();
        let ssid = pasid.map(|p| p.0);
        let pa = match unit.cache.atc(stream.id, ssid, iova) {
            Some((page, true)) => page | (iova % PAGE),
            _ => {
                if unit.ste(stream.id).map_or(0, |s| s.eats) != 1 {
                    return Err(Refused::Aborted);
                }
                let pa = unit.access(stream, pasid, iova, true)?;
                if unit.caches() {
                    unit.cache.keep_atc(stream.id, ssid, iova, pa, true);
                }
                pa
            }
        };
        let take = data.len().min((PAGE - iova % PAGE) as usize);
        unit.deliver(stream, pasid, iova, pa, &data[..take]);
        Ok(())
    }

    /// A device asks for a page (PRI).
    pub fn page_request(&self, stream: StreamId, pasid: Option<Pasid>, iova: u64, group: u16, last: bool, write: bool) {
        self.lock().page_request(stream.id, pasid.map(|p| p.0), iova, group, last, write);
    }

    /// Answers to page requests (stream, group, code) since the last call.
    pub fn take_responses(&self) -> Vec<(u32, u16, u8)> {
        std::mem::take(&mut self.lock().responses)
    }
    /// Writes that reached memory since the last call.
    pub fn take_writes(&self) -> Vec<DmaWrite> {
        std::mem::take(&mut self.lock().writes)
    }
    /// Messages (address, data) to addresses outside memory since the last call.
    pub fn take_messages(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.lock().messages)
    }
    /// Wired interrupts and events since the last call.
    pub fn take_irqs(&self) -> Vec<Irq> {
        std::mem::take(&mut self.lock().irqs)
    }
    /// Commands consumed since the last call, both words (the newest 65536).
    pub fn take_commands(&self) -> Vec<[u64; 2]> {
        std::mem::take(&mut self.lock().trace)
    }

    /// Starts an operation of the driver: stores to structures are kept for [`end_op`](Self::end_op).
    pub fn begin_op(&self) {
        self.lock().begin_journal();
    }
    /// Ends it: every STE and CD must at each store have been as before, as after, or not valid, between the completed
    /// CFGIs that cover it; and no live descriptor may have been replaced without break-before-make.
    pub fn end_op(&self) {
        self.lock().end_journal();
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
        self.lock().cr0_ack & 1 != 0
    }
    /// Cached entries: STEs, CDs, translations, table descriptors.
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
    /// CR1.TABLE_IC and TABLE_OC write-back (6.3.10).
    fn table_snoops(&self) -> bool {
        self.config.caps.cohacc && self.cr1 >> 6 & 15 == 0b0101
    }
    /// CR1.QUEUE_IC and QUEUE_OC write-back.
    fn queue_snoops(&self) -> bool {
        self.config.caps.cohacc && self.cr1 & 15 == 0b0101
    }

    /// May hardware use the frame of `at`? False outside memory: an external abort.
    fn may_touch(&self, at: u64, what: &str) -> bool {
        match self.arena.owner(at) {
            None => false,
            Some(Use::Table | Use::Data) => true,
            Some(owner) => {
                self.violate("hardware used a frame that is not held", format!("{what} at {at:#x} ({owner:?})"));
                true
            }
        }
    }

    fn load(&self, at: u64, snoops: bool, what: &str) -> Option<u64> {
        if !self.may_touch(at, what) {
            return None;
        }
        self.arena.hw_load(at, snoops)
    }

    /// Hardware takes a look, evicts or prefetches.
    fn sample(&mut self) {
        if self.trace.len() > TRACE {
            self.trace.drain(..TRACE / 2);
        }
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
        if !self.recent.is_empty() && self.cr0_ack & 1 != 0 && self.rng.one_in(3) {
            let (sid, ssid, iova) = self.recent[self.rng.below(self.recent.len() as u64) as usize];
            self.stats.prefetches += 1;
            let _ = self.translate(sid, ssid, iova, false, true);
        }
    }

    fn access(&mut self, stream: StreamId, pasid: Option<Pasid>, iova: u64, write: bool) -> Result<u64, Refused> {
        if self.inject.dead {
            return Err(Refused::Dead);
        }
        let (sid, ssid) = (stream.id, pasid.map(|p| p.0));
        if self.cr0_ack & 1 == 0 {
            return if self.gbpa_live >> 20 & 1 == 1 { Err(Refused::Aborted) } else { Ok(iova) };
        }
        if self.adversarial() {
            let item = (sid, ssid, iova);
            if self.recent.len() < RECENT {
                self.recent.push(item);
            } else {
                let at = self.rng.below(RECENT as u64) as usize;
                self.recent[at] = item;
            }
        }
        self.translate(sid, ssid, iova, write, false).map_err(|fail| self.record(fail, sid, ssid, iova, write))
    }

    fn write_through(&mut self, stream: StreamId, pasid: Option<Pasid>, iova: u64, data: &[u8]) -> Result<(), Refused> {
        let mut done = 0;
        while done < data.len() {
            let at = iova.wrapping_add(done as u64);
            let take = ((PAGE - at % PAGE) as usize).min(data.len() - done);
            match self.access(stream, pasid, at, true) {
                Ok(pa) => self.deliver(stream, pasid, at, pa, &data[done..done + take]),
                Err(refused) => {
                    if let Refused::Stalled(tag) = refused {
                        self.stalled.push(Stalled { tag, stream, pasid, iova: at, data: data[done..].to_vec() });
                    }
                    return Err(refused);
                }
            }
            done += take;
        }
        Ok(())
    }

    /// CMD_RESUME (one tag) or CMD_STALL_TERM (all of a stream).
    fn resume(&mut self, sid: u32, tag: Option<u16>, retry: bool) {
        let named = |s: &Stalled| s.stream.id == sid && tag.is_none_or(|t| t == s.tag);
        let (mine, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.stalled).into_iter().partition(named);
        self.stalled = rest;
        for s in mine.into_iter().filter(|_| retry) {
            let _ = self.write_through(s.stream, s.pasid, s.iova, &s.data);
        }
    }

    fn deliver(&mut self, stream: StreamId, pasid: Option<Pasid>, iova: u64, pa: u64, data: &[u8]) {
        self.reached(pa, "write");
        self.arena.write_bytes(pa, data);
        self.writes.push(DmaWrite { seq: self.seq, stream, pasid, iova, pa, len: data.len() as u32 });
        self.seq += 1;
    }

    /// A translated access reached `pa`: nobody gave that frame to a device unless it is data.
    fn reached(&self, pa: u64, verb: &str) {
        if self.cr0_ack & 1 == 0 {
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
            self.deliver(dma.stream, dma.pasid, dma.iova, dma.pa, &dma.data);
        }
    }
}
