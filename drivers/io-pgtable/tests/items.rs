//! Every item size of every format at every depth, also those of several entries: map, rights, A and D, unmap, reports;
//! demote and promote in all combinations. Checked by the second reader.

mod arena;
mod reader;

use arena::Arena;
use io_pgtable::{AdBits, AmdV1, AmdV2, ArmS1, ArmS2, PageTable, PtFormat, Swap, TableConfig, VtdSs, X86Fs};
use iommu_api::{Gather, ReadDirty, SinkFull, TableMem};
use iommu_types::{Access, DirtyRule, Error, Iova, IovaRange, PageSizes, Phys, PhysRun, Resource, TableKind};
use reader::{Seen, has_write_only, iova_bits, is_arm, on_read, on_write, sizes, walk};

const K4: u64 = 1 << 12;
const M2: u64 = 1 << 21;
const RW: Access = Access::READ.union(Access::WRITE);
const PHYS_BITS: u8 = 46;

struct Case<F> {
    mem: Arena,
    table: PageTable<F>,
    levels: u8,
}

fn config<F: PtFormat>(levels: u8, dirty: DirtyRule, ad: AdBits) -> TableConfig {
    TableConfig {
        levels,
        aperture: IovaRange::sized(0, 1 << iova_bits(F::KIND, levels)).unwrap(),
        phys_bits: PHYS_BITS,
        page_sizes: PageSizes(!0),
        coherent: false,
        dirty,
        ad,
    }
}

/// log2 of the sizes to try: three of them fit into aperture and memory.
fn fitting<F: PtFormat>(levels: u8) -> Vec<u32> {
    let most = (iova_bits(F::KIND, levels) - 2).min(u32::from(PHYS_BITS) - 3);
    sizes(F::KIND, most.min(12 + 9 * u32::from(levels) - 1 + 5))
        .into_iter()
        .filter(|size| (size - 12) / 9 < u32::from(levels))
        .collect()
}

impl<F: PtFormat> Case<F> {
    fn new(levels: u8, frames: usize) -> Self {
        Self::with(config::<F>(levels, reader::rule(F::KIND), AdBits::Hardware), frames)
    }
    fn with(config: TableConfig, frames: usize) -> Self {
        let mem = Arena::new(frames).with_stale_view();
        let table = PageTable::new(&mem, config).unwrap();
        Self { mem, table, levels: config.levels }
    }
    fn map(&self, iova: u64, phys: u64, length: u64, access: Access, most: u64) {
        let runs = [PhysRun { base: Phys(phys), length }];
        self.table.map(&self.mem, Iova(iova), &runs, access, most, false).unwrap().release(&self.mem);
    }
    fn unmap(&self, iova: u64, length: u64) -> Result<u64, Error> {
        let (bytes, gather) = self.table.unmap(&self.mem, IovaRange::sized(iova, length).unwrap())?;
        gather.release(&self.mem);
        Ok(bytes)
    }
    /// What the second reader finds; the crate's own must agree.
    fn seen(&self, iova: u64) -> Option<Seen> {
        let seen = walk(&|at| self.mem.walker_word(at), F::KIND, self.levels, self.table.root(), iova);
        let said = self.table.translate(&self.mem, Iova(iova));
        assert_eq!(
            seen.map(|s| (s.phys, s.size, s.write)),
            said.map(|t| (t.phys.0, t.size, t.access.contains(Access::WRITE)))
        );
        if self.table.config().dirty != DirtyRule::None && F::KIND != TableKind::X86FirstStage {
            assert_eq!(seen.map(|s| s.dirty), said.map(|t| t.dirty));
        }
        seen
    }
    fn write(&self, iova: u64) {
        let (set, clear) = on_write(F::KIND);
        self.mem.walker_update(self.seen(iova).unwrap().at, set, clear);
    }
    fn dirty(&self, range: IovaRange, how: ReadDirty) -> Vec<(u64, u64)> {
        let mut runs = Vec::new();
        let mut sink = |run: IovaRange| {
            runs.push((run.first(), run.last()));
            Ok(())
        };
        self.table.read_dirty(&self.mem, range, K4, how, &mut sink).unwrap().release(&self.mem);
        runs
    }
    fn all(&self) -> IovaRange {
        self.table.config().aperture
    }
    fn demote(&self, range: IovaRange, size: u64, how: Swap) -> usize {
        let mut flush = |gather: Gather| {
            gather.release(&self.mem);
            Ok(())
        };
        let done = self.table.demote(&self.mem, range, size, how, &mut flush).unwrap();
        assert_eq!(done.how, how);
        assert_eq!(done.gather.is_none(), done.items == 0);
        done.gather.release(&self.mem);
        done.items
    }
    fn promote(&self, range: IovaRange, size: u64, how: Swap) -> usize {
        let mut flush = |gather: Gather| {
            gather.release(&self.mem);
            Ok(())
        };
        let done = self.table.promote(&self.mem, range, size, how, &mut flush).unwrap();
        assert_eq!(done.how, how);
        done.gather.release(&self.mem);
        done.items
    }
    fn finish(self) {
        self.table.take_apart(&self.mem).release(&self.mem);
        assert_eq!(self.mem.in_use(), 0, "pages leaked");
    }
}

