//! Random sequences against a map from page to (physical page, rights, dirty).

mod arena;

use arena::Arena;
use io_pgtable::{AdBits, AmdV1, AmdV2, ArmS1, ArmS2, PageTable, PtFormat, Swap, TableConfig, VtdSs, X86Fs};
use iommu_api::{Gather, ReadDirty, TableMem};
use iommu_types::{Access, DirtyRule, Error, Iova, IovaRange, PageSizes, Phys, PhysRun, TableKind};
use proptest::prelude::*;
use std::collections::BTreeMap;

const PAGE: u64 = 4096;

#[derive(Clone, Debug)]
enum Op {
    Map { at: u64, runs: Vec<(u64, u64)>, write: bool, max: u32 },
    Unmap { at: u64, pages: u64 },
    Write { at: u64 },
    Read { at: u64, pages: u64, keep: bool },
    Resize { at: u64, pages: u64, size: u32, larger: bool, direct: bool },
}

/// Page numbers near 2 MiB and 1 GiB boundaries.
fn page() -> impl Strategy<Value = u64> {
    (prop_oneof![Just(0u64), Just(512), Just(1024), Just(262_144), Just(524_288)], 0u64..1100)
        .prop_map(|(base, offset)| base + offset)
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![1u64..8, 500u64..520, Just(512u64), Just(1024), Just(262_144)]
}

fn op() -> impl Strategy<Value = Op> {
    let aligned = prop_oneof![page(), page().prop_map(|p| p & !511), Just(262_144u64)];
    let run = (prop_oneof![page(), Just(512u64), Just(262_144u64)], length());
    prop_oneof![
        3 => (aligned, prop::collection::vec(run, 1..3), any::<bool>(), prop_oneof![Just(12u32), Just(16), Just(21), Just(30), Just(40)])
            .prop_map(|(at, runs, write, max)| Op::Map { at, runs, write, max }),
        3 => (page(), length()).prop_map(|(at, pages)| Op::Unmap { at, pages }),
        1 => (page(), length()).prop_map(|(at, pages)| Op::Unmap { at: at & !511, pages: pages.next_multiple_of(512) }),
        3 => page().prop_map(|at| Op::Write { at }),
        1 => (page(), length(), any::<bool>()).prop_map(|(at, pages, keep)| Op::Read { at, pages, keep }),
        2 => (page(), length(), 12u32..31, any::<bool>(), any::<bool>())
            .prop_map(|(at, pages, size, larger, direct)| Op::Resize { at, pages, size, larger, direct }),
    ]
}

/// page -> (physical page, writable, first page of its leaf, pages in its leaf, leaf is dirty)
type Oracle = BTreeMap<u64, (u64, bool, u64, u64)>;

