//! The end of the kernel: what happened, where, and a status for QEMU.

use crate::log::Port;
use crate::platform::start;
use crate::{events, exit};
use arch_x86_64::trap::{KernelFrame, exception_name, fault_address};
use arch_x86_64::{cpu, image};
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

static ENDING: AtomicBool = AtomicBool::new(false);

/// Only the first to come may print; a panic inside a panic ends at once.
fn begin() {
    if ENDING.swap(true, Ordering::AcqRel) {
        exit::panicked();
    }
    start::steal_serial();
}

fn trace(first: Option<u64>, frame: u64) -> ! {
    let _ = writeln!(Port, "backtrace:");
    let mut n = 0;
    // A return address may be the first of the next function, if the call never comes back: look at the byte before.
    let mut line = |at: u64, back: u64| {
        match crate::symbols::name(at - back) {
            Some((name, offset)) => {
                let _ = writeln!(Port, "  {n:2}: {at:#x} {name}+{:#x}", offset + back);
            }
            None => {
                let _ = writeln!(Port, "  {n:2}: {at:#x}");
            }
        }
        n += 1;
    };
    if let Some(at) = first {
        line(at, 0);
    }
    start::backtrace(frame, |at| line(at, 1));
    exit::panicked()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let frame = start::frame_pointer();
    begin();
    let _ = write!(Port, "\nkernel panic: {}", info.message());
    if let Some(at) = info.location() {
        let _ = write!(Port, "\n  at {}:{}", at.file(), at.line());
    }
    let _ = writeln!(Port);
    events::panic(info.message().as_str().unwrap_or("see the lines above"));
    trace(None, frame)
}

/// An exception in kernel mode that nothing expected.
pub fn exception(f: &KernelFrame) -> ! {
    begin();
    let _ = write!(Port, "\nkernel panic: {} (vector {}, code {:#x})", exception_name(f.vector), f.vector, f.error);
    let at = fault_address();
    let guarded = |at: u64| image().guards.iter().any(|g| (*g..g + 4096).contains(&at));
    if f.vector == 14 {
        let what = match (f.error & 16 != 0, f.error & 2 != 0) {
            (true, _) => "execute",
            (_, true) => "write",
            _ => "read",
        };
        let why = if f.error & 1 != 0 { "forbidden" } else { "not mapped" };
        let _ = write!(Port, ": {what} of {at:#x}, {why}");
    } else if f.vector == 8 && guarded(at) {
        let _ = write!(Port, ": kernel stack overflow at {at:#x}");
    }
    let _ = writeln!(Port, " on cpu {}", cpu::id());
    let rows = [
        [("rip", f.rip), ("rsp", f.rsp), ("rflags", f.rflags), ("cr2", at)],
        [("rax", f.rax), ("rbx", f.rbx), ("rcx", f.rcx), ("rdx", f.rdx)],
        [("rsi", f.rsi), ("rdi", f.rdi), ("rbp", f.rbp), ("r8", f.r8)],
        [("r9", f.r9), ("r10", f.r10), ("r11", f.r11), ("r12", f.r12)],
        [("r13", f.r13), ("r14", f.r14), ("r15", f.r15), ("cs", f.cs)],
    ];
    for row in rows {
        for (name, value) in row {
            let _ = write!(Port, "  {name:>6} {value:016x}");
        }
        let _ = writeln!(Port);
    }
    events::panic(exception_name(f.vector));
    trace(Some(f.rip), f.rbp)
}
