//! Queued invalidation (6.5.2).

use super::cache::Inv;
use super::fault::{FSTS_ICE, FSTS_IQE, FSTS_ITE};
use super::regs::QIES;
use super::{PAGE, Unit};
use crate::Use;

/// IQERCD.IQEI (10.4.28).
#[derive(Clone, Copy)]
enum Why {
    Tail = 1,
    Fetch = 2,
    Type = 3,
    Reserved = 4,
    Width = 5,
    TailAligned = 6,
    Mode = 7,
}

/// A descriptor, decoded.
enum Descriptor {
    Invalidate { inv: Inv, drain: bool },
    Ignored,
    Wait { interrupt: bool, status: Option<(u64, u32)> },
}

impl Unit {
    fn wide(&self) -> bool {
        self.iqa >> 11 & 1 != 0
    }

    fn queue_bytes(&self) -> u64 {
        PAGE << (self.iqa & 7)
    }

    /// Tail as written: in range and on a descriptor boundary.
    pub(super) fn check_tail(&mut self, value: u64) {
        if self.gsts & QIES == 0 {
            return;
        }
        let step = if self.wide() { 32 } else { 16 };
        if value >= self.queue_bytes() || !value.is_multiple_of(step) {
            self.violate("IQT out of range or misaligned", format!("{value:#x} of {:#x}", self.queue_bytes()));
            self.refuse(if !value.is_multiple_of(step) { Why::TailAligned } else { Why::Tail });
        }
    }

    fn refuse(&mut self, why: Why) {
        self.iqercd = self.iqercd & !0xf | why as u64;
        self.fault_status |= FSTS_IQE;
        self.event();
    }

    /// One descriptor.
    pub(super) fn take_descriptor(&mut self) {
        if self.gsts & QIES == 0
            || self.iqh == self.iqt
            || self.inject.queue_stalled
            || self.fault_status & (FSTS_IQE | FSTS_ITE) != 0
        {
            return;
        }
        let at = (self.iqa & !(PAGE - 1)) + self.iqh;
        if self.arena.owner(at) != Some(Use::Table) {
            self.violate("queue in a frame that is not held", format!("{at:#x}"));
        }
        // Reads of the queue are always snooped (6.5.2).
        let Some([lo, hi]) = self.arena.hw_load_n::<2>(at, true) else {
            return self.refuse(Why::Fetch);
        };
        let upper = if self.wide() { self.arena.hw_load_n::<2>(at + 16, true) } else { Some([0, 0]) };
        let scalable = self.latched.is_some_and(|r| r >> 10 & 3 == 1);
        if scalable && !self.wide() {
            self.violate("128-bit descriptors in scalable mode", format!("{lo:#x}"));
            return self.refuse(Why::Width);
        }
        if self.inject.refuse_all || counted(&mut self.inject.refuse_in) {
            return self.refuse(Why::Type);
        }
        let decoded = match upper {
            Some([0, 0]) => self.decode(lo, hi, scalable),
            _ => Err(Why::Reserved),
        };
        let kind = (lo & 0xf) as usize;
        match decoded {
            Err(why) => {
                self.violate(
                    "descriptor refused",
                    format!("{hi:#018x}_{lo:016x} at {:#x}, IQEI {}", self.iqh, why as u8),
                );
                return self.refuse(why);
            }
            Ok(_) if self.inject.swallow >> kind & 1 != 0 && kind != 5 => {}
            Ok(Descriptor::Ignored) => {}
            Ok(Descriptor::Invalidate { inv, drain }) => {
                self.waiting.push(inv);
                if drain {
                    self.waiting.push(Inv::Drain);
                }
            }
            Ok(Descriptor::Wait { interrupt, status }) => {
                if counted(&mut self.inject.time_out_in) {
                    // 6.5.2.10: the wait is aborted, head moves on, fetching stops until ITE is cleared.
                    self.fault_status |= FSTS_ITE;
                    self.iqercd = self.iqercd & !(0xffff << 32) | 0x0100 << 32;
                    self.waiting.clear();
                    self.advance();
                    self.stats.descriptors[kind] += 1;
                    return self.event();
                }
                self.complete_waiting();
                if counted(&mut self.inject.completion_error_in) {
                    self.fault_status |= FSTS_ICE;
                    self.event();
                }
                if let Some((address, data)) = status
                    && !self.inject.mute_status
                {
                    if self.arena.owner(address) != Some(Use::Table) {
                        self.violate("wait status outside of the driver's memory", format!("{address:#x}"));
                    }
                    self.arena.hw_store32(address, data);
                }
                if interrupt && self.ics & 1 == 0 {
                    self.ics |= 1;
                    if self.iectl >> 31 != 0 {
                        self.iectl |= 1 << 30;
                    } else {
                        self.completion_message();
                    }
                }
            }
        }
        self.stats.descriptors[kind] += 1;
        self.advance();
    }

