//! Caches of device-table entries, translations and table pointers, and what each command removes (2.4).

use super::dte::Dte;
use super::{Unit, low_bits};
use crate::util::{Map, Rng};
use std::collections::BTreeMap;

/// How a translation is found: host tables by domain, guest tables by domain and PASID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Tag {
    pub domain: u16,
    pub pasid: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Physical address of the first byte.
    pub pa: u64,
    /// Size as a power of two.
    pub log2: u8,
    pub read: bool,
    pub write: bool,
    /// A write needs no update of D.
    pub settled: bool,
    /// First guest physical address of a nested translation.
    pub gpa: Option<u64>,
    pub tag: Tag,
    seq: u64,
}

impl Entry {
    pub fn new(pa: u64, log2: u8, read: bool, write: bool, settled: bool, tag: Tag) -> Self {
        Self { pa, log2, read, write, settled, gpa: None, tag, seq: 0 }
    }
    /// The same with no more rights than the device-table entry gives; those are not part of what domains share.
    pub fn limited(self, read: bool, write: bool) -> Self {
        Self { read: self.read && read, write: self.write && write, ..self }
    }
    /// The 4 KiB piece of it that holds `iova`.
    pub fn piece(mut self, iova: u64) -> Self {
        let offset = iova & low_bits(self.log2) & !0xfff;
        self.pa += offset;
        self.gpa = self.gpa.map(|g| g + offset);
        self.log2 = 12;
        self
    }
}

/// A cached pointer to a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableRef {
    pub table: u64,
    /// Level of that table, from 1.
    pub level: usize,
    pub read: bool,
    pub write: bool,
    pub user: bool,
}

#[derive(Default)]
struct Leaves(BTreeMap<u8, BTreeMap<u64, Entry>>);

impl Leaves {
    /// The oldest of the entries that hold `iova`.
    fn find(&self, iova: u64) -> Option<Entry> {
        self.0.iter().filter_map(|(&log2, map)| map.get(&(iova & !low_bits(log2)))).min_by_key(|e| e.seq).copied()
    }
    fn keep(&mut self, iova: u64, entry: Entry) {
        self.0.entry(entry.log2).or_default().insert(iova & !low_bits(entry.log2), entry);
    }
    fn count(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }
    /// Removes what overlaps `first..=last` and satisfies `which`.
    fn remove(&mut self, first: u64, last: u64, which: impl Fn(&Entry) -> bool) {
        for (&log2, map) in &mut self.0 {
            let from = first & !low_bits(log2);
            let hit: Vec<u64> = map.range(from..=last).filter(|(_, e)| which(e)).map(|(at, _)| *at).collect();
            for at in hit {
                map.remove(&at);
            }
        }
    }
    fn remove_all(&mut self, which: impl Fn(&Entry) -> bool) {
        for map in self.0.values_mut() {
            map.retain(|_, e| !which(e));
        }
    }
    fn evict(&mut self, rng: &mut Rng) {
        let pick = rng.below(self.0.len() as u64) as usize;
        if let Some(map) = self.0.values_mut().nth(pick) {
            let at = rng.below(map.len() as u64) as usize;
            if let Some(&key) = map.keys().nth(at) {
                map.remove(&key);
            }
        }
    }
}

/// A command that invalidates, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Inv {
    Device(u16),
    Pages { domain: u16, first: u64, last: u64, pde: bool, guest: Option<u32> },
    Interrupts(u16),
    All,
}

#[derive(Default)]
pub(super) struct Caches {
    devices: Map<u16, Dte>,
    /// GCR3 table entries: domain and root.
    roots: Map<(u16, u32), (u16, u64)>,
    by_tag: Map<Tag, Leaves>,
    by_source: Map<(u16, Option<u32>), Leaves>,
    /// By level of the table and the part of the iova above what it covers.
    tables: Map<Tag, BTreeMap<(usize, u64), TableRef>>,
    interrupts: Map<(u16, u16), [u64; 2]>,
    /// Some translation passed through two sets of tables.
    nested: bool,
    seq: u64,
}

/// First bit of an iova above what a table of `level` covers.
fn cover(level: usize) -> u32 {
    12 + 9 * level as u32
}

fn above(iova: u64, level: usize) -> u64 {
    iova.checked_shr(cover(level)).unwrap_or(0)
}

impl Caches {
    /// Device entries, translations (by tag), table pointers, interrupt entries.
    pub fn sizes(&self) -> [usize; 4] {
        [
            self.devices.len(),
            self.by_tag.values().map(Leaves::count).sum(),
            self.tables.values().map(BTreeMap::len).sum(),
            self.interrupts.len(),
        ]
    }

