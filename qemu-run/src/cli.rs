//! The command line.

use crate::machine::Profile;
use clap::builder::PossibleValue;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

const AFTER: &str = "\
Exit status:
  0    all is well: verified; or the machine ended in order
  1    the main job ran, and what arrived is not what was sent
  2    wrong usage, or set-up, build or start failed
  3    outcome unknown: the connection was cut after GO; the source stays fenced
  4    the migration failed before GO; the source runs on
  130  interrupted
  exec returns the program's own status, 128 + N if signal N ended it, 125 if it could not be run.

Environment:
  PORTOLAN_QEMU=FILE        the qemu-system-x86_64 to use
  PORTOLAN_BARE_STD=build   build core and alloc for the bare target even if the toolchain has them";

/// Portolan under QEMU; without a command: moves a running device to another machine, and checks it.
#[derive(Debug, Parser)]
#[command(name = "qemu-run", version, after_help = AFTER, max_term_width = 100, args_conflicts_with_subcommands = false)]
pub struct Cli {
    /// What to do instead of the main job
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Which machine
    #[command(flatten)]
    pub machine: MachineArgs,
    /// The main job
    #[command(flatten)]
    pub job: JobArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot and give a serial console with a small shell
    Boot,
    /// Boot, run one static Linux ELF of this machine's disk, return its exit status
    Exec {
        /// The program and its arguments
        #[arg(
            required = true,
            num_args = 1..,
            value_names = ["PROGRAM", "ARGS"],
            trailing_var_arg = true,
            allow_hyphen_values = true
        )]
        line: Vec<String>,
    },
    /// Look for what is needed, install what is missing, do nothing else
    Setup,
    /// Clippy over the kernel for the bare target, warnings are errors; for CI
    Lint,
    /// Show what firmware tables say about IOMMUs; status 1 if one of them is bad
    Inspect(crate::inspect::Args),
}

impl clap::ValueEnum for Profile {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::OFFERED
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(self.about()))
    }
}

/// Options of every command that starts a machine.
#[derive(Clone, Debug, Args)]
pub struct MachineArgs {
    /// Board
    #[arg(long = "machine", value_name = "NAME", default_value = "vtd-fs", global = true)]
    pub profile: Profile,
    /// QEMU's accelerator; kvm only if you know that it works here
    #[arg(long, value_name = "NAME", default_value = "tcg", global = true)]
    pub accel: String,
    /// Passed to QEMU as it is; repeatable
    #[arg(long = "qemu-arg", value_name = "ARG", allow_hyphen_values = true, global = true)]
    pub qemu_args: Vec<String>,
}

/// Options of the main job.
#[derive(Clone, Debug, Args)]
pub struct JobArgs {
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// File to send to the moving network card [default: the kernel image]
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Pace of the file transfer in KiB per second
    #[arg(long, value_name = "KIB", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,
    /// Most pre-copy rounds
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Memory that moves, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=384))]
    pub region: u32,
    /// Seed of the memory's contents and of the order of the receive buffers
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Ignore the device's dirty bits: must end in lost pages
    #[arg(long)]
    pub no_dirty: bool,
    /// Ignore the CPU's dirty bits: must end in lost pages
    #[arg(long)]
    pub no_soft_dirty: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(words: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("qemu-run").chain(words.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn nothing_is_the_main_job_on_vtd_fs() {
        let cli = parse("").unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.machine.profile, Profile::VtdFs);
        assert_eq!((cli.job.region, cli.machine.accel.as_str()), (256, "tcg"));
    }

    #[test]
    fn exec_keeps_the_programs_own_flags() {
        let cli = parse("--machine vtd-ss exec ./prog --help -x").unwrap();
        let Some(Command::Exec { line }) = cli.command else { panic!("not exec") };
        assert_eq!(line, ["./prog", "--help", "-x"]);
        assert_eq!(cli.machine.profile, Profile::VtdSs);
    }

    #[test]
    fn options_between_exec_and_its_program_are_ours() {
        let cli = parse("exec --machine vtd-ss prog --machine vax").unwrap();
        let Some(Command::Exec { line }) = cli.command else { panic!("not exec") };
        assert_eq!(line, ["prog", "--machine", "vax"]);
        assert_eq!(cli.machine.profile, Profile::VtdSs);
    }

    #[test]
    fn options_may_follow_the_command() {
        let cli = parse("boot --machine vtd-legacy --qemu-arg=-d --qemu-arg=unimp").unwrap();
        assert_eq!(cli.machine.profile, Profile::VtdLegacy);
        assert_eq!(cli.machine.qemu_args, ["-d", "unimp"]);
    }

    #[test]
    fn an_unknown_profile_lists_the_known_ones() {
        let text = parse("--machine vax").unwrap_err().to_string();
        for profile in Profile::OFFERED {
            assert!(text.contains(profile.name()), "{text}");
        }
        assert!(!text.contains("bypass"), "{text}");
    }

    #[test]
    fn wrong_usage_is_refused() {
        for words in ["--frobnicate", "--region 8", "--rate 0", "fly", "exec", "--rounds x"] {
            assert_eq!(parse(words).unwrap_err().exit_code(), 2, "{words}");
        }
    }

    #[test]
    fn help_fits_100_columns_and_states_the_exit_codes() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
        assert!(help.contains("outcome unknown") && help.contains("125"));
    }
}
