//! The short commands: `boot` (serial console) and `exec` (one program).

use crate::image::{self, Image};
use crate::machine::{Machine, Profile};
use crate::qemu::{Exit, Qemu, Said};
use crate::run::{Guarded, Scratch, leave_signals_to_the_child};
use crate::setup::Tools;
use crate::ui::Ui;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What all commands take: which machine, and what is passed on to QEMU.
#[derive(Clone, Debug)]
pub struct Options {
    /// The board.
    pub profile: Profile,
    /// `-accel`
    pub accel: String,
    /// Appended to QEMU's command line.
    pub qemu_args: Vec<String>,
}

impl Options {
    /// The default machine.
    pub fn new(profile: Profile) -> Self {
        Self { profile, accel: "tcg".to_owned(), qemu_args: Vec::new() }
    }

    /// A machine with these options.
    pub fn machine(&self, image: &Image, initrd: &Path) -> Machine {
        let mut machine = Machine::new(self.profile, &image.kernel, initrd);
        machine.accel.clone_from(&self.accel);
        machine.extra.clone_from(&self.qemu_args);
        machine
    }
}

/// `boot`: the shell on this terminal. Returns the exit status for this process.
///
/// # Errors
/// Build or start failed, or the machine did not end in order.
pub fn boot(ui: &Ui, tools: &Tools, options: &Options) -> Result<u8> {
    let image = image::build(ui, tools)?;
    let scratch = Scratch::new()?;
    let initrd = scratch.path("initrd");
    image.pack_all(&initrd)?;
    let mut machine = options.machine(&image, &initrd);
    machine.on_terminal = true;
    ui.say("the machine's serial console; Ctrl-C or Ctrl-A X ends it, `poweroff` in the shell as well");
    let mut command = Command::new(&tools.qemu);
    command.args(machine.args(tools.qemu_version));
    // QEMU puts the terminal into raw mode and back, so it must be the one that is interrupted.
    leave_signals_to_the_child(true);
    let guarded = Guarded::spawn(&command, false, [Stdio::inherit(), Stdio::inherit(), Stdio::piped()])?;
    let complaint = guarded.child().stderr.take().map(|errors| std::thread::spawn(move || pass_on(errors)));
    let status = loop {
        if let Some(status) = guarded.wait(Duration::from_secs(3600)) {
            break status;
        }
    };
    leave_signals_to_the_child(false);
    let complained = complaint.is_some_and(|thread| thread.join().unwrap_or(false));
    use std::os::unix::process::ExitStatusExt;
    // Status 1 is QEMU's own refusal if it has explained one.
    match Exit::decode(status.code(), status.signal(), !complained) {
        Exit::Program(status) => Ok(status),
        Exit::Reset | Exit::Other => Ok(0),
        exit => bail!("{exit}"),
    }
}

/// Shows QEMU's standard error; true if there was more than warnings.
fn pass_on(errors: impl Read) -> bool {
    let mut complained = false;
    for line in BufReader::new(errors).lines().map_while(Result::ok) {
        complained |= !line.contains("warning:");
        eprintln!("{line}\r");
    }
    complained
}

/// Starts a machine whose first program is `program` (bytes on the host's disk), with `args`.
///
/// # Errors
/// The file is no static ELF, or the machine cannot be started.
pub fn start_program(
    tools: &Tools,
    image: &Image,
    options: &Options,
    scratch: &Scratch,
    program: &Path,
    args: &[String],
) -> Result<Qemu> {
    let bytes = std::fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    if let Err(why) = crate::program::check(&bytes) {
        bail!("{}: {why}", program.display());
    }
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let initrd = scratch.path("initrd");
    image.pack([(name.as_str(), program)], &initrd)?;
    let mut machine = options.machine(image, &initrd);
    machine.words.push("quiet".to_owned());
    machine.first_program(&format!("/bin/{name}"), args);
    Qemu::start(tools, &machine, &name)
}

/// What became of a program.
#[derive(Debug)]
pub struct Ran {
    /// Exit status as a shell shows it: 128 and the signal's number if a signal ended it.
    pub status: u8,
    /// All it wrote.
    pub output: Vec<u8>,
}

/// Passes a started program's output to `out` until it ends. `limit` bounds the time without a sign of life, none waits for ever.
///
/// # Errors
/// The machine ended without the program's exit status.
pub fn finish_program(mut qemu: Qemu, out: &mut dyn Write, limit: Option<Duration>) -> Result<Ran> {
    let (mut ended, mut output, mut trouble) = (None, Vec::new(), String::new());
    loop {
        match qemu.next(limit.unwrap_or(Duration::from_secs(3600))) {
            Some(Said::Text(text)) => {
                out.write_all(&text).and_then(|()| out.flush()).context("cannot pass the output on")?;
                output.extend_from_slice(&text);
            }
            Some(Said::Event(_, name, fields)) => match name.as_str() {
                "exit" => {
                    let number = |field: &str| fields[field].as_u64().and_then(|n| u8::try_from(n).ok());
                    ended = number("status").or_else(|| number("signal").map(|signal| 128 + (signal & 0x7F)));
                }
                "panic" | "error" => trouble = fields["message"].as_str().unwrap_or(&name).to_owned(),
                _ => {}
            },
            Some(Said::Closed) => break,
            None if limit.is_some() => {
                bail!("no sign of life for {} s\n{}", limit.unwrap_or_default().as_secs(), qemu.tail(30))
            }
            None => {}
        }
    }
    match (qemu.exit(Duration::from_secs(10)), ended) {
        (Some(Exit::Other), Some(status)) | (Some(Exit::Program(status)), _) => Ok(Ran { status, output }),
        (Some(exit), _) if trouble.is_empty() => bail!("{exit}\n{}", qemu.tail(30)),
        (Some(exit), _) => bail!("{exit}: {trouble}"),
        (None, _) => bail!("the serial port closed, but QEMU runs on"),
    }
}

/// `exec`: one program. Returns its status.
///
/// # Errors
/// It could not be run.
pub fn exec(ui: &Ui, tools: &Tools, options: &Options, program: &Path, args: &[String]) -> Result<u8> {
    // Before anything is built: a wrong file should not cost a minute.
    let bytes = std::fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    if let Err(why) = crate::program::check(&bytes) {
        bail!("{}: {why}", program.display());
    }
    let kernel = image::kernel(ui, tools)?;
    let image = Image { kernel, programs: Vec::new() };
    let scratch = Scratch::new()?;
    let qemu = start_program(tools, &image, options, &scratch, program, args)?;
    Ok(finish_program(qemu, &mut std::io::stdout().lock(), None)?.status)
}
