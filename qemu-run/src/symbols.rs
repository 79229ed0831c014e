//! Names of the kernel's functions, for the backtrace of a panic: `kernel.map` in the initrd, lines `hex-address name`.

use anyhow::{Context, Result};
use object::{Object, ObjectSymbol, SymbolKind};
use std::fmt::Write;
use std::path::Path;

/// Longest name kept, in bytes.
const LONGEST: usize = 120;

/// The map of a kernel's ELF file.
///
/// # Errors
/// It cannot be read, or is no ELF file.
pub fn map(kernel: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    let file = object::read::elf::ElfFile64::<object::Endianness>::parse(&*bytes)
        .with_context(|| format!("{} is no 64-bit ELF file", kernel.display()))?;
    let is_function = |kind| matches!(kind, SymbolKind::Text | SymbolKind::Unknown);
    let mut all: Vec<(u64, String)> = file
        .symbols()
        .filter(|symbol| is_function(symbol.kind()) && symbol.address() != 0)
        .filter_map(|symbol| Some((symbol.address(), readable(symbol.name().ok()?))))
        .filter(|(_, name)| !name.is_empty())
        .collect();
    all.sort();
    all.dedup_by_key(|(address, _)| *address);
    let mut text = String::new();
    for (address, name) in all {
        let _ = writeln!(text, "{address:x} {name}");
    }
    Ok(text.into_bytes())
}

/// The path in a name of Rust's older scheme: `_ZN`, identifiers with their lengths, a hash, `E`.
fn older(mut rest: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    loop {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (length, tail) = rest.split_at(digits);
        let Some((identifier, tail)) = length.parse().ok().and_then(|length| tail.split_at_checked(length)) else {
            break;
        };
        parts.push(identifier);
        rest = tail;
    }
    let is_hash = |part: &&str| part.len() == 17 && part.starts_with('h');
    if parts.last().is_some_and(is_hash) {
        parts.pop();
    }
    let signs = [
        ("..", "::"),
        ("$LT$", "<"),
        ("$GT$", ">"),
        ("$u20$", " "),
        ("$RF$", "&"),
        ("$C$", ","),
        ("$u7b$", "{"),
        ("$u7d$", "}"),
    ];
    let path = signs.iter().fold(parts.join("::"), |path, (sign, meant)| path.replace(sign, meant));
    path.chars().take(LONGEST).collect()
}

/// The identifiers of a mangled name (Rust's v0 scheme and the one before), joined; other names as they are. Not a demangler: in v0
/// generic arguments come after the path they belong to, and basic types are left out.
fn readable(name: &str) -> String {
    let name = name.split(".llvm.").next().unwrap_or(name);
    if let Some(rest) = name.strip_prefix("_ZN") {
        return older(rest);
    }
    let Some(mut rest) = name.strip_prefix("_R") else { return name.chars().take(LONGEST).collect() };
    let mut parts: Vec<&str> = Vec::new();
    while let Some(first) = rest.chars().next() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            // An identifier: its length, `_` if it begins with a digit or `_`, its bytes.
            let (length, tail) = rest.split_at(digits);
            let tail = tail.strip_prefix('_').unwrap_or(tail);
            let length = length.parse().unwrap_or(0).min(tail.len());
            let Some((identifier, tail)) = tail.split_at_checked(length) else { break };
            if !identifier.is_empty() {
                parts.push(identifier);
            }
            rest = tail;
        } else if matches!(first, 's' | 'B')
            && let Some(end) = rest.find('_').filter(|end| rest[1..*end].bytes().all(|b| b.is_ascii_alphanumeric()))
        {
            // A disambiguator or a back reference: a number in base 62.
            rest = &rest[end + 1..];
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    parts.join("::").chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths() {
        let mangled = "_RINvNtCsg3SjgaGcPXb_4core3ptr13drop_in_placeNtNtCsfySoobUK4LL_5alloc6string6StringEBK_";
        assert_eq!(readable(mangled), "core::ptr::drop_in_place::alloc::string::String");
        let closure = "_RNCNvNtNtCsegoZmTB8Y0R_17compiler_builtins3mem5impls13compare_bytess1_0B7_.llvm.147653";
        assert_eq!(readable(closure), "compiler_builtins::mem::impls::compare_bytes");
        assert_eq!(readable("_RNvCsfLfy6EI15iL_7___rustc14___rust_realloc"), "__rustc::__rust_realloc");
        assert_eq!(readable("_ZN11kernel_core4main17ha79a5321a4b63e5cE"), "kernel_core::main");
        let implementation = "_ZN47_$LT$mm..Frames$u20$as$u20$core..fmt..Debug$GT$3fmt17h0f3fb7866b2423ccE";
        assert_eq!(readable(implementation), "_<mm::Frames as core::fmt::Debug>::fmt");
        assert_eq!(readable("_ZN99x"), "");
        assert_eq!(readable("trap_common"), "trap_common");
        assert_eq!(readable("_R9999x"), "x");
        assert_eq!(readable("_R"), "");
    }

    #[test]
    fn a_file_that_is_no_elf_is_an_error() {
        assert!(map(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))).is_err());
        assert!(map(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn our_own_functions_are_found() {
        let text = String::from_utf8(map(&std::env::current_exe().unwrap()).unwrap()).unwrap();
        assert!(text.lines().count() > 100 && text.contains("readable"));
    }
}
