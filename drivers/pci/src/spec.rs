//! Offsets and bits, PCIe 6.0 section 7. Numbers only.

pub mod header {
    pub const ID: u16 = 0x00;
    pub const COMMAND: u16 = 0x04;
    pub const STATUS: u16 = 0x06;
    pub const CLASS: u16 = 0x08;
    pub const CACHE_LINE: u16 = 0x0c;
    pub const TYPE: u16 = 0x0e;
    pub const BAR0: u16 = 0x10;
    pub const BUSES: u16 = 0x18;
    pub const SUBSYSTEM: u16 = 0x2c;
    pub const ROM: u16 = 0x30;
    pub const CAPABILITIES: u16 = 0x34;
    pub const INTERRUPT: u16 = 0x3c;
}

pub mod command {
    pub const IO: u16 = 1 << 0;
    pub const MEMORY: u16 = 1 << 1;
    pub const BUS_MASTER: u16 = 1 << 2;
    pub const INTX_DISABLE: u16 = 1 << 10;
}

/// Status: the capability pointer is valid.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;

pub mod cap {
    pub const MSI: u8 = 0x05;
    pub const EXPRESS: u8 = 0x10;
    pub const MSIX: u8 = 0x11;
    pub const ADVANCED: u8 = 0x13;
}

pub mod ext {
    pub const ACS: u16 = 0x000d;
    pub const ARI: u16 = 0x000e;
    pub const ATS: u16 = 0x000f;
    pub const SRIOV: u16 = 0x0010;
    pub const PASID: u16 = 0x001b;
}

/// PCI Express capability, section 7.5.3.
pub mod express {
    pub const DEVICE_CAP: u16 = 0x04;
    pub const DEVICE_CONTROL: u16 = 0x08;
    pub const DEVICE_STATUS: u16 = 0x0a;
    pub const LINK_CONTROL: u16 = 0x10;
    pub const DEVICE_CONTROL2: u16 = 0x28;
    pub const FLR_CAPABLE: u32 = 1 << 28;
    pub const INITIATE_FLR: u16 = 1 << 15;
    pub const TRANSACTIONS_PENDING: u16 = 1 << 5;
    pub const ARI_FORWARDING: u16 = 1 << 5;
}

/// Advanced Features for conventional PCI.
pub mod advanced {
    pub const CAP: u16 = 3;
    pub const CONTROL: u16 = 4;
    pub const STATUS: u16 = 5;
    /// TP_CAP and FLR_CAP.
    pub const NEEDED: u8 = 3;
}

/// Access Control Services, section 7.7.11.
pub mod acs {
    pub const CAP: u16 = 4;
    pub const CONTROL: u16 = 6;
    pub const SOURCE_VALIDATION: u16 = 1 << 0;
    pub const REQUEST_REDIRECT: u16 = 1 << 2;
    pub const COMPLETION_REDIRECT: u16 = 1 << 3;
    pub const UPSTREAM_FORWARDING: u16 = 1 << 4;
    /// What keeps peers apart.
    pub const ISOLATION: u16 = SOURCE_VALIDATION | REQUEST_REDIRECT | COMPLETION_REDIRECT | UPSTREAM_FORWARDING;
}
