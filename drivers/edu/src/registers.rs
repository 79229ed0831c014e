//! The registers (QEMU, docs/specs/edu), and what of them is state.

use crate::wait;
use device_api::{Cx, Error, Width};

/// Offsets in BAR 0. Below 0x80 only 32-bit accesses are answered.
pub mod reg {
    /// Bits 31:16 version, 7:0 0xed.
    pub const IDENT: u64 = 0x00;
    /// Reads as the inverse of what was written.
    pub const LIVENESS: u64 = 0x04;
    /// Writing n starts n!; reads as the result.
    pub const FACTORIAL: u64 = 0x08;
    /// Bit 0 computing, bit 7 interrupt when done.
    pub const STATUS: u64 = 0x20;
    /// Causes that are pending.
    pub const IRQ_STATUS: u64 = 0x24;
    /// Raises the causes written.
    pub const IRQ_RAISE: u64 = 0x60;
    /// Clears the causes written.
    pub const IRQ_ACK: u64 = 0x64;
    pub const DMA_SOURCE: u64 = 0x80;
    pub const DMA_TARGET: u64 = 0x88;
    pub const DMA_COUNT: u64 = 0x90;
    pub const DMA_COMMAND: u64 = 0x98;

    pub const COMPUTING: u64 = 1 << 0;
    pub const STATUS_IRQ: u32 = 1 << 7;
}

/// Command register bit 2.
pub const BUS_MASTER: u16 = 1 << 2;
/// Command bits that are the program's: decoding, bus mastering, interrupt pin.
const COMMAND: u16 = 0x0407;
/// Words of the register section.
pub const WORDS: usize = 11;

/// Everything a program can read back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Registers {
    /// PCI command register.
    pub command: u16,
    /// As read: the inverse of what was written.
    pub liveness: u32,
    pub factorial: u32,
    pub status: u32,
    pub causes: u32,
    pub source: u64,
    pub target: u64,
    pub count: u64,
}

/// The n whose factorial, modulo 2^32, is `value`: 34! is the first that is 0.
fn argument(value: u32) -> Option<u32> {
    let mut product = 1u32;
    if value == 1 {
        return Some(0);
    }
    (1..=34).find(|n| {
        product = product.wrapping_mul(*n);
        product == value
    })
}

impl Registers {
    /// Reads an idle device.
    pub fn read(cx: &Cx<'_>) -> Result<Self, Error> {
        let wide = |register| cx.function.bar_read(0, register, Width::W64);
        Ok(Self {
            command: cx.function.command() & COMMAND,
            liveness: cx.function.r32(0, reg::LIVENESS)?,
            factorial: cx.function.r32(0, reg::FACTORIAL)?,
            status: cx.function.r32(0, reg::STATUS)? & reg::STATUS_IRQ,
            causes: cx.function.r32(0, reg::IRQ_STATUS)?,
            source: wide(reg::DMA_SOURCE)?,
            target: wide(reg::DMA_TARGET)?,
            count: wide(reg::DMA_COUNT)?,
        })
    }

    pub fn words(&self) -> [u32; WORDS] {
        let (low, high) = (|wide: u64| wide as u32, |wide: u64| (wide >> 32) as u32);
        [
            self.command.into(),
            self.liveness,
            self.factorial,
            self.status,
            self.causes,
            low(self.source),
            high(self.source),
            low(self.target),
            high(self.target),
            low(self.count),
            high(self.count),
        ]
    }

    /// Refuses what no device can have had.
    pub fn check(section: u16, words: [u32; WORDS]) -> Result<Self, Error> {
        let bad = |reason| Err(Error::BadState { section, reason });
        let [command, liveness, factorial, status, causes, s0, s1, t0, t1, c0, c1] = words;
        let wide = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        if command & !u32::from(COMMAND) != 0 {
            return bad("command register with bits that are not the program's");
        }
        if status & !reg::STATUS_IRQ != 0 {
            return bad("status of a device that is not idle");
        }
        if argument(factorial).is_none() {
            return bad("factorial that is none");
        }
        Ok(Self {
            command: command as u16,
            liveness,
            factorial,
            status,
            causes,
            source: wide(s0, s1),
            target: wide(t0, t1),
            count: wide(c0, c1),
        })
    }

    /// Writes an idle device. Bus mastering stays as it is.
    pub fn write(&self, cx: &Cx<'_>) -> Result<(), Error> {
        let put = |register, value| cx.function.w32(0, register, value);
        put(reg::LIVENESS, !self.liveness)?;
        // Without its interrupt, so that computing the old result again is not noticed.
        put(reg::STATUS, 0)?;
        let n = argument(self.factorial).ok_or(Error::Invalid("factorial that is none"))?;
        put(reg::FACTORIAL, n)?;
        wait(cx, "edu status, bit 0 (computing)", || Ok(u64::from(cx.function.r32(0, reg::STATUS)?) & reg::COMPUTING))?;
        put(reg::STATUS, self.status)?;
        put(reg::IRQ_ACK, u32::MAX)?;
        if self.causes != 0 {
            put(reg::IRQ_RAISE, self.causes)?;
        }
        self.write_dma(cx)?;
        let got = cx.function.r32(0, reg::FACTORIAL)?;
        if got != self.factorial {
            let want = self.factorial.into();
            let stream = cx.function.stream();
            return Err(Error::Stuck { stream, register: "edu factorial", want, got: got.into() });
        }
        Ok(())
    }

    /// The DMA registers alone. Nothing starts: the start bit is in the command register, which is not written.
    pub fn write_dma(&self, cx: &Cx<'_>) -> Result<(), Error> {
        for (register, value) in
            [(reg::DMA_SOURCE, self.source), (reg::DMA_TARGET, self.target), (reg::DMA_COUNT, self.count)]
        {
            cx.function.bar_write(0, register, Width::W64, value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_has_an_argument() {
        let mut product = 1u32;
        for n in 0..100u32 {
            product = if n == 0 { 1 } else { product.wrapping_mul(n) };
            let again = argument(product).unwrap();
            let back = (1..=again).fold(1u32, u32::wrapping_mul);
            assert_eq!(back, product, "{n}!");
        }
        assert_eq!(argument(0), Some(34));
        assert_eq!(argument(3628800), Some(10));
        assert_eq!(argument(7), None);
    }
}
