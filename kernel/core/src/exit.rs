//! Ending the machine with a status that the host can tell apart.
//!
//! isa-debug-exit makes QEMU's own status `v * 2 + 1`, of which a parent sees 8 bits: so `v` is 0..=127.

use arch_x86_64::port;

/// Highest exit status of the first program that is passed on as it is.
pub const MAX_STATUS: u32 = 119;
/// The first program's status is above [`MAX_STATUS`], or a signal ended it: the last line on the console says which.
pub const OTHER: u32 = 125;
/// The first program could not be started: not there, or no static ELF. The console says why.
pub const NOT_STARTED: u32 = 126;
/// The kernel panicked.
pub const PANIC: u32 = 127;

/// Ends the machine.
pub fn machine(v: u32) -> ! {
    port::exit(v)
}

/// Ends the machine with a program's exit status, 0..=255.
pub fn with_status(status: u32) -> ! {
    if status <= MAX_STATUS {
        machine(status);
    }
    crate::console::print(format_args!("exit status {status}\n"));
    machine(OTHER)
}
