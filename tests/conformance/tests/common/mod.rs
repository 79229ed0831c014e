//! Runs one story on every machine.
#![allow(dead_code)]

use conformance::{Broken, Setup, World, dev};
use iommu_types::{Access, IovaRange};
use soft_iommu::vtd::Policy;

pub const PAGE: u64 = 4096;
pub const RW: Access = Access::READ.union(Access::WRITE);

pub fn policies() -> [Policy; 3] {
    [Policy::Exact, Policy::KeepAll, Policy::Adversarial(7)]
}

/// `story` on each of `list` with each policy: three devices, warmed up, and a count of what is left at the end.
pub fn each(list: Vec<Setup>, story: impl Fn(&mut World) -> Result<(), Broken>) {
    for setup in list {
        for policy in policies() {
            if let Err(e) = one(&setup.clone().policy(policy), &story) {
                panic!("{e}");
            }
        }
    }
}

pub fn one(setup: &Setup, story: impl Fn(&mut World) -> Result<(), Broken>) -> Result<(), Broken> {
    let mut world = World::new(setup)?;
    world.warm_up(&[dev(1), dev(2), dev(3)])?;
    story(&mut world)?;
    world.finish()
}

pub fn pages(iova: u64, count: u64) -> IovaRange {
    IovaRange::sized(iova, count * PAGE).expect("a range")
}

pub fn check(world: &World, holds: bool, what: &str) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(world.broken(what)) }
}
