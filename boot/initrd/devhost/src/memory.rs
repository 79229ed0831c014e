//! Memory that devices write, and register windows. Everything is an atomic or a volatile access: there is never a
//! reference to bytes that change underneath.

use migrate_wire::PAGE;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

const WORDS: usize = PAGE / 8;

/// The region that devices and this program share. It lives as long as the process: what a device may write is never unmapped.
#[derive(Clone, Copy)]
pub struct Region {
    words: &'static [AtomicU64],
}

impl Region {
    /// Takes memory of a whole number of pages.
    ///
    /// # Panics
    /// If it is not.
    pub fn new(words: &'static [AtomicU64]) -> Self {
        assert!(words.len().is_multiple_of(WORDS) && !words.is_empty(), "a region has whole pages");
        Self { words }
    }
    /// Bytes.
    pub fn len(&self) -> usize {
        self.words.len() * 8
    }
    /// A region is never empty.
    pub fn is_empty(&self) -> bool {
        false
    }
    /// Pages of 4 KiB.
    pub fn pages(&self) -> u32 {
        (self.words.len() / WORDS) as u32
    }
    /// Address of the first byte in this process.
    pub fn address(&self) -> u64 {
        self.words.as_ptr() as u64
    }
    fn page(&self, number: u32) -> &'static [AtomicU64] {
        let at = number as usize * WORDS;
        &self.words[at..at + WORDS]
    }
    /// The word at byte offset `at`, a multiple of 8.
    pub fn word(&self, at: usize) -> &'static AtomicU64 {
        debug_assert!(at.is_multiple_of(8));
        &self.words[at / 8]
    }
    /// Copies a page out.
    pub fn read_page(&self, number: u32, out: &mut [u8; PAGE]) {
        for (bytes, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(self.page(number)) {
            *bytes = word.load(Ordering::Relaxed).to_le_bytes();
        }
    }
    /// Copies a page in.
    pub fn write_page(&self, number: u32, bytes: &[u8; PAGE]) {
        for (bytes, word) in bytes.as_chunks::<8>().0.iter().zip(self.page(number)) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
    }
    /// Sets every word of a page by its place in the page.
    pub fn fill_page(&self, number: u32, mut word_at: impl FnMut(usize) -> u64) {
        for (at, word) in self.page(number).iter().enumerate() {
            word.store(word_at(at), Ordering::Relaxed);
        }
    }
    /// Copies `out.len()` bytes from byte offset `at`.
    ///
    /// # Panics
    /// Past the end of the region.
    pub fn read(&self, at: usize, out: &mut [u8]) {
        let (mut at, mut out) = (at, out);
        while !out.is_empty() {
            let word = self.words[at / 8].load(Ordering::Relaxed).to_le_bytes();
            let from = at % 8;
            let count = out.len().min(8 - from);
            let (now, rest) = out.split_at_mut(count);
            now.copy_from_slice(&word[from..from + count]);
            (at, out) = (at + count, rest);
        }
    }
    /// Copies `bytes` to byte offset `at`, touching no byte beside them.
    ///
    /// # Panics
    /// Past the end of the region.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        let (mut at, mut bytes) = (at, bytes);
        while let Some(first) = bytes.first() {
            if at % 8 == 0
                && let Some((word, rest)) = bytes.split_first_chunk::<8>()
            {
                self.words[at / 8].store(u64::from_le_bytes(*word), Ordering::Relaxed);
                (at, bytes) = (at + 8, rest);
            } else {
                self.byte(at).store(*first, Ordering::Relaxed);
                (at, bytes) = (at + 1, &bytes[1..]);
            }
        }
    }
    fn byte(&self, at: usize) -> &'static AtomicU8 {
        let word = &self.words[at / 8];
        // SAFETY: `word` is 8 bytes of memory that lives for ever and is only accessed atomically; `at % 8` stays inside
        // it, and AtomicU8 has no alignment or invalid values.
        unsafe { &*word.as_ptr().cast::<AtomicU8>().add(at % 8) }
    }
    /// Digest of a page as it is now.
    pub fn digest(&self, number: u32, scratch: &mut [u8; PAGE]) -> u64 {
        self.read_page(number, scratch);
        migrate_wire::digest::page(number, scratch)
    }
}

