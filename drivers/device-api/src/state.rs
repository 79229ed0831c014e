//! The byte stream of a saved device: versioned, numbered sections, one checksum over everything.
//!
//! ```text
//! header   magic "PDEV"  u32 kind (vendor << 16 | device)  u16 version  u16 zero
//! section  u16 number (1..=0xfffe)  u16 flags (bit 0: may be skipped)  u32 length  bytes
//! ...
//! end      u16 0xffff  u16 zero  u32 4  u32 CRC-32 (ISO-HDLC) of all bytes before this number
//! ```
//!
//! Little endian. Sections come in ascending order, each at most once. A reader refuses a section that it does not know unless the
//! writer marked it as one that may be skipped.

use crate::Error;
use alloc::vec::Vec;

const MAGIC: [u8; 4] = *b"PDEV";
const END: u16 = 0xffff;
const SKIPPABLE: u16 = 1;
const HEADER: usize = 12;
const SECTION: usize = 8;
const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

const fn bad(section: u16, reason: &'static str) -> Error {
    Error::BadState { section, reason }
}

/// Builds a stream. Sections must be added in ascending order of their numbers.
pub struct Writer {
    bytes: Vec<u8>,
    last: u16,
}

impl Writer {
    /// Starts the state of a device of `kind` (vendor << 16 | device) in `version` of its driver's format.
    pub fn new(kind: u32, version: u16) -> Self {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        Self { bytes, last: 0 }
    }

    fn put(&mut self, number: u16, flags: u16, data: &[u8]) {
        debug_assert!(self.last < number && number < END, "sections ascend");
        self.last = number;
        self.bytes.extend_from_slice(&number.to_le_bytes());
        self.bytes.extend_from_slice(&flags.to_le_bytes());
        self.bytes.extend_from_slice(&(data.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(data);
    }

    /// Adds a section that every reader must understand.
    pub fn section(&mut self, number: u16, data: &[u8]) {
        self.put(number, 0, data);
    }

    /// Adds a section that a reader may skip if it does not know it.
    pub fn optional(&mut self, number: u16, data: &[u8]) {
        self.put(number, SKIPPABLE, data);
    }

    /// Adds a section of 32-bit words.
    pub fn words(&mut self, number: u16, words: &[u32]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(number, 0, &bytes);
    }

    /// Closes the stream.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&END.to_le_bytes());
        self.bytes.extend_from_slice(&0u16.to_le_bytes());
        self.bytes.extend_from_slice(&4u32.to_le_bytes());
        let sum = CRC.checksum(&self.bytes);
        self.bytes.extend_from_slice(&sum.to_le_bytes());
        self.bytes
    }
}

/// One section of a checked stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section<'a> {
    /// Its number.
    pub number: u16,
    /// May a reader that does not know it skip it?
    pub optional: bool,
    /// Its bytes.
    pub data: &'a [u8],
}

impl<'a> Section<'a> {
    /// Its data as exactly `N` little-endian 32-bit words.
    ///
    /// # Errors
    /// [`Error::BadState`] if the length is another.
    pub fn words<const N: usize>(&self) -> Result<[u32; N], Error> {
        let (words, rest) = self.data.as_chunks::<4>();
        if words.len() != N || !rest.is_empty() {
            return Err(bad(self.number, "wrong length"));
        }
        let mut out = [0; N];
        for (slot, raw) in out.iter_mut().zip(words) {
            *slot = u32::from_le_bytes(*raw);
        }
        Ok(out)
    }

    /// Its data as exactly `count` little-endian 32-bit words.
    ///
    /// # Errors
    /// [`Error::BadState`] if the length is another.
    pub fn word_list(&self, count: usize) -> Result<Vec<u32>, Error> {
        let (words, rest) = self.data.as_chunks::<4>();
        if words.len() != count || !rest.is_empty() {
            return Err(bad(self.number, "wrong length"));
        }
        Ok(words.iter().map(|raw| u32::from_le_bytes(*raw)).collect())
    }

    /// Its data as exactly `N` bytes.
    ///
    /// # Errors
    /// [`Error::BadState`] if the length is another.
    pub fn bytes<const N: usize>(&self) -> Result<&'a [u8; N], Error> {
        self.data.try_into().map_err(|_| bad(self.number, "wrong length"))
    }
}

/// A stream whose frame, order and checksum were checked.
#[derive(Debug)]
pub struct Reader<'a> {
    version: u16,
    sections: Vec<Section<'a>>,
}

