//! Tables for programs. Addresses are strings in hex, for they do not fit what many readers make of a number; ids are numbers.

use super::{Said, Table};
use fw_tables::{
    CountsFor, Detail, DteSettings, Ids, Interrupt, Output, Reserved, Scope, ScopeKind, Source, Target, Topology,
    UniqueId, Unit, UnitKind,
};
use iommu_types::{Access, At, Phys, PhysRange};
use serde_json::{Value, json};
use std::io::{self, Write};

/// All tables, as one list.
pub fn write(tables: &[Table], out: &mut dyn Write) -> io::Result<()> {
    let list: Vec<Value> = tables.iter().map(table).collect();
    serde_json::to_writer_pretty(&mut *out, &list)?;
    writeln!(out)
}

fn table(table: &Table) -> Value {
    let mut value = json!({ "file": table.name, "signature": table.signature, "length": table.length });
    match &table.said {
        Err(why) => value["error"] = json!(why),
        Ok(Said::Other) => {}
        Ok(Said::Mcfg(mcfg)) => {
            let windows = mcfg.windows.iter().map(|w| {
                json!({ "segment": w.segment, "first_bus": w.first_bus, "last_bus": w.last_bus, "base": hex(w.base) })
            });
            value["windows"] = windows.collect();
            value["findings"] = mcfg.findings.iter().map(|finding| place(finding.0)).collect();
        }
        Ok(Said::Topology(of)) => value["topology"] = topology(of),
    }
    value
}

fn hex(address: Phys) -> Value {
    json!(format!("{:#x}", address.0))
}

fn word(value: u64) -> Value {
    json!(format!("{value:#x}"))
}

fn range(range: PhysRange) -> Value {
    json!({ "first": hex(range.first), "last": hex(range.last) })
}

fn place(at: At) -> Value {
    json!({ "table": String::from_utf8_lossy(&at.table), "offset": at.offset, "reason": at.reason })
}

