//! One IOMMU.

use crate::Domain;
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu_types::{Error, Fault, Features, Pasid, PhysRange, StreamId, UnitId};

/// What kind of domain is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DomainSpec {
    /// It must be able to track writes.
    pub dirty_tracking: bool,
    /// It will be the parent of nested domains.
    pub nest_parent: bool,
}

/// Memory that firmware says some streams must keep reaching, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReservedRegion {
    /// Physical and iova range (mapped one to one).
    pub range: PhysRange,
    /// Only these.
    pub streams: Vec<StreamId>,
    /// Table, offset and type, as "DMAR+0x80 RMRR".
    pub reason: &'static str,
}

/// Why an attach did not happen; the stream is where it was before.
pub type AttachError = Error;

/// One IOMMU. Streams that were never attached are blocked (rule `blocked-first`).
pub trait IommuUnit: Send + Sync {
    /// Its number.
    fn id(&self) -> UnitId;
    /// A short name for logs, as "vtd0".
    fn name(&self) -> &str;
    /// Its abilities, after quirks.
    fn features(&self) -> Features;
    /// Vendor capability registers for user programs (GET_HW_INFO): VT-d (CAP, ECAP).
    fn raw_capabilities(&self) -> [u64; 2];

    /// Makes an empty domain.
    ///
    /// # Errors
    /// [`Error::NoTracking`] naming the missing capability, [`Error::Unsupported`], [`Error::Exhausted`].
    fn make_domain(&self, spec: DomainSpec) -> Result<Arc<dyn Domain>, Error>;

    /// Moves `stream` (and `pasid` of it) from wherever it is to `domain`, in one step that hardware never sees torn;
    /// flushed when it returns. On error the stream is where it was.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the domain is another driver's, does not fit this unit's widths and sizes, or tracks writes
    /// while this unit cannot; [`Error::Exhausted`] for domain ids or memory; hardware errors.
    fn attach(&self, stream: StreamId, pasid: Option<Pasid>, domain: &Arc<dyn Domain>) -> Result<(), AttachError>;

    /// Moves `stream` (and `pasid` of it) to the blocked state; flushed when it returns. Idempotent.
    ///
    /// # Errors
    /// Hardware errors: the stream then counts as lost and its pages must stay pinned.
    fn block(&self, stream: StreamId, pasid: Option<Pasid>) -> Result<(), Error>;

    /// Hands every fault recorded since the last call to `sink` and clears it in hardware. At most one buffer-full.
    fn drain_faults(&self, sink: &mut dyn FnMut(Fault));

    /// One line about its state for people ("translation on, 3 domains, queue 4/256").
    fn status(&self) -> alloc::string::String;
}
