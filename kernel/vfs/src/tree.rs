//! Nodes of the name tree.

use crate::walk::Viewer;
use crate::{File, FileKind, OpenFile, RomStore, Stat, Store};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use spin::Mutex;
use uapi::Errno;

/// A directory whose contents are made on demand (/proc).
pub trait Directory: Send + Sync {
    /// The node called `name`, as `viewer` sees it.
    fn lookup(&self, name: &[u8], viewer: Viewer) -> Option<Arc<Node>>;
    /// Its entries.
    fn list(&self, viewer: Viewer) -> Vec<Entry>;
}

/// Opens a device node.
pub trait Opener: Send + Sync {
    /// A new open object; `flags` are `O_*`.
    ///
    /// # Errors
    /// The device's own.
    fn open(&self, flags: u32) -> Result<Arc<dyn File>, Errno>;
}

impl<F: Fn(u32) -> Result<Arc<dyn File>, Errno> + Send + Sync> Opener for F {
    fn open(&self, flags: u32) -> Result<Arc<dyn File>, Errno> {
        self(flags)
    }
}

/// Makes the text of a synthetic file.
pub type MakeText = Box<dyn Fn() -> Vec<u8> + Send + Sync>;

/// Names of a directory.
pub type Names = Mutex<BTreeMap<Vec<u8>, Arc<Node>>>;

/// What a node is.
pub enum NodeBody {
    /// A directory with names that programs and the kernel add.
    Directory(Names),
    /// A directory made on demand.
    Dynamic(Arc<dyn Directory>),
    /// A regular file.
    Regular(Mutex<Arc<dyn Store>>),
    /// A symbolic link.
    Link(Vec<u8>),
    /// A link that leads to an open file (/proc/self/fd): its label, and the file.
    Open(Vec<u8>, Arc<OpenFile>),
    /// A device node: its number and who opens it.
    Device(u64, Arc<dyn Opener>),
    /// A read-only text, made when it is opened.
    Text(MakeText),
}

/// One line of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its name.
    pub name: Vec<u8>,
    /// Its inode.
    pub ino: u64,
    /// Its type.
    pub kind: FileKind,
}

/// A file as the tree holds it.
pub struct Node {
    ino: u64,
    body: NodeBody,
    mode: AtomicU32,
    nlink: AtomicU32,
    mtime: AtomicU64,
}

static NEXT_INO: AtomicU64 = AtomicU64::new(2);
/// Nanoseconds since 1970, as the last operation with a clock saw them; stamps what changes.
static NOW: AtomicU64 = AtomicU64::new(0);

/// Tells the time that new stamps get.
pub(crate) fn set_now(now: u64) {
    NOW.store(now, Ordering::Relaxed);
}

