// SPDX-License-Identifier: MIT OR Apache-2.0
//! `wharf run`: its options.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use smoltcp::wire::{Ipv4Cidr, Ipv6Cidr};

use super::fail;
use super::network_args::{GatewayArgs, NameserverArgs};
use super::whom::DaemonArgs;
use crate::control::client::Whom;
use crate::control::network::AttachRequest;
use crate::control::spec::{Name, PortWish, Text};
use crate::dataplane::{PollMode, WORKERS};
use crate::netns::plan::{Families, NAT64_PREFIX, Wishes, overlap};
use crate::netns::{DEFAULT_MTU, DeviceChoice, MIN_MTU, MIN_MTU_IPV6};
use crate::publish::wish;
use crate::run::{self, Join, Options, idmap};
use crate::sys::tun::MAX_MTU;
use crate::values;

/// How to read the status of `wharf run`.
pub(super) const EXIT_STATUS: &str = "\
Exit status:
  the command's own; 128 + n when signal n ended it; 125 when wharf failed,
  126 when the command could not be executed, 127 when it was not found";

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The command and its arguments [default: your shell]
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten, next_help_heading = "Addresses")]
    addresses: AddressArgs,
    #[command(flatten, next_help_heading = "Names")]
    names: NameArgs,
    #[command(flatten, next_help_heading = "Reach")]
    reach: ReachArgs,
    #[command(flatten, next_help_heading = "Users")]
    users: UserArgs,
    #[command(flatten, next_help_heading = "Engine")]
    engine: EngineArgs,
    #[command(flatten, next_help_heading = "A network of the daemon")]
    join: JoinArgs,
}

/// With any of them the daemon carries the packets, as its own configuration says.
#[derive(Debug, Args)]
struct JoinArgs {
    /// Join this network of `wharf up` instead of making one
    #[arg(long, value_name = "NAME", value_parser = Name::parse, conflicts_with_all = [
        "mtu", "cidr", "ipv6_prefix", "ipv4_only", "ipv6_only", "nat64_prefix", "dns", "no_dns_cache", "search",
        "host_loopback", "host_socket", "allow_link_local", "workers", "poll", "memory",
    ])]
    network: Option<Name>,
    /// What the sandbox is called there [default: c1, c2, ...]
    #[arg(long, value_name = "NAME", value_parser = Name::parse, requires = "network")]
    name: Option<Name>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

impl JoinArgs {
    fn join(self, publish: Vec<PortWish>) -> Result<Option<Join>, UsageError> {
        let daemon = self.daemon.whom();
        let Some(network) = self.network else {
            // Whoever names a daemon means to join it.
            return if daemon == Whom::Found { Ok(None) } else { Err(UsageError::NoNetwork) };
        };
        let request = AttachRequest {
            network: Some(network),
            name: self.name,
            at: format!("wharf run, process {}", std::process::id()),
            publish: publish.into_iter().map(Text).collect(),
            ..AttachRequest::default()
        };
        Ok(Some(Join { socket: daemon.attach_socket(), request }))
    }
}

#[derive(Debug, Args)]
struct AddressArgs {
    /// Largest IP packet on the sandbox's link, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_MTU)]
    mtu: usize,
    /// IPv4 network: .2 is the gateway, .3 the DNS forwarder, .100 the sandbox [default: the first of 10.0.2.0/24,
    /// 10.0.3.0/24, ... that the host does not route]
    #[arg(long, value_name = "A.B.C.D/N", value_parser = values::cidr, conflicts_with = "ipv6_only")]
    cidr: Option<Ipv4Cidr>,
    /// IPv6 network: ::2 is the gateway, ::3 the DNS forwarder, ::100 the sandbox [default: a random one under fd00::/8]
    #[arg(long, value_name = "P/64", value_parser = values::ipv6_prefix, conflicts_with = "ipv4_only")]
    ipv6_prefix: Option<Ipv6Cidr>,
    /// No IPv6 in the sandbox
    #[arg(long)]
    ipv4_only: bool,
    /// No IPv4 in the sandbox; IPv4 destinations are reached through NAT64 and DNS64
    #[arg(long, conflicts_with = "ipv4_only")]
    ipv6_only: bool,
    /// Turn NAT64 and DNS64 on, with this prefix for IPv4 destinations [default with --ipv6-only: 64:ff9b:1::/96]
    #[arg(long, value_name = "P/N", value_parser = values::nat64_prefix, conflicts_with = "ipv4_only")]
    nat64_prefix: Option<Ipv6Cidr>,
}

