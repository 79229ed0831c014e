//! Migration driver for the Intel 82576 (`igb`, 8086:10c9).
//!
//! A receive ring goes on at the descriptor where the other card stopped: heads are saved and put back, so a program that fills rings and
//! polls descriptors notices nothing but the time. The link is up before the switch: [`begin_load`](device_api::Migratable::begin_load)
//! starts it, which takes half a second, long before the state arrives. See the README beside this file.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod image;
mod port;
mod spec;

use alloc::boxed::Box;
use device_api::{Cx, Error, Ids, Migratable, Unreadable};
use image::{BUS_MASTER, Image};
use port::Port;
use spec::{ENABLE, QUEUE_ENABLE, queue};

const MS: u64 = 1_000_000;
/// A queue that was switched follows within this time (section 4.5.9 says some microseconds; a full buffer takes longer).
const QUEUE_NS: u64 = 100 * MS;
/// Packets already queued are sent within this time or stay queued.
const DRAIN_NS: u64 = 100 * MS;
/// No request is under way any more (section 5.2.3.3).
const MASTER_NS: u64 = 200 * MS;
/// Link after negotiation: 0.5 s emulated, up to a few seconds on copper.
const LINK_NS: u64 = 5_000 * MS;

/// Is this the device this driver is for?
pub fn matches(ids: &Ids) -> bool {
    (ids.vendor, ids.device) == (0x8086, 0x10c9)
}

/// Migration driver of one card.
#[derive(Default)]
pub struct Igb {
    /// State of the stopped card, or what was loaded.
    stopped: Option<Box<Image>>,
    /// The card was reset and negotiates, and waits for a state.
    expecting: bool,
}

impl Igb {
    /// A driver for a card that runs.
    pub fn new() -> Self {
        Self::default()
    }

    /// No request leaves the card after this, and none is under way.
    fn cut_off(port: &Port<'_>) -> Result<(), Error> {
        port.change(spec::CTRL, 0, spec::ctrl::MASTER_DISABLE)?;
        port.wait(spec::STATUS, "STATUS, bit 19 (master enabled)", spec::status::MASTER_ENABLED, 0, MASTER_NS)?;
        port.function.bus_master(false);
        Ok(())
    }

    /// Starts the PHY as `control` says; `restart` negotiates anew.
    fn negotiate(port: &Port<'_>, control: u16) -> Result<(), Error> {
        let restart = if control & spec::phy::CONTROL_NEGOTIATE != 0 { spec::phy::CONTROL_RESTART } else { 0 };
        port.phy_write(spec::phy::CONTROL, control | restart)
    }

    /// Makes the PHY the one of the image, and waits for the link if there was one.
    fn link(port: &Port<'_>, image: &Image) -> Result<(), Error> {
        let [control, advertise, control_1000] = image.phy;
        let mut anew = false;
        for (register, value) in [(spec::phy::ADVERTISE, advertise), (spec::phy::CONTROL_1000, control_1000)] {
            if port.phy_read(register)? != value {
                port.phy_write(register, value)?;
                anew = true;
            }
        }
        if anew || port.phy_read(spec::phy::CONTROL)? != control {
            Self::negotiate(port, control)?;
        }
        if image.link {
            let up = spec::status::LINK_UP;
            port.wait(spec::STATUS, "STATUS, bit 1 (link up)", up, up, LINK_NS)?;
        }
        Ok(())
    }

    /// Quiet, in the order that loses least: no new frames, send what is queued, then cut off.
    fn quiesce(port: &Port<'_>, image: &Image) -> Result<(), Error> {
        port.w32(spec::RCTL, image.rctl & !ENABLE)?;
        for (index, ring) in image.rx.iter().enumerate().filter(|(_, ring)| ring.enabled()) {
            let control = spec::rx(index, queue::CONTROL);
            port.w32(control, ring.control & !QUEUE_ENABLE)?;
            port.wait(control, "RXDCTL, bit 25 (queue enabled)", QUEUE_ENABLE, 0, QUEUE_NS)?;
        }
        let sending = image.tctl & ENABLE != 0 && image.link && image.command & BUS_MASTER != 0;
        for (index, ring) in image.tx.iter().enumerate().filter(|(_, ring)| ring.enabled()) {
            let at = |register| port.r32(spec::tx(index, register));
            if sending && at(queue::LENGTH)? != 0 {
                // A packet whose last descriptor the program did not write yet stays; the other card sends it.
                port.settle(DRAIN_NS, || matches!((at(queue::HEAD), at(queue::TAIL)), (Ok(h), Ok(t)) if h == t));
            }
            let control = spec::tx(index, queue::CONTROL);
            port.w32(control, ring.control & !QUEUE_ENABLE)?;
            port.wait(control, "TXDCTL, bit 25 (queue enabled)", QUEUE_ENABLE, 0, QUEUE_NS)?;
        }
        port.w32(spec::TCTL, image.tctl & !ENABLE)?;
        Self::cut_off(port)
    }

    /// Queues on, heads checked. The card cannot reach memory yet.
    fn arm(port: &Port<'_>, image: &Image) -> Result<(), Error> {
        port.w32(spec::CTRL, image.ctrl)?;
        for (index, ring) in image.rx.iter().enumerate() {
            let first = spec::rx(index, 0);
            Self::enable_queue(port, first, ring, "RXDCTL, bit 25 (queue enabled)", "RDH")?;
        }
        for (index, ring) in image.tx.iter().enumerate() {
            let first = spec::tx(index, 0);
            Self::enable_queue(port, first, ring, "TXDCTL, bit 25 (queue enabled)", "TDH")?;
        }
        Ok(())
    }

