//! Errors of device drivers, with blame; the kernel's one errno function maps them.

use core::fmt;
use iommu_types::{Blame, StreamId};

/// Failure of a device operation. Who is to blame decides what the caller may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Caller: the request breaks a rule of the interface (EINVAL).
    Invalid(&'static str),
    /// Caller: the function cannot do that; names the missing capability (EOPNOTSUPP or ENOTTY).
    Unsupported(&'static str),
    /// Caller: saved state that was cut, altered, of another device or of a version this driver does not know (EINVAL).
    /// The device was not touched.
    BadState {
        /// Section number, 0 for the frame around the sections.
        section: u16,
        /// What is wrong, in words.
        reason: &'static str,
    },
    /// Caller: the sink of a save refused bytes; carries its errno as a positive number.
    Sink(i32),
    /// Resource: memory or a private page; nothing was changed (ENOMEM).
    Exhausted(&'static str),
    /// Hardware: a register did not show what it must within the bound (EIO).
    Stuck {
        /// The function.
        stream: StreamId,
        /// The register polled.
        register: &'static str,
        /// Value or bits waited for.
        want: u64,
        /// What it showed at the deadline.
        got: u64,
    },
    /// Hardware: the function reads as all ones; it is gone or powered down (EIO).
    Lost(StreamId),
    /// The IOMMU side refused, for instance the attach of the private page.
    Iommu(iommu_types::Error),
}

impl Error {
    /// Who has to change something.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Invalid(_) | Self::Unsupported(_) | Self::BadState { .. } | Self::Sink(_) => Blame::Caller,
            Self::Exhausted(_) => Blame::Resource,
            Self::Stuck { .. } | Self::Lost(_) => Blame::Hardware,
            Self::Iommu(error) => error.blame(),
        }
    }
}

impl From<iommu_types::Error> for Error {
    fn from(error: iommu_types::Error) -> Self {
        Self::Iommu(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) => write!(f, "invalid: {why}"),
            Self::Unsupported(what) => write!(f, "not supported: {what}"),
            Self::BadState { section: 0, reason } => write!(f, "device state refused: {reason}"),
            Self::BadState { section, reason } => write!(f, "device state refused: section {section}: {reason}"),
            Self::Sink(errno) => write!(f, "the saved state could not be delivered (errno {errno})"),
            Self::Exhausted(what) => write!(f, "exhausted: {what}"),
            Self::Stuck { stream, register, want, got } => {
                write!(f, "{stream} stuck: {register} {got:#x}, wanted {want:#x}")
            }
            Self::Lost(stream) => write!(f, "device {stream} does not answer"),
            Self::Iommu(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl core::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn blame_follows_the_cause() {
        let stream = StreamId::pci(0, 1, 0, 0);
        assert_eq!(Error::BadState { section: 3, reason: "cut" }.blame(), Blame::Caller);
        assert_eq!(Error::Stuck { stream, register: "STATUS", want: 2, got: 0 }.blame(), Blame::Hardware);
        assert_eq!(Error::Iommu(iommu_types::Error::Exhausted(iommu_types::Resource::Memory)).blame(), Blame::Resource);
    }

    #[test]
    fn a_stuck_register_can_be_read_in_a_log() {
        let stuck = Error::Stuck { stream: StreamId::pci(0, 1, 0, 0), register: "STATUS", want: 2, got: 0x80 };
        assert_eq!(format!("{stuck}"), "0000:01:00.0 stuck: STATUS 0x80, wanted 0x2");
        assert_eq!(
            format!("{}", Error::BadState { section: 3, reason: "head past the ring" }),
            "device state refused: section 3: head past the ring"
        );
    }
}
