// SPDX-License-Identifier: MIT OR Apache-2.0
//! The addresses that slirp4netns gives a network.
//!
//! # How it works
//! ```text
//!              IPv4           IPv6
//! network      --cidr         fd00::/64
//! gateway      .2             fd00::2, and fe80::2 on the link
//! DNS          .3             fd00::3
//! DHCP         .15 to .30
//! interface    .100 (-c)      by itself, from what the gateway advertises
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{EthernetAddress, Ipv4Cidr, Ipv6Cidr};
use wharf_stack::{ClosedPorts, Config, Ipv4Plan, Ipv6Plan};

use super::args::{Options, Outbound};
use crate::host::Sources;
use crate::netns::{MIN_MTU, MIN_MTU_IPV6, Netlink};
use crate::resolv::ResolvConf;

pub(super) const DEFAULT_CIDR: Ipv4Cidr = Ipv4Cidr::new(Ipv4Addr::new(10, 0, 2, 0), 24);
const IPV6_NETWORK: Ipv6Cidr = Ipv6Cidr::new(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0), 64);

/// Reads a network.
pub(super) fn cidr(text: &str) -> Result<Ipv4Cidr, String> {
    let parsed = text
        .split_once('/')
        .and_then(|(address, len)| Some((address.parse::<Ipv4Addr>().ok()?, len.parse::<u8>().ok()?)));
    let (address, len) = parsed.ok_or_else(|| format!("invalid CIDR: {text}"))?;
    if !(1..=25).contains(&len) {
        return Err("prefix length needs to be 1-25".to_owned());
    }
    let network = Ipv4Cidr::new(address, len).network();
    if network.address() != address {
        return Err(format!("CIDR needs to be a network address like {network}, not like {text}"));
    }
    Ok(network)
}

/// The IPv4 addresses of a network.
pub(super) fn ipv4(cidr: Ipv4Cidr) -> Ipv4Plan {
    Ipv4Plan { first_lease: host(cidr, 15), last_lease: host(cidr, 30), ..Ipv4Plan::new(cidr) }
}

/// The interface's address.
pub(super) fn interface_address(cidr: Ipv4Cidr) -> Ipv4Addr {
    host(cidr, 100)
}

fn host(cidr: Ipv4Cidr, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(cidr.address().to_bits() | number)
}

/// The gateway's MAC address: 52:55 and its IPv4 address.
fn gateway_mac(gateway: Ipv4Addr) -> EthernetAddress {
    let [a, b, c, d] = gateway.octets();
    EthernetAddress([0x52, 0x55, a, b, c, d])
}

/// The network as the gateway sees it.
pub(super) fn config(options: &Options, host: ResolvConf, seed: [u8; 32]) -> Config {
    let plan = ipv4(options.cidr);
    // An interface takes packets of that size although its own are smaller.
    let min_mtu = if options.ipv6 { MIN_MTU_IPV6 } else { MIN_MTU };
    Config {
        mtu_bytes: options.mtu_bytes.max(min_mtu),
        ipv4: Some(plan),
        ipv6: options.ipv6.then(|| Ipv6Plan::new(IPV6_NETWORK)),
        nameservers: host.nameservers,
        search: host.search,
        dns_forwarder: options.dns,
        host_loopback: options.host_loopback,
        closed_ports: ClosedPorts::Unreachable,
        allow_link_local: true,
        ..Config::new(gateway_mac(plan.gateway), seed)
    }
}

