//! Firmware tables for the rest of the kernel.

use crate::platform::firmware::{self, Tables};
use spin::Once;

static TABLES: Once<Tables> = Once::new();

/// Reads the tables that `rsdp` leads to. Without one, or with broken ones, the machine has no PCI and no IOMMU; the log
/// says why.
pub fn init(rsdp: Option<u64>) {
    let Some(rsdp) = rsdp else {
        log::warn!("acpi: the loader gave no RSDP");
        return;
    };
    match firmware::check(rsdp).and_then(|all| firmware::load(rsdp).map(|t| (all, t))) {
        Ok((all, tables)) => {
            log::info!("acpi: RSDP {rsdp:#x}, {} tables{}", all.len(), List(&all));
            TABLES.call_once(|| tables);
        }
        Err((at, why)) => log::error!("acpi: {why} at {at:#x}"),
    }
}

struct List<'a>(&'a [([u8; 4], u64, u32)]);

impl core::fmt::Display for List<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (signature, _, length) in self.0 {
            write!(f, " {}[{length}]", signature.escape_ascii())?;
        }
        Ok(())
    }
}

/// The DMAR table, whole.
pub fn dmar() -> Option<&'static [u8]> {
    TABLES.get()?.dmar.as_deref()
}

/// The MCFG table, whole.
pub fn mcfg() -> Option<&'static [u8]> {
    TABLES.get()?.mcfg.as_deref()
}
