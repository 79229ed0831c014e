//! DEVICE_FEATURE and the migration states over a driver.
#![allow(missing_docs)]

mod kit;

use kit::{ARG, END, Kit, MIB, Mood, stream};
use std::sync::atomic::Ordering;
use uapi::vfio::{
    self as abi, FEATURE_GET, FEATURE_MIG_DATA_SIZE, FEATURE_MIG_DEVICE_STATE, FEATURE_MIGRATION, FEATURE_PROBE,
    FEATURE_SET, STATE_ERROR, STATE_PRE_COPY, STATE_RESUMING, STATE_RUNNING, STATE_RUNNING_P2P, STATE_STOP,
    STATE_STOP_COPY,
};
use uapi::{Errno, iommufd as iommu_abi};
use zerocopy::IntoBytes;

#[test]
fn feature_rules_in_the_published_order() {
    let kit = Kit::new(true, false, true);
    let file = kit.bound();
    let call = |argsz: u32, flags: u32| {
        kit.user.program.put(ARG, abi::DeviceFeature { argsz, flags }.as_bytes());
        file.ioctl(abi::DEVICE_FEATURE, ARG, &kit.user)
    };
    assert_eq!(file.ioctl(abi::DEVICE_FEATURE, END, &kit.user), Err(Errno::EFAULT));
    assert_eq!(call(7, FEATURE_GET | 1), Err(Errno::EINVAL));
    assert_eq!(call(16, 1 << 19 | FEATURE_GET | 1), Err(Errno::EINVAL));
    assert_eq!(call(16, FEATURE_GET | FEATURE_SET | FEATURE_MIG_DEVICE_STATE), Err(Errno::EINVAL));
    for feature in [0, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 99, 0xffff] {
        assert_eq!(call(16, FEATURE_GET | feature), Err(Errno::ENOTTY), "{feature}");
    }
    assert_eq!(call(16, FEATURE_SET | FEATURE_MIGRATION), Err(Errno::EINVAL)); // not an operation of it
    assert_eq!(call(8, FEATURE_PROBE | FEATURE_SET | FEATURE_MIGRATION), Err(Errno::EINVAL));
    assert_eq!(call(8, FEATURE_PROBE | FEATURE_GET | FEATURE_MIGRATION), Ok(0));
    assert_eq!(call(8, FEATURE_PROBE | FEATURE_GET | FEATURE_SET | FEATURE_MIG_DEVICE_STATE), Ok(0));
    assert_eq!(call(8, FEATURE_PROBE | FEATURE_MIGRATION), Ok(0));
    assert_eq!(call(16, FEATURE_MIGRATION), Err(Errno::EINVAL)); // neither get nor set
    assert_eq!(call(15, FEATURE_GET | FEATURE_MIGRATION), Err(Errno::EINVAL)); // payload too small
    assert_eq!(call(16, FEATURE_GET | FEATURE_MIGRATION), Ok(0));
    assert_eq!(kit.user.program.get(ARG + 8, 8), 1u64.to_le_bytes());
    assert_eq!(call(16, FEATURE_GET | FEATURE_MIG_DATA_SIZE), Ok(0));
    assert_eq!(kit.user.program.get(ARG + 8, 8), 16u64.to_le_bytes());
    let p2p = Kit::new(true, true, true);
    let file = p2p.bound();
    p2p.user.program.put(ARG, abi::DeviceFeature { argsz: 16, flags: FEATURE_GET | FEATURE_MIGRATION }.as_bytes());
    assert_eq!(file.ioctl(abi::DEVICE_FEATURE, ARG, &p2p.user), Ok(0));
    assert_eq!(p2p.user.program.get(ARG + 8, 8), 3u64.to_le_bytes());
}

