//! Several CPUs at once: calls are run again when they meet one another, and in the end every pin is back.
#![allow(missing_docs)]

mod common;

use common::fakes::{FakeUnit, Machine};
use common::{DATA, Program, Random, group, spec, stream};
use iommufd::Context;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use uapi::Errno;
use uapi::iommufd as abi;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// One CPU: the dispatcher's loop around a program of its own (threads share objects, not structures in memory).
struct Cpu {
    program: Program,
    context: Arc<Context>,
    again: u64,
}

impl Cpu {
    fn call<T: IntoBytes + FromBytes + Immutable + Copy>(&mut self, command: u32, body: T) -> Result<T, Errno> {
        loop {
            let mut copy = body;
            match self.program.call(&self.context, command, &mut copy) {
                Err(Errno::ERESTART) => self.again += 1,
                other => return other.map(|_| copy),
            }
            std::thread::yield_now();
        }
    }
}

#[test]
fn maps_reports_and_attaches_meet_and_nothing_is_lost_or_stuck() {
    let machine = Machine::new();
    let unit = FakeUnit::new(&machine, true);
    let context = Context::new();
    let mut main = Cpu { program: Program::new(&machine), context: context.clone(), again: 0 };
    let ioas_id = main.call(abi::IOAS_ALLOC, abi::IoasAlloc { size: 12, ..Default::default() }).unwrap().out_ioas_id;
    let home = group(&unit, &[stream(0)]);
    let device = context.bind(spec(&unit, &home, stream(0))).unwrap();
    let body = abi::HwptAlloc { size: 48, flags: 2, dev_id: device.id(), pt_id: ioas_id, ..Default::default() };
    let hwpt_id = main.call(abi::HWPT_ALLOC, body).unwrap().out_hwpt_id;
    device.attach(hwpt_id).unwrap();
    main.call(abi::HWPT_SET_DIRTY_TRACKING, abi::HwptSetDirtyTracking { size: 16, flags: 1, hwpt_id, reserved: 0 })
        .unwrap();
    let (domain, again) = (unit.at(stream(0)).unwrap(), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let mut cpu = Cpu { program: Program::new(&machine), context: context.clone(), again: 0 };
            let again = &again;
            scope.spawn(move || {
                let mut random = Random(77 + thread);
                let mut mapped = 0u64;
                for _ in 0..400 {
                    // The two threads' ranges meet, so EEXIST, ENOENT and EBUSY are answers too.
                    let iova = random.below(24) * 0x1000;
                    let length = (1 + random.below(3)) * 0x1000;
                    let flags = abi::MAP_FIXED_IOVA | abi::MAP_READABLE | abi::MAP_WRITEABLE;
                    let body =
                        abi::IoasMap { size: 40, flags, ioas_id, user_va: iova, length, iova, ..Default::default() };
                    match cpu.call(abi::IOAS_MAP, body) {
                        Ok(_) => mapped += 1,
                        Err(errno) => assert_eq!(errno, Errno::EEXIST),
                    }
                    match cpu.call(abi::IOAS_UNMAP, abi::IoasUnmap { size: 24, ioas_id, iova, length }) {
                        Ok(_) => {}
                        Err(errno) => assert!(matches!(errno, Errno::ENOENT | Errno::EBUSY), "{errno:?}"),
                    }
                }
                assert!(mapped > 20);
                again.fetch_add(cpu.again, Ordering::Relaxed);
            });
        }
        let mut reader = Cpu { program: Program::new(&machine), context: context.clone(), again: 0 };
        let domain = &domain;
        scope.spawn(move || {
            for at in 0..400 {
                domain.write(at % 32 * 0x1000);
                let (length, page_size) = (0x20_000, 0x1000);
                let body =
                    abi::HwptGetDirtyBitmap { size: 48, hwpt_id, length, page_size, data: DATA, ..Default::default() };
                reader.call(abi::HWPT_GET_DIRTY_BITMAP, body).unwrap();
            }
        });
        let (context, unit) = (context.clone(), unit.clone());
        scope.spawn(move || {
            // Another device comes and goes: its automatic table is filled and emptied meanwhile.
            let own = group(&unit, &[stream(1)]);
            for _ in 0..60 {
                let device = context.bind(spec(&unit, &own, stream(1))).unwrap();
                loop {
                    match device.attach(ioas_id) {
                        Ok(_) => break,
                        Err(errno) => assert_eq!(errno, Errno::ERESTART),
                    }
                    std::thread::yield_now();
                }
                assert!(unit.at(stream(1)).is_some());
                drop(device);
                assert!(unit.at(stream(1)).is_none());
            }
        });
    });
    let all = abi::IoasUnmap { size: 24, ioas_id, iova: 0, length: u64::MAX };
    main.call(abi::IOAS_UNMAP, all).unwrap();
    assert_eq!((machine.pinned(), machine.charged(), domain.mapped_bytes()), (0, 0, 0));
    drop(device);
    main.call(abi::DESTROY, abi::Destroy { size: 8, id: hwpt_id }).unwrap();
    main.call(abi::DESTROY, abi::Destroy { size: 8, id: ioas_id }).unwrap();
}