fn range(first: u64, length: u64) -> IovaRange {
    IovaRange::sized(first, length).unwrap()
}

fn every_size_right_and_state<F: PtFormat>(levels: u8) {
    let untracked = [AdBits::Unused, AdBits::Preset].map(|ad| (DirtyRule::None, ad));
    for size in fitting::<F>(levels) {
        for access in [Access::READ, Access::WRITE, RW] {
            for (rule, ad) in [(reader::rule(F::KIND), AdBits::Hardware)].into_iter().chain(untracked) {
                let case = Case::<F>::with(config::<F>(levels, rule, ad), 24);
                let size = 1u64 << size;
                case.map(size, 5 * size, size, access, size);
                for at in [size, size + size / 2, 2 * size - 1] {
                    let seen = case.seen(at).unwrap();
                    assert_eq!((seen.phys, seen.size), (at + 4 * size, size));
                    assert_eq!(seen.write, access.contains(Access::WRITE));
                    assert_eq!(seen.read, access.contains(Access::READ) || !has_write_only(F::KIND));
                    let preset = ad == AdBits::Preset;
                    assert_eq!(seen.accessed, preset && !is_arm(F::KIND));
                    assert_eq!(seen.dirty, seen.write && (preset || is_arm(F::KIND) && ad == AdBits::Unused));
                }
                assert_eq!((case.seen(size - 1), case.seen(2 * size)), (None, None));
                if size > K4 {
                    for (iova, length) in [(size, K4), (2 * size - K4, K4), (0, 2 * size - K4), (size + K4, 2 * size)] {
                        let cut = Err(Error::Invalid("the range cuts a larger page"));
                        assert_eq!(case.unmap(iova, length), cut);
                    }
                }
                let first = case.seen(size).unwrap().first;
                let entries = case.seen(size).unwrap().entries;
                assert_eq!(case.unmap(size, size), Ok(size));
                if size <= M2 / 2 {
                    let left = (0..entries).filter(|n| case.mem.load64(Phys(first.0 + 8 * n)) != 0).count();
                    assert_eq!(left, 0, "every entry of the item goes");
                }
                case.finish();
            }
        }
    }
}

