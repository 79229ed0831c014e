//! Translation: stage 1, stage 2, both; VMSAv8-64 tables with 4 KiB granule (Arm ARM D8), hardware update of access
//! flag and dirty state (IHI 0070, 3.13).

use super::cache::{Leaf, SPAN, TableRef, Tag};
use super::cd::{Cd, Half};
use super::event::{CLASS_IN, CLASS_TT, Fail, Reason};
use super::ste::{Kind, Ste};
use super::{Unit, field};

const AF: u64 = 1 << 10;
const NG: u64 = 1 << 11;
const NT: u64 = 1 << 16;
const DBM: u64 = 1 << 51;
const CONTIGUOUS: u64 = 1 << 52;
/// AP\[2\] at stage 1 (set: read only), S2AP\[1\] at stage 2 (set: writable).
const BIT7: u64 = 1 << 7;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// One set of tables.
struct Regime {
    s2: bool,
    tag: Tag,
    root: u64,
    start: u32,
    ia_bits: u32,
    out_bits: u32,
    ha: bool,
    hd: bool,
    affd: bool,
    snoops: bool,
    had: bool,
    /// Class and address of a stage-2 fault.
    class: u8,
    stall: bool,
    record: bool,
}

impl Regime {
    fn fail(&self, reason: Reason, at: u64) -> Fail {
        let fail = if self.s2 { Fail::s2(reason, self.class, at) } else { Fail::s1(reason) };
        Fail { stall: self.stall, silent: !self.record && !self.stall, ..fail }
    }
}

/// A translation with what led to it.
pub(super) struct Found {
    pub pa: u64,
    leaf: Leaf,
    global: bool,
}

impl Unit {
    /// Where `iova` leads.
    pub(super) fn translate(
        &mut self,
        sid: u32,
        ssid: Option<u32>,
        iova: u64,
        write: bool,
        prefetch: bool,
    ) -> Result<u64, Fail> {
        let ste = self.ste(sid)?;
        let flat = |unit: &Self| {
            if iova >> unit.config.caps.oas_bits() == 0 { Ok(iova) } else { Err(Fail::s1(Reason::ADDR_SIZE)) }
        };
        match ste.kind {
            Kind::Abort => Err(Fail::ABORT),
            Kind::Bypass | Kind::S2 if ssid.is_some() => Err(Fail::of(Reason::BAD_SUBSTREAMID)),
            Kind::Bypass => flat(self),
            Kind::S2 => self.stage2(&ste, iova, write, CLASS_IN, prefetch).map(|f| f.pa),
            Kind::S1 | Kind::Nested => match self.cd(sid, &ste, ssid, prefetch)? {
                Some(cd) => self.stage1(&ste, &cd, iova, write, prefetch),
                None if ste.kind == Kind::Nested => self.stage2(&ste, iova, write, CLASS_IN, prefetch).map(|f| f.pa),
                None => flat(self),
            },
        }
    }

    fn stage1(&mut self, ste: &Ste, cd: &Cd, iova: u64, write: bool, prefetch: bool) -> Result<u64, Fail> {
        // The half is chosen by bit 55 where the top byte is ignored, else by bit 63 (3.4.1).
        let upper = if cd.halves[usize::from(iova >> 55 & 1 == 1)].tbi { iova >> 55 & 1 } else { iova >> 63 };
        let half: &Half = &cd.halves[upper as usize];
        let tag = Tag::S1 { el2: ste.el2, vmid: ste.vmid, asid: Some(cd.asid) };
        let mut regime = Regime {
            s2: false,
            tag,
            root: half.ttb,
            start: 0,
            ia_bits: half.ia_bits,
            out_bits: cd.ips_bits,
            ha: cd.ha,
            hd: cd.hd,
            affd: cd.affd,
            snoops: self.config.caps.cohacc && half.cacheable,
            had: half.had,
            class: CLASS_IN,
            stall: cd.stall,
            record: cd.record,
        };
        let out = regime.fail(Reason::TRANSLATION, 0);
        if half.disabled {
            return Err(out);
        }
        let va = if half.tbi { ((iova << 8) as i64 >> 8) as u64 } else { iova };
        let top = (va as i64 >> half.ia_bits) as u64;
        if top != (if upper == 1 { u64::MAX } else { 0 }) {
            return Err(out);
        }
        regime.start = 4 - (half.ia_bits - 12).div_ceil(9);

        // A prefetch looks at the tables although the answer is known, as another port of the walker may.
        if self.caches()
            && !prefetch
            && let Some((base, leaf)) = self.cache.find(tag, va)
        {
            let allowed = if write { leaf.write && !leaf.clean } else { leaf.read } && (leaf.user || ste.privileged);
            if allowed {
                self.stats.hits += 1;
                return Ok(leaf.pa + (va - base));
            }
            if ste.kind == Kind::S1 && !(write && leaf.write && leaf.clean) {
                self.stats.hits += 1;
                return Err(regime.fail(Reason::PERMISSION, 0));
            }
        }
        let mut found = self.descend(ste, &regime, va, write, prefetch)?;
        let right = if write { found.leaf.write } else { found.leaf.read };
        if !right || !(found.leaf.user || ste.privileged) {
            return Err(regime.fail(Reason::PERMISSION, 0));
        }
        if ste.kind == Kind::Nested {
            let second = self.stage2(ste, found.pa, write, CLASS_IN, prefetch)?;
            found.pa = second.pa;
            let class = found.leaf.class.min(second.leaf.class);
            found.leaf = Leaf {
                pa: second.pa & !(SPAN[class] - 1),
                class,
                read: found.leaf.read && second.leaf.read,
                write: found.leaf.write && second.leaf.write,
                clean: found.leaf.clean || second.leaf.clean,
                nt: found.leaf.nt || second.leaf.nt,
                attr: found.leaf.attr | second.leaf.attr << 16,
                seq: found.leaf.seq.min(second.leaf.seq),
                ..found.leaf
            };
        }
        if self.caches() {
            let asid = if found.global { None } else { Some(cd.asid) };
            self.fill(Tag::S1 { el2: ste.el2, vmid: ste.vmid, asid }, va, found.leaf);
        }
        Ok(found.pa)
    }

