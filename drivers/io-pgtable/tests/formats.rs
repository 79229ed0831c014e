//! The same tests for every format, number of levels, leaf size and right. Entries are checked by a reader written here
//! from the figures of the specification, as (msb, lsb) fields; it shares nothing with the formats under test.

mod arena;
mod reader;

use arena::Arena;
use io_pgtable::{AdBits, AmdV1, AmdV2, ArmS1, ArmS2, MapFailed, PageTable, PtFormat, TableConfig, VtdSs, X86Fs};
use iommu_api::{Gather, ReadDirty, SinkFull, TableMem};
use iommu_types::{Access, DirtyRule, Error, Iova, IovaRange, PageSizes, Phys, PhysRun, TableKind};
use reader::{Seen, field, has_write_only, iova_bits, is_arm, on_read, on_write, walk};

const K4: u64 = 1 << 12;
const M2: u64 = 1 << 21;
const G1: u64 = 1 << 30;
const RW: Access = Access::READ.union(Access::WRITE);

struct Case<F> {
    mem: Arena,
    table: PageTable<F>,
    levels: u8,
}

fn config<F: PtFormat>(levels: u8, dirty: DirtyRule, ad: AdBits) -> TableConfig {
    TableConfig {
        levels,
        aperture: IovaRange::sized(0, 1 << iova_bits(F::KIND, levels)).unwrap(),
        phys_bits: 46,
        page_sizes: PageSizes(K4 | M2 | G1),
        coherent: false,
        dirty,
        ad,
    }
}

fn rule<F: PtFormat>() -> DirtyRule {
    reader::rule(F::KIND)
}

impl<F: PtFormat> Case<F> {
    fn new(levels: u8) -> Self {
        Self::with(config::<F>(levels, rule::<F>(), AdBits::Hardware))
    }
    fn with(config: TableConfig) -> Self {
        let mem = Arena::new(600).with_stale_view();
        let table = PageTable::new(&mem, config).unwrap();
        Self { mem, table, levels: config.levels }
    }
    fn map(&self, iova: u64, phys: u64, length: u64, access: Access, max: u64) -> Result<Gather, MapFailed> {
        let runs = [PhysRun { base: Phys(phys), length }];
        self.table.map(&self.mem, Iova(iova), &runs, access, max, false)
    }
    fn map_ok(&self, iova: u64, phys: u64, length: u64) {
        self.map(iova, phys, length, RW, G1).unwrap().release(&self.mem);
    }
    fn unmap(&self, iova: u64, length: u64) -> Result<u64, Error> {
        let (bytes, gather) = self.table.unmap(&self.mem, IovaRange::sized(iova, length).unwrap())?;
        gather.release(&self.mem);
        Ok(bytes)
    }
    fn seen(&self, iova: u64) -> Option<Seen> {
        let seen = walk(&|at| self.mem.walker_word(at), F::KIND, self.levels, self.table.root(), iova);
        let said = self.table.translate(&self.mem, Iova(iova));
        assert_eq!(
            seen.map(|s| (s.phys, s.size, s.write)),
            said.map(|t| (t.phys.0, t.size, t.access.contains(Access::WRITE)))
        );
        seen
    }
    fn write(&self, iova: u64) {
        let (set, clear) = on_write(F::KIND);
        self.mem.walker_update(self.seen(iova).unwrap().at, set, clear);
    }
    fn read(&self, iova: u64) {
        self.mem.walker_or(self.seen(iova).unwrap().at, on_read(F::KIND));
    }
    fn dirty(&self, range: IovaRange, granule: u64, how: ReadDirty) -> Vec<(u64, u64)> {
        let mut runs = Vec::new();
        let mut sink = |run: IovaRange| {
            runs.push((run.first(), run.last()));
            Ok(())
        };
        let gather = self.table.read_dirty(&self.mem, range, granule, how, &mut sink).unwrap();
        gather.release(&self.mem);
        runs
    }
    fn finish(self) {
        self.table.take_apart(&self.mem).release(&self.mem);
        assert_eq!(self.mem.in_use(), 0, "pages leaked");
    }
}

