//! Mappings: what a range of addresses means.

use alloc::sync::Arc;
use core::any::Any;
use iommu_types::Phys;
use vfs::{OpenFile, Pages};

/// Rights of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Prot {
    /// PROT_READ.
    pub read: bool,
    /// PROT_WRITE.
    pub write: bool,
    /// PROT_EXEC.
    pub exec: bool,
}

impl Prot {
    /// Read and write.
    pub const RW: Self = Self { read: true, write: true, exec: false };
    /// Nothing.
    pub const NONE: Self = Self { read: false, write: false, exec: false };

    /// From `PROT_*` bits; others are ignored.
    pub const fn from_bits(bits: u64) -> Self {
        Self { read: bits & 1 != 0, write: bits & 2 != 0, exec: bits & 4 != 0 }
    }
    /// Any access at all? On the CPUs here, write and execute rights allow reading too.
    pub const fn any(self) -> bool {
        self.read || self.write || self.exec
    }
}

/// Where the contents of a mapping come from.
#[derive(Clone)]
pub(crate) enum Kind {
    /// Private, zero at first.
    Anonymous,
    /// Private, copied from a file page by page. `offset` belongs to the mapping's first byte, here and below.
    FileCopy { file: Arc<OpenFile>, offset: u64 },
    /// Private, on top of shared pages: copied when written.
    PagesCopy { pages: Arc<dyn Pages>, file: Option<Arc<OpenFile>>, offset: u64 },
    /// Shared pages.
    Shared { pages: Arc<dyn Pages>, file: Option<Arc<OpenFile>>, offset: u64 },
    /// Device memory; `base` is the first byte's. `keep` only lives.
    #[allow(dead_code)]
    Device { base: Phys, file: Arc<OpenFile>, keep: Arc<dyn Any + Send + Sync> },
}

impl Kind {
    /// The same, starting `by` bytes further on.
    fn advanced(&self, by: u64) -> Self {
        let mut kind = self.clone();
        match &mut kind {
            Self::Anonymous => {}
            Self::FileCopy { offset, .. } | Self::PagesCopy { offset, .. } | Self::Shared { offset, .. } => {
                *offset += by
            }
            Self::Device { base, .. } => base.0 += by,
        }
        kind
    }
    /// Does a write stay with this space?
    pub fn private(&self) -> bool {
        matches!(self, Self::Anonymous | Self::FileCopy { .. } | Self::PagesCopy { .. })
    }
    /// The file, for /proc/self/maps.
    pub fn file(&self) -> Option<(&Arc<OpenFile>, u64)> {
        match self {
            Self::FileCopy { file, offset } => Some((file, *offset)),
            Self::PagesCopy { file, offset, .. } | Self::Shared { file, offset, .. } => {
                file.as_ref().map(|file| (file, *offset))
            }
            Self::Device { file, .. } => Some((file, 0)),
            Self::Anonymous => None,
        }
    }
}

/// A mapping. It starts at its key in the table.
#[derive(Clone)]
pub(crate) struct Vma {
    /// First address after it.
    pub end: u64,
    pub prot: Prot,
    pub kind: Kind,
    /// Every page counts as written: new since the last clear_refs.
    pub soft: bool,
    /// A stack: it may grow down to this address.
    pub floor: Option<u64>,
    /// mlock.
    pub locked: bool,
    /// MADV_DONTFORK.
    pub no_fork: bool,
    /// May PROT_WRITE be given? Not for a shared mapping of a file opened for reading.
    pub may_write: bool,
}

impl Vma {
    /// Cuts off and returns the part from `at` on; `start < at < end`.
    pub fn split(&mut self, start: u64, at: u64) -> Self {
        let mut high = self.clone();
        high.kind = self.kind.advanced(at - start);
        high.floor = None;
        self.end = at;
        high
    }
    /// Does `next` continue this one, so that the two can be one?
    pub fn continues(&self, start: u64, next: &Self) -> bool {
        let kinds = match (&self.kind, &next.kind) {
            (Kind::Anonymous, Kind::Anonymous) => true,
            (Kind::Shared { pages, offset, .. }, Kind::Shared { pages: other, offset: at, .. }) => {
                pages.id() == other.id() && *at == offset + (self.end - start)
            }
            _ => false,
        };
        kinds
            && self.prot == next.prot
            && self.soft == next.soft
            && self.locked == next.locked
            && self.no_fork == next.no_fork
            && self.may_write == next.may_write
            && self.floor.is_none()
            && next.floor.is_none()
    }
}
