//! The register file (IHI 0070, 6.1 to 6.3): page 0, and page 1 with the indices of the output queues.

use super::Unit;

const CR0_KNOWN: u32 = 0x1df;
const QUEUE_ADDRESS: u64 = 0x000f_ffff_ffff_ffe0;

/// A register that follows a write after a while.
#[derive(Clone, Copy, Default)]
pub(super) struct Late {
    pub value: u32,
    pub ticks: Option<u32>,
}

impl Late {
    fn write(&mut self, value: u32, delay: u32) {
        *self = Self { value, ticks: Some(delay) };
    }
    /// One tick; the value when it becomes visible.
    fn due(&mut self) -> Option<u32> {
        match self.ticks {
            Some(0 | 1) => {
                self.ticks = None;
                Some(self.value)
            }
            Some(n) => {
                self.ticks = Some(n - 1);
                None
            }
            None => None,
        }
    }
}

impl Unit {
    pub(super) fn r32(&self, offset: usize) -> u32 {
        let caps = &self.config.caps;
        if self.inject.dead {
            return !0;
        }
        let half = |value: u64| if offset & 4 == 0 { value as u32 } else { (value >> 32) as u32 };
        match offset {
            0x00 => caps.idr0(),
            0x04 => caps.idr1(),
            0x0c => caps.idr3(),
            0x14 => caps.idr5(),
            0x18 => 0x43b,
            0x1c => u32::from(caps.httu > 0 || caps.ril) * 2,
            0x20 => self.cr0.value,
            0x24 => self.cr0_ack,
            0x28 => self.cr1,
            0x2c => self.cr2,
            0x44 => self.gbpa_shown,
            0x50 => self.irq.value,
            0x54 => self.irq_ack,
            0x60 => self.gerror,
            0x64 => self.gerrorn,
            0x68 | 0x6c => half(self.irq_cfg[0].0),
            0x70 => self.irq_cfg[0].1,
            0x80 | 0x84 => half(self.strtab_base),
            0x88 => self.strtab_cfg,
            0x90 | 0x94 => half(self.cmdq_base),
            0x98 => self.cmdq_prod,
            0x9c => self.cmdq_cons | self.cmdq_err << 24,
            0xa0 | 0xa4 => half(self.eventq.base),
            0x1_00a8 => self.eventq.prod,
            0x1_00ac => self.eventq.cons,
            0xb0 | 0xb4 => half(self.irq_cfg[1].0),
            0xb8 => self.irq_cfg[1].1,
            0xc0 | 0xc4 => half(self.priq.base),
            0x1_00c8 => self.priq.prod,
            0x1_00cc => self.priq.cons,
            0xd0 | 0xd4 => half(self.irq_cfg[2].0),
            0xd8 => self.irq_cfg[2].1,
            _ => 0,
        }
    }

    pub(super) fn r64(&self, offset: usize) -> u64 {
        if self.inject.dead {
            return !0;
        }
        match offset {
            0x68 | 0x80 | 0x90 | 0xa0 | 0xb0 | 0xc0 | 0xd0 => {
                u64::from(self.r32(offset)) | u64::from(self.r32(offset + 4)) << 32
            }
            _ => {
                self.violate("64-bit access to a 32-bit register", format!("read of {offset:#x}"));
                0
            }
        }
    }

    /// A register that may be written only while `bits` of CR0 are off.
    fn guarded(&self, name: &'static str, bits: u32) -> bool {
        let on = (self.cr0.value | self.cr0_ack) & bits != 0;
        if on {
            self.violate("register written while its user is enabled", name.into());
        }
        !on
    }

