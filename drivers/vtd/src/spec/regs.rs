//! Registers (section 11.4): offsets and bit fields.

use bitfield_struct::bitfield;

/// Version, 32 bits (11.4.1).
pub const VER: usize = 0x00;
/// Capabilities, 64 bits (11.4.2).
pub const CAP: usize = 0x08;
/// Extended capabilities, 64 bits (11.4.3).
pub const ECAP: usize = 0x10;
/// Global command, 32 bits (11.4.4.1).
pub const GCMD: usize = 0x18;
/// Global status, 32 bits (11.4.4.2).
pub const GSTS: usize = 0x1c;
/// Root table address, 64 bits (11.4.5).
pub const RTADDR: usize = 0x20;
/// Fault status, 32 bits (11.4.7.1).
pub const FSTS: usize = 0x34;
/// Fault event control, 32 bits (11.4.7.2).
pub const FECTL: usize = 0x38;
/// Fault event data, 32 bits.
pub const FEDATA: usize = 0x3c;
/// Fault event address, 32 bits.
pub const FEADDR: usize = 0x40;
/// Fault event upper address, 32 bits.
pub const FEUADDR: usize = 0x44;
/// Protected memory enable, 32 bits (11.4.8.1).
pub const PMEN: usize = 0x64;
/// Invalidation queue head, 64 bits (11.4.9.1).
pub const IQH: usize = 0x80;
/// Invalidation queue tail, 64 bits (11.4.9.2).
pub const IQT: usize = 0x88;
/// Invalidation queue address, 64 bits (11.4.9.3).
pub const IQA: usize = 0x90;

/// Capabilities (11.4.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Cap {
    /// ND (2:0): 2^(4 + 2 ND) domain ids; 7 is reserved.
    #[bits(3)]
    pub nd: u8,
    /// AFL (3).
    pub advanced_fault_log: bool,
    /// RWBF (4): a write buffer must be flushed by command.
    pub rwbf: bool,
    /// PLMR (5): protected low memory region.
    pub plmr: bool,
    /// PHMR (6): protected high memory region.
    pub phmr: bool,
    /// CM (7): caching mode; absent entries may be cached.
    pub cm: bool,
    /// SAGAW (12:8): bit 1 = 3 levels, bit 2 = 4, bit 3 = 5.
    #[bits(5)]
    pub sagaw: u8,
    #[bits(3)]
    __: u8,
    /// MGAW (21:16): widest guest address, minus one.
    #[bits(6)]
    pub mgaw: u8,
    /// ZLR (22): zero-length reads of write-only pages.
    pub zlr: bool,
    /// DEP (23).
    __: bool,
    /// FRO (33:24): fault records, offset in 16 bytes.
    #[bits(10)]
    pub fro: u16,
    /// SSLPS (37:34): bit 0 = 2 MiB second-stage pages, bit 1 = 1 GiB.
    #[bits(4)]
    pub sslps: u8,
    __: bool,
    /// PSI (39): page-selective invalidation.
    pub psi: bool,
    /// NFR (47:40): fault records, minus one.
    pub nfr: u8,
    /// MAMV (53:48): largest address mask.
    #[bits(6)]
    pub mamv: u8,
    /// DWD (54): write draining.
    pub dwd: bool,
    /// DRD (55): read draining.
    pub drd: bool,
    /// FS1GP (56): 1 GiB first-stage pages.
    pub fs1gp: bool,
    #[bits(2)]
    __: u8,
    /// PI (59): posted interrupts.
    pub pi: bool,
    /// FS5LP (60): 5-level first stage.
    pub fs5lp: bool,
    /// ECMDS (61).
    pub ecmds: bool,
    /// ESIRTPS (62).
    pub esirtps: bool,
    /// ESRTPS (63): setting the root pointer invalidates by itself.
    pub esrtps: bool,
}

