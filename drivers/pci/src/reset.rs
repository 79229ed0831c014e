//! Function level reset (PCIe 6.0 section 6.6.2).

use crate::config::ConfigSpace;
use crate::enumerate::FunctionInfo;
use crate::spec::{advanced, cap, command, express, header};
use alloc::vec::Vec;
use device_api::{Clock, Error, until};
use iommu_types::StreamId;

const MS: u64 = 1_000_000;
/// Section 6.6.2: wait at least this long before the function is touched.
const SETTLE: u64 = 100 * MS;
/// Section 6.6.1: a function that is not ready a second after the reset is broken.
const READY: u64 = 1000 * MS;

/// How a function can be reset alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResetKind {
    /// Through its PCI Express capability at this offset.
    Express(u16),
    /// Through its Advanced Features capability at this offset.
    Advanced(u16),
}

/// How, or why not.
///
/// # Errors
/// The missing capability, in words.
pub fn reset_kind(config: &dyn ConfigSpace, function: &FunctionInfo) -> Result<ResetKind, &'static str> {
    match (function.express, function.advanced) {
        (Some(express), _) if express.flr => Ok(ResetKind::Express(express.offset)),
        (_, Some(offset))
            if config.read8(function.stream, offset + advanced::CAP) & advanced::NEEDED == advanced::NEEDED =>
        {
            Ok(ResetKind::Advanced(offset))
        }
        (Some(_), _) => Err("no function level reset: bit 28 of its device capabilities is clear"),
        (None, _) => Err("no function level reset: conventional PCI without Advanced Features"),
    }
}

/// Resets a function: quiet, wait for what it has under way, reset, wait, restore its header and PCI Express controls. Bus mastering
/// and interrupts are off afterwards; MSI and MSI-X are as the reset left them, off.
///
/// Takes at most about 1.2 seconds.
///
/// # Errors
/// [`Error::Unsupported`] without the capability, [`Error::Lost`] if it reads as all ones before, [`Error::Stuck`] if it does not come
/// back.
pub fn function_level_reset(
    config: &dyn ConfigSpace,
    function: &FunctionInfo,
    clock: &(impl Clock + ?Sized),
) -> Result<(), Error> {
    let at = function.stream;
    let kind = reset_kind(config, function).map_err(Error::Unsupported)?;
    if gone(config, at) {
        return Err(Error::Lost(at));
    }
    let saved = Saved::read(config, function);
    config.write16(at, header::COMMAND, command::INTX_DISABLE);
    let pending = || match kind {
        ResetKind::Express(at_cap) => {
            config.read16(at, at_cap + express::DEVICE_STATUS) & express::TRANSACTIONS_PENDING != 0
        }
        ResetKind::Advanced(at_cap) => config.read8(at, at_cap + advanced::STATUS) & 1 != 0,
    };
    // A completion that never comes must not keep us from the reset; the specification lets it be lost then.
    until(clock, SETTLE, || !pending());
    match kind {
        ResetKind::Express(at_cap) => {
            let control = config.read16(at, at_cap + express::DEVICE_CONTROL);
            config.write16(at, at_cap + express::DEVICE_CONTROL, control | express::INITIATE_FLR);
        }
        ResetKind::Advanced(at_cap) => config.write8(at, at_cap + advanced::CONTROL, 1),
    }
    until(clock, SETTLE, || false);
    if !until(clock, READY, || !gone(config, at)) {
        return Err(Error::Stuck { stream: at, register: "vendor id after reset", want: 0, got: 0xffff });
    }
    saved.write(config, at);
    Ok(())
}

/// All ones: not there. 0x0001 in the vendor id: not ready yet (section 2.3.1, request retry status).
fn gone(config: &dyn ConfigSpace, at: StreamId) -> bool {
    matches!(config.read32(at, header::ID) & 0xffff, 0xffff | 0x0001)
}

/// What a reset clears and software set.
struct Saved {
    command: u16,
    words: Vec<(u16, u32)>,
    halves: Vec<(u16, u16)>,
}

impl Saved {
    fn read(config: &dyn ConfigSpace, function: &FunctionInfo) -> Self {
        let at = function.stream;
        let bars = (0..u16::from(function.bar_count())).map(|index| header::BAR0 + 4 * index);
        let words = bars.chain([header::ROM, header::INTERRUPT]).map(|o| (o, config.read32(at, o))).collect();
        let express = function.capabilities.iter().find(|entry| entry.id == cap::EXPRESS.into());
        let mut halves = alloc::vec![(header::CACHE_LINE, config.read16(at, header::CACHE_LINE))];
        if let Some(entry) = express {
            let version = config.read16(at, entry.offset + 2) & 15;
            let mut keep = |register: u16, clear: u16| {
                halves.push((entry.offset + register, config.read16(at, entry.offset + register) & !clear));
            };
            keep(express::DEVICE_CONTROL, express::INITIATE_FLR);
            if function.express.is_some_and(|e| e.port != crate::caps::PortType::IntegratedEndpoint) {
                keep(express::LINK_CONTROL, 0);
            }
            // Version 1 ends before the second set of registers.
            if version >= 2 {
                keep(express::DEVICE_CONTROL2, 0);
            }
        }
        Self { command: config.read16(at, header::COMMAND), words, halves }
    }

    fn write(&self, config: &dyn ConfigSpace, at: StreamId) {
        for &(offset, value) in &self.words {
            config.write32(at, offset, value);
        }
        for &(offset, value) in &self.halves {
            config.write16(at, offset, value);
        }
        let quiet = self.command & !command::BUS_MASTER | command::INTX_DISABLE;
        config.write16(at, header::COMMAND, quiet);
    }
}
