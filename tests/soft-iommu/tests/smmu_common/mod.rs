//! Structures, commands and tables built by hand from the figures of IHI 0070 and the Arm ARM.
#![allow(dead_code, missing_docs)]

use iommu_types::StreamId;
use soft_iommu::smmu::{Caps, Config, Reason, Refused, Smmu};
use soft_iommu::{Arena, Use};
use std::sync::Arc;

pub const BASE: u64 = 0x4000_0000;
/// Stage-1 leaf, page: valid 1:0 = 3, AttrIndx 4:2 = 0, AP[1] 6, SH 9:8 = 3, AF 10, nG 11.
pub const RW: u64 = 3 | 1 << 6 | 3 << 8 | 1 << 10 | 1 << 11;
/// AP[2]: read only.
pub const RO: u64 = 1 << 7;
pub const AF: u64 = 1 << 10;
pub const NG: u64 = 1 << 11;
pub const DBM: u64 = 1 << 51;
pub const CONT: u64 = 1 << 52;
/// Stage-2 leaf, page: MemAttr 5:2 = 15, S2AP 7:6 = 3, SH 9:8 = 3, AF 10.
pub const S2RW: u64 = 3 | 15 << 2 | 3 << 6 | 3 << 8 | 1 << 10;
pub const S2W: u64 = 1 << 7;

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
pub fn sid(n: u8) -> u64 {
    u64::from(dev(n).id)
}

pub struct Bench {
    pub arena: Arc<Arena>,
    pub unit: Smmu,
    pub strtab: u64,
    pub cmdq: u64,
    pub eventq: u64,
    pub msi: u64,
    pub prod: u32,
    pub events_seen: u32,
}

impl Bench {
    pub fn new(config: Config) -> Self {
        Self::over(Arc::new(Arena::new(BASE, 16)), config)
    }

    /// Linear stream table of 256 entries; command and event queues of 16.
    pub fn over(arena: Arc<Arena>, config: Config) -> Self {
        let strtab = arena.alloc(4, Use::Table).unwrap();
        let cmdq = arena.alloc(1, Use::Table).unwrap();
        let eventq = arena.alloc(1, Use::Table).unwrap();
        let msi = arena.alloc(1, Use::Table).unwrap();
        let unit = Smmu::new(arena.clone(), config);
        Self { arena, unit, strtab, cmdq, eventq, msi, prod: 0, events_seen: 0 }
    }

