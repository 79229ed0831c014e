//! Command line of qemu-run.
fn main() {}
