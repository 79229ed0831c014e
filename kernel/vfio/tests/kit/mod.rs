//! An imagined PCI function with a migration driver, and a program that opens it.
#![allow(dead_code, unused_imports, missing_docs)]

#[path = "../../../iommufd/tests/common/mod.rs"]
pub mod common;

pub use common::fakes::{FakeDomain, FakeUnit, Machine};
pub use common::{ARG, DATA, END, MIB, Program, group, spec, stream};
use device_api::{Bar, BarKind, Cx, Error, Function, Ids, Migratable, MsixTable, Span, States, Unreadable, Width};
use ioas::{Account, PageSource};
use iommu_api::{Clock, Coherency, TableMem, WORDS, Words};
use iommu_types::{Phys, Resource, StreamId};
use iommufd::{AccountMode, Capability, Context};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use uapi::iommufd as iommu_abi;
use uapi::vfio as abi;
use uapi::{Errno, UserMem};
use vfio::{Caller, DataFile, Device, DeviceFile, DeviceParts};
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub const CONFIG: u64 = 7 << 40;

/// What happened, in order.
pub type Log = Arc<Mutex<Vec<String>>>;

pub struct FakeFunction {
    pub config: Mutex<Vec<u8>>,
    pub registers: Mutex<HashMap<(u8, u64), u64>>,
    pub master: AtomicBool,
    pub flr: bool,
    pub reset_fails: AtomicBool,
    pub gone: AtomicBool,
    pub log: Log,
}

impl FakeFunction {
    pub fn new(log: &Log, flr: bool) -> Arc<Self> {
        let mut config = vec![0; 4096];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[0x86, 0x80, 0xc9, 0x10, 3, 4, 0x10, 0]); // ids, command, status with a capability list
        put(0x0e, &[0x80]);
        put(0x34, &[0x40]);
        put(0x3c, &[11, 1]);
        put(0x40, &[0x01, 0x50, 0x23, 0x00, 0x08, 0x00]); // power management
        put(0x50, &[0x05, 0x70, 0x80, 0x01]); // MSI
        put(0x70, &[0x11, 0xa0, 0x09, 0x00]); // MSI-X
        put(0xa0, &[0x10, 0x00, 0x02, 0x00, 0xaa]); // PCI Express
        put(0x100, &0x1401_0001u32.to_le_bytes()); // AER, next 0x140
        put(0x140, &0x1501_0003u32.to_le_bytes()); // serial number, next 0x150
        put(0x144, &[1, 2, 3, 4, 5, 6, 7, 8]);
        put(0x150, &0x1601_000eu32.to_le_bytes()); // ARI, next 0x160
        put(0x160, &0x0001_0010u32.to_le_bytes()); // SR-IOV
        put(0x168, &[0xff; 8]);
        Arc::new(Self {
            config: Mutex::new(config),
            registers: Mutex::default(),
            master: AtomicBool::new(false),
            flr,
            reset_fails: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            log: log.clone(),
        })
    }
    pub fn master(&self) -> bool {
        self.master.load(Ordering::Relaxed)
    }
}

