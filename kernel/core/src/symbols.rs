//! Names for addresses in a backtrace, if the initial archive has a file `kernel.map`: lines `hex-address name`, ascending.

use spin::Once;

static MAP: Once<&'static [u8]> = Once::new();

/// Remembers the map.
pub fn set(map: &'static [u8]) {
    MAP.call_once(|| map);
}

/// The symbol at or before `at`, and how far `at` is into it.
pub fn name(at: u64) -> Option<(&'static str, u64)> {
    let mut best = None;
    for line in MAP.get()?.split(|b| *b == b'\n') {
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
