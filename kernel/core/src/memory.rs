//! Physical memory: the frame table, allocation, totals.

use crate::platform::frames::{self as bytes, FrameMeta};
use alloc::sync::Arc;
use arch_x86_64::paging::TableFrames;
use arch_x86_64::{Image, KERNEL_BASE, PAGE};
use bitvec::order::Lsb0;
use bitvec::view::BitView;
use boot::{BOOT_MAPPED, BootInfo, MemoryKind};
use core::sync::atomic::Ordering;
use iommu_types::Phys;
use mm::{Frames, NoMemory};
use spin::{Mutex, Once};

/// Ranges of memory we keep; more are ignored.
const MAX_RANGES: usize = 32;
/// Bytes kept free for a next kernel to be placed, on machines with at least [`NEXT_KERNEL_MIN`].
const NEXT_KERNEL: u64 = 8 << 20;
const NEXT_KERNEL_MIN: u64 = 128 << 20;

/// A set of ranges: base and end, whole pages, ascending.
#[derive(Clone, Copy)]
struct Ranges {
    list: [(u64, u64); MAX_RANGES],
    count: usize,
}

impl Ranges {
    const fn new() -> Self {
        Self { list: [(0, 0); MAX_RANGES], count: 0 }
    }
    fn all(&self) -> &[(u64, u64)] {
        &self.list[..self.count]
    }
    fn push(&mut self, first: u64, end: u64) {
        if first < end && self.count < MAX_RANGES {
            self.list[self.count] = (first, end);
            self.count += 1;
        }
    }
    /// Sorts, and joins what touches or overlaps.
    fn tidy(&mut self) {
        self.list[..self.count].sort_unstable();
        let mut out = Self::new();
        for &(first, end) in self.all() {
            match out.list[..out.count].last_mut() {
                Some(last) if first <= last.1 => last.1 = last.1.max(end),
                _ => out.push(first, end),
            }
        }
        *self = out;
    }
    fn holds(&self, at: u64) -> bool {
        self.all().iter().any(|&(first, end)| first <= at && at < end)
    }
}

struct State {
    /// Bit n set: frame n is free.
    free: &'static mut [u64],
    /// Word where the last single frame was found.
    hint: usize,
    count: u64,
}

/// All frames of the machine.
pub struct FrameTable {
    meta: &'static [FrameMeta],
    ram: Ranges,
    state: Mutex<State>,
    total: u64,
    reserve: Option<(u64, u64)>,
}

static FRAMES: Once<FrameTable> = Once::new();

/// The frame table. After [`init`].
pub fn frames() -> &'static FrameTable {
    match FRAMES.get() {
        Some(f) => f,
        None => panic!("memory is not set up"),
    }
}

