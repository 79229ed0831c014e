//! What the QEMU suites share: one build per process, at most two machines at a time, and short ways to run something.
//!
//! Every suite starts machines through `qemu_run`, exactly as a person does with `cargo run`.
#![forbid(unsafe_code)]

use anyhow::{Result, bail};
use qemu_run::guest::{self, Options, Ran};
use qemu_run::image::{self, Image};
use qemu_run::machine::{Machine, Profile};
use qemu_run::migrate::{Job, Outcome};
use qemu_run::qemu::{Exit, Qemu, Said};
use qemu_run::report::Report;
use qemu_run::run::Scratch;
use qemu_run::setup::{self, Tools};
use qemu_run::ui::Ui;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A machine that says nothing for this long hangs.
pub const SILENCE: Duration = Duration::from_secs(90);

/// The tools and the image, made by whoever comes first.
///
/// # Panics
/// If set-up or the build fails; with their message.
pub fn built() -> &'static (Tools, Image) {
    static BUILT: OnceLock<(Tools, Image)> = OnceLock::new();
    BUILT.get_or_init(|| {
        qemu_run::run::end_children_on_signal();
        let ui = Ui::new();
        let tools = setup::ensure(&ui).unwrap_or_else(|why| panic!("set-up: {why:#}"));
        let image = image::build(&ui, &tools).unwrap_or_else(|why| panic!("build: {why:#}"));
        (tools, image)
    })
}

/// Two processors: two machines at a time.
const SLOTS: usize = 2;
static FREE: (Mutex<usize>, Condvar) = (Mutex::new(SLOTS), Condvar::new());

/// The right to run machines; given back when dropped.
pub struct Slots(usize);

/// Waits for the right to run `count` machines.
pub fn slots(count: usize) -> Slots {
    // Built first, so that nobody holds a slot for the length of a build.
    built();
    let mut free = FREE.0.lock().unwrap_or_else(PoisonError::into_inner);
    while *free < count {
        free = FREE.1.wait(free).unwrap_or_else(PoisonError::into_inner);
    }
    *free -= count;
    Slots(count)
}

impl Drop for Slots {
    fn drop(&mut self) {
        *FREE.0.lock().unwrap_or_else(PoisonError::into_inner) += self.0;
        FREE.1.notify_all();
    }
}

/// What one boot gave.
pub struct Boot {
    /// How it ended.
    pub exit: Exit,
    /// The console's text, events taken out.
    pub text: String,
    /// Events in order.
    pub events: Vec<(String, Value)>,
    /// Lines of QEMU's trace.
    pub trace: Vec<String>,
}

impl Boot {
    /// The fields of all events of that name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events.iter().filter(move |(n, _)| n == name).map(|(_, fields)| fields)
    }

    /// The fields of the one event of that name.
    ///
    /// # Errors
    /// There is none or more than one.
    pub fn one<'a>(&'a self, name: &'a str) -> Result<&'a Value> {
        match self.all(name).collect::<Vec<_>>().as_slice() {
            [one] => Ok(one),
            all => bail!("{} events {name}\n{}", all.len(), self.text),
        }
    }

    /// Whether QEMU's trace has an event whose line contains all `words`: a witness that is not ours.
    pub fn witnessed(&self, words: &[&str]) -> bool {
        self.trace.iter().any(|line| words.iter().all(|word| line.contains(word)))
    }
}

/// Boots with `words` on the kernel's command line and all programs in the initrd, and waits for the end. `trace`: patterns of QEMU's
/// trace events.
///
/// # Errors
/// It cannot be started, or says nothing for [`SILENCE`].
pub fn boot(profile: Profile, words: &[&str], trace: &[&str]) -> Result<Boot> {
    boot_with(profile, trace, |machine| machine.words = words.iter().map(|word| (*word).to_owned()).collect())
}

/// As [`boot`], with any change to the machine.
///
/// # Errors
/// As [`boot`].
pub fn boot_with(profile: Profile, trace: &[&str], change: impl FnOnce(&mut Machine)) -> Result<Boot> {
    let _slot = slots(1);
    let (tools, image) = built();
    let scratch = Scratch::new()?;
    let initrd = scratch.path("initrd");
    image.pack_all(&initrd)?;
    let mut machine = Options::new(profile).machine(image, &initrd);
    let log = scratch.path("trace");
    if !trace.is_empty() {
        machine.trace = Some((trace.iter().map(|event| (*event).to_owned()).collect(), log.clone()));
    }
    change(&mut machine);
    let mut qemu = Qemu::start(tools, &machine, profile.name())?;
    let mut events = Vec::new();
    loop {
        match qemu.next(SILENCE) {
            Some(Said::Event(_, name, fields)) => events.push((name, fields)),
            Some(Said::Text(_)) => {}
            Some(Said::Closed) => break,
            None => bail!("no sign of life for {} s\n{}", SILENCE.as_secs(), qemu.tail(40)),
        }
    }
    let Some(exit) = qemu.exit(Duration::from_secs(10)) else { bail!("it hangs at its end\n{}", qemu.tail(40)) };
    let trace = std::fs::read_to_string(&log).unwrap_or_default().lines().map(str::to_owned).collect();
    let text = format!("{}{}", qemu.text(), qemu.errors());
    Ok(Boot { exit, text, events, trace })
}

/// Runs a program of the image, or any file, as the first program.
///
/// # Errors
/// It could not be run.
pub fn exec(profile: Profile, program: &str, args: &[&str]) -> Result<Ran> {
    let _slot = slots(1);
    let (tools, image) = built();
    let path = if program.contains('/') { PathBuf::from(program) } else { image.program(program)?.to_owned() };
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let scratch = Scratch::new()?;
    let qemu = guest::start_program(tools, image, &Options::new(profile), &scratch, &path, &args)?;
    guest::finish_program(qemu, &mut std::io::sink(), Some(SILENCE))
}

/// Runs the same file on this Linux, with standard error where standard output goes: what the kernel must do as well.
///
/// # Errors
/// It cannot be started.
pub fn on_linux(path: &Path, args: &[&str]) -> Result<Ran> {
    use std::os::unix::process::ExitStatusExt;
    let script = ["-c", "exec \"$0\" \"$@\" 2>&1 </dev/null"];
    let output = std::process::Command::new("/bin/sh").args(script).arg(path).args(args).env_clear().output()?;
    let status = output.status.code().or_else(|| output.status.signal().map(|signal| 128 + signal));
    Ok(Ran { status: status.unwrap_or(255) as u8, output: output.stdout })
}

/// Waits until `done` or the limit.
pub fn within(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + limit;
    while !done() {
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// The main job.
///
/// # Errors
/// See [`qemu_run::migrate::run`].
pub fn migrate(profile: Profile, job: &Job) -> Result<(Outcome, Report)> {
    let _slots = slots(2);
    let (tools, image) = built();
    qemu_run::migrate::run(&Ui::new(), tools, &Options::new(profile), image, job)
}
