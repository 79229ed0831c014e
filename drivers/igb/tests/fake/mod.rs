//! A card that behaves as the 82576 datasheet says where the driver relies on it: registers with their reset values, link
//! after negotiation, rings that advance, statistics that a read clears, requests only while bus mastering is on.

use device_api::{Bar, Clock, Cx, Error, Function, Ids, MsixTable, PageBytes, Services, Width};
use iommu_types::{Iova, StreamId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

pub const STREAM: StreamId = StreamId::pci(0, 1, 0, 0);
pub const MS: u64 = 1_000_000;
pub const ENABLE: u32 = 1 << 25;

/// How a card differs from a good one.
#[derive(Default)]
pub struct Faults {
    pub gone: bool,
    /// Bits that go on reading as 1 whatever is written: (register, bits).
    pub sticky: Option<(u64, u32)>,
    /// A register that reads as 0 whatever is written.
    pub dead: Option<u64>,
    /// Switching a receive queue on sets its head to 0.
    pub head_restarts: bool,
    /// Never gets a link.
    pub no_cable: bool,
    /// Transmits nothing.
    pub no_transmit: bool,
    pub no_reset: bool,
}

pub struct Card {
    pub command: u16,
    pub registers: BTreeMap<u64, u32>,
    pub phy: BTreeMap<u32, u16>,
    link_at: Option<u64>,
    pub faults: Faults,
    /// Writes since the last look: (register, value); register 0x1_0000 is bus mastering.
    pub log: Vec<(u64, u32)>,
    /// Descriptors of queue 0 that frames went to.
    pub received: Vec<u32>,
    pub sent: u32,
    pub statistics: u32,
    pub resets: u32,
    mac: [u32; 2],
}

pub const BUS_MASTER: u64 = 0x1_0000;

impl Card {
    fn reset(&mut self) {
        self.registers.clear();
        self.phy.clear();
        self.link_at = None;
        let defaults = [(0x0, 0x0010_0209), (0x8, 0x8000_0481), (0x38, 0x8100_8100), (0x5004, 0x2600), (0x0c8c, 0xff)];
        self.registers.extend(defaults);
        self.registers.extend([
            (0x5400, self.mac[0]),
            (0x5404, self.mac[1]),
            (0xc028, ENABLE | 1 << 16),
            (0xe028, ENABLE),
        ]);
        self.phy.extend([(0, 0x1140), (4, 0x0de1), (9, 0x0f00)]);
        self.statistics = 0;
    }

    pub fn get(&self, register: u64) -> u32 {
        self.registers.get(&register).copied().unwrap_or(0)
    }

    fn status(&self, now: u64) -> u32 {
        let up = self.link_at.is_some_and(|at| now >= at) && !self.faults.no_cable;
        let master = if self.get(0) & 4 == 0 { 1 << 19 } else { 0 };
        self.get(8) & !2 | u32::from(up) << 1 | master
    }

    fn transmit(&mut self, queue: u64) {
        let first = 0xe000 + 0x40 * queue;
        let on = self.get(0x400) & 2 != 0 && self.get(first + 0x28) & ENABLE != 0;
        if on && self.command & 4 != 0 && !self.faults.no_transmit {
            let (head, tail) = (self.get(first + 0x10), self.get(first + 0x18));
            let count = self.get(first + 8) / 16;
            if count != 0 {
                self.sent += (tail + count - head) % count;
                self.registers.insert(first + 0x10, tail);
            }
        }
    }
}

pub struct Machine {
    card: Mutex<Card>,
    now: AtomicU64,
}

impl Machine {
    pub fn new(last_byte: u8) -> Self {
        let mut card = Card {
            command: 0x0003,
            registers: BTreeMap::new(),
            phy: BTreeMap::new(),
            link_at: None,
            faults: Faults::default(),
            log: Vec::new(),
            received: Vec::new(),
            sent: 0,
            statistics: 0,
            resets: 0,
            mac: [0x1100_5452, 0x8000_0022 | u32::from(last_byte) << 8],
        };
        card.reset();
        Self { card: Mutex::new(card), now: AtomicU64::new(0) }
    }

    pub fn card(&self) -> MutexGuard<'_, Card> {
        self.card.lock().unwrap()
    }

    pub fn cx(&self) -> Cx<'_> {
        Cx { function: self, services: self }
    }

    pub fn pass(&self, ns: u64) {
        self.now.fetch_add(ns, Ordering::Relaxed);
    }

    /// A frame on the wire: goes to queue 0, or is lost.
    pub fn frame(&self) -> bool {
        let now = self.now_ns();
        let mut card = self.card();
        let (head, tail, count) = (card.get(0xc010), card.get(0xc018), card.get(0xc008) / 16);
        let on = card.status(now) & 2 != 0 && card.get(0x100) & 2 != 0 && card.get(0xc028) & ENABLE != 0;
        if !on || count == 0 || head == tail {
            return false;
        }
        assert!(card.command & 4 != 0, "a frame would be written without bus mastering: the descriptor is lost");
        card.received.push(head);
        card.registers.insert(0xc010, (head + 1) % count);
        card.statistics += 1;
        true
    }
}

