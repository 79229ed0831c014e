//! Is that file a program the kernel can run: a static x86-64 Linux ELF?

use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, elf};

/// Says in one line why the bytes are not a static x86-64 ELF program.
///
/// # Errors
/// The reason, to stand behind the file's name.
pub fn check(bytes: &[u8]) -> Result<(), String> {
    if !bytes.starts_with(b"\x7fELF") {
        let script = if bytes.starts_with(b"#!") { " (it is a script)" } else { "" };
        return Err(format!("not an ELF file{script}"));
    }
    if bytes.get(4) != Some(&2) {
        return Err("a 32-bit ELF; a 64-bit x86-64 one is needed".to_owned());
    }
    let bad = |_| "a damaged ELF file".to_owned();
    let header = elf::FileHeader64::<Endianness>::parse(bytes).map_err(bad)?;
    let endian = header.endian().map_err(bad)?;
    if endian != Endianness::Little || header.e_machine(endian) != elf::EM_X86_64 {
        return Err(format!("an ELF for machine {}; x86-64 is needed", header.e_machine(endian).0));
    }
    match header.e_type(endian) {
        elf::ET_EXEC | elf::ET_DYN => {}
        elf::ET_REL => return Err("an object file, not a program; link it".to_owned()),
        other => return Err(format!("an ELF of type {}, not a program", other.0)),
    }
    for segment in header.program_headers(endian, bytes).map_err(bad)? {
        if segment.p_type(endian) == elf::PT_INTERP {
            let interpreter = segment.data(endian, bytes).map(String::from_utf8_lossy).unwrap_or_default();
            let interpreter = interpreter.trim_end_matches('\0').to_owned();
            return Err(format!("dynamically linked (it asks for {interpreter}); link it with -static"));
        }
        let entries = segment.dynamic(endian, bytes).map_err(bad)?.unwrap_or_default();
        if entries.iter().any(|entry| entry.d_tag(endian) == elf::DT_NEEDED) {
            return Err("it needs shared libraries; link it with -static".to_owned());
        }
    }
    if header.e_entry(endian) == 0 {
        return Err("an ELF without an entry point: a library, not a program".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64-bit little-endian header: type, machine, entry; no program headers.
    fn elf(kind: u16, machine: u16, entry: u64) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        bytes[16..18].copy_from_slice(&kind.to_le_bytes());
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[20] = 1;
        bytes[24..32].copy_from_slice(&entry.to_le_bytes());
        bytes[52] = 64;
        bytes[54] = 56;
        bytes
    }

    #[test]
    fn refusals_say_what_the_file_is() {
        let refuse = |bytes: &[u8]| check(bytes).unwrap_err();
        assert_eq!(refuse(b""), "not an ELF file");
        assert!(refuse(b"#!/bin/sh\n").contains("script"));
        assert!(refuse(b"\x7fELF\x01\x01\x01").contains("32-bit"));
        assert!(refuse(b"\x7fELF\x02\x01\x01").contains("damaged"));
        assert!(refuse(&elf(2, 183, 1)).contains("machine 183"));
        assert!(refuse(&elf(1, 62, 1)).contains("object file"));
        assert!(refuse(&elf(4, 62, 1)).contains("type 4"));
        assert!(refuse(&elf(3, 62, 0)).contains("library"));
        assert_eq!(check(&elf(2, 62, 0x40_1000)), Ok(()));
        assert_eq!(check(&elf(3, 62, 0x1000)), Ok(()));
    }

    #[test]
    fn this_test_itself_is_dynamically_linked() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let why = check(&own).unwrap_err();
        assert!(why.contains("ld-linux") && why.contains("-static"), "{why}");
    }
}
