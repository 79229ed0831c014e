//! Errors say who is to blame; one function in kernel/uapi maps them to errno.

use crate::{StreamId, UnitId};
use core::fmt;

/// Which limited thing ran out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resource {
    /// Physical memory.
    Memory,
    /// Domain ids of a unit.
    DomainIds,
    /// Queue space.
    Queue,
    /// Object ids, file descriptors, table slots.
    Ids,
}

/// Where in a firmware table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct At {
    /// Table signature or file kind, as `DMAR`.
    pub table: [u8; 4],
    /// Byte offset of the structure in the table.
    pub offset: u32,
    /// What is wrong, in words.
    pub reason: &'static str,
}

/// Who has to change something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blame {
    /// The caller asked for something the interface does not allow.
    Caller,
    /// Something ran out; nothing was changed.
    Resource,
    /// Hardware did not do what the specification says.
    Hardware,
    /// A firmware table contradicts itself or the registers.
    Firmware,
}

/// Failure of an IOMMU operation. Who is to blame decides what the caller may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Caller: the request breaks a rule of the interface.
    Invalid(&'static str),
    /// Caller: the thing exists here but not with these options; names the missing capability.
    Unsupported(&'static str),
    /// Caller: an item is already mapped there.
    Exists,
    /// Caller: nothing is mapped, or no such object.
    NotFound(&'static str),
    /// Caller: an address is outside what the table or the hardware can express.
    Range(&'static str),
    /// Caller: in use.
    Busy(&'static str),
    /// Caller: the unit or format cannot track writes; names the missing capability bit.
    NoTracking(&'static str),
    /// Caller: the sink of a report refused; everything cleared so far was set again.
    Sink,
    /// Resource: ran out; nothing was changed.
    Exhausted(Resource),
    /// Hardware: it did not do what the specification says, in time.
    Stuck {
        /// The unit.
        unit: UnitId,
        /// The register polled.
        register: &'static str,
        /// Bits or value waited for.
        want: u64,
        /// What it showed at the deadline.
        got: u64,
    },
    /// Hardware: the device is gone or does not answer.
    Lost(StreamId),
    /// Hardware: a register has a value that the specification does not allow.
    Impossible {
        /// The unit.
        unit: UnitId,
        /// The register.
        register: &'static str,
        /// Its value.
        value: u64,
    },
    /// Firmware: a table contradicts itself or the registers.
    Firmware(At),
}

impl Error {
    /// Who has to change something.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Exhausted(_) => Blame::Resource,
            Self::Stuck { .. } | Self::Lost(_) | Self::Impossible { .. } => Blame::Hardware,
            Self::Firmware(_) => Blame::Firmware,
            _ => Blame::Caller,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) => write!(f, "invalid: {why}"),
            Self::Unsupported(what) => write!(f, "not supported: {what}"),
            Self::Exists => write!(f, "already mapped"),
            Self::NotFound(what) => write!(f, "not found: {what}"),
            Self::Range(what) => write!(f, "out of range: {what}"),
            Self::Busy(what) => write!(f, "busy: {what}"),
            Self::NoTracking(what) => write!(f, "no dirty tracking: {what}"),
            Self::Sink => write!(f, "the report could not be delivered"),
            Self::Exhausted(what) => write!(f, "exhausted: {what:?}"),
            Self::Stuck { unit, register, want, got } => {
                write!(f, "unit {} stuck: {register} {got:#x}, wanted {want:#x}", unit.0)
            }
            Self::Lost(stream) => write!(f, "device {stream} does not answer"),
            Self::Impossible { unit, register, value } => {
                write!(f, "unit {}: impossible {register} {value:#x}", unit.0)
            }
            Self::Firmware(at) => {
                let name = core::str::from_utf8(&at.table).unwrap_or("????");
                write!(f, "{name}+{:#x}: {}", at.offset, at.reason)
            }
        }
    }
}

impl core::error::Error for Error {}
