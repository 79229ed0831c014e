//! Sockets over smoltcp.
#![no_std]
#![forbid(unsafe_code)]
