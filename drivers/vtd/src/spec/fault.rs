//! Fault records (section 11.4.7.5) and reason codes (chapter 7).

use bitfield_struct::bitfield;
use iommu_types::FaultReason;

/// A fault record, two 64-bit registers.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct Record {
    #[bits(12)]
    __: u16,
    /// FI (63:12): the page asked for.
    #[bits(52)]
    pub frame: u64,
    /// SID (79:64): the requester.
    pub source: u16,
    #[bits(12)]
    __: u16,
    /// T2 (92): with T1, an atomic operation.
    pub type2: bool,
    /// PRIV (93).
    pub privileged: bool,
    /// EXE (94).
    pub execute: bool,
    /// PP (95): the PASID field means something.
    pub has_pasid: bool,
    /// FR (103:96): reason code.
    pub reason: u8,
    /// PV (123:104): PASID.
    #[bits(20)]
    pub pasid: u32,
    /// AT (125:124).
    #[bits(2)]
    pub address_type: u8,
    /// T1 (126): a read (else a write).
    pub type1: bool,
    /// F (127): the record is valid. Write 1 to clear.
    pub valid: bool,
}

/// Bytes per fault record.
pub const RECORD_BYTES: usize = 16;

/// A reason code in common words and in ours.
pub const fn reason(code: u8) -> (FaultReason, &'static str) {
    use FaultReason::*;
    match code {
        // Legacy mode, 7.1.3.
        0x01 => (Blocked, "no root entry for the bus"),
        0x02 => (Blocked, "no context entry for the device"),
        0x03 => (BadStructure, "context entry asks for what the unit cannot do"),
        0x04 => (AddressWidth, "address beyond the width of the table"),
        0x05 => (Permission, "nothing mapped there, or no right to write"),
        0x06 => (Permission, "nothing mapped there, or no right to read"),
        0x07 => (WalkerAccess, "second-stage entry leads to memory that cannot be read"),
        0x08 => (WalkerAccess, "root table cannot be read"),
        0x09 => (WalkerAccess, "context table cannot be read"),
        0x0a => (BadStructure, "reserved bits set in the root entry"),
        0x0b => (BadStructure, "reserved bits set in the context entry"),
        0x0c => (BadStructure, "reserved bits set in a second-stage entry"),
        0x0d => (Blocked, "translated or translation request not allowed for the device"),
        0x0e => (AddressWidth, "interrupt address range reached through a table"),
        0x10 => (BadStructure, "no such extended root entry"),
        0x11 => (BadStructure, "no such extended context entry"),
        // Interrupt remapping, 7.1.4.
        0x20 => (Interrupt, "reserved bits set in an interrupt request"),
        0x21 => (Interrupt, "interrupt index beyond the table"),
        0x22 => (Interrupt, "interrupt entry is not present"),
        0x23 => (Interrupt, "interrupt table cannot be read"),
        0x24 => (Interrupt, "reserved bits set in an interrupt entry"),
        0x25 => (Interrupt, "compatibility-format interrupt is blocked"),
        0x26 => (Interrupt, "interrupt from a requester that does not own the entry"),
        0x27 => (Interrupt, "posted-interrupt descriptor cannot be read"),
        0x28 => (Interrupt, "reserved bits set in a posted-interrupt descriptor"),
        // Scalable mode, 7.1.3: root table address.
        0x30 => (WalkerAccess, "root table address cannot be reached"),
        0x31 => (BadStructure, "translation table mode does not allow the request"),
        0x32 => (BadStructure, "translation table mode does not allow page requests"),
        // Root entry.
        0x38 => (WalkerAccess, "scalable root entry cannot be read"),
        0x39 => (Blocked, "no scalable root entry for the bus"),
        0x3a => (BadStructure, "reserved bits set in the scalable root entry"),
        // Context entry.
        0x40 => (WalkerAccess, "scalable context entry cannot be read"),
        0x41 => (Blocked, "no scalable context entry for the device"),
        0x42 => (BadStructure, "reserved bits set in the scalable context entry"),
        0x43 => (BadStructure, "scalable context entry asks for what the unit cannot do"),
        0x44 => (Blocked, "the device may not use translated requests"),
        0x45 => (Blocked, "the device may not use requests with PASID"),
        0x46 => (Blocked, "PASID is larger than the device's directory"),
        0x47 => (Blocked, "the device may not send page requests"),
        0x48 => (BadStructure, "RID_PASID field of the context entry is wrong"),
        // PASID directory and table.
        0x50 => (WalkerAccess, "PASID directory entry cannot be read"),
        0x51 => (Blocked, "no PASID directory entry"),
        0x52 => (BadStructure, "reserved bits set in the PASID directory entry"),
        0x58 => (WalkerAccess, "PASID entry cannot be read"),
        0x59 => (Blocked, "no PASID entry: the device is blocked"),
        0x5a => (BadStructure, "reserved bits set in the PASID entry"),
        0x5b => (BadStructure, "PASID entry is not usable"),
        0x5c => (Permission, "execute requests are not enabled for the PASID"),
        0x5d => (Permission, "supervisor requests are not enabled for the PASID"),
        // First stage.
        0x70 => (WalkerAccess, "first-stage entry cannot be read"),
        0x71 => (NotPresent, "nothing is mapped there (first stage)"),
        0x72 => (BadStructure, "reserved bits set in a first-stage entry"),
        0x73 => (WalkerAccess, "first-stage table pointer cannot be reached"),
        0x74 => (AddressWidth, "first-stage entry leads beyond the second stage"),
        0x75 => (Permission, "first-stage top table is not readable in the second stage"),
        0x76 => (Permission, "first-stage table is not readable in the second stage"),
        0x77 => (Permission, "first-stage table is not writable in the second stage"),
        // Second stage.
        0x78 => (WalkerAccess, "second-stage entry cannot be read"),
        0x79 => (Permission, "second-stage table does not allow the access"),
        0x7a => (BadStructure, "reserved bits set in a second-stage entry"),
        0x7b => (WalkerAccess, "second-stage table pointer cannot be reached"),
        0x7c => (WalkerAccess, "accessed or dirty bit needed in a second-stage entry, but the walk is not snooped"),
        // General, 80h and up.
        0x80 => (AddressWidth, "address is not canonical"),
        0x81 => (Permission, "page is for the supervisor only"),
        0x82 => (Permission, "page is not for execution"),
        0x83 => (AddressWidth, "address beyond what the hardware can express"),
        0x84 => (AddressWidth, "address beyond the second stage"),
        0x85 => (Permission, "no right to write there"),
        0x86 => (Permission, "no right to read there"),
        0x87 => (Interrupt, "address in the interrupt range"),
        0x90 => (WalkerAccess, "accessed or dirty bit needed in a first-stage entry, but the walk is not snooped"),
        0x91 => (WalkerAccess, "accessed or dirty bit could not be stored in a first-stage entry"),
        _ => (Other, "reason unknown to this driver"),
    }
}
