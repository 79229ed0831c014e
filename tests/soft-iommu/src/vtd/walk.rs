//! From a requester to its tables: root, context, PASID directory and PASID table (3.4, 9.1 to 9.6).

use super::cache::{Entry, Kind, Tag};
use super::fault::{Fail, Reason};
use super::{PAGE, Unit};
use crate::Use;

/// What a context or PASID entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Target {
    pub kind: Kind,
    pub did: u16,
    pub root: u64,
    pub levels: usize,
    /// Hardware updates A and D.
    pub ad: bool,
    /// Walks of the paging structures are snooped.
    pub snoops: bool,
    /// FPD of the context entry or the PASID entry.
    pub silent: bool,
    pub scalable: bool,
}

/// A context entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Context {
    Legacy(Target),
    Scalable { directory: u64, bits: u32, rid_pasid: u32, pasids: bool, silent: bool },
}

fn absent_bits(from: u32, to: u32) -> u64 {
    (u64::MAX >> (63 - to)) & (u64::MAX << from)
}

impl Unit {
    /// Reads `N` words of a structure; a frame that nobody holds as a table is a broken rule.
    pub(super) fn fetch<const N: usize>(&self, pa: u64, snoops: bool) -> Option<[u64; N]> {
        match self.arena.owner(pa) {
            Some(Use::Table) => {}
            Some(Use::Trap) => self.violate("walker followed an entry that was never published", format!("{pa:#x}")),
            Some(owner) => self.violate("walker read a frame that is no table", format!("{pa:#x} ({owner:?})")),
            None => return None,
        }
        if N == 1 {
            let mut out = [0; N];
            out[0] = self.arena.hw_load(pa, snoops)?;
            return Some(out);
        }
        self.arena.hw_load_n::<N>(pa, snoops)
    }

    fn structures_snooped(&self) -> bool {
        self.config.caps.coherent && !self.config.caps.rwbf
    }

    fn beyond(&self, address: u64) -> bool {
        address & !(PAGE - 1) & u64::MAX.checked_shl(u32::from(self.config.caps.haw)).unwrap_or(0) != 0
    }

    /// Translates; `speculative` walks leave no fault and set no bit.
    pub(super) fn translate(
        &mut self,
        sid: u16,
        pasid: Option<u32>,
        iova: u64,
        write: bool,
        speculative: bool,
    ) -> Result<u64, Fail> {
        if self.caches()
            && let Some(entry) = self.cache.by_source(sid, pasid, iova)
            && let Some(done) = self.use_entry(&entry, iova, write)
        {
            return done.map_err(|r| r.loud());
        }
        let (target, effective) = self.resolve(sid, pasid)?;
        let fail = |reason: Reason| Fail { reason, silent: target.silent };
        let caps = self.config.caps;
        let tag = Tag {
            did: target.did,
            kind: target.kind,
            pasid: if target.kind == Kind::Second || !target.scalable { 0 } else { effective },
        };
        match target.kind {
            Kind::Pass => {
                if self.beyond(iova) {
                    return Err(fail(if target.scalable { Reason::SM_BEYOND_WIDTH } else { Reason::BEYOND_WIDTH }));
                }
                if self.caches() {
                    let entry = Entry::new(iova & !(PAGE - 1), true, true, true, tag);
                    self.cache.keep(sid, pasid, iova, 0, entry);
                }
                return Ok(iova);
            }
            Kind::Second => {
                let width = (12 + 9 * target.levels as u32).min(u32::from(caps.mgaw));
                if iova >> width != 0 {
                    return Err(fail(if target.scalable { Reason::SM_SS_BEYOND_WIDTH } else { Reason::BEYOND_WIDTH }));
                }
            }
            Kind::First => {
                let top = 11 + 9 * target.levels as u32;
                let sign = (iova as i64) >> top;
                if sign != 0 && sign != -1 {
                    return Err(fail(Reason::NOT_CANONICAL));
                }
            }
        }
        if self.caches()
            && let Some(entry) = self.cache.by_tag(tag, iova)
            && let Some(done) = self.use_entry(&entry, iova, write)
        {
            return done.map_err(fail);
        }
        self.stats.walks += 1;
        let walked = match target.kind {
            Kind::First => self.walk_first(&target, tag, iova, write, speculative),
            _ => self.walk_second(&target, tag, iova, write, speculative),
        };
        match walked {
            Ok(Some((class, entry))) => {
                let pa = entry.pa | iova & (super::cache::SPAN[class] - 1);
                if pa & !0xf_ffff == 0xfee0_0000 {
                    let reason = if target.scalable { Reason::SM_INTERRUPT_OUTPUT } else { Reason::INTERRUPT_OUTPUT };
                    return Err(fail(reason));
                }
                if self.caches() {
                    self.cache.keep(sid, pasid, iova, class, entry);
                }
                Ok(pa)
            }
            // A speculative walk that would have to set a bit stops.
            Ok(None) => Err(fail(Reason(0))),
            Err(stop) => {
                if self.caches() && caps.caching_mode && stop.keep {
                    self.cache.keep(sid, pasid, iova, 0, Entry::refusal(stop.reason, tag));
                }
                Err(fail(stop.reason))
            }
        }
    }

