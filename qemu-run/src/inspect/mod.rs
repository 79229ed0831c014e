//! `inspect`: what firmware tables say about IOMMUs, on any computer. Needs nothing but the files.

mod dump;
mod json;
mod text;

use fw_tables::{Mcfg, Topology};
use iommu_types::Error;
use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Larger files hold no table.
const LARGEST: u64 = 64 << 20;
/// Folders below folders are followed this far.
const DEEPEST: usize = 16;

/// Options of `inspect`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write the topologies as JSON
    #[arg(long = "json", id = "inspect-json")]
    pub json: bool,
    /// ACPI tables (binary or acpidump text) and .dtb files, or folders of them
    #[arg(required = true, value_name = "FILE|DIR")]
    pub paths: Vec<PathBuf>,
}

/// What a table said.
#[derive(Debug)]
pub enum Said {
    /// It is about IOMMUs.
    Topology(Box<Topology>),
    /// It is about configuration space.
    Mcfg(Mcfg),
    /// It is another table; nothing in it is read but its header.
    Other,
}

/// One table of a file.
#[derive(Debug)]
pub struct Table {
    /// The file, and which table of it if there are several.
    pub name: String,
    /// Signature, or `fdt `.
    pub signature: String,
    /// Bytes of the table.
    pub length: usize,
    /// What it said, or why it is bad.
    pub said: Result<Said, String>,
}

/// Prints all tables, and one line per bad one to `complaints`. Returns 1 if there was a bad one, else 0.
///
/// # Errors
/// If `out` cannot be written.
pub fn inspect(args: &Args, out: &mut dyn Write, complaints: &mut dyn Write) -> io::Result<u8> {
    let (mut tables, mut strangers) = (Vec::new(), 0);
    for path in &args.paths {
        let named = !path.is_dir();
        for file in files(path) {
            let found = read(&file);
            // In a folder a file that is no table is no mistake; one that was asked for is.
            let stranger = matches!(&found[..], [table] if table.signature.is_empty());
            if stranger && !named && !looks_like_a_table(&file) {
                strangers += 1;
            } else {
                tables.extend(found);
            }
        }
    }
    if args.json {
        json::write(&tables, out)?;
    } else {
        for table in &tables {
            text::write(table, out)?;
        }
        if tables.len() > 1 || strangers > 0 {
            text::sum(&tables, strangers, out)?;
        }
    }
    out.flush()?;
    let mut status = 0;
    for table in &tables {
        if let Err(why) = &table.said {
            status = 1;
            writeln!(complaints, "{}: {why}", table.name)?;
        }
    }
    Ok(status)
}

/// The command: to standard output and standard error.
///
/// # Errors
/// If standard output cannot be written; a reader that closed it is no error.
pub fn run(args: &Args) -> anyhow::Result<u8> {
    let mut out = BufWriter::new(io::stdout().lock());
    match inspect(args, &mut out, &mut io::stderr().lock()) {
        Ok(status) => Ok(status),
        Err(why) if why.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        Err(why) => Err(why.into()),
    }
}

/// The files of a path, sorted; a path that is no folder is itself.
fn files(path: &Path) -> Vec<PathBuf> {
    fn below(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(folder) else { return found.push(folder.to_owned()) };
        let mut entries: Vec<_> = entries.flatten().collect();
        entries.sort_by_key(|entry| entry.file_name());
        for entry in entries {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < DEEPEST => below(&entry.path(), depth + 1, found),
                Ok(kind) if kind.is_dir() => {}
                _ => found.push(entry.path()),
            }
        }
    }
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let mut found = Vec::new();
    below(path, 0, &mut found);
    found
}

fn looks_like_a_table(file: &Path) -> bool {
    let known = ["bin", "dat", "aml", "dtb", "acpidump"];
    file.extension().and_then(OsStr::to_str).is_some_and(|end| known.contains(&end.to_ascii_lowercase().as_str()))
}

/// A name that can be printed on one line.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn read(file: &Path) -> Vec<Table> {
    let name = printable(&file.display().to_string());
    let bad = |why: String| {
        let name = name.clone();
        vec![Table { name, signature: String::new(), length: 0, said: Err(why) }]
    };
    match std::fs::metadata(file) {
        Err(why) => return bad(why.to_string()),
        Ok(data) if data.len() > LARGEST => return bad("larger than any firmware table".to_owned()),
        Ok(data) if !data.is_file() => return bad("no file".to_owned()),
        Ok(_) => {}
    }
    match std::fs::read(file) {
        Ok(bytes) => tables(&name, &bytes),
        Err(why) => bad(why.to_string()),
    }
}

/// The tables in the contents of a file: one, or those of an acpidump. A signature is empty if there is none.
pub fn tables(name: &str, bytes: &[u8]) -> Vec<Table> {
    if let Some(dumps) = dump::parse(bytes) {
        return dumps
            .into_iter()
            .map(|dump| {
                let name = format!("{name}: {}", dump.signature);
                match dump.bytes {
                    Ok(bytes) => one(name, &bytes),
                    Err(why) => Table { name, signature: dump.signature, length: 0, said: Err(why) },
                }
            })
            .collect();
    }
    vec![one(name.to_owned(), bytes)]
}

fn one(name: String, bytes: &[u8]) -> Table {
    let told = |error: Error| error.to_string();
    let topology = |said: Result<Topology, Error>| said.map(|t| Said::Topology(Box::new(t))).map_err(told);
    if bytes.starts_with(&0xd00d_feed_u32.to_be_bytes()) {
        let said = topology(fw_tables::parse_device_tree(bytes));
        return Table { name, signature: "fdt ".to_owned(), length: bytes.len(), said };
    }
    let Some((signature, length)) = acpi_header(bytes) else {
        let said = Err("neither an ACPI table nor acpidump text nor a device tree".to_owned());
        return Table { name, signature: String::new(), length: bytes.len(), said };
    };
    let said = match signature.as_str() {
        "DMAR" => topology(fw_tables::parse_dmar(bytes)),
        "IVRS" => topology(fw_tables::parse_ivrs(bytes)),
        "IORT" => topology(fw_tables::parse_iort(bytes)),
        "MCFG" => fw_tables::parse_mcfg(bytes).map(Said::Mcfg).map_err(told),
        // FACS is no description table: it has a shorter header and no checksum.
        "FACS" => Ok(Said::Other),
        _ if length < 36 => Err(format!("{signature}+0x4: length below the table header")),
        _ if length > bytes.len() => Err(format!("{signature}+0x4: length past the end of the file")),
        _ => Ok(Said::Other),
    };
    Table { name, signature, length, said }
}

/// Signature and length, if the bytes begin as an ACPI table does.
fn acpi_header(bytes: &[u8]) -> Option<(String, usize)> {
    let signature = bytes.get(..4)?;
    let plain = signature.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_');
    if !plain {
        return None;
    }
    let length =
        bytes.get(4..8).map_or(0, |field| field.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte)));
    // Words in capitals begin so, too: text has no such length.
    let text = bytes.iter().take(36).all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    (!text).then(|| (String::from_utf8_lossy(signature).into_owned(), length))
}
