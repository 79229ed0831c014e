//! The link card's queues, through `virtio-drivers`. Its `Hal` is unsafe, and so are transfers that do not wait.
//!
//! All that the device reaches lies in one pool of memory, which the IOMMU maps at an iova of its own: queues in front, then one
//! slot per frame. Frames are copied in and out; no kernel object ever lies on a page that the device can write.

use super::windows;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use arch_x86_64::{PAGE, direct};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use device_api::{BarKind, Function};
use net::Link;
use net::virtio::AccessPlatform;
use spin::Once;
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction, PciRoot};
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

/// Memory that the card can reach, and nothing else can be reached by it.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    /// Where it is.
    pub phys: u64,
    /// Where the device sees it; never the same, so that a mistake shows.
    pub iova: u64,
}

/// Bytes of the pool: one large page.
pub const POOL: u64 = 2 << 20;
/// Bytes for the queues.
const QUEUES: u64 = 64 << 10;
/// Bytes of a slot: the virtio header of 12 bytes and a frame.
const SLOT: usize = 16 << 10;
const HEADER: usize = 12;
/// Slots for frames that arrive, and descriptors per queue.
const RECEIVE: usize = 64;
/// Slots for frames that leave.
const TRANSMIT: usize = 48;
const _: () = assert!(QUEUES as usize + (RECEIVE + TRANSMIT) * SLOT <= POOL as usize);

static THE_POOL: Once<Pool> = Once::new();
/// Next free byte of the queues' part.
static NEXT: AtomicU64 = AtomicU64::new(0);
static BARS: Once<Vec<(u64, windows::Registers)>> = Once::new();

struct Bounce;

impl Bounce {
    fn start() -> u64 {
        THE_POOL.get().map_or(0, |pool| direct(pool.phys) as u64)
    }
}

// SAFETY: `dma_alloc` hands out each page of the pool's front once, zeroed (the pool was allocated zeroed) and page aligned
// (pool and steps are); they are never freed. `share` only gives out iova inside the pool. `mmio_phys_to_virt` returns
// pointers into windows that stay mapped for ever and that only this driver uses.
unsafe impl Hal for Bounce {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let bytes = pages as u64 * PAGE;
        let taken = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| {
            at.checked_add(bytes).filter(|end| *end <= QUEUES)
        });
        match (THE_POOL.get(), taken) {
            (Some(pool), Ok(at)) => match NonNull::new(direct(pool.phys + at)) {
                Some(there) => (pool.iova + at, there),
                None => (0, NonNull::dangling()),
            },
            // address 0 makes the crate report `DmaError`
            _ => (0, NonNull::dangling()),
        }
    }
    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        // The device may still write there; the pool belongs to it for ever.
        0
    }
    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, size: usize) -> NonNull<u8> {
        let found = BARS.get().into_iter().flatten().find_map(|(base, window)| {
            let offset = usize::try_from(paddr.checked_sub(*base)?).ok()?;
            let inside = offset.checked_add(size)? <= window.0.bytes();
            // SAFETY: inside the mapped window, by the line above.
            inside.then(|| unsafe { window.0.base().add(offset) })
        });
        match found {
            Some(there) => there,
            // `Card::new` mapped every BAR before the crate looked for its structures inside them.
            None => panic!("virtio: registers at {paddr:#x} are in no BAR"),
        }
    }
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        let offset = (buffer.as_ptr().cast::<u8>() as u64).wrapping_sub(Self::start());
        match THE_POOL.get() {
            Some(pool) if offset.saturating_add(buffer.len() as u64) <= POOL => pool.iova + offset,
            // Nothing else is ever given to the crate; an address that is not mapped is refused by the IOMMU.
            _ => !(PAGE - 1),
        }
    }
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// Configuration space of one function, as the crate wants it.
struct Config<'a>(&'a dyn Function);

impl ConfigurationAccess for Config<'_> {
    fn read_word(&self, _: DeviceFunction, register_offset: u8) -> u32 {
        let mut word = [0xff; 4];
        self.0.config_read(register_offset.into(), &mut word);
        u32::from_le_bytes(word)
    }
    fn write_word(&mut self, _: DeviceFunction, register_offset: u8, data: u32) {
        self.0.config_write(register_offset.into(), &data.to_le_bytes());
    }
    unsafe fn unsafe_clone(&self) -> Self {
        Self(self.0)
    }
}

type Raw = VirtIONetRaw<Bounce, AccessPlatform<PciTransport>, RECEIVE>;

/// The link card.
pub struct Card {
    raw: Box<Raw>,
    mac: [u8; 6],
    /// Receive slot behind each token; a token is less than [`RECEIVE`].
    receiving: [usize; RECEIVE],
    /// Transmit slot and length behind each token.
    sending: [(usize, usize); RECEIVE],
    free: Vec<usize>,
}

