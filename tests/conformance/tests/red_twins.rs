//! The suite must fail when the machine is broken on purpose: otherwise its green means nothing.
mod common;

use conformance::{Plan, Setup, run_random, setups};
use soft_iommu::vtd::Policy;

/// Some seed must end in a broken story.
fn must_fail(setup: &Setup, tracking: bool, why: &str) {
    let told = (1..=6).find_map(|seed| run_random(setup, seed, Plan::new(800, tracking)).err());
    match told {
        Some(told) => println!("{why}: {}", told.lines().next().unwrap_or("")),
        None => panic!("{}: nobody noticed: {why}", setup.name),
    }
}

#[test]
fn swallowed_iotlb_invalidations_are_noticed() {
    for setup in setups() {
        let mut setup = setup.policy(Policy::KeepAll);
        setup.swallow = 1 << 2 | 1 << 6;
        must_fail(&setup, setup.tracks, "IOTLB invalidations are ignored");
    }
}

#[test]
fn swallowed_context_invalidations_are_noticed() {
    for setup in setups().into_iter().filter(|s| !s.config.caps.scalable) {
        let mut setup = setup.policy(Policy::KeepAll);
        setup.swallow = 1 << 1;
        must_fail(&setup, false, "context-cache invalidations are ignored");
    }
}

#[test]
fn swallowed_pasid_cache_invalidations_are_noticed() {
    for setup in setups().into_iter().filter(|s| s.config.caps.scalable && !s.config.quirks.pasid_in_context) {
        let mut setup = setup.policy(Policy::KeepAll);
        setup.swallow = 1 << 7;
        must_fail(&setup, setup.tracks, "PASID-cache invalidations are ignored");
    }
}

#[test]
fn swallowed_publishes_are_noticed() {
    for setup in setups().into_iter().filter(|s| s.stale && !s.config.caps.rwbf) {
        let mut setup = setup.policy(Policy::KeepAll);
        setup.swallow_publish = true;
        must_fail(&setup, false, "nothing is published");
    }
}

#[test]
fn without_caches_a_swallowed_invalidation_goes_unnoticed() {
    // The twin of the twins: it is the caches of the model that notice.
    for name in ["legacy4", "sm-ss", "sm-fs"] {
        let setup = setups().into_iter().find(|s| s.name == name).expect("a setup");
        let mut setup = setup.policy(Policy::Exact);
        setup.swallow = 1 << 1 | 1 << 2 | 1 << 6 | 1 << 7;
        run_random(&setup, 1, Plan::new(200, setup.tracks)).unwrap_or_else(|e| panic!("{e}"));
    }
}
