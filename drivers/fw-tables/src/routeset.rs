//! Runs of ids that do not overlap, however firmware wrote them.

use crate::routes::{Ids, MsiRoute, Output, Source, StreamRoute};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// A run with something that comes out.
pub trait Run: Copy {
    fn parts(&mut self) -> (&mut Ids, &mut Output);
    fn ids(&self) -> Ids;
}

impl Run for StreamRoute {
    fn parts(&mut self) -> (&mut Ids, &mut Output) {
        (&mut self.ids, &mut self.output)
    }
    fn ids(&self) -> Ids {
        self.ids
    }
}

impl Run for MsiRoute {
    fn parts(&mut self) -> (&mut Ids, &mut Output) {
        (&mut self.ids, &mut self.output)
    }
    fn ids(&self) -> Ids {
        self.ids
    }
}

/// The part `first..=last` of a run; both lie in it.
fn piece<R: Run>(run: &R, first: u32, last: u32) -> R {
    let mut part = *run;
    let (ids, output) = part.parts();
    if let Output::From(base) = output {
        *base = base.wrapping_add(first.wrapping_sub(ids.first));
    }
    (ids.first, ids.last) = (first, last);
    part
}

/// Disjoint runs, found by id.
pub struct RouteSet<R> {
    runs: BTreeMap<(Source, u32), R>,
}

impl<R: Run> RouteSet<R> {
    pub fn new() -> Self {
        Self { runs: BTreeMap::new() }
    }

    /// Those that share an id with `ids`, ascending.
    pub fn overlapping(&self, ids: &Ids) -> Vec<R> {
        let before = self.runs.range(..(ids.source, ids.first)).next_back().map(|(_, run)| run);
        let inside = self.runs.range((ids.source, ids.first)..=(ids.source, ids.last)).map(|(_, run)| run);
        before.into_iter().chain(inside).filter(|run| run.ids().overlaps(ids)).copied().collect()
    }

    /// Adds what no earlier run holds. True if an earlier one kept a part.
    pub fn put_first(&mut self, run: R) -> bool {
        let ids = run.ids();
        let there = self.overlapping(&ids);
        let mut next = Some(ids.first);
        for other in &there {
            let other = other.ids();
            if let Some(from) = next
                && let Some(before) = other.first.checked_sub(1)
                && from <= before
            {
                self.runs.insert((ids.source, from), piece(&run, from, before));
            }
            next = other.last.checked_add(1);
        }
        if let Some(from) = next
            && from <= ids.last
        {
            self.runs.insert((ids.source, from), piece(&run, from, ids.last));
        }
        !there.is_empty()
    }

    /// Adds the whole run, cutting it out of earlier ones.
    pub fn put_last(&mut self, run: R) {
        let ids = run.ids();
        for other in self.overlapping(&ids) {
            let old = other.ids();
            self.runs.remove(&(old.source, old.first));
            if old.first < ids.first {
                self.runs.insert((old.source, old.first), piece(&other, old.first, ids.first - 1));
            }
            if ids.last < old.last {
                self.runs.insert((old.source, ids.last + 1), piece(&other, ids.last + 1, old.last));
            }
        }
        self.runs.insert((ids.source, ids.first), run);
    }

    /// All, by source and first id.
    pub fn into_vec(self) -> Vec<R> {
        self.runs.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn run(first: u32, last: u32, base: u32) -> MsiRoute {
        let ids = Ids { source: Source::Pci { segment: 0 }, mask: u32::MAX, first, last };
        MsiRoute { ids, controller: 0, output: Output::From(base), offset: 0 }
    }

    fn shape(set: RouteSet<MsiRoute>) -> Vec<(u32, u32, u32)> {
        set.into_vec().iter().map(|r| (r.ids.first, r.ids.last, r.output.span(&r.ids).0)).collect()
    }

    #[test]
    fn the_first_run_keeps_its_ids() {
        let mut set = RouteSet::new();
        assert!(!set.put_first(run(10, 19, 100)));
        assert!(!set.put_first(run(30, 39, 200)));
        assert!(set.put_first(run(0, 50, 1000)));
        assert_eq!(shape(set), [(0, 9, 1000), (10, 19, 100), (20, 29, 1020), (30, 39, 200), (40, 50, 1040)]);
    }

    #[test]
    fn the_last_run_is_cut_out_of_the_others() {
        let mut set = RouteSet::new();
        set.put_last(run(0, 50, 1000));
        set.put_last(run(10, 19, 100));
        set.put_last(run(19, 19, 7));
        set.put_last(run(45, 60, 0));
        assert_eq!(shape(set), [(0, 9, 1000), (10, 18, 100), (19, 19, 7), (20, 44, 1020), (45, 60, 0)]);
    }

    #[test]
    fn the_ends_of_the_id_space_are_no_special_case() {
        let mut set = RouteSet::new();
        set.put_last(run(0, u32::MAX, 0));
        set.put_last(run(u32::MAX, u32::MAX, 5));
        set.put_last(run(0, 0, 9));
        assert!(set.put_first(run(0, u32::MAX, 77)));
        assert_eq!(shape(set), [(0, 0, 9), (1, u32::MAX - 1, 1), (u32::MAX, u32::MAX, 5)]);
        let mut set = RouteSet::new();
        assert!(!set.put_first(run(u32::MAX, u32::MAX, 1)));
        assert!(set.put_first(run(u32::MAX - 1, u32::MAX, 2)));
        assert_eq!(shape(set), vec![(u32::MAX - 1, u32::MAX - 1, 2), (u32::MAX, u32::MAX, 1)]);
    }
}
