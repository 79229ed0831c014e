//! Several threads at once: maps and unmaps of disjoint ranges that share tables, and devices that write while items change
//! their size and reports are taken. The devices keep what they have cached until a flush has completed.

mod arena;
mod reader;

use arena::Arena;
use io_pgtable::{AdBits, AmdV1, AmdV2, ArmS1, ArmS2, PageTable, PtFormat, Swap, TableConfig, VtdSs, X86Fs};
use iommu_api::{Gather, ReadDirty, TableMem};
use iommu_types::{Access, Iova, IovaRange, PageSizes, Phys, PhysRun};
use reader::{field, iova_bits, is_arm, on_write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};

const K4: u64 = 1 << 12;
const M2: u64 = 1 << 21;
const RW: Access = Access::READ.union(Access::WRITE);

fn table<F: PtFormat>(mem: &Arena, levels: u8) -> PageTable<F> {
    let config = TableConfig {
        levels,
        aperture: IovaRange::sized(0, 1 << iova_bits(F::KIND, levels).min(39)).unwrap(),
        phys_bits: 46,
        page_sizes: PageSizes(!0),
        coherent: true,
        dirty: reader::rule(F::KIND),
        ad: AdBits::Hardware,
    };
    PageTable::new(mem, config).unwrap()
}

/// xorshift64.
struct Random(u64);
impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Each thread has every fourth 64 KiB of the same few 2 MiB, and a 2 MiB of its own beside the others'.
fn disjoint_ranges<F: PtFormat>() {
    let mem = Arena::new(200);
    let table = &table::<F>(&mem, F::LEVELS.0.max(3));
    let tables = mem.in_use();
    let mem = &mem;
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            scope.spawn(move || {
                let mut random = Random(0x9e37_79b9 + thread);
                let mut mapped = std::collections::BTreeMap::new();
                for round in 0..150 {
                    let (at, length) = if random.below(8) == 0 {
                        ((8 + thread) * M2, M2)
                    } else {
                        ((random.below(24) * 4 + thread) << 16, K4 << random.below(5))
                    };
                    if let Some((phys, length)) = mapped.remove(&at) {
                        let item = table.translate(mem, Iova(at + length - K4)).expect("mine");
                        assert_eq!(item.phys.0, phys + length - K4);
                        let (bytes, gather) = table.unmap(mem, IovaRange::sized(at, length).unwrap()).unwrap();
                        assert_eq!(bytes, length);
                        gather.release(mem);
                        assert_eq!(table.translate(mem, Iova(at)), None);
                    } else {
                        let phys = (thread * 1000 + round) * M2;
                        let runs = [PhysRun { base: Phys(phys), length }];
                        table
                            .map(mem, Iova(at), &runs, RW, 1 << (random.below(10).max(1) + 12), false)
                            .unwrap()
                            .release(mem);
                        mapped.insert(at, (phys, length));
                    }
                }
                for (at, (_, length)) in mapped {
                    let (bytes, gather) = table.unmap(mem, IovaRange::sized(at, length).unwrap()).unwrap();
                    assert_eq!(bytes, length);
                    gather.release(mem);
                }
            });
        }
    });
    let (bytes, gather) = table.unmap(mem, table.config().aperture).unwrap();
    assert_eq!(bytes, 0);
    gather.release(mem);
    assert_eq!(mem.in_use(), tables, "all tables but the top are reclaimed");
    table.take_apart(mem).release(mem);
    assert_eq!(mem.in_use(), 0);
}

const DEVICES: usize = 2;
/// 4 MiB at [`BASE`].
const PAGES: u64 = 1024;
const BASE: u64 = 4 * M2;

struct Bus {
    stop: AtomicBool,
    generation: AtomicUsize,
    seen: [AtomicUsize; DEVICES],
    written: Vec<AtomicU64>,
    writes: AtomicU64,
}

