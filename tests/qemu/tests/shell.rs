//! The shell on the serial console, typed at as a person would.

use qemu_run::guest::Options;
use qemu_run::machine::Profile;
use qemu_run::qemu::{Exit, Qemu};
use qemu_run::run::Scratch;
use qemu_tests::{built, slots};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const PROMPT: &str = "portolan> ";

/// Boots into the shell, types each line, and gives what was printed up to the next prompt; then powers off.
fn session(profile: Profile, lines: &[&str]) -> Vec<String> {
    let _slot = slots(1);
    let (tools, image) = built();
    let scratch = Scratch::new().unwrap();
    let initrd = scratch.path("initrd");
    image.pack_all(&initrd).unwrap();
    let machine = Options::new(profile).machine(image, &initrd);
    let mut qemu = Qemu::start(tools, &machine, "shell").unwrap();
    let mut at = qemu.text_until(PROMPT, 0, LIMIT).unwrap();
    let mut answers = Vec::new();
    for line in lines {
        qemu.type_in(&format!("{line}\n")).unwrap();
        let end = qemu.text_until(PROMPT, at, LIMIT).unwrap();
        answers.push(qemu.text()[at..end - PROMPT.len()].to_owned());
        at = end;
    }
    qemu.type_in("poweroff\n").unwrap();
    assert_eq!(qemu.exit(LIMIT), Some(Exit::Program(0)), "{}", qemu.tail(20));
    answers
}

#[test]
fn every_command_of_the_shell_answers() {
    let lines = ["help", "lspci", "lsiommu", "lsgroup", "dmesg", "selftest", "run c-hello a b", "", "nonsense"];
    let answers = session(Profile::VtdFs, &lines);
    for command in ["lspci", "lsiommu", "lsgroup", "dmesg", "selftest", "run", "poweroff"] {
        assert!(answers[0].contains(command), "help lacks {command}: {}", answers[0]);
    }
    // igb behind its root port, edu and the virtio network card on the root bus.
    for ids in ["8086:10c9", "1234:11e8", "1af4:1041"] {
        assert!(answers[1].contains(ids), "{ids} in {}", answers[1]);
    }
    assert!(answers[2].contains("vtd0") && answers[2].contains("qemu-fs-ad"), "{}", answers[2]);
    // The Q35 south bridge's functions share slot 1f and have no ACS.
    assert!(answers[3].contains("no ACS") && answers[3].contains("isolated"), "{}", answers[3]);
    assert!(answers[4].contains("portolan") && answers[4].contains("acpi: RSDP"), "{}", answers[4]);
    assert!(answers[5].contains("PASS vtd0"), "{}", answers[5]);
    assert!(answers[6].contains("hello from C [a] [b]"), "{}", answers[6]);
    assert!(answers[8].contains("no such command"), "{}", answers[8]);
}

#[test]
fn a_program_that_is_not_there_is_one_line() {
    let answers = session(Profile::VtdLegacy39, &["run /bin/nothing", "run c-hello x"]);
    assert!(answers[0].lines().filter(|line| !line.trim().is_empty()).count() <= 2, "{}", answers[0]);
    assert!(answers[1].contains("hello from C [x]"), "{}", answers[1]);
}

#[test]
fn the_shell_runs_and_selftest_fails_where_there_is_no_iommu() {
    let answers = session(Profile::NoIommu, &["lsiommu", "selftest"]);
    assert!(answers[1].contains("FAIL"), "{}", answers[1]);
}
