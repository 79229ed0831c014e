//! Making functions quiet.

use crate::config::ConfigSpace;
use crate::enumerate::{FunctionInfo, Tree};
use crate::spec::{acs, command, header};
use iommu_types::StreamId;

fn set(config: &dyn ConfigSpace, at: StreamId, bit: u16, on: bool) {
    let before = config.read16(at, header::COMMAND);
    let after = if on { before | bit } else { before & !bit };
    if after != before {
        config.write16(at, header::COMMAND, after);
    }
}

/// Lets a function issue requests, or stops it; on a bridge it forwards requests, or does not.
pub fn bus_master(config: &dyn ConfigSpace, at: StreamId, on: bool) {
    set(config, at, command::BUS_MASTER, on);
}

/// Lets a function answer at its memory BARs, or not.
pub fn memory_decoding(config: &dyn ConfigSpace, at: StreamId, on: bool) {
    set(config, at, command::MEMORY, on);
}

/// Lets a function answer at its I/O BARs, or not.
pub fn port_decoding(config: &dyn ConfigSpace, at: StreamId, on: bool) {
    set(config, at, command::IO, on);
}

/// Lets a function use its interrupt pin, or not.
pub fn intx(config: &dyn ConfigSpace, at: StreamId, on: bool) {
    set(config, at, command::INTX_DISABLE, !on);
}

/// Stops all functions that are no bridge from issuing requests, and says how many were on. Bridges go on forwarding: they
/// request nothing by themselves, and without them completions of what is under way would be lost.
pub fn quiet_all(config: &dyn ConfigSpace, tree: &Tree) -> usize {
    let mut were_on = 0;
    for function in tree.functions.iter().filter(|function| !function.is_bridge()) {
        let value = config.read16(function.stream, header::COMMAND);
        if value != 0xffff && value & command::BUS_MASTER != 0 {
            were_on += 1;
            config.write16(function.stream, header::COMMAND, value & !command::BUS_MASTER);
        }
    }
    were_on
}

/// Switches on what keeps the peers of a function apart, as far as it can, and updates `function`. Call it for every function before
/// [`groups`](crate::groups).
pub fn enable_acs(config: &dyn ConfigSpace, function: &mut FunctionInfo) {
    if let Some(acs) = &mut function.acs {
        let wanted = acs.enabled | acs.capable & acs::ISOLATION;
        config.write16(function.stream, acs.offset + acs::CONTROL, wanted);
        acs.enabled = config.read16(function.stream, acs.offset + acs::CONTROL);
    }
}
