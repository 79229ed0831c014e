//! A machine for tests: frames in the heap, page tables that are recorded, and a CPU that resolves accesses by what was
//! recorded, with a translation cache that keeps everything until it is told otherwise.
//!
//! It checks while it runs: a frame that is freed although a table or a cached translation still leads to it panics.

use crate::fault::Fault;
use crate::{AddressSpace, Frames, NewTables, NoMemory, PAGE, PageTables, Pte};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu_types::Phys;
use spin::Mutex;

struct Frame {
    count: u32,
    pins: u32,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Recorded {
    entries: BTreeMap<u64, Pte>,
    cached: BTreeMap<u64, Pte>,
    /// Leaf tables that exist, by address / 2 MiB: making one can fail.
    leaves: BTreeSet<u64>,
    flushes: u64,
}

type SharedTables = Arc<Mutex<Recorded>>;

/// The machine.
pub struct TestMachine {
    frames: Mutex<BTreeMap<u64, Frame>>,
    free: Mutex<Vec<u64>>,
    next: Mutex<u64>,
    limit: u64,
    tables: Mutex<BTreeMap<u64, SharedTables>>,
    /// Allocations (frames and tables) until one fails.
    fuse: Mutex<Option<u64>>,
}

/// Where frames start.
const BASE: u64 = 0x10_0000;

impl TestMachine {
    /// A machine with `limit` frames.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            frames: Mutex::new(BTreeMap::new()),
            free: Mutex::new(Vec::new()),
            next: Mutex::new(BASE),
            limit,
            tables: Mutex::new(BTreeMap::new()),
            fuse: Mutex::new(None),
        })
    }
    /// A new address space on it.
    pub fn space(self: &Arc<Self>) -> Arc<AddressSpace> {
        AddressSpace::new(self.clone(), Arc::new(Tables(self.clone()))).expect("memory for a test")
    }
    /// Page tables of it.
    pub fn tables(self: &Arc<Self>) -> Arc<dyn NewTables> {
        Arc::new(Tables(self.clone()))
    }
    /// Lets the `n`th allocation from now on fail (0: the next), and all after it; `None`: none.
    pub fn fail_after(&self, n: Option<u64>) {
        *self.fuse.lock() = n;
    }
    fn burn(&self) -> Result<(), NoMemory> {
        match &mut *self.fuse.lock() {
            None => Ok(()),
            Some(0) => Err(NoMemory),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
    /// Frames in use.
    pub fn used(&self) -> u64 {
        self.frames.lock().len() as u64
    }
    /// Flushes of a space so far.
    pub fn flushes(&self, space: &AddressSpace) -> u64 {
        self.recorded(space).lock().flushes
    }
    fn recorded(&self, space: &AddressSpace) -> SharedTables {
        self.tables.lock().get(&space.root().0).expect("a space of this machine").clone()
    }
    /// The table entry of a page, as the CPU would find it.
    pub fn entry(&self, space: &AddressSpace, va: u64) -> Option<Pte> {
        self.recorded(space).lock().entries.get(&(va & !(PAGE - 1))).copied()
    }
    /// One access of the CPU, inside a page; faults go to the space, as the kernel does.
    fn access(&self, space: &AddressSpace, va: u64, write: bool, exec: bool) -> Result<Phys, Fault> {
        let page = va & !(PAGE - 1);
        for _ in 0..4 {
            let recorded = self.recorded(space);
            let mut tables = recorded.lock();
            let pte = tables.cached.get(&page).or_else(|| tables.entries.get(&page)).copied();
            if let Some(pte) = pte.filter(|pte| (pte.write || !write) && (pte.exec || !exec)) {
                tables.cached.insert(page, pte);
                return Ok(Phys(pte.phys.0 + va % PAGE));
            }
            // A fault discards the translation that caused it.
            tables.cached.remove(&page);
            drop(tables);
            space.handle_fault(va, write, exec)?;
        }
        panic!("{va:#x} faults for ever");
    }
    /// Reads as the program does.
    ///
    /// # Errors
    /// The fault that would kill it.
    pub fn load(&self, space: &AddressSpace, va: u64, to: &mut [u8]) -> Result<(), Fault> {
        for (at, byte) in to.iter_mut().enumerate() {
            let phys = self.access(space, va + at as u64, false, false)?;
            self.read(phys, core::slice::from_mut(byte));
        }
        Ok(())
    }
    /// Writes as the program does.
    ///
    /// # Errors
    /// The fault that would kill it.
    pub fn store(&self, space: &AddressSpace, va: u64, from: &[u8]) -> Result<(), Fault> {
        for (at, byte) in from.iter().enumerate() {
            let phys = self.access(space, va + at as u64, true, false)?;
            self.write(phys, core::slice::from_ref(byte));
        }
        Ok(())
    }
    /// Executes as the program does.
    ///
    /// # Errors
    /// The fault that would kill it.
    pub fn fetch(&self, space: &AddressSpace, va: u64) -> Result<(), Fault> {
        self.access(space, va, false, true).map(drop)
    }
    /// Reads one byte as the program does.
    ///
    /// # Errors
    /// The fault that would kill it.
    pub fn byte(&self, space: &AddressSpace, va: u64) -> Result<u8, Fault> {
        let mut byte = [0];
        self.load(space, va, &mut byte)?;
        Ok(byte[0])
    }
    fn give_back(&self, frame: u64) {
        for tables in self.tables.lock().values() {
            let tables = tables.lock();
            let leads = |entries: &BTreeMap<u64, Pte>| entries.values().any(|pte| pte.phys.0 == frame);
            assert!(!leads(&tables.entries), "a frame is freed while a table leads to it");
            assert!(!leads(&tables.cached), "a frame is freed while a translation is cached");
        }
        self.free.lock().push(frame);
    }
}

impl Frames for TestMachine {
    fn alloc(&self) -> Result<Phys, NoMemory> {
        self.burn()?;
        let mut frames = self.frames.lock();
        if frames.len() as u64 >= self.limit {
            return Err(NoMemory);
        }
        let at = self.free.lock().pop().unwrap_or_else(|| {
            let mut next = self.next.lock();
            *next += PAGE;
            *next
        });
        frames.insert(at, Frame { count: 1, pins: 0, bytes: alloc::vec![0; PAGE as usize] });
        Ok(Phys(at))
    }
    fn retain(&self, frame: Phys) {
        self.frames.lock().get_mut(&frame.0).expect("a live frame").count += 1;
    }
    fn release(&self, frame: Phys) {
        let mut frames = self.frames.lock();
        let slot = frames.get_mut(&frame.0).expect("a live frame");
        slot.count -= 1;
        if slot.count == 0 {
            assert_eq!(slot.pins, 0, "a pinned frame is freed");
            frames.remove(&frame.0);
            drop(frames);
            self.give_back(frame.0);
        }
    }
    fn count(&self, frame: Phys) -> u32 {
        self.frames.lock().get(&frame.0).map_or(0, |frame| frame.count)
    }
    fn pin(&self, frame: Phys) {
        let mut frames = self.frames.lock();
        let slot = frames.get_mut(&frame.0).expect("a live frame");
        slot.count += 1;
        slot.pins += 1;
    }
    fn unpin(&self, frame: Phys) {
        self.frames.lock().get_mut(&frame.0).expect("a live frame").pins -= 1;
        self.release(frame);
    }
    fn pins(&self, frame: Phys) -> u32 {
        self.frames.lock().get(&frame.0).map_or(0, |frame| frame.pins)
    }
    fn read(&self, at: Phys, to: &mut [u8]) {
        let frames = self.frames.lock();
        let frame = frames.get(&(at.0 & !(PAGE - 1))).expect("a live frame");
        let at = (at.0 % PAGE) as usize;
        to.copy_from_slice(&frame.bytes[at..at + to.len()]);
    }
    fn write(&self, at: Phys, from: &[u8]) {
        let mut frames = self.frames.lock();
        let frame = frames.get_mut(&(at.0 & !(PAGE - 1))).expect("a live frame");
        let at = (at.0 % PAGE) as usize;
        frame.bytes[at..at + from.len()].copy_from_slice(from);
    }
    fn or(&self, at: Phys, bits: &[u8]) {
        let mut frames = self.frames.lock();
        let frame = frames.get_mut(&(at.0 & !(PAGE - 1))).expect("a live frame");
        let at = (at.0 % PAGE) as usize;
        frame.bytes[at..at + bits.len()].iter_mut().zip(bits).for_each(|(byte, bits)| *byte |= bits);
    }
    fn usage(&self) -> (u64, u64) {
        let used = self.used();
        (self.limit - used, self.limit)
    }
}

struct Tables(Arc<TestMachine>);

impl NewTables for Tables {
    fn new_tables(&self) -> Result<Box<dyn PageTables>, NoMemory> {
        self.0.burn()?;
        let root = {
            let mut next = self.0.next.lock();
            *next += PAGE;
            *next
        };
        let recorded = SharedTables::default();
        self.0.tables.lock().insert(root, recorded.clone());
        Ok(Box::new(Table { machine: self.0.clone(), root, recorded }))
    }
}

struct Table {
    machine: Arc<TestMachine>,
    root: u64,
    recorded: SharedTables,
}

impl PageTables for Table {
    fn set(&mut self, va: u64, pte: Pte) -> Result<(), NoMemory> {
        assert!(va.is_multiple_of(PAGE) && va < crate::USER_END);
        let mut recorded = self.recorded.lock();
        if !recorded.leaves.contains(&(va >> 21)) {
            self.machine.burn()?;
            recorded.leaves.insert(va >> 21);
        }
        recorded.entries.insert(va, pte);
        Ok(())
    }
    fn clear(&mut self, va: u64) {
        self.recorded.lock().entries.remove(&va);
    }
    fn flush(&mut self) {
        let mut recorded = self.recorded.lock();
        recorded.cached.clear();
        recorded.flushes += 1;
    }
    fn root(&self) -> Phys {
        Phys(self.root)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.machine.tables.lock().remove(&self.root);
    }
}
