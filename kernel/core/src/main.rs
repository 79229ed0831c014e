//! The kernel binary: wiring only.
