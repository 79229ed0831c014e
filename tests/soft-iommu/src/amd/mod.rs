//! One AMD I/O MMU (AMD publication 48882, revision 3.x).
//!
//! What hardware *may* do to software that follows the rules, it does here:
//!
//! * A translation is found by its tag (domain id, and PASID for guest tables) and also by the requester that used it,
//!   without a look at the device-table entry, until INVALIDATE_IOMMU_PAGES covers it (2.4.3).
//! * Device-table entries, GCR3 entries, table pointers and interrupt entries are kept until the command that names
//!   them; table pointers survive INVALIDATE_IOMMU_PAGES with PDE=0.
//! * Commands take effect when a later COMPLETION_WAIT completes, not when the head passes them (2.4.1).
//! * A large page may be kept in 4 KiB pieces, each of which must be covered.
//! * A page that spans several entries (next level 7) gets A and D in the entry that was walked only.
//! * A page cached clean is walked again by the first write; one cached dirty sets no bit any more.
//! * Absence is never cached (NpCache is 0). A missing right is.
//!
//! Choices where the specification leaves room: a device blocked by TV=0 and a request with a PASID to an entry without
//! GV give IO_PAGE_FAULT with PR=0, as do nonzero iova bits of skipped levels; Control.HADUpdate is kept and not
//! consulted, HAD of the entry decides; a requester beyond the device table gives ILLEGAL_DEV_TABLE_ENTRY.

mod cache;
mod config;
mod dte;
mod fault;
mod interrupt;
mod queue;
mod regs;
mod walk;

pub use config::{Caps, Config, Inject, Policy, Quirks};
pub use fault::{Reason, Refused};
pub use interrupt::Interrupt;

use crate::{Arena, DmaWrite, Rng, Use, Violation};
use iommu_types::{Pasid, StreamId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE: u64 = 4096;
/// Translations remembered for prefetching.
const RECENT: usize = 64;

/// Bits `msb` to `lsb` of `word`, as the figures give them.
const fn field(word: u64, msb: u32, lsb: u32) -> u64 {
    (word >> lsb) & (u64::MAX >> (63 - (msb - lsb)))
}

/// Ones below bit `log2`, at most 64.
const fn low_bits(log2: u8) -> u64 {
    if log2 >= 64 { u64::MAX } else { (1 << log2) - 1 }
}

/// What a unit did so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stats {
    /// Table walks, prefetches included.
    pub walks: u64,
    /// Translations from the caches.
    pub hits: u64,
    /// Commands taken from the buffer, by opcode (0 to 15).
    pub commands: [u64; 16],
    /// Requests refused.
    pub faults: u64,
    /// Records written to the event log.
    pub events: u64,
    /// Events lost: the log was full or off.
    pub lost_events: u64,
    /// A/D bits set in tables.
    pub ad_updates: u64,
    /// Speculative walks.
    pub prefetches: u64,
    /// Accesses that passed because the device-table entry has V=0.
    pub untranslated: u64,
}

