//! Device host.
/// Entry.
fn main() {}
