//! What a unit and the domains attached to it share: registers, queue, structures, ids.

use crate::caps::Plan;
use crate::ids::Ids;
use crate::inval::{self, Batch};
use crate::queue::{Queue, With};
use crate::spec::regs::{self, Cap, Ecap, global};
use crate::structures::Structures;
use crate::{Budgets, UnitConfig};
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use iommu_api::{Clock, Mmio, TableMem};
use iommu_types::{Error, Features, UnitId};
use spin::Mutex;

pub(crate) struct Core<M, T, C> {
    pub id: UnitId,
    pub name: String,
    pub segment: u16,
    pub mmio: M,
    pub mem: Arc<T>,
    pub clock: Arc<C>,
    pub budgets: Budgets,
    pub cap: Cap,
    pub ecap: Ecap,
    pub scalable: bool,
    pub features: Features,
    pub queue: Queue,
    pub structures: Mutex<Structures>,
    pub dids: Mutex<Ids>,
    /// Serialises fault draining.
    pub faults: Mutex<()>,
    pub fault_overflows: AtomicU32,
    pub fault_count: AtomicU64,
    /// A global command is under way: the next may be written only when its status followed (11.4.4.1).
    commanding: AtomicBool,
    /// Our root is in force. Before that hardware has cached nothing of ours, and PASID descriptors are refused where the
    /// root in force is not of scalable mode (6.5.2, IQEI 7).
    pub live: AtomicBool,
}

impl<M: Mmio, T: TableMem, C: Clock> Core<M, T, C> {
    /// Builds the unit's structures in memory; writes no register.
    pub(crate) fn new(
        config: &UnitConfig,
        plan: &Plan,
        registers: (Cap, Ecap),
        mmio: M,
        mem: Arc<T>,
        clock: Arc<C>,
    ) -> Result<Self, Error> {
        let (cap, ecap) = registers;
        // With caching mode, absent entries are cached under id 0 (6.1); scalable mode keeps it free as well.
        let reserved: &[u16] = if cap.cm() || plan.scalable { &[0] } else { &[] };
        let dids = Ids::new(plan.features.domain_ids, reserved)?;
        let queue = Queue::new(&*mem, config.id, plan.scalable, ecap.coherent())?;
        let structures = match Structures::new(&*mem, plan, ecap) {
            Ok(structures) => structures,
            Err(error) => {
                queue.release(&*mem);
                return Err(error);
            }
        };
        Ok(Self {
            id: config.id,
            name: config.name.clone(),
            segment: config.segment,
            mmio,
            mem,
            clock,
            budgets: config.budgets,
            cap,
            ecap,
            scalable: plan.scalable,
            features: plan.features,
            queue,
            structures: Mutex::new(structures),
            dids: Mutex::new(dids),
            faults: Mutex::new(()),
            fault_overflows: AtomicU32::new(0),
            fault_count: AtomicU64::new(0),
            commanding: AtomicBool::new(false),
            live: AtomicBool::new(false),
        })
    }

    /// Polls until `register & mask == want`.
    pub(crate) fn until(&self, register: &'static str, offset: usize, mask: u32, want: u32) -> Result<(), Error> {
        let mut got = 0;
        self.clock
            .until(self.budgets.command_ns, &mut || {
                got = self.mmio.r32(offset);
                got & mask == want
            })
            .map_err(|_| Error::Stuck { unit: self.id, register, want: want.into(), got: u64::from(got & mask) })
    }

    /// Writes one change to the global command register, everything else as the status register shows it, and waits until
    /// `status` has, or lacks, the bit.
    pub(crate) fn command(&self, bit: u32, on: bool, status: &'static str) -> Result<(), Error> {
        self.clock
            .until(self.budgets.command_ns, &mut || !self.commanding.swap(true, Ordering::Acquire))
            .map_err(|_| Error::Stuck { unit: self.id, register: "GCMD", want: bit.into(), got: 0 })?;
        let lasting = self.mmio.r32(regs::GSTS) & global::LASTING;
        self.mmio.w32(regs::GCMD, if on { lasting | bit } else { lasting & !bit });
        let want = if on && bit != global::WRITE_BUFFER { bit } else { 0 };
        let result = self.until(status, regs::GSTS, bit, want);
        self.commanding.store(false, Ordering::Release);
        result
    }

    /// Runs `batch` through the queue and waits (rule `bounded-wait`).
    ///
    /// # Errors
    /// [`Error::Stuck`]: what the unit has cached is then unknown.
    pub(crate) fn flush(&self, batch: Batch) -> Result<(), Error> {
        if self.features.write_buffer {
            // CAP.RWBF: the unit sees stores only after this (6.8).
            self.command(global::WRITE_BUFFER, true, "GSTS.WBFS (bit 27)")?;
        }
        if batch.is_empty() || !self.live.load(Ordering::Acquire) {
            return Ok(());
        }
        let everything = inval::everything(self.scalable, self.cap);
        let batch = batch.finish(self.scalable, self.cap);
        let with =
            With { mmio: &self.mmio, mem: &*self.mem, clock: &*self.clock, budget_ns: self.budgets.invalidate_ns };
        self.queue.run(&with, &batch, &everything)
    }
}
