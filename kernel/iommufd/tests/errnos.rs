//! One rule of the interface, one test.
#![allow(missing_docs)]

mod common;

use common::fakes::Machine;
use common::{ARG, DATA, END, MIB, Program, World, group, spec, stream};
use iommufd::{AccountMode, Context, Group, GroupSpec, Requester};
use std::sync::atomic::Ordering;
use uapi::iommufd as abi;
use uapi::{Errno, UserMem};
use zerocopy::IntoBytes;

const RW: u32 = abi::MAP_READABLE | abi::MAP_WRITEABLE;
const FIXED_RW: u32 = RW | abi::MAP_FIXED_IOVA;

fn map(ioas_id: u32) -> abi::IoasMap {
    let (user_va, length, iova) = (0x10_0000, 0x1000, 0x10_0000);
    abi::IoasMap { size: 40, flags: FIXED_RW, ioas_id, user_va, length, iova, ..Default::default() }
}

#[test]
fn unknown_commands_are_enotty() {
    let world = World::new(true);
    for command in [0x3b00, 0x3b64, 0x3b7f, 0x3b96, 0x3ba0, 0x3bbf, 0x3bc3, 0x3bff, 0, 0x5401] {
        assert_eq!(world.context.ioctl(command, 0, &world.program), Err(Errno::ENOTTY), "{command:#x}");
    }
}

#[test]
fn size_is_read_before_the_whole_command_is_compared() {
    let world = World::new(true);
    // A number in range with direction bits: EFAULT first, then ENOTTY, whatever the size.
    let bent = abi::IOAS_ALLOC | 0xc000_0000;
    assert_eq!(world.context.ioctl(bent, END, &world.program), Err(Errno::EFAULT));
    assert_eq!(world.context.ioctl(bent, ARG, &world.program), Err(Errno::ENOTTY));
    assert_eq!(world.context.ioctl(abi::IOAS_ALLOC, END, &world.program), Err(Errno::EFAULT));
    assert_eq!(world.context.ioctl(0x3b70, END, &world.program), Err(Errno::ENOTTY));
}

#[test]
fn every_command_refuses_a_short_size_and_a_non_zero_tail() {
    let world = World::new(true);
    for (index, min) in abi::MIN_SIZES.into_iter().enumerate() {
        let command = abi::TYPE + abi::FIRST + index as u32;
        world.program.put(ARG, &[0; 256]);
        world.program.put(ARG, &(min as u32 - 1).to_le_bytes());
        assert_eq!(world.context.ioctl(command, ARG, &world.program), Err(Errno::EINVAL), "{command:#x}");
        world.program.put(ARG, &200u32.to_le_bytes());
        world.program.put(ARG + 199, &[1]);
        assert_eq!(world.context.ioctl(command, ARG, &world.program), Err(Errno::E2BIG), "{command:#x}");
        world.program.put(END - 48, &[0; 48]);
        world.program.put(END - 48, &200u32.to_le_bytes());
        assert_eq!(world.context.ioctl(command, END - 48, &world.program), Err(Errno::EFAULT), "{command:#x}");
    }
}

#[test]
fn ids_are_the_lowest_free_from_1() {
    let world = World::new(true);
    assert_eq!((world.ioas(), world.ioas(), world.ioas()), (1, 2, 3));
    world.destroy(2).unwrap();
    assert_eq!(world.destroy(2), Err(Errno::ENOENT));
    assert_eq!((world.ioas(), world.ioas()), (2, 4));
    for id in [0, 5, 4096, 4097, u32::MAX] {
        assert_eq!(world.destroy(id), Err(Errno::ENOENT));
    }
}

#[test]
fn too_many_objects_are_enomem() {
    let world = World::new(true);
    for id in 1..=4096 {
        assert_eq!(world.ioas(), id);
    }
    let mut body = abi::IoasAlloc { size: 12, ..Default::default() };
    assert_eq!(world.call(abi::IOAS_ALLOC, &mut body), Err(Errno::ENOMEM));
    world.destroy(77).unwrap();
    assert_eq!(world.ioas(), 77);
}

#[test]
fn ioas_alloc_flags_are_eopnotsupp_and_a_reply_fault_takes_the_object_back() {
    let world = World::new(true);
    let mut body = abi::IoasAlloc { size: 12, flags: 1, ..Default::default() };
    assert_eq!(world.call(abi::IOAS_ALLOC, &mut body), Err(Errno::EOPNOTSUPP));
    *world.program.read_only_from.lock().unwrap() = ARG;
    body.flags = 0;
    assert_eq!(world.call(abi::IOAS_ALLOC, &mut body), Err(Errno::EFAULT));
    *world.program.read_only_from.lock().unwrap() = END;
    assert_eq!(world.ioas(), 1);
}