    /// What a cached entry says; `None` if hardware walks again: a right is missing (without caching mode) or D is to
    /// be set.
    fn use_entry(&mut self, entry: &Entry, iova: u64, write: bool) -> Option<Result<u64, Reason>> {
        if let Some(reason) = entry.refused {
            self.stats.hits += 1;
            // The legacy code of an absent page tells reads from writes.
            return Some(Err(match reason {
                Reason::NO_WRITE | Reason::NO_READ if write => Reason::NO_WRITE,
                Reason::NO_WRITE | Reason::NO_READ => Reason::NO_READ,
                other => other,
            }));
        }
        let allowed = if write { entry.write } else { entry.read };
        if !allowed || (write && !entry.settled) {
            return None;
        }
        self.stats.hits += 1;
        Some(Ok(entry.pa | iova & entry.mask()))
    }

    /// The tables for a request, and the PASID it counts as.
    fn resolve(&mut self, sid: u16, pasid: Option<u32>) -> Result<(Target, u32), Fail> {
        let rtaddr = self.latched.unwrap_or(0);
        match rtaddr >> 10 & 3 {
            0 if pasid.is_some() => return Err(Reason::PASID_IN_LEGACY.loud()),
            0 | 1 => {}
            3 => return Err(Reason::ABORT_MODE.loud()),
            _ => return Err(Reason::ROOT_POINTER.loud()),
        }
        let context = match self.cache.context(sid).filter(|_| self.caches()) {
            Some(kept) => kept,
            None => {
                let read = self.read_context(rtaddr, sid);
                if self.caches() && (read.is_ok() || self.config.caps.caching_mode) {
                    let did = if let Ok(Context::Legacy(target)) = read { target.did } else { 0 };
                    self.cache.keep_context(sid, did, read);
                }
                read
            }
        }?;
        let Context::Scalable { directory, bits, rid_pasid, pasids, silent } = context else {
            let Context::Legacy(target) = context else { unreachable!() };
            return Ok((target, 0));
        };
        let fail = |reason: Reason| Fail { reason, silent };
        let effective = match pasid {
            Some(_) if !pasids => return Err(fail(Reason::PASID_DISABLED)),
            Some(p) => p,
            None => rid_pasid,
        };
        if effective >> bits != 0 {
            return Err(fail(Reason::PASID_TOO_LARGE));
        }
        let target = match self.cache.pasid(sid, effective).filter(|_| self.caches()) {
            Some(kept) => kept,
            None => {
                let read = self.read_pasid(directory, effective, silent);
                if self.caches() {
                    if let Ok(target) = read {
                        self.cache.keep_pasid(sid, effective, Some(target.did), read);
                        if self.config.quirks.pasid_in_context {
                            self.cache.keep_sticky(sid, effective, target);
                        }
                    } else if self.config.caps.caching_mode {
                        self.cache.keep_pasid(sid, effective, None, read);
                    }
                }
                read
            }
        }?;
        Ok((target, effective))
    }

    fn check_did(&self, did: u16, sid: &dyn std::fmt::Display) {
        if u32::from(did) >= self.config.caps.domain_ids() {
            self.violate("domain id beyond CAP.ND", format!("{did:#x} of {sid}"));
        }
        if did == 0 && self.config.caps.caching_mode {
            self.violate("domain id 0 with caching mode", format!("{sid}"));
        }
    }

