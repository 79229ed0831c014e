//! The command queue (IHI 0070, chapter 4 and 7.1): one command per tick.

use super::cache::Inv;
use super::event::{CMDQ_ERR, Irq};
use super::{Unit, field};

/// CMDQ_CONS.ERR.
pub(super) const ILL: u32 = 1;
pub(super) const ABT: u32 = 2;
pub(super) const ATC_SYNC: u32 = 3;

/// Bits of the two words that a command may have set.
fn known(op: u8, ril: bool) -> [u64; 2] {
    const SID: u64 = 0xffff_ffff << 32;
    const SSID: u64 = 0xf_ffff << 12;
    const VMID: u64 = 0xffff << 32;
    const ASID: u64 = 0xffff << 48;
    let range = if ril { 31 << 12 | 31 << 20 } else { 0 };
    let ttl = if ril { 3 << 8 | 3 << 10 } else { 0 };
    let va = 1 | ttl | !0xfff;
    match op {
        0x01 => [SID | SSID | 1 << 11, 0x1f],
        0x02 => [SID | SSID | 1 << 11, !0],
        0x03 => [SID, 1],
        0x04 => [SID, 0x1f],
        0x05 => [SID | SSID, 1],
        0x06 => [SID, 0],
        0x10 | 0x28 => [VMID, 0],
        0x11 => [VMID | ASID, 0],
        0x12 => [VMID | ASID | range, va],
        0x13 => [VMID | range, va],
        0x21 => [ASID, 0],
        0x22 => [ASID | range, va],
        0x23 => [range, va],
        0x2a => [VMID | range, 1 | ttl | 0x000f_ffff_ffff_f000],
        0x40 => [SID | SSID | 1 << 11 | 1 << 9, 0x3f | !0xfff],
        0x41 => [SID | SSID | 1 << 11, 0x1ff | 3 << 12],
        0x44 => [SID | 3 << 12, 0xffff],
        0x45 => [SID, 0],
        0x46 => [3 << 12 | 3 << 22 | 15 << 24 | SID, 0x000f_ffff_ffff_fffc],
        _ => [0, 0],
    }
}

impl Unit {
    /// Takes one command.
    pub(super) fn consume(&mut self) {
        let log2 = (self.cmdq_base & 31) as u32;
        let mask = (2u32 << log2) - 1;
        if self.inject.queue_stalled
            || self.cr0_ack & 8 == 0
            || (self.gerror ^ self.gerrorn) & CMDQ_ERR != 0
            || self.cmdq_prod & mask == self.cmdq_cons & mask
        {
            return;
        }
        let at = (self.cmdq_base & 0x000f_ffff_ffff_ffe0) + 16 * u64::from(self.cmdq_cons & ((1 << log2) - 1));
        let snoops = self.queue_snoops();
        let words = if self.may_touch(at, "command queue") { self.arena.hw_load_n::<2>(at, snoops) } else { None };
        let result = match words {
            None => Err(ABT),
            Some(_) if countdown(&mut self.inject.abort_in) => Err(ABT),
            Some(_) if self.inject.refuse_all || countdown(&mut self.inject.refuse_in) => Err(ILL),
            Some(w) => self.execute(w),
        };
        match result {
            Ok(()) => self.cmdq_cons = (self.cmdq_cons + 1) & mask,
            Err(code) => {
                // RD stays at the command; it runs again after software acknowledged (7.1).
                self.cmdq_err = code;
                self.gerror_raise(CMDQ_ERR);
            }
        }
    }

    fn execute(&mut self, w: [u64; 2]) -> Result<(), u32> {
        let caps = self.config.caps;
        let op = w[0] as u8;
        self.stats.commands[usize::from(op & 127)] += 1;
        self.trace.push(w);
        let sid = (w[0] >> 32) as u32;
        let ssid = field(w[0], 31, 12) as u32;
        let vmid = if caps.s2p { (w[0] >> 32) as u16 } else { 0 };
        let asid = (w[0] >> 48) as u16;
        let leaf = w[1] & 1 == 1;
        let inv = match op {
            0x01 | 0x02 => None,
            0x03 => Some(Inv::Stes { first: sid, last: sid, leaf }),
            0x04 => match w[1] & 31 {
                31 => Some(Inv::AllConfig),
                n => {
                    let low = (2u32 << n) - 1;
                    Some(Inv::Stes { first: sid & !low, last: sid | low, leaf: false })
                }
            },
            0x05 if caps.s1p => Some(Inv::Cd { sid, ssid, leaf }),
            0x06 if caps.s1p => Some(Inv::Cds { sid }),
            0x10 if caps.s1p => Some(Inv::All { el2: false, vmid }),
            0x11 if caps.s1p => Some(Inv::Asid { el2: false, vmid, asid }),
            0x12 | 0x13 if caps.s1p => {
                let (first, last, ttl) = self.range(w)?;
                let asid = (op == 0x12).then_some(asid);
                Some(Inv::Va { el2: false, vmid, asid, first, last, leaf, ttl })
            }
            0x20 if caps.hyp => Some(Inv::All { el2: true, vmid: 0 }),
            0x21 if caps.hyp => Some(Inv::Asid { el2: true, vmid: 0, asid }),
            0x22 | 0x23 if caps.hyp => {
                let (first, last, ttl) = self.range(w)?;
                let asid = (op == 0x22).then_some(asid);
                Some(Inv::Va { el2: true, vmid: 0, asid, first, last, leaf, ttl })
            }
            0x28 if caps.s2p => Some(Inv::S12 { vmid }),
            0x2a if caps.s2p => {
                let (first, last, ttl) = self.range(w)?;
                Some(Inv::Ipa { vmid, first, last, leaf, ttl })
            }
            0x30 => Some(Inv::NonHyp),
            0x40 if caps.ats => {
                let size = w[1] & 63;
                if size > 52 {
                    return Err(ILL);
                }
                let bytes = 1u64.checked_shl(12 + size as u32).unwrap_or(0);
                let first = if bytes == 0 { 0 } else { w[1] & !(bytes - 1) };
                let last = first | bytes.wrapping_sub(1);
                let ssid = (w[0] >> 11 & 1 == 1).then_some(ssid);
                let global = w[0] >> 9 & 1 == 1 && ssid.is_some();
                Some(Inv::Atc { sid, ssid, global, first: first & !0xfff, last })
            }
            0x41 if caps.pri => {
                if field(w[1], 13, 12) == 3 {
                    return Err(ILL);
                }
                self.responses.push((sid, w[1] as u16 & 0x1ff, field(w[1], 13, 12) as u8));
                None
            }
            0x44 if caps.stall_model != 1 => {
                let (tag, retry) = (w[1] as u16, w[0] >> 12 & 1 == 1);
                self.resume(sid, Some(tag), retry);
                None
            }
            0x45 if caps.stall_model != 1 => {
                self.resume(sid, None, false);
                None
            }
            0x46 => {
                self.reserved(op, w);
                return self.sync(w);
            }
            _ => return Err(ILL),
        };
        self.reserved(op, w);
        if let Some(inv) = inv
            && self.inject.swallow >> (op & 127) & 1 == 0
        {
            let seq = self.cache.tick();
            self.waiting.push((seq, inv));
        }
        Ok(())
    }