#[test]
fn iova_ranges_of_an_empty_space_and_emsgsize() {
    let world = World::new(true);
    let ioas_id = world.ioas();
    let mut body = abi::IoasIovaRanges { size: 32, ioas_id, ..Default::default() };
    assert_eq!(world.call(abi::IOAS_IOVA_RANGES, &mut body), Err(Errno::EMSGSIZE));
    assert_eq!((body.num_iovas, body.out_iova_alignment), (1, 1)); // written all the same
    body.allowed_iovas = DATA;
    assert_eq!(world.call(abi::IOAS_IOVA_RANGES, &mut body), Ok(0));
    assert_eq!(world.program.get(DATA, 16), [[0; 8], [0xff; 8]].concat());
    body.allowed_iovas = END;
    assert_eq!(world.call(abi::IOAS_IOVA_RANGES, &mut body), Err(Errno::EFAULT));
    body.reserved = 1;
    assert_eq!(world.call(abi::IOAS_IOVA_RANGES, &mut body), Err(Errno::EOPNOTSUPP));
    (body.reserved, body.ioas_id) = (0, 9);
    assert_eq!(world.call(abi::IOAS_IOVA_RANGES, &mut body), Err(Errno::ENOENT));
}

#[test]
fn allow_iovas_rules() {
    let world = World::new(true);
    let ioas_id = world.ioas();
    let allow = |ranges: &[(u64, u64)]| {
        for (index, (start, last)) in ranges.iter().enumerate() {
            world.program.put(DATA + index as u64 * 16, abi::IovaRange { start: *start, last: *last }.as_bytes());
        }
        let num_iovas = ranges.len() as u32;
        let mut body = abi::IoasAllowIovas { size: 24, ioas_id, num_iovas, allowed_iovas: DATA, ..Default::default() };
        world.call(abi::IOAS_ALLOW_IOVAS, &mut body)
    };
    assert_eq!(allow(&[(0x2000, 0x2000)]), Err(Errno::EINVAL)); // start must be below last
    assert_eq!(allow(&[(0x2000, 0x1000)]), Err(Errno::EINVAL));
    assert_eq!(allow(&[(0x1000, 0x1fff), (0x4000, 0x4fff), (0x1800, 0x2000)]), Err(Errno::EINVAL)); // overlap
    assert_eq!(allow(&[(0x1000, 0x1fff), (0x4000, 0x4fff)]), Ok(0));
    let mut anywhere = abi::IoasMap { flags: RW, ..map(ioas_id) };
    world.call(abi::IOAS_MAP, &mut anywhere).unwrap();
    assert_eq!(anywhere.iova, 0x1000);
    // A reservation on a promised range refuses the attach.
    assert_eq!(allow(&[(0xfee0_0000, 0xfee0_0fff)]), Ok(0));
    let device = world.bind(0);
    assert_eq!(device.attach(ioas_id), Err(Errno::EADDRINUSE));
    assert_eq!(allow(&[]), Ok(0));
    device.attach(ioas_id).unwrap();
    assert_eq!(allow(&[(0xfeef_ffff, 0xfef0_0000)]), Err(Errno::EADDRINUSE));
    let mut body = abi::IoasAllowIovas { size: 24, ioas_id, num_iovas: 1, allowed_iovas: END, reserved: 0 };
    assert_eq!(world.call(abi::IOAS_ALLOW_IOVAS, &mut body), Err(Errno::EFAULT));
    body.reserved = 1;
    assert_eq!(world.call(abi::IOAS_ALLOW_IOVAS, &mut body), Err(Errno::EOPNOTSUPP));
    (body.reserved, body.ioas_id) = (0, 99);
    assert_eq!(world.call(abi::IOAS_ALLOW_IOVAS, &mut body), Err(Errno::ENOENT));
}

/// Changes one field of a good request.
type Change = fn(&mut abi::IoasMap);
type ChangeCopy = fn(&mut abi::IoasCopy);