    pub fn device(&self, sid: u16) -> Option<Dte> {
        self.devices.get(&sid).copied()
    }
    pub fn keep_device(&mut self, sid: u16, dte: Dte) {
        self.devices.insert(sid, dte);
    }
    pub fn devices(&self) -> impl Iterator<Item = (u16, &Dte)> {
        self.devices.iter().map(|(sid, dte)| (*sid, dte))
    }
    pub fn root(&self, sid: u16, pasid: u32) -> Option<u64> {
        self.roots.get(&(sid, pasid)).map(|r| r.1)
    }
    pub fn keep_root(&mut self, sid: u16, pasid: u32, domain: u16, root: u64) {
        self.roots.insert((sid, pasid), (domain, root));
    }
    pub fn interrupt(&self, sid: u16, index: u16) -> Option<[u64; 2]> {
        self.interrupts.get(&(sid, index)).copied()
    }
    pub fn keep_interrupt(&mut self, sid: u16, index: u16, entry: [u64; 2]) {
        self.interrupts.insert((sid, index), entry);
    }

    /// A translation by requester.
    pub fn by_source(&self, sid: u16, pasid: Option<u32>, iova: u64) -> Option<Entry> {
        self.by_source.get(&(sid, pasid))?.find(iova)
    }
    /// A translation by tag.
    pub fn by_tag(&self, tag: Tag, iova: u64) -> Option<Entry> {
        self.by_tag.get(&tag)?.find(iova)
    }
    pub fn keep(&mut self, sid: u16, pasid: Option<u32>, iova: u64, mut entry: Entry, rights: (bool, bool)) {
        self.seq += 1;
        self.nested |= entry.gpa.is_some();
        entry.seq = self.seq;
        self.by_source.entry((sid, pasid)).or_default().keep(iova, entry.limited(rights.0, rights.1));
        self.by_tag.entry(entry.tag).or_default().keep(iova, entry);
    }

    /// The deepest cached table for `iova`.
    pub fn table(&self, tag: Tag, iova: u64) -> Option<TableRef> {
        let map = self.tables.get(&tag)?;
        (1..6).find_map(|level| map.get(&(level, above(iova, level))).copied())
    }
    pub fn keep_table(&mut self, tag: Tag, iova: u64, found: TableRef) {
        self.tables.entry(tag).or_default().insert((found.level, above(iova, found.level)), found);
    }

    pub fn evict_one(&mut self, rng: &mut Rng) {
        let pick = rng.below(self.by_tag.len() as u64) as usize;
        if let Some(leaves) = self.by_tag.values_mut().nth(pick) {
            leaves.evict(rng);
        }
        let pick = rng.below(self.by_source.len() as u64) as usize;
        if let Some(leaves) = self.by_source.values_mut().nth(pick) {
            leaves.evict(rng);
        }
    }

    fn drop_pages(&mut self, domain: u16, first: u64, last: u64, pde: bool, guest: Option<u32>) {
        let exact = Tag { domain, pasid: guest };
        if let Some(leaves) = self.by_tag.get_mut(&exact) {
            leaves.remove(first, last, |_| true);
        }
        for leaves in self.by_source.values_mut() {
            leaves.remove(first, last, |e| e.tag == exact);
        }
        if guest.is_none() && self.nested {
            // Nested translations go by the guest physical address they passed through.
            let through =
                |e: &Entry| e.tag.domain == domain && e.gpa.is_some_and(|g| g <= last && g | low_bits(e.log2) >= first);
            for leaves in self.by_tag.values_mut().chain(self.by_source.values_mut()) {
                leaves.remove_all(through);
            }
        }
        if pde {
            if let Some(map) = self.tables.get_mut(&exact) {
                map.retain(|&(level, prefix), _| prefix < above(first, level) || prefix > above(last, level));
            }
            if let Some(pasid) = guest {
                self.roots.retain(|&(_, p), &mut (d, _)| !(p == pasid && d == domain));
            }
        }
    }
}

impl Unit {
    /// Removes exactly what the command covers.
    pub(super) fn apply(&mut self, inv: Inv) {
        match inv {
            Inv::Device(sid) => {
                self.cache.devices.remove(&sid);
                self.cache.roots.retain(|(s, _), _| *s != sid);
                self.told.remove(&sid);
            }
            Inv::Pages { domain, first, last, pde, guest } => {
                self.cache.drop_pages(domain, first, last, pde, guest);
                self.land();
            }
            Inv::Interrupts(sid) => self.cache.interrupts.retain(|(s, _), _| *s != sid),
            Inv::All => {
                self.cache = Caches { seq: self.cache.seq, ..Caches::default() };
                self.told.clear();
                self.land();
            }
        }
    }
}
