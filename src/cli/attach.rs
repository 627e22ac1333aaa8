// SPDX-License-Identifier: MIT OR Apache-2.0
//! `wharf attach`: its options, and what it says of what it did.

use std::io::{Write as _, stderr, stdout};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use smoltcp::wire::EthernetAddress;

use super::whom::DaemonArgs;
use crate::attach::{self, Device, Done, Existing, New, Options, Target};
use crate::control::error::Code;
use crate::control::model::{self, PortKind};
use crate::control::network::{AttachRequest, Offer};
use crate::control::spec::{ContainerSpec, Name, PortWish, Text};
use crate::netns::DeviceChoice;
use crate::publish::wish;
use crate::sys::process::inherited;
use crate::values;

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// Whose network namespace: a process id, a path, or a name of `ip netns`
    #[arg(value_name = "PID|PATH|NETNS", value_parser = Target::parse)]
    #[arg(required_unless_present_any = ["stream", "tap_fd"], conflicts_with = "stream")]
    target: Option<Target>,
    #[command(flatten)]
    existing: ExistingArgs,
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
    #[arg(long, value_name = "NAME", conflicts_with = "ExistingArgs")]
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
    /// The host's IPv4 address that is its own outside (one-to-one NAT): its traffic leaves from there, and what it listens
    /// on is published there
    #[arg(long, value_name = "ADDR", conflicts_with = "outbound_ip")]
    external_ip: Option<Ipv4Addr>,
    /// The host's IPv6 address that is its own outside
    #[arg(long, value_name = "ADDR", conflicts_with = "outbound_ip6")]
    external_ip6: Option<Ipv6Addr>,
    /// Publish a port of it as long as it is attached, as `wharf run -p` does; may be repeated
    #[arg(short, long, value_name = "[[IP:|IFACE:]HOSTPORT[-END]|unix:PATH]:PORT[-END]|auto[/udp|/tcp+proxy]", value_parser = wish::typed)]
    publish: Vec<PortWish>,
    /// The kind of device: auto takes a veth pair where there is no /dev/net/tun
    #[arg(long, value_name = "KIND", default_value = "auto", conflicts_with = "ExistingArgs")]
    device: super::run::DeviceArg,
    /// Leave the default route as it is
    #[arg(long, conflicts_with = "ExistingArgs")]
    no_default_route: bool,
    /// Say what was done as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// What is there already, so that no interface is made.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct ExistingArgs {
    /// Wait at a new socket for a virtual machine (QEMU: -netdev stream), which gets its addresses by DHCP and SLAAC
    #[arg(long, value_name = "SOCKET")]
    stream: Option<PathBuf>,
    /// Take a TAP that is open under this number, and configure nothing; may be repeated with its other queues
    #[arg(long, value_name = "FD")]
    tap_fd: Vec<RawFd>,
    /// Take a TAP that is in the namespace, and configure nothing
    #[arg(long, value_name = "NAME")]
    tap: Option<String>,
    /// Take the near end of a veth pair that is in the namespace, and configure nothing
    #[arg(long, value_name = "NAME")]
    veth: Option<String>,
}

impl ExistingArgs {
    /// The device, unless it is to be made.
    fn device(self, target: Option<&Target>) -> Result<Option<Device>, String> {
        if let Some(path) = self.stream {
            return Ok(Some(Device::Machine(path)));
        }
        if !self.tap_fd.is_empty() {
            let open = |number| {
                inherited(number).ok_or_else(|| format!("nothing is open under the number {number}"))
            };
            let queues = self.tap_fd.into_iter().map(open).collect::<Result<_, _>>()?;
            return Ok(Some(Device::Opened(queues, target.cloned())));
        }
        let existing = self.tap.map(Existing::Tap).or(self.veth.map(Existing::Veth));
        Ok(existing.zip(target.cloned()).map(|(existing, target)| Device::Existing(target, existing)))
    }
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
    fn options(self) -> Result<Options, String> {
        // First of all: what is open under a number is the caller's now, and might be ours later.
        let device = self.existing.device(self.target.as_ref())?;
        let new = |target| {
            Device::New(New {
                target,
                name: self.ifname,
                device: DeviceChoice::from(self.device),
                default_route: !self.no_default_route,
            })
        };
        let device = device.or_else(|| self.target.map(new)).ok_or("there is nothing to be attached")?;
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
            external_ipv4: self.external_ip,
            external_ipv6: self.external_ip6,
        };
        let request = AttachRequest {
            network: self.network,
            name: self.name,
            container,
            publish: self.publish.into_iter().map(Text).collect(),
            ..AttachRequest::default()
        };
        Ok(Options { socket: self.daemon.whom().attach_socket(), device, request })
    }
}

pub(super) fn main(args: AttachArgs) -> ExitCode {
    let json = args.json;
    let socket = args.existing.stream.clone();
    let options = match args.options() {
        Ok(options) => options,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::from(Code::Invalid.exit_status());
        }
    };
    let waiting = |offer: &Offer| {
        let text = describe_waiting(offer, &socket.unwrap_or_default());
        // Nobody has to read it.
        let _ = if json { stderr().write_all(text.as_bytes()) } else { stdout().write_all(text.as_bytes()) };
    };
    let done = match attach::attach(&options, waiting) {
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
    let _ = stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// What was done, in words.
fn describe(Done { port, offer, .. }: &Done) -> String {
    let by = port.interface.as_ref().map_or_else(|| port.at.clone(), |name| format!("{name} of {}", port.at));
    let mut text = format!("{} is attached to network {} by {by}\n", port.name, port.network);
    if port.kind != PortKind::Stream {
        text += &describe_addresses(offer);
    }
    text
}

/// What a virtual machine is to be started with.
fn describe_waiting(offer: &Offer, socket: &Path) -> String {
    let (name, network, socket, mac) =
        (&offer.name, &offer.network, socket.display(), Text(offer.member.mac));
    format!(
        "{name} is waited for at {socket}, and gets by DHCP and SLAAC on network {network}\n{}\
         QEMU connects with\n  -netdev stream,id={name},server=off,addr.type=unix,addr.path={socket} \
         -device virtio-net-pci,netdev={name},mac={mac}\n",
        describe_addresses(offer),
    )
}

/// What an interface has, or is to have.
fn describe_addresses(offer: &Offer) -> String {
    let mut lines = String::new();
    let mut line = |what: &str, value: Option<String>| {
        lines.extend(value.map(|value| format!("  {what:<12}{value}\n")));
    };
    let member = &offer.member;
    line("MAC", Some(Text(member.mac).to_string()));
    let ipv4 = member.ipv4.zip(offer.ipv4_prefix_len).map(|(address, len)| format!("{address}/{len}"));
    line("IPv4", ipv4);
    line("IPv6", member.ipv6.map(|address| format!("{address}/64")));
    line("MTU", Some(offer.mtu.to_string()));
    line("gateway", offer.ipv4_gateway.map(|gateway| gateway.to_string()));
    line("nameserver", offer.nameserver.map(|server| server.to_string()));
    line("found as", offer.search.first().map(|domain| format!("{}.{domain}", offer.name)));
    lines
}
