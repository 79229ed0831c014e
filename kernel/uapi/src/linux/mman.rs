//! Memory: mmap(2), mremap(2), madvise(2), memfd_create(2).
use super::constants;

constants! {
    PROT_READ: u64 = 1,
    PROT_WRITE: u64 = 2,
    PROT_EXEC: u64 = 4,
    PROT_GROWSDOWN: u64 = 0x0100_0000,
    PROT_GROWSUP: u64 = 0x0200_0000,
    MAP_SHARED: u64 = 0x01,
    MAP_PRIVATE: u64 = 0x02,
    MAP_SHARED_VALIDATE: u64 = 0x03,
    MAP_TYPE: u64 = 0x0f,
    MAP_FIXED: u64 = 0x10,
    MAP_ANONYMOUS: u64 = 0x20,
    MAP_32BIT: u64 = 0x40,
    MAP_GROWSDOWN: u64 = 0x100,
    MAP_LOCKED: u64 = 0x2000,
    MAP_NORESERVE: u64 = 0x4000,
    MAP_POPULATE: u64 = 0x8000,
    MAP_NONBLOCK: u64 = 0x1_0000,
    MAP_STACK: u64 = 0x2_0000,
    MAP_HUGETLB: u64 = 0x4_0000,
    MAP_FIXED_NOREPLACE: u64 = 0x10_0000,
    MREMAP_MAYMOVE: u64 = 1,
    MREMAP_FIXED: u64 = 2,
    MREMAP_DONTUNMAP: u64 = 4,
    MADV_NORMAL: u64 = 0,
    MADV_DONTNEED: u64 = 4,
    MADV_FREE: u64 = 8,
    MADV_REMOVE: u64 = 9,
    MADV_DONTFORK: u64 = 10,
    MADV_POPULATE_READ: u64 = 22,
    MADV_POPULATE_WRITE: u64 = 23,
    MFD_CLOEXEC: u64 = 1,
    MFD_ALLOW_SEALING: u64 = 2,
    MFD_HUGETLB: u64 = 4,
    MFD_NOEXEC_SEAL: u64 = 8,
    MFD_EXEC: u64 = 16,
    /// Page present, in an entry of /proc/self/pagemap.
    PAGEMAP_PRESENT: u64 = 1 << 63,
    /// File page or shared anonymous page.
    PAGEMAP_FILE: u64 = 1 << 61,
    /// Mapped once only.
    PAGEMAP_EXCLUSIVE: u64 = 1 << 56,
    /// Written since the last clear_refs.
    PAGEMAP_SOFT_DIRTY: u64 = 1 << 55,
}
