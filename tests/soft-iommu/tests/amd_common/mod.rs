//! AMD structures built by hand from the figures of publication 48882.
#![allow(dead_code, missing_docs)]

use iommu_types::{Pasid, StreamId};
use soft_iommu::amd::{Amd, Caps, Config, Policy, Reason, Refused};
use soft_iommu::{Arena, Use};
use std::sync::Arc;

pub const BASE: u64 = 0x4000_0000;
pub const R: u64 = 1 << 61;
pub const W: u64 = 1 << 62;
pub const RW: u64 = R | W;

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

/// Word 0 of a device-table entry: V 0, TV 1, HAD 8:7, Mode 11:9, root 51:12, IR 61, IW 62.
pub fn word0(root: u64, mode: u64, had: u64) -> u64 {
    bits(&[(0, 0, 1), (1, 1, 1), (8, 7, had), (11, 9, mode), (51, 12, root >> 12), (62, 61, 3)])
}

pub struct Bench {
    pub arena: Arc<Arena>,
    pub unit: Amd,
    pub table: u64,
    pub commands: u64,
    pub log: u64,
    pub status: u64,
    tail: u64,
    waits: u64,
}

impl Bench {
    pub fn new(config: Config) -> Self {
        Self::over(Arc::new(Arena::new(BASE, 16)), config)
    }

    pub fn over(arena: Arc<Arena>, config: Config) -> Self {
        // 256 requesters: bus 0.
        let table = arena.alloc(2, Use::Table).unwrap();
        let commands = arena.alloc(1, Use::Table).unwrap();
        let log = arena.alloc(1, Use::Table).unwrap();
        let status = arena.alloc(1, Use::Table).unwrap();
        let unit = Amd::new(arena.clone(), config);
        Self { arena, unit, table, commands, log, status, tail: 0, waits: 0 }
    }

    pub fn started(config: Config) -> Self {
        let b = Self::new(config);
        b.start();
        b
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
    pub fn get(&self, at: u64) -> u64 {
        self.arena.load64(at)
    }

    /// Base registers, then control: IommuEn 0, EventLogEn 2, EventIntEn 3, ComWaitIntEn 4, Coherent 10, CmdBufEn 12,
    /// GTEn 16 and GAEn 17 where there.
    pub fn start(&self) {
        self.unit.w64(0x00, bits(&[(8, 0, 1), (51, 12, self.table >> 12)]));
        self.unit.w64(0x08, bits(&[(51, 12, self.commands >> 12), (59, 56, 8)]));
        self.unit.w64(0x10, bits(&[(51, 12, self.log >> 12), (59, 56, 8)]));
        self.unit.w64(0x18, self.control());
        self.ticks(3);
        assert_eq!(self.unit.r64(0x2020) & 0x18, 0x18);
        assert!(self.unit.translating());
    }
    pub fn control(&self) -> u64 {
        let efr = self.unit.r64(0x30);
        bits(&[(0, 0, 1), (4, 2, 7), (10, 10, 1), (12, 12, 1), (16, 16, efr >> 4 & 1), (17, 17, efr >> 7 & 1)])
    }
    pub fn ticks(&self, n: usize) {
        (0..n).for_each(|_| self.unit.tick());
    }

    pub fn post(&mut self, lo: u64, hi: u64) {
        self.put(self.commands + self.tail, lo);
        self.put(self.commands + self.tail + 8, hi);
        self.tail = (self.tail + 16) % 4096;
        self.unit.w64(0x2008, self.tail);
    }
    /// COMPLETION_WAIT: S 0, address 51:3, opcode 63:60; data in the second word.
    pub fn wait(&mut self) -> bool {
        self.waits += 1;
        let value = 0xabcd_0000 + self.waits;
        self.post(bits(&[(0, 0, 1), (51, 3, self.status >> 3), (63, 60, 1)]), value);
        self.ticks(64);
        self.get(self.status) == value
    }
    pub fn flush(&mut self, lo: u64, hi: u64) {
        self.post(lo, hi);
        assert!(self.wait(), "wait not completed: status {:#x}", self.unit.r64(0x2020));
    }
    /// INVALIDATE_DEVTAB_ENTRY: device 15:0.
    pub fn flush_device(&mut self, n: u8) {
        self.flush(bits(&[(15, 0, u64::from(dev(n).id)), (63, 60, 2)]), 0);
    }
    /// INVALIDATE_IOMMU_PAGES: PASID 19:0, domain 47:32; S 64, PDE 65, GN 66, address 127:76.
    pub fn flush_pages(&mut self, domain: u64, second: u64) {
        self.flush(bits(&[(47, 32, domain), (63, 60, 3)]), second);
    }
    /// Everything of a domain.
    pub fn flush_domain(&mut self, domain: u64) {
        self.flush_pages(domain, 0x7fff_ffff_ffff_f003);
    }

    pub fn entry(&self, n: u8) -> u64 {
        self.table + 32 * u64::from(dev(n).devfn())
    }
    pub fn device(&self, n: u8, words: [u64; 4]) {
        for (i, word) in words.into_iter().enumerate().rev() {
            self.put(self.entry(n) + 8 * i as u64, word);
        }
    }
    pub fn v1(&self, n: u8, root: u64, mode: u64, domain: u64, had: u64) {
        self.device(n, [word0(root, mode, had), domain, 0, 0]);
    }

    /// Host table of `mode` levels that maps `iova` by `leaf` at `level` (from 1); returns (root, address of the leaf).
    pub fn host(&self, mode: u64, level: u64, iova: u64, branch: u64, leaf: u64) -> (u64, u64) {
        let root = self.frame();
        let mut table = root;
        let mut l = mode;
        loop {
            let at = table + (iova >> (12 + 9 * (l - 1)) & 511) * 8;
            if l == level {
                self.put(at, leaf);
                return (root, at);
            }
            let next = self.frame();
            self.put(at, bits(&[(0, 0, 1), (11, 9, l - 1), (51, 12, next >> 12)]) | branch);
            table = next;
            l -= 1;
        }
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
    /// Record `n` of the event log.
    pub fn event(&self, n: u64) -> [u64; 2] {
        [self.get(self.log + 16 * n), self.get(self.log + 16 * n + 8)]
    }
}

/// A host leaf: PR 0, next level 11:9 = 0, address 51:12.
pub fn leaf(pa: u64) -> u64 {
    bits(&[(0, 0, 1), (51, 12, pa >> 12)])
}
/// A leaf of 2^log2 bytes with next level 7: ones from bit 12 below the lowest clear bit, `log2 - 1`.
pub fn sized(pa: u64, log2: u32) -> u64 {
    let ones = ((1u64 << (log2 - 1)) - 1) & !0xfff;
    bits(&[(0, 0, 1), (11, 9, 7)]) | pa | ones
}

pub fn refused(reason: Reason) -> Result<u64, Refused> {
    Err(Refused::Fault(reason))
}
pub fn full() -> Config {
    Config::new(Caps::full())
}
pub fn exact() -> Config {
    full().policy(Policy::Exact)
}
pub fn pasid(n: u32) -> Option<Pasid> {
    Some(Pasid(n))
}
