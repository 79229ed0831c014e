//! What hardware may see between two stores: half-written STEs and CDs (reliability class 14; IHI 0070 3.21.3), and
//! descriptors replaced while they are live (Arm ARM D8.16, break-before-make).

use super::cache::Inv;
use super::{Unit, cd, field, ste};
use crate::util::Map;
use crate::{Store, Use};
use std::collections::BTreeMap;

/// More mixes of old and new words than this are not tried.
const MIXES: usize = 4096;

#[derive(Default)]
pub(super) struct Watch {
    /// Pages of translation tables that were walked: stage 2, level.
    tables: Map<u64, (bool, u32)>,
    /// Stores to structures that no completed CFGI has covered yet.
    pending: Vec<Store>,
    recording: bool,
}

impl Watch {
    pub fn saw_table(&mut self, page: u64, s2: bool, level: u32) {
        self.tables.insert(page, (s2, level));
    }
}

/// What lies at an address.
#[derive(Clone, Copy, Debug)]
enum What {
    Ste(u32),
    Cd(u32, u32),
}

#[derive(PartialEq, Eq, Debug)]
enum View {
    Ste(Result<ste::Ste, &'static str>),
    Cd(Result<cd::Cd, &'static str>),
}

impl View {
    fn harmless(&self) -> bool {
        match self {
            Self::Ste(Err(e)) | Self::Cd(Err(e)) => *e == "V is 0",
            Self::Ste(Ok(s)) => s.kind == ste::Kind::Abort,
            Self::Cd(_) => false,
        }
    }
}

/// Memory that holds structures: first byte, bytes, what the first entry is.
type Region = (u64, u64, What);

impl Unit {
    pub(super) fn begin_journal(&mut self) {
        self.torn.pending.clear();
        self.torn.recording = true;
        self.arena.start_journal();
    }

    /// Ends the operation: everything not checked yet is.
    pub(super) fn end_journal(&mut self) {
        let journal = self.arena.take_journal();
        self.torn.recording = false;
        self.check_descriptors(&journal);
        let mut all = std::mem::take(&mut self.torn.pending);
        all.extend(journal);
        self.check_entries(&all, None);
    }

    /// A CMD_SYNC completed these invalidations: what they cover was read whole, before or after.
    pub(super) fn check_structures(&mut self, invs: &[Inv]) {
        if !self.torn.recording {
            return;
        }
        let journal = self.arena.take_journal();
        self.arena.start_journal();
        self.check_descriptors(&journal);
        let mut all = std::mem::take(&mut self.torn.pending);
        all.extend(journal);
        self.torn.pending = self.check_entries(&all, Some(invs));
    }

    /// Structures that hardware could reach before these stores: what is not linked yet may be written in any order
    /// (3.21.3).
    fn regions(&self, stores: &[Store]) -> Vec<Region> {
        let mut olds: Map<u64, u64> = Map::default();
        for store in stores {
            for n in 0..usize::from(store.words) {
                olds.entry(store.pa + 8 * n as u64).or_insert(store.old[n]);
            }
        }
        let load = |at: u64| olds.get(&at).copied().unwrap_or_else(|| self.arena.load64(at));
        let base = self.strtab_base & 0x000f_ffff_ffff_ffc0;
        let (fmt, split, log2) = (self.strtab_cfg >> 16 & 3, self.strtab_cfg >> 6 & 31, self.strtab_cfg & 63);
        let mut found: Vec<Region> = Vec::new();
        if fmt == 0 {
            found.push((base, 64 << log2.min(32), What::Ste(0)));
        } else {
            for top in 0..1u32 << log2.saturating_sub(split).min(16) {
                let desc = load(base + 8 * u64::from(top));
                let span = field(desc, 4, 0) as u32;
                if (1..=11).contains(&span) {
                    found.push((desc & 0x000f_ffff_ffff_ffc0, 64 << (span - 1), What::Ste(top << split)));
                }
            }
        }
        // CD tables of the streams that were used, or whose entry was just written.
        let mut streams: Vec<(u32, ste::Ste)> = self.cache.live_stes().collect();
        for store in stores {
            for &(first, bytes, what) in &found {
                if let What::Ste(sid) = what
                    && (first..first + bytes).contains(&store.pa)
                {
                    let at = store.pa & !63;
                    let words = std::array::from_fn(|n| load(at + 8 * n as u64));
                    if let Ok(ste) = ste::decode(&words, &self.config.caps) {
                        streams.push((sid + ((at - first) / 64) as u32, ste));
                    }
                }
            }
        }
        for (sid, ste) in streams {
            if ste.kind != ste::Kind::S1 {
                continue;
            }
            if ste.cd_fmt == 0 {
                found.push((ste.cd_table, 64 << ste.cd_max, What::Cd(sid, 0)));
                continue;
            }
            let bits = if ste.cd_fmt == 1 { 6 } else { 10 };
            for slot in 0..1u32 << ste.cd_max.saturating_sub(bits).min(12) {
                let desc = load(ste.cd_table + 8 * u64::from(slot));
                if desc & 1 == 1 {
                    found.push((desc & 0x000f_ffff_ffff_f000, 64 << bits, What::Cd(sid, slot << bits)));
                }
            }
        }
        found
    }

    fn view(&self, what: What, words: &[u64; 8]) -> View {
        match what {
            What::Ste(_) => View::Ste(ste::decode(words, &self.config.caps)),
            What::Cd(..) => View::Cd(cd::decode(words, &self.config.caps, true)),
        }
    }

    /// Checks the entries that `covered` names (all, if `None`); returns the stores to the others.
    fn check_entries(&self, stores: &[Store], covered: Option<&[Inv]>) -> Vec<Store> {
        if stores.is_empty() {
            return Vec::new();
        }
        let regions = self.regions(stores);
        let mut touched: BTreeMap<u64, (What, Vec<Store>)> = BTreeMap::new();
        for store in stores {
            let at = store.pa & !63;
            let Some(&(first, _, what)) = regions.iter().find(|r| (r.0..r.0 + r.1).contains(&at)) else { continue };
            let n = ((at - first) / 64) as u32;
            let what = match what {
                What::Ste(sid) => What::Ste(sid + n),
                What::Cd(sid, ssid) => What::Cd(sid, ssid + n),
            };
            touched.entry(at).or_insert_with(|| (what, Vec::new())).1.push(*store);
        }
        let mut left = Vec::new();
        for (at, (what, list)) in touched {
            let done = covered.is_none_or(|invs| invs.iter().any(|i| covers(i, what)));
            if done {
                self.check_entry(at, what, &list);
            } else {
                left.extend(list);
            }
        }
        left
    }

    fn check_entry(&self, at: u64, what: What, stores: &[Store]) {
        let after: [u64; 8] = std::array::from_fn(|n| self.arena.load64(at + 8 * n as u64));
        let mut before = after;
        let place = |words: &mut [u64; 8], pa: u64, count: u8, values: &[u64; 2]| {
            for (n, value) in values.iter().enumerate().take(usize::from(count)) {
                let slot = ((pa - at) / 8) as usize + n;
                if slot < 8 {
                    words[slot] = *value;
                }
            }
        };
        for s in stores.iter().rev() {
            place(&mut before, s.pa, s.words, &s.old);
        }
        let (first, last) = (self.view(what, &before), self.view(what, &after));
        let ok = |words: &[u64; 8]| {
            let view = self.view(what, words);
            view == first || view == last || view.harmless()
        };
        let torn = |words: &[u64; 8]| {
            self.violate("torn entry", format!("{what:?} at {at:#x}: {before:#x?} to {after:#x?} through {words:#x?}"))
        };
        let mut now = before;
        let mut versions: [Vec<u64>; 8] = std::array::from_fn(|n| vec![before[n]]);
        for s in stores {
            place(&mut now, s.pa, s.words, &s.new);
            for (n, list) in versions.iter_mut().enumerate() {
                if !list.contains(&now[n]) {
                    list.push(now[n]);
                }
            }
            if !ok(&now) {
                return torn(&now);
            }
        }
        if !self.config.split_fetch {
            return;
        }
        let count: usize = versions.iter().map(Vec::len).product();
        for pick in 0..count.min(MIXES) {
            let mut rest = pick;
            let words = std::array::from_fn(|n| {
                let list = &versions[n];
                let value = list[rest % list.len()];
                rest /= list.len();
                value
            });
            if !ok(&words) {
                return torn(&words);
            }
        }
    }

    /// A valid descriptor in a walked table was replaced by another valid one.
    fn check_descriptors(&self, stores: &[Store]) {
        for s in stores {
            let Some(&(s2, level)) = self.torn.tables.get(&(s.pa & !0xfff)) else { continue };
            if self.arena.owner(s.pa) != Some(Use::Table) {
                continue;
            }
            for n in 0..usize::from(s.words) {
                if let Some(rule) = replaced(s.old[n], s.new[n], s2, level, self.config.caps.bbml) {
                    let at = s.pa + 8 * n as u64;
                    self.violate(rule, format!("{at:#x} level {level}: {:#x} to {:#x}", s.old[n], s.new[n]));
                }
            }
        }
    }
}

fn covers(inv: &Inv, what: What) -> bool {
    match (*inv, what) {
        (Inv::AllConfig, _) => true,
        (Inv::Stes { first, last, .. }, What::Ste(sid) | What::Cd(sid, _)) => (first..=last).contains(&sid),
        (Inv::Cd { sid, ssid, .. }, What::Cd(s, ss)) => (sid, ssid) == (s, ss),
        (Inv::Cds { sid }, What::Cd(s, _)) => sid == s,
        _ => false,
    }
}

/// Which rule of break-before-make a single store breaks.
fn replaced(old: u64, new: u64, s2: bool, level: u32, bbml: u8) -> Option<&'static str> {
    const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
    if old & 1 == 0 || new & 1 == 0 {
        return None;
    }
    let table = |d: u64| level < 3 && d & 3 == 3;
    let (from, to) = (table(old), table(new));
    if from && to {
        return (old & ADDRESS != new & ADDRESS).then_some("live table replaced by another table");
    }
    if from != to {
        let block = if from { new } else { old };
        return match bbml {
            0 => Some("live translation replaced by another size"),
            1 if block >> 16 & 1 == 0 => Some("live block replaced without nT"),
            _ => None,
        };
    }
    let oa = ADDRESS & !((1u64 << (39 - 9 * level)) - 1);
    if (old ^ new) & oa != 0 {
        return Some("live translation replaced by another output");
    }
    let attr = 3 << 8 | if s2 { 0x3c } else { 0x1c };
    if (old ^ new) & attr != 0 {
        return Some("live translation replaced by other attributes");
    }
    ((old ^ new) >> 52 & 1 == 1 && bbml == 0).then_some("live translation replaced by another size")
}
