//! What differs between architectures in layout, as data.

/// Layout choices of one architecture's interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// `utsname.machine`.
    pub machine: &'static str,
    /// Is `struct epoll_event` packed to 12 bytes (x86-64), or 16 bytes?
    pub epoll_packed: bool,
    /// Is `struct stat` that of x86-64 (144 bytes), or the generic one (128 bytes)?
    pub stat_x86: bool,
    /// clone(2)'s last two arguments: `child_tid, tls` (x86-64), or `tls, child_tid`.
    pub clone_tls_last: bool,
    /// O_DIRECTORY, O_NOFOLLOW, O_DIRECT, O_LARGEFILE: they are permuted between architectures.
    pub open_directory: u32,
    /// See `open_directory`.
    pub open_nofollow: u32,
}

/// x86-64.
pub const X86_64: Layout = Layout {
    machine: "x86_64",
    epoll_packed: true,
    stat_x86: true,
    clone_tls_last: true,
    open_directory: 0o200000,
    open_nofollow: 0o400000,
};