impl Function for FakeFunction {
    fn stream(&self) -> StreamId {
        stream(0)
    }
    fn ids(&self) -> Ids {
        Ids { vendor: 0x8086, device: 0x10c9, subsystem_vendor: 0, subsystem: 0, revision: 1, class: 0x20000 }
    }
    fn config_len(&self) -> u16 {
        4096
    }
    fn config_read(&self, offset: u16, out: &mut [u8]) {
        let config = self.config.lock().unwrap();
        out.copy_from_slice(&config[offset as usize..offset as usize + out.len()]);
    }
    fn config_write(&self, offset: u16, data: &[u8]) {
        self.log.lock().unwrap().push(format!("config {offset:#x} {data:x?}"));
    }
    fn bars(&self) -> [Option<Bar>; 6] {
        let memory = |wide| BarKind::Memory { wide, prefetchable: false };
        let all = Some(Span { offset: 0, length: 0x2_0000 });
        let behind_table = Some(Span { offset: 0x1000, length: 0x3000 });
        [
            Some(Bar { phys: Phys(0xfeb8_0000), size: 0x2_0000, kind: memory(false), mappable: all }),
            None,
            Some(Bar { phys: Phys(0xc000), size: 32, kind: BarKind::Io, mappable: None }),
            Some(Bar { phys: Phys(0x38_0000_0000), size: 0x4000, kind: memory(true), mappable: behind_table }),
            None,
            Some(Bar { phys: Phys(0xfeba_0100), size: 256, kind: memory(false), mappable: None }),
        ]
    }
    fn bar_read(&self, bar: u8, offset: u64, width: Width) -> Result<u64, Error> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(Error::Lost(self.stream()));
        }
        let value = self.registers.lock().unwrap().get(&(bar, offset & !3)).copied().unwrap_or(0) >> (offset % 4 * 8);
        Ok(if width == Width::W64 { value } else { value & ((1 << (width.bytes() * 8)) - 1) })
    }
    fn bar_write(&self, bar: u8, offset: u64, width: Width, value: u64) -> Result<(), Error> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(Error::Lost(self.stream()));
        }
        let line = format!("write {bar} {offset:#x} {} {value:#x}", width.bytes());
        self.log.lock().unwrap().push(line);
        self.registers.lock().unwrap().insert((bar, offset), value);
        Ok(())
    }
    fn can_reset(&self) -> Result<(), &'static str> {
        if self.flr { Ok(()) } else { Err("no FLR") }
    }
    fn reset(&self) -> Result<(), Error> {
        self.log.lock().unwrap().push("function reset".into());
        self.master.store(false, Ordering::Relaxed);
        if self.reset_fails.load(Ordering::Relaxed) {
            return Err(Error::Stuck { stream: self.stream(), register: "vendor id", want: 0, got: 0xffff });
        }
        Ok(())
    }
    fn bus_master(&self, on: bool) {
        self.master.store(on, Ordering::Relaxed);
    }
    fn msix(&self) -> Option<MsixTable> {
        Some(MsixTable { capability: 0x70, vectors: 10, bar: 3, offset: 0, pending_bar: 3, pending_offset: 0x2000 })
    }
}

/// What the next call of the driver does.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub enum Mood {
    #[default]
    Good,
    Stuck,
    Refuses,
}

#[derive(Default)]
pub struct Shared {
    pub mood: Mutex<Mood>,
    pub value: AtomicU64,
    /// Was bus mastering on when the driver's resume ended?
    pub resumed_as_master: AtomicBool,
    /// What the device found in its private page.
    pub page: Mutex<Vec<u8>>,
}

/// Its state is one word, and bus mastering.
pub struct FakeDriver {
    pub log: Log,
    pub shared: Arc<Shared>,
    pub unit: Arc<FakeUnit>,
    pub function: Arc<FakeFunction>,
    pub p2p: bool,
    master: bool,
}

impl FakeDriver {
    fn enter(&self, name: &str) -> Result<(), Error> {
        self.log.lock().unwrap().push(name.into());
        match std::mem::take(&mut *self.shared.mood.lock().unwrap()) {
            Mood::Good => Ok(()),
            Mood::Stuck => Err(Error::Stuck { stream: stream(0), register: "STATUS", want: 0, got: 1 }),
            Mood::Refuses => Err(Error::Invalid("in a bad mood")),
        }
    }
}

