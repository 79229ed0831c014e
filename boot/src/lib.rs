//! Entry points (PVH) to `BootInfo`.
#![no_std]
