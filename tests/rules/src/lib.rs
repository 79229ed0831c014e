//! What the rules of the design are checked with: the workspace as cargo sees it, and sources without comments and strings.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// One crate of the workspace.
#[derive(Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its folder, relative to the root.
    pub folder: String,
    /// Names of what it needs to be built, but not for its tests or its build script.
    pub normal: BTreeSet<String>,
    /// The text of its Cargo.toml.
    pub manifest: String,
}

impl Package {
    /// Everything under drivers/ and kernel/ except kernel/core.
    pub fn is_pure(&self) -> bool {
        (self.folder.starts_with("drivers/") || self.folder.starts_with("kernel/")) && self.folder != "kernel/core"
    }
}

/// The root of the checkout.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().find(|dir| dir.join("Cargo.lock").exists()).unwrap_or(here).to_owned()
}

/// All crates of the workspace by name, from `cargo metadata`.
///
/// # Panics
/// If cargo cannot say.
pub fn packages() -> BTreeMap<String, Package> {
    let root = root();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = std::process::Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(&root)
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let package = |package: &serde_json::Value| {
        let manifest = PathBuf::from(package["manifest_path"].as_str()?);
        let folder = manifest.parent()?.strip_prefix(&root).ok()?.to_str()?.to_owned();
        let needs = package["dependencies"].as_array()?.iter().filter(|need| need["kind"].is_null());
        Some(Package {
            name: package["name"].as_str()?.to_owned(),
            folder,
            normal: needs.filter_map(|need| need["name"].as_str().map(str::to_owned)).collect(),
            manifest: std::fs::read_to_string(&manifest).ok()?,
        })
    };
    let all = metadata["packages"].as_array().expect("packages").iter();
    all.map(|p| package(p).expect("a package as cargo describes it")).map(|p| (p.name.clone(), p)).collect()
}

/// All that `from` needs, directly or not, within the workspace; and what those need from outside.
pub fn closure(packages: &BTreeMap<String, Package>, from: &str) -> BTreeSet<String> {
    let (mut seen, mut todo) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(name) = todo.pop() {
        for need in packages.get(&name).into_iter().flat_map(|package| &package.normal) {
            if seen.insert(need.clone()) {
                todo.push(need.clone());
            }
        }
    }
    seen
}

/// A Rust source file.
pub struct Source {
    /// Relative to the root.
    pub path: String,
    /// As it is.
    pub text: String,
    /// Without comments, and with empty string and character literals; lines keep their numbers.
    pub code: String,
}

/// All Rust sources of the checkout, target folders left out.
pub fn sources() -> Vec<Source> {
    let root = root();
    let (mut found, mut todo) = (Vec::new(), vec![root.clone()]);
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" {
                    todo.push(path);
                }
            } else if name.ends_with(".rs") {
                let Ok(text) = std::fs::read_to_string(&path) else { continue };
                let path = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
                found.push(Source { code: code_only(&text), path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Blanks comments and the inside of literals.
pub fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    let newlines = |out: &mut Vec<u8>, part: &[u8]| out.extend(part.iter().filter(|byte| **byte == b'\n'));
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = if rest.starts_with(b"//") {
            rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment(rest)
        } else if let Some(len) = raw_string(rest, at.checked_sub(1).map(|before| bytes[before])) {
            len
        } else if rest[0] == b'"' {
            quoted(rest, b'"')
        } else if rest[0] == b'\'' && is_char(rest) {
            quoted(rest, b'\'')
        } else {
            out.push(rest[0]);
            at += 1;
            continue;
        };
        newlines(&mut out, &rest[..end]);
        at += end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// Length of a raw string literal (with or without `b`, `c`) that starts here.
fn raw_string(rest: &[u8], before: Option<u8>) -> Option<usize> {
    if before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    let prefix = usize::from(matches!(rest[0], b'b' | b'c'));
    if rest.get(prefix) != Some(&b'r') {
        return None;
    }
    let hashes = rest[prefix + 1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(prefix + 1 + hashes) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let from = prefix + 2 + hashes;
    let len = rest[from..].windows(close.len()).position(|window| window == close);
    Some(len.map_or(rest.len(), |len| from + len + close.len()))
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += 1 + usize::from(rest[at] == b'\\');
    }
    (at + 1).min(rest.len())
}

/// A character literal, not a lifetime.
fn is_char(rest: &[u8]) -> bool {
    let near = &rest[1..rest.len().min(9)];
    let near =
        std::str::from_utf8(near).or_else(|error| std::str::from_utf8(&near[..error.valid_up_to()])).unwrap_or("");
    near.starts_with('\\') || near.chars().nth(1) == Some('\'')
}

/// Whether `code` has `word` as a word of its own.
pub fn has_word(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        !code[..at].chars().next_back().is_some_and(part) && !code[at + word.len()..].chars().next().is_some_and(part)
    })
}

/// The part of a file's code before its test module.
pub fn without_tests(code: &str) -> &str {
    code.find("#[cfg(test)]").map_or(code, |at| &code[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked() {
        let text = "a // unsafe\nb /* unsafe /* x */ unsafe */ c \"unsafe \\\" unsafe\" d r#\"unsafe \" unsafe\"# e '\"' f 'u' g";
        let code = code_only(text);
        assert!(!code.contains("unsafe"), "{code}");
        for word in ["a", "b", "c", "d", "e", "f", "g"] {
            assert!(has_word(&code, word), "{word} in {code}");
        }
        assert_eq!(code.lines().count(), 2);
    }

    #[test]
    fn lifetimes_are_not_characters() {
        let code = code_only("fn f<'a>(x: &'a str) -> &'a str { unsafe { x } } // unsafe");
        assert_eq!(code.matches("unsafe").count(), 1);
        assert!(!code_only("let c = '\u{e9}'; let d = '\\''; // unsafe").contains("unsafe"));
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("unsafe {", "unsafe"));
        assert!(!has_word("forbid(unsafe_code)", "unsafe"));
        assert!(!has_word("not_unsafe", "unsafe"));
    }
}
