//! Driver of the 82576 (igb): one receive and one transmit ring, polled. Register and descriptor layouts: Intel 82576
//! datasheet, sections 7.1 (receive), 7.2 (transmit) and 8 (registers).
//!
//! Everything the driver knows is in [`Rings`], which moves with the devices. Registers are only written by
//! [`Driver::start`] and [`Driver::ring`]; all else works on memory, so that it can be used while the device stands still.

use crate::{
    layout::{CONTROL, Layout},
    memory::{Bar, Region},
};
use migrate_wire::PAGE;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};

/// Registers, by byte offset in BAR 0.
pub mod reg {
    /// Device control.
    pub const CTRL: usize = 0x0000;
    /// Device status.
    pub const STATUS: usize = 0x0008;
    /// MDI control: access to the PHY.
    pub const MDIC: usize = 0x0020;
    /// Receive control.
    pub const RCTL: usize = 0x0100;
    /// Transmit control.
    pub const TCTL: usize = 0x0400;
    /// Interrupt mask clear.
    pub const IMC: usize = 0x150C;
    /// Receive address 0, low.
    pub const RAL0: usize = 0x5400;
    /// Receive address 0, high.
    pub const RAH0: usize = 0x5404;
    /// Receive ring 0: base, low.
    pub const RDBAL: usize = 0xC000;
    /// Base, high.
    pub const RDBAH: usize = 0xC004;
    /// Length in bytes.
    pub const RDLEN: usize = 0xC008;
    /// Split and replication control: buffer size, descriptor type.
    pub const SRRCTL: usize = 0xC00C;
    /// Head.
    pub const RDH: usize = 0xC010;
    /// Tail.
    pub const RDT: usize = 0xC018;
    /// Queue control.
    pub const RXDCTL: usize = 0xC028;
    /// Transmit ring 0: base, low.
    pub const TDBAL: usize = 0xE000;
    /// Base, high.
    pub const TDBAH: usize = 0xE004;
    /// Length in bytes.
    pub const TDLEN: usize = 0xE008;
    /// Head.
    pub const TDH: usize = 0xE010;
    /// Tail.
    pub const TDT: usize = 0xE018;
    /// Queue control.
    pub const TXDCTL: usize = 0xE028;
}
use reg::*;

const CTRL_SLU: u32 = 1 << 6;
const STATUS_LU: u32 = 1 << 1;
const RCTL_EN: u32 = 1 << 1;
const RCTL_BAM: u32 = 1 << 15;
const RCTL_SECRC: u32 = 1 << 26;
const TCTL_EN: u32 = 1 << 1;
const TCTL_PSP: u32 = 1 << 3;
const QUEUE_ENABLE: u32 = 1 << 25;
/// Buffers of 2 KiB (BSIZEPACKET in KiB), advanced descriptors with one buffer (DESCTYPE 1).
const SRRCTL_VALUE: u32 = 2 | 1 << 25;
/// PHY address 1, register 0, write: what it has after a reset (negotiate, full duplex, 1000 Mbit/s) and restart (IEEE 802.3
/// clause 22.2.4.1). Other values would be a difference that the other machine's PHY has to negotiate for, when it is in a hurry.
const MDIC_RESTART: u32 = 1 << 26 | 1 << 21 | 0x1140 | 0x0200;

/// Receive descriptors: two pages. More than the largest window, so that a held writer loses no frame.
pub const RX_RING: u32 = 512;
/// Transmit descriptors: the size of their buffers' two pages decides.
pub const TX_RING: u32 = 64;
/// Bytes of one transmit buffer.
pub const TX_BUFFER: usize = 128;
/// Most bytes of a received frame that are looked at.
pub const RX_BUFFER: usize = 2048;

const RX_AT: usize = 0;
const TX_AT: usize = 2 * PAGE;
const TX_BUFFERS_AT: usize = 3 * PAGE;
const _: () = assert!(TX_BUFFERS_AT + TX_RING as usize * TX_BUFFER <= CONTROL as usize * PAGE);

