//! Link suite: the kernel's own card goes through the IOMMU, or not at all.

use qemu_run::machine::{Link, Machine, Profile};
use qemu_run::qemu::{Exit, Qemu, Said};
use qemu_run::run::Scratch;
use qemu_tests::{SILENCE, built, slots};
use std::time::Duration;

struct Side {
    exit: Option<Exit>,
    text: String,
    faults: Vec<String>,
}

fn end(mut qemu: Qemu) -> Side {
    let mut faults = Vec::new();
    while let Some(said) = qemu.next(SILENCE) {
        match said {
            Said::Event(_, name, fields) if name == "fault" => faults.push(fields["device"].to_string()),
            Said::Event(..) | Said::Text(_) => {}
            Said::Closed => break,
        }
    }
    let exit = qemu.exit(Duration::from_secs(10));
    Side { exit, text: format!("{}{}", qemu.text(), qemu.errors()), faults }
}

/// Two machines joined by the link; the first sends 64 MiB to the second, which checks them. Neither runs a program.
fn pair(profile: Profile, more: &str) -> [Side; 2] {
    let _slots = slots(2);
    let (tools, image) = built();
    let scratch = Scratch::new().unwrap();
    let initrd = scratch.path("initrd");
    image.pack([], &initrd).unwrap();
    let start = |octet: u8, words: &str| {
        let mut machine = Machine::new(profile, &image.kernel, &initrd);
        machine.link = Some(Link { socket: scratch.path("link"), listens: octet == 2, mac: octet });
        machine.words =
            format!("ip=10.77.0.{octet}/24 selftest=link {words}").split_whitespace().map(str::to_owned).collect();
        Qemu::start(tools, &machine, &format!("machine {octet}")).unwrap()
    };
    let receiver = start(2, more);
    let sender = start(1, &format!("peer=10.77.0.2 {more}"));
    let receiver = std::thread::spawn(move || end(receiver));
    [end(sender), receiver.join().unwrap()]
}

fn passes(profile: Profile) {
    for side in pair(profile, "") {
        assert_eq!(side.exit, Some(Exit::Program(0)), "{}: {}", profile.name(), side.text);
        assert!(side.text.contains("PASS link: 64 MiB"), "{}", side.text);
        assert!(side.faults.is_empty(), "{:?}", side.faults);
    }
}

#[test]
fn bytes_cross_the_translated_link_on_vtd_fs() {
    passes(Profile::VtdFs);
}

#[test]
fn bytes_cross_the_translated_link_on_vtd_ss() {
    passes(Profile::VtdSs);
}

#[test]
fn bytes_cross_the_translated_link_on_vtd_legacy39() {
    passes(Profile::VtdLegacy39);
}

/// Red twin: with its domain blocked the card reaches nothing, and the refusal is logged.
#[test]
fn with_its_domain_blocked_the_link_is_dead() {
    let [sender, receiver] = pair(Profile::VtdFs, "link=blocked");
    for side in [&sender, &receiver] {
        assert_eq!(side.exit, Some(Exit::Program(1)), "{}", side.text);
        assert!(side.text.contains("FAIL link: "), "{}", side.text);
    }
    assert!(!sender.faults.is_empty(), "{}", sender.text);
}
