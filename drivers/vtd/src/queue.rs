//! The invalidation queue (section 6.5.2): submit, wait with a deadline, recover.
//!
//! Each submission ends with a wait descriptor that writes the submission's sequence number to a status word of its own
//! ring slot. Hardware completes waits in order, so a slot that shows a later number (it was used again meanwhile) is as
//! good. Nothing waits while it holds the ring's lock.

use crate::inval::{self, Batch};
use crate::spec::regs::{self, FaultStatus};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use iommu_api::{Clock, Mmio, TableMem};
use iommu_types::{Error, Phys, Resource, UnitId};
use spin::Mutex;

/// Status words lie 8 bytes apart in their page; the last takes what nobody waits for.
const SCRATCH: u64 = 511;
/// Polls of the status word between two looks at the fault status.
const PATIENCE: u32 = 16;

/// What a submission became.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Done,
    /// Hardware stopped at one of its descriptors; the others took effect.
    Refused,
    /// A device TLB timed out, and hardware dropped the waits (6.5.2.10): nothing is known.
    Aborted,
}

#[derive(Clone, Copy)]
struct Ticket {
    slot: u32,
    sequence: u32,
}

struct Ring {
    tail: u32,
    /// As last read: hardware is at least this far.
    head: u32,
    sequence: u32,
}

/// Producer side of one unit's queue.
pub(crate) struct Queue {
    unit: UnitId,
    base: Phys,
    status: Phys,
    entries: u32,
    /// log2 of a descriptor's bytes: 4 or 5 (also the shift of IQH and IQT).
    shift: u32,
    coherent: bool,
    ring: Mutex<Ring>,
    /// Per slot: the sequence number whose wait descriptor is there, 0 for other descriptors.
    waits: Vec<AtomicU32>,
    /// Per slot: the sequence number that was refused.
    refused: Vec<AtomicU32>,
    /// Submissions up to this number were aborted; 64 bits so that "none yet" has a value.
    aborted: AtomicU64,
    /// Submissions, and those that hardware refused.
    pub(crate) submitted: AtomicU64,
    pub(crate) errors: AtomicU64,
}

/// What the queue needs of its unit, for one call.
pub(crate) struct With<'a, M, T, C> {
    pub mmio: &'a M,
    pub mem: &'a T,
    pub clock: &'a C,
    pub budget_ns: u64,
}

fn reached(got: u32, sequence: u32) -> bool {
    got.wrapping_sub(sequence) as i32 >= 0
}

impl Queue {
    /// One page of descriptors: 256 of 128 bits, or 128 of 256 bits (`wide`), and a page of status words.
    pub(crate) fn new<T: TableMem>(mem: &T, unit: UnitId, wide: bool, coherent: bool) -> Result<Self, Error> {
        let entries: u32 = if wide { 128 } else { 256 };
        let list = || {
            let mut list = Vec::new();
            list.try_reserve_exact(entries as usize).map_err(|_| Error::Exhausted(Resource::Memory))?;
            list.resize_with(entries as usize, || AtomicU32::new(0));
            Ok::<_, Error>(list)
        };
        let (waits, refused) = (list()?, list()?);
        let base = mem.alloc()?;
        let status = mem.alloc().inspect_err(|_| mem.release(base))?;
        Ok(Self {
            unit,
            base,
            status,
            entries,
            shift: if wide { 5 } else { 4 },
            coherent,
            ring: Mutex::new(Ring { tail: 0, head: 0, sequence: 0 }),
            waits,
            refused,
            aborted: AtomicU64::new(0),
            submitted: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        })
    }

    /// Value of the queue address register.
    pub(crate) fn address(&self) -> u64 {
        regs::QueueAddress::new().with_size(0).with_wide(self.shift == 5).with_frame(self.base.0 >> 12).into_bits()
    }

    /// Gives the pages back; the unit must not know them.
    pub(crate) fn release<T: TableMem>(&self, mem: &T) {
        mem.release(self.base);
        mem.release(self.status);
    }

