//! What a migration driver is lent for the time of a call: a clock, a private page, and the function with bus mastering
//! under guard.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use device_api::{Bar, Clock, Cx, Error, Function, Ids, MsixTable, PAGE, PageBytes, Services, Width};
use iommu_api::{DomainSpec, IommuUnit, TableMem, Words};
use iommu_types::{Access, Iova, IovaRange, Phys, PhysRun, StreamId};
use iommufd::DeviceHandle;

/// Where the private page is, if the aperture allows: below every device's reach, away from 0.
const PAGE_IOVA: u64 = 0x10_0000;

/// The kernel's side of one call.
pub(crate) struct Lent<'a> {
    pub function: &'a dyn Function,
    pub handle: &'a DeviceHandle,
    pub unit: &'a Arc<dyn IommuUnit>,
    pub memory: &'a dyn TableMem,
    pub clock: &'a dyn iommu_api::Clock,
    /// What the driver last asked of bus mastering outside of its private domain: 0 nothing, 1 off, 2 on.
    asked: AtomicU8,
    private: AtomicBool,
}

impl<'a> Lent<'a> {
    pub(crate) fn new(
        function: &'a dyn Function,
        handle: &'a DeviceHandle,
        unit: &'a Arc<dyn IommuUnit>,
        memory: &'a dyn TableMem,
        clock: &'a dyn iommu_api::Clock,
    ) -> Self {
        let (asked, private) = (AtomicU8::new(0), AtomicBool::new(false));
        Self { function, handle, unit, memory, clock, asked, private }
    }
    /// Function and services, as a driver takes them.
    pub(crate) fn cx(&self) -> Cx<'_> {
        Cx { function: self, services: self }
    }
    /// What the driver asked of bus mastering, if it did.
    pub(crate) fn asked(&self) -> Option<bool> {
        match self.asked.load(Ordering::Relaxed) {
            0 => None,
            value => Some(value == 2),
        }
    }
}

impl Clock for Lent<'_> {
    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }
    fn relax(&self) {
        self.clock.relax();
    }
}

/// Everything but bus mastering goes to the function.
impl Function for Lent<'_> {
    fn stream(&self) -> StreamId {
        self.function.stream()
    }
    fn ids(&self) -> Ids {
        self.function.ids()
    }
    fn config_len(&self) -> u16 {
        self.function.config_len()
    }
    fn config_read(&self, offset: u16, out: &mut [u8]) {
        self.function.config_read(offset, out);
    }
    fn config_write(&self, offset: u16, data: &[u8]) {
        self.function.config_write(offset, data);
    }
    fn bars(&self) -> [Option<Bar>; 6] {
        self.function.bars()
    }
    fn bar_read(&self, bar: u8, offset: u64, width: Width) -> Result<u64, Error> {
        self.function.bar_read(bar, offset, width)
    }
    fn bar_write(&self, bar: u8, offset: u64, width: Width, value: u64) -> Result<(), Error> {
        self.function.bar_write(bar, offset, width, value)
    }
    fn can_reset(&self) -> Result<(), &'static str> {
        self.function.can_reset()
    }
    fn reset(&self) -> Result<(), Error> {
        self.function.reset()
    }
    /// Requests may leave the function only while its stream has a table.
    fn bus_master(&self, on: bool) {
        if self.private.load(Ordering::Relaxed) {
            self.function.bus_master(on);
            return;
        }
        self.asked.store(if on { 2 } else { 1 }, Ordering::Relaxed);
        self.function.bus_master(on && self.handle.attached());
    }
    fn msix(&self) -> Option<MsixTable> {
        self.function.msix()
    }
}

/// The private page, byte by byte over words: the device may write it at the same time.
struct Bytes<'a>(&'a Words);

fn inside(offset: usize, length: usize) -> Result<(), Error> {
    match offset.checked_add(length) {
        Some(end) if end <= PAGE => Ok(()),
        _ => Err(Error::Invalid("past the end of the private page")),
    }
}

impl PageBytes for Bytes<'_> {
    fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), Error> {
        inside(offset, out.len())?;
        for (at, slot) in (offset..).zip(out.iter_mut()) {
            let word = self.0.get(at / 8).map_or(0, |word| word.load(Ordering::Acquire));
            *slot = word.to_le_bytes()[at % 8];
        }
        Ok(())
    }
    fn write(&self, offset: usize, data: &[u8]) -> Result<(), Error> {
        inside(offset, data.len())?;
        for (at, byte) in (offset..).zip(data) {
            let Some(word) = self.0.get(at / 8) else { continue };
            let shift = at % 8 * 8;
            let put = |old: u64| Some(old & !(0xff << shift) | u64::from(*byte) << shift);
            // Always succeeds: `put` never refuses.
            let _ = word.fetch_update(Ordering::Release, Ordering::Relaxed, put);
        }
        Ok(())
    }
}

impl Lent<'_> {
    fn in_domain(
        &self,
        page: Phys,
        f: &mut dyn FnMut(Iova, &dyn PageBytes) -> Result<(), Error>,
    ) -> (Result<(), Error>, bool) {
        let Some(words) = self.memory.words(page) else {
            return (Err(Error::Exhausted("the private page is no memory")), true);
        };
        let domain = match self.unit.make_domain(DomainSpec::default()) {
            Ok(domain) => domain,
            Err(error) => return (Err(error.into()), true),
        };
        let aperture = domain.info().aperture;
        let first = aperture.first().next_multiple_of(PAGE as u64).max(PAGE_IOVA);
        let Some(range) = IovaRange::sized(first, PAGE as u64).filter(|range| aperture.contains(range)) else {
            return (Err(Error::Unsupported("no iova for the private page")), true);
        };
        let run = PhysRun { base: page, length: PAGE as u64 };
        let mapped = domain.map(Iova(first), &[run], Access::READ | Access::WRITE, PAGE as u64);
        let mapped = mapped.and_then(|gather| domain.sync(gather));
        let mut result = Ok(());
        let moved = mapped.and_then(|()| {
            self.handle.with_private_domain(&domain, &mut || {
                self.private.store(true, Ordering::Relaxed);
                result = f(Iova(first), &Bytes(words));
                self.function.bus_master(false);
                self.private.store(false, Ordering::Relaxed);
            })
        });
        if matches!(moved, Err(iommu_types::Error::Lost(_))) {
            // Hardware may walk the table and write the page for ever.
            core::mem::forget(domain);
            return (Err(Error::Lost(self.function.stream())), false);
        }
        let flushed = domain.unmap(range).and_then(|(_, gather)| domain.sync(gather));
        if let Err(error) = &flushed {
            log::error!("vfio: {}: private page kept: {error}", self.function.stream());
        }
        (moved.map_err(Error::from).and(result), flushed.is_ok())
    }
}

impl Services for Lent<'_> {
    fn with_private_page(&self, f: &mut dyn FnMut(Iova, &dyn PageBytes) -> Result<(), Error>) -> Result<(), Error> {
        // Nothing may be under way when the stream moves.
        self.function.bus_master(false);
        let page = self.memory.alloc()?;
        let (result, free) = self.in_domain(page, f);
        if free {
            self.memory.release(page);
        }
        result
    }
}