    /// A unit that translates.
    pub fn started(config: Config) -> Self {
        let mut b = Self::new(config);
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
    pub fn ticks(&self, n: usize) {
        (0..n).for_each(|_| self.unit.tick());
    }
    pub fn cr0(&self, value: u32) {
        self.unit.w32(0x20, value);
        self.ticks(3);
        assert_eq!(self.unit.r32(0x24), value, "CR0ACK");
    }

    pub fn start(&mut self) {
        // CR1: TABLE_SH 3, OC 1, IC 1, QUEUE_SH 3, OC 1, IC 1.
        self.unit.w32(0x28, bits(&[(11, 10, 3), (9, 8, 1), (7, 6, 1), (5, 4, 3), (3, 2, 1), (1, 0, 1)]) as u32);
        self.unit.w32(0x2c, 2);
        self.unit.w64(0x80, self.strtab | 1 << 62);
        self.unit.w32(0x88, bits(&[(17, 16, 0), (5, 0, 8)]) as u32);
        self.queues();
        self.flush_all();
        self.cr0(0b1101);
    }

    pub fn queues(&mut self) {
        self.unit.w64(0x90, self.cmdq | 4);
        self.unit.w32(0x98, 0);
        self.unit.w32(0x9c, 0);
        self.unit.w64(0xa0, self.eventq | 4);
        self.unit.w32(0x1_00a8, 0);
        self.unit.w32(0x1_00ac, 0);
        self.cr0(0b1100);
    }

    pub fn flush_all(&mut self) {
        self.post(0x04, 31);
        self.post(0x30, 0);
        self.sync();
    }

    pub fn post(&mut self, lo: u64, hi: u64) {
        let at = self.cmdq + 16 * u64::from(self.prod & 15);
        self.put(at, lo);
        self.put(at + 8, hi);
        self.arena.publish(at, 16);
        self.prod = (self.prod + 1) & 31;
        self.unit.w32(0x98, self.prod);
    }
    /// CMD_SYNC with an MSI write, and enough time.
    pub fn try_sync(&mut self) -> bool {
        self.put(self.msi, 0);
        self.post(bits(&[(7, 0, 0x46), (13, 12, 1), (63, 32, 0xbeef)]), self.msi);
        self.ticks(40);
        self.get(self.msi) as u32 == 0xbeef
    }
    pub fn sync(&mut self) {
        if self.unit.config().caps.msi {
            assert!(self.try_sync(), "CMDQ_CONS {:#x}", self.unit.r32(0x9c));
        } else {
            self.post(0x46, 0);
            self.ticks(40);
            assert_eq!(self.unit.r32(0x9c), self.prod);
        }
    }
    pub fn command(&mut self, lo: u64, hi: u64) {
        self.post(lo, hi);
        self.sync();
    }
    pub fn cfgi_ste(&mut self, n: u8) {
        self.command(bits(&[(7, 0, 3), (63, 32, sid(n))]), 1);
    }

    pub fn ste_at(&self, n: u8) -> u64 {
        self.strtab + 64 * sid(n)
    }
    /// Words 1.. first, word 0 last.
    pub fn put_ste(&self, n: u8, words: [u64; 4]) {
        let at = self.ste_at(n);
        for i in [1, 2, 3, 0] {
            self.put(at + 8 * i, words[i as usize]);
        }
        self.arena.publish(at, 64);
    }
    /// V 0, Config 3:1 = 5, S1ContextPtr 51:6, S1CDMax 63:59; S1CIR 3:2, S1COR 5:4, S1CSH 7:6; VMID 15:0.
    pub fn ste_s1(&self, cd: u64, cdmax: u64, vmid: u64) -> [u64; 4] {
        [
            bits(&[(0, 0, 1), (3, 1, 5), (51, 6, cd >> 6), (63, 59, cdmax)]),
            bits(&[(3, 2, 1), (5, 4, 1), (7, 6, 3)]),
            bits(&[(15, 0, vmid)]),
            0,
        ]
    }
    /// Config 6; S2T0SZ 37:32, S2SL0 39:38, S2IR0 41:40, S2OR0 43:42, S2SH0 45:44, S2PS 50:48, S2AA64 51, S2HD 55,
    /// S2HA 56, S2R 58.
    pub fn ste_s2(&self, root: u64, vmid: u64, hd_ha: u64) -> [u64; 4] {
        let w2 = bits(&[
            (15, 0, vmid),
            (37, 32, 25),
            (39, 38, 1),
            (41, 40, 1),
            (43, 42, 1),
            (45, 44, 3),
            (50, 48, 4),
            (51, 51, 1),
            (56, 55, hd_ha),
            (58, 58, 1),
        ]);
        [bits(&[(0, 0, 1), (3, 1, 6)]), 0, w2, root]
    }
    /// A CD: T0SZ 16, IR0, OR0, SH0, EPD1 30, V 31, IPS 34:32, AA64 41, HD 42, HA 43, R 45, A 46, ASET 47, ASID 63:48.
    pub fn put_cd(&self, at: u64, root: u64, asid: u64, hd_ha: u64) {
        self.put(at + 8, root);
        self.put(at, cd0(asid, hd_ha));
        self.arena.publish(at, 64);
    }

    /// Four-level (or `levels`-level) table that maps `iova` to `pa` by a leaf at Arm level `level`; (root, leaf entry).
    pub fn table(&self, start: u32, level: u32, iova: u64, pa: u64, leaf: u64) -> (u64, u64) {
        let root = self.frame();
        (root, self.map(root, start, level, iova, pa, leaf))
    }
    pub fn map(&self, root: u64, start: u32, level: u32, iova: u64, pa: u64, leaf: u64) -> u64 {
        let mut table = root;
        for l in start..=level {
            let at = table + (iova >> (39 - 9 * l) & 511) * 8;
            if l == level {
                self.put(at, if l == 3 { pa | leaf } else { pa | leaf & !2 });
                return at;
            }
            if self.get(at) & 1 == 0 {
                self.put(at, self.frame() | 3);
            }
            table = self.get(at) & 0x0000_ffff_ffff_f000;
        }
        unreachable!()
    }

    pub fn write(&self, n: u8, iova: u64) -> Result<u64, Refused> {
        self.unit.probe(dev(n), None, iova, true)
    }
    pub fn read(&self, n: u8, iova: u64) -> Result<u64, Refused> {
        self.unit.probe(dev(n), None, iova, false)
    }
    /// The next event.
    pub fn event(&mut self) -> [u64; 4] {
        let prod = self.unit.r32(0x1_00a8) & 31;
        assert_ne!(prod, self.events_seen, "no event");
        let at = self.eventq + 32 * u64::from(self.events_seen & 15);
        self.events_seen = (self.events_seen + 1) & 31;
        self.unit.w32(0x1_00ac, self.events_seen);
        std::array::from_fn(|n| self.get(at + 8 * n as u64))
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

pub fn cd0(asid: u64, hd_ha: u64) -> u64 {
    bits(&[
        (5, 0, 16),
        (9, 8, 1),
        (11, 10, 1),
        (13, 12, 3),
        (30, 30, 1),
        (31, 31, 1),
        (34, 32, 4),
        (41, 41, 1),
        (43, 42, hd_ha),
        (45, 45, 1),
        (46, 46, 1),
        (47, 47, 1),
        (63, 48, asid),
    ])
}

pub fn fault(code: u8) -> Result<u64, Refused> {
    Err(Refused::Fault(Reason(code)))
}

/// Device 1 through stage 1: ASID 7, VMID 3, one page; (bench, page, leaf entry, root).
pub fn s1_bench(config: Config, hd_ha: u64, leaf: u64) -> (Bench, u64, u64, u64) {
    let b = Bench::started(config);
    let page = b.data();
    let (root, entry) = b.table(0, 3, 0x12_3000, page, leaf);
    let cd = b.frame();
    b.put_cd(cd, root, 7, hd_ha);
    b.put_ste(1, b.ste_s1(cd, 0, 3));
    (b, page, entry, root)
}

/// Device 1 through stage 2: VMID 3, three levels, one page.
pub fn s2_bench(config: Config, hd_ha: u64, leaf: u64) -> (Bench, u64, u64, u64) {
    let b = Bench::started(config);
    let page = b.data();
    let (root, entry) = b.table(1, 3, 0x12_3000, page, leaf);
    b.put_ste(1, b.ste_s2(root, 3, hd_ha));
    (b, page, entry, root)
}

/// TLBI_NH_VA: opcode 0x12, VMID 47:32, ASID 63:48; Leaf 0, address 63:12.
pub fn nh_va(vmid: u64, asid: u64, va: u64, leaf: u64) -> (u64, u64) {
    (bits(&[(7, 0, 0x12), (47, 32, vmid), (63, 48, asid)]), va | leaf)
}
pub fn full() -> Config {
    Config::new(Caps::full())
}
