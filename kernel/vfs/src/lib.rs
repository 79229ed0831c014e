//! Files and file descriptors.
#![no_std]
#![forbid(unsafe_code)]