/// The modelled unit. All methods may be called from several threads.
pub struct Amd {
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

/// State behind the lock.
struct Unit {
    arena: Arc<Arena>,
    config: Config,
    inject: Inject,
    rng: Rng,
    // Registers.
    table_base: u64,
    command_base: u64,
    event_base: u64,
    control: u64,
    exclusion_base: u64,
    exclusion_limit: u64,
    command_head: u64,
    command_tail: u64,
    event_head: u64,
    event_tail: u64,
    status: u64,
    run_wanted: u64,
    run_delay: u32,
    kept: BTreeMap<usize, u64>,
    msi: (u64, u32),
    // Behind the registers.
    waiting: Vec<cache::Inv>,
    cache: cache::Caches,
    /// Requesters with SE whose first page fault was logged.
    told: BTreeSet<u16>,
    late_record: Option<(u64, [u64; 2])>,
    messages: Vec<(u64, u32)>,
    // The world.
    seq: u64,
    writes: Vec<DmaWrite>,
    in_flight: Vec<InFlight>,
    recent: Vec<(u16, Option<u32>, u64, bool)>,
    stats: Stats,
}

impl Amd {
    /// A unit after reset, over `arena`.
    pub fn new(arena: Arc<Arena>, config: Config) -> Self {
        let seed = if let Policy::Adversarial(seed) = config.policy { seed } else { 0 };
        let unit = Unit {
            arena: arena.clone(),
            inject: Inject::default(),
            rng: Rng::new(seed),
            table_base: 0,
            // Reset lengths: 256 entries.
            command_base: 8 << 56,
            event_base: 8 << 56,
            control: 0,
            exclusion_base: 0,
            exclusion_limit: 0,
            command_head: 0,
            command_tail: 0,
            event_head: 0,
            event_tail: 0,
            status: 0,
            run_wanted: 0,
            run_delay: 0,
            kept: BTreeMap::new(),
            msi: (0, 0),
            waiting: Vec::new(),
            cache: cache::Caches::default(),
            told: BTreeSet::new(),
            late_record: None,
            messages: Vec::new(),
            seq: 0,
            writes: Vec::new(),
            in_flight: Vec::new(),
            recent: Vec::new(),
            stats: Stats::default(),
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

    /// One step of time: status bits follow the control register, and one command is taken from the buffer.
    pub fn tick(&self) {
        let mut unit = self.lock();
        if unit.inject.dead {
            return;
        }
        unit.sample();
        unit.follow_control();
        unit.flush_late();
        unit.take_command();
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

    /// Address and data of the MSI capability in configuration space, for the unit's own interrupts.
    pub fn set_msi(&self, address: u64, data: u32) {
        self.lock().msi = (address, data);
    }

    /// The unit as firmware left it: device table, command buffer and event log bases and control as the registers,
    /// head and tail of the command buffer at `at`.
    pub fn firmware_left(&self, table: u64, commands: u64, events: u64, control: u64, at: u64) {
        let mut unit = self.lock();
        unit.table_base = table;
        unit.command_base = commands;
        unit.event_base = events;
        unit.control = control;
        (unit.command_head, unit.command_tail) = (at, at);
        let run = |on: u32, run: u64| if control >> on & 1 != 0 { run } else { 0 };
        unit.run_wanted = run(12, fault::CMD_RUN) | run(2, fault::LOG_RUN);
        unit.status = unit.run_wanted;
    }

    /// A device writes. Stops at the first page that refuses; what was written before stays written.
    ///
    /// # Errors
    /// [`Refused`], logged as the specification says.
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

    /// Where a one-byte access would land; events, caches and A/D change as for a real one, memory does not.
    ///
    /// # Errors
    /// As [`dma_write`](Self::dma_write).
    pub fn probe(&self, stream: StreamId, pasid: Option<Pasid>, iova: u64, write: bool) -> Result<u64, Refused> {
        self.lock().access(stream, pasid, iova, write)
    }

    /// A write within one page that is translated now and lands later: at [`land`](Self::land), or when an invalidation
    /// of pages takes effect.
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

    /// A message-signalled interrupt of a device: what leaves the unit.
    ///
    /// # Errors
    /// [`Refused::Fault`] if the device's entry or the interrupt entry refuses it, logged with flag I.
    pub fn interrupt(&self, stream: StreamId, address: u64, data: u32) -> Result<Interrupt, Refused> {
        self.lock().remap(stream.id as u16, address, data)
    }

    /// Writes that reached memory since the last call.
    pub fn take_writes(&self) -> Vec<DmaWrite> {
        std::mem::take(&mut self.lock().writes)
    }

    /// Messages (address, data) the unit sent for events and completed waits since the last call.
    pub fn take_messages(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.lock().messages)
    }

    /// Starts an operation of the driver: stores to structures are kept for [`end_op`](Self::end_op).
    pub fn begin_op(&self) {
        self.arena.start_journal();
    }

    /// Ends it: every device-table entry must at each store have meant what it meant before, or after, or have blocked
    /// all; checked while the unit is enabled.
    pub fn end_op(&self) {
        let mut unit = self.lock();
        let journal = self.arena.take_journal();
        if unit.control & regs::ENABLE != 0 {
            unit.check_torn(&journal);
        }
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
        self.lock().control & regs::ENABLE != 0
    }
    /// Cached entries: devices, translations, table pointers, interrupts.
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
        if !self.recent.is_empty() && self.control & regs::ENABLE != 0 && self.rng.one_in(3) {
            let (sid, pasid, iova, write) = self.recent[self.rng.below(self.recent.len() as u64) as usize];
            self.stats.prefetches += 1;
            // The same page or one near it.
            let iova = iova.wrapping_add(self.rng.below(9) * PAGE).wrapping_sub(4 * PAGE);
            let _ = self.translate(sid, pasid, walk::Request { iova, write, speculative: true });
        }
    }

    /// One access within a page: special ranges, translation, event.
    fn access(&mut self, stream: StreamId, pasid: Option<Pasid>, iova: u64, write: bool) -> Result<u64, Refused> {
        let sid = stream.id as u16;
        let pasid = pasid.map(|p| p.0);
        if pasid.is_none() {
            if iova & !0xf_ffff == 0xfee0_0000 {
                return Err(Refused::InterruptRange);
            }
            if (0xfd_0000_0000..=0xff_ffff_ffff).contains(&iova) && !self.config.caps.ht_range_ignore {
                return Err(Refused::HyperTransport);
            }
        }
        if self.control & regs::ENABLE == 0 {
            return Ok(iova);
        }
        if self.adversarial() {
            let item = (sid, pasid, iova, write);
            if self.recent.len() < RECENT {
                self.recent.push(item);
            } else {
                let at = self.rng.below(RECENT as u64) as usize;
                self.recent[at] = item;
            }
        }
        self.translate(sid, pasid, walk::Request { iova, write, speculative: false }).map_err(|fail| {
            self.record(fail, sid, iova, write, false);
            Refused::Fault(fail.stop.reason)
        })
    }

    fn deliver(&mut self, stream: StreamId, pasid: Option<Pasid>, iova: u64, pa: u64, data: &[u8]) {
        self.reached(pa, "write");
        self.arena.write_bytes(pa, data);
        self.writes.push(DmaWrite { seq: self.seq, stream, pasid, iova, pa, len: data.len() as u32 });
        self.seq += 1;
    }

    /// An access reached `pa`: nobody gave that frame to a device unless it is data.
    fn reached(&self, pa: u64, verb: &str) {
        if self.control & regs::ENABLE == 0 {
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