#[test]
fn map_errnos_in_the_published_order() {
    let world = World::new(true);
    let ioas_id = world.ioas();
    let device = world.bind(0);
    device.attach(ioas_id).unwrap();
    world.map(ioas_id, 0x20_0000, 0x2000, 0x20_0000).unwrap();
    let rules: [(&str, Errno, Change); 20] = [
        ("unknown flag", Errno::EOPNOTSUPP, |m| m.flags |= 8),
        ("reserved", Errno::EOPNOTSUPP, |m| m.reserved = 1),
        ("reserved before overflow", Errno::EOPNOTSUPP, |m| (m.reserved, m.iova) = (1, u64::MAX)),
        ("iova 2^64-1", Errno::EOVERFLOW, |m| m.iova = u64::MAX),
        ("length 2^64-1 before rights", Errno::EOVERFLOW, |m| (m.length, m.flags) = (u64::MAX, 0)),
        ("neither read nor write, before the id", Errno::EINVAL, |m| (m.flags, m.ioas_id) = (1, 99)),
        ("unknown id before addresses", Errno::ENOENT, |m| (m.ioas_id, m.length) = (99, 0)),
        ("another kind of object", Errno::ENOENT, |m| m.ioas_id = 2),
        ("address wraps", Errno::EOVERFLOW, |m| (m.user_va, m.length) = (u64::MAX - 0xfff, 0x2000)),
        ("length 0", Errno::EINVAL, |m| m.length = 0),
        ("length within a page of 2^64", Errno::EINVAL, |m| (m.user_va, m.length) = (0, u64::MAX - 1)),
        ("length misaligned", Errno::EINVAL, |m| m.length = 0x800),
        ("iova misaligned", Errno::EINVAL, |m| m.iova = 0x10_0800),
        ("iova wraps", Errno::EOVERFLOW, |m| (m.iova, m.length) = (u64::MAX - 0xfff, 0x2000)),
        ("reserved range", Errno::EINVAL, |m| m.iova = 0xfee0_0000),
        ("outside of the aperture", Errno::EINVAL, |m| m.iova = 1 << 39),
        ("something is there", Errno::EEXIST, |m| m.iova = 0x20_1000),
        ("address misaligned in its page", Errno::EINVAL, |m| m.user_va += 0x800),
        ("nothing at the address", Errno::EFAULT, |m| m.user_va = 1 << 40),
        ("half the space, automatically", Errno::EOVERFLOW, |m| {
            (m.flags, m.user_va, m.length) = (RW, 0, (u64::MAX / 2 + 1) & !0xfff);
        }),
    ];
    for (rule, errno, change) in rules {
        let mut body = map(ioas_id);
        change(&mut body);
        assert_eq!(world.call(abi::IOAS_MAP, &mut body), Err(errno), "{rule}");
    }
    assert_eq!(world.call(abi::IOAS_MAP, &mut map(ioas_id)), Ok(0));
    let (pinned, _) = (world.machine.pinned(), ());
    assert_eq!(pinned, 3);
}

#[test]
fn map_over_reserved_range_is_einval() {
    let world = World::new(true);
    let ioas_id = world.ioas();
    world.bind(0).attach(ioas_id).unwrap();
    // Detached again with the handle: no longer reserved.
    assert_eq!(world.map(ioas_id, 0, 0x1000, 0xfee0_0000), Ok(0xfee0_0000));
}

#[test]
fn map_stays_when_the_reply_faults() {
    let world = World::new(true);
    let ioas_id = world.ioas();
    *world.program.read_only_from.lock().unwrap() = ARG;
    assert_eq!(world.call(abi::IOAS_MAP, &mut map(ioas_id)), Err(Errno::EFAULT));
    *world.program.read_only_from.lock().unwrap() = END;
    assert_eq!(world.call(abi::IOAS_MAP, &mut map(ioas_id)), Err(Errno::EEXIST));
    assert_eq!(world.unmap(ioas_id, 0x10_0000, 0x1000), Ok(0x1000));
}

#[test]
fn map_with_old_size_gets_no_more_than_it_asked_for() {
    let world = World::new(true);
    let ioas_id = world.ioas();
    // A longer structure with a zero tail is fine, and the tail is not written.
    let mut bytes = [0; 64];
    bytes[..40].copy_from_slice(abi::IoasMap { size: 64, flags: RW, ..map(ioas_id) }.as_bytes());
    world.program.put(ARG, &bytes);
    assert_eq!(world.context.ioctl(abi::IOAS_MAP, ARG, &world.program), Ok(0));
    assert_eq!(world.program.get(ARG + 40, 24), [0; 24]);
}

#[test]
fn map_file_rules() {
    let world = World::new(true);
    let ioas_id = world.ioas();
    let good =
        abi::IoasMapFile { size: 40, flags: FIXED_RW, ioas_id, fd: 3, start: 0, length: 0x1000, iova: 0x10_0000 };
    let call = |change: fn(&mut abi::IoasMapFile)| {
        let mut body = good;
        change(&mut body);
        world.call(abi::IOAS_MAP_FILE, &mut body)
    };
    assert_eq!(call(|m| m.flags = 8), Err(Errno::EOPNOTSUPP));
    assert_eq!(call(|m| m.length = u64::MAX), Err(Errno::EOVERFLOW));
    assert_eq!(call(|m| m.flags = 1), Err(Errno::EINVAL));
    assert_eq!(call(|m| m.ioas_id = 9), Err(Errno::ENOENT));
    assert_eq!(call(|m| m.length = 0), Err(Errno::EINVAL));
    assert_eq!(call(|m| (m.start, m.length) = (u64::MAX, 2)), Err(Errno::EOVERFLOW));
    assert_eq!(call(|_| ()), Err(Errno::EOPNOTSUPP)); // this program's files cannot be pinned
}