impl Bus {
    /// Waits until every device has dropped what it had cached, and finished what it was doing.
    fn flush(&self) {
        let generation = self.generation.fetch_add(1, SeqCst) + 1;
        while self.seen.iter().any(|seen| seen.load(SeqCst) < generation) {
            std::thread::yield_now();
        }
    }
    fn written(&self) -> Vec<bool> {
        self.written.iter().map(|page| page.swap(0, SeqCst) != 0).collect()
    }
}

/// log2 of the item of a leaf at `level`, and whether the entry is a leaf at all.
fn leaf_size(kind: iommu_types::TableKind, entry: u64, level: u32) -> Option<u32> {
    use iommu_types::TableKind::*;
    let own = 12 + 9 * level;
    match kind {
        AmdV1 => match field(entry, 11, 9) {
            0 => Some(own),
            7 => Some(13 + field(entry, 51, 12).trailing_ones()),
            _ => None,
        },
        ArmStage1 | ArmStage2 if level > 0 && field(entry, 1, 1) == 1 => None,
        ArmStage1 | ArmStage2 => Some(own + 4 * field(entry, 52, 52) as u32),
        _ if level > 0 && field(entry, 7, 7) == 0 => None,
        _ => Some(own),
    }
}

/// Writes random pages as an IOMMU would let it: A and D by compare-exchange in the entry it walked; translations and
/// pointers to tables kept until a flush.
fn device<F: PtFormat>(bus: &Bus, me: usize, mem: &Arena, root: Phys, levels: u32) {
    let mut random = Random(77 + me as u64);
    let mut tlb: Vec<(u64, u64)> = Vec::new();
    let mut tables: std::collections::BTreeMap<u64, u64> = Default::default();
    let (set, clear) = on_write(F::KIND);
    while !bus.stop.load(SeqCst) {
        let generation = bus.generation.load(SeqCst);
        if generation != bus.seen[me].load(SeqCst) {
            tlb.clear();
            tables.clear();
            bus.seen[me].store(generation, SeqCst);
        }
        let page = if random.below(3) == 0 { random.below(8) * 113 } else { random.below(PAGES) };
        let iova = BASE + page * K4;
        let mut done = tlb.iter().any(|(first, last)| (*first..=*last).contains(&iova));
        'walk: while !done {
            // A cached pointer to the lowest table, or from the top.
            let (mut at, mut level) = match tables.get(&(iova / M2)) {
                Some(table) => (*table, 0),
                None => (root.0, levels - 1),
            };
            loop {
                let word = &mem.words(Phys(at)).unwrap()[field(iova, 20 + 9 * level, 12 + 9 * level) as usize];
                let entry = word.load(SeqCst);
                let present = if matches!(F::KIND, iommu_types::TableKind::VtdSecondStage) {
                    entry & 3 != 0
                } else {
                    entry & 1 != 0
                };
                if !present {
                    // A fault; the device gives up on this write.
                    break 'walk;
                }
                match leaf_size(F::KIND, entry, level) {
                    None => {
                        at = field(entry, if is_arm(F::KIND) { 47 } else { 51 }, 12) << 12;
                        level -= 1;
                        if level == 0 {
                            tables.insert(iova / M2, at);
                        }
                    }
                    Some(size) => {
                        let marked = (entry | set) & !clear;
                        if marked != entry && word.compare_exchange(entry, marked, SeqCst, SeqCst).is_err() {
                            continue 'walk;
                        }
                        let first = iova & !((1 << size) - 1);
                        tlb.push((first, first + ((1 << size) - 1)));
                        done = true;
                        break;
                    }
                }
            }
        }
        if done {
            bus.written[page as usize].store(1, SeqCst);
            bus.writes.fetch_add(1, SeqCst);
        }
    }
    bus.seen[me].store(usize::MAX, SeqCst);
}