    fn read_context(&self, rtaddr: u64, sid: u16) -> Result<Context, Fail> {
        let caps = &self.config.caps;
        let snoops = self.structures_snooped();
        let scalable = rtaddr >> 10 & 3 == 1;
        let (bus, devfn) = (u64::from(sid >> 8), u64::from(sid & 0xff));
        let root = (rtaddr & !(PAGE - 1)) + bus * 16;
        let low_reserved = absent_bits(1, 11);
        if !scalable {
            let [lo, hi] = self.fetch::<2>(root, snoops).ok_or(Reason::ROOT_ACCESS.loud())?;
            if lo & 1 == 0 {
                return Err(Reason::ROOT_ABSENT.loud());
            }
            if lo & low_reserved != 0 || hi != 0 || self.beyond(lo) {
                self.violate("reserved bits in a root entry", format!("{hi:#x}_{lo:016x} of bus {bus:#x}"));
                return Err(Reason::ROOT_RESERVED.loud());
            }
            let at = (lo & !(PAGE - 1)) + devfn * 16;
            let [lo, hi] = self.fetch::<2>(at, snoops).ok_or(Reason::CONTEXT_ACCESS.loud())?;
            let silent = lo & 2 != 0;
            let fail = |reason: Reason| Fail { reason, silent };
            if lo & 1 == 0 {
                return Err(fail(Reason::CONTEXT_ABSENT));
            }
            // 9.3: bits 11:4, 71 and 127:88 are reserved, 70:67 ignored.
            if lo & absent_bits(4, 11) != 0 || hi & (absent_bits(24, 63) | 1 << 7) != 0 || self.beyond(lo) {
                self.violate("reserved bits in a context entry", format!("{hi:#x}_{lo:016x} of {sid:#06x}"));
                return Err(fail(Reason::CONTEXT_RESERVED));
            }
            let (tt, aw, did) = (lo >> 2 & 3, hi & 7, (hi >> 8) as u16);
            let supported = matches!(aw, 1..=3) && caps.sagaw >> aw & 1 != 0;
            let kind = match tt {
                0 => Kind::Second,
                1 if caps.device_tlb => Kind::Second,
                2 if caps.pass_through => Kind::Pass,
                _ => {
                    self.violate("context entry that hardware cannot use", format!("{hi:#x}_{lo:016x} of {sid:#06x}"));
                    return Err(fail(Reason::CONTEXT_INVALID));
                }
            };
            if !supported {
                self.violate("context entry that hardware cannot use", format!("AW {aw} of {sid:#06x}"));
                return Err(fail(Reason::CONTEXT_INVALID));
            }
            self.check_did(did, &format_args!("{sid:#06x}"));
            return Ok(Context::Legacy(Target {
                kind,
                did,
                root: lo & !(PAGE - 1),
                levels: aw as usize + 2,
                ad: false,
                snoops,
                silent,
                scalable: false,
            }));
        }
        // 9.2: the lower half of the bus in the low word, the upper half in the high word.
        let half = root + 8 * (devfn >> 7);
        let [entry] = self.fetch::<1>(half, snoops).ok_or(Reason::SM_ROOT_ACCESS.loud())?;
        if entry & 1 == 0 {
            return Err(Reason::SM_ROOT_ABSENT.loud());
        }
        if entry & low_reserved != 0 || self.beyond(entry) {
            self.violate("reserved bits in a root entry", format!("{entry:#x} of bus {bus:#x}"));
            return Err(Reason::SM_ROOT_RESERVED.loud());
        }
        let at = (entry & !(PAGE - 1)) + (devfn & 0x7f) * 32;
        let words = self.fetch::<4>(at, snoops).ok_or(Reason::SM_CONTEXT_ACCESS.loud())?;
        let silent = words[0] & 2 != 0;
        let fail = |reason: Reason| Fail { reason, silent };
        if words[0] & 1 == 0 {
            return Err(fail(Reason::SM_CONTEXT_ABSENT));
        }
        // 9.4: DTE bit 2, PASIDE bit 3, PRE bit 4, PDTS 11:9, directory 63:12, RID_PASID 83:64, RID_PRIV 84.
        let bad_id = !caps.rid_pasid && words[1] & 0xf_ffff != 0;
        let bad_pasid = caps.pasid_bits == 0 && words[0] & 8 != 0;
        if words[0] & absent_bits(4, 8) != 0
            || (words[0] & 4 != 0 && !caps.device_tlb)
            || words[1] >> 20 != 0
            || words[2] | words[3] != 0
            || bad_id
            || bad_pasid
            || self.beyond(words[0])
        {
            self.violate("reserved bits in a scalable context entry", format!("{words:#x?} of {sid:#06x}"));
            return Err(fail(Reason::SM_CONTEXT_RESERVED));
        }
        Ok(Context::Scalable {
            directory: words[0] & !(PAGE - 1),
            // 2^(PDTS + 7) directory entries of 64 PASIDs each.
            bits: (words[0] >> 9 & 7) as u32 + 13,
            rid_pasid: (words[1] & 0xf_ffff) as u32,
            pasids: words[0] & 8 != 0,
            silent,
        })
    }

