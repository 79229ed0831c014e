//! The /dev/iommu object model.
#![no_std]
#![forbid(unsafe_code)]
