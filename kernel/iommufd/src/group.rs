//! Devices that move together.

use crate::GroupSpec;
use alloc::sync::Arc;

/// A group and who owns it.
pub struct Group {
    spec: GroupSpec,
}

impl Group {
    /// A group that nobody owns; its streams are blocked.
    pub fn new(spec: GroupSpec) -> Arc<Self> {
        Arc::new(Self { spec })
    }
    /// Its number.
    pub fn id(&self) -> u32 {
        self.spec.id
    }
}
