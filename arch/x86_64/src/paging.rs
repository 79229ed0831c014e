//! Page tables: the kernel's, and those of programs. Four levels, Intel SDM volume 3, chapter 4.
//!
//! Entries are only touched as atomics, since the CPU sets A and D in them.

use crate::cpu::{features, this};
use crate::{DEVICE_AREA, DIRECT_MAP, HEAP_AREA, Image, KERNEL_BASE, PAGE, USER_END, direct};
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;
use x86_64::PhysAddr;
use x86_64::VirtAddr;
use x86_64::instructions::tlb;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::{PageTableFlags as F, PhysFrame};

/// Where table pages come from.
pub trait TableFrames: Sync {
    /// Physical address of a zeroed 4 KiB frame in the direct map.
    fn alloc(&self) -> Option<u64>;
    /// Takes one back.
    fn free(&self, frame: u64);
}

/// No frame for a table page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoFrame;

/// Physical address bits of an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const TABLE: u64 = F::PRESENT.bits() | F::WRITABLE.bits();
const LARGE: u64 = F::HUGE_PAGE.bits();

type Table = [AtomicU64; 512];

/// Kernel root; its lower half is empty.
static ROOT: AtomicU64 = AtomicU64::new(0);
static KERNEL: Mutex<()> = Mutex::new(());

/// Access of a kernel mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Executable, not writable.
    Code,
    /// Neither.
    Constant,
    /// Writable, not executable.
    Data,
    /// Writable, not executable, uncached.
    Device,
}

fn kernel_flags(kind: Kind) -> u64 {
    // A and D are set from the start: nobody reads them, and the CPU need not write them.
    let mut f = F::PRESENT | F::ACCESSED | F::DIRTY;
    f.set(F::GLOBAL, features().pge);
    match kind {
        Kind::Code => {}
        Kind::Constant => f.set(F::NO_EXECUTE, features().nx),
        Kind::Data => {
            f |= F::WRITABLE;
            f.set(F::NO_EXECUTE, features().nx);
        }
        // PAT entry 3, which resets to uncached (table 12-12).
        Kind::Device => {
            f |= F::WRITABLE | F::NO_CACHE | F::WRITE_THROUGH;
            f.set(F::NO_EXECUTE, features().nx);
        }
    }
    f.bits()
}

/// # Safety
/// `phys` is a page table of ours, in the direct map.
unsafe fn table<'a>(phys: u64) -> &'a Table {
    // SAFETY: by the caller; a page of atomics may be shared.
    unsafe { &*direct(phys).cast::<Table>() }
}

const fn index(va: u64, level: u32) -> usize {
    (va >> (12 + 9 * level)) as usize & 511
}

/// The entry of `va` at `level` (0: 4 KiB), making tables on the way; `None` if a larger page is in the way.
///
/// # Safety
/// `root` is a root of ours.
unsafe fn entry<'a>(
    root: u64,
    va: u64,
    level: u32,
    user: u64,
    frames: &dyn TableFrames,
) -> Result<Option<&'a AtomicU64>, NoFrame> {
    let mut at = root;
    for l in (level + 1..=3).rev() {
        // SAFETY: by the caller for the root, and by the entry above for the rest.
        let e = &unsafe { table(at) }[index(va, l)];
        let mut v = e.load(Ordering::Acquire);
        if v & 1 == 0 {
            v = frames.alloc().ok_or(NoFrame)? | TABLE | user;
            e.store(v, Ordering::Release);
        } else if v & LARGE != 0 {
            return Ok(None);
        }
        at = v & ADDRESS;
    }
    // SAFETY: as above.
    Ok(Some(&unsafe { table(at) }[index(va, level)]))
}

