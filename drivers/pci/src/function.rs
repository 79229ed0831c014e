//! A PCI function as [`device_api::Function`].

use crate::bars::{RawBar, size_bars};
use crate::config::ConfigSpace;
use crate::control;
use crate::enumerate::FunctionInfo;
use crate::reset::{function_level_reset, reset_kind};
use device_api::{Bar, BarKind, Clock, Error, Function, Ids, MsixTable, Span, Width};
use iommu_types::{Phys, StreamId};

const PAGE: u64 = 4096;

/// Reaches memory and ports that BARs decode. On the machine: mapped uncached windows and port instructions.
///
/// `at` is inside an assigned BAR and naturally aligned to `width`. A write is ordered after all earlier stores to memory.
pub trait BarSpace: Send + Sync {
    /// Reads.
    fn read(&self, kind: BarKind, at: Phys, width: Width) -> u64;
    /// Writes.
    fn write(&self, kind: BarKind, at: Phys, width: Width, value: u64);
}

impl<T: BarSpace + ?Sized> BarSpace for &T {
    fn read(&self, kind: BarKind, at: Phys, width: Width) -> u64 {
        (**self).read(kind, at, width)
    }
    fn write(&self, kind: BarKind, at: Phys, width: Width, value: u64) {
        (**self).write(kind, at, width, value);
    }
}

/// One function over configuration space, BAR windows and a clock.
pub struct PciFunction<C, B, K> {
    info: FunctionInfo,
    bars: [Option<Bar>; 6],
    config: C,
    space: B,
    clock: K,
}

impl<C: ConfigSpace, B: BarSpace, K: Clock + Send + Sync> PciFunction<C, B, K> {
    /// Sizes the BARs (the function must not be in use) and makes the function ready to be given away: decoding on, bus mastering
    /// and the interrupt pin off.
    pub fn new(info: FunctionInfo, config: C, space: B, clock: K) -> Self {
        let at = info.stream;
        control::bus_master(&config, at, false);
        control::intx(&config, at, false);
        let raw = size_bars(&config, at, info.bar_count());
        let msix = info.messages.msix;
        let mut bars = [None; 6];
        for (index, (slot, bar)) in (0u8..).zip(bars.iter_mut().zip(raw)) {
            let usable = bar.filter(|bar| bar.phys.0 != 0 && bar.phys.0.checked_add(bar.size).is_some());
            *slot = usable.map(|bar| Bar {
                phys: bar.phys,
                size: bar.size,
                kind: bar.kind,
                mappable: mappable(&bar, msix.filter(|table| table.bar == index)),
            });
        }
        if bars.iter().flatten().any(|bar| matches!(bar.kind, BarKind::Memory { .. })) {
            control::memory_decoding(&config, at, true);
        }
        if bars.iter().flatten().any(|bar| bar.kind == BarKind::Io) {
            control::port_decoding(&config, at, true);
        }
        Self { info, bars, config, space, clock }
    }

    /// What enumeration found.
    pub fn info(&self) -> &FunctionInfo {
        &self.info
    }

    fn bar_at(&self, bar: u8, offset: u64, width: Width) -> Result<(BarKind, Phys), Error> {
        let entry = self.bars.get(usize::from(bar)).copied().flatten().ok_or(Error::Invalid("no such BAR"))?;
        if !offset.is_multiple_of(width.bytes()) {
            return Err(Error::Invalid("register access is not aligned"));
        }
        match offset.checked_add(width.bytes()) {
            Some(end) if end <= entry.size => Ok((entry.kind, Phys(entry.phys.0 + offset))),
            _ => Err(Error::Invalid("register past the end of its BAR")),
        }
    }
}

/// The largest run of whole pages without the MSI-X table.
fn mappable(bar: &RawBar, table: Option<MsixTable>) -> Option<Span> {
    if bar.kind == BarKind::Io || bar.size < PAGE || !bar.phys.0.is_multiple_of(PAGE) {
        return None;
    }
    let Some(table) = table else { return Some(Span { offset: 0, length: bar.size }) };
    let first = u64::from(table.offset) & !(PAGE - 1);
    let end = (u64::from(table.offset) + 16 * u64::from(table.vectors)).next_multiple_of(PAGE);
    let before = Span { offset: 0, length: first.min(bar.size) };
    let behind = Span { offset: end, length: bar.size.saturating_sub(end) };
    let best = if before.length >= behind.length { before } else { behind };
    (best.length != 0).then_some(best)
}

impl<C: ConfigSpace, B: BarSpace, K: Clock + Send + Sync> Function for PciFunction<C, B, K> {
    fn stream(&self) -> StreamId {
        self.info.stream
    }
    fn ids(&self) -> Ids {
        self.info.ids
    }
    fn config_len(&self) -> u16 {
        self.info.config_len()
    }
    fn config_read(&self, offset: u16, out: &mut [u8]) {
        out.fill(0xff);
        let mut at = u64::from(offset);
        let end = (at + out.len() as u64).min(self.config_len().into());
        while let Some(width) = Width::at(at, end.saturating_sub(at)) {
            let (stream, place) = (self.info.stream, at as u16);
            let value = match width {
                Width::W8 => self.config.read8(stream, place).into(),
                Width::W16 => self.config.read16(stream, place).into(),
                _ => self.config.read32(stream, place),
            };
            let from = (at - u64::from(offset)) as usize;
            let size = width.bytes() as usize;
            if let (Some(slot), Some(raw)) = (out.get_mut(from..from + size), value.to_le_bytes().get(..size)) {
                slot.copy_from_slice(raw);
            }
            at += width.bytes();
        }
    }
    fn config_write(&self, offset: u16, data: &[u8]) {
        let mut at = u64::from(offset);
        let end = (at + data.len() as u64).min(self.config_len().into());
        while let Some(width) = Width::at(at, end.saturating_sub(at)) {
            let (stream, place) = (self.info.stream, at as u16);
            let from = (at - u64::from(offset)) as usize;
            let mut raw = [0; 4];
            for (slot, byte) in raw.iter_mut().zip(data.get(from..).unwrap_or(&[])).take(width.bytes() as usize) {
                *slot = *byte;
            }
            let value = u32::from_le_bytes(raw);
            match width {
                Width::W8 => self.config.write8(stream, place, value as u8),
                Width::W16 => self.config.write16(stream, place, value as u16),
                _ => self.config.write32(stream, place, value),
            }
            at += width.bytes();
        }
    }
    fn bars(&self) -> [Option<Bar>; 6] {
        self.bars
    }
    fn bar_read(&self, bar: u8, offset: u64, width: Width) -> Result<u64, Error> {
        let (kind, at) = self.bar_at(bar, offset, width)?;
        Ok(self.space.read(kind, at, width))
    }
    fn bar_write(&self, bar: u8, offset: u64, width: Width, value: u64) -> Result<(), Error> {
        let (kind, at) = self.bar_at(bar, offset, width)?;
        self.space.write(kind, at, width, value);
        Ok(())
    }
    fn can_reset(&self) -> Result<(), &'static str> {
        reset_kind(&self.config, &self.info).map(|_| ())
    }
    fn reset(&self) -> Result<(), Error> {
        function_level_reset(&self.config, &self.info, &self.clock)
    }
    fn bus_master(&self, on: bool) {
        control::bus_master(&self.config, self.info.stream, on);
    }
    fn msix(&self) -> Option<MsixTable> {
        self.info.messages.msix
    }
}
