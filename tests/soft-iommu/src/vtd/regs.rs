//! Register file (10.4).

use super::cache::Inv;
use super::fault::{FSTS_ICE, FSTS_IQE, FSTS_ITE, FSTS_PFO};
use super::{PAGE, Unit};

// GCMD and GSTS (10.4.4, 10.4.5): same bit positions.
pub(super) const TES: u32 = 1 << 31;
pub(super) const RTPS: u32 = 1 << 30;
const FL: u32 = 1 << 29;
const AFL: u32 = 1 << 28;
const WBF: u32 = 1 << 27;
pub(super) const QIES: u32 = 1 << 26;
const IRE: u32 = 1 << 25;
const IRTP: u32 = 1 << 24;
const CFI: u32 = 1 << 23;
const LEVELS: u32 = TES | AFL | QIES | IRE | CFI;
const SHOTS: u32 = RTPS | FL | WBF | IRTP;

/// Invalidations still owed after a new root pointer.
pub(super) const OWED_CONTEXT: u8 = 1;
pub(super) const OWED_PASID: u8 = 2;
pub(super) const OWED_IOTLB: u8 = 4;

/// A command on its way.
pub(super) struct Pending {
    bits: u32,
    value: u32,
    ticks: u32,
}

/// Where one half of a 64-bit register was written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Low,
    High,
    Both,
}

impl Half {
    fn low(self) -> bool {
        self != Self::High
    }
    fn high(self) -> bool {
        self != Self::Low
    }
}

impl Unit {
    fn get32(&self, offset: usize) -> Option<u32> {
        Some(match offset {
            0x00 => 0x40, // version 4.0
            0x18 => 0,
            0x1c => self.gsts,
            0x34 => self.fsts(),
            0x38 => self.fectl,
            0x3c => self.fedata,
            0x40 => self.feaddr,
            0x44 => self.feuaddr,
            0x64 => self.pmen,
            0x68 => self.plm[0],
            0x6c => self.plm[1],
            0x9c => self.ics,
            0xa0 => self.iectl,
            0xa4 => self.iedata,
            0xa8 => self.ieaddr,
            0xac => self.ieuaddr,
            _ => return None,
        })
    }

    fn get64(&self, offset: usize) -> Option<u64> {
        let caps = &self.config.caps;
        let (iotlb, frcd) = (usize::from(caps.iotlb_offset), usize::from(caps.fault_offset));
        Some(match offset {
            0x08 => caps.cap(),
            0x10 => caps.ecap(),
            0x20 => self.rtaddr,
            0x28 => self.ccmd,
            0x58 => self.aflog,
            0x70 => self.phm[0],
            0x78 => self.phm[1],
            0x80 => self.iqh,
            0x88 => self.iqt,
            0x90 => self.iqa,
            0xb0 => self.iqercd,
            0xb8 => self.irta,
            _ if offset == iotlb => 0, // IVA is write-only
            _ if offset == iotlb + 8 => self.iotlb,
            _ if (frcd..frcd + 16 * self.records.len()).contains(&offset) => {
                let record = &self.records[(offset - frcd) / 16];
                if offset.is_multiple_of(16) { record.lo } else { record.hi }
            }
            _ => return None,
        })
    }

    pub(super) fn r32(&self, offset: usize) -> u32 {
        if self.inject.dead {
            return u32::MAX;
        }
        if !offset.is_multiple_of(4) {
            self.violate("misaligned register access", format!("{offset:#x}"));
            return 0;
        }
        if let Some(value) = self.get32(offset) {
            return value;
        }
        if let Some(value) = self.get64(offset & !7) {
            return (value >> ((offset & 4) * 8)) as u32;
        }
        self.violate("read of a reserved register", format!("{offset:#x}"));
        0
    }

    pub(super) fn r64(&self, offset: usize) -> u64 {
        if self.inject.dead {
            return u64::MAX;
        }
        if let Some(value) = self.get64(offset) {
            return value;
        }
        self.violate("64-bit read of what is no 64-bit register", format!("{offset:#x}"));
        0
    }

