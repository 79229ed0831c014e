//! epoll(7).

use crate::{File, FileKind, OpenFile, Ready, Stat, Ticket};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use spin::Mutex;
use uapi::Errno;
use uapi::linux::fs::{EPOLLET, EPOLLONESHOT, POLLERR, POLLHUP};

/// What a program wants to hear of one descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interest {
    /// `EPOLL*` bits.
    pub events: u32,
    /// Returned with each event.
    pub data: u64,
}

struct Item {
    file: Weak<OpenFile>,
    interest: Interest,
    /// Edge triggered: reported, and nothing happened since.
    reported: Option<Ticket>,
    /// One-shot, and shot.
    disabled: bool,
}

/// Most descriptors of one instance.
const MAX_ITEMS: usize = 1024;

/// An epoll instance. An item goes when the last descriptor of its file is closed.
#[derive(Default)]
pub struct Epoll {
    items: Mutex<BTreeMap<(i32, usize), Item>>,
}

fn key(fd: i32, file: &Arc<OpenFile>) -> (i32, usize) {
    (fd, Arc::as_ptr(file) as usize)
}

impl Epoll {
    /// Watches nothing.
    pub fn new() -> Self {
        Self::default()
    }
    fn prune(items: &mut BTreeMap<(i32, usize), Item>) {
        items.retain(|_, item| item.file.strong_count() > 0);
    }
    /// EPOLL_CTL_ADD.
    ///
    /// # Errors
    /// `EEXIST`; `EPERM` for files that are always ready; `ENOSPC`; `ELOOP` for an epoll instance.
    pub fn add(&self, fd: i32, file: &Arc<OpenFile>, interest: Interest) -> Result<(), Errno> {
        if file.file.stat().kind == FileKind::Regular || file.file.stat().kind == FileKind::Directory {
            return Err(Errno::EPERM);
        }
        let object: &dyn core::any::Any = &*file.file;
        if object.is::<Self>() {
            return Err(Errno::ELOOP);
        }
        let mut items = self.items.lock();
        Self::prune(&mut items);
        if items.contains_key(&key(fd, file)) {
            return Err(Errno::EEXIST);
        }
        if items.len() >= MAX_ITEMS {
            return Err(Errno::ENOSPC);
        }
        let item = Item { file: Arc::downgrade(file), interest, reported: None, disabled: false };
        items.insert(key(fd, file), item);
        Ok(())
    }
    /// EPOLL_CTL_MOD.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn modify(&self, fd: i32, file: &Arc<OpenFile>, interest: Interest) -> Result<(), Errno> {
        let mut items = self.items.lock();
        let item = items.get_mut(&key(fd, file)).ok_or(Errno::ENOENT)?;
        (item.interest, item.reported, item.disabled) = (interest, None, false);
        Ok(())
    }
    /// EPOLL_CTL_DEL.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn remove(&self, fd: i32, file: &Arc<OpenFile>) -> Result<(), Errno> {
        self.items.lock().remove(&key(fd, file)).map(drop).ok_or(Errno::ENOENT)
    }
    /// What happened, at most `limit` items: bits and data.
    pub fn take(&self, limit: usize) -> Vec<(u32, u64)> {
        let mut items = self.items.lock();
        Self::prune(&mut items);
        let mut found = Vec::new();
        for item in items.values_mut() {
            if found.len() == limit {
                break;
            }
            let Some(file) = item.file.upgrade() else { continue };
            if item.disabled || item.reported.as_ref().is_some_and(|ticket| !ticket.fired()) {
                continue;
            }
            let ticket = file.file.event().map(|event| event.ticket());
            let bits = u32::from(file.ready().0) & (item.interest.events | u32::from(POLLERR | POLLHUP));
            if bits == 0 {
                continue;
            }
            found.push((bits, item.interest.data));
            item.disabled = item.interest.events & EPOLLONESHOT != 0;
            item.reported = if item.interest.events & EPOLLET != 0 { ticket } else { None };
        }
        found
    }
}

impl File for Epoll {
    fn ready(&self) -> Ready {
        let items = self.items.lock();
        let ready = items.values().filter(|item| !item.disabled).any(|item| {
            let bits = item.file.upgrade().map_or(0, |file| u32::from(file.ready().0));
            let news = item.reported.as_ref().is_none_or(Ticket::fired);
            news && bits & (item.interest.events | u32::from(POLLERR | POLLHUP)) != 0
        });
        Ready::READ.when(ready)
    }
    fn tickets(&self, to: &mut Vec<Ticket>) {
        for item in self.items.lock().values().filter(|item| !item.disabled) {
            if let Some(file) = item.file.upgrade() {
                file.file.tickets(to);
            }
        }
    }
    fn stat(&self) -> Stat {
        Stat::anonymous(FileKind::Anonymous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipe;

    #[test]
    fn level_edge_and_one_shot() {
        let (reader, writer) = pipe();
        let open = OpenFile::new(reader, 0);
        let epoll = Epoll::new();
        epoll.add(3, &open, Interest { events: 1, data: 42 }).unwrap();
        assert_eq!(epoll.add(3, &open, Interest { events: 1, data: 42 }), Err(Errno::EEXIST));
        assert!(epoll.take(8).is_empty());
        let mut tickets = Vec::new();
        epoll.tickets(&mut tickets);
        writer.write(0, b"x").unwrap();
        assert!(tickets[0].fired());
        assert_eq!(epoll.take(8), [(1, 42)]);
        assert_eq!(epoll.take(8), [(1, 42)]);
        epoll.modify(3, &open, Interest { events: 1 | EPOLLET, data: 7 }).unwrap();
        assert_eq!(epoll.take(8), [(1, 7)]);
        assert!(epoll.take(8).is_empty());
        writer.write(0, b"y").unwrap();
        assert_eq!(epoll.take(8), [(1, 7)]);
        epoll.modify(3, &open, Interest { events: 1 | EPOLLONESHOT, data: 8 }).unwrap();
        assert_eq!(epoll.take(8), [(1, 8)]);
        assert!(epoll.take(8).is_empty());
        drop(writer);
        epoll.modify(3, &open, Interest { events: 0, data: 9 }).unwrap();
        assert_eq!(epoll.take(8), [(u32::from(POLLHUP), 9)]);
        drop(open);
        assert!(epoll.take(8).is_empty());
    }
}
