//! Set-up: QEMU, the bare-metal target, a C library to link programs statically.
//!
//! Every run checks, which takes a few processes and no network. What is missing is installed if that is possible without
//! asking; otherwise the error names the one command to type.

pub mod apt;
mod rust;
mod version;

pub use version::Version;

use crate::run::{ask, bounded, find_in_path, shown};
use crate::ui::Ui;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Oldest QEMU whose VT-d has first-stage tables (`x-flts`).
pub const QEMU_NEEDED: Version = Version(10, 0, 0);
/// The kernel's target.
pub const BARE_TARGET: &str = "x86_64-unknown-none";
/// The programs' target.
pub const PROGRAM_TARGET: &str = "x86_64-unknown-linux-gnu";
/// An apt run that installs something, network included.
const APT_LIMIT: Duration = Duration::from_secs(900);

/// How `core` and `alloc` for the bare target come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BareStd {
    /// The toolchain has them.
    Installed,
    /// Cargo builds them from this `library` folder.
    Build(PathBuf),
}

/// What a run needs of the machine.
#[derive(Clone, Debug)]
pub struct Tools {
    /// qemu-system-x86_64
    pub qemu: PathBuf,
    /// Its version.
    pub qemu_version: Version,
    /// For building the kernel.
    pub bare: BareStd,
    /// The C compiler.
    pub cc: PathBuf,
}

/// The root of the checkout.
pub fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.ancestors().find(|dir| dir.join("Cargo.lock").exists()).unwrap_or(&here).to_owned()
}

/// Where cargo and this tool put what they make.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Checks, and installs what is missing.
///
/// # Errors
/// Something is missing and cannot be installed from here; the message ends with the command to type.
pub fn ensure(ui: &Ui) -> Result<Tools> {
    let dir = target_dir().join("setup");
    let machine = Machine::look();
    let (qemu, qemu_version) = match find_qemu() {
        Ok(found) => found,
        Err(why) if std::env::var_os("PORTOLAN_QEMU").is_some() => bail!(why),
        Err(why) => {
            ui.say(&format!("set-up: {why}; installing qemu-system-x86"));
            machine.install(ui, &dir, &["qemu-system-x86"], &why)?;
            find_qemu().map_err(anyhow::Error::msg)?
        }
    };
    let cc = match (find_cc(), static_libc()) {
        (Some(cc), true) => cc,
        (cc, _) => {
            let why = if cc.is_none() { "no C compiler" } else { "no libc.a to link programs statically" };
            ui.say(&format!("set-up: {why}; installing gcc and libc6-dev"));
            machine.install(ui, &dir, &["gcc", "libc6-dev"], why)?;
            find_cc().filter(|_| static_libc()).context("gcc or libc.a is still missing after apt installed it")?
        }
    };
    Ok(Tools { qemu, qemu_version, bare: rust::ensure_bare(ui, &dir, &machine)?, cc })
}

/// What `setup` prints when all is there.
pub fn describe(tools: &Tools) -> String {
    let bare = match &tools.bare {
        BareStd::Installed => "installed".to_owned(),
        BareStd::Build(library) => format!("built from {}", library.display()),
    };
    format!(
        "QEMU         {} at {}\nbare target  {BARE_TARGET}: core and alloc {bare}\nC compiler   {}, static libc found",
        tools.qemu_version,
        tools.qemu.display(),
        tools.cc.display()
    )
}

/// QEMU from `PORTOLAN_QEMU` or PATH, if it is new enough; else why not.
fn find_qemu() -> Result<(PathBuf, Version), String> {
    let path = match std::env::var_os("PORTOLAN_QEMU") {
        Some(path) => PathBuf::from(path),
        None => find_in_path("qemu-system-x86_64").ok_or("no qemu-system-x86_64 in PATH")?,
    };
    let said = ask(&path, &["--version"]).ok_or_else(|| format!("{} --version does not run", path.display()))?;
    let version = Version::find(&said).ok_or_else(|| format!("{} --version says no version", path.display()))?;
    if version < QEMU_NEEDED {
        return Err(format!("{} is version {version}, and {QEMU_NEEDED} or newer is needed", path.display()));
    }
    Ok((path, version))
}

fn find_cc() -> Option<PathBuf> {
    match std::env::var_os("CC") {
        Some(cc) => find_in_path(&cc.to_string_lossy()),
        None => find_in_path("cc").or_else(|| find_in_path("gcc")),
    }
}

fn static_libc() -> bool {
    // gcc answers with a path if it finds the file, and with the bare name if not.
    find_cc().and_then(|cc| ask(cc, &["-print-file-name=libc.a"])).is_some_and(|path| Path::new(&path).is_absolute())
}

/// A package of another release, and what is wanted out of it.
struct Package<'a> {
    suite: &'a str,
    name: &'a str,
    version: Version,
    only: &'a str,
}