fn one_dirty_entry_makes_the_item_dirty<F: PtFormat>(levels: u8) {
    for size in fitting::<F>(levels) {
        let case = Case::<F>::new(levels, 24);
        let size = 1u64 << size;
        case.map(size, size, size, RW, size);
        let entries = case.seen(size).unwrap().entries;
        assert_eq!(case.dirty(case.all(), ReadDirty::Clear), []);
        for n in [0, entries / 2, entries - 1] {
            case.write(size + n * (size / entries));
            assert!(case.seen(size).unwrap().dirty);
            let item = [(size, 2 * size - 1)];
            assert_eq!(case.dirty(case.all(), ReadDirty::Keep), item);
            if size > K4 {
                // Part of it: reported, but only the part, and not cleaned.
                for part in [range(size, K4), range(2 * size - K4, K4)] {
                    assert_eq!(case.dirty(part, ReadDirty::Clear), [(part.first(), part.last())]);
                }
            }
            // A sink that fails has it set again.
            let mut sink = |_: IovaRange| Err(SinkFull);
            let failed = case.table.read_dirty(&case.mem, case.all(), K4, ReadDirty::Clear, &mut sink);
            assert_eq!(failed.map(|_| ()), Err(Error::Sink));
            assert_eq!(case.dirty(case.all(), ReadDirty::Clear), item);
            assert!(!case.seen(size).unwrap().dirty, "all entries are cleaned");
            assert_eq!(case.dirty(case.all(), ReadDirty::Clear), []);
        }
        case.table.mark_dirty(&case.mem, range(2 * size - K4, K4));
        assert_eq!(case.dirty(case.all(), ReadDirty::Keep), [(size, 2 * size - 1)]);
        case.table.set_clean(&case.mem).unwrap().release(&case.mem);
        assert_eq!(case.dirty(case.all(), ReadDirty::Keep), []);
        case.finish();
    }
}

fn the_largest_items_that_fit<F: PtFormat>(levels: u8) {
    let sizes: Vec<u64> = sizes(F::KIND, iova_bits(F::KIND, levels) - 1).iter().map(|size| 1 << size).collect();
    let shapes = [
        // iova, phys, pages
        (1, 1, 5000),
        (1, 1025, 3000),
        (512 - 17, 1024 - 17, 700),
        (16, 48, 97),
        (7, 8, 40),
        (0x200, 0x1200, 0x600),
    ];
    for (iova, phys, pages) in shapes.into_iter().filter(|shape| levels > 1 || shape.0 < 512) {
        let case = Case::<F>::new(levels, 64);
        let pages = if levels == 1 { pages.min(512 - iova) } else { pages };
        case.map(iova * K4, phys * K4, pages * K4, RW, 1 << 63);
        let (mut at, end) = (iova * K4, (iova + pages) * K4);
        while at < end {
            let to = at - iova * K4 + phys * K4;
            let fits = |size: &&u64| (at | to).is_multiple_of(**size) && end - at >= **size;
            let want = *sizes.iter().filter(fits).max().unwrap();
            let seen = case.seen(at).unwrap();
            assert_eq!((seen.phys, seen.size), (to, want), "{iova:#x} {phys:#x} {pages:#x} at {at:#x}");
            at += want;
        }
        assert_eq!(case.unmap(iova * K4, pages * K4), Ok(pages * K4));
        case.finish();
    }
}

fn a_collision_inside_an_item_changes_nothing<F: PtFormat>(levels: u8) {
    for size in fitting::<F>(levels) {
        let size = 1u64 << size;
        let case = Case::<F>::new(levels, 24);
        case.map(2 * size - K4, 0, K4, RW, K4);
        let runs = [PhysRun { base: Phys(4 * size), length: size }];
        let failed = case.table.map(&case.mem, Iova(size), &runs, RW, size, false).unwrap_err();
        assert_eq!(failed.error, Error::Exists);
        failed.gather.release(&case.mem);
        if size > K4 {
            assert_eq!(case.seen(size), None);
        }
        assert_eq!(case.seen(2 * size - K4).unwrap().phys, 0);
        // An empty table that small unmaps left gives way to the item.
        assert_eq!(case.unmap(2 * size - K4, K4), Ok(K4));
        case.map(size, 4 * size, size, RW, size);
        assert_eq!(case.seen(size).unwrap().size, size);
        case.finish();
    }
}