    /// Slots in use as hardware shows it, and slots.
    pub(crate) fn fill<M: Mmio>(&self, mmio: &M) -> (u32, u32) {
        let ring = self.ring.lock();
        let head = self.head(mmio);
        ((ring.tail + self.entries - head) % self.entries, self.entries)
    }

    fn head<M: Mmio>(&self, mmio: &M) -> u32 {
        ((mmio.r64(regs::IQH) >> self.shift) as u32) & (self.entries - 1)
    }

    /// Runs `batch` and waits until it took effect. A batch that hardware refuses is replaced by one that invalidates
    /// everything, once.
    ///
    /// # Errors
    /// [`Error::Stuck`]: nothing is known about the unit's caches then.
    pub(crate) fn run<M: Mmio, T: TableMem, C: Clock>(
        &self,
        with: &With<'_, M, T, C>,
        batch: &Batch,
        everything: &Batch,
    ) -> Result<(), Error> {
        let mut current = batch;
        // One try, one for a refusal, and a few for other people's timeouts.
        for _ in 0..4 {
            let ticket = self.submit(with, current.list())?;
            match self.wait(with, ticket)? {
                Outcome::Done => return Ok(()),
                Outcome::Aborted => continue,
                Outcome::Refused if core::ptr::eq(current, everything) => break,
                Outcome::Refused => current = everything,
            }
        }
        Err(inval::refused(self.unit, with.mmio.r32(regs::FSTS)))
    }

    fn store<T: TableMem>(&self, mem: &T, slot: u32, descriptor: u128) {
        let at = Phys(self.base.0 + (u64::from(slot) << self.shift));
        // The upper half of a 256-bit descriptor is zero from the start and stays so.
        mem.store128(at, descriptor);
        if !self.coherent {
            mem.publish(at, 1 << self.shift);
        }
    }

    fn submit<M: Mmio, T: TableMem, C: Clock>(
        &self,
        with: &With<'_, M, T, C>,
        descriptors: &[u128],
    ) -> Result<Ticket, Error> {
        let need = descriptors.len() as u32 + 1;
        let mut ticket = None;
        let result = with.clock.until(with.budget_ns, &mut || {
            let mut ring = self.ring.lock();
            let free = |ring: &Ring| self.entries - 1 - (ring.tail + self.entries - ring.head) % self.entries;
            if free(&ring) < need {
                ring.head = self.head(with.mmio);
            }
            if free(&ring) < need {
                drop(ring);
                self.look_for_errors(with);
                return false;
            }
            for &descriptor in descriptors {
                let slot = ring.tail;
                self.waits[slot as usize].store(0, Ordering::Relaxed);
                self.store(with.mem, slot, descriptor);
                ring.tail = (slot + 1) % self.entries;
            }
            let slot = ring.tail;
            // 0 means "no wait here".
            ring.sequence = ring.sequence.wrapping_add(1).max(1);
            let sequence = ring.sequence;
            self.waits[slot as usize].store(sequence, Ordering::Relaxed);
            self.refused[slot as usize].store(0, Ordering::Release);
            self.store(with.mem, slot, inval::wait(self.slot_status(slot), sequence));
            ring.tail = (slot + 1) % self.entries;
            with.mmio.w64(regs::IQT, u64::from(ring.tail) << self.shift);
            ticket = Some(Ticket { slot, sequence });
            true
        });
        self.submitted.fetch_add(1, Ordering::Relaxed);
        match (result, ticket) {
            (Ok(()), Some(ticket)) => Ok(ticket),
            _ => Err(self.stuck(with)),
        }
    }

    fn slot_status(&self, slot: u32) -> Phys {
        Phys(self.status.0 + 8 * u64::from(slot))
    }