#[test]
fn copy_errnos_in_the_published_order() {
    let world = World::new(true);
    let (src_ioas_id, dst_ioas_id) = (world.ioas(), world.ioas());
    world.map(src_ioas_id, 0x10_0000, 0x4000, 0x10_0000).unwrap();
    let mut read_only = abi::IoasMap { flags: abi::MAP_READABLE | 1, iova: 0x20_0000, ..map(src_ioas_id) };
    world.call(abi::IOAS_MAP, &mut read_only).unwrap();
    let (length, dst_iova, src_iova) = (0x2000, 0x30_0000, 0x10_1000);
    let good = abi::IoasCopy { size: 40, flags: FIXED_RW, dst_ioas_id, src_ioas_id, length, dst_iova, src_iova };
    let rules: [(&str, Errno, ChangeCopy); 13] = [
        ("unknown flag", Errno::EOPNOTSUPP, |m| m.flags |= 8),
        ("length 2^64-1", Errno::EOVERFLOW, |m| m.length = u64::MAX),
        ("source 2^64-1", Errno::EOVERFLOW, |m| m.src_iova = u64::MAX),
        ("target 2^64-1", Errno::EOVERFLOW, |m| m.dst_iova = u64::MAX),
        ("no rights before ids", Errno::EINVAL, |m| (m.flags, m.src_ioas_id) = (1, 9)),
        ("unknown source", Errno::ENOENT, |m| m.src_ioas_id = 9),
        ("length 0", Errno::EINVAL, |m| m.length = 0),
        ("source wraps", Errno::EOVERFLOW, |m| (m.src_iova, m.length) = (u64::MAX - 1, 3)),
        ("source has a hole", Errno::ENOENT, |m| m.length = 0x4000),
        ("source starts in a hole, before the target's id", Errno::ENOENT, |m| (m.src_iova, m.dst_ioas_id) = (0, 9)),
        ("unknown target", Errno::ENOENT, |m| m.dst_ioas_id = 9),
        ("write to pages mapped for reading", Errno::EPERM, |m| (m.src_iova, m.length) = (0x20_0000, 0x1000)),
        ("target wraps", Errno::EOVERFLOW, |m| m.dst_iova = u64::MAX - 0xfff),
    ];
    for (rule, errno, change) in rules {
        let mut body = good;
        change(&mut body);
        assert_eq!(world.call(abi::IOAS_COPY, &mut body), Err(errno), "{rule}");
    }
    let mut body = good;
    assert_eq!(world.call(abi::IOAS_COPY, &mut body), Ok(0));
    assert_eq!(world.call(abi::IOAS_COPY, &mut body), Err(Errno::EEXIST));
    let mut anywhere = abi::IoasCopy { flags: RW, dst_ioas_id: src_ioas_id, ..good }; // the same space
    assert_eq!(world.call(abi::IOAS_COPY, &mut anywhere), Ok(0));
    assert_ne!(anywhere.dst_iova, good.dst_iova);
    let flags = abi::MAP_READABLE | 1;
    let mut read = abi::IoasCopy { flags, src_iova: 0x20_0000, length: 0x1000, dst_iova: 0x50_0000, ..good };
    assert_eq!(world.call(abi::IOAS_COPY, &mut read), Ok(0));
}

#[test]
fn unmap_rules() {
    let world = World::new(true);
    let id = world.ioas();
    assert_eq!(world.unmap(99, 0, u64::MAX), Err(Errno::ENOENT));
    assert_eq!(world.unmap(id, 0, u64::MAX), Ok(0)); // everything of nothing
    assert_eq!(world.unmap(id, 1, u64::MAX), Err(Errno::EOVERFLOW));
    assert_eq!(world.unmap(id, u64::MAX, 1), Err(Errno::EOVERFLOW));
    assert_eq!(world.unmap(id, 0, 0), Err(Errno::EINVAL));
    assert_eq!(world.unmap(id, u64::MAX - 1, 3), Err(Errno::EOVERFLOW));
    assert_eq!(world.unmap(id, 0, 0x1000), Err(Errno::ENOENT));
    world.map(id, 0x1000, 0x1000, 0x1000).unwrap();
    world.map(id, 0x4000, 0x2000, 0x4000).unwrap();
    world.map(id, 0x8000, 0x1000, u64::MAX - 0xfff).unwrap();
    assert_eq!(world.unmap(id, 0x1000, 0x800), Err(Errno::ENOENT)); // partly covered
    assert_eq!(world.unmap(id, 0, 0x5000), Err(Errno::ENOENT)); // the first goes, the second is partly covered
    assert_eq!(world.unmap(id, 0x1000, 0x1000), Err(Errno::ENOENT));
    assert_eq!(world.unmap(id, 0, 0x1_0000), Ok(0x2000)); // holes are not counted
    assert_eq!(world.unmap(id, u64::MAX - 0xfff, 0x1000), Ok(0x1000));
}

