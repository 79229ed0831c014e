//! The local APIC: end of interrupt, timer, message addresses. Intel SDM volume 3, chapter 12.

use crate::cpu::features;
use crate::mmio::Window;
use crate::time;
use crate::trap::{SPURIOUS, TIMER};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use spin::Once;
use x86_64::registers::model_specific::{ApicBase, ApicBaseFlags, Msr};

const ID: usize = 0x20;
const TPR: usize = 0x80;
const EOI: usize = 0xb0;
const SVR: usize = 0xf0;
const LVT_TIMER: usize = 0x320;
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const INITIAL: usize = 0x380;
const CURRENT: usize = 0x390;
const DIVIDE: usize = 0x3e0;
const MASKED: u32 = 1 << 16;
const TSC_DEADLINE_MSR: u32 = 0x6e0;

static X2APIC: AtomicBool = AtomicBool::new(false);
static WINDOW: Once<Window> = Once::new();
/// Timer ticks per second after the divider.
static TIMER_HZ: AtomicU64 = AtomicU64::new(0);

fn read(reg: usize) -> u32 {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: x2APIC mode is on; the register exists in it (all but the destination format do).
        unsafe { Msr::new(0x800 + (reg as u32 >> 4)).read() as u32 }
    } else {
        WINDOW.get().map_or(0, |w| w.r32(reg))
    }
}

fn write(reg: usize, value: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: as in `read`; these registers reach no memory.
        unsafe { Msr::new(0x800 + (reg as u32 >> 4)).write(u64::from(value)) }
    } else if let Some(w) = WINDOW.get() {
        w.w32(reg, value);
    }
}

/// Switches the APIC on and measures its timer and the TSC. `map` gives an uncached window on a physical range; it is
/// asked only where x2APIC mode is missing.
pub fn init(map: &dyn Fn(u64, usize) -> Option<Window>) {
    crate::port::mask_legacy_interrupts();
    let (frame, flags) = ApicBase::read();
    if features().x2apic {
        // SAFETY: enabling x2APIC from xAPIC or x2APIC mode is allowed (figure 12-27); the base stays.
        unsafe { ApicBase::write(frame, flags | ApicBaseFlags::LAPIC_ENABLE | ApicBaseFlags::X2APIC_ENABLE) };
        X2APIC.store(true, Ordering::Relaxed);
    } else if let Some(window) = map(frame.start_address().as_u64(), 4096) {
        // SAFETY: the base stays.
        unsafe { ApicBase::write(frame, flags | ApicBaseFlags::LAPIC_ENABLE) };
        WINDOW.call_once(|| window);
    }
    write(LVT_LINT0, MASKED);
    write(LVT_LINT1, MASKED);
    write(LVT_TIMER, MASKED | u32::from(TIMER));
    write(TPR, 0);
    write(SVR, 0x100 | u32::from(SPURIOUS));
    write(DIVIDE, 0b1011); // by 1
    write(INITIAL, u32::MAX);
    let hz = time::init(&mut || u64::from(read(CURRENT)));
    write(INITIAL, 0);
    TIMER_HZ.store(hz.max(1), Ordering::Relaxed);
    let mode = if features().tsc_deadline { 2 << 17 } else { 0 };
    write(LVT_TIMER, mode | u32::from(TIMER));
}

/// Acknowledges the interrupt in service.
pub fn end_of_interrupt() {
    write(EOI, 0);
}

/// Rate of the timer in Hz, as measured.
pub fn timer_hz() -> u64 {
    TIMER_HZ.load(Ordering::Relaxed)
}

/// Is x2APIC mode on?
pub fn is_x2apic() -> bool {
    X2APIC.load(Ordering::Relaxed)
}

/// Id of this CPU's APIC.
pub fn id() -> u32 {
    if is_x2apic() { read(ID) } else { read(ID) >> 24 }
}

/// Raises [`TIMER`] once, `ns` nanoseconds from now (0: as soon as possible); replaces what was armed before.
pub fn arm_timer(ns: u64) {
    if features().tsc_deadline {
        let ticks = (u128::from(ns) * u128::from(time::tsc_hz()) / 1_000_000_000) as u64;
        // SAFETY: the MSR exists by CPUID; 0 would disarm.
        unsafe { Msr::new(TSC_DEADLINE_MSR).write((time::tsc() + ticks).max(1)) };
    } else {
        let ticks = u128::from(ns) * u128::from(timer_hz()) / 1_000_000_000;
        write(INITIAL, ticks.clamp(1, u128::from(u32::MAX)) as u32);
    }
}

/// Disarms the timer.
pub fn stop_timer() {
    if features().tsc_deadline {
        // SAFETY: as above.
        unsafe { Msr::new(TSC_DEADLINE_MSR).write(0) };
    } else {
        write(INITIAL, 0);
    }
}

/// Address and data of a message that raises `vector` on this CPU (compatibility format; the id must be below 256).
pub fn message(vector: u8) -> (u64, u32) {
    (0xfee0_0000 | u64::from(id() & 0xff) << 12, u32::from(vector))
}
