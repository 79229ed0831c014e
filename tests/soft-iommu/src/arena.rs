//! Physical memory of the modelled machine: sparse 4 KiB frames of atomic words.
//!
//! Every frame has an owner ([`Use`]); the units report a device or a walker that reaches a frame it must not. With
//! the *stale view* each frame has a second copy, the one that a walker which does not snoop sees: [`Arena::publish`]
//! copies into it. That copy starts as a trap, entries that are present, allow everything and lead to frame 0, so that
//! a table page whose zeroes were not published leads somewhere wrong instead of nowhere.

use crate::ghost::Violation;
use crate::util::Rng;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

const PAGE: u64 = 4096;
const WORDS: usize = 512;
/// More violations than this are counted, not kept.
const KEPT: usize = 64;

/// Who owns a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Use {
    /// Nobody.
    Free = 0,
    /// Tables, structures and queues of a driver.
    Table = 1,
    /// Memory that devices may be given.
    Data = 2,
    /// Frame 0: where unpublished entries lead.
    Trap = 3,
}

impl Use {
    fn from(raw: u8) -> Self {
        match raw {
            1 => Self::Table,
            2 => Self::Data,
            3 => Self::Trap,
            _ => Self::Free,
        }
    }
}

/// One store to a structure, as the journal keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Store {
    /// Where (8- or 16-byte aligned).
    pub pa: u64,
    /// One word or two.
    pub words: u8,
    /// What was there.
    pub old: [u64; 2],
    /// What is there now.
    pub new: [u64; 2],
}

struct Frame {
    words: [AtomicU64; WORDS],
    seen: Option<Box<[AtomicU64; WORDS]>>,
}

#[derive(Default)]
struct Pool {
    /// Frames given back, newest first: reuse comes as early as possible.
    returned: Vec<usize>,
    /// Frames from here on were never used.
    fresh: usize,
}

