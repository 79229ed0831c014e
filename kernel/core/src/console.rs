//! The serial console: output of programs, and input.

use alloc::collections::VecDeque;
use arch_x86_64::serial;
use spin::Mutex;

/// Input bytes kept until somebody reads them; more are dropped.
const MAX_INPUT: usize = 4096;

static INPUT: Mutex<VecDeque<u8>> = Mutex::new(VecDeque::new());

/// Prints text of the kernel.
pub fn print(text: core::fmt::Arguments<'_>) {
    let _ = core::fmt::Write::write_fmt(&mut crate::log::Port, text);
}

/// Sends bytes of a program, as they are.
pub fn write(bytes: &[u8]) {
    serial::serial().write(bytes);
}

/// Takes what came in at the port; true if there is input.
pub fn poll() -> bool {
    let mut input = INPUT.lock();
    let mut port = serial::serial();
    while let Some(byte) = port.read() {
        if input.len() < MAX_INPUT {
            input.push_back(byte);
        }
    }
    !input.is_empty()
}

/// Takes up to `to.len()` bytes of input; returns how many.
pub fn read(to: &mut [u8]) -> usize {
    poll();
    let mut input = INPUT.lock();
    let mut n = 0;
    while n < to.len() {
        let Some(byte) = input.pop_front() else { break };
        to[n] = byte;
        n += 1;
    }
    n
}
