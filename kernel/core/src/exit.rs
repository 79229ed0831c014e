//! Ending the machine with a status that the host can tell apart (docs/protocol.md).
//!
//! isa-debug-exit makes QEMU's own status `v * 2 + 1`, of which a parent sees 8 bits: so `v` is 0..=127.

use crate::events::{Value, send};
use arch_x86_64::port;

/// Highest exit status of the first program that is passed on as it is.
const MAX_STATUS: u8 = 119;
/// The status is above [`MAX_STATUS`], or a signal ended the program: the `exit` event says which.
const OTHER: u32 = 125;
/// The first program could not be started: not there, or no static ELF. The `error` event says why.
const NOT_STARTED: u32 = 126;
/// Panic or exception in the kernel.
const PANIC: u32 = 127;

/// The first program, or the shell, ended with `status`.
pub fn with_status(status: u8) -> ! {
    send("exit", &[("status", Value::Number(status.into()))]);
    port::exit(if status <= MAX_STATUS { status.into() } else { OTHER })
}

/// A signal ended the first program.
pub fn with_signal(signal: u8) -> ! {
    send("exit", &[("signal", Value::Number(signal.into()))]);
    port::exit(OTHER)
}

/// There is nothing to run.
pub fn not_started(why: &str) -> ! {
    log::error!("{why}");
    send("error", &[("message", Value::Text(why))]);
    port::exit(NOT_STARTED)
}

/// After a panic was reported.
pub fn panicked() -> ! {
    port::exit(PANIC)
}
