//! Register file (3.4).

use super::fault::{CMD_RUN, LOG_INT, LOG_RUN, OVERFLOW, WAIT_INT};
use super::{Unit, field};

// Control register (0x18).
pub(super) const ENABLE: u64 = 1 << 0;
const EVENT_LOG: u64 = 1 << 2;
pub(super) const COHERENT: u64 = 1 << 10;
const COMMANDS: u64 = 1 << 12;
pub(super) const GUEST: u64 = 1 << 16;
pub(super) const WIDE_INTERRUPTS: u64 = 1 << 17;
const XT: u64 = 1 << 50;
const INT_CAP_XT: u64 = 1 << 51;

/// Bits 51:12.
const BASE: u64 = 0x000f_ffff_ffff_f000;

/// Registers that only keep what is written: PPR and guest logs, SMI filters, segments, vendor registers, MARC.
fn plain(offset: usize) -> bool {
    matches!(offset,
        0x38 | 0x40 | 0x48 | 0x50 | 0x60..=0xd8 | 0xe0 | 0xe8 | 0xf0 | 0xf8 | 0x100..=0x130 | 0x138..=0x148
        | 0x170 | 0x178 | 0x180 | 0x200..=0x258 | 0x2030..=0x2058 | 0x2070..=0x2090)
}

impl Unit {
    fn get(&self, offset: usize) -> Option<u64> {
        Some(match offset {
            0x00 => self.table_base,
            0x08 => self.command_base,
            0x10 => self.event_base,
            0x18 => self.control,
            0x20 => self.exclusion_base,
            0x28 => self.exclusion_limit,
            0x30 => self.config.caps.efr(),
            0x1a0 => self.config.caps.efr2(),
            0x158 | 0x160 | 0x150 | 0x168 if self.config.caps.msi_mmio => self.kept.get(&offset).copied().unwrap_or(0),
            0x2000 => self.command_head,
            0x2008 => self.command_tail,
            0x2010 => self.event_head,
            0x2018 => self.event_tail,
            0x2020 => self.status,
            _ if plain(offset) => self.kept.get(&offset).copied().unwrap_or(0),
            _ => return None,
        })
    }

