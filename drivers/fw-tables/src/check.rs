//! Rules between structures of one table.

use crate::topology::{Finding, ScopeKind, Topology};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use iommu_types::At;

type Found = Vec<(u32, &'static str)>;

/// Findings that need more than one structure of a DMAR.
pub fn dmar(topology: &mut Topology) {
    let mut found = Found::new();
    if topology.units.is_empty() {
        found.push((0, "no remapping unit"));
    }
    windows(topology, &mut found);
    rest_of_segment(topology, &mut found);
    scopes(topology, &mut found);
    regions(topology, &mut found);
    for entry in &topology.proximity {
        if !topology.units.iter().any(|unit| unit.base == entry.base) {
            found.push((0, "affinity of a unit that is not listed"));
        }
    }
    report(topology, found);
}

/// Findings that need more than one structure of an IVRS.
pub fn ivrs(topology: &mut Topology) {
    let mut found = Found::new();
    if topology.units.is_empty() {
        found.push((0, "no IOMMU"));
    }
    windows(topology, &mut found);
    regions(topology, &mut found);
    overlapping_regions(topology, &mut found);
    let mut sources = BTreeSet::new();
    for scope in topology.units.iter().flat_map(|unit| &unit.coverage.scopes) {
        if !sources.insert(scope.kind) {
            found.push((scope.offset, "IOAPIC or HPET named twice, the first counts"));
        }
    }
    let mut taken = BTreeSet::new();
    for unit in topology.units.iter().filter(|unit| unit.coverage.rest_of_segment) {
        if !taken.insert(unit.segment) {
            found.push((unit.offset, "second unit that takes the rest of its segment, the first counts"));
        }
    }
    report(topology, found);
}

/// Findings that need more than one structure of an IORT or a device tree. Machines without an IOMMU have both.
pub fn arm(topology: &mut Topology) {
    let mut found = Found::new();
    windows(topology, &mut found);
    regions(topology, &mut found);
    overlapping_regions(topology, &mut found);
    report(topology, found);
}

fn report(topology: &mut Topology, found: Found) {
    let table = topology.table;
    topology.findings.extend(found.into_iter().map(|(offset, reason)| Finding(At { table, offset, reason })));
}

fn windows(topology: &Topology, found: &mut Found) {
    let mut windows: Vec<_> = topology.units.iter().map(|u| (u.base.0, u.base.0 + (u.size - 1), u.offset)).collect();
    windows.sort_unstable();
    for (before, after) in windows.iter().zip(windows.iter().skip(1)) {
        if after.0 <= before.1 {
            found.push((before.2.max(after.2), "registers overlap those of another unit"));
        }
    }
    for unit in &topology.units {
        if topology.host_address_bits < 64 && unit.base.0 >> topology.host_address_bits != 0 {
            found.push((unit.offset, "registers above the host address width"));
        }
    }
}

fn rest_of_segment(topology: &Topology, found: &mut Found) {
    // VT-d 5.0 section 8.3: the structure with INCLUDE_PCI_ALL comes last of its segment, and there is at most one.
    let mut closed = BTreeSet::new();
    for unit in &topology.units {
        if closed.contains(&unit.segment) {
            found.push((unit.offset, "unit behind the one that takes the rest of its segment"));
        }
        if unit.coverage.rest_of_segment {
            closed.insert(unit.segment);
        }
    }
}

fn scopes(topology: &Topology, found: &mut Found) {
    let mut seen = BTreeMap::new();
    for unit in &topology.units {
        for scope in &unit.coverage.scopes {
            // The id is part of the kind, so two IOAPICs on one requester id are no duplicate.
            if seen.insert((unit.segment, scope.kind, scope.start_bus, scope.path.clone()), ()).is_some() {
                found.push((scope.offset, "device named by a second scope, the first counts"));
            }
        }
    }
    let unit_scopes = topology.units.iter().flat_map(|unit| &unit.coverage.scopes);
    let region_scopes = topology.reserved.iter().flat_map(|region| &region.scopes);
    for scope in unit_scopes.chain(region_scopes) {
        if let ScopeKind::AcpiDevice(number) = scope.kind
            && topology.acpi_name(number).is_none()
        {
            found.push((scope.offset, "scope of an ACPI device that is not declared"));
        }
    }
}

fn regions(topology: &Topology, found: &mut Found) {
    let bits = topology.host_address_bits;
    let mut windows: Vec<_> = topology.units.iter().map(|u| (u.base.0, u.base.0 + (u.size - 1))).collect();
    windows.sort_unstable();
    // How far all windows up to this one reach: one look per region, however many units a table invents.
    let reach: Vec<u64> = windows
        .iter()
        .scan(0, |far, window| {
            *far = window.1.max(*far);
            Some(*far)
        })
        .collect();
    for region in &topology.reserved {
        if bits < 64 && region.range.last.0 >> bits != 0 {
            found.push((region.why.offset, "region above the host address width"));
        }
        let begun = windows.partition_point(|window| window.0 <= region.range.last.0);
        if begun.checked_sub(1).and_then(|at| reach.get(at)).is_some_and(|far| *far >= region.range.first.0) {
            found.push((region.why.offset, "region covers the registers of a unit"));
        }
    }
}

/// The same memory for several devices is usual; memory that is shared in part is a mistake.
fn overlapping_regions(topology: &Topology, found: &mut Found) {
    let mut regions: Vec<_> =
        topology.reserved.iter().map(|r| (r.range.first.0, r.range.last.0, r.why.offset)).collect();
    regions.sort_unstable();
    regions.dedup_by_key(|region| (region.0, region.1));
    for (before, after) in regions.iter().zip(regions.iter().skip(1)) {
        if after.0 <= before.1 {
            found.push((before.2.max(after.2), "region overlaps another one in part"));
        }
    }
}