fn all() -> IovaRange {
    IovaRange::sized(0, 1 << 39).unwrap()
}

fn every_size_and_right<F: PtFormat>(levels: u8) {
    for size in [K4, M2, G1] {
        for access in [Access::READ, Access::WRITE, RW] {
            let case = Case::<F>::new(levels);
            let (iova, phys) = (5 * G1 + 3 * size, 7 * G1 + size);
            case.map(iova, phys, size, access, G1).unwrap().release(&case.mem);
            let seen = case.seen(iova + size / 2).unwrap();
            assert_eq!((seen.phys, seen.size), (phys + size / 2, size));
            assert_eq!(seen.write, access.contains(Access::WRITE));
            assert_eq!(seen.read, access.contains(Access::READ) || !has_write_only(F::KIND));
            assert!(!seen.dirty && !seen.accessed, "leaves of a tracked table start clean");
            assert_eq!(case.seen(iova - 1), None);
            assert_eq!(case.seen(iova + size), None);
            assert_eq!(case.unmap(iova, size), Ok(size));
            assert_eq!(case.seen(iova), None);
            case.finish();
        }
    }
}

fn the_largest_leaves_that_fit<F: PtFormat>(levels: u8) {
    let case = Case::<F>::new(levels);
    // 2 MiB of small pages up to a 1 GiB boundary, one large leaf, a tail.
    case.map_ok(G1 - 2 * M2 - K4, 4 * G1 - 2 * M2 - K4, K4 + 2 * M2 + G1 + M2 + K4);
    let sizes = |iova| case.seen(iova).unwrap().size;
    assert_eq!(sizes(G1 - 2 * M2 - K4), K4);
    assert_eq!((sizes(G1 - 2 * M2), sizes(G1 - M2)), (M2, M2));
    assert_eq!(sizes(G1), G1);
    assert_eq!((sizes(2 * G1), sizes(2 * G1 + M2)), (M2, K4));
    // The same, but the physical side is off by a page: only small ones fit. Capped: likewise.
    case.map_ok(8 * G1, 16 * G1 + K4, M2);
    assert_eq!(sizes(8 * G1), K4);
    case.map(9 * G1, 16 * G1, G1, RW, M2).unwrap().release(&case.mem);
    assert_eq!(sizes(9 * G1), M2);
    case.finish();
}

/// Two shapes on which page-size selection is known to have gone wrong elsewhere (linux-uapi.md 5.6).
fn known_hard_shapes<F: PtFormat>(levels: u8) {
    let case = Case::<F>::new(levels);
    case.map_ok(0xfef8_0000, 0x20_8b95_d000, 0x2_0000);
    for page in 0..0x20 {
        assert_eq!(case.seen(0xfef8_0000 + page * K4).unwrap().phys, 0x20_8b95_d000 + page * K4);
    }
    assert_eq!(case.unmap(0xfef8_0000, 0x2_0000), Ok(0x2_0000));
    case.map_ok(0x3_fe40_0000, 0x3_fe40_0000, 0x4_c060_0000 - 0x3_fe40_0000);
    let mut items = 0;
    let mut at = 0x3_fe40_0000;
    while at < 0x4_c060_0000 {
        at += case.seen(at).unwrap().size;
        items += 1;
    }
    assert_eq!(items, 14 + 3 + 3);
    case.finish();
}

fn runs_that_touch_become_one_leaf<F: PtFormat>(levels: u8) {
    let case = Case::<F>::new(levels);
    let runs: Vec<_> = (0..512).map(|page| PhysRun { base: Phys(G1 + page * K4), length: K4 }).collect();
    case.table.map(&case.mem, Iova(M2), &runs, RW, G1, false).unwrap().release(&case.mem);
    assert_eq!(case.seen(M2).unwrap().size, M2);
    // One page out of place, and none is large.
    let mut runs = runs;
    runs[300].base = Phys(3 * G1);
    case.table.map(&case.mem, Iova(2 * M2), &runs, RW, G1, false).unwrap().release(&case.mem);
    assert_eq!(case.seen(2 * M2).unwrap().size, K4);
    assert_eq!(case.seen(2 * M2 + 300 * K4).unwrap().phys, 3 * G1);
    assert_eq!(case.seen(2 * M2 + 301 * K4).unwrap().phys, G1 + 301 * K4);
    case.finish();
}