/// Takes over physical memory and switches to the kernel's own page tables.
pub fn init(info: &BootInfo, image: &Image) {
    let mut ram = Ranges::new();
    for r in info.memory.regions().iter().filter(|r| r.kind == MemoryKind::Usable) {
        let first = r.base.next_multiple_of(PAGE).max(1 << 20);
        ram.push(first, r.end() & !(PAGE - 1));
    }
    ram.tidy();
    let kernel = (image.text.0 - KERNEL_BASE, image.data.1 - KERNEL_BASE);
    let initrd =
        info.initrd.map_or((0, 0), |(base, length)| (base & !(PAGE - 1), (base + length).next_multiple_of(PAGE)));
    let end = ram.all().last().map_or(0, |r| r.1);
    let frames = (end / PAGE) as usize;
    // The table goes where it fits first, clear of the kernel and the archive, and where the boot tables reach.
    let need = bytes::table_bytes(frames);
    let overlaps = |a: (u64, u64), b: (u64, u64)| a.0 < b.1 && b.0 < a.1;
    let place = ram.all().iter().find_map(|&(first, end)| {
        let mut at = first;
        loop {
            let want = (at, at + need);
            if want.1 > end.min(BOOT_MAPPED) {
                return None;
            }
            match [kernel, initrd].into_iter().find(|r| overlaps(want, *r)) {
                Some(r) => at = r.1,
                None => return Some(want),
            }
        }
    });
    let Some(place) = place else { panic!("no memory for the frame table ({need:#x} bytes)") };
    // SAFETY-relevant facts are in `make_table`'s contract: `place` is usable memory that nothing else was given.
    let (meta, free) = make_table(place.0, frames);
    let mut count = 0;
    let mut total = 0;
    let mut biggest = (0, 0);
    for &(first, end) in ram.all() {
        for n in first / PAGE..end / PAGE {
            let at = (n * PAGE, n * PAGE + PAGE);
            total += 1;
            if overlaps(at, kernel) || overlaps(at, initrd) || overlaps(at, place) {
                meta[n as usize].count.store(1, Ordering::Relaxed);
            } else {
                free.view_bits_mut::<Lsb0>().set(n as usize, true);
                count += 1;
            }
        }
        if end.min(BOOT_MAPPED) > first && end - first > biggest.1 - biggest.0 {
            biggest = (first, end);
        }
    }
    // A place where a next kernel could be loaded while this one runs: low, aligned, never allocated.
    let mut reserve = None;
    let at = (biggest.0.max(kernel.1) + (16 << 20)).next_multiple_of(2 << 20);
    let want = (at, at + NEXT_KERNEL);
    if total * PAGE >= NEXT_KERNEL_MIN && want.1 <= biggest.1 && ![initrd, place].iter().any(|r| overlaps(want, *r)) {
        free.view_bits_mut::<Lsb0>()[(want.0 / PAGE) as usize..(want.1 / PAGE) as usize].fill(false);
        count -= NEXT_KERNEL / PAGE;
        reserve = Some(want);
    }
    let state = State { free, hint: (kernel.1 / PAGE / 64) as usize, count };
    let table = FRAMES.call_once(|| FrameTable { meta, ram, state: Mutex::new(state), total, reserve });

    // What the direct map shows: memory, and the first MiB for what firmware left there.
    let mut shown = [(0u64, 0u64); MAX_RANGES + 1];
    shown[0] = (0, 1 << 20);
    for (slot, &(first, end)) in shown[1..].iter_mut().zip(ram.all()) {
        *slot = (first, end - first);
    }
    crate::platform::start::switch_tables(image, &shown[..=ram.all().len()], table);
}

fn make_table(at: u64, frames: usize) -> (&'static [FrameMeta], &'static mut [u64]) {
    crate::platform::start::frame_table(at, frames)
}

impl FrameTable {
    fn meta(&self, frame: u64) -> Option<&FrameMeta> {
        self.meta.get((frame / PAGE) as usize)
    }
    /// Address after the last frame.
    pub fn end(&self) -> u64 {
        self.meta.len() as u64 * PAGE
    }
    /// Is there memory at `at`?
    pub fn is_ram(&self, at: u64) -> bool {
        self.ram.holds(at)
    }
    /// Does `[first, end)` touch memory?
    pub fn overlaps_ram(&self, first: u64, end: u64) -> bool {
        self.ram.all().iter().any(|&(f, e)| first < e && f < end)
    }
    /// The region kept for a next kernel: base and end.
    pub fn reserve(&self) -> Option<(u64, u64)> {
        self.reserve
    }
    /// A frame with count 1, whatever is in it.
    pub fn alloc_raw(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let words = state.free.len();
        let mut at = state.hint;
        for _ in 0..=words {
            if at >= words {
                at = 0;
            }
            let word = state.free[at];
            if word != 0 {
                let bit = word.trailing_zeros() as usize;
                state.free[at] &= !(1 << bit);
                state.count -= 1;
                state.hint = at;
                let n = at * 64 + bit;
                self.meta[n].count.store(1, Ordering::Relaxed);
                return Some(n as u64 * PAGE);
            }
            at += 1;
        }
        None
    }
    /// A zeroed frame with count 1.
    pub fn alloc_zeroed(&self) -> Option<u64> {
        let frame = self.alloc_raw()?;
        bytes::zero(frame, 1);
        Some(frame)
    }
    /// `pages` zeroed frames in a row (count 1 each), aligned to their number rounded up to a power of two. Taken from the
    /// top, away from single frames.
    pub fn alloc_run(&self, pages: usize) -> Option<u64> {
        if pages == 0 || pages > self.meta.len() {
            return None;
        }
        if pages == 1 {
            return self.alloc_zeroed();
        }
        let align = pages.next_power_of_two();
        let mut state = self.state.lock();
        let free = state.free.view_bits_mut::<Lsb0>();
        let mut at = (self.meta.len() - pages) & !(align - 1);
        let found = loop {
            if free[at..at + pages].all() {
                break at;
            }
            at = at.checked_sub(align)?;
        };
        free[found..found + pages].fill(false);
        for meta in &self.meta[found..found + pages] {
            meta.count.store(1, Ordering::Relaxed);
        }
        state.count -= pages as u64;
        drop(state);
        bytes::zero(found as u64 * PAGE, pages);
        Some(found as u64 * PAGE)
    }
    /// Adds a reference.
    pub fn retain_frame(&self, frame: u64) {
        if let Some(m) = self.meta(frame) {
            let old = m.count.fetch_add(1, Ordering::Relaxed);
            debug_assert!(old > 0, "retain of a free frame");
        }
    }
    /// Takes a reference away; the last one frees.
    ///
    /// # Panics
    /// If the frame is free already: a bookkeeping error that would corrupt memory.
    pub fn release_frame(&self, frame: u64) {
        let Some(m) = self.meta(frame) else { panic!("release of {frame:#x}, which is not memory") };
        match m.count.fetch_sub(1, Ordering::AcqRel) {
            0 => panic!("release of the free frame {frame:#x}"),
            1 => {
                let n = (frame / PAGE) as usize;
                m.next.store(0, Ordering::Relaxed);
                m.pins.store(0, Ordering::Relaxed);
                let mut state = self.state.lock();
                state.free[n / 64] |= 1 << (n % 64);
                state.count += 1;
                // Reuse low frames first, so that runs stay at the top.
                state.hint = state.hint.min(n / 64);
            }
            _ => {}
        }
    }
    /// Chains `frame` to `next`.
    pub fn set_next(&self, frame: u64, next: Option<u64>) {
        if let Some(m) = self.meta(frame) {
            m.next.store(next.map_or(0, |p| (p / PAGE) as u32 + 1), Ordering::Release);
        }
    }
    /// What [`set_next`](Self::set_next) stored.
    pub fn next(&self, frame: u64) -> Option<u64> {
        let n = self.meta(frame)?.next.load(Ordering::Acquire);
        n.checked_sub(1).map(|n| u64::from(n) * PAGE)
    }
    /// Bytes of memory in use: kernel image, archive, tables, heap, programs. The reserve is not counted.
    pub fn used_bytes(&self) -> u64 {
        let reserve = self.reserve.map_or(0, |(first, end)| (end - first) / PAGE);
        (self.total - self.state.lock().count - reserve) * PAGE
    }
}

