//! Configuration caches and TLBs, and what each invalidation removes from them (IHI 0070, 3.21 and chapter 4).

use super::cd::Cd;
use super::event::Fail;
use super::ste::Ste;
use crate::util::{Map, Rng};
use std::collections::BTreeMap;

/// Bytes of a leaf by class: page, run of pages, block of level 2, run, block of level 1, run.
pub(super) const SPAN: [u64; 6] = [1 << 12, 1 << 16, 1 << 21, 1 << 25, 1 << 30, 1 << 34];

/// How the TLB finds an entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Tag {
    /// Stage 1, or both stages in one entry. No ASID: global.
    S1 { el2: bool, vmid: u16, asid: Option<u16> },
    /// Stage 2, by intermediate address.
    S2 { vmid: u16 },
}

/// A cached translation. `seq` is the age of the oldest thing it came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leaf {
    pub pa: u64,
    pub class: usize,
    /// Level of the (stage 1) leaf, 1 to 3.
    pub level: u32,
    pub read: bool,
    pub write: bool,
    /// Unprivileged access.
    pub user: bool,
    /// The first write must update the descriptor.
    pub clean: bool,
    /// Block with nT.
    pub nt: bool,
    /// Memory type and shareability.
    pub attr: u64,
    pub seq: u64,
}

/// A cached table descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableRef {
    pub pa: u64,
    /// Before stage 2.
    pub ipa: u64,
    pub read_only: bool,
    pub no_user: bool,
    pub seq: u64,
}

#[derive(Default)]
struct Space {
    leaves: [BTreeMap<u64, Leaf>; 6],
    /// By level of the descriptor.
    tables: [BTreeMap<u64, TableRef>; 3],
}

fn shift(level: usize) -> usize {
    39 - 9 * level
}

impl Space {
    fn find(&self, at: u64) -> Option<(u64, Leaf)> {
        (0..6)
            .filter_map(|c| self.leaves[c].get(&(at & !(SPAN[c] - 1))).map(|l| (at & !(SPAN[c] - 1), *l)))
            .min_by_key(|(_, l)| l.seq)
    }
    fn remove(&mut self, first: u64, last: u64, leaf_only: bool, ttl: Option<u32>, seq: u64) {
        for (class, map) in self.leaves.iter_mut().enumerate() {
            if map.is_empty() {
                continue;
            }
            let from = first & !(SPAN[class] - 1);
            let gone = |l: &Leaf| l.seq <= seq && ttl.is_none_or(|t| t == l.level);
            let hit: Vec<u64> = map.range(from..=last).filter(|(_, l)| gone(l)).map(|(at, _)| *at).collect();
            for at in hit {
                map.remove(&at);
            }
        }
        if leaf_only {
            return;
        }
        for (level, map) in self.tables.iter_mut().enumerate() {
            // With a level hint, what leads to that level.
            if map.is_empty() || ttl.is_some_and(|t| level as u32 >= t) {
                continue;
            }
            let (from, to) = (first >> shift(level), last >> shift(level));
            let hit: Vec<u64> = map.range(from..=to).filter(|(_, t)| t.seq <= seq).map(|(at, _)| *at).collect();
            for at in hit {
                map.remove(&at);
            }
        }
    }
    fn remove_all(&mut self, seq: u64) {
        self.leaves.iter_mut().for_each(|m| m.retain(|_, l| l.seq > seq));
        self.tables.iter_mut().for_each(|m| m.retain(|_, t| t.seq > seq));
    }
}

/// An invalidation, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Inv {
    Stes { first: u32, last: u32, leaf: bool },
    AllConfig,
    Cd { sid: u32, ssid: u32, leaf: bool },
    Cds { sid: u32 },
    All { el2: bool, vmid: u16 },
    Asid { el2: bool, vmid: u16, asid: u16 },
    Va { el2: bool, vmid: u16, asid: Option<u16>, first: u64, last: u64, leaf: bool, ttl: Option<u32> },
    S12 { vmid: u16 },
    Ipa { vmid: u16, first: u64, last: u64, leaf: bool, ttl: Option<u32> },
    NonHyp,
    Atc { sid: u32, ssid: Option<u32>, global: bool, first: u64, last: u64 },
}

type Kept<T> = (u64, Result<T, Fail>);

type DeviceTlb = BTreeMap<u64, (u64, bool, u64)>;

#[derive(Default)]
pub(super) struct Caches {
    l1_stes: Map<u32, (u64, u64)>,
    stes: Map<u32, Kept<Ste>>,
    l1_cds: Map<(u32, u32), (u64, u64)>,
    cds: Map<(u32, u32), Kept<Cd>>,
    spaces: Map<Tag, Space>,
    /// Device TLBs: page to (address, writable, age).
    atc: Map<(u32, Option<u32>), DeviceTlb>,
    seq: u64,
}

