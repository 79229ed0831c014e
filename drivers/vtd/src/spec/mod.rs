//! Layouts and codes of the VT-d architecture specification (section numbers: revision 5.0). No logic (rule
//! `spec-types-only`).

pub mod context;
pub mod fault;
pub mod pasid;
pub mod queue;
pub mod regs;

#[cfg(test)]
mod tests;
