//! PCI Express: ECAM, capabilities, bridges, ACS and IOMMU groups with reasons.
#![no_std]
#![forbid(unsafe_code)]
