//! Configuration space as a program sees it.
//!
//! Deny by default: a program reads the header and the capabilities of a short list (power management, PCI Express,
//! vendor, AF, AER, serial number); everything else reads as zero and is skipped in the chains: MSI and MSI-X (interrupts
//! are not given to programs yet), and what would reach past the function (ATS, PRI, PASID, ACS, SR-IOV, VPD). It writes
//! the command and status registers, its BARs (whose values are its own: the function stays where it is) and the interrupt
//! line; every other write is dropped, as by a read-only register.

use alloc::vec::Vec;
use device_api::{Bar, BarKind, Function};

/// Command register bits (PCIe 6.0 section 7.5.1.1.3).
pub(crate) mod command {
    pub const IO: u16 = 1;
    pub const MEMORY: u16 = 1 << 1;
    pub const MASTER: u16 = 1 << 2;
    pub const PARITY: u16 = 1 << 6;
    pub const SERR: u16 = 1 << 8;
    pub const INTX_DISABLE: u16 = 1 << 10;
    /// What a program can set.
    pub const PROGRAM: u16 = IO | MEMORY | MASTER | PARITY | SERR | INTX_DISABLE;
}

const COMMAND: u16 = 0x04;
const STATUS: u16 = 0x06;
/// Status bits that a 1 clears (7.5.1.1.4).
const STATUS_CLEAR: u16 = 0xf900;
const HEADER_TYPE: u16 = 0x0e;
const BARS: u16 = 0x10;
const BARS_END: u16 = 0x28;
const ROM: u16 = 0x30;
const FIRST_CAPABILITY: u16 = 0x34;
const LINE: u16 = 0x3c;
const PIN: u16 = 0x3d;
const HEADER_END: u16 = 0x40;
const EXTENDED: u16 = 0x100;

/// One visible capability, with the chain closed over the hidden ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Capability {
    at: u16,
    length: u16,
    next: u16,
}

/// Which bytes a program sees. Made once per function.
#[derive(Debug, Default)]
pub(crate) struct View {
    first: u8,
    standard: Vec<Capability>,
    extended: Vec<Capability>,
    length: u16,
}

fn byte(function: &dyn Function, at: u16) -> u8 {
    let mut raw = [0xff];
    function.config_read(at, &mut raw);
    raw[0]
}

/// Bytes of a standard capability that a program may see; `None` hides it.
fn standard_length(function: &dyn Function, id: u8, at: u16) -> Option<u16> {
    match id {
        0x01 => Some(8),                                                  // power management
        0x09 => Some(byte(function, at.saturating_add(2)).max(3).into()), // vendor
        0x0d => Some(8),                                                  // bridge subsystem ids
        0x10 => Some(60),                                                 // PCI Express
        0x13 => Some(6),                                                  // advanced features
        _ => None,
    }
}

fn extended_length(id: u16) -> Option<u16> {
    match id {
        0x0001 => Some(72), // AER
        0x0003 => Some(12), // serial number
        _ => None,
    }
}

/// Points each visible capability at the next visible one, and ends it where another one (hidden or not) starts.
fn chain(all: &mut [Capability], starts: &[u16]) {
    let mut next = 0;
    for capability in all.iter_mut().rev() {
        let behind = starts.iter().filter(|start| **start > capability.at).min();
        capability.length = behind.map_or(capability.length, |start| capability.length.min(start - capability.at));
        capability.next = next;
        next = capability.at;
    }
}

impl View {
    pub(crate) fn new(function: &dyn Function) -> Self {
        let length = function.config_len();
        let mut standard: Vec<Capability> = Vec::new();
        let mut starts: Vec<u16> = Vec::new();
        let mut at = u16::from(byte(function, FIRST_CAPABILITY) & 0xfc);
        // At most 48 fit; a longer chain is a loop.
        for _ in 0..48 {
            if !(HEADER_END..EXTENDED).contains(&at) {
                break;
            }
            starts.push(at);
            let id = byte(function, at);
            if let Some(bytes) = standard_length(function, id, at) {
                standard.push(Capability { at, length: bytes.min(EXTENDED - at), next: 0 });
            }
            at = u16::from(byte(function, at + 1) & 0xfc);
        }
        chain(&mut standard, &starts);
        starts.clear();
        let mut extended: Vec<Capability> = Vec::new();
        let mut at = if length > EXTENDED { EXTENDED } else { 0 };
        for _ in 0..480 {
            if at < EXTENDED || at > length.saturating_sub(4) {
                break;
            }
            let mut raw = [0; 4];
            function.config_read(at, &mut raw);
            let head = u32::from_le_bytes(raw);
            if head == 0 || head == u32::MAX {
                break;
            }
            starts.push(at);
            if let Some(bytes) = extended_length(head as u16) {
                extended.push(Capability { at, length: bytes.min(length - at), next: 0 });
            }
            at = (head >> 20) as u16 & 0xffc;
        }
        chain(&mut extended, &starts);
        let first = standard.first().map_or(0, |capability| capability.at as u8);
        Self { first, standard, extended, length }
    }

    /// Bytes of configuration space.
    pub(crate) fn length(&self) -> u16 {
        self.length
    }

