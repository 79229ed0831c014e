//! `virtio-drivers`' transport, made to keep the rules behind an IOMMU.
//!
//! The crate (0.13) never accepts VIRTIO_F_ACCESS_PLATFORM and never reads FEATURES_OK back. A card on a translated bus then
//! refuses the features (virtio 1.2 section 3.1.1 step 6) and is silently dead; one that does not offer the bit reaches memory past the
//! IOMMU (section 6.1), which is worse. [`AccessPlatform`] accepts the bit, refuses a card without it, and reads back.

use core::fmt;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// VIRTIO_F_VERSION_1, virtio 1.2 section 6.
const VERSION_1: u64 = 1 << 32;
/// VIRTIO_F_ACCESS_PLATFORM, virtio 1.2 section 6.
const ACCESS_PLATFORM: u64 = 1 << 33;
/// VIRTIO_F_INDIRECT_DESC: lists in ordinary memory, which the device cannot reach.
const INDIRECT_DESC: u64 = 1 << 28;

/// Why a card is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It does not offer VIRTIO_F_ACCESS_PLATFORM: its requests would pass by the IOMMU.
    NotTranslated,
    /// It does not offer VIRTIO_F_VERSION_1.
    Legacy,
    /// It took FEATURES_OK back; holds its status register.
    Features(u32),
    /// It did not reset; holds its status register.
    Stuck(u32),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTranslated => {
                write!(f, "it does not offer ACCESS_PLATFORM (feature bit 33), so its requests would pass by the IOMMU")
            }
            Self::Legacy => write!(f, "it does not offer VERSION_1 (feature bit 32)"),
            Self::Features(status) => {
                write!(f, "it refuses the features: status {status:#x}, wanted FEATURES_OK (0x8)")
            }
            Self::Stuck(status) => write!(f, "it does not reset: status {status:#x}, wanted 0"),
        }
    }
}

/// A transport whose device is known to go through translation.
#[derive(Debug)]
pub struct AccessPlatform<T> {
    inner: T,
    /// The device refused the features the second time; nothing works from then on.
    refused: bool,
}

impl<T: Transport> AccessPlatform<T> {
    /// Negotiates once, to find out whether the device can be used; it is left reset.
    ///
    /// # Errors
    /// [`Refused`]; the device is left with FAILED set.
    pub fn new(mut inner: T) -> Result<Self, Refused> {
        let result = Self::negotiate(&mut inner);
        match result {
            Ok(()) => {
                inner.set_status(DeviceStatus::empty());
                Ok(Self { inner, refused: false })
            }
            Err(refused) => {
                inner.set_status(DeviceStatus::FAILED);
                Err(refused)
            }
        }
    }

    fn negotiate(inner: &mut T) -> Result<(), Refused> {
        inner.set_status(DeviceStatus::empty());
        let status = inner.get_status();
        if !status.is_empty() {
            return Err(Refused::Stuck(status.bits()));
        }
        inner.set_status(DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER);
        let features = inner.read_device_features();
        if features & VERSION_1 == 0 {
            return Err(Refused::Legacy);
        }
        if features & ACCESS_PLATFORM == 0 {
            return Err(Refused::NotTranslated);
        }
        inner.write_driver_features(VERSION_1 | ACCESS_PLATFORM);
        inner.set_status(DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER | DeviceStatus::FEATURES_OK);
        let status = inner.get_status();
        if status.contains(DeviceStatus::FEATURES_OK) { Ok(()) } else { Err(Refused::Features(status.bits())) }
    }

    /// Whether the device says that only a reset helps (virtio 1.2 section 2.1.2), for instance after a refused DMA.
    pub fn needs_reset(&self) -> bool {
        self.inner.get_status().contains(DeviceStatus::DEVICE_NEEDS_RESET)
    }
}

