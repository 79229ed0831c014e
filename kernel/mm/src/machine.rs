//! What address spaces need of the machine under them: frames of memory and the CPU's page tables.

use iommu_types::Phys;

/// Size of a frame in bytes.
pub const PAGE: u64 = 4096;

/// No frame is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoMemory;

/// Physical frames with a reference count each, and access to their bytes.
///
/// A frame is named by its physical address (4 KiB aligned). It is freed when its count reaches zero; a pin holds a
/// count, so that a pinned frame survives whoever mapped it.
pub trait Frames: Send + Sync {
    /// A zeroed frame with count 1.
    ///
    /// # Errors
    /// [`NoMemory`].
    fn alloc(&self) -> Result<Phys, NoMemory>;
    /// Adds one to the count.
    fn retain(&self, frame: Phys);
    /// Takes one from the count; frees at zero.
    fn release(&self, frame: Phys);
    /// The count; 0 if free.
    fn count(&self, frame: Phys) -> u32;
    /// Takes a count and a pin.
    fn pin(&self, frame: Phys);
    /// Gives both back.
    fn unpin(&self, frame: Phys);
    /// Pins held on the frame.
    fn pins(&self, frame: Phys) -> u32;
    /// Reads bytes of a frame; `at` may be inside it, the bytes do not pass its end.
    fn read(&self, at: Phys, to: &mut [u8]);
    /// Writes bytes of a frame.
    fn write(&self, at: Phys, from: &[u8]);
    /// Ors bytes into a frame.
    fn or(&self, at: Phys, bits: &[u8]);
    /// Copies a whole frame.
    fn copy(&self, from: Phys, to: Phys) {
        let mut buffer = [0; 512];
        for at in (0..PAGE).step_by(buffer.len()) {
            self.read(Phys(from.0 + at), &mut buffer);
            self.write(Phys(to.0 + at), &buffer);
        }
    }
    /// Frames free and in all.
    fn usage(&self) -> (u64, u64);
}

/// Of all frames, one in so many is kept for the kernel: tables, heap, what it takes to end a program.
const KERNEL_SHARE: u64 = 64;
/// Of all frames, one in so many is kept from files, so that programs can still run when files fill the memory.
const PROGRAM_SHARE: u64 = 16;

/// Is only the kernel's share left? Then nothing grows for a program.
pub(crate) fn scarce(frames: &dyn Frames) -> bool {
    let (free, all) = frames.usage();
    free <= all / KERNEL_SHARE
}

/// A zeroed frame for a page of a program.
///
/// # Errors
/// [`NoMemory`] when only the kernel's share is left.
pub(crate) fn page_frame(frames: &dyn Frames) -> Result<Phys, NoMemory> {
    if scarce(frames) { Err(NoMemory) } else { frames.alloc() }
}

/// A zeroed frame for contents of a file.
///
/// # Errors
/// [`NoMemory`] when only the share of programs is left.
pub(crate) fn file_frame(frames: &dyn Frames) -> Result<Phys, NoMemory> {
    let (free, all) = frames.usage();
    if free <= all / PROGRAM_SHARE { Err(NoMemory) } else { frames.alloc() }
}

/// Is even the kernel's share half gone? Then nothing new should be made.
pub fn exhausted(frames: &dyn Frames) -> bool {
    let (free, all) = frames.usage();
    free <= all / KERNEL_SHARE / 2
}

/// One entry of a user page table. Always user accessible, never writable and executable at once unless asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pte {
    /// The frame, or the device page.
    pub phys: Phys,
    /// Writable.
    pub write: bool,
    /// Executable.
    pub exec: bool,
    /// Device memory: uncached.
    pub device: bool,
}

/// The CPU's tables of one address space. Dropping it frees the table pages (not the frames mapped); if a CPU still has
/// this root loaded, the implementation loads the kernel's own tables first.
pub trait PageTables: Send {
    /// Installs or replaces the entry of the page at `va` (4 KiB aligned, user half).
    ///
    /// # Errors
    /// [`NoMemory`] for table pages; nothing was changed.
    fn set(&mut self, va: u64, pte: Pte) -> Result<(), NoMemory>;
    /// Removes the entry of the page at `va`, if there is one.
    fn clear(&mut self, va: u64);
    /// Makes every earlier change effective on all CPUs. Called once per operation, after a batch. Cheap when the batch
    /// only filled empty entries or added rights: a CPU that still holds the old translation faults, and that fault
    /// discards it.
    fn flush(&mut self);
    /// Physical address of the root table, for the CPU.
    fn root(&self) -> Phys;
}

/// Makes empty address spaces (kernel half included).
pub trait NewTables: Send + Sync {
    /// # Errors
    /// [`NoMemory`].
    fn new_tables(&self) -> Result<alloc::boxed::Box<dyn PageTables>, NoMemory>;
}
