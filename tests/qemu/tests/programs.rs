//! Programs suite: the same files run here and on this Linux, and must say and return the same.

use qemu_run::machine::Profile;
use qemu_tests::{built, exec, on_linux};

/// Same output and same status on both.
fn same(program: &str, args: &[&str]) {
    let path = built().1.program(program).unwrap();
    let linux = on_linux(path, args).unwrap();
    let here = exec(Profile::VtdFs, program, args).unwrap_or_else(|why| panic!("{program} {args:?}: {why:#}"));
    let text = |bytes: &[u8]| without_numbers(&String::from_utf8_lossy(bytes));
    assert_eq!(text(&here.output), text(&linux.output), "{program} {args:?}");
    assert_eq!(here.status, linux.status, "{program} {args:?}");
}

/// Rust's messages name the thread by its number, which differs.
fn without_numbers(text: &str) -> String {
    let line = |line: &str| match (line.find("thread 'main' ("), line.find(") ")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &line[..from], &line[to + 1..]),
        _ => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn c_hello_passes_arguments_and_status() {
    same("c-hello", &[]);
    same("c-hello", &["7", "two words", "100%"]);
}

#[test]
fn a_status_above_what_the_exit_port_can_say_arrives() {
    same("c-hello", &["119"]);
    same("c-hello", &["120"]);
    same("c-hello", &["255"]);
}

#[test]
fn rust_hello_passes_arguments_and_status() {
    same("rust-hello", &["a", "b"]);
}

#[test]
fn c_memory() {
    same("c-suite", &["memory"]);
}

#[test]
fn c_files() {
    same("c-suite", &["files"]);
}

#[test]
fn c_bad_pointers_are_efault() {
    same("c-suite", &["pointers"]);
}

#[test]
fn c_threads() {
    same("c-suite", &["threads"]);
}

#[test]
fn c_processes() {
    same("c-suite", &["processes"]);
}

#[test]
fn c_times() {
    same("c-suite", &["times"]);
}

#[test]
fn c_vector_registers_belong_to_their_process() {
    same("c-suite", &["vectors"]);
}

#[test]
fn a_program_that_faults_ends_by_its_signal() {
    same("c-suite", &["segv"]);
    same("c-suite", &["abort"]);
    same("rust-suite", &["fault"]);
}

#[test]
fn a_panicking_program_ends_with_101() {
    same("rust-suite", &["panic"]);
}

#[test]
fn rust_memory() {
    same("rust-suite", &["memory"]);
}

#[test]
fn rust_float() {
    same("rust-suite", &["float"]);
}

#[test]
fn rust_threads() {
    same("rust-suite", &["threads", "tls"]);
}

#[test]
fn rust_files() {
    same("rust-suite", &["files"]);
}

#[test]
fn rust_sockets() {
    same("rust-suite", &["sockets"]);
}

#[test]
fn rust_time() {
    same("rust-suite", &["time"]);
}

#[test]
fn rust_processes() {
    same("rust-suite", &["process"]);
}

#[test]
fn programs_run_on_every_board() {
    for profile in Profile::OFFERED {
        assert_eq!(exec(profile, "c-hello", &["5"]).unwrap().status, 5, "{}", profile.name());
    }
}

#[test]
fn a_file_that_is_no_static_program_is_refused_in_one_line() {
    for (file, word) in
        [("/bin/sh", "dynamically linked"), ("/etc/os-release", "not an ELF"), ("/no/such/file", "cannot read")]
    {
        let why = format!("{:#}", exec(Profile::VtdFs, file, &[]).unwrap_err());
        assert!(why.contains(word) && why.contains(file) && why.lines().count() == 1, "{why}");
    }
}