impl Node {
    /// A node with rights `mode` (`0..=0o7777`).
    pub fn new(body: NodeBody, mode: u32) -> Arc<Self> {
        Arc::new(Self {
            ino: NEXT_INO.fetch_add(1, Ordering::Relaxed),
            body,
            mode: AtomicU32::new(mode & 0o7777),
            nlink: AtomicU32::new(1),
            mtime: AtomicU64::new(NOW.load(Ordering::Relaxed)),
        })
    }
    /// An empty directory.
    pub fn directory(mode: u32) -> Arc<Self> {
        Self::new(NodeBody::Directory(Mutex::new(BTreeMap::new())), mode)
    }
    /// A regular file.
    pub fn regular(store: Arc<dyn Store>, mode: u32) -> Arc<Self> {
        Self::new(NodeBody::Regular(Mutex::new(store)), mode)
    }
    /// A regular file of constant bytes.
    pub fn rom(bytes: &'static [u8], mode: u32) -> Arc<Self> {
        Self::regular(Arc::new(RomStore(bytes)), mode)
    }
    /// A symbolic link.
    pub fn link(target: &[u8]) -> Arc<Self> {
        Self::new(NodeBody::Link(target.to_vec()), 0o777)
    }
    /// A device node; `rdev` by `makedev`.
    pub fn device(rdev: u64, mode: u32, opener: Arc<dyn Opener>) -> Arc<Self> {
        Self::new(NodeBody::Device(rdev, opener), mode)
    }
    /// A device node that opens one shared object.
    pub fn shared(file: Arc<dyn File>) -> Arc<Self> {
        let stat = file.stat();
        Self::device(stat.rdev, stat.mode, Arc::new(move |_| Ok(file.clone())))
    }
    /// A read-only text.
    pub fn text(make: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> Arc<Self> {
        Self::new(NodeBody::Text(Box::new(make)), 0o444)
    }
    /// A directory made on demand.
    pub fn dynamic(directory: Arc<dyn Directory>) -> Arc<Self> {
        Self::new(NodeBody::Dynamic(directory), 0o555)
    }
    /// What it is.
    pub fn body(&self) -> &NodeBody {
        &self.body
    }
    /// Inode number.
    pub fn ino(&self) -> u64 {
        self.ino
    }
    /// Type.
    pub fn kind(&self) -> FileKind {
        match self.body {
            NodeBody::Directory(_) | NodeBody::Dynamic(_) => FileKind::Directory,
            NodeBody::Regular(_) | NodeBody::Text(_) => FileKind::Regular,
            NodeBody::Link(_) | NodeBody::Open(..) => FileKind::Link,
            NodeBody::Device(..) => FileKind::Device,
        }
    }
    /// Rights.
    pub fn mode(&self) -> u32 {
        self.mode.load(Ordering::Relaxed)
    }
    /// chmod(2).
    pub fn set_mode(&self, mode: u32) {
        self.mode.store(mode & 0o7777, Ordering::Relaxed);
    }
    /// Stamps it as changed now.
    pub fn touch(&self) {
        self.set_mtime(NOW.load(Ordering::Relaxed));
    }
    /// Sets the stamp, nanoseconds since 1970.
    pub fn set_mtime(&self, nanos: u64) {
        self.mtime.store(nanos, Ordering::Relaxed);
    }
    /// A name was added (`true`) or taken.
    pub(crate) fn count_name(&self, added: bool) {
        let change = |count: u32| Some(if added { count.saturating_add(1) } else { count.saturating_sub(1) });
        let _ = self.nlink.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }
    /// Has its last name gone?
    pub(crate) fn removed(&self) -> bool {
        self.nlink.load(Ordering::Relaxed) == 0
    }
    /// Is `other` somewhere below this directory, or the directory itself? Without recursion: programs choose the depth.
    pub(crate) fn leads_to(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        let mut left = Vec::from([self.clone()]);
        while let Some(node) = left.pop() {
            if Arc::ptr_eq(&node, other) {
                return true;
            }
            if let NodeBody::Directory(names) = &node.body {
                let names = names.lock();
                left.extend(names.values().filter(|node| node.kind() == FileKind::Directory).cloned());
            }
        }
        false
    }
    /// stat(2).
    pub fn stat(&self) -> Stat {
        let size = match &self.body {
            NodeBody::Regular(store) => store.lock().size(),
            NodeBody::Link(target) | NodeBody::Open(target, _) => target.len() as u64,
            _ => 0,
        };
        let rdev = if let NodeBody::Device(rdev, _) = self.body { rdev } else { 0 };
        Stat {
            kind: self.kind(),
            mode: self.mode(),
            ino: self.ino,
            nlink: self.nlink.load(Ordering::Relaxed),
            size,
            rdev,
            mtime: self.mtime.load(Ordering::Relaxed),
        }
    }
    /// The child called `name`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`.
    pub fn child(&self, name: &[u8], viewer: Viewer) -> Result<Arc<Node>, Errno> {
        match &self.body {
            NodeBody::Directory(names) => names.lock().get(name).cloned().ok_or(Errno::ENOENT),
            NodeBody::Dynamic(directory) => directory.lookup(name, viewer).ok_or(Errno::ENOENT),
            _ => Err(Errno::ENOTDIR),
        }
    }
    /// Adds `node` as `name`.
    ///
    /// # Errors
    /// `EEXIST`; `ENOENT` if the directory was removed; `ENOTDIR`; `EPERM` in a directory made on demand.
    pub fn add(&self, name: &[u8], node: Arc<Node>) -> Result<(), Errno> {
        match &self.body {
            NodeBody::Directory(names) => {
                let mut names = names.lock();
                // A directory that was removed stays empty: what is in it could not be reached.
                if self.removed() {
                    return Err(Errno::ENOENT);
                }
                if names.contains_key(name) {
                    return Err(Errno::EEXIST);
                }
                names.insert(name.to_vec(), node);
                drop(names);
                self.touch();
                Ok(())
            }
            NodeBody::Dynamic(_) => Err(Errno::EPERM),
            _ => Err(Errno::ENOTDIR),
        }
    }
    /// Its names, where programs may change them.
    ///
    /// # Errors
    /// `ENOTDIR`; `EPERM` in a directory made on demand.
    pub(crate) fn names(&self) -> Result<&Names, Errno> {
        match &self.body {
            NodeBody::Directory(names) => Ok(names),
            NodeBody::Dynamic(_) => Err(Errno::EPERM),
            _ => Err(Errno::ENOTDIR),
        }
    }
    /// Entries, with `.` and `..` first.
    ///
    /// # Errors
    /// `ENOTDIR`.
    pub fn list(&self, viewer: Viewer) -> Result<Vec<Entry>, Errno> {
        let dots =
            [&b"."[..], b".."].map(|name| Entry { name: name.to_vec(), ino: self.ino, kind: FileKind::Directory });
        let mut list = Vec::from(dots);
        match &self.body {
            NodeBody::Directory(names) => list.extend(names.lock().iter().map(|(name, node)| Entry {
                name: name.clone(),
                ino: node.ino,
                kind: node.kind(),
            })),
            NodeBody::Dynamic(directory) => list.extend(directory.list(viewer)),
            _ => return Err(Errno::ENOTDIR),
        }
        Ok(list)
    }
}
