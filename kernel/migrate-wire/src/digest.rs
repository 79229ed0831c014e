//! The 64-bit digest of a page.
//!
//! Not cryptographic: it finds pages that were lost or mixed up, at the speed of reading them. Eight lanes of 64 bits each
//! take every eighth word: `lane = rotate_left((lane ^ word) * ODD, 29)`. Each step is a bijection of its lane and so is
//! the final mix, so two pages that differ in one lane only never have the same digest.

use crate::PAGE;

const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
const LANES: usize = 8;

const fn step(lane: u64, word: u64) -> u64 {
    (lane ^ word).wrapping_mul(ODD).rotate_left(29)
}

/// Digest of the page with number `index`. The number is part of it: a page in the wrong place is a lost page.
pub fn page(index: u32, bytes: &[u8; PAGE]) -> u64 {
    let mut lanes = [0u64; LANES];
    for (at, lane) in lanes.iter_mut().enumerate() {
        *lane = at as u64 + 1;
    }
    for block in bytes.as_chunks::<{ 8 * LANES }>().0 {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
            *lane = step(*lane, u64::from_le_bytes(*word));
        }
    }
    let mut digest = step(ODD, index.into());
    for lane in lanes {
        digest = step(digest, lane);
    }
    digest
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
