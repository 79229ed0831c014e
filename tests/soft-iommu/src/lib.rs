//! Executable model of IOMMU hardware, written from the specifications.
