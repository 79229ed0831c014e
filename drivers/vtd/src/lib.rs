//! Intel VT-d: `spec` (layouts only) and the driver.
#![no_std]
#![forbid(unsafe_code)]