/// What is said on standard output, for people.
pub(super) fn describe(options: &Options, config: &Config, sources: Sources) -> String {
    let plan = ipv4(options.cidr);
    let mut lines: Vec<_> = options.warnings.iter().map(|warning| format!("WARNING: {warning}")).collect();
    lines.extend([
        "Starting slirp".to_owned(),
        format!("* MTU:             {}", options.mtu_bytes),
        format!("* Network:         {}", options.cidr.address()),
        format!("* Netmask:         {}", options.cidr.netmask()),
        format!("* Gateway:         {}", plan.gateway),
        format!("* DNS:             {}", plan.dns),
        format!("* DHCP begin:      {}", plan.first_lease),
        format!("* DHCP end:        {}", plan.last_lease),
        format!("* Recommended IP:  {}", interface_address(options.cidr)),
    ]);
    lines.extend(options.api_socket.as_ref().map(|path| format!("* API Socket:      {}", path.display())));
    lines.extend(sources.ipv4.map(|address| format!("* Outbound IPv4:   {address}")));
    lines.extend(sources.ipv6.map(|address| format!("* Outbound IPv6:   {address}")));
    if config.host_loopback {
        let gateway = plan.gateway;
        lines.push(format!(
            "WARNING: {gateway} is the host's 127.0.0.1, unless --disable-host-loopback is given"
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// An address to leave from that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("outbound {family} address: {name}: {reason}")]
pub(super) struct NoSource {
    family: &'static str,
    name: String,
    reason: String,
}

/// Where traffic leaves from; interfaces are asked for their addresses now.
pub(super) fn sources(options: &Options) -> Result<Sources, NoSource> {
    let ipv4 = options.outbound4.as_ref().map(|outbound| match outbound {
        Outbound::Address(address) => Ok(*address),
        Outbound::Interface(name) => first(name, "IPv4", |address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }),
    });
    let ipv6 = options.outbound6.as_ref().map(|outbound| match outbound {
        Outbound::Address(address) => Ok(*address),
        Outbound::Interface(name) => first(name, "IPv6", |address| match address {
            IpAddr::V6(address) if !address.is_unicast_link_local() => Some(address),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }),
    });
    Ok(Sources { ipv4: ipv4.transpose()?, ipv6: ipv6.transpose()? })
}

/// The first address of an interface that `pick` takes.
fn first<A>(name: &str, family: &'static str, pick: impl Fn(IpAddr) -> Option<A>) -> Result<A, NoSource> {
    let failed = |reason| NoSource { family, name: name.to_owned(), reason };
    let addresses = addresses_of(name).map_err(|error| failed(super::said(&error)))?;
    addresses.into_iter().find_map(pick).ok_or_else(|| failed("the interface has none".to_owned()))
}

fn addresses_of(interface: &str) -> io::Result<Vec<IpAddr>> {
    let mut netlink = Netlink::open()?;
    let index = netlink.link_index(interface)?;
    Ok(netlink.addresses(index)?.into_iter().map(|(address, _)| address).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_refused_in_the_usual_words() {
        for (text, expected) in [
            ("10.0.2.0/24", Ok("10.0.2.0/24")),
            ("10.0.2.128/25", Ok("10.0.2.128/25")),
            ("128.0.0.0/1", Ok("128.0.0.0/1")),
            ("24", Err("invalid CIDR: 24")),
            ("foo", Err("invalid CIDR: foo")),
            ("10.0.2.0", Err("invalid CIDR: 10.0.2.0")),
            ("10.0.2/24", Err("invalid CIDR: 10.0.2/24")),
            ("10.0.2.0/24/1", Err("invalid CIDR: 10.0.2.0/24/1")),
            ("fd00::/64", Err("invalid CIDR: fd00::/64")),
            ("10.0.2.0/0", Err("prefix length needs to be 1-25")),
            ("10.0.2.0/26", Err("prefix length needs to be 1-25")),
            ("10.0.2.100/26", Err("prefix length needs to be 1-25")),
            (
                "10.0.2.100/24",
                Err("CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24"),
            ),
        ] {
            let found = cidr(text).map(|cidr| cidr.to_string());
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{text}");
        }
    }

    #[test]
    fn the_hosts_of_a_network_have_their_usual_numbers() {
        let plan = ipv4(DEFAULT_CIDR);
        let found =
            [plan.gateway, plan.dns, plan.first_lease, plan.last_lease, interface_address(DEFAULT_CIDR)];
        assert_eq!(found, [2, 3, 15, 30, 100].map(|number| Ipv4Addr::new(10, 0, 2, number)));
        assert_eq!(gateway_mac(plan.gateway).to_string(), "52-55-0a-00-02-02");
    }
}
