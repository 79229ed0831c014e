//! From a requester to memory: host (v1) tables (2.2.3), GCR3 tables and guest (v2) tables (2.2.4), A and D (2.2.7).

use super::cache::{Entry, TableRef, Tag};
use super::dte::Dte;
use super::fault::{Fail, Reason, Stop};
use super::{PAGE, Unit, field, low_bits};
use crate::Use;

/// Bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Accessed and dirty: the same bits in host and guest entries.
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;

/// `None`: a speculative walk stopped where it would have had to write.
type Walked = Result<Option<Entry>, Stop>;

/// One access.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub iova: u64,
    pub write: bool,
    pub speculative: bool,
}

impl Unit {
    /// One word of a table; a frame that nobody holds as a table is a broken rule.
    pub(super) fn fetch(&self, at: u64, snoops: bool) -> Result<u64, Stop> {
        match self.arena.owner(at) {
            Some(Use::Table) => {}
            Some(Use::Trap) => self.violate("walker followed an entry that was never published", format!("{at:#x}")),
            Some(owner) => self.violate("walker read a frame that is no table", format!("{at:#x} ({owner:?})")),
            None => {}
        }
        self.arena.hw_load(at, snoops).ok_or(Stop { reason: Reason::TABLE_ACCESS, at })
    }

    fn beyond(&self, address: u64) -> bool {
        address >> self.config.caps.pa_bits != 0
    }

    /// Sets bits in an entry. `Some(true)`: done, `Some(false)`: the entry changed, look again, `None`: not allowed to.
    fn update(&mut self, at: u64, entry: u64, want: u64, speculative: bool) -> Option<bool> {
        if entry & want == want {
            return Some(true);
        }
        if speculative {
            return None;
        }
        self.stats.ad_updates += 1;
        Some(self.arena.hw_cas(at, entry, entry | want))
    }

    /// Translates; `speculative` walks leave no event and set no bit.
    pub(super) fn translate(&mut self, sid: u16, pasid: Option<u32>, request: Request) -> Result<u64, Fail> {
        let Request { iova, write, speculative } = request;
        if self.caches()
            && let Some(entry) = self.cache.by_source(sid, pasid, iova)
            && let Some(done) = self.use_entry(&entry, iova, write)
        {
            let tag = entry.tag;
            let (mute, once) = self.cache.device(sid).map_or((false, false), |d| (d.mute, d.once));
            return done.map_err(|r| Fail { stop: r.into(), domain: tag.domain, guest: tag.pasid, mute, once });
        }
        let dte = self.device(sid, pasid)?;
        if pasid.is_none() && self.excluded(&dte, iova) {
            return Ok(iova);
        }
        if !dte.valid {
            self.stats.untranslated += 1;
            return Ok(iova);
        }
        let guest = match pasid {
            None if dte.guest && dte.guest_io => Some(0),
            other => other,
        };
        let fail = |stop: Stop| Fail { stop, domain: dte.domain, guest, mute: dte.mute, once: dte.once };
        if !dte.translates {
            let quiet = self.config.quirks.quiet_blocked;
            return Err(Fail { mute: dte.mute || quiet, ..fail(Reason::NOT_PRESENT.into()) });
        }
        if pasid.is_some() && !dte.guest {
            return Err(fail(Reason::NOT_PRESENT.into()));
        }
        let tag = Tag { domain: dte.domain, pasid: guest };
        if self.caches()
            && let Some(entry) = self.cache.by_tag(tag, iova)
            && let Some(done) = self.use_entry(&entry.limited(dte.read, dte.write), iova, write)
        {
            return done.map_err(|r| fail(r.into()));
        }
        self.stats.walks += 1;
        let walked = match guest {
            Some(pasid) => self.walk_guest(sid, &dte, tag, pasid, request),
            None => self.walk_host(&dte, tag, request),
        };
        match walked {
            Ok(Some(entry)) => {
                let pa = entry.pa | iova & low_bits(entry.log2);
                if self.caches() {
                    let cut = self.adversarial() && self.rng.one_in(2);
                    let entry = if cut { entry.piece(iova) } else { entry };
                    self.cache.keep(sid, pasid, iova, entry, (dte.read, dte.write));
                }
                Ok(pa)
            }
            Ok(None) => Err(fail(Reason::NOT_PRESENT.into())),
            Err(stop) => {
                debug_assert!(!speculative || stop.reason.code != 0);
                Err(fail(stop))
            }
        }
    }