/// The entry of `va` at level 0, if tables lead there.
///
/// # Safety
/// `root` is a root of ours.
unsafe fn find<'a>(root: u64, va: u64) -> Option<&'a AtomicU64> {
    let mut at = root;
    for l in (1..=3).rev() {
        // SAFETY: by the caller, then by the entries.
        let v = unsafe { table(at) }[index(va, l)].load(Ordering::Acquire);
        if v & 1 == 0 || v & LARGE != 0 {
            return None;
        }
        at = v & ADDRESS;
    }
    // SAFETY: as above.
    Some(&unsafe { table(at) }[index(va, 0)])
}

/// # Safety
/// `root` is a root of ours; the mapping breaks nothing that is in use.
unsafe fn map_range(
    root: u64,
    va: u64,
    phys: u64,
    bytes: u64,
    kind: Kind,
    frames: &dyn TableFrames,
) -> Result<(), NoFrame> {
    let flags = kernel_flags(kind);
    let mut done = 0;
    while done < bytes {
        let (v, p, rest) = (va + done, phys + done, bytes - done);
        let fits = |size: u64| (v | p) & (size - 1) == 0 && rest >= size;
        let level = if kind == Kind::Code || kind == Kind::Constant {
            0
        } else if features().gib_pages && fits(1 << 30) {
            2
        } else if fits(1 << 21) {
            1
        } else {
            0
        };
        // SAFETY: by the caller.
        if let Some(e) = unsafe { entry(root, v, level, 0, frames) }? {
            let large = if level > 0 { LARGE } else { 0 };
            e.store(p | flags | large, Ordering::Release);
        }
        done += PAGE << (9 * level);
    }
    Ok(())
}

/// Builds the kernel's tables and switches to them: code read-execute, constants read-only, all else not executable; the
/// image's code and constants are read-only in the direct map too; the guard pages are left out.
///
/// * `ram`: base and length, whole pages, ascending and disjoint: what the direct map shows.
///
/// # Errors
/// [`NoFrame`].
///
/// # Safety
/// Once, on the boot CPU, in `boot`'s address space; `image` and `ram` are true.
pub unsafe fn init_kernel(image: &Image, ram: &[(u64, u64)], frames: &dyn TableFrames) -> Result<(), NoFrame> {
    let root = frames.alloc().ok_or(NoFrame)?;
    let phys = |va: u64| va - KERNEL_BASE;
    // SAFETY: the new root is not in use yet; after the switch it maps all that the old one did and that we use: image,
    // stack (in `data`) and direct map.
    unsafe {
        // Tables of the kernel's areas exist before any program's root copies them, so that all see later changes.
        let _ = entry(root, DEVICE_AREA, 1, 0, frames)?;
        let _ = entry(root, HEAP_AREA, 1, 0, frames)?;
        let (from, to) = (phys(image.text.0), phys(image.rodata.1));
        for &(base, length) in ram {
            let end = base + length;
            // Before, inside and after the read-only part of the image.
            for (first, last, kind) in [
                (base, end.min(from), Kind::Data),
                (base.max(from), end.min(to), Kind::Constant),
                (base.max(to), end, Kind::Data),
            ] {
                if first < last {
                    map_range(root, DIRECT_MAP + first, first, last - first, kind, frames)?;
                }
            }
        }
        map_range(root, image.text.0, phys(image.text.0), image.text.1 - image.text.0, Kind::Code, frames)?;
        map_range(root, image.rodata.0, phys(image.rodata.0), image.rodata.1 - image.rodata.0, Kind::Constant, frames)?;
        let mut at = image.data.0;
        while at < image.data.1 {
            if !image.guards.contains(&at) {
                let Some(e) = entry(root, at, 0, 0, frames)? else { return Err(NoFrame) };
                e.store(phys(at) | kernel_flags(Kind::Data), Ordering::Release);
            }
            at += PAGE;
        }
        ROOT.store(root, Ordering::Release);
        activate(root);
    }
    Ok(())
}

/// Loads `root` on this CPU if another one is loaded. Without PCID that drops all translations but the kernel's.
///
/// # Safety
/// `root` maps the kernel as [`init_kernel`]'s does.
pub unsafe fn activate(root: u64) {
    // SAFETY: `this` is this CPU's own; by the caller for the rest.
    unsafe {
        let cpu = this();
        if (*cpu).root != root {
            Cr3::write(PhysFrame::containing_address(PhysAddr::new(root & ADDRESS)), Cr3Flags::empty());
            (*cpu).root = root;
        }
    }
}

