//! The object model over the driver over the model: a program's ioctls, and devices that find exactly what it mapped.

use conformance::{Setup, World, dev, setups};
use ioas::{Account, PageSource};
use iommu_types::{Phys, PhysRun, StreamId};
use iommufd::{
    AccountMode, Caller, Capability, Context, DeviceHandle, DeviceSpec, Group, GroupSpec, Requester, Reserved,
};
use soft_iommu::vtd::Policy;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use uapi::iommufd as abi;
use uapi::{Errno, UserMem};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const PAGE: u64 = 4096;
const ARG: u64 = 0x100;
const BITS: u64 = 0x1000;

/// Frames of the arena as a program's memory from 0 on; neighbours in the program are not always neighbours there.
struct Pages {
    frames: Vec<u64>,
    pins: Mutex<Vec<u32>>,
}

impl PageSource for Pages {
    fn pin(&self, address: u64, length: u64, _write: bool, runs: &mut Vec<PhysRun>) -> Result<(), Errno> {
        let (first, count) = ((address / PAGE) as usize, (length / PAGE) as usize);
        let frames = self.frames.get(first..first + count).ok_or(Errno::EFAULT)?;
        let mut pins = self.pins.lock().unwrap();
        for (at, frame) in frames.iter().enumerate() {
            pins[first + at] += 1;
            match runs.last_mut() {
                Some(last) if last.base.0 + last.length == *frame => last.length += PAGE,
                _ => runs.push(PhysRun { base: Phys(*frame), length: PAGE }),
            }
        }
        Ok(())
    }
    fn unpin(&self, runs: &[PhysRun]) {
        let mut pins = self.pins.lock().unwrap();
        for run in runs {
            for frame in (run.base.0..run.base.0 + run.length).step_by(PAGE as usize) {
                let at = self.frames.iter().position(|f| *f == frame).expect("a frame of the program");
                pins[at] = pins[at].checked_sub(1).expect("unpinned what was not pinned");
            }
        }
    }
}

struct Free;
impl Account for Free {
    fn charge(&self, _bytes: u64) -> Result<(), Errno> {
        Ok(())
    }
    fn uncharge(&self, _bytes: u64) {}
}

struct Program {
    memory: Mutex<Vec<u8>>,
    pages: Arc<Pages>,
}

impl Program {
    fn with(&self, at: u64, length: usize, f: impl FnOnce(&mut [u8])) -> Result<(), Errno> {
        let mut memory = self.memory.lock().unwrap();
        f(memory.get_mut(at as usize..at as usize + length).ok_or(Errno::EFAULT)?);
        Ok(())
    }
}

impl UserMem for Program {
    fn copy_in(&self, from: u64, to: &mut [u8]) -> Result<(), Errno> {
        self.with(from, to.len(), |bytes| to.copy_from_slice(bytes))
    }
    fn copy_out(&self, to: u64, from: &[u8]) -> Result<(), Errno> {
        self.with(to, from.len(), |bytes| bytes.copy_from_slice(from))
    }
    fn or_bits(&self, at: u64, bits: &[u8]) -> Result<(), Errno> {
        self.with(at, bits.len(), |bytes| bytes.iter_mut().zip(bits).for_each(|(byte, bit)| *byte |= bit))
    }
}

impl Caller for Program {
    fn page_source(&self) -> Arc<dyn PageSource> {
        self.pages.clone()
    }
    fn account(&self, _mode: AccountMode) -> Arc<dyn Account> {
        Arc::new(Free)
    }
    fn capable(&self, _capability: Capability) -> bool {
        true
    }
}

struct Host {
    world: World,
    program: Program,
    context: Arc<Context>,
}

