//! Migration driver for the Intel 82576 (`igb`).
#![no_std]
#![forbid(unsafe_code)]
