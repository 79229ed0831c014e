//! Command line of qemu-run.
#![forbid(unsafe_code)]

use clap::Parser;
use qemu_run::cli::{Cli, Command};
use qemu_run::guest::{self, Options};
use qemu_run::migrate::{self, Job};
use qemu_run::ui::Ui;
use qemu_run::{image, inspect, run, setup};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    run::end_children_on_signal();
    let ui = Ui::new();
    // A program's own status may be any of 0..=124, so a failure of ours is told apart.
    let own_failure = if matches!(cli.command, Some(Command::Exec { .. })) { 125 } else { 2 };
    match work(&ui, cli) {
        Ok(status) => ExitCode::from(status),
        Err(why) => {
            ui.say(&format!("error: {why:#}"));
            ExitCode::from(own_failure)
        }
    }
}

fn work(ui: &Ui, cli: Cli) -> anyhow::Result<u8> {
    if let Some(Command::Inspect(args)) = &cli.command {
        // On any computer: before anything is looked for or installed.
        return inspect::run(args);
    }
    let tools = setup::ensure(ui)?;
    let machine = cli.machine;
    let options = Options { profile: machine.profile, accel: machine.accel, qemu_args: machine.qemu_args };
    match cli.command {
        Some(Command::Setup) => {
            println!("{}", setup::describe(&tools));
            Ok(0)
        }
        Some(Command::Lint) => image::lint(ui, &tools).map(|()| 0),
        Some(Command::Inspect(args)) => inspect::run(&args),
        Some(Command::Boot) => guest::boot(ui, &tools, &options),
        Some(Command::Exec { line }) => guest::exec(ui, &tools, &options, Path::new(&line[0]), &line[1..]),
        None => {
            let args = cli.job;
            let job = Job {
                input: args.input,
                rate_kib: args.rate,
                rounds: args.rounds,
                region_mib: args.region,
                seed: args.seed,
                no_dirty: args.no_dirty,
                no_soft_dirty: args.no_soft_dirty,
                ..Job::default()
            };
            migrate::main_job(ui, &tools, &options, &job, args.json.as_deref())
        }
    }
}
