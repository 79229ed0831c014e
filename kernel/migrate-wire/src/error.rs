//! Why a stream was refused.

use core::fmt;

/// Why bytes are not a stream that this reader takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The opening does not begin with the magic: not a migration stream.
    Magic,
    /// A version this reader does not know.
    Version(u16),
    /// The opening's role is unknown, or the peer has our own.
    Role(u8),
    /// A reserved field is not zero.
    Reserved,
    /// The opening's or a frame header's checksum differs.
    HeadChecksum {
        /// In the stream.
        got: u32,
        /// Computed.
        want: u32,
    },
    /// A frame body's checksum differs.
    BodyChecksum {
        /// Section number of the frame.
        section: u16,
        /// In the stream.
        got: u64,
        /// Computed.
        want: u64,
    },
    /// A body longer than [`MAX_BODY`](crate::stream::MAX_BODY) bytes.
    TooLong(u32),
    /// Frames are missing, doubled or out of order.
    Sequence {
        /// In the stream.
        got: u32,
        /// The next one.
        want: u32,
    },
    /// A section this reader does not know and may not skip.
    UnknownSection(u16),
    /// Flag bits this reader does not know.
    UnknownFlags(u16),
    /// The body's length does not fit its section.
    Length {
        /// Section number.
        section: u16,
        /// Bytes of the body.
        length: usize,
    },
    /// A field has a value that it cannot have.
    Value {
        /// Section number.
        section: u16,
        /// The field, and what is wrong.
        what: &'static str,
    },
    /// A message that may not come here.
    Order {
        /// Section number.
        section: u16,
        /// What the stream was at.
        at: &'static str,
    },
    /// The stream ended in the middle of a frame or before its last message.
    Cut,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => write!(f, "not a migration stream"),
            Self::Version(version) => write!(f, "stream version {version} is not known here"),
            Self::Role(role) => write!(f, "the peer has role {role}, which does not fit"),
            Self::Reserved => write!(f, "a reserved field is not zero"),
            Self::HeadChecksum { got, want } => write!(f, "header checksum {got:#010x}, computed {want:#010x}"),
            Self::BodyChecksum { section, got, want } => {
                write!(f, "section {section}: checksum {got:#018x}, computed {want:#018x}")
            }
            Self::TooLong(length) => write!(f, "a frame of {length} bytes is too long"),
            Self::Sequence { got, want } => write!(f, "frame {got} came where {want} was due"),
            Self::UnknownSection(section) => write!(f, "section {section} is not known here"),
            Self::UnknownFlags(flags) => write!(f, "frame flags {flags:#06x} are not known here"),
            Self::Length { section, length } => write!(f, "section {section}: {length} bytes do not fit"),
            Self::Value { section, what } => write!(f, "section {section}: {what}"),
            Self::Order { section, at } => write!(f, "section {section} may not come {at}"),
            Self::Cut => write!(f, "the stream is cut"),
        }
    }
}

impl core::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn an_error_can_be_read_in_a_log() {
        assert_eq!(
            format!("{}", Error::Order { section: 12, at: "before the end" }),
            "section 12 may not come before the end"
        );
        assert_eq!(
            format!("{}", Error::BodyChecksum { section: 5, got: 1, want: 0x89ab_cdef }),
            "section 5: checksum 0x0000000000000001, computed 0x0000000089abcdef"
        );
    }
}