    /// What a cached entry says; `None` if hardware walks again because D is to be set. A right that was missing when
    /// the entry was read is missing until it is invalidated.
    fn use_entry(&mut self, entry: &Entry, iova: u64, write: bool) -> Option<Result<u64, Reason>> {
        let allowed = if write { entry.write } else { entry.read };
        if !allowed {
            return Some(Err(Reason::DENIED));
        }
        if write && !entry.settled {
            return None;
        }
        self.stats.hits += 1;
        Some(Ok(entry.pa | iova & low_bits(entry.log2)))
    }

    /// Exclusion range (3.4.5): base with ExEn (0) and Allow (1), limit with its low bits taken as ones.
    fn excluded(&self, dte: &Dte, iova: u64) -> bool {
        let base = self.exclusion_base;
        let range = base & ADDRESS..=self.exclusion_limit | 0xfff;
        base & 1 != 0 && (base & 2 != 0 || (dte.valid && dte.excluded)) && range.contains(&iova)
    }

    /// Host tables.
    fn walk_host(&mut self, dte: &Dte, tag: Tag, request: Request) -> Walked {
        let Request { iova, write, speculative } = request;
        if dte.mode == 0 {
            // Not translated; the rights of the device-table entry apply.
            if !(if write { dte.write } else { dte.read }) {
                return Err(Reason::DENIED.into());
            }
            let page = iova & !(PAGE - 1);
            return Ok(Some(Entry::new(page, 12, true, true, true, tag)));
        }
        if dte.mode < 6 && iova >> (12 + 9 * dte.mode) != 0 {
            return Err(Reason::NOT_PRESENT.into());
        }
        let top = TableRef { table: dte.root, level: dte.mode, read: true, write: true, user: true };
        // Host pointers are cached under the domain whatever the PASID of a nested request.
        let host = Tag { pasid: None, ..tag };
        let cached = if self.caches() { self.cache.table(host, iova) } else { None };
        let mut at = cached.unwrap_or(top);
        loop {
            let shift = 12 + 9 * (at.level as u32 - 1);
            let entry_at = at.table + (iova >> shift & 511) * 8;
            let entry = self.fetch(entry_at, dte.snoops)?;
            if entry & 1 == 0 {
                return Err(Reason::NOT_PRESENT.into());
            }
            let next = field(entry, 11, 9) as usize;
            let leaf = next == 0 || next == 7;
            // 58:52 of a leaf, 60:52 of a pointer.
            let reserved = if leaf { 0x7f << 52 } else { 0x1ff << 52 };
            if entry & reserved != 0 || self.beyond(entry & ADDRESS) {
                self.violate(
                    "reserved bits in a host entry",
                    format!("{entry:#x} at level {} for {iova:#x}", at.level),
                );
                return Err(Reason::RESERVED.into());
            }
            let read = at.read && entry >> 61 & 1 != 0;
            let write_ok = at.write && entry >> 62 & 1 != 0;
            if leaf {
                let Some(log2) = leaf_size(entry, at.level, next == 7) else {
                    self.violate("page size that its level cannot have", format!("{entry:#x} at level {}", at.level));
                    return Err(Reason::BAD_LEVEL.into());
                };
                let pa = entry & ADDRESS & !low_bits(log2);
                if next == 0 && pa != entry & ADDRESS {
                    self.violate("low address bits in a host leaf", format!("{entry:#x} at level {}", at.level));
                }
                if !(if write { write_ok && dte.write } else { read && dte.read }) {
                    return Err(Reason::DENIED.into());
                }
                // Of a page of several entries only the one that was walked gets the bits.
                let want = if dte.accessed { A } else { 0 } | if dte.dirty && write { D } else { 0 };
                match self.update(entry_at, entry, want, speculative) {
                    Some(true) => {}
                    Some(false) => continue,
                    None => return Ok(None),
                }
                let settled = !dte.dirty || write || entry & D != 0;
                return Ok(Some(Entry::new(pa, log2, read, write_ok, settled, tag)));
            }
            if next >= at.level {
                self.violate("next level not below its table", format!("{entry:#x} at level {}", at.level));
                return Err(Reason::BAD_LEVEL.into());
            }
            // Bits of the levels that are skipped must be zero.
            if iova & low_bits(shift as u8) & !low_bits((12 + 9 * next) as u8) != 0 {
                return Err(Reason::NOT_PRESENT.into());
            }
            if dte.accessed {
                match self.update(entry_at, entry, A, speculative) {
                    Some(true) => {}
                    Some(false) => continue,
                    None => return Ok(None),
                }
            }
            at = TableRef { table: entry & ADDRESS, level: next, read, write: write_ok, user: true };
            if self.caches() {
                self.cache.keep_table(host, iova, at);
            }
        }
    }