    /// The byte at `at`, given the raw one and what the program set.
    fn byte(&self, at: u16, raw: u8, own: &Own) -> u8 {
        match at {
            COMMAND..STATUS => own.command.to_le_bytes()[usize::from(at - COMMAND)],
            BARS..BARS_END => own.bar_byte(at - BARS),
            ROM..FIRST_CAPABILITY => 0,
            FIRST_CAPABILITY => self.first,
            LINE => own.line,
            // No interrupt pin: interrupts are not given to programs yet.
            PIN => 0,
            HEADER_TYPE => raw & 0x7f,
            ..HEADER_END => raw,
            HEADER_END..EXTENDED => {
                let found = self.standard.iter().find(|c| (c.at..c.at + c.length).contains(&at));
                found.map_or(0, |c| if at == c.at + 1 { c.next as u8 } else { raw })
            }
            _ => {
                let found = self.extended.iter().find(|c| (c.at..c.at + c.length).contains(&at));
                match found {
                    // Next pointer: bits 31:20 of the head; version below it.
                    Some(c) if at == c.at + 2 => raw & 0x0f | (c.next << 4) as u8,
                    Some(c) if at == c.at + 3 => (c.next >> 4) as u8,
                    Some(_) => raw,
                    // The chain starts at 0x100; a hidden first one is an empty head that points on.
                    None if at == EXTENDED + 2 => (self.extended.first().map_or(0, |c| c.at) << 4) as u8,
                    None if at == EXTENDED + 3 => (self.extended.first().map_or(0, |c| c.at) >> 4) as u8,
                    None => 0,
                }
            }
        }
    }

    /// Reads `out.len()` bytes at `at`; the caller clipped them to [`length`](Self::length).
    pub(crate) fn read(&self, function: &dyn Function, own: &Own, at: u16, out: &mut [u8]) {
        function.config_read(at, out);
        for (place, slot) in (at..).zip(out.iter_mut()) {
            *slot = self.byte(place, *slot, own);
        }
    }
}

/// What the program set, and sees again.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub command: u16,
    bars: [u32; 6],
    line: u8,
    kinds: [Option<Bar>; 6],
}

impl Own {
    /// As a program finds it: decoding on, bus mastering off.
    pub(crate) fn new(function: &dyn Function) -> Self {
        let kinds = function.bars();
        let mut own = Self { command: 0, bars: [0; 6], line: 0xff, kinds };
        for (index, bar) in kinds.iter().enumerate() {
            let Some(bar) = bar else { continue };
            own.command |= if bar.kind == BarKind::Io { command::IO } else { command::MEMORY };
            own.set_bar(index, bar.phys.0 as u32);
            if matches!(bar.kind, BarKind::Memory { wide: true, .. }) {
                own.set_bar(index + 1, (bar.phys.0 >> 32) as u32);
            }
        }
        own
    }

    /// Sets the bus master bit as the program sees it.
    pub(crate) fn set_master(&mut self, on: bool) {
        if on {
            self.command |= command::MASTER;
        } else {
            self.command &= !command::MASTER;
        }
    }

    /// Stores what a BAR register would hold after a write of `value`: address bits above the size, and its type.
    fn set_bar(&mut self, index: usize, value: u32) {
        let own = self.kinds.get(index).copied().flatten();
        let low = index.checked_sub(1).and_then(|index| self.kinds.get(index).copied().flatten());
        let stored = match (own, low) {
            (Some(bar), _) => {
                let mask = !(bar.size.saturating_sub(1)) as u32;
                match bar.kind {
                    BarKind::Io => value & mask & !3 | 1,
                    BarKind::Memory { wide, prefetchable } => {
                        value & mask & !0xf | u32::from(wide) << 2 | u32::from(prefetchable) << 3
                    }
                }
            }
            (None, Some(Bar { kind: BarKind::Memory { wide: true, .. }, size, .. })) => {
                value & (!(size.saturating_sub(1)) >> 32) as u32
            }
            _ => 0,
        };
        if let Some(slot) = self.bars.get_mut(index) {
            *slot = stored;
        }
    }

    fn bar_byte(&self, at: u16) -> u8 {
        let value = self.bars.get(usize::from(at / 4)).copied().unwrap_or(0);
        value.to_le_bytes()[usize::from(at % 4)]
    }

    /// Takes a write of `data` at `at`. Returns whether the command register was written, and clears status bits of the
    /// function that were written as 1.
    pub(crate) fn write(&mut self, function: &dyn Function, at: u16, data: &[u8]) -> bool {
        let mut commanded = false;
        let mut clear = [0u8; 2];
        // A BAR is written as a register: the mask must not see half of a new value.
        let mut bars: [Option<u32>; 6] = [None; 6];
        for (place, byte) in (at..).zip(data) {
            match place {
                COMMAND..STATUS => {
                    let mut raw = self.command.to_le_bytes();
                    raw[usize::from(place - COMMAND)] = *byte;
                    self.command = u16::from_le_bytes(raw) & command::PROGRAM;
                    commanded = true;
                }
                STATUS..0x08 => clear[usize::from(place - STATUS)] = *byte,
                BARS..BARS_END => {
                    let (index, inside) = (usize::from((place - BARS) / 4), usize::from((place - BARS) % 4));
                    let Some(slot) = bars.get_mut(index) else { continue };
                    let mut raw = slot.unwrap_or(self.bars.get(index).copied().unwrap_or(0)).to_le_bytes();
                    raw[inside] = *byte;
                    *slot = Some(u32::from_le_bytes(raw));
                }
                LINE => self.line = *byte,
                _ => {}
            }
        }
        for (index, value) in bars.into_iter().enumerate() {
            if let Some(value) = value {
                self.set_bar(index, value);
            }
        }
        let clear = u16::from_le_bytes(clear) & STATUS_CLEAR;
        if clear != 0 {
            function.config_write(STATUS, &clear.to_le_bytes());
        }
        commanded
    }
}
