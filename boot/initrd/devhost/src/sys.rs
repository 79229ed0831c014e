//! System calls and the layouts of linux/iommufd.h and linux/vfio.h that devhost uses. Together with [`crate::memory`] the
//! only unsafe code; what it offers is safe.

use crate::memory::Window;
use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::atomic::AtomicU64,
    time::Duration,
};

/// Command values: type ';' (0x3b), no direction or size bits.
pub mod cmd {
    /// IOMMU_DESTROY
    pub const DESTROY: u32 = 0x3B80;
    /// IOMMU_IOAS_ALLOC
    pub const IOAS_ALLOC: u32 = 0x3B81;
    /// IOMMU_IOAS_IOVA_RANGES
    pub const IOVA_RANGES: u32 = 0x3B84;
    /// IOMMU_IOAS_MAP
    pub const IOAS_MAP: u32 = 0x3B85;
    /// IOMMU_IOAS_UNMAP
    pub const IOAS_UNMAP: u32 = 0x3B86;
    /// IOMMU_OPTION
    pub const OPTION: u32 = 0x3B87;
    /// IOMMU_HWPT_ALLOC
    pub const HWPT_ALLOC: u32 = 0x3B89;
    /// IOMMU_HWPT_SET_DIRTY_TRACKING
    pub const SET_DIRTY: u32 = 0x3B8B;
    /// IOMMU_HWPT_GET_DIRTY_BITMAP
    pub const GET_DIRTY: u32 = 0x3B8C;
    /// VFIO_DEVICE_GET_REGION_INFO
    pub const REGION_INFO: u32 = 0x3B6C;
    /// VFIO_DEVICE_RESET
    pub const RESET: u32 = 0x3B6F;
    /// VFIO_DEVICE_FEATURE
    pub const FEATURE: u32 = 0x3B75;
    /// VFIO_DEVICE_BIND_IOMMUFD
    pub const BIND: u32 = 0x3B76;
    /// VFIO_DEVICE_ATTACH_IOMMUFD_PT
    pub const ATTACH: u32 = 0x3B77;
    /// VFIO_DEVICE_DETACH_IOMMUFD_PT
    pub const DETACH: u32 = 0x3B78;
}

/// A structure that an ioctl reads and writes: plain numbers without padding.
///
/// # Safety
/// `repr(C)`, only integers, no padding bytes, and as long as its first field says.
pub unsafe trait Argument {}

macro_rules! arguments {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub struct $name { $(pub $field: $type,)* }
        // SAFETY: repr(C) of integers; that there is no padding is checked right below.
        unsafe impl Argument for $name {}
        const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$type>())*);
        impl $name {
            /// All zero but the size.
            pub fn new() -> Self {
                let mut new = Self::default();
                new.size = size_of::<Self>() as u32;
                new
            }
        }
    )*};
}

arguments! {
    /// iommu_destroy
    Destroy { size: u32, id: u32, }
    /// iommu_ioas_alloc
    IoasAlloc { size: u32, flags: u32, out_ioas_id: u32, }
    /// iommu_ioas_iova_ranges
    IovaRanges { size: u32, ioas_id: u32, num_iovas: u32, reserved: u32, allowed_iovas: u64, out_iova_alignment: u64, }
    /// iommu_ioas_map
    IoasMap { size: u32, flags: u32, ioas_id: u32, reserved: u32, user_va: u64, length: u64, iova: u64, }
    /// iommu_ioas_unmap
    IoasUnmap { size: u32, ioas_id: u32, iova: u64, length: u64, }
    /// iommu_option
    OptionArg { size: u32, option_id: u32, op: u16, reserved: u16, object_id: u32, val64: u64, }
    /// iommu_hwpt_alloc
    HwptAlloc { size: u32, flags: u32, dev_id: u32, pt_id: u32, out_hwpt_id: u32, reserved: u32, data_type: u32, data_len: u32, data_uptr: u64, fault_id: u32, reserved2: u32, }
    /// iommu_hwpt_set_dirty_tracking
    SetDirty { size: u32, flags: u32, hwpt_id: u32, reserved: u32, }
    /// iommu_hwpt_get_dirty_bitmap
    GetDirty { size: u32, hwpt_id: u32, flags: u32, reserved: u32, iova: u64, length: u64, page_size: u64, data: u64, }
    /// vfio_region_info
    RegionInfo { size: u32, flags: u32, index: u32, cap_offset: u32, length: u64, offset: u64, }
    /// vfio_device_bind_iommufd
    Bind { size: u32, flags: u32, iommufd: i32, out_devid: u32, token_uuid_ptr: u64, }
    /// vfio_device_attach_iommufd_pt, without PASID
    Attach { size: u32, flags: u32, pt_id: u32, }
    /// vfio_device_detach_iommufd_pt, without PASID
    Detach { size: u32, flags: u32, }
    /// vfio_device_feature with vfio_device_feature_mig_state
    MigState { size: u32, flags: u32, device_state: u32, data_fd: i32, }
    /// vfio_device_feature with vfio_device_feature_migration
    Migration { size: u32, flags: u32, migration_flags: u64, }
}

