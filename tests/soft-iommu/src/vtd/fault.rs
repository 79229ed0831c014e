//! Fault reasons (7.1.3, table 25) and primary fault logging (7.2.1).

use super::Unit;

/// A fault reason as the record shows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Reason(pub u8);

#[allow(missing_docs)] // the names are the specification's conditions
impl Reason {
    // Legacy mode.
    pub const ROOT_ABSENT: Self = Self(0x01); // LRT.2
    pub const CONTEXT_ABSENT: Self = Self(0x02); // LCT.2
    pub const CONTEXT_INVALID: Self = Self(0x03); // LCT.4
    pub const BEYOND_WIDTH: Self = Self(0x04); // LGN.1
    pub const NO_WRITE: Self = Self(0x05); // LGN.2
    pub const NO_READ: Self = Self(0x06); // LGN.3
    pub const SS_ACCESS: Self = Self(0x07); // LSL.1
    pub const ROOT_ACCESS: Self = Self(0x08); // LRT.1
    pub const CONTEXT_ACCESS: Self = Self(0x09); // LCT.1
    pub const ROOT_RESERVED: Self = Self(0x0a); // LRT.3
    pub const CONTEXT_RESERVED: Self = Self(0x0b); // LCT.3
    pub const SS_RESERVED: Self = Self(0x0c); // LSL.2
    pub const INTERRUPT_OUTPUT: Self = Self(0x0e); // LGN.4
    // Root-table address register.
    pub const ROOT_POINTER: Self = Self(0x30); // RTA.1
    pub const PASID_IN_LEGACY: Self = Self(0x31); // RTA.2
    pub const ABORT_MODE: Self = Self(0x33); // RTA.4
    // Scalable mode.
    pub const SM_ROOT_ACCESS: Self = Self(0x38); // SRT.1
    pub const SM_ROOT_ABSENT: Self = Self(0x39); // SRT.2
    pub const SM_ROOT_RESERVED: Self = Self(0x3a); // SRT.3
    pub const SM_CONTEXT_ACCESS: Self = Self(0x40); // SCT.1
    pub const SM_CONTEXT_ABSENT: Self = Self(0x41); // SCT.2
    pub const SM_CONTEXT_RESERVED: Self = Self(0x42); // SCT.3
    pub const SM_CONTEXT_INVALID: Self = Self(0x43); // SCT.4
    pub const PASID_DISABLED: Self = Self(0x45); // SCT.6
    pub const PASID_TOO_LARGE: Self = Self(0x46); // SCT.7
    pub const DIRECTORY_ACCESS: Self = Self(0x50); // SPD.1
    pub const DIRECTORY_ABSENT: Self = Self(0x51); // SPD.2
    pub const DIRECTORY_RESERVED: Self = Self(0x52); // SPD.3
    pub const PASID_ACCESS: Self = Self(0x58); // SPT.1
    pub const PASID_ABSENT: Self = Self(0x59); // SPT.2
    pub const PASID_RESERVED: Self = Self(0x5a); // SPT.3
    pub const PASID_INVALID: Self = Self(0x5b); // SPT.4
    pub const FS_ACCESS: Self = Self(0x70); // SFS.1
    pub const FS_ABSENT: Self = Self(0x71); // SFS.2
    pub const FS_RESERVED: Self = Self(0x72); // SFS.3
    pub const FS_ROOT_ACCESS: Self = Self(0x73); // SFS.4
    pub const SM_SS_ACCESS: Self = Self(0x78); // SSS.1
    pub const SM_SS_ABSENT: Self = Self(0x79); // SSS.2
    pub const SM_SS_RESERVED: Self = Self(0x7a); // SSS.3
    pub const SM_SS_AD_UNSNOOPED: Self = Self(0x7c); // SSS.5
    pub const NOT_CANONICAL: Self = Self(0x80); // SGN.1
    pub const USER_DENIED: Self = Self(0x81); // SGN.2
    pub const SM_BEYOND_WIDTH: Self = Self(0x83); // SGN.4
    pub const SM_SS_BEYOND_WIDTH: Self = Self(0x84); // SGN.5
    pub const SM_NO_WRITE: Self = Self(0x85); // SGN.6
    pub const SM_NO_READ: Self = Self(0x86); // SGN.7
    pub const SM_INTERRUPT_OUTPUT: Self = Self(0x87); // SGN.8
    pub const FS_AD_UNSNOOPED: Self = Self(0x90); // SFS.9
}

/// Why a DMA did not reach memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// By translation, with the reason; recorded unless FPD, compression or overflow forbade it.
    Fault(Reason),
    /// By a protected memory region; not recorded.
    Protected,
    /// An access to 0xFEEx_xxxx: a write is an interrupt request, a read is refused.
    InterruptRange,
}

/// A fault on its way to a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fail {
    pub reason: Reason,
    /// FPD of the context or PASID entry: do not record.
    pub silent: bool,
}

impl Reason {
    pub(super) fn loud(self) -> Fail {
        Fail { reason: self, silent: false }
    }
}

/// One fault recording register (10.4.14), high and low words.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Record {
    pub lo: u64,
    pub hi: u64,
}

impl Record {
    pub fn pending(&self) -> bool {
        self.hi >> 63 != 0
    }
}

pub(super) const FSTS_PFO: u32 = 1 << 0;
pub(super) const FSTS_IQE: u32 = 1 << 4;
pub(super) const FSTS_ICE: u32 = 1 << 5;
pub(super) const FSTS_ITE: u32 = 1 << 6;

impl Unit {
    /// FSTS (10.4.9): PPF is the or of all F bits, FRI the first pending record.
    pub(super) fn fsts(&self) -> u32 {
        let ppf = self.records.iter().any(Record::pending);
        self.fault_status | u32::from(ppf) << 1 | if ppf { u32::from(self.first_record) << 8 } else { 0 }
    }

    pub(super) fn record(&mut self, fail: Fail, sid: u16, pasid: Option<u32>, iova: u64, write: bool) {
        self.stats.faults += 1;
        if fail.silent {
            return;
        }
        if self.fault_status & FSTS_PFO != 0 {
            return;
        }
        let sid_pending = |r: &Record| r.pending() && r.hi as u16 == sid;
        if self.config.quirks.compress_faults && self.records.iter().any(sid_pending) {
            return;
        }
        let at = self.next_record;
        if self.records[at].pending() {
            self.fault_status |= FSTS_PFO;
            self.event();
            return;
        }
        let quiet = !self.records.iter().any(Record::pending);
        self.records[at] = Record {
            lo: iova & !0xfff,
            hi: u64::from(sid)
                | pasid.map_or(0, |p| 1 << 31 | u64::from(p) << 40)
                | u64::from(fail.reason.0) << 32
                | u64::from(!write) << 62
                | 1 << 63,
        };
        if quiet {
            self.first_record = at as u8;
        }
        self.next_record = (at + 1) % self.records.len();
        self.event();
    }

    /// A fault event: a message, or pending if masked (7.3).
    pub(super) fn event(&mut self) {
        if self.fectl & 1 << 31 != 0 {
            self.fectl |= 1 << 30;
        } else {
            self.messages.push((u64::from(self.feuaddr) << 32 | u64::from(self.feaddr), self.fedata));
        }
    }
}