    fn reserved(&self, op: u8, w: [u64; 2]) {
        let [lo, hi] = known(op, self.config.caps.ril);
        if w[0] & !(lo | 0xff) != 0 || w[1] & !hi != 0 {
            self.violate("reserved bits of a command", format!("{:#x} {:#x}", w[0], w[1]));
        }
    }

    /// Addresses and level hint of a TLBI by address (4.4.1).
    fn range(&self, w: [u64; 2]) -> Result<(u64, u64, Option<u32>), u32> {
        let (num, scale) = (field(w[0], 16, 12), field(w[0], 24, 20));
        let (ttl, tg) = (field(w[1], 9, 8) as u32, field(w[1], 11, 10));
        let first = w[1] & !0xfff;
        if !self.config.caps.ril || tg == 0 {
            if self.config.caps.ril && (num | scale | u64::from(ttl)) != 0 {
                self.violate("range fields without TG", format!("{:#x} {:#x}", w[0], w[1]));
            }
            return Ok((first, first | 0xfff, None));
        }
        if num == 0 && scale == 0 && ttl == 0 {
            return Err(ILL);
        }
        if tg != 1 {
            // This model has tables of the 4 KiB granule only: nothing is covered.
            self.violate("TLBI with another granule", format!("{:#x} {:#x}", w[0], w[1]));
            return Ok((first, first, Some(4)));
        }
        if ttl != 0 {
            let unit = 1u64 << (39 - 9 * ttl);
            if first & (unit - 1) != 0 {
                self.violate("TLBI address is not aligned to its level", format!("{:#x} {:#x}", w[0], w[1]));
                return Ok((first, first, Some(4)));
            }
        }
        let bytes = ((num + 1) << scale).checked_mul(4096).unwrap_or(0);
        let last = first.saturating_add(bytes.wrapping_sub(1));
        Ok((first, last, (ttl != 0).then_some(ttl)))
    }

    /// CMD_SYNC (4.7.3): what was consumed before it is done now.
    fn sync(&mut self, w: [u64; 2]) -> Result<(), u32> {
        let how = field(w[0], 13, 12);
        if how == 3 {
            return Err(ILL);
        }
        if self.waiting.iter().any(|(_, i)| matches!(i, Inv::Atc { .. })) && countdown(&mut self.inject.atc_time_out_in)
        {
            self.waiting.retain(|(_, i)| !matches!(i, Inv::Atc { .. }));
            return Err(ATC_SYNC);
        }
        self.complete();
        if self.inject.mute_sync {
            return Ok(());
        }
        let msi = w[1] & 0x000f_ffff_ffff_fffc;
        match how {
            1 if self.config.caps.msi && msi != 0 => {
                let data = (w[0] >> 32) as u32;
                if self.arena.owner(msi).is_some() {
                    if self.may_touch(msi, "CMD_SYNC") {
                        self.arena.hw_store32(msi, data);
                    }
                } else {
                    self.messages.push((msi, data));
                }
            }
            1 => self.irqs.push(Irq::Sync),
            2 if self.config.caps.sev => self.irqs.push(Irq::Sev),
            _ => {}
        }
        Ok(())
    }

    /// Every invalidation consumed so far takes effect.
    fn complete(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let config: Vec<Inv> = waiting
            .iter()
            .map(|(_, i)| *i)
            .filter(|i| matches!(i, Inv::Stes { .. } | Inv::AllConfig | Inv::Cd { .. } | Inv::Cds { .. }))
            .collect();
        if !config.is_empty() {
            self.check_structures(&config);
        }
        for (seq, inv) in waiting {
            match inv {
                Inv::AllConfig => self.owed &= !1,
                Inv::NonHyp => self.owed &= !2,
                _ => {}
            }
            self.cache.apply(inv, seq);
        }
        // Writes that used the old translations have landed (3.21.1).
        self.land();
        self.stats.syncs += 1;
    }
}

/// True when `n` counts down to zero.
fn countdown(n: &mut u32) -> bool {
    if *n == 0 {
        return false;
    }
    *n -= 1;
    *n == 0
}
