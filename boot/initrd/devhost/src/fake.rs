//! A machine made of memory, for tests: the register behaviour of the two devices as far as the drivers use it, dirty
//! tracking apart for devices and CPUs, and migration states that are enforced.

use crate::{
    bitmap::Bitmap,
    event::Events,
    igb::reg,
    machine::{EDU, IGB, Machine, State},
    memory::{Bar, Region},
};
use migrate_wire::PAGE;
use serde_json::Value;
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Instant,
};

/// Zeroed memory of so many pages.
pub fn region(pages: u32) -> Region {
    Region::new(Vec::leak((0..pages as usize * PAGE / 8).map(|_| AtomicU64::new(0)).collect()))
}

type OnEvent = Box<dyn Fn(&str) + Send + Sync>;

/// Keeps events, and calls somebody for each.
#[derive(Default)]
pub struct Collector {
    seen: Mutex<Vec<(String, Value)>>,
    on: Option<OnEvent>,
}

impl Collector {
    /// Calls `on` with the name of each event.
    pub fn calling(on: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { seen: Mutex::default(), on: Some(Box::new(on)) }
    }
    /// The fields of all events of a name.
    pub fn named(&self, name: &str) -> Vec<Value> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|(other, _)| other == name).map(|(_, fields)| fields.clone()).collect()
    }
    /// The names in order, without progress.
    pub fn names(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|(name, _)| name.clone()).filter(|name| name != "progress").collect()
    }
}

impl Events for Collector {
    fn emit(&self, name: &str, fields: Value) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), fields));
        if let Some(on) = &self.on {
            on(name);
        }
    }
}

/// Registers that remember what was written.
#[derive(Default)]
pub struct Registers(Mutex<Vec<(usize, u64)>>);

