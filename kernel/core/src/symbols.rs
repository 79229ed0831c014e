//! Names for addresses in a backtrace, if the initial archive has a file `kernel.map`: lines `hex-address name`, ascending.
//!
//! Used by a kernel that is ending: nothing here allocates, and nothing is looked for before it is needed.

use spin::Once;

static ARCHIVE: Once<&'static [u8]> = Once::new();

/// Remembers the initial archive.
pub fn init(archive: &'static [u8]) {
    ARCHIVE.call_once(|| archive);
}

/// The bytes of `kernel.map` (cpio "newc": 110 bytes of header, name, data, each padded to 4).
fn map() -> Option<&'static [u8]> {
    let archive = *ARCHIVE.get()?;
    let mut at = 0;
    loop {
        let header = archive.get(at..at + 110)?;
        let field = |n: usize| {
            let digits = core::str::from_utf8(header.get(6 + 8 * n..14 + 8 * n)?).ok()?;
            usize::from_str_radix(digits, 16).ok()
        };
        let (size, name_size) = (field(6)?, field(11)?);
        let name = archive.get(at + 110..at + 110 + name_size)?;
        let data = (at + 110 + name_size).next_multiple_of(4);
        if name == b"kernel.map\0" {
            return archive.get(data..data + size);
        }
        at = (data + size).next_multiple_of(4);
    }
}

/// The symbol at or before `at`, and how far `at` is into it.
pub fn name(at: u64) -> Option<(&'static str, u64)> {
    let mut best = None;
    for line in map()?.split(|b| *b == b'\n') {
        let line = core::str::from_utf8(line).ok()?;
        let Some((address, name)) = line.split_once(' ') else { continue };
        let Ok(address) = u64::from_str_radix(address, 16) else { continue };
        if address > at {
            break;
        }
        best = Some((name, at - address));
    }
    best
}
