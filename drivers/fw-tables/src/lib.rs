//! Firmware tables (DMAR, IVRS, IORT, device tree) to one neutral `Topology`.
#![no_std]
#![forbid(unsafe_code)]
