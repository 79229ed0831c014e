//! What really happened: DMA writes that reached memory, and rules that software broke.

use iommu_types::{Pasid, StreamId};
use std::fmt;

/// One write that reached memory, within one 4 KiB page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DmaWrite {
    /// Position in the unit's history; grows by one with every write.
    pub seq: u64,
    /// Who wrote.
    pub stream: StreamId,
    /// With which PASID.
    pub pasid: Option<Pasid>,
    /// Address the device used.
    pub iova: u64,
    /// Where it landed.
    pub pa: u64,
    /// Bytes, at most 4096.
    pub len: u32,
}

/// A rule of the specification (or of memory ownership) that software broke.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which rule, in a few fixed words: tests match on it.
    pub rule: &'static str,
    /// Where and with which values.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}