/// DD in the write-back forms: descriptor done. Receive: bit 0 of the second word; transmit: bit 0 of its upper half.
const RX_DONE: u64 = 1;
const TX_DONE: u64 = 1 << 32;
/// DTYP 3 (data), DEXT, RS, IFCS, EOP.
const TX_DATA: u64 = 0b0011 << 20 | 1 << 29 | 1 << 27 | 1 << 25 | 1 << 24;

/// The driver's knowledge of the rings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rings {
    /// Receive descriptor to look at next.
    rx_next: u32,
    /// Tail that the device was told, and the one it should be told.
    rx_tail: u32,
    rx_told: u32,
    /// Place in the rotation of receive buffers.
    rotation: u64,
    /// Page behind each receive descriptor.
    rx_page: Vec<u32>,
    /// Transmit descriptor to fill next, oldest one not done, and the tail the device was told.
    tx_next: u32,
    tx_oldest: u32,
    tx_told: u32,
}

/// The driver.
pub struct Driver {
    region: Region,
    iova: u64,
    rings: Rings,
    register_writes: u64,
}

impl Driver {
    /// A driver whose device was not started.
    pub fn new(region: Region, iova: u64) -> Self {
        let rings = Rings {
            rx_next: 0,
            rx_tail: 0,
            rx_told: 0,
            rotation: 0,
            rx_page: vec![0; RX_RING as usize],
            tx_next: 0,
            tx_oldest: 0,
            tx_told: 0,
        };
        Self { region, iova, rings, register_writes: 0 }
    }

