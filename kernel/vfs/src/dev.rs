//! The device nodes every program expects.

use crate::{File, FileKind, Mapping, Stat};
use alloc::sync::Arc;
use uapi::Errno;
use uapi::linux::fs::makedev;

fn node(major: u32, minor: u32) -> Stat {
    Stat { mode: 0o666, rdev: makedev(major, minor), ..Stat::anonymous(FileKind::Device) }
}

/// /dev/null.
pub struct Null;

impl File for Null {
    fn read(&self, _at: u64, _to: &mut [u8]) -> Result<usize, Errno> {
        Ok(0)
    }
    fn write(&self, _at: u64, from: &[u8]) -> Result<usize, Errno> {
        Ok(from.len())
    }
    fn seekable(&self) -> bool {
        true
    }
    fn stat(&self) -> Stat {
        node(1, 3)
    }
}

/// /dev/zero.
pub struct Zero;

impl File for Zero {
    fn read(&self, _at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        to.fill(0);
        Ok(to.len())
    }
    fn write(&self, _at: u64, from: &[u8]) -> Result<usize, Errno> {
        Ok(from.len())
    }
    fn mmap(&self, _offset: u64, _length: u64, shared: bool, _write: bool) -> Result<Mapping, Errno> {
        if shared { Err(Errno::ENODEV) } else { Ok(Mapping::Copy) }
    }
    fn seekable(&self) -> bool {
        true
    }
    fn stat(&self) -> Stat {
        node(1, 5)
    }
}

/// /dev/full.
pub struct Full;

impl File for Full {
    fn read(&self, _at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        to.fill(0);
        Ok(to.len())
    }
    fn write(&self, _at: u64, _from: &[u8]) -> Result<usize, Errno> {
        Err(Errno::ENOSPC)
    }
    fn seekable(&self) -> bool {
        true
    }
    fn stat(&self) -> Stat {
        node(1, 7)
    }
}

/// Fills bytes with random values.
pub type Fill = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// /dev/random and /dev/urandom.
#[derive(Clone)]
pub struct Random(pub Fill);

impl File for Random {
    fn read(&self, _at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        (self.0)(to);
        Ok(to.len())
    }
    fn write(&self, _at: u64, from: &[u8]) -> Result<usize, Errno> {
        Ok(from.len())
    }
    fn stat(&self) -> Stat {
        node(1, 9)
    }
}
