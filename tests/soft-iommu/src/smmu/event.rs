//! Events (IHI 0070, 7.3), their queue, and the errors of GERROR.

use super::Unit;

/// Event number, 7.3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Reason(pub u8);

impl Reason {
    /// C_BAD_STREAMID.
    pub const BAD_STREAMID: Self = Self(0x02);
    /// F_STE_FETCH.
    pub const STE_FETCH: Self = Self(0x03);
    /// C_BAD_STE.
    pub const BAD_STE: Self = Self(0x04);
    /// F_STREAM_DISABLED.
    pub const STREAM_DISABLED: Self = Self(0x06);
    /// C_BAD_SUBSTREAMID.
    pub const BAD_SUBSTREAMID: Self = Self(0x08);
    /// F_CD_FETCH.
    pub const CD_FETCH: Self = Self(0x09);
    /// C_BAD_CD.
    pub const BAD_CD: Self = Self(0x0a);
    /// F_WALK_EABT.
    pub const WALK_EABT: Self = Self(0x0b);
    /// F_TRANSLATION.
    pub const TRANSLATION: Self = Self(0x10);
    /// F_ADDR_SIZE.
    pub const ADDR_SIZE: Self = Self(0x11);
    /// F_ACCESS.
    pub const ACCESS: Self = Self(0x12);
    /// F_PERMISSION.
    pub const PERMISSION: Self = Self(0x13);
    /// E_PAGE_REQUEST.
    pub const PAGE_REQUEST: Self = Self(0x24);
}

/// Why a device's access did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// With an event.
    Fault(Reason),
    /// Without one: GBPA.ABORT, or an STE that aborts.
    Aborted,
    /// Stalled under this tag, until CMD_RESUME or CMD_STALL_TERM.
    Stalled(u16),
    /// The unit has left the bus.
    Dead,
}

/// An interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Irq {
    /// The event queue is no longer empty.
    Event,
    /// The page-request queue is no longer empty.
    Pri,
    /// CMD_SYNC with CS = IRQ completed.
    Sync,
    /// CMD_SYNC with CS = SEV completed.
    Sev,
    /// A bit of GERROR became active.
    Gerror,
}

/// What was being read when a stage-2 fault happened (CLASS).
pub(super) const CLASS_CD: u8 = 0;
pub(super) const CLASS_TT: u8 = 1;
pub(super) const CLASS_IN: u8 = 2;

/// A refusal on its way to the event queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fail {
    pub reason: Reason,
    pub class: u8,
    pub s2: bool,
    pub ipa: u64,
    pub fetch: u64,
    /// STE says abort: no event.
    pub silent: bool,
    /// The transaction stalls.
    pub stall: bool,
}

impl Fail {
    pub const fn of(reason: Reason) -> Self {
        Self { reason, class: CLASS_IN, s2: false, ipa: 0, fetch: 0, silent: false, stall: false }
    }
    pub const ABORT: Self = Self { silent: true, ..Self::of(Reason(0)) };
    pub const fn fetch(reason: Reason, at: u64) -> Self {
        Self { fetch: at, ..Self::of(reason) }
    }
    pub const fn s1(reason: Reason) -> Self {
        Self::of(reason)
    }
    pub const fn s2(reason: Reason, class: u8, ipa: u64) -> Self {
        Self { class, s2: true, ipa, ..Self::of(reason) }
    }
}

pub(super) const CMDQ_ERR: u32 = 1;
pub(super) const EVENTQ_ABT: u32 = 1 << 2;
pub(super) const PRIQ_ABT: u32 = 1 << 3;

/// A queue that hardware produces.
#[derive(Default, Clone, Copy)]
pub(super) struct OutQueue {
    pub base: u64,
    /// Index with wrap bit above it.
    pub prod: u32,
    pub cons: u32,
}

impl OutQueue {
    pub fn log2(&self) -> u32 {
        (self.base & 31) as u32
    }
    fn mask(&self) -> u32 {
        (2 << self.log2()) - 1
    }
    fn full(&self) -> bool {
        (self.prod ^ self.cons) & self.mask() == 1 << self.log2()
    }
    fn empty(&self) -> bool {
        (self.prod ^ self.cons) & self.mask() == 0
    }
}

impl Unit {
    /// Makes `bits` of GERROR active.
    pub(super) fn gerror_raise(&mut self, bits: u32) {
        let inactive = !(self.gerror ^ self.gerrorn) & bits;
        self.gerror ^= inactive;
        if inactive != 0 && self.irq_ack & 1 != 0 {
            let cfg = self.irq_cfg[0];
            self.interrupt(Irq::Gerror, cfg);
        }
    }

