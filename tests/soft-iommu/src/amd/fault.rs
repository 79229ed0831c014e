//! Why a request is refused, and the event log (48882 section 2.5).

use super::Unit;
use crate::Use;

/// What an event says about a refused request: its code (bits 63:60) and the flags PR (52), PE (54), RZ (55).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Reason {
    /// Event code.
    pub code: u8,
    /// PR: the entry was present.
    pub present: bool,
    /// PE: no permission.
    pub denied: bool,
    /// RZ: a reserved bit was set (clear: an invalid level, if present and not denied).
    pub reserved: bool,
}

impl Reason {
    const fn new(code: u8, present: bool, denied: bool, reserved: bool) -> Self {
        Self { code, present, denied, reserved }
    }
    /// ILLEGAL_DEV_TABLE_ENTRY because of a reserved bit.
    pub const DTE_RESERVED: Self = Self::new(1, false, false, true);
    /// ILLEGAL_DEV_TABLE_ENTRY because of a level or value that is not supported, or no entry.
    pub const DTE_INVALID: Self = Self::new(1, false, false, false);
    /// IO_PAGE_FAULT: nothing is mapped.
    pub const NOT_PRESENT: Self = Self::new(2, false, false, false);
    /// IO_PAGE_FAULT: the right is missing.
    pub const DENIED: Self = Self::new(2, true, true, false);
    /// IO_PAGE_FAULT: a reserved bit in a page-table entry.
    pub const RESERVED: Self = Self::new(2, true, false, true);
    /// IO_PAGE_FAULT: an invalid level or page size in a page-table entry.
    pub const BAD_LEVEL: Self = Self::new(2, true, false, false);
    /// DEV_TAB_HARDWARE_ERROR: the device table could not be read.
    pub const DTE_ACCESS: Self = Self::new(3, false, false, false);
    /// PAGE_TAB_HARDWARE_ERROR: a page table could not be read.
    pub const TABLE_ACCESS: Self = Self::new(4, false, false, false);
}

/// Why a DMA did not reach memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// By translation; logged unless suppressed, lost by overflow, or the log is off.
    Fault(Reason),
    /// An access to 0xfee0_0000 to 0xfeef_ffff: an interrupt request ([`super::Amd::interrupt`]), never memory.
    InterruptRange,
    /// An access to the HyperTransport range at 0xfd_0000_0000, which is not translated.
    HyperTransport,
}

/// A walk that ended without a translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stop {
    pub reason: Reason,
    /// Physical address for hardware errors.
    pub at: u64,
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        Self { reason, at: 0 }
    }
}

/// A refusal with what its event needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fail {
    pub stop: Stop,
    pub domain: u16,
    /// PASID of a guest translation.
    pub guest: Option<u32>,
    /// SA: page faults leave no event.
    pub mute: bool,
    /// SE: only the first one does.
    pub once: bool,
}

impl Fail {
    /// Before a device-table entry was known.
    pub fn early(stop: Stop, pasid: Option<u32>) -> Self {
        Self { stop, domain: 0, guest: pasid, mute: false, once: false }
    }
}

// Event codes without a Reason.
const ILLEGAL_COMMAND: u64 = 5;
const COMMAND_HARDWARE: u64 = 6;
const IOTLB_TIMEOUT: u64 = 7;

// Status register (0x2020) and control register (0x18).
pub(super) const OVERFLOW: u64 = 1 << 0;
pub(super) const LOG_INT: u64 = 1 << 1;
pub(super) const WAIT_INT: u64 = 1 << 2;
pub(super) const LOG_RUN: u64 = 1 << 3;
pub(super) const CMD_RUN: u64 = 1 << 4;
const EVENT_INT_EN: u64 = 1 << 3;

impl Unit {
    /// Logs a refused request. `interrupt`: flag I.
    pub(super) fn record(&mut self, fail: Fail, sid: u16, iova: u64, write: bool, interrupt: bool) {
        self.stats.faults += 1;
        let reason = fail.stop.reason;
        if reason.code == 2 && (fail.mute || (fail.once && !self.told.insert(sid))) {
            return;
        }
        let bit = |at: u32, on: bool| u64::from(on) << at;
        let code = u64::from(reason.code) << 60;
        let common = u64::from(sid) | bit(51, interrupt) | bit(53, write) | code;
        let pasid = fail.guest.unwrap_or(0);
        let low = u64::from(pasid & 0xffff) << 32;
        let high = u64::from(pasid >> 16 & 15) << 16;
        let guest = bit(48, fail.guest.is_some());
        match reason.code {
            1 => self.event(common | low | high | guest | bit(55, reason.reserved), iova & !3),
            2 => {
                let id = if fail.guest.is_some() { low | high } else { u64::from(fail.domain) << 32 };
                let flags = bit(52, reason.present) | bit(54, reason.denied) | bit(55, reason.reserved);
                // US (50): requests of this model come from user mode.
                let user = bit(50, fail.guest.is_some());
                self.event(common | id | guest | user | flags, iova);
            }
            // Type (58:57) 1: master abort.
            3 => self.event(common | 1 << 57, fail.stop.at),
            _ => {
                let id = if fail.guest.is_some() { low } else { u64::from(fail.domain) << 32 };
                self.event(common | id | guest | 1 << 57, fail.stop.at);
            }
        }
    }

    pub(super) fn illegal_command(&mut self, at: u64) {
        self.status &= !CMD_RUN;
        self.run_wanted &= !CMD_RUN;
        self.event(ILLEGAL_COMMAND << 60, at);
    }

    pub(super) fn command_fetch_failed(&mut self, at: u64) {
        self.status &= !CMD_RUN;
        self.run_wanted &= !CMD_RUN;
        self.event(COMMAND_HARDWARE << 60 | 1 << 57, at);
    }

    pub(super) fn iotlb_timed_out(&mut self, sid: u16, at: u64) {
        self.event(IOTLB_TIMEOUT << 60 | u64::from(sid), at & !15);
    }

    /// One record of two words; overflow stops the log (2.5.1).
    fn event(&mut self, lo: u64, hi: u64) {
        if self.status & LOG_RUN == 0 {
            self.stats.lost_events += 1;
            return;
        }
        let next = (self.event_tail + 16) % self.event_bytes();
        if next == self.event_head {
            self.stats.lost_events += 1;
            self.status = self.status & !LOG_RUN | OVERFLOW;
            self.run_wanted &= !LOG_RUN;
            self.log_interrupt();
            return;
        }
        let at = super::field(self.event_base, 51, 12) << 12 | self.event_tail;
        if self.arena.owner(at) != Some(Use::Table) {
            self.violate("event log in a frame that is not held", format!("{at:#x}"));
        }
        self.stats.events += 1;
        let quirks = self.config.quirks;
        let record = if quirks.empty_events { [0, 0] } else { [lo, hi] };
        self.flush_late();
        if quirks.late_events {
            self.late_record = Some((at, record));
        } else {
            self.arena.hw_store(at, record[0]);
            self.arena.hw_store(at + 8, record[1]);
        }
        if !quirks.event_tail_stuck {
            self.event_tail = next;
        }
        self.log_interrupt();
    }

    pub(super) fn flush_late(&mut self) {
        if let Some((at, record)) = self.late_record.take() {
            self.arena.hw_store(at, record[0]);
            self.arena.hw_store(at + 8, record[1]);
        }
    }

    fn log_interrupt(&mut self) {
        self.status |= LOG_INT;
        if self.control & EVENT_INT_EN != 0 {
            self.send_message();
        }
    }
}