impl Caches {
    pub fn tick(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }
    pub fn sizes(&self) -> [usize; 4] {
        [
            self.stes.len(),
            self.cds.len(),
            self.spaces.values().flat_map(|s| &s.leaves).map(BTreeMap::len).sum(),
            self.spaces.values().flat_map(|s| &s.tables).map(BTreeMap::len).sum(),
        ]
    }

    pub fn l1_ste(&self, top: u32) -> Option<u64> {
        self.l1_stes.get(&top).map(|x| x.1)
    }
    pub fn keep_l1_ste(&mut self, top: u32, desc: u64) {
        let seq = self.tick();
        self.l1_stes.insert(top, (seq, desc));
    }
    pub fn ste(&self, sid: u32) -> Option<Result<Ste, Fail>> {
        self.stes.get(&sid).map(|x| x.1)
    }
    pub fn keep_ste(&mut self, sid: u32, value: Result<Ste, Fail>) {
        let seq = self.tick();
        self.stes.insert(sid, (seq, value));
    }
    pub fn live_stes(&self) -> impl Iterator<Item = (u32, Ste)> + '_ {
        self.stes.iter().filter_map(|(sid, x)| x.1.ok().map(|ste| (*sid, ste)))
    }
    pub fn l1_cd(&self, sid: u32, slot: u32) -> Option<u64> {
        self.l1_cds.get(&(sid, slot)).map(|x| x.1)
    }
    pub fn keep_l1_cd(&mut self, sid: u32, slot: u32, desc: u64) {
        let seq = self.tick();
        self.l1_cds.insert((sid, slot), (seq, desc));
    }
    pub fn cd(&self, sid: u32, ssid: u32) -> Option<Result<Cd, Fail>> {
        self.cds.get(&(sid, ssid)).map(|x| x.1)
    }
    pub fn keep_cd(&mut self, sid: u32, ssid: u32, value: Result<Cd, Fail>) {
        let seq = self.tick();
        self.cds.insert((sid, ssid), (seq, value));
    }

    /// A translation; the address it starts at comes with it.
    pub fn find(&self, tag: Tag, at: u64) -> Option<(u64, Leaf)> {
        let own = self.spaces.get(&tag).and_then(|s| s.find(at));
        let global = match tag {
            Tag::S1 { el2, vmid, asid: Some(_) } => {
                self.spaces.get(&Tag::S1 { el2, vmid, asid: None }).and_then(|s| s.find(at))
            }
            _ => None,
        };
        own.into_iter().chain(global).min_by_key(|(_, l)| l.seq)
    }
    /// Keeps `leaf` for `at`. What it contradicts is still live: the answer says how.
    pub fn keep(&mut self, tag: Tag, at: u64, leaf: Leaf, bbml: u8) -> Option<(&'static str, String)> {
        let span = SPAN[leaf.class];
        let base = at & !(span - 1);
        let space = self.spaces.entry(tag).or_default();
        let mut conflict = None;
        for (class, size) in SPAN.into_iter().enumerate() {
            let from = base & !(size - 1);
            for (&other, old) in space.leaves[class].range(from..=base | (span - 1)) {
                let common = base.max(other);
                let rule = if old.pa.wrapping_add(common - other) != leaf.pa.wrapping_add(common - base) {
                    "live translation replaced by another output"
                } else if old.attr != leaf.attr {
                    "live translation replaced by other attributes"
                } else if class != leaf.class {
                    let large = if class > leaf.class { old } else { &leaf };
                    match bbml {
                        0 => "live translation replaced by another size",
                        1 if old.level != leaf.level && !large.nt => "live block replaced without nT",
                        _ => continue,
                    }
                } else {
                    continue;
                };
                conflict = Some((rule, format!("{tag:x?} {common:#x}: {old:x?} then {leaf:x?}")));
            }
        }
        space.leaves[leaf.class].insert(base, leaf);
        conflict
    }
    /// The deepest cached table for `at`: level of that table, and what leads there.
    pub fn table(&self, tag: Tag, at: u64) -> Option<(u32, TableRef)> {
        let space = self.spaces.get(&tag)?;
        (0..3).rev().find_map(|l| space.tables[l].get(&(at >> shift(l))).map(|t| (l as u32 + 1, *t)))
    }
    pub fn keep_table(&mut self, tag: Tag, at: u64, level: u32, found: TableRef) {
        let level = level as usize;
        if level < 3 {
            self.spaces.entry(tag).or_default().tables[level].insert(at >> shift(level), found);
        }
    }

    pub fn atc(&self, sid: u32, ssid: Option<u32>, iova: u64) -> Option<(u64, bool)> {
        self.atc.get(&(sid, ssid))?.get(&(iova & !0xfff)).map(|e| (e.0, e.1))
    }
    pub fn keep_atc(&mut self, sid: u32, ssid: Option<u32>, iova: u64, pa: u64, write: bool) {
        let seq = self.tick();
        self.atc.entry((sid, ssid)).or_default().insert(iova & !0xfff, (pa & !0xfff, write, seq));
    }

    pub fn evict_one(&mut self, rng: &mut Rng) {
        let pick = rng.below(self.spaces.len() as u64) as usize;
        if let Some(space) = self.spaces.values_mut().nth(pick) {
            let class = rng.below(6) as usize;
            let at = rng.below(space.leaves[class].len() as u64) as usize;
            if let Some(&key) = space.leaves[class].keys().nth(at) {
                space.leaves[class].remove(&key);
            }
            if rng.one_in(2) {
                space.tables[rng.below(3) as usize].pop_first();
            }
        }
    }

    /// Removes what `inv` covers and was there when it was consumed (`seq`). What came later may stay.
    pub fn apply(&mut self, inv: Inv, seq: u64) {
        match inv {
            Inv::Stes { first, last, leaf } => {
                let named = |sid: u32| (first..=last).contains(&sid);
                self.stes.retain(|s, v| !(named(*s) && v.0 <= seq));
                self.cds.retain(|(s, _), v| !(named(*s) && v.0 <= seq));
                self.l1_cds.retain(|(s, _), v| !(named(*s) && v.0 <= seq));
                if !leaf {
                    // Level-1 descriptors are kept by the part of the id that their owner knows; all may go.
                    self.l1_stes.retain(|_, v| v.0 > seq);
                }
            }
            Inv::AllConfig => {
                self.stes.retain(|_, v| v.0 > seq);
                self.cds.retain(|_, v| v.0 > seq);
                self.l1_cds.retain(|_, v| v.0 > seq);
                self.l1_stes.retain(|_, v| v.0 > seq);
            }
            Inv::Cd { sid, ssid, leaf } => {
                self.cds.retain(|k, v| !(*k == (sid, ssid) && v.0 <= seq));
                if !leaf {
                    let named = |slot: u32| slot == ssid >> 6 || slot == ssid >> 10;
                    self.l1_cds.retain(|k, v| !(k.0 == sid && named(k.1) && v.0 <= seq));
                }
            }
            Inv::Cds { sid } => {
                self.cds.retain(|k, v| !(k.0 == sid && v.0 <= seq));
                self.l1_cds.retain(|k, v| !(k.0 == sid && v.0 <= seq));
            }
            Inv::All { el2, vmid } => {
                self.each(|t| matches!(t, Tag::S1 { el2: e, vmid: v, .. } if *e == el2 && *v == vmid), seq)
            }
            Inv::Asid { el2, vmid, asid } => self.each(|t| *t == Tag::S1 { el2, vmid, asid: Some(asid) }, seq),
            Inv::Va { el2, vmid, asid, first, last, leaf, ttl } => {
                for (tag, space) in &mut self.spaces {
                    let Tag::S1 { el2: e, vmid: v, asid: a } = *tag else { continue };
                    if e == el2 && v == vmid && (asid.is_none() || a.is_none() || a == asid) {
                        space.remove(first, last, leaf, ttl, seq);
                    }
                }
            }
            Inv::S12 { vmid } => self.each(
                |t| match *t {
                    Tag::S1 { el2, vmid: v, .. } => !el2 && v == vmid,
                    Tag::S2 { vmid: v } => v == vmid,
                },
                seq,
            ),
            // Entries that combine both stages stay: they need an invalidation of stage 1 (3.17, 4.4.3).
            Inv::Ipa { vmid, first, last, leaf, ttl } => {
                if let Some(space) = self.spaces.get_mut(&Tag::S2 { vmid }) {
                    space.remove(first, last, leaf, ttl, seq);
                }
            }
            Inv::NonHyp => self.each(|t| !matches!(t, Tag::S1 { el2: true, .. }), seq),
            Inv::Atc { sid, ssid, global, first, last } => {
                for ((s, ss), map) in &mut self.atc {
                    if *s == sid && (global || *ss == ssid) {
                        map.retain(|at, e| !(*at | 0xfff >= first && *at <= last && e.2 <= seq));
                    }
                }
            }
        }
    }

    fn each(&mut self, which: impl Fn(&Tag) -> bool, seq: u64) {
        for (tag, space) in &mut self.spaces {
            if which(tag) {
                space.remove_all(seq);
            }
        }
    }
}
