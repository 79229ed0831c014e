//! Root, context and PASID tables of one unit (chapter 9). Every entry changes by one 128-bit store, or is absent while it
//! changes, so hardware never sees half of one. A table is published before an entry leads to it.

use crate::caps::Plan;
use crate::spec::context::{LegacyContext, RootEntry, ScalableContext};
use crate::spec::pasid::{DirectoryEntry, ENTRY_BYTES, PER_TABLE, PasidHigh, PasidLow, Pgtt};
use crate::spec::regs::Ecap;
use iommu_api::TableMem;
use iommu_types::{Error, Phys, TableKind};

/// PASIDs 0 to this, without it: the directory is one page of 512 entries.
const DIRECTORY_REACH: u32 = 512 * PER_TABLE;

/// What an entry that leads to a domain says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    pub did: u16,
    pub table: TableKind,
    pub root: Phys,
    pub levels: u8,
    /// Second stage: hardware updates A and D.
    pub ad: bool,
    /// First stage: accesses are snooped.
    pub snoop: bool,
}

/// An entry as it is in memory: the two 128-bit halves that mean something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Raw {
    pub low: u128,
    pub high: u128,
}

impl Raw {
    pub(crate) const ABSENT: Self = Self { low: 0, high: 0 };
    pub(crate) fn present(self) -> bool {
        self.low & 1 != 0
    }
}

pub(crate) struct Structures {
    pub root: Phys,
    scalable: bool,
    /// Root and context walks are snooped.
    coherent: bool,
    /// PASID walks are snooped, and may say so in the entry.
    walk_snoop: bool,
    pasid: bool,
    pasid_limit: u32,
}

fn load128<T: TableMem>(mem: &T, at: Phys) -> u128 {
    u128::from(mem.load64(at)) | u128::from(mem.load64(Phys(at.0 + 8))) << 64
}

impl Structures {
    /// An empty root table: every stream is blocked.
    pub(crate) fn new<T: TableMem>(mem: &T, plan: &Plan, ecap: Ecap) -> Result<Self, Error> {
        let pasid = plan.scalable && ecap.pasid();
        let structures = Self {
            root: Phys(0),
            scalable: plan.scalable,
            coherent: ecap.coherent(),
            walk_snoop: plan.scalable && ecap.smpwc(),
            pasid,
            pasid_limit: if pasid { (2u32 << ecap.pss()).min(DIRECTORY_REACH) } else { 1 },
        };
        Ok(Self { root: structures.page(mem)?, ..structures })
    }

    /// PASIDs from 1 to this, without it, can be attached.
    pub(crate) fn pasid_limit(&self) -> u32 {
        self.pasid_limit
    }

    /// A zeroed page that the unit sees as zeroes.
    fn page<T: TableMem>(&self, mem: &T) -> Result<Phys, Error> {
        let page = mem.alloc()?;
        self.publish(mem, page, 4096);
        Ok(page)
    }

    fn publish<T: TableMem>(&self, mem: &T, at: Phys, bytes: usize) {
        if !self.coherent || (self.scalable && !self.walk_snoop) {
            mem.publish(at, bytes);
        }
    }

    fn store128<T: TableMem>(&self, mem: &T, at: Phys, value: u128) {
        mem.store128(at, value);
        self.publish(mem, at, 16);
    }

    /// Where the context entry of `source` is; makes its table if wanted.
    fn context<T: TableMem>(&self, mem: &T, source: u16, make: bool) -> Result<Option<Phys>, Error> {
        let (bus, devfn) = (u64::from(source >> 8), u64::from(source & 0xff));
        // Scalable mode: two tables per bus, 128 entries of 32 bytes each (9.2).
        let (half, slot, bytes) = if self.scalable { (devfn >> 7, devfn & 0x7f, 32) } else { (0, devfn, 16) };
        let at = Phys(self.root.0 + 16 * bus);
        let word = RootEntry::from_bits(mem.load64(Phys(at.0 + 8 * half)));
        let table = if word.present() {
            Phys(word.frame() << 12)
        } else if make {
            let page = self.page(mem)?;
            let entry = RootEntry::new().with_present(true).with_frame(page.0 >> 12);
            let old = load128(mem, at);
            self.store128(mem, at, old | u128::from(entry.into_bits()) << (64 * half));
            page
        } else {
            return Ok(None);
        };
        Ok(Some(Phys(table.0 + slot * bytes)))
    }

    /// Makes the context table of `source`'s bus, so that attaching will not need memory for it.
    pub(crate) fn prepare<T: TableMem>(&self, mem: &T, source: u16) -> Result<(), Error> {
        self.context(mem, source, true).map(|_| ())
    }

