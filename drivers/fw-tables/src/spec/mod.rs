//! Layouts only; the parsers give them meaning.

pub mod acpi;
pub mod dmar;
pub mod iort;
pub mod ivrs;