fn no_write_is_lost<F: PtFormat>(how: Swap) {
    let mem = Arena::new(64);
    let levels = F::LEVELS.0.max(3);
    let table = table::<F>(&mem, levels);
    let runs = [PhysRun { base: Phys(64 * M2), length: PAGES * K4 }];
    table.map(&mem, Iova(BASE), &runs, RW, 1 << 63, false).unwrap().release(&mem);
    let bus = Bus {
        stop: AtomicBool::new(false),
        generation: AtomicUsize::new(0),
        seen: [const { AtomicUsize::new(0) }; DEVICES],
        written: (0..PAGES).map(|_| AtomicU64::new(0)).collect(),
        writes: AtomicU64::new(0),
    };
    let top = table.root();
    std::thread::scope(|scope| {
        for me in 0..DEVICES {
            let (bus, mem) = (&bus, &mem);
            scope.spawn(move || device::<F>(bus, me, mem, top, u32::from(levels)));
        }
        let stop = Stop(&bus);
        let mut random = Random(5);
        let mut flush = |gather: Gather| {
            bus.flush();
            gather.release(&mem);
            Ok(())
        };
        let mut owed = vec![false; PAGES as usize];
        for round in 0..60 {
            let first = random.below(PAGES);
            let pages = 1 + random.below(PAGES - first);
            let range = IovaRange::sized(BASE + first * K4, pages * K4).unwrap();
            let size = 1u64 << (12 + random.below(11));
            let done = match round % 3 {
                0 => table.demote(&mem, range, size, how, &mut flush).unwrap(),
                1 => table.promote(&mem, IovaRange::sized(BASE, PAGES * K4).unwrap(), size, how, &mut flush).unwrap(),
                _ => table.promote(&mem, range, 1 << 30, how, &mut flush).unwrap(),
            };
            flush(done.gather).unwrap();
            // What was written before the report begins is owed by it.
            for (owed, written) in owed.iter_mut().zip(bus.written()) {
                *owed |= written;
            }
            let mut reported = vec![false; PAGES as usize];
            let mut sink = |run: IovaRange| {
                for page in (run.first() - BASE) / K4..=(run.last() - BASE) / K4 {
                    reported[page as usize] = true;
                }
                Ok(())
            };
            let all = IovaRange::sized(BASE, PAGES * K4).unwrap();
            let gather = table.read_dirty(&mem, all, K4, ReadDirty::Clear, &mut sink).unwrap();
            flush(gather).unwrap();
            for page in 0..PAGES as usize {
                assert!(!owed[page] || reported[page], "page {page} lost in round {round}");
            }
            // Written while the report ran: now or next time.
            for ((owed, written), reported) in owed.iter_mut().zip(bus.written()).zip(reported) {
                *owed = written && !reported;
            }
        }
        drop(stop);
    });
    assert!(bus.writes.load(SeqCst) > 100, "the devices hardly ran");
    for page in 0..PAGES {
        assert_eq!(table.translate(&mem, Iova(BASE + page * K4)).unwrap().phys.0, 64 * M2 + page * K4);
    }
    table.take_apart(&mem).release(&mem);
    assert_eq!(mem.in_use(), 0);
}

/// Lets the devices end also when an assertion fails.
struct Stop<'a>(&'a Bus);
impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, SeqCst);
    }
}

macro_rules! for_each_format {
    ($($name:ident $format:ident),*) => {$(
        mod $name {
            use super::*;
            #[test]
            fn disjoint_ranges() {
                super::disjoint_ranges::<$format>();
            }
            #[test]
            fn no_write_is_lost_by_direct_swap() {
                no_write_is_lost::<$format>(Swap::Direct);
            }
            #[test]
            fn no_write_is_lost_by_break_before_make() {
                no_write_is_lost::<$format>(Swap::BreakFirst);
            }
        }
    )*};
}

for_each_format!(vtd_ss VtdSs, x86_fs X86Fs, amd_v1 AmdV1, amd_v2 AmdV2, arm_s1 ArmS1, arm_s2 ArmS2);