/// From every size to every smaller one and back, clean and dirty, writable and not, by both ways.
fn demote_and_promote<F: PtFormat>(levels: u8) {
    let all = fitting::<F>(levels);
    // Far apart sizes make huge tables, not new cases.
    for (from, to) in all.iter().flat_map(|from| all.iter().filter(move |to| *to < from).map(move |to| (*from, *to))) {
        // AMD items of a terabyte and more cannot be cut below it: 512 GiB, the step between, is not to be used.
        if from > 39 && to < 39 {
            continue;
        }
        // AMD has hundreds of pairs: neighbours, across one level, and down to the smallest.
        if all.len() > 8 && !matches!(from - to, 1 | 4 | 9 | 10) && to != 12 {
            continue;
        }
        let far = from - to > 10 || from > 29 && to < 21 || from > 38;
        for (how, write, tracked) in
            [(Swap::Direct, true, true), (Swap::BreakFirst, true, true), (Swap::Direct, false, false)]
        {
            let (rule, ad) =
                if tracked { (reader::rule(F::KIND), AdBits::Hardware) } else { (DirtyRule::None, AdBits::Preset) };
            let case = Case::<F>::with(config::<F>(levels, rule, ad), 600);
            let (large, small) = (1u64 << from, 1u64 << to);
            let access = if write { RW } else { Access::READ };
            case.map(large, 3 * large, large, access, large);
            let before = case.mem.in_use();
            // One page in it: only what is over that page gets small.
            let page = range(large + large / 2, K4);
            for dirty in [false, true] {
                if dirty && write {
                    case.write(large + large / 4);
                }
                let old = case.seen(large).unwrap();
                assert_eq!(old.size, large);
                assert!(case.demote(page, small, how) > 0);
                assert_eq!(case.demote(page, small, how), 0, "nothing is left to do");
                assert_eq!(case.seen(page.first()).unwrap().size, small);
                for n in 0..8 {
                    let at = large + n * ((large / 8) & !0xfff) + 0x123;
                    let seen = case.seen(at).unwrap();
                    assert_eq!(seen.phys, at + 2 * large);
                    assert_eq!(
                        (seen.read, seen.write, seen.dirty),
                        (old.read, old.write, old.dirty),
                        "2^{from} 2^{to}"
                    );
                    assert_eq!(seen.accessed, old.accessed);
                }
                if !far && tracked {
                    case.demote(range(large, large), small, how);
                    assert_eq!(case.seen(2 * large - K4).unwrap().size, small);
                    let runs = case.dirty(case.all(), ReadDirty::Keep);
                    assert_eq!(runs, if dirty { vec![(large, 2 * large - 1)] } else { vec![] });
                }
                // Less than the whole does not become the whole.
                case.promote(range(large, large - K4), large, how);
                assert_ne!(case.seen(2 * large - K4).unwrap().size, large);
                assert!(case.promote(case.all(), large, how) > 0);
                let new = case.seen(large).unwrap();
                assert_eq!(
                    (new.phys, new.size, new.read, new.write, new.accessed, new.dirty),
                    (old.phys, old.size, old.read, old.write, old.accessed, old.dirty)
                );
                assert_eq!(case.mem.in_use(), before, "tables come back");
            }
            case.finish();
        }
    }
}

fn only_equal_neighbours_are_joined<F: PtFormat>(levels: u8) {
    let Some(size) = fitting::<F>(levels).into_iter().find(|size| *size > 12).map(|size| 1u64 << size) else { return };
    for how in [Swap::Direct, Swap::BreakFirst] {
        for shape in 0..5 {
            let case = Case::<F>::new(levels, 24);
            let last = 2 * size - K4;
            case.map(size, 4 * size, size - K4, RW, K4);
            match shape {
                0 => case.map(last, 8 * size, K4, RW, K4),
                1 => case.map(last, 5 * size - K4, K4, Access::READ, K4),
                2 => {}
                3 => {
                    // All neighbours, but physically off by a page.
                    case.unmap(size, size - K4).unwrap();
                    case.map(size, 4 * size + K4, size, RW, K4);
                }
                _ => {
                    // Dirty or not is no difference.
                    case.map(last, 5 * size - K4, K4, RW, K4);
                    case.write(size + K4);
                }
            }
            assert_eq!(case.promote(range(size, size), size, how), usize::from(shape == 4));
            if shape == 4 {
                assert_eq!(case.dirty(case.all(), ReadDirty::Clear), [(size, 2 * size - 1)]);
            }
            assert_eq!(case.seen(size).unwrap().size == size, shape == 4);
            case.finish();
        }
    }
}

