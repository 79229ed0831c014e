//! Prints its arguments; the status is the number of them.

/// Entry.
fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    println!("hello from Rust {args:?}");
    std::process::ExitCode::from(args.len() as u8)
}