#[test]
fn option_rules() {
    let world = World::new(true);
    let call = |option_id: u32, op: u16, object_id: u32, val64: u64| {
        let mut body = abi::OptionCmd { size: 24, option_id, op, reserved: 0, object_id, val64 };
        world.call(abi::OPTION, &mut body).map(|_| body.val64)
    };
    const SET: u16 = abi::OPTION_OP_SET;
    const GET: u16 = abi::OPTION_OP_GET;
    let mut reserved = abi::OptionCmd { size: 24, reserved: 1, ..Default::default() };
    assert_eq!(world.call(abi::OPTION, &mut reserved), Err(Errno::EOPNOTSUPP));
    assert_eq!(call(2, GET, 0, 0), Err(Errno::EOPNOTSUPP));
    // RLIMIT_MODE
    assert_eq!(call(0, GET, 1, 0), Err(Errno::EOPNOTSUPP));
    assert_eq!(call(0, GET, 0, 7), Ok(0));
    assert_eq!(call(0, 2, 0, 0), Err(Errno::EOPNOTSUPP));
    assert_eq!(call(0, SET, 0, 2), Err(Errno::EINVAL));
    assert_eq!(call(0, SET, 0, 1), Ok(1));
    assert_eq!(call(0, GET, 0, 0), Ok(1));
    world.program.sys_resource.store(false, Ordering::Relaxed);
    assert_eq!(call(0, SET, 0, 0), Err(Errno::EPERM));
    world.program.sys_resource.store(true, Ordering::Relaxed);
    let id = world.ioas();
    assert_eq!(call(0, SET, 0, 2), Err(Errno::EBUSY));
    world.map(id, 0x1000, 0x1000, 0x1000).unwrap();
    assert_eq!(*world.program.modes.lock().unwrap(), [AccountMode::Process]);
    // HUGE_PAGES
    assert_eq!(call(1, GET, 99, 0), Err(Errno::ENOENT));
    assert_eq!(call(1, GET, id, 0), Ok(1));
    assert_eq!(call(1, SET, id, 2), Err(Errno::EINVAL));
    assert_eq!(call(1, 2, id, 0), Err(Errno::EOPNOTSUPP));
    assert_eq!(call(1, SET, id, 0), Ok(0));
    assert_eq!(call(1, GET, id, 9), Ok(0));
    assert_eq!(call(1, SET, id, 1), Ok(1));
    let device = world.bind(0);
    device.attach(id).unwrap();
    assert_eq!(call(1, SET, id, 0), Err(Errno::EINVAL)); // a domain holds a mapping
    world.unmap(id, 0, u64::MAX).unwrap();
    assert_eq!(call(1, SET, id, 0), Ok(0));
}

#[test]
fn vfio_ioas_rules() {
    let world = World::new(true);
    let call = |op: u16, ioas_id: u32| {
        let mut body = abi::VfioIoas { size: 12, ioas_id, op, reserved: 0 };
        world.call(abi::VFIO_IOAS, &mut body).map(|_| body.ioas_id)
    };
    assert_eq!(call(abi::VFIO_IOAS_GET, 0), Err(Errno::ENODEV));
    assert_eq!(call(abi::VFIO_IOAS_SET, 1), Err(Errno::ENOENT));
    assert_eq!(call(3, 0), Err(Errno::EOPNOTSUPP));
    let id = world.ioas();
    call(abi::VFIO_IOAS_SET, id).unwrap();
    assert_eq!(call(abi::VFIO_IOAS_GET, 0), Ok(id));
    world.destroy(id).unwrap();
    assert_eq!(call(abi::VFIO_IOAS_GET, 0), Err(Errno::ENODEV));
}