fn a_failed_flush_leaves_it_as_it_was<F: PtFormat>(levels: u8) {
    for size in fitting::<F>(levels).into_iter().filter(|size| (13..=30).contains(size)) {
        let size = 1u64 << size;
        let case = Case::<F>::new(levels, 600);
        case.map(size, 4 * size, size, RW, size);
        case.write(size);
        let before = case.mem.in_use();
        let (set, clear) = on_write(F::KIND);
        let mut asked = 0;
        let mut stuck = |gather: Gather| {
            asked += 1;
            assert!(gather.has_unmapped());
            assert_eq!(case.seen(size), None, "broken before it is made");
            gather.release(&case.mem);
            Err(Error::Busy("test"))
        };
        let failed = case.table.demote(&case.mem, range(size, K4), K4, Swap::BreakFirst, &mut stuck).unwrap_err();
        assert_eq!((failed.error, asked), (Error::Busy("test"), 1));
        failed.gather.release(&case.mem);
        let seen = case.seen(size).unwrap();
        assert_eq!((seen.size, seen.dirty, case.mem.in_use()), (size, true, before));
        // Joining, by both ways; a device that writes to the old entries meanwhile is not forgotten.
        case.demote(range(size, size), K4, Swap::Direct);
        case.table.set_clean(&case.mem).unwrap().release(&case.mem);
        for how in [Swap::Direct, Swap::BreakFirst] {
            let tables = case.mem.in_use();
            let at = case.seen(2 * size - K4).unwrap().at;
            let mut asked = false;
            let mut stuck = |gather: Gather| {
                gather.release(&case.mem);
                if size >= M2 {
                    case.mem.walker_update(at, set, clear);
                }
                asked = true;
                Err(Error::Busy("test"))
            };
            let result = case.table.promote(&case.mem, range(size, size), size, how, &mut stuck);
            match result {
                Ok(done) => {
                    assert!(!asked && how == Swap::Direct && size < M2, "entries in place need no flush");
                    done.gather.release(&case.mem);
                    case.demote(range(size, size), K4, Swap::Direct);
                }
                Err(failed) => {
                    failed.gather.release(&case.mem);
                    assert_eq!(case.mem.in_use(), tables);
                    if F::KIND != TableKind::AmdV1 && size == M2 && !is_arm(F::KIND) {
                        assert_eq!(case.seen(size).unwrap().size, K4);
                        assert_eq!(case.dirty(case.all(), ReadDirty::Clear), [(2 * size - K4, 2 * size - 1)]);
                    }
                }
            }
            assert_eq!(case.seen(size).unwrap().phys, 4 * size);
            case.table.set_clean(&case.mem).unwrap().release(&case.mem);
        }
        case.finish();
    }
}

/// What a walker marks in a table that is on its way out reaches the leaf that takes its place.
fn a_write_during_promotion_is_kept<F: PtFormat>(levels: u8) {
    if levels == 1 {
        return;
    }
    let (set, clear) = on_write(F::KIND);
    for how in [Swap::Direct, Swap::BreakFirst] {
        let case = Case::<F>::new(levels, 24);
        case.map(M2, 4 * M2, M2, RW, K4);
        let at = case.seen(M2 + 77 * K4).unwrap().at;
        let mut flush = |gather: Gather| {
            // The entry at `at` may have become a member of a larger item meanwhile; it is still a leaf of the table.
            case.mem.walker_update(at, set, clear);
            gather.release(&case.mem);
            Ok(())
        };
        case.table.promote(&case.mem, range(M2, M2), M2, how, &mut flush).unwrap().gather.release(&case.mem);
        assert_eq!(case.seen(M2).unwrap().size, M2);
        assert_eq!(case.dirty(case.all(), ReadDirty::Clear), [(M2, 2 * M2 - 1)]);
        case.finish();
    }
}