fn refusals<F: PtFormat>(levels: u8) {
    let case = Case::<F>::new(levels);
    let error = |iova, phys, length, access, max| {
        let failed = case.map(iova, phys, length, access, max).unwrap_err();
        failed.gather.release(&case.mem);
        failed.error
    };
    assert!(matches!(error(K4 / 2, 0, K4, RW, G1), Error::Invalid(_)));
    assert!(matches!(error(0, K4 / 2, K4, RW, G1), Error::Invalid(_)));
    assert!(matches!(error(0, 0, K4 / 2, RW, G1), Error::Invalid(_)));
    assert!(matches!(error(0, 0, 0, RW, G1), Error::Invalid(_)));
    assert!(matches!(error(0, 0, K4, Access::empty(), G1), Error::Invalid(_)));
    assert!(matches!(error(0, 0, K4, Access::MMIO, G1), Error::Invalid(_)));
    assert!(matches!(error(0, 0, K4, RW, 0), Error::Invalid(_)));
    assert!(matches!(error(0, 0, K4, RW, 3 * K4), Error::Invalid(_)));
    assert!(matches!(error(0, 1 << 46, K4, RW, G1), Error::Range(_)));
    assert!(matches!(error(0, (1 << 46) - K4, 2 * K4, RW, G1), Error::Range(_)));
    assert!(matches!(error(0, u64::MAX - 0xfff, 2 * K4, RW, G1), Error::Range(_)));
    let top = case.table.config().aperture.last() + 1;
    assert!(matches!(error(top, 0, K4, RW, G1), Error::Range(_)));
    assert!(matches!(error(top - K4, 0, 2 * K4, RW, G1), Error::Range(_)));
    assert!(matches!(error(u64::MAX - 0xfff, 0, 2 * K4, RW, G1), Error::Range(_)));
    case.map_ok(top - K4, 0, K4);
    assert_eq!(case.seen(top - K4).unwrap().phys, 0, "physical 0 is an address like any other");
    // A leaf that would be cut, from either end, changes nothing.
    case.map_ok(M2, M2, M2);
    for (iova, length) in [(M2, K4), (M2 + K4, M2 - K4), (0, M2 + K4), (2 * M2 - K4, M2)] {
        assert_eq!(case.unmap(iova, length), Err(Error::Invalid("the range cuts a larger page")));
        assert_eq!(case.seen(M2).unwrap().size, M2);
    }
    assert!(matches!(case.unmap(K4 / 2, K4), Err(Error::Invalid(_))));
    assert!(matches!(case.unmap(top, K4), Err(Error::Range(_))));
    assert_eq!(case.unmap(4 * G1, 4 * G1), Ok(0), "a hole is no error");
    case.finish();
}

fn a_failed_map_leaves_nothing<F: PtFormat>(levels: u8) {
    let case = Case::<F>::new(levels);
    case.map_ok(G1 + 5 * K4, 0, K4);
    let taken = case.mem.in_use();
    // Small pages, then a collision in the next table.
    let failed = case.map(G1 - 3 * K4, K4, 16 * K4, RW, G1).unwrap_err();
    assert_eq!(failed.error, Error::Exists);
    let range = failed.gather.range().unwrap();
    assert!(range.first() <= G1 - 3 * K4 && range.last() >= G1 + 5 * K4 - 1, "{range:?}");
    failed.gather.release(&case.mem);
    for page in 0..16 {
        let seen = case.seen(G1 - 3 * K4 + page * K4);
        assert_eq!(seen.is_some(), page == 8, "page {page}");
    }
    assert_eq!(case.seen(G1 + 5 * K4).unwrap().phys, 0, "the neighbour stays");
    assert!(case.mem.in_use() <= taken + 2, "empty tables may stay, and are few");
    // A large leaf does not swallow the tables of what is mapped below it.
    let failed = case.map(G1, G1, G1, RW, G1).unwrap_err();
    assert_eq!(failed.error, Error::Exists);
    assert!(failed.gather.is_none());
    // Nor does anything fit under a large leaf.
    case.map_ok(4 * G1, 4 * G1, G1);
    assert_eq!(case.map(4 * G1 + M2, 0, K4, RW, G1).unwrap_err().error, Error::Exists);
    assert_eq!(case.map(4 * G1, 0, G1, RW, G1).unwrap_err().error, Error::Exists);
    case.finish();
}

