//! What a modelled AMD unit can do, how it caches, and how it misbehaves.

pub use crate::vtd::Policy;

/// Capabilities, as the fields of the extended feature registers (EFR at 0x30, EFR2 at 0x1a0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// EFR.PreFSup, bit 0: PREFETCH_IOMMU_PAGES.
    pub prefetch: bool,
    /// EFR.PPRSup, bit 1.
    pub ppr: bool,
    /// EFR.XTSup, bit 2: x2APIC destinations.
    pub xt: bool,
    /// EFR.NXSup, bit 3.
    pub nx: bool,
    /// EFR.GTSup, bit 4: guest translation (v2 tables through GCR3).
    pub gt: bool,
    /// EFR.IASup, bit 6: INVALIDATE_IOMMU_ALL.
    pub ia: bool,
    /// EFR.GASup, bit 7: 128-bit interrupt entries.
    pub ga: bool,
    /// EFR.HESup, bit 8.
    pub he: bool,
    /// EFR.HATS, bits 11:10. 0: four levels, 1: five, 2: six, 3: no host translation.
    pub hats: u8,
    /// EFR.GATS, bits 13:12. 0: four levels, 1: five, 2: six.
    pub gats: u8,
    /// EFR.GLXSup, bits 15:14: levels of the GCR3 table, less one.
    pub glx: u8,
    /// EFR.PASmax plus one, bits 36:32; 0: none, shown as 0.
    pub pasid_bits: u8,
    /// EFR.MsiCapMmioSup, bit 46: the MSI registers from 0x158.
    pub msi_mmio: bool,
    /// EFR.GIoSup, bit 48: requests without PASID may use guest tables.
    pub gio: bool,
    /// EFR.HASup, bit 49: accessed bits in host tables.
    pub ha: bool,
    /// EFR.HDSup, bit 52: dirty bits in host tables.
    pub hd: bool,
    /// EFR2.NumIntRemapSup, bits 9:8 = 1: 2048 interrupts for each device instead of 512.
    pub interrupts_2048: bool,
    /// EFR2.HTRangeIgnore, bit 11: 0xfd_0000_0000 to 0xff_ffff_ffff is ordinary.
    pub ht_range_ignore: bool,
    /// IotlbSup of the PCI capability: device TLBs.
    pub iotlb: bool,
    /// Width of a physical address, at most 52.
    pub pa_bits: u8,
}

impl Caps {
    /// Host (v1) tables of up to six levels with hardware dirty tracking, and guest (v2) tables.
    pub const fn full() -> Self {
        Self {
            prefetch: true,
            ppr: false,
            xt: true,
            nx: true,
            gt: true,
            ia: true,
            ga: true,
            he: false,
            hats: 2,
            gats: 1,
            glx: 2,
            pasid_bits: 20,
            msi_mmio: true,
            gio: true,
            ha: true,
            hd: true,
            interrupts_2048: false,
            ht_range_ignore: false,
            iotlb: true,
            pa_bits: 48,
        }
    }
    /// The oldest kind: v1 tables of four levels, no tracking, nothing more.
    pub const fn plain() -> Self {
        Self {
            prefetch: false,
            ppr: false,
            xt: false,
            nx: false,
            gt: false,
            ia: false,
            ga: false,
            he: false,
            hats: 0,
            gats: 0,
            glx: 0,
            pasid_bits: 0,
            msi_mmio: false,
            gio: false,
            ha: false,
            hd: false,
            interrupts_2048: false,
            ht_range_ignore: false,
            iotlb: false,
            pa_bits: 48,
        }
    }
    /// The emulation of QEMU 10: EFR 0x29d3.
    pub const fn qemu() -> Self {
        Self { prefetch: true, ppr: true, gt: true, ia: true, ga: true, he: true, hats: 2, gats: 2, ..Self::plain() }
    }
    /// EFR as the register shows it.
    pub fn efr(&self) -> u64 {
        let bit = |at: u32, on: bool| u64::from(on) << at;
        bit(0, self.prefetch)
            | bit(1, self.ppr)
            | bit(2, self.xt)
            | bit(3, self.nx)
            | bit(4, self.gt)
            | bit(6, self.ia)
            | bit(7, self.ga)
            | bit(8, self.he)
            | u64::from(self.hats & 3) << 10
            | u64::from(self.gats & 3) << 12
            | u64::from(self.glx & 3) << 14
            | u64::from(self.pasid_bits.saturating_sub(1) & 31) << 32
            | bit(46, self.msi_mmio)
            | bit(48, self.gio)
            | bit(49, self.ha)
            | bit(52, self.hd)
    }
    /// EFR2 as the register shows it.
    pub fn efr2(&self) -> u64 {
        u64::from(self.interrupts_2048) << 8 | u64::from(self.ht_range_ignore) << 11
    }
    /// Most levels of a host table; 0: no host translation.
    pub const fn host_levels(&self) -> usize {
        match self.hats {
            0 => 4,
            1 => 5,
            2 => 6,
            _ => 0,
        }
    }
}

/// Ways in which emulations and old parts differ from the specification.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quirks {
    /// Event records are left zero; the tail moves.
    pub empty_events: bool,
    /// The tail of the event log never moves.
    pub event_tail_stuck: bool,
    /// The tail moves one tick before the record is there.
    pub late_events: bool,
    /// The command head shows the size of the buffer after the last command, until the next one is taken.
    pub head_at_wrap: bool,
    /// A device blocked by TV=0 causes no event.
    pub quiet_blocked: bool,
}

impl Quirks {
    /// Those of QEMU 10.0.
    pub const fn qemu() -> Self {
        Self {
            empty_events: false,
            event_tail_stuck: true,
            late_events: false,
            head_at_wrap: true,
            quiet_blocked: true,
        }
    }
}

/// Everything about one unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// What it can do.
    pub caps: Caps,
    /// How it caches.
    pub policy: Policy,
    /// How it deviates.
    pub quirks: Quirks,
    /// Ticks until CmdBufRun and EventLogRun follow the control register.
    pub status_delay: u32,
}

impl Config {
    /// Those capabilities with `KeepAll` and no quirk.
    pub fn new(caps: Caps) -> Self {
        Self { caps, policy: Policy::KeepAll, quirks: Quirks::default(), status_delay: 1 }
    }
    /// With another cache policy.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }
    /// With those quirks.
    pub fn quirks(mut self, quirks: Quirks) -> Self {
        self.quirks = quirks;
        self
    }
}

/// Misbehaviour on demand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Inject {
    /// Status bits (EventLogRun 3, CmdBufRun 4) that never change.
    pub status_stuck: u64,
    /// The command buffer does not advance.
    pub queue_stalled: bool,
    /// The nth command from now (1: the next) is refused as illegal although it is valid; once.
    pub refuse_in: u32,
    /// Every command is refused.
    pub refuse_all: bool,
    /// Reading the nth command from now fails (COMMAND_HARDWARE_ERROR); once.
    pub fetch_error_in: u32,
    /// The nth INVALIDATE_IOTLB_PAGES from now times out; once.
    pub time_out_in: u32,
    /// COMPLETION_WAIT completes without its store.
    pub mute_store: bool,
    /// The unit has left the bus: reads are all ones, writes are lost, nothing is processed.
    pub dead: bool,
    /// Red twin: commands of opcode n are accepted and ignored if bit n is set.
    pub swallow: u16,
}

/// Counts one down; true when it reaches zero.
pub(super) fn counted(n: &mut u32) -> bool {
    if *n == 0 {
        return false;
    }
    *n -= 1;
    *n == 0
}
