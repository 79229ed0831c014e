//! Reading bytes that firmware wrote.

use crate::devices::Oem;
use crate::spec::acpi::Header;
use iommu_types::{At, Error};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// A table whose signature and length were checked.
pub struct Table<'a> {
    pub signature: [u8; 4],
    /// The whole table, header included, cut to its length field.
    pub bytes: &'a [u8],
    pub checksum_right: bool,
    pub revision: u8,
    pub oem: Oem,
}

impl<'a> Table<'a> {
    /// Checks that `bytes` start with a table named `signature` that lies wholly inside and holds at least `least` bytes.
    pub fn new(bytes: &'a [u8], signature: [u8; 4], least: usize) -> Result<Self, Error> {
        let fail = |offset, reason| Error::Firmware(At { table: signature, offset, reason });
        let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| fail(0, "shorter than a table header"))?;
        if header.signature != signature {
            return Err(fail(0, "another signature"));
        }
        let length = header.length.get() as usize;
        if length < least {
            return Err(fail(4, "length below the fixed part of the table"));
        }
        let bytes = bytes.get(..length).ok_or(fail(4, "length past the memory that holds the table"))?;
        let checksum_right = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0;
        let oem = Oem { id: header.oem_id, table: header.oem_table_id, revision: header.oem_revision.get() };
        Ok(Self { signature, bytes, checksum_right, revision: header.revision, oem })
    }

    /// An error location of this table.
    pub fn at(&self, offset: usize, reason: &'static str) -> At {
        At { table: self.signature, offset: offset as u32, reason }
    }
}

/// A piece of a table that remembers its place.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    pub offset: usize,
    pub bytes: &'a [u8],
}

impl<'a> Piece<'a> {
    /// Takes a layout off the front; `None` if too few bytes are left.
    pub fn take<T: FromBytes + KnownLayout + Immutable + Unaligned>(&mut self) -> Option<&'a T> {
        let (value, rest) = T::ref_from_prefix(self.bytes).ok()?;
        self.offset += self.bytes.len() - rest.len();
        self.bytes = rest;
        Some(value)
    }

    /// Splits `length` bytes off the front; `None` if fewer are left.
    pub fn split(&mut self, length: usize) -> Option<Piece<'a>> {
        let (front, rest) = self.bytes.split_at_checked(length)?;
        let piece = Piece { offset: self.offset, bytes: front };
        self.offset += length;
        self.bytes = rest;
        Some(piece)
    }
}
