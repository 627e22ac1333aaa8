// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands that look at networks that run, or change them: clients of the API.
//!
//! Text for people and `--json`, the API's own answer, for programs. A reader that has seen enough and closes the pipe is
//! no error.

mod change;
mod create;
mod follow;
mod human;
mod list;
mod table;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use self::list::Listed;
use super::whom::WhomArgs;
use super::{EXIT_FAILURE, fail};
use crate::attach;
use crate::control::client::{self, Target};
use crate::control::model::{Lease, Network, Port, Publication, Stats};

/// How to read the status of these commands.
const EXIT_STATUS: &str = "\
Exit status:
  0 done; 2 the request makes no sense; 3 there is no such thing;
  4 it exists, or somebody else has it; 5 not permitted; 6 a table or a range is exhausted;
  7 this process does not do that; 125 nobody answers, or wharf failed";

#[derive(Debug, Subcommand)]
pub(super) enum Look {
    /// List who is attached
    #[command(after_help = EXIT_STATUS)]
    Ls(ListArgs),
    /// List the networks
    #[command(after_help = EXIT_STATUS)]
    Networks(OutputArgs),
    /// Make or remove a network
    #[command(subcommand)]
    Network(create::NetworkCommand),
    /// List the published ports
    #[command(after_help = EXIT_STATUS)]
    Ports(ListArgs),
    /// Publish ports of a container, on ports or unix sockets of the host, which are published again after a restart
    ///
    /// All of them or none; what is published now is printed, with the ports that were found for 0. Ports need not be of a
    /// container that is attached already: a name has the same addresses whenever it comes back.
    #[command(after_help = EXIT_STATUS)]
    Publish(change::PublishArgs),
    /// End publications
    #[command(after_help = EXIT_STATUS)]
    Unpublish(change::UnpublishArgs),
    /// Detach containers, whose interfaces go
    #[command(after_help = EXIT_STATUS)]
    Detach(change::DetachArgs),
    /// List the addresses that somebody has or will get
    #[command(after_help = EXIT_STATUS)]
    Leases(ListArgs),
    /// List the flows through the gateways
    #[command(after_help = EXIT_STATUS)]
    Flows(follow::FlowsArgs),
    /// Show what went through each network, and why what did not
    #[command(after_help = EXIT_STATUS)]
    Stats(StatsArgs),
    /// Print what happens, as it happens
    ///
    /// Ends when the process ends that is asked. Who reads too slowly is told how many events are missing.
    #[command(after_help = EXIT_STATUS)]
    Events(follow::EventsArgs),
    /// Have the daemon read its configuration file again
    ///
    /// Flows go on. Either all of what changed in the file can be done while they do, or nothing is.
    #[command(after_help = EXIT_STATUS)]
    Reload(OutputArgs),
    /// End the daemon, and every network with it
    #[command(after_help = EXIT_STATUS)]
    Down(WhomArgs),
}

#[derive(Debug, Args)]
pub(super) struct OutputArgs {
    /// Print the API's own answer
    #[arg(long, help_heading = None::<&'static str>)]
    json: bool,
    #[command(flatten)]
    whom: WhomArgs,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only this network
    #[arg(short, long, value_name = "NAME")]
    network: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(super) struct StatsArgs {
    /// Show reasons for which nothing was dropped, too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    list: ListArgs,
}

/// Why a command did not do what it is for.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    #[error(transparent)]
    Attach(#[from] attach::Error),
}

pub(super) fn main(command: Look) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    match runtime.block_on(run(command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            ExitCode::from(match failure {
                Failure::Client(error) => error.exit_status(),
                Failure::Attach(error) => error.exit_status(),
                Failure::Output(_) => EXIT_FAILURE,
            })
        }
    }
}

async fn run(command: Look) -> Result<(), Failure> {
    match command {
        Look::Ls(args) => list::<Port>(&args).await,
        Look::Networks(output) => list::<Network>(&ListArgs { network: None, output }).await,
        Look::Network(command) => create::run(command).await,
        Look::Ports(args) => list::<Publication>(&args).await,
        Look::Publish(args) => change::publish(args).await,
        Look::Unpublish(args) => change::unpublish(&args).await,
        Look::Detach(args) => change::detach(&args).await,
        Look::Leases(args) => list::<Lease>(&args).await,
        Look::Flows(args) => follow::flows(&args).await,
        Look::Stats(args) => stats(&args).await,
        Look::Events(args) => follow::events(&args).await,
        Look::Reload(args) => change::reload(&args).await,
        Look::Down(args) => change::down(&args).await,
    }
}

impl ListArgs {
    /// What is asked for a list of `T`.
    fn target<T: Listed>(&self) -> Target {
        Target::new(T::PATH).with("network", self.network.as_deref())
    }
}

async fn list<T: Listed>(args: &ListArgs) -> Result<(), Failure> {
    let client = args.output.whom.client().await?;
    let answer = client.get_bytes(&args.target::<T>()).await?;
    if args.output.json {
        return print_line(&answer);
    }
    show::<T>(&client.parse::<Vec<T>>(&answer)?)
}

async fn stats(args: &StatsArgs) -> Result<(), Failure> {
    let ListArgs { output, .. } = &args.list;
    if output.json {
        return list::<Stats>(&args.list).await;
    }
    let mut stats: Vec<Stats> = output.whom.client().await?.get(&args.list.target::<Stats>()).await?;
    for stats in &mut stats {
        stats.drops.retain(|drop| args.all || drop.count > 0);
    }
    show(&stats)
}

/// Prints a list, or says that it is empty.
fn show<T: Listed>(items: &[T]) -> Result<(), Failure> {
    if items.is_empty() {
        tracing::warn!("{}", T::NONE);
        return Ok(());
    }
    print(T::text(items).as_bytes())
}

fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

fn print_line(line: &[u8]) -> Result<(), Failure> {
    print(&[line, b"\n"].concat())
}
