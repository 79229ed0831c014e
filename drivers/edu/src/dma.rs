//! The DMA engine.

use crate::registers::reg;
use device_api::{Clock, Cx, Error, Function, Width, until};

/// Where the device's own buffer is, in the addresses of its DMA engine.
pub const BUFFER: u64 = 0x4_0000;
/// Bytes of the buffer.
pub const BUFFER_SIZE: u64 = 4096;

/// Command bit 0: start, and running.
pub(crate) const RUN: u64 = 1 << 0;
/// Command bit 1: from the device to memory.
const FROM_DEVICE: u64 = 1 << 1;

/// The engine masks bus addresses to 28 bits unless QEMU's `dma_mask` says otherwise, and nothing shows which.
const SURE_MASK: u64 = (1 << 28) - 1;
/// A transfer takes 100 ms of the machine's time.
const BUDGET_NS: u64 = 2_000_000_000;

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Memory to the device's buffer.
    ToDevice,
    /// The device's buffer to memory.
    FromDevice,
}

/// One transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Address on the bus (an iova).
    pub bus: u64,
    /// Address in the device, inside [`BUFFER`]`..`[`BUFFER`]` + `[`BUFFER_SIZE`].
    pub buffer: u64,
    /// Bytes, 1..=4096.
    pub count: u64,
    /// Which way.
    pub direction: Direction,
}

impl Transfer {
    /// The device does not check its own address: past the buffer it reads and writes the memory of the emulator. So it is
    /// checked here, before any register is written.
    fn check(&self) -> Result<(), Error> {
        let last = self.buffer.checked_add(self.count);
        match last {
            _ if self.count == 0 => Err(Error::Invalid("DMA of no bytes")),
            Some(end) if self.buffer >= BUFFER && end <= BUFFER + BUFFER_SIZE => Ok(()),
            _ => Err(Error::Invalid("DMA past the device's buffer")),
        }
    }
}

/// The command register.
pub(crate) fn command(function: &dyn Function) -> Result<u64, Error> {
    function.bar_read(0, reg::DMA_COMMAND, Width::W64)
}

/// Runs one transfer and waits for its end, at most 2 s. Bus mastering must be on. A transfer that the IOMMU refuses ends like any
/// other: reads give zeros, writes are dropped.
///
/// # Errors
/// [`Error::Invalid`] for a range that is not inside the buffer: nothing was written. [`Error::Stuck`] if a transfer is under way
/// already or this one does not end.
pub fn transfer(function: &dyn Function, clock: &(impl Clock + ?Sized), what: &Transfer) -> Result<(), Error> {
    what.check()?;
    let stuck =
        |got| Error::Stuck { stream: function.stream(), register: "edu DMA command, bit 0 (running)", want: 0, got };
    let before = command(function)?;
    if before & RUN != 0 {
        return Err(stuck(before));
    }
    let (source, target, bits) = match what.direction {
        Direction::ToDevice => (what.bus, what.buffer, RUN),
        Direction::FromDevice => (what.buffer, what.bus, RUN | FROM_DEVICE),
    };
    let put = |register, value| function.bar_write(0, register, Width::W64, value);
    put(reg::DMA_SOURCE, source)?;
    put(reg::DMA_TARGET, target)?;
    put(reg::DMA_COUNT, what.count)?;
    put(reg::DMA_COMMAND, bits)?;
    let mut last = Ok(0);
    let done = until(clock, BUDGET_NS, || {
        last = command(function);
        !matches!(last, Ok(value) if value & RUN != 0)
    });
    let got = last?;
    if done { Ok(()) } else { Err(stuck(got)) }
}

/// A transfer with the private page: bus mastering is on for just this time.
pub(crate) fn exclusive(cx: &Cx<'_>, what: &Transfer) -> Result<(), Error> {
    if what.bus.saturating_add(what.count - 1) > SURE_MASK {
        return Err(Error::Unsupported("private page above 2^28, where the edu may not reach"));
    }
    cx.function.bus_master(true);
    let result = transfer(cx.function, cx.services, what);
    cx.function.bus_master(false);
    result
}
