//! System-call decoding and dispatch.
#![no_std]
#![forbid(unsafe_code)]