    /// A guest physical address through the host tables: where it is, and the span around it.
    fn through_host(&mut self, dte: &Dte, tag: Tag, request: Request) -> Walked {
        if dte.mode == 0 {
            return Ok(Some(Entry::new(request.iova & !(PAGE - 1), 12, true, true, true, tag)));
        }
        self.walk_host(dte, tag, request)
    }

    /// An entry of a guest structure: value and physical address.
    fn guest_word(&mut self, dte: &Dte, tag: Tag, gpa: u64, speculative: bool) -> Result<Option<(u64, u64)>, Stop> {
        let request = Request { iova: gpa, write: false, speculative };
        let Some(page) = self.through_host(dte, tag, request)? else { return Ok(None) };
        let at = page.pa | gpa & low_bits(page.log2);
        Ok(Some((self.fetch(at, dte.snoops)?, at)))
    }

    /// The root of the tables of a PASID.
    fn guest_root(
        &mut self,
        sid: u16,
        dte: &Dte,
        tag: Tag,
        pasid: u32,
        speculative: bool,
    ) -> Result<Option<u64>, Stop> {
        if self.caches()
            && let Some(root) = self.cache.root(sid, pasid)
        {
            return Ok(Some(root));
        }
        let levels = dte.glx + 1;
        if pasid.checked_shr(9 * levels).unwrap_or(0) != 0 || pasid >> 20 != 0 {
            return Err(Reason::NOT_PRESENT.into());
        }
        let mut table = dte.gcr3;
        for level in (0..levels).rev() {
            let gpa = table + u64::from(pasid >> (9 * level) & 511) * 8;
            let Some((entry, _)) = self.guest_word(dte, tag, gpa, speculative)? else { return Ok(None) };
            if entry & 1 == 0 {
                return Err(Reason::NOT_PRESENT.into());
            }
            // 63:52 and 11:1 but PWT (3) and PCD (4) of the last level.
            let allowed = if level == 0 { 0x19 } else { 1 };
            if entry & !(ADDRESS | allowed) != 0 {
                self.violate("reserved bits in a GCR3 entry", format!("{entry:#x} of pasid {pasid}"));
                return Err(Reason::RESERVED.into());
            }
            table = entry & ADDRESS;
        }
        if self.caches() {
            self.cache.keep_root(sid, pasid, dte.domain, table);
        }
        Ok(Some(table))
    }

