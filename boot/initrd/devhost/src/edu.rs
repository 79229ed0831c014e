//! Driver of QEMU's edu device: copies pages through its 4 KiB buffer. One DMA takes 0.1 s, so it is started and looked
//! after, never waited for.
//!
//! A cycle: the CPU writes a numbered pattern to page A; edu reads A into its buffer; edu writes its buffer to page B; the
//! CPU compares. At the destination the buffer's content must have come along for that to work.

use crate::{
    layout::Layout,
    memory::{Bar, Region},
};
use migrate_wire::PAGE;
use serde::{Deserialize, Serialize};

/// Registers, by byte offset in BAR 0 (docs/specs/edu of QEMU).
pub mod reg {
    /// Identification, 0x010000ed.
    pub const ID: usize = 0x00;
    /// DMA source address.
    pub const SOURCE: usize = 0x80;
    /// DMA destination address.
    pub const DESTINATION: usize = 0x88;
    /// DMA bytes.
    pub const COUNT: usize = 0x90;
    /// DMA command.
    pub const COMMAND: usize = 0x98;
    /// The internal buffer's address on the device's side.
    pub const BUFFER: u64 = 0x40000;
}
use reg::*;

/// Bytes of the internal buffer. Addresses past it corrupt the emulator, so [`start`] refuses them.
pub const BUFFER_LEN: u64 = 4096;
const GO: u64 = 1;
const TO_MEMORY: u64 = 2;

/// Which way a DMA goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Memory to the internal buffer.
    FromMemory,
    /// Internal buffer to memory.
    ToMemory,
}

/// Starts a DMA between `iova` and byte `inside` of the internal buffer.
///
/// # Errors
/// If the range leaves the internal buffer; nothing was written.
pub fn start(bar: &dyn Bar, iova: u64, inside: u64, count: u64, direction: Direction) -> Result<u64, &'static str> {
    if count == 0 || inside.checked_add(count).is_none_or(|end| end > BUFFER_LEN) {
        return Err("a DMA outside edu's buffer");
    }
    let inside = BUFFER + inside;
    let (source, destination, command) = match direction {
        Direction::FromMemory => (iova, inside, GO),
        Direction::ToMemory => (inside, iova, GO | TO_MEMORY),
    };
    bar.w64(SOURCE, source);
    bar.w64(DESTINATION, destination);
    bar.w64(COUNT, count);
    bar.w64(COMMAND, command);
    Ok(4)
}

/// Whether a DMA is under way.
pub fn busy(bar: &dyn Bar) -> bool {
    bar.r64(COMMAND) & GO != 0
}

/// What the driver knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cycle {
    /// Cycles begun.
    number: u64,
    /// 0 idle, 1 reading A, 2 writing B.
    step: u8,
    /// Cycles whose pages were equal, and those whose were not.
    pub good: u64,
    /// See `good`.
    pub bad: u64,
}

/// The driver.
pub struct Driver {
    region: Region,
    iova: u64,
    cycle: Cycle,
    register_writes: u64,
    next_at: u64,
}

/// Pause between two cycles in nanoseconds.
const PAUSE: u64 = 50_000_000;

impl Driver {
    /// Nothing begun.
    pub fn new(region: Region, iova: u64) -> Self {
        Self { region, iova, cycle: Cycle { number: 0, step: 0, good: 0, bad: 0 }, register_writes: 0, next_at: 0 }
    }
    /// Goes on where another one stopped. Writes nothing.
    ///
    /// # Errors
    /// What is wrong with `cycle`, in words.
    pub fn adopt(region: Region, iova: u64, cycle: Cycle) -> Result<Self, &'static str> {
        if cycle.step > 2 {
            return Err("an edu step that does not exist");
        }
        Ok(Self { region, iova, cycle, register_writes: 0, next_at: 0 })
    }
    /// What moves with the device.
    pub fn cycle(&self) -> &Cycle {
        &self.cycle
    }
    /// Registers written so far.
    pub fn register_writes(&self) -> u64 {
        self.register_writes
    }
    fn pages(&self, layout: &Layout) -> (u32, u32) {
        let at = (self.cycle.number * 2) as usize;
        (layout.edu[at % layout.edu.len()], layout.edu[(at + 1) % layout.edu.len()])
    }
    fn start(&mut self, bar: &dyn Bar, page: u32, direction: Direction) {
        let iova = self.iova + u64::from(page) * PAGE as u64;
        // whole pages at offset 0 always fit
        self.register_writes += start(bar, iova, 0, PAGE as u64, direction).unwrap_or(0);
    }
    /// Does what can be done now, without waiting. `now` in nanoseconds.
    pub fn step(&mut self, bar: &dyn Bar, layout: &Layout, now: u64) {
        if (self.cycle.step == 0 && now < self.next_at) || (self.cycle.step != 0 && busy(bar)) {
            return;
        }
        let (a, b) = self.pages(layout);
        match self.cycle.step {
            0 => {
                let number = self.cycle.number;
                self.region.fill_page(a, |at| number << 16 | at as u64);
                self.start(bar, a, Direction::FromMemory);
                self.cycle.step = 1;
            }
            1 => {
                self.start(bar, b, Direction::ToMemory);
                self.cycle.step = 2;
            }
            _ => {
                let (mut one, mut other) = ([0; PAGE], [0; PAGE]);
                self.region.read_page(a, &mut one);
                self.region.read_page(b, &mut other);
                let equal = one == other;
                self.cycle.good += u64::from(equal);
                self.cycle.bad += u64::from(!equal);
                self.cycle.number += 1;
                self.cycle.step = 0;
                self.next_at = now + PAUSE;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Registers;

    #[test]
    fn a_dma_outside_the_buffer_is_refused_before_any_register() {
        let bar = Registers::default();
        for (inside, count) in [(0, 4097), (4096, 1), (1, 4096), (u64::MAX, 2), (0, 0)] {
            assert!(start(&bar, 0x1000, inside, count, Direction::ToMemory).is_err(), "{inside} {count}");
        }
        assert_eq!(bar.written(), []);
        assert_eq!(start(&bar, 0x1000, 4095, 1, Direction::ToMemory), Ok(4));
        assert_eq!(bar.written(), [(0x80, 0x40fff), (0x88, 0x1000), (0x90, 1), (0x98, 3)]);
    }
}