impl Host {
    fn new(setup: &Setup) -> Self {
        let mut world = World::new(setup).unwrap_or_else(|e| panic!("{e}"));
        // Pairs of neighbours, pairs in descending order.
        let mut frames: Vec<u64> = Vec::new();
        for _ in 0..128 {
            let pair = world.frames(2).unwrap();
            frames.splice(0..0, [pair, pair + PAGE]);
        }
        let pages = Arc::new(Pages { pins: Mutex::new(vec![0; frames.len()]), frames });
        Self { world, program: Program { memory: Mutex::new(vec![0; 0x2000]), pages }, context: Context::new() }
    }
    fn call<T: IntoBytes + FromBytes + Immutable>(&self, command: u32, mut body: T) -> Result<T, Errno> {
        self.program.copy_out(ARG, body.as_bytes())?;
        self.context.ioctl(command, ARG, &self.program)?;
        self.program.copy_in(ARG, body.as_mut_bytes())?;
        Ok(body)
    }
    fn ioas(&self) -> u32 {
        let id = self.call(abi::IOAS_ALLOC, abi::IoasAlloc { size: 12, ..Default::default() }).unwrap().out_ioas_id;
        let small = abi::OptionCmd { size: 24, option_id: 1, object_id: id, ..Default::default() };
        self.call(abi::OPTION, small).unwrap();
        id
    }
    fn bind(&self, n: u8) -> DeviceHandle {
        let (stream, unit) = (dev(n), self.world.unit_of(dev(n)));
        let requesters = vec![Requester { unit: unit.clone(), stream }];
        let group = Group::new(GroupSpec { id: n.into(), requesters, why: "alone".into() });
        let reserved = vec![Reserved::x86_msi()];
        self.context.bind(DeviceSpec { name: stream.to_string(), unit, stream, group, reserved }).unwrap()
    }
    fn map(&self, ioas_id: u32, page: u64, pages: u64, iova: u64) -> Result<u64, Errno> {
        let (user_va, length) = (page * PAGE, pages * PAGE);
        let body = abi::IoasMap { size: 40, flags: 7, ioas_id, user_va, length, iova, ..Default::default() };
        self.call(abi::IOAS_MAP, body).map(|body| body.iova)
    }
    fn unmap(&self, ioas_id: u32, iova: u64, length: u64) -> Result<u64, Errno> {
        self.call(abi::IOAS_UNMAP, abi::IoasUnmap { size: 24, ioas_id, iova, length }).map(|body| body.length)
    }
    /// A device writes; where it landed, or `None` if it was refused.
    fn write(&self, stream: StreamId, iova: u64) -> Option<u64> {
        let model = self.world.model_of(stream);
        let done = model.dma_write(stream, None, iova, &[0x5a; 8]).is_ok();
        let landed = model.take_writes().last().map(|write| write.pa);
        assert_eq!(done, landed.is_some());
        landed
    }
    fn frame(&self, page: u64) -> Option<u64> {
        Some(self.program.pages.frames[page as usize])
    }
    /// Pages that a report over `pages` pages from `iova` names.
    fn report(&self, hwpt_id: u32, iova: u64, pages: u64) -> BTreeSet<u64> {
        self.program.copy_out(BITS, &[0; 64]).unwrap();
        let (length, page_size, data) = (pages * PAGE, PAGE, BITS);
        let body = abi::HwptGetDirtyBitmap { size: 48, hwpt_id, iova, length, page_size, data, ..Default::default() };
        self.call(abi::HWPT_GET_DIRTY_BITMAP, body).unwrap();
        let mut bits = [0; 64];
        self.program.copy_in(BITS, &mut bits).unwrap();
        (0..512).filter(|n| bits[(n / 8) as usize] & 1 << (n % 8) != 0).collect()
    }
    fn pinned(&self) -> usize {
        self.program.pages.pins.lock().unwrap().iter().filter(|pins| **pins > 0).count()
    }
    fn settle(&self) {
        if let Err(story) = self.world.rules() {
            panic!("{story}");
        }
    }
}

fn machines() -> Vec<Setup> {
    let keep =
        |s: Setup| [Policy::Exact, Policy::KeepAll, Policy::Adversarial(7)].map(|policy| s.clone().policy(policy));
    setups().into_iter().flat_map(keep).collect()
}

#[test]
fn devices_reach_what_the_program_mapped_and_nothing_else() {
    for setup in machines() {
        let host = Host::new(&setup);
        let name = setup.name;
        let (one, two) = (host.ioas(), host.ioas());
        let (a, b) = (host.bind(1), host.bind(2));
        let iova = 0x40_0000;
        assert_eq!(host.write(dev(1), iova), None, "{name}: before anything");
        host.map(one, 3, 64, iova).unwrap();
        a.attach(one).unwrap();
        b.attach(two).unwrap();
        for page in 0..64 {
            assert_eq!(host.write(dev(1), iova + page * PAGE), host.frame(3 + page), "{name}: page {page}");
        }
        assert_eq!(host.write(dev(1), iova + 64 * PAGE), None);
        assert_eq!(host.write(dev(2), iova), None, "{name}: another space");
        // The same memory elsewhere; the original goes, the copy stays.
        let copy = abi::IoasCopy {
            size: 40,
            flags: 7,
            dst_ioas_id: two,
            src_ioas_id: one,
            length: 32 * PAGE,
            dst_iova: 0x10_0000,
            src_iova: iova + 8 * PAGE,
        };
        host.call(abi::IOAS_COPY, copy).unwrap();
        assert_eq!(host.unmap(one, iova, 64 * PAGE), Ok(64 * PAGE));
        for page in 0..64 {
            assert_eq!(host.write(dev(1), iova + page * PAGE), None, "{name}: stale translation of page {page}");
        }
        for page in 0..32 {
            assert_eq!(host.write(dev(2), 0x10_0000 + page * PAGE), host.frame(11 + page), "{name}");
        }
        // Replace: what the old space maps is gone with it.
        host.map(one, 100, 4, 0x10_0000).unwrap();
        b.attach(one).unwrap();
        assert_eq!(host.write(dev(2), 0x10_0000), host.frame(100), "{name}: after the move");
        assert_eq!(host.write(dev(2), 0x10_4000), None);
        b.detach().unwrap();
        assert_eq!(host.write(dev(2), 0x10_0000), None, "{name}: after detach");
        assert_eq!(host.map(one, 0, 1, 0xfee0_0000), Err(Errno::EINVAL));
        drop(a);
        drop(b);
        assert_eq!(host.write(dev(1), 0x10_0000), None, "{name}: after close");
        assert_eq!(host.pinned(), 0, "{name}");
        host.settle();
    }
}

