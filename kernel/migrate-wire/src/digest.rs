//! 64-bit digests: of a page, and of any bytes.
//!
//! Not cryptographic: they find what was lost, bent or mixed up, at the speed of reading it. Eight lanes of 64 bits, lane i
//! beginning with i + 1, take every eighth word (little endian, the last block of 64 bytes filled up with zeros):
//! `lane = rotate_left((lane ^ word) * ODD, 29)`. The digest begins with ODD and takes, in the same way, a number (of the
//! page, or the length in bytes) and the lanes. Each step is a bijection of its lane and of the digest, so two inputs of the
//! same length that differ in one lane only never have the same digest.

use crate::PAGE;

const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
const LANES: usize = 8;
const BLOCK: usize = 8 * LANES;

const fn step(lane: u64, word: u64) -> u64 {
    (lane ^ word).wrapping_mul(ODD).rotate_left(29)
}

struct Lanes([u64; LANES]);

impl Lanes {
    const START: Self = Self([1, 2, 3, 4, 5, 6, 7, 8]);

    fn take(&mut self, block: &[u8; BLOCK]) {
        for (lane, word) in self.0.iter_mut().zip(block.as_chunks::<8>().0) {
            *lane = step(*lane, u64::from_le_bytes(*word));
        }
    }
    fn end(self, number: u64) -> u64 {
        self.0.into_iter().fold(step(ODD, number), step)
    }
}

/// Digest of the page with number `index`. The number is part of it: a page in the wrong place is a lost page.
pub fn page(index: u32, bytes: &[u8; PAGE]) -> u64 {
    let mut lanes = Lanes::START;
    for block in bytes.as_chunks::<BLOCK>().0 {
        lanes.take(block);
    }
    lanes.end(index.into())
}

/// Digest of any bytes.
pub fn bytes(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    let mut lanes = Lanes::START;
    for block in blocks {
        lanes.take(block);
    }
    if !rest.is_empty() {
        let mut last = [0; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        lanes.take(&last);
    }
    lanes.end(bytes.len() as u64)
}

/// Fold over the digests of all pages, in ascending order: one number that both sides can print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fold(u64);

impl Fold {
    /// Over no page.
    pub const fn new() -> Self {
        Self(ODD)
    }
    /// Takes the digest of the next page.
    pub const fn add(&mut self, digest: u64) {
        self.0 = step(self.0, digest);
    }
    /// The fold so far.
    pub const fn value(&self) -> u64 {
        self.0
    }
}

impl Default for Fold {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn every_flipped_bit_changes_the_digest() {
        let mut bytes = [0; PAGE];
        let clean = page(7, &bytes);
        for bit in 0..PAGE * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(page(7, &bytes), clean, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// The definition, word by word, with nothing of the code above.
    fn by_definition(bytes: &[u8], number: u64) -> u64 {
        let step = |value: u64, word: u64| {
            let product = u128::from(value ^ word) * 0x9E37_79B9_7F4A_7C15;
            (product as u64).rotate_left(29)
        };
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(64), 0);
        let mut digest = step(0x9E37_79B9_7F4A_7C15, number);
        for lane in 0..8 {
            let mut value = lane as u64 + 1;
            for at in (8 * lane..padded.len()).step_by(64) {
                value = step(value, (0..8).map(|i| u64::from(padded[at + i]) << (8 * i)).sum());
            }
            digest = step(digest, value);
        }
        digest
    }

    #[test]
    fn the_digests_are_those_of_the_definition() {
        let data: Vec<u8> = (0..PAGE as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for length in [0, 1, 7, 8, 63, 64, 65, 200, PAGE] {
            assert_eq!(bytes(&data[..length]), by_definition(&data[..length], length as u64), "{length} bytes");
        }
        assert_eq!(page(9, data.as_slice().try_into().unwrap()), by_definition(&data, 9));
    }

    #[test]
    fn zeros_at_the_end_count() {
        assert_ne!(bytes(&[1, 0]), bytes(&[1]));
        assert_ne!(bytes(&[0; 64]), bytes(&[0; 63]));
    }

    #[test]
    fn words_that_change_places_change_the_digest() {
        let mut bytes = [0; PAGE];
        bytes[8] = 1;
        let one = page(0, &bytes);
        for at in (0..PAGE).step_by(8).filter(|at| *at != 8) {
            let mut moved = [0; PAGE];
            moved[at] = 1;
            assert_ne!(page(0, &moved), one, "word at {at}");
        }
    }

    #[test]
    fn the_same_page_elsewhere_has_another_digest() {
        let bytes = [0; PAGE];
        assert_ne!(page(0, &bytes), page(1, &bytes));
    }

    #[test]
    fn the_fold_depends_on_the_order() {
        let (mut ab, mut ba) = (Fold::new(), Fold::new());
        ab.add(1);
        ab.add(2);
        ba.add(2);
        ba.add(1);
        assert_ne!(ab, ba);
        assert_ne!(ab.value(), Fold::new().value());
    }
}
