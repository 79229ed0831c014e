//! `devhost check NAME...`: what the interface promises, asked of the machine it runs on. Each check prints `PASS name`,
//! `SKIP name: why` or `FAIL name: why`; the exit status is 0 if none failed. Runs on Linux as well.

use crate::{
    edu::{self, Direction},
    igb,
    layout::Layout,
    machine::{DEVICES, EDU, IGB, State},
    memory::Region,
    source::exit,
    sys::{self, cmd},
    vfio::{Device, Iommu},
};
use migrate_wire::PAGE;
use std::{
    io,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

/// Why a check did not pass.
enum Not {
    /// The machine cannot do it.
    Skip(String),
    /// It is wrong.
    Fail(String),
}

impl From<String> for Not {
    fn from(why: String) -> Self {
        Self::Fail(why)
    }
}

impl From<&str> for Not {
    fn from(why: &str) -> Self {
        Self::Fail(why.into())
    }
}

impl From<io::Error> for Not {
    fn from(error: io::Error) -> Self {
        Self::Fail(error.to_string())
    }
}

type Check = fn() -> Result<(), Not>;

/// All checks with their names.
const CHECKS: [(&str, Check); 9] = [
    ("abi", abi),
    ("map", map),
    ("replace", replace),
    ("stray", stray),
    ("edu-dma", edu_dma),
    ("edu-dirty", edu_dirty),
    ("pinned", pinned),
    ("states", states),
    ("link", link),
];

/// Runs the checks with these names, or all; the exit status.
pub fn run(names: &[String]) -> u8 {
    if names.iter().any(|name| name == "--help") {
        CHECKS.iter().for_each(|(name, _)| println!("{name}"));
        return exit::DONE;
    }
    for name in names {
        if name != "all" && !CHECKS.iter().any(|(known, _)| known == name) {
            eprintln!("devhost: no check {name:?}; devhost check --help lists them");
            return exit::USAGE;
        }
    }
    let all = names.is_empty() || names.iter().any(|name| name == "all");
    let mut failed = 0;
    for (name, check) in CHECKS {
        if !all && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        match check() {
            Ok(()) => println!("PASS {name}"),
            Err(Not::Skip(why)) => println!("SKIP {name}: {why}"),
            Err(Not::Fail(why)) => {
                failed += 1;
                println!("FAIL {name}: {why}");
            }
        }
    }
    if failed == 0 { exit::DONE } else { exit::WRONG }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Result<(), Not> {
    if got == want { Ok(()) } else { Err(Not::Fail(format!("{what}: {got:?}, wanted {want:?}"))) }
}

/// The call must fail with this errno.
fn refused<T>(what: &str, result: io::Result<T>, errno: i32) -> Result<(), Not> {
    let got = result.err().map(|error| error.raw_os_error().unwrap_or(0)).unwrap_or(0);
    same(what, got, errno)
}

/// An edu behind an IOAS.
struct Bench {
    iommu: Iommu,
    edu: Device,
    ioas: u32,
}

impl Bench {
    fn new() -> Result<Self, Not> {
        let iommu = Iommu::open()?;
        let ioas = iommu.ioas()?;
        let edu = Device::find(&iommu, DEVICES[EDU])?;
        same("edu's identification", edu.bar().r32(edu::reg::ID) & 0xffff, 0x00ed)?;
        Ok(Self { iommu, edu, ioas })
    }
    fn memory(&self, pages: usize) -> Result<Region, Not> {
        Ok(Region::new(sys::map_memory(pages * PAGE)?))
    }
    fn map(&self, region: &Region, page: u32, pages: u64, iova: u64) -> io::Result<()> {
        let at = region.address() + u64::from(page) * PAGE as u64;
        self.iommu.map(self.ioas, sys::MAP_FIXED_RW, at, pages * PAGE as u64, iova)
    }
    /// One DMA of a whole page, to its end.
    fn dma(&self, iova: u64, direction: Direction) -> Result<(), Not> {
        dma(&self.edu, iova, direction)
    }
    /// Lets edu write `value` all over a page at `iova`: by way of its buffer, out of `region`'s page 0, mapped at `from`.
    fn fill(&self, region: &Region, from: u64, iova: u64, value: u64) -> Result<(), Not> {
        region.fill_page(0, |_| value);
        self.dma(from, Direction::FromMemory)?;
        self.dma(iova, Direction::ToMemory)
    }
}

fn dma(edu: &Device, iova: u64, direction: Direction) -> Result<(), Not> {
    edu::start(edu.bar(), iova, 0, PAGE as u64, direction)?;
    let begun = Instant::now();
    while edu::busy(edu.bar()) {
        if begun.elapsed() > Duration::from_secs(5) {
            return Err("a DMA does not end".into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Whether every word of a page is `value`.
fn holds(region: &Region, page: u32, value: u64) -> bool {
    let mut bytes = [0; PAGE];
    region.read_page(page, &mut bytes);
    bytes.as_chunks::<8>().0.iter().all(|word| u64::from_le_bytes(*word) == value)
}

fn expect(what: &str, region: &Region, page: u32, value: u64) -> Result<(), Not> {
    if holds(region, page, value) {
        return Ok(());
    }
    let first = region.word(page as usize * PAGE).load(std::sync::atomic::Ordering::Relaxed);
    Err(Not::Fail(format!("{what}: page {page} begins with {first:#x}, wanted {value:#x} all over")))
}

const A: u64 = 0x1_0000_0000;
const B: u64 = 0x1_0010_0000;
const C: u64 = 0x1_0020_0000;

/// Errnos of the calls that need no DMA.
fn abi() -> Result<(), Not> {
    let bench = Bench::new()?;
    let fd = &bench.iommu.file;
    let memory = bench.memory(4)?;
    let alloc = |edit: &dyn Fn(&mut sys::IoasAlloc)| {
        let mut arg = sys::IoasAlloc::new();
        edit(&mut arg);
        sys::ioctl(fd, cmd::IOAS_ALLOC, &mut arg)
    };
    refused("IOAS_ALLOC, size 8", alloc(&|arg| arg.size = 8), libc::EINVAL)?;
    refused("IOAS_ALLOC, flags 1", alloc(&|arg| arg.flags = 1), libc::EOPNOTSUPP)?;
    let mut nothing = sys::Destroy::new();
    refused("an unknown command", sys::ioctl(fd, 0x3BFE, &mut nothing), libc::ENOTTY)?;
    refused("a command with direction bits", sys::ioctl(fd, 0xC000_3B81, &mut sys::IoasAlloc::new()), libc::ENOTTY)?;
    refused("DESTROY of an unknown id", bench.iommu.destroy(0x7fff_fff0), libc::ENOENT)?;
    refused("DESTROY of a bound device", bench.iommu.destroy(bench.edu.id), libc::EBUSY)?;
    let map = |flags, ioas, at, length, iova| bench.iommu.map(ioas, flags, at, length, iova);
    let (rw, at, page) = (sys::MAP_FIXED_RW, memory.address(), PAGE as u64);
    refused("MAP without rights", map(1, bench.ioas, at, page, A), libc::EINVAL)?;
    refused("MAP with flag 16", map(rw | 16, bench.ioas, at, page, A), libc::EOPNOTSUPP)?;
    refused("MAP of nothing", map(rw, bench.ioas, at, 0, A), libc::EINVAL)?;
    refused("MAP in an unknown IOAS", map(rw, 0x7fff_fff0, at, page, A), libc::ENOENT)?;
    refused("MAP past the end", map(rw, bench.ioas, at, 2 * page, u64::MAX - page + 1), libc::EOVERFLOW)?;
    map(rw, bench.ioas, at, 2 * page, A)?;
    refused("MAP over a mapping", map(rw, bench.ioas, at, page, A + page), libc::EEXIST)?;
    refused("UNMAP of half an area", bench.iommu.unmap(bench.ioas, A, page), libc::ENOENT)?;
    same("UNMAP", bench.iommu.unmap(bench.ioas, A, 2 * page)?, 2 * page)?;
    refused("UNMAP again", bench.iommu.unmap(bench.ioas, A, 2 * page), libc::ENOENT)?;
    same("UNMAP of everything in an empty IOAS", bench.iommu.unmap(bench.ioas, 0, u64::MAX)?, 0)?;
    refused("ATTACH to an unknown id", bench.edu.attach(0x7fff_fff0), libc::ENOENT)?;
    refused("HWPT_ALLOC on an unknown id", bench.iommu.hwpt(bench.edu.id, 0x7fff_fff0, 0), libc::EINVAL)?;
    let hwpt = bench.iommu.hwpt(bench.edu.id, bench.ioas, 0)?;
    refused("dirty tracking on a table without it", bench.iommu.set_dirty(hwpt, true), libc::EOPNOTSUPP)?;
    let mut words = [0; 1];
    let dirty = sys::get_dirty(fd, hwpt, A, &mut words, 4);
    refused("a dirty report of a table without it", dirty, libc::EOPNOTSUPP)?;
    bench.iommu.destroy(hwpt)?;
    let null = std::fs::File::open("/dev/null")?;
    refused("an ioctl on another file", sys::ioctl(&null, cmd::IOAS_ALLOC, &mut sys::IoasAlloc::new()), libc::ENOTTY)?;
    let mut ranges = sys::IovaRanges { ioas_id: bench.ioas, ..sys::IovaRanges::new() };
    refused("IOVA_RANGES without room", sys::ioctl(fd, cmd::IOVA_RANGES, &mut ranges), libc::EMSGSIZE)?;
    if ranges.num_iovas == 0 {
        return Err("IOVA_RANGES names no range".into());
    }
    let mut bad = sys::IovaRanges { ioas_id: bench.ioas, num_iovas: 8, allowed_iovas: 8, ..sys::IovaRanges::new() };
    refused("IOVA_RANGES to a bad pointer", sys::ioctl(fd, cmd::IOVA_RANGES, &mut bad), libc::EFAULT)?;
    let unattached = map(rw, bench.ioas, 0x1000, page, C);
    // nothing is pinned before a table exists, so a bad address shows at the attach
    if unattached.is_ok() {
        refused("ATTACH with memory that is not there", bench.edu.attach(bench.ioas), libc::EFAULT)?;
    }
    Ok(())
}

/// Map, unmap, remap, read-only, and the same page twice.
fn map() -> Result<(), Not> {
    let bench = Bench::new()?;
    let memory = bench.memory(8)?;
    bench.edu.attach(bench.ioas)?;
    bench.map(&memory, 0, 1, A)?;
    bench.map(&memory, 1, 1, B)?;
    bench.fill(&memory, A, B, 0x1111)?;
    expect("a write through a mapping", &memory, 1, 0x1111)?;
    bench.iommu.unmap(bench.ioas, B, PAGE as u64)?;
    bench.fill(&memory, A, B, 0x2222)?;
    expect("a write after UNMAP", &memory, 1, 0x1111)?;
    bench.map(&memory, 2, 1, B)?;
    bench.fill(&memory, A, B, 0x3333)?;
    expect("the page behind the old mapping", &memory, 1, 0x1111)?;
    expect("the page behind the new mapping", &memory, 2, 0x3333)?;
    let at = memory.address() + 3 * PAGE as u64;
    bench.iommu.map(bench.ioas, sys::MAP_FIXED_R, at, PAGE as u64, C)?;
    bench.fill(&memory, A, C, 0x4444)?;
    expect("a write to a read-only mapping", &memory, 3, 0)?;
    memory.fill_page(3, |_| 0x5555);
    bench.dma(C, Direction::FromMemory)?;
    bench.dma(B, Direction::ToMemory)?;
    expect("a read through a read-only mapping", &memory, 2, 0x5555)?;
    bench.map(&memory, 2, 1, C + 0x10000)?;
    bench.fill(&memory, A, C + 0x10000, 0x6666)?;
    expect("a page mapped twice", &memory, 2, 0x6666)?;
    // a mapping that takes a large page where there are some
    let large = Region::new(sys::map_memory(6 << 20)?);
    let skew = (large.address().next_multiple_of(2 << 20) - large.address()) / PAGE as u64;
    let iova = 0x1_4000_0000;
    bench.map(&large, skew as u32, 512, iova)?;
    bench.fill(&memory, A, iova + 0x1ff000, 0x7777)?;
    expect("the last page of 2 MiB", &large, skew as u32 + 511, 0x7777)?;
    same("UNMAP of 2 MiB", bench.iommu.unmap(bench.ioas, iova, 2 << 20)?, 2 << 20)?;
    bench.fill(&memory, A, iova + 0x1ff000, 0x8888)?;
    expect("a write after UNMAP of 2 MiB", &large, skew as u32 + 511, 0x7777)
}

/// Attach to another IOAS replaces in one step; detach blocks.
fn replace() -> Result<(), Not> {
    let bench = Bench::new()?;
    let memory = bench.memory(4)?;
    let other = bench.iommu.ioas()?;
    let map = |ioas, page: u64, iova| {
        bench.iommu.map(ioas, sys::MAP_FIXED_RW, memory.address() + page * PAGE as u64, PAGE as u64, iova)
    };
    for ioas in [bench.ioas, other] {
        map(ioas, 0, A)?;
    }
    map(bench.ioas, 1, B)?;
    map(other, 2, B)?;
    bench.edu.attach(bench.ioas)?;
    bench.fill(&memory, A, B, 0x11)?;
    expect("the first IOAS", &memory, 1, 0x11)?;
    bench.edu.attach(other)?;
    bench.fill(&memory, A, B, 0x22)?;
    expect("the first IOAS after the change", &memory, 1, 0x11)?;
    expect("the second IOAS", &memory, 2, 0x22)?;
    bench.edu.detach()?;
    memory.fill_page(3, |_| 0x33);
    bench.dma(B, Direction::ToMemory)?;
    expect("a write after DETACH", &memory, 2, 0x22)?;
    bench.iommu.destroy(bench.ioas)?;
    bench.iommu.destroy(other)?;
    Ok(())
}

/// A device that nobody attached reaches nothing, nor does one past its mappings.
fn stray() -> Result<(), Not> {
    let bench = Bench::new()?;
    let memory = bench.memory(3)?;
    bench.map(&memory, 0, 1, A)?;
    bench.map(&memory, 1, 1, B)?;
    memory.fill_page(1, |_| 0x77);
    bench.dma(B, Direction::ToMemory)?;
    expect("a write before ATTACH", &memory, 1, 0x77)?;
    bench.edu.attach(bench.ioas)?;
    for iova in [0, 0x1000, B + PAGE as u64, B - PAGE as u64, 0x0010_0000] {
        bench.fill(&memory, A, iova, 0x99)?;
    }
    expect("writes beside the mapping", &memory, 1, 0x77)?;
    bench.fill(&memory, A, B, 0xaa)?;
    expect("a write to the mapping after them", &memory, 1, 0xaa)
}

/// What edu reads and writes is what was there.
fn edu_dma() -> Result<(), Not> {
    let bench = Bench::new()?;
    let memory = bench.memory(2)?;
    bench.edu.attach(bench.ioas)?;
    bench.map(&memory, 0, 2, A)?;
    memory.fill_page(0, |at| (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    bench.dma(A, Direction::FromMemory)?;
    bench.dma(A + PAGE as u64, Direction::ToMemory)?;
    let (mut one, mut other) = ([0; PAGE], [0; PAGE]);
    memory.read_page(0, &mut one);
    memory.read_page(1, &mut other);
    if one == other { Ok(()) } else { Err("the copy differs".into()) }
}

/// Dirty reports: exact, once, and also after a read of the same page.
fn edu_dirty() -> Result<(), Not> {
    let bench = Bench::new()?;
    let memory = bench.memory(64)?;
    bench.iommu.no_huge_pages(bench.ioas)?;
    bench.map(&memory, 0, 64, A)?;
    let hwpt = match bench.iommu.hwpt(bench.edu.id, bench.ioas, sys::HWPT_DIRTY_TRACKING) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            return Err(Not::Skip("this IOMMU has no dirty bits".into()));
        }
        other => other?,
    };
    bench.edu.attach(hwpt)?;
    bench.iommu.set_dirty(hwpt, true)?;
    let report = || -> io::Result<u64> {
        let mut words = [0];
        sys::get_dirty(&bench.iommu.file, hwpt, A, &mut words, 64).map(|()| words[0])
    };
    same("the report before any write", report()?, 0)?;
    let page = |number: u64| A + number * PAGE as u64;
    bench.dma(page(9), Direction::ToMemory)?;
    bench.dma(page(63), Direction::ToMemory)?;
    same("the report after writes to pages 9 and 63", report()?, 1 << 9 | 1 << 63)?;
    same("the next report", report()?, 0)?;
    bench.dma(page(9), Direction::ToMemory)?;
    same("the report after another write to page 9", report()?, 1 << 9)?;
    // the case that stock QEMU's first stage gets wrong
    bench.dma(page(5), Direction::FromMemory)?;
    bench.dma(page(5), Direction::ToMemory)?;
    if report()? & 1 << 5 == 0 {
        return Err("a write after a read of the same page was lost".into());
    }
    bench.dma(page(7), Direction::FromMemory)?;
    let early = report()?;
    bench.dma(page(7), Direction::ToMemory)?;
    if report()? & 1 << 7 == 0 {
        return Err(Not::Fail(format!("a write after a report ({early:#x}) after a read was lost")));
    }
    same("other pages in all that", (early | report()?) & !(1 << 5 | 1 << 7), 0)?;
    bench.iommu.set_dirty(hwpt, false)?;
    bench.dma(page(3), Direction::ToMemory)?;
    bench.iommu.set_dirty(hwpt, true)?;
    same("the report after tracking began again", report()?, 0)
}

/// Memory stays the device's while it is mapped, even if the program gives it back.
fn pinned() -> Result<(), Not> {
    let bench = Bench::new()?;
    let memory = bench.memory(2)?;
    bench.edu.attach(bench.ioas)?;
    bench.map(&memory, 0, 2, A)?;
    let gone = sys::map_memory(16 * PAGE)?;
    let there = Region::new(gone);
    bench.map(&there, 0, 16, B)?;
    // SAFETY: neither `gone` nor `there` is used after this line.
    unsafe { sys::unmap_memory(gone)? };
    let fresh = bench.memory(64)?;
    (0..64).for_each(|page| fresh.fill_page(page, |_| 0x5a));
    bench.fill(&memory, A, B + 3 * PAGE as u64, 0xdead)?;
    for page in 0..64 {
        expect("memory that the program got afterwards", &fresh, page, 0x5a)?;
    }
    bench.dma(B + 3 * PAGE as u64, Direction::FromMemory)?;
    bench.dma(A + PAGE as u64, Direction::ToMemory)?;
    expect("what the device wrote, read back by it", &memory, 1, 0xdead)
}

/// Save and load of both devices, and states that are refused.
fn states() -> Result<(), Not> {
    let bench = Bench::new()?;
    let memory = bench.memory(2)?;
    bench.edu.attach(bench.ioas)?;
    bench.map(&memory, 0, 2, A)?;
    memory.fill_page(0, |at| at as u64 | 0xabcd_0000);
    bench.dma(A, Direction::FromMemory)?;
    let edu = &bench.edu;
    edu.set_state(State::Stop)?;
    edu.set_state(State::StopCopy)?;
    let state = edu.save()?;
    if state.len() < PAGE {
        return Err(Not::Fail(format!("edu's state has {} bytes, less than its buffer", state.len())));
    }
    edu.set_state(State::Running)?;
    memory.fill_page(0, |_| 1);
    bench.dma(A, Direction::FromMemory)?;
    for at in [0, state.len() / 2, state.len() - 1] {
        let mut bent = state.clone();
        bent[at] ^= 1;
        edu.set_state(State::Stop)?;
        edu.set_state(State::Resuming)?;
        refused("a state with a flipped bit", edu.load(&bent), libc::EINVAL)?;
        edu.reset()?;
    }
    edu.set_state(State::Stop)?;
    edu.set_state(State::Resuming)?;
    edu.load(&state)?;
    edu.set_state(State::Running)?;
    bench.dma(A + PAGE as u64, Direction::ToMemory)?;
    let (mut want, mut got) = ([0; PAGE], [0; PAGE]);
    memory.fill_page(0, |at| at as u64 | 0xabcd_0000);
    memory.read_page(0, &mut want);
    memory.read_page(1, &mut got);
    if want != got {
        return Err("edu's buffer did not come back with its state".into());
    }
    let card = Device::find(&bench.iommu, DEVICES[IGB])?;
    card.attach(bench.ioas)?;
    card.set_state(State::Stop)?;
    card.set_state(State::StopCopy)?;
    let saved = card.save()?;
    card.set_state(State::Stop)?;
    card.set_state(State::Resuming)?;
    refused("edu's state for an igb", card.load(&state[..64]), libc::EINVAL)?;
    card.reset()?;
    card.set_state(State::Stop)?;
    card.set_state(State::Resuming)?;
    card.load(&saved)?;
    card.set_state(State::Running)?;
    refused("a state that does not exist", set_raw(&card, 99), libc::EINVAL)
}

fn set_raw(device: &Device, state: u32) -> io::Result<i32> {
    let mut arg =
        sys::MigState { flags: sys::FEATURE_MIG_STATE_SET, device_state: state, data_fd: -1, ..sys::MigState::new() };
    sys::ioctl(&RawFd(device.raw_fd()), cmd::FEATURE, &mut arg)
}

struct RawFd(i32);

impl AsRawFd for RawFd {
    fn as_raw_fd(&self) -> i32 {
        self.0
    }
}

/// The igb comes up: rings armed, link there, a frame leaves.
fn link() -> Result<(), Not> {
    let iommu = Iommu::open()?;
    let ioas = iommu.ioas()?;
    let card = Device::find(&iommu, DEVICES[IGB])?;
    card.reset()?;
    let region = Region::new(sys::map_memory(16 << 20)?);
    iommu.map(ioas, sys::MAP_FIXED_RW, region.address(), region.len() as u64, A)?;
    card.attach(ioas)?;
    let layout = Layout::new(region.pages(), 1);
    let mut driver = igb::Driver::new(region, A);
    driver.start(card.bar(), &layout);
    let begun = Instant::now();
    while !driver.link(card.bar()) {
        if begun.elapsed() > Duration::from_secs(10) {
            return Err("no link within 10 s".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let before = card.bar().r32(igb::reg::TDH);
    if !driver.send(&[0xff; 64]) {
        return Err("the transmit ring is full at the start".into());
    }
    driver.ring(card.bar());
    let begun = Instant::now();
    while card.bar().r32(igb::reg::TDH) == before {
        if begun.elapsed() > Duration::from_secs(2) {
            return Err("the card does not take a frame to send".into());
        }
    }
    Ok(())
}
