//! A network card as the stack sees it, and that as smoltcp sees it.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// A card that carries Ethernet frames without FCS. No method waits.
pub trait Link: Send {
    /// Its address.
    fn mac(&self) -> [u8; 6];
    /// Longest frame in bytes, the Ethernet header of 14 included.
    fn max_frame(&self) -> usize;
    /// Moves the next received frame into `frame`, whose old contents are dropped. False if there is none.
    fn receive(&mut self, frame: &mut Vec<u8>) -> bool;
    /// Whether [`send`](Self::send) has room for a frame now.
    fn can_send(&mut self) -> bool;
    /// Queues a frame of `length` bytes that `fill` writes; only called if there is room. `fill` is called exactly once.
    fn send(&mut self, length: usize, fill: &mut dyn FnMut(&mut [u8]));
    /// A batch ends: what was queued goes out now.
    fn flush(&mut self);
}

/// The card under smoltcp.
pub(crate) struct Card {
    pub(crate) link: Box<dyn Link>,
    frame: Vec<u8>,
}

impl Card {
    pub(crate) fn new(link: Box<dyn Link>) -> Self {
        Self { link, frame: Vec::new() }
    }
}

pub(crate) struct Rx<'a>(&'a [u8]);
pub(crate) struct Tx<'a>(&'a mut dyn Link);

impl RxToken for Rx<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let (mut f, mut result) = (Some(f), None);
        self.0.send(len, &mut |bytes| {
            if let Some(f) = f.take() {
                result = Some(f(bytes));
            }
        });
        match (result, f) {
            (Some(result), _) => result,
            // a card that dropped the frame: smoltcp still wants to know what it would have sent
            (None, Some(f)) => f(&mut alloc::vec![0; len]),
            (None, None) => unreachable!("the result is set where `f` is taken"),
        }
    }
}

impl Device for Card {
    type RxToken<'a> = Rx<'a>;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx<'_>, Tx<'_>)> {
        // an answer may have to be sent, so there must be room for one
        if !self.link.can_send() || !self.link.receive(&mut self.frame) {
            return None;
        }
        Some((Rx(&self.frame), Tx(&mut *self.link)))
    }
    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        if self.link.can_send() { Some(Tx(&mut *self.link)) } else { None }
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.link.max_frame();
        capabilities
    }
}

/// The machine's way to itself: IP packets in memory. smoltcp's own has packets of 64 KiB, of which a window of the usual
/// size holds not even two.
#[derive(Default)]
pub(crate) struct Inside {
    queue: VecDeque<Vec<u8>>,
}

/// Longest packet inside the machine in bytes.
const INSIDE_PACKET: usize = 16 * 1024;

pub(crate) struct InsideRx(Vec<u8>);
pub(crate) struct InsideTx<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for InsideRx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for InsideTx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = alloc::vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Inside {
    type RxToken<'a> = InsideRx;
    type TxToken<'a> = InsideTx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(InsideRx, InsideTx<'_>)> {
        let packet = self.queue.pop_front()?;
        Some((InsideRx(packet), InsideTx(&mut self.queue)))
    }
    fn transmit(&mut self, _: Instant) -> Option<InsideTx<'_>> {
        Some(InsideTx(&mut self.queue))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = INSIDE_PACKET;
        capabilities.checksum = ChecksumCapabilities::ignored();
        capabilities
    }
}
