//! Bind, attach, regions, configuration space, mappings, reset, close.
#![allow(missing_docs)]

mod kit;

use iommu_types::Phys;
use kit::{ARG, CONFIG, END, Kit, stream};
use std::sync::atomic::Ordering;
use uapi::extension::{DEVICE_COUNTERS, DeviceCounters};
use uapi::vfio as abi;
use uapi::{Errno, iommufd as iommu_abi};
use vfio::Mapping;
use zerocopy::IntoBytes;

#[test]
fn before_bind_everything_else_is_einval() {
    let kit = Kit::new(true, false, true);
    let file = kit.device.open();
    for command in (0x3b6b..=0x3b79).filter(|command| *command != abi::DEVICE_BIND_IOMMUFD).chain([0, DEVICE_COUNTERS])
    {
        assert_eq!(file.ioctl(command, ARG, &kit.user), Err(Errno::EINVAL), "{command:#x}");
    }
    assert_eq!(file.read_at(CONFIG, &mut [0; 4]), Err(Errno::EINVAL));
    assert_eq!(file.write_at(CONFIG, &[0; 4]), Err(Errno::EINVAL));
    assert_eq!(file.map(0, 4096), Err(Errno::EINVAL));
}

#[test]
fn bind_rules() {
    let kit = Kit::new(true, false, true);
    let file = kit.device.open();
    let good = abi::BindIommufd { argsz: 24, iommufd: 3, ..Default::default() };
    let bind = |body: abi::BindIommufd| kit.call(&file, abi::DEVICE_BIND_IOMMUFD, &mut { body });
    assert_eq!(file.ioctl(abi::DEVICE_BIND_IOMMUFD, END, &kit.user), Err(Errno::EFAULT));
    assert_eq!(bind(abi::BindIommufd { argsz: 15, ..good }), Err(Errno::EINVAL));
    assert_eq!(bind(abi::BindIommufd { flags: 2, ..good }), Err(Errno::EINVAL));
    assert_eq!(bind(abi::BindIommufd { iommufd: -1, ..good }), Err(Errno::EINVAL));
    assert_eq!(bind(abi::BindIommufd { iommufd: 9, ..good }), Err(Errno::EBADF));
    assert_eq!(bind(abi::BindIommufd { iommufd: 4, ..good }), Err(Errno::EBADFD));
    assert_eq!(bind(abi::BindIommufd { flags: abi::BIND_TOKEN, ..good }), Err(Errno::EINVAL));
    kit.user.program.put(ARG, abi::BindIommufd { argsz: 32, ..good }.as_bytes());
    kit.user.program.put(ARG + 24, &[0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(file.ioctl(abi::DEVICE_BIND_IOMMUFD, ARG, &kit.user), Err(Errno::E2BIG));
    // The reply cannot be written: not bound.
    *kit.user.program.read_only_from.lock().unwrap() = ARG;
    assert_eq!(bind(good), Err(Errno::EFAULT));
    *kit.user.program.read_only_from.lock().unwrap() = END;
    assert_eq!(kit.bind(&file), Ok(1));
    assert_eq!(kit.bind(&file), Err(Errno::EINVAL));
    assert_eq!(kit.bind(&kit.device.open()), Err(Errno::EINVAL)); // another file of the same device
    drop(file);
    let file = kit.device.open();
    let mut old = abi::BindIommufd { argsz: 16, ..good }; // the first published size
    assert_eq!(kit.call(&file, abi::DEVICE_BIND_IOMMUFD, &mut old), Ok(0));
    assert_eq!(old.out_devid, 1);
}

#[test]
fn attach_and_detach_rules() {
    let kit = Kit::new(false, false, true);
    let file = kit.bound();
    let (one, two) = (kit.ioas(), kit.ioas());
    let good = abi::AttachIommufdPt { argsz: 16, pt_id: one, ..Default::default() };
    let attach = |body: abi::AttachIommufdPt| kit.call(&file, abi::DEVICE_ATTACH_IOMMUFD_PT, &mut { body });
    assert_eq!(file.ioctl(abi::DEVICE_ATTACH_IOMMUFD_PT, END, &kit.user), Err(Errno::EFAULT));
    assert_eq!(attach(abi::AttachIommufdPt { argsz: 11, ..good }), Err(Errno::EINVAL));
    assert_eq!(attach(abi::AttachIommufdPt { flags: 2, ..good }), Err(Errno::EINVAL));
    assert_eq!(attach(abi::AttachIommufdPt { flags: 1, argsz: 12, ..good }), Err(Errno::EINVAL));
    assert_eq!(attach(abi::AttachIommufdPt { flags: 1, ..good }), Err(Errno::EOPNOTSUPP));
    assert_eq!(attach(abi::AttachIommufdPt { pt_id: 99, ..good }), Err(Errno::ENOENT));
    assert_eq!(attach(abi::AttachIommufdPt { pt_id: 1, ..good }), Err(Errno::EINVAL)); // the device itself
    *kit.user.program.read_only_from.lock().unwrap() = ARG;
    assert_eq!(attach(good), Err(Errno::EFAULT));
    *kit.user.program.read_only_from.lock().unwrap() = END;
    assert!(kit.unit.at(stream(0)).is_none(), "the reply could not be written: detached again");
    assert_eq!(kit.detach(&file), Ok(0)); // not attached: nothing to do
    let first = kit.attach(&file, one).unwrap();
    assert_ne!(first, one); // the table, not the address space
    let second = kit.attach(&file, two).unwrap(); // replace
    let mut destroy = iommu_abi::Destroy { size: 8, id: first };
    assert_eq!(kit.user.program.call(&kit.user.context, iommu_abi::DESTROY, &mut destroy), Err(Errno::ENOENT));
    assert_ne!(first, second);
    let detach = |argsz: u32, flags: u32| {
        let mut body = abi::DetachIommufdPt { argsz, flags, pasid: 0 };
        kit.call(&file, abi::DEVICE_DETACH_IOMMUFD_PT, &mut body)
    };
    assert_eq!(detach(7, 0), Err(Errno::EINVAL));
    assert_eq!(detach(12, 2), Err(Errno::EINVAL));
    assert_eq!(detach(8, 1), Err(Errno::EINVAL));
    assert_eq!(detach(12, 1), Err(Errno::EOPNOTSUPP));
    assert_eq!(detach(8, 0), Ok(0));
    assert!(kit.unit.at(stream(0)).is_none());
}

#[test]
fn bus_mastering_needs_the_programs_will_and_a_table() {
    let kit = Kit::new(false, false, true);
    let file = kit.bound();
    let ioas = kit.ioas();
    kit.set_master(&file, true);
    assert!(!kit.function.master(), "not attached");
    assert_eq!(kit.command(&file), 7);
    kit.attach(&file, ioas).unwrap();
    assert!(kit.function.master());
    kit.detach(&file).unwrap();
    assert!(!kit.function.master());
    assert_eq!(kit.command(&file), 7);
    kit.attach(&file, ioas).unwrap();
    assert!(kit.function.master());
    kit.set_master(&file, false);
    assert!(!kit.function.master());
    kit.set_master(&file, true);
    drop(file);
    assert!(!kit.function.master());
    assert!(kit.unit.at(stream(0)).is_none());
}

#[test]
fn reset_keeps_the_programs_command_register() {
    let kit = Kit::new(false, false, true);
    let file = kit.bound();
    kit.attach(&file, kit.ioas()).unwrap();
    kit.set_master(&file, true);
    assert_eq!(kit.reset(&file), Ok(0));
    assert_eq!(kit.take_log(), ["function reset"]);
    assert!(kit.function.master());
    kit.function.reset_fails.store(true, Ordering::Relaxed);
    assert_eq!(kit.reset(&file), Err(Errno::EIO));
    assert!(!kit.function.master());
}

#[test]
fn a_device_that_cannot_be_reset_says_so() {
    let kit = Kit::new(false, false, false);
    let file = kit.bound();
    assert_eq!(kit.reset(&file), Err(Errno::EINVAL));
    let mut info = abi::DeviceInfo { argsz: 24, ..Default::default() };
    kit.call(&file, abi::DEVICE_GET_INFO, &mut info).unwrap();
    assert_eq!(info.flags, abi::DEVICE_FLAGS_PCI);
    drop(file);
    assert!(kit.take_log().is_empty());
}

#[test]
fn an_owner_that_left_a_broken_device_does_not_hand_it_on() {
    let kit = Kit::new(false, false, true);
    let file = kit.bound();
    kit.function.reset_fails.store(true, Ordering::Relaxed);
    drop(file);
    let file = kit.device.open();
    assert_eq!(kit.bind(&file), Err(Errno::EIO));
    kit.function.reset_fails.store(false, Ordering::Relaxed);
    assert_eq!(kit.bind(&file), Ok(1));
}

#[test]
fn close_resets_blocks_and_unbinds() {
    let kit = Kit::new(false, false, true);
    let file = kit.bound();
    kit.attach(&file, kit.ioas()).unwrap();
    kit.set_master(&file, true);
    kit.take_log();
    drop(file);
    assert_eq!(kit.take_log(), ["function reset"]);
    assert!(kit.unit.at(stream(0)).is_none() && !kit.function.master());
    let file = kit.bound();
    assert_eq!(kit.command(&file), 3, "the next owner starts anew");
}

#[test]
fn device_info() {
    let kit = Kit::new(false, false, true);
    let file = kit.bound();
    let mut info = abi::DeviceInfo { argsz: 24, cap_offset: 5, ..Default::default() };
    assert_eq!(kit.call(&file, abi::DEVICE_GET_INFO, &mut info), Ok(0));
    assert_eq!(info, abi::DeviceInfo { argsz: 24, flags: 3, num_regions: 9, num_irqs: 5, cap_offset: 0, pad: 0 });
    info = abi::DeviceInfo { argsz: 16, cap_offset: 5, ..Default::default() };
    assert_eq!(kit.call(&file, abi::DEVICE_GET_INFO, &mut info), Ok(0));
    assert_eq!((info.num_irqs, info.cap_offset), (5, 5)); // past its size: not touched
    info.argsz = 15;
    assert_eq!(kit.call(&file, abi::DEVICE_GET_INFO, &mut info), Err(Errno::EINVAL));
}

#[test]
fn region_info() {
    let kit = Kit::new(false, false, true);
    let file = kit.bound();
    let ask = |index: u32, argsz: u32| {
        let mut info = abi::RegionInfo { argsz, index, ..Default::default() };
        kit.call(&file, abi::DEVICE_GET_REGION_INFO, &mut info).map(|_| info)
    };
    assert_eq!(ask(0, 31), Err(Errno::EINVAL));
    for (index, size, flags) in
        [(0, 0x2_0000, 7), (1, 0, 0), (2, 32, 3), (4, 0, 0), (5, 256, 3), (6, 0, 0), (7, 4096, 3)]
    {
        let info = ask(index, 32).unwrap();
        let want = abi::RegionInfo {
            argsz: 32,
            flags,
            index,
            region_size: size,
            offset: u64::from(index) << 40,
            cap_offset: 0,
        };
        assert_eq!(info, want);
    }
    for index in [8, 9, u32::MAX] {
        assert_eq!(ask(index, 32), Err(Errno::EINVAL));
    }
    // The BAR with the MSI-X table: mappable behind it only.
    let info = ask(3, 32).unwrap();
    assert_eq!((info.flags, info.argsz, info.cap_offset), (15, 64, 0));
    let info = ask(3, 64).unwrap();
    assert_eq!((info.argsz, info.cap_offset), (64, 32));
    let mut want = Vec::new();
    want.extend_from_slice(abi::SparseMmap { id: 1, version: 1, next: 0, nr_areas: 1, reserved: 0 }.as_bytes());
    want.extend_from_slice(abi::SparseArea { offset: 0x1000, size: 0x3000 }.as_bytes());
    assert_eq!(kit.user.program.get(ARG + 32, 32), want);
}

#[test]
fn interrupts_are_honestly_absent() {
    let kit = Kit::new(false, false, true);
    let file = kit.bound();
    for (index, flags) in [(0, 7), (1, 9), (2, 9), (3, 1), (4, 1)] {
        let mut info = abi::IrqInfo { argsz: 16, index, count: 9, ..Default::default() };
        assert_eq!(kit.call(&file, abi::DEVICE_GET_IRQ_INFO, &mut info), Ok(0));
        assert_eq!((info.flags, info.count), (flags, 0), "index {index}");
    }
    let mut info = abi::IrqInfo { argsz: 16, index: 5, ..Default::default() };
    assert_eq!(kit.call(&file, abi::DEVICE_GET_IRQ_INFO, &mut info), Err(Errno::EINVAL));
    let mut set = abi::IrqSet { argsz: 20, flags: 0x21, ..Default::default() };
    assert_eq!(kit.call(&file, abi::DEVICE_SET_IRQS, &mut set), Err(Errno::EINVAL));
    for command in [abi::DEVICE_PCI_HOT_RESET_INFO, abi::DEVICE_PCI_HOT_RESET, abi::DEVICE_IOEVENTFD, 0x3b64, 0x1234] {
        assert_eq!(file.ioctl(command, ARG, &kit.user), Err(Errno::ENOTTY));
    }
}

#[test]
fn registers_are_accessed_as_wide_as_aligned_and_counted() {
    let kit = Kit::new(false, false, true);
    let file = kit.bound();
    assert_eq!(file.write_at(0x101, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), Ok(10));
    assert_eq!(
        kit.take_log(),
        [
            "write 0 0x101 1 0x1",
            "write 0 0x102 2 0x302",
            "write 0 0x104 4 0x7060504",
            "write 0 0x108 2 0x908",
            "write 0 0x10a 1 0xa"
        ]
    );
    kit.function.registers.lock().unwrap().insert((0, 0x200), 0x1122_3344);
    let mut out = [0; 3];
    assert_eq!((file.read_at(0x201, &mut out), out), (Ok(3), [0x33, 0x22, 0x11]));
    // Clipped at the end of the region, refused behind it.
    assert_eq!(file.read_at(0x1_fffe, &mut [0; 8]), Ok(2));
    assert_eq!(file.write_at(0x2_0000, &[0; 4]), Err(Errno::EINVAL));
    for gap in [1u64 << 40, 6 << 40, 8 << 40, 9 << 40, u64::MAX] {
        assert_eq!(file.read_at(gap, &mut [0; 4]), Err(Errno::EINVAL), "{gap:#x}");
    }
    let mut counters = DeviceCounters { size: 24, ..Default::default() };
    kit.call(&file, DEVICE_COUNTERS, &mut counters).unwrap();
    assert_eq!((counters.register_writes, counters.config_writes), (5, 0));
    kit.function.gone.store(true, Ordering::Relaxed);
    assert_eq!(file.read_at(0, &mut [0; 4]), Err(Errno::EIO));
}

#[test]
fn the_msix_table_stays_the_kernels() {
    let kit = Kit::new(false, false, true);
    let file = kit.bound();
    let table = 3u64 << 40;
    let mut out = [0; 8];
    assert_eq!((file.read_at(table + 152, &mut out), out), (Ok(8), [0xff; 8])); // last vector
    assert_eq!((file.read_at(table + 160, &mut out), out), (Ok(8), [0; 8])); // behind the ten vectors
    assert_eq!(file.write_at(table, &[0; 16]), Ok(16));
    assert!(kit.take_log().is_empty());
    assert_eq!(file.write_at(table + 160, &[0; 4]), Ok(4));
    assert_eq!(kit.take_log().len(), 1);
}

#[test]
fn decoding_off_is_eio() {
    let kit = Kit::new(false, false, true);
    let file = kit.bound();
    file.write_at(CONFIG + 4, &[1, 0]).unwrap(); // I/O only
    assert_eq!(file.read_at(0, &mut [0; 4]), Err(Errno::EIO));
    assert_eq!(file.write_at(0, &[0; 4]), Err(Errno::EIO));
    assert_eq!(file.read_at(2 << 40, &mut [0; 4]), Ok(4));
    file.write_at(CONFIG + 4, &[2]).unwrap();
    assert_eq!(file.read_at(0, &mut [0; 4]), Ok(4));
    assert_eq!(file.read_at(2 << 40, &mut [0; 4]), Err(Errno::EIO));
}

#[test]
fn mappings_are_whole_pages_of_mappable_bars() {
    let kit = Kit::new(false, false, true);
    let file = kit.bound();
    assert_eq!(file.map(0, 0x2_0000), Ok(Mapping { phys: Phys(0xfeb8_0000), length: 0x2_0000 }));
    assert_eq!(file.map(0x1000, 0x1000), Ok(Mapping { phys: Phys(0xfeb8_1000), length: 0x1000 }));
    let bar3 = 3u64 << 40;
    assert_eq!(file.map(bar3 + 0x1000, 0x3000), Ok(Mapping { phys: Phys(0x38_0000_1000), length: 0x3000 }));
    let refused = [
        (0x800, 0x1000),
        (0, 0x800),
        (0, 0),
        (0, 0x2_1000),
        (0x1_f000, 0x2000),
        (0, !0xfff),
        (bar3, 0x1000),          // the MSI-X table
        (bar3 + 0x3000, 0x2000), // past its end
        (2 << 40, 0x1000),       // I/O
        (5 << 40, 0x1000),       // below a page
        (1 << 40, 0x1000),       // none
        (CONFIG, 0x1000),
        (9 << 40, 0x1000),
        (!0xfff, 0x1000),
    ];
    for (offset, length) in refused {
        assert_eq!(file.map(offset, length), Err(Errno::EINVAL), "{offset:#x} {length:#x}");
    }
}

fn config(file: &vfio::DeviceFile, at: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    assert_eq!(file.read_at(CONFIG + at, &mut out), Ok(length));
    out
}

#[test]
fn capabilities_that_reach_past_the_function_are_not_there() {
    let kit = Kit::new(false, false, true);
    let file = kit.bound();
    assert_eq!(config(&file, 0, 4), [0x86, 0x80, 0xc9, 0x10]);
    assert_eq!(config(&file, 0x34, 1), [0x40]);
    assert_eq!(config(&file, 0x40, 6), [0x01, 0xa0, 0x23, 0, 0x08, 0]); // power management, then PCI Express
    assert_eq!(config(&file, 0x50, 4), [0; 4]); // MSI
    assert_eq!(config(&file, 0x70, 4), [0; 4]); // MSI-X
    assert_eq!(config(&file, 0xa0, 5), [0x10, 0, 2, 0, 0xaa]);
    assert_eq!(config(&file, 0x100, 4), 0x1401_0001u32.to_le_bytes());
    assert_eq!(config(&file, 0x140, 8), [[3, 0, 1, 0], [1, 2, 3, 4]].concat()); // the chain ends here
    assert_eq!(config(&file, 0x150, 4), [0; 4]); // ARI
    assert_eq!(config(&file, 0x160, 16), [0; 16]); // SR-IOV
    assert_eq!(config(&file, 0x3d, 1), [0]); // no interrupt pin
    assert_eq!(file.read_at(CONFIG + 4090, &mut [0; 16]), Ok(6));
    assert_eq!(file.read_at(CONFIG + 4096, &mut [0; 1]), Err(Errno::EINVAL));
}

#[test]
fn only_the_listed_registers_can_be_written() {
    let kit = Kit::new(false, false, true);
    let file = kit.bound();
    // All of configuration space, byte by byte and in words.
    for at in (0..4096).filter(|at| !(4..8).contains(at)) {
        file.write_at(CONFIG + at, &[0xff]).unwrap();
    }
    for at in (8..4096).step_by(4) {
        file.write_at(CONFIG + at, &[0xff; 4]).unwrap();
    }
    assert!(kit.take_log().is_empty(), "nothing reaches the function");
    // Status: write 1 to clear, nothing else.
    file.write_at(CONFIG + 4, &[7, 4, 0xff, 0xff]).unwrap();
    assert_eq!(kit.take_log(), ["config 0x6 [0, f9]"]);
    assert_eq!(kit.command(&file), 0x0407);
    assert_eq!(config(&file, 0x3c, 1), [0xff]);
    file.write_at(CONFIG + 4, &[0xff; 2]).unwrap();
    assert_eq!(kit.command(&file), 0x0547, "the bits that a function without special cycles has");
}

#[test]
fn bars_can_be_sized_and_moved_on_paper() {
    let kit = Kit::new(false, false, true);
    let file = kit.bound();
    assert_eq!(config(&file, 0x10, 4), 0xfeb8_0000u32.to_le_bytes());
    assert_eq!(config(&file, 0x18, 4), 0xc001u32.to_le_bytes());
    assert_eq!(config(&file, 0x1c, 8), [4u32.to_le_bytes(), 0x38u32.to_le_bytes()].concat());
    file.write_at(CONFIG + 0x10, &[0xff; 24]).unwrap();
    let want: [u32; 6] = [0xfffe_0000, 0, 0xffff_ffe1, 0xffff_c004, 0xffff_ffff, 0xffff_ff00];
    assert_eq!(config(&file, 0x10, 24), want.map(u32::to_le_bytes).concat());
    file.write_at(CONFIG + 0x10, &0x8000_1234u32.to_le_bytes()).unwrap();
    assert_eq!(config(&file, 0x10, 4), 0x8000_0000u32.to_le_bytes());
    // The function did not move.
    assert_eq!(file.map(0, 0x1000).unwrap().phys, Phys(0xfeb8_0000));
    assert!(kit.take_log().is_empty());
}

#[test]
fn features_without_a_migration_driver_are_enotty() {
    let kit = Kit::new(false, false, true);
    let file = kit.bound();
    for feature in 0..16 {
        let mut body = abi::DeviceFeature { argsz: 8, flags: feature | abi::FEATURE_PROBE | abi::FEATURE_GET };
        assert_eq!(kit.call(&file, abi::DEVICE_FEATURE, &mut body), Err(Errno::ENOTTY), "{feature}");
    }
}