    fn advance(&mut self) {
        self.iqh = (self.iqh + if self.wide() { 32 } else { 16 }) % self.queue_bytes();
    }

    pub(super) fn completion_message(&mut self) {
        self.messages.push((u64::from(self.ieuaddr) << 32 | u64::from(self.ieaddr), self.iedata));
    }

    /// What was fetched before a wait takes effect now, in order (6.5.2.12); hardware may refill in between.
    fn complete_waiting(&mut self) {
        let mut list = std::mem::take(&mut self.waiting);
        for inv in list.drain(..) {
            self.apply(inv);
            self.sample();
        }
        self.waiting = list;
    }

    fn decode(&self, lo: u64, hi: u64, scalable: bool) -> Result<Descriptor, Why> {
        let caps = &self.config.caps;
        // Type is bits 11:9 and 3:0; the upper three are zero in every type here.
        if lo >> 9 & 7 != 0 {
            return Err(Why::Type);
        }
        let did = (lo >> 16) as u16;
        let pasid = (lo >> 32 & 0xf_ffff) as u32;
        let granularity = lo >> 4 & 3;
        let (am, hint, addr) = ((hi & 0x3f) as u8, hi >> 6 & 1 != 0, hi & !(PAGE - 1));
        let clear = |lo_mask: u64, hi_mask: u64| {
            if lo & lo_mask == 0 && hi & hi_mask == 0 { Ok(()) } else { Err(Why::Reserved) }
        };
        let always_drains = !caps.drain;
        let inv = |inv: Inv, drain: bool| Ok(Descriptor::Invalidate { inv, drain: drain || always_drains });
        match lo & 0xf {
            1 => {
                clear(0xfffc_0000_0000_f1c0, u64::MAX)?;
                let sid = (lo >> 32) as u16;
                match granularity {
                    1 => Ok(Descriptor::Invalidate { inv: Inv::ContextGlobal, drain: false }),
                    2 => Ok(Descriptor::Invalidate { inv: Inv::ContextDomain(did), drain: false }),
                    3 => {
                        let fm = (lo >> 48 & 3) as u8;
                        Ok(Descriptor::Invalidate { inv: Inv::ContextDevice { did, sid, fm }, drain: false })
                    }
                    _ => Err(Why::Reserved),
                }
            }
            2 => {
                clear(0xffff_ffff_0000_f100, 0xf80)?;
                let drain = lo >> 6 & 1 != 0;
                match granularity {
                    1 => inv(Inv::IotlbGlobal, drain),
                    2 => inv(Inv::IotlbDomain(did), drain),
                    3 if caps.psi && am <= caps.mamv => inv(Inv::IotlbPage { did, addr, am, hint }, drain),
                    _ => Err(Why::Reserved),
                }
            }
            3 if caps.device_tlb => Ok(Descriptor::Ignored),
            4 if caps.interrupt_remap => {
                clear(0xffff_0000_07ff_f1e0, u64::MAX)?;
                Ok(Descriptor::Ignored)
            }
            5 => {
                clear(0x0000_0000_ffff_f100, 3)?;
                let status = (lo >> 5 & 1 != 0).then_some((hi & !3, (lo >> 32) as u32));
                Ok(Descriptor::Wait { interrupt: lo >> 4 & 1 != 0, status })
            }
            6 | 7 if caps.scalable && !scalable => Err(Why::Mode),
            6 if caps.scalable => {
                clear(0xfff0_0000_0000_f1c0, 0xf80)?;
                match granularity {
                    2 => inv(Inv::FirstPasid { did, pasid }, true),
                    3 if am <= caps.mamv => inv(Inv::FirstPage { did, pasid, addr, am, hint }, true),
                    _ => Err(Why::Reserved),
                }
            }
            7 if caps.scalable => {
                clear(0xfff0_0000_0000_f1c0, u64::MAX)?;
                match granularity {
                    0 => Ok(Descriptor::Invalidate { inv: Inv::PasidDomain(did), drain: false }),
                    1 => Ok(Descriptor::Invalidate { inv: Inv::PasidOne { did, pasid }, drain: false }),
                    3 => Ok(Descriptor::Invalidate { inv: Inv::PasidGlobal, drain: false }),
                    _ => Err(Why::Reserved),
                }
            }
            _ => Err(Why::Type),
        }
    }
}

fn counted(n: &mut u32) -> bool {
    if *n == 0 {
        return false;
    }
    *n -= 1;
    *n == 0
}
