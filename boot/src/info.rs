//! What every boot protocol boils down to.

/// What a range of physical memory is, in the terms of ACPI 6.5 table 15.4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryKind {
    /// Free for use.
    Usable,
    /// Not for use: firmware, device windows, or a type we do not know.
    Reserved,
    /// ACPI tables; usable once they were read.
    AcpiReclaim,
    /// ACPI firmware state; kept.
    AcpiNvs,
    /// Faulty.
    Bad,
}

/// One range of physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryRegion {
    /// First address.
    pub base: u64,
    /// Bytes; more than zero; `base + length` does not overflow.
    pub length: u64,
    /// What it is.
    pub kind: MemoryKind,
}

impl MemoryRegion {
    /// Address after the last.
    pub const fn end(&self) -> u64 {
        self.base + self.length
    }
}

/// Most regions that are kept.
pub const MAX_REGIONS: usize = 64;
/// Longest command line that is kept, in bytes.
pub const MAX_CMDLINE: usize = 2048;

const PROGRAM: &str = "exec=";

/// The memory map, in the order firmware gave it.
#[derive(Clone, Debug)]
pub struct MemoryMap {
    regions: [MemoryRegion; MAX_REGIONS],
    count: usize,
    dropped: usize,
}

impl MemoryMap {
    /// No region.
    pub const fn new() -> Self {
        let none = MemoryRegion { base: 0, length: 0, kind: MemoryKind::Bad };
        Self { regions: [none; MAX_REGIONS], count: 0, dropped: 0 }
    }
    /// Adds a region; one that is empty, wraps, or does not fit any more is counted as dropped.
    pub fn push(&mut self, region: MemoryRegion) {
        if region.length == 0 || region.base.checked_add(region.length).is_none() || self.count == MAX_REGIONS {
            self.dropped += 1;
            return;
        }
        self.regions[self.count] = region;
        self.count += 1;
    }
    /// All regions.
    pub fn regions(&self) -> &[MemoryRegion] {
        &self.regions[..self.count]
    }
    /// Regions that were left out because they were nonsense or too many.
    pub const fn dropped(&self) -> usize {
        self.dropped
    }
}

impl Default for MemoryMap {
    fn default() -> Self {
        Self::new()
    }
}

/// State that an earlier kernel left for this one. Nothing produces it yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handover {
    /// Physical address of the record.
    pub base: u64,
    /// Bytes.
    pub length: u64,
}

/// All the kernel learns from its loader.
#[derive(Clone, Debug)]
pub struct BootInfo {
    /// Physical memory.
    pub memory: MemoryMap,
    /// Initial archive: physical base and length in bytes.
    pub initrd: Option<(u64, u64)>,
    /// Physical address of the ACPI RSDP.
    pub rsdp: Option<u64>,
    /// State of an earlier kernel.
    pub handover: Option<Handover>,
    cmdline: [u8; MAX_CMDLINE],
    cmdline_len: usize,
}

impl BootInfo {
    /// Nothing known yet.
    pub const fn empty() -> Self {
        Self {
            memory: MemoryMap::new(),
            initrd: None,
            rsdp: None,
            handover: None,
            cmdline: [0; MAX_CMDLINE],
            cmdline_len: 0,
        }
    }
    /// Sets the command line; bytes from the first that is not UTF-8, and beyond [`MAX_CMDLINE`], are cut.
    pub fn set_cmdline(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(MAX_CMDLINE)];
        let good = match core::str::from_utf8(bytes) {
            Ok(_) => bytes.len(),
            Err(e) => e.valid_up_to(),
        };
        self.cmdline[..good].copy_from_slice(&bytes[..good]);
        self.cmdline_len = good;
    }
    /// The command line, without the name of the kernel.
    pub fn cmdline(&self) -> &str {
        core::str::from_utf8(&self.cmdline[..self.cmdline_len]).unwrap_or("")
    }
    /// The words before the first program.
    fn own_words(&self) -> impl Iterator<Item = &str> {
        self.cmdline().split_ascii_whitespace().take_while(|word| !word.starts_with(PROGRAM))
    }
    /// The values of every `key=value` word, in order, still encoded; a bare `key` has the value `""`. Words from `exec=` on
    /// belong to the first program.
    pub fn options<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.own_words().filter_map(move |word| match word.split_once('=') {
            Some((k, v)) if k == key => Some(v),
            None if word == key => Some(""),
            _ => None,
        })
    }
    /// The first program and its arguments, still encoded: what follows `exec=`, to the end of the line.
    pub fn program(&self) -> impl Iterator<Item = &str> {
        let mut words = self.cmdline().split_ascii_whitespace().skip_while(|word| !word.starts_with(PROGRAM));
        let first = words.next().map(|word| &word[PROGRAM.len()..]).filter(|path| !path.is_empty());
        first.into_iter().chain(words)
    }
    /// The first of [`options`](Self::options).
    pub fn option<'a>(&'a self, key: &'a str) -> Option<&'a str> {
        self.options(key).next()
    }
}

/// Undoes `%HH`, by which the command line carries blanks and bytes that are not printable. A `%` without two hexadecimal
/// digits stays. Returns the length in `to`; what does not fit is cut.
pub fn decode(value: &str, to: &mut [u8]) -> usize {
    let hex = |b: Option<&u8>| b.and_then(|b| (*b as char).to_digit(16)).map(|d| d as u8);
    let from = value.as_bytes();
    let (mut at, mut n) = (0, 0);
    while at < from.len() && n < to.len() {
        (to[n], at) = match (from[at], hex(from.get(at + 1)), hex(from.get(at + 2))) {
            (b'%', Some(high), Some(low)) => (high << 4 | low, at + 3),
            (byte, ..) => (byte, at + 1),
        };
        n += 1;
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_by_whole_word() {
        let mut info = BootInfo::empty();
        info.set_cmdline(b"quiet xenv=no env=a=1 env= exec=/bin/a env=2 exec=b");
        assert_eq!(info.option("env"), Some("a=1"));
        assert!(info.options("env").eq(["a=1", ""]));
        assert!(info.program().eq(["/bin/a", "env=2", "exec=b"]));
        assert_eq!(info.option("quiet"), Some(""));
        assert_eq!(info.option("test"), None);
    }

    #[test]
    fn percent_codes_are_undone() {
        let mut out = [0; 16];
        let n = decode("a%20b%25%zz%4", &mut out);
        assert_eq!(&out[..n], b"a b%%zz%4");
        assert_eq!(decode("%41%42%43", &mut out[..2]), 2);
        assert_eq!(&out[..2], b"AB");
    }

    #[test]
    fn a_command_line_is_cut_at_the_first_bad_byte() {
        let mut info = BootInfo::empty();
        info.set_cmdline(b"good \xff bad");
        assert_eq!(info.cmdline(), "good ");
        info.set_cmdline(&[b'a'; MAX_CMDLINE + 9]);
        assert_eq!(info.cmdline().len(), MAX_CMDLINE);
    }

    #[test]
    fn regions_that_wrap_or_overflow_the_table_are_counted() {
        let mut map = MemoryMap::new();
        map.push(MemoryRegion { base: u64::MAX, length: 2, kind: MemoryKind::Usable });
        map.push(MemoryRegion { base: 0, length: 0, kind: MemoryKind::Usable });
        assert_eq!((map.regions().len(), map.dropped()), (0, 2));
        for i in 0..MAX_REGIONS as u64 + 3 {
            map.push(MemoryRegion { base: i << 12, length: 4096, kind: MemoryKind::Usable });
        }
        assert_eq!((map.regions().len(), map.dropped()), (MAX_REGIONS, 5));
    }
}
