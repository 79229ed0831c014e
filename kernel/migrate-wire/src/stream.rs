//! Bytes to frames. Numbers are little endian.
//!
//! Each direction begins with an opening of 16 bytes, and then has frames until it is closed:
//!
//! ```text
//!  opening                                          frame
//!  offset size                                      offset size
//!   0     8   magic "PORTOLAN"                       0     2   section number
//!   8     2   version (1)                            2     2   flags: bit 0 = may be skipped if not known
//!  10     1   role: 0 source, 1 destination          4     4   sequence: frames of this direction counted from 0
//!  11     1   reserved, zero                         8     4   length n of the body, at most MAX_BODY
//!  12     4   CRC-32 over bytes 0..12               12     8   checksum of the body: `digest::bytes`
//!                                                   20     4   CRC-32 over bytes 0..20
//!                                                   24     n   body
//! ```
//!
//! CRC-32 is the ISO-HDLC one. The header has its own, so that a bent length is noticed before anyone waits for
//! bytes that never come. Bodies are most of the stream; their checksum is the 64-bit one of [`crate::digest`], which on an
//! emulated CPU takes a tenth of the time of a table-driven CRC.

use crate::{Error, digest};
use alloc::vec::Vec;

/// First bytes of each direction.
pub const MAGIC: [u8; 8] = *b"PORTOLAN";
/// The version this crate writes, and the only one it reads.
pub const VERSION: u16 = 1;
/// Bytes of the opening.
pub const OPENING_LEN: usize = 16;
/// Bytes before a frame's body.
pub const HEAD_LEN: usize = 24;
/// Most bytes of a body: a reader never needs a larger buffer.
pub const MAX_BODY: usize = 512 * 1024;
/// Flag bit 0: a reader that does not know the section skips the frame.
pub const SKIPPABLE: u16 = 1;

const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

/// CRC-32 of `bytes`, as in openings and frame headers.
pub fn checksum(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}

/// Who writes a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Where the devices run now.
    Source = 0,
    /// Where they go.
    Destination = 1,
}

