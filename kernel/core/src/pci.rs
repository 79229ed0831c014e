//! PCI of this machine: what was enumerated, for firmware scopes and for groups.

use crate::platform::pci::Ecam;
use crate::platform::table_mem::Machine;
use fw_tables::{BusRange, BusResolver, EcamWindow};
use iommu_types::StreamId;
use pci::{FunctionInfo, Tree};

impl device_api::Clock for Machine {
    fn now_ns(&self) -> u64 {
        arch_x86_64::time::now_ns()
    }
    fn relax(&self) {
        core::hint::spin_loop();
    }
}

/// The tree that was enumerated, for scopes of firmware tables.
pub struct Resolver<'a>(pub &'a Tree);

impl BusResolver for Resolver<'_> {
    fn buses(&self, bridge: StreamId) -> Option<BusRange> {
        let b = self.0.buses(bridge)?;
        Some(BusRange { secondary: b.secondary, subordinate: b.subordinate })
    }
    fn exists(&self, stream: StreamId) -> bool {
        self.0.get(stream).is_some()
    }
    fn physical_function(&self, stream: StreamId) -> Option<StreamId> {
        self.0.physical_function(stream)
    }
}

/// Finds every function of every window.
pub fn enumerate(ecam: &Ecam, windows: &[EcamWindow]) -> Tree {
    let mut all = Tree::default();
    for w in windows {
        let mut tree = pci::enumerate(ecam, w.segment, w.first_bus, w.last_bus);
        let base = all.functions.len();
        for f in &mut tree.functions {
            f.parent = f.parent.map(|p| p + base);
        }
        all.functions.append(&mut tree.functions);
        all.findings.append(&mut tree.findings);
    }
    all
}

/// Is it something that a program may own? Bridges and what only the host uses are not.
pub fn is_endpoint(f: &FunctionInfo) -> bool {
    !f.is_bridge() && f.ids.class >> 16 != 0x06
}
