//! The text that acpidump writes: a line `DMAR @ 0x...` per table, then lines of an offset, up to 16 bytes in hex and the same as text.

/// One table of a dump.
pub struct Dump {
    pub signature: String,
    /// Its bytes, or why they are no table.
    pub bytes: Result<Vec<u8>, String>,
}

/// The tables of a dump; `None` if the file is none.
pub fn parse(file: &[u8]) -> Option<Vec<Dump>> {
    let text = String::from_utf8_lossy(file);
    let mut dumps: Vec<Dump> = Vec::new();
    for line in text.lines().map(str::trim_end) {
        if let Some(signature) = headline(line) {
            dumps.push(Dump { signature, bytes: Ok(Vec::new()) });
            continue;
        }
        let Some(dump) = dumps.last_mut() else {
            // Before the first table only empty lines and remarks.
            if line.chars().any(|c| c.is_control() && c != '\t') {
                return None;
            }
            continue;
        };
        let Ok(bytes) = &mut dump.bytes else { continue };
        if let Some((offset, more)) = row(line) {
            if offset == bytes.len() {
                bytes.extend(more);
            } else {
                dump.bytes = Err(format!("line of offset {offset:#x} where {:#x} is next", bytes.len()));
            }
        }
    }
    for dump in &mut dumps {
        if dump.bytes.as_ref().is_ok_and(Vec::is_empty) {
            dump.bytes = Err("no bytes in the dump".to_owned());
        }
    }
    (!dumps.is_empty()).then_some(dumps)
}

/// `DMAR @ 0x00000000`: four characters and an address.
fn headline(line: &str) -> Option<String> {
    let (signature, address) = line.split_once(" @ ")?;
    let hex = address.strip_prefix("0x")?;
    let good = signature.len() == 4 && signature.is_ascii() && !hex.is_empty();
    (good && hex.bytes().all(|b| b.is_ascii_hexdigit())).then(|| signature.to_owned())
}

/// `    0010: 44 4D ...  DM..`: offset and bytes.
fn row(line: &str) -> Option<(usize, Vec<u8>)> {
    let (offset, rest) = line.trim_start().split_once(": ")?;
    let offset = usize::from_str_radix(offset, 16).ok()?;
    let (mut bytes, mut rest) = (Vec::new(), rest.as_bytes());
    while bytes.len() < 16
        && let [high, low, ..] = rest
        && rest.get(2).is_none_or(|after| *after == b' ')
        && let (Some(high), Some(low)) = (char::from(*high).to_digit(16), char::from(*low).to_digit(16))
    {
        bytes.push((high << 4 | low) as u8);
        rest = rest.get(3..).unwrap_or(&[]);
    }
    Some((offset, bytes))
}
