//! Base address registers (PCIe 6.0 section 7.5.1.2.1).

use crate::config::ConfigSpace;
use crate::spec::{command, header};
use device_api::BarKind;
use iommu_types::{Phys, StreamId};

/// One BAR as decoded: where and how large.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawBar {
    /// Assigned address or port; 0 if firmware assigned none.
    pub phys: Phys,
    /// Bytes, a power of two.
    pub size: u64,
    /// Memory or I/O.
    pub kind: BarKind,
}

/// Sizes the first `count` BARs (6 for a type 0 header, 2 for a bridge) by writing all ones. Decoding is off for that time, so nothing answers
/// at the odd addresses; registers and command are as before afterwards. The function must not be in use.
pub fn size_bars(config: &dyn ConfigSpace, at: StreamId, count: u8) -> [Option<RawBar>; 6] {
    let mut bars = [None; 6];
    let before = config.read16(at, header::COMMAND);
    config.write16(at, header::COMMAND, before & !(command::IO | command::MEMORY));
    let probe = |offset: u16| {
        let value = config.read32(at, offset);
        config.write32(at, offset, u32::MAX);
        let mask = config.read32(at, offset);
        config.write32(at, offset, value);
        (value, mask)
    };
    let mut index = 0u8;
    while index < count.min(6) {
        let offset = header::BAR0 + 4 * u16::from(index);
        let (value, mask) = probe(offset);
        let slot = usize::from(index);
        index += 1;
        if mask == 0 || mask == u32::MAX && value == u32::MAX {
            continue;
        }
        let bar = if value & 1 == 1 {
            // Bits 31:16 of an I/O BAR may be hardwired to zero.
            let ones = mask & !3;
            let size = u64::from(ones & ones.wrapping_neg());
            (size != 0).then_some(RawBar { phys: Phys((value & !3).into()), size, kind: BarKind::Io })
        } else {
            let wide = (value >> 1) & 3 == 2 && index < count.min(6);
            let (mut base, mut ones) = (u64::from(value & !15), u64::from(mask & !15) | 0xffff_ffff_0000_0000);
            if wide {
                let (high, high_mask) = probe(offset + 4);
                index += 1;
                base |= u64::from(high) << 32;
                ones = u64::from(mask & !15) | u64::from(high_mask) << 32;
            } else if mask & !15 == 0 {
                ones = 0;
            }
            let size = ones & ones.wrapping_neg();
            let kind = BarKind::Memory { wide, prefetchable: value & 8 != 0 };
            (size != 0).then_some(RawBar { phys: Phys(base), size, kind })
        };
        if let Some(entry) = bars.get_mut(slot) {
            *entry = bar;
        }
    }
    config.write16(at, header::COMMAND, before);
    bars
}