/// Leaves a program's tables for the kernel's own.
pub fn activate_kernel() {
    // SAFETY: it is the kernel's root.
    unsafe { activate(ROOT.load(Ordering::Acquire)) }
}

/// Maps physical memory at a kernel address that is free. Whole pages.
///
/// # Errors
/// [`NoFrame`]; part may be mapped.
///
/// # Safety
/// Nothing else uses `va`, which is in one of the kernel's areas; a mapping as `kind` of `phys` breaks nobody's
/// assumptions about that memory.
pub unsafe fn map_kernel(va: u64, phys: u64, bytes: u64, kind: Kind, frames: &dyn TableFrames) -> Result<(), NoFrame> {
    let _held = KERNEL.lock();
    // SAFETY: by the caller; the lock keeps others from making the same table twice.
    unsafe { map_range(ROOT.load(Ordering::Acquire), va, phys, bytes, kind, frames) }
}

/// Makes firmware tables at `phys` readable in the direct map (read-only) where they are not yet.
///
/// # Errors
/// [`NoFrame`].
pub fn extend_direct(phys: u64, bytes: u64, frames: &dyn TableFrames) -> Result<(), NoFrame> {
    let _held = KERNEL.lock();
    let root = ROOT.load(Ordering::Acquire);
    let mut at = phys & !(PAGE - 1);
    while at < phys.saturating_add(bytes) {
        // SAFETY: the kernel's root; only empty entries are filled, read-only.
        if let Some(e) = unsafe { entry(root, DIRECT_MAP + at, 0, 0, frames) }?
            && e.load(Ordering::Acquire) == 0
        {
            e.store(at | kernel_flags(Kind::Constant), Ordering::Release);
        }
        at += PAGE;
    }
    Ok(())
}

/// What the kernel may do at `va` by its own tables, for self tests: (present, writable, executable).
pub fn kernel_access(va: u64) -> (bool, bool, bool) {
    let (mut at, mut write, mut exec) = (ROOT.load(Ordering::Acquire), true, true);
    for l in (0..=3).rev() {
        // SAFETY: the kernel's tables.
        let v = unsafe { table(at) }[index(va, l)].load(Ordering::Acquire);
        if v & 1 == 0 {
            return (false, false, false);
        }
        write &= v & 2 != 0;
        exec &= v & F::NO_EXECUTE.bits() == 0;
        if l == 0 || v & LARGE != 0 {
            return (true, write, exec);
        }
        at = v & ADDRESS;
    }
    (false, false, false)
}

/// Flags of a user page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UserPage {
    /// Writable.
    pub write: bool,
    /// Executable.
    pub exec: bool,
    /// Device memory: uncached.
    pub device: bool,
}

impl UserPage {
    fn bits(self) -> u64 {
        let mut f = F::PRESENT | F::USER_ACCESSIBLE;
        f.set(F::WRITABLE, self.write);
        f.set(F::NO_EXECUTE, !self.exec && features().nx);
        if self.device {
            f |= F::NO_CACHE | F::WRITE_THROUGH;
        }
        f.bits()
    }
}

/// Pages flushed one by one; beyond, all at once.
const BATCH: usize = 32;

/// The page tables of one program.
///
/// Changes take effect for certain at [`flush`](Self::flush). With one CPU that is local; with more, `flush` is where the
/// other CPUs must be told.
pub struct UserTables {
    root: u64,
    frames: &'static dyn TableFrames,
    stale: [u64; BATCH],
    count: usize,
}

