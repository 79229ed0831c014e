//! Configuration space (ECAM windows) and BARs for the `pci` crate.

use super::windows;
use alloc::vec::Vec;
use arch_x86_64::mmio::Window;
use arch_x86_64::port;
use device_api::{BarKind, Width};
use fw_tables::EcamWindow;
use iommu_types::{Phys, StreamId};
use pci::{BarSpace, ConfigSpace};
use spin::RwLock;

/// Configuration space through memory (PCIe 6.0 section 7.2.2): 4 KiB per function.
pub struct Ecam {
    windows: Vec<(EcamWindow, Window)>,
}

impl Ecam {
    /// Maps the windows; one that cannot be mapped is reported and left out.
    pub fn new(list: &[EcamWindow]) -> Self {
        let mut mapped = Vec::new();
        for w in list {
            let (first, last) = w.span();
            match windows::map(first.0, (last.0 - first.0 + 1) as usize) {
                Some(window) => mapped.push((*w, window)),
                None => log::error!("pci: configuration space at {first:?} cannot be mapped"),
            }
        }
        Self { windows: mapped }
    }
    fn at(&self, at: StreamId, offset: u16) -> Option<(Window, usize)> {
        let (e, window) = self
            .windows
            .iter()
            .find(|(e, _)| e.segment == at.segment && (e.first_bus..=e.last_bus).contains(&at.bus()))?;
        let bus = usize::from(at.bus() - e.first_bus);
        (offset < 4096).then_some((*window, bus << 20 | usize::from(at.devfn()) << 12 | usize::from(offset)))
    }
}

impl ConfigSpace for Ecam {
    fn read8(&self, at: StreamId, offset: u16) -> u8 {
        self.at(at, offset).map_or(u8::MAX, |(w, o)| w.r8(o))
    }
    fn read16(&self, at: StreamId, offset: u16) -> u16 {
        self.at(at, offset & !1).map_or(u16::MAX, |(w, o)| w.r16(o))
    }
    fn read32(&self, at: StreamId, offset: u16) -> u32 {
        self.at(at, offset & !3).map_or(u32::MAX, |(w, o)| w.r32(o))
    }
    fn write8(&self, at: StreamId, offset: u16, value: u8) {
        if let Some((w, o)) = self.at(at, offset) {
            w.w8(o, value);
        }
    }
    fn write16(&self, at: StreamId, offset: u16, value: u16) {
        if let Some((w, o)) = self.at(at, offset & !1) {
            w.w16(o, value);
        }
    }
    fn write32(&self, at: StreamId, offset: u16, value: u32) {
        if let Some((w, o)) = self.at(at, offset & !3) {
            w.w32(o, value);
        }
    }
}

/// Registers behind BARs. Windows are mapped when they are first touched, 64 KiB at a time.
#[derive(Default)]
pub struct Bars {
    chunks: RwLock<Vec<(u64, Window)>>,
}

const CHUNK: u64 = 64 << 10;

impl Bars {
    fn window(&self, at: u64) -> Option<(Window, usize)> {
        let find = |list: &[(u64, Window)]| {
            list.iter()
                .find(|(base, w)| (*base..base + w.bytes() as u64).contains(&at))
                .map(|(base, w)| (*w, (at - base) as usize))
        };
        if let Some(found) = find(&self.chunks.read()) {
            return Some(found);
        }
        let mut chunks = self.chunks.write();
        // Another CPU may have mapped it by now. Where a chunk would touch memory, one page has to do.
        find(&chunks).or_else(|| {
            [CHUNK, 4096].into_iter().find_map(|size| {
                let base = at & !(size - 1);
                let window = windows::map(base, size as usize)?;
                chunks.push((base, window));
                Some((window, (at - base) as usize))
            })
        })
    }
}

impl BarSpace for Bars {
    fn read(&self, kind: BarKind, at: Phys, width: Width) -> u64 {
        if kind == BarKind::Io {
            let Ok(at) = u16::try_from(at.0) else { return u64::MAX };
            return port::read(at, width.bytes()).into();
        }
        let Some((w, o)) = self.window(at.0) else { return u64::MAX };
        match width {
            Width::W8 => w.r8(o).into(),
            Width::W16 => w.r16(o).into(),
            Width::W32 => w.r32(o).into(),
            Width::W64 => w.r64(o),
        }
    }
    fn write(&self, kind: BarKind, at: Phys, width: Width, value: u64) {
        if kind == BarKind::Io {
            if let Ok(at) = u16::try_from(at.0) {
                port::write(at, width.bytes(), value as u32);
            }
            return;
        }
        let Some((w, o)) = self.window(at.0) else { return };
        match width {
            Width::W8 => w.w8(o, value as u8),
            Width::W16 => w.w16(o, value as u16),
            Width::W32 => w.w32(o, value as u32),
            Width::W64 => w.w64(o, value),
        }
    }
}
