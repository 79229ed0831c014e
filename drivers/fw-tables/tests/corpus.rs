//! Tables of real machines and of QEMU, in the folder that `PORTOLAN_ACPI_TABLES` names: a topology or a clear error for each.

mod common;

use common::Tree;
use fw_tables::{Finding, Note, QUIRK_ID_COUNT, ScopeKind, Topology, UnitKind};
use fw_tables::{parse_device_tree, parse_dmar, parse_iort, parse_ivrs, parse_mcfg};
use iommu_types::{Error, StreamId};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn tables(folder: &Path, signature: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            tables(&path, signature, found);
        } else if path.file_name().is_some_and(|name| {
            let name = name.to_string_lossy();
            !name.ends_with(".tsv") && name.split('.').any(|part| part == signature)
        }) {
            found.push(path);
        }
    }
}

fn corpus(signature: &str) -> Option<Vec<PathBuf>> {
    let Some(folder) = std::env::var_os("PORTOLAN_ACPI_TABLES") else {
        println!("skipped: PORTOLAN_ACPI_TABLES does not name a folder with {signature} tables");
        return None;
    };
    let mut found = Vec::new();
    tables(Path::new(&folder), signature, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no {signature} table under {}", folder.display());
    Some(found)
}

#[test]
fn every_dmar_gives_a_topology_or_a_clear_error() {
    let Some(files) = corpus("DMAR") else { return };
    let (mut good, mut units) = (0, 0);
    for file in &files {
        let bytes = std::fs::read(file).expect("the table can be read");
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        match parse_dmar(&bytes) {
            Ok(topology) => {
                good += 1;
                units += topology.units.len();
                assert!(topology.host_address_bits >= 36, "{name}: {} bits", topology.host_address_bits);
                for finding in &topology.findings {
                    println!("{name}: finding {finding}");
                }
                for note in &topology.notes {
                    println!("{name}: note {note}");
                }
                topology.check_scopes(&Tree::default());
            }
            Err(error) => println!("{name}: error {error}"),
        }
        for end in (0..bytes.len()).step_by(7) {
            let _ = parse_dmar(&bytes[..end]);
        }
    }
    println!("{} DMAR tables: {good} topologies with {units} units", files.len());
    assert!(good * 10 >= files.len() * 9, "only {good} of {} could be used", files.len());
}

#[test]
fn every_mcfg_gives_windows_or_a_clear_error() {
    let Some(files) = corpus("MCFG") else { return };
    for file in &files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        match parse_mcfg(&std::fs::read(file).expect("the table can be read")) {
            Ok(mcfg) => assert!(!mcfg.windows.is_empty(), "{name}: {:?}", mcfg.findings),
            Err(error) => println!("{name}: error {error}"),
        }
    }
}

/// Reads all tables of a kind, prints what is wrong with them, and hands the good ones on.
fn each(signature: &str, parse: fn(&[u8]) -> Result<Topology, Error>, check: impl Fn(&str, &[u8], &Topology)) {
    let Some(files) = corpus(signature) else { return };
    let mut good = 0;
    for file in &files {
        let bytes = std::fs::read(file).expect("the table can be read");
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        match parse(&bytes) {
            Ok(topology) => {
                good += 1;
                topology.findings.iter().for_each(|finding: &Finding| println!("{name}: finding {finding}"));
                topology.notes.iter().for_each(|note: &Note| println!("{name}: note {note}"));
                topology.check_scopes(&Tree::default());
                check(&name, &bytes, &topology);
            }
            Err(error) => println!("{name}: error {error}"),
        }
        for end in (0..bytes.len()).step_by(7) {
            let _ = parse(&bytes[..end]);
        }
    }
    println!("{} of kind {signature}: {good} topologies", files.len());
    assert!(good * 10 >= files.len() * 9, "only {good} of {} could be used", files.len());
}

