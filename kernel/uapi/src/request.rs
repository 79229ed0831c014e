//! Extensible structures: the first field is the size the program was built with.
//!
//! Rules, in the order they are checked (iommufd and BIND share them):
//!
//! 1. the u32 size at the argument cannot be read: `EFAULT`;
//! 2. size below the first published size of the structure: `EINVAL`;
//! 3. size above ours: the tail is scanned, a non-zero byte is `E2BIG`, an unreadable one `EFAULT`;
//! 4. size below ours: the missing fields are zero;
//! 5. the reply copies min(theirs, ours) bytes of the whole structure back, inputs included.

use crate::{Errno, UserMem};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// Reads the u32 at the start of an argument.
///
/// # Errors
/// `EFAULT`.
pub fn read_size(mem: &dyn UserMem, at: u64) -> Result<u32, Errno> {
    let mut raw = [0; 4];
    mem.copy_in(at, &mut raw)?;
    Ok(u32::from_le_bytes(raw))
}

/// Reads a plain structure, whole.
///
/// # Errors
/// `EFAULT`.
pub fn read_plain<T: FromBytes + FromZeros + IntoBytes>(mem: &dyn UserMem, at: u64) -> Result<T, Errno> {
    let mut body = T::new_zeroed();
    mem.copy_in(at, body.as_mut_bytes())?;
    Ok(body)
}

/// Refuses a tail with anything but zeros in it.
fn scan_tail(mem: &dyn UserMem, mut at: u64, mut left: u64) -> Result<(), Errno> {
    let mut chunk = [0; 256];
    while left > 0 {
        let take = left.min(chunk.len() as u64) as usize;
        let Some(part) = chunk.get_mut(..take) else { return Err(Errno::EFAULT) };
        mem.copy_in(at, part)?;
        if part.iter().any(|byte| *byte != 0) {
            return Err(Errno::E2BIG);
        }
        at = at.checked_add(take as u64).ok_or(Errno::EFAULT)?;
        left -= take as u64;
    }
    Ok(())
}

/// An extensible structure as a program gave it.
#[derive(Clone, Copy, Debug)]
pub struct Request<T> {
    /// The fields, ours; missing ones are zero.
    pub body: T,
    at: u64,
    size: u32,
}

impl<T: FromBytes + FromZeros + IntoBytes + Immutable> Request<T> {
    /// Reads it from `at`; `min` is the first published size.
    ///
    /// # Errors
    /// `EFAULT`, `EINVAL`, `E2BIG` by the rules of this module.
    pub fn read(mem: &dyn UserMem, at: u64, min: usize) -> Result<Self, Errno> {
        let size = read_size(mem, at)?;
        Self::read_with_size(mem, at, size, min)
    }

    /// As [`read`](Self::read) for a size that was already read.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_with_size(mem: &dyn UserMem, at: u64, size: u32, min: usize) -> Result<Self, Errno> {
        let (theirs, ours) = (size as usize, size_of::<T>());
        if theirs < min {
            return Err(Errno::EINVAL);
        }
        if theirs > ours {
            let tail = at.checked_add(ours as u64).ok_or(Errno::EFAULT)?;
            scan_tail(mem, tail, (theirs - ours) as u64)?;
        }
        let mut body = T::new_zeroed();
        let bytes = body.as_mut_bytes();
        let known = bytes.get_mut(..theirs.min(ours)).ok_or(Errno::EFAULT)?;
        mem.copy_in(at, known)?;
        // The program may change it between two reads: what was checked is what counts.
        if let Some(first) = bytes.first_chunk_mut::<4>() {
            *first = size.to_le_bytes();
        }
        Ok(Self { body, at, size })
    }

    /// Copies min(theirs, ours) bytes back.
    ///
    /// # Errors
    /// `EFAULT`; what the call did stays done.
    pub fn reply(&self, mem: &dyn UserMem) -> Result<(), Errno> {
        let bytes = self.body.as_bytes();
        let known = bytes.get(..(self.size as usize).min(bytes.len())).unwrap_or(bytes);
        mem.copy_out(self.at, known)
    }

    /// Address of the byte at `offset` of the program's structure.
    pub fn field(&self, offset: usize) -> u64 {
        self.at.wrapping_add(offset as u64)
    }

    /// The size the program gave.
    pub fn size(&self) -> u32 {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Memory;
    use zerocopy::KnownLayout;

    #[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Debug)]
    #[repr(C)]
    struct Sample {
        size: u32,
        a: u32,
        b: u64,
    }

    fn read(bytes: &[u8]) -> Result<Request<Sample>, Errno> {
        Request::read(&Memory::at(0x1000, bytes), 0x1000, 8)
    }

    #[test]
    fn unreadable_size_is_efault() {
        assert_eq!(read(&[16, 0, 0]).unwrap_err(), Errno::EFAULT);
    }

    #[test]
    fn size_below_the_first_published_is_einval_even_if_the_rest_is_unreadable() {
        assert_eq!(read(&[7, 0, 0, 0]).unwrap_err(), Errno::EINVAL);
        assert_eq!(read(&[0, 0, 0, 0]).unwrap_err(), Errno::EINVAL);
    }

    #[test]
    fn missing_fields_are_zero() {
        let got = read(&[8, 0, 0, 0, 5, 0, 0, 0]).unwrap();
        assert_eq!((got.body.size, got.body.a, got.body.b), (8, 5, 0));
    }

    #[test]
    fn zero_tail_is_fine_and_non_zero_tail_is_e2big() {
        let mut bytes = [0; 600];
        bytes[..2].copy_from_slice(&600u16.to_le_bytes());
        assert!(read(&bytes).is_ok());
        for at in [16, 17, 300, 599] {
            let mut bent = bytes;
            bent[at] = 1;
            assert_eq!(read(&bent).unwrap_err(), Errno::E2BIG, "byte {at}");
        }
    }

    #[test]
    fn unreadable_tail_is_efault() {
        let mut bytes = [0; 599];
        bytes[..2].copy_from_slice(&600u16.to_le_bytes());
        assert_eq!(read(&bytes).unwrap_err(), Errno::EFAULT);
        let huge = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(read(&huge).unwrap_err(), Errno::EFAULT);
    }

    #[test]
    fn reply_copies_the_smaller_of_both_sizes() {
        let memory = Memory::at(0x1000, &[8, 0, 0, 0, 5, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9]);
        let mut got = Request::<Sample>::read(&memory, 0x1000, 8).unwrap();
        got.body.a = 7;
        got.body.b = u64::MAX;
        got.reply(&memory).unwrap();
        assert_eq!(memory.bytes(), [8, 0, 0, 0, 7, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9]);
    }
}
