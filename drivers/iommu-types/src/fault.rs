//! A fault record, decoded, the same for every vendor.

use crate::{Access, Iova, Pasid, StreamId, UnitId};
use core::fmt;

/// Why a request was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultReason {
    /// No translation for the address.
    NotPresent,
    /// A translation without the right asked for.
    Permission,
    /// The stream is blocked or has no table.
    Blocked,
    /// A structure has an illegal encoding.
    BadStructure,
    /// The address is wider than the table.
    AddressWidth,
    /// An interrupt request was refused.
    Interrupt,
    /// The walker could not read or write a structure.
    WalkerAccess,
    /// Something else; the vendor's code tells.
    Other,
}

/// One refused request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The unit that refused.
    pub unit: UnitId,
    /// Who asked.
    pub stream: StreamId,
    /// With which PASID, if the request had one.
    pub pasid: Option<Pasid>,
    /// For which address; hardware may keep only the 4 KiB page.
    pub iova: Iova,
    /// Read or write.
    pub access: Access,
    /// Why, in common words.
    pub reason: FaultReason,
    /// The vendor's reason code.
    pub code: u16,
    /// The vendor's words for the code.
    pub words: &'static str,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.access.contains(Access::WRITE) { "write to" } else { "read of" };
        write!(f, "iommu{}: {} {verb} iova {:#x}", self.unit.0, self.stream, self.iova.0)?;
        if let Some(pasid) = self.pasid {
            write!(f, " pasid {}", pasid.0)?;
        }
        write!(f, " refused: {} (code {:#x})", self.words, self.code)
    }
}