#[test]
fn a_state_goes_out_of_one_device_and_into_another() {
    let source = Kit::new(true, false, false);
    let file = source.bound();
    let ioas = source.ioas();
    let mut map = iommu_abi::IoasMap {
        size: 40,
        flags: iommu_abi::MAP_READABLE | iommu_abi::MAP_WRITEABLE | iommu_abi::MAP_FIXED_IOVA,
        ioas_id: ioas,
        length: MIB,
        ..Default::default()
    };
    source.user.program.call(&source.user.context, iommu_abi::IOAS_MAP, &mut map).unwrap();
    source.attach(&file, ioas).unwrap();
    source.set_master(&file, true);
    source.shared.value.store(0x1234_5678_9abc, Ordering::Relaxed);
    let home = source.unit.at(stream(0)).unwrap();
    assert_eq!(source.state(&file), STATE_RUNNING);
    assert_eq!(source.go(&file, STATE_RUNNING), Ok(-1)); // where it is
    source.take_log();
    let fd = source.go(&file, STATE_STOP_COPY).unwrap();
    assert_eq!(source.take_log(), ["stop", "save"]);
    assert!(!source.function.master());
    // The device worked on a page of its own meanwhile, and is back on the program's table.
    assert_eq!(*source.shared.page.lock().unwrap(), [0, 0, 1, 2, 3, 4, 5, 6, 7, 0]);
    assert!(std::sync::Arc::ptr_eq(&source.unit.at(stream(0)).unwrap(), &home));
    assert_eq!(source.memory.live.load(Ordering::Relaxed), 0);
    assert_eq!(source.state(&file), STATE_STOP_COPY);
    assert_eq!(source.go(&file, STATE_STOP_COPY), Ok(-1)); // no new session
    let data = source.data(fd);
    let mut state = [0; 16];
    let length = data.read(&mut state).unwrap();
    assert_eq!((length, data.read(&mut state[9..])), (9, Ok(0)));
    assert_eq!(data.ioctl(abi::MIG_GET_PRECOPY_INFO, ARG, &source.user), Err(Errno::EINVAL));
    assert_eq!(data.ioctl(0x3b6b, ARG, &source.user), Err(Errno::ENOTTY));

    let destination = Kit::new(true, false, false);
    let other = destination.bound();
    destination.attach(&other, destination.ioas()).unwrap();
    assert!(!destination.function.master());
    let fd = destination.go(&other, STATE_RESUMING).unwrap();
    assert_eq!(destination.take_log(), ["stop", "begin_load"]);
    let sink = destination.data(fd);
    for byte in &state[..length] {
        assert_eq!(sink.write(&[*byte]), Ok(1));
    }
    assert_eq!(destination.go(&other, STATE_RUNNING), Ok(-1));
    assert_eq!(destination.take_log(), ["load", "resume"]);
    assert_eq!(destination.shared.value.load(Ordering::Relaxed), 0x1234_5678_9abc);
    // Bus mastering came with the state, and the program sees it.
    assert!(destination.shared.resumed_as_master.load(Ordering::Relaxed));
    assert!(destination.function.master());
    assert_eq!(destination.command(&other), 7);
    assert_eq!(sink.write(&[0]), Err(Errno::ENODEV));

    // The source may go on as well.
    assert_eq!(source.go(&file, STATE_RUNNING), Ok(-1));
    assert_eq!(source.take_log(), ["resume"]);
    assert!(source.function.master());
    assert_eq!(data.read(&mut state), Err(Errno::ENODEV));
}

#[test]
fn p2p_is_a_stop_that_comes_earlier() {
    let kit = Kit::new(true, true, true);
    let file = kit.bound();
    assert_eq!(kit.go(&file, STATE_RUNNING_P2P), Ok(-1));
    assert_eq!(kit.take_log(), ["stop"]);
    assert_eq!(kit.go(&file, STATE_STOP), Ok(-1));
    assert!(kit.take_log().is_empty());
    assert_eq!(kit.go(&file, STATE_RUNNING), Ok(-1));
    assert_eq!(kit.take_log(), ["resume"]);
}

#[test]
fn impossible_targets_are_einval_and_change_nothing() {
    let kit = Kit::new(true, false, true);
    let file = kit.bound();
    for target in [STATE_ERROR, STATE_RUNNING_P2P, STATE_PRE_COPY, 7, 8, u32::MAX] {
        assert_eq!(kit.go(&file, target), Err(Errno::EINVAL), "{target}");
    }
    assert_eq!(kit.state(&file), STATE_RUNNING);
    assert!(kit.take_log().is_empty());
}

#[test]
fn a_bad_state_is_refused_and_the_device_stays_resuming() {
    let kit = Kit::new(true, false, true);
    let file = kit.bound();
    let fd = kit.go(&file, STATE_RESUMING).unwrap();
    let sink = kit.data(fd);
    sink.write(&[1; 8]).unwrap();
    assert_eq!(kit.go(&file, STATE_STOP), Err(Errno::EINVAL));
    assert_eq!(kit.state(&file), STATE_RESUMING);
    assert_eq!(sink.write(&[0; 9]), Err(Errno::ENOSPC)); // what came before is still there
    assert_eq!(sink.write(&[0]), Ok(1));
    assert_eq!(kit.go(&file, STATE_STOP), Ok(-1));
    assert_eq!(kit.state(&file), STATE_STOP);
}

#[test]
fn a_stuck_device_is_in_error_until_it_is_reset() {
    for (way, target) in [("stop", STATE_STOP), ("save", STATE_STOP_COPY), ("begin_load", STATE_RESUMING)] {
        let kit = Kit::new(true, false, true);
        let file = kit.bound();
        kit.attach(&file, kit.ioas()).unwrap();
        kit.set_master(&file, true);
        if target != STATE_STOP {
            kit.go(&file, STATE_STOP).unwrap();
        }
        *kit.shared.mood.lock().unwrap() = Mood::Stuck;
        assert_eq!(kit.go(&file, target), Err(Errno::EIO), "{way}");
        assert_eq!(kit.state(&file), STATE_ERROR);
        assert!(!kit.function.master());
        for other in 1..8 {
            assert_eq!(kit.go(&file, other), Err(Errno::EINVAL));
        }
        kit.set_master(&file, true);
        assert!(!kit.function.master(), "not while nobody knows its state");
        assert_eq!(kit.reset(&file), Ok(0));
        assert_eq!(kit.state(&file), STATE_RUNNING);
        assert!(kit.function.master());
        assert!(kit.take_log().contains(&"reset".into()));
    }
}

