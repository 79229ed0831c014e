//! What a program can ask about a device, and its regions: BARs, configuration space, mappings.

use crate::Caller;
use crate::config::command;
use crate::file::{DeviceFile, read_head, write_head};
use core::sync::atomic::Ordering;
use device_api::{Bar, BarKind, Width};
use iommu_types::Phys;
use uapi::vfio::{
    self as abi, CAP_SPARSE_MMAP, DeviceInfo, IrqInfo, IrqSet, NUM_IRQS, NUM_REGIONS, REGION_CONFIG, REGION_FLAG_CAPS,
    REGION_FLAG_MMAP, REGION_FLAG_READ, REGION_FLAG_WRITE, REGION_ROM, REGION_SHIFT, REGION_VGA, RegionInfo,
    SparseArea, SparseMmap,
};
use uapi::{Errno, UserMem};
use zerocopy::IntoBytes;

const PAGE: u64 = 4096;

/// What mmap of a BAR gives: the pages of a program's mapping, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// First physical address, a multiple of 4 KiB. Device memory: map it uncached, never executable.
    pub phys: Phys,
    /// Bytes, a multiple of 4 KiB.
    pub length: u64,
}

/// A place in the device file.
enum Region {
    Bar(u8, Bar),
    Config,
}

impl DeviceFile {
    fn bar(&self, index: u32) -> Option<Bar> {
        self.device.function().bars().get(index as usize).copied().flatten()
    }

    pub(crate) fn get_info(&self, argument: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        let mem = caller as &dyn UserMem;
        let mut info: DeviceInfo = read_head(mem, argument, 16)?;
        info.flags = abi::DEVICE_FLAGS_PCI | if self.device.can_reset() { abi::DEVICE_FLAGS_RESET } else { 0 };
        info.num_regions = NUM_REGIONS;
        info.num_irqs = NUM_IRQS;
        write_head(mem, argument, info.argsz, &info)?;
        Ok(0)
    }

    pub(crate) fn get_region_info(&self, argument: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        let mem = caller as &dyn UserMem;
        let mut info: RegionInfo = read_head(mem, argument, size_of::<RegionInfo>())?;
        info.offset = u64::from(info.index) << REGION_SHIFT;
        (info.flags, info.region_size, info.cap_offset) = (0, 0, 0);
        let mut sparse = None;
        match info.index {
            ..REGION_ROM => {
                if let Some(bar) = self.bar(info.index) {
                    info.region_size = bar.size;
                    info.flags = REGION_FLAG_READ | REGION_FLAG_WRITE;
                    if let Some(span) = bar.mappable {
                        info.flags |= REGION_FLAG_MMAP;
                        sparse = (span.offset != 0 || span.length != bar.size).then_some(span);
                    }
                }
            }
            // ROMs are not given away.
            REGION_ROM => {}
            REGION_CONFIG => {
                info.region_size = self.device.view.length().into();
                info.flags = REGION_FLAG_READ | REGION_FLAG_WRITE;
            }
            _ => return Err(Errno::EINVAL),
        }
        if let Some(span) = sparse {
            // Only these pages: the MSI-X table beside them holds message addresses, which stay the kernel's.
            let head = SparseMmap { id: CAP_SPARSE_MMAP, version: 1, next: 0, nr_areas: 1, reserved: 0 };
            let area = SparseArea { offset: span.offset, size: span.length };
            info.flags |= REGION_FLAG_CAPS;
            let own = size_of::<RegionInfo>();
            let needed = (own + size_of::<SparseMmap>() + size_of::<SparseArea>()) as u32;
            if info.argsz >= needed {
                info.cap_offset = own as u32;
                let at = argument.wrapping_add(own as u64);
                mem.copy_out(at, head.as_bytes())?;
                mem.copy_out(at.wrapping_add(size_of::<SparseMmap>() as u64), area.as_bytes())?;
            } else {
                info.argsz = needed;
            }
        }
        mem.copy_out(argument, info.as_bytes())?;
        Ok(0)
    }

    /// Interrupts are not given to programs yet: every index has no vector.
    pub(crate) fn get_irq_info(&self, argument: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        let mem = caller as &dyn UserMem;
        let mut info: IrqInfo = read_head(mem, argument, size_of::<IrqInfo>())?;
        info.flags = match info.index {
            abi::IRQ_INTX => abi::IRQ_INFO_EVENTFD | abi::IRQ_INFO_MASKABLE | abi::IRQ_INFO_AUTOMASKED,
            abi::IRQ_MSI | abi::IRQ_MSIX => abi::IRQ_INFO_EVENTFD | abi::IRQ_INFO_NORESIZE,
            abi::IRQ_ERR | abi::IRQ_REQ => abi::IRQ_INFO_EVENTFD,
            _ => return Err(Errno::EINVAL),
        };
        info.count = 0;
        mem.copy_out(argument, info.as_bytes())?;
        Ok(0)
    }

    /// No index has a vector, so every start is past the end.
    pub(crate) fn set_irqs(&self, argument: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        read_head::<IrqSet>(caller as &dyn UserMem, argument, size_of::<IrqSet>())?;
        Err(Errno::EINVAL)
    }

