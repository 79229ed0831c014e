//! Processes and threads.
#![no_std]
#![forbid(unsafe_code)]