impl Migratable for FakeDriver {
    fn name(&self) -> &'static str {
        "fake"
    }
    fn states(&self) -> States {
        States { p2p: self.p2p }
    }
    fn max_state_bytes(&self) -> usize {
        16
    }
    fn stop(&mut self, cx: &Cx<'_>) -> Result<(), Error> {
        self.enter("stop")?;
        self.master = self.function.master();
        cx.function.bus_master(false);
        Ok(())
    }
    fn resume(&mut self, cx: &Cx<'_>) -> Result<(), Error> {
        self.enter("resume")?;
        cx.function.bus_master(self.master);
        self.shared.resumed_as_master.store(self.function.master(), Ordering::Relaxed);
        Ok(())
    }
    fn save(&mut self, cx: &Cx<'_>, sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        self.enter("save")?;
        cx.services.with_private_page(&mut |iova, page| {
            let mut zeros = [0xff; 8];
            page.read(4088, &mut zeros)?;
            assert_eq!(zeros, [0; 8], "the page comes zeroed");
            page.write(3, &[1, 2, 3, 4, 5, 6, 7])?;
            assert_eq!(page.read(4090, &mut zeros), Err(Error::Invalid("past the end of the private page")));
            let domain = self.unit.at(stream(0)).unwrap();
            assert_eq!(domain.mapped_bytes(), 4096, "exactly one page");
            assert!(domain.phys(iova.0).is_some());
            cx.function.bus_master(true);
            assert!(self.function.master(), "the driver may let the device work on its private page");
            let mut back = [0; 10];
            page.read(1, &mut back)?;
            *self.shared.page.lock().unwrap() = back.to_vec();
            Ok(())
        })?;
        assert!(!self.function.master());
        sink(&self.shared.value.load(Ordering::Relaxed).to_le_bytes())?;
        sink(&[u8::from(self.master)])
    }
    fn begin_load(&mut self, cx: &Cx<'_>) -> Result<(), Error> {
        self.enter("begin_load")?;
        cx.function.bus_master(false);
        Ok(())
    }
    fn load(&mut self, _cx: &Cx<'_>, data: &[u8]) -> Result<(), Error> {
        self.enter("load")?;
        let (value, master) = data.split_first_chunk::<8>().ok_or(Error::BadState { section: 0, reason: "cut" })?;
        if master.len() != 1 {
            return Err(Error::BadState { section: 0, reason: "length" });
        }
        self.shared.value.store(u64::from_le_bytes(*value), Ordering::Relaxed);
        self.master = master[0] == 1;
        Ok(())
    }
    fn reset(&mut self, cx: &Cx<'_>) -> Result<(), Error> {
        self.enter("reset")?;
        cx.function.bus_master(false);
        self.shared.value.store(0, Ordering::Relaxed);
        Ok(())
    }
    fn unreadable(&self) -> &'static [Unreadable] {
        &[]
    }
}

/// Pages for the private domain; their frames count as pinned in the machine's books.
pub struct Memory {
    pub machine: Arc<Machine>,
    pub pages: Mutex<HashMap<u64, &'static Words>>,
    pub live: AtomicU64,
}

impl Memory {
    pub fn new(machine: &Arc<Machine>) -> Arc<Self> {
        Arc::new(Self { machine: machine.clone(), pages: Mutex::default(), live: AtomicU64::new(0) })
    }
}

impl Coherency for Memory {
    fn publish(&self, _at: Phys, _bytes: usize) {}
}