#[derive(Debug, Args)]
struct NameArgs {
    #[command(flatten)]
    nameservers: NameserverArgs,
    /// Search this domain instead of those in the host's resolv.conf; may be repeated
    #[arg(long, value_name = "DOMAIN", value_parser = values::domain)]
    search: Vec<String>,
    /// Host name of the sandbox [default: the host's]
    #[arg(long, value_name = "NAME", value_parser = values::hostname)]
    hostname: Option<String>,
}

#[derive(Debug, Args)]
struct ReachArgs {
    /// Connect whoever comes to a port of the host to a port of the sandbox; without IP on all the host's addresses, with
    /// IFACE only through that interface; 0 is any free port; unix:PATH is a unix socket of the host; auto stands for
    /// whatever the sandbox listens on, at the same ports; with +proxy the server is told who its clients are (PROXY protocol, version 2); may be repeated
    #[arg(short, long, value_name = "[[IP:|IFACE:]HOSTPORT[-END]|unix:PATH]:PORT[-END]|auto[/udp|/tcp+proxy]", value_parser = wish::own_port)]
    publish: Vec<PortWish>,
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Do not confine the gateway process
    #[arg(long)]
    no_sandbox: bool,
}

/// At most one of them; with none, --map-auto if that works, else --map-root.
#[derive(Debug, Args)]
struct UserArgs {
    /// Be root inside, with no other user
    #[arg(long, group = "ids")]
    map_root: bool,
    /// Be root inside, with your subordinate ids of /etc/subuid and /etc/subgid as the other users [default where it works]
    #[arg(long, group = "ids")]
    map_auto: bool,
    /// Be yourself inside, with no other user
    #[arg(long, group = "ids")]
    keep_uid: bool,
}

#[derive(Debug, Args)]
struct EngineArgs {
    /// Threads that carry packets, each with its own queue
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = workers)]
    workers: usize,
    /// What an idle worker does
    #[arg(long, value_name = "MODE", default_value = "adaptive")]
    poll: Poll,
    /// The sandbox's device: auto takes a veth pair where there is no /dev/net/tun
    #[arg(long, value_name = "KIND", default_value = "auto")]
    device: DeviceArg,
    /// Bytes the TCP relay may hold, connections beyond it are refused; suffixes K, M, G
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = values::size)]
    memory: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum DeviceArg {
    /// A TAP, else a veth pair
    Auto,
    /// A TAP
    Tap,
    /// A veth pair
    Veth,
}

impl From<DeviceArg> for DeviceChoice {
    fn from(device: DeviceArg) -> Self {
        match device {
            DeviceArg::Auto => Self::Best,
            DeviceArg::Tap => Self::Tap,
            DeviceArg::Veth => Self::Veth,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Poll {
    /// Spin shortly after work, then sleep
    Adaptive,
    /// Never sleep
    Busy,
    /// Sleep at once
    Sleep,
}

fn workers(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| WORKERS.contains(number));
    number.ok_or_else(|| format!("{} to {} workers", WORKERS.start(), WORKERS.end()))
}

/// Why the options do not go together.
#[derive(Debug, thiserror::Error)]
enum UsageError {
    #[error("--mtu {0} is out of range: a TAP takes {MIN_MTU} to {MAX_MTU}")]
    Mtu(usize),
    #[error("--mtu {0} is too small for IPv6, which needs {MIN_MTU_IPV6}: add --ipv4-only or raise it")]
    MtuIpv6(usize),
    #[error(
        "--nat64-prefix {nat64} and --ipv6-prefix {network} overlap: what is inside could not be told from what is \
         outside; use another prefix, such as --nat64-prefix {NAT64_PREFIX}"
    )]
    Nat64Inside { nat64: Ipv6Cidr, network: Ipv6Cidr },
    #[error(
        "--socket and --runtime-dir say whose network is joined: add --network NAME (`wharf networks` lists them)"
    )]
    NoNetwork,
}

