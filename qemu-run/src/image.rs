//! Builds what the machine boots: the kernel, the user programs and the initrd that holds them.

use crate::cpio::Archive;
use crate::run::shown;
use crate::setup::{BARE_TARGET, BareStd, PROGRAM_TARGET, Tools, root, target_dir};
use crate::ui::Ui;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A cold build of everything on two slow cores.
const BUILD_LIMIT: Duration = Duration::from_secs(1800);

/// A built kernel and the programs that can be packed.
#[derive(Clone, Debug)]
pub struct Image {
    /// The ELF file for `-kernel`.
    pub kernel: PathBuf,
    /// Name in /bin of the image, and where the file is on the host.
    pub programs: Vec<(String, PathBuf)>,
}

/// A cargo command that none of the outer cargo's settings reach: the flags of the bare target live in .cargo/config.toml.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for name in
        ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR", "CARGO_BUILD_RUSTFLAGS"]
    {
        command.env_remove(name);
    }
    command.current_dir(root());
    command
}

/// `cargo WHAT` for the bare target, with build-std where the toolchain lacks it.
pub fn bare_cargo(tools: &Tools, what: &str) -> Command {
    let mut command = cargo();
    command.args([what, "--locked", "-p", "kernel-core", "--target", BARE_TARGET, "--target-dir"]);
    command.arg(target_dir().join("bare"));
    if let BareStd::Build(library) = &tools.bare {
        command.env("RUSTC_BOOTSTRAP", "1").env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
        command.args(["-Zbuild-std=core,alloc,compiler_builtins", "-Zbuild-std-features=compiler-builtins-mem"]);
    }
    command
}

/// Builds the kernel only.
///
/// # Errors
/// It does not build; the error has all of the compiler's output.
pub fn kernel(ui: &Ui, tools: &Tools) -> Result<PathBuf> {
    let mut command = bare_cargo(tools, "build");
    command.args(["--profile", "bare"]);
    shown(ui, "building the kernel", &command, BUILD_LIMIT)?;
    let kernel = target_dir().join("bare").join(BARE_TARGET).join("bare/kernel-core");
    if !kernel.exists() {
        bail!("cargo built no {}", kernel.display());
    }
    Ok(kernel)
}

/// Clippy over the kernel, with warnings as errors.
///
/// # Errors
/// Clippy has something to say.
pub fn lint(ui: &Ui, tools: &Tools) -> Result<()> {
    let mut command = bare_cargo(tools, "clippy");
    command.args(["--profile", "bare", "--", "-D", "warnings"]);
    shown(ui, "clippy for the bare target", &command, BUILD_LIMIT)
}

/// Rust packages whose binaries go into the image.
const RUST_PROGRAMS: [&str; 2] = ["devhost", "initrd-rust"];

/// Builds kernel and programs.
///
/// # Errors
/// Something does not build; the error has all of the compiler's output.
pub fn build(ui: &Ui, tools: &Tools) -> Result<Image> {
    let kernel = kernel(ui, tools)?;
    let dir = target_dir().join("programs");
    let mut command = cargo();
    command.args(["build", "--locked", "--release", "--target", PROGRAM_TARGET, "--target-dir"]).arg(&dir);
    for package in RUST_PROGRAMS {
        command.args(["-p", package]);
    }
    command.arg("--message-format=json-render-diagnostics");
    command.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols");
    let phase = ui.phase("building the programs", 0);
    let output = crate::run::bounded(&command, BUILD_LIMIT, None)?;
    if !output.ok {
        let shown = output.text.lines().filter(|line| !line.starts_with('{')).collect::<Vec<_>>().join("\n");
        drop(phase);
        bail!("the user programs do not build:\n{shown}");
    }
    let mut programs = Vec::new();
    for line in output.text.lines().filter(|line| line.starts_with('{')) {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        if let (Some(path), Some(name)) = (message["executable"].as_str(), message["target"]["name"].as_str()) {
            programs.push((name.to_owned(), PathBuf::from(path)));
        }
    }
    c_programs(ui, tools, &dir, &mut programs)?;
    programs.sort();
    phase.done(&programs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" "));
    Ok(Image { kernel, programs })
}

/// Every C file of boot/initrd/c is one program.
fn c_programs(ui: &Ui, tools: &Tools, dir: &Path, programs: &mut Vec<(String, PathBuf)>) -> Result<()> {
    let out = dir.join("c");
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    for entry in std::fs::read_dir(root().join("boot/initrd/c")).into_iter().flatten().flatten() {
        let source = entry.path();
        let Some(name) = source.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".c")) else {
            continue;
        };
        let program = out.join(name);
        let time = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
        if time(&program) <= time(&source) {
            let mut command = Command::new(&tools.cc);
            command.args(["-static", "-O2", "-Wall", "-Wextra", "-pthread", "-s", "-o"]);
            command.arg(&program).arg(&source).arg("-lm");
            shown(ui, &format!("compiling {name}.c"), &command, BUILD_LIMIT)?;
        }
        programs.push((name.to_owned(), program));
    }
    Ok(())
}

impl Image {
    /// Size of the kernel's ELF file in bytes.
    ///
    /// # Errors
    /// The file is gone.
    pub fn kernel_bytes(&self) -> Result<u64> {
        Ok(self.kernel.metadata().with_context(|| format!("cannot read {}", self.kernel.display()))?.len())
    }

    /// Host path of a program of the image.
    ///
    /// # Errors
    /// There is none of that name; the message lists those there are.
    pub fn program(&self, name: &str) -> Result<&Path> {
        match self.programs.iter().find(|(n, _)| n == name) {
            Some((_, path)) => Ok(path),
            None => {
                let known: Vec<&str> = self.programs.iter().map(|(name, _)| name.as_str()).collect();
                bail!("no program {name} in the image; there are {}", known.join(", "))
            }
        }
    }

    /// Packs programs (name in /bin, file on the host), and the names of the kernel's functions, into an initrd at `to`.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn pack<'a>(&self, programs: impl IntoIterator<Item = (&'a str, &'a Path)>, to: &Path) -> Result<()> {
        let mut archive = Archive::new();
        for (name, path) in programs {
            let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            archive.file(&format!("bin/{name}"), bytes);
        }
        archive.file("kernel.map", crate::symbols::map(&self.kernel)?);
        std::fs::write(to, archive.pack()).with_context(|| format!("cannot write {}", to.display()))
    }

    /// Packs all programs.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn pack_all(&self, to: &Path) -> Result<()> {
        self.pack(self.programs.iter().map(|(name, path)| (name.as_str(), path.as_path())), to)
    }
}
