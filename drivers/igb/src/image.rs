//! The state of a stopped card: read, written as sections, checked, put back.

use crate::port::Port;
use crate::spec::{self, QUEUES, each, queue, total};
use alloc::vec::Vec;
use device_api::Error;
use device_api::state::{Reader, Section, Writer};

/// Vendor << 16 | device.
const KIND: u32 = 0x8086_10c9;
const VERSION: u16 = 1;

/// Numbers of the sections.
mod section {
    pub const CONTROL: u16 = 1;
    pub const PHY: u16 = 2;
    pub const GENERAL: u16 = 3;
    pub const FILTERS: u16 = 4;
    pub const INTERRUPTS: u16 = 5;
    pub const RX: u16 = 6;
    pub const TX: u16 = 7;
    pub const ALL: [u16; 7] = [CONTROL, PHY, GENERAL, FILTERS, INTERRUPTS, RX, TX];
}

/// PCI command bits that are the program's: decoding, bus mastering, interrupt pin.
const COMMAND: u16 = 0x0407;
/// Command register bit 2.
pub const BUS_MASTER: u16 = 1 << 2;
/// Masks in front of [`spec::ROUTES`].
const MASKS: usize = 6;

/// One ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ring {
    pub base: [u32; 2],
    pub length: u32,
    pub head: u32,
    pub tail: u32,
    /// RXDCTL or TXDCTL as the program left it.
    pub control: u32,
    /// SRRCTL (receive), or TDWBAL (transmit).
    pub extra: [u32; 2],
}

impl Ring {
    pub fn enabled(&self) -> bool {
        self.control & spec::QUEUE_ENABLE != 0
    }
    const WORDS: usize = 8;
    fn words(&self) -> [u32; Self::WORDS] {
        let [low, high] = self.base;
        let [first, second] = self.extra;
        [low, high, self.length, self.head, self.tail, self.control, first, second]
    }
    /// What a program can set up and a card can have reached, and no more.
    fn check(section: u16, words: [u32; Self::WORDS]) -> Result<Self, Error> {
        let bad = |reason| Err(Error::BadState { section, reason });
        let [low, high, length, head, tail, control, first, second] = words;
        // Section 8.10.7: a multiple of 128 bytes, at most 512 KiB.
        if length & 0x7f != 0 || length > 0x8_0000 {
            return bad("ring length is no multiple of 128 bytes up to 512 KiB");
        }
        if low & 15 != 0 {
            return bad("ring base is not aligned");
        }
        let count = length / spec::DESCRIPTOR;
        if head > 0xffff || tail > 0xffff || (head >= count && head != 0) {
            return bad("head past the ring");
        }
        if tail > count {
            return bad("tail past the ring");
        }
        Ok(Self { base: [low, high], length, head, tail, control, extra: [first, second] })
    }
}

/// Everything that is saved.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Image {
    /// PCI command register.
    pub command: u16,
    /// The link was up.
    pub link: bool,
    pub ctrl: u32,
    pub ctrl_ext: u32,
    pub rctl: u32,
    pub tctl: u32,
    /// PHY control, advertisement, 1000BASE-T control.
    pub phy: [u16; 3],
    general: Vec<u32>,
    filters: Vec<u32>,
    pub ims: u32,
    pub eims: u32,
    iam: u32,
    gpie: u32,
    eiac: u32,
    eiam: u32,
    routes: Vec<u32>,
    pub rx: [Ring; QUEUES],
    pub tx: [Ring; QUEUES],
}

impl Image {
    /// The settings that stopping changes. Everything else is read by [`complete`](Self::complete) once the card is quiet.
    pub fn controls(port: &Port<'_>) -> Result<Self, Error> {
        let mut out = Self {
            command: port.function.command() & COMMAND,
            link: port.r32(spec::STATUS)? & spec::status::LINK_UP != 0,
            ctrl: port.r32(spec::CTRL)? & !(spec::ctrl::ACTIONS | spec::ctrl::MASTER_DISABLE),
            ctrl_ext: port.r32(spec::CTRL_EXT)? & !spec::ctrl_ext::ACTIONS,
            rctl: port.r32(spec::RCTL)?,
            tctl: port.r32(spec::TCTL)?,
            ..Self::default()
        };
        for (index, (rx, tx)) in out.rx.iter_mut().zip(&mut out.tx).enumerate() {
            rx.control = port.r32(spec::rx(index, queue::CONTROL))?;
            tx.control = port.r32(spec::tx(index, queue::CONTROL))?;
        }
        Ok(out)
    }