impl RunArgs {
    fn options(self) -> Result<Options, UsageError> {
        let families = match (self.addresses.ipv4_only, self.addresses.ipv6_only) {
            (true, _) => Families::Ipv4,
            (_, true) => Families::Ipv6,
            _ => Families::Both,
        };
        let mtu_bytes = self.addresses.mtu;
        if !(MIN_MTU..=MAX_MTU).contains(&mtu_bytes) {
            return Err(UsageError::Mtu(mtu_bytes));
        }
        if families != Families::Ipv4 && mtu_bytes < MIN_MTU_IPV6 {
            return Err(UsageError::MtuIpv6(mtu_bytes));
        }
        if let (Some(nat64), Some(network)) = (self.addresses.nat64_prefix, self.addresses.ipv6_prefix)
            && overlap(nat64, network)
        {
            return Err(UsageError::Nat64Inside { nat64, network });
        }
        let ids = match (self.users.map_root, self.users.map_auto, self.users.keep_uid) {
            (true, ..) => idmap::Mode::Root,
            (_, true, _) => idmap::Mode::Auto,
            (.., true) => idmap::Mode::Keep,
            _ => idmap::Mode::Best,
        };
        let poll = match self.engine.poll {
            Poll::Adaptive => PollMode::Adaptive,
            Poll::Busy => PollMode::Busy,
            Poll::Sleep => PollMode::Sleep,
        };
        Ok(Options {
            command: if self.command.is_empty() { vec![shell()] } else { self.command },
            mtu_bytes,
            device: self.engine.device.into(),
            wishes: Wishes {
                families,
                cidr: self.addresses.cidr,
                ipv6_prefix: self.addresses.ipv6_prefix,
                nat64: self.addresses.nat64_prefix,
            },
            dns: self.names.nameservers.dns,
            dns_cache: !self.names.nameservers.no_dns_cache,
            search: self.names.search,
            hostname: self.names.hostname,
            publish: self.reach.publish.clone(),
            host_loopback: self.reach.gateway.host_loopback,
            host_sockets: self.reach.gateway.host_socket,
            allow_link_local: self.reach.gateway.allow_link_local,
            ids,
            workers: self.engine.workers,
            poll,
            memory_bytes: self.engine.memory,
            sandbox: !self.reach.no_sandbox,
            join: self.join.join(self.reach.publish)?,
        })
    }
}

fn shell() -> OsString {
    std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into())
}

pub(super) fn main(args: RunArgs) -> ExitCode {
    let options = match args.options() {
        Ok(options) => options,
        Err(error) => return fail(&error),
    };
    match run::run(&options) {
        Ok(outcome) => {
            if let run::Outcome::NotStarted(errno) = outcome {
                let program =
                    options.command.first().map_or_else(String::new, |c| c.to_string_lossy().into_owned());
                tracing::error!("cannot run `{program}`: {}", std::io::Error::from_raw_os_error(errno));
            }
            ExitCode::from(outcome.exit_status())
        }
        Err(error) => fail(&error),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    fn options(line: &str) -> Result<Options, UsageError> {
        Line::try_parse_from(line.split_whitespace()).unwrap().run.options()
    }

    #[test]
    fn a_nat64_prefix_that_overlaps_the_network_is_refused() {
        let network = "run --ipv6-prefix 2001:db8:1:2::/64 --nat64-prefix";
        for prefix in ["2001:db8:1:2::/96", "2001:db8:1:2::/64", "2001:db8:1::/48", "2001:db8::/32"] {
            let error = options(&format!("{network} {prefix}")).unwrap_err().to_string();
            assert!(error.contains(prefix) && error.contains("--nat64-prefix 64:ff9b:1::/96"), "{error}");
        }
        for prefix in ["2001:db8:1:3::/96", "2001:db8:2::/48", "64:ff9b::/96"] {
            assert!(options(&format!("{network} {prefix}")).is_ok(), "{prefix}");
        }
    }

    #[test]
    fn a_daemon_is_named_with_a_network_of_its() {
        for daemon in ["--socket /a/api.sock", "--runtime-dir /a"] {
            assert!(matches!(options(&format!("run {daemon}")), Err(UsageError::NoNetwork)), "{daemon}");
            let joined = options(&format!("run --network lab {daemon}")).unwrap().join.unwrap();
            assert_eq!(joined.socket.to_str(), Some("/a/attach.sock"));
        }
    }

    #[test]
    fn an_mtu_is_one_that_a_tap_and_its_families_take() {
        for wrong in ["575", "65536", "576", "1279"] {
            assert!(options(&format!("run --mtu {wrong}")).is_err(), "{wrong}");
        }
        for (right, family) in [("576", "--ipv4-only"), ("1280", "--ipv6-only"), ("1280", ""), ("65520", "")]
        {
            assert!(options(&format!("run {family} --mtu {right}")).is_ok(), "{right} {family}");
        }
    }
}
