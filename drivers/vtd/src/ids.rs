//! Domain ids of one unit, bounded by CAP.ND.

use alloc::vec::Vec;
use iommu_types::{Error, Resource};

/// Which of `count` ids are taken.
pub(crate) struct Ids {
    words: Vec<u64>,
    count: u32,
    used: u32,
}

impl Ids {
    /// `count` ids (a multiple of 16, at most 65536); those in `reserved` are never given out.
    pub(crate) fn new(count: u32, reserved: &[u16]) -> Result<Self, Error> {
        let length = count.div_ceil(64) as usize;
        let mut words = Vec::new();
        words.try_reserve_exact(length).map_err(|_| Error::Exhausted(Resource::Memory))?;
        words.resize(length, 0);
        for &id in reserved {
            words[usize::from(id) / 64] |= 1 << (id % 64);
        }
        Ok(Self { words, count, used: 0 })
    }
    /// The lowest free id.
    pub(crate) fn take(&mut self) -> Result<u16, Error> {
        for (at, word) in self.words.iter_mut().enumerate() {
            let bit = word.trailing_ones();
            let id = at as u32 * 64 + bit;
            if bit < 64 && id < self.count {
                *word |= 1 << bit;
                self.used += 1;
                return Ok(id as u16);
            }
        }
        Err(Error::Exhausted(Resource::DomainIds))
    }
    /// Gives an id back; nothing in the unit's caches may carry it any more.
    pub(crate) fn give(&mut self, id: u16) {
        if let Some(word) = self.words.get_mut(usize::from(id) / 64)
            && *word & 1 << (id % 64) != 0
        {
            *word &= !(1 << (id % 64));
            self.used = self.used.saturating_sub(1);
        }
    }
    /// Ids given out.
    pub(crate) fn used(&self) -> u32 {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_ids_of_which_one_is_reserved() {
        let mut ids = Ids::new(16, &[0]).unwrap();
        let taken: Vec<u16> = (0..15).map(|_| ids.take().unwrap()).collect();
        assert_eq!(taken, (1..16).collect::<Vec<u16>>());
        assert_eq!(ids.take(), Err(Error::Exhausted(Resource::DomainIds)));
        ids.give(7);
        assert_eq!((ids.take(), ids.used()), (Ok(7), 15));
    }
}
