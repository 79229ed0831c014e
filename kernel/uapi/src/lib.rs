//! Linux struct layouts, numbers and errno.
#![no_std]
#![forbid(unsafe_code)]