fn allocation_failure_at_every_point<F: PtFormat>(levels: u8) {
    for n in 0.. {
        let case = Case::<F>::new(levels);
        case.map_ok(0, 0, K4);
        case.mem.fail_at(Some(n));
        let result = case.map(G1 - 2 * M2 - 8 * K4, 8 * K4, 2 * M2 + 16 * K4, RW, K4);
        case.mem.fail_at(None);
        let done = result.is_ok();
        match result {
            Ok(gather) => gather.release(&case.mem),
            Err(failed) => {
                assert!(matches!(failed.error, Error::Exhausted(_)), "{:?}", failed.error);
                failed.gather.release(&case.mem);
                for page in 0..(2 * M2 / K4 + 16) {
                    assert_eq!(case.seen(G1 - 2 * M2 - 8 * K4 + page * K4), None);
                }
            }
        }
        assert!(case.seen(0).is_some());
        case.finish();
        if done {
            assert!(n >= 3, "the sweep saw only {n} allocations");
            return;
        }
    }
}

fn empty_leftovers_are_replaced_and_reclaimed<F: PtFormat>(levels: u8) {
    let case = Case::<F>::new(levels);
    let before = case.mem.in_use();
    case.map(G1, 0, M2, RW, K4).unwrap().release(&case.mem);
    for page in 0..512 {
        assert_eq!(case.unmap(G1 + page * K4, K4), Ok(K4));
    }
    let leftover = case.mem.in_use();
    assert!(leftover > before, "tables stay: none of the unmaps covered one whole");
    // A 2 MiB leaf takes the place of the empty table; the table rides in the gather.
    let gather = case.map(G1, 4 * G1, M2, RW, G1).unwrap();
    assert_eq!(gather.tables(), 1);
    assert!(gather.needs_tables() && gather.range().is_some());
    gather.release(&case.mem);
    assert_eq!(case.seen(G1).unwrap().size, M2);
    assert_eq!(case.unmap(G1, M2), Ok(M2));
    // A 1 GiB leaf over a subtree without leaves.
    let gather = case.map(G1, 4 * G1, G1, RW, G1).unwrap();
    assert!(gather.tables() >= 1);
    gather.release(&case.mem);
    assert_eq!(case.unmap(G1, G1), Ok(G1));
    case.map(G1, 0, M2, RW, K4).unwrap().release(&case.mem);
    assert_eq!(case.unmap(G1, M2), Ok(M2));
    // Covering unmap: nothing mapped, but all tables of the range come back.
    let (bytes, gather) = case.table.unmap(&case.mem, *[case.table.config().aperture].first().unwrap()).unwrap();
    assert_eq!(bytes, 0);
    assert!(gather.tables() >= 1);
    gather.release(&case.mem);
    assert_eq!(case.mem.in_use(), before);
    case.finish();
}

fn unmap_tells_what_to_flush<F: PtFormat>(levels: u8) {
    let case = Case::<F>::new(levels);
    case.map(G1, 0, 2 * M2, RW, K4).unwrap().release(&case.mem);
    let (bytes, gather) = case.table.unmap(&case.mem, IovaRange::sized(G1 + K4, 2 * K4).unwrap()).unwrap();
    assert_eq!(bytes, 2 * K4);
    assert_eq!(gather.range(), IovaRange::sized(G1 + K4, 2 * K4));
    assert!(gather.has_unmapped() && !gather.needs_tables() && gather.tables() == 0);
    gather.release(&case.mem);
    let (bytes, gather) = case.table.unmap(&case.mem, IovaRange::sized(G1, 2 * M2).unwrap()).unwrap();
    assert_eq!(bytes, 2 * M2 - 2 * K4);
    assert_eq!(gather.range(), IovaRange::sized(G1, 2 * M2));
    assert!(gather.needs_tables() && gather.tables() == 2);
    gather.release(&case.mem);
    case.finish();
}

