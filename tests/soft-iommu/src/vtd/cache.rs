//! Translation caches (6.2) and what each invalidation removes from them (6.5.2).

use super::fault::{Fail, Reason};
use super::regs::{OWED_CONTEXT, OWED_IOTLB, OWED_PASID};
use super::walk::{Context, Target};
use super::{PAGE, Unit};
use crate::util::{Map, Rng};
use std::collections::BTreeMap;

/// Bytes covered by a leaf of class 0, 1, 2.
pub(super) const SPAN: [u64; 3] = [PAGE, 512 * PAGE, 512 * 512 * PAGE];

/// Which tables a translation came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    Pass,
    Second,
    First,
}

/// How the IOTLB finds an entry: second stage by domain, first stage by domain and PASID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Tag {
    pub did: u16,
    pub kind: Kind,
    pub pasid: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub pa: u64,
    pub read: bool,
    pub write: bool,
    /// A write needs no update of D.
    pub settled: bool,
    /// A cached refusal (caching mode).
    pub refused: Option<Reason>,
    pub tag: Tag,
    class: usize,
    seq: u64,
}

impl Entry {
    pub fn new(pa: u64, read: bool, write: bool, settled: bool, tag: Tag) -> Self {
        Self { pa, read, write, settled, refused: None, tag, class: 0, seq: 0 }
    }
    /// The same for a leaf of `class`.
    pub fn class(mut self, class: usize) -> Self {
        self.class = class;
        self
    }
    /// Bits of an iova that pass through.
    pub fn mask(&self) -> u64 {
        SPAN[self.class] - 1
    }
    pub fn refusal(reason: Reason, tag: Tag) -> Self {
        Self { refused: Some(reason), ..Self::new(0, false, false, false, tag) }
    }
}

/// A cached non-leaf entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableRef {
    pub table: u64,
    pub read: bool,
    pub write: bool,
    pub user: bool,
}

#[derive(Default)]
struct Leaves([BTreeMap<u64, Entry>; 3]);

impl Leaves {
    /// Entries that hold `iova`: one per size at most.
    fn find(&self, iova: u64) -> [Option<Entry>; 3] {
        std::array::from_fn(|class| self.0[class].get(&(iova & !(SPAN[class] - 1))).copied())
    }
    fn count(&self) -> usize {
        self.0.iter().map(BTreeMap::len).sum()
    }
    /// Removes what overlaps `first..=last` and satisfies `which`.
    fn remove(&mut self, first: u64, last: u64, which: impl Fn(&Entry) -> bool) {
        for (class, map) in self.0.iter_mut().enumerate() {
            if map.is_empty() {
                continue;
            }
            let from = first & !(SPAN[class] - 1);
            let hit: Vec<u64> = map.range(from..=last).filter(|(_, e)| which(e)).map(|(at, _)| *at).collect();
            for at in hit {
                map.remove(&at);
            }
        }
    }
    fn remove_all(&mut self, which: impl Fn(&Entry) -> bool) {
        for map in &mut self.0 {
            map.retain(|_, e| !which(e));
        }
    }
}

pub(super) struct CachedContext {
    /// Domain tag; 0 for refusals (6.1) and in scalable mode.
    pub did: u16,
    pub value: Result<Context, Fail>,
}

pub(super) struct CachedPasid {
    /// Domain tag; refusals have none and go with any.
    pub did: Option<u16>,
    pub value: Result<Target, Fail>,
}

/// An invalidation, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Inv {
    ContextGlobal,
    ContextDomain(u16),
    ContextDevice {
        did: u16,
        sid: u16,
        fm: u8,
    },
    PasidGlobal,
    PasidDomain(u16),
    PasidOne {
        did: u16,
        pasid: u32,
    },
    IotlbGlobal,
    IotlbDomain(u16),
    IotlbPage {
        did: u16,
        addr: u64,
        am: u8,
        hint: bool,
    },
    FirstPasid {
        did: u16,
        pasid: u32,
    },
    FirstPage {
        did: u16,
        pasid: u32,
        addr: u64,
        am: u8,
        hint: bool,
    },
    /// Wait for writes already translated.
    Drain,
}