    pub(super) fn w32(&mut self, offset: usize, value: u32) {
        if self.inject.dead {
            return;
        }
        match offset {
            0x18 => self.command(value),
            0x34 => self.clear_status(value),
            0x38 => {
                self.fectl = self.fectl & 1 << 30 | value & 1 << 31;
                if self.fectl == 1 << 30 {
                    self.fectl = 0;
                    self.messages.push((u64::from(self.feuaddr) << 32 | u64::from(self.feaddr), self.fedata));
                }
            }
            0x3c => self.fedata = value,
            0x40 => self.feaddr = value & !3,
            0x44 => self.feuaddr = value,
            0x64 => self.pmen_wanted = value >> 31 != 0,
            0x68 => self.plm[0] = value & !0x1f_ffff,
            0x6c => self.plm[1] = value & !0x1f_ffff,
            0x9c => self.ics &= !(value & 1),
            0xa0 => {
                self.iectl = self.iectl & 1 << 30 | value & 1 << 31;
                if self.iectl == 1 << 30 {
                    self.iectl = 0;
                    self.completion_message();
                }
            }
            0xa4 => self.iedata = value,
            0xa8 => self.ieaddr = value & !3,
            0xac => self.ieuaddr = value,
            _ if offset.is_multiple_of(4) && self.get64(offset & !7).is_some() => {
                let shift = (offset & 4) * 8;
                let base = offset & !7;
                let kept = if self.w1c(base) { 0 } else { self.raw64(base) & !(0xffff_ffff << shift) };
                let half = if shift == 0 { Half::Low } else { Half::High };
                self.put64(base, kept | u64::from(value) << shift, half);
            }
            _ => self.violate("write to a reserved or read-only register", format!("{offset:#x} = {value:#x}")),
        }
    }

    pub(super) fn w64(&mut self, offset: usize, value: u64) {
        if self.inject.dead {
            return;
        }
        if !offset.is_multiple_of(8) || self.get64(offset).is_none() {
            self.violate("64-bit write of what is no 64-bit register", format!("{offset:#x} = {value:#x}"));
            return;
        }
        self.put64(offset, value, Half::Both);
    }

    fn w1c(&self, offset: usize) -> bool {
        let frcd = usize::from(self.config.caps.fault_offset);
        offset >= frcd && offset < frcd + 16 * self.records.len()
    }

    fn raw64(&self, offset: usize) -> u64 {
        if offset == usize::from(self.config.caps.iotlb_offset) {
            return self.iva;
        }
        self.get64(offset).unwrap_or(0)
    }

    fn put64(&mut self, offset: usize, value: u64, half: Half) {
        let caps = self.config.caps;
        let (iotlb, frcd) = (usize::from(caps.iotlb_offset), usize::from(caps.fault_offset));
        match offset {
            0x20 => {
                let ttm = value >> 10 & 3;
                if half.high()
                    && (value & 0x3ff != 0
                        || value >> caps.haw != 0
                        || ttm == 2
                        || (ttm == 1 && !caps.scalable)
                        || (ttm == 3 && !caps.abort_mode))
                {
                    self.violate("reserved bits in RTADDR", format!("{value:#x}"));
                }
                self.rtaddr = value;
            }
            0x28 => {
                self.ccmd = value & !(3 << 59);
                if half.high() && value >> 63 != 0 {
                    self.register_command("CCMD");
                }
            }
            0x58 => self.aflog = value,
            0x70 => self.phm[0] = value & !0x1f_ffff,
            0x78 => self.phm[1] = value & !0x1f_ffff,
            0x88 => {
                self.iqt = value & 0x7fff0;
                if half.low() {
                    self.check_tail(value);
                }
            }
            0x90 => {
                if self.gsts & QIES != 0 {
                    self.violate("IQA written while the queue is on", format!("{value:#x}"));
                }
                if value & 0x7f8 != 0 || value >> caps.haw != 0 || (value >> 11 & 1 != 0 && !caps.scalable) {
                    self.violate("reserved bits in IQA", format!("{value:#x}"));
                }
                self.iqa = value;
            }
            0xb8 => self.irta = value,
            _ if offset == iotlb => self.iva = value,
            _ if offset == iotlb + 8 => {
                self.iotlb = value & !(3 << 57);
                if half.high() && value >> 63 != 0 {
                    self.register_command("IOTLB");
                }
            }
            _ if self.w1c(offset) => {
                let record = &mut self.records[(offset - frcd) / 16];
                if offset % 16 == 8 && value >> 63 != 0 {
                    record.hi &= !(1 << 63);
                }
                if let Some(first) = (0..self.records.len())
                    .map(|n| (usize::from(self.first_record) + n) % self.records.len())
                    .find(|&n| self.records[n].pending())
                {
                    self.first_record = first as u8;
                }
            }
            _ => self.violate("write to a reserved or read-only register", format!("{offset:#x} = {value:#x}")),
        }
    }

