//! Tables of real machines and of QEMU, in the folder that `PORTOLAN_ACPI_TABLES` names: a topology or a clear error for each.

mod common;

use common::Tree;
use fw_tables::{parse_dmar, parse_mcfg};
use std::path::{Path, PathBuf};

fn tables(folder: &Path, signature: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            tables(&path, signature, found);
        } else if path.file_name().is_some_and(|name| {
            let name = name.to_string_lossy();
            name.ends_with(".bin") && name.split('.').any(|part| part == signature)
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
