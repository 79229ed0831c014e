//! Tables for people: one row per fact, never wider than 100 columns.

use super::{Said, Table};
use fw_tables::{
    CountsFor, Detail, Finding, Interrupt, Mcfg, MsiController, Output, Reserved, Source, Target, Topology, Unit,
    UnitKind,
};
use iommu_types::StreamId;
use std::io::{self, Write};

const WIDTH: usize = 100;
/// Where the text of a row begins.
const INDENT: usize = 12;

/// One row: a word, and text that is broken at spaces.
fn row(out: &mut dyn Write, word: &str, text: &str) -> io::Result<()> {
    let mut line = format!("  {word:<width$}", width = INDENT - 2);
    let mut empty = true;
    for part in text.split(' ').filter(|part| !part.is_empty()) {
        let mut part = part;
        let room = |line: &str| WIDTH.saturating_sub(line.chars().count());
        if !empty && part.chars().count() + 1 > room(&line) {
            writeln!(out, "{}", line.trim_end())?;
            line = " ".repeat(INDENT + 2);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        // A single part may be wider than a line.
        while part.chars().count() > room(&line) {
            let at = part.char_indices().nth(room(&line)).map_or(part.len(), |(at, _)| at);
            let (front, rest) = part.split_at(at);
            writeln!(out, "{line}{front}")?;
            line = " ".repeat(INDENT + 2);
            part = rest;
        }
        line.push_str(part);
        empty = false;
    }
    writeln!(out, "{}", line.trim_end())
}

/// A headline of any length, cut into lines.
fn headline(out: &mut dyn Write, text: &str) -> io::Result<()> {
    let chars: Vec<char> = text.chars().collect();
    for part in chars.chunks(WIDTH) {
        writeln!(out, "{}", part.iter().collect::<String>())?;
    }
    Ok(())
}

/// One table.
pub fn write(table: &Table, out: &mut dyn Write) -> io::Result<()> {
    headline(out, &table.name)?;
    let what = format!("{}, {} bytes", table.signature.trim(), table.length);
    match &table.said {
        Err(why) => row(out, "bad", why),
        Ok(Said::Other) => row(out, "table", &format!("{what}; nothing about IOMMUs")),
        Ok(Said::Mcfg(mcfg)) => {
            row(out, "table", &what)?;
            windows(mcfg, out)
        }
        Ok(Said::Topology(topology)) => {
            let mut text = what;
            if &topology.table == b"fdt " {
                text += &format!(", version {}", topology.revision);
            } else {
                text += &format!(", revision {}, {}", topology.revision, topology.oem);
            }
            row(out, "table", &text)?;
            whole(topology, out)
        }
    }
}

/// The last line.
pub fn sum(tables: &[Table], strangers: usize, out: &mut dyn Write) -> io::Result<()> {
    let bad = tables.iter().filter(|table| table.said.is_err()).count();
    let topologies = tables.iter().filter_map(|table| match &table.said {
        Ok(Said::Topology(topology)) => Some(topology),
        _ => None,
    });
    let (mut about, mut units, mut findings, mut notes) = (0, 0, 0, 0);
    for topology in topologies {
        about += 1;
        units += topology.units.len();
        findings += topology.findings.len();
        notes += topology.notes.len();
    }
    writeln!(
        out,
        "{} tables: {about} about IOMMUs with {units} units, {findings} findings, {notes} notes; {bad} bad",
        tables.len()
    )?;
    if strangers > 0 {
        writeln!(out, "{strangers} other files are no tables")?;
    }
    Ok(())
}

fn windows(mcfg: &Mcfg, out: &mut dyn Write) -> io::Result<()> {
    for window in &mcfg.windows {
        let (first, last) = window.span();
        let text = format!(
            "segment {} buses {:02x}..={:02x} at {:#x}..={:#x}",
            window.segment, window.first_bus, window.last_bus, first.0, last.0
        );
        row(out, "window", &text)?;
    }
    wrong(&mcfg.findings, out)
}

fn wrong(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    findings.iter().try_for_each(|finding| row(out, "finding", &finding.to_string()))
}

fn whole(topology: &Topology, out: &mut dyn Write) -> io::Result<()> {
    platform(topology, out)?;
    for unit in &topology.units {
        row(out, &format!("unit {}", unit.id.0), &self::unit(topology, unit))?;
        for scope in &unit.coverage.scopes {
            row(out, "", &scope.to_string())?;
        }
    }
    for host in &topology.hosts {
        let mut text = format!("segment {}", host.segment);
        if let Some((first, last)) = host.buses {
            text += &format!(" buses {first:02x}..={last:02x}");
        }
        if let Some(ecam) = host.ecam {
            text += &format!(" at {:#x}..={:#x}", ecam.first.0, ecam.last.0);
        }
        let flags = [
            (host.coherent, "coherent"),
            (host.ats, "ATS"),
            (host.pri, "PRI"),
            (host.pasid_forward, "PASID forwarded"),
        ];
        text += &words(&flags);
        text += &width("PASID", host.pasid_bits);
        text += &width("addresses", host.address_bits);
        row(out, "host", &format!("{text} {}", host.name))?;
    }
    for (place, device) in topology.devices.iter().enumerate() {
        let mut text = device.name.clone();
        for (unit, first, last) in topology.device_streams(place as u32) {
            text += &format!(" unit {} {},", unit.0, span(first, last));
        }
        let flags = [(device.coherent, "coherent"), (device.stall, "stall")];
        let more = format!(
            "{}{}{}",
            words(&flags),
            width("PASID", device.pasid_bits),
            width("addresses", device.address_bits)
        );
        row(out, "device", &format!("{}{more}", text.trim_end_matches(',')))?;
    }
    // Devices have their streams in their rows.
    for route in topology.streams.iter().filter(|route| !matches!(route.ids.source, Source::Device(_))) {
        let (first, last) = route.output.span(&route.ids);
        let mut text =
            format!("{} -> unit {} {}", ids(topology, route.ids.source, &route.ids), route.unit.0, span(first, last));
        if matches!(route.output, Output::Always(_)) && route.ids.first != route.ids.last {
            text += " for all";
        }
        if route.settings.data != 0 {
            text += &format!(" settings {:#04x}", route.settings.data);
        }
        if route.settings.ats_disabled() {
            text += " ATS off";
        }
        row(out, "stream", &text)?;
    }
    for route in &topology.messages {
        let (first, last) = route.output.span(&route.ids);
        let to = topology.msi_controllers.get(route.controller as usize).map(controller).unwrap_or_default();
        let from = ids(topology, route.ids.source, &route.ids);
        row(out, "message", &format!("{from} -> {to} device {}", span(first, last)))?;
    }
    for counters in &topology.counters {
        let mut text = format!("at {:#x}", counters.base.0);
        if let Some(page) = counters.page1 {
            text += &format!(" and {:#x}", page.0);
        }
        text += &match counters.of {
            CountsFor::Unit(unit) => format!(" of unit {}", unit.0),
            CountsFor::Device(place) => format!(" of {}", device(topology, place)),
            CountsFor::Host(place) => format!(" of host {place}"),
            _ => " of nothing".to_owned(),
        };
        row(out, "counters", &(text + &line("overflow", counters.overflow)))?;
    }
    for region in &topology.reserved {
        row(out, "reserved", &self::region(topology, region))?;
    }
    for ports in &topology.ats {
        let scopes: Vec<String> = ports.scopes.iter().map(ToString::to_string).collect();
        let which = if ports.all { "all ports".to_owned() } else { scopes.join(", ") };
        row(out, "ATS", &format!("segment {} {which}", ports.segment))?;
    }
    for property in &topology.properties {
        let needs = if property.atc_required { " needs its ATC" } else { "" };
        let text = format!("segment {} {} flags {:#x}{needs}", property.segment, property.scope, property.flags);
        row(out, "property", &text)?;
    }
    for device in &topology.acpi_devices {
        row(out, "acpi", &format!("device {} {}", device.number, device.name))?;
    }
    for quirk in &topology.quirks {
        row(out, "quirk", quirk)?;
    }
    for note in &topology.notes {
        row(out, "note", &note.to_string())?;
    }
    wrong(&topology.findings, out)
}

fn platform(topology: &Topology, out: &mut dyn Write) -> io::Result<()> {
    // IORT and device trees say nothing of the kind.
    if !matches!(&topology.table, b"DMAR" | b"IVRS") {
        return Ok(());
    }
    let flags = [
        (topology.flags.interrupt_remapping, "interrupt remapping"),
        (topology.flags.x2apic_opt_out, "x2APIC opt-out"),
        (topology.flags.dma_opt_in, "DMA protection asked for"),
    ];
    row(out, "platform", &format!("{} address bits{}", topology.host_address_bits, words(&flags)))
}

fn unit(topology: &Topology, unit: &Unit) -> String {
    let kind = match unit.kind {
        UnitKind::Vtd => "VT-d",
        UnitKind::AmdVi => "AMD-Vi",
        UnitKind::SmmuV3 => "SMMUv3",
        UnitKind::SmmuV2 => "SMMUv1/2 (no driver)",
        _ => "unknown",
    };
    let mut text = format!("{kind} at {:#x}..={:#x}", unit.base.0, unit.base.0.saturating_add(unit.size - 1));
    text += &format!(" segment {}", unit.segment);
    if unit.coverage.rest_of_segment {
        text += " rest of segment";
    }
    text += &match &unit.detail {
        Detail::AmdVi(amd) => {
            let mut text = format!(" function {} capability {:#x} IVHD {:#x}", amd.function, amd.capability, amd.ivhd);
            text += &format!(" flags {:#x}", amd.flags);
            if let (Some(efr), Some(efr2)) = (amd.efr, amd.efr2) {
                text += &format!(" EFR {efr:#x} EFR2 {efr2:#x}");
            }
            text
        }
        Detail::SmmuV3(smmu) => {
            let lines = smmu.interrupts;
            let mut text = words(&[(smmu.coherent, "coherent")]);
            if smmu.model != 0 {
                text += &format!(" model {}", smmu.model);
            }
            if smmu.httu_override != 0 {
                text += &format!(" HTTU {}", smmu.httu_override);
            }
            let named = [
                ("event", lines.event),
                ("pri", lines.pri),
                ("gerror", lines.gerror),
                ("sync", lines.sync),
                ("combined", lines.combined),
            ];
            let wired: String = named.iter().map(|(name, of)| line(name, *of)).collect();
            text + if wired.is_empty() { " no interrupt lines" } else { &wired }
        }
        Detail::SmmuV2(smmu) => {
            let flags = words(&[(smmu.coherent, "coherent"), (smmu.dvm, "DVM")]);
            format!(" model {}{flags} {} context interrupts", smmu.model, smmu.contexts.len())
        }
        _ => String::new(),
    };
    if let Some(domain) = topology.proximity_of(unit) {
        text += &format!(" NUMA {domain}");
    }
    text
}

fn region(topology: &Topology, region: &Reserved) -> String {
    let mut text = format!("{:#x}..={:#x} {}", region.range.first.0, region.range.last.0, region.why);
    if !region.direct {
        text += " not one to one";
    }
    for scope in &region.scopes {
        text += &format!(" for {scope}");
    }
    for target in &region.targets {
        text += &match *target {
            Target::Requesters { segment, first, last } => format!(" for {}", functions(segment, first, last)),
            Target::Streams { unit, first, last } => format!(" for unit {} {}", unit.0, span(first, last)),
            Target::Device(place) => format!(" for {}", device(topology, place)),
            _ => String::new(),
        };
    }
    text
}

fn device(topology: &Topology, place: u32) -> &str {
    topology.devices.get(place as usize).map_or("?", |device| device.name.as_str())
}

fn controller(controller: &MsiController) -> String {
    match (&controller.its[..], controller.base) {
        ([], Some(base)) => format!("{} at {:#x}", controller.name, base.0),
        ([], None) => controller.name.clone(),
        (its, _) => {
            let its: Vec<String> = its.iter().map(ToString::to_string).collect();
            format!("ITS {}", its.join(","))
        }
    }
}

fn ids(topology: &Topology, source: Source, ids: &fw_tables::Ids) -> String {
    let mask = if ids.mask == u32::MAX { String::new() } else { format!(" & {:#x}", ids.mask) };
    match source {
        Source::Pci { segment } => functions(segment, ids.first, ids.last) + &mask,
        Source::Device(place) => device(topology, place).to_owned(),
        Source::Unit(unit) => format!("unit {} itself", unit.0),
        Source::Counters(place) => format!("counters {place}"),
        _ => "?".to_owned(),
    }
}

/// Requester ids as lspci writes them, if they are any.
fn functions(segment: u16, first: u32, last: u32) -> String {
    let name = |id| StreamId { segment, id }.to_string();
    if last > 0xffff {
        format!("segment {segment} {}", span(first, last))
    } else if first == last {
        name(first)
    } else {
        format!("{}..={}", name(first), name(last).split_once(':').map_or(String::new(), |(_, rest)| rest.to_owned()))
    }
}

fn span(first: u32, last: u32) -> String {
    if first == last { format!("{first:#x}") } else { format!("{first:#x}..={last:#x}") }
}

fn words(flags: &[(bool, &str)]) -> String {
    flags.iter().filter(|(set, _)| *set).map(|(_, name)| format!(" {name}")).collect::<Vec<_>>().join(",")
}

fn width(what: &str, bits: u8) -> String {
    if bits == 0 { String::new() } else { format!(" {what} {bits} bits") }
}

fn line(name: &str, line: Option<Interrupt>) -> String {
    line.map_or(String::new(), |line| format!(" {name} {}{}", line.gsiv, if line.edge { "" } else { " (level)" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_broken_at_100_columns_and_lose_nothing() {
        for text in ["a ".repeat(200), "x".repeat(333), format!("{} end", "y".repeat(88)), String::new()] {
            let mut out = Vec::new();
            row(&mut out, "finding", &text).unwrap();
            let out = String::from_utf8(out).unwrap();
            assert!(out.lines().all(|line| line.chars().count() <= WIDTH && line == line.trim_end()), "{out}");
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            assert_eq!(letters(&out), format!("finding{}", letters(&text)));
        }
    }
}
