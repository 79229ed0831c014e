//! Register and PHY accesses, and waits with an end.

use crate::spec::{self, mdic};
use device_api::{Cx, Error, Function, Services, until};

const MS: u64 = 1_000_000;
/// A PHY access takes 64 µs on the wire (section 3.5.2).
const PHY_NS: u64 = 10 * MS;

/// The registers of one card.
pub struct Port<'a> {
    pub function: &'a dyn Function,
    services: &'a dyn Services,
}

impl<'a> Port<'a> {
    pub fn new(cx: &Cx<'a>) -> Self {
        Self { function: cx.function, services: cx.services }
    }

    pub fn r32(&self, register: u64) -> Result<u32, Error> {
        self.function.r32(0, register)
    }

    pub fn w32(&self, register: u64, value: u32) -> Result<(), Error> {
        self.function.w32(0, register, value)
    }

    /// Changes the bits of `clear` to 0 and those of `set` to 1.
    pub fn change(&self, register: u64, clear: u32, set: u32) -> Result<(), Error> {
        self.w32(register, self.r32(register)? & !clear | set)
    }

    fn stuck(&self, register: &'static str, want: u32, got: u32) -> Error {
        Error::Stuck { stream: self.function.stream(), register, want: want.into(), got: got.into() }
    }

    /// Is there a card at all?
    pub fn alive(&self) -> Result<(), Error> {
        match self.r32(spec::STATUS)? {
            u32::MAX => Err(Error::Lost(self.function.stream())),
            _ => Ok(()),
        }
    }

    /// The register must read as `want`.
    pub fn must_read(&self, register: u64, name: &'static str, want: u32) -> Result<(), Error> {
        match self.r32(register)? {
            got if got == want => Ok(()),
            got => Err(self.stuck(name, want, got)),
        }
    }

    /// Polls until the bits of `mask` read as `want`, at most `budget` nanoseconds.
    pub fn wait(&self, register: u64, name: &'static str, mask: u32, want: u32, budget: u64) -> Result<(), Error> {
        let mut last = Ok(0);
        let done = until(self.services, budget, || {
            last = self.r32(register);
            !matches!(last, Ok(value) if value & mask != want)
        });
        let got = last?;
        if done { Ok(()) } else { Err(self.stuck(name, want, got & mask)) }
    }

    /// Polls until `done`, at most `budget` nanoseconds; says whether it came true.
    pub fn settle(&self, budget: u64, done: impl FnMut() -> bool) -> bool {
        until(self.services, budget, done)
    }

    fn phy(&self, command: u32) -> Result<u16, Error> {
        self.w32(spec::MDIC, command | mdic::PHY)?;
        self.wait(spec::MDIC, "MDIC, bit 28 (ready)", mdic::READY, mdic::READY, PHY_NS)?;
        let value = self.r32(spec::MDIC)?;
        if value & mdic::ERROR != 0 {
            return Err(self.stuck("MDIC, bit 30 (error)", 0, value));
        }
        Ok(value as u16)
    }

    /// Reads a PHY register, 0..=31.
    pub fn phy_read(&self, register: u32) -> Result<u16, Error> {
        self.phy(mdic::READ | register << 16)
    }

    /// Writes a PHY register, 0..=31.
    pub fn phy_write(&self, register: u32, value: u16) -> Result<(), Error> {
        self.phy(mdic::WRITE | register << 16 | u32::from(value)).map(|_| ())
    }
}
