//! A bit per page of the region.

/// Which pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
    pages: u32,
}

impl Bitmap {
    /// No page of `pages`.
    pub fn none(pages: u32) -> Self {
        Self { words: vec![0; pages.div_ceil(64) as usize], pages }
    }
    /// Every page of `pages`.
    pub fn all(pages: u32) -> Self {
        let mut all = Self::none(pages);
        (0..pages).for_each(|page| all.set(page));
        all
    }
    /// How many pages the map is about.
    pub fn pages(&self) -> u32 {
        self.pages
    }
    /// The words, bit `i % 64` of word `i / 64` for page `i`, as the kernel fills them.
    pub fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }
    /// Marks a page.
    pub fn set(&mut self, page: u32) {
        self.words[page as usize / 64] |= 1 << (page % 64);
    }
    /// Whether a page is marked.
    pub fn has(&self, page: u32) -> bool {
        self.words[page as usize / 64] >> (page % 64) & 1 != 0
    }
    /// How many are marked.
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }
    /// Marks what `other` has marked.
    pub fn or(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
    }
    /// Forgets all marks.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }
    /// The marked pages, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().zip(0u32..).flat_map(|(word, at)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(at * 64 + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_counted_and_listed_in_order() {
        let mut map = Bitmap::none(130);
        for page in [129, 0, 63, 64] {
            map.set(page);
        }
        assert_eq!(map.iter().collect::<Vec<_>>(), [0, 63, 64, 129]);
        assert_eq!(map.count(), 4);
        assert!(map.has(63) && !map.has(62));
        let mut other = Bitmap::none(130);
        other.set(5);
        other.or(&map);
        assert_eq!(other.count(), 5);
        assert_eq!(Bitmap::all(130).count(), 130);
        map.clear();
        assert_eq!(map.iter().next(), None);
    }
}
