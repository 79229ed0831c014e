//! Fault records: read, decoded, cleared.

use crate::shared::Core;
use crate::spec::fault::{RECORD_BYTES, Record, reason};
use crate::spec::regs::{self, FaultStatus};
use core::sync::atomic::Ordering;
use iommu_api::{Clock, Mmio, TableMem};
use iommu_types::{Access, Fault, Iova, Pasid, StreamId};

impl<M: Mmio, T: TableMem, C: Clock> Core<M, T, C> {
    /// Hands out every pending record, at most one buffer-full, and clears it. Returns how many there were.
    pub(crate) fn drain_faults(&self, sink: &mut dyn FnMut(Fault)) -> u32 {
        let _one_at_a_time = self.faults.lock();
        let status = FaultStatus::from_bits(self.mmio.r32(regs::FSTS));
        if status.into_bits() == u32::MAX || !(status.pending() || status.overflow()) {
            return 0;
        }
        let records = usize::from(self.cap.nfr()) + 1;
        let base = usize::from(self.cap.fro()) * 16;
        let mut taken = 0;
        for step in 0..records {
            let at = base + (usize::from(status.index()) + step) % records * RECORD_BYTES;
            let high = self.mmio.r64(at + 8);
            let record = Record::from_bits(u128::from(high) << 64 | u128::from(self.mmio.r64(at)));
            if !record.valid() {
                break;
            }
            // F is bit 31 of the record's last 32 bits; write 1 to clear.
            self.mmio.w32(at + 12, 1 << 31);
            taken += 1;
            sink(self.decode(record));
        }
        if status.overflow() {
            let times = self.fault_overflows.fetch_add(1, Ordering::Relaxed) + 1;
            log::warn!("{}: more faults than records, some were lost ({times} times so far)", self.name);
            // Cleared after the records, as the specification asks (7.3), so that new ones are kept from here on.
            self.mmio.w32(regs::FSTS, FaultStatus::new().with_overflow(true).into_bits());
        }
        self.fault_count.fetch_add(u64::from(taken), Ordering::Relaxed);
        taken
    }

    fn decode(&self, record: Record) -> Fault {
        let (reason, words) = reason(record.reason());
        let access = match (record.type1(), record.type2()) {
            (true, true) => Access::READ | Access::WRITE,
            (true, false) => Access::READ,
            _ => Access::WRITE,
        };
        Fault {
            unit: self.id,
            stream: StreamId { segment: self.segment, id: record.source().into() },
            // Without PP the field holds anything; 0 is RID_PASID, the name of requests without PASID.
            pasid: (record.has_pasid() && record.pasid() != 0).then_some(Pasid(record.pasid())),
            iova: Iova(record.frame() << 12),
            access,
            reason,
            code: record.reason().into(),
            words,
        }
    }
}