    fn wait<M: Mmio, T: TableMem, C: Clock>(&self, with: &With<'_, M, T, C>, ticket: Ticket) -> Result<Outcome, Error> {
        let at = self.slot_status(ticket.slot);
        let mut polls = 0u32;
        let mut outcome = None;
        let result = with.clock.until(with.budget_ns, &mut || {
            if reached(with.mem.load64(at) as u32, ticket.sequence) {
                outcome = Some(Outcome::Done);
            } else if reached_abort(self.aborted.load(Ordering::Acquire), ticket.sequence) {
                outcome = Some(Outcome::Aborted);
            } else {
                if polls % PATIENCE == 1 {
                    self.look_for_errors(with);
                }
                polls = polls.wrapping_add(1);
            }
            outcome.is_some()
        });
        if result.is_err() {
            return Err(self.stuck(with));
        }
        if self.refused[ticket.slot as usize].load(Ordering::Acquire) == ticket.sequence {
            return Ok(Outcome::Refused);
        }
        Ok(outcome.unwrap_or(Outcome::Aborted))
    }

    fn stuck<M: Mmio, T: TableMem, C: Clock>(&self, with: &With<'_, M, T, C>) -> Error {
        let tail = u64::from(self.ring.lock().tail) << self.shift;
        let (got, fsts) = (with.mmio.r64(regs::IQH), with.mmio.r32(regs::FSTS));
        log::error!(
            "vtd unit {}: invalidation stuck: IQH {got:#x}, wanted {tail:#x}; FSTS {fsts:#x} ({})",
            self.unit.0,
            inval::stopped(fsts)
        );
        self.errors.fetch_add(1, Ordering::Relaxed);
        Error::Stuck { unit: self.unit, register: "IQH", want: tail, got }
    }

    /// Sections 6.5.2.9 and 6.5.2.10: clears what stopped the queue, and says whose work was lost.
    fn look_for_errors<M: Mmio, T: TableMem, C: Clock>(&self, with: &With<'_, M, T, C>) {
        if with.mmio.r32(regs::FSTS) & 0x70 == 0 {
            return;
        }
        let ring = self.ring.lock();
        // Another CPU may have dealt with it while we took the lock.
        let fsts = FaultStatus::from_bits(with.mmio.r32(regs::FSTS));
        if fsts.queue_error() {
            self.skip(with, &ring);
        }
        if fsts.timeout_error() {
            self.aborted.store(1 << 32 | u64::from(ring.sequence), Ordering::Release);
            log::warn!("vtd unit {}: a device TLB did not answer (FSTS.ITE): submissions repeated", self.unit.0);
        }
        if fsts.completion_error() {
            log::warn!("vtd unit {}: stray invalidation completion (FSTS.ICE)", self.unit.0);
        }
        let clear = FaultStatus::new()
            .with_queue_error(fsts.queue_error())
            .with_timeout_error(fsts.timeout_error())
            .with_completion_error(fsts.completion_error());
        if clear.into_bits() != 0 {
            self.errors.fetch_add(1, Ordering::Relaxed);
            with.mmio.w32(regs::FSTS, clear.into_bits());
            // Some units look at the queue again only when the tail is written.
            with.mmio.w64(regs::IQT, u64::from(ring.tail) << self.shift);
        }
    }

    /// Replaces the descriptor that hardware stopped at by one without effect, and marks its submission refused.
    fn skip<M: Mmio, T: TableMem, C: Clock>(&self, with: &With<'_, M, T, C>, ring: &Ring) {
        let bad = self.head(with.mmio);
        if bad == ring.tail {
            return;
        }
        let kind = inval::kind_of(with.mem.load64(Phys(self.base.0 + (u64::from(bad) << self.shift))));
        log::error!("vtd unit {}: descriptor {bad} ({}) refused (FSTS.IQE), skipped", self.unit.0, kind.name());
        let mut slot = bad;
        while slot != ring.tail {
            let sequence = self.waits[slot as usize].load(Ordering::Relaxed);
            if sequence != 0 {
                self.refused[slot as usize].store(sequence, Ordering::Release);
                let no_effect = if slot == bad {
                    inval::wait(self.slot_status(slot), sequence)
                } else {
                    inval::wait(Phys(self.status.0 + 8 * SCRATCH), 0)
                };
                self.store(with.mem, bad, no_effect);
                return;
            }
            slot = (slot + 1) % self.entries;
        }
    }
}

fn reached_abort(aborted: u64, sequence: u32) -> bool {
    aborted >> 32 != 0 && reached(aborted as u32, sequence)
}
