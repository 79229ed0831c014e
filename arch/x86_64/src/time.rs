//! Time-stamp counter, calibration, wall clock.

use crate::port::{in8, out8};
use core::sync::atomic::{AtomicU64, Ordering};
use raw_cpuid::CpuId;

static TSC_BASE: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per TSC tick, times 2^32.
static TSC_SCALE: AtomicU64 = AtomicU64::new(1 << 32);
static TSC_HZ: AtomicU64 = AtomicU64::new(1_000_000_000);

/// The time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: RDTSC reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Nanoseconds since [`init`] ran (before: since power-on, roughly).
pub fn now_ns() -> u64 {
    let ticks = tsc().wrapping_sub(TSC_BASE.load(Ordering::Relaxed));
    ((u128::from(ticks) * u128::from(TSC_SCALE.load(Ordering::Relaxed))) >> 32) as u64
}

/// Ticks of the TSC per second.
pub fn tsc_hz() -> u64 {
    TSC_HZ.load(Ordering::Relaxed)
}

/// TSC value at `ns` nanoseconds after [`init`].
pub fn tsc_at(ns: u64) -> u64 {
    TSC_BASE.load(Ordering::Relaxed) + (u128::from(ns) * u128::from(tsc_hz()) / 1_000_000_000) as u64
}

/// PIT input clock in Hz.
const PIT_HZ: u64 = 1_193_182;

/// Reads channel 2's count and the counters `sample` beside it; of several tries the one with the least delay.
fn pit_sample(sample: &mut dyn FnMut() -> u64) -> (u16, u64, u64) {
    let mut best = (u64::MAX, 0u16, 0, 0);
    for _ in 0..4 {
        let before = tsc();
        out8(0x43, 0x80); // latch channel 2
        let count = u16::from(in8(0x42)) | u16::from(in8(0x42)) << 8;
        let other = sample();
        let after = tsc();
        if after - before < best.0 {
            best = (after - before, count, before + (after - before) / 2, other);
        }
    }
    (best.1, best.2, best.3)
}

/// Measures how fast the TSC and a second counter (counting down, `sample`) run; returns the second one's rate in Hz.
///
/// The TSC rate comes from CPUID leaf 0x15 where that has it, else from about 4 ms of PIT channel 2.
pub fn init(sample: &mut dyn FnMut() -> u64) -> u64 {
    out8(0x61, in8(0x61) & !2 | 1); // gate on, speaker off
    out8(0x43, 0b1011_0100); // channel 2, low then high byte, mode 2
    out8(0x42, 0xff);
    out8(0x42, 0xff);
    let (c0, t0, s0) = pit_sample(sample);
    let (mut c1, mut t1, mut s1);
    let mut tries = 0u32;
    loop {
        (c1, t1, s1) = pit_sample(sample);
        tries += 1;
        // A PIT that stands still must not stop the boot: 2^20 reads are over a second.
        if c0.wrapping_sub(c1) >= 4800 || tries > 1 << 20 {
            break;
        }
    }
    let pit = u64::from(c0.wrapping_sub(c1)).max(1);
    let measured = (t1 - t0) * PIT_HZ / pit;
    let known = CpuId::new().get_tsc_info().and_then(|i| i.tsc_frequency());
    let hz = known.unwrap_or(measured).max(1_000_000);
    TSC_HZ.store(hz, Ordering::Relaxed);
    TSC_SCALE.store(((1_000_000_000u128 << 32) / u128::from(hz)) as u64, Ordering::Relaxed);
    TSC_BASE.store(t0, Ordering::Relaxed);
    s0.wrapping_sub(s1) * PIT_HZ / pit
}

/// Seconds since 1970 by the CMOS clock (taken as UTC); 0 if it makes no sense.
pub fn wall_clock_seconds() -> u64 {
    let cmos = |r: u8| {
        out8(0x70, r | 0x80);
        in8(0x71)
    };
    let read = || [cmos(0), cmos(2), cmos(4), cmos(7), cmos(8), cmos(9)];
    // Status A bit 7: an update is in progress; two equal readings outside of one are good.
    let mut now = read();
    for _ in 0..10_000 {
        if cmos(0x0a) & 0x80 == 0 {
            let again = read();
            if again == now {
                break;
            }
            now = again;
        }
    }
    let status = cmos(0x0b);
    let bcd = |v: u8| if status & 4 == 0 { (v >> 4) * 10 + (v & 15) } else { v };
    let pm = status & 2 == 0 && now[2] & 0x80 != 0;
    let mut hour = u64::from(bcd(now[2] & 0x7f));
    if status & 2 == 0 {
        hour = hour % 12 + if pm { 12 } else { 0 };
    }
    let (second, minute) = (u64::from(bcd(now[0])), u64::from(bcd(now[1])));
    let (day, month, year) = (i64::from(bcd(now[3])), i64::from(bcd(now[4])), 2000 + i64::from(bcd(now[5])));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return 0;
    }
    // Days since 1970-01-01 in the Gregorian calendar, years starting in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    days as u64 * 86_400 + hour * 3600 + minute * 60 + second
}