    /// MSI if the unit has them and an address is set, else the wire.
    pub(super) fn interrupt(&mut self, irq: Irq, cfg: (u64, u32)) {
        if self.config.caps.msi && cfg.0 & 0x000f_ffff_ffff_fffc != 0 {
            self.messages.push((cfg.0 & 0x000f_ffff_ffff_fffc, cfg.1));
        } else {
            self.irqs.push(irq);
        }
    }

    /// Appends to the event (or page-request) queue; what does not fit is lost and OVFLG says so.
    fn produce(&mut self, pri: bool, words: &[u64]) {
        let (enable, abort, irq, line) = if pri { (2, PRIQ_ABT, 2, Irq::Pri) } else { (4, EVENTQ_ABT, 4, Irq::Event) };
        if self.cr0_ack & enable == 0 || (self.gerror ^ self.gerrorn) & abort != 0 {
            return;
        }
        let queue = if pri { &mut self.priq } else { &mut self.eventq };
        if queue.full() {
            if (queue.prod ^ queue.cons) >> 31 == 0 {
                queue.prod ^= 1 << 31;
            }
            return;
        }
        let was_empty = queue.empty();
        let index = queue.prod & ((1 << queue.log2()) - 1);
        let at = (queue.base & 0x000f_ffff_ffff_ffe0) + u64::from(index) * 8 * words.len() as u64;
        let next = (queue.prod + 1) & queue.mask();
        queue.prod = queue.prod & 1 << 31 | next;
        if !self.may_touch(at, "event queue") {
            self.gerror_raise(abort);
            return;
        }
        for (n, word) in words.iter().enumerate() {
            self.arena.hw_store(at + 8 * n as u64, *word);
        }
        if was_empty && self.irq_ack & irq != 0 {
            let cfg = self.irq_cfg[if pri { 2 } else { 1 }];
            self.interrupt(line, cfg);
        }
    }

    /// Records `fail` (layouts of 7.3.2 to 7.3.16). Returns what the device sees.
    pub(super) fn record(&mut self, fail: Fail, sid: u32, ssid: Option<u32>, iova: u64, write: bool) -> Refused {
        self.stats.faults += 1;
        if fail.silent {
            return Refused::Aborted;
        }
        let reason = fail.reason;
        // A stream id out of range is recorded only with CR2.RECINVSID (6.3.11).
        if reason == Reason::BAD_STREAMID && self.cr2 & 2 == 0 {
            return Refused::Fault(reason);
        }
        let mut words = [u64::from(reason.0) | u64::from(sid) << 32, 0, 0, 0];
        if let Some(ssid) = ssid {
            words[0] |= 1 << 11 | u64::from(ssid) << 12;
        }
        let rnw = u64::from(!write) << 35;
        match reason.0 {
            0x03 | 0x09 => words[3] = fail.fetch & 0x000f_ffff_ffff_fff8,
            0x0b | 0x10..=0x13 => {
                words[1] = rnw | u64::from(fail.s2) << 39 | u64::from(fail.class) << 40;
                words[2] = iova;
                words[3] = if reason.0 == 0x0b {
                    fail.fetch & 0x000f_ffff_ffff_fff8
                } else {
                    fail.ipa & 0x000f_ffff_ffff_f000
                };
            }
            _ => {}
        }
        let mut refused = Refused::Fault(reason);
        if fail.stall && matches!(reason.0, 0x10..=0x13) {
            let stag = self.next_stag;
            self.next_stag = self.next_stag.wrapping_add(1);
            words[1] |= 1 << 31 | u64::from(stag);
            refused = Refused::Stalled(stag);
        }
        self.produce(false, &words);
        refused
    }

    /// A page request from a device: flags last, write, read from bit 0 up as L 2, W 1, R 0 (chapter 8).
    pub(super) fn page_request(&mut self, sid: u32, ssid: Option<u32>, iova: u64, group: u16, last: bool, write: bool) {
        // Entry of 8.1: SID 31:0, SSID 51:32, SSID valid 63, LAST 62, W 61, R 60, X 59, priv 58; PRGI 8:0, address 63:12.
        let mut word = u64::from(sid) | 1 << 60 | u64::from(write) << 61 | u64::from(last) << 62;
        if let Some(ssid) = ssid {
            word |= u64::from(ssid & 0xf_ffff) << 32 | 1 << 63;
        }
        self.produce(true, &[word, iova & !0xfff | u64::from(group & 0x1ff)]);
    }
}
