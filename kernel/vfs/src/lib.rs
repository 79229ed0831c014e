//! Files and file descriptors: what a file is ([`File`]), open descriptions and descriptor tables, the tree of names,
//! pipes, event counters, terminals and the small device nodes.
//!
//! Nothing here blocks. A call that would block returns `EAGAIN`, and the caller waits for the file's [`Event`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod console;
pub mod cpio;
mod dev;
mod epoll;
mod event;
mod eventfd;
mod fd;
mod file;
mod open;
mod pipe;
mod regular;
mod socket;
mod tree;
mod walk;

pub use console::{Console, Sink};
pub use dev::{Fill, Full, Null, Random, Zero};
pub use epoll::{Epoll, Interest};
pub use event::{Event, Ticket, fired};
pub use eventfd::EventFd;
pub use fd::{FdTable, MAX_FDS};
pub use file::{Caller, File, FileKind, Mapping, Pages, Ready, Stat};
pub use open::{OpenFile, Position};
pub use pipe::{PIPE_CAPACITY, pipe};
pub use regular::DirFile;
pub use regular::{NewStore, RomStore, Store, VecStores};
pub use socket::{Address, Domain, Received, Socket, SocketFactory, SocketKind};
pub use tree::{Directory, Entry, MakeText, Names, Node, NodeBody, Opener};
pub use walk::{Place, Tree, Viewer};
