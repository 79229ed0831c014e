//! Who uses whom: attach, replace, automatic tables, groups, destruction.
#![allow(missing_docs)]

mod common;

use common::fakes::FakeUnit;
use common::{MIB, World, group, spec, stream};
use iommufd::Context;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use uapi::Errno;
use uapi::iommufd as abi;

#[test]
fn attach_by_address_space_makes_one_table_for_all_and_never_a_tracking_one() {
    let world = World::new(true);
    let ioas = world.ioas();
    world.map(ioas, 0, MIB, 0).unwrap();
    let (a, b) = (world.bind(0), world.bind(1));
    let hwpt = a.attach(ioas).unwrap();
    assert_eq!(b.attach(ioas), Ok(hwpt));
    let domain = world.unit.at(stream(0)).unwrap();
    assert_eq!(domain.mapped_bytes(), MIB);
    assert_eq!(world.tracking(hwpt, true), Err(Errno::EOPNOTSUPP));
    assert_eq!(world.destroy(hwpt), Err(Errno::EBUSY));
    assert_eq!(world.destroy(ioas), Err(Errno::EBUSY));
    assert_eq!(world.destroy(a.id()), Err(Errno::EBUSY));
    a.detach().unwrap();
    assert!(world.unit.at(stream(0)).is_none() && world.unit.at(stream(1)).is_some());
    assert_eq!(world.destroy(ioas), Err(Errno::EBUSY));
    b.detach().unwrap();
    // The last device took the table with it.
    assert_eq!(world.destroy(hwpt), Err(Errno::ENOENT));
    assert_eq!(world.machine.pinned(), 0);
    world.destroy(ioas).unwrap();
    a.detach().unwrap(); // nothing to do
}

#[test]
fn an_automatic_table_that_answers_einval_is_passed_over() {
    let world = World::new(true);
    let ioas = world.ioas();
    let other = FakeUnit::new(&world.machine, true);
    let (a, b) = (world.bind(0), {
        let group = group(&other, &[stream(5)]);
        world.context.bind(spec(&other, &group, stream(5))).unwrap()
    });
    let first = a.attach(ioas).unwrap();
    other.picky.store(true, Ordering::Relaxed);
    assert_eq!(b.attach(ioas), Err(Errno::EINVAL));
    assert_eq!(world.hwpt(a.id(), ioas, 0), Ok(first + 1)); // the id of the failed table is free again
    other.picky.store(false, Ordering::Relaxed);
    assert_eq!(b.attach(ioas), Ok(first));
}

#[test]
fn attach_to_a_wrong_id_is_einval_or_enoent() {
    let world = World::new(true);
    let device = world.bind(0);
    assert_eq!(device.attach(99), Err(Errno::ENOENT));
    assert_eq!(device.attach(0), Err(Errno::ENOENT));
    assert_eq!(device.attach(device.id()), Err(Errno::EINVAL));
}

#[test]
fn a_unit_that_cannot_track_cannot_join_a_tracking_table() {
    let world = World::new(true);
    let ioas = world.ioas();
    let blind = FakeUnit::new(&world.machine, false);
    let group = group(&blind, &[stream(7)]);
    let (a, b) = (world.bind(0), world.context.bind(spec(&blind, &group, stream(7))).unwrap());
    let hwpt = world.hwpt(a.id(), ioas, abi::HWPT_DIRTY_TRACKING).unwrap();
    assert_eq!(a.attach(hwpt), Ok(hwpt));
    assert_eq!(b.attach(hwpt), Err(Errno::EINVAL));
    assert!(blind.at(stream(7)).is_none());
    assert_eq!(world.ranges(ioas).len(), 2); // the refused device reserved nothing more: MSI and aperture only
}

#[test]
fn replace_moves_the_device_and_its_reservations() {
    let world = World::new(true);
    let (one, two) = (world.ioas(), world.ioas());
    world.map(one, 0, MIB, 0).unwrap();
    world.map(two, 4 * MIB, MIB, 0).unwrap();
    let device = world.bind(0);
    let first = device.attach(one).unwrap();
    let hwpt = world.hwpt(device.id(), two, abi::HWPT_DIRTY_TRACKING).unwrap();
    assert_eq!(device.attach(hwpt), Ok(hwpt));
    assert_eq!(world.destroy(first), Err(Errno::ENOENT)); // automatic, gone
    assert_eq!(world.unit.at(stream(0)).unwrap().phys(0), Some(world.program.source.phys(4 * MIB)));
    assert_eq!(world.ranges(one).len(), 1);
    assert_eq!(world.ranges(two).len(), 2);
    assert_eq!(device.attach(hwpt), Ok(hwpt)); // where it is
    assert_eq!(world.destroy(hwpt), Err(Errno::EBUSY));
    drop(device);
    world.destroy(hwpt).unwrap();
    assert!(world.unit.at(stream(0)).is_none());
}

#[test]
fn a_mapping_in_the_msi_window_refuses_the_attach_and_nothing_moves() {
    let world = World::new(true);
    let (one, two) = (world.ioas(), world.ioas());
    world.map(two, 0, 0x1000, 0xfee0_0000).unwrap();
    let device = world.bind(0);
    assert_eq!(device.attach(two), Err(Errno::EADDRINUSE));
    assert!(world.unit.at(stream(0)).is_none());
    let first = device.attach(one).unwrap();
    let before = world.unit.at(stream(0)).unwrap();
    assert_eq!(device.attach(two), Err(Errno::EADDRINUSE));
    assert!(Arc::ptr_eq(&world.unit.at(stream(0)).unwrap(), &before));
    assert_eq!(world.destroy(first), Err(Errno::EBUSY));
    assert_eq!(world.machine.pinned(), 0);
}

