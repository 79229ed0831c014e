//! The system-call side of Linux's interface: numbers, flags and structures, little-endian, 64-bit.

pub mod abi;
pub mod fs;
pub mod mman;
pub mod net;
pub mod nr;
pub mod sched;
pub mod signal;
pub mod time;

/// Declares documented constants of one type.
macro_rules! constants {
    ($($(#[$meta:meta])* $name:ident : $kind:ty = $value:expr),+ $(,)?) => {
        $($(#[$meta])* #[doc = concat!("`", stringify!($name), "`")]
        pub const $name: $kind = $value;)+
    };
}
pub(crate) use constants;