fn half(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// A second reader, which knows nothing but where lengths, types and ids are.
#[test]
fn every_ivrs_agrees_with_a_second_reader() {
    each("IVRS", parse_ivrs, |name, bytes, topology| {
        let end = word(bytes, 4) as usize;
        let (mut at, mut best, mut memory, mut unknown) = (48, BTreeMap::new(), 0, 0);
        while at < end {
            match bytes[at] {
                kind @ (0x10 | 0x11 | 0x40) => {
                    let slot = best.entry((half(bytes, at + 16), half(bytes, at + 4))).or_insert((kind, at));
                    *slot = (*slot).max((kind, at));
                }
                0x20..=0x22 => memory += 1,
                _ => unknown += 1,
            }
            at += half(bytes, at + 2);
        }
        let (mut specials, mut names, mut routed) = (0, 0, 0);
        for &(kind, block) in best.values() {
            let mut entry = block + if kind == 0x10 { 24 } else { 40 };
            while entry < block + half(bytes, block + 2) {
                let device = half(bytes, entry + 1) as u32;
                let found = topology
                    .stream_for(StreamId { segment: half(bytes, block + 16) as u16, id: device }, &Tree::default());
                let wanted = match bytes[entry] {
                    2 | 3 | 0x46 | 0x47 => Some(device),
                    0x42 | 0x43 => Some(half(bytes, entry + 5) as u32),
                    _ => None,
                };
                if let Some(wanted) = wanted {
                    routed += 1;
                    assert_eq!(found.map(|found| found.1), Some(wanted), "{name}: device id {device:#x}");
                }
                specials += usize::from(bytes[entry] == 0x48);
                names += usize::from(bytes[entry] == 0xf0);
                entry += match bytes[entry] >> 6 {
                    0 => 4,
                    1 => 8,
                    2 => 16,
                    _ => 22 + usize::from(bytes[entry + 21]),
                };
            }
        }
        let scopes: usize = topology.units.iter().map(|unit| unit.coverage.scopes.len()).sum();
        assert_eq!((topology.units.len(), topology.reserved.len()), (best.len(), memory), "{name}");
        assert_eq!((scopes, topology.devices.len(), topology.notes.len()), (specials, names, unknown), "{name}");
        assert!(routed > 0, "{name}");
        let sources = |kind: fn(&ScopeKind) -> bool| {
            topology.units.iter().flat_map(|unit| &unit.coverage.scopes).filter(|scope| kind(&scope.kind)).count()
        };
        assert_eq!(sources(|kind| matches!(kind, ScopeKind::IoApic(_) | ScopeKind::Hpet(_))), specials, "{name}");
    });
}

#[test]
fn every_iort_agrees_with_a_second_reader() {
    each("IORT", parse_iort, |name, bytes, topology| {
        let (mut at, mut kinds) = (word(bytes, 40) as usize, [0; 256]);
        let mut starts = BTreeMap::new();
        for _ in 0..word(bytes, 36) {
            starts.insert(at, bytes[at]);
            kinds[usize::from(bytes[at])] += 1;
            at += half(bytes, at + 1);
        }
        let units = |kind| topology.units.iter().filter(|unit| unit.kind == kind).count();
        assert_eq!(
            [topology.msi_controllers.len(), topology.devices.len(), topology.hosts.len(), units(UnitKind::SmmuV2)],
            [kinds[0], kinds[1], kinds[2], kinds[3]],
            "{name}"
        );
        assert_eq!([units(UnitKind::SmmuV3), topology.counters.len()], [kinds[4], kinds[5]], "{name}");
        let quirk = u32::from(topology.quirks.contains(&QUIRK_ID_COUNT));
        for (&node, _) in starts.iter().filter(|(_, kind)| **kind == 2) {
            let segment = word(bytes, node + 28) as u16;
            for map in 0..word(bytes, node + 8) as usize {
                let map = node + word(bytes, node + 12) as usize + 20 * map;
                let [input, count, output, to] = [0, 4, 8, 12].map(|field| word(bytes, map + field));
                let last = count - quirk;
                for (id, out) in [(input, output), (input + last, output + last)] {
                    let found = topology.stream_for(StreamId { segment, id }, &Tree::default());
                    let wanted = (starts[&(to as usize)] >= 3).then_some(out);
                    assert_eq!(found.map(|found| found.1), wanted, "{name}: segment {segment} id {id:#x}");
                }
            }
        }
    });
}

#[test]
fn every_device_tree_gives_a_topology_or_a_clear_error() {
    each("dtb", parse_device_tree, |name, bytes, topology| {
        let count = |what: &[u8]| bytes.windows(what.len()).filter(|window| *window == what).count();
        assert_eq!(topology.units.len(), count(b"arm,smmu-v3\0"), "{name}");
        assert_eq!(topology.hosts.len(), count(b"pci-host-ecam-generic\0"), "{name}");
        assert!(topology.findings.is_empty(), "{name}: {:?}", topology.findings);
    });
}
