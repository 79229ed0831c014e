//! An imagined program on an imagined machine.
#![allow(dead_code, missing_docs)]

#[path = "../../../ioas/tests/fakes/mod.rs"]
pub mod fakes;

use fakes::{FakeSource, FakeUnit, Machine};
use ioas::{Account, PageSource};
use iommu_types::{IovaRange, StreamId};
use iommufd::{
    AccountMode, Caller, Capability, Context, DeviceHandle, DeviceSpec, Group, GroupSpec, Requester, Reserved,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use uapi::iommufd as abi;
use uapi::{Errno, UserMem};
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub const MIB: u64 = 1 << 20;
/// Where a structure goes.
pub const ARG: u64 = 0x1_0000;
/// Where arrays and bitmaps go.
pub const DATA: u64 = 0x2_0000;
/// End of the program's readable memory.
pub const END: u64 = 0x40_0000;

pub struct Program {
    pub machine: Arc<Machine>,
    pub memory: Mutex<Vec<u8>>,
    pub source: Arc<FakeSource>,
    pub sys_resource: AtomicBool,
    /// Writes at and above this address fault.
    pub read_only_from: Mutex<u64>,
    pub modes: Mutex<Vec<AccountMode>>,
    pub bytes_written: Mutex<u64>,
}

impl Program {
    pub fn new(machine: &Arc<Machine>) -> Self {
        Self {
            machine: machine.clone(),
            memory: Mutex::new(vec![0; END as usize]),
            source: FakeSource::new(machine, 1 << 32, 3),
            sys_resource: AtomicBool::new(true),
            read_only_from: Mutex::new(END),
            modes: Mutex::default(),
            bytes_written: Mutex::default(),
        }
    }
    fn with(&self, at: u64, length: usize, write: bool, f: impl FnOnce(&mut [u8])) -> Result<(), Errno> {
        let end = at.checked_add(length as u64).ok_or(Errno::EFAULT)?;
        let mut memory = self.memory.lock().unwrap();
        if at == 0 || end > END || write && end > *self.read_only_from.lock().unwrap() && length > 0 {
            return Err(Errno::EFAULT);
        }
        if self.machine.step() {
            return Err(Errno::EFAULT);
        }
        f(&mut memory[at as usize..end as usize]);
        Ok(())
    }
    pub fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.lock().unwrap()[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }
    pub fn get(&self, at: u64, length: usize) -> Vec<u8> {
        self.memory.lock().unwrap()[at as usize..at as usize + length].to_vec()
    }
    /// Runs one command with `body` as its structure.
    pub fn call<T: IntoBytes + FromBytes + Immutable>(
        &self,
        context: &Context,
        command: u32,
        body: &mut T,
    ) -> Result<i64, Errno> {
        self.put(ARG, body.as_bytes());
        let result = context.ioctl(command, ARG, self);
        body.as_mut_bytes().copy_from_slice(&self.get(ARG, size_of::<T>()));
        result
    }
}

impl UserMem for Program {
    fn copy_in(&self, from: u64, to: &mut [u8]) -> Result<(), Errno> {
        self.with(from, to.len(), false, |bytes| to.copy_from_slice(bytes))
    }
    fn copy_out(&self, to: u64, from: &[u8]) -> Result<(), Errno> {
        *self.bytes_written.lock().unwrap() += from.len() as u64;
        self.with(to, from.len(), true, |bytes| bytes.copy_from_slice(from))
    }
    fn or_bits(&self, at: u64, bits: &[u8]) -> Result<(), Errno> {
        self.with(at, bits.len(), true, |bytes| bytes.iter_mut().zip(bits).for_each(|(byte, bit)| *byte |= bit))
    }
}

impl Caller for Program {
    fn page_source(&self) -> Arc<dyn PageSource> {
        self.source.clone()
    }
    fn account(&self, mode: AccountMode) -> Arc<dyn Account> {
        self.modes.lock().unwrap().push(mode);
        self.machine.account()
    }
    fn capable(&self, capability: Capability) -> bool {
        capability == Capability::SysResource && self.sys_resource.load(Ordering::Relaxed)
    }
}

pub struct World {
    pub machine: Arc<Machine>,
    pub program: Program,
    pub context: Arc<Context>,
    pub unit: Arc<FakeUnit>,
}

pub fn stream(n: u8) -> StreamId {
    StreamId::pci(0, 1, n, 0)
}

/// A group of the given streams behind one unit.
pub fn group(unit: &Arc<FakeUnit>, streams: &[StreamId]) -> Arc<Group> {
    let requesters = streams.iter().map(|stream| Requester { unit: unit.clone(), stream: *stream }).collect();
    Group::new(GroupSpec { id: streams[0].id, requesters, why: "alone".into() })
}

pub fn spec(unit: &Arc<FakeUnit>, group: &Arc<Group>, stream: StreamId) -> DeviceSpec {
    DeviceSpec {
        name: stream.to_string(),
        unit: unit.clone(),
        stream,
        group: group.clone(),
        reserved: vec![Reserved::x86_msi()],
    }
}

impl World {
    pub fn new(tracking: bool) -> Self {
        let machine = Machine::new();
        let unit = FakeUnit::new(&machine, tracking);
        Self { program: Program::new(&machine), context: Context::new(), unit, machine }
    }
    pub fn bind(&self, n: u8) -> DeviceHandle {
        let group = group(&self.unit, &[stream(n)]);
        self.context.bind(spec(&self.unit, &group, stream(n))).unwrap()
    }
    pub fn call<T: IntoBytes + FromBytes + Immutable>(&self, command: u32, body: &mut T) -> Result<i64, Errno> {
        self.program.call(&self.context, command, body)
    }
    pub fn ioas(&self) -> u32 {
        let mut body = abi::IoasAlloc { size: 12, ..Default::default() };
        self.call(abi::IOAS_ALLOC, &mut body).unwrap();
        body.out_ioas_id
    }
    pub fn destroy(&self, id: u32) -> Result<i64, Errno> {
        self.call(abi::DESTROY, &mut abi::Destroy { size: 8, id })
    }
    pub fn map(&self, ioas_id: u32, user_va: u64, length: u64, iova: u64) -> Result<u64, Errno> {
        let flags = abi::MAP_FIXED_IOVA | abi::MAP_READABLE | abi::MAP_WRITEABLE;
        let mut body = abi::IoasMap { size: 40, flags, ioas_id, user_va, length, iova, ..Default::default() };
        self.call(abi::IOAS_MAP, &mut body).map(|_| body.iova)
    }
    pub fn unmap(&self, ioas_id: u32, iova: u64, length: u64) -> Result<u64, Errno> {
        let mut body = abi::IoasUnmap { size: 24, ioas_id, iova, length };
        self.call(abi::IOAS_UNMAP, &mut body).map(|_| body.length)
    }
    pub fn hwpt(&self, dev_id: u32, pt_id: u32, flags: u32) -> Result<u32, Errno> {
        let mut body = abi::HwptAlloc { size: 48, flags, dev_id, pt_id, ..Default::default() };
        self.call(abi::HWPT_ALLOC, &mut body).map(|_| body.out_hwpt_id)
    }
    pub fn tracking(&self, hwpt_id: u32, on: bool) -> Result<i64, Errno> {
        let flags = u32::from(on);
        self.call(
            abi::HWPT_SET_DIRTY_TRACKING,
            &mut abi::HwptSetDirtyTracking { size: 16, flags, hwpt_id, reserved: 0 },
        )
    }
    pub fn no_huge(&self, ioas: u32) {
        let mut body = abi::OptionCmd { size: 24, option_id: 1, object_id: ioas, ..Default::default() };
        self.call(abi::OPTION, &mut body).unwrap();
    }
    pub fn ranges(&self, ioas: u32) -> Vec<IovaRange> {
        let mut body =
            abi::IoasIovaRanges { size: 32, ioas_id: ioas, num_iovas: 32, allowed_iovas: DATA, ..Default::default() };
        self.call(abi::IOAS_IOVA_RANGES, &mut body).unwrap();
        let raw = self.program.get(DATA, body.num_iovas as usize * 16);
        raw.chunks(16)
            .map(|pair| {
                let word = |at: usize| u64::from_le_bytes(pair[at..at + 8].try_into().unwrap());
                IovaRange::new(word(0), word(8)).unwrap()
            })
            .collect()
    }
}

/// xorshift64*: the same sequence everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 32) % end
    }
}