    /// A driver that goes on where another one stopped. Writes nothing.
    ///
    /// # Errors
    /// What is wrong with `rings`, in words.
    pub fn adopt(region: Region, iova: u64, rings: Rings) -> Result<Self, &'static str> {
        let inside = |at: u32, ring: u32| at < ring;
        if rings.rx_page.len() != RX_RING as usize || rings.rx_page.iter().any(|page| *page >= region.pages()) {
            return Err("receive buffers outside the region");
        }
        if ![rings.rx_next, rings.rx_tail, rings.rx_told].iter().all(|at| inside(*at, RX_RING))
            || ![rings.tx_next, rings.tx_oldest, rings.tx_told].iter().all(|at| inside(*at, TX_RING))
        {
            return Err("a ring position outside its ring");
        }
        Ok(Self { region, iova, rings, register_writes: 0 })
    }

    /// What moves with the device.
    pub fn rings(&self) -> &Rings {
        &self.rings
    }
    /// Registers written so far.
    pub fn register_writes(&self) -> u64 {
        self.register_writes
    }
    fn w32(&mut self, bar: &dyn Bar, at: usize, value: u32) {
        self.register_writes += 1;
        bar.w32(at, value);
    }
    fn rx(&self, index: u32, word: usize) -> &'static AtomicU64 {
        self.region.word(RX_AT + index as usize * 16 + word * 8)
    }
    fn tx(&self, index: u32, word: usize) -> &'static AtomicU64 {
        self.region.word(TX_AT + index as usize * 16 + word * 8)
    }

    /// Brings a freshly reset device up: rings armed, link requested. The link follows about half a second later.
    pub fn start(&mut self, bar: &dyn Bar, layout: &Layout) {
        for index in 0..RX_RING - 1 {
            self.arm(index, layout);
        }
        self.rings.rx_tail = RX_RING - 1;
        for index in 0..TX_RING {
            self.tx(index, 0).store(0, Ordering::Relaxed);
            self.tx(index, 1).store(0, Ordering::Relaxed);
        }
        let (rx, tx) = (self.iova + RX_AT as u64, self.iova + TX_AT as u64);
        let ctrl = bar.r32(CTRL);
        for (at, value) in [
            (IMC, !0),
            (CTRL, ctrl | CTRL_SLU),
            (RDBAL, rx as u32),
            (RDBAH, (rx >> 32) as u32),
            (RDLEN, RX_RING * 16),
            (SRRCTL, SRRCTL_VALUE),
            (RDH, 0),
            (RXDCTL, QUEUE_ENABLE),
            (RCTL, RCTL_EN | RCTL_BAM | RCTL_SECRC),
            (RDT, self.rings.rx_tail),
            (TDBAL, tx as u32),
            (TDBAH, (tx >> 32) as u32),
            (TDLEN, TX_RING * 16),
            (TDH, 0),
            (TDT, 0),
            (TXDCTL, QUEUE_ENABLE),
            (TCTL, TCTL_EN | TCTL_PSP),
        ] {
            self.w32(bar, at, value);
        }
        self.rings.rx_told = self.rings.rx_tail;
        if !self.link(bar) {
            self.restart_link(bar);
        }
    }

    /// Whether the link is up.
    pub fn link(&self, bar: &dyn Bar) -> bool {
        bar.r32(STATUS) & STATUS_LU != 0
    }
    /// Asks the PHY to negotiate again, for a link that does not come.
    pub fn restart_link(&mut self, bar: &dyn Bar) {
        self.w32(bar, MDIC, MDIC_RESTART);
    }
    /// The card's address, out of receive address 0.
    pub fn mac(&self, bar: &dyn Bar) -> [u8; 6] {
        let (low, high) = (bar.r32(RAL0).to_le_bytes(), bar.r32(RAH0).to_le_bytes());
        [low[0], low[1], low[2], low[3], high[0], high[1]]
    }

    /// Puts the next page of the rotation behind a descriptor.
    fn arm(&mut self, index: u32, layout: &Layout) {
        let page = layout.receive[(self.rings.rotation % layout.receive.len() as u64) as usize];
        self.rings.rotation += 1;
        self.rings.rx_page[index as usize] = page;
        self.rx(index, 1).store(0, Ordering::Relaxed);
        self.rx(index, 0).store(self.iova + u64::from(page) * PAGE as u64, Ordering::Release);
    }

    /// Takes the next received frame, if there is one: copies it to `out` and returns its length. Its buffer is replaced by
    /// the next of the rotation, in memory; [`ring`](Self::ring) tells the device.
    pub fn receive(&mut self, out: &mut [u8; RX_BUFFER], layout: &Layout) -> Option<usize> {
        let index = self.rings.rx_next;
        let done = self.rx(index, 1).load(Ordering::Acquire);
        if done & RX_DONE == 0 {
            return None;
        }
        // the device states the length; it is hardware's word and so it is bounded
        let length = ((done >> 32) as usize & 0xFFFF).min(RX_BUFFER);
        self.region.read(self.rings.rx_page[index as usize] as usize * PAGE, &mut out[..length]);
        // the descriptor at the tail is the one that was never given: it gets a buffer now, and this one becomes the gap
        self.rx(index, 1).store(0, Ordering::Relaxed);
        self.arm(self.rings.rx_tail, layout);
        self.rings.rx_tail = (self.rings.rx_tail + 1) % RX_RING;
        self.rings.rx_next = (index + 1) % RX_RING;
        Some(length)
    }

    /// Queues a frame of at most [`TX_BUFFER`] bytes, in memory; [`ring`](Self::ring) tells the device. False if the ring is full.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        while self.rings.tx_oldest != self.rings.tx_next
            && self.tx(self.rings.tx_oldest, 1).load(Ordering::Acquire) & TX_DONE != 0
        {
            self.rings.tx_oldest = (self.rings.tx_oldest + 1) % TX_RING;
        }
        let index = self.rings.tx_next;
        if (index + 1) % TX_RING == self.rings.tx_oldest || frame.len() > TX_BUFFER {
            return false;
        }
        let at = TX_BUFFERS_AT + index as usize * TX_BUFFER;
        self.region.write(at, frame);
        self.tx(index, 0).store(self.iova + at as u64, Ordering::Relaxed);
        // PAYLEN, bits 31:14 of the upper half
        let length = frame.len() as u64;
        self.tx(index, 1).store(TX_DATA | length | length << 46, Ordering::Release);
        self.rings.tx_next = (index + 1) % TX_RING;
        true
    }

    /// Tells the device about new receive buffers and frames to send.
    pub fn ring(&mut self, bar: &dyn Bar) {
        if self.rings.rx_tail != self.rings.rx_told {
            self.rings.rx_told = self.rings.rx_tail;
            self.w32(bar, RDT, self.rings.rx_tail);
        }
        if self.rings.tx_next != self.rings.tx_told {
            self.rings.tx_told = self.rings.tx_next;
            self.w32(bar, TDT, self.rings.tx_next);
        }
    }
}
