//! Random operations on every machine, with every cache policy.
//!
//! `PORTOLAN_SEEDS=n` runs n seeds each instead of two, `PORTOLAN_OPS=n` n operations each; a failure prints its seed.

use conformance::{Plan, Setup, dirty_setups, run_random, setups};
use soft_iommu::vtd::Policy;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn run(list: Vec<Setup>, policy: fn(u64) -> Policy, tracking: bool) {
    let (seeds, ops) = (number("PORTOLAN_SEEDS", 2), number("PORTOLAN_OPS", 1500) as u32);
    let mut total = 0;
    for setup in list {
        for seed in 1..=seeds {
            let setup = setup.clone().policy(policy(seed));
            if let Err(story) = run_random(&setup, seed, Plan::new(ops, tracking)) {
                panic!("{story}");
            }
            total += u64::from(ops);
        }
    }
    println!("{total} operations, seeds 1..={seeds}, {:?}, tracking {tracking}", policy(1));
}

fn named(prefix: &str) -> Vec<Setup> {
    setups().into_iter().filter(|s| s.name.starts_with(prefix)).collect()
}

#[test]
fn legacy_without_caches() {
    run(named("legacy"), |_| Policy::Exact, false);
}
#[test]
fn legacy_with_caches_that_keep_everything() {
    run(named("legacy"), |_| Policy::KeepAll, false);
}
#[test]
fn legacy_with_adversarial_caches() {
    run(named("legacy"), Policy::Adversarial, false);
}
#[test]
fn scalable_without_caches() {
    run([named("sm"), named("qemu")].concat(), |_| Policy::Exact, false);
}
#[test]
fn scalable_with_caches_that_keep_everything() {
    run([named("sm"), named("qemu")].concat(), |_| Policy::KeepAll, false);
}
#[test]
fn scalable_with_adversarial_caches() {
    run([named("sm"), named("qemu")].concat(), Policy::Adversarial, false);
}
#[test]
fn tracking_without_caches() {
    run(dirty_setups(), |_| Policy::Exact, true);
}
#[test]
fn tracking_with_caches_that_keep_everything() {
    run(dirty_setups(), |_| Policy::KeepAll, true);
}
#[test]
fn tracking_with_adversarial_caches() {
    run(dirty_setups(), Policy::Adversarial, true);
}