#[test]
fn hwpt_alloc_errnos_in_the_published_order() {
    let world = World::new(true);
    let pt_id = world.ioas();
    let device = world.bind(0);
    let dev_id = device.id();
    let hwpt = world.hwpt(dev_id, pt_id, 0).unwrap();
    let good = abi::HwptAlloc { size: 48, dev_id, pt_id, ..Default::default() };
    let call = |body: abi::HwptAlloc| world.call(abi::HWPT_ALLOC, &mut { body });
    assert_eq!(call(abi::HwptAlloc { reserved: 1, data_type: 1, ..good }), Err(Errno::EOPNOTSUPP));
    assert_eq!(call(abi::HwptAlloc { data_type: 1, dev_id: 99, ..good }), Err(Errno::EINVAL)); // type without data
    assert_eq!(call(abi::HwptAlloc { data_len: 8, ..good }), Err(Errno::EINVAL));
    assert_eq!(call(abi::HwptAlloc { dev_id: 99, pt_id: 99, ..good }), Err(Errno::ENOENT));
    assert_eq!(call(abi::HwptAlloc { dev_id: pt_id, ..good }), Err(Errno::ENOENT));
    assert_eq!(call(abi::HwptAlloc { pt_id: 99, ..good }), Err(Errno::EINVAL)); // not ENOENT
    assert_eq!(call(abi::HwptAlloc { pt_id: dev_id, ..good }), Err(Errno::EINVAL));
    assert_eq!(call(abi::HwptAlloc { pt_id: hwpt, ..good }), Err(Errno::EOPNOTSUPP));
    for flags in [abi::HWPT_NEST_PARENT, abi::HWPT_FAULT_ID_VALID, abi::HWPT_PASID, 16, 1 << 31] {
        assert_eq!(call(abi::HwptAlloc { flags, ..good }), Err(Errno::EOPNOTSUPP), "flag {flags}");
    }
    assert_eq!(call(abi::HwptAlloc { data_type: 1, data_len: 24, ..good }), Err(Errno::EOPNOTSUPP));
    assert_eq!(call(abi::HwptAlloc { reserved2: 1, ..good }), Ok(0)); // Linux does not check it
    // The first published size is enough.
    world.program.put(ARG, abi::HwptAlloc { size: 24, ..good }.as_bytes());
    assert_eq!(world.context.ioctl(abi::HWPT_ALLOC, ARG, &world.program), Ok(0));
}

#[test]
fn a_tracking_table_needs_a_unit_that_tracks() {
    let world = World::new(false);
    let pt_id = world.ioas();
    let device = world.bind(0);
    assert_eq!(world.hwpt(device.id(), pt_id, abi::HWPT_DIRTY_TRACKING), Err(Errno::EOPNOTSUPP));
}

#[test]
fn hwpt_alloc_reply_fault_takes_the_table_back() {
    let world = World::new(true);
    let pt_id = world.ioas();
    let device = world.bind(0);
    world.map(pt_id, 0, MIB, 0).unwrap();
    *world.program.read_only_from.lock().unwrap() = ARG;
    assert_eq!(world.hwpt(device.id(), pt_id, 0), Err(Errno::EFAULT));
    *world.program.read_only_from.lock().unwrap() = END;
    assert_eq!(world.machine.pinned(), 0);
    world.destroy(pt_id).unwrap();
}

#[test]
fn get_hw_info_rules() {
    let world = World::new(true);
    let device = world.bind(0);
    let good = abi::GetHwInfo { size: 40, dev_id: device.id(), data_len: 32, data_uptr: DATA, ..Default::default() };
    let call = |mut body: abi::GetHwInfo| world.call(abi::GET_HW_INFO, &mut body).map(|_| body);
    assert_eq!(call(abi::GetHwInfo { flags: 2, ..good }), Err(Errno::EOPNOTSUPP));
    assert_eq!(call(abi::GetHwInfo { reserved: [0, 0, 1], ..good }), Err(Errno::EOPNOTSUPP));
    assert_eq!(call(abi::GetHwInfo { dev_id: 99, ..good }), Err(Errno::ENOENT));
    assert_eq!(call(abi::GetHwInfo { flags: 1, data_type: 2, ..good }), Err(Errno::EOPNOTSUPP));
    assert_eq!(call(abi::GetHwInfo { data_uptr: END, ..good }), Err(Errno::EFAULT));
    world.program.put(DATA, &[0xaa; 40]);
    // Without INPUT_TYPE the input is not looked at.
    let info = call(abi::GetHwInfo { data_type: 77, ..good }).unwrap();
    assert_eq!((info.data_len, info.data_type, info.out_capabilities), (24, abi::HW_INFO_TYPE_INTEL_VTD, 1));
    let mut want = vec![0; 8];
    want.extend(0x1111_2222_3333_4444u64.to_le_bytes());
    want.extend(0x5555_6666_7777_8888u64.to_le_bytes());
    want.extend([0; 8]); // the rest of the room is cleared
    want.extend([0xaa; 8]);
    assert_eq!(world.program.get(DATA, 40), want);
    world.program.put(DATA, &[0xaa; 40]);
    assert_eq!(call(abi::GetHwInfo { data_len: 9, flags: 1, data_type: 1, ..good }).unwrap().data_len, 24);
    assert_eq!(world.program.get(DATA, 10), [0, 0, 0, 0, 0, 0, 0, 0, 0x44, 0xaa]);
    let blind = World::new(false);
    let device = blind.bind(0);
    let mut body = abi::GetHwInfo { dev_id: device.id(), data_len: 0, ..good };
    blind.call(abi::GET_HW_INFO, &mut body).unwrap();
    assert_eq!(body.out_capabilities, 0);
}