    /// Guest tables, with host tables below them if the mode is not 0.
    fn walk_guest(&mut self, sid: u16, dte: &Dte, tag: Tag, pasid: u32, request: Request) -> Walked {
        let Request { iova, write, speculative } = request;
        let caps = self.config.caps;
        let sign = (iova as i64) >> (11 + 9 * dte.guest_levels as u32);
        if sign != 0 && sign != -1 {
            return Err(Reason::NOT_PRESENT.into());
        }
        let Some(root) = self.guest_root(sid, dte, tag, pasid, speculative)? else { return Ok(None) };
        let top = TableRef { table: root, level: dte.guest_levels, read: true, write: true, user: true };
        // Guest pointers are cached only where they are physical addresses.
        let keeps = self.caches() && dte.mode == 0;
        let mut at = if keeps { self.cache.table(tag, iova) } else { None }.unwrap_or(top);
        loop {
            let shift = 12 + 9 * (at.level as u32 - 1);
            let gpa = at.table + (iova >> shift & 511) * 8;
            let Some((entry, entry_at)) = self.guest_word(dte, tag, gpa, speculative)? else { return Ok(None) };
            if entry & 1 == 0 {
                return Err(Reason::NOT_PRESENT.into());
            }
            let large = at.level > 1 && entry >> 7 & 1 != 0;
            let leaf = large || at.level == 1;
            let mut reserved = if caps.nx { 0 } else { 1 << 63 };
            if large {
                // Bit 12 of a large leaf is PAT.
                reserved |= low_bits(shift as u8) & ADDRESS & !(1 << 12);
                if at.level > 3 {
                    reserved |= 1 << 7;
                }
            }
            if entry & reserved != 0 || (dte.mode == 0 && self.beyond(entry & ADDRESS)) {
                self.violate(
                    "reserved bits in a guest entry",
                    format!("{entry:#x} at level {} for {iova:#x}", at.level),
                );
                return Err(Reason::RESERVED.into());
            }
            let write_ok = at.write && entry & 2 != 0;
            let user = at.user && entry & 4 != 0;
            if leaf && (!user || !(if write { write_ok && dte.write } else { dte.read })) {
                return Err(Reason::DENIED.into());
            }
            let want = A | if leaf && write { D } else { 0 };
            if entry & want != want {
                if dte.mode != 0 && !speculative {
                    // The update is a write to guest memory.
                    let update = Request { iova: gpa, write: true, speculative };
                    self.through_host(dte, tag, update)?;
                }
                match self.update(entry_at, entry, want, speculative) {
                    Some(true) => {}
                    Some(false) => continue,
                    None => return Ok(None),
                }
            }
            if !leaf {
                at = TableRef { table: entry & ADDRESS, level: at.level - 1, read: true, write: write_ok, user };
                if keeps {
                    self.cache.keep_table(tag, iova, at);
                }
                continue;
            }
            let log2 = shift as u8;
            let page = entry & ADDRESS & !low_bits(log2);
            let settled = write || entry & D != 0;
            if dte.mode == 0 {
                return Ok(Some(Entry::new(page, log2, true, write_ok, settled, tag)));
            }
            let target = Request { iova: page | iova & low_bits(log2), write, speculative };
            let Some(host) = self.through_host(dte, tag, target)? else { return Ok(None) };
            // The smaller of the two pages.
            let span = log2.min(host.log2);
            let pa = host.pa | target.iova & low_bits(host.log2) & !low_bits(span);
            let mut entry = Entry::new(pa, span, host.read, write_ok && host.write, settled && host.settled, tag);
            entry.gpa = Some(target.iova & !low_bits(span));
            return Ok(Some(entry));
        }
    }
}

/// Size of a host leaf as a power of two. `encoded`: next level 7, the lowest clear address bit gives it; it must be
/// larger than a page of this level and smaller than one of the next (table of page-size encodings).
fn leaf_size(entry: u64, level: usize, encoded: bool) -> Option<u8> {
    let plain = 12 + 9 * (level as u8 - 1);
    if !encoded {
        return Some(plain);
    }
    let log2 = (12..52u8).find(|n| entry >> n & 1 == 0)? + 1;
    (log2 > plain && log2 < plain + 9).then_some(log2)
}
