//! Access to configuration space.

use iommu_types::StreamId;

/// Configuration space of all functions of a segment: ECAM on the machine, a table of bytes in a test.
///
/// Offsets are naturally aligned. A read of a function that is not there gives all ones; a write to it does nothing.
pub trait ConfigSpace: Send + Sync {
    /// Reads 8 bits.
    fn read8(&self, at: StreamId, offset: u16) -> u8 {
        (self.read32(at, offset & !3) >> (8 * (offset & 3))) as u8
    }
    /// Reads 16 bits.
    fn read16(&self, at: StreamId, offset: u16) -> u16 {
        (self.read32(at, offset & !3) >> (8 * (offset & 2))) as u16
    }
    /// Reads 32 bits.
    fn read32(&self, at: StreamId, offset: u16) -> u32;
    /// Writes 8 bits.
    fn write8(&self, at: StreamId, offset: u16, value: u8);
    /// Writes 16 bits.
    fn write16(&self, at: StreamId, offset: u16, value: u16);
    /// Writes 32 bits.
    fn write32(&self, at: StreamId, offset: u16, value: u32);
}

impl<T: ConfigSpace + ?Sized> ConfigSpace for &T {
    fn read8(&self, at: StreamId, offset: u16) -> u8 {
        (**self).read8(at, offset)
    }
    fn read16(&self, at: StreamId, offset: u16) -> u16 {
        (**self).read16(at, offset)
    }
    fn read32(&self, at: StreamId, offset: u16) -> u32 {
        (**self).read32(at, offset)
    }
    fn write8(&self, at: StreamId, offset: u16, value: u8) {
        (**self).write8(at, offset, value);
    }
    fn write16(&self, at: StreamId, offset: u16, value: u16) {
        (**self).write16(at, offset, value);
    }
    fn write32(&self, at: StreamId, offset: u16, value: u32) {
        (**self).write32(at, offset, value);
    }
}