/// The opening of the direction that `role` writes.
pub fn opening(role: Role) -> [u8; OPENING_LEN] {
    let mut out = [0; OPENING_LEN];
    out[..8].copy_from_slice(&MAGIC);
    out[8..10].copy_from_slice(&VERSION.to_le_bytes());
    out[10] = role as u8;
    let crc = checksum(&out[..12]);
    out[12..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Checks the opening of the direction that `role` writes.
///
/// # Errors
/// [`Error::Magic`], [`Error::Version`], [`Error::HeadChecksum`], [`Error::Reserved`], or [`Error::Role`] if another role wrote it.
pub fn check_opening(bytes: &[u8; OPENING_LEN], role: Role) -> Result<(), Error> {
    if bytes[..8] != MAGIC {
        return Err(Error::Magic);
    }
    let version = u16::from_le_bytes([bytes[8], bytes[9]]);
    if version != VERSION {
        return Err(Error::Version(version));
    }
    let got = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
    let want = checksum(&bytes[..12]);
    if got != want {
        return Err(Error::HeadChecksum { got, want });
    }
    if bytes[11] != 0 {
        return Err(Error::Reserved);
    }
    if bytes[10] != role as u8 {
        return Err(Error::Role(bytes[10]));
    }
    Ok(())
}

/// A frame header that passed its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Section number.
    pub section: u16,
    /// Whether a reader that does not know the section skips the frame.
    pub skippable: bool,
    /// Bytes of the body that follows.
    pub length: usize,
    checksum: u64,
}

impl Head {
    /// Whether `body` is what the header announces.
    ///
    /// # Errors
    /// [`Error::Cut`] if its length differs, [`Error::BodyChecksum`].
    pub fn check(&self, body: &[u8]) -> Result<(), Error> {
        if body.len() != self.length {
            return Err(Error::Cut);
        }
        let want = digest::bytes(body);
        if want != self.checksum {
            return Err(Error::BodyChecksum { section: self.section, got: self.checksum, want });
        }
        Ok(())
    }
}

/// Writes the frames of one direction into byte vectors.
#[derive(Debug, Default)]
pub struct Writer {
    sequence: u32,
}

impl Writer {
    /// Before the first frame.
    pub const fn new() -> Self {
        Self { sequence: 0 }
    }

    /// Appends a frame to `out`; `fill` appends its body.
    ///
    /// # Panics
    /// If `fill` appended more than [`MAX_BODY`] bytes, or removed some: a mistake of the caller, not of input.
    pub fn frame(&mut self, out: &mut Vec<u8>, section: u16, flags: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = out.len();
        out.resize(start + HEAD_LEN, 0);
        fill(out);
        let length = out.len() - start - HEAD_LEN;
        assert!(length <= MAX_BODY, "section {section}: {length} bytes in one frame");
        let sum = digest::bytes(&out[start + HEAD_LEN..]);
        let head = &mut out[start..start + HEAD_LEN];
        head[0..2].copy_from_slice(&section.to_le_bytes());
        head[2..4].copy_from_slice(&flags.to_le_bytes());
        head[4..8].copy_from_slice(&self.sequence.to_le_bytes());
        head[8..12].copy_from_slice(&(length as u32).to_le_bytes());
        head[12..20].copy_from_slice(&sum.to_le_bytes());
        let own = checksum(&head[..20]);
        head[20..24].copy_from_slice(&own.to_le_bytes());
        self.sequence = self.sequence.wrapping_add(1);
    }
}

/// Reads the frame headers of one direction.
#[derive(Debug, Default)]
pub struct Reader {
    sequence: u32,
}

impl Reader {
    /// Before the first frame.
    pub const fn new() -> Self {
        Self { sequence: 0 }
    }

    /// Reads the next header. Read [`Head::length`] bytes after it and give them to [`Head::check`].
    ///
    /// # Errors
    /// [`Error::HeadChecksum`], [`Error::Sequence`], [`Error::UnknownFlags`], [`Error::TooLong`].
    pub fn head(&mut self, bytes: &[u8; HEAD_LEN]) -> Result<Head, Error> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (got, want) = (word(20), checksum(&bytes[..20]));
        if got != want {
            return Err(Error::HeadChecksum { got, want });
        }
        if word(4) != self.sequence {
            return Err(Error::Sequence { got: word(4), want: self.sequence });
        }
        let flags = u16::from_le_bytes([bytes[2], bytes[3]]);
        if flags & !SKIPPABLE != 0 {
            return Err(Error::UnknownFlags(flags));
        }
        let length = word(8);
        if length as usize > MAX_BODY {
            return Err(Error::TooLong(length));
        }
        self.sequence = self.sequence.wrapping_add(1);
        Ok(Head {
            section: u16::from_le_bytes([bytes[0], bytes[1]]),
            skippable: flags & SKIPPABLE != 0,
            length: length as usize,
            checksum: u64::from(word(16)) << 32 | u64::from(word(12)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CRC-32 bit by bit, polynomial 0xEDB88320 reflected: shares nothing with the table.
    fn bitwise(bytes: &[u8]) -> [u8; 4] {
        let mut crc = !0u32;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
            }
        }
        (!crc).to_le_bytes()
    }

    fn with_crc(mut bytes: [u8; OPENING_LEN], at: usize, value: u8) -> [u8; OPENING_LEN] {
        bytes[at] = value;
        let crc = bitwise(&bytes[..12]);
        bytes[12..].copy_from_slice(&crc);
        bytes
    }

    #[test]
    fn opening_is_the_table_in_the_header() {
        let want = [b"PORTOLAN\x01\x00\x01\x00".as_slice(), &bitwise(b"PORTOLAN\x01\x00\x01\x00")].concat();
        assert_eq!(opening(Role::Destination).as_slice(), want);
    }

    #[test]
    fn opening_refusals_name_the_rule() {
        let good = opening(Role::Source);
        assert_eq!(check_opening(&good, Role::Source), Ok(()));
        assert_eq!(check_opening(&good, Role::Destination), Err(Error::Role(0)));
        assert_eq!(check_opening(&with_crc(good, 0, b'Q'), Role::Source), Err(Error::Magic));
        assert_eq!(check_opening(&with_crc(good, 8, 2), Role::Source), Err(Error::Version(2)));
        assert_eq!(check_opening(&with_crc(good, 10, 7), Role::Source), Err(Error::Role(7)));
        assert_eq!(check_opening(&with_crc(good, 11, 1), Role::Source), Err(Error::Reserved));
        for bit in 0..OPENING_LEN * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(check_opening(&bad, Role::Source).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn frame_is_the_table_in_the_header() {
        let mut out = b"before".to_vec();
        let mut writer = Writer::new();
        writer.frame(&mut out, 0x0102, SKIPPABLE, |body| body.extend(b"xyz"));
        let mut want = b"before".to_vec();
        let mut head = [2, 1, 1, 0, 0, 0, 0, 0, 3, 0, 0, 0].to_vec();
        head.extend(digest::bytes(b"xyz").to_le_bytes());
        want.extend(&head);
        want.extend(bitwise(&head));
        want.extend(b"xyz");
        assert_eq!(out, want);
        let at = out.len();
        writer.frame(&mut out, 1, 0, |_| {});
        assert_eq!(out[at + 4..at + 8], [1, 0, 0, 0], "the second frame has sequence 1");
    }

    fn head_with(edit: impl FnOnce(&mut [u8; HEAD_LEN])) -> Result<Head, Error> {
        let mut out = Vec::new();
        Writer::new().frame(&mut out, 5, 0, |body| body.extend([1; 8]));
        let mut head: [u8; HEAD_LEN] = out[..HEAD_LEN].try_into().unwrap();
        edit(&mut head);
        let crc = bitwise(&head[..20]);
        head[20..].copy_from_slice(&crc);
        Reader::new().head(&head)
    }

    #[test]
    fn header_refusals_name_the_rule() {
        assert_eq!(head_with(|_| {}).map(|h| (h.section, h.skippable, h.length)), Ok((5, false, 8)));
        assert_eq!(head_with(|h| h[4] = 1), Err(Error::Sequence { got: 1, want: 0 }));
        assert_eq!(head_with(|h| h[2] = 2), Err(Error::UnknownFlags(2)));
        assert_eq!(head_with(|h| h[10] = 8), Err(Error::TooLong(0x8_0008)));
        assert!(matches!(Reader::new().head(&[0; HEAD_LEN]), Err(Error::HeadChecksum { got: 0, .. })));
    }

    #[test]
    fn a_body_that_is_short_or_bent_is_refused() {
        let head = head_with(|_| {}).unwrap();
        assert_eq!(head.check(&[1; 8]), Ok(()));
        assert_eq!(head.check(&[1; 7]), Err(Error::Cut));
        assert!(matches!(head.check(&[1, 1, 1, 1, 1, 1, 1, 0]), Err(Error::BodyChecksum { section: 5, .. })));
    }

    #[test]
    #[should_panic(expected = "in one frame")]
    fn a_body_over_the_limit_is_the_writers_mistake() {
        Writer::new().frame(&mut Vec::new(), 5, 0, |body| body.resize(body.len() + MAX_BODY + 1, 0));
    }
}