fn dirty_runs<F: PtFormat>(levels: u8) {
    let case = Case::<F>::new(levels);
    case.map(G1, 0, 2 * M2, RW, K4).unwrap().release(&case.mem);
    case.map_ok(2 * G1, 8 * G1, M2);
    case.map(3 * G1, 9 * G1, M2, Access::READ, G1).unwrap().release(&case.mem);
    assert_eq!(case.dirty(all(), K4, ReadDirty::Clear), []);
    // Across the seam of two leaf tables; a lone page; a large leaf.
    for page in [510, 511, 512, 513, 700] {
        case.write(G1 + page * K4);
    }
    case.write(2 * G1 + 17 * K4);
    case.read(3 * G1);
    let want = [(G1 + 510 * K4, G1 + 514 * K4 - 1), (G1 + 700 * K4, G1 + 701 * K4 - 1), (2 * G1, 2 * G1 + M2 - 1)];
    assert_eq!(case.dirty(all(), K4, ReadDirty::Keep), want);
    assert_eq!(case.dirty(all(), K4, ReadDirty::Clear), want);
    assert_eq!(case.dirty(all(), K4, ReadDirty::Clear), []);
    // A coarser granule, clipped to what was asked for.
    case.write(G1 + 8 * K4);
    let part = IovaRange::sized(G1 + 5 * K4, 6 * K4).unwrap();
    assert_eq!(case.dirty(part, 16 * K4, ReadDirty::Keep), [(G1 + 5 * K4, G1 + 11 * K4 - 1)]);
    assert_eq!(case.dirty(all(), 16 * K4, ReadDirty::Clear), [(G1, G1 + 16 * K4 - 1)]);
    // Part of a large leaf: reported, not cleared, or its other part would be lost.
    case.write(2 * G1);
    let part = IovaRange::sized(2 * G1, M2 / 2).unwrap();
    assert_eq!(case.dirty(part, K4, ReadDirty::Clear), [(2 * G1, 2 * G1 + M2 / 2 - 1)]);
    assert_eq!(case.dirty(all(), K4, ReadDirty::Clear), [(2 * G1, 2 * G1 + M2 - 1)]);
    case.finish();
}

fn read_then_write_is_seen<F: PtFormat>(levels: u8) {
    let case = Case::<F>::new(levels);
    case.map_ok(0, 0, K4);
    case.read(0);
    // On the emulated first stage a later write leaves A=1 D=0: the read itself has to count.
    let counts = F::KIND == TableKind::X86FirstStage;
    assert_eq!(!case.dirty(all(), K4, ReadDirty::Clear).is_empty(), counts);
    let seen = case.seen(0).unwrap();
    assert!(!seen.dirty && (!counts || !seen.accessed), "A and D are cleared together where both count");
    case.finish();
}

fn a_failed_report_is_undone<F: PtFormat>(levels: u8) {
    // Enough single pages that the undo log overflows.
    for fail_at in [0, 1, 2, 31, 32, 33, 60] {
        let case = Case::<F>::new(levels);
        case.map(0, 0, M2, RW, K4).unwrap().release(&case.mem);
        let written: Vec<u64> = (0..64).map(|n| n * 5 * K4).collect();
        for at in &written {
            case.write(*at);
        }
        let mut left = fail_at;
        let mut sink = |_: IovaRange| {
            if left == 0 {
                return Err(SinkFull);
            }
            left -= 1;
            Ok(())
        };
        let result = case.table.read_dirty(&case.mem, all(), K4, ReadDirty::Clear, &mut sink);
        assert_eq!(result.map(|_| ()), Err(Error::Sink));
        let runs = case.dirty(all(), K4, ReadDirty::Clear);
        for at in &written {
            assert!(
                runs.iter().any(|(first, last)| first <= at && at <= last),
                "{at:#x} lost, sink failed at {fail_at}"
            );
        }
        if fail_at < 31 {
            assert_eq!(runs.len(), written.len(), "a short report is undone exactly");
        }
        case.finish();
    }
}