fn check<F: PtFormat>(ops: Vec<Op>) {
    let mem = Arena::new(3000);
    let dirty = match F::KIND {
        TableKind::VtdSecondStage => DirtyRule::Bit(9),
        TableKind::ArmStage1 => DirtyRule::ArmDbmStage1,
        TableKind::ArmStage2 => DirtyRule::ArmDbmStage2,
        _ => DirtyRule::Bit(6),
    };
    let config = TableConfig {
        levels: 4,
        aperture: IovaRange::sized(0, 1 << 47).unwrap(),
        phys_bits: 46,
        page_sizes: PageSizes(!0),
        coherent: true,
        dirty,
        ad: AdBits::Hardware,
    };
    let table = PageTable::<F>::new(&mem, config).unwrap();
    let mut oracle = Oracle::new();
    let mut dirty_leaves: BTreeMap<u64, u64> = BTreeMap::new();
    for op in ops {
        match op.clone() {
            Op::Resize { .. } => {}
            Op::Map { at, runs, write, max } => {
                let list: Vec<_> =
                    runs.iter().map(|(p, n)| PhysRun { base: Phys(p * PAGE), length: n * PAGE }).collect();
                let total: u64 = runs.iter().map(|(_, n)| n).sum();
                let free = oracle.range(at..at + total).next().is_none();
                let access = if write { Access::READ | Access::WRITE } else { Access::READ };
                match table.map(&mem, Iova(at * PAGE), &list, access, 1 << max, false) {
                    Ok(gather) => {
                        assert!(free, "mapped over something at page {at}");
                        gather.release(&mem);
                        let mut page = at;
                        for (phys, pages) in &runs {
                            for n in 0..*pages {
                                let item = table.translate(&mem, Iova(page * PAGE)).expect("just mapped");
                                assert_eq!(item.phys.0, (phys + n) * PAGE);
                                assert!(item.size <= 1 << max);
                                let leaf = item.size / PAGE;
                                assert!(
                                    page & !(leaf - 1) >= at && (page | (leaf - 1)) < at + total,
                                    "leaf sticks out"
                                );
                                oracle.insert(page, (phys + n, write, page & !(leaf - 1), leaf));
                                page += 1;
                            }
                        }
                    }
                    Err(failed) => {
                        assert_eq!((failed.error, free), (Error::Exists, false));
                        failed.gather.release(&mem);
                    }
                }
            }
            Op::Unmap { at, pages } => {
                let last = at + pages - 1;
                let cut = [at, last]
                    .iter()
                    .filter_map(|p| oracle.get(p))
                    .any(|leaf| leaf.2 < at || leaf.2 + leaf.3 - 1 > last);
                let range = IovaRange::sized(at * PAGE, pages * PAGE).unwrap();
                match table.unmap(&mem, range) {
                    Ok((bytes, gather)) => {
                        assert!(!cut, "cut a leaf");
                        gather.release(&mem);
                        let gone: Vec<u64> = oracle.range(at..=last).map(|(page, _)| *page).collect();
                        assert_eq!(bytes, gone.len() as u64 * PAGE);
                        for page in gone {
                            oracle.remove(&page);
                            dirty_leaves.remove(&page);
                        }
                    }
                    Err(error) => assert_eq!((error, cut), (Error::Invalid("the range cuts a larger page"), true)),
                }
            }
            Op::Write { at } => {
                if let Some((_, true, first, pages)) = oracle.get(&at) {
                    // What hardware does: A and D in the leaf.
                    table.mark_dirty(&mem, IovaRange::sized(at * PAGE, PAGE).unwrap());
                    dirty_leaves.insert(*first, *pages);
                }
            }
            Op::Read { at, pages, keep } => {
                let range = IovaRange::sized(at * PAGE, pages * PAGE).unwrap();
                let how = if keep { ReadDirty::Keep } else { ReadDirty::Clear };
                let mut got = Vec::new();
                let mut sink = |run: IovaRange| {
                    assert!(range.contains(&run));
                    assert!(
                        got.last().is_none_or(|last| last + 1 < run.first() / PAGE),
                        "runs must be apart and ascend"
                    );
                    got.extend(run.first() / PAGE..=run.last() / PAGE);
                    Ok(())
                };
                table.read_dirty(&mem, range, PAGE, how, &mut sink).unwrap().release(&mem);
                let want: Vec<u64> = dirty_leaves
                    .iter()
                    .flat_map(|(first, pages)| *first..first + pages)
                    .filter(|page| (at..at + pages).contains(page))
                    .collect();
                assert_eq!(got, want);
                if !keep {
                    dirty_leaves.retain(|first, n| *first < at || first + *n > at + pages);
                }
            }
        }
        if let Op::Resize { at, pages: asked, size, larger, direct } = op {
            let range = IovaRange::sized(at * PAGE, asked * PAGE).unwrap();
            let mut flush = |gather: Gather| {
                gather.release(&mem);
                Ok(())
            };
            let how = if direct { Swap::Direct } else { Swap::BreakFirst };
            let done = if larger {
                table.promote(&mem, range, 1 << size, how, &mut flush)
            } else {
                table.demote(&mem, range, 1 << size, how, &mut flush)
            };
            let done = done.expect("memory is enough");
            done.gather.release(&mem);
            let was: Vec<u64> = dirty_leaves.iter().flat_map(|(first, pages)| *first..first + pages).collect();
            dirty_leaves.clear();
            let mut next = oracle.keys().next().copied();
            while let Some(first) = next {
                let item = table.translate(&mem, Iova(first * PAGE)).expect("still mapped");
                let pages = item.size / PAGE;
                let end = first + pages;
                assert_eq!(first % pages, 0, "items start where the ones before end");
                if !larger && first < at + asked && end > at {
                    assert!(item.size <= 1 << size, "still too large");
                }
                let mut members = 0;
                for (_, entry) in oracle.range_mut(first..end) {
                    (entry.2, entry.3) = (first, pages);
                    members += 1;
                }
                assert_eq!(members, pages, "an item over what is not mapped");
                let any = was[was.partition_point(|p| *p < first)..].first().is_some_and(|p| *p < end);
                assert_eq!(item.dirty, any, "dirty state of the item at page {first:#x}");
                if any {
                    dirty_leaves.insert(first, pages);
                }
                next = oracle.range(end..).next().map(|(page, _)| *page);
            }
        }
        for (page, (phys, write, ..)) in oracle.iter().step_by(37) {
            let item = table.translate(&mem, Iova(page * PAGE)).expect("mapped");
            assert_eq!((item.phys.0, item.access.contains(Access::WRITE)), (phys * PAGE, *write));
        }
    }
    let (bytes, gather) = table.unmap(&mem, config.aperture).unwrap();
    assert_eq!(bytes, oracle.len() as u64 * PAGE);
    gather.release(&mem);
    assert_eq!(mem.in_use(), 1, "only the root is left");
    table.take_apart(&mem).release(&mem);
    assert_eq!(mem.in_use(), 0);
    assert_eq!(mem.load64(Phys(0)), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn second_stage_equals_the_oracle(ops in prop::collection::vec(op(), 1..40)) {
        check::<VtdSs>(ops);
    }
    #[test]
    fn first_stage_equals_the_oracle(ops in prop::collection::vec(op(), 1..40)) {
        check::<X86Fs>(ops);
    }
    #[test]
    fn amd_v1_equals_the_oracle(ops in prop::collection::vec(op(), 1..40)) {
        check::<AmdV1>(ops);
    }
    #[test]
    fn amd_v2_equals_the_oracle(ops in prop::collection::vec(op(), 1..40)) {
        check::<AmdV2>(ops);
    }
    #[test]
    fn arm_stage_1_equals_the_oracle(ops in prop::collection::vec(op(), 1..40)) {
        check::<ArmS1>(ops);
    }
    #[test]
    fn arm_stage_2_equals_the_oracle(ops in prop::collection::vec(op(), 1..40)) {
        check::<ArmS2>(ops);
    }
}
