//! Windows of device registers.

use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};
use volatile::VolatilePtr;

/// A mapped, uncached range of device registers.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: every access is one volatile load or store; what concurrent accesses mean is the device's business.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

macro_rules! access {
    ($read:ident $write:ident $ty:ty) => {
        /// Reads a register at a byte offset.
        ///
        /// # Panics
        /// If it is not wholly inside the window, or not aligned.
        pub fn $read(&self, offset: usize) -> $ty {
            // SAFETY: `at` checked range and alignment; the window is mapped by the contract of `new`.
            let value = unsafe { VolatilePtr::new(self.at::<$ty>(offset)).read() };
            // Later loads from memory must not pass the register that said the data is there.
            fence(Ordering::Acquire);
            value
        }
        /// Writes a register at a byte offset, after all earlier stores (x86 keeps stores in order).
        ///
        /// # Panics
        /// As the read.
        pub fn $write(&self, offset: usize, value: $ty) {
            fence(Ordering::Release);
            // SAFETY: as in the read.
            unsafe { VolatilePtr::new(self.at::<$ty>(offset)).write(value) }
        }
    };
}

impl Window {
    /// # Safety
    /// `bytes` bytes at `base` are device registers, mapped uncached for as long as any copy of the window lives.
    pub const unsafe fn new(base: NonNull<u8>, bytes: usize) -> Self {
        Self { base, bytes }
    }
    /// Address of the first register, for drivers that make their own accesses.
    pub const fn base(&self) -> NonNull<u8> {
        self.base
    }
    /// Length in bytes.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
    #[track_caller]
    fn at<T>(&self, offset: usize) -> NonNull<T> {
        let size = size_of::<T>();
        assert!(
            offset.is_multiple_of(size) && offset <= self.bytes && size <= self.bytes - offset,
            "register {offset:#x} is not in a window of {:#x} bytes",
            self.bytes
        );
        // SAFETY: inside the window by the check above.
        unsafe { self.base.byte_add(offset).cast() }
    }
    access!(r8 w8 u8);
    access!(r16 w16 u16);
    access!(r32 w32 u32);
    access!(r64 w64 u64);
}
