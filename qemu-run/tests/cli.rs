//! The command as a person meets it: bad input gets one clear line, and nothing is left running, whatever ends it.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qemu-run"));
    command.args(args).stdin(Stdio::null());
    command
}

/// Exit status and standard error of a run that must fail before anything is built.
fn fails(args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command(args).output().unwrap();
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

/// The one line that is an error.
fn one_line(text: &str) -> &str {
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error:")).collect();
    assert_eq!(errors.len(), 1, "{text}");
    errors[0]
}

/// A file that claims to be QEMU.
fn fake_qemu(dir: &Path, says: &str) -> PathBuf {
    let path = dir.join("qemu");
    std::fs::write(&path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn unknown_words_are_usage_errors() {
    for args in [&["--frobnicate"][..], &["--machine", "vax"], &["fly"], &["exec"], &["--region", "1"]] {
        let (status, text) = fails(args);
        assert_eq!(status, Some(2), "{args:?}: {text}");
        one_line(&text);
    }
    assert!(fails(&["--machine", "vax"]).1.contains("vtd-legacy39"));
}

#[test]
fn an_input_file_that_cannot_be_read_is_named() {
    let (status, text) = fails(&["--input", "/no/such/file"]);
    assert_eq!(status, Some(2));
    assert!(one_line(&text).contains("/no/such/file") && text.contains("No such file"), "{text}");
}

#[test]
fn a_program_that_is_not_static_is_refused_before_anything_is_built() {
    for (program, why) in
        [("/bin/sh", "dynamically linked"), ("/etc/os-release", "not an ELF"), ("/no/such", "cannot read")]
    {
        let (status, text) = fails(&["exec", program]);
        assert_eq!(status, Some(125), "{text}");
        assert!(one_line(&text).contains(why) && !text.contains("building"), "{text}");
    }
}

#[test]
fn a_qemu_that_is_too_old_is_named_with_what_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let old = fake_qemu(dir.path(), "QEMU emulator version 7.2.17 (Debian 1:7.2+dfsg-7+deb12u13)");
    let output = command(&["setup"]).env("PORTOLAN_QEMU", &old).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(one_line(&text).contains("7.2.17") && text.contains("10.0.0 or newer"), "{text}");
    let output = command(&["setup"]).env("PORTOLAN_QEMU", dir.path().join("none")).output().unwrap();
    assert!(one_line(&String::from_utf8_lossy(&output.stderr)).contains("does not run"));
}

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let output = command(&["--help"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for word in ["boot", "exec", "setup", "--machine", "--json", "--qemu-arg", "--no-soft-dirty", "outcome unknown"] {
        assert!(text.contains(word), "{word} in {text}");
    }
}

/// Command lines of all processes that name a scratch directory of `pid`.
fn left_behind(pid: u32) -> Vec<String> {
    let mark = format!("portolan-{pid}-");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&mark) && line.contains("qemu")).collect()
}

/// Starts the main job and waits until both machines run.
fn running_job() -> Child {
    let mut child = command(&["--region", "48"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("booting two machines")), "the machines did not boot");
    // Whoever writes must be read.
    std::thread::spawn(move || lines.for_each(drop));
    assert_eq!(left_behind(child.id()).len(), 2);
    child
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap().success());
}

fn gone(pid: u32) {
    let until = Instant::now() + Duration::from_secs(10);
    while !left_behind(pid).is_empty() {
        assert!(Instant::now() < until, "{:?}", left_behind(pid));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn scratch_of(pid: u32) -> usize {
    let names = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with(&format!("portolan-{pid}-"))).count()
}

#[test]
fn interrupted_or_killed_it_leaves_nothing() {
    for (name, status) in [("INT", Some(130)), ("TERM", Some(130)), ("KILL", None)] {
        let mut child = running_job();
        let pid = child.id();
        signal(&child, name);
        assert_eq!(child.wait().unwrap().code(), status, "{name}");
        gone(pid);
        if status.is_some() {
            assert_eq!(scratch_of(pid), 0, "{name}");
        }
    }
    // What SIGKILL left, the next run removes.
    let pid = {
        let mut child = running_job();
        signal(&child, "INT");
        child.wait().unwrap();
        child.id()
    };
    assert_eq!(scratch_of(pid), 0);
}
