//! Memory of an imagined program, for tests of this crate.

use crate::{Errno, UserMem};
use alloc::vec::Vec;
use core::cell::RefCell;

/// Bytes from one address on; everything else faults.
pub struct Memory {
    base: u64,
    bytes: RefCell<Vec<u8>>,
}

impl Memory {
    pub fn at(base: u64, bytes: &[u8]) -> Self {
        Self { base, bytes: RefCell::new(bytes.to_vec()) }
    }
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.borrow().clone()
    }
    fn with(&self, at: u64, length: usize, f: impl FnOnce(&mut [u8])) -> Result<(), Errno> {
        let start = at.checked_sub(self.base).ok_or(Errno::EFAULT)? as usize;
        let mut bytes = self.bytes.borrow_mut();
        let end = start.checked_add(length).ok_or(Errno::EFAULT)?;
        f(bytes.get_mut(start..end).ok_or(Errno::EFAULT)?);
        Ok(())
    }
}

impl UserMem for Memory {
    fn copy_in(&self, from: u64, to: &mut [u8]) -> Result<(), Errno> {
        self.with(from, to.len(), |bytes| to.copy_from_slice(bytes))
    }
    fn copy_out(&self, to: u64, from: &[u8]) -> Result<(), Errno> {
        self.with(to, from.len(), |bytes| bytes.copy_from_slice(from))
    }
    fn or_bits(&self, at: u64, bits: &[u8]) -> Result<(), Errno> {
        self.with(at, bits.len(), |bytes| bytes.iter_mut().zip(bits).for_each(|(byte, bit)| *byte |= bit))
    }
}