fn marks_and_cleans<F: PtFormat>(levels: u8) {
    let case = Case::<F>::new(levels);
    case.map(0, 0, 16 * K4, RW, K4).unwrap().release(&case.mem);
    case.map(M2, 0, K4, Access::READ, K4).unwrap().release(&case.mem);
    case.table.mark_dirty(&case.mem, IovaRange::sized(4 * K4, 2 * K4).unwrap());
    assert_eq!(case.dirty(all(), K4, ReadDirty::Clear), [(4 * K4, 6 * K4 - 1)]);
    case.table.mark_dirty(&case.mem, IovaRange::ALL);
    assert_eq!(case.dirty(all(), K4, ReadDirty::Keep), [(0, 16 * K4 - 1)], "what cannot be written is not dirty");
    let gather = case.table.set_clean(&case.mem).unwrap();
    assert_eq!(gather.range(), IovaRange::sized(0, 16 * K4));
    gather.release(&case.mem);
    assert_eq!(case.dirty(all(), K4, ReadDirty::Clear), []);
    // Entries that came back after an unmap.
    let entry = case.seen(3 * K4).unwrap().at;
    let old = case.mem.load64(entry);
    assert_eq!(case.unmap(2 * K4, 2 * K4), Ok(2 * K4));
    case.mem.store64(entry, old);
    assert_eq!(case.table.sweep(&case.mem, IovaRange::sized(2 * K4, 2 * K4).unwrap()), 1);
    assert_eq!(case.mem.load64(entry), 0);
    assert!(case.seen(K4).is_some() && case.seen(4 * K4).is_some());
    case.finish();
}

fn preset_and_unused_bits<F: PtFormat>(levels: u8) {
    let case = Case::<F>::with(config::<F>(levels, DirtyRule::None, AdBits::Preset));
    case.map_ok(0, 0, K4);
    case.map(K4, 0, K4, Access::READ, G1).unwrap().release(&case.mem);
    let (rw, ro) = (case.seen(0).unwrap(), case.seen(K4).unwrap());
    assert!(rw.dirty && !ro.dirty);
    assert_eq!((rw.accessed, ro.accessed), (!is_arm(F::KIND), !is_arm(F::KIND)));
    assert_eq!(case.table.translate(&case.mem, Iova(0)).map(|t| t.dirty), Some(false));
    let mut sink = |_: IovaRange| Ok(());
    let refused = case.table.read_dirty(&case.mem, all(), K4, ReadDirty::Clear, &mut sink);
    assert!(matches!(refused, Err(Error::NoTracking(_))));
    assert!(matches!(case.table.set_clean(&case.mem), Err(Error::NoTracking(_))));
    case.finish();
    let case = Case::<F>::with(config::<F>(levels, DirtyRule::None, AdBits::Unused));
    case.map_ok(0, 0, K4);
    // An Arm entry without DBM is writable by the bit that would show a write.
    assert!(!case.seen(0).unwrap().accessed && case.seen(0).unwrap().dirty == is_arm(F::KIND));
    case.finish();
}

fn geometry_is_checked<F: PtFormat>() {
    let mem = Arena::new(4);
    let good = config::<F>(4, DirtyRule::None, AdBits::Unused);
    let refused = |config| matches!(PageTable::<F>::new(&mem, config), Err(Error::Invalid(_)));
    assert!(refused(TableConfig { levels: F::LEVELS.0 - 1, ..good }));
    assert!(refused(TableConfig { levels: F::LEVELS.1 + 1, ..good }));
    assert!(refused(TableConfig { aperture: IovaRange::ALL, ..good }));
    assert!(refused(TableConfig { page_sizes: PageSizes(M2), ..good }));
    assert!(refused(TableConfig { dirty: DirtyRule::Bit(63), ..good }));
    assert!(refused(TableConfig { dirty: DirtyRule::Bit(64), ..good }));
    let rules = [DirtyRule::Bit(6), DirtyRule::Bit(9), DirtyRule::ArmDbmStage1, DirtyRule::ArmDbmStage2];
    for dirty in rules {
        let config = TableConfig { dirty, ..good };
        let bit_of_both = F::KIND == TableKind::X86FirstStage && dirty == DirtyRule::Bit(6);
        if dirty == rule::<F>() || bit_of_both {
            PageTable::<F>::new(&mem, config).unwrap().take_apart(&mem).release(&mem);
        } else {
            assert!(refused(config), "{:?} {dirty:?}", F::KIND);
        }
    }
    assert_eq!(mem.in_use(), 0);
}

