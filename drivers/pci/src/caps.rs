//! Capability lists and what is in them.

use crate::config::ConfigSpace;
use crate::spec::{STATUS_CAPABILITIES, acs, cap, express, ext, header};
use alloc::vec::Vec;
use iommu_types::StreamId;

/// One entry of a capability list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability {
    /// Capability id: 8 bits in the old list, 16 in the extended one.
    pub id: u16,
    /// Version; 0 in the old list.
    pub version: u8,
    /// Offset in configuration space.
    pub offset: u16,
}

/// The capability list below 0x100 (PCIe 6.0 section 7.5.1.1.11), and whether it was sound. Each offset is visited once, so a list that
/// loops ends there.
pub fn capabilities(config: &dyn ConfigSpace, at: StreamId) -> (Vec<Capability>, bool) {
    let mut list = Vec::new();
    let status = config.read16(at, header::STATUS);
    if status == 0xffff || status & STATUS_CAPABILITIES == 0 {
        return (list, true);
    }
    let mut visited = [false; 64];
    let mut next = config.read8(at, header::CAPABILITIES) & !3;
    while next != 0 {
        // Bits 1:0 are reserved; entries begin behind the header.
        let seen = visited.get_mut(usize::from(next >> 2));
        let Some(seen) = seen.filter(|seen| !**seen && next >= 0x40) else { return (list, false) };
        *seen = true;
        let head = config.read16(at, next.into());
        if head == 0xffff {
            return (list, false);
        }
        list.push(Capability { id: head & 0xff, version: 0, offset: next.into() });
        next = (head >> 8) as u8 & !3;
    }
    (list, true)
}

/// The list from 0x100 on (section 7.6.3), and whether it was sound.
pub fn extended_capabilities(config: &dyn ConfigSpace, at: StreamId) -> (Vec<Capability>, bool) {
    let mut list = Vec::new();
    let mut visited = [0u32; 32];
    let mut next = 0x100u16;
    loop {
        let head = config.read32(at, next);
        // All zero at 0x100: the list is empty. All ones: no extended space behind this bridge.
        if head == 0 || head == u32::MAX {
            return (list, next == 0x100);
        }
        let bit = 1 << ((next >> 2) & 31);
        let Some(word) = visited.get_mut(usize::from(next >> 7)).filter(|word| **word & bit == 0) else {
            return (list, false);
        };
        *word |= bit;
        list.push(Capability { id: head as u16, version: (head >> 16) as u8 & 15, offset: next });
        next = (head >> 20) as u16 & !3;
        match next {
            0 => return (list, true),
            1..0x100 => return (list, false),
            _ => {}
        }
    }
}

/// Device/port type of the PCI Express capability (section 7.5.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortType {
    /// 0: endpoint.
    Endpoint,
    /// 1: endpoint that needs I/O space.
    LegacyEndpoint,
    /// 4: root port.
    RootPort,
    /// 5: switch port towards the root.
    UpstreamPort,
    /// 6: switch port away from the root.
    DownstreamPort,
    /// 7: bridge to conventional PCI.
    ToPci,
    /// 8: bridge from conventional PCI.
    FromPci,
    /// 9: endpoint integrated in the root complex.
    IntegratedEndpoint,
    /// 10: event collector of the root complex.
    EventCollector,
    /// A value this version does not know.
    Other(u8),
}

/// PCI Express capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Express {
    /// Offset of the capability.
    pub offset: u16,
    /// What it is.
    pub port: PortType,
    /// Function level reset.
    pub flr: bool,
}

impl Express {
    pub(crate) fn read(config: &dyn ConfigSpace, at: StreamId, list: &[Capability]) -> Option<Self> {
        let offset = find(list, cap::EXPRESS.into())?;
        let port = match (config.read16(at, offset + 2) >> 4) & 15 {
            0 => PortType::Endpoint,
            1 => PortType::LegacyEndpoint,
            4 => PortType::RootPort,
            5 => PortType::UpstreamPort,
            6 => PortType::DownstreamPort,
            7 => PortType::ToPci,
            8 => PortType::FromPci,
            9 => PortType::IntegratedEndpoint,
            10 => PortType::EventCollector,
            other => PortType::Other(other as u8),
        };
        let flr = config.read32(at, offset + express::DEVICE_CAP) & express::FLR_CAPABLE != 0;
        Some(Self { offset, port, flr })
    }
}

