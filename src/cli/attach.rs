// SPDX-License-Identifier: MIT OR Apache-2.0
//! `wharf attach`: its options, and what it says of what it did.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use smoltcp::wire::EthernetAddress;

use crate::attach::{self, Done, Options, Target};
use crate::control::model;
use crate::control::network::AttachRequest;
use crate::control::runtime_dir::{ATTACH_SOCKET, runtime_dir};
use crate::control::spec::{ContainerSpec, Name, PortWish, Text, Value as _};
use crate::netns::DeviceChoice;
use crate::values;

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// Whose network namespace: a process id, a path, or a name of `ip netns`
    #[arg(value_name = "PID|PATH|NETNS", value_parser = Target::parse)]
    target: Target,
    /// The network [default: the only one there is, or the one called default]
    #[arg(short, long, value_name = "NAME", value_parser = Name::parse)]
    network: Option<Name>,
    /// What it is called; a name has the same addresses whenever it comes back [default: c1, c2, ...]
    #[arg(long, value_name = "NAME", value_parser = Name::parse)]
    name: Option<Name>,
    /// Another name that it is found by, which others may have too; may be repeated
    #[arg(long, value_name = "NAME", value_parser = Name::parse)]
    alias: Vec<Name>,
    /// Its IPv4 address
    #[arg(long, value_name = "ADDR", visible_alias = "ip4")]
    ip: Option<Ipv4Addr>,
    /// Its IPv6 address
    #[arg(long, value_name = "ADDR")]
    ip6: Option<Ipv6Addr>,
    /// Its MAC address
    #[arg(long, value_name = "MAC", value_parser = values::mac)]
    mac: Option<EthernetAddress>,
    /// The interface's name there [default: the first free of eth0, eth1, ...]
    #[arg(long, value_name = "NAME")]
    ifname: Option<String>,
    /// The VLAN that it is on without tags; the gateway is not on it
    #[arg(long, value_name = "VID")]
    vlan: Option<u16>,
    /// VLANs that it is on with tags; may be repeated
    #[arg(long, value_name = "VID")]
    trunk: Vec<u16>,
    /// Let it reach the gateway and what is not isolated only
    #[arg(long)]
    isolated: bool,
    /// Let it do what guards forbid the others; may be repeated
    #[arg(long, value_name = "WHAT")]
    allow: Vec<Allowed>,
    /// The host's IPv4 address that its traffic leaves from
    #[arg(long, value_name = "ADDR")]
    outbound_ip: Option<Ipv4Addr>,
    /// The host's IPv6 address that its traffic leaves from
    #[arg(long, value_name = "ADDR")]
    outbound_ip6: Option<Ipv6Addr>,
    /// The host's interface that its traffic leaves by
    #[arg(long, value_name = "NAME")]
    outbound_interface: Option<String>,
    /// Publish a port of it as long as it is attached, as `wharf run -p` does; may be repeated
    #[arg(short, long, value_name = "[IP:|IFACE:]HOSTPORT[-END]:PORT[-END][/udp|/tcp+proxy]", value_parser = PortWish::parse)]
    publish: Vec<PortWish>,
    /// The kind of device: auto takes a veth pair where there is no /dev/net/tun
    #[arg(long, value_name = "KIND", default_value = "auto")]
    device: super::run::DeviceArg,
    /// Leave the default route as it is
    #[arg(long)]
    no_default_route: bool,
    /// Say what was done as JSON
    #[arg(long)]
    json: bool,
    /// The daemon's sockets are in this directory [default: $XDG_RUNTIME_DIR/wharf]
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Allowed {
    /// Speak from every MAC address
    AnyMac,
    /// Speak from every IP address
    AnyAddress,
    /// Answer DHCP
    Dhcp,
    /// Send Router Advertisements and redirects
    Router,
}

impl From<Allowed> for model::Allow {
    fn from(allowed: Allowed) -> Self {
        match allowed {
            Allowed::AnyMac => Self::AnyMac,
            Allowed::AnyAddress => Self::AnyAddress,
            Allowed::Dhcp => Self::Dhcp,
            Allowed::Router => Self::Router,
        }
    }
}

impl AttachArgs {
    fn options(self) -> Options {
        let container = ContainerSpec {
            ipv4: self.ip,
            ipv6: self.ip6,
            mac: self.mac.map(Text),
            aliases: self.alias,
            vlan: self.vlan,
            trunk: self.trunk,
            isolated: self.isolated.then_some(true),
            allow: self.allow.into_iter().map(model::Allow::from).collect(),
            outbound_ipv4: self.outbound_ip,
            outbound_ipv6: self.outbound_ip6,
            outbound_interface: self.outbound_interface,
        };
        let request = AttachRequest {
            network: self.network,
            name: self.name,
            container,
            publish: self.publish.into_iter().map(Text).collect(),
            ..AttachRequest::default()
        };
        Options {
            socket: self.runtime_dir.unwrap_or_else(runtime_dir).join(ATTACH_SOCKET),
            target: self.target,
            request,
            interface: self.ifname,
            device: DeviceChoice::from(self.device),
            default_route: !self.no_default_route,
        }
    }
}

pub(super) fn main(args: AttachArgs) -> ExitCode {
    let json = args.json;
    let done = match attach::attach(&args.options()) {
        Ok(done) => done,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::from(error.exit_status());
        }
    };
    for warning in &done.warnings {
        tracing::warn!("{warning}");
    }
    let text =
        if json { serde_json::to_string(&done.port).unwrap_or_default() + "\n" } else { describe(&done) };
    // Nobody has to listen.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    ExitCode::SUCCESS
}

/// What was done, in words.
fn describe(Done { port, offer, .. }: &Done) -> String {
    let mut lines =
        vec![format!("{} is attached to network {} by {}", port.name, port.network, interface(port))];
    let mut line = |what: &str, value: Option<String>| {
        lines.extend(value.map(|value| format!("  {what:<12}{value}")));
    };
    line("MAC", Some(port.mac.clone()));
    let ipv4 = port.ipv4.zip(offer.ipv4_prefix_len).map(|(address, len)| format!("{address}/{len}"));
    line("IPv4", ipv4);
    line("IPv6", port.ipv6.map(|address| format!("{address}/64")));
    line("gateway", offer.ipv4_gateway.map(|gateway| gateway.to_string()));
    line("nameserver", offer.nameserver.map(|server| server.to_string()));
    line("found as", offer.search.first().map(|domain| format!("{}.{domain}", port.name)));
    lines.join("\n") + "\n"
}

fn interface(port: &model::Port) -> String {
    port.interface.as_ref().map_or_else(|| port.at.clone(), |name| format!("{name} of {}", port.at))
}
