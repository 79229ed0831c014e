//! ACPI tables, through the `acpi` crate. Our own bounds checks come first: the crate believes what it reads.

use acpi::sdt::{SdtHeader, Signature};
use acpi::{AcpiHandler, AcpiTable, AcpiTables, PhysicalMapping};
use alloc::vec::Vec;
use arch_x86_64::{direct, paging};
use core::ptr::NonNull;

/// Longest table we read, in bytes.
const MAX_TABLE: u32 = 1 << 20;
/// Physical addresses at or above are nonsense in a firmware table.
const MAX_PHYS: u64 = 1 << 46;

/// Copies bytes of firmware memory; false if they cannot be reached.
pub fn read_phys(at: u64, to: &mut [u8]) -> bool {
    if at.checked_add(to.len() as u64).is_none_or(|end| end > MAX_PHYS)
        || paging::extend_direct(at, to.len() as u64, crate::memory::frames()).is_err()
    {
        return false;
    }
    // SAFETY: mapped now; firmware memory that nobody writes any more.
    unsafe { core::ptr::copy_nonoverlapping(direct(at), to.as_mut_ptr(), to.len()) };
    true
}

#[derive(Clone)]
struct DirectMap;

impl AcpiHandler for DirectMap {
    unsafe fn map_physical_region<T>(&self, physical_address: usize, size: usize) -> PhysicalMapping<Self, T> {
        // `check` walked the same addresses and lengths, so only a lack of memory can stop this.
        if paging::extend_direct(physical_address as u64, size as u64, crate::memory::frames()).is_err() {
            panic!("no memory to map firmware tables");
        }
        // SAFETY: mapped above and never unmapped; the direct map is not null.
        unsafe {
            let start = NonNull::new_unchecked(direct(physical_address as u64).cast());
            PhysicalMapping::new(physical_address, start, size, size, Self)
        }
    }
    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

/// What is wrong with the tables: the physical address and the reason.
pub type Bad = (u64, &'static str);

fn header(at: u64) -> Result<(u32, [u8; 4]), Bad> {
    let mut head = [0u8; 36];
    if !read_phys(at, &mut head) {
        return Err((at, "table address out of range"));
    }
    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    if !(36..=MAX_TABLE).contains(&length) {
        return Err((at, "table length out of range"));
    }
    Ok((length, [head[0], head[1], head[2], head[3]]))
}

/// Walks RSDP, root table and all headers; returns signature, address and length of each table.
///
/// # Errors
/// [`Bad`]: the first address or length that makes no sense.
pub fn check(rsdp: u64) -> Result<Vec<([u8; 4], u64, u32)>, Bad> {
    let mut r = [0u8; 36];
    if !read_phys(rsdp, &mut r) {
        return Err((rsdp, "RSDP out of range"));
    }
    let (root, size) = if r[15] == 0 {
        (u64::from(u32::from_le_bytes([r[16], r[17], r[18], r[19]])), 4)
    } else {
        (u64::from_le_bytes([r[24], r[25], r[26], r[27], r[28], r[29], r[30], r[31]]), 8)
    };
    let (length, _) = header(root)?;
    let mut body = alloc::vec![0u8; length as usize - 36];
    if !read_phys(root + 36, &mut body) {
        return Err((root, "root table out of range"));
    }
    let mut all = Vec::new();
    for entry in body.chunks_exact(size) {
        let mut word = [0u8; 8];
        word[..size].copy_from_slice(entry);
        let at = u64::from_le_bytes(word);
        let (length, signature) = header(at)?;
        all.push((signature, at, length));
    }
    Ok(all)
}

macro_rules! tables {
    ($($name:ident)*) => { $(
        #[repr(transparent)]
        struct $name(SdtHeader);
        // SAFETY: only the header is typed; the rest is copied as bytes.
        unsafe impl AcpiTable for $name {
            const SIGNATURE: Signature = Signature::$name;
            fn header(&self) -> &SdtHeader {
                &self.0
            }
        }
    )* };
}

#[allow(clippy::upper_case_acronyms)]
mod typed {
    use super::*;
    tables! { DMAR MCFG }
    pub fn copy<T: AcpiTable>(tables: &AcpiTables<DirectMap>) -> Option<Vec<u8>> {
        let table = tables.find_table::<T>().ok()?;
        // SAFETY: mapped with that length, for ever; the checksum was right.
        Some(
            unsafe { core::slice::from_raw_parts(table.virtual_start().as_ptr().cast::<u8>(), table.region_length()) }
                .to_vec(),
        )
    }
    pub fn dmar(tables: &AcpiTables<DirectMap>) -> Option<Vec<u8>> {
        copy::<DMAR>(tables)
    }
    pub fn mcfg(tables: &AcpiTables<DirectMap>) -> Option<Vec<u8>> {
        copy::<MCFG>(tables)
    }
}

/// Copies of the tables we use, whole, header included.
#[derive(Debug, Default)]
pub struct Tables {
    /// DMA remapping (VT-d).
    pub dmar: Option<Vec<u8>>,
    /// Enhanced configuration access (PCI).
    pub mcfg: Option<Vec<u8>>,
}

/// Finds and copies the tables. `check` must have accepted `rsdp`.
///
/// # Errors
/// [`Bad`].
pub fn load(rsdp: u64) -> Result<Tables, Bad> {
    // SAFETY: `check` read the RSDP, the root table and every header there.
    let tables = unsafe { AcpiTables::from_rsdp(DirectMap, rsdp as usize) }.map_err(|e| {
        log::error!("acpi: {e:?}");
        (rsdp, "signature or checksum")
    })?;
    Ok(Tables { dmar: typed::dmar(&tables), mcfg: typed::mcfg(&tables) })
}