    fn enable_queue(
        port: &Port<'_>,
        first: u64,
        ring: &image::Ring,
        enabled: &'static str,
        head: &'static str,
    ) -> Result<(), Error> {
        if !ring.enabled() {
            return Ok(());
        }
        port.w32(first + queue::CONTROL, ring.control)?;
        port.wait(first + queue::CONTROL, enabled, QUEUE_ENABLE, QUEUE_ENABLE, QUEUE_NS)?;
        // A card that starts a queue at 0 would write into buffers the program has already taken back.
        port.must_read(first + queue::HEAD, head, ring.head)
    }

    /// Everything runs: interrupts, tails, transmitter, receiver, in this order.
    fn go(port: &Port<'_>, image: &Image) -> Result<(), Error> {
        port.function.bus_master(image.command & BUS_MASTER != 0);
        port.w32(spec::IMS, image.ims)?;
        port.w32(spec::EIMS, image.eims)?;
        for (index, ring) in image.rx.iter().enumerate().filter(|(_, ring)| ring.length != 0) {
            port.w32(spec::rx(index, queue::TAIL), ring.tail)?;
        }
        port.w32(spec::TCTL, image.tctl)?;
        // A tail that is written makes the card look at its ring, so the transmitter must be on.
        for (index, ring) in image.tx.iter().enumerate().filter(|(_, ring)| ring.length != 0) {
            port.w32(spec::tx(index, queue::TAIL), ring.tail)?;
        }
        port.w32(spec::RCTL, image.rctl)?;
        // Causes were not saved: reading them clears them. One look too many harms no program.
        if image.ims & spec::LOOK != 0 {
            port.w32(spec::ICS, image.ims & spec::LOOK)?;
        }
        if image.eims != 0 {
            port.w32(spec::EICS, image.eims)?;
        }
        Ok(())
    }
}

impl Migratable for Igb {
    fn name(&self) -> &'static str {
        "igb"
    }

    fn max_state_bytes(&self) -> usize {
        Image::BYTES
    }

    fn stop(&mut self, cx: &Cx<'_>) -> Result<(), Error> {
        if self.stopped.is_some() {
            return Ok(());
        }
        let port = Port::new(cx);
        port.alive()?;
        if port.r32(spec::STATUS)? & spec::status::IOV != 0 {
            return Err(Error::Unsupported("a card with virtual functions switched on cannot be moved"));
        }
        let mut image = Box::new(Image::controls(&port)?);
        Self::quiesce(&port, &image)?;
        image.complete(&port)?;
        self.stopped = Some(image);
        self.expecting = false;
        Ok(())
    }

    fn resume(&mut self, cx: &Cx<'_>) -> Result<(), Error> {
        let port = Port::new(cx);
        port.alive()?;
        let Some(image) = self.stopped.as_deref() else { return Ok(()) };
        Self::arm(&port, image)?;
        Self::go(&port, image)?;
        self.stopped = None;
        Ok(())
    }

    fn save(&mut self, cx: &Cx<'_>, sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let image = self.stopped.as_deref().ok_or(Error::Invalid("save of a card that is not stopped"))?;
        Port::new(cx).alive()?;
        sink(&image.encode())
    }

    fn begin_load(&mut self, cx: &Cx<'_>) -> Result<(), Error> {
        self.reset(cx)?;
        let port = Port::new(cx);
        port.change(spec::CTRL, 0, spec::ctrl::SET_LINK_UP)?;
        Self::negotiate(&port, spec::phy::CONTROL_DEFAULT)?;
        self.expecting = true;
        Ok(())
    }

    fn load(&mut self, cx: &Cx<'_>, data: &[u8]) -> Result<(), Error> {
        let image = Box::new(Image::decode(data)?);
        if !self.expecting {
            self.begin_load(cx)?;
        }
        self.expecting = false;
        let port = Port::new(cx);
        port.alive()?;
        image.restore(&port)?;
        Self::link(&port, &image)?;
        self.stopped = Some(image);
        Ok(())
    }

    fn reset(&mut self, cx: &Cx<'_>) -> Result<(), Error> {
        self.stopped = None;
        self.expecting = false;
        cx.function.reset()?;
        cx.function.bus_master(false);
        Port::new(cx).alive()
    }

    fn unreadable(&self) -> &'static [Unreadable] {
        &[
            Unreadable {
                what: "transmit contexts (the offload settings that a context descriptor left in each transmit queue)",
                becomes: "empty; a program has to send a context descriptor before the next packet that uses offloads",
            },
            Unreadable {
                what: "statistics (reading them clears them)",
                becomes: "zero; they count from the switch on",
            },
            Unreadable {
                what: "pending interrupt causes (reading them clears them)",
                becomes: "every cause that is enabled for link and rings is raised once",
            },
            Unreadable {
                what: "unicast hash table UTA (write only)",
                becomes: "empty; it is used only for pools of virtual machines",
            },
            Unreadable {
                what: "frames in the card's own buffers",
                becomes: "received ones are lost as on the wire; queued ones are sent before the card stops, for up to 100 ms",
            },
            Unreadable {
                what: "time stamp clock SYSTIM and the stamps taken",
                becomes: "zero; a program that uses it sets it again",
            },
            Unreadable {
                what: "cache hints for descriptors and data (DCA), which name a processor of the old machine",
                becomes: "off",
            },
        ]
    }
}
