//! devhost's command line; see the library.

use devhost::{args, args::Command, destination, event::Printer, source, source::exit, suite, vfio::Real};
use std::{net::TcpListener, process::ExitCode, sync::Arc};

fn main() -> ExitCode {
    let status = match args::parse(std::env::args().skip(1)) {
        Ok(Command::Help) => {
            println!("{}", args::USAGE);
            exit::DONE
        }
        Ok(Command::Check(names)) => suite::run(&names),
        Ok(Command::Source(options, bytes)) => {
            match Real::open(bytes, |region| source::prepare(region, options.seed)) {
                Ok(machine) => source::run(Arc::new(machine), Arc::new(Printer), &options),
                Err(message) => usage(&message),
            }
        }
        Ok(Command::Destination(options, bytes)) => {
            let machine = Real::open(bytes, |region| destination::prepare(region, options.seed));
            let listener =
                TcpListener::bind(("0.0.0.0", options.port)).map_err(|error| format!("port {}: {error}", options.port));
            match machine.and_then(|machine| Ok((machine, listener?))) {
                Ok((machine, listener)) => destination::run(Arc::new(machine), Arc::new(Printer), &options, &listener),
                Err(message) => usage(&message),
            }
        }
        Err(message) => {
            let status = usage(&message);
            eprintln!("{}", args::USAGE);
            status
        }
    };
    ExitCode::from(status)
}

fn usage(message: &str) -> u8 {
    eprintln!("devhost: {message}");
    exit::USAGE
}
