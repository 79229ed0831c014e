//! Stream tables and stream table entries (IHI 0070, 5.1 and 5.2).

use super::config::{Caps, size_bits};
use super::event::{Fail, Reason};
use super::{Unit, field};

/// What an STE does with a transaction (Config).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Abort,
    Bypass,
    S1,
    S2,
    Nested,
}

/// Stage 2 of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct S2 {
    pub ia_bits: u32,
    pub start: u32,
    pub ps_bits: u32,
    pub ttb: u64,
    pub affd: bool,
    pub ha: bool,
    pub hd: bool,
    pub stall: bool,
    pub record: bool,
    pub cacheable: bool,
}

/// A decoded STE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ste {
    pub kind: Kind,
    pub cd_table: u64,
    pub cd_max: u32,
    pub cd_fmt: u8,
    pub dss: u8,
    pub cd_cacheable: bool,
    pub vmid: u16,
    pub el2: bool,
    pub privileged: bool,
    pub eats: u8,
    pub s2: S2,
}

impl Ste {
    pub fn stage1(&self) -> bool {
        matches!(self.kind, Kind::S1 | Kind::Nested)
    }
    pub fn stage2(&self) -> bool {
        matches!(self.kind, Kind::S2 | Kind::Nested)
    }
}

/// Decodes, or says why the entry is ILLEGAL.
pub(super) fn decode(w: &[u64; 8], caps: &Caps) -> Result<Ste, &'static str> {
    if w[0] & 1 == 0 {
        return Err("V is 0");
    }
    let config = field(w[0], 3, 1);
    let kind = match config {
        0..=3 => Kind::Abort,
        4 => Kind::Bypass,
        5 => Kind::S1,
        6 => Kind::S2,
        _ => Kind::Nested,
    };
    let mut ste = Ste {
        kind,
        cd_table: 0,
        cd_max: 0,
        cd_fmt: 0,
        dss: 0,
        cd_cacheable: false,
        vmid: 0,
        el2: false,
        privileged: field(w[1], 49, 48) == 3,
        eats: field(w[1], 29, 28) as u8,
        s2: S2::default(),
    };
    if kind == Kind::Abort {
        return Ok(Ste { privileged: false, eats: 0, ..ste });
    }
    if kind == Kind::Bypass {
        return Ok(Ste { eats: 0, ..ste });
    }
    let oas = caps.oas_bits();
    if ste.stage1() {
        if !caps.s1p {
            return Err("stage 1 is not implemented");
        }
        ste.cd_table = w[0] & 0x000f_ffff_ffff_ffc0;
        ste.cd_max = field(w[0], 63, 59) as u32;
        if ste.cd_max > u32::from(caps.ssid_bits) {
            return Err("S1CDMax beyond SSIDSIZE");
        }
        if ste.cd_max > 0 {
            ste.cd_fmt = field(w[0], 5, 4) as u8;
            ste.dss = field(w[1], 1, 0) as u8;
            if ste.cd_fmt == 3 || (ste.cd_fmt != 0 && !caps.cd2l) {
                return Err("S1Fmt");
            }
            if ste.dss == 3 {
                return Err("S1DSS");
            }
        }
        if kind == Kind::S1 && ste.cd_table >> oas != 0 {
            return Err("S1ContextPtr beyond the output size");
        }
        ste.cd_cacheable = field(w[1], 3, 2) == 1 && field(w[1], 5, 4) == 1;
        if field(w[1], 27, 27) == 1 && caps.stall_model != 0 {
            return Err("S1STALLD with another stall model");
        }
        if kind == Kind::S1 {
            match field(w[1], 31, 30) {
                0 => {}
                2 if caps.hyp => ste.el2 = true,
                _ => return Err("STRW"),
            }
        }
    }
    if caps.s2p && !ste.el2 {
        ste.vmid = w[2] as u16;
        if !caps.vmid16 && ste.vmid > 0xff {
            return Err("VMID of 16 bits");
        }
    }
    if ste.stage2() {
        if !caps.s2p {
            return Err("stage 2 is not implemented");
        }
        if field(w[2], 51, 51) == 0 {
            return Err("S2AA64 is 0");
        }
        if field(w[2], 52, 52) == 1 {
            return Err("S2ENDI");
        }
        if field(w[2], 47, 46) != 0 || caps.granules & 1 == 0 {
            // Other granules are legal, but not in this model.
            return Err("S2TG");
        }
        let tsz = field(w[2], 37, 32) as u32;
        if !(16..=39).contains(&tsz) || 64 - tsz > oas {
            return Err("S2T0SZ");
        }
        let ia = 64 - tsz;
        let (start, range) = match field(w[2], 39, 38) {
            2 if oas >= 44 => (0, 40..=48),
            1 => (1, 31..=43),
            0 => (2, 22..=34),
            _ => return Err("S2SL0"),
        };
        if !range.contains(&ia) {
            return Err("S2SL0 does not fit S2T0SZ");
        }
        let (hd, ha) = (field(w[2], 55, 55) == 1, field(w[2], 56, 56) == 1);
        if (ha && caps.httu < 1) || (hd && caps.httu < 2) {
            return Err("S2HA or S2HD without HTTU");
        }
        let stall = field(w[2], 57, 57) == 1;
        if (stall && caps.stall_model == 1) || (!stall && caps.stall_model == 2) {
            return Err("S2S against the stall model");
        }
        if field(w[1], 25, 25) == 1 && !caps.fwb {
            return Err("S2FWB");
        }
        let ttb = w[3] & 0x000f_ffff_ffff_fff0;
        if ttb >> oas != 0 {
            return Err("S2TTB beyond the output size");
        }
        ste.s2 = S2 {
            ia_bits: ia,
            start,
            ps_bits: size_bits(field(w[2], 50, 48) as u8).min(oas),
            ttb,
            affd: field(w[2], 53, 53) == 1,
            ha,
            hd: hd && ha,
            stall,
            record: field(w[2], 58, 58) == 1,
            cacheable: field(w[2], 41, 40) == 1 && field(w[2], 43, 42) == 1,
        };
    }
    if caps.ats {
        match ste.eats {
            3 => return Err("EATS"),
            2 if caps.ns1ats || kind != Kind::Nested => return Err("EATS split stage"),
            1 if ste.stage2() && ste.s2.stall => return Err("EATS with S2S"),
            _ => {}
        }
    } else {
        ste.eats = 0;
    }
    Ok(ste)
}

