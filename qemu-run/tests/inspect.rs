//! `inspect` from outside: files in, rows, JSON and exit status out.

use qemu_run::inspect::{Args, inspect};
use std::path::{Path, PathBuf};

struct Ran {
    status: u8,
    out: String,
    complaints: String,
}

fn run(json: bool, paths: &[&Path]) -> Ran {
    let (mut out, mut complaints) = (Vec::new(), Vec::new());
    let args = Args { json, paths: paths.iter().map(PathBuf::from).collect() };
    let status = inspect(&args, &mut out, &mut complaints).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { status, out: text(out), complaints: text(complaints) }
}

/// VT-d 5.0 section 8: header of 36 bytes with length at 4, width at 36; one DRHD with INCLUDE_PCI_ALL at fed90000.
fn dmar() -> Vec<u8> {
    let mut table = vec![0; 64];
    table[..4].copy_from_slice(b"DMAR");
    (table[4], table[8], table[36], table[37]) = (64, 1, 46, 1);
    table[10..24].copy_from_slice(b"MAKER MACHINE ");
    table[50] = 16;
    table[52] = 1;
    table[56..60].copy_from_slice(&0xfed9_0000_u32.to_le_bytes());
    table[9] = table.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    table
}

fn acpidump(table: &[u8]) -> String {
    let mut text = format!("{} @ 0x000000007FFE1000\n", String::from_utf8_lossy(&table[..4]));
    for (at, row) in table.chunks(16).enumerate() {
        let hex: String = row.iter().map(|byte| format!("{byte:02X} ")).collect();
        let seen: String = row.iter().map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '.' }).collect();
        text += &format!("    {:04X}: {hex:<48} {seen}\n", at * 16);
    }
    text + "\n"
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn put(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_binary_table_gives_rows() {
    let folder = folder();
    let ran = run(false, &[&put(&folder, "a.bin", &dmar())]);
    assert_eq!((ran.status, ran.complaints.as_str()), (0, ""));
    for part in ["a.bin", "DMAR, 64 bytes, revision 1, MAKER MACHINE 0x0", "47 address bits interrupt remapping"] {
        assert!(ran.out.contains(part), "{part} is missing:\n{}", ran.out);
    }
    assert!(ran.out.contains("VT-d at 0xfed90000..=0xfed90fff segment 0 rest of segment"), "{}", ran.out);
}

#[test]
fn acpidump_text_holds_several_tables() {
    let folder = folder();
    let mut other = vec![0; 52];
    other[..8].copy_from_slice(b"APIC4\0\0\0");
    // The text column of the last row looks like hex.
    other[48..].copy_from_slice(b"AA B");
    let text = acpidump(&dmar()) + &acpidump(&other) + "FACS @ 0x0\n";
    let ran = run(false, &[&put(&folder, "dump.txt", text.as_bytes())]);
    assert_eq!(ran.status, 1);
    assert!(ran.complaints.ends_with("dump.txt: FACS: no bytes in the dump\n"), "{}", ran.complaints);
    assert!(ran.out.contains("APIC, 52 bytes; nothing about IOMMUs"), "{}", ran.out);
    assert!(ran.out.contains("3 tables: 1 about IOMMUs with 1 units, 0 findings, 0 notes; 1 bad"), "{}", ran.out);
    let torn = acpidump(&dmar()).replace("    0010:", "    0020:");
    let ran = run(false, &[&put(&folder, "torn.txt", torn.as_bytes())]);
    assert!(ran.complaints.contains("line of offset 0x20 where 0x10 is next"), "{}", ran.complaints);
}

#[test]
fn each_bad_table_is_one_line_and_the_status_is_1() {
    let folder = folder();
    let good = put(&folder, "good.bin", &dmar());
    let cut = put(&folder, "cut.bin", &dmar()[..50]);
    let text = put(&folder, "words", b"HELLO world, these are words and no table\n");
    let tree = put(&folder, "tree.dtb", &[0xd0, 0x0d, 0xfe, 0xed, 0, 0]);
    let gone = folder.path().join("gone");
    let ran = run(false, &[&good, &cut, &text, &tree, &gone]);
    assert_eq!(ran.status, 1);
    let lines: Vec<&str> = ran.complaints.lines().collect();
    assert_eq!(lines.len(), 4, "{}", ran.complaints);
    assert!(lines[0].ends_with("cut.bin: DMAR+0x4: length past the memory that holds the table"), "{}", lines[0]);
    assert!(lines[1].ends_with("words: neither an ACPI table nor acpidump text nor a device tree"), "{}", lines[1]);
    assert!(lines[2].ends_with("tree.dtb: fdt +0x0: shorter than a header"), "{}", lines[2]);
    assert!(lines[3].contains("gone: "), "{}", lines[3]);
}

#[test]
fn in_a_folder_files_that_are_no_tables_are_passed_over() {
    let folder = folder();
    put(&folder, "good.bin", &dmar());
    put(&folder, "README.md", b"# Tables\n");
    put(&folder, "INDEX.tsv", b"a\tb\n");
    let ran = run(false, &[folder.path()]);
    assert_eq!((ran.status, ran.complaints.as_str()), (0, ""));
    assert!(ran.out.ends_with("2 other files are no tables\n"), "{}", ran.out);
    put(&folder, "broken.bin", b"no table at all");
    assert_eq!(run(false, &[folder.path()]).status, 1);
}

#[test]
fn json_is_a_list_with_topologies_and_errors() {
    let folder = folder();
    let (good, bad) = (put(&folder, "a.bin", &dmar()), put(&folder, "b.bin", b"DMAR\xff\0\0\0"));
    let ran = run(true, &[&good, &bad]);
    assert_eq!(ran.status, 1);
    let list: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(list.as_array().map(Vec::len), Some(2));
    let unit = &list[0]["topology"]["units"][0];
    assert_eq!((unit["kind"].as_str(), unit["base"].as_str()), (Some("vtd"), Some("0xfed90000")));
    assert_eq!(unit["rest_of_segment"], true);
    assert_eq!(list[1]["error"], "DMAR+0x0: shorter than a table header");
}

/// All real tables: every one answered, nothing wider than 100 columns.
#[test]
fn the_corpus_is_answered() {
    let Some(tables) = std::env::var_os("PORTOLAN_ACPI_TABLES") else {
        println!("skipped: PORTOLAN_ACPI_TABLES does not name a folder of tables");
        return;
    };
    let ran = run(false, &[Path::new(&tables)]);
    println!("{}", ran.complaints);
    if let Some(wide) = ran.out.lines().find(|line| line.chars().count() > 100) {
        panic!("wider than 100 columns: {wide}");
    }
    let count = |word: &str| ran.out.lines().filter(|line| line.trim_start().starts_with(word)).count();
    assert_eq!(count("bad "), ran.complaints.lines().count());
    assert!(count("unit ") > 0 && count("table ") > 0);
    let list: serde_json::Value = serde_json::from_str(&run(true, &[Path::new(&tables)]).out).unwrap();
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), count("table ") + count("bad "));
    let answered = |table: &serde_json::Value| table["signature"] != "" && table["error"].is_null();
    println!("{} tables, {} good", list.len(), list.iter().filter(|table| answered(table)).count());
}
