//! From firmware tables to units that translate, every stream blocked (DESIGN section 6).

pub mod selftest;
pub mod stray;

use crate::events::{self, Value};
use crate::pci::Resolver;
use crate::platform::table_mem::Machine;
use crate::platform::windows::{self, Registers};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use boot::BootInfo;
use fw_tables::{EcamWindow, Topology, UnitKind};
use iommu_api::{IommuUnit, ReservedRegion};
use iommu_types::{DirtyRule, Fault, StreamId, TableKind, UnitId};
use pci::Tree;
use vtd::{BringUpReport, UnitConfig};

/// A unit that translates.
pub struct Up {
    /// The unit.
    pub unit: Arc<dyn IommuUnit>,
    /// What bring-up found.
    pub report: BringUpReport,
}

/// Reads the DMAR table. `None`, with a line in the log, where there is none or it cannot be used.
pub fn topology(dmar: Option<&[u8]>) -> Option<Topology> {
    let Some(dmar) = dmar else {
        log::error!("iommu: no DMAR table: this machine has no VT-d, so no device can be kept off memory");
        return None;
    };
    match fw_tables::parse_dmar(dmar) {
        Ok(topology) => {
            for note in &topology.notes {
                log::info!("iommu: {note}");
            }
            for finding in &topology.findings {
                log::warn!("iommu: {finding}");
            }
            Some(topology)
        }
        Err(error) => {
            log::error!("iommu: {error}");
            None
        }
    }
}

/// Brings every unit up. A unit that fails is reported and its devices count as unprotected: they stay without bus mastering.
pub fn bring_up(info: &BootInfo, topology: &Topology, tree: &Tree, dmar: &[u8]) -> Vec<Up> {
    let resolver = Resolver(tree);
    for finding in topology.check_scopes(&resolver) {
        log::info!("iommu: {finding}");
    }
    let streams: Vec<StreamId> = tree
        .functions
        .iter()
        .flat_map(|f| tree.aliases(f.stream))
        .collect::<alloc::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    let mut up = Vec::new();
    for unit in topology.units.iter().filter(|u| u.kind == UnitKind::Vtd) {
        let mine = |s: &&StreamId| topology.unit_for(**s, &resolver) == Some(unit.id);
        let mine: Vec<StreamId> = streams.iter().filter(mine).copied().collect();
        let mut config = UnitConfig::new(unit.id, &format!("vtd{}", unit.id.0));
        config.segment = unit.segment;
        config.window = unit.size as usize;
        config.phys_bits = topology.host_address_bits;
        config.reserved = reserved(topology, &resolver, &mine);
        config.streams = mine;
        if let Some(oem) = dmar.get(10..16).and_then(|b| b.try_into().ok()) {
            config.oem_id = oem;
        }
        if let Some(off) = info.option("quirks-off") {
            config.quirks_off = vtd::QUIRKS.iter().copied().filter(|q| off.split(',').any(|o| o == *q)).collect();
        }
        let Some(window) = windows::map(unit.base.0, config.window) else {
            log::error!("iommu: {}: registers at {:#x} cannot be mapped", config.name, unit.base.0);
            continue;
        };
        let name = config.name.clone();
        match vtd::Unit::bring_up(config, Registers(window), Arc::new(Machine), Arc::new(Machine)) {
            Ok((unit, report)) => {
                let unit: Arc<dyn IommuUnit> = unit;
                announce(&*unit, &report);
                up.push(Up { unit, report });
            }
            Err(error) => log::error!("iommu: {name}: not brought up: {error}"),
        }
    }
    up
}

fn reserved(topology: &Topology, resolver: &Resolver<'_>, mine: &[StreamId]) -> Vec<ReservedRegion> {
    let mut out: Vec<ReservedRegion> = Vec::new();
    for stream in mine {
        for region in topology.reserved_for(*stream, resolver) {
            match out.iter_mut().find(|r| r.range == region.range) {
                Some(r) if r.streams.contains(stream) => {}
                Some(r) => r.streams.push(*stream),
                None => out.push(ReservedRegion {
                    range: region.range,
                    streams: alloc::vec![*stream],
                    // Kept for ever: a handful per machine, and every log line about the region wants it.
                    reason: String::leak(region.why.to_string()),
                }),
            }
        }
    }
    out
}

/// The mode, in a word.
pub fn mode(unit: &dyn IommuUnit, report: &BringUpReport) -> &'static str {
    match (unit.features().table, report.scalable) {
        (TableKind::X86FirstStage, _) => "first-stage",
        (_, true) => "second-stage",
        (_, false) => "legacy",
    }
}

fn announce(unit: &dyn IommuUnit, report: &BringUpReport) {
    let f = unit.features();
    let [cap, ecap] = unit.raw_capabilities();
    log::info!("iommu: {}: CAP {cap:#018x} ECAP {ecap:#018x}; {}", unit.name(), unit.status());
    for quirk in &report.quirks {
        log::info!("iommu: {}: quirk {quirk}", unit.name());
    }
    for region in &report.reserved {
        log::info!("iommu: {}: {:?} mapped for {:?}: {}", unit.name(), region.range, region.streams, region.reason);
    }
    for note in &report.notes {
        log::info!("iommu: {}: {note}", unit.name());
    }
    let tracking = f.dirty != DirtyRule::None;
    if !tracking {
        log::info!("iommu: {}: cannot track writes: {} is missing", unit.name(), f.dirty_missing);
    }
    let fields = [
        ("unit", Value::Text(unit.name())),
        ("mode", Value::Text(mode(unit, report))),
        ("tracking", Value::Bool(tracking)),
        ("why", Value::Text(f.dirty_missing)),
    ];
    events::send("iommu", &fields[..if tracking { 3 } else { 4 }]);
}

/// Which unit translates for a stream.
pub fn unit_for(up: &[Up], id: Option<UnitId>) -> Option<Arc<dyn IommuUnit>> {
    let id = id?;
    up.iter().find(|u| u.unit.id() == id).map(|u| u.unit.clone())
}

/// Prints every fault the units recorded since the last call.
pub fn drain_faults(up: &[Up]) {
    for Up { unit, .. } in up {
        unit.drain_faults(&mut |fault| announce_fault(unit.name(), &fault));
    }
}

/// One refused request: a log line for people, an event for the host.
pub fn announce_fault(unit: &str, fault: &Fault) {
    log::warn!("{fault}");
    events::send(
        "fault",
        &[
            ("unit", Value::Text(unit)),
            ("device", Value::Text(&fault.stream.to_string())),
            ("address", Value::Text(&format!("{:#x}", fault.iova.0))),
            ("write", Value::Bool(fault.access.contains(iommu_types::Access::WRITE))),
            ("reason", Value::Text(fault.words)),
        ],
    );
}

/// The MCFG windows; empty, with a line in the log, where there is no usable table.
pub fn ecam_windows(mcfg: Option<&[u8]>) -> Vec<EcamWindow> {
    match mcfg.map(fw_tables::parse_mcfg) {
        Some(Ok(mcfg)) => {
            for finding in &mcfg.findings {
                log::warn!("pci: {finding}");
            }
            mcfg.windows
        }
        Some(Err(error)) => {
            log::error!("pci: {error}");
            Vec::new()
        }
        None => {
            log::error!("pci: no MCFG table, so no PCI Express configuration space");
            Vec::new()
        }
    }
}
