//! How much keeping the position is worth: `cargo run --release -p io-pgtable --example ratio`.
//!
//! The same engine, format and memory, called once per batch and once per page: what the walk from the root and the call
//! cost per page. Only the ratios mean anything on another machine.

use io_pgtable::{AdBits, AmdV1, ArmS1, ArmS2, PageTable, PtFormat, TableConfig, VtdSs, X86Fs};
use iommu_api::{Coherency, ReadDirty, TableMem, WORDS, Words};
use iommu_types::{Access, DirtyRule, Error, Iova, IovaRange, PageSizes, Phys, PhysRun, Resource, TableKind};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

const PAGES: u64 = 1 << 18;
const PAGE: u64 = 4096;
const RW: Access = Access::READ.union(Access::WRITE);

/// Frames, handed out in order and taken back in any.
struct Pool {
    frames: Vec<Box<Words>>,
    links: Vec<AtomicU64>,
    used: AtomicUsize,
    free: AtomicU64,
}

impl Pool {
    fn new(frames: usize) -> Self {
        Self {
            frames: (0..frames).map(|_| Box::new([const { AtomicU64::new(0) }; WORDS])).collect(),
            links: (0..frames).map(|_| AtomicU64::new(0)).collect(),
            used: AtomicUsize::new(1),
            free: AtomicU64::new(0),
        }
    }
}

impl Coherency for Pool {
    fn publish(&self, _: Phys, _: usize) {}
}

impl TableMem for Pool {
    fn alloc_run(&self, _: usize) -> Result<Phys, Error> {
        let head = self.free.load(Ordering::Relaxed);
        let frame = if head != 0 {
            self.free.store(self.links[head as usize].load(Ordering::Relaxed), Ordering::Relaxed);
            head as usize
        } else {
            self.used.fetch_add(1, Ordering::Relaxed)
        };
        let words = self.frames.get(frame).ok_or(Error::Exhausted(Resource::Memory))?;
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        Ok(Phys((frame as u64) << 12))
    }
    fn release_run(&self, base: Phys, _: usize) {
        self.links[(base.0 >> 12) as usize].store(self.free.swap(base.0 >> 12, Ordering::Relaxed), Ordering::Relaxed);
    }
    fn words(&self, page: Phys) -> Option<&Words> {
        self.frames.get((page.0 >> 12) as usize).map(|frame| &**frame)
    }
    fn store64(&self, _: Phys, _: u64) {}
    fn store128(&self, _: Phys, _: u128) {}
    fn load64(&self, _: Phys) -> u64 {
        0
    }
    fn set_next(&self, page: Phys, next: Option<Phys>) {
        self.links[(page.0 >> 12) as usize].store(next.map_or(0, |next| next.0 >> 12), Ordering::Relaxed);
    }
    fn next(&self, page: Phys) -> Option<Phys> {
        let next = self.links[(page.0 >> 12) as usize].load(Ordering::Relaxed);
        (next != 0).then_some(Phys(next << 12))
    }
}

/// Best of five, nanoseconds per page.
fn best(mut run: impl FnMut() -> u128) -> f64 {
    (0..5).map(|_| run()).min().unwrap_or(0) as f64 / PAGES as f64
}

fn timed(run: impl FnOnce()) -> u128 {
    let start = Instant::now();
    run();
    start.elapsed().as_nanos()
}

fn bench<F: PtFormat>(name: &str) {
    let pool = Pool::new(2048);
    let config = TableConfig {
        levels: 4,
        aperture: IovaRange::sized(0, 1 << 47).unwrap_or(IovaRange::ALL),
        phys_bits: 46,
        page_sizes: PageSizes::ONLY_4K,
        coherent: true,
        dirty: match F::KIND {
            TableKind::X86FirstStage => DirtyRule::AccessedOrDirty { accessed: 5, dirty: 6 },
            TableKind::VtdSecondStage => DirtyRule::Bit(9),
            TableKind::AmdV1 | TableKind::AmdV2 => DirtyRule::Bit(6),
            TableKind::ArmStage1 => DirtyRule::ArmDbmStage1,
            TableKind::ArmStage2 => DirtyRule::ArmDbmStage2,
        },
        ad: AdBits::Hardware,
    };
    let table = PageTable::<F>::new(&pool, config).expect("memory");
    let run = |page: u64, pages: u64| [PhysRun { base: Phys(page * PAGE), length: pages * PAGE }];
    let range = |page: u64, pages: u64| IovaRange::sized(page * PAGE, pages * PAGE).expect("a range");
    let map = |page, pages| {
        table.map(&pool, Iova(page * PAGE), &run(page, pages), RW, PAGE, false).expect("mapped").release(&pool);
    };
    let unmap = |page, pages| table.unmap(&pool, range(page, pages)).expect("unmapped").1.release(&pool);
    let read = |page, pages| {
        let mut sink = |run: IovaRange| {
            black_box(run);
            Ok(())
        };
        let report = table.read_dirty(&pool, range(page, pages), PAGE, ReadDirty::Clear, &mut sink);
        report.expect("read").release(&pool);
    };
    // Tables are there from the start, so that both pay for entries only.
    map(0, PAGES);
    let ratio = |what: &str, kept: f64, walked: f64| {
        println!(
            "{name:8} {what:24} kept {kept:6.2} ns/page, call per page {walked:6.2} ns/page: {:4.1}x",
            walked / kept
        );
    };
    let each = |call: &dyn Fn(u64, u64)| timed(|| (0..PAGES).for_each(|page| call(page, 1)));
    // Batches of 256 pages never cover a whole table, so none is freed and made again.
    let batches = |call: &dyn Fn(u64, u64)| timed(|| (0..PAGES / 256).for_each(|batch| call(batch * 256, 256)));
    let (mut maps, mut unmaps) = (Vec::new(), Vec::new());
    for way in [&batches as &dyn Fn(&dyn Fn(u64, u64)) -> u128, &each] {
        let (mut mapped, mut unmapped) = (u128::MAX, u128::MAX);
        for _ in 0..5 {
            unmapped = unmapped.min(way(&unmap));
            mapped = mapped.min(way(&map));
        }
        maps.push(mapped as f64 / PAGES as f64);
        unmaps.push(unmapped as f64 / PAGES as f64);
    }
    ratio("map 256 x 4K", maps[0], maps[1]);
    ratio("unmap 256 x 4K", unmaps[0], unmaps[1]);
    read(0, PAGES);
    ratio("report, nothing dirty", best(|| timed(|| read(0, PAGES))), best(|| each(&read)));
    let dirty = |step: u64| (0..PAGES).step_by(step as usize).for_each(|page| table.mark_dirty(&pool, range(page, 1)));
    for (what, step) in [("report, 1 % dirty", 100), ("report, all dirty", 1)] {
        let pass = |read_all: &dyn Fn() -> u128| {
            best(|| {
                dirty(step);
                read_all()
            })
        };
        ratio(what, pass(&|| timed(|| read(0, PAGES))), pass(&|| each(&read)));
    }
}

fn main() {
    bench::<VtdSs>("vtd_ss");
    bench::<X86Fs>("x86_fs");
    bench::<AmdV1>("amd_v1");
    bench::<ArmS1>("arm_s1");
    bench::<ArmS2>("arm_s2");
}
