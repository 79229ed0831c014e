//! What a modelled SMMUv3 can do, how it caches, and how it misbehaves.

/// Capabilities, as the fields of IDR0, IDR1, IDR3 and IDR5 (IHI 0070, 6.3.1 to 6.3.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// IDR0.S1P.
    pub s1p: bool,
    /// IDR0.S2P.
    pub s2p: bool,
    /// IDR0.COHACC: structures, queues and tables can be snooped.
    pub cohacc: bool,
    /// IDR0.BTM.
    pub btm: bool,
    /// IDR0.HTTU: 0 none, 1 access flag, 2 access flag and dirty state.
    pub httu: u8,
    /// IDR0.HYP.
    pub hyp: bool,
    /// IDR0.ATS.
    pub ats: bool,
    /// IDR0.NS1ATS: split-stage ATS is not supported.
    pub ns1ats: bool,
    /// IDR0.ASID16.
    pub asid16: bool,
    /// IDR0.MSI.
    pub msi: bool,
    /// IDR0.SEV.
    pub sev: bool,
    /// IDR0.PRI.
    pub pri: bool,
    /// IDR0.VMID16.
    pub vmid16: bool,
    /// IDR0.CD2L.
    pub cd2l: bool,
    /// IDR0.STALL_MODEL: 0 both, 1 no stall, 2 stall only.
    pub stall_model: u8,
    /// IDR0.TERM_MODEL: a terminated transaction always aborts.
    pub term_model: bool,
    /// IDR0.ST_LEVEL: 2-level stream tables.
    pub two_level: bool,
    /// IDR1.SIDSIZE.
    pub sid_bits: u8,
    /// IDR1.SSIDSIZE.
    pub ssid_bits: u8,
    /// IDR1.CMDQS, log2 of entries.
    pub cmdq_log2: u8,
    /// IDR1.EVENTQS, log2 of entries.
    pub eventq_log2: u8,
    /// IDR1.PRIQS, log2 of entries.
    pub priq_log2: u8,
    /// IDR3.HAD.
    pub had: bool,
    /// IDR3.FWB.
    pub fwb: bool,
    /// IDR3.RIL: range invalidation and level hint.
    pub ril: bool,
    /// IDR3.BBML: 0, 1 or 2.
    pub bbml: u8,
    /// IDR5.OAS: 0 to 5 for 32, 36, 40, 42, 44, 48 bits.
    pub oas: u8,
    /// IDR5.GRAN4K, GRAN16K, GRAN64K from bit 0.
    pub granules: u8,
}

