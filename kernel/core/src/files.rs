//! The names programs see at first: those of the initial archive. `syscall` adds /dev and /proc.

use crate::machine::X86;
use crate::{memory, symbols};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use log::{error, info};
use mm::ShmemStores;
use task::Machine;
use vfs::{Node, NodeBody, Tree, Viewer, cpio};

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
    if let Some(map) = read(&tree, b"/kernel.map") {
        symbols::set(map.leak());
    }
    Arc::new(tree)
}

/// A file of the archive, whole.
fn read(tree: &Tree, path: &[u8]) -> Option<Vec<u8>> {
    let place = tree.resolve(&tree.root(), path, Viewer::default(), true).ok()?;
    let NodeBody::Regular(store) = place.node().body() else { return None };
    let store = store.lock();
    let mut bytes = alloc::vec![0; usize::try_from(store.size()).ok()?];
    let mut at = 0;
    while at < bytes.len() {
        match store.read_at(at as u64, &mut bytes[at..]) {
            Ok(count) if count > 0 => at += count,
            _ => return None,
        }
    }
    Some(bytes)
}
