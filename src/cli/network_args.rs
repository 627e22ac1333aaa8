// SPDX-License-Identifier: MIT OR Apache-2.0
//! Options of whatever makes a network: `wharf run` and `wharf network create`.

use std::net::SocketAddr;

use clap::Args;

use crate::host::HostSocket;
use crate::values;

/// Who answers for the gateway's nameserver.
#[derive(Debug, Args)]
pub(super) struct NameserverArgs {
    /// Ask this nameserver instead of those in the host's resolv.conf; may be repeated
    #[arg(long, value_name = "ADDR", value_parser = values::nameserver)]
    pub(super) dns: Vec<SocketAddr>,
    /// Ask a nameserver each time instead of keeping answers for as long as they hold
    #[arg(long)]
    pub(super) no_dns_cache: bool,
}

/// What the gateway leads to beside what anybody on the host's network reaches.
#[derive(Debug, Args)]
pub(super) struct GatewayArgs {
    /// Let the gateway's addresses lead to the host's 127.0.0.1 and ::1
    #[arg(long)]
    pub(super) host_loopback: bool,
    /// Let this port of the gateway lead to a unix socket of the host; may be repeated
    #[arg(long, value_name = "PORT:PATH", value_parser = HostSocket::typed)]
    pub(super) host_socket: Vec<HostSocket>,
    /// Let 169.254.0.0/16 be reached, where clouds keep their metadata services
    #[arg(long)]
    pub(super) allow_link_local: bool,
}