impl Caps {
    /// Both stages and everything else that this model knows, 44-bit.
    pub const fn full() -> Self {
        Self {
            s1p: true,
            s2p: true,
            cohacc: true,
            btm: false,
            httu: 2,
            hyp: false,
            ats: true,
            ns1ats: true,
            asid16: true,
            msi: true,
            sev: true,
            pri: true,
            vmid16: true,
            cd2l: true,
            stall_model: 0,
            term_model: false,
            two_level: true,
            sid_bits: 16,
            ssid_bits: 16,
            cmdq_log2: 8,
            eventq_log2: 8,
            priq_log2: 8,
            had: true,
            fwb: false,
            ril: true,
            bbml: 2,
            oas: 4,
            granules: 7,
        }
    }
    /// A first implementation (3.0): no hardware update, no range, no level change without break-before-make.
    pub const fn v30() -> Self {
        Self { httu: 0, ril: false, bbml: 0, had: false, ..Self::full() }
    }
    /// The emulation of QEMU 10 with both stages: IDR0 0d44101b, IDR1 02730010, IDR3 1414, IDR5 74.
    pub const fn qemu() -> Self {
        Self::from_idr(0x0d44_101b, 0x0273_0010, 0x1414, 0x74)
    }
    /// From register values.
    pub const fn from_idr(idr0: u32, idr1: u32, idr3: u32, idr5: u32) -> Self {
        macro_rules! f {
            ($word:expr, $msb:expr, $lsb:expr) => {
                ($word >> $lsb & ((1 << ($msb - $lsb + 1)) - 1)) as u8
            };
        }
        Self {
            s2p: f!(idr0, 0, 0) == 1,
            s1p: f!(idr0, 1, 1) == 1,
            cohacc: f!(idr0, 4, 4) == 1,
            btm: f!(idr0, 5, 5) == 1,
            httu: f!(idr0, 7, 6),
            hyp: f!(idr0, 9, 9) == 1,
            ats: f!(idr0, 10, 10) == 1,
            ns1ats: f!(idr0, 11, 11) == 1,
            asid16: f!(idr0, 12, 12) == 1,
            msi: f!(idr0, 13, 13) == 1,
            sev: f!(idr0, 14, 14) == 1,
            pri: f!(idr0, 16, 16) == 1,
            vmid16: f!(idr0, 18, 18) == 1,
            cd2l: f!(idr0, 19, 19) == 1,
            stall_model: f!(idr0, 25, 24),
            term_model: f!(idr0, 26, 26) == 1,
            two_level: f!(idr0, 28, 27) == 1,
            sid_bits: f!(idr1, 5, 0),
            ssid_bits: f!(idr1, 10, 6),
            priq_log2: f!(idr1, 15, 11),
            eventq_log2: f!(idr1, 20, 16),
            cmdq_log2: f!(idr1, 25, 21),
            had: f!(idr3, 2, 2) == 1,
            fwb: f!(idr3, 8, 8) == 1,
            ril: f!(idr3, 10, 10) == 1,
            bbml: f!(idr3, 12, 11),
            oas: f!(idr5, 2, 0),
            granules: f!(idr5, 6, 4),
        }
    }
    /// IDR0: AArch64 tables, little endian.
    pub fn idr0(&self) -> u32 {
        let bit = |at: u32, on: bool| u32::from(on) << at;
        bit(0, self.s2p)
            | bit(1, self.s1p)
            | 2 << 2
            | bit(4, self.cohacc)
            | bit(5, self.btm)
            | u32::from(self.httu & 3) << 6
            | bit(9, self.hyp)
            | bit(10, self.ats)
            | bit(11, self.ns1ats)
            | bit(12, self.asid16)
            | bit(13, self.msi)
            | bit(14, self.sev)
            | bit(16, self.pri)
            | bit(18, self.vmid16)
            | bit(19, self.cd2l)
            | 2 << 21
            | u32::from(self.stall_model & 3) << 24
            | bit(26, self.term_model)
            | bit(27, self.two_level)
    }
    /// IDR1.
    pub fn idr1(&self) -> u32 {
        u32::from(self.sid_bits & 63)
            | u32::from(self.ssid_bits & 31) << 6
            | u32::from(self.priq_log2 & 31) << 11
            | u32::from(self.eventq_log2 & 31) << 16
            | u32::from(self.cmdq_log2 & 31) << 21
    }
    /// IDR3.
    pub fn idr3(&self) -> u32 {
        let bit = |at: u32, on: bool| u32::from(on) << at;
        bit(2, self.had) | bit(4, self.s2p) | bit(8, self.fwb) | bit(10, self.ril) | u32::from(self.bbml & 3) << 11
    }
    /// IDR5.
    pub fn idr5(&self) -> u32 {
        u32::from(self.oas & 7) | u32::from(self.granules & 7) << 4
    }
    /// Width of an output address.
    pub fn oas_bits(&self) -> u32 {
        size_bits(self.oas)
    }
}

/// Encoding of OAS, IPS and S2PS.
pub(super) fn size_bits(code: u8) -> u32 {
    [32, 36, 40, 42, 44, 48, 52, 52][usize::from(code & 7)]
}

/// How long cached entries live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Nothing is cached: every access walks.
    Exact,
    /// Everything is kept until an invalidation that covers it was followed by a completed CMD_SYNC.
    KeepAll,
    /// As `KeepAll`, and entries are prefetched and evicted at random, cache lines become visible on their own.
    Adversarial(u64),
}

/// Everything about one unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// What it can do.
    pub caps: Caps,
    /// How it caches.
    pub policy: Policy,
    /// A structure may be fetched in parts and in any order (3.21.3): every mix of old and new words counts.
    pub split_fetch: bool,
    /// Ticks until CR0ACK, IRQ_CTRLACK and GBPA.Update follow a write.
    pub ack_delay: u32,
    /// GBPA after reset: 0x1000 bypass, 0x10_1000 abort.
    pub gbpa: u32,
}

impl Config {
    /// Those capabilities with `KeepAll`.
    pub const fn new(caps: Caps) -> Self {
        Self { caps, policy: Policy::KeepAll, split_fetch: true, ack_delay: 1, gbpa: 0x1000 }
    }
    /// With another cache policy.
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }
}

/// Misbehaviour on demand.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Inject {
    /// CR0ACK bits that never change.
    pub cr0_stuck: u32,
    /// GBPA.Update stays set.
    pub gbpa_stuck: bool,
    /// The command queue does not advance.
    pub queue_stalled: bool,
    /// The nth command from now (1: the next) is refused with CERROR_ILL although it is valid; once.
    pub refuse_in: u32,
    /// Every command is refused with CERROR_ILL.
    pub refuse_all: bool,
    /// The nth command from now meets CERROR_ABT; once.
    pub abort_in: u32,
    /// The nth CMD_SYNC from now finds that an ATC_INV before it timed out; once.
    pub atc_time_out_in: u32,
    /// CMD_SYNC completes without its MSI or interrupt.
    pub mute_sync: bool,
    /// The unit has left the bus: reads are all ones, writes are lost.
    pub dead: bool,
    /// Red twin: commands of opcode n are accepted and ignored if bit n is set.
    pub swallow: u128,
}