#[test]
fn set_dirty_tracking_rules() {
    let world = World::new(true);
    let ioas = world.ioas();
    let device = world.bind(0);
    let plain = world.hwpt(device.id(), ioas, 0).unwrap();
    let tracking = world.hwpt(device.id(), ioas, abi::HWPT_DIRTY_TRACKING).unwrap();
    let call = |flags: u32, hwpt_id: u32, reserved: u32| {
        let mut body = abi::HwptSetDirtyTracking { size: 16, flags, hwpt_id, reserved };
        world.call(abi::HWPT_SET_DIRTY_TRACKING, &mut body)
    };
    assert_eq!(call(2, 99, 0), Err(Errno::EOPNOTSUPP));
    for id in [99, ioas, device.id()] {
        assert_eq!(call(1, id, 0), Err(Errno::ENOENT));
    }
    assert_eq!(call(1, plain, 0), Err(Errno::EOPNOTSUPP));
    assert_eq!(call(1, tracking, 5), Ok(0)); // Linux does not check reserved here
    assert_eq!(call(1, tracking, 0), Ok(0));
    assert_eq!(call(0, tracking, 0), Ok(0));
}

#[test]
fn what_is_not_built_answers_by_the_published_checks() {
    let world = World::new(true);
    let ioas = world.ioas();
    let device = world.bind(0);
    let hwpt = world.hwpt(device.id(), ioas, 0).unwrap();
    let invalidate = |change: fn(&mut abi::HwptInvalidate), hwpt_id: u32| {
        let mut body =
            abi::HwptInvalidate { size: 32, hwpt_id, entry_num: 1, entry_len: 8, data_uptr: 8, ..Default::default() };
        change(&mut body);
        let result = world.call(abi::HWPT_INVALIDATE, &mut body);
        assert_eq!(body.entry_num, 0, "the reply says that nothing was done");
        result
    };
    assert_eq!(invalidate(|b| b.reserved = 1, 99), Err(Errno::EOPNOTSUPP));
    assert_eq!(invalidate(|b| b.data_uptr = 0, 99), Err(Errno::EINVAL));
    assert_eq!(invalidate(|b| b.entry_len = 4097, 99), Err(Errno::EINVAL));
    assert_eq!(invalidate(|b| b.entry_num = (1 << 19) + 1, 99), Err(Errno::EINVAL));
    assert_eq!(invalidate(|_| (), 99), Err(Errno::ENOENT));
    assert_eq!(invalidate(|_| (), hwpt), Err(Errno::EINVAL));
    let mut fault = abi::FaultQueueAlloc { size: 16, ..Default::default() };
    assert_eq!(world.call(abi::FAULT_QUEUE_ALLOC, &mut fault), Err(Errno::EOPNOTSUPP));
    let mut viommu = abi::ViommuAlloc { size: 40, kind: 1, dev_id: 99, ..Default::default() };
    assert_eq!(world.call(abi::VIOMMU_ALLOC, &mut viommu), Err(Errno::ENOENT));
    viommu.dev_id = device.id();
    assert_eq!(world.call(abi::VIOMMU_ALLOC, &mut viommu), Err(Errno::EOPNOTSUPP));
    let mut vdevice = abi::VdeviceAlloc { size: 24, ..Default::default() };
    assert_eq!(world.call(abi::VDEVICE_ALLOC, &mut vdevice), Err(Errno::ENOENT));
    let mut queue = abi::HwQueueAlloc { size: 40, kind: 1, ..Default::default() };
    assert_eq!(world.call(abi::HW_QUEUE_ALLOC, &mut queue), Err(Errno::EINVAL));
    (queue.length, queue.nesting_parent_iova) = (2, u64::MAX);
    assert_eq!(world.call(abi::HW_QUEUE_ALLOC, &mut queue), Err(Errno::EOVERFLOW));
    queue.nesting_parent_iova = 0;
    assert_eq!(world.call(abi::HW_QUEUE_ALLOC, &mut queue), Err(Errno::ENOENT));
    let mut events = abi::VeventqAlloc { size: 32, kind: 1, ..Default::default() };
    assert_eq!(world.call(abi::VEVENTQ_ALLOC, &mut events), Err(Errno::EINVAL));
    events.veventq_depth = 1;
    assert_eq!(world.call(abi::VEVENTQ_ALLOC, &mut events), Err(Errno::ENOENT));
    let mut change = abi::IoasChangeProcess { size: 8, reserved: 1 };
    assert_eq!(world.call(abi::IOAS_CHANGE_PROCESS, &mut change), Err(Errno::EOPNOTSUPP));
    change.reserved = 0;
    assert_eq!(world.call(abi::IOAS_CHANGE_PROCESS, &mut change), Ok(0));
    world.map(ioas, 0, 0x1000, 0).unwrap();
    assert_eq!(world.call(abi::IOAS_CHANGE_PROCESS, &mut change), Err(Errno::EINVAL));
    let mut pa = abi::IoasNoiommuGetPa { size: 40, ..Default::default() };
    assert_eq!(world.call(abi::IOAS_NOIOMMU_GET_PA, &mut pa), Err(Errno::EOPNOTSUPP));
}

