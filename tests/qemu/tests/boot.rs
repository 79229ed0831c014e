//! Boot suite: the kernel comes up on every board, protects itself, and ends with a status.

use qemu_run::machine::Profile;
use qemu_run::qemu::Exit;
use qemu_tests::{Boot, boot};

fn selftest(name: &str) -> Boot {
    boot(Profile::VtdFs, &[&format!("selftest={name}")], &[]).unwrap()
}

fn passes(name: &str) {
    let boot = selftest(name);
    assert_eq!(boot.exit, Exit::Program(0), "{}", boot.text);
    assert!(boot.text.contains("PASS"), "{}", boot.text);
}

/// The kernel must die of it, with a backtrace.
fn panics(name: &str, word: &str) {
    let boot = selftest(name);
    assert_eq!(boot.exit, Exit::Panic, "{}", boot.text);
    assert!(boot.text.contains("kernel panic") && boot.text.contains("backtrace:"), "{}", boot.text);
    assert!(boot.text.contains(word), "{word} in {}", boot.text);
}

#[test]
fn kernel_pages_are_never_writable_and_executable() {
    passes("layout");
}

#[test]
fn user_mode_comes_back_with_every_kind_of_trap() {
    passes("user");
}

#[test]
fn idle_wakes_at_the_timer() {
    passes("idle");
}

#[test]
fn memory_comes_back() {
    passes("memory");
}

#[test]
fn writing_code_panics() {
    panics("wx", "write");
}

#[test]
fn writing_code_through_the_direct_map_panics() {
    panics("wx-alias", "write");
}

#[test]
fn executing_data_panics() {
    panics("nx", "execute");
}

#[test]
fn a_null_pointer_panics() {
    panics("null", "read");
}

#[test]
fn a_stack_overflow_hits_the_guard_page() {
    panics("stack", "overflow");
}

#[test]
fn reading_user_memory_by_accident_panics() {
    panics("smap", "read");
}

#[test]
fn executing_user_memory_panics() {
    panics("smep", "execute");
}

#[test]
fn a_panic_says_why_and_where_and_is_an_event() {
    let boot = selftest("panic");
    assert_eq!(boot.exit, Exit::Panic);
    assert!(boot.text.contains("asked for") && boot.text.contains("selftest.rs"), "{}", boot.text);
    assert!(boot.one("panic").unwrap()["message"].as_str().unwrap().contains("asked for"));
}

#[test]
fn an_unknown_selftest_fails_rather_than_passing() {
    assert_eq!(selftest("nonsense").exit, Exit::Program(1));
}

#[test]
fn the_image_is_small() {
    let bytes = qemu_tests::built().1.kernel_bytes().unwrap();
    assert!(bytes < 3 << 19, "the kernel image has {bytes} bytes, 1.5 MiB is the aim");
}

#[test]
fn a_qemu_that_refuses_is_told_apart_from_a_program() {
    let boot = qemu_tests::boot_with(Profile::VtdFs, &[], |machine| {
        machine.extra.extend(["-device".to_owned(), "nonsense".to_owned()])
    });
    let boot = boot.unwrap();
    assert_eq!(boot.exit, Exit::Status(1));
    assert!(boot.text.contains("nonsense"), "{}", boot.text);
}
