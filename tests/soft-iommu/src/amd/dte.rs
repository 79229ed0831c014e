//! Device-table entries (2.2.2.1), and the rule that hardware never sees one half-written (reliability class 14).

use super::config::Caps;
use super::fault::{Fail, Reason, Stop};
use super::regs::{COHERENT, GUEST};
use super::{PAGE, Unit, field};
use crate::{Store, Use};
use std::collections::BTreeMap;

/// A device-table entry of 256 bits, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Dte {
    pub valid: bool,
    pub translates: bool,
    pub accessed: bool,
    pub dirty: bool,
    pub mode: usize,
    pub root: u64,
    pub read: bool,
    pub write: bool,
    pub domain: u16,
    pub guest: bool,
    /// GIoV: requests without PASID use PASID 0.
    pub guest_io: bool,
    pub glx: u32,
    pub gcr3: u64,
    pub guest_levels: usize,
    pub once: bool,
    pub mute: bool,
    pub snoops: bool,
    pub excluded: bool,
    pub remaps: bool,
    pub interrupts: u64,
    pub interrupt_log2: u32,
    pub interrupt_control: u8,
    /// IG: refused interrupts leave no event.
    pub ignores: bool,
}

/// What an entry means for one purpose; hardware may see the old or the new meaning, or that all is blocked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Meaning {
    Pass,
    Blocked,
    Mapped([u64; 3]),
}

const fn bits(msb: u32, lsb: u32) -> u64 {
    (u64::MAX >> (63 - msb)) & (u64::MAX << lsb)
}

fn gcr3(w: &[u64; 4]) -> u64 {
    field(w[0], 60, 58) << 12 | field(w[1], 31, 16) << 15 | field(w[1], 63, 43) << 31
}

/// Bits that must be zero in a valid entry.
fn reserved(caps: &Caps) -> [u64; 4] {
    // Words 0 and 1: 6:2, 63, 106.
    let mut out = [bits(6, 2) | 1 << 63, 1 << 42, bits(53, 52) | 1 << 59, bits(52, 0)];
    if !caps.gt {
        out[0] |= bits(60, 55);
        out[1] |= bits(31, 16) | bits(63, 43);
        out[2] |= bits(55, 54);
    }
    if !caps.gio {
        out[0] |= 1 << 54;
    }
    if !caps.ppr {
        out[0] |= bits(53, 52);
    }
    if !caps.ha {
        out[0] |= bits(8, 7);
    }
    if !caps.iotlb {
        out[1] |= 1 << 32;
    }
    out
}

impl Dte {
    /// # Errors
    /// What ILLEGAL_DEV_TABLE_ENTRY says, and why in words.
    fn decode(w: &[u64; 4], caps: &Caps) -> Result<Self, (Reason, &'static str)> {
        let mode = field(w[0], 11, 9) as usize;
        let had = field(w[0], 8, 7);
        let guest_mode = field(w[2], 55, 54);
        let dte = Self {
            valid: w[0] & 1 != 0,
            translates: w[0] & 2 != 0,
            accessed: had & 1 != 0,
            dirty: had == 3,
            mode,
            root: w[0] & bits(51, 12),
            read: w[0] >> 61 & 1 != 0,
            write: w[0] >> 62 & 1 != 0,
            domain: w[1] as u16,
            guest: w[0] >> 55 & 1 != 0,
            guest_io: w[0] >> 54 & 1 != 0,
            glx: field(w[0], 57, 56) as u32,
            gcr3: gcr3(w),
            guest_levels: 4 + guest_mode as usize,
            once: w[1] >> 33 & 1 != 0,
            mute: w[1] >> 34 & 1 != 0,
            snoops: w[1] >> 38 & 1 == 0,
            excluded: w[1] >> 39 & 1 != 0,
            remaps: w[2] & 1 != 0,
            interrupts: w[2] & bits(51, 6),
            interrupt_log2: field(w[2], 4, 1) as u32,
            interrupt_control: field(w[2], 61, 60) as u8,
            ignores: w[2] >> 5 & 1 != 0,
        };
        if dte.valid {
            if w.iter().zip(reserved(caps)).any(|(word, mask)| word & mask != 0) {
                return Err((Reason::DTE_RESERVED, "reserved bits"));
            }
            if dte.translates {
                if mode > caps.host_levels() || mode == 7 {
                    return Err((Reason::DTE_INVALID, "mode"));
                }
                if had == 2 || (had == 3 && !caps.hd) {
                    return Err((Reason::DTE_INVALID, "HAD"));
                }
                if dte.guest && (dte.glx > u32::from(caps.glx) || dte.glx == 3) {
                    return Err((Reason::DTE_INVALID, "GLX"));
                }
                if dte.guest && guest_mode > u64::from(caps.gats).min(1) {
                    return Err((Reason::DTE_INVALID, "guest paging mode"));
                }
                if mode != 0 && dte.root >> caps.pa_bits != 0 {
                    return Err((Reason::DTE_INVALID, "root"));
                }
            }
        }
        if dte.remaps {
            let most = if caps.interrupts_2048 { 11 } else { 9 };
            if dte.interrupt_log2 > most {
                return Err((Reason::DTE_INVALID, "interrupt table length"));
            }
            if dte.interrupt_control == 3 {
                return Err((Reason::DTE_INVALID, "interrupt control"));
            }
            if dte.interrupts & 0x7f != 0 {
                return Err((Reason::DTE_RESERVED, "interrupt table not on 128 bytes"));
            }
        }
        Ok(dte)
    }
}