impl<'a> Reader<'a> {
    /// Checks the whole of `data`: magic, `kind`, a version of at most `newest`, every length, the order, the checksum, and that
    /// nothing follows the end.
    ///
    /// # Errors
    /// [`Error::BadState`] with the reason.
    pub fn new(data: &'a [u8], kind: u32, newest: u16) -> Result<Self, Error> {
        let (header, mut rest) = data.split_first_chunk::<HEADER>().ok_or(bad(0, "cut in the header"))?;
        let [m0, m1, m2, m3, k0, k1, k2, k3, v0, v1, z0, z1] = *header;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(bad(0, "not a device state"));
        }
        if u32::from_le_bytes([k0, k1, k2, k3]) != kind {
            return Err(bad(0, "state of another device"));
        }
        let version = u16::from_le_bytes([v0, v1]);
        if version == 0 || version > newest {
            return Err(bad(0, "version not known here"));
        }
        if [z0, z1] != [0; 2] {
            return Err(bad(0, "reserved bytes are not zero"));
        }
        let mut sections = Vec::new();
        let mut last = 0;
        loop {
            let (head, tail) = rest.split_first_chunk::<SECTION>().ok_or(bad(0, "cut before the end"))?;
            let [n0, n1, f0, f1, l0, l1, l2, l3] = *head;
            let number = u16::from_le_bytes([n0, n1]);
            let flags = u16::from_le_bytes([f0, f1]);
            let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
            if number <= last {
                return Err(bad(number, "sections do not ascend"));
            }
            last = number;
            let body = tail.get(..length).ok_or(bad(number, "cut in a section"))?;
            let after = tail.get(length..).unwrap_or(&[]);
            if number == END {
                let sum: [u8; 4] = body.try_into().map_err(|_| bad(0, "end has a wrong length"))?;
                if flags != 0 || !after.is_empty() {
                    return Err(bad(0, "bytes after the end"));
                }
                let covered = data.get(..data.len() - 4).unwrap_or(&[]);
                if CRC.checksum(covered) != u32::from_le_bytes(sum) {
                    return Err(bad(0, "checksum differs"));
                }
                return Ok(Self { version, sections });
            }
            if flags & !SKIPPABLE != 0 {
                return Err(bad(number, "unknown flags"));
            }
            sections.push(Section { number, optional: flags & SKIPPABLE != 0, data: body });
            rest = after;
        }
    }

    /// Version of the driver's format, 1 or more.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// The section with this number.
    ///
    /// # Errors
    /// [`Error::BadState`] if it is missing.
    pub fn need(&self, number: u16) -> Result<Section<'a>, Error> {
        self.sections.iter().find(|s| s.number == number).copied().ok_or(bad(number, "missing"))
    }

    /// Refuses what the driver does not know: every section must be in `known` or be marked as one that may be skipped.
    ///
    /// # Errors
    /// [`Error::BadState`] with the number of the first such section.
    pub fn only(&self, known: &[u16]) -> Result<(), Error> {
        match self.sections.iter().find(|s| !s.optional && !known.contains(&s.number)) {
            Some(section) => Err(bad(section.number, "unknown section")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const KIND: u32 = 0x1234_11e8;

    fn sample() -> Vec<u8> {
        let mut writer = Writer::new(KIND, 1);
        writer.words(1, &[0x1122_3344, 5]);
        writer.optional(9, b"extra");
        writer.finish()
    }

    fn reason(data: &[u8]) -> &'static str {
        match Reader::new(data, KIND, 1) {
            Err(Error::BadState { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_module_documentation() {
        let mut want = vec![b'P', b'D', b'E', b'V', 0xe8, 0x11, 0x34, 0x12, 1, 0, 0, 0];
        want.extend([1, 0, 0, 0, 8, 0, 0, 0, 0x44, 0x33, 0x22, 0x11, 5, 0, 0, 0]);
        want.extend([9, 0, 1, 0, 5, 0, 0, 0]);
        want.extend(b"extra");
        want.extend([0xff, 0xff, 0, 0, 4, 0, 0, 0]);
        let got = sample();
        assert_eq!(got[..want.len()], want);
        assert_eq!(got.len(), want.len() + 4);
    }

    #[test]
    fn what_was_written_is_read() {
        let data = sample();
        let reader = Reader::new(&data, KIND, 1).unwrap();
        assert_eq!(reader.version(), 1);
        assert_eq!(reader.need(1).unwrap().words::<2>().unwrap(), [0x1122_3344, 5]);
        assert_eq!(reader.need(1).unwrap().word_list(2).unwrap(), [0x1122_3344, 5]);
        assert_eq!(reader.need(9).unwrap().word_list(1), Err(bad(9, "wrong length")));
        assert_eq!(reader.need(9).unwrap().data, b"extra");
        assert!(reader.only(&[1]).is_ok());
        assert_eq!(reader.only(&[9]), Err(bad(1, "unknown section")));
        assert_eq!(reader.need(2), Err(bad(2, "missing")));
        assert_eq!(reader.need(1).unwrap().words::<3>(), Err(bad(1, "wrong length")));
    }

    #[test]
    fn cut_at_every_byte_is_refused() {
        let data = sample();
        for end in 0..data.len() {
            assert!(Reader::new(&data[..end], KIND, 1).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let data = sample();
        for at in 0..data.len() * 8 {
            let mut bent = data.clone();
            bent[at / 8] ^= 1 << (at % 8);
            assert!(Reader::new(&bent, KIND, 1).is_err(), "bit {at}");
        }
    }

    #[test]
    fn each_refusal_has_its_reason() {
        let data = sample();
        assert_eq!(reason(b"PDEX00000000"), "not a device state");
        assert_eq!(reason(&Writer::new(7, 1).finish()), "state of another device");
        assert_eq!(reason(&Writer::new(KIND, 2).finish()), "version not known here");
        assert_eq!(reason(&Writer::new(KIND, 0).finish()), "version not known here");
        assert_eq!(reason(&[&data[..], b"x"].concat()), "bytes after the end");
        let mut flags = data.clone();
        flags[14] = 2;
        assert_eq!(reason(&flags), "unknown flags");
        let mut order = data.clone();
        order[28] = 1; // number of the second section
        assert_eq!(reason(&order), "sections do not ascend");
        let mut sum = data.clone();
        *sum.last_mut().unwrap() ^= 1;
        assert_eq!(reason(&sum), "checksum differs");
        let mut long = data;
        long[19] = 0xff; // length 0xff00_0008
        assert_eq!(reason(&long), "cut in a section");
    }
}
