//! `core` and `alloc` for the bare target: from the toolchain, by rustup, or built from Debian's rust-src.

use super::{BARE_TARGET, BareStd, Machine, Package, Version};
use crate::run::{ask, find_in_path, shown};
use crate::ui::Ui;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// `rustup target add` waits long on a server that does not answer.
const RUSTUP_LIMIT: Duration = Duration::from_secs(120);
/// The Debian release whose backports follow the stable toolchain.
const RUST_SRC_SUITE: &str = "trixie-backports";

/// `PORTOLAN_BARE_STD=build` builds `core` even where the toolchain has it; `PORTOLAN_BARE_STD=no-rustup` also never asks rustup.
pub(super) fn ensure_bare(ui: &Ui, dir: &Path, machine: &Machine) -> Result<BareStd> {
    let wish = std::env::var("PORTOLAN_BARE_STD").unwrap_or_default();
    if wish.is_empty() && installed() {
        return Ok(BareStd::Installed);
    }
    let rustc =
        Version::find(&ask("rustc", &["-V"]).context("rustc -V does not run")?).context("rustc -V says no version")?;
    if let Some(library) = source_beside(dir, rustc) {
        return Ok(BareStd::Build(library));
    }
    let mut add = Command::new("rustup");
    add.args(["target", "add", BARE_TARGET]);
    if wish.is_empty() && find_in_path("rustup").is_some() {
        ui.say(&format!("set-up: the Rust target {BARE_TARGET} is missing; adding it"));
        match shown(ui, "set-up: rustup target add", &add, RUSTUP_LIMIT) {
            Ok(()) if installed() => return Ok(BareStd::Installed),
            Ok(()) => ui.say("set-up: rustup is content, but this rustc does not have the target"),
            Err(why) => ui.say(&format!("set-up: rustup could not: {}", reason(&why.to_string()))),
        }
    }
    ui.say(&format!("set-up: taking the source of core and alloc {rustc} from Debian's {RUST_SRC_SUITE}"));
    let into = dir.join(format!("rust-src-{rustc}"));
    let partial = dir.join("rust-src.partial");
    let package =
        Package { suite: RUST_SRC_SUITE, name: "rust-src", version: rustc, only: "./usr/src/rustc-*/library/*" };
    let fetched = std::fs::remove_dir_all(&partial)
        .or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
        .and_then(|()| std::fs::create_dir_all(&partial))
        .map_err(anyhow::Error::from)
        .and_then(|()| machine.unpack(ui, dir, &package, &partial))
        // Renamed only when it is whole, so that a run that was cut leaves nothing that looks finished.
        .and_then(|()| std::fs::rename(&partial, &into).map_err(anyhow::Error::from));
    match (fetched, source_beside(dir, rustc)) {
        (Ok(()), Some(library)) => Ok(BareStd::Build(library)),
        (Ok(()), None) => bail!("rust-src {rustc} has no library/core. Type:\n\n    rustup target add {BARE_TARGET}\n"),
        (Err(why), _) => Err(why.context(format!(
            "the Rust target {BARE_TARGET} is missing and its source could not be had. Type:\n\n    rustup target add {BARE_TARGET}\n"
        ))),
    }
}

/// Whether rustc finds `core` for the bare target.
fn installed() -> bool {
    let Some(dir) = ask("rustc", &["--print", "target-libdir", "--target", BARE_TARGET]) else { return false };
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("libcore-"))
}

/// The `library` folder of an unpacked rust-src of this version.
fn source_beside(dir: &Path, rustc: Version) -> Option<PathBuf> {
    let library = dir.join(format!("rust-src-{rustc}/usr/src/rustc-{rustc}/library"));
    library.join("core/src/lib.rs").exists().then_some(library)
}

/// The line that says what went wrong; what follows may be a backtrace.
fn reason(text: &str) -> &str {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines().find(|line| line.contains("error:")).or_else(|| lines().next_back()).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_error_not_its_backtrace() {
        assert_eq!(reason("info: downloading\nerror: no route to host\n  15: <unknown>\n"), "error: no route to host");
        assert_eq!(reason("one\ntwo\n\n"), "two");
        assert_eq!(reason(""), "");
    }
}
