//! Tables built by hand from the figures of the specification.
#![allow(dead_code, missing_docs)]

use iommu_types::{Pasid, StreamId};
use soft_iommu::vtd::{Caps, Config, Policy, Reason, Refused, Vtd};
use soft_iommu::{Arena, Use};
use std::sync::Arc;

pub const BASE: u64 = 0x4000_0000;

/// Values at (msb, lsb), as the figures give them.
pub fn bits(fields: &[(u32, u32, u64)]) -> u64 {
    fields.iter().fold(0, |word, &(msb, lsb, value)| {
        assert!(msb - lsb == 63 || value >> (msb - lsb + 1) == 0, "field {msb}:{lsb}");
        word | value << lsb
    })
}

pub fn dev(n: u8) -> StreamId {
    StreamId::pci(0, 0, n, 0)
}

pub struct Bench {
    pub arena: Arc<Arena>,
    pub unit: Vtd,
    pub root: u64,
    queue: u64,
    status: u64,
    tail: u64,
    wide: bool,
}

impl Bench {
    pub fn new(config: Config) -> Self {
        Self::over(Arc::new(Arena::new(BASE, 16)), config)
    }

    pub fn over(arena: Arc<Arena>, config: Config) -> Self {
        let root = arena.alloc(1, Use::Table).unwrap();
        let queue = arena.alloc(1, Use::Table).unwrap();
        let status = arena.alloc(1, Use::Table).unwrap();
        let unit = Vtd::new(arena.clone(), config);
        Self { arena, unit, root, queue, status, tail: 0, wide: config.caps.scalable }
    }

    pub fn frame(&self) -> u64 {
        self.arena.alloc(1, Use::Table).unwrap()
    }
    pub fn data(&self) -> u64 {
        self.arena.alloc(1, Use::Data).unwrap()
    }
    pub fn put(&self, at: u64, value: u64) {
        self.arena.store64(at, value);
    }

    /// GCMD fields: keep what is on, change one, wait for the status bit.
    pub fn command(&self, bit: u32, on: bool) {
        const LEVELS: u32 = 0x9680_0000; // TE, AFL, QIE, IRE, CFI
        let keep = self.unit.r32(0x1c) & LEVELS;
        self.unit.w32(0x18, if on { keep | 1 << bit } else { keep & !(1 << bit) });
        for _ in 0..10 {
            self.unit.tick();
        }
    }

    pub fn queue_on(&mut self) {
        self.unit.w64(0x88, 0);
        self.unit.w64(0x90, self.queue | if self.wide { 1 << 11 } else { 0 });
        self.command(26, true);
        self.tail = 0;
    }

    /// One descriptor, not followed by a wait.
    pub fn post(&mut self, lo: u64, hi: u64) {
        let step = if self.wide { 32 } else { 16 };
        let at = self.queue + self.tail;
        self.put(at, lo);
        self.put(at + 8, hi);
        if self.wide {
            self.put(at + 16, 0);
            self.put(at + 24, 0);
        }
        self.tail = (self.tail + step) % 4096;
        self.unit.w64(0x88, self.tail);
    }

    /// A wait with status write, and enough time; was the status written?
    pub fn wait(&mut self) -> bool {
        self.put(self.status, 0);
        self.post(bits(&[(3, 0, 5), (5, 5, 1), (63, 32, 0xabcd)]), self.status);
        for _ in 0..64 {
            self.unit.tick();
        }
        self.arena.load64(self.status) == 0xabcd
    }

    pub fn flush(&mut self, lo: u64, hi: u64) {
        self.post(lo, hi);
        assert!(self.wait(), "wait not completed: FSTS {:#x}", self.unit.r32(0x34));
    }

    /// Root pointer, global invalidations, translation on.
    pub fn start(&mut self, ttm: u64) {
        self.unit.w64(0x20, self.root | ttm << 10);
        self.command(30, true);
        if self.unit.r64(0x10) & 2 != 0 {
            self.queue_on();
            self.post(bits(&[(3, 0, 1), (5, 4, 1)]), 0);
            if ttm == 1 {
                self.post(bits(&[(3, 0, 7), (5, 4, 3)]), 0);
            }
            self.flush(bits(&[(3, 0, 2), (5, 4, 1), (6, 6, 1), (7, 7, 1)]), 0);
        } else {
            self.unit.w64(0x28, bits(&[(63, 63, 1), (62, 61, 1)]));
            self.unit.tick();
            let iotlb = (self.unit.r64(0x10) >> 8 & 0x3ff) as usize * 16 + 8;
            self.unit.w64(iotlb, bits(&[(63, 63, 1), (61, 60, 1)]));
            self.unit.tick();
        }
        self.command(31, true);
        assert!(self.unit.translating());
    }

