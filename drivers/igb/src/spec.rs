//! Registers of the Intel 82576, "82576EB Gigabit Ethernet Controller Datasheet" section 8. Numbers only.

/// Offset in BAR 0.
pub type Reg = u64;

/// Section 8.2.1.
pub const CTRL: Reg = 0x0000;
pub mod ctrl {
    /// Stop issuing requests; STATUS shows when none is under way (section 5.2.3.3).
    pub const MASTER_DISABLE: u32 = 1 << 2;
    pub const SET_LINK_UP: u32 = 1 << 6;
    pub const RESET: u32 = 1 << 26;
    pub const DEVICE_RESET: u32 = 1 << 29;
    pub const PHY_RESET: u32 = 1 << 31;
    /// Bits that clear themselves.
    pub const ACTIONS: u32 = RESET | DEVICE_RESET | PHY_RESET;
}
/// Section 8.2.2.
pub const STATUS: Reg = 0x0008;
pub mod status {
    pub const LINK_UP: u32 = 1 << 1;
    /// Virtual functions are switched on.
    pub const IOV: u32 = 1 << 18;
    pub const MASTER_ENABLED: u32 = 1 << 19;
}
/// Section 8.2.3.
pub const CTRL_EXT: Reg = 0x0018;
pub mod ctrl_ext {
    /// Bits that clear themselves: ASDCHK, EE_RST.
    pub const ACTIONS: u32 = 1 << 12 | 1 << 13;
}
/// Section 8.2.4: access to the PHY.
pub const MDIC: Reg = 0x0020;
pub mod mdic {
    pub const WRITE: u32 = 1 << 26;
    pub const READ: u32 = 2 << 26;
    /// The PHY inside has address 1.
    pub const PHY: u32 = 1 << 21;
    pub const READY: u32 = 1 << 28;
    pub const ERROR: u32 = 1 << 30;
}
/// Section 8.10.1.
pub const RCTL: Reg = 0x0100;
/// Section 8.12.1.
pub const TCTL: Reg = 0x0400;
/// Bit 1 of RCTL and of TCTL.
pub const ENABLE: u32 = 1 << 1;

/// Section 8.8. The addresses below 0x100 are the ones every implementation answers.
pub const ICS: Reg = 0x00c8;
pub const IMS: Reg = 0x00d0;
pub const IMC: Reg = 0x00d8;
pub const IAM: Reg = 0x00e0;
pub const GPIE: Reg = 0x1514;
pub const EICS: Reg = 0x1520;
pub const EIMS: Reg = 0x1524;
pub const EIMC: Reg = 0x1528;
pub const EIAC: Reg = 0x152c;
pub const EIAM: Reg = 0x1530;
/// Causes that make a program look at link and rings: TXDW, LSC, RXDW.
pub const LOOK: u32 = 1 << 0 | 1 << 2 | 1 << 7;

/// Registers of PHY address 1 (IEEE 802.3 clause 22).
pub mod phy {
    pub const CONTROL: u32 = 0;
    pub const ADVERTISE: u32 = 4;
    pub const CONTROL_1000: u32 = 9;
    pub const CONTROL_RESTART: u16 = 1 << 9;
    pub const CONTROL_NEGOTIATE: u16 = 1 << 12;
    pub const CONTROL_RESET: u16 = 1 << 15;
    /// Negotiate, full duplex, 1000 Mbit/s: what the PHY has after a reset.
    pub const CONTROL_DEFAULT: u16 = CONTROL_NEGOTIATE | 1 << 8 | 1 << 6;
}

/// Queues of each direction.
pub const QUEUES: usize = 16;
/// Bytes of a descriptor.
pub const DESCRIPTOR: u32 = 16;
/// Bit 25 of RXDCTL and of TXDCTL.
pub const QUEUE_ENABLE: u32 = 1 << 25;

/// Receive queue n (section 8.10).
pub const fn rx(queue: usize, register: Reg) -> Reg {
    0xc000 + 0x40 * queue as u64 + register
}
/// Transmit queue n (section 8.12).
pub const fn tx(queue: usize, register: Reg) -> Reg {
    0xe000 + 0x40 * queue as u64 + register
}
/// Registers of a queue, relative to its first.
pub mod queue {
    use super::Reg;
    pub const BASE_LOW: Reg = 0x00;
    pub const BASE_HIGH: Reg = 0x04;
    pub const LENGTH: Reg = 0x08;
    /// SRRCTL; receive only.
    pub const SPLIT: Reg = 0x0c;
    pub const HEAD: Reg = 0x10;
    pub const TAIL: Reg = 0x18;
    /// RXDCTL, TXDCTL.
    pub const CONTROL: Reg = 0x28;
    /// TDWBAL and TDWBAH: where the head is written back; transmit only.
    pub const WRITE_BACK_LOW: Reg = 0x38;
    pub const WRITE_BACK_HIGH: Reg = 0x3c;
}

/// `count` registers, 4 bytes apart.
#[derive(Clone, Copy)]
pub struct Run {
    pub first: Reg,
    pub count: u64,
}
const fn one(first: Reg) -> Run {
    Run { first, count: 1 }
}
const fn run(first: Reg, count: u64) -> Run {
    Run { first, count }
}

/// All registers of a list of runs, in order.
pub fn each(runs: &'static [Run]) -> impl Iterator<Item = Reg> {
    runs.iter().flat_map(|run| (0..run.count).map(|index| run.first + 4 * index))
}
/// How many registers a list of runs has.
pub const fn total(runs: &[Run]) -> usize {
    let (mut sum, mut index) = (0, 0);
    while index < runs.len() {
        sum += runs[index].count as usize;
        index += 1;
    }
    sum
}

/// Plain settings: what is read is what was written. Section 3 of the saved state, so the order is part of its format.
pub const GENERAL: &[Run] = &[
    one(0x2404),     // RXPBS
    one(0x3404),     // TXPBS
    one(0x0028),     // FCAL
    one(0x002c),     // FCAH
    one(0x0030),     // FCT
    one(0x0170),     // FCTTV
    one(0x2160),     // FCRTL0
    one(0x2168),     // FCRTH0
    one(0x2460),     // FCRTV
    one(0x0038),     // VET
    one(0x0e00),     // LEDCTL
    one(0x0404),     // TCTL_EXT
    one(0x0410),     // TIPG
    one(0x3590),     // DTXCTL
    one(0x5000),     // RXCSUM
    one(0x5004),     // RLPML
    one(0x5008),     // RFCTL
    run(0x5cb0, 8),  // ETQF
    run(0x5c80, 10), // RSSRK
    run(0x5c00, 32), // RETA
    one(0x5818),     // MRQC
    one(0x581c),     // VT_CTL
    one(0x0c8c),     // VFRE
    one(0x0c90),     // VFTE
    one(0x2408),     // QDE
    one(0x3500),     // DTXSWC
    one(0x5af0),     // RPLOLR
    run(0x5ad0, 8),  // VMOLR
    run(0x3700, 8),  // VMVIR
    run(0x5d00, 32), // VLVF
];

/// Address filters. Section 4 of the saved state.
pub const FILTERS: &[Run] = &[
    run(0x5400, 32),  // RAL, RAH 0..=15
    run(0x54e0, 16),  // RAL, RAH 16..=23
    run(0x5200, 128), // MTA
    run(0x5600, 128), // VFTA
];

/// Where interrupts go. Section 5 of the saved state, behind the masks.
pub const ROUTES: &[Run] = &[
    run(0x1700, 8),  // IVAR
    one(0x1740),     // IVAR_MISC
    run(0x1680, 25), // EITR
];