impl Function for Machine {
    fn stream(&self) -> StreamId {
        STREAM
    }
    fn ids(&self) -> Ids {
        Ids { vendor: 0x8086, device: 0x10c9, subsystem_vendor: 0, subsystem: 0, revision: 1, class: 0x02_0000 }
    }
    fn config_len(&self) -> u16 {
        4096
    }
    fn config_read(&self, offset: u16, out: &mut [u8]) {
        assert_eq!((offset, out.len()), (4, 2));
        out.copy_from_slice(&self.card().command.to_le_bytes());
    }
    fn config_write(&self, _: u16, _: &[u8]) {
        panic!("the driver uses bus_master()");
    }
    fn bars(&self) -> [Option<Bar>; 6] {
        [None; 6]
    }
    fn bar_read(&self, bar: u8, offset: u64, width: Width) -> Result<u64, Error> {
        assert_eq!((bar, width), (0, Width::W32));
        let now = self.now_ns();
        let mut card = self.card();
        if card.faults.gone {
            return Ok(0xffff_ffff);
        }
        let mut value = match offset {
            0x8 => card.status(now),
            0xd8 => card.get(0xd0),
            // Reading these clears them, so nobody may read them while state is collected.
            0x4000..0x4200 | 0xc0 | 0x1580 => {
                card.statistics = 0;
                0
            }
            0xa000..0xa200 => 0,
            _ => card.get(offset),
        };
        if let Some((register, bits)) = card.faults.sticky
            && register == offset
        {
            value |= bits;
        }
        if card.faults.dead == Some(offset) {
            value = 0;
        }
        Ok(value.into())
    }
    fn bar_write(&self, bar: u8, offset: u64, width: Width, value: u64) -> Result<(), Error> {
        assert_eq!((bar, width), (0, Width::W32));
        let now = self.now_ns();
        let mut card = self.card();
        let mut value = value as u32;
        card.log.push((offset, value));
        match offset {
            0x0 => value &= !(1 << 26),
            0x20 => {
                let register = (value >> 16) & 31;
                if value >> 26 & 3 == 2 {
                    value = value & !0xffff | u32::from(card.phy.get(&register).copied().unwrap_or(0));
                } else {
                    card.phy.insert(register, value as u16 & if register == 0 { !0x823f } else { !0 });
                    if register == 0 && value & 0x1200 == 0x1200 {
                        card.link_at = Some(now + 500 * MS);
                    }
                }
                value |= 1 << 28;
            }
            0xd0 | 0x1524 => value |= card.get(offset),
            0xd8 => {
                let mask = card.get(0xd0) & !value;
                card.registers.insert(0xd0, mask);
                return Ok(());
            }
            0x1528 => {
                let mask = card.get(0x1524) & !value;
                card.registers.insert(0x1524, mask);
                return Ok(());
            }
            0xc028 if value & ENABLE != 0 && card.get(0xc028) & ENABLE == 0 && card.faults.head_restarts => {
                card.registers.insert(0xc010, 0);
            }
            _ => {}
        }
        card.registers.insert(offset, value);
        if (0xe000..0xe400).contains(&offset) && offset & 0x3f == 0x18 {
            card.transmit((offset - 0xe000) / 0x40);
        }
        Ok(())
    }
    fn can_reset(&self) -> Result<(), &'static str> {
        Ok(())
    }
    fn reset(&self) -> Result<(), Error> {
        let mut card = self.card();
        if card.faults.no_reset {
            return Err(Error::Unsupported("no function level reset"));
        }
        card.reset();
        card.command &= !4;
        card.resets += 1;
        Ok(())
    }
    fn bus_master(&self, on: bool) {
        let mut card = self.card();
        card.command = if on { card.command | 4 } else { card.command & !4 };
        card.log.push((BUS_MASTER, on.into()));
    }
    fn msix(&self) -> Option<MsixTable> {
        None
    }
}

impl Clock for Machine {
    fn now_ns(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }
    fn relax(&self) {
        self.pass(MS);
    }
}

impl Services for Machine {
    fn with_private_page(&self, _: &mut dyn FnMut(Iova, &dyn PageBytes) -> Result<(), Error>) -> Result<(), Error> {
        panic!("the card needs no private page");
    }
}