fn demote_without_memory_changes_nothing<F: PtFormat>(levels: u8) {
    let Some(size) = fitting::<F>(levels).into_iter().rev().find(|size| *size <= 31) else { return };
    let size = 1u64 << size;
    for how in [Swap::Direct, Swap::BreakFirst] {
        for n in 0.. {
            let case = Case::<F>::new(levels, 64);
            case.map(size, 4 * size, size, RW, size);
            case.write(size);
            case.mem.fail_at(Some(n));
            let mut flush = |gather: Gather| {
                gather.release(&case.mem);
                Ok(())
            };
            let result = case.table.demote(&case.mem, range(size + K4, K4), K4, how, &mut flush);
            case.mem.fail_at(None);
            let done = result.is_ok();
            match result {
                Ok(done) => done.gather.release(&case.mem),
                Err(failed) => {
                    assert_eq!(failed.error, Error::Exhausted(Resource::Memory));
                    failed.gather.release(&case.mem);
                }
            }
            for at in [size, size + K4, 2 * size - K4] {
                let seen = case.seen(at).unwrap();
                assert_eq!((seen.phys, seen.dirty), (at + 3 * size, true));
            }
            assert_eq!(case.dirty(case.all(), ReadDirty::Keep), [(size, 2 * size - 1)]);
            case.finish();
            if done {
                break;
            }
        }
    }
}

fn read_only_never_gets_dirty<F: PtFormat>(levels: u8) {
    let Some(size) = fitting::<F>(levels).into_iter().find(|size| *size > 12).map(|size| 1u64 << size) else { return };
    let case = Case::<F>::new(levels, 24);
    case.map(size, size, size, Access::READ, size);
    // Under accessed-or-dirty a read leaves a trace; it must not become a D in an entry that cannot be written.
    case.mem.walker_or(case.seen(size).unwrap().at, on_read(F::KIND));
    case.demote(range(size, size), K4, Swap::Direct);
    case.promote(range(size, size), size, Swap::Direct);
    case.table.mark_dirty(&case.mem, case.all());
    let seen = case.seen(size).unwrap();
    assert!(!seen.write && !seen.dirty);
    assert_eq!(case.dirty(case.all(), ReadDirty::Clear), []);
    case.finish();
}

fn resize_refusals<F: PtFormat>(levels: u8) {
    let case = Case::<F>::new(levels, 24);
    let mut flush = |_: Gather| Ok(());
    let top = case.all().last();
    let asked = [(0, K4, 0), (0, K4, 3 * K4), (0, K4, 2048), (0, 2048, K4), (2048, K4, K4), (top + 1, K4, K4)];
    for (iova, length, size) in asked {
        let result = case.table.demote(&case.mem, range(iova, length), size, Swap::Direct, &mut flush);
        assert!(matches!(result.unwrap_err().error, Error::Invalid(_) | Error::Range(_)));
        let result = case.table.promote(&case.mem, range(iova, length), size, Swap::Direct, &mut flush);
        assert!(matches!(result.unwrap_err().error, Error::Invalid(_) | Error::Range(_)));
    }
    // A hole is no error.
    assert_eq!(case.demote(case.all(), K4, F::SWAP), 0);
    assert_eq!(case.promote(case.all(), 1 << 63, F::SWAP), 0);
    case.finish();
}

