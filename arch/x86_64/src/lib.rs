//! x86-64: CPU set-up, MMU, traps, timer, serial, system-call entry.
#![no_std]