impl Unit {
    /// Where the STE of `sid` is, if the table reaches it (5.1, 6.3.24, 6.3.25).
    pub(super) fn ste_address(&mut self, sid: u32, cached: bool) -> Result<u64, Fail> {
        let bad = Fail::of(Reason::BAD_STREAMID);
        let base = self.strtab_base & 0x000f_ffff_ffff_ffc0;
        let (fmt, split, log2) = (self.strtab_cfg >> 16 & 3, self.strtab_cfg >> 6 & 31, self.strtab_cfg & 63);
        if sid >> self.config.caps.sid_bits.min(31) != 0 || (log2 < 32 && sid >> log2 != 0) {
            return Err(bad);
        }
        if fmt == 0 {
            return Ok(base + 64 * u64::from(sid));
        }
        let top = sid >> split;
        let at = base + 8 * u64::from(top);
        let desc = match self.cache.l1_ste(top).filter(|_| cached && self.caches()) {
            Some(desc) => desc,
            None => {
                let snoops = self.table_snoops();
                let desc = self.load(at, snoops, "stream table").ok_or(Fail::fetch(Reason::STE_FETCH, at))?;
                if self.caches() {
                    self.cache.keep_l1_ste(top, desc);
                }
                desc
            }
        };
        let span = field(desc, 4, 0) as u32;
        if span == 0 || span > 11 || span > split + 1 {
            return Err(bad);
        }
        let low = sid & ((1 << split) - 1);
        if low >> (span - 1) != 0 {
            return Err(bad);
        }
        let size = 64u64 << (span - 1);
        let table = desc & 0x000f_ffff_ffff_ffc0;
        if table & (size - 1) != 0 {
            self.violate("level-2 stream table is not aligned to its size", format!("{table:#x} of {size:#x} bytes"));
        }
        Ok((table & !(size - 1)) + 64 * u64::from(low))
    }

    /// The STE of `sid`, cached or fetched. Refusals are cached as well: an entry with V = 0 is an entry.
    pub(super) fn ste(&mut self, sid: u32) -> Result<Ste, Fail> {
        if let Some(found) = self.cache.ste(sid).filter(|_| self.caches()) {
            return found;
        }
        let at = self.ste_address(sid, true)?;
        if !self.may_touch(at, "stream table") {
            return Err(Fail::fetch(Reason::STE_FETCH, at));
        }
        let Some(words) = self.arena.hw_load_n::<8>(at, self.table_snoops()) else {
            return Err(Fail::fetch(Reason::STE_FETCH, at));
        };
        self.stats.fetches += 1;
        let value = decode(&words, &self.config.caps).map_err(|_| Fail::of(Reason::BAD_STE));
        if let Ok(ste) = &value {
            self.check_ste(at, &words, ste);
        }
        if self.caches() {
            self.cache.keep_ste(sid, value);
        }
        value
    }

    /// What is legal, and yet not meant.
    fn check_ste(&self, at: u64, w: &[u64; 8], ste: &Ste) {
        if ste.stage1() && field(w[0], 58, 52) != 0 {
            self.violate("reserved bits of an STE", format!("{at:#x} word 0 {:#x}", w[0]));
        }
        if ste.stage2() {
            let slots = 1u64 << (ste.s2.ia_bits - (39 - 9 * ste.s2.start)).max(3);
            if ste.s2.ttb & (8 * slots - 1) != 0 {
                self.violate(
                    "S2TTB is not aligned to its table",
                    format!("{:#x} of {:#x} bytes", ste.s2.ttb, 8 * slots),
                );
            }
            if field(w[2], 55, 55) == 1 && !ste.s2.ha {
                self.violate("HD without HA", format!("STE at {at:#x}"));
            }
            if field(w[2], 63, 59) != 0 {
                self.violate("reserved bits of an STE", format!("{at:#x} word 2 {:#x}", w[2]));
            }
        }
    }
}