    fn read_pasid(&self, directory: u64, pasid: u32, quiet: bool) -> Result<Target, Fail> {
        let caps = &self.config.caps;
        let snoops = self.structures_snooped();
        let fail = |reason: Reason| Fail { reason, silent: quiet };
        let at = directory + 8 * u64::from(pasid >> 6);
        let [entry] = self.fetch::<1>(at, snoops).ok_or(fail(Reason::DIRECTORY_ACCESS))?;
        let quiet = quiet || entry & 2 != 0;
        let fail = |reason: Reason| Fail { reason, silent: quiet };
        if entry & 1 == 0 {
            return Err(fail(Reason::DIRECTORY_ABSENT));
        }
        if entry & absent_bits(2, 11) != 0 || self.beyond(entry) {
            self.violate("reserved bits in a PASID-directory entry", format!("{entry:#x} of pasid {pasid}"));
            return Err(fail(Reason::DIRECTORY_RESERVED));
        }
        let at = (entry & !(PAGE - 1)) + 64 * u64::from(pasid & 63);
        let words = self.fetch::<8>(at, snoops).ok_or(fail(Reason::PASID_ACCESS))?;
        let quiet = quiet || words[0] & 2 != 0;
        let fail = |reason: Reason| Fail { reason, silent: quiet };
        if words[0] & 1 == 0 {
            return Err(fail(Reason::PASID_ABSENT));
        }
        // 9.6. Word 0: AW 4:2, PGTT 8:6, SSADE 9. Word 1: DID 15:0, PWSNP 23, PGSNP 24, cacheability 95:89 and PAT
        // (without ECAP.MTS reserved). Word 2: SRE 0, FSPM 3:2, WPE 4, NXE 5, SMEP 6, EAFE 7.
        let pwsnp = words[1] >> 23 & 1 != 0;
        let pgsnp = words[1] >> 24 & 1 != 0;
        let ssade = words[0] >> 9 & 1 != 0;
        let reserved = words[0] & (1 << 5 | absent_bits(10, 11)) != 0
            || words[1] & (absent_bits(16, 22) | absent_bits(25, 63)) != 0
            || words[2] & absent_bits(6, 11) != 0
            || words[3..].iter().any(|w| *w != 0)
            || (pwsnp && !caps.smpwc)
            || (pgsnp && !caps.snoop_control)
            || (ssade && !caps.ssads)
            || (words[2] & 1 != 0 && !caps.supervisor);
        if reserved {
            self.violate("reserved bits in a PASID entry", format!("{words:#x?} of pasid {pasid}"));
            return Err(fail(Reason::PASID_RESERVED));
        }
        let (aw, pgtt, fspm) = (words[0] >> 2 & 7, words[0] >> 6 & 7, words[2] >> 2 & 3);
        let aw_fits = matches!(aw, 1..=3) && caps.sagaw >> aw & 1 != 0;
        let (kind, root, levels) = match pgtt {
            1 if caps.first_stage && (fspm == 0 || (fspm == 1 && caps.fs5lp)) => {
                (Kind::First, words[2] & !(PAGE - 1), 4 + fspm as usize)
            }
            2 if caps.second_stage && aw_fits => (Kind::Second, words[0] & !(PAGE - 1), aw as usize + 2),
            4 if caps.pass_through => (Kind::Pass, 0, 0),
            _ => {
                self.violate("PASID entry that hardware cannot use", format!("{words:#x?} of pasid {pasid}"));
                return Err(fail(Reason::PASID_INVALID));
            }
        };
        if self.beyond(root) {
            self.violate("reserved bits in a PASID entry", format!("root {root:#x} of pasid {pasid}"));
            return Err(fail(Reason::PASID_RESERVED));
        }
        let did = words[1] as u16;
        self.check_did(did, &format_args!("pasid {pasid}"));
        Ok(Target {
            kind,
            did,
            root,
            levels,
            ad: match kind {
                Kind::First => true,
                Kind::Second => ssade,
                Kind::Pass => false,
            },
            snoops: caps.smpwc && pwsnp && !caps.rwbf,
            silent: quiet,
            scalable: true,
        })
    }
}
