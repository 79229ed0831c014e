//! Migration driver for `edu`, QEMU's device for teaching (1234:11e8): a factorial unit, an interrupt register and a DMA engine with a 4 KiB
//! buffer of its own.
//!
//! The buffer can only be reached by the device's own DMA, so it is saved and restored while the device is stopped, through a page
//! that the kernel lends in a private domain. See the README beside this file for what is refused and what is lost.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod dma;
mod registers;

pub use dma::{BUFFER, BUFFER_SIZE, Direction, Transfer, transfer};

use alloc::boxed::Box;
use device_api::state::{Reader, Writer};
use device_api::{Cx, Error, Ids, Migratable, Unreadable, until};
use registers::{Registers, reg};

/// Vendor << 16 | device.
const KIND: u32 = 0x1234_11e8;
const VERSION: u16 = 1;
const REGISTERS: u16 = 1;
const CONTENT: u16 = 2;

/// A computation or transfer under way ends within this time: a transfer takes 100 ms, a sane factorial none.
const IDLE_NS: u64 = 2_000_000_000;

/// Is this the device this driver is for?
pub fn matches(ids: &Ids) -> bool {
    (ids.vendor, ids.device) == (0x1234, 0x11e8)
}

/// Migration driver of one `edu`.
#[derive(Default)]
pub struct Edu {
    /// What the registers were when the device was stopped, or what was loaded.
    stopped: Option<Registers>,
}

impl Edu {
    /// A driver for a device that runs.
    pub fn new() -> Self {
        Self::default()
    }

    fn alive(cx: &Cx<'_>) -> Result<(), Error> {
        let ident = cx.function.r32(0, reg::IDENT)?;
        match ident {
            u32::MAX => Err(Error::Lost(cx.function.stream())),
            _ if ident & 0xff == 0xed => Ok(()),
            _ => Err(Error::Stuck {
                stream: cx.function.stream(),
                register: "edu identification, bits 7:0",
                want: 0xed,
                got: ident.into(),
            }),
        }
    }

    /// Waits until neither factorial nor transfer is under way.
    fn idle(cx: &Cx<'_>) -> Result<(), Error> {
        Self::alive(cx)?;
        wait(cx, "edu status, bit 0 (computing)", || Ok(u64::from(cx.function.r32(0, reg::STATUS)?) & reg::COMPUTING))?;
        wait(cx, "edu DMA command, bit 0 (running)", || Ok(dma::command(cx.function)? & dma::RUN))
    }

    /// Quiet and cut off, registers as a program finds them first. The buffer keeps its content.
    fn clear(&mut self, cx: &Cx<'_>) -> Result<(), Error> {
        Self::idle(cx)?;
        cx.function.bus_master(false);
        self.stopped = None;
        let command = cx.function.command() & !registers::BUS_MASTER;
        Registers { command, ..Registers::default() }.write(cx)
    }
}

/// Waits until `busy` gives zero.
fn wait(cx: &Cx<'_>, register: &'static str, mut busy: impl FnMut() -> Result<u64, Error>) -> Result<(), Error> {
    let mut last = Ok(0);
    let done = until(cx.services, IDLE_NS, || {
        last = busy();
        !matches!(last, Ok(bits) if bits != 0)
    });
    let got = last?;
    if done { Ok(()) } else { Err(Error::Stuck { stream: cx.function.stream(), register, want: 0, got }) }
}

impl Migratable for Edu {
    fn name(&self) -> &'static str {
        "edu"
    }

    fn max_state_bytes(&self) -> usize {
        // Header, two sections, the end.
        12 + (8 + 4 * registers::WORDS) + (8 + BUFFER_SIZE as usize) + 12
    }

    fn stop(&mut self, cx: &Cx<'_>) -> Result<(), Error> {
        if self.stopped.is_some() {
            return Ok(());
        }
        // The transfer under way ends by itself; what it writes is in the last dirty report.
        Self::idle(cx)?;
        let registers = Registers::read(cx)?;
        cx.function.bus_master(false);
        self.stopped = Some(registers);
        Ok(())
    }

    fn resume(&mut self, cx: &Cx<'_>) -> Result<(), Error> {
        Self::alive(cx)?;
        if let Some(registers) = self.stopped.take() {
            cx.function.bus_master(registers.command & registers::BUS_MASTER != 0);
        }
        Ok(())
    }

    fn save(&mut self, cx: &Cx<'_>, sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let registers = self.stopped.ok_or(Error::Invalid("save of a device that is not stopped"))?;
        Self::alive(cx)?;
        let mut content = Box::new([0; BUFFER_SIZE as usize]);
        let moved = cx.services.with_private_page(&mut |iova, page| {
            let out = Transfer { bus: iova.0, buffer: BUFFER, count: BUFFER_SIZE, direction: Direction::FromDevice };
            dma::exclusive(cx, &out)?;
            page.read(0, content.as_mut_slice())
        });
        // The transfer used the program's registers.
        registers.write_dma(cx)?;
        moved?;
        let mut writer = Writer::new(KIND, VERSION);
        writer.words(REGISTERS, &registers.words());
        writer.section(CONTENT, content.as_slice());
        sink(&writer.finish())
    }

    fn begin_load(&mut self, cx: &Cx<'_>) -> Result<(), Error> {
        self.clear(cx)
    }

    fn load(&mut self, cx: &Cx<'_>, data: &[u8]) -> Result<(), Error> {
        let state = Reader::new(data, KIND, VERSION)?;
        state.only(&[REGISTERS, CONTENT])?;
        let registers = Registers::check(REGISTERS, state.need(REGISTERS)?.words()?)?;
        let content = state.need(CONTENT)?.bytes::<{ BUFFER_SIZE as usize }>()?;
        Self::idle(cx)?;
        cx.function.bus_master(false);
        cx.services.with_private_page(&mut |iova, page| {
            page.write(0, content)?;
            let back = Transfer { bus: iova.0, buffer: BUFFER, count: BUFFER_SIZE, direction: Direction::ToDevice };
            dma::exclusive(cx, &back)
        })?;
        registers.write(cx)?;
        self.stopped = Some(registers);
        Ok(())
    }

    fn reset(&mut self, cx: &Cx<'_>) -> Result<(), Error> {
        self.clear(cx)?;
        // The next owner must not find what the last one left in the buffer; the page comes zeroed.
        cx.services.with_private_page(&mut |iova, _| {
            let zeros = Transfer { bus: iova.0, buffer: BUFFER, count: BUFFER_SIZE, direction: Direction::ToDevice };
            dma::exclusive(cx, &zeros)
        })?;
        Registers::default().write_dma(cx)
    }

    fn unreadable(&self) -> &'static [Unreadable] {
        &[
            Unreadable {
                what: "direction and interrupt bits of the last DMA command",
                becomes: "zero; they can be written only together with the start bit, and mean nothing after the transfer",
            },
            Unreadable {
                what: "whether the interrupt of a pending cause was delivered",
                becomes: "raised again; a program sees the same cause in the interrupt status and acknowledges it",
            },
        ]
    }
}
