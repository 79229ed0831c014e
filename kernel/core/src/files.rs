//! The names programs see at first: those of the initial archive. `syscall` adds /dev and /proc.

use crate::machine::X86;
use crate::memory;
use alloc::boxed::Box;
use alloc::sync::Arc;
use log::{error, info};
use mm::ShmemStores;
use task::Machine;
use vfs::{Node, Tree, Viewer, cpio};

/// Builds the tree over the archive's bytes.
pub fn tree(archive: &'static [u8], machine: X86) -> Arc<Tree> {
    let tree = Tree::new(Arc::new(ShmemStores(memory::shared())), Box::new(move || machine.realtime()));
    if archive.is_empty() {
        log::warn!("initrd: none");
    } else {
        match cpio::unpack(archive, &tree) {
            Ok(count) => info!("initrd: {count} files, {} KiB", archive.len() >> 10),
            Err(e) => error!("initrd: {} at byte {:#x}", e.reason, e.offset),
        }
    }
    for (path, mode) in [("/root", 0o700), ("/tmp", 0o1777)] {
        if tree.resolve(&tree.root(), path.as_bytes(), Viewer::default(), true).is_err()
            && let Err(e) = tree.install(path, Node::directory(mode))
        {
            error!("{path}: {e:?}");
        }
    }
    Arc::new(tree)
}