/// What can be installed on this machine, and how.
struct Machine {
    codename: Option<String>,
    sources: Vec<apt::Source>,
    /// Words in front of a command that needs root; `None` if there is no way.
    root: Option<Vec<String>>,
}

impl Machine {
    fn look() -> Self {
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let debian = release.lines().any(|line| line == "ID=debian") && find_in_path("apt-get").is_some();
        let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let root = match ask("id", &["-u"]).as_deref() {
            Some("0") => Some(Vec::new()),
            _ => ask("sudo", &["-n", "true"]).map(|_| vec!["sudo".to_owned(), "-n".to_owned()]),
        };
        Self {
            codename: codename.filter(|_| debian).map(|name| name.trim_matches('"').to_owned()),
            sources: apt::of_machine(Path::new("/etc/apt")),
            root,
        }
    }

    /// The entry for the running release.
    fn release(&self) -> Option<(&str, &apt::Source)> {
        let codename = self.codename.as_deref()?;
        Some((codename, apt::release(&self.sources, codename)?))
    }

    /// Installs packages; backports may be used, and are preferred on the release whose own QEMU is too old.
    fn install(&self, ui: &Ui, dir: &Path, packages: &[&str], why: &str) -> Result<()> {
        let Some((codename, base)) = self.release() else {
            bail!(
                "{why}. This is no Debian whose apt sources could be read: install {} with the system's package manager \
                 (QEMU must be {QEMU_NEEDED} or newer; PORTOLAN_QEMU=/path/to/qemu-system-x86_64 names one)",
                packages.join(" and ")
            );
        };
        let (updates, backports) = (format!("{codename}-updates"), format!("{codename}-backports"));
        let private = apt::Private::new(&dir.join("apt"), &apt::with_suites(base, &[codename, &updates, &backports]))?;
        let options = private.options().join(" ");
        let from = if codename == "bookworm" { format!("-t {backports} ") } else { String::new() };
        // One script, so that what we run and what a person is asked to run are the same.
        let script = dir.join("install.sh");
        let text = format!(
            "set -e\nexport DEBIAN_FRONTEND=noninteractive\napt-get {options} update\n\
             apt-get {options} install -y --no-install-recommends {from}{}\n",
            packages.join(" ")
        );
        std::fs::write(&script, text).with_context(|| format!("cannot write {}", script.display()))?;
        let Some(root) = &self.root else {
            bail!("{why}, and installing needs root. Type:\n\n    sudo sh {}\n", script.display());
        };
        let mut words = root.iter().map(String::as_str).chain(["sh"]);
        let mut command = Command::new(words.next().unwrap_or("sh"));
        command.args(words).arg(&script);
        let name = format!("set-up: apt {}", packages.join(" "));
        shown(ui, &name, &command, APT_LIMIT)
            .with_context(|| format!("{why}. To try again: sudo sh {}", script.display()))
    }

    /// Unpacks `only` (a tar pattern) out of a package of another Debian release, without installing it and without root.
    fn unpack(&self, ui: &Ui, dir: &Path, from: &Package<'_>, into: &Path) -> Result<()> {
        let Package { suite, name: package, version: wanted, only } = *from;
        let (_, base) = self.release().context("this is no Debian whose apt sources could be read")?;
        let private = apt::Private::new(&dir.join(format!("apt-{suite}")), &apt::with_suites(base, &[suite]))?;
        let command = |program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            command.args(private.options()).args(args).current_dir(dir);
            command
        };
        shown(ui, &format!("set-up: lists of {suite}"), &command("apt-get", &["update"]), APT_LIMIT)?;
        let listed = bounded(&command("apt-cache", &["madison", package]), Duration::from_secs(60), None)?.text;
        let version = listed
            .lines()
            .filter_map(|line| line.split('|').nth(1).map(str::trim))
            .find(|version| Version::find(version) == Some(wanted))
            .with_context(|| format!("{suite} has no {package} {wanted}: {}", listed.trim()))?;
        let download = command("apt-get", &["download", &format!("{package}={version}")]);
        shown(ui, &format!("set-up: {package} {wanted}"), &download, APT_LIMIT)?;
        let is_deb = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with(&format!("{package}_")) && name.ends_with(".deb")
        };
        let deb = std::fs::read_dir(dir)?.flatten().map(|entry| entry.path()).find(is_deb);
        let deb = deb.with_context(|| format!("apt-get download left no {package}_*.deb in {}", dir.display()))?;
        let mut unpack = Command::new("sh");
        unpack.args(["-c", "dpkg-deb --fsys-tarfile \"$1\" | tar -x -C \"$2\" --wildcards \"$3\"", "sh"]);
        unpack.arg(&deb).arg(into).arg(only);
        shown(ui, &format!("set-up: unpacking {package}"), &unpack, APT_LIMIT)?;
        std::fs::remove_file(&deb).with_context(|| format!("cannot remove {}", deb.display()))
    }
}