/// What a function can signal with messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MessageInterrupts {
    /// Offset of the MSI capability.
    pub msi: Option<u16>,
    /// MSI vectors, 1, 2, 4, 8, 16 or 32; 0 without MSI.
    pub msi_vectors: u8,
    /// MSI addresses of 64 bits.
    pub msi_wide: bool,
    /// MSI with a mask per vector.
    pub msi_maskable: bool,
    /// MSI-X.
    pub msix: Option<device_api::MsixTable>,
}

impl MessageInterrupts {
    /// Sections 7.7.1 and 7.7.2.
    pub(crate) fn read(config: &dyn ConfigSpace, at: StreamId, list: &[Capability]) -> Self {
        let mut out = Self::default();
        if let Some(offset) = find(list, cap::MSI.into()) {
            let control = config.read16(at, offset + 2);
            out.msi = Some(offset);
            out.msi_vectors = 1 << ((control >> 1) & 7).min(5);
            out.msi_wide = control & 1 << 7 != 0;
            out.msi_maskable = control & 1 << 8 != 0;
        }
        if let Some(offset) = find(list, cap::MSIX.into()) {
            let table = config.read32(at, offset + 4);
            let pending = config.read32(at, offset + 8);
            // BAR indicators 6 and 7 are reserved: a table that is nowhere.
            if table & 7 < 6 && pending & 7 < 6 {
                out.msix = Some(device_api::MsixTable {
                    capability: offset,
                    vectors: (config.read16(at, offset + 2) & 0x7ff) + 1,
                    bar: (table & 7) as u8,
                    offset: table & !7,
                    pending_bar: (pending & 7) as u8,
                    pending_offset: pending & !7,
                });
            }
        }
        out
    }
}

/// Access control services of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acs {
    /// Offset of the capability.
    pub offset: u16,
    /// What it can do.
    pub capable: u16,
    /// What is switched on.
    pub enabled: u16,
}

impl Acs {
    pub(crate) fn read(config: &dyn ConfigSpace, at: StreamId, list: &[Capability]) -> Option<Self> {
        let offset = find(list, ext::ACS)?;
        let capable = config.read16(at, offset + acs::CAP);
        Some(Self { offset, capable, enabled: config.read16(at, offset + acs::CONTROL) })
    }

    /// Are peers kept apart? A bit the function does not implement is one it has no use for (section 7.7.11.2), so only
    /// implemented ones must be on.
    pub fn isolates(&self) -> bool {
        let wanted = acs::ISOLATION & self.capable;
        self.enabled & wanted == wanted
    }
}

/// Single-root I/O virtualisation (section 9.3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SrIov {
    /// Offset of the capability.
    pub offset: u16,
    /// Virtual functions are switched on.
    pub enabled: bool,
    /// How many can be.
    pub total: u16,
    /// How many are.
    pub count: u16,
    /// Requester id of the first, relative to the physical function.
    pub first: u16,
    /// Distance of the requester ids.
    pub stride: u16,
    /// Device id of the virtual functions; their own configuration space reads 0xffff.
    pub device: u16,
}

impl SrIov {
    pub(crate) fn read(config: &dyn ConfigSpace, at: StreamId, list: &[Capability]) -> Option<Self> {
        let offset = find(list, ext::SRIOV)?;
        Some(Self {
            offset,
            enabled: config.read16(at, offset + 0x08) & 1 != 0,
            total: config.read16(at, offset + 0x0e),
            count: config.read16(at, offset + 0x10),
            first: config.read16(at, offset + 0x14),
            stride: config.read16(at, offset + 0x16),
            device: config.read16(at, offset + 0x1a),
        })
    }

    /// The requester ids of the virtual functions that are switched on, below physical function `pf`.
    pub fn streams(&self, pf: StreamId) -> impl Iterator<Item = StreamId> + use<> {
        let count = if self.enabled { self.count.min(self.total) } else { 0 };
        let (first, stride) = (u32::from(self.first), u32::from(self.stride));
        (0..u32::from(count))
            .map(move |index| pf.id + first + index * stride)
            .take_while(|id| *id <= 0xffff)
            .map(move |id| StreamId { segment: pf.segment, id })
    }
}

/// Offset of the first capability with this id.
pub(crate) fn find(list: &[Capability], id: u16) -> Option<u16> {
    list.iter().find(|entry| entry.id == id).map(|entry| entry.offset)
}