/// Extended capabilities (11.4.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Ecap {
    /// C (0): walks of root, context and second-stage tables are snooped.
    pub coherent: bool,
    /// QI (1): queued invalidation.
    pub qi: bool,
    /// DT (2): device TLBs.
    pub dt: bool,
    /// IR (3): interrupt remapping.
    pub ir: bool,
    /// EIM (4).
    pub eim: bool,
    __: bool,
    /// PT (6): pass-through.
    pub pt: bool,
    /// SC (7): snoop control.
    pub sc: bool,
    /// IRO (17:8): invalidation registers, offset in 16 bytes.
    #[bits(10)]
    pub iro: u16,
    #[bits(2)]
    __: u8,
    /// MHMV (23:20).
    #[bits(4)]
    pub mhmv: u8,
    #[bits(2)]
    __: u8,
    /// NEST (26).
    pub nest: bool,
    #[bits(2)]
    __: u8,
    /// PRS (29): page requests.
    pub prs: bool,
    /// ERS (30).
    pub ers: bool,
    /// SRS (31): supervisor requests.
    pub srs: bool,
    #[bits(3)]
    __: u8,
    /// PSS (39:35): PASID width minus one.
    #[bits(5)]
    pub pss: u8,
    /// PASID (40): requests with PASID.
    pub pasid: bool,
    #[bits(2)]
    __: u8,
    /// SMTS (43): scalable mode.
    pub smts: bool,
    /// VCS (44).
    pub vcs: bool,
    /// SSADS (45): accessed and dirty bits in the second stage.
    pub ssads: bool,
    /// SSTS (46): second stage in scalable mode.
    pub ssts: bool,
    /// FSTS (47): first stage.
    pub fsts: bool,
    /// SMPWC (48): scalable-mode walks can be snooped.
    pub smpwc: bool,
    /// RPS (49): RID_PASID.
    pub rps: bool,
    #[bits(2)]
    __: u8,
    /// ADMS (52): abort-DMA mode.
    pub adms: bool,
    #[bits(11)]
    __: u16,
}

/// Bits shared by the global command and status registers (11.4.4): a command bit and its status bit have one place.
pub mod global {
    /// TE / TES (31): translation.
    pub const TRANSLATION: u32 = 1 << 31;
    /// SRTP / RTPS (30): root table pointer set. One-shot.
    pub const ROOT_POINTER: u32 = 1 << 30;
    /// WBF / WBFS (27): write buffer flush. One-shot; the status bit falls when done.
    pub const WRITE_BUFFER: u32 = 1 << 27;
    /// QIE / QIES (26): queued invalidation.
    pub const QUEUE: u32 = 1 << 26;
    /// IRE / IRES (25): interrupt remapping.
    pub const INTERRUPTS: u32 = 1 << 25;
    /// CFI / CFIS (23): compatibility-format interrupts pass.
    pub const COMPATIBILITY: u32 = 1 << 23;
    /// AFL / AFLS (28): advanced fault log.
    pub const FAULT_LOG: u32 = 1 << 28;
    /// What a command must repeat from the status so that nothing is switched off by accident (11.4.4.1).
    pub const LASTING: u32 = TRANSLATION | FAULT_LOG | QUEUE | INTERRUPTS | COMPATIBILITY;
}

/// Root table address (11.4.5).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RootAddress {
    #[bits(10)]
    __: u16,
    /// TTM (11:10).
    #[bits(2)]
    pub mode: u8,
    /// RTA (63:12).
    #[bits(52)]
    pub frame: u64,
}

/// TTM: legacy mode.
pub const TTM_LEGACY: u8 = 0;
/// TTM: scalable mode.
pub const TTM_SCALABLE: u8 = 1;
/// TTM: abort every request (needs ECAP.ADMS).
pub const TTM_ABORT: u8 = 3;

/// Fault status (11.4.7.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct FaultStatus {
    /// PFO (0): a record was lost. Write 1 to clear.
    pub overflow: bool,
    /// PPF (1): a record is pending.
    pub pending: bool,
    #[bits(2)]
    __: u8,
    /// IQE (4): the queue stopped at a bad descriptor. Write 1 to clear.
    pub queue_error: bool,
    /// ICE (5): a device answered an invalidation it was not asked for. Write 1 to clear.
    pub completion_error: bool,
    /// ITE (6): a device did not answer an invalidation. Write 1 to clear.
    pub timeout_error: bool,
    #[bits(1)]
    __: u8,
    /// FRI (15:8): the first record that is pending.
    pub index: u8,
    __: u16,
}

/// FECTL.IM (31): the fault interrupt is masked.
pub const FECTL_MASK: u32 = 1 << 31;
/// PMEN.EPM (31): protected memory regions are wanted.
pub const PMEN_ENABLE: u32 = 1 << 31;
/// PMEN.PRS (0): protected memory regions are on.
pub const PMEN_STATUS: u32 = 1;

/// Invalidation queue address (11.4.9.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct QueueAddress {
    /// QS (2:0): 2^QS pages.
    #[bits(3)]
    pub size: u8,
    #[bits(8)]
    __: u8,
    /// DW (11): 256-bit descriptors.
    pub wide: bool,
    /// IQA (63:12).
    #[bits(52)]
    pub frame: u64,
}
