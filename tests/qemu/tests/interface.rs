//! Mapping suite: `devhost check` on every board. It asks iommufd and VFIO for what they promise, by way of edu and igb.

use qemu_run::machine::Profile;
use qemu_tests::exec;

/// Names of the checks that passed and that were skipped; none may fail.
fn check(profile: Profile, names: &[&str]) -> (Vec<String>, Vec<String>) {
    let ran = exec(profile, "devhost", &[&["check"], names].concat()).unwrap_or_else(|why| panic!("{why:#}"));
    let text = String::from_utf8_lossy(&ran.output).into_owned();
    assert_eq!(ran.status, 0, "{}: {text}", profile.name());
    let named = |word: &str| {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix(word));
        lines.map(|rest| rest.split(':').next().unwrap_or(rest).trim().to_owned()).collect()
    };
    (named("PASS "), named("SKIP "))
}

const ALL: [&str; 9] = ["abi", "map", "replace", "stray", "edu-dma", "edu-dirty", "pinned", "states", "link"];

fn without_dirty_bits(profile: Profile) {
    let (passed, skipped) = check(profile, &[]);
    assert_eq!(skipped, ["edu-dirty"]);
    assert_eq!(passed.len(), ALL.len() - 1, "{passed:?}");
}

#[test]
fn the_interface_holds_on_vtd_fs() {
    let (passed, skipped) = check(Profile::VtdFs, &[]);
    assert_eq!((passed, skipped), (ALL.map(str::to_owned).to_vec(), vec![]));
}

#[test]
fn the_interface_holds_on_vtd_ss() {
    without_dirty_bits(Profile::VtdSs);
}

#[test]
fn the_interface_holds_on_vtd_legacy() {
    without_dirty_bits(Profile::VtdLegacy);
}

#[test]
fn the_interface_holds_on_vtd_legacy39() {
    without_dirty_bits(Profile::VtdLegacy39);
}

/// Red twin: on a bus that bypasses the IOMMU no device may be had at all.
#[test]
fn on_a_bypassed_bus_there_is_no_device_to_check() {
    let ran = exec(Profile::VtdFsBypass, "devhost", &["check", "map"]).unwrap_or_else(|why| panic!("{why:#}"));
    let text = String::from_utf8_lossy(&ran.output).into_owned();
    assert_eq!(ran.status, 1, "{text}");
    assert!(text.contains("FAIL map: no device 1234:11e8"), "{text}");
}

#[test]
fn bad_arguments_get_one_line_and_status_2() {
    for args in [&["fly"][..], &["check", "nothing"], &["source", "--peer", "x"], &["destination"]] {
        let ran = exec(Profile::VtdFs, "devhost", args).unwrap_or_else(|why| panic!("{why:#}"));
        let text = String::from_utf8_lossy(&ran.output).into_owned();
        assert_eq!(ran.status, 2, "{args:?}: {text}");
        assert!(text.contains("devhost: "), "{args:?}: {text}");
    }
}
