//! What a modelled unit can do, how it caches, and how it misbehaves.

/// Capabilities, as the fields of CAP (10.4.2) and ECAP (10.4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// CAP.ND: 2^(4 + 2 nd) domain ids.
    pub nd: u8,
    /// CAP.RWBF: tables are visible only after a write-buffer flush or an invalidation.
    pub rwbf: bool,
    /// CAP.PLMR and CAP.PHMR: protected memory regions.
    pub protected_memory: bool,
    /// CAP.CM: not-present and faulty entries are cached.
    pub caching_mode: bool,
    /// CAP.SAGAW: bit 1 three levels, bit 2 four, bit 3 five.
    pub sagaw: u8,
    /// CAP.MGAW plus one: width of an iova.
    pub mgaw: u8,
    /// CAP.SSLPS: bit 0 2 MiB, bit 1 1 GiB.
    pub sslps: u8,
    /// CAP.PSI: page-selective invalidation.
    pub psi: bool,
    /// CAP.NFR plus one: fault records.
    pub fault_records: u8,
    /// CAP.MAMV: largest address mask of an invalidation.
    pub mamv: u8,
    /// CAP.DWD and CAP.DRD: an invalidation can drain.
    pub drain: bool,
    /// CAP.FS1GP: first stage with 1 GiB pages.
    pub fs1gp: bool,
    /// CAP.FS5LP: first stage with five levels.
    pub fs5lp: bool,
    /// CAP.ESRTPS: setting the root pointer flushes every cache.
    pub esrtps: bool,
    /// ECAP.C: structures (and legacy tables) are snooped.
    pub coherent: bool,
    /// ECAP.QI.
    pub qi: bool,
    /// ECAP.DT.
    pub device_tlb: bool,
    /// ECAP.IR.
    pub interrupt_remap: bool,
    /// ECAP.PT.
    pub pass_through: bool,
    /// ECAP.SC.
    pub snoop_control: bool,
    /// ECAP.SRS.
    pub supervisor: bool,
    /// ECAP.PASID with ECAP.PSS plus one bits; 0: none.
    pub pasid_bits: u8,
    /// ECAP.SMTS.
    pub scalable: bool,
    /// ECAP.SSADS.
    pub ssads: bool,
    /// ECAP.SSTS.
    pub second_stage: bool,
    /// ECAP.FSTS.
    pub first_stage: bool,
    /// ECAP.SMPWC.
    pub smpwc: bool,
    /// ECAP.RPS: the context entry has a RID_PASID.
    pub rid_pasid: bool,
    /// ECAP.ADMS: abort-DMA mode.
    pub abort_mode: bool,
    /// Host address width.
    pub haw: u8,
    /// ECAP.IRO in bytes.
    pub iotlb_offset: u16,
    /// CAP.FRO in bytes.
    pub fault_offset: u16,
}

