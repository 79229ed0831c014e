//! Addresses, ranges, rights and requesters.

use bitflags::bitflags;
use core::fmt;

/// Address a device uses, in bytes. Any 64-bit value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Iova(pub u64);

/// Physical address, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Phys(pub u64);

impl fmt::Debug for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iova {:#x}", self.0)
    }
}

impl fmt::Debug for Phys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pa {:#x}", self.0)
    }
}

/// Process address space id on a PCI function, 20 bits (PCIe 6.20).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pasid(pub u32);

/// Number of an IOMMU in the order firmware lists them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UnitId(pub u16);

/// A requester: PCI segment and 32-bit id below it (RID on PCI: bus 15:8, device 7:3, function 2:0).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// PCI segment group.
    pub segment: u16,
    /// Requester id on PCI; StreamID elsewhere.
    pub id: u32,
}

impl StreamId {
    /// The stream of a PCI function. `device` 0..=31 and `function` 0..=7 are masked to their width.
    pub const fn pci(segment: u16, bus: u8, device: u8, function: u8) -> Self {
        Self { segment, id: (bus as u32) << 8 | ((device as u32) & 31) << 3 | (function as u32) & 7 }
    }
    /// Bus number (bits 15:8 of the requester id).
    pub const fn bus(self) -> u8 {
        (self.id >> 8) as u8
    }
    /// Device and function (bits 7:0 of the requester id).
    pub const fn devfn(self) -> u8 {
        self.id as u8
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.segment, self.bus(), self.devfn() >> 3, self.devfn() & 7)
    }
}
impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Inclusive range of iova, never empty: `first <= last`, so that it can end at 2^64-1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IovaRange {
    first: u64,
    last: u64,
}

impl IovaRange {
    /// All 2^64 addresses.
    pub const ALL: Self = Self { first: 0, last: u64::MAX };

    /// `first..=last`; `None` if `first > last`.
    pub const fn new(first: u64, last: u64) -> Option<Self> {
        if first <= last { Some(Self { first, last }) } else { None }
    }
    /// `length` bytes from `first`; `None` if `length` is 0 or the range passes 2^64-1.
    pub const fn sized(first: u64, length: u64) -> Option<Self> {
        if length == 0 {
            return None;
        }
        match first.checked_add(length - 1) {
            Some(last) => Some(Self { first, last }),
            None => None,
        }
    }
    /// First address.
    pub const fn first(&self) -> u64 {
        self.first
    }
    /// Last address, included.
    pub const fn last(&self) -> u64 {
        self.last
    }
    /// Length minus one, in bytes; the length itself may be 2^64.
    pub const fn span(&self) -> u64 {
        self.last - self.first
    }
    /// Length in bytes, saturating at 2^64-1.
    pub const fn len(&self) -> u64 {
        self.span().saturating_add(1)
    }
    /// Never: a range holds at least one address.
    pub const fn is_empty(&self) -> bool {
        false
    }
    /// Is `other` inside?
    pub const fn contains(&self, other: &Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
    /// Is `at` inside?
    pub const fn holds(&self, at: u64) -> bool {
        self.first <= at && at <= self.last
    }
    /// Do the two share an address?
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
    /// The shared part.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.last.min(other.last))
    }
    /// The smallest range that holds both.
    pub fn hull(&self, other: &Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }
    /// Do both ends lie on multiples of `size` (a power of two)? The end is the address after `last`.
    pub const fn aligned(&self, size: u64) -> bool {
        self.first & (size - 1) == 0 && self.last & (size - 1) == size - 1
    }
}

impl fmt::Debug for IovaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..={:#x}", self.first, self.last)
    }
}

/// A run of physical memory: `length` bytes from `base`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PhysRun {
    /// First address.
    pub base: Phys,
    /// Bytes; more than zero.
    pub length: u64,
}

/// Inclusive physical range, as firmware gives for reserved memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PhysRange {
    /// First address.
    pub first: Phys,
    /// Last address, included.
    pub last: Phys,
}

bitflags! {
    /// What a device may do with memory.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
    pub struct Access: u8 {
        /// Read.
        const READ = 1;
        /// Write.
        const WRITE = 2;
        /// Device memory (a BAR), not RAM: uncached.
        const MMIO = 4;
        /// Instruction fetch.
        const EXEC = 8;
    }
}

/// Set of leaf sizes, bit n = 2^n bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PageSizes(pub u64);

impl PageSizes {
    /// 4 KiB only.
    pub const ONLY_4K: Self = Self(1 << 12);
    /// The smallest size in bytes; `None` if the set is empty.
    pub const fn smallest(self) -> Option<u64> {
        if self.0 == 0 { None } else { Some(1 << self.0.trailing_zeros()) }
    }
    /// The largest size in bytes; `None` if the set is empty.
    pub const fn largest(self) -> Option<u64> {
        if self.0 == 0 { None } else { Some(1 << (63 - self.0.leading_zeros())) }
    }
    /// Is `bytes` (a power of two) a leaf size?
    pub const fn has(self, bytes: u64) -> bool {
        bytes.is_power_of_two() && self.0 & bytes != 0
    }
    /// Those of both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_may_end_at_the_last_address() {
        let top = IovaRange::sized(0xffff_ffff_ffff_f000, 0x1000).unwrap();
        assert_eq!(top.last(), u64::MAX);
        assert!(top.aligned(0x1000));
        assert_eq!(IovaRange::sized(0xffff_ffff_ffff_f000, 0x1001), None);
        assert_eq!(IovaRange::sized(0, 0), None);
        assert_eq!(IovaRange::ALL.len(), u64::MAX);
    }

    #[test]
    fn requester_ids_print_as_lspci_does() {
        extern crate alloc;
        assert_eq!(alloc::format!("{}", StreamId::pci(0, 0x17, 0x1f, 3)), "0000:17:1f.3");
    }
}
