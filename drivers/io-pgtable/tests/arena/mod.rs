//! Table memory for tests: counts, fails on demand, and, for non-coherent walkers, remembers what was published.
#![allow(dead_code)]

use iommu_api::{Coherency, TableMem, WORDS, Words};
use iommu_types::{Error, Phys, Resource};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub const BASE: u64 = 0x1_0000_0000;

struct State {
    free: BTreeSet<usize>,
    next: BTreeMap<u64, Option<Phys>>,
    allocations: usize,
    fail_at: Option<usize>,
    /// What a walker that does not snoop sees.
    stale: Option<Vec<[u64; WORDS]>>,
    publishes: usize,
}

/// `frames` pages of memory at [`BASE`].
pub struct Arena {
    frames: Vec<Box<Words>>,
    state: Mutex<State>,
}

impl Arena {
    pub fn new(frames: usize) -> Self {
        let page = || Box::new([const { AtomicU64::new(0) }; WORDS]);
        let state = State {
            free: (0..frames).collect(),
            next: BTreeMap::new(),
            allocations: 0,
            fail_at: None,
            stale: None,
            publishes: 0,
        };
        Self { frames: (0..frames).map(|_| page()).collect(), state: Mutex::new(state) }
    }
    /// From now on [`walker_word`](Self::walker_word) shows only what was published.
    pub fn with_stale_view(self) -> Self {
        let junk = [0xdead_beef_dead_be03; WORDS];
        self.state.lock().unwrap().stale = Some(vec![junk; self.frames.len()]);
        self
    }
    /// The `n`th allocation from now (0 = the next) fails, and all after it.
    pub fn fail_at(&self, n: Option<usize>) {
        let mut state = self.state.lock().unwrap();
        state.fail_at = n.map(|n| n + state.allocations);
    }
    pub fn in_use(&self) -> usize {
        self.frames.len() - self.state.lock().unwrap().free.len()
    }
    pub fn publishes(&self) -> usize {
        self.state.lock().unwrap().publishes
    }
    fn frame(&self, at: u64) -> Option<usize> {
        let frame = (at.checked_sub(BASE)? >> 12) as usize;
        (frame < self.frames.len()).then_some(frame)
    }
    fn word(&self, at: Phys) -> Option<&AtomicU64> {
        assert_eq!(at.0 & 7, 0, "misaligned access to {at:?}");
        Some(&self.frames[self.frame(at.0)?][(at.0 as usize & 0xfff) / 8])
    }
    /// A word as hardware reads it.
    pub fn walker_word(&self, at: Phys) -> u64 {
        let frame = self.frame(at.0).expect("the walker left memory");
        let word = (at.0 as usize & 0xfff) / 8;
        match &self.state.lock().unwrap().stale {
            Some(stale) => stale[frame][word],
            None => self.frames[frame][word].load(Ordering::SeqCst),
        }
    }
    /// Or-s bits into a word, as hardware does.
    pub fn walker_or(&self, at: Phys, bits: u64) {
        self.walker_update(at, bits, 0);
    }
    /// Sets and clears bits of a word, as hardware does.
    pub fn walker_update(&self, at: Phys, set: u64, clear: u64) {
        let word = self.word(at).unwrap();
        word.fetch_or(set, Ordering::SeqCst);
        word.fetch_and(!clear, Ordering::SeqCst);
        let frame = self.frame(at.0).unwrap();
        if let Some(stale) = &mut self.state.lock().unwrap().stale {
            let word = &mut stale[frame][(at.0 as usize & 0xfff) / 8];
            *word = (*word | set) & !clear;
        }
    }
}

impl Coherency for Arena {
    fn publish(&self, at: Phys, bytes: usize) {
        let mut state = self.state.lock().unwrap();
        state.publishes += 1;
        // Whole cache lines, as the instruction does.
        let (first, last) = (at.0 & !63, (at.0 + bytes as u64 - 1) | 63);
        for at in (first..=last).step_by(8) {
            let frame = self.frame(at).expect("published outside of memory");
            let word = (at as usize & 0xfff) / 8;
            let value = self.frames[frame][word].load(Ordering::SeqCst);
            if let Some(stale) = &mut state.stale {
                stale[frame][word] = value;
            }
        }
    }
}

impl TableMem for Arena {
    fn alloc_run(&self, pages: usize) -> Result<Phys, Error> {
        let mut state = self.state.lock().unwrap();
        state.allocations += 1;
        if state.fail_at.is_some_and(|at| state.allocations > at) {
            return Err(Error::Exhausted(Resource::Memory));
        }
        let align = pages.next_power_of_two();
        let found = state
            .free
            .iter()
            .copied()
            .filter(|first| first % align == 0)
            .find(|first| (*first..first + pages).all(|frame| state.free.contains(&frame)));
        let first = found.ok_or(Error::Exhausted(Resource::Memory))?;
        for frame in first..first + pages {
            state.free.remove(&frame);
            for word in self.frames[frame].iter() {
                word.store(0, Ordering::SeqCst);
            }
        }
        Ok(Phys(BASE + ((first as u64) << 12)))
    }
    fn release_run(&self, base: Phys, pages: usize) {
        let first = self.frame(base.0).expect("released outside of memory");
        let mut state = self.state.lock().unwrap();
        for frame in first..first + pages {
            assert!(state.free.insert(frame), "page {frame} released twice");
            // Poison: a walker or driver that still looks here will show it.
            for word in self.frames[frame].iter() {
                word.store(0x5a5a_5a5a_5a5a_5a5a, Ordering::SeqCst);
            }
        }
    }
    fn words(&self, page: Phys) -> Option<&Words> {
        assert_eq!(page.0 & 0xfff, 0);
        let frame = self.frame(page.0)?;
        assert!(!self.state.lock().unwrap().free.contains(&frame), "a free page {page:?} is walked");
        Some(&self.frames[frame])
    }
    fn store64(&self, at: Phys, value: u64) {
        if let Some(word) = self.word(at) {
            word.store(value, Ordering::SeqCst);
        }
    }
    fn store128(&self, at: Phys, value: u128) {
        assert_eq!(at.0 & 15, 0, "misaligned 128-bit store");
        self.store64(at, value as u64);
        self.store64(Phys(at.0 + 8), (value >> 64) as u64);
    }
    fn load64(&self, at: Phys) -> u64 {
        self.word(at).map_or(0, |word| word.load(Ordering::SeqCst))
    }
    fn set_next(&self, page: Phys, next: Option<Phys>) {
        self.state.lock().unwrap().next.insert(page.0, next);
    }
    fn next(&self, page: Phys) -> Option<Phys> {
        self.state.lock().unwrap().next.get(&page.0).copied().flatten()
    }
}