    /// Reads the rest of a quiet card. Reads nothing that a read changes.
    pub fn complete(&mut self, port: &Port<'_>) -> Result<(), Error> {
        for (slot, register) in
            self.phy.iter_mut().zip([spec::phy::CONTROL, spec::phy::ADVERTISE, spec::phy::CONTROL_1000])
        {
            *slot = port.phy_read(register)?;
        }
        let list = |runs| each(runs).map(|register| port.r32(register)).collect::<Result<Vec<u32>, Error>>();
        self.general = list(spec::GENERAL)?;
        self.filters = list(spec::FILTERS)?;
        self.routes = list(spec::ROUTES)?;
        self.ims = port.r32(spec::IMS)?;
        self.eims = port.r32(spec::EIMS)?;
        self.iam = port.r32(spec::IAM)?;
        self.gpie = port.r32(spec::GPIE)?;
        self.eiac = port.r32(spec::EIAC)?;
        self.eiam = port.r32(spec::EIAM)?;
        for (index, ring) in self.rx.iter_mut().enumerate() {
            Self::ring(port, ring, spec::rx(index, 0))?;
            ring.extra = [port.r32(spec::rx(index, queue::SPLIT))?, 0];
        }
        for (index, ring) in self.tx.iter_mut().enumerate() {
            Self::ring(port, ring, spec::tx(index, 0))?;
            let back = |register| port.r32(spec::tx(index, register));
            ring.extra = [back(queue::WRITE_BACK_LOW)?, back(queue::WRITE_BACK_HIGH)?];
        }
        Ok(())
    }

    fn ring(port: &Port<'_>, ring: &mut Ring, first: u64) -> Result<(), Error> {
        ring.base = [port.r32(first + queue::BASE_LOW)?, port.r32(first + queue::BASE_HIGH)?];
        ring.length = port.r32(first + queue::LENGTH)?;
        ring.head = port.r32(first + queue::HEAD)?;
        ring.tail = port.r32(first + queue::TAIL)?;
        Ok(())
    }

    /// Bytes of every saved state.
    pub const BYTES: usize = 12
        + section::ALL.len() * 8
        + 4 * (6
            + 3
            + total(spec::GENERAL)
            + total(spec::FILTERS)
            + MASKS
            + total(spec::ROUTES)
            + 2 * QUEUES * Ring::WORDS)
        + 12;