    /// Stage 2 of `ipa`.
    pub(super) fn stage2(
        &mut self,
        ste: &Ste,
        ipa: u64,
        write: bool,
        class: u8,
        prefetch: bool,
    ) -> Result<Found, Fail> {
        let s2 = &ste.s2;
        let tag = Tag::S2 { vmid: ste.vmid };
        let regime = Regime {
            s2: true,
            tag,
            root: s2.ttb,
            start: s2.start,
            ia_bits: s2.ia_bits,
            out_bits: s2.ps_bits,
            ha: s2.ha,
            hd: s2.hd,
            affd: s2.affd,
            snoops: self.config.caps.cohacc && s2.cacheable,
            had: false,
            class,
            stall: s2.stall && class == CLASS_IN,
            record: s2.record,
        };
        if ipa >> s2.ia_bits != 0 {
            return Err(regime.fail(Reason::TRANSLATION, ipa));
        }
        if self.caches()
            && !prefetch
            && let Some((base, leaf)) = self.cache.find(tag, ipa)
        {
            let allowed = if write { leaf.write && !leaf.clean } else { leaf.read };
            if allowed {
                self.stats.hits += 1;
                return Ok(Found { pa: leaf.pa + (ipa - base), leaf, global: false });
            }
            if !(write && leaf.write && leaf.clean) {
                self.stats.hits += 1;
                return Err(regime.fail(Reason::PERMISSION, ipa));
            }
        }
        let found = self.descend(ste, &regime, ipa, write, prefetch)?;
        if !(if write { found.leaf.write } else { found.leaf.read }) {
            return Err(regime.fail(Reason::PERMISSION, ipa));
        }
        if self.caches() {
            self.fill(tag, ipa, found.leaf);
        }
        Ok(found)
    }

    fn fill(&mut self, tag: Tag, at: u64, leaf: Leaf) {
        if let Some((rule, detail)) = self.cache.keep(tag, at, leaf, self.config.caps.bbml) {
            self.violate(rule, detail);
        }
    }