/// IOMMU_IOAS_MAP_FIXED_IOVA | WRITEABLE | READABLE
pub const MAP_FIXED_RW: u32 = 1 | 2 | 4;
/// IOMMU_IOAS_MAP_FIXED_IOVA | READABLE
pub const MAP_FIXED_R: u32 = 1 | 4;
/// IOMMU_OPTION_HUGE_PAGES
pub const OPTION_HUGE_PAGES: u32 = 1;
/// IOMMU_HWPT_ALLOC_DIRTY_TRACKING
pub const HWPT_DIRTY_TRACKING: u32 = 2;
/// VFIO_DEVICE_FEATURE_MIGRATION, with VFIO_DEVICE_FEATURE_GET
pub const FEATURE_MIGRATION_GET: u32 = 1 | 1 << 16;
/// VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, with VFIO_DEVICE_FEATURE_SET
pub const FEATURE_MIG_STATE_SET: u32 = 2 | 1 << 17;
/// Index of the configuration space region.
pub const REGION_CONFIG: u32 = 7;

/// An ioctl with a structure.
///
/// # Errors
/// The errno.
pub fn ioctl<T: Argument>(fd: &impl AsRawFd, command: u32, argument: &mut T) -> io::Result<i32> {
    // SAFETY: `argument` is a live, exclusive structure of plain integers, as long as its size field says (Argument); the
    // commands used here touch nothing but it and what its address fields name, which callers keep alive.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), command as _, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An ioctl without an argument.
///
/// # Errors
/// The errno.
pub fn ioctl_none(fd: &impl AsRawFd, command: u32) -> io::Result<i32> {
    // SAFETY: the only such command here, VFIO_DEVICE_RESET, takes no argument.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), command as _, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// IOMMU_HWPT_GET_DIRTY_BITMAP with 4 KiB pages into `words`, one bit per page.
///
/// # Errors
/// The errno.
pub fn get_dirty(fd: &impl AsRawFd, hwpt_id: u32, iova: u64, words: &mut [u64], pages: u32) -> io::Result<()> {
    assert!(words.len() >= pages.div_ceil(64) as usize, "the bitmap has a bit for each page");
    let data = words.as_mut_ptr() as u64;
    let mut arg = GetDirty { hwpt_id, iova, length: u64::from(pages) * 4096, page_size: 4096, data, ..GetDirty::new() };
    ioctl(fd, cmd::GET_DIRTY, &mut arg).map(|_| ())
}

/// A file descriptor that a call returned as a number.
///
/// # Errors
/// If it is negative.
pub fn adopt_fd(fd: i32) -> io::Result<File> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the kernel just made this descriptor for the call whose result it is; nobody else owns it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Zeroed anonymous memory that is never given back: devices write to it as long as the process lives.
///
/// # Errors
/// The errno of mmap.
pub fn map_memory(length: usize) -> io::Result<&'static [AtomicU64]> {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address the kernel chooses touches no existing memory.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), length, prot, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `at` is page aligned, `length` bytes long, zeroed, never unmapped, and only accessed as atomics.
    Ok(unsafe { std::slice::from_raw_parts(at.cast::<AtomicU64>(), length / 8) })
}

/// Takes back memory of [`map_memory`]; for the checks that unmap under a device.
///
/// # Safety
/// Nobody may use `memory` afterwards.
///
/// # Errors
/// The errno of munmap.
pub unsafe fn unmap_memory(memory: &'static [AtomicU64]) -> io::Result<()> {
    // SAFETY: the range is exactly one mapping of `map_memory`; the caller promises that it is used no more.
    let result = unsafe { libc::munmap(memory.as_ptr().cast_mut().cast(), size_of_val(memory)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Maps `length` bytes of a device region at `offset` of its file.
///
/// # Errors
/// The errno of mmap.
pub fn map_window(file: &File, offset: u64, length: usize) -> io::Result<Window> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new shared mapping at an address the kernel chooses touches no existing memory.
    let at = unsafe {
        libc::mmap(std::ptr::null_mut(), length, prot, libc::MAP_SHARED, file.as_raw_fd(), offset as libc::off_t)
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a page-aligned mapping of `length` bytes of device registers, made just now for the window.
    Ok(unsafe { Window::new(at.cast(), length) })
}

/// Waits until `fd` can be read (or written, with `write`). False if `limit` passed first.
///
/// # Errors
/// The errno of poll.
pub fn wait(fd: BorrowedFd<'_>, write: bool, limit: Duration) -> io::Result<bool> {
    let events = if write { libc::POLLOUT } else { libc::POLLIN };
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    let limit = limit.as_millis().min(i32::MAX as u128) as i32;
    // SAFETY: one live pollfd.
    match unsafe { libc::poll(&raw mut poll, 1, limit) } {
        0 => Ok(false),
        // errors and hang-ups count as ready: the read or write that follows reports them
        n if n > 0 => Ok(true),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            error => Err(error),
        },
    }
}

/// Sends what fits without waiting.
///
/// # Errors
/// The errno; EAGAIN if nothing fits.
pub fn send_some(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: reads `bytes.len()` bytes of a live slice.
    let count = unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Receives what is there without waiting; 0 at the end of the stream.
///
/// # Errors
/// The errno; EAGAIN if nothing is there.
pub fn receive_some(fd: BorrowedFd<'_>, out: &mut [u8]) -> io::Result<usize> {
    // SAFETY: writes at most `out.len()` bytes to a live, exclusive slice.
    let count = unsafe { libc::recv(fd.as_raw_fd(), out.as_mut_ptr().cast(), out.len(), libc::MSG_DONTWAIT) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn layouts_are_those_of_linux() {
        // sizes and offsets as in linux/iommufd.h and linux/vfio.h of 7.2
        assert_eq!((size_of::<IoasAlloc>(), offset_of!(IoasAlloc, out_ioas_id)), (12, 8));
        assert_eq!((size_of::<IoasMap>(), offset_of!(IoasMap, user_va), offset_of!(IoasMap, iova)), (40, 16, 32));
        assert_eq!((size_of::<IoasUnmap>(), offset_of!(IoasUnmap, length)), (24, 16));
        assert_eq!((size_of::<IovaRanges>(), offset_of!(IovaRanges, allowed_iovas)), (32, 16));
        assert_eq!(
            (size_of::<OptionArg>(), offset_of!(OptionArg, object_id), offset_of!(OptionArg, val64)),
            (24, 12, 16)
        );
        assert_eq!(
            (size_of::<HwptAlloc>(), offset_of!(HwptAlloc, out_hwpt_id), offset_of!(HwptAlloc, data_uptr)),
            (48, 16, 32)
        );
        assert_eq!((size_of::<SetDirty>(), offset_of!(SetDirty, hwpt_id)), (16, 8));
        assert_eq!((size_of::<GetDirty>(), offset_of!(GetDirty, iova), offset_of!(GetDirty, data)), (48, 16, 40));
        assert_eq!(
            (size_of::<RegionInfo>(), offset_of!(RegionInfo, length), offset_of!(RegionInfo, offset)),
            (32, 16, 24)
        );
        assert_eq!((size_of::<Bind>(), offset_of!(Bind, out_devid), offset_of!(Bind, token_uuid_ptr)), (24, 12, 16));
        assert_eq!((size_of::<Attach>(), offset_of!(Attach, pt_id)), (12, 8));
        assert_eq!((size_of::<MigState>(), offset_of!(MigState, data_fd)), (16, 12));
    }

    #[test]
    fn memory_is_zeroed_and_page_aligned() {
        let memory = map_memory(8192).unwrap();
        assert_eq!((memory.len(), memory.as_ptr() as usize % 4096), (1024, 0));
        assert!(memory.iter().all(|word| word.load(std::sync::atomic::Ordering::Relaxed) == 0));
        // SAFETY: `memory` is not used after this.
        unsafe { unmap_memory(memory).unwrap() };
    }

    #[test]
    fn a_descriptor_that_is_none_is_refused() {
        assert!(adopt_fd(-1).is_err());
    }
}
