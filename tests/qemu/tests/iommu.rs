//! Every board's IOMMU comes up blocked, works, and QEMU's own trace says so.

use qemu_run::machine::Profile;
use qemu_run::qemu::Exit;
use qemu_tests::{Boot, boot, boot_with};

/// Runs the shell's `selftest` from the command line.
fn selftest(profile: Profile) {
    let boot = boot(profile, &["selftest=iommu"], &["vtd_inv_desc*", "vtd_dmar_enable"]).unwrap();
    assert_eq!(boot.exit, Exit::Program(0), "{}", boot.text);
    let verdicts: Vec<_> = boot.all("selftest").collect();
    assert!(!verdicts.is_empty() && verdicts.iter().all(|verdict| verdict["pass"] == true), "{}", boot.text);
    // The witness: translation was switched on, and translations were invalidated through the queue.
    assert!(boot.witnessed(&["vtd_dmar_enable"]), "{:?}", boot.trace);
    assert!(boot.witnessed(&["vtd_inv_desc_iotlb"]), "{:?}", boot.trace);
    assert!(boot.witnessed(&["vtd_inv_desc_cc"]), "{:?}", boot.trace);
    assert!(boot.witnessed(&["vtd_inv_desc_wait_sw"]), "{:?}", boot.trace);
}

/// The unit's mode as the kernel reports it, and whether it tracks.
fn mode(profile: Profile) -> (String, bool) {
    let boot = boot(profile, &["selftest=layout"], &[]).unwrap();
    let unit = boot.one("iommu").unwrap_or_else(|why| panic!("{why}"));
    (unit["mode"].as_str().unwrap_or("").to_owned(), unit["tracking"] == true)
}

#[test]
fn selftest_passes_on_vtd_fs() {
    selftest(Profile::VtdFs);
}

#[test]
fn selftest_passes_on_vtd_ss() {
    selftest(Profile::VtdSs);
}

#[test]
fn selftest_passes_on_vtd_legacy() {
    selftest(Profile::VtdLegacy);
}

#[test]
fn selftest_passes_on_vtd_legacy39() {
    selftest(Profile::VtdLegacy39);
}

#[test]
fn the_units_mode_is_that_of_the_board() {
    assert_eq!(mode(Profile::VtdFs), ("first-stage".to_owned(), true));
    assert_eq!(mode(Profile::VtdSs), ("second-stage".to_owned(), false));
    assert_eq!(mode(Profile::VtdLegacy), ("legacy".to_owned(), false));
    assert_eq!(mode(Profile::VtdLegacy39), ("legacy".to_owned(), false));
}

#[test]
fn a_machine_without_iommu_says_so_and_fails_the_selftest() {
    let boot = boot(Profile::NoIommu, &["selftest=iommu"], &[]).unwrap();
    assert_eq!(boot.exit, Exit::Program(1), "{}", boot.text);
    assert!(boot.text.contains("no IOMMU"), "{}", boot.text);
    assert!(boot.all("iommu").next().is_none());
}

#[test]
fn a_bypassed_bus_is_reported_device_by_device_and_fails_the_selftest() {
    let boot = boot(Profile::VtdFsBypass, &["selftest=iommu"], &[]).unwrap();
    assert_eq!(boot.exit, Exit::Program(1), "{}", boot.text);
    let devices: Vec<_> = boot.all("unprotected").filter_map(|event| event["device"].as_str()).collect();
    assert!(devices.len() >= 3, "{devices:?}");
    assert!(boot.all("unprotected").all(|event| event["why"].as_str().is_some_and(|why| !why.is_empty())));
}

#[test]
fn nothing_is_unprotected_where_the_unit_covers_the_bus() {
    for profile in [Profile::VtdFs, Profile::VtdLegacy39] {
        let boot = boot(profile, &["selftest=layout"], &[]).unwrap();
        assert!(boot.all("unprotected").next().is_none(), "{}", boot.text);
    }
}

/// A device that nobody attached writes to memory.
fn stray(profile: Profile) -> Boot {
    boot(profile, &["selftest=stray"], &["vtd_dmar_fault"]).unwrap()
}

#[test]
fn a_stray_write_before_any_attach_is_refused_and_logged() {
    for profile in Profile::OFFERED {
        let boot = stray(profile);
        assert_eq!(boot.exit, Exit::Program(0), "{}: {}", profile.name(), boot.text);
        let fault = boot.one("fault").unwrap_or_else(|why| panic!("{}: {why}", profile.name()));
        assert_eq!(fault["write"], true, "{fault}");
        let address = fault["address"].as_str().unwrap_or("");
        assert!(boot.text.contains(address), "{address} in {}", boot.text);
        assert!(boot.witnessed(&["vtd_dmar_fault"]), "{:?}", boot.trace);
    }
}

#[test]
fn a_stray_write_on_a_bypassed_bus_arrives_and_the_test_says_so() {
    let boot = stray(Profile::VtdFsBypass);
    assert_eq!(boot.exit, Exit::Program(1), "{}", boot.text);
    assert!(boot.text.contains("reached memory"), "{}", boot.text);
    assert!(boot.all("unprotected").count() > 0);
}

/// One of devhost's checks, with words for the kernel and a witness.
fn check(name: &str, words: &[&str], trace: &[&str]) -> Boot {
    boot_with(Profile::VtdFs, trace, |machine| {
        machine.words = words.iter().map(|word| (*word).to_owned()).collect();
        machine.first_program("/bin/devhost", ["check", name]);
    })
    .unwrap()
}

#[test]
fn unmapping_invalidates_before_it_returns_and_qemu_saw_it() {
    let boot = check("map", &[], &["vtd_inv_desc*"]);
    assert_eq!(boot.exit, Exit::Program(0), "{}", boot.text);
    assert!(boot.witnessed(&["vtd_inv_desc_iotlb"]), "no invalidation in {} lines of trace", boot.trace.len());
}

#[test]
fn without_the_first_stage_quirk_tracking_is_refused_and_says_why() {
    let boot = check("edu-dirty", &["quirks-off=qemu-fs-ad"], &[]);
    assert!(boot.text.contains("SKIP edu-dirty"), "{}", boot.text);
    let unit = boot.one("iommu").unwrap();
    assert_eq!(unit["tracking"], false, "{unit}");
    assert!(unit["why"].as_str().is_some_and(|why| why.contains("SMPWC")), "{unit}");
}