    /// Walks the tables of one stage. Faults but permission come from here; an update of D only with the permission.
    fn descend(&mut self, ste: &Ste, r: &Regime, at: u64, write: bool, prefetch: bool) -> Result<Found, Fail> {
        self.stats.walks += 1;
        let nested = !r.s2 && ste.kind == Kind::Nested;
        let mut seq = self.cache.tick();
        let mut level = r.start;
        let mut from = TableRef { pa: r.root, ipa: r.root, read_only: false, no_user: false, seq };
        if self.caches()
            && let Some((cached, table)) = self.cache.table(r.tag, at)
            && cached > r.start
        {
            // Only stage 1 keeps the address of its tables after stage 2.
            (level, from, seq) = (cached, table, seq.min(table.seq));
        } else if nested {
            from.pa = 0;
        }
        let limit = |unit: &Self| r.out_bits.min(unit.config.caps.oas_bits());
        let low = if r.ia_bits == 64 { at } else { at & ((1 << r.ia_bits) - 1) };
        loop {
            let shift = 39 - 9 * level;
            let index = if level == r.start { low >> shift } else { low >> shift & 511 };
            let entry_ipa = from.ipa + 8 * index;
            let entry = if nested && from.pa == 0 {
                let found = self.stage2(ste, entry_ipa, false, CLASS_TT, prefetch)?;
                seq = seq.min(found.leaf.seq);
                found.pa
            } else {
                from.pa + 8 * index
            };
            let Some(desc) = self.load(entry, r.snoops, "translation table") else {
                return Err(Fail { fetch: entry, class: CLASS_TT, ..r.fail(Reason::WALK_EABT, at) });
            };
            self.torn.saw_table(entry & !0xfff, r.s2, level);
            let kind = desc & 3;
            if kind & 1 == 0 || (kind == 1 && (level == 0 || level == 3)) {
                return Err(r.fail(Reason::TRANSLATION, at));
            }
            if level < 3 && kind == 3 {
                let next = desc & ADDRESS;
                if next >> limit(self) != 0 && !nested {
                    return Err(r.fail(Reason::ADDR_SIZE, at));
                }
                let hierarchical = !r.s2 && !r.had;
                from = TableRef {
                    pa: next,
                    ipa: next,
                    read_only: from.read_only || (hierarchical && desc >> 62 & 1 == 1),
                    no_user: from.no_user || (hierarchical && desc >> 61 & 1 == 1),
                    seq,
                };
                if nested {
                    let found = self.stage2(ste, next, false, CLASS_TT, prefetch)?;
                    seq = seq.min(found.leaf.seq);
                    from.pa = found.pa;
                    from.seq = seq;
                }
                if self.caches() {
                    self.cache.keep_table(r.tag, at, level, from);
                }
                level += 1;
                continue;
            }
            // A leaf.
            let bytes = 1u64 << shift;
            let oa = desc & ADDRESS & !(bytes - 1);
            let stray = desc & ADDRESS & (bytes - 1) & if level < 3 { !NT } else { !0 };
            if stray != 0 || field(desc, 50, 48) != 0 {
                self.violate("reserved bits of a descriptor", format!("{desc:#x} at {entry:#x}, level {level}"));
            }
            if oa >> limit(self) != 0 {
                return Err(r.fail(Reason::ADDR_SIZE, at));
            }
            let mut new = desc;
            if desc & AF == 0 {
                if r.ha {
                    new |= AF;
                } else if !r.affd {
                    return Err(r.fail(Reason::ACCESS, at));
                }
            }
            let dbm = r.hd && desc & DBM != 0;
            let writable = if r.s2 { desc & BIT7 != 0 } else { desc & BIT7 == 0 };
            let may_write = (writable || dbm) && !from.read_only;
            let user = r.s2 || (desc & 1 << 6 != 0 && !from.no_user);
            let may_read = !r.s2 || desc & 1 << 6 != 0;
            if write && dbm && !writable && may_write && (user || ste.privileged) {
                new = if r.s2 { new | BIT7 } else { new & !BIT7 };
            }
            if new != desc {
                if !r.snoops {
                    self.violate("hardware update through a walk that is not snooped", format!("{entry:#x}"));
                }
                if nested {
                    // The update is a write to the page that holds the table (3.13.5).
                    self.stage2(ste, entry_ipa, true, CLASS_TT, prefetch)?;
                }
                if !self.arena.hw_cas(entry, desc, new) {
                    if r.snoops {
                        continue;
                    }
                    return Err(Fail { fetch: entry, class: CLASS_TT, ..r.fail(Reason::WALK_EABT, at) });
                }
                self.stats.updates += 1;
            }
            let writable = if r.s2 { new & BIT7 != 0 } else { new & BIT7 == 0 };
            let run = desc & CONTIGUOUS != 0 && self.caches();
            let class = 2 * (3 - level as usize) + usize::from(run);
            if run {
                self.check_run(r, entry, desc, bytes);
            }
            let attr = if r.s2 {
                field(desc, 5, 2) | field(desc, 9, 8) << 8
            } else {
                field(desc, 4, 2) | field(desc, 9, 8) << 8
            };
            let pa = oa + (at & (bytes - 1));
            let leaf = Leaf {
                pa: pa & !(SPAN[class] - 1),
                class,
                level,
                read: may_read,
                write: may_write,
                user,
                clean: may_write && !writable,
                nt: level < 3 && desc & NT != 0,
                attr,
                seq,
            };
            return Ok(Found { pa, leaf, global: !r.s2 && desc & NG == 0 });
        }
    }

    /// The sixteen entries of a run agree but in what hardware updates; those not valid yet (or any more) are passed.
    fn check_run(&self, r: &Regime, entry: u64, desc: u64, bytes: u64) {
        let own = 0x0780_0000_0000_0000 | AF | if desc & DBM != 0 { BIT7 } else { 0 };
        let slot = entry >> 3 & 15;
        let first = (desc & !own).wrapping_sub(slot * bytes);
        if first & ADDRESS & (16 * bytes - 1) & !NT != 0 {
            self.violate("contiguous run is not aligned", format!("{desc:#x} at {entry:#x}"));
        }
        for n in 0..16 {
            let at = (entry & !127) + 8 * n;
            let Some(other) = self.arena.hw_load(at, r.snoops) else { continue };
            if other & 1 == 1 && other & !own != first.wrapping_add(n * bytes) {
                self.violate(
                    "contiguous run is not uniform",
                    format!("{desc:#x} at {entry:#x}, {other:#x} at {at:#x}"),
                );
                return;
            }
        }
    }
}