#[test]
fn a_failing_step_leaves_the_last_state_reached() {
    let kit = Kit::new(true, false, true);
    let file = kit.bound();
    kit.go(&file, STATE_STOP).unwrap();
    *kit.shared.mood.lock().unwrap() = Mood::Refuses;
    assert_eq!(kit.go(&file, STATE_STOP_COPY), Err(Errno::EINVAL));
    assert_eq!(kit.state(&file), STATE_STOP);
    assert!(kit.user.files.lock().unwrap().is_empty());
}

#[test]
fn no_descriptor_is_emfile_and_the_session_can_be_ended() {
    let kit = Kit::new(true, false, true);
    let file = kit.bound();
    kit.user.full.store(true, Ordering::Relaxed);
    assert_eq!(kit.go(&file, STATE_STOP_COPY), Err(Errno::EMFILE));
    assert_eq!(kit.state(&file), STATE_STOP_COPY);
    kit.user.full.store(false, Ordering::Relaxed);
    assert_eq!(kit.go(&file, STATE_RUNNING), Ok(-1));
    // A reply that cannot be written takes the descriptor back.
    *kit.user.program.read_only_from.lock().unwrap() = ARG;
    assert_eq!(kit.go(&file, STATE_STOP_COPY), Err(Errno::EFAULT));
    *kit.user.program.read_only_from.lock().unwrap() = END;
    assert!(kit.user.files.lock().unwrap().iter().all(Option::is_none));
}

#[test]
fn reset_ends_a_session() {
    let kit = Kit::new(true, false, true);
    let file = kit.bound();
    let fd = kit.go(&file, STATE_RESUMING).unwrap();
    assert_eq!(kit.reset(&file), Ok(0));
    assert_eq!(kit.state(&file), STATE_RUNNING);
    assert_eq!(kit.data(fd).write(&[0]), Err(Errno::ENODEV));
    let fd = kit.go(&file, STATE_STOP_COPY).unwrap();
    drop(file); // closing, too
    assert_eq!(kit.data(fd).read(&mut [0]), Err(Errno::ENODEV));
}

#[test]
fn a_stopped_device_does_not_master_the_bus_whatever_the_program_writes() {
    let kit = Kit::new(true, false, true);
    let file = kit.bound();
    kit.attach(&file, kit.ioas()).unwrap();
    kit.set_master(&file, true);
    kit.go(&file, STATE_STOP).unwrap();
    assert!(!kit.function.master());
    assert_eq!(kit.command(&file), 7, "the program's view does not change");
    kit.set_master(&file, true);
    assert!(!kit.function.master());
    kit.set_master(&file, false);
    kit.go(&file, STATE_RUNNING).unwrap();
    assert!(!kit.function.master(), "what the program wrote last counts");
    kit.set_master(&file, true);
    kit.go(&file, STATE_STOP).unwrap();
    kit.detach(&file).unwrap();
    kit.go(&file, STATE_RUNNING).unwrap();
    assert!(!kit.function.master(), "not attached");
    assert!(!kit.shared.resumed_as_master.load(Ordering::Relaxed), "not even for a moment");
}

#[test]
fn every_single_failure_around_the_private_page_leaves_nothing_behind() {
    let mut failures = 0;
    for n in 1.. {
        let kit = Kit::new(true, false, true);
        let file = kit.bound();
        kit.attach(&file, kit.ioas()).unwrap();
        kit.go(&file, STATE_STOP).unwrap();
        let home = kit.unit.at(stream(0)).unwrap();
        kit.machine.fail_at(n);
        let result = kit.go(&file, STATE_STOP_COPY);
        let failed = kit.machine.stop_failing();
        let (live, state) = (kit.memory.live.load(Ordering::Relaxed), kit.state(&file));
        match &result {
            Ok(_) => assert_eq!(state, STATE_STOP_COPY),
            Err(Errno::EFAULT) => assert!(matches!(state, STATE_STOP | STATE_STOP_COPY)),
            Err(Errno::ENOMEM | Errno::ENOSPC) => assert_eq!(state, STATE_STOP),
            Err(Errno::EIO) => assert_eq!(state, STATE_ERROR),
            Err(other) => panic!("failure {n}: {other:?}"),
        }
        // The stream is home, or blocked; the page is free, or hardware may still reach it.
        let now = kit.unit.at(stream(0));
        assert!(now.is_none_or(|now| std::sync::Arc::ptr_eq(&now, &home)), "failure {n}");
        let reachable = kit.machine.reachable.lock().unwrap().len() as u64;
        assert_eq!(live, reachable, "failure {n}");
        if !failed {
            assert!(result.is_ok());
            break;
        }
        failures += 1;
    }
    assert!(failures > 6, "only {failures} things could fail");
}
