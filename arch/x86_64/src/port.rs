//! I/O ports.

use x86_64::instructions::port::Port;

pub(crate) fn in8(port: u16) -> u8 {
    // SAFETY: callers in this crate name legacy ports whose access touches no memory.
    unsafe { Port::<u8>::new(port).read() }
}

pub(crate) fn out8(port: u16, value: u8) {
    // SAFETY: as above.
    unsafe { Port::<u8>::new(port).write(value) }
}

/// Ends the machine with `code` by QEMU's isa-debug-exit at port 0xf4: QEMU's own status is `code * 2 + 1`. Without that
/// device: stops for ever.
pub fn exit(code: u32) -> ! {
    // SAFETY: nothing else listens at 0xf4 on a PC.
    unsafe { Port::<u32>::new(0xf4).write(code) };
    crate::cpu::halt()
}

/// Masks both 8259 interrupt controllers; their vectors are moved away from the exceptions first, as a masked one can
/// still raise a spurious interrupt.
pub fn mask_legacy_interrupts() {
    for (base, vector, cascade) in [(0x20u16, 0xe0u8, 4u8), (0xa0, 0xe8, 2)] {
        out8(base, 0x11);
        out8(base + 1, vector);
        out8(base + 1, cascade);
        out8(base + 1, 1);
        out8(base + 1, 0xff);
    }
}
