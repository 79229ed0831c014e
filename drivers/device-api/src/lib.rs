//! What a device with migratable state implements.
#![no_std]
#![forbid(unsafe_code)]