impl Card {
    /// Brings the card up. `pool` is [`POOL`] bytes of zeroed memory that belong to it from now on, mapped at `pool.iova`.
    ///
    /// # Errors
    /// Why it is not used, in words.
    pub fn new(function: &dyn Function, pool: Pool) -> Result<Self, String> {
        if THE_POOL.get().is_some() {
            return Err("there is a link card already".into());
        }
        THE_POOL.call_once(|| pool);
        let mut bars = Vec::new();
        for bar in function.bars().into_iter().flatten() {
            if let BarKind::Memory { .. } = bar.kind {
                let window = windows::map(bar.phys.0, bar.size as usize)
                    .ok_or_else(|| format!("its registers at {:#x} cannot be mapped", bar.phys.0))?;
                bars.push((bar.phys.0, windows::Registers(window)));
            }
        }
        BARS.call_once(|| bars);
        let stream = function.stream();
        let at = DeviceFunction { bus: stream.bus(), device: stream.devfn() >> 3, function: stream.devfn() & 7 };
        let transport = PciTransport::new::<Bounce, _>(&mut PciRoot::new(Config(function)), at);
        let transport = transport.map_err(|error| format!("{error}"))?;
        let transport = AccessPlatform::new(transport).map_err(|refused| format!("{refused}"))?;
        let mut raw = Box::new(Raw::new(transport).map_err(|error| format!("{error}"))?);
        raw.disable_interrupts();
        let mac = raw.mac_address();
        let mut card = Self {
            raw,
            mac,
            receiving: [0; RECEIVE],
            sending: [(0, 0); RECEIVE],
            free: (RECEIVE..RECEIVE + TRANSMIT).collect(),
        };
        for slot in 0..RECEIVE {
            card.arm(slot);
        }
        Ok(card)
    }

    /// A slot's memory.
    ///
    /// # Safety
    /// The device does not own the slot, and no other reference to it exists.
    unsafe fn slot<'a>(slot: usize, length: usize) -> &'a mut [u8] {
        debug_assert!(slot < RECEIVE + TRANSMIT && length <= SLOT);
        let at = Bounce::start() + QUEUES + (slot * SLOT) as u64;
        // SAFETY: inside the pool, which lives for ever in the direct map; by the caller nobody else uses it now.
        unsafe { core::slice::from_raw_parts_mut(at as *mut u8, length) }
    }

    /// Gives a receive slot to the device.
    fn arm(&mut self, slot: usize) {
        // SAFETY: the slot is free (new, or just taken back from the device), and is not touched before its token comes back.
        match unsafe { self.raw.receive_begin(Self::slot(slot, SLOT)) } {
            Ok(token) => self.receiving[usize::from(token) % RECEIVE] = slot,
            // As many descriptors as slots: cannot be. The slot would be lost, the link go on with one less.
            Err(error) => log::error!("link: a receive slot was not taken: {error}"),
        }
    }

    /// Takes back the slots of frames that left.
    fn reap(&mut self) {
        while let Some(token) = self.raw.poll_transmit() {
            let (slot, length) = self.sending[usize::from(token) % RECEIVE];
            // SAFETY: the same slot and length as were given for this token.
            if let Err(error) = unsafe { self.raw.transmit_complete(token, Self::slot(slot, length)) } {
                log::error!("link: a sent frame did not come back: {error}");
                return;
            }
            self.free.push(slot);
        }
    }
}

impl Link for Card {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }
    fn max_frame(&self) -> usize {
        SLOT - HEADER
    }
    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        let Some(token) = self.raw.poll_receive() else { return false };
        let slot = self.receiving[usize::from(token) % RECEIVE];
        // SAFETY: the device gave the slot back (its token is in the used ring); the whole slot was given.
        let bytes = unsafe { Self::slot(slot, SLOT) };
        // SAFETY: the same buffer as was given for this token.
        let taken = unsafe { self.raw.receive_complete(token, bytes) };
        frame.clear();
        match taken {
            Ok((header, length)) => {
                let end = header.saturating_add(length).min(SLOT);
                frame.extend_from_slice(bytes.get(header..end).unwrap_or(&[]));
                self.arm(slot);
                true
            }
            Err(error) => {
                log::error!("link: a received frame was not taken: {error}");
                false
            }
        }
    }
    fn can_send(&mut self) -> bool {
        self.reap();
        !self.free.is_empty() && self.raw.can_send()
    }
    fn send(&mut self, length: usize, fill: &mut dyn FnMut(&mut [u8])) {
        let Some(slot) = self.free.pop() else { return };
        let total = (HEADER + length).min(SLOT);
        // SAFETY: the slot is free, so the device does not own it.
        let bytes = unsafe { Self::slot(slot, total) };
        bytes[..HEADER].fill(0);
        fill(&mut bytes[HEADER..]);
        // SAFETY: the slot is not touched before its token comes back, in `reap`.
        match unsafe { self.raw.transmit_begin(bytes) } {
            Ok(token) => self.sending[usize::from(token) % RECEIVE] = (slot, total),
            Err(error) => {
                log::error!("link: a frame was not sent: {error}");
                self.free.push(slot);
            }
        }
    }
    fn flush(&mut self) {}
}
