//! One walk/map/unmap/dirty engine and the table formats it is instantiated with.
#![no_std]
#![forbid(unsafe_code)]