macro_rules! for_each_format {
    ($($test:ident),* $(,)?) => {
        for_each_format!(@ [$($test),*] vtd_ss_3 VtdSs 3, vtd_ss_4 VtdSs 4, vtd_ss_5 VtdSs 5, x86_fs_4 X86Fs 4,
            x86_fs_5 X86Fs 5, amd_v1_1 AmdV1 1, amd_v1_2 AmdV1 2, amd_v1_3 AmdV1 3, amd_v1_4 AmdV1 4, amd_v1_5 AmdV1 5,
            amd_v1_6 AmdV1 6, amd_v2_4 AmdV2 4, amd_v2_5 AmdV2 5, arm_s1_2 ArmS1 2, arm_s1_3 ArmS1 3, arm_s1_4 ArmS1 4,
            arm_s2_2 ArmS2 2, arm_s2_3 ArmS2 3, arm_s2_4 ArmS2 4);
    };
    (@ $tests:tt $($name:ident $format:ident $levels:literal),*) => {
        $(mod $name { use super::*; for_each_format!(# $tests $format $levels); })*
    };
    (# [$($test:ident),*] $format:ident $levels:literal) => {
        $(#[test] fn $test() { super::$test::<$format>($levels) })*
    };
}

for_each_format!(
    every_size_right_and_state,
    one_dirty_entry_makes_the_item_dirty,
    the_largest_items_that_fit,
    a_collision_inside_an_item_changes_nothing,
    demote_and_promote,
    only_equal_neighbours_are_joined,
    a_failed_flush_leaves_it_as_it_was,
    a_write_during_promotion_is_kept,
    demote_without_memory_changes_nothing,
    read_only_never_gets_dirty,
    resize_refusals,
);

#[test]
fn six_levels_reach_the_last_address() {
    let config = TableConfig { aperture: IovaRange::ALL, ..config::<AmdV1>(6, DirtyRule::Bit(6), AdBits::Hardware) };
    let case = Case::<AmdV1>::with(config, 64);
    let top = 0u64.wrapping_sub(K4);
    case.map(top, 0x5000, K4, RW, 1 << 63);
    case.map(0u64.wrapping_sub(16 * K4), 0x10_0000, 8 * K4, RW, 1 << 63);
    assert_eq!(case.seen(u64::MAX).unwrap().phys, 0x5fff);
    assert_eq!(case.seen(0u64.wrapping_sub(9 * K4)).unwrap().size, 8 * K4);
    case.write(top);
    case.write(0u64.wrapping_sub(12 * K4));
    let want = [(0u64.wrapping_sub(16 * K4), 0u64.wrapping_sub(8 * K4) - 1), (top, u64::MAX)];
    assert_eq!(case.dirty(IovaRange::ALL, ReadDirty::Clear), want);
    let over = [PhysRun { base: Phys(0), length: 2 * K4 }];
    let failed = case.table.map(&case.mem, Iova(top - K4), &over, RW, K4, false).unwrap_err();
    assert_eq!(failed.error, Error::Exists);
    failed.gather.release(&case.mem);
    assert_eq!(case.seen(top - K4), None);
    assert_eq!(case.unmap(top, K4), Ok(K4));
    let (bytes, gather) = case.table.unmap(&case.mem, IovaRange::ALL).unwrap();
    assert_eq!(bytes, 8 * K4);
    gather.release(&case.mem);
    assert_eq!(case.mem.in_use(), 1);
    case.finish();
}

#[test]
fn tables_side_by_side_at_the_top_of_stage_2() {
    for (extra, tables) in [(0, 1), (1, 2), (2, 4), (3, 8), (4, 16)] {
        let bits = 39 + extra;
        let aperture = IovaRange::sized(0, 1 << bits).unwrap();
        let good = TableConfig { aperture, ..config::<ArmS2>(3, DirtyRule::ArmDbmStage2, AdBits::Hardware) };
        let case = Case::<ArmS2>::with(good, 128);
        assert_eq!(case.mem.in_use(), tables);
        assert_eq!(case.table.root().0 % (4096 * tables as u64), 0, "aligned to their size");
        // Across each seam, in one call.
        for n in 1..tables as u64 {
            let seam = n << 39;
            case.map(seam - 2 * K4, 0x10_0000 - 2 * K4, 5 * K4, RW, 1 << 63);
            assert_eq!(case.seen(seam - 1).unwrap().phys, 0x10_0000 - 1);
            assert_eq!(case.seen(seam + 2 * K4).unwrap().phys, 0x10_0000 + 2 * K4);
            case.write(seam);
        }
        assert_eq!(case.dirty(case.all(), ReadDirty::Clear).len(), tables - 1);
        case.map(0, 0, K4, RW, K4);
        let (bytes, gather) = case.table.unmap(&case.mem, case.all()).unwrap();
        assert_eq!(bytes, K4 + 5 * K4 * (tables as u64 - 1));
        gather.release(&case.mem);
        assert_eq!(case.mem.in_use(), tables);
        case.finish();
    }
    let mem = Arena::new(64);
    let refused = |config| matches!(PageTable::<ArmS2>::new(&mem, config), Err(Error::Invalid(_)));
    let good = config::<ArmS2>(3, DirtyRule::None, AdBits::Unused);
    assert!(refused(TableConfig { aperture: IovaRange::sized(0, (1 << 43) + K4).unwrap(), ..good }));
    mem.fail_at(Some(0));
    assert!(matches!(PageTable::<ArmS2>::new(&mem, good), Err(Error::Exhausted(_))));
    assert_eq!(mem.in_use(), 0);
}

#[test]
fn a_terabyte_is_not_cut_through_the_size_that_is_missing() {
    let case = Case::<AmdV1>::new(4, 24);
    let tera = 1u64 << 40;
    case.map(tera, tera, tera, RW, tera);
    let mut flush = |_: Gather| panic!("nothing is changed");
    for how in [Swap::Direct, Swap::BreakFirst] {
        let failed = case.table.demote(&case.mem, range(tera, K4), M2, how, &mut flush).unwrap_err();
        assert!(matches!(failed.error, Error::Unsupported(_)) && failed.gather.is_none());
        assert_eq!(case.seen(tera).unwrap().size, tera);
    }
    case.finish();
}

#[test]
fn arm_addresses_end_at_48_bits() {
    let good = config::<ArmS1>(4, DirtyRule::None, AdBits::Unused);
    let case = Case::<ArmS1>::with(TableConfig { phys_bits: 52, ..good }, 8);
    let runs = [PhysRun { base: Phys(1 << 48), length: K4 }];
    let failed = case.table.map(&case.mem, Iova(0), &runs, RW, K4, false).unwrap_err();
    assert!(matches!(failed.error, Error::Range(_)));
    case.map(0, (1 << 48) - K4, K4, RW, K4);
    assert_eq!(case.seen(0).unwrap().phys, (1 << 48) - K4);
    case.finish();
}

#[test]
fn coherence_is_forced_on_all_entries_and_survives_a_change_of_size() {
    let case = Case::<AmdV1>::new(3, 24);
    case.map(1 << 16, 1 << 16, 1 << 16, RW, 1 << 63);
    case.table.force_leaf_bits(&case.mem, AmdV1::FORCE_COHERENT).release(&case.mem);
    case.map(M2, M2, M2, RW, 1 << 63);
    let forced = |iova: u64| reader::field(case.mem.walker_word(case.seen(iova).unwrap().at), 60, 60) == 1;
    assert!((16..32).all(|page| forced(page * K4)) && forced(M2));
    case.demote(case.all(), K4, Swap::Direct);
    assert!((16..32).all(|page| forced(page * K4)) && forced(M2 + 5 * K4));
    case.promote(case.all(), M2, Swap::Direct);
    assert_eq!((case.seen(1 << 16).unwrap().size, case.seen(M2).unwrap().size), (1 << 16, M2));
    assert!((16..32).all(|page| forced(page * K4)) && forced(M2));
    case.finish();
}

/// An emulator that stores A and D without comparing may bring an entry back that was just taken down.
#[test]
fn a_late_plain_store_is_a_write_like_any_other() {
    let case = Case::<VtdSs>::new(3, 24);
    case.map(M2, M2, M2, RW, M2);
    let at = case.seen(M2).unwrap().at;
    let old = case.mem.load64(at);
    let mut flush = |gather: Gather| {
        case.mem.store64(at, old | on_write(TableKind::VtdSecondStage).0);
        gather.release(&case.mem);
        Ok(())
    };
    let done = case.table.demote(&case.mem, range(M2, M2), K4, Swap::BreakFirst, &mut flush).unwrap();
    done.gather.release(&case.mem);
    assert_eq!(case.seen(M2).unwrap().size, K4);
    assert_eq!(case.dirty(case.all(), ReadDirty::Clear), [(M2, 2 * M2 - 1)]);
    case.finish();
}
