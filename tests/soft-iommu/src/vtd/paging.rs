//! Paging structures: second stage (9.8) and first stage (9.7), with accessed and dirty bits (3.6.2, 3.7.2).

use super::cache::{Entry, SPAN, TableRef, Tag};
use super::fault::Reason;
use super::walk::Target;
use super::{PAGE, Unit};

/// Bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const LARGE: u64 = 1 << 7;

/// A walk that ended without a translation.
pub(super) struct Stop {
    pub reason: Reason,
    /// Caching mode keeps it: the entry is not present or not valid, as opposed to a missing right (6.1).
    pub keep: bool,
}

impl Reason {
    fn kept(self) -> Stop {
        Stop { reason: self, keep: true }
    }
    fn passing(self) -> Stop {
        Stop { reason: self, keep: false }
    }
}

/// What became of an A/D update.
enum Update {
    Done,
    /// The entry changed meanwhile: look again.
    Raced,
    /// Needed, but the walk is speculative.
    Wanted,
    /// Needed, but the walk is not snooped.
    Unsnooped,
}

impl Unit {
    /// Bits 51:HAW must be zero.
    fn high_address(&self) -> u64 {
        ADDRESS & u64::MAX.checked_shl(u32::from(self.config.caps.haw)).unwrap_or(0)
    }

    fn update(&mut self, target: &Target, at: u64, entry: u64, want: u64, speculative: bool) -> Update {
        let quirk = self.config.quirks.fs_ad;
        let missing = if quirk { entry & want == 0 } else { entry & want != want };
        if !missing {
            return Update::Done;
        }
        if speculative {
            return Update::Wanted;
        }
        if !target.snoops && !quirk {
            return Update::Unsnooped;
        }
        self.stats.ad_updates += 1;
        if let Some(late) = &mut self.late {
            late.push((at, entry | want));
            return Update::Done;
        }
        if self.arena.hw_cas(at, entry, entry | want) { Update::Done } else { Update::Raced }
    }

    /// Second stage. `None`: a speculative walk stopped.
    pub(super) fn walk_second(
        &mut self,
        target: &Target,
        tag: Tag,
        iova: u64,
        write: bool,
        speculative: bool,
    ) -> Result<Option<(usize, Entry)>, Stop> {
        let caps = self.config.caps;
        let say = |legacy: Reason, scalable: Reason| if target.scalable { scalable } else { legacy };
        let high = self.high_address();
        let start = TableRef { table: target.root, read: true, write: true, user: true };
        let (mut level, mut at) = self.start(target, tag, iova, start);
        loop {
            let entry_at = at.table + (iova >> (12 + 9 * level) & 511) * 8;
            let [entry] =
                self.fetch::<1>(entry_at, target.snoops).ok_or(say(Reason::SS_ACCESS, Reason::SM_SS_ACCESS).kept())?;
            if entry & 3 == 0 {
                let legacy = if write { Reason::NO_WRITE } else { Reason::NO_READ };
                return Err(say(legacy, Reason::SM_SS_ABSENT).kept());
            }
            let large = entry & LARGE != 0 && level > 0;
            let leaf = large || level == 0;
            // Bit 62 is TM, reserved without device TLBs; bit 11 is SNP in a leaf, reserved without snoop control.
            let mut reserved = high;
            if !(leaf && caps.device_tlb) {
                reserved |= 1 << 62;
            }
            if !(leaf && caps.snoop_control) {
                reserved |= 1 << 11;
            }
            if large {
                reserved |= SPAN.get(level).map_or(0, |span| (span - 1) & ADDRESS);
                if level > 2 || caps.sslps >> (level - 1) & 1 == 0 {
                    reserved |= LARGE;
                }
            }
            if entry & reserved != 0 {
                self.violate(
                    "reserved bits in a second-stage entry",
                    format!("{entry:#x} at level {level} for {iova:#x}"),
                );
                return Err(say(Reason::SS_RESERVED, Reason::SM_SS_RESERVED).kept());
            }
            let rights = TableRef {
                table: entry & ADDRESS,
                read: at.read && entry & 1 != 0,
                write: at.write && entry & 2 != 0,
                user: true,
            };
            if (write && !rights.write) || (!write && !rights.read) {
                let legacy = if write { Reason::NO_WRITE } else { Reason::NO_READ };
                return Err(say(legacy, if write { Reason::SM_NO_WRITE } else { Reason::SM_NO_READ }).passing());
            }
            if target.ad {
                // A is bit 8, D is bit 9 of a leaf.
                let want = 1 << 8 | if leaf && write { 1 << 9 } else { 0 };
                match self.update(target, entry_at, entry, want, speculative) {
                    Update::Done => {}
                    Update::Raced => continue,
                    Update::Wanted => return Ok(None),
                    Update::Unsnooped => return Err(Reason::SM_SS_AD_UNSNOOPED.passing()),
                }
            }
            if leaf {
                let settled = !target.ad || write || entry & 1 << 9 != 0;
                let found = Entry::new(rights.table, rights.read, rights.write, settled, tag);
                return Ok(Some((level, found.class(level))));
            }
            if self.caches() {
                self.cache.keep_table(tag, iova, level, rights);
            }
            at = rights;
            level -= 1;
        }
    }

