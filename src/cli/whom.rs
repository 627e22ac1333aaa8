// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whom a command speaks to.

use std::path::PathBuf;

use clap::Args;

use crate::control::client::{self, Client, Whom};

/// Over these options where a command has others too.
pub(super) const WHOM: &str = "Who is asked";

/// The daemon.
#[derive(Debug, Args)]
pub(super) struct DaemonArgs {
    /// Whoever listens at this socket [default: $WHARF_SOCKET]
    #[arg(long, value_name = "PATH", help_heading = WHOM)]
    socket: Option<PathBuf>,
    /// The daemon with its sockets in this directory [default: $XDG_RUNTIME_DIR/wharf]
    #[arg(long, value_name = "DIR", conflicts_with = "socket", help_heading = WHOM)]
    runtime_dir: Option<PathBuf>,
}

impl DaemonArgs {
    pub(super) fn whom(&self) -> Whom {
        match (&self.socket, &self.runtime_dir) {
            (Some(path), _) => Whom::Socket(path.clone()),
            (None, Some(directory)) => Whom::In(directory.clone()),
            (None, None) => Whom::Found,
        }
    }
}

/// The daemon or a sandbox.
#[derive(Debug, Args)]
pub(super) struct WhomArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
    /// The `wharf run` with this process id [default: the daemon, else the only sandbox there is]
    #[arg(long, value_name = "PID", conflicts_with_all = ["socket", "runtime_dir"], help_heading = WHOM)]
    run: Option<u32>,
}

impl WhomArgs {
    pub(super) async fn client(&self) -> Result<Client, client::Error> {
        Client::find(&self.run.map_or_else(|| self.daemon.whom(), Whom::Run)).await
    }
}
