//! One PCI function, as the object model reaches it.

use crate::Error;
use iommu_types::{Phys, StreamId};

/// Identity of a function, from its configuration header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ids {
    /// Vendor id, offset 0x00. Virtual functions read 0xffff there; this holds the one of their physical function.
    pub vendor: u16,
    /// Device id, offset 0x02.
    pub device: u16,
    /// Subsystem vendor id, offset 0x2c (type 0 headers; 0 otherwise).
    pub subsystem_vendor: u16,
    /// Subsystem id, offset 0x2e.
    pub subsystem: u16,
    /// Revision, offset 0x08.
    pub revision: u8,
    /// Class code, 24 bits: base class, sub-class, programming interface.
    pub class: u32,
}

/// What kind of address space a BAR decodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarKind {
    /// Memory space.
    Memory {
        /// 64-bit BAR: it takes the next slot too, which reads as `None`.
        wide: bool,
        /// Prefetchable: reads have no side effect.
        prefetchable: bool,
    },
    /// I/O space.
    Io,
}

/// Offset and length in bytes inside a BAR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// First byte.
    pub offset: u64,
    /// Bytes; more than zero.
    pub length: u64,
}

/// One base address register, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar {
    /// Where it is assigned: a physical address, or a port number for [`BarKind::Io`].
    pub phys: Phys,
    /// Bytes; a power of two.
    pub size: u64,
    /// Memory or I/O.
    pub kind: BarKind,
    /// The part a program may map: whole 4 KiB pages without the MSI-X table (its message addresses stay the
    /// kernel's); the largest such run. `None` for I/O BARs, BARs below one page or not page aligned.
    pub mappable: Option<Span>,
}

/// Where the MSI-X table and pending bits are (PCIe 6.0 section 7.7.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsixTable {
    /// Offset of the capability in configuration space.
    pub capability: u16,
    /// Vectors, 1..=2048.
    pub vectors: u16,
    /// BAR with the table, 0..=5.
    pub bar: u8,
    /// Offset of the table in that BAR; 16 bytes per vector.
    pub offset: u32,
    /// BAR with the pending bits, 0..=5.
    pub pending_bar: u8,
    /// Offset of the pending bits.
    pub pending_offset: u32,
}

/// Width of one register access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// 1 byte.
    W8,
    /// 2 bytes.
    W16,
    /// 4 bytes.
    W32,
    /// 8 bytes.
    W64,
}

impl Width {
    /// Bytes: 1, 2, 4 or 8.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::W8 => 1,
            Self::W16 => 2,
            Self::W32 => 4,
            Self::W64 => 8,
        }
    }
    /// The width of `bytes`; `None` unless 1, 2, 4 or 8.
    pub const fn of(bytes: u64) -> Option<Self> {
        match bytes {
            1 => Some(Self::W8),
            2 => Some(Self::W16),
            4 => Some(Self::W32),
            8 => Some(Self::W64),
            _ => None,
        }
    }
    /// The largest naturally aligned access at `offset` that takes at most `left` bytes; `None` if `left` is 0.
    /// Splitting a longer transfer with it touches each byte once and never reads a register twice.
    pub const fn at(offset: u64, left: u64) -> Option<Self> {
        if left >= 4 && offset & 3 == 0 {
            Some(Self::W32)
        } else if left >= 2 && offset & 1 == 0 {
            Some(Self::W16)
        } else if left >= 1 {
            Some(Self::W8)
        } else {
            None
        }
    }
}

/// One PCI function. All methods may be called from any CPU; accesses to one function are not ordered between CPUs.
pub trait Function: Send + Sync {
    /// Its requester id.
    fn stream(&self) -> StreamId;
    /// Its identity.
    fn ids(&self) -> Ids;
    /// Bytes of configuration space: 256, or 4096 with extended configuration space.
    fn config_len(&self) -> u16;
    /// Reads raw configuration space. Bytes past [`config_len`](Self::config_len) read as 0xff, as a missing function does.
    fn config_read(&self, offset: u16, out: &mut [u8]);
    /// Writes raw configuration space; bytes past the end are dropped. Nothing is filtered: what a program may write is
    /// the object model's decision.
    fn config_write(&self, offset: u16, data: &[u8]);
    /// BARs 0..=5 as they were sized and assigned at start.
    fn bars(&self) -> [Option<Bar>; 6];
    /// Reads a register of a BAR. `offset` is in bytes and naturally aligned to `width`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a BAR that is not there, an unaligned offset or one past the end.
    fn bar_read(&self, bar: u8, offset: u64, width: Width) -> Result<u64, Error>;
    /// Writes a register of a BAR; see [`bar_read`](Self::bar_read).
    ///
    /// # Errors
    /// As [`bar_read`](Self::bar_read).
    fn bar_write(&self, bar: u8, offset: u64, width: Width, value: u64) -> Result<(), Error>;
    /// Can it be reset alone? `Err` says why not, in words.
    ///
    /// # Errors
    /// The missing capability.
    fn can_reset(&self) -> Result<(), &'static str>;
    /// Function level reset (PCIe 6.0 section 6.6.2): waits for pending transactions, resets, waits 100 ms and until the
    /// function answers, restores the configuration header, leaves bus mastering and interrupts off.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if it has no function level reset, [`Error::Stuck`] if it did not come back within a second.
    fn reset(&self) -> Result<(), Error>;
    /// Lets the function issue requests, or stops it (command register bit 2).
    fn bus_master(&self, on: bool);
    /// Where its MSI-X table is, if it has one.
    fn msix(&self) -> Option<MsixTable>;

    /// Reads one 32-bit register.
    ///
    /// # Errors
    /// As [`bar_read`](Self::bar_read).
    fn r32(&self, bar: u8, offset: u64) -> Result<u32, Error> {
        Ok(self.bar_read(bar, offset, Width::W32)? as u32)
    }
    /// Writes one 32-bit register.
    ///
    /// # Errors
    /// As [`bar_read`](Self::bar_read).
    fn w32(&self, bar: u8, offset: u64, value: u32) -> Result<(), Error> {
        self.bar_write(bar, offset, Width::W32, value.into())
    }
    /// The command register, offset 0x04.
    fn command(&self) -> u16 {
        let mut raw = [0; 2];
        self.config_read(4, &mut raw);
        u16::from_le_bytes(raw)
    }
    /// Writes the command register.
    fn set_command(&self, value: u16) {
        self.config_write(4, &value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_splits_into_aligned_accesses() {
        let mut seen = alloc::vec::Vec::new();
        let (mut at, end) = (1u64, 12u64);
        while let Some(width) = Width::at(at, end - at) {
            seen.push((at, width.bytes()));
            at += width.bytes();
        }
        assert_eq!(seen, [(1, 1), (2, 2), (4, 4), (8, 4)]);
        assert_eq!(Width::at(0, 0), None);
        assert_eq!(Width::of(3), None);
        assert_eq!(Width::of(8), Some(Width::W64));
    }
}