    /// First stage. `None`: a speculative walk stopped.
    pub(super) fn walk_first(
        &mut self,
        target: &Target,
        tag: Tag,
        iova: u64,
        write: bool,
        speculative: bool,
    ) -> Result<Option<(usize, Entry)>, Stop> {
        let caps = self.config.caps;
        let high = self.high_address();
        let start = TableRef { table: target.root, read: true, write: true, user: true };
        let (mut level, mut at) = self.start(target, tag, iova, start);
        loop {
            let top = level + 1 == target.levels;
            let entry_at = at.table + (iova >> (12 + 9 * level) & 511) * 8;
            let no_access = if top { Reason::FS_ROOT_ACCESS } else { Reason::FS_ACCESS };
            let [entry] = self.fetch::<1>(entry_at, target.snoops).ok_or(no_access.kept())?;
            if entry & 1 == 0 {
                return Err(Reason::FS_ABSENT.kept());
            }
            let large = entry & LARGE != 0 && level > 0;
            let leaf = large || level == 0;
            // XD (bit 63) is reserved without NXE, which this model never has set.
            let mut reserved = high | 1 << 63;
            if large {
                // Bit 12 of a large leaf is PAT.
                reserved |= SPAN.get(level).map_or(0, |span| (span - 1) & ADDRESS & !(1 << 12));
                if level > 2 || (level == 2 && !caps.fs1gp) {
                    reserved |= LARGE;
                }
            }
            if entry & reserved != 0 {
                self.violate(
                    "reserved bits in a first-stage entry",
                    format!("{entry:#x} at level {level} for {iova:#x}"),
                );
                return Err(Reason::FS_RESERVED.kept());
            }
            let rights = TableRef {
                table: entry & ADDRESS & if large { !(1 << 12) } else { u64::MAX },
                read: true,
                write: at.write && entry & 2 != 0,
                user: at.user && entry & 4 != 0,
            };
            if !rights.user {
                return Err(Reason::USER_DENIED.passing());
            }
            if write && !rights.write {
                return Err(Reason::SM_NO_WRITE.passing());
            }
            // A is bit 5, D is bit 6 of a leaf.
            let want = 1 << 5 | if leaf && write { 1 << 6 } else { 0 };
            match self.update(target, entry_at, entry, want, speculative) {
                Update::Done => {}
                Update::Raced => continue,
                Update::Wanted => return Ok(None),
                Update::Unsnooped => return Err(Reason::FS_AD_UNSNOOPED.passing()),
            }
            if leaf {
                let settled = self.config.quirks.fs_ad || write || entry & 1 << 6 != 0;
                let found = Entry::new(rights.table, true, rights.write, settled, tag);
                return Ok(Some((level, found.class(level))));
            }
            if self.caches() {
                self.cache.keep_table(tag, iova, level, rights);
            }
            at = rights;
            level -= 1;
        }
    }

    /// Where a walk starts: the deepest cached table, or the root.
    fn start(&self, target: &Target, tag: Tag, iova: u64, root: TableRef) -> (usize, TableRef) {
        debug_assert_eq!(root.table % PAGE, 0);
        let cached = if self.caches() { self.cache.table(tag, iova, target.levels) } else { None };
        cached.unwrap_or((target.levels - 1, root))
    }
}