/// Registers of a device. An access has exactly the width asked for.
pub trait Bar: Send + Sync {
    /// Reads 32 bits at a multiple of 4.
    fn r32(&self, at: usize) -> u32;
    /// Writes 32 bits at a multiple of 4, after all earlier stores to memory.
    fn w32(&self, at: usize, value: u32);
    /// Reads 64 bits at a multiple of 8.
    fn r64(&self, at: usize) -> u64;
    /// Writes 64 bits at a multiple of 8, after all earlier stores to memory.
    fn w64(&self, at: usize, value: u64);
    /// Reads one byte.
    fn r8(&self, at: usize) -> u8 {
        (self.r32(at & !3) >> (8 * (at & 3))) as u8
    }
}

/// A mapped window of registers, unmapped when it is dropped: a mapping keeps the device's file open.
pub struct Window {
    base: *mut u8,
    len: usize,
}

// SAFETY: the window owns a mapping of device memory (see `new`); every access is a single volatile load or store, which
// may be made from any thread.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// Takes over a mapping.
    ///
    /// # Safety
    /// `base` must be page aligned and be `len` bytes of device registers that were mapped for this window alone.
    pub unsafe fn new(base: *mut u8, len: usize) -> Self {
        Self { base, len }
    }
    fn at<T>(&self, at: usize) -> *mut T {
        assert!(
            at.is_multiple_of(size_of::<T>()) && at + size_of::<T>() <= self.len,
            "register {at:#x} is outside the window"
        );
        // SAFETY: inside the mapping that `new` was given, by the assertion above.
        unsafe { self.base.add(at).cast() }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` took over; no reference into it exists, only `at()`'s short-lived addresses.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

impl Bar for Window {
    fn r32(&self, at: usize) -> u32 {
        // SAFETY: `at()` returns an aligned address inside the mapping.
        unsafe { self.at::<u32>(at).read_volatile() }
    }
    fn w32(&self, at: usize, value: u32) {
        std::sync::atomic::fence(Ordering::SeqCst);
        // SAFETY: `at()` returns an aligned address inside the mapping.
        unsafe { self.at::<u32>(at).write_volatile(value) }
    }
    fn r64(&self, at: usize) -> u64 {
        // SAFETY: `at()` returns an aligned address inside the mapping.
        unsafe { self.at::<u64>(at).read_volatile() }
    }
    fn w64(&self, at: usize, value: u64) {
        std::sync::atomic::fence(Ordering::SeqCst);
        // SAFETY: `at()` returns an aligned address inside the mapping.
        unsafe { self.at::<u64>(at).write_volatile(value) }
    }
    fn r8(&self, at: usize) -> u8 {
        // SAFETY: `at()` returns an address inside the mapping.
        unsafe { self.at::<u8>(at).read_volatile() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(pages: usize) -> Region {
        Region::new(Vec::leak((0..pages * WORDS).map(|_| AtomicU64::new(0)).collect()))
    }

    #[test]
    fn bytes_written_anywhere_are_read_back_and_nothing_else_changes() {
        let region = region(1);
        for (at, len) in [(0, 1), (3, 17), (8, 8), (100, 1400), (PAGE - 1, 1), (5, 2)] {
            region.fill_page(0, |_| u64::MAX);
            let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
            region.write(at, &data);
            let mut back = vec![0; len];
            region.read(at, &mut back);
            assert_eq!(back, data, "at {at}");
            let mut page = [0; PAGE];
            region.read_page(0, &mut page);
            assert!(page[..at].iter().chain(&page[at + len..]).all(|b| *b == 0xff), "beside {at}");
        }
    }

    #[test]
    fn a_page_goes_in_and_out() {
        let region = region(2);
        let bytes: [u8; PAGE] = std::array::from_fn(|at| at as u8 ^ 0x5a);
        region.write_page(1, &bytes);
        let mut back = [0; PAGE];
        region.read_page(1, &mut back);
        assert_eq!(back, bytes);
        region.read_page(0, &mut back);
        assert_eq!(back, [0; PAGE]);
    }
}
