//! Error numbers (Linux, the same on x86-64 and aarch64), and the one place that turns blame into a number.

use core::fmt;
use iommu_types::{Error, Resource};

/// A Linux error number, 1..=4095.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub u16);

macro_rules! errnos {
    ($($name:ident = $value:literal),+ $(,)?) => {
        impl Errno {
            $(#[doc = concat!("`", stringify!($name), "`")]
            pub const $name: Self = Self($value);)+
        }
        impl fmt::Debug for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($value => f.write_str(stringify!($name)),)+
                    other => write!(f, "errno {other}"),
                }
            }
        }
    };
}

errnos! {
    EPERM = 1,
    ENOENT = 2,
    ESRCH = 3,
    EINTR = 4,
    EIO = 5,
    ENXIO = 6,
    E2BIG = 7,
    ENOEXEC = 8,
    EBADF = 9,
    ECHILD = 10,
    EAGAIN = 11,
    ENOMEM = 12,
    EACCES = 13,
    EFAULT = 14,
    EBUSY = 16,
    EEXIST = 17,
    EXDEV = 18,
    ENODEV = 19,
    ENOTDIR = 20,
    EISDIR = 21,
    EINVAL = 22,
    ENFILE = 23,
    EMFILE = 24,
    ENOTTY = 25,
    ETXTBSY = 26,
    EFBIG = 27,
    ENOSPC = 28,
    ESPIPE = 29,
    EROFS = 30,
    EMLINK = 31,
    EPIPE = 32,
    EDOM = 33,
    ERANGE = 34,
    EDEADLK = 35,
    ENAMETOOLONG = 36,
    ENOSYS = 38,
    ENOTEMPTY = 39,
    ELOOP = 40,
    ENOMSG = 42,
    ENODATA = 61,
    ETIME = 62,
    EPROTO = 71,
    EOVERFLOW = 75,
    EBADFD = 77,
    EILSEQ = 84,
    ERESTART = 85,
    ENOTSOCK = 88,
    EDESTADDRREQ = 89,
    EMSGSIZE = 90,
    EPROTOTYPE = 91,
    ENOPROTOOPT = 92,
    EPROTONOSUPPORT = 93,
    ESOCKTNOSUPPORT = 94,
    EOPNOTSUPP = 95,
    EAFNOSUPPORT = 97,
    EADDRINUSE = 98,
    EADDRNOTAVAIL = 99,
    ENETDOWN = 100,
    ENETUNREACH = 101,
    ECONNABORTED = 103,
    ECONNRESET = 104,
    ENOBUFS = 105,
    EISCONN = 106,
    ENOTCONN = 107,
    ETIMEDOUT = 110,
    ECONNREFUSED = 111,
    EHOSTUNREACH = 113,
    EALREADY = 114,
    EINPROGRESS = 115,
    ECANCELED = 125,
}

impl Errno {
    /// The value a system call returns: negative.
    pub const fn as_return(self) -> i64 {
        -(self.0 as i64)
    }
}

/// The one map from blame to errno.
impl From<Error> for Errno {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(_) => Self::EINVAL,
            Error::Unsupported(_) | Error::NoTracking(_) => Self::EOPNOTSUPP,
            Error::Exists => Self::EEXIST,
            Error::NotFound(_) => Self::ENOENT,
            Error::Range(_) => Self::EINVAL,
            Error::Busy(_) => Self::EBUSY,
            Error::Sink => Self::EFAULT,
            Error::Exhausted(Resource::Memory) => Self::ENOMEM,
            Error::Exhausted(_) => Self::ENOSPC,
            Error::Stuck { .. } | Error::Impossible { .. } | Error::Firmware(_) => Self::EIO,
            Error::Lost(_) => Self::ENODEV,
        }
    }
}
