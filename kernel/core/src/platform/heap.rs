//! The kernel heap: size classes for small blocks over `linked_list_allocator`, which grows by mapping frames.

use crate::memory;
use arch_x86_64::paging::{Kind, map_kernel};
use arch_x86_64::{HEAP_AREA, PAGE};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};
use linked_list_allocator::Heap;
use spin::Mutex;

/// Smallest step by which the heap grows, in bytes.
const STEP: u64 = 128 << 10;
/// Most bytes the heap may have.
const LIMIT: u64 = 1 << 30;
/// Sizes of small blocks: 16 << n. Larger ones are whole pages, so that no slivers pile up between them.
const CLASSES: usize = 8;

struct Free(Option<NonNull<Free>>);

struct State {
    classes: [Option<NonNull<Free>>; CLASSES],
    large: Heap,
    /// Bytes mapped from [`HEAP_AREA`].
    mapped: u64,
}

// SAFETY: the pointers lead into the heap, which belongs to the one `Mutex<State>` below.
unsafe impl Send for State {}

struct Kernel(Mutex<State>);

#[global_allocator]
static HEAP: Kernel = Kernel(Mutex::new(State { classes: [None; CLASSES], large: Heap::empty(), mapped: 0 }));

/// Bytes mapped for the heap.
pub fn mapped() -> u64 {
    HEAP.0.lock().mapped
}

fn class(layout: &Layout) -> Option<usize> {
    let size = layout.size().max(layout.align()).max(16).next_power_of_two();
    let n = size.trailing_zeros() as usize - 4;
    (n < CLASSES).then_some(n)
}

fn whole_pages(layout: Layout) -> Layout {
    let size = layout.size().next_multiple_of(PAGE as usize);
    Layout::from_size_align(size, layout.align().max(PAGE as usize)).unwrap_or(layout)
}

impl State {
    fn grow(&mut self, need: usize) -> bool {
        let step = (need as u64 + PAGE).next_multiple_of(STEP);
        if self.mapped + step > LIMIT {
            return false;
        }
        let frames = memory::frames();
        let mut done = 0;
        while done < step {
            let Some(frame) = frames.alloc_raw() else { break };
            // SAFETY: the next free page of the heap's area; the frame is fresh.
            if unsafe { map_kernel(HEAP_AREA + self.mapped + done, frame, PAGE, Kind::Data, frames) }.is_err() {
                frames.release_frame(frame);
                break;
            }
            done += PAGE;
        }
        if done == 0 {
            return false;
        }
        // SAFETY: the range follows what the heap has, is mapped, and nobody else's.
        unsafe {
            if self.mapped == 0 {
                self.large.init(HEAP_AREA as *mut u8, done as usize);
            } else {
                self.large.extend(done as usize);
            }
        }
        self.mapped += done;
        done == step
    }
    fn large(&mut self, layout: Layout) -> *mut u8 {
        let layout = whole_pages(layout);
        loop {
            if let Ok(p) = self.large.allocate_first_fit(layout) {
                return p.as_ptr();
            }
            if !self.grow(layout.size() + layout.align()) {
                return null_mut();
            }
        }
    }
    fn small(&mut self, n: usize) -> *mut u8 {
        if self.classes[n].is_none() {
            // A page at a time, cut into blocks; page alignment gives each block its own size as alignment.
            let page = self.large(Layout::new::<Page>());
            if page.is_null() {
                return page;
            }
            let size = 16usize << n;
            for at in (0..PAGE as usize).step_by(size).rev() {
                // SAFETY: inside the page, aligned, and ours.
                unsafe { self.put(page.add(at), n) };
            }
        }
        match self.classes[n] {
            Some(block) => {
                // SAFETY: a free block of this class, written by `put`.
                self.classes[n] = unsafe { block.read().0 };
                block.as_ptr().cast()
            }
            None => null_mut(),
        }
    }
    /// # Safety
    /// `block` is a block of class `n` that nobody uses.
    unsafe fn put(&mut self, block: *mut u8, n: usize) {
        let block = block.cast::<Free>();
        // SAFETY: by the caller; 16 bytes and more, aligned to 16.
        unsafe { block.write(Free(self.classes[n])) };
        self.classes[n] = NonNull::new(block);
    }
}

#[repr(align(4096))]
struct Page(#[allow(dead_code)] [u8; PAGE as usize]);

// SAFETY: blocks are disjoint, of at least the size and alignment asked for, and stay mapped; the lock serialises.
unsafe impl GlobalAlloc for Kernel {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut state = self.0.lock();
        match class(&layout) {
            Some(n) => state.small(n),
            None => state.large(layout),
        }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let mut state = self.0.lock();
        // SAFETY: by the contract of the trait: it came from `alloc` with this layout.
        unsafe {
            match class(&layout) {
                Some(n) => state.put(block, n),
                None => {
                    if let Some(block) = NonNull::new(block) {
                        state.large.deallocate(block, whole_pages(layout));
                    }
                }
            }
        }
    }
}
