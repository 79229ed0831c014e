//! Migration suite: two machines, a card that moves while it receives, and every way in which that may go wrong.

use qemu_run::machine::Profile;
use qemu_run::migrate::{Job, Mishap, Outcome, What};
use qemu_run::report::Report;
use qemu_run::sender::Side;
use qemu_tests::migrate;

/// A region that does not take long.
fn small() -> Job {
    Job { region_mib: 48, ..Job::default() }
}

fn moved(profile: Profile, job: &Job) -> Report {
    let (outcome, report) = migrate(profile, job).unwrap_or_else(|why| panic!("{}: {why:#}", profile.name()));
    assert!(matches!(outcome, Outcome::Moved), "{outcome:?}\n{}", report.table());
    report
}

#[test]
fn a_card_and_its_256_mib_move_and_nothing_is_lost() {
    let report = moved(Profile::VtdFs, &Job::default());
    println!("{}", report.table());
    assert!(report.verified, "{}", report.table());
    assert!(report.tracking);
    assert_eq!((report.pages, report.pages_lost), (65536, Some(0)));
    assert!(report.rounds.iter().filter(|round| round.round > 0).count() >= 3, "{}", report.table());
    assert!(report.bytes_stop_copy * 20 <= report.pages * 4096, "{}", report.table());
    // No page is left out because it is zero: the first round has all of them.
    assert_eq!(report.rounds[0].pages_dirty, report.pages);
    assert!(report.rounds[0].bytes >= report.pages * 4096);
    // The CPU writes as well, and not only where the device does.
    assert!(report.rounds.iter().any(|round| round.round > 0 && round.pages_cpu > 0));
    assert!(report.ram_idle_bytes.is_some_and(|bytes| bytes < 16 << 20), "{:?}", report.ram_idle_bytes);
    assert!(report.boot_ms.is_some());
}

#[test]
fn another_seed_moves_other_pages_and_loses_none() {
    assert!(moved(Profile::VtdFs, &Job { seed: 0xDEAD_BEEF, ..small() }).verified);
}

/// The red twins: a report that is ignored must show as lost pages.
fn loses(job: &Job) {
    let report = moved(Profile::VtdFs, job);
    assert!(!report.verified);
    assert!(report.pages_lost.is_some_and(|lost| lost > 0), "{}", report.table());
    assert!(report.table().contains(" > 0"), "{}", report.table());
}

#[test]
fn without_the_devices_dirty_bits_pages_are_lost() {
    loses(&Job { no_dirty: true, ..small() });
}

#[test]
fn without_soft_dirty_pages_are_lost() {
    loses(&Job { no_soft_dirty: true, ..small() });
}

/// No dirty bits: everything mapped counts as dirty, and that is said.
fn moves_untracked(profile: Profile) {
    let report = moved(profile, &small());
    assert!(report.verified, "{}", report.table());
    assert!(!report.tracking);
    assert!(
        report.notes.iter().any(|note| note == "no dirty bits: everything mapped counts as dirty"),
        "{:?}",
        report.notes
    );
    assert_eq!(report.stop_copy.map(|round| round.pages_dirty), Some(report.pages));
}

#[test]
fn the_card_moves_on_vtd_ss_without_dirty_bits() {
    moves_untracked(Profile::VtdSs);
}

#[test]
fn the_card_moves_on_vtd_legacy_without_dirty_bits() {
    moves_untracked(Profile::VtdLegacy);
}

#[test]
fn the_card_moves_on_vtd_legacy39_without_dirty_bits() {
    moves_untracked(Profile::VtdLegacy39);
}

/// Before GO the source takes the transfer up again, and finishes another pass to prove it.
fn source_runs_on(side: Side, event: &'static str, what: What) {
    let job = Job { mishap: Some(Mishap { side, event, what }), ..small() };
    let (outcome, report) = migrate(Profile::VtdFs, &job).unwrap_or_else(|why| panic!("{why:#}"));
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}\n{}", report.table());
    assert_eq!(outcome.status(&report), 4);
    assert_eq!((report.frames_resent_acknowledged, report.frames_forgotten), (0, 0));
}

#[test]
fn a_destination_that_dies_in_a_round_leaves_the_source_running() {
    source_runs_on(Side::Source, "round", What::DestinationDies);
}

#[test]
fn a_destination_that_dies_in_stop_and_copy_leaves_the_source_running() {
    source_runs_on(Side::Source, "stop", What::DestinationDies);
}

#[test]
fn a_link_that_is_cut_in_a_round_leaves_the_source_running() {
    source_runs_on(Side::Source, "round", What::LinkCut);
}

#[test]
fn a_destination_that_refuses_leaves_the_source_running() {
    let job = Job { destination_region_mib: Some(64), ..small() };
    let (outcome, report) = migrate(Profile::VtdFs, &job).unwrap_or_else(|why| panic!("{why:#}"));
    let Outcome::Failed(why) = &outcome else { panic!("{outcome:?}\n{}", report.table()) };
    assert!(why.contains("region"), "{why}");
    assert_eq!(outcome.status(&report), 4);
}

/// After GO nobody knows, so the source never runs again; unless it has heard that the destination runs, it says so.
#[test]
fn after_go_the_source_stays_fenced_whatever_happens_to_the_destination() {
    let mishap = Mishap { side: Side::Source, event: "go", what: What::DestinationDies };
    match migrate(Profile::VtdFs, &Job { mishap: Some(mishap), ..small() }) {
        Ok((outcome @ Outcome::Unknown(_), report)) => assert_eq!(outcome.status(&report), 3),
        Ok((outcome, _)) => panic!("{outcome:?}"),
        // It had said that it runs before it died.
        Err(why) => assert!(format!("{why:#}").contains("the destination ended too early"), "{why:#}"),
    }
}

#[test]
fn without_an_iommu_the_job_says_so_in_one_line() {
    let why = format!("{:#}", migrate(Profile::NoIommu, &small()).unwrap_err());
    assert!(why.contains("no IOMMU on this machine") && why.lines().count() == 1, "{why}");
}
