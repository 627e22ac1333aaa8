// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line: what the user typed, turned into options of the work to be done.

mod generate;
mod logging;
mod run;
mod values;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// wharf's own failures, as with `env`, `timeout` and `chroot`.
pub const EXIT_FAILURE: u8 = 125;

/// A rootless userspace network for containers, CI sandboxes and VMs
#[derive(Debug, Parser)]
#[command(name = "wharf", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    logging: logging::LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command in a sandbox with a network of its own
    Run(Box<run::RunArgs>),
    /// Print the manual pages
    #[command(hide = true)]
    Man(generate::ManArgs),
    /// Print the completions of a shell
    #[command(hide = true)]
    Completions(generate::CompletionArgs),
}

/// Runs the program with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let status = if error.use_stderr() { EXIT_FAILURE } else { 0 };
            // Nothing can be said about a standard error that is closed.
            drop(error.print());
            return ExitCode::from(status);
        }
    };
    logging::start(&cli.logging);
    match cli.command {
        Command::Run(args) => run::main(*args),
        Command::Man(args) => generate::man(&args),
        Command::Completions(args) => generate::completions(&args),
    }
}

/// Says what went wrong, once, in the words of the error.
fn fail(error: &dyn std::error::Error) -> ExitCode {
    tracing::error!("{error}");
    ExitCode::from(EXIT_FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