    pub(super) fn w32(&mut self, offset: usize, value: u32) {
        if self.inject.dead {
            return;
        }
        let delay = self.config.ack_delay;
        match offset {
            0x20 => {
                if value & !CR0_KNOWN != 0 {
                    self.violate("reserved bits of CR0", format!("{value:#x}"));
                }
                if self.cr0.ticks.is_some() && value != self.cr0.value {
                    self.violate(
                        "CR0 written before CR0ACK followed",
                        format!("{:#x} then {value:#x}", self.cr0.value),
                    );
                }
                if value & 2 != 0 && !self.config.caps.pri {
                    self.violate("PRIQEN without PRI", format!("{value:#x}"));
                }
                self.cr0.write(value & CR0_KNOWN, delay);
            }
            0x28 => {
                if self.guarded("CR1", 0xf) {
                    self.cr1 = value & 0xfff;
                }
            }
            0x2c => {
                if self.guarded("CR2", 1) {
                    self.cr2 = value & 7;
                }
            }
            0x44 => {
                if value >> 31 == 0 {
                    self.violate("GBPA written without Update", format!("{value:#x}"));
                } else if self.gbpa.ticks.is_some() {
                    self.violate("GBPA written before Update was clear", format!("{value:#x}"));
                } else {
                    self.gbpa_shown = value;
                    self.gbpa.write(value & 0x7fff_ffff, delay);
                }
            }
            0x50 => {
                if self.irq.ticks.is_some() && value != self.irq.value {
                    self.violate("IRQ_CTRL written before IRQ_CTRLACK followed", format!("{value:#x}"));
                }
                self.irq.write(value & 7, delay);
            }
            0x64 => {
                let toggled = (value ^ self.gerrorn) & 0x1fd;
                if toggled & !(self.gerror ^ self.gerrorn) != 0 {
                    self.violate("GERRORN toggles an error that is not active", format!("{value:#x}"));
                }
                self.gerrorn = value & 0x1fd;
            }
            0x68 | 0x6c | 0x70 | 0xb0 | 0xb4 | 0xb8 | 0xd0 | 0xd4 | 0xd8 => {
                let (n, bit) = match offset & 0xf0 {
                    0x60 | 0x70 => (0, 1),
                    0xb0 => (1, 4),
                    _ => (2, 2),
                };
                if (self.irq.value | self.irq_ack) & bit != 0 {
                    self.violate("register written while its user is enabled", format!("IRQ_CFG at {offset:#x}"));
                    return;
                }
                let cfg = &mut self.irq_cfg[n];
                match (n, offset) {
                    (0, 0x70) | (1, 0xb8) | (2, 0xd8) => cfg.1 = value,
                    _ => merge(&mut cfg.0, offset, value),
                }
            }
            0x80 | 0x84 => {
                if self.guarded("STRTAB_BASE", 1) {
                    merge(&mut self.strtab_base, offset, value);
                }
            }
            0x88 => {
                if self.guarded("STRTAB_BASE_CFG", 1) {
                    self.strtab_cfg = value & 0x3_07ff;
                }
            }
            0x90 | 0x94 => {
                if self.guarded("CMDQ_BASE", 8) {
                    merge(&mut self.cmdq_base, offset, value);
                }
            }
            0x98 => self.write_prod(value),
            0x9c => {
                if self.guarded("CMDQ_CONS", 8) {
                    self.cmdq_cons = value & 0xf_ffff;
                    self.cmdq_err = value >> 24 & 0x7f;
                }
            }
            0xa0 | 0xa4 => {
                if self.guarded("EVENTQ_BASE", 4) {
                    merge(&mut self.eventq.base, offset, value);
                }
            }
            0xc0 | 0xc4 => {
                if self.guarded("PRIQ_BASE", 2) {
                    merge(&mut self.priq.base, offset, value);
                }
            }
            0x1_00a8 => {
                if self.guarded("EVENTQ_PROD", 4) {
                    self.eventq.prod = value & 0x800f_ffff;
                }
            }
            0x1_00ac => self.write_cons(false, value),
            0x1_00c8 => {
                if self.guarded("PRIQ_PROD", 2) {
                    self.priq.prod = value & 0x800f_ffff;
                }
            }
            0x1_00cc => self.write_cons(true, value),
            _ => self.violate("write to a reserved or read-only register", format!("{offset:#x} = {value:#x}")),
        }
    }

    pub(super) fn w64(&mut self, offset: usize, value: u64) {
        if !matches!(offset, 0x68 | 0x80 | 0x90 | 0xa0 | 0xb0 | 0xc0 | 0xd0) {
            self.violate("64-bit access to a 32-bit register", format!("write of {offset:#x}"));
            return;
        }
        self.w32(offset, value as u32);
        self.w32(offset + 4, (value >> 32) as u32);
    }

    fn write_prod(&mut self, value: u32) {
        let log2 = (self.cmdq_base & 31) as u32;
        let mask = (2u32 << log2) - 1;
        if value & !mask != 0 {
            self.violate("PROD out of range", format!("CMDQ_PROD {value:#x}, {log2} bits"));
        }
        if self.cr0_ack & 8 != 0 {
            let used = value.wrapping_sub(self.cmdq_cons) & mask;
            let before = self.cmdq_prod.wrapping_sub(self.cmdq_cons) & mask;
            if used > 1 << log2 {
                self.violate("CMDQ_PROD overtakes CMDQ_CONS", format!("{value:#x}, CONS {:#x}", self.cmdq_cons));
            } else if used < before {
                self.violate("CMDQ_PROD moves back", format!("{:#x} then {value:#x}", self.cmdq_prod));
            }
        }
        self.cmdq_prod = value & mask;
    }

