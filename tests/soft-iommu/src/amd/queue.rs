//! The command buffer (2.4): one command per tick.

use super::cache::Inv;
use super::config::counted;
use super::fault::{CMD_RUN, WAIT_INT};
use super::{Unit, field, low_bits};
use crate::Use;
use crate::vtd::Policy;

const WAIT_INT_EN: u64 = 1 << 4;

/// A command, decoded.
enum Command {
    Wait { store: Option<(u64, u64)>, interrupt: bool },
    Invalidate(Inv),
    DeviceTlb(u16),
    Nothing,
}

/// `first..=last` of an address with S: the lowest clear bit from 12 up gives the size (2.4.3, table of encodings).
fn range(address: u64, sized: bool) -> Option<(u64, u64)> {
    if !sized {
        return Some((address, address | 0xfff));
    }
    // All ones would mean more than 2^64 bytes.
    let clear = (12..64u8).find(|n| address >> n & 1 == 0)?;
    let mask = low_bits(clear + 1);
    Some((address & !mask, address | mask))
}

impl Unit {
    pub(super) fn command_bytes(&self) -> u64 {
        16 << field(self.command_base, 59, 56)
    }
    pub(super) fn event_bytes(&self) -> u64 {
        16 << field(self.event_base, 59, 56)
    }

    /// One command.
    pub(super) fn take_command(&mut self) {
        let bytes = self.command_bytes();
        if self.status & CMD_RUN == 0 || self.inject.queue_stalled || self.command_head % bytes == self.command_tail {
            return;
        }
        self.command_head %= bytes;
        let at = field(self.command_base, 51, 12) << 12 | self.command_head;
        if self.arena.owner(at) != Some(Use::Table) {
            self.violate("command buffer in a frame that is not held", format!("{at:#x}"));
        }
        let fetched = self.arena.hw_load_n::<2>(at, true);
        let Some([lo, hi]) = fetched.filter(|_| !counted(&mut self.inject.fetch_error_in)) else {
            return self.command_fetch_failed(at);
        };
        if self.inject.refuse_all || counted(&mut self.inject.refuse_in) {
            return self.illegal_command(at);
        }
        let opcode = (lo >> 60) as usize;
        match self.decode(lo, hi) {
            Err(why) => {
                self.violate("command refused", format!("{hi:#018x}_{lo:016x} at {:#x}: {why}", self.command_head));
                return self.illegal_command(at);
            }
            Ok(_) if opcode != 1 && self.inject.swallow >> opcode & 1 != 0 => {}
            Ok(Command::Nothing) => {}
            Ok(Command::Invalidate(inv)) => {
                // Commands take effect in any order before a later wait completes (2.4.1).
                let early = matches!(self.config.policy, Policy::Adversarial(_)) && self.rng.one_in(2);
                if early {
                    self.apply(inv);
                } else {
                    self.waiting.push(inv);
                }
            }
            Ok(Command::DeviceTlb(sid)) => {
                if counted(&mut self.inject.time_out_in) {
                    self.status &= !CMD_RUN;
                    self.run_wanted &= !CMD_RUN;
                    return self.iotlb_timed_out(sid, at);
                }
            }
            Ok(Command::Wait { store, interrupt }) => {
                for inv in std::mem::take(&mut self.waiting) {
                    self.apply(inv);
                    self.sample();
                }
                if let Some((address, data)) = store
                    && !self.inject.mute_store
                {
                    if self.arena.owner(address) != Some(Use::Table) {
                        self.violate("completion store outside of the driver's memory", format!("{address:#x}"));
                    }
                    self.arena.hw_store(address, data);
                }
                if interrupt {
                    self.status |= WAIT_INT;
                    if self.control & WAIT_INT_EN != 0 {
                        self.send_message();
                    }
                }
            }
        }
        self.stats.commands[opcode] += 1;
        self.command_head += 16;
        if !self.config.quirks.head_at_wrap {
            self.command_head %= bytes;
        }
    }

    fn decode(&self, lo: u64, hi: u64) -> Result<Command, &'static str> {
        let caps = self.config.caps;
        let clear = |lo_mask: u64, hi_mask: u64| {
            if lo & lo_mask == 0 && hi & hi_mask == 0 { Ok(()) } else { Err("reserved bits") }
        };
        let sid = lo as u16;
        let guest = hi >> 2 & 1 != 0;
        if guest && !caps.gt {
            return Err("GN without GTSup");
        }
        match lo >> 60 {
            1 => {
                clear(0x0ff0_0000_0000_0000, 0)?;
                let store = (lo & 1 != 0).then_some((lo & 0x000f_ffff_ffff_fff8, hi));
                Ok(Command::Wait { store, interrupt: lo & 2 != 0 })
            }
            2 => {
                clear(0x0fff_ffff_ffff_0000, u64::MAX)?;
                Ok(Command::Invalidate(Inv::Device(sid)))
            }
            3 => {
                clear(0x0fff_0000_fff0_0000, 0xff8)?;
                let pasid = field(lo, 19, 0) as u32;
                if !guest && pasid != 0 {
                    return Err("PASID without GN");
                }
                let domain = field(lo, 47, 32) as u16;
                let (first, last) = range(hi & !0xfff, hi & 1 != 0).ok_or("size")?;
                let guest = guest.then_some(pasid);
                Ok(Command::Invalidate(Inv::Pages { domain, first, last, pde: hi & 2 != 0, guest }))
            }
            4 if caps.iotlb => {
                clear(0, 0xfca)?;
                range(hi & !0xfff, hi & 1 != 0).ok_or("size")?;
                Ok(Command::DeviceTlb(sid))
            }
            5 => {
                clear(0x0fff_ffff_ffff_0000, u64::MAX)?;
                Ok(Command::Invalidate(Inv::Interrupts(sid)))
            }
            6 if caps.prefetch => Ok(Command::Nothing),
            7 if caps.ppr => Ok(Command::Nothing),
            8 if caps.ia => {
                clear(0x0fff_ffff_ffff_ffff, u64::MAX)?;
                Ok(Command::Invalidate(Inv::All))
            }
            _ => Err("opcode"),
        }
    }
}
