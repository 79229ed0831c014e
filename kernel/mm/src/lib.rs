//! Address spaces and physical frames.
#![no_std]
#![forbid(unsafe_code)]