impl<T: Transport> Transport for AccessPlatform<T> {
    fn device_type(&self) -> DeviceType {
        self.inner.device_type()
    }
    fn read_device_features(&mut self) -> u64 {
        self.inner.read_device_features() & !INDIRECT_DESC
    }
    fn write_driver_features(&mut self, driver_features: u64) {
        self.inner.write_driver_features(driver_features | ACCESS_PLATFORM);
    }
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.inner.max_queue_size(queue)
    }
    fn notify(&mut self, queue: u16) {
        self.inner.notify(queue);
    }
    fn get_status(&self) -> DeviceStatus {
        self.inner.get_status()
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.inner.set_status(status);
        if status.contains(DeviceStatus::FEATURES_OK) && !self.inner.get_status().contains(DeviceStatus::FEATURES_OK) {
            self.refused = true;
        }
    }
    fn set_guest_page_size(&mut self, guest_page_size: u32) {
        self.inner.set_guest_page_size(guest_page_size);
    }
    fn requires_legacy_layout(&self) -> bool {
        self.inner.requires_legacy_layout()
    }
    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        self.inner.queue_set(queue, size, descriptors, driver_area, device_area);
    }
    fn queue_unset(&mut self, queue: u16) {
        self.inner.queue_unset(queue);
    }
    fn queue_used(&mut self, queue: u16) -> bool {
        self.inner.queue_used(queue)
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.inner.ack_interrupt()
    }
    fn read_config_generation(&self) -> u32 {
        self.inner.read_config_generation()
    }
    /// The first thing a driver does after negotiating: here a refusal becomes an error that it hands on.
    fn read_config_space<V: FromBytes + IntoBytes>(&self, offset: usize) -> Result<V, Error> {
        if self.refused {
            return Err(Error::Unsupported);
        }
        self.inner.read_config_space(offset)
    }
    fn write_config_space<V: IntoBytes + Immutable>(&mut self, offset: usize, value: V) -> Result<(), Error> {
        self.inner.write_config_space(offset, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// A device that keeps the rules of virtio 1.2 section 3.1.1, as far as features go.
    #[derive(Debug)]
    struct Device {
        offers: u64,
        /// Without it, FEATURES_OK is taken back.
        wants: u64,
        driver: u64,
        status: DeviceStatus,
        /// Negotiations after which it changes its mind.
        patience: usize,
        seen: Vec<u32>,
    }

    impl Device {
        fn new(offers: u64, wants: u64) -> Self {
            Self { offers, wants, driver: 0, status: DeviceStatus::DRIVER_OK, patience: 9, seen: Vec::new() }
        }
    }

    impl Transport for Device {
        fn device_type(&self) -> DeviceType {
            DeviceType::Network
        }
        fn read_device_features(&mut self) -> u64 {
            self.offers
        }
        fn write_driver_features(&mut self, driver_features: u64) {
            assert_eq!(driver_features & !self.offers, 0, "a driver accepts what is offered");
            self.driver = driver_features;
        }
        fn max_queue_size(&mut self, _: u16) -> u32 {
            256
        }
        fn notify(&mut self, _: u16) {}
        fn get_status(&self) -> DeviceStatus {
            self.status
        }
        fn set_status(&mut self, status: DeviceStatus) {
            self.seen.push(status.bits());
            self.status = status;
            if status.contains(DeviceStatus::FEATURES_OK) {
                if self.driver & self.wants != self.wants || self.patience == 0 {
                    self.status.remove(DeviceStatus::FEATURES_OK);
                }
                self.patience = self.patience.saturating_sub(1);
            }
        }
        fn set_guest_page_size(&mut self, _: u32) {}
        fn requires_legacy_layout(&self) -> bool {
            false
        }
        fn queue_set(&mut self, _: u16, _: u32, _: PhysAddr, _: PhysAddr, _: PhysAddr) {}
        fn queue_unset(&mut self, _: u16) {}
        fn queue_used(&mut self, _: u16) -> bool {
            false
        }
        fn ack_interrupt(&mut self) -> InterruptStatus {
            InterruptStatus::empty()
        }
        fn read_config_generation(&self) -> u32 {
            0
        }
        fn read_config_space<V: FromBytes + IntoBytes>(&self, _: usize) -> Result<V, Error> {
            Ok(V::new_zeroed())
        }
        fn write_config_space<V: IntoBytes + Immutable>(&mut self, _: usize, _: V) -> Result<(), Error> {
            Ok(())
        }
    }

    #[test]
    fn a_translated_card_is_reset_and_then_negotiated_with_bit_33() {
        let all = VERSION_1 | ACCESS_PLATFORM | INDIRECT_DESC | 1 << 5;
        let mut card = AccessPlatform::new(Device::new(all, VERSION_1 | ACCESS_PLATFORM)).unwrap();
        assert_eq!(card.inner.seen, [0, 3, 0xb, 0]);
        assert_eq!(card.read_device_features() & INDIRECT_DESC, 0);
        card.write_driver_features(VERSION_1 | 1 << 5);
        assert_eq!(card.inner.driver, 1 << 33 | 1 << 32 | 1 << 5);
        card.set_status(DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER | DeviceStatus::FEATURES_OK);
        assert_eq!(card.read_config_space::<u8>(0), Ok(0));
    }

    #[test]
    fn a_card_that_would_pass_by_the_iommu_is_refused() {
        let refused = AccessPlatform::new(Device::new(VERSION_1, VERSION_1)).unwrap_err();
        assert_eq!(refused, Refused::NotTranslated);
    }

    #[test]
    fn a_legacy_card_is_refused() {
        assert_eq!(AccessPlatform::new(Device::new(1 << 5, 0)).unwrap_err(), Refused::Legacy);
    }

    #[test]
    fn a_card_that_refuses_the_features_is_noticed() {
        let wants_more = Device::new(VERSION_1 | ACCESS_PLATFORM, VERSION_1 | ACCESS_PLATFORM | 1 << 40);
        assert_eq!(AccessPlatform::new(wants_more).unwrap_err(), Refused::Features(3));
    }

    #[test]
    fn a_refusal_the_second_time_reaches_the_driver_as_an_error() {
        let mut device = Device::new(VERSION_1 | ACCESS_PLATFORM, VERSION_1 | ACCESS_PLATFORM);
        device.patience = 1;
        let mut card = AccessPlatform::new(device).unwrap();
        card.set_status(DeviceStatus::FEATURES_OK);
        assert_eq!(card.read_config_space::<u8>(0), Err(Error::Unsupported));
    }

    #[test]
    fn without_the_wrapper_such_a_card_is_silently_dead() {
        // what the crate does by itself: features without bit 33, and no look at the answer
        let mut device = Device::new(VERSION_1 | ACCESS_PLATFORM, VERSION_1 | ACCESS_PLATFORM);
        device.write_driver_features(VERSION_1);
        device.set_status(DeviceStatus::FEATURES_OK);
        assert!(!device.get_status().contains(DeviceStatus::FEATURES_OK));
        assert_eq!(device.read_config_space::<u8>(0), Ok(0), "and nothing tells the driver");
    }
}