impl Registers {
    /// Writes so far.
    pub fn written(&self) -> Vec<(usize, u64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    fn write(&self, at: usize, value: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((at, value));
    }
}

impl Bar for Registers {
    fn r32(&self, _: usize) -> u32 {
        0
    }
    fn w32(&self, at: usize, value: u32) {
        self.write(at, value.into());
    }
    fn r64(&self, _: usize) -> u64 {
        0
    }
    fn w64(&self, at: usize, value: u64) {
        self.write(at, value);
    }
}

const IOVA: u64 = 0x1_0000_0000;

struct Model {
    region: Region,
    /// Memory as the CPU left it at the last `cpu_clear`, plus what devices wrote since: a difference is a CPU write.
    shadow: Vec<u8>,
    tracked: bool,
    dirty: Bitmap,
    igb: BTreeMap<usize, u32>,
    edu: BTreeMap<usize, u64>,
    edu_buffer: Vec<u8>,
    edu_until: Option<Instant>,
    states: [State; 2],
    sent: VecDeque<Vec<u8>>,
    violations: Vec<String>,
}

impl Model {
    fn offset(&self, iova: u64, length: usize) -> usize {
        let at = (iova - IOVA) as usize;
        assert!(at + length <= self.region.len(), "a DMA outside what is mapped");
        at
    }
    fn dma_read(&self, iova: u64, out: &mut [u8]) {
        self.region.read(self.offset(iova, out.len()), out);
    }
    fn dma_write(&mut self, iova: u64, bytes: &[u8]) {
        let at = self.offset(iova, bytes.len());
        self.region.write(at, bytes);
        self.shadow[at..at + bytes.len()].copy_from_slice(bytes);
        if self.tracked {
            (at / PAGE..=(at + bytes.len() - 1) / PAGE).for_each(|page| self.dirty.set(page as u32));
        }
    }
    fn get(&self, at: usize) -> u32 {
        self.igb.get(&at).copied().unwrap_or(0)
    }
    fn ring(&self, low: usize, high: usize) -> u64 {
        u64::from(self.get(high)) << 32 | u64::from(self.get(low))
    }
    fn transmit(&mut self) {
        let count = self.get(reg::TDLEN) / 16;
        while self.states[IGB] == State::Running && self.get(reg::TDH) != self.get(reg::TDT) && count > 0 {
            let head = self.get(reg::TDH);
            let at = self.ring(reg::TDBAL, reg::TDBAH) + u64::from(head) * 16;
            let mut descriptor = [0; 16];
            self.dma_read(at, &mut descriptor);
            let address = u64::from_le_bytes(descriptor[..8].try_into().unwrap_or_default());
            let mut frame = vec![0; usize::from(u16::from_le_bytes([descriptor[8], descriptor[9]]))];
            self.dma_read(address, &mut frame);
            self.sent.push_back(frame);
            descriptor[12] |= 1;
            self.dma_write(at, &descriptor);
            self.igb.insert(reg::TDH, (head + 1) % count);
        }
    }
    fn receive(&mut self, frame: &[u8]) -> bool {
        let (head, count) = (self.get(reg::RDH), self.get(reg::RDLEN) / 16);
        let open = self.states[IGB] == State::Running && self.get(reg::RCTL) & 2 != 0;
        if !open || head == self.get(reg::RDT) {
            return false;
        }
        let at = self.ring(reg::RDBAL, reg::RDBAH) + u64::from(head) * 16;
        let mut descriptor = [0; 16];
        self.dma_read(at, &mut descriptor);
        let address = u64::from_le_bytes(descriptor[..8].try_into().unwrap_or_default());
        self.dma_write(address, frame);
        descriptor.fill(0);
        descriptor[8] = 3;
        descriptor[12..14].copy_from_slice(&(frame.len() as u16).to_le_bytes());
        self.dma_write(at, &descriptor);
        self.igb.insert(reg::RDH, (head + 1) % count);
        true
    }
    fn edu_settle(&mut self, now: bool) {
        if self.edu_until.is_some_and(|until| now || Instant::now() >= until) {
            self.edu_until = None;
            let (source, destination) = (self.edu[&0x80], self.edu[&0x88]);
            let count = self.edu[&0x90] as usize;
            if self.edu[&0x98] & 2 == 0 {
                let mut bytes = vec![0; count];
                self.dma_read(source, &mut bytes);
                let inside = (destination - 0x40000) as usize;
                self.edu_buffer[inside..inside + count].copy_from_slice(&bytes);
            } else {
                let inside = (source - 0x40000) as usize;
                let bytes = self.edu_buffer[inside..inside + count].to_vec();
                self.dma_write(destination, &bytes);
            }
            *self.edu.entry(0x98).or_default() &= !1;
        }
    }
    fn touched(&mut self, device: usize) {
        if self.states[device] != State::Running {
            self.violations.push(format!("device {device} was written to in {:?}", self.states[device]));
        }
    }
}

/// The machine.
pub struct Fake {
    model: Arc<Mutex<Model>>,
    region: Region,
    tracking: bool,
    igb: FakeBar,
    edu: FakeBar,
    begun: Instant,
}

struct FakeBar {
    model: Arc<Mutex<Model>>,
    device: usize,
}

impl FakeBar {
    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bar for FakeBar {
    fn r32(&self, at: usize) -> u32 {
        match at {
            reg::STATUS => 2,
            _ => self.model().get(at),
        }
    }
    fn w32(&self, at: usize, value: u32) {
        let mut model = self.model();
        model.touched(self.device);
        model.igb.insert(at, value);
        if at == reg::TDT {
            model.transmit();
        }
    }
    fn r64(&self, at: usize) -> u64 {
        let mut model = self.model();
        model.edu_settle(false);
        model.edu.get(&at).copied().unwrap_or(0)
    }
    fn w64(&self, at: usize, value: u64) {
        let mut model = self.model();
        model.touched(self.device);
        model.edu.insert(at, value);
        if at == 0x98 && value & 1 != 0 {
            model.edu_until = Some(Instant::now() + std::time::Duration::from_millis(5));
        }
    }
}

impl Fake {
    /// A machine with so many pages; `tracking` says whether its IOMMU can.
    pub fn new(pages: u32, tracking: bool) -> Arc<Self> {
        let region = region(pages);
        let mac = [(reg::RAL0, 0x7700_5452), (reg::RAH0, 0x8000_0101)];
        let model = Arc::new(Mutex::new(Model {
            region,
            shadow: vec![0; region.len()],
            tracked: false,
            dirty: Bitmap::none(pages),
            igb: BTreeMap::from(mac),
            edu: BTreeMap::new(),
            edu_buffer: vec![0; PAGE],
            edu_until: None,
            states: [State::Running; 2],
            sent: VecDeque::new(),
            violations: Vec::new(),
        }));
        let bar = |device| FakeBar { model: model.clone(), device };
        Arc::new(Self { region, tracking, igb: bar(IGB), edu: bar(EDU), begun: Instant::now(), model })
    }
    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// A frame on the wire to the card; false if it had no room.
    pub fn inject(&self, frame: &[u8]) -> bool {
        self.model().receive(frame)
    }
    /// The next frame that the card sent.
    pub fn sent(&self) -> Option<Vec<u8>> {
        self.model().sent.pop_front()
    }
    /// Writes to registers of devices that did not run.
    pub fn violations(&self) -> Vec<String> {
        self.model().violations.clone()
    }
    /// Whether both devices run.
    pub fn runs(&self) -> bool {
        self.model().states == [State::Running; 2]
    }
}

impl Machine for Fake {
    fn region(&self) -> Region {
        self.region
    }
    fn iova(&self) -> u64 {
        IOVA
    }
    fn tracking(&self) -> bool {
        self.tracking
    }
    fn set_tracking(&self, on: bool) -> io::Result<()> {
        let mut model = self.model();
        model.tracked = on;
        model.dirty.clear();
        Ok(())
    }
    fn device_dirty(&self, out: &mut Bitmap) -> io::Result<()> {
        let mut model = self.model();
        out.or(&model.dirty);
        model.dirty.clear();
        Ok(())
    }
    fn cpu_dirty(&self, out: &mut Bitmap) -> io::Result<()> {
        let model = self.model();
        let mut bytes = [0; PAGE];
        for page in 0..self.region.pages() {
            self.region.read_page(page, &mut bytes);
            if bytes[..] != model.shadow[page as usize * PAGE..][..PAGE] {
                out.set(page);
            }
        }
        Ok(())
    }
    fn cpu_clear(&self) -> io::Result<()> {
        let mut model = self.model();
        let mut bytes = [0; PAGE];
        for page in 0..self.region.pages() {
            self.region.read_page(page, &mut bytes);
            model.shadow[page as usize * PAGE..][..PAGE].copy_from_slice(&bytes);
        }
        Ok(())
    }
    fn bar(&self, device: usize) -> &dyn Bar {
        if device == IGB { &self.igb } else { &self.edu }
    }
    fn set_state(&self, device: usize, state: State) -> io::Result<()> {
        let mut model = self.model();
        model.edu_settle(true);
        model.states[device] = state;
        if device == IGB && state == State::Running {
            model.transmit();
        }
        Ok(())
    }
    fn save(&self, device: usize) -> io::Result<Vec<u8>> {
        let model = self.model();
        if model.states[device] != State::StopCopy {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if device == IGB {
            serde_json::to_vec(&model.igb)
        } else {
            serde_json::to_vec(&(&model.edu, &model.edu_buffer))
        }
        .map_err(io::Error::other)
    }
    fn load(&self, device: usize, state: &[u8]) -> io::Result<()> {
        let mut model = self.model();
        if model.states[device] != State::Resuming {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if device == IGB {
            model.igb = serde_json::from_slice(state).map_err(io::Error::other)?;
        } else {
            (model.edu, model.edu_buffer) = serde_json::from_slice(state).map_err(io::Error::other)?;
        }
        model.states[device] = State::Stop;
        Ok(())
    }
    fn reset(&self, device: usize) -> io::Result<()> {
        self.model().states[device] = State::Stop;
        Ok(())
    }
    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }
}
