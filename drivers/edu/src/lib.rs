//! Migration driver for the `edu` device.
#![no_std]
#![forbid(unsafe_code)]
