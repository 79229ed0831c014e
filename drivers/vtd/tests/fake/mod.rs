//! A register file that acknowledges commands and runs invalidation descriptors, and can be told to misbehave. It does not
//! translate: the model in tests/soft-iommu does.
#![allow(dead_code)]

use crate::arena::Arena;
use iommu_api::{Clock, Mmio, TableMem};
use iommu_types::{Phys, UnitId};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use vtd::{BringUpReport, Unit, UnitConfig};

pub const VER: usize = 0x00;
pub const CAP: usize = 0x08;
pub const ECAP: usize = 0x10;
pub const GCMD: usize = 0x18;
pub const GSTS: usize = 0x1c;
pub const RTADDR: usize = 0x20;
pub const FSTS: usize = 0x34;
pub const FECTL: usize = 0x38;
pub const PMEN: usize = 0x64;
pub const IQH: usize = 0x80;
pub const IQT: usize = 0x88;
pub const IQA: usize = 0x90;
pub const RECORDS: usize = 0x220;
pub const TE: u32 = 1 << 31;
pub const SRTP: u32 = 1 << 30;
pub const WBF: u32 = 1 << 27;
pub const QIE: u32 = 1 << 26;
pub const ONE_SHOT: u32 = SRTP | WBF | 1 << 29 | 1 << 24;

/// QEMU's legacy unit without interrupt remapping.
pub const CAP_LEGACY: u64 = 0x00d2_008c_222f_0606;
pub const ECAP_LEGACY: u64 = 0xf42;
/// Scalable mode, second stage, snooped, tracking.
pub const ECAP_SS: u64 = 0xf43 | 1 << 43 | 1 << 45 | 1 << 46 | 1 << 48 | 1 << 40 | 9 << 35;
/// Scalable mode, first stage, snooped.
pub const ECAP_FS: u64 = 0xf43 | 1 << 43 | 1 << 47 | 1 << 48 | 1 << 40 | 9 << 35;
pub const CAP_FS: u64 = CAP_LEGACY | 1 << 56;

/// Something a test looks at afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    Write(usize, u64),
    Command(u32),
    /// Low and high word of a descriptor that was run; waits are left out.
    Descriptor(u64, u64),
}

type Hook = Box<dyn FnMut(u64) + Send>;

pub struct State {
    pub regs: std::collections::BTreeMap<usize, u64>,
    pub events: Vec<Event>,
    /// Status bits that never follow.
    pub deaf: u32,
    /// Descriptors to refuse (IQE), counted down; `usize::MAX` = all but waits.
    pub refuse: usize,
    /// Time out (ITE) at the next wait, this many times.
    pub time_out: usize,
    /// The queue stands still.
    pub dead: bool,
    /// Called with the low word of each descriptor that is run.
    pub hook: Option<Hook>,
}

pub struct Fake {
    pub state: Mutex<State>,
    pub mem: Arc<Arena>,
}

#[derive(Clone)]
pub struct Window(pub Arc<Fake>);

impl Fake {
    pub fn window(cap: u64, ecap: u64) -> Window {
        Self::over(&Arc::new(Arena::new(256)), cap, ecap)
    }
    pub fn over(mem: &Arc<Arena>, cap: u64, ecap: u64) -> Window {
        let regs = [(VER, 0x10), (CAP, cap), (ECAP, ecap)].into_iter().collect();
        let state = State { regs, events: Vec::new(), deaf: 0, refuse: 0, time_out: 0, dead: false, hook: None };
        Window(Arc::new(Self { state: Mutex::new(state), mem: Arc::clone(mem) }))
    }
}

