//! Which page of the region is for what.
//!
//! The first [`CONTROL`] pages hold the rings. All others are dealt out by a seeded permutation, so that what the card
//! writes (receive buffers), what the CPU writes (assembled passes) and what edu writes lie all over the region, side by side.

use crate::memory::Region;

/// Pages with rings and transmit buffers.
pub const CONTROL: u32 = 8;
/// Pages that the edu engine uses.
const EDU: usize = 64;
/// The smallest region in pages: the rings' buffers, twice the largest window, and room to assemble.
pub const MIN_PAGES: u32 = 4096;

/// The deal.
pub struct Layout {
    /// Receive buffers, in the order in which they rotate.
    pub receive: Vec<u32>,
    /// Pages in which passes are assembled, in order.
    pub assembly: Vec<u32>,
    /// Pages for edu.
    pub edu: Vec<u32>,
}

/// Next number of a splitmix64 sequence.
pub fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mix(*state)
}

const fn mix(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

impl Layout {
    /// Deals the pages of a region of `pages`, at least [`MIN_PAGES`].
    pub fn new(pages: u32, seed: u64) -> Self {
        let mut deck: Vec<u32> = (CONTROL..pages).collect();
        let mut state = seed;
        for at in (1..deck.len()).rev() {
            let other = (splitmix(&mut state) % (at as u64 + 1)) as usize;
            deck.swap(at, other);
        }
        let edu = deck.split_off(deck.len() - EDU);
        let assembly = deck.split_off(deck.len() / 2);
        Self { receive: deck, assembly, edu }
    }
    /// Bytes in which passes are assembled.
    pub fn assembly_bytes(&self) -> u64 {
        self.assembly.len() as u64 * 4096
    }
}

/// Fills the region from the seed. Every 16th page stays zero: such pages must move like any other.
pub fn fill(region: &Region, seed: u64) {
    for page in 0..region.pages() {
        let base = mix(seed ^ u64::from(page) << 32);
        if page % 16 == 5 {
            region.fill_page(page, |_| 0);
        } else {
            region.fill_page(page, |at| (base ^ at as u64).wrapping_mul(0xBF58_476D_1CE4_E5B9));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_one_use() {
        let layout = Layout::new(MIN_PAGES, 7);
        let mut seen = vec![0; MIN_PAGES as usize];
        for page in layout.receive.iter().chain(&layout.assembly).chain(&layout.edu) {
            seen[*page as usize] += 1;
        }
        assert!(seen[..CONTROL as usize].iter().all(|n| *n == 0));
        assert!(seen[CONTROL as usize..].iter().all(|n| *n == 1));
    }

    #[test]
    fn the_deal_depends_on_the_seed_only_and_spreads() {
        let (a, b, c) = (Layout::new(8192, 1), Layout::new(8192, 1), Layout::new(8192, 2));
        assert_eq!(a.receive, b.receive);
        assert_ne!(a.receive, c.receive);
        for quarter in 0..4 {
            let inside = |page: &&u32| **page / 2048 == quarter;
            assert!(a.receive.iter().filter(inside).count() > 900, "receive buffers lie everywhere");
            assert!(a.assembly.iter().filter(inside).count() > 900, "and so does what the CPU writes");
        }
    }
}