/// Physical memory.
pub struct Arena {
    base: u64,
    frames: Vec<OnceLock<Box<Frame>>>,
    owner: Vec<AtomicU8>,
    chain: Vec<AtomicU64>,
    pool: Mutex<Pool>,
    stale: bool,
    journal: Mutex<Option<Vec<Store>>>,
    journal_on: AtomicBool,
    /// Held over every store or load of two words.
    pair: Mutex<()>,
    fail_in: AtomicI64,
    requests: AtomicU64,
    tables: AtomicUsize,
    swallow_publish: AtomicBool,
    violations: Mutex<(Vec<Violation>, usize)>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Arena {
    /// `mib` MiB of memory from `base` (a multiple of 2 MiB).
    pub fn new(base: u64, mib: usize) -> Self {
        Self::build(base, mib, false)
    }

    /// The same, with a second view for walkers that do not snoop.
    pub fn with_stale_view(base: u64, mib: usize) -> Self {
        Self::build(base, mib, true)
    }

    fn build(base: u64, mib: usize, stale: bool) -> Self {
        assert_eq!(base % (2 << 20), 0, "base of the arena");
        let frames = mib * 256;
        let arena = Self {
            base,
            frames: (0..frames).map(|_| OnceLock::new()).collect(),
            owner: (0..frames).map(|_| AtomicU8::new(0)).collect(),
            chain: (0..frames).map(|_| AtomicU64::new(0)).collect(),
            pool: Mutex::new(Pool { returned: Vec::new(), fresh: 1 }),
            stale,
            journal: Mutex::new(None),
            journal_on: AtomicBool::new(false),
            pair: Mutex::new(()),
            fail_in: AtomicI64::new(0),
            requests: AtomicU64::new(0),
            tables: AtomicUsize::new(0),
            swallow_publish: AtomicBool::new(false),
            violations: Mutex::new((Vec::new(), 0)),
        };
        arena.owner[0].store(Use::Trap as u8, Ordering::Relaxed);
        if let Some(words) = arena.words(base) {
            words.iter().for_each(|w| w.store(arena.trap(), Ordering::Relaxed));
        }
        arena.publish_raw(base, PAGE as usize);
        arena
    }

    /// First address.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// An entry that is present, allows everything and leads to frame 0, in every table format of this crate.
    pub fn trap(&self) -> u64 {
        self.base | 7
    }

    fn index(&self, pa: u64) -> Option<usize> {
        let at = pa.checked_sub(self.base)? / PAGE;
        (at < self.frames.len() as u64).then_some(at as usize)
    }

    fn frame(&self, pa: u64) -> Option<&Frame> {
        let index = self.index(pa)?;
        Some(self.frames[index].get_or_init(|| {
            let trap = self.base | 7;
            Box::new(Frame {
                words: [const { AtomicU64::new(0) }; WORDS],
                seen: self.stale.then(|| Box::new([const { AtomicU64::new(0) }; WORDS])).inspect(|seen| {
                    seen.iter().for_each(|w| w.store(trap, Ordering::Relaxed));
                }),
            })
        }))
    }

    /// Who owns the frame of `pa`; `None` outside the arena.
    pub fn owner(&self, pa: u64) -> Option<Use> {
        self.index(pa).map(|i| Use::from(self.owner[i].load(Ordering::Relaxed)))
    }

    /// `pages` zeroed frames in one run, aligned to their number rounded up to a power of two; `None` if there is no
    /// room or [`fail_at`](Self::fail_at) says so. Only requests for [`Use::Table`] are counted and made to fail.
    pub fn alloc(&self, pages: usize, owner: Use) -> Option<u64> {
        if pages == 0 {
            return None;
        }
        if owner == Use::Table {
            self.requests.fetch_add(1, Ordering::Relaxed);
            if self.fail_in.load(Ordering::Relaxed) > 0 && self.fail_in.fetch_sub(1, Ordering::Relaxed) == 1 {
                return None;
            }
        }
        let mut pool = lock(&self.pool);
        let first = if pages == 1 {
            let mut found = None;
            while let Some(i) = pool.returned.pop() {
                if self.owner[i].load(Ordering::Relaxed) == Use::Free as u8 {
                    found = Some(i);
                    break;
                }
            }
            found.or_else(|| {
                while pool.fresh < self.frames.len() {
                    let i = pool.fresh;
                    pool.fresh += 1;
                    if self.owner[i].load(Ordering::Relaxed) == Use::Free as u8 {
                        return Some(i);
                    }
                }
                None
            })?
        } else {
            let align = pages.next_power_of_two();
            let free = |i: usize| self.owner[i].load(Ordering::Relaxed) == Use::Free as u8;
            let first = (0..self.frames.len().checked_sub(pages)? + 1)
                .step_by(align)
                .find(|&start| (start..start + pages).all(free))?;
            if first + pages > pool.fresh {
                let skipped = pool.fresh..first;
                pool.returned.extend(skipped);
                pool.fresh = first + pages;
            }
            first
        };
        for i in first..first + pages {
            self.owner[i].store(owner as u8, Ordering::Relaxed);
            if let Some(frame) = self.frame(self.base + i as u64 * PAGE) {
                frame.words.iter().for_each(|w| w.store(0, Ordering::Relaxed));
            }
        }
        if owner == Use::Table {
            self.tables.fetch_add(pages, Ordering::Relaxed);
        }
        Some(self.base + first as u64 * PAGE)
    }

    /// Gives a run back. The contents stay, for whoever still walks them.
    pub fn release(&self, base: u64, pages: usize) {
        let mut pool = lock(&self.pool);
        for n in 0..pages as u64 {
            let pa = base.wrapping_add(n * PAGE);
            match (self.index(pa), self.owner(pa)) {
                (Some(i), Some(owner @ (Use::Table | Use::Data))) if pa.is_multiple_of(PAGE) => {
                    self.owner[i].store(Use::Free as u8, Ordering::Relaxed);
                    if owner == Use::Table {
                        self.tables.fetch_sub(1, Ordering::Relaxed);
                    }
                    pool.returned.push(i);
                }
                (_, owner) => self.violate("release of a frame that is not held", format!("{pa:#x} is {owner:?}")),
            }
        }
    }

    /// The `n`th table request from now fails (1: the next one), once. 0: none.
    pub fn fail_at(&self, n: u32) {
        self.fail_in.store(i64::from(n), Ordering::Relaxed);
    }

    /// Has the failure asked for by [`fail_at`](Self::fail_at) not happened yet?
    pub fn failure_pending(&self) -> bool {
        self.fail_in.load(Ordering::Relaxed) > 0
    }

    /// Requests for tables so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Table frames held now.
    pub fn live_tables(&self) -> usize {
        self.tables.load(Ordering::Relaxed)
    }

    /// The words of the frame at `page`; `None` outside the arena or if `page` is not aligned.
    pub fn words(&self, page: u64) -> Option<&[AtomicU64; WORDS]> {
        if !page.is_multiple_of(PAGE) {
            return None;
        }
        self.frame(page).map(|f| &f.words)
    }

    fn word(&self, pa: u64) -> Option<&AtomicU64> {
        self.frame(pa).map(|f| &f.words[(pa % PAGE) as usize / 8])
    }

    /// One load; 0 outside the arena.
    pub fn load64(&self, pa: u64) -> u64 {
        self.word(pa).map_or(0, |w| w.load(Ordering::SeqCst))
    }

    /// One store by the driver.
    pub fn store64(&self, pa: u64, value: u64) {
        if !pa.is_multiple_of(8) {
            self.violate("misaligned store", format!("{pa:#x}"));
        }
        let Some(word) = self.word(pa) else {
            self.violate("store outside of memory", format!("{pa:#x}"));
            return;
        };
        self.held(pa);
        let old = word.swap(value, Ordering::SeqCst);
        self.note(Store { pa, words: 1, old: [old, 0], new: [value, 0] });
    }

    /// One 128-bit store by the driver; the walker sees both words or none.
    pub fn store128(&self, pa: u64, value: u128) {
        if !pa.is_multiple_of(16) {
            self.violate("misaligned store", format!("{pa:#x}"));
        }
        let (Some(lo), Some(hi)) = (self.word(pa), self.word(pa + 8)) else {
            self.violate("store outside of memory", format!("{pa:#x}"));
            return;
        };
        self.held(pa);
        let new = [value as u64, (value >> 64) as u64];
        let guard = lock(&self.pair);
        let old = [lo.swap(new[0], Ordering::SeqCst), hi.swap(new[1], Ordering::SeqCst)];
        drop(guard);
        self.note(Store { pa, words: 2, old, new });
    }

    fn held(&self, pa: u64) {
        if self.owner(pa) != Some(Use::Table) {
            self.violate("store to a frame that is not held", format!("{pa:#x} is {:?}", self.owner(pa)));
        }
    }

    fn note(&self, store: Store) {
        if self.journal_on.load(Ordering::Relaxed)
            && let Some(journal) = lock(&self.journal).as_mut()
        {
            journal.push(store);
        }
    }

    /// Starts to keep every store to structures.
    pub fn start_journal(&self) {
        *lock(&self.journal) = Some(Vec::new());
        self.journal_on.store(true, Ordering::Relaxed);
    }

    /// Ends it and hands out what was kept.
    pub fn take_journal(&self) -> Vec<Store> {
        self.journal_on.store(false, Ordering::Relaxed);
        lock(&self.journal).take().unwrap_or_default()
    }

    /// Makes the cache lines of `bytes` bytes from `pa` visible to a walker that does not snoop.
    pub fn publish(&self, pa: u64, bytes: usize) {
        if !self.swallow_publish.load(Ordering::Relaxed) {
            self.publish_raw(pa, bytes);
        }
    }

    fn publish_raw(&self, pa: u64, bytes: usize) {
        if !self.stale || bytes == 0 {
            return;
        }
        let mut line = pa & !63;
        while line < pa.saturating_add(bytes as u64) {
            let Some(frame) = self.frame(line) else { return };
            if let Some(seen) = &frame.seen {
                let first = (line % PAGE) as usize / 8;
                for i in first..first + 8 {
                    seen[i].store(frame.words[i].load(Ordering::SeqCst), Ordering::SeqCst);
                }
            }
            line += 64;
        }
    }

    /// Makes everything visible: a write-buffer flush.
    pub fn publish_all(&self) {
        if self.stale {
            // Walkers have no business in other frames.
            let used = lock(&self.pool).fresh;
            for i in (0..used).filter(|&i| self.owner[i].load(Ordering::Relaxed) == Use::Table as u8) {
                self.publish_raw(self.base + i as u64 * PAGE, PAGE as usize);
            }
        }
    }

    /// A cache line leaves the CPU's cache on its own, as it may at any time.
    pub fn evict_line(&self, rng: &mut Rng) {
        if self.stale {
            let used = lock(&self.pool).fresh as u64;
            self.publish_raw(self.base + rng.below(used * 64) * 64, 64);
        }
    }

    /// Red twin: publishing has no effect.
    pub fn swallow_publish(&self, on: bool) {
        self.swallow_publish.store(on, Ordering::Relaxed);
    }

    /// Remembers `next` beside the frame.
    pub fn set_next(&self, page: u64, next: Option<u64>) {
        if let Some(i) = self.index(page) {
            self.chain[i].store(next.unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// What [`set_next`](Self::set_next) remembered.
    pub fn next(&self, page: u64) -> Option<u64> {
        self.index(page).map(|i| self.chain[i].load(Ordering::Relaxed)).filter(|&n| n != 0)
    }

    /// One load by hardware; `None` outside the arena.
    pub(crate) fn hw_load(&self, pa: u64, snoops: bool) -> Option<u64> {
        let frame = self.frame(pa)?;
        let at = (pa % PAGE) as usize / 8;
        Some(match &frame.seen {
            Some(seen) if !snoops => seen[at].load(Ordering::SeqCst),
            _ => frame.words[at].load(Ordering::SeqCst),
        })
    }

    /// `N` words from `pa`, as one load: never half of a 128-bit store.
    pub(crate) fn hw_load_n<const N: usize>(&self, pa: u64, snoops: bool) -> Option<[u64; N]> {
        let _guard = lock(&self.pair);
        let mut out = [0; N];
        for (n, word) in out.iter_mut().enumerate() {
            *word = self.hw_load(pa + 8 * n as u64, snoops)?;
        }
        Some(out)
    }

    /// Compare-exchange by hardware (an A/D update); false if the entry changed. The second view follows.
    pub(crate) fn hw_cas(&self, pa: u64, old: u64, new: u64) -> bool {
        let Some(frame) = self.frame(pa) else { return false };
        let at = (pa % PAGE) as usize / 8;
        if frame.words[at].compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return false;
        }
        if let Some(seen) = &frame.seen {
            seen[at].store(new, Ordering::SeqCst);
        }
        true
    }

    /// Plain store by hardware.
    pub(crate) fn hw_store(&self, pa: u64, value: u64) {
        if let Some(frame) = self.frame(pa) {
            let at = (pa % PAGE) as usize / 8;
            frame.words[at].store(value, Ordering::SeqCst);
            if let Some(seen) = &frame.seen {
                seen[at].store(value, Ordering::SeqCst);
            }
        }
    }

    /// Plain 32-bit store by hardware (status of a wait descriptor).
    pub(crate) fn hw_store32(&self, pa: u64, value: u32) {
        if let Some(word) = self.word(pa & !7) {
            let shift = (pa & 4) * 8;
            let merge = |old: u64| old & !(0xffff_ffff << shift) | u64::from(value) << shift;
            let _ = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| Some(merge(old)));
        }
    }

    /// Bytes a device (or a test) writes; what lies outside the arena is dropped.
    pub fn write_bytes(&self, pa: u64, data: &[u8]) {
        let mut at = pa;
        let mut rest = data;
        while !rest.is_empty() {
            let lead = (at % 8) as usize;
            let take = (8 - lead).min(rest.len());
            if let Some(word) = self.word(at & !7) {
                let merge = |old: u64| {
                    let mut bytes = old.to_le_bytes();
                    bytes[lead..lead + take].copy_from_slice(&rest[..take]);
                    Some(u64::from_le_bytes(bytes))
                };
                let _ = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, merge);
            }
            at += take as u64;
            rest = &rest[take..];
        }
    }

    /// Bytes a device (or a test) reads; zeroes outside the arena.
    pub fn read_bytes(&self, pa: u64, out: &mut [u8]) {
        for (n, byte) in out.iter_mut().enumerate() {
            let at = pa + n as u64;
            *byte = self.load64(at & !7).to_le_bytes()[(at % 8) as usize];
        }
    }

    /// Records a broken rule.
    pub fn violate(&self, rule: &'static str, detail: String) {
        let mut list = lock(&self.violations);
        list.1 += 1;
        if list.0.len() < KEPT {
            list.0.push(Violation { rule, detail });
        }
    }

    /// Broken rules so far (the first 64).
    pub fn violations(&self) -> Vec<Violation> {
        lock(&self.violations).0.clone()
    }

    /// How many there were in all.
    pub fn violation_count(&self) -> usize {
        lock(&self.violations).1
    }

    /// Forgets them.
    pub fn clear_violations(&self) {
        *lock(&self.violations) = (Vec::new(), 0);
    }
}