    pub(super) fn r64(&self, offset: usize) -> u64 {
        if self.inject.dead {
            return u64::MAX;
        }
        if !offset.is_multiple_of(8) {
            self.violate("misaligned register access", format!("{offset:#x}"));
            return 0;
        }
        self.get(offset).unwrap_or_else(|| {
            self.violate("read of a reserved register", format!("{offset:#x}"));
            0
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
        (self.r64(offset & !7) >> ((offset & 4) * 8)) as u32
    }

    pub(super) fn w32(&mut self, offset: usize, value: u32) {
        if self.inject.dead {
            return;
        }
        if !offset.is_multiple_of(4) {
            return self.violate("misaligned register access", format!("{offset:#x}"));
        }
        let base = offset & !7;
        let shift = (offset & 4) * 8;
        // The status register clears what is written as one.
        let other = if base == 0x2020 { 0 } else { self.get(base).unwrap_or(0) & !(0xffff_ffff << shift) };
        self.w64(base, other | u64::from(value) << shift);
    }

    fn spare(&self, name: &'static str, value: u64, allowed: u64) -> u64 {
        if value & !allowed != 0 {
            self.violate("reserved bits in a register", format!("{name} = {value:#x}"));
        }
        value & allowed
    }

    pub(super) fn w64(&mut self, offset: usize, value: u64) {
        if self.inject.dead {
            return;
        }
        if !offset.is_multiple_of(8) {
            return self.violate("misaligned register access", format!("{offset:#x}"));
        }
        match offset {
            0x00 => {
                if self.control & ENABLE != 0 {
                    self.violate("device table changed while enabled", format!("{value:#x}"));
                }
                self.table_base = self.spare("device table base", value, BASE | 0x1ff);
            }
            0x08 => {
                if self.control & COMMANDS != 0 {
                    self.violate("command buffer changed while enabled", format!("{value:#x}"));
                }
                self.command_base = self.ring("command buffer base", value);
                (self.command_head, self.command_tail) = (0, 0);
            }
            0x10 => {
                if self.control & EVENT_LOG != 0 {
                    self.violate("event log changed while enabled", format!("{value:#x}"));
                }
                self.event_base = self.ring("event log base", value);
                (self.event_head, self.event_tail) = (0, 0);
            }
            0x18 => self.set_control(value),
            0x20 => self.exclusion_base = self.spare("exclusion base", value, BASE | 3),
            0x28 => self.exclusion_limit = self.spare("exclusion limit", value, BASE | 0xfff) & BASE,
            0x158 | 0x160 | 0x150 | 0x168 if self.config.caps.msi_mmio => {
                self.kept.insert(offset, value);
            }
            0x2000 => {
                if self.status & CMD_RUN != 0 {
                    self.violate("command head written while running", format!("{value:#x}"));
                }
                if let Some(value) = self.pointer("command head", value, self.command_bytes()) {
                    self.command_head = value;
                }
            }
            0x2008 => {
                let bytes = self.command_bytes();
                if let Some(value) = self.pointer("command tail", value, bytes) {
                    let waiting = |tail: u64| tail.wrapping_sub(self.command_head) % bytes;
                    if waiting(value) < waiting(self.command_tail) {
                        self.violate("command tail passed the head", format!("{value:#x}"));
                    }
                    self.command_tail = value;
                }
            }
            0x2010 => {
                if let Some(value) = self.pointer("event head", value, self.event_bytes()) {
                    self.event_head = value;
                }
            }
            0x2018 => {
                if self.status & LOG_RUN != 0 {
                    self.violate("event tail written while running", format!("{value:#x}"));
                }
                if let Some(value) = self.pointer("event tail", value, self.event_bytes()) {
                    self.event_tail = value;
                }
            }
            0x2020 => self.status &= !(value & (OVERFLOW | LOG_INT | WAIT_INT)),
            _ if plain(offset) => {
                self.kept.insert(offset, value);
            }
            _ => self.violate("write to a reserved or read-only register", format!("{offset:#x} = {value:#x}")),
        }
    }

    /// Base of a ring: bits 51:12, and 59:56 a length from 8 (256 entries) up.
    fn ring(&self, name: &'static str, value: u64) -> u64 {
        let value = self.spare(name, value, BASE | 0xf << 56);
        if field(value, 59, 56) < 8 {
            self.violate("ring shorter than 256 entries", format!("{name} = {value:#x}"));
        }
        value
    }

    /// A head or tail: bits 18:4, inside the ring.
    fn pointer(&self, name: &'static str, value: u64, bytes: u64) -> Option<u64> {
        if value & 15 != 0 || value >= bytes {
            self.violate("ring pointer out of range or misaligned", format!("{name} = {value:#x} of {bytes:#x}"));
            return None;
        }
        Some(value)
    }

    fn set_control(&mut self, value: u64) {
        let caps = self.config.caps;
        for (bit, name, has) in [
            (GUEST, "GTEn", caps.gt),
            (WIDE_INTERRUPTS, "GAEn", caps.ga),
            (XT, "XTEn", caps.xt),
            (INT_CAP_XT, "IntCapXTEn", caps.xt),
        ] {
            if value & bit != 0 && !has {
                self.violate("control bit without its feature", name.into());
            }
        }
        if value & XT != 0 && value & WIDE_INTERRUPTS == 0 {
            self.violate("control bit without its feature", "XTEn without GAEn".into());
        }
        let changed = self.control ^ value;
        if changed & value & ENABLE != 0 && self.table_base == 0 {
            self.violate("translation enabled without a device table", String::new());
        }
        if changed & value & EVENT_LOG != 0 && self.status & OVERFLOW != 0 {
            self.violate("event log enabled with overflow pending", String::new());
        }
        if changed & !value & COMMANDS != 0
            && self.status & CMD_RUN != 0
            && self.command_head % self.command_bytes() != self.command_tail
        {
            self.violate("command buffer disabled while not empty", String::new());
        }
        let want = |on: u64, run: u64| if value & on != 0 { run } else { 0 };
        let now = want(COMMANDS, CMD_RUN) | want(EVENT_LOG, LOG_RUN);
        for (on, run) in [(COMMANDS, CMD_RUN), (EVENT_LOG, LOG_RUN)] {
            if changed & on != 0 {
                self.run_wanted = self.run_wanted & !run | now & run;
                self.run_delay = self.config.status_delay;
            }
        }
        self.control = value;
        if self.run_delay == 0 {
            self.follow_control();
        }
    }

    /// The run bits catch up.
    pub(super) fn follow_control(&mut self) {
        if self.run_delay > 0 {
            self.run_delay -= 1;
        }
        if self.run_delay == 0 {
            let free = (CMD_RUN | LOG_RUN) & !self.inject.status_stuck;
            self.status = self.status & !free | self.run_wanted & free;
        }
    }

    /// An interrupt of the unit itself: the x2APIC register if IntCapXTEn, else the MSI capability.
    pub(super) fn send_message(&mut self) {
        let message = if self.control & INT_CAP_XT != 0 {
            // 0x170: DM 2, destination 31:8 and 63:56, vector 39:32.
            let register = self.kept.get(&0x170).copied().unwrap_or(0);
            let destination = field(register, 31, 8) | field(register, 63, 56) << 24;
            let address = 0xfee0_0000 | (destination & 0xff) << 12 | field(register, 2, 2) << 2;
            (address | (destination >> 8) << 40, field(register, 39, 32) as u32)
        } else if self.config.caps.msi_mmio && self.kept.get(&0x158).is_some_and(|v| v >> 16 & 1 != 0) {
            // 0x158 header (enable in bit 16), 0x15c address low, 0x160 high, 0x164 data.
            let low = self.kept.get(&0x158).copied().unwrap_or(0) >> 32;
            let rest = self.kept.get(&0x160).copied().unwrap_or(0);
            (rest << 32 | low, (rest >> 32) as u32)
        } else {
            self.msi
        };
        self.messages.push(message);
    }
}