impl TableFrames for FrameTable {
    fn alloc(&self) -> Option<u64> {
        self.alloc_zeroed()
    }
    fn free(&self, frame: u64) {
        self.release_frame(frame);
    }
}

/// The frame table, as `mm` wants it.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelFrames;

impl Frames for KernelFrames {
    fn alloc(&self) -> Result<Phys, NoMemory> {
        frames().alloc_zeroed().map(Phys).ok_or(NoMemory)
    }
    fn retain(&self, frame: Phys) {
        frames().retain_frame(frame.0);
    }
    fn release(&self, frame: Phys) {
        frames().release_frame(frame.0);
    }
    fn count(&self, frame: Phys) -> u32 {
        frames().meta(frame.0).map_or(0, |m| m.count.load(Ordering::Acquire))
    }
    fn pin(&self, frame: Phys) {
        frames().retain_frame(frame.0);
        if let Some(m) = frames().meta(frame.0) {
            m.pins.fetch_add(1, Ordering::AcqRel);
        }
    }
    fn unpin(&self, frame: Phys) {
        if let Some(m) = frames().meta(frame.0) {
            m.pins.fetch_sub(1, Ordering::AcqRel);
        }
        frames().release_frame(frame.0);
    }
    fn pins(&self, frame: Phys) -> u32 {
        frames().meta(frame.0).map_or(0, |m| m.pins.load(Ordering::Acquire))
    }
    fn read(&self, at: Phys, to: &mut [u8]) {
        bytes::read(at.0, to);
    }
    fn write(&self, at: Phys, from: &[u8]) {
        bytes::write(at.0, from);
    }
    fn or(&self, at: Phys, bits: &[u8]) {
        bytes::or(at.0, bits);
    }
    fn copy(&self, from: Phys, to: Phys) {
        bytes::copy(from.0, to.0);
    }
    fn usage(&self) -> (u64, u64) {
        let f = frames();
        let free = f.state.lock().count;
        (free, f.total)
    }
}

/// A shared handle for `mm`.
pub fn shared() -> Arc<dyn Frames> {
    Arc::new(KernelFrames)
}