#[derive(Default)]
pub(super) struct Caches {
    contexts: Map<u16, CachedContext>,
    pasids: Map<(u16, u32), CachedPasid>,
    /// Quirk `pasid_in_context`.
    sticky: Map<(u16, u32), Target>,
    by_tag: Map<Tag, Leaves>,
    by_source: Map<(u16, Option<u32>), Leaves>,
    /// Index n: entries of level n + 1, which point to tables of level n.
    tables: Map<Tag, [BTreeMap<u64, TableRef>; 4]>,
    seq: u64,
}

impl Caches {
    pub fn clear(&mut self) {
        *self = Self { seq: self.seq, ..Self::default() };
    }

    pub fn sizes(&self) -> [usize; 4] {
        [
            self.contexts.len(),
            self.pasids.len(),
            self.by_tag.values().map(Leaves::count).sum(),
            self.tables.values().flatten().map(BTreeMap::len).sum(),
        ]
    }

    pub fn context(&self, sid: u16) -> Option<Result<Context, Fail>> {
        self.contexts.get(&sid).map(|c| c.value)
    }
    pub fn keep_context(&mut self, sid: u16, did: u16, value: Result<Context, Fail>) {
        self.contexts.insert(sid, CachedContext { did, value });
    }
    pub fn pasid(&self, sid: u16, pasid: u32) -> Option<Result<Target, Fail>> {
        if let Some(target) = self.sticky.get(&(sid, pasid)) {
            return Some(Ok(*target));
        }
        self.pasids.get(&(sid, pasid)).map(|c| c.value)
    }
    pub fn keep_pasid(&mut self, sid: u16, pasid: u32, did: Option<u16>, value: Result<Target, Fail>) {
        self.pasids.insert((sid, pasid), CachedPasid { did, value });
    }
    pub fn keep_sticky(&mut self, sid: u16, pasid: u32, target: Target) {
        self.sticky.insert((sid, pasid), target);
    }

    /// A translation by requester, the oldest if several sizes hold the address.
    pub fn by_source(&self, sid: u16, pasid: Option<u32>, iova: u64) -> Option<Entry> {
        oldest(self.by_source.get(&(sid, pasid))?.find(iova))
    }
    /// A translation by tag, the oldest if several sizes hold the address.
    pub fn by_tag(&self, tag: Tag, iova: u64) -> Option<Entry> {
        oldest(self.by_tag.get(&tag)?.find(iova))
    }
    pub fn keep(&mut self, sid: u16, pasid: Option<u32>, iova: u64, class: usize, mut entry: Entry) {
        self.seq += 1;
        entry.seq = self.seq;
        let at = iova & !(SPAN[class] - 1);
        self.by_source.entry((sid, pasid)).or_default().0[class].insert(at, entry);
        self.by_tag.entry(entry.tag).or_default().0[class].insert(at, entry);
    }

    /// The cached table to start a walk at: level of the table, and what leads there.
    pub fn table(&self, tag: Tag, iova: u64, levels: usize) -> Option<(usize, TableRef)> {
        let maps = self.tables.get(&tag)?;
        (0..levels.saturating_sub(1))
            .find_map(|level| maps[level].get(&(iova >> (21 + 9 * level))).map(|found| (level, *found)))
    }
    /// Keeps an entry of `level` (1 and up), which points to a table of `level - 1`.
    pub fn keep_table(&mut self, tag: Tag, iova: u64, level: usize, found: TableRef) {
        self.tables.entry(tag).or_default()[level - 1].insert(iova >> (12 + 9 * level), found);
    }

    pub fn evict_one(&mut self, rng: &mut Rng) {
        let pick = rng.below(self.by_tag.len() as u64) as usize;
        if let Some(leaves) = self.by_tag.values_mut().nth(pick) {
            let class = rng.below(3) as usize;
            let at = rng.below(leaves.0[class].len() as u64) as usize;
            if let Some(&key) = leaves.0[class].keys().nth(at) {
                leaves.0[class].remove(&key);
            }
        }
        let pick = rng.below(self.by_source.len() as u64) as usize;
        if let Some(leaves) = self.by_source.values_mut().nth(pick) {
            let class = rng.below(3) as usize;
            leaves.0[class].pop_first();
        }
    }