macro_rules! for_each_format {
    ($($test:ident),* $(,)?) => {
        mod vtd_ss_3 { use super::*; $(#[test] fn $test() { super::$test::<VtdSs>(3) })* }
        mod vtd_ss_4 { use super::*; $(#[test] fn $test() { super::$test::<VtdSs>(4) })* }
        mod vtd_ss_5 { use super::*; $(#[test] fn $test() { super::$test::<VtdSs>(5) })* }
        mod x86_fs_4 { use super::*; $(#[test] fn $test() { super::$test::<X86Fs>(4) })* }
        mod x86_fs_5 { use super::*; $(#[test] fn $test() { super::$test::<X86Fs>(5) })* }
        mod amd_v1_3 { use super::*; $(#[test] fn $test() { super::$test::<AmdV1>(3) })* }
        mod amd_v1_4 { use super::*; $(#[test] fn $test() { super::$test::<AmdV1>(4) })* }
        mod amd_v1_5 { use super::*; $(#[test] fn $test() { super::$test::<AmdV1>(5) })* }
        mod amd_v1_6 { use super::*; $(#[test] fn $test() { super::$test::<AmdV1>(6) })* }
        mod amd_v2_4 { use super::*; $(#[test] fn $test() { super::$test::<AmdV2>(4) })* }
        mod amd_v2_5 { use super::*; $(#[test] fn $test() { super::$test::<AmdV2>(5) })* }
        mod arm_s1_3 { use super::*; $(#[test] fn $test() { super::$test::<ArmS1>(3) })* }
        mod arm_s1_4 { use super::*; $(#[test] fn $test() { super::$test::<ArmS1>(4) })* }
        mod arm_s2_3 { use super::*; $(#[test] fn $test() { super::$test::<ArmS2>(3) })* }
        mod arm_s2_4 { use super::*; $(#[test] fn $test() { super::$test::<ArmS2>(4) })* }
    };
}

for_each_format!(
    every_size_and_right,
    the_largest_leaves_that_fit,
    known_hard_shapes,
    runs_that_touch_become_one_leaf,
    refusals,
    a_failed_map_leaves_nothing,
    allocation_failure_at_every_point,
    empty_leftovers_are_replaced_and_reclaimed,
    unmap_tells_what_to_flush,
    dirty_runs,
    read_then_write_is_seen,
    a_failed_report_is_undone,
    marks_and_cleans,
    preset_and_unused_bits,
);

#[test]
fn geometry_is_checked_for_every_format() {
    geometry_is_checked::<VtdSs>();
    geometry_is_checked::<X86Fs>();
    geometry_is_checked::<AmdV1>();
    geometry_is_checked::<AmdV2>();
    geometry_is_checked::<ArmS1>();
    geometry_is_checked::<ArmS2>();
}

#[test]
fn snoop_is_forced_on_old_and_new_leaves() {
    let case = Case::<VtdSs>::new(4);
    case.map_ok(0, 0, K4);
    case.map_ok(M2, M2, M2);
    let gather = case.table.force_leaf_bits(&case.mem, VtdSs::SNOOP);
    assert_eq!(gather.range(), IovaRange::new(0, 2 * M2 - 1));
    gather.release(&case.mem);
    case.map_ok(G1, 0, K4);
    for iova in [0, M2, G1] {
        let entry = case.mem.walker_word(case.seen(iova).unwrap().at);
        assert_eq!(field(entry, 11, 11), 1, "SNP at {iova:#x}");
    }
    case.finish();
}