    fn clear_status(&mut self, value: u32) {
        self.fault_status &= !(value & (FSTS_PFO | FSTS_IQE | FSTS_ICE | FSTS_ITE));
        if self.fault_status & (FSTS_IQE | FSTS_ICE | FSTS_ITE) == 0 {
            self.iqercd = 0;
        }
    }

    /// GCMD (10.4.4): one field per write, and not before the status showed the last one.
    fn command(&mut self, value: u32) {
        let levels = (value ^ self.gsts) & LEVELS;
        let shots = value & SHOTS;
        if levels.count_ones() + shots.count_ones() > 1 {
            self.violate("GCMD changes more than one field", format!("{value:#010x} over {:#010x}", self.gsts));
        }
        if value & !(LEVELS | SHOTS) != 0 {
            self.violate("reserved bits in GCMD", format!("{value:#010x}"));
        }
        if let Some(pending) = &self.pending {
            self.violate(
                "GCMD written before the last command's status",
                format!("{value:#010x} while {:#010x} is pending", pending.bits),
            );
        }
        self.gsts &= !(shots & (RTPS | IRTP | FL));
        if shots & WBF != 0 {
            self.gsts |= WBF;
        }
        let late = if self.adversarial() { self.rng.below(4) as u32 } else { 0 };
        let ticks = self.config.status_delay + late;
        self.pending = Some(Pending { bits: levels | shots, value, ticks });
        if ticks == 0 {
            self.perform();
        }
    }

    pub(super) fn tick(&mut self) {
        if self.inject.dead {
            return;
        }
        if let Some(pending) = &mut self.pending {
            pending.ticks = pending.ticks.saturating_sub(1);
            if pending.ticks == 0 && pending.bits & self.inject.gsts_stuck == 0 {
                self.perform();
            }
        }
        if self.pmen_wanted != (self.pmen & 1 != 0) {
            self.pmen = if self.pmen_wanted { 1 << 31 | 1 } else { 0 };
        }
        if !self.inject.command_stuck && self.gsts & QIES == 0 {
            self.run_register_commands();
        }
        if self.adversarial() && self.rng.one_in(3) {
            return;
        }
        self.take_descriptor();
    }

    fn perform(&mut self) {
        let Some(Pending { bits, value, .. }) = self.pending.take() else { return };
        let caps = self.config.caps;
        if bits & RTPS != 0 {
            let mode = |rtaddr: u64| rtaddr >> 10 & 3;
            // Abort-DMA mode is the one way from one mode to another while translation is on.
            let through_abort = |old: u64| mode(old) == 3 || mode(self.rtaddr) == 3;
            let changed = |old: u64| mode(old) != mode(self.rtaddr) && !through_abort(old);
            if self.gsts & TES != 0 && self.latched.is_some_and(changed) {
                self.violate("table mode changed while translation is on", format!("{:#x}", self.rtaddr));
            }
            if self.gsts & TES != 0 {
                self.check_visible(self.rtaddr & !(PAGE - 1));
            }
            self.latched = Some(self.rtaddr);
            self.gsts |= RTPS;
            if caps.esrtps {
                self.cache.clear();
            } else {
                self.owed = OWED_CONTEXT | OWED_IOTLB | if mode(self.rtaddr) == 1 { OWED_PASID } else { 0 };
            }
        }
        if bits & WBF != 0 {
            self.stats.write_buffer_flushes += 1;
            if caps.rwbf {
                self.arena.publish_all();
            }
            self.gsts &= !WBF;
        }
        if bits & QIES != 0 {
            let on = value & QIES != 0;
            if on && !caps.qi {
                self.violate("queue enabled without ECAP.QI", String::new());
            }
            if on && self.iqt != 0 {
                self.violate("queue enabled with a tail", format!("{:#x}", self.iqt));
            }
            if !on && self.iqh != self.iqt {
                self.violate("queue disabled while not empty", format!("head {:#x} tail {:#x}", self.iqh, self.iqt));
            }
            self.iqh = 0;
            self.gsts = self.gsts & !QIES | value & QIES;
        }
        if bits & TES != 0 {
            if value & TES != 0 {
                if self.gsts & RTPS == 0 {
                    self.violate("translation enabled without a root pointer", String::new());
                }
                self.check_owed();
            }
            self.gsts = self.gsts & !TES | value & TES;
        }
        if bits & IRTP != 0 {
            self.gsts |= IRTP;
        }
        if bits & FL != 0 {
            self.gsts |= FL;
        }
        let rest = AFL | IRE | CFI;
        self.gsts = self.gsts & !(bits & rest) | value & bits & rest;
    }