    /// Where the entry that decides about (`source`, `pasid`) is: the context entry in legacy mode, else the PASID entry.
    /// Absent levels above it are made if wanted.
    fn entry<T: TableMem>(&self, mem: &T, source: u16, pasid: u32, make: bool) -> Result<Option<Phys>, Error> {
        let Some(context_at) = self.context(mem, source, make)? else { return Ok(None) };
        if !self.scalable {
            return Ok(Some(context_at));
        }
        let context = ScalableContext::from_bits(load128(mem, context_at));
        let directory = if context.present() {
            Phys(context.directory() << 12)
        } else if context.directory() != 0 {
            // Made for an earlier attach, see `retire`.
            if make {
                self.store128(mem, context_at, context.with_present(true).into_bits());
            }
            Phys(context.directory() << 12)
        } else if make {
            // With PASIDs one page of directory; without them only PASID 0 is ever looked up.
            let page = self.page(mem)?;
            let table = match self.page(mem) {
                Ok(table) => table,
                Err(error) => {
                    mem.release(page);
                    return Err(error);
                }
            };
            let first = DirectoryEntry::new().with_present(true).with_table(table.0 >> 12);
            mem.store64(page, first.into_bits());
            self.publish(mem, page, 8);
            // PDTS: 2^(2 + 7) = 512 entries. RID_PASID stays 0: requests without PASID use entry 0.
            let size = if self.pasid { 2 } else { 0 };
            let context = ScalableContext::new().with_present(true).with_pasid_enable(self.pasid);
            let context = context.with_directory_size(size).with_directory(page.0 >> 12);
            self.store128(mem, context_at, context.into_bits());
            page
        } else {
            return Ok(None);
        };
        let slot_at = Phys(directory.0 + 8 * u64::from(pasid / PER_TABLE));
        let slot = DirectoryEntry::from_bits(mem.load64(slot_at));
        let table = if slot.present() {
            Phys(slot.table() << 12)
        } else if make {
            let page = self.page(mem)?;
            let slot = DirectoryEntry::new().with_present(true).with_table(page.0 >> 12);
            mem.store64(slot_at, slot.into_bits());
            self.publish(mem, slot_at, 8);
            page
        } else {
            return Ok(None);
        };
        Ok(Some(Phys(table.0 + ENTRY_BYTES * u64::from(pasid % PER_TABLE))))
    }

    /// The entry of (`source`, `pasid`) as it is.
    pub(crate) fn read<T: TableMem>(&self, mem: &T, source: u16, pasid: u32) -> Raw {
        match self.entry(mem, source, pasid, false) {
            Ok(Some(at)) if self.scalable => Raw { low: load128(mem, at), high: load128(mem, Phys(at.0 + 16)) },
            Ok(Some(at)) => Raw { low: load128(mem, at), high: 0 },
            _ => Raw::ABSENT,
        }
    }

    /// The domain id in an entry.
    pub(crate) fn did(&self, raw: Raw) -> u16 {
        if self.scalable { PasidLow::from_bits(raw.low).domain() } else { LegacyContext::from_bits(raw.low).domain() }
    }

    /// The entry that leads to `target`.
    pub(crate) fn encode(&self, target: &Target) -> Raw {
        let width = target.levels - 2;
        let frame = target.root.0 >> 12;
        if !self.scalable {
            let entry = LegacyContext::new().with_present(true).with_width(width).with_domain(target.did);
            return Raw { low: entry.with_table(frame).into_bits(), high: 0 };
        }
        // AW binds the second stage only, but some units (QEMU) bound first-stage addresses by it as well.
        let low = PasidLow::new().with_present(true).with_width(width);
        let low = low.with_domain(target.did).with_walk_snoop(self.walk_snoop);
        if target.table == TableKind::X86FirstStage {
            let low = low.with_translation(Pgtt::FIRST_STAGE.0).with_page_snoop(target.snoop);
            let high = PasidHigh::new().with_fs_mode(target.levels - 4).with_fs_table(frame);
            return Raw { low: low.into_bits(), high: high.into_bits() };
        }
        let low = low.with_translation(Pgtt::SECOND_STAGE.0).with_ss_ad_enable(target.ad);
        Raw { low: low.with_ss_table(frame).into_bits(), high: 0 }
    }

    /// May `old` become `new` by one store? What differs must lie in the low half.
    pub(crate) fn in_one_store(old: Raw, new: Raw) -> bool {
        !old.present() || !new.present() || old.high == new.high
    }

    /// Writes an entry. If it is present now, [`in_one_store`](Self::in_one_store) must hold.
    pub(crate) fn write<T: TableMem>(&self, mem: &T, source: u16, pasid: u32, new: Raw) -> Result<(), Error> {
        let Some(at) = self.entry(mem, source, pasid, new.present())? else { return Ok(()) };
        if self.scalable && new.present() {
            let high = Phys(at.0 + 16);
            if load128(mem, high) != new.high {
                // Nothing looks at it yet: the entry is absent.
                self.store128(mem, high, new.high);
            }
        }
        self.store128(mem, at, new.low);
        if self.scalable && !new.present() {
            self.retire(mem, source);
        }
        Ok(())
    }

    /// Takes the context entry away once no PASID of `source` leads anywhere: a blocked stream then faults as one that was
    /// never attached. The absent entry keeps the directory's address for the next attach.
    fn retire<T: TableMem>(&self, mem: &T, source: u16) {
        let Ok(Some(at)) = self.context(mem, source, false) else { return };
        let context = ScalableContext::from_bits(load128(mem, at));
        let slots = if self.pasid { 512 } else { 1 };
        let in_use = (0..slots)
            .map(|slot| DirectoryEntry::from_bits(mem.load64(Phys((context.directory() << 12) + 8 * slot))))
            .filter(|slot| slot.present())
            .any(|slot| {
                let table = slot.table() << 12;
                (0..u64::from(PER_TABLE)).any(|entry| mem.load64(Phys(table + ENTRY_BYTES * entry)) & 1 != 0)
            });
        if context.present() && !in_use {
            self.store128(mem, at, context.with_present(false).into_bits());
        }
    }

    /// Switches A/D updates or snooping in an entry, if it still belongs to domain `did`.
    pub(crate) fn update<T: TableMem>(
        &self,
        mem: &T,
        source: u16,
        pasid: u32,
        did: u16,
        edit: fn(PasidLow, bool) -> PasidLow,
        on: bool,
    ) {
        if !self.scalable {
            return;
        }
        if let Ok(Some(at)) = self.entry(mem, source, pasid, false) {
            let low = PasidLow::from_bits(load128(mem, at));
            if low.present() && low.domain() == did {
                self.store128(mem, at, edit(low, on).into_bits());
            }
        }
    }
}