    fn drop_tags(&mut self, which: impl Fn(&Tag) -> bool) {
        self.by_tag.retain(|tag, _| !which(tag));
        self.tables.retain(|tag, _| !which(tag));
        for leaves in self.by_source.values_mut() {
            leaves.remove_all(|e| which(&e.tag));
        }
    }

    fn drop_pages(&mut self, which: impl Fn(&Tag) -> bool, addr: u64, am: u8, hint: bool) {
        let bytes = PAGE.checked_shl(u32::from(am)).unwrap_or(0);
        let first = addr & !bytes.wrapping_sub(1);
        let last = first | bytes.wrapping_sub(1);
        for (tag, leaves) in &mut self.by_tag {
            if which(tag) {
                leaves.remove(first, last, |_| true);
            }
        }
        for leaves in self.by_source.values_mut() {
            leaves.remove(first, last, |e| which(&e.tag));
        }
        if !hint {
            for (tag, maps) in &mut self.tables {
                if which(tag) {
                    for (n, map) in maps.iter_mut().enumerate() {
                        let shift = 21 + 9 * n;
                        let hit: Vec<u64> = map.range(first >> shift..=last >> shift).map(|(at, _)| *at).collect();
                        for at in hit {
                            map.remove(&at);
                        }
                    }
                }
            }
        }
    }
}

fn oldest(found: [Option<Entry>; 3]) -> Option<Entry> {
    found.into_iter().flatten().min_by_key(|e| e.seq)
}

impl Unit {
    pub(super) fn apply_drained(&mut self, inv: Inv, drain: bool) {
        self.apply(inv);
        if drain || !self.config.caps.drain {
            self.apply(Inv::Drain);
        }
    }

    /// Removes exactly what the invalidation covers.
    pub(super) fn apply(&mut self, inv: Inv) {
        // An invalidation flushes write buffers first (6.8).
        if self.config.caps.rwbf {
            self.arena.publish_all();
        }
        let scalable = self.latched.is_some_and(|r| r >> 10 & 3 == 1);
        let cache = &mut self.cache;
        match inv {
            Inv::ContextGlobal => {
                cache.contexts.clear();
                cache.sticky.clear();
                self.owed &= !OWED_CONTEXT;
            }
            Inv::ContextDomain(did) => {
                if scalable {
                    cache.contexts.clear();
                    cache.sticky.clear();
                } else {
                    cache.contexts.retain(|_, c| c.did != did);
                }
            }
            Inv::ContextDevice { did, sid, fm } => {
                // FM masks function bits 2, 2:1 or 2:0 (6.5.2.1).
                let mask = !([0u16, 4, 6, 7][usize::from(fm)]);
                let named = |s: u16| s & mask == sid & mask;
                cache.contexts.retain(|s, c| !(named(*s) && (scalable || c.did == did)));
                cache.sticky.retain(|(s, _), _| !named(*s));
            }
            Inv::PasidGlobal => {
                cache.pasids.clear();
                self.owed &= !OWED_PASID;
            }
            Inv::PasidDomain(did) => cache.pasids.retain(|_, c| c.did.is_some_and(|d| d != did)),
            Inv::PasidOne { did, pasid } => {
                cache.pasids.retain(|(_, p), c| !(*p == pasid && c.did.is_none_or(|d| d == did)));
            }
            Inv::IotlbGlobal => {
                cache.by_tag.clear();
                cache.by_source.clear();
                cache.tables.clear();
                self.owed &= !OWED_IOTLB;
            }
            Inv::IotlbDomain(did) => cache.drop_tags(|t| t.did == did),
            Inv::IotlbPage { did, addr, am, hint } => {
                // First-stage entries of the domain go whatever their address (6.5.2.3).
                cache.drop_tags(|t| t.did == did && t.kind == Kind::First);
                cache.drop_pages(|t| t.did == did, addr, am, hint);
            }
            Inv::FirstPasid { did, pasid } => {
                cache.drop_tags(|t| t.did == did && t.kind != Kind::Second && t.pasid == pasid);
            }
            Inv::FirstPage { did, pasid, addr, am, hint } => {
                let which = |t: &Tag| t.did == did && t.kind != Kind::Second && t.pasid == pasid;
                cache.drop_pages(which, addr, am, hint);
            }
            Inv::Drain => self.land(),
        }
    }
}
