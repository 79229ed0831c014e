//! fork: a copy of an address space that shares frames until one side writes.

use crate::pages::Entry;
use crate::space::{Inner, page_range};
use crate::{AddressSpace, Errno};
use alloc::sync::Arc;

impl AddressSpace {
    /// A copy for a child process. Private pages are shared until written; pages that are pinned are copied now, so that
    /// the parent and its devices keep the frame they have.
    ///
    /// # Errors
    /// `ENOMEM`; the parent is as before.
    pub fn fork(&self) -> Result<Arc<Self>, Errno> {
        let child = Self::new(self.frames.clone(), self.new_tables.clone())?;
        let mut parent = self.lock();
        if parent.dead {
            return Err(Errno::ENOMEM);
        }
        let mut copy = child.lock();
        let result = parent.copy_to(&mut copy, &*self.frames);
        // Entries that lost the write right must have lost it everywhere before the child can run, and also if the
        // copy failed half-way.
        parent.tables.flush();
        drop(copy);
        drop(parent);
        result.map(|()| child)
    }
}

impl Inner {
    fn copy_to(&mut self, child: &mut Self, frames: &dyn crate::Frames) -> Result<(), Errno> {
        (child.brk, child.stack) = (self.brk, self.stack);
        let Self { vmas, pages, tables, .. } = self;
        for (&start, vma) in vmas.iter().filter(|(_, vma)| !vma.no_fork) {
            let mut copy = vma.clone();
            // Locks are not inherited.
            copy.locked = false;
            child.vmas.insert(start, copy);
            if !vma.kind.private() {
                continue;
            }
            let mut result = Ok(());
            pages.each(page_range(start, vma.end), |page, entry| {
                if result.is_err() {
                    return;
                }
                if !entry.present() {
                    result = child.pages.put(page, *entry).map(drop);
                    return;
                }
                result = child.pages.reserve(page..=page);
                if result.is_err() {
                    return;
                }
                let own = if frames.pins(entry.frame()) > 0 {
                    let Ok(own) = crate::page_frame(frames) else {
                        result = Err(crate::NoMemory);
                        return;
                    };
                    frames.copy(entry.frame(), own);
                    entry.moved(own).without(Entry::COW)
                } else {
                    if !entry.has(Entry::COW) {
                        *entry = entry.with(Entry::COW);
                        let _ = Self::install(&mut **tables, page, vma.prot, *entry);
                    }
                    frames.retain(entry.frame());
                    *entry
                };
                child.pages.update(page, own);
                child.count_present(own);
            });
            result?;
        }
        Ok(())
    }
}