#[test]
fn explain_names_group_reserved_regions_and_what_is_missing() {
    let world = World::new(false);
    let device = world.bind(0);
    let mut body = uapi::extension::Explain { size: 24, flags: 0, id: device.id(), data_len: 4096, data_uptr: DATA };
    world.call(uapi::extension::EXPLAIN, &mut body).unwrap();
    let text = String::from_utf8(world.program.get(DATA, body.data_len as usize)).unwrap();
    for part in ["0000:01:00.0", "fake0", "alone", "0xfee00000..=0xfeefffff: MSI window", "ECAP.SSADS (bit 45)"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    body.data_len = 4; // cut, and the whole length told
    world.program.put(DATA, &[0; 16]);
    world.call(uapi::extension::EXPLAIN, &mut body).unwrap();
    assert_eq!(body.data_len as usize, text.len());
    assert_eq!(world.program.get(DATA, 5), [text.as_bytes()[..4].to_vec(), vec![0]].concat());
    body.id = 99;
    assert_eq!(world.call(uapi::extension::EXPLAIN, &mut body), Err(Errno::ENOENT));
}

#[test]
fn firmware_direct_devices_are_refused_at_bind() {
    let world = World::new(true);
    let group = group(&world.unit, &[stream(0)]);
    let mut spec = spec(&world.unit, &group, stream(0));
    spec.reserved[0].direct = true;
    assert_eq!(world.context.bind(spec.clone()).err(), Some(Errno::EINVAL));
    spec.reserved[0].direct = false;
    assert!(world.context.bind(spec).is_ok());
}

#[test]
fn a_group_has_one_owner() {
    let world = World::new(true);
    let other = Context::new();
    let group = group(&world.unit, &[stream(0), stream(1)]);
    let one = world.context.bind(spec(&world.unit, &group, stream(0))).unwrap();
    assert_eq!(other.bind(spec(&world.unit, &group, stream(1))).err(), Some(Errno::EBUSY));
    assert_eq!(world.context.bind(spec(&world.unit, &group, stream(0))).err(), Some(Errno::EBUSY));
    drop(world.context.bind(spec(&world.unit, &group, stream(1))).unwrap());
    assert_eq!(other.bind(spec(&world.unit, &group, stream(1))).err(), Some(Errno::EBUSY));
    drop(one);
    assert!(other.bind(spec(&world.unit, &group, stream(1))).is_ok());
}

#[test]
fn a_group_with_a_card_of_the_kernel_is_ebusy_and_its_card_stays_where_it_is() {
    let world = World::new(true);
    let requesters = [0, 1].map(|n| Requester { unit: world.unit.clone(), stream: stream(n) }).to_vec();
    let group = Group::kept(GroupSpec { id: 1, requesters, why: "no ACS".into() }, stream(1).to_string());
    for _ in 0..2 {
        assert_eq!(world.context.bind(spec(&world.unit, &group, stream(0))).err(), Some(Errno::EBUSY));
    }
}

#[test]
fn a_program_without_memory_gets_efault_everywhere() {
    let machine = Machine::new();
    let program = Program::new(&machine);
    let context = Context::new();
    for command in (0x3b80..=0x3b95).chain(0x3bc0..=0x3bc2) {
        assert_eq!(context.ioctl(command, 0, &program), Err(Errno::EFAULT), "{command:#x}");
        assert_eq!(context.ioctl(command, u64::MAX - 1, &program), Err(Errno::EFAULT), "{command:#x}");
    }
    assert!(program.copy_in(END - 1, &mut [0; 2]).is_err());
}
