//! Configuration spaces built byte by byte from PCIe 6.0 section 7.
#![allow(dead_code)]

use iommu_types::StreamId;
use pci::ConfigSpace;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub fn at(bus: u8, device: u8, function: u8) -> StreamId {
    StreamId::pci(0, bus, device, function)
}

/// One function: bytes, which bits a write changes, and what the last capability was so that the next one can be linked.
#[derive(Clone)]
pub struct Function {
    pub bytes: Vec<u8>,
    pub writable: Vec<u8>,
    tail: Option<usize>,
    extended_tail: Option<usize>,
    /// Offset of the register pair with the reset bit, and how long the function is away after a reset, in ns.
    pub reset: Option<(usize, u64)>,
    pub away_until: u64,
    pub resets: u32,
}

impl Function {
    pub fn new(vendor: u16, device: u16, class: u32) -> Self {
        let mut out = Self {
            bytes: vec![0; 4096],
            writable: vec![0; 4096],
            tail: None,
            extended_tail: None,
            reset: None,
            away_until: 0,
            resets: 0,
        };
        out.put(0, 2, vendor.into());
        out.put(2, 2, device.into());
        out.put(8, 4, class << 8 | 1);
        out.writable[4..6].copy_from_slice(&0x0407u16.to_le_bytes());
        out.writable[0x3c] = 0xff;
        out
    }

    pub fn put(&mut self, offset: usize, width: usize, value: u32) -> &mut Self {
        self.bytes[offset..offset + width].copy_from_slice(&value.to_le_bytes()[..width]);
        self
    }

    pub fn get(&self, offset: usize, width: usize) -> u32 {
        let mut raw = [0; 4];
        raw[..width].copy_from_slice(&self.bytes[offset..offset + width]);
        u32::from_le_bytes(raw)
    }

    pub fn multi(mut self) -> Self {
        self.bytes[0x0e] |= 0x80;
        self
    }

    pub fn bridge(mut self, primary: u8, secondary: u8, subordinate: u8) -> Self {
        self.bytes[0x0e] |= 1;
        self.bytes[0x18..0x1b].copy_from_slice(&[primary, secondary, subordinate]);
        self
    }

    /// A BAR: `flags` are its read-only low bits.
    pub fn bar(mut self, index: usize, base: u64, size: u64, flags: u32) -> Self {
        let wide = flags & 6 == 4;
        let mask = !(size - 1);
        let offset = 0x10 + 4 * index;
        self.put(offset, 4, base as u32 | flags);
        self.writable[offset..offset + 4].copy_from_slice(&(mask as u32).to_le_bytes());
        if wide {
            self.put(offset + 4, 4, (base >> 32) as u32);
            self.writable[offset + 4..offset + 8].copy_from_slice(&((mask >> 32) as u32).to_le_bytes());
        }
        self
    }

    /// A capability of `body` bytes behind the link, at `offset`.
    pub fn cap(mut self, id: u8, offset: usize, body: &[u8]) -> Self {
        self.bytes[6] |= 0x10;
        let link = self.tail.map_or(0x34, |tail| tail + 1);
        self.bytes[link] = offset as u8;
        self.bytes[offset] = id;
        self.bytes[offset + 1] = 0;
        self.bytes[offset + 2..offset + 2 + body.len()].copy_from_slice(body);
        self.tail = Some(offset);
        self
    }

    /// PCI Express capability, version 2, of this port type; with function level reset if asked.
    pub fn express(self, port: u16, flr: bool) -> Self {
        let mut body = vec![0; 0x3a];
        body[0..2].copy_from_slice(&(2 | port << 4).to_le_bytes());
        body[2..6].copy_from_slice(&(u32::from(flr) << 28).to_le_bytes());
        let mut out = self.cap(0x10, 0xa0, &body);
        out.writable[0xa8..0xaa].copy_from_slice(&[0xff, 0x7f]);
        out.writable[0xb0] = 0xff;
        out.writable[0xc8] = 0xff;
        if flr {
            out.reset = Some((0xa9, 0));
        }
        out
    }