#[test]
fn devices_of_a_group_share_one_table() {
    let world = World::new(true);
    let (one, two) = (world.ioas(), world.ioas());
    let group = group(&world.unit, &[stream(0), stream(1), stream(2)]); // the third is an alias
    let a = world.context.bind(spec(&world.unit, &group, stream(0))).unwrap();
    let b = world.context.bind(spec(&world.unit, &group, stream(1))).unwrap();
    let hwpt = a.attach(one).unwrap();
    for n in 0..3 {
        assert!(world.unit.at(stream(n)).is_some(), "stream {n}");
    }
    assert_eq!(b.attach(two), Err(Errno::EINVAL));
    assert_eq!(b.attach(one), Ok(hwpt));
    a.detach().unwrap();
    assert!(world.unit.at(stream(0)).is_some());
    // Replace by one moves all.
    let next = b.attach(two).unwrap();
    assert_eq!(a.attach(next), Ok(next));
    assert_eq!(world.destroy(hwpt), Err(Errno::ENOENT));
    drop(a);
    drop(b);
    for n in 0..3 {
        assert!(world.unit.at(stream(n)).is_none(), "stream {n}");
    }
}

#[test]
fn every_single_failure_of_attach_and_replace_leaves_the_device_where_it_was() {
    let mut failures = 0;
    for n in 1.. {
        let world = World::new(true);
        let (one, two) = (world.ioas(), world.ioas());
        let group = group(&world.unit, &[stream(0), stream(1)]);
        let device = world.context.bind(spec(&world.unit, &group, stream(0))).unwrap();
        world.map(one, 0, MIB, 0).unwrap();
        world.map(two, 8 * MIB, 3 * MIB, 0).unwrap();
        let before = ioas::quarantined_bytes();
        world.machine.fail_at(n);
        let first = device.attach(one);
        let second = first.and_then(|_| device.attach(two));
        let failed = world.machine.stop_failing();
        if ioas::quarantined_bytes() > before && second.is_ok() {
            // The old table's last flush: the device has moved, the old frames stay pinned.
            assert_eq!(world.machine.pinned(), 4 * 256);
            failures += 1;
            continue;
        }
        assert_eq!(failed, second.is_err(), "failure {n} was swallowed");
        let pages = if second.is_ok() {
            3 * 256
        } else if first.is_ok() {
            256
        } else {
            0
        };
        assert_eq!(world.machine.pinned(), pages, "failure {n}");
        assert_eq!(world.machine.charged(), pages as u64 * 4096);
        for n in 0..2 {
            let domain = world.unit.at(stream(n));
            assert_eq!(domain.map_or(0, |domain| domain.mapped_bytes()), pages as u64 * 4096);
        }
        // Ids: only what is attached exists.
        assert_eq!(device.attached(), first.is_ok());
        drop(device);
        assert_eq!(world.machine.pinned(), 0);
        for id in [one, two] {
            world.destroy(id).unwrap();
        }
        assert_eq!(world.ioas(), 1);
        if !failed {
            break;
        }
        failures += 1;
    }
    assert!(failures > 8, "only {failures} things could fail");
}

#[test]
fn closing_destroys_everything_and_gives_every_pin_back() {
    let world = World::new(true);
    let (one, two) = (world.ioas(), world.ioas());
    let (a, b) = (world.bind(0), world.bind(1));
    world.map(one, 0, 5 * MIB, 0).unwrap();
    let copy = abi::MAP_READABLE;
    let mut body = abi::IoasCopy {
        size: 40,
        flags: copy,
        dst_ioas_id: two,
        src_ioas_id: one,
        length: MIB,
        dst_iova: 0,
        src_iova: MIB,
    };
    world.call(abi::IOAS_COPY, &mut body).unwrap();
    a.attach(one).unwrap();
    let hwpt = world.hwpt(b.id(), two, abi::HWPT_DIRTY_TRACKING).unwrap();
    b.attach(hwpt).unwrap();
    world.hwpt(b.id(), one, 0).unwrap();
    assert_eq!(world.machine.pinned() as u64, 5 * 256);
    let machine = world.machine.clone();
    let weak = Arc::downgrade(&world.context);
    drop(world); // the file is closed, the devices are not
    assert_eq!(machine.pinned() as u64, 5 * 256);
    drop(a);
    drop(b);
    assert!(weak.upgrade().is_none());
    assert_eq!((machine.pinned(), machine.charged()), (0, 0));
}

#[test]
fn a_stream_that_cannot_be_blocked_keeps_its_table_and_pins() {
    let world = World::new(true);
    let ioas = world.ioas();
    world.map(ioas, 0, MIB, 0).unwrap();
    let device = world.bind(0);
    device.attach(ioas).unwrap();
    let domain = world.unit.at(stream(0)).unwrap();
    world.machine.flush_dead.store(true, Ordering::Relaxed);
    device.detach().unwrap();
    drop(device);
    assert_eq!(domain.mapped_bytes(), MIB);
    assert_eq!(world.machine.pinned(), 256);
    // Another table of the address space comes and goes; the lost one is not taken for it.
    world.machine.flush_dead.store(false, Ordering::Relaxed);
    let other = world.bind(1);
    other.attach(ioas).unwrap();
    other.detach().unwrap();
    assert_eq!(domain.mapped_bytes(), MIB);
    let machine = world.machine.clone();
    drop(other);
    drop(world);
    assert_eq!(machine.pinned(), 256);
}

#[test]
fn a_retired_device_id_comes_back_only_unused() {
    let world = World::new(true);
    let device = world.bind(0);
    let id = device.id();
    drop(device);
    assert_eq!(world.destroy(id), Err(Errno::ENOENT));
    assert_eq!(world.bind(1).id(), id);
    let other: Arc<Context> = Context::new();
    drop(other);
}