    /// Region, offset in it, and how many of `length` bytes are inside.
    fn locate(&self, offset: u64, length: usize) -> Result<(Region, u64, usize), Errno> {
        let index = u32::try_from(offset >> REGION_SHIFT).map_err(|_| Errno::EINVAL)?;
        let at = offset & ((1 << REGION_SHIFT) - 1);
        let (region, size) = match index {
            ..REGION_ROM => {
                let bar = self.bar(index).ok_or(Errno::EINVAL)?;
                (Region::Bar(index as u8, bar), bar.size)
            }
            REGION_CONFIG => (Region::Config, u64::from(self.device.view.length())),
            REGION_ROM | REGION_VGA.. => return Err(Errno::EINVAL),
        };
        let left = size.checked_sub(at).filter(|left| *left > 0).ok_or(Errno::EINVAL)?;
        Ok((region, at, length.min(usize::try_from(left).unwrap_or(usize::MAX))))
    }

    /// Does the program have this BAR's decoding on?
    fn decoding(&self, bar: &Bar) -> Result<(), Errno> {
        let needed = if bar.kind == BarKind::Io { command::IO } else { command::MEMORY };
        if self.state.lock().own.command & needed == 0 { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Is any of these bytes in the MSI-X table?
    fn in_table(&self, bar: u8, at: u64, bytes: u64) -> bool {
        self.device.function().msix().is_some_and(|table| {
            let first = u64::from(table.offset);
            let end = first + u64::from(table.vectors) * 16;
            table.bar == bar && at < end && first < at.saturating_add(bytes)
        })
    }

    /// Reads registers: `offset` is `region << 40 | offset in it`. Never past the region's end. Accesses are naturally
    /// aligned, at most 4 bytes wide, in ascending order; the MSI-X table reads as ones.
    ///
    /// # Errors
    /// `EINVAL` not bound, no such region, or an offset past its end; `EIO` memory decoding is off or the device is gone.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<usize, Errno> {
        self.handle()?;
        let (region, at, count) = self.locate(offset, out.len())?;
        let out = out.get_mut(..count).ok_or(Errno::EINVAL)?;
        let (index, bar) = match region {
            Region::Config => {
                let own = self.state.lock().own.clone();
                self.device.view.read(&**self.device.function(), &own, at as u16, out);
                return Ok(count);
            }
            Region::Bar(index, bar) => (index, bar),
        };
        self.decoding(&bar)?;
        let mut done = 0u64;
        while let Some(width) = Width::at(at + done, count as u64 - done) {
            let bytes = width.bytes() as usize;
            let value = if self.in_table(index, at + done, width.bytes()) {
                u64::MAX
            } else {
                match self.device.function().bar_read(index, at + done, width) {
                    Ok(value) => value,
                    Err(_) if done > 0 => return Ok(done as usize),
                    Err(_) => return Err(Errno::EIO),
                }
            };
            let slot = out.get_mut(done as usize..done as usize + bytes).ok_or(Errno::EINVAL)?;
            slot.copy_from_slice(value.to_le_bytes().get(..bytes).unwrap_or_default());
            done += width.bytes();
        }
        Ok(count)
    }

    /// Writes registers; see [`read_at`](Self::read_at). Writes to the MSI-X table are dropped.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        self.handle()?;
        let (region, at, count) = self.locate(offset, data.len())?;
        let data = data.get(..count).ok_or(Errno::EINVAL)?;
        let (index, bar) = match region {
            Region::Config => {
                self.config_writes.fetch_add(1, Ordering::Relaxed);
                let commanded = {
                    let mut state = self.state.lock();
                    let commanded = state.own.write(&**self.device.function(), at as u16, data);
                    state.commanded |= commanded;
                    commanded
                };
                if commanded {
                    self.master();
                }
                return Ok(count);
            }
            Region::Bar(index, bar) => (index, bar),
        };
        self.decoding(&bar)?;
        let mut done = 0u64;
        while let Some(width) = Width::at(at + done, count as u64 - done) {
            let bytes = width.bytes() as usize;
            let mut raw = [0; 8];
            let from = data.get(done as usize..done as usize + bytes).ok_or(Errno::EINVAL)?;
            raw.get_mut(..bytes).ok_or(Errno::EINVAL)?.copy_from_slice(from);
            if !self.in_table(index, at + done, width.bytes()) {
                self.register_writes.fetch_add(1, Ordering::Relaxed);
                match self.device.function().bar_write(index, at + done, width, u64::from_le_bytes(raw)) {
                    Ok(()) => {}
                    Err(_) if done > 0 => return Ok(done as usize),
                    Err(_) => return Err(Errno::EIO),
                }
            }
            done += width.bytes();
        }
        Ok(count)
    }

    /// The physical pages behind `length` bytes at `offset`, for a shared mapping (a private one is the caller's `EINVAL`).
    /// The mapping must hold a reference to this file, so that the device is not closed under it.
    ///
    /// # Errors
    /// `EINVAL` not bound, misaligned, past the region's end, or a region that cannot be mapped.
    pub fn map(&self, offset: u64, length: u64) -> Result<Mapping, Errno> {
        self.handle()?;
        let index = u32::try_from(offset >> REGION_SHIFT).map_err(|_| Errno::EINVAL)?;
        let at = offset & ((1 << REGION_SHIFT) - 1);
        let bar = self.bar(index).filter(|_| index < REGION_ROM).ok_or(Errno::EINVAL)?;
        let span = bar.mappable.ok_or(Errno::EINVAL)?;
        let end = at.checked_add(length).ok_or(Errno::EINVAL)?;
        let inside = span.offset <= at && end <= span.offset.saturating_add(span.length);
        let phys = bar.phys.0.checked_add(at).ok_or(Errno::EINVAL)?;
        let aligned = length > 0 && [at, length, phys].iter().all(|value| value.is_multiple_of(PAGE));
        if inside && aligned { Ok(Mapping { phys: Phys(phys), length }) } else { Err(Errno::EINVAL) }
    }
}
