//! The command line, as in docs/protocol.md.

use crate::{destination, layout::MIN_PAGES, source};
use std::str::FromStr;

/// Printed for `--help` and behind each usage error.
pub const USAGE: &str = "\
usage: devhost source      --peer IP:PORT [--region BYTES] [--seed N] [--max-rounds N] [--min-rounds N] [--stop-pages N]
                           [--after-frames N] [--patience SECONDS] [--linger SECONDS] [--no-dirty] [--no-soft-dirty]
       devhost destination --listen PORT [--region BYTES] [--seed N] [--patience SECONDS]
       devhost check [NAME...]   all, or those that `devhost check --help` lists";

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run the source with a region of so many bytes.
    Source(source::Options, u64),
    /// Run the destination with a region of so many bytes.
    Destination(destination::Options, u64),
    /// Run checks.
    Check(Vec<String>),
    /// Print the usage.
    Help,
}

/// 256 MiB.
const REGION: u64 = 256 << 20;

fn number<T: FromStr>(name: &str, value: Option<String>) -> Result<T, String> {
    let value = value.ok_or_else(|| format!("{name} needs a value"))?;
    value.parse().map_err(|_| format!("{name}: {value:?} is not usable"))
}

fn seconds(name: &str, value: Option<String>) -> Result<std::time::Duration, String> {
    number(name, value).map(std::time::Duration::from_secs)
}

fn region(name: &str, value: Option<String>) -> Result<u64, String> {
    let bytes: u64 = number(name, value)?;
    if !bytes.is_multiple_of(4096) || bytes / 4096 < MIN_PAGES.into() || bytes >> 40 != 0 {
        return Err(format!("{name}: {bytes} is not a whole number of pages from {} up", MIN_PAGES));
    }
    Ok(bytes)
}

/// Reads the arguments behind the program's name.
///
/// # Errors
/// One line that says which argument is wrong.
pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Command, String> {
    match args.next().as_deref() {
        Some("source") => parse_source(args),
        Some("destination") => parse_destination(args),
        Some("check" | "selftest") => Ok(Command::Check(args.collect())),
        Some("--help" | "-h" | "help") => Ok(Command::Help),
        Some(other) => Err(format!("unknown command {other:?}")),
        None => Err("no command".into()),
    }
}

fn parse_source(mut args: impl Iterator<Item = String>) -> Result<Command, String> {
    let (mut peer, mut bytes) = (None, REGION);
    let mut options = source::Options::new(([127, 0, 0, 1], 0).into());
    while let Some(name) = args.next() {
        match name.as_str() {
            "--peer" => peer = Some(number(&name, args.next())?),
            "--region" => bytes = region(&name, args.next())?,
            "--seed" => options.seed = number(&name, args.next())?,
            "--max-rounds" => options.max_rounds = number(&name, args.next())?,
            "--min-rounds" => options.min_rounds = number(&name, args.next())?,
            "--stop-pages" => options.stop_pages = number(&name, args.next())?,
            "--after-frames" => options.after_frames = number(&name, args.next())?,
            "--patience" => options.patience = seconds(&name, args.next())?,
            "--linger" => options.linger = seconds(&name, args.next())?,
            "--no-dirty" => options.no_dirty = true,
            "--no-soft-dirty" => options.no_soft_dirty = true,
            "--help" => return Ok(Command::Help),
            _ => return Err(format!("unknown option {name:?}")),
        }
    }
    options.peer = peer.ok_or("source needs --peer IP:PORT")?;
    Ok(Command::Source(options, bytes))
}

fn parse_destination(mut args: impl Iterator<Item = String>) -> Result<Command, String> {
    let (mut port, mut bytes) = (None, REGION);
    let mut options = destination::Options::new(0);
    while let Some(name) = args.next() {
        match name.as_str() {
            "--listen" => port = Some(number(&name, args.next())?),
            "--region" => bytes = region(&name, args.next())?,
            "--seed" => options.seed = number(&name, args.next())?,
            "--patience" => options.patience = seconds(&name, args.next())?,
            "--help" => return Ok(Command::Help),
            _ => return Err(format!("unknown option {name:?}")),
        }
    }
    options.port = port.ok_or("destination needs --listen PORT")?;
    Ok(Command::Destination(options, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<Command, String> {
        parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_command_line_of_the_protocol_is_understood() {
        let Ok(Command::Source(options, bytes)) = line(
            "source --peer 10.77.0.2:7777 --region 16777216 --seed 9 --max-rounds 4 --stop-pages 5 --after-frames 6 --no-dirty",
        ) else {
            panic!()
        };
        assert_eq!((options.seed, options.max_rounds, options.stop_pages, options.after_frames), (9, 4, 5, 6));
        assert_eq!((options.no_dirty, options.no_soft_dirty, bytes), (true, false, 16_777_216));
        assert_eq!(options.peer.to_string(), "10.77.0.2:7777");
        let Ok(Command::Destination(options, bytes)) = line("destination --listen 7777 --seed 3") else { panic!() };
        assert_eq!((options.port, options.seed, bytes), (7777, 3, 256 << 20));
    }

    #[test]
    fn each_bad_argument_gets_one_line() {
        for (text, says) in [
            ("", "no command"),
            ("fly", "unknown command"),
            ("source", "--peer"),
            ("source --peer here", "not usable"),
            ("source --peer 1.2.3.4:5 --region 4097", "whole number of pages"),
            ("source --peer 1.2.3.4:5 --region 4096", "whole number of pages"),
            ("source --peer 1.2.3.4:5 --seed", "needs a value"),
            ("source --peer 1.2.3.4:5 --fast", "unknown option"),
            ("destination", "--listen"),
            ("destination --listen 70000", "not usable"),
        ] {
            let error = line(text).unwrap_err();
            assert!(error.contains(says) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
