//! What the machine is there for: the first program, or the shell.

use crate::devices::Inventory;
use crate::events::{Value, send};
use crate::run::Runner;
use crate::shell::{self, Command, Editor};
use crate::{console, exit, memory};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use boot::BootInfo;
use task::Status;
use uapi::Errno;

/// Environment of every first program; `env=` words come after.
const ENVIRONMENT: [&str; 3] = ["PATH=/bin", "HOME=/root", "TERM=dumb"];

fn decoded(word: &str) -> Vec<u8> {
    let mut bytes = alloc::vec![0; word.len()];
    let count = boot::decode(word, &mut bytes);
    bytes.truncate(count);
    bytes
}

fn environment(info: &BootInfo) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = ENVIRONMENT.iter().map(|word| word.as_bytes().to_vec()).collect();
    all.extend(info.options("env").map(decoded));
    all
}

/// Why a program was not started, in words.
fn why(e: Errno) -> String {
    match e {
        Errno::ENOENT | Errno::ENOTDIR => "no such file".into(),
        Errno::ENOEXEC => "not a static ELF program for this machine (the kernel log says what is wrong)".into(),
        Errno::EACCES => "not a regular file".into(),
        Errno::ENOMEM => "not enough memory".into(),
        Errno::E2BIG => "its arguments are too long".into(),
        other => format!("{other:?}"),
    }
}

/// Runs the program that the command line names and ends the machine with its status; without one, the shell.
pub fn run(info: &BootInfo, runner: &Runner, inventory: &Inventory) -> ! {
    send("idle_ram", &[("bytes", Value::Number(memory::frames().used_bytes()))]);
    let argv: Vec<Vec<u8>> = info.program().map(decoded).collect();
    if argv.is_empty() {
        interactive(info, runner, inventory);
    }
    let name = String::from_utf8_lossy(&argv[0]);
    match runner.spawn(&argv, environment(info)) {
        Ok(pid) => match runner.until_ended(pid) {
            Status::Exited(status) => exit::with_status(status),
            Status::Killed(signal) => exit::with_signal(signal),
        },
        Err(e) => exit::not_started(&format!("{name} cannot be started: {}", why(e))),
    }
}

/// The shell on the serial console. Ends the machine when told to.
fn interactive(info: &BootInfo, runner: &Runner, inventory: &Inventory) -> ! {
    let mut editor = Editor::default();
    editor.prompt();
    loop {
        runner.step(false);
        let mut byte = [0];
        while console::read(&mut byte) == 1 {
            let Some(line) = editor.key(byte[0]) else { continue };
            match shell::execute(&line, inventory) {
                Command::Done => {}
                Command::PowerOff => exit::with_status(0),
                Command::Run(words) => command(info, runner, &words),
            }
            editor.prompt();
        }
    }
}

/// Runs one program to its end, from the shell. A name without a slash is looked up in /bin.
fn command(info: &BootInfo, runner: &Runner, words: &[String]) {
    let mut argv: Vec<Vec<u8>> = words.iter().map(|word| word.clone().into_bytes()).collect();
    let Some(name) = words.first() else { return };
    if !name.contains('/') {
        argv[0] = format!("/bin/{name}").into_bytes();
    }
    match runner.spawn(&argv, environment(info)) {
        Ok(pid) => match runner.until_ended(pid) {
            Status::Exited(0) => {}
            Status::Exited(status) => console::print(format_args!("{name}: exit status {status}\n")),
            Status::Killed(signal) => console::print(format_args!("{name}: ended by signal {signal}\n")),
        },
        Err(e) => console::print(format_args!("{name}: {}\n", why(e))),
    }
}
