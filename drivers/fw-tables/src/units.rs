//! What firmware tells of a unit beyond its registers and requesters, per vendor.

use alloc::vec::Vec;
use iommu_types::{Phys, StreamId};

/// An interrupt line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interrupt {
    /// Global system interrupt number; on Arm the INTID.
    pub gsiv: u32,
    /// Edge triggered, else level.
    pub edge: bool,
}

/// What a driver needs to know of its unit, beyond what all have.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Detail {
    /// Nothing more: VT-d's registers say the rest.
    Vtd,
    /// AMD-Vi, from IVHD.
    AmdVi(AmdVi),
    /// SMMUv3.
    SmmuV3(SmmuV3),
    /// SMMUv1 or v2.
    SmmuV2(SmmuV2),
}

/// AMD-Vi, from the IVHD block of the highest type there is for the unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AmdVi {
    /// The IOMMU's own PCI function.
    pub function: StreamId,
    /// Offset of its capability block in its configuration space.
    pub capability: u16,
    /// Block type that was used: 0x10, 0x11 or 0x40.
    pub ivhd: u8,
    /// Bit 0 HtTunEn, 1 PassPW, 2 ResPassPW, 3 Isoc, 4 IotlbSup, 5 Coherent, 6 PreFSup, 7 PPRSup (6 and 7 only in type 0x10).
    pub flags: u8,
    /// Bits 4:0 message number, 12:8 HyperTransport unit id.
    pub info: u16,
    /// Feature reporting (0x10) or attributes (0x11, 0x40).
    pub attributes: u32,
    /// Extended feature register as firmware saw it; not in type 0x10.
    pub efr: Option<u64>,
    /// Second extended feature register; not in type 0x10.
    pub efr2: Option<u64>,
    /// Settings of the devices that no entry names (entry type 1).
    pub rest: crate::DteSettings,
}

/// SMMUv3, from IORT or a device tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SmmuV3 {
    /// 0 generic, 1 HiSilicon Hi161x, 2 Cavium CN99xx.
    pub model: u32,
    /// Table walks are coherent, whatever IDR0.COHACC says.
    pub coherent: bool,
    /// Counts instead of IDR0.HTTU if not 0: 1 access flag, 2 access flag and dirty state, 3 also in table descriptors.
    pub httu_override: u8,
    /// Registers of address translation operations.
    pub vatos: Option<Phys>,
    /// Interrupt lines; none of them if it sends messages.
    pub interrupts: SmmuInterrupts,
}

/// Interrupt lines of an SMMUv3. One that is missing is sent as a message or not at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SmmuInterrupts {
    /// Event queue.
    pub event: Option<Interrupt>,
    /// Page request queue.
    pub pri: Option<Interrupt>,
    /// Global errors.
    pub gerror: Option<Interrupt>,
    /// Completion of CMD_SYNC.
    pub sync: Option<Interrupt>,
    /// All of them on one line (device tree `combined`).
    pub combined: Option<Interrupt>,
}

/// SMMUv1 or v2: known, reported, without a driver here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SmmuV2 {
    /// 0 v1, 1 v2, 2 MMU-400, 3 MMU-500, 4 MMU-401, 5 ThunderX.
    pub model: u32,
    /// Takes broadcast invalidations.
    pub dvm: bool,
    /// Table walks are coherent.
    pub coherent: bool,
    /// Interrupts of global faults.
    pub global: Vec<Interrupt>,
    /// Interrupts of contexts.
    pub contexts: Vec<Interrupt>,
}
