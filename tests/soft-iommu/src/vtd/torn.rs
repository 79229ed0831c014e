//! Entries that hardware must never see half-written (reliability class 14).
//!
//! Hardware may read an entry between any two stores. After an operation its stores are replayed, and each entry of the
//! root, context, PASID-directory and PASID tables must at each step be as before, as after, or not present.

use super::{PAGE, Unit};
use crate::Store;
use std::collections::BTreeMap;

/// Frames that hold structures, with the size of their entries in words.
#[derive(Default)]
pub(super) struct Watch {
    frames: BTreeMap<u64, usize>,
}

impl Unit {
    /// Adds the structures that can be reached now.
    pub(super) fn learn_structures(&mut self) {
        let Some(rtaddr) = self.latched else { return };
        let (root, scalable) = (rtaddr & !(PAGE - 1), rtaddr >> 10 & 3 == 1);
        let mut found = vec![(root, if scalable { 1 } else { 2 })];
        for bus in 0..512 {
            let entry = self.arena.load64(root + 8 * bus);
            if entry & 1 == 0 || (!scalable && bus % 2 == 1) {
                continue;
            }
            let contexts = entry & !(PAGE - 1);
            found.push((contexts, if scalable { 4 } else { 2 }));
            if !scalable {
                continue;
            }
            for slot in 0..128 {
                let context = self.arena.load64(contexts + 32 * slot);
                if context & 1 == 0 {
                    continue;
                }
                let directory = context & !(PAGE - 1);
                let entries = 128u64 << (context >> 9 & 7);
                for page in 0..entries.div_ceil(512) {
                    found.push((directory + PAGE * page, 1));
                }
                for n in 0..entries {
                    let table = self.arena.load64(directory + 8 * n);
                    if table & 1 != 0 {
                        found.push((table & !(PAGE - 1), 8));
                    }
                }
            }
        }
        self.torn.frames.extend(found);
    }

    /// Replays `journal`.
    pub(super) fn check_torn(&mut self, journal: &[Store]) {
        let watch = std::mem::take(&mut self.torn);
        // Entry address -> stores that touch it, in order.
        let mut touched: BTreeMap<(u64, usize), Vec<&Store>> = BTreeMap::new();
        for store in journal {
            let page = store.pa & !(PAGE - 1);
            let Some(&words) = watch.frames.get(&page) else { continue };
            let mut at = store.pa & !(8 * words as u64 - 1);
            while at < store.pa + 8 * u64::from(store.words) {
                touched.entry((at, words)).or_default().push(store);
                at += 8 * words as u64;
            }
        }
        for ((at, words), stores) in touched {
            let after: Vec<u64> = (0..words).map(|n| self.arena.load64(at + 8 * n as u64)).collect();
            let mut now = after.clone();
            let place = |now: &mut Vec<u64>, store: &Store, values: &[u64; 2]| {
                for (n, value) in values.iter().enumerate().take(usize::from(store.words)) {
                    let word = store.pa + 8 * n as u64;
                    if word >= at && word < at + 8 * words as u64 {
                        now[((word - at) / 8) as usize] = *value;
                    }
                }
            };
            for store in stores.iter().rev() {
                place(&mut now, store, &store.old);
            }
            let before = now.clone();
            for store in &stores {
                place(&mut now, store, &store.new);
                if now[0] & 1 != 0 && now != before && now != after {
                    self.violate(
                        "torn entry",
                        format!("at {at:#x}: {before:#x?} became {after:#x?} through {now:#x?}"),
                    );
                    break;
                }
            }
        }
    }
}