impl Caps {
    /// A legacy unit with four levels that does everything well.
    pub const fn legacy() -> Self {
        Self {
            nd: 6,
            rwbf: false,
            protected_memory: true,
            caching_mode: false,
            sagaw: 0b0110,
            mgaw: 48,
            sslps: 3,
            psi: true,
            fault_records: 8,
            mamv: 18,
            drain: true,
            fs1gp: true,
            fs5lp: false,
            esrtps: false,
            coherent: true,
            qi: true,
            device_tlb: false,
            interrupt_remap: true,
            pass_through: true,
            snoop_control: true,
            supervisor: false,
            pasid_bits: 0,
            scalable: false,
            ssads: false,
            second_stage: false,
            first_stage: false,
            smpwc: false,
            rid_pasid: false,
            abort_mode: false,
            haw: 46,
            iotlb_offset: 0x300,
            fault_offset: 0x220,
        }
    }
    /// A legacy unit with three levels only.
    pub const fn legacy39() -> Self {
        Self { sagaw: 0b0010, mgaw: 39, haw: 39, ..Self::legacy() }
    }
    /// Scalable mode, second stage, with hardware dirty tracking.
    pub const fn scalable_ss() -> Self {
        Self {
            scalable: true,
            second_stage: true,
            ssads: true,
            smpwc: true,
            pasid_bits: 20,
            rid_pasid: true,
            ..Self::legacy()
        }
    }
    /// Scalable mode, first stage, snooped walks.
    pub const fn scalable_fs() -> Self {
        Self { first_stage: true, second_stage: false, ssads: false, ..Self::scalable_ss() }
    }
    /// The emulation of QEMU 10.0 with `x-scalable-mode=on,x-flts=on`: CAP 01d2008c222f0606, ECAP 880000000f42 with
    /// interrupt remapping off.
    pub const fn qemu_fs() -> Self {
        Self {
            fault_records: 1,
            coherent: false,
            smpwc: false,
            snoop_control: false,
            pasid_bits: 0,
            rid_pasid: false,
            protected_memory: false,
            interrupt_remap: false,
            iotlb_offset: 0xf0,
            ..Self::scalable_fs()
        }
    }
    /// CAP as the register shows it.
    pub fn cap(&self) -> u64 {
        let bit = |at: u32, on: bool| u64::from(on) << at;
        u64::from(self.nd & 7)
            | bit(4, self.rwbf)
            | bit(5, self.protected_memory)
            | bit(6, self.protected_memory)
            | bit(7, self.caching_mode)
            | u64::from(self.sagaw & 31) << 8
            | u64::from((self.mgaw - 1) & 63) << 16
            | u64::from(self.fault_offset / 16) << 24
            | u64::from(self.sslps & 3) << 34
            | bit(39, self.psi)
            | u64::from(self.fault_records - 1) << 40
            | u64::from(self.mamv & 63) << 48
            | bit(54, self.drain)
            | bit(55, self.drain)
            | bit(56, self.fs1gp && self.first_stage)
            | bit(60, self.fs5lp && self.first_stage)
            | bit(63, self.esrtps)
    }
    /// ECAP as the register shows it.
    pub fn ecap(&self) -> u64 {
        let bit = |at: u32, on: bool| u64::from(on) << at;
        bit(0, self.coherent)
            | bit(1, self.qi)
            | bit(2, self.device_tlb)
            | bit(3, self.interrupt_remap)
            | bit(6, self.pass_through)
            | bit(7, self.snoop_control)
            | u64::from(self.iotlb_offset / 16) << 8
            | bit(31, self.supervisor)
            | u64::from(self.pasid_bits.saturating_sub(1) & 31) << 35
            | bit(40, self.pasid_bits > 0)
            | bit(43, self.scalable)
            | bit(45, self.ssads)
            | bit(46, self.second_stage)
            | bit(47, self.first_stage)
            | bit(48, self.smpwc)
            | bit(49, self.rid_pasid)
            | bit(52, self.abort_mode)
    }
    /// Domain ids that the unit can tell apart.
    pub const fn domain_ids(&self) -> u32 {
        1 << (4 + 2 * self.nd)
    }
}

/// How long cached entries live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Nothing is cached: every access walks.
    Exact,
    /// Everything is kept until an invalidation that covers it has completed.
    KeepAll,
    /// As `KeepAll`, and entries are prefetched, evicted and picked at random, cache lines become visible on their own,
    /// and status bits come late.
    Adversarial(u64),
}

/// Ways in which real implementations differ from the specification.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quirks {
    /// First-stage A/D of QEMU: the update of an entry is skipped if any of the wanted bits is already set, and a TLB
    /// hit never updates. A/D updates through walks that are not snooped work.
    pub fs_ad: bool,
    /// The A/D update of QEMU is a plain store of what was read before: see [`super::Vtd::begin_dma`].
    pub ad_store: bool,
    /// QEMU keeps the PASID entry with the cached context entry: only a context-cache invalidation drops it.
    pub pasid_in_context: bool,
    /// Faults of a source with a pending record are not recorded again.
    pub compress_faults: bool,
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
    /// Ticks until a command's status bit shows.
    pub status_delay: u32,
}

impl Config {
    /// Those capabilities with `KeepAll` and no quirk.
    pub const fn new(caps: Caps) -> Self {
        Self {
            caps,
            policy: Policy::KeepAll,
            quirks: Quirks { fs_ad: false, ad_store: false, pasid_in_context: false, compress_faults: false },
            status_delay: 1,
        }
    }
    /// With another cache policy.
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }
    /// With those quirks.
    pub const fn quirks(mut self, quirks: Quirks) -> Self {
        self.quirks = quirks;
        self
    }
}

/// Misbehaviour on demand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Inject {
    /// GSTS bits that never change.
    pub gsts_stuck: u32,
    /// The queue does not advance.
    pub queue_stalled: bool,
    /// The nth descriptor from now (1: the next) is refused with IQE although it is valid; once.
    pub refuse_in: u32,
    /// Every descriptor is refused.
    pub refuse_all: bool,
    /// The nth wait descriptor from now meets a device-TLB time-out (ITE): it never writes its status; once.
    pub time_out_in: u32,
    /// The nth wait descriptor from now raises ICE as well; once.
    pub completion_error_in: u32,
    /// Wait descriptors complete without writing their status.
    pub mute_status: bool,
    /// CCMD.ICC and IOTLB.IVT stay set.
    pub command_stuck: bool,
    /// The unit has left the bus: reads are all ones, writes are lost, nothing is processed.
    pub dead: bool,
    /// Red twin: descriptors of type n are accepted and ignored if bit n is set.
    pub swallow: u16,
}