    /// As sections.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new(KIND, VERSION);
        let control = [self.command.into(), self.link.into(), self.ctrl, self.ctrl_ext, self.rctl, self.tctl];
        writer.words(section::CONTROL, &control);
        writer.words(section::PHY, &self.phy.map(u32::from));
        writer.words(section::GENERAL, &self.general);
        writer.words(section::FILTERS, &self.filters);
        let mut interrupts = alloc::vec![self.ims, self.eims, self.iam, self.gpie, self.eiac, self.eiam];
        interrupts.extend_from_slice(&self.routes);
        writer.words(section::INTERRUPTS, &interrupts);
        for (number, rings) in [(section::RX, &self.rx), (section::TX, &self.tx)] {
            let words: Vec<u32> = rings.iter().flat_map(Ring::words).collect();
            writer.words(number, &words);
        }
        writer.finish()
    }

    /// Checks all of `data` and takes it apart.
    pub fn decode(data: &[u8]) -> Result<Self, Error> {
        let state = Reader::new(data, KIND, VERSION)?;
        state.only(&section::ALL)?;
        let bad = |section, reason| Err(Error::BadState { section, reason });
        let [command, link, ctrl, ctrl_ext, rctl, tctl] = state.need(section::CONTROL)?.words()?;
        if command & !u32::from(COMMAND) != 0 {
            return bad(section::CONTROL, "command register with bits that are not the program's");
        }
        if link > 1 {
            return bad(section::CONTROL, "link is neither up nor down");
        }
        let actions = ctrl & (spec::ctrl::ACTIONS | spec::ctrl::MASTER_DISABLE);
        if actions != 0 || ctrl_ext & spec::ctrl_ext::ACTIONS != 0 {
            return bad(section::CONTROL, "control register that would reset the card");
        }
        let phy: [u32; 3] = state.need(section::PHY)?.words()?;
        let [control, ..] = phy;
        let actions = u32::from(spec::phy::CONTROL_RESET | spec::phy::CONTROL_RESTART);
        if phy.iter().any(|word| *word > 0xffff) || control & actions != 0 {
            return bad(section::PHY, "PHY register that would reset the link");
        }
        let interrupts = state.need(section::INTERRUPTS)?.word_list(MASKS + total(spec::ROUTES))?;
        let Some((&[ims, eims, iam, gpie, eiac, eiam], routes)) = interrupts.split_first_chunk::<MASKS>() else {
            return bad(section::INTERRUPTS, "wrong length");
        };
        Ok(Self {
            command: command as u16,
            link: link == 1,
            ctrl,
            ctrl_ext,
            rctl,
            tctl,
            phy: phy.map(|word| word as u16),
            general: state.need(section::GENERAL)?.word_list(total(spec::GENERAL))?,
            filters: state.need(section::FILTERS)?.word_list(total(spec::FILTERS))?,
            ims,
            eims,
            iam,
            gpie,
            eiac,
            eiam,
            routes: routes.to_vec(),
            rx: Self::rings(state.need(section::RX)?)?,
            tx: Self::rings(state.need(section::TX)?)?,
        })
    }

    fn rings(section: Section<'_>) -> Result<[Ring; QUEUES], Error> {
        let words = section.word_list(QUEUES * Ring::WORDS)?;
        let (chunks, _) = words.as_chunks::<{ Ring::WORDS }>();
        let mut rings = [Ring::default(); QUEUES];
        for (ring, chunk) in rings.iter_mut().zip(chunks) {
            *ring = Ring::check(section.number, *chunk)?;
        }
        Ok(rings)
    }

    /// Puts everything back into a card that was reset and is cut off, except what lets it run: enable bits, tails, interrupt masks.
    /// Rings are read back: a card that does not take a head cannot go on where the other stopped.
    pub fn restore(&self, port: &Port<'_>) -> Result<(), Error> {
        port.w32(spec::IMC, u32::MAX)?;
        port.w32(spec::EIMC, u32::MAX)?;
        port.w32(spec::RCTL, self.rctl & !spec::ENABLE)?;
        port.w32(spec::TCTL, self.tctl & !spec::ENABLE)?;
        port.w32(spec::CTRL_EXT, self.ctrl_ext)?;
        let list = |runs, values: &[u32]| {
            // Most registers still have the value a reset gives; those are not written.
            each(runs).zip(values).try_for_each(|(register, value)| match port.r32(register) {
                Ok(now) if now == *value => Ok(()),
                Ok(_) => port.w32(register, *value),
                Err(error) => Err(error),
            })
        };
        list(spec::GENERAL, &self.general)?;
        list(spec::FILTERS, &self.filters)?;
        // The mode (GPIE) first: it decides how the masks behind it are understood.
        port.w32(spec::GPIE, self.gpie)?;
        list(spec::ROUTES, &self.routes)?;
        for (register, value) in [(spec::IAM, self.iam), (spec::EIAC, self.eiac), (spec::EIAM, self.eiam)] {
            if value != 0 {
                port.w32(register, value)?;
            }
        }
        for (index, ring) in self.rx.iter().enumerate() {
            let [split, _] = ring.extra;
            Self::restore_ring(port, ring, spec::rx(index, 0), ["RDBAL", "RDBAH", "RDLEN", "RDH"])?;
            port.w32(spec::rx(index, queue::SPLIT), split)?;
        }
        for (index, ring) in self.tx.iter().enumerate() {
            let [low, high] = ring.extra;
            Self::restore_ring(port, ring, spec::tx(index, 0), ["TDBAL", "TDBAH", "TDLEN", "TDH"])?;
            port.w32(spec::tx(index, queue::WRITE_BACK_LOW), low)?;
            port.w32(spec::tx(index, queue::WRITE_BACK_HIGH), high)?;
        }
        Ok(())
    }

    fn restore_ring(port: &Port<'_>, ring: &Ring, first: u64, names: [&'static str; 4]) -> Result<(), Error> {
        // Section 4.5.9: a ring is set up while its queue is off.
        port.w32(first + queue::CONTROL, ring.control & !spec::QUEUE_ENABLE)?;
        let [low, high] = ring.base;
        let values =
            [(queue::BASE_LOW, low), (queue::BASE_HIGH, high), (queue::LENGTH, ring.length), (queue::HEAD, ring.head)];
        for ((register, value), name) in values.into_iter().zip(names) {
            port.w32(first + register, value)?;
            port.must_read(first + register, name, value)?;
        }
        Ok(())
    }
}
