//! eventfd(2).

use crate::{Event, File, FileKind, Ready, Stat};
use spin::Mutex;
use uapi::Errno;

/// A counter that reads block on while it is zero.
pub struct EventFd {
    count: Mutex<u64>,
    semaphore: bool,
    event: Event,
}

impl EventFd {
    /// Starts at `count`; with `semaphore` a read takes one instead of all.
    pub fn new(count: u64, semaphore: bool) -> Self {
        Self { count: Mutex::new(count), semaphore, event: Event::new() }
    }
    /// Adds to the counter from inside the kernel (an interrupt); saturates one below the maximum.
    pub fn add(&self, count: u64) {
        let mut now = self.count.lock();
        *now = now.saturating_add(count).min(u64::MAX - 1);
        drop(now);
        self.event.signal();
    }
}

impl File for EventFd {
    fn read(&self, _at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        let to = to.get_mut(..8).ok_or(Errno::EINVAL)?;
        let mut count = self.count.lock();
        if *count == 0 {
            return Err(Errno::EAGAIN);
        }
        let take = if self.semaphore { 1 } else { *count };
        *count -= take;
        drop(count);
        to.copy_from_slice(&take.to_le_bytes());
        self.event.signal();
        Ok(8)
    }
    fn write(&self, _at: u64, from: &[u8]) -> Result<usize, Errno> {
        let bytes = from.get(..8).and_then(|bytes| bytes.try_into().ok()).ok_or(Errno::EINVAL)?;
        let add = u64::from_le_bytes(bytes);
        if add == u64::MAX {
            return Err(Errno::EINVAL);
        }
        let mut count = self.count.lock();
        if add > u64::MAX - 1 - *count {
            return Err(Errno::EAGAIN);
        }
        *count += add;
        drop(count);
        self.event.signal();
        Ok(8)
    }
    fn ready(&self) -> Ready {
        let count = *self.count.lock();
        Ready::READ.when(count > 0).or(Ready::WRITE.when(count < u64::MAX - 1))
    }
    fn event(&self) -> Option<Event> {
        Some(self.event.clone())
    }
    fn stat(&self) -> Stat {
        Stat::anonymous(FileKind::Anonymous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_blocks_as_the_manual_says() {
        let plain = EventFd::new(0, false);
        let mut buffer = [0; 8];
        assert_eq!(plain.read(0, &mut buffer), Err(Errno::EAGAIN));
        assert_eq!(plain.write(0, &3u64.to_le_bytes()), Ok(8));
        assert_eq!(plain.write(0, &u64::MAX.to_le_bytes()), Err(Errno::EINVAL));
        assert_eq!(plain.write(0, &(u64::MAX - 2).to_le_bytes()), Err(Errno::EAGAIN));
        assert_eq!(plain.write(0, &[0; 7]), Err(Errno::EINVAL));
        assert_eq!(plain.read(0, &mut buffer[..7]), Err(Errno::EINVAL));
        assert_eq!(plain.read(0, &mut buffer), Ok(8));
        assert_eq!(u64::from_le_bytes(buffer), 3);
        let semaphore = EventFd::new(2, true);
        semaphore.read(0, &mut buffer).unwrap();
        assert_eq!(u64::from_le_bytes(buffer), 1);
        assert_eq!(semaphore.ready(), Ready::BOTH);
    }
}