/// For DMA.
fn dma(w: &[u64; 4]) -> Meaning {
    if w[0] & 1 == 0 {
        return Meaning::Pass;
    }
    let guest = w[0] >> 55 & 1 != 0;
    if w[0] & 2 == 0 || (w[0] & (3 << 61) == 0 && !guest) {
        return Meaning::Blocked;
    }
    Meaning::Mapped([w[0], w[1], if guest { w[2] & bits(55, 54) } else { 0 }])
}

/// For interrupts.
fn interrupts(w: &[u64; 4]) -> Meaning {
    match (w[2] & 1, field(w[2], 61, 60)) {
        (0, _) => Meaning::Pass,
        (_, 0) => Meaning::Blocked,
        _ => Meaning::Mapped([w[2] & !bits(55, 54), 0, 0]),
    }
}

impl Unit {
    fn table_bytes(&self) -> u64 {
        (field(self.table_base, 8, 0) + 1) * PAGE
    }
    fn table(&self) -> u64 {
        self.table_base & bits(51, 12)
    }

    /// The entry of a requester, from the cache or from memory.
    pub(super) fn device(&mut self, sid: u16, pasid: Option<u32>) -> Result<Dte, Fail> {
        if self.caches()
            && let Some(dte) = self.cache.device(sid)
        {
            return Ok(dte);
        }
        let early = |reason: Reason, at: u64| Fail::early(Stop { reason, at }, pasid);
        let offset = u64::from(sid) * 32;
        if offset >= self.table_bytes() {
            return Err(early(Reason::DTE_INVALID, 0));
        }
        let at = self.table() + offset;
        match self.arena.owner(at) {
            Some(Use::Table) => {}
            None => return Err(early(Reason::DTE_ACCESS, at)),
            Some(owner) => self.violate("device table in a frame that is not held", format!("{at:#x} ({owner:?})")),
        }
        let words = self.arena.hw_load_n::<4>(at, self.control & COHERENT != 0);
        let words = words.ok_or(early(Reason::DTE_ACCESS, at))?;
        let dte = Dte::decode(&words, &self.config.caps).map_err(|(reason, why)| {
            self.violate("illegal device table entry", format!("{why}: {words:#x?} of {sid:#06x}"));
            early(reason, at)
        })?;
        if dte.valid && dte.translates && dte.guest && self.control & GUEST == 0 {
            self.violate("illegal device table entry", format!("GV without GTEn of {sid:#06x}"));
            return Err(early(Reason::DTE_INVALID, at));
        }
        if self.caches() {
            self.check_shared(sid, &dte);
            self.cache.keep_device(sid, dte);
        }
        Ok(dte)
    }

    /// Translations are found by domain id: entries that share one must share the table (2.2.2.1, DomainID).
    fn check_shared(&self, sid: u16, dte: &Dte) {
        let maps = |d: &Dte| d.valid && d.translates && d.mode != 0;
        if !maps(dte) {
            return;
        }
        let other = self
            .cache
            .devices()
            .find(|(_, d)| maps(d) && d.domain == dte.domain && (d.root != dte.root || d.mode != dte.mode));
        if let Some((other, _)) = other {
            self.violate("one domain id for two tables", format!("{:#x}: {other:#06x} and {sid:#06x}", dte.domain));
        }
    }

    /// Replays `journal`: after each store every entry must mean, for DMA and for interrupts, what it meant before or
    /// will mean after, or block.
    pub(super) fn check_torn(&mut self, journal: &[Store]) {
        let (first, last) = (self.table(), self.table() + self.table_bytes() - 1);
        let mut touched: BTreeMap<u64, Vec<&Store>> = BTreeMap::new();
        for store in journal.iter().filter(|s| (first..=last).contains(&s.pa)) {
            touched.entry(store.pa & !31).or_default().push(store);
        }
        for (at, stores) in touched {
            let after: [u64; 4] = std::array::from_fn(|n| self.arena.load64(at + 8 * n as u64));
            let place = |now: &mut [u64; 4], store: &Store, values: &[u64; 2]| {
                for (n, value) in values.iter().enumerate().take(usize::from(store.words)) {
                    now[(store.pa - at) as usize / 8 + n] = *value;
                }
            };
            let mut now = after;
            for store in stores.iter().rev() {
                place(&mut now, store, &store.old);
            }
            let before = now;
            for store in stores {
                place(&mut now, store, &store.new);
                let fits = |meaning: fn(&[u64; 4]) -> Meaning| {
                    let seen = meaning(&now);
                    seen == Meaning::Blocked || seen == meaning(&before) || seen == meaning(&after)
                };
                if !fits(dma) || !fits(interrupts) {
                    self.violate(
                        "torn entry",
                        format!("at {at:#x}: {before:#x?} became {after:#x?} through {now:#x?}"),
                    );
                    break;
                }
            }
        }
    }
}