impl State {
    pub fn get(&self, at: usize) -> u64 {
        self.regs.get(&at).copied().unwrap_or(0)
    }
    pub fn set(&mut self, at: usize, value: u64) {
        self.regs.insert(at, value);
    }
    fn command(&mut self, value: u32) {
        let status = self.get(GSTS) as u32;
        let changed = ((value ^ status) & !ONE_SHOT).count_ones() + (value & ONE_SHOT).count_ones();
        assert!(changed <= 1, "more than one change in a command: {value:#x}, status {status:#x}");
        self.events.push(Event::Command(value));
        let mut now = value & !ONE_SHOT & !self.deaf | status & (self.deaf | SRTP);
        if value & SRTP != 0 {
            now |= SRTP & !self.deaf;
        }
        if now & QIE & !status != 0 {
            self.set(IQH, 0);
        }
        self.set(GSTS, now.into());
    }
    fn run(&mut self, mem: &Arena) {
        let queue = self.get(IQA);
        let (wide, base) = (queue >> 11 & 1, queue & !0xfff);
        let step = 16 << wide;
        while self.get(GSTS) as u32 & QIE != 0 && self.get(FSTS) & 0x50 == 0 && !self.dead {
            let head = self.get(IQH);
            if head == self.get(IQT) {
                break;
            }
            let at = |offset| mem.walker_word(Phys(base + head + offset));
            let (low, high) = (at(0), at(8));
            if wide == 1 {
                assert_eq!((at(16), at(24)), (0, 0), "upper half of a 256-bit descriptor");
            }
            if low & 0xf == 5 {
                if self.time_out > 0 {
                    self.time_out -= 1;
                    self.set(FSTS, self.get(FSTS) | 1 << 6);
                    // The wait is dropped.
                    self.set(IQH, (head + step) % 4096);
                    return;
                }
                if low >> 5 & 1 != 0 {
                    mem.store64(Phys(high & !7), low >> 32);
                }
            } else {
                assert!([1, 2, 6, 7].contains(&(low & 0xf)), "descriptor {low:#x}");
                if self.refuse > 0 {
                    self.refuse -= usize::from(self.refuse != usize::MAX);
                    self.set(FSTS, self.get(FSTS) | 1 << 4);
                    return;
                }
                self.events.push(Event::Descriptor(low, high));
                if let Some(hook) = &mut self.hook {
                    hook(low);
                }
            }
            self.set(IQH, (head + step) % 4096);
        }
    }
}

impl Window {
    pub fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.0.state.lock().unwrap())
    }
    /// What happened since the last call.
    pub fn events(&self) -> Vec<Event> {
        self.with(|state| std::mem::take(&mut state.events))
    }
    pub fn descriptors(&self) -> Vec<(u64, u64)> {
        let of = |event| if let Event::Descriptor(low, high) = event { Some((low, high)) } else { None };
        self.events().into_iter().filter_map(of).collect()
    }
    fn write(&self, at: usize, value: u64) {
        let mut state = self.0.state.lock().unwrap();
        match at {
            GCMD => state.command(value as u32),
            FSTS => {
                let left = state.get(FSTS) & !(value & 0x71);
                state.set(FSTS, left);
            }
            PMEN => state.set(PMEN, value & (1 << 31) | value >> 31),
            _ if at >= RECORDS => {
                assert!((at - RECORDS) % 16 == 12 && value == 1 << 31, "fault record write at {at:#x}");
                let high = state.get(at - 4) & !(1 << 63);
                state.set(at - 4, high);
                let pending = (0..256).any(|n| state.get(RECORDS + 16 * n + 8) >> 63 != 0);
                let status = state.get(FSTS) & !2 | u64::from(pending) << 1;
                state.set(FSTS, status);
            }
            _ => state.set(at, value),
        }
        if ![GCMD, IQT].contains(&at) {
            state.events.push(Event::Write(at, value));
        }
        state.run(&self.0.mem);
    }
}

impl Mmio for Window {
    fn r32(&self, at: usize) -> u32 {
        self.with(|state| state.get(at) as u32)
    }
    fn w32(&self, at: usize, value: u32) {
        self.write(at, value.into());
    }
    fn r64(&self, at: usize) -> u64 {
        self.with(|state| state.get(at))
    }
    fn w64(&self, at: usize, value: u64) {
        self.write(at, value);
    }
}

/// Time passes only in polling loops.
#[derive(Default)]
pub struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
    fn relax(&self) {
        self.0.fetch_add(1_000_000, Ordering::SeqCst);
        std::thread::yield_now();
    }
}

pub type TestUnit = Unit<Window, Arena, Ticks>;

pub fn config() -> UnitConfig {
    UnitConfig::new(UnitId(0), "vtd0")
}

pub fn bring_up(window: &Window, config: UnitConfig) -> Result<(Arc<TestUnit>, BringUpReport), iommu_types::Error> {
    Unit::bring_up(config, window.clone(), Arc::clone(&window.0.mem), Arc::new(Ticks::default()))
}

pub fn up(window: &Window) -> Arc<TestUnit> {
    let unit = bring_up(window, config()).unwrap().0;
    window.events();
    unit
}