    /// An extended capability.
    pub fn ext(mut self, id: u16, offset: usize, body: &[u8]) -> Self {
        // The list begins at 0x100; real cards have error reporting there.
        if self.extended_tail.is_none() && offset != 0x100 {
            self.put(0x100, 4, 1 | 2 << 16);
            self.extended_tail = Some(0x100);
        }
        if let Some(tail) = self.extended_tail {
            let head = self.get(tail, 4) & 0xf_ffff | (offset as u32) << 20;
            self.put(tail, 4, head);
        }
        self.put(offset, 4, u32::from(id) | 1 << 16);
        self.bytes[offset + 4..offset + 4 + body.len()].copy_from_slice(body);
        self.extended_tail = Some(offset);
        self
    }

    /// Access control services with these capability bits, all off.
    pub fn acs(self, offset: usize, capable: u16) -> Self {
        let raw = capable.to_le_bytes();
        let mut out = self.ext(0x0d, offset, &[raw[0], raw[1], 0, 0]);
        out.writable[offset + 6..offset + 8].copy_from_slice(&raw);
        out
    }
}

pub fn endpoint(vendor: u16, device: u16) -> Function {
    Function::new(vendor, device, 0x02_0000).express(0, true)
}

pub fn port(kind: u16, primary: u8, secondary: u8, subordinate: u8) -> Function {
    Function::new(0x1b36, 0x000c, 0x06_0400).bridge(primary, secondary, subordinate).express(kind, false)
}

/// A machine of functions; time moves when someone waits.
#[derive(Default)]
pub struct Fake {
    pub functions: Mutex<BTreeMap<u32, Function>>,
    pub now: AtomicU64,
    pub log: Mutex<Vec<(StreamId, u16, u32)>>,
}

impl Fake {
    pub fn new(list: Vec<(StreamId, Function)>) -> Self {
        let functions = list.into_iter().map(|(at, function)| (at.id, function)).collect();
        Self { functions: Mutex::new(functions), ..Self::default() }
    }

    pub fn get(&self, at: StreamId, offset: usize, width: usize) -> u32 {
        self.functions.lock().unwrap()[&at.id].get(offset, width)
    }

    fn write(&self, at: StreamId, offset: u16, raw: &[u8]) {
        assert_eq!(usize::from(offset) % raw.len(), 0, "aligned");
        let mut word = [0; 4];
        word[..raw.len()].copy_from_slice(raw);
        self.log.lock().unwrap().push((at, offset, u32::from_le_bytes(word)));
        let mut functions = self.functions.lock().unwrap();
        let Some(function) = functions.get_mut(&at.id) else { return };
        let now = self.now.load(Ordering::Relaxed);
        if now < function.away_until {
            return;
        }
        for (index, byte) in raw.iter().enumerate() {
            let place = usize::from(offset) + index;
            let mask = function.writable[place];
            function.bytes[place] = function.bytes[place] & !mask | byte & mask;
            if let Some((register, away)) = function.reset
                && register == place
                && byte & 0x80 != 0
            {
                // Everything software can write is zero after a reset.
                let writable = function.writable.clone();
                for (byte, mask) in function.bytes.iter_mut().zip(writable) {
                    *byte &= !mask;
                }
                function.away_until = now.saturating_add(away);
                function.resets += 1;
            }
        }
    }
}

impl ConfigSpace for Fake {
    fn read32(&self, at: StreamId, offset: u16) -> u32 {
        assert_eq!(offset & 3, 0, "aligned");
        assert!(offset < 4096);
        let functions = self.functions.lock().unwrap();
        match functions.get(&at.id) {
            Some(function) if self.now.load(Ordering::Relaxed) >= function.away_until => function.get(offset.into(), 4),
            _ => u32::MAX,
        }
    }
    fn write8(&self, at: StreamId, offset: u16, value: u8) {
        self.write(at, offset, &[value]);
    }
    fn write16(&self, at: StreamId, offset: u16, value: u16) {
        self.write(at, offset, &value.to_le_bytes());
    }
    fn write32(&self, at: StreamId, offset: u16, value: u32) {
        self.write(at, offset, &value.to_le_bytes());
    }
}

impl device_api::Clock for Fake {
    fn now_ns(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }
    fn relax(&self) {
        self.now.fetch_add(1_000_000, Ordering::Relaxed);
    }
}
// By reference too: a function keeps its clock.
impl device_api::Clock for &Fake {
    fn now_ns(&self) -> u64 {
        (**self).now_ns()
    }
    fn relax(&self) {
        (**self).relax();
    }
}