impl UserTables {
    /// Empty tables with the kernel's upper half.
    ///
    /// # Errors
    /// [`NoFrame`].
    pub fn new(frames: &'static dyn TableFrames) -> Result<Self, NoFrame> {
        let root = frames.alloc().ok_or(NoFrame)?;
        // SAFETY: the new root is ours alone; the kernel's root never goes.
        unsafe {
            let (to, from) = (table(root), table(ROOT.load(Ordering::Acquire)));
            for i in 256..512 {
                to[i].store(from[i].load(Ordering::Acquire), Ordering::Release);
            }
        }
        Ok(Self { root, frames, stale: [0; BATCH], count: 0 })
    }
    /// Physical address of the root.
    pub fn root(&self) -> u64 {
        self.root
    }
    fn forget(&mut self, va: u64) {
        if self.count < BATCH {
            self.stale[self.count] = va;
        }
        self.count = (self.count + 1).min(BATCH + 1);
    }
    /// Maps or replaces the page at `va`.
    ///
    /// # Errors
    /// [`NoFrame`]: no table page, or `va` is not in the user half; nothing was changed.
    pub fn set(&mut self, va: u64, phys: u64, page: UserPage) -> Result<(), NoFrame> {
        if va >= USER_END {
            return Err(NoFrame);
        }
        // SAFETY: our root; user tables hold no large pages.
        let Some(e) = unsafe { entry(self.root, va, 0, F::USER_ACCESSIBLE.bits(), self.frames) }? else {
            return Err(NoFrame);
        };
        let new = phys & ADDRESS | page.bits();
        if e.swap(new, Ordering::AcqRel) & 1 != 0 {
            self.forget(va);
        }
        Ok(())
    }
    /// Unmaps the page at `va`.
    pub fn clear(&mut self, va: u64) {
        if va >= USER_END {
            return;
        }
        // SAFETY: our root.
        if let Some(e) = unsafe { find(self.root, va) }
            && e.swap(0, Ordering::AcqRel) & 1 != 0
        {
            self.forget(va);
        }
    }
    /// Clears A and D of the page at `va` and tells what they were. Sure only after [`flush`](Self::flush): until then the
    /// CPU may write without setting D again.
    pub fn take_accessed_dirty(&mut self, va: u64) -> (bool, bool) {
        let bits = F::ACCESSED.bits() | F::DIRTY.bits();
        // SAFETY: our root.
        let Some(e) = (va < USER_END).then(|| unsafe { find(self.root, va) }).flatten() else {
            return (false, false);
        };
        let old = e.fetch_and(!bits, Ordering::AcqRel);
        if old & 1 == 0 {
            return (false, false);
        }
        if old & bits != 0 {
            self.forget(va);
        }
        (old & F::ACCESSED.bits() != 0, old & F::DIRTY.bits() != 0)
    }
    /// Makes earlier changes effective.
    pub fn flush(&mut self) {
        if self.count == 0 {
            return;
        }
        // SAFETY: this CPU's own state; reloading our loaded root only drops translations.
        unsafe {
            if (*this()).root == self.root {
                if self.count <= BATCH {
                    for &va in &self.stale[..self.count] {
                        tlb::flush(VirtAddr::new_truncate(va));
                    }
                } else {
                    (*this()).root = 0;
                    activate(self.root);
                }
            }
        }
        self.count = 0;
    }
}

impl Drop for UserTables {
    fn drop(&mut self) {
        // SAFETY: this CPU's own state. The kernel's root replaces ours before its pages are freed.
        unsafe {
            if (*this()).root == self.root {
                activate_kernel();
            }
            free_below(self.root, 3, 256, self.frames);
        }
    }
}

/// # Safety
/// The table is ours and no CPU uses it.
unsafe fn free_below(at: u64, level: u32, entries: usize, frames: &dyn TableFrames) {
    if level > 0 {
        // SAFETY: by the caller; the entries of a level above 0 are tables of ours.
        unsafe {
            for e in &table(at)[..entries] {
                let v = e.load(Ordering::Acquire);
                if v & 1 != 0 {
                    free_below(v & ADDRESS, level - 1, 512, frames);
                }
            }
        }
    }
    frames.free(at);
}
