//! The boundaries between page tables, IOMMU drivers and the object model (DESIGN section 4).
#![no_std]
#![forbid(unsafe_code)]
