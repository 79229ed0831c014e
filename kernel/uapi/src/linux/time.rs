//! Clocks and time structures.
use super::constants;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

constants! {
    CLOCK_REALTIME: u64 = 0,
    CLOCK_MONOTONIC: u64 = 1,
    CLOCK_PROCESS_CPUTIME_ID: u64 = 2,
    CLOCK_THREAD_CPUTIME_ID: u64 = 3,
    CLOCK_MONOTONIC_RAW: u64 = 4,
    CLOCK_REALTIME_COARSE: u64 = 5,
    CLOCK_MONOTONIC_COARSE: u64 = 6,
    CLOCK_BOOTTIME: u64 = 7,
    TIMER_ABSTIME: u64 = 1,
    UTIME_NOW: i64 = 0x3fff_ffff,
    UTIME_OMIT: i64 = 0x3fff_fffe,
}

/// `struct timespec`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Timespec {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds, 0..=999_999_999.
    pub nsec: i64,
}

impl Timespec {
    /// From nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self { sec: (nanos / 1_000_000_000) as i64, nsec: (nanos % 1_000_000_000) as i64 }
    }
    /// In nanoseconds, saturating; `None` if a field is negative or out of range.
    pub fn nanos(self) -> Option<u64> {
        if self.sec < 0 || !(0..1_000_000_000).contains(&self.nsec) {
            return None;
        }
        Some((self.sec as u64).saturating_mul(1_000_000_000).saturating_add(self.nsec as u64))
    }
}

/// `struct timeval`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Timeval {
    /// Seconds.
    pub sec: i64,
    /// Microseconds.
    pub usec: i64,
}

impl Timeval {
    /// From nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self { sec: (nanos / 1_000_000_000) as i64, usec: (nanos % 1_000_000_000 / 1000) as i64 }
    }
    /// In nanoseconds, saturating; `None` if a field is negative or out of range.
    pub fn nanos(self) -> Option<u64> {
        Timespec { sec: self.sec, nsec: self.usec.checked_mul(1000)? }.nanos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_range_times_are_refused_and_huge_ones_saturate() {
        assert_eq!(Timespec { sec: -1, nsec: 0 }.nanos(), None);
        assert_eq!(Timespec { sec: 0, nsec: 1_000_000_000 }.nanos(), None);
        assert_eq!(Timespec { sec: i64::MAX, nsec: 1 }.nanos(), Some(u64::MAX));
        assert_eq!(Timespec::from_nanos(1_500_000_000), Timespec { sec: 1, nsec: 500_000_000 });
        assert_eq!(Timeval { sec: 0, usec: i64::MAX }.nanos(), None);
    }
}
