// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line: what the user typed, turned into options of the work to be done.

mod attach;
mod doctor;
mod generate;
mod look;
mod network_args;
mod run;
mod up;
mod whom;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{compat, logging};

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
    ///
    /// The command runs in user, network, mount, PID, IPC and UTS namespaces of its own. Its network ends in wharf, which
    /// carries what goes outside over ordinary sockets of the host: no root, no kernel bridge, no packet filter rules.
    /// The sandbox ends with the command, with everything that is still running in it.
    #[command(override_usage = "wharf run [OPTIONS] [--] [COMMAND [ARGUMENT]...]", after_long_help = run::EXIT_STATUS)]
    Run(Box<run::RunArgs>),
    /// Serve networks for many containers, until `wharf down`
    ///
    /// One process is the switch and the gateway of every network. Containers come and go by `wharf attach` and
    /// `wharf detach`. It stays in the foreground, tells a service manager when it is ready (systemd: Type=notify), and
    /// ends at SIGTERM; SIGHUP is `wharf reload`.
    Up(up::UpArgs),
    /// Give a container an interface on a network of the daemon
    ///
    /// Makes the interface in the network namespace of a process, or in one that has a name or a path, gives it its
    /// addresses and routes, and says what it did. It goes when the container ends, by `wharf detach`, or with the daemon.
    Attach(Box<attach::AttachArgs>),
    #[command(flatten)]
    Look(look::Look),
    /// Say whether this machine has what a rootless network needs
    ///
    /// Makes a sandbox for a moment and says for each point that fails the command that mends it. The exit status is 0
    /// when `wharf run` can work and 1 when a required point is missing.
    Doctor(doctor::DoctorArgs),
    /// Print the manual pages
    Man(generate::ManArgs),
    /// Print the completions of a shell
    Completions(generate::CompletionArgs),
}

/// Runs the program with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(status) = compat::main_of(std::env::args_os()) {
        return status;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return told(&error),
    };
    logging::start(&cli.logging);
    match cli.command {
        Command::Run(args) => run::main(*args),
        Command::Up(args) => up::main(args),
        Command::Attach(args) => attach::main(*args),
        Command::Look(command) => look::main(command),
        Command::Doctor(args) => doctor::main(&args),
        Command::Man(args) => generate::man(&args),
        Command::Completions(args) => generate::completions(&args),
    }
}

/// Prints what clap has to say: help that was asked for, or what is wrong with the arguments.
fn told(error: &clap::Error) -> ExitCode {
    let printed = error.print();
    if error.use_stderr() {
        return ExitCode::from(EXIT_FAILURE);
    }
    logging::start(&logging::LogArgs::default());
    written(printed)
}

/// The status of a command that has only something to print.
fn written(printed: io::Result<()>) -> ExitCode {
    match printed.and_then(|()| io::stdout().flush()) {
        // A reader that has seen enough closes the pipe.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            tracing::error!("cannot write: {error}");
            ExitCode::from(EXIT_FAILURE)
        }
        _ => ExitCode::SUCCESS,
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
