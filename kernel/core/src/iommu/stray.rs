//! `selftest=stray`: a device that nobody attached writes to memory. It must be refused and logged.
//!
//! The proof needs a device that does what it is told, so it needs `edu`. On a bus that bypasses the IOMMU the write arrives,
//! and the test fails: that machine is its red twin.

use super::selftest::Verdict;
use crate::devices::Inventory;
use crate::memory;
use crate::platform::frames as bytes;
use crate::platform::table_mem::Machine;
use alloc::format;
use alloc::string::ToString;
use device_api::Function;
use edu::{BUFFER, Direction, Transfer, transfer};
use iommu_types::Access;

const MARK: u8 = 0x5a;

/// Lets the first edu write over a page that no program mapped for it.
pub fn run(inventory: &Inventory) -> Verdict {
    let found =
        inventory.tree.functions.iter().find(|f| edu::matches(&f.ids)).ok_or("no edu device on this machine")?;
    let function = inventory.function(found);
    let frame = memory::frames().alloc_zeroed().ok_or("no memory")?;
    bytes::write(frame, &[MARK; 64]);
    super::drain_faults(&inventory.units);
    function.bus_master(true);
    let stray = Transfer { bus: frame, buffer: BUFFER, count: 64, direction: Direction::FromDevice };
    let sent = transfer(&*function, &Machine, &stray);
    function.bus_master(false);
    let mut seen = [0; 64];
    bytes::read(frame, &mut seen);
    let mut logged = false;
    for up in &inventory.units {
        up.unit.drain_faults(&mut |fault| {
            super::announce_fault(up.unit.name(), &fault);
            logged |= fault.stream == found.stream
                && fault.iova.0 & !0xfff == frame & !0xfff
                && fault.access.contains(Access::WRITE);
        });
    }
    memory::frames().release_frame(frame);
    sent.map_err(|e| e.to_string())?;
    if seen != [MARK; 64] {
        return Err(format!("the write of {} reached memory at {frame:#x}", found.stream));
    }
    if !logged {
        return Err(format!("the write of {} did not arrive, but no unit recorded it", found.stream));
    }
    Ok(format!("write of {} to {frame:#x} refused and logged", found.stream))
}