#[test]
fn what_devices_write_is_in_the_next_report() {
    for setup in machines() {
        let host = Host::new(&setup);
        let name = setup.name;
        let ioas = host.ioas();
        let device = host.bind(1);
        let body = abi::HwptAlloc { size: 48, flags: 2, dev_id: device.id(), pt_id: ioas, ..Default::default() };
        let made = host.call(abi::HWPT_ALLOC, body);
        let info = abi::GetHwInfo { size: 40, dev_id: device.id(), ..Default::default() };
        let tracks = host.call(abi::GET_HW_INFO, info).unwrap().out_capabilities & 1 != 0;
        assert_eq!(tracks, setup.tracks, "{name}");
        if !tracks {
            assert_eq!(made.err(), Some(Errno::EOPNOTSUPP), "{name}: no dirty bits, and the program is told");
            continue;
        }
        let hwpt_id = made.unwrap().out_hwpt_id;
        let iova = 0x20_0000;
        host.map(ioas, 0, 128, iova).unwrap();
        device.attach(hwpt_id).unwrap();
        host.write(dev(1), iova); // before the start: forgotten
        let on = abi::HwptSetDirtyTracking { size: 16, flags: 1, hwpt_id, reserved: 0 };
        host.call(abi::HWPT_SET_DIRTY_TRACKING, on).unwrap();
        assert_eq!(host.report(hwpt_id, iova, 128), BTreeSet::new(), "{name}");
        for round in 0..5u64 {
            let written: BTreeSet<u64> = [0, 127, 7 * round, 64].into();
            for page in &written {
                assert!(host.write(dev(1), iova + page * PAGE).is_some());
                assert!(host.write(dev(1), iova + page * PAGE + 8).is_some());
            }
            assert_eq!(host.report(hwpt_id, iova, 128), written, "{name}, round {round}");
        }
        // A part of the range leaves the rest for later.
        host.write(dev(1), iova + 2 * PAGE);
        host.write(dev(1), iova + 90 * PAGE);
        assert_eq!(host.report(hwpt_id, iova + 64 * PAGE, 64), BTreeSet::from([26]), "{name}");
        assert_eq!(host.report(hwpt_id, iova, 128), BTreeSet::from([2]), "{name}");
        // A mapping that comes while tracking is on is tracked.
        host.map(ioas, 200, 4, iova + 128 * PAGE).unwrap();
        host.write(dev(1), iova + 130 * PAGE);
        assert_eq!(host.report(hwpt_id, iova, 132), BTreeSet::from([130]), "{name}");
        // A program that cannot take the report loses nothing.
        host.write(dev(1), iova + 5 * PAGE);
        let (length, data) = (128 * PAGE, 0x1_0000);
        let lost =
            abi::HwptGetDirtyBitmap { size: 48, hwpt_id, iova, length, page_size: PAGE, data, ..Default::default() };
        host.call(abi::HWPT_GET_DIRTY_BITMAP, lost).unwrap();
        assert_eq!(host.report(hwpt_id, iova, 128), BTreeSet::from([5]), "{name}");
        drop(device);
        host.settle();
    }
}

#[test]
fn a_file_that_is_closed_leaves_no_table_behind() {
    for setup in machines() {
        let mut host = Host::new(&setup);
        let arena = host.world.machine.arena.clone();
        // Tables of the unit itself stay once they were made: the second round must end where the first did.
        let mut ends = Vec::new();
        for _ in 0..2 {
            let ioas = host.ioas();
            let device = host.bind(1);
            host.map(ioas, 0, 128, 0x7000_0000).unwrap();
            device.attach(ioas).unwrap();
            drop(device);
            host.context = Context::new();
            assert_eq!(host.pinned(), 0, "{}", setup.name);
            ends.push(arena.live_tables());
        }
        assert_eq!(ends[0], ends[1], "{}", setup.name);
        host.settle();
    }
}
