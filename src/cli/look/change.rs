// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands that change what runs.

use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::time::timeout;

use super::list::Listed as _;
use super::{Failure, OutputArgs, WhomArgs, print_line, show};
use crate::attach;
use crate::control::client::{Client, Error, Target};
use crate::control::error::{Code, Error as Refusal};
use crate::control::model::{Info, Mode, Publication, PublishRequest, Reloaded};
use crate::control::spec::PortWish;
use crate::publish::{Request, holder, wish};
use crate::sys::readiness;

/// How long a daemon that ends is waited for.
const DOWN: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(in crate::cli) struct PublishArgs {
    /// Ports of the host, and of the container that they lead to; without IP on all the host's addresses, with IFACE only
    /// through that interface; 0 is any free port; unix:PATH is a unix socket of the host; with +proxy the server is told
    /// who its clients are (PROXY protocol, version 2)
    #[arg(value_name = "[[IP:|IFACE:]HOSTPORT[-END]|unix:PATH]:[NAME:]PORT[-END][/udp|/tcp+proxy]", value_parser = wish::typed)]
    ports: PortWish,
    /// The network [default: the only one there is, or the one called default]
    #[arg(short, long, value_name = "NAME")]
    network: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct UnpublishArgs {
    /// Their numbers, as `wharf ports` lists them
    #[arg(value_name = "ID", required = true)]
    ids: Vec<u64>,
    #[command(flatten)]
    whom: WhomArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DetachArgs {
    /// Their names, as `wharf ls` lists them
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// From which network [default: the only one that they are attached to]
    #[arg(short, long, value_name = "NAME")]
    network: Option<String>,
    #[command(flatten)]
    whom: WhomArgs,
}

pub(super) async fn publish(args: PublishArgs) -> Result<(), Failure> {
    let client = args.output.whom.client().await?;
    let request = PublishRequest { network: args.network, ports: args.ports.text.clone() };
    if let Some(socket) = args.ports.request().filter(|request| request.place.path().is_some()) {
        let published = publish_socket(&client, request, socket).await?;
        return match args.output.json {
            true => print_line(&serde_json::to_vec(&published).unwrap_or_default()),
            false => show(&published),
        };
    }
    let answer = match client.post(&Target::new(Publication::PATH), &request).await {
        Err(Error::Refused(refusal)) => Err(holder::named(refusal, args.ports.request()).into()),
        answer => answer,
    }?;
    if args.output.json {
        print_line(&answer)
    } else {
        show::<Publication>(&client.parse::<Vec<_>>(&answer)?)
    }
}

/// Makes a unix socket for the daemon, which makes no files.
async fn publish_socket(
    client: &Client,
    request: PublishRequest,
    wish: &Request,
) -> Result<Vec<Publication>, Failure> {
    let info: Info = client.get(&Target::new("/v1/info")).await?;
    if info.mode == Mode::Run {
        let refusal =
            Refusal::new(Code::Unsupported, "a `wharf run` that runs takes no unix sockets any more");
        return Err(Error::Refused(refusal.hint("give it its own: `wharf run -p unix:...`")).into());
    }
    Ok(attach::Client::publish(&client.attach_socket(), request, wish)?)
}

pub(super) async fn unpublish(args: &UnpublishArgs) -> Result<(), Failure> {
    let target = |id: &u64| Target::new(Publication::PATH).item(&id.to_string());
    delete_each(&args.whom, args.ids.iter().map(target)).await
}

pub(super) async fn detach(args: &DetachArgs) -> Result<(), Failure> {
    let target = |name: &String| Target::new("/v1/ports").item(name).with("network", args.network.as_deref());
    delete_each(&args.whom, args.names.iter().map(target)).await
}

/// Ends each of these. Those that cannot be ended do not keep the others.
pub(super) async fn delete_each(
    whom: &WhomArgs,
    targets: impl Iterator<Item = Target>,
) -> Result<(), Failure> {
    let client = whom.client().await?;
    let mut result = Ok(());
    for target in targets {
        if let Err(error) = client.delete(&target).await
            && let Err(earlier) = std::mem::replace(&mut result, Err(error))
        {
            tracing::error!("{earlier}");
        }
    }
    Ok(result?)
}

pub(super) async fn reload(args: &OutputArgs) -> Result<(), Failure> {
    let client = args.whom.client().await?;
    let answer = client.order(&Target::new("/v1/reload")).await?;
    if args.json {
        return print_line(&answer);
    }
    let Reloaded { created, removed, changed, warnings } = client.parse(&answer)?;
    for (what, networks) in [("created", created), ("removed", removed), ("changed", changed)] {
        if !networks.is_empty() {
            print_line(format!("{what} {}", networks.join(", ")).as_bytes())?;
        }
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(())
}

pub(super) async fn down(args: &WhomArgs) -> Result<(), Failure> {
    let client = args.client().await?;
    let info: Info = client.get(&Target::new("/v1/info")).await?;
    let process = i32::try_from(info.pid).ok().and_then(Pid::from_raw);
    // Before the order, as the number may be somebody else's after it. Nothing is waited for where it cannot be seen.
    let process = process.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    client.order(&Target::new("/v1/shutdown")).await?;
    if let Some(end) = process.and_then(|process| readiness::watch(process, Interest::READABLE).ok())
        && timeout(DOWN, end.readable()).await.is_err()
    {
        tracing::warn!("process {} has not ended yet", info.pid);
    }
    Ok(())
}