fn topology(of: &Topology) -> Value {
    json!({
        "table": String::from_utf8_lossy(&of.table),
        "revision": of.revision,
        "oem": {
            "id": String::from_utf8_lossy(&of.oem.id),
            "table_id": String::from_utf8_lossy(&of.oem.table),
            "revision": of.oem.revision,
        },
        "host_address_bits": of.host_address_bits,
        "flags": {
            "interrupt_remapping": of.flags.interrupt_remapping,
            "x2apic_opt_out": of.flags.x2apic_opt_out,
            "dma_opt_in": of.flags.dma_opt_in,
        },
        "units": of.units.iter().map(|u| unit(of, u)).collect::<Vec<_>>(),
        "streams": of.streams.iter().map(|route| {
            let mut value = run(of, &route.ids, route.output);
            value["unit"] = json!(route.unit.0);
            value["offset"] = json!(route.offset);
            if route.settings != DteSettings::default() {
                value["settings"] = settings(route.settings);
            }
            value
        }).collect::<Vec<_>>(),
        "messages": of.messages.iter().map(|route| {
            let mut value = run(of, &route.ids, route.output);
            value["controller"] = json!(route.controller);
            value["offset"] = json!(route.offset);
            value
        }).collect::<Vec<_>>(),
        "msi_controllers": of.msi_controllers.iter().map(|c| json!({
            "its": c.its, "name": c.name, "base": c.base.map(hex), "offset": c.offset,
        })).collect::<Vec<_>>(),
        "devices": of.devices.iter().map(|d| json!({
            "name": d.name,
            "acpi": d.acpi.as_ref().map(|ids| json!({
                "hid": ids.hardware,
                "cid": ids.compatible,
                "uid": match &ids.unique {
                    UniqueId::None => Value::Null,
                    UniqueId::Integer(number) => json!(number),
                    UniqueId::Text(text) => json!(text),
                },
            })),
            "coherent": d.coherent, "address_bits": d.address_bits, "pasid_bits": d.pasid_bits, "stall": d.stall,
            "offset": d.offset,
        })).collect::<Vec<_>>(),
        "hosts": of.hosts.iter().map(|h| json!({
            "segment": h.segment, "name": h.name, "ecam": h.ecam.map(range), "buses": h.buses, "coherent": h.coherent,
            "ats": h.ats, "pri": h.pri, "pasid_forward": h.pasid_forward, "pasid_bits": h.pasid_bits,
            "address_bits": h.address_bits, "offset": h.offset,
        })).collect::<Vec<_>>(),
        "counters": of.counters.iter().map(|c| json!({
            "base": hex(c.base), "page1": c.page1.map(hex), "overflow": c.overflow.map(line), "offset": c.offset,
            "of": match c.of {
                CountsFor::Unit(unit) => json!({ "unit": unit.0 }),
                CountsFor::Device(place) => json!({ "device": place }),
                CountsFor::Host(place) => json!({ "host": place }),
                _ => Value::Null,
            },
        })).collect::<Vec<_>>(),
        "reserved": of.reserved.iter().map(region).collect::<Vec<_>>(),
        "ats": of.ats.iter().map(|a| json!({
            "segment": a.segment, "all": a.all, "scopes": a.scopes.iter().map(scope).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "properties": of.properties.iter().map(|p| json!({
            "segment": p.segment, "scope": scope(&p.scope), "atc_required": p.atc_required, "flags": p.flags,
        })).collect::<Vec<_>>(),
        "acpi_devices": of.acpi_devices.iter().map(|d| json!({ "number": d.number, "name": d.name })).collect::<Vec<_>>(),
        "quirks": of.quirks,
        "notes": of.notes.iter().map(|note| {
            let mut value = place(note.at);
            value["kind"] = json!(note.kind);
            value
        }).collect::<Vec<_>>(),
        "findings": of.findings.iter().map(|finding| place(finding.0)).collect::<Vec<_>>(),
    })
}

fn unit(of: &Topology, unit: &Unit) -> Value {
    json!({
        "id": unit.id.0,
        "kind": match unit.kind {
            UnitKind::Vtd => "vtd",
            UnitKind::AmdVi => "amdvi",
            UnitKind::SmmuV3 => "smmuv3",
            UnitKind::SmmuV2 => "smmuv2",
            _ => "unknown",
        },
        "base": hex(unit.base),
        "size": word(unit.size),
        "segment": unit.segment,
        "rest_of_segment": unit.coverage.rest_of_segment,
        "scopes": unit.coverage.scopes.iter().map(scope).collect::<Vec<_>>(),
        "proximity": of.proximity_of(unit),
        "offset": unit.offset,
        "detail": match &unit.detail {
            Detail::AmdVi(amd) => json!({
                "function": amd.function.to_string(), "capability": amd.capability, "ivhd": amd.ivhd, "flags": amd.flags,
                "info": amd.info, "attributes": amd.attributes, "efr": amd.efr.map(word), "efr2": amd.efr2.map(word),
                "rest": settings(amd.rest),
            }),
            Detail::SmmuV3(smmu) => json!({
                "model": smmu.model, "coherent": smmu.coherent, "httu_override": smmu.httu_override,
                "vatos": smmu.vatos.map(hex),
                "interrupts": {
                    "event": smmu.interrupts.event.map(line), "pri": smmu.interrupts.pri.map(line),
                    "gerror": smmu.interrupts.gerror.map(line), "sync": smmu.interrupts.sync.map(line),
                    "combined": smmu.interrupts.combined.map(line),
                },
            }),
            Detail::SmmuV2(smmu) => json!({
                "model": smmu.model, "coherent": smmu.coherent, "dvm": smmu.dvm,
                "global": smmu.global.iter().copied().map(line).collect::<Vec<_>>(),
                "contexts": smmu.contexts.iter().copied().map(line).collect::<Vec<_>>(),
            }),
            _ => Value::Null,
        },
    })
}

fn region(region: &Reserved) -> Value {
    let targets = region.targets.iter().map(|target| match *target {
        Target::Requesters { segment, first, last } => json!({ "segment": segment, "first": first, "last": last }),
        Target::Streams { unit, first, last } => json!({ "unit": unit.0, "first": first, "last": last }),
        Target::Device(place) => json!({ "device": place }),
        _ => Value::Null,
    });
    json!({
        "range": range(region.range),
        "segment": region.segment,
        "scopes": region.scopes.iter().map(scope).collect::<Vec<_>>(),
        "targets": targets.collect::<Vec<_>>(),
        "read": region.access.contains(Access::READ),
        "write": region.access.contains(Access::WRITE),
        "direct": region.direct,
        "reason": region.why.kind.name(),
        "offset": region.why.offset,
    })
}

fn scope(scope: &Scope) -> Value {
    let (kind, id) = match scope.kind {
        ScopeKind::Endpoint => ("endpoint", None),
        ScopeKind::SubHierarchy => ("bridge", None),
        ScopeKind::IoApic(id) => ("ioapic", Some(id)),
        ScopeKind::Hpet(id) => ("hpet", Some(id)),
        ScopeKind::AcpiDevice(id) => ("acpi", Some(id)),
        _ => ("unknown", None),
    };
    let path: Vec<_> = scope.path.iter().map(|hop| [hop.device, hop.function]).collect();
    json!({ "kind": kind, "id": id, "start_bus": scope.start_bus, "path": path, "offset": scope.offset })
}

fn run(of: &Topology, ids: &Ids, output: Output) -> Value {
    let (first, last) = output.span(ids);
    let source = match ids.source {
        Source::Pci { segment } => json!({ "segment": segment }),
        Source::Device(place) => {
            json!({ "device": place, "name": of.devices.get(place as usize).map(|device| &device.name) })
        }
        Source::Unit(unit) => json!({ "unit": unit.0 }),
        Source::Counters(place) => json!({ "counters": place }),
        _ => Value::Null,
    };
    json!({
        "source": source, "mask": ids.mask, "first": ids.first, "last": ids.last, "out_first": first, "out_last": last,
    })
}

fn settings(settings: DteSettings) -> Value {
    json!({ "data": settings.data, "extended": settings.extended, "ats_disabled": settings.ats_disabled() })
}

fn line(line: Interrupt) -> Value {
    json!({ "gsiv": line.gsiv, "edge": line.edge })
}
