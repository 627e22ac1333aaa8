// SPDX-License-Identifier: MIT OR Apache-2.0
//! `wharf network`: networks that stand in no file.

use std::net::{Ipv4Addr, Ipv6Addr};

use clap::{Args, Subcommand};
use smoltcp::wire::{Ipv4Cidr, Ipv6Cidr};

use super::change::delete_each;
use super::list::Listed as _;
use super::{EXIT_STATUS, Failure, OutputArgs, WhomArgs, print_line, show};
use crate::cli::network_args::{GatewayArgs, NameserverArgs};
use crate::control::client::Target;
use crate::control::model::{CreateNetwork, Network};
use crate::control::spec::{Choice, Domain, Name, Nat64, NetworkSpec, Size, Text, Value};
use crate::publish::NOTICE;

/// What stands for no addresses of a family.
const NONE: &str = "none";

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum NetworkCommand {
    /// Make a network, which is there again after a restart
    #[command(after_help = EXIT_STATUS)]
    Create(Box<CreateArgs>),
    /// Remove networks that were made by `wharf network create`, and detach whoever is attached to them
    #[command(after_help = EXIT_STATUS)]
    Rm(RemoveArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CreateArgs {
    /// Its name
    #[arg(value_name = "NAME", value_parser = Name::parse)]
    name: Name,
    #[command(flatten, next_help_heading = "Addresses")]
    addresses: AddressArgs,
    #[command(flatten, next_help_heading = "Names")]
    names: NameArgs,
    #[command(flatten, next_help_heading = "Reach")]
    reach: ReachArgs,
    #[command(flatten, next_help_heading = "Engine")]
    engine: EngineArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct AddressArgs {
    /// IPv4 network, or none [default: the first of 10.0.2.0/24, 10.0.3.0/24, ... that is free]
    #[arg(long, value_name = "A.B.C.D/N", value_parser = choice::<Ipv4Cidr>)]
    ipv4: Option<Choice<Ipv4Cidr>>,
    /// IPv6 network, or none [default: a random one under fd00::/8, which stays]
    #[arg(long, value_name = "P/64", value_parser = choice::<Ipv6Cidr>)]
    ipv6: Option<Choice<Ipv6Cidr>>,
    /// Prefix for IPv4 destinations, or none [default: 64:ff9b:1::/96 without IPv4, else none]
    #[arg(long, value_name = "P/N", value_parser = choice::<Nat64>)]
    nat64: Option<Choice<Nat64>>,
    /// The host's IPv4 address that its traffic leaves from
    #[arg(long, value_name = "ADDR")]
    outbound_ipv4: Option<Ipv4Addr>,
    /// The host's IPv6 address that its traffic leaves from
    #[arg(long, value_name = "ADDR")]
    outbound_ipv6: Option<Ipv6Addr>,
    /// The host's interface that its traffic leaves by
    #[arg(long, value_name = "NAME")]
    outbound_interface: Option<String>,
}

#[derive(Debug, Args)]
struct NameArgs {
    #[command(flatten)]
    nameservers: NameserverArgs,
    /// Where its containers find each other by name [default: its name under internal]
    #[arg(long, value_name = "DOMAIN", value_parser = Domain::parse)]
    domain: Option<Domain>,
    /// Search this domain instead of those in the host's resolv.conf; may be repeated
    #[arg(long, value_name = "DOMAIN", value_parser = Domain::parse)]
    search: Vec<Domain>,
    /// Tell DHCP clients of this NTP server; may be repeated
    #[arg(long, value_name = "ADDR")]
    ntp: Vec<Ipv4Addr>,
}

#[derive(Debug, Args)]
struct ReachArgs {
    /// Let nothing leave it
    #[arg(long)]
    internal: bool,
    /// Let its containers reach the gateway only, not each other
    #[arg(long)]
    isolated: bool,
    /// Route packets to and from this network, both ways; may be repeated
    #[arg(long = "link", value_name = "NETWORK", value_parser = Name::parse)]
    links: Vec<Name>,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Args)]
struct EngineArgs {
    /// Largest IP packet on its links, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = NetworkSpec::default().mtu)]
    mtu: usize,
    /// Threads that carry its packets
    #[arg(long, value_name = "N", default_value_t = NetworkSpec::default().workers)]
    workers: usize,
    /// Bytes the TCP relay may hold, connections beyond it are refused; suffixes K, M, G [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = Size::parse)]
    memory: Option<Size>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RemoveArgs {
    /// Their names
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    #[command(flatten)]
    whom: WhomArgs,
}

fn choice<T: Value>(text: &str) -> Result<Choice<T>, String> {
    if text == NONE { Ok(Choice::None) } else { T::parse(text).map(Choice::This) }
}

fn texts<T>(values: Vec<T>) -> Vec<Text<T>> {
    values.into_iter().map(Text).collect()
}

impl CreateArgs {
    fn request(self) -> CreateNetwork {
        let Self { name, addresses, names, reach, engine, .. } = self;
        let default = NetworkSpec::default();
        let spec = NetworkSpec {
            ipv4: addresses.ipv4.unwrap_or_default(),
            ipv6: addresses.ipv6.unwrap_or_default(),
            nat64: addresses.nat64.unwrap_or_default(),
            outbound_ipv4: addresses.outbound_ipv4,
            outbound_ipv6: addresses.outbound_ipv6,
            outbound_interface: addresses.outbound_interface,
            dns: texts(names.nameservers.dns),
            dns_cache: !names.nameservers.no_dns_cache,
            domain: names.domain.map(Text),
            search: texts(names.search),
            ntp: names.ntp,
            internal: reach.internal,
            isolated: reach.isolated,
            links: reach.links,
            host_loopback: reach.gateway.host_loopback,
            host_sockets: texts(reach.gateway.host_socket),
            allow_link_local: reach.gateway.allow_link_local,
            mtu: engine.mtu,
            workers: engine.workers,
            memory: engine.memory.map_or(default.memory, Text),
            publish: default.publish,
            containers: default.containers,
        };
        CreateNetwork { name: name.to_string(), spec }
    }
}

pub(super) async fn run(command: NetworkCommand) -> Result<(), Failure> {
    match command {
        NetworkCommand::Create(args) => create(*args).await,
        NetworkCommand::Rm(args) => {
            let target = |name: &String| Target::new(Network::PATH).item(name);
            delete_each(&args.whom, args.names.iter().map(target)).await
        }
    }
}

async fn create(args: CreateArgs) -> Result<(), Failure> {
    let json = args.output.json;
    let client = args.output.whom.client().await?;
    let answer = client.post(&Target::new(Network::PATH), &args.request()).await?;
    if json {
        return print_line(&answer);
    }
    let network: Network = client.parse(&answer)?;
    for waiting in &network.waiting_links {
        tracing::warn!(target: NOTICE, "network {} is linked with `{waiting}` when it is there", network.name);
    }
    show(&[network])
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        create: CreateArgs,
    }

    fn request(line: &str) -> CreateNetwork {
        Line::try_parse_from(line.split_whitespace()).unwrap().create.request()
    }

    #[test]
    fn a_network_without_options_is_the_default_one() {
        assert_eq!(request("create a"), CreateNetwork { name: "a".to_owned(), spec: NetworkSpec::default() });
    }

    #[test]
    fn options_say_what_a_table_of_the_file_says() {
        let line = "create a --ipv4 none --ipv6 fd00:1:2:3::/64 --nat64 64:ff9b::/96 --dns 192.0.2.53 --no-dns-cache --domain x.internal \
                    --search example.org --ntp 192.0.2.123 --internal --isolated --host-loopback --host-socket 80:/run/web.sock --allow-link-local \
                    --mtu 1500 --workers 2 --memory 64M --outbound-ipv4 192.0.2.1 --outbound-ipv6 2001:db8::1 --outbound-interface eth1 --link b --link c";
        let table = "ipv4 = false\nipv6 = 'fd00:1:2:3::/64'\nnat64 = '64:ff9b::/96'\ndns = ['192.0.2.53']\ndns_cache = false\n\
                     domain = 'x.internal'\nsearch = ['example.org']\nntp = ['192.0.2.123']\ninternal = true\n\
                     isolated = true\nhost_loopback = true\nhost_sockets = ['80:/run/web.sock']\nallow_link_local = true\nmtu = 1500\nworkers = 2\n\
                     memory = '64M'\noutbound_ipv4 = '192.0.2.1'\noutbound_ipv6 = '2001:db8::1'\noutbound_interface = 'eth1'\n\
                     links = ['b', 'c']\n";
        assert_eq!(request(line).spec, toml::from_str::<NetworkSpec>(table).unwrap());
    }
}