    fn write_cons(&mut self, pri: bool, value: u32) {
        let queue = if pri { self.priq } else { self.eventq };
        let mask = (2u32 << queue.log2()) - 1;
        let bad = value & 0x7fff_ffff & !mask != 0
            || queue.prod.wrapping_sub(value) & mask > queue.prod.wrapping_sub(queue.cons) & mask;
        if bad {
            self.violate("CONS out of range", format!("{value:#x}, PROD {:#x}", queue.prod));
        }
        let queue = if pri { &mut self.priq } else { &mut self.eventq };
        queue.cons = value & (1 << 31 | mask);
    }

    /// Acknowledgements that are due.
    pub(super) fn acknowledge(&mut self) {
        if let Some(value) = self.cr0.due() {
            let stuck = self.inject.cr0_stuck;
            let new = value & !stuck | self.cr0_ack & stuck;
            let rising = new & !self.cr0_ack;
            self.check_enable(rising);
            if rising & 1 != 0 || self.cr0_ack & !new & 1 != 0 {
                self.stats.enables += 1;
            }
            self.cr0_ack = new;
        }
        if let Some(value) = self.irq.due() {
            self.irq_ack = value;
        }
        if !self.inject.gbpa_stuck
            && let Some(value) = self.gbpa.due()
        {
            self.gbpa_shown = value;
            self.gbpa_live = value;
        }
    }

    /// What must hold when a bit of CR0 goes on.
    fn check_enable(&self, rising: u32) {
        let caps = &self.config.caps;
        let oas = caps.oas_bits();
        for (bit, name, base, limit, entry) in [
            (8, "CMDQ_BASE", self.cmdq_base, caps.cmdq_log2, 16u64),
            (4, "EVENTQ_BASE", self.eventq.base, caps.eventq_log2, 32),
            (2, "PRIQ_BASE", self.priq.base, caps.priq_log2, 16),
        ] {
            if rising & bit == 0 {
                continue;
            }
            let log2 = base & 31;
            let address = base & QUEUE_ADDRESS;
            if log2 > u64::from(limit) {
                self.violate("queue larger than IDR1 allows", format!("{name} {base:#x}"));
            }
            if address & ((entry << log2).max(32) - 1) != 0 {
                self.violate("base is not aligned to its size", format!("{name} {base:#x}"));
            }
            if address >> oas != 0 {
                self.violate("base beyond the output size", format!("{name} {base:#x}"));
            }
        }
        if rising & 1 == 0 {
            return;
        }
        if self.owed != 0 {
            self.violate("enabled with unknown cache contents", format!("missing: {:#x}", self.owed));
        }
        if self.cr0_ack & 4 == 0 && self.cr0.value & 4 == 0 {
            self.violate("translation before the event queue", String::new());
        }
        let (fmt, split, log2) = (self.strtab_cfg >> 16 & 3, self.strtab_cfg >> 6 & 31, self.strtab_cfg & 63);
        if log2 > u32::from(caps.sid_bits) {
            self.violate("stream table larger than SIDSIZE", format!("{:#x}", self.strtab_cfg));
        }
        let bytes = match fmt {
            0 => 64u64 << log2.min(32),
            1 if caps.two_level => {
                if ![6, 8, 10].contains(&split) {
                    self.violate("STRTAB_BASE_CFG.SPLIT", format!("{:#x}", self.strtab_cfg));
                }
                (8u64 << log2.saturating_sub(split).min(32)).max(64)
            }
            _ => {
                self.violate("STRTAB_BASE_CFG.FMT", format!("{:#x}", self.strtab_cfg));
                64
            }
        };
        if self.strtab_base & 0x000f_ffff_ffff_ffc0 & (bytes - 1) != 0 {
            self.violate("base is not aligned to its size", format!("STRTAB_BASE {:#x}", self.strtab_base));
        }
        if (self.strtab_base & 0x000f_ffff_ffff_ffc0) >> oas != 0 {
            self.violate("base beyond the output size", format!("STRTAB_BASE {:#x}", self.strtab_base));
        }
    }
}

fn merge(register: &mut u64, offset: usize, value: u32) {
    let shift = (offset & 4) * 8;
    *register = *register & !(0xffff_ffff << shift) | u64::from(value) << shift;
}
