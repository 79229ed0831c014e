//! Running programs on their page tables.

use crate::memory;
use alloc::boxed::Box;
use arch_x86_64::paging::{UserPage, UserTables};
use arch_x86_64::user::{Trap, UserContext, run_user};
use iommu_types::Phys;
use mm::{NewTables, NoMemory, PageTables, Pte};

/// Page tables of one program, as `mm` wants them.
pub struct Tables(UserTables);

impl Tables {
    /// Empty tables.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn new() -> Result<Self, NoMemory> {
        UserTables::new(memory::frames()).map(Self).map_err(|_| NoMemory)
    }
}

impl Tables {
    /// Clears the accessed and dirty bits of a page and tells what they were; see [`UserTables::take_accessed_dirty`].
    pub fn take_dirty(&mut self, va: u64) -> (bool, bool) {
        self.0.take_accessed_dirty(va)
    }
}

impl PageTables for Tables {
    fn set(&mut self, va: u64, pte: Pte) -> Result<(), NoMemory> {
        let page = UserPage { write: pte.write, exec: pte.exec, device: pte.device };
        self.0.set(va, pte.phys.0, page).map_err(|_| NoMemory)
    }
    fn clear(&mut self, va: u64) {
        self.0.clear(va);
    }
    fn flush(&mut self) {
        self.0.flush();
    }
    fn root(&self) -> Phys {
        Phys(self.0.root())
    }
}

/// Makes page tables for `mm`.
#[derive(Clone, Copy, Debug, Default)]
pub struct MakeTables;

impl NewTables for MakeTables {
    fn new_tables(&self) -> Result<Box<dyn PageTables>, NoMemory> {
        Ok(Box::new(Tables::new()?))
    }
}

/// Runs a program until it traps.
///
/// `tables` must be [`Tables`] (the only implementation in this kernel), so its root has the kernel's upper half.
pub fn run(ctx: &mut UserContext, root: Phys) -> Trap {
    // SAFETY: every root in this kernel comes from `Tables::new`, which copies the kernel's upper half and maps only user
    // addresses below it.
    unsafe { run_user(ctx, root.0) }
}
