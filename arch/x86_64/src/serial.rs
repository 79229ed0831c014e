//! The first serial port (COM1).

use spin::{Mutex, MutexGuard};
use uart_16550::backend::PioBackend;
use uart_16550::{Config, Uart16550};

const COM1: u16 = 0x3f8;

/// COM1. Without a port that answers, output is dropped.
pub struct Serial {
    uart: Option<Uart16550<PioBackend>>,
}

static SERIAL: Mutex<Serial> = Mutex::new(Serial { uart: None });

/// Finds and programs COM1 for 115200 baud, 8N1. Call once, early.
pub fn init() {
    // SAFETY: COM1 of a PC; `SERIAL` keeps it the only owner.
    if let Ok(mut uart) = unsafe { Uart16550::new_port(COM1) } {
        let config = Config { baud_rate: uart_16550::BaudRate::Baud115200, ..Config::DEFAULT };
        if uart.init(config).is_ok() {
            SERIAL.lock().uart = Some(uart);
        }
    }
}

/// The port, locked.
pub fn serial() -> MutexGuard<'static, Serial> {
    SERIAL.lock()
}

/// Breaks the lock, for a kernel that is ending.
///
/// # Safety
/// Whoever holds the lock never runs again.
pub unsafe fn force_unlock() {
    // SAFETY: by the caller.
    unsafe { SERIAL.force_unlock() }
}

impl Serial {
    /// Sends bytes as they are; waits for the port, at most some milliseconds a byte.
    pub fn write(&mut self, bytes: &[u8]) {
        let Some(uart) = &mut self.uart else { return };
        let mut rest = bytes;
        let mut stalls = 0u32;
        while !rest.is_empty() {
            let sent = uart.send_bytes(rest);
            rest = &rest[sent..];
            stalls = if sent == 0 { stalls + 1 } else { 0 };
            // Somebody unplugged the other end and flow control says stop: drop the rest.
            if stalls > 1_000_000 {
                return;
            }
        }
    }
    /// The next byte that came in.
    pub fn read(&mut self) -> Option<u8> {
        self.uart.as_mut()?.try_receive_byte().ok()
    }
}