impl TableMem for Memory {
    fn alloc_run(&self, pages: usize) -> Result<Phys, iommu_types::Error> {
        assert_eq!(pages, 1);
        if self.machine.step() {
            return Err(iommu_types::Error::Exhausted(Resource::Memory));
        }
        let mut all = self.pages.lock().unwrap();
        let base = 0x70_0000_0000 + all.len() as u64 * 4096;
        let words: Words = [const { AtomicU64::new(0) }; WORDS];
        all.insert(base, Box::leak(Box::new(words)));
        self.live.fetch_add(1, Ordering::Relaxed);
        self.machine.pins.lock().unwrap().insert(base, 1);
        Ok(Phys(base))
    }
    fn release_run(&self, base: Phys, _pages: usize) {
        assert!(!self.machine.reachable.lock().unwrap().contains_key(&base.0), "private page freed before the flush");
        self.machine.pins.lock().unwrap().remove(&base.0).unwrap();
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
    fn words(&self, page: Phys) -> Option<&Words> {
        self.pages.lock().unwrap().get(&page.0).copied()
    }
    fn store64(&self, _at: Phys, _value: u64) {}
    fn store128(&self, _at: Phys, _value: u128) {}
    fn load64(&self, _at: Phys) -> u64 {
        0
    }
    fn set_next(&self, _page: Phys, _next: Option<Phys>) {}
    fn next(&self, _page: Phys) -> Option<Phys> {
        None
    }
}

pub struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn now_ns(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
    fn relax(&self) {
        self.0.fetch_add(1000, Ordering::Relaxed);
    }
}

/// A program with files: 3 is /dev/iommu, 4 something else.
pub struct User {
    pub program: Program,
    pub context: Arc<Context>,
    pub files: Mutex<Vec<Option<Arc<DataFile>>>>,
    pub full: AtomicBool,
}

impl UserMem for User {
    fn copy_in(&self, from: u64, to: &mut [u8]) -> Result<(), Errno> {
        self.program.copy_in(from, to)
    }
    fn copy_out(&self, to: u64, from: &[u8]) -> Result<(), Errno> {
        self.program.copy_out(to, from)
    }
    fn or_bits(&self, at: u64, bits: &[u8]) -> Result<(), Errno> {
        self.program.or_bits(at, bits)
    }
}

impl iommufd::Caller for User {
    fn page_source(&self) -> Arc<dyn PageSource> {
        self.program.source.clone()
    }
    fn account(&self, mode: AccountMode) -> Arc<dyn Account> {
        iommufd::Caller::account(&self.program, mode)
    }
    fn capable(&self, capability: Capability) -> bool {
        iommufd::Caller::capable(&self.program, capability)
    }
}

impl Caller for User {
    fn iommufd(&self, fd: i32) -> Result<Arc<Context>, Errno> {
        match fd {
            3 => Ok(self.context.clone()),
            4 => Err(Errno::EBADFD),
            _ => Err(Errno::EBADF),
        }
    }
    fn install(&self, file: Arc<DataFile>) -> Result<i32, Errno> {
        if self.full.load(Ordering::Relaxed) {
            return Err(Errno::EMFILE);
        }
        let mut files = self.files.lock().unwrap();
        files.push(Some(file));
        Ok(files.len() as i32 + 9)
    }
    fn uninstall(&self, fd: i32) {
        self.files.lock().unwrap()[fd as usize - 10] = None;
    }
}

pub struct Kit {
    pub machine: Arc<Machine>,
    pub unit: Arc<FakeUnit>,
    pub user: User,
    pub function: Arc<FakeFunction>,
    pub shared: Arc<Shared>,
    pub memory: Arc<Memory>,
    pub device: Arc<Device>,
    pub log: Log,
}

impl Kit {
    /// With a migration driver, if asked for.
    pub fn new(migration: bool, p2p: bool, flr: bool) -> Self {
        let machine = Machine::new();
        let unit = FakeUnit::new(&machine, true);
        let log = Log::default();
        let function = FakeFunction::new(&log, flr);
        let shared = Arc::<Shared>::default();
        let memory = Memory::new(&machine);
        let driver = migration.then(|| -> Box<dyn Migratable> {
            let (log, shared, unit, function) = (log.clone(), shared.clone(), unit.clone(), function.clone());
            Box::new(FakeDriver { log, shared, unit, function, p2p, master: false })
        });
        let group = group(&unit, &[stream(0)]);
        let device = Device::new(DeviceParts {
            name: "vfio0".into(),
            function: function.clone(),
            spec: spec(&unit, &group, stream(0)),
            migration: driver,
            memory: memory.clone(),
            clock: Arc::new(Ticks(AtomicU64::new(0))),
        });
        let program = Program::new(&machine);
        let user = User { program, context: Context::new(), files: Mutex::default(), full: AtomicBool::new(false) };
        Self { machine, unit, user, function, shared, memory, device, log }
    }
    pub fn call<T: IntoBytes + FromBytes + Immutable>(
        &self,
        file: &DeviceFile,
        command: u32,
        body: &mut T,
    ) -> Result<i64, Errno> {
        self.user.program.put(ARG, body.as_bytes());
        let result = file.ioctl(command, ARG, &self.user);
        body.as_mut_bytes().copy_from_slice(&self.user.program.get(ARG, size_of::<T>()));
        result
    }
    pub fn bind(&self, file: &DeviceFile) -> Result<u32, Errno> {
        let mut body = abi::BindIommufd { argsz: 24, iommufd: 3, ..Default::default() };
        self.call(file, abi::DEVICE_BIND_IOMMUFD, &mut body).map(|_| body.out_devid)
    }
    pub fn bound(&self) -> Arc<DeviceFile> {
        let file = self.device.open();
        self.bind(&file).unwrap();
        file
    }
    pub fn ioas(&self) -> u32 {
        let mut body = iommu_abi::IoasAlloc { size: 12, ..Default::default() };
        self.user.program.call(&self.user.context, iommu_abi::IOAS_ALLOC, &mut body).unwrap();
        body.out_ioas_id
    }
    pub fn attach(&self, file: &DeviceFile, pt_id: u32) -> Result<u32, Errno> {
        let mut body = abi::AttachIommufdPt { argsz: 16, pt_id, ..Default::default() };
        self.call(file, abi::DEVICE_ATTACH_IOMMUFD_PT, &mut body).map(|_| body.pt_id)
    }
    pub fn detach(&self, file: &DeviceFile) -> Result<i64, Errno> {
        self.call(file, abi::DEVICE_DETACH_IOMMUFD_PT, &mut abi::DetachIommufdPt { argsz: 12, ..Default::default() })
    }
    pub fn set_master(&self, file: &DeviceFile, on: bool) {
        let value: u16 = if on { 7 } else { 3 };
        assert_eq!(file.write_at(CONFIG + 4, &value.to_le_bytes()), Ok(2));
    }
    pub fn command(&self, file: &DeviceFile) -> u16 {
        let mut raw = [0; 2];
        assert_eq!(file.read_at(CONFIG + 4, &mut raw), Ok(2));
        u16::from_le_bytes(raw)
    }
    /// SET of a migration state: the descriptor, or -1.
    pub fn go(&self, file: &DeviceFile, device_state: u32) -> Result<i32, Errno> {
        let flags = abi::FEATURE_SET | abi::FEATURE_MIG_DEVICE_STATE;
        self.user.program.put(ARG, abi::DeviceFeature { argsz: 16, flags }.as_bytes());
        self.user.program.put(ARG + 8, abi::MigDeviceState { device_state, data_fd: 77 }.as_bytes());
        let result = file.ioctl(abi::DEVICE_FEATURE, ARG, &self.user);
        let raw = self.user.program.get(ARG + 8, 8);
        let fd = i32::from_le_bytes(raw[4..].try_into().unwrap());
        if result == Err(Errno::EMFILE) || result == Err(Errno::EFAULT) {
            return result.map(|_| fd);
        }
        assert_eq!(raw[..4], device_state.to_le_bytes());
        assert!(result.is_ok() || fd == -1, "a failure leaves no descriptor");
        result.map(|_| fd)
    }
    pub fn state(&self, file: &DeviceFile) -> u32 {
        let flags = abi::FEATURE_GET | abi::FEATURE_MIG_DEVICE_STATE;
        self.user.program.put(ARG, abi::DeviceFeature { argsz: 16, flags }.as_bytes());
        file.ioctl(abi::DEVICE_FEATURE, ARG, &self.user).unwrap();
        let raw = self.user.program.get(ARG + 8, 8);
        assert_eq!(raw[4..], [0xff; 4]);
        u32::from_le_bytes(raw[..4].try_into().unwrap())
    }
    pub fn data(&self, fd: i32) -> Arc<DataFile> {
        self.user.files.lock().unwrap()[fd as usize - 10].clone().unwrap()
    }
    pub fn reset(&self, file: &DeviceFile) -> Result<i64, Errno> {
        file.ioctl(abi::DEVICE_RESET, 0, &self.user)
    }
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}
