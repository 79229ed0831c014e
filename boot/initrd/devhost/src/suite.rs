//! x
/// x
pub fn run(_names: &[String]) -> u8 {
    0
}
