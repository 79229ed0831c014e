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

/// Reads `bytes` (1, 2 or 4) bytes from an I/O port that a PCI BAR decodes; all ones for another width.
pub fn read(port: u16, bytes: u64) -> u32 {
    // SAFETY: the port belongs to a PCI function whose BAR the caller sized; port reads touch no memory.
    unsafe {
        match bytes {
            1 => Port::<u8>::new(port).read().into(),
            2 => Port::<u16>::new(port).read().into(),
            4 => Port::<u32>::new(port).read(),
            _ => u32::MAX,
        }
    }
}

/// Writes `bytes` (1, 2 or 4) bytes to an I/O port that a PCI BAR decodes; nothing for another width.
pub fn write(port: u16, bytes: u64, value: u32) {
    // SAFETY: as in `read`; what the device does then goes through the IOMMU.
    unsafe {
        match bytes {
            1 => Port::<u8>::new(port).write(value as u8),
            2 => Port::<u16>::new(port).write(value as u16),
            4 => Port::<u32>::new(port).write(value),
            _ => {}
        }
    }
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
