//! The file of one migration session.

use crate::Caller;
use alloc::sync::Arc;
use alloc::vec::Vec;
use spin::Mutex;
use uapi::vfio::{MIG_GET_PRECOPY_INFO, PrecopyInfo};
use uapi::{Errno, UserMem, read_plain};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// STOP_COPY: the program reads, from this byte on.
    Out(usize),
    /// RESUMING: the program writes, at most this much.
    In(usize),
    /// The session is over.
    Over,
}

struct State {
    way: Way,
    data: Vec<u8>,
}

/// A stream without position: the saved state comes out (STOP_COPY) or goes in (RESUMING).
pub struct DataFile {
    state: Mutex<State>,
}

impl DataFile {
    /// A session that gives `data`.
    pub(crate) fn saved(data: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { way: Way::Out(0), data }) })
    }
    /// A session that takes at most `limit` bytes.
    pub(crate) fn loading(limit: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { way: Way::In(limit), data: Vec::new() }) })
    }
    /// Ends the session; what it holds is dropped.
    pub(crate) fn end(&self) {
        let data = {
            let mut state = self.state.lock();
            state.way = Way::Over;
            core::mem::take(&mut state.data)
        };
        drop(data);
    }
    /// Takes what arrived, to load it; nothing more can be written until [`put_back`](Self::put_back).
    pub(crate) fn take(&self) -> Vec<u8> {
        core::mem::take(&mut self.state.lock().data)
    }
    /// After a state was refused: the session goes on as it was.
    pub(crate) fn put_back(&self, data: Vec<u8>) {
        self.state.lock().data = data;
    }

    /// The next bytes of the state; 0 at its end.
    ///
    /// # Errors
    /// `EBADF` on a session that takes a state; `ENODEV` once the session is over.
    pub fn read(&self, out: &mut [u8]) -> Result<usize, Errno> {
        let mut state = self.state.lock();
        let from = match state.way {
            Way::Out(from) => from,
            Way::In(_) => return Err(Errno::EBADF),
            Way::Over => return Err(Errno::ENODEV),
        };
        let left = state.data.get(from..).unwrap_or_default();
        let count = left.len().min(out.len());
        if let (Some(to), Some(bytes)) = (out.get_mut(..count), left.get(..count)) {
            to.copy_from_slice(bytes);
        }
        state.way = Way::Out(from + count);
        Ok(count)
    }

    /// More bytes of a state. They are checked when the device leaves RESUMING.
    ///
    /// # Errors
    /// `EBADF` on a session that gives a state; `ENODEV` once it is over; `ENOSPC` beyond the largest state of the
    /// device; `ENOMEM`. Nothing was taken then.
    pub fn write(&self, data: &[u8]) -> Result<usize, Errno> {
        let mut state = self.state.lock();
        let limit = match state.way {
            Way::In(limit) => limit,
            Way::Out(_) => return Err(Errno::EBADF),
            Way::Over => return Err(Errno::ENODEV),
        };
        if data.len() > limit.saturating_sub(state.data.len()) {
            return Err(Errno::ENOSPC);
        }
        state.data.try_reserve(data.len()).map_err(|_| Errno::ENOMEM)?;
        state.data.extend_from_slice(data);
        Ok(data.len())
    }

    /// MIG_GET_PRECOPY_INFO is the only command, and no session here is in PRE_COPY.
    ///
    /// # Errors
    /// `ENOTTY` another command; `EFAULT`; `EINVAL`.
    pub fn ioctl(&self, command: u32, argument: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        if command != MIG_GET_PRECOPY_INFO {
            return Err(Errno::ENOTTY);
        }
        read_plain::<PrecopyInfo>(caller as &dyn UserMem, argument)?;
        Err(Errno::EINVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_state_comes_out_in_pieces_and_ends_with_0() {
        let file = DataFile::saved(vec![1, 2, 3, 4, 5]);
        let mut out = [0; 2];
        assert_eq!((file.read(&mut out), out), (Ok(2), [1, 2]));
        assert_eq!((file.read(&mut out), out), (Ok(2), [3, 4]));
        assert_eq!((file.read(&mut out), out[0]), (Ok(1), 5));
        assert_eq!(file.read(&mut out), Ok(0));
        assert_eq!(file.write(&[1]), Err(Errno::EBADF));
        file.end();
        assert_eq!(file.read(&mut out), Err(Errno::ENODEV));
        assert_eq!(file.write(&[1]), Err(Errno::ENODEV));
    }

    #[test]
    fn more_than_the_largest_state_is_refused_while_it_arrives() {
        let file = DataFile::loading(4);
        assert_eq!(file.write(&[1, 2, 3]), Ok(3));
        assert_eq!(file.write(&[4, 5]), Err(Errno::ENOSPC));
        assert_eq!(file.write(&[4]), Ok(1));
        assert_eq!(file.write(&[]), Ok(0));
        assert_eq!(file.read(&mut [0]), Err(Errno::EBADF));
        assert_eq!(file.take(), [1, 2, 3, 4]);
    }
}