    /// Table of `levels` that maps `iova` to `pa` by a leaf at `level`; returns (root, address of the leaf entry).
    pub fn table(&self, levels: u32, level: u32, iova: u64, pa: u64, branch: u64, leaf: u64) -> (u64, u64) {
        let root = self.frame();
        let mut table = root;
        for l in (level..levels).rev() {
            let at = table + (iova >> (12 + 9 * l) & 511) * 8;
            if l == level {
                self.put(at, pa | leaf);
                return (root, at);
            }
            let next = self.frame();
            self.put(at, next | branch);
            table = next;
        }
        unreachable!()
    }

    /// Legacy context entry (figure 9-2): P 0, TT 3:2, SSPTPTR 63:12; AW 66:64, DID 87:72.
    pub fn legacy_context(&self, stream: StreamId, root: u64, aw: u64, did: u64) {
        let entry = self.root + 16 * u64::from(stream.bus());
        if self.arena.load64(entry) & 1 == 0 {
            self.put(entry, self.frame() | 1);
        }
        let at = (self.arena.load64(entry) & !0xfff) + 16 * u64::from(stream.devfn());
        self.put(at + 8, bits(&[(2, 0, aw), (23, 8, did)]));
        self.put(at, bits(&[(0, 0, 1), (3, 2, 0), (63, 12, root >> 12)]));
    }

    /// Address of a PASID entry, with everything above it in place (figures 9-1, 9-3, 9-4).
    pub fn pasid_slot(&self, stream: StreamId, pasid: u32, pasids: bool) -> u64 {
        let half = self.root + 16 * u64::from(stream.bus()) + 8 * u64::from(stream.devfn() >> 7);
        if self.arena.load64(half) & 1 == 0 {
            self.put(half, self.frame() | 1);
        }
        let context = (self.arena.load64(half) & !0xfff) + 32 * u64::from(stream.devfn() & 0x7f);
        if self.arena.load64(context) & 1 == 0 {
            let dir = self.frame();
            self.put(context, bits(&[(0, 0, 1), (3, 3, u64::from(pasids)), (11, 9, 0), (63, 12, dir >> 12)]));
        }
        let slot = (self.arena.load64(context) & !0xfff) + 8 * u64::from(pasid >> 6);
        if self.arena.load64(slot) & 1 == 0 {
            self.put(slot, self.frame() | 1);
        }
        (self.arena.load64(slot) & !0xfff) + 64 * u64::from(pasid & 63)
    }

    /// First-stage PASID entry (figure 9-6): PGTT 8:6 = 1, DID 79:64, PWSNP 87, FSPTPTR 191:140.
    pub fn first_stage(&self, slot: u64, root: u64, did: u64, pwsnp: u64) {
        self.put(slot + 16, bits(&[(63, 12, root >> 12)]));
        self.put(slot + 8, bits(&[(15, 0, did), (23, 23, pwsnp)]));
        self.put(slot, bits(&[(0, 0, 1), (8, 6, 1)]));
    }

    /// Second-stage PASID entry: AW 4:2, PGTT 8:6 = 2, SSADE 9, SSPTPTR 63:12.
    pub fn second_stage(&self, slot: u64, root: u64, aw: u64, did: u64, ssade: u64, pwsnp: u64) {
        self.put(slot + 8, bits(&[(15, 0, did), (23, 23, pwsnp)]));
        self.put(slot, bits(&[(0, 0, 1), (4, 2, aw), (8, 6, 2), (9, 9, ssade), (63, 12, root >> 12)]));
    }

    pub fn write(&self, n: u8, iova: u64) -> Result<u64, Refused> {
        self.unit.probe(dev(n), None, iova, true)
    }
    pub fn read(&self, n: u8, iova: u64) -> Result<u64, Refused> {
        self.unit.probe(dev(n), None, iova, false)
    }
    pub fn clean(&self) {
        assert_eq!(self.arena.violations(), [], "rules broken");
    }
    pub fn broke(&self, rule: &str) {
        let list = self.arena.violations();
        assert!(list.iter().any(|v| v.rule == rule), "expected {rule:?} among {list:#?}");
        self.arena.clear_violations();
    }
}

pub fn fault(code: u8) -> Result<u64, Refused> {
    Err(Refused::Fault(Reason(code)))
}

pub fn legacy() -> Bench {
    Bench::new(Config::new(Caps::legacy()))
}
pub fn exact(caps: Caps) -> Config {
    Config::new(caps).policy(Policy::Exact)
}
pub fn pasid(n: u32) -> Option<Pasid> {
    Some(Pasid(n))
}
