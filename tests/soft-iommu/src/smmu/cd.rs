//! Context descriptors (IHI 0070, 5.3 and 5.4).

use super::config::{Caps, size_bits};
use super::event::{CLASS_CD, Fail, Reason};
use super::ste::{Kind, Ste};
use super::{Unit, field};

/// One half of the address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Half {
    pub disabled: bool,
    pub ia_bits: u32,
    pub ttb: u64,
    pub cacheable: bool,
    pub tbi: bool,
    pub had: bool,
}

/// A decoded CD.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Cd {
    pub asid: u16,
    pub halves: [Half; 2],
    pub ips_bits: u32,
    pub affd: bool,
    pub ha: bool,
    pub hd: bool,
    pub stall: bool,
    pub record: bool,
}

/// Decodes, or says why the descriptor is ILLEGAL.
pub(super) fn decode(w: &[u64; 8], caps: &Caps, nested: bool) -> Result<Cd, &'static str> {
    let bit = |word: usize, at: u32| w[word] >> at & 1 == 1;
    if !bit(0, 31) {
        return Err("V is 0");
    }
    if !bit(0, 41) {
        return Err("AA64 is 0");
    }
    if bit(0, 15) {
        return Err("ENDI");
    }
    let (hd, ha) = (bit(0, 42), bit(0, 43));
    if (ha && caps.httu < 1) || (hd && caps.httu < 2) {
        return Err("HA or HD without HTTU");
    }
    let stall = bit(0, 44);
    if (stall && caps.stall_model == 1) || (!stall && caps.stall_model == 2) {
        return Err("S against the stall model");
    }
    if !bit(0, 46) && caps.term_model {
        return Err("A is 0");
    }
    let asid = (w[0] >> 48) as u16;
    if !caps.asid16 && asid > 0xff {
        return Err("ASID of 16 bits");
    }
    let oas = caps.oas_bits();
    let mut halves = [Half::default(); 2];
    for (n, half) in halves.iter_mut().enumerate() {
        let lo = 16 * n as u32;
        half.disabled = bit(0, 14 + lo);
        if half.disabled {
            continue;
        }
        // TG0 counts 4K, 64K, 16K from 0; TG1 16K, 4K, 64K from 1.
        let four_k = if n == 0 { 0 } else { 2 };
        if field(w[0], 7 + lo, 6 + lo) != four_k || caps.granules & 1 == 0 {
            return Err("TG");
        }
        let tsz = field(w[0], 5 + lo, lo) as u32;
        if !(16..=39).contains(&tsz) {
            return Err("TSZ");
        }
        half.ia_bits = 64 - tsz;
        half.cacheable = field(w[0], 9 + lo, 8 + lo) == 1 && field(w[0], 11 + lo, 10 + lo) == 1;
        half.tbi = bit(0, 38 + n as u32);
        half.had = caps.had && bit(1 + n, 1);
        half.ttb = w[1 + n] & 0x000f_ffff_ffff_fff0;
        if half.ttb >> oas != 0 && !nested {
            return Err("TTB beyond the output size");
        }
    }
    Ok(Cd {
        asid,
        halves,
        ips_bits: size_bits(field(w[0], 34, 32) as u8).min(oas),
        affd: bit(0, 35),
        ha,
        hd: hd && ha,
        stall,
        record: bit(0, 45),
    })
}

impl Unit {
    /// A structure of stage 1: through stage 2 if there is one.
    fn cd_read(&mut self, ste: &Ste, at: u64, prefetch: bool) -> Result<(u64, bool), Fail> {
        let snoops = self.config.caps.cohacc && ste.cd_cacheable;
        if ste.kind == Kind::Nested {
            let found = self.stage2(ste, at, false, CLASS_CD, prefetch)?;
            return Ok((found.pa, snoops));
        }
        Ok((at, snoops))
    }

    /// The CD for a substream (5.2 S1CDMax, S1DSS); `None`: stage 1 is bypassed.
    pub(super) fn cd(&mut self, sid: u32, ste: &Ste, ssid: Option<u32>, prefetch: bool) -> Result<Option<Cd>, Fail> {
        let index = match ssid {
            None if ste.cd_max == 0 => 0,
            None => match ste.dss {
                0 => return Err(Fail::of(Reason::STREAM_DISABLED)),
                1 => return Ok(None),
                _ => 0,
            },
            Some(n) if ste.cd_max == 0 || n >> ste.cd_max != 0 => return Err(Fail::of(Reason::BAD_SUBSTREAMID)),
            Some(0) if ste.dss == 2 => return Err(Fail::of(Reason::STREAM_DISABLED)),
            Some(n) => n,
        };
        if let Some(found) = self.cache.cd(sid, index).filter(|_| self.caches()) {
            return found.map(Some);
        }
        let nested = ste.kind == Kind::Nested;
        let bad = Fail::of(Reason::BAD_CD);
        let at = if ste.cd_fmt == 0 || ste.cd_max == 0 {
            ste.cd_table + 64 * u64::from(index)
        } else {
            let leaf_bits = if ste.cd_fmt == 1 { 6 } else { 10 };
            let slot = index >> leaf_bits;
            let desc = match self.cache.l1_cd(sid, slot).filter(|_| self.caches()) {
                Some(desc) => desc,
                None => {
                    let (pa, snoops) = self.cd_read(ste, ste.cd_table + 8 * u64::from(slot), prefetch)?;
                    let desc = self.load(pa, snoops, "CD table").ok_or(Fail::fetch(Reason::CD_FETCH, pa))?;
                    if self.caches() {
                        self.cache.keep_l1_cd(sid, slot, desc);
                    }
                    desc
                }
            };
            if desc & 1 == 0 {
                return Err(Fail::of(Reason::BAD_SUBSTREAMID));
            }
            (desc & 0x000f_ffff_ffff_f000) + 64 * u64::from(index & ((1 << leaf_bits) - 1))
        };
        let (pa, snoops) = self.cd_read(ste, at, prefetch)?;
        if !self.may_touch(pa, "CD table") {
            return Err(Fail::fetch(Reason::CD_FETCH, pa));
        }
        let words = self.arena.hw_load_n::<8>(pa, snoops).ok_or(Fail::fetch(Reason::CD_FETCH, pa))?;
        self.stats.fetches += 1;
        let value = decode(&words, &self.config.caps, nested).map_err(|_| bad);
        if let Ok(cd) = &value {
            if field(words[0], 42, 42) == 1 && !cd.ha {
                self.violate("HD without HA", format!("CD at {pa:#x}"));
            }
            for half in cd.halves.iter().filter(|h| !h.disabled) {
                let top = (half.ia_bits - 12) % 9;
                let bytes = 8u64 << if top == 0 { 9 } else { top };
                if half.ttb & (bytes.max(64) - 1) != 0 {
                    self.violate("TTB is not aligned to its table", format!("{:#x}", half.ttb));
                }
            }
        }
        if self.caches() {
            self.cache.keep_cd(sid, index, value);
        }
        value.map(Some)
    }
}