    /// A root that replaces another while translation is on is walked at once: what it leads to must be visible.
    fn check_visible(&self, root: u64) {
        let snoops = self.config.caps.coherent && !self.config.caps.rwbf;
        for at in (root..root + PAGE).step_by(8) {
            let (seen, stored) = (self.arena.hw_load(at, snoops), self.arena.hw_load(at, true));
            if seen != stored {
                self.violate("root table in force before it is visible", format!("{at:#x}: {seen:x?} for {stored:x?}"));
                return;
            }
        }
    }

    /// After a new root pointer every cache must be invalidated globally (10.4.5, SRTP).
    pub(super) fn check_owed(&mut self) {
        if self.owed != 0 {
            self.violate(
                "root pointer set without global invalidation",
                format!("owed {:#b} (IOTLB PASID context)", self.owed),
            );
            self.owed = 0;
        }
    }

    fn register_command(&mut self, which: &'static str) {
        if self.gsts & QIES != 0 {
            self.violate("register-based invalidation while the queue is on", which.into());
        }
        if self.latched.is_some_and(|r| r >> 10 & 3 == 1) {
            self.violate("register-based invalidation in scalable mode", which.into());
        }
    }

    fn run_register_commands(&mut self) {
        if self.ccmd >> 63 != 0 {
            let granularity = self.ccmd >> 61 & 3;
            let (did, sid, fm) = (self.ccmd as u16, (self.ccmd >> 16) as u16, (self.ccmd >> 32 & 3) as u8);
            match granularity {
                1 => self.apply(Inv::ContextGlobal),
                2 => self.apply(Inv::ContextDomain(did)),
                3 => self.apply(Inv::ContextDevice { did, sid, fm }),
                _ => self.violate("CCMD with granularity 0", format!("{:#x}", self.ccmd)),
            }
            self.ccmd = self.ccmd & !(1 << 63) | granularity << 59;
        }
        if self.iotlb >> 63 != 0 {
            let granularity = self.iotlb >> 60 & 3;
            let did = (self.iotlb >> 32) as u16;
            let drain = self.iotlb >> 48 & 1 != 0;
            let am = (self.iva & 0x3f) as u8;
            let mut done = granularity;
            match granularity {
                1 => self.apply_drained(Inv::IotlbGlobal, drain),
                2 => self.apply_drained(Inv::IotlbDomain(did), drain),
                3 if self.config.caps.psi && am <= self.config.caps.mamv => {
                    let hint = self.iva & 1 << 6 != 0;
                    self.apply_drained(Inv::IotlbPage { did, addr: self.iva & !(PAGE - 1), am, hint }, drain);
                }
                3 => {
                    // Not supported: done at domain granularity and reported so (10.4.8).
                    done = 2;
                    self.apply_drained(Inv::IotlbDomain(did), drain);
                }
                _ => self.violate("IOTLB with granularity 0", format!("{:#x}", self.iotlb)),
            }
            self.iotlb = self.iotlb & !(1 << 63) | done << 57;
        }
    }
}
