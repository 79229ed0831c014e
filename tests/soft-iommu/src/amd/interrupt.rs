//! Interrupt remapping (2.2.5): 32-bit entries, or 128-bit entries with GAEn.

use super::fault::{Fail, Reason, Refused, Stop};
use super::regs::{COHERENT, ENABLE, WIDE_INTERRUPTS};
use super::{Unit, field};

/// An interrupt as it leaves the unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interrupt {
    /// Whether an entry was used; otherwise the message passed as it came.
    pub remapped: bool,
    /// Vector.
    pub vector: u8,
    /// APIC id, or logical destination.
    pub destination: u32,
    /// DM: the destination is logical.
    pub logical: bool,
    /// IntType: 0 fixed, 1 arbitrated and so on.
    pub kind: u8,
}

impl Unit {
    pub(super) fn remap(&mut self, sid: u16, address: u64, data: u32) -> Result<Interrupt, Refused> {
        let as_sent = Interrupt {
            remapped: false,
            vector: data as u8,
            destination: field(address, 19, 12) as u32,
            logical: address & 4 != 0,
            kind: (data >> 8 & 7) as u8,
        };
        if self.control & ENABLE == 0 {
            return Ok(as_sent);
        }
        let dte = match self.device(sid, None) {
            Ok(dte) => dte,
            Err(fail) => {
                self.record(fail, sid, address, true, true);
                return Err(Refused::Fault(fail.stop.reason));
            }
        };
        if !dte.remaps || dte.interrupt_control == 1 {
            return Ok(as_sent);
        }
        let refuse = |unit: &mut Self, stop: Stop, quiet: bool| {
            let fail = Fail { stop, domain: dte.domain, guest: None, mute: dte.ignores || quiet, once: false };
            unit.record(fail, sid, address, true, true);
            Err(Refused::Fault(stop.reason))
        };
        let index = (data & 0x7ff) as u16;
        if dte.interrupt_control == 0 || u32::from(index) >> dte.interrupt_log2 != 0 {
            return refuse(self, Reason::NOT_PRESENT.into(), false);
        }
        let wide = self.control & WIDE_INTERRUPTS != 0;
        let kept = self.cache.interrupt(sid, index).filter(|_| self.caches());
        let entry = match kept {
            Some(entry) => entry,
            None => {
                let snoops = self.control & COHERENT != 0;
                let at = dte.interrupts + u64::from(index) * if wide { 16 } else { 4 };
                let read = self.fetch(at & !7, snoops).and_then(|_| {
                    let missing = Stop { reason: Reason::TABLE_ACCESS, at };
                    if wide {
                        self.arena.hw_load_n::<2>(at, snoops).ok_or(missing)
                    } else {
                        let word = self.arena.hw_load(at & !7, snoops).ok_or(missing)?;
                        Ok([word >> ((at & 4) * 8) & 0xffff_ffff, 0])
                    }
                });
                match read {
                    Ok(entry) => entry,
                    Err(stop) => return refuse(self, stop, false),
                }
            }
        };
        // RemapEn 0, SupIOPF 1.
        if entry[0] & 1 == 0 {
            return refuse(self, Reason::NOT_PRESENT.into(), entry[0] & 2 != 0);
        }
        if self.caches() {
            self.cache.keep_interrupt(sid, index, entry);
        }
        // IntType 4:2, DM 6. 32-bit: destination 15:8, vector 23:16. 128-bit: destination 31:8 and 127:120, vector 71:64.
        let (vector, destination) = if wide {
            (entry[1] as u8, (field(entry[0], 31, 8) | field(entry[1], 63, 56) << 24) as u32)
        } else {
            ((entry[0] >> 16) as u8, field(entry[0], 15, 8) as u32)
        };
        let kind = field(entry[0], 4, 2) as u8;
        Ok(Interrupt { remapped: true, vector, destination, logical: entry[0] >> 6 & 1 != 0, kind })
    }
}
