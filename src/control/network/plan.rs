// SPDX-License-Identifier: MIT OR Apache-2.0
//! A network's addresses, and its gateway's configuration.

use smoltcp::wire::{Ipv4Cidr, Ipv6Cidr};
use wharf_stack::{Config, Ipv4Plan, Ipv6Plan};

use super::{Kept, Name, NetworkSpec, Surroundings};
use crate::control::members;
use crate::control::spec::{Choice, Text};
use crate::netns::plan::{GATEWAY_MAC, free_network, overlap, unique_local};

/// The gateway's configuration of a network that is to be as `spec` says and had what is `kept`.
pub(super) fn configuration(
    name: &Name,
    spec: &NetworkSpec,
    kept: &Kept,
    around: &Surroundings,
    seed: [u8; 32],
) -> Config {
    let ipv4 = match spec.ipv4 {
        Choice::None => None,
        Choice::This(subnet) => Some(subnet),
        Choice::Auto => {
            let is_free = |subnet: &Ipv4Cidr| !around.taken.iter().any(|taken| overlap(*subnet, *taken));
            let before = kept.ipv4.as_ref().map(|Text(subnet)| *subnet).filter(is_free);
            Some(before.unwrap_or_else(|| free_network(&around.taken)))
        }
    };
    let ipv6 = match spec.ipv6 {
        Choice::None => None,
        Choice::This(prefix) => Some(prefix),
        Choice::Auto => {
            let [.., a, b, c, d, e] = seed;
            let before = kept.ipv6.as_ref().map(|Text(prefix)| *prefix);
            Some(before.unwrap_or_else(|| unique_local([a, b, c, d, e])))
        }
    };
    let domain =
        spec.domain.as_ref().map_or_else(|| format!("{name}.internal"), |Text(domain)| domain.0.clone());
    let others = if spec.search.is_empty() {
        around.search.clone()
    } else {
        spec.search.iter().map(|Text(domain)| domain.0.clone()).collect()
    };
    let nameservers = match spec.dns.as_slice() {
        [] => around.nameservers.clone(),
        own => own.iter().map(|Text(server)| *server).collect(),
    };
    Config {
        mtu_bytes: spec.mtu,
        ipv4: ipv4.map(ipv4_plan),
        ipv6: ipv6.map(Ipv6Plan::new),
        nat64: spec.nat64_prefix(),
        dns64_exclusions: if around.has_ipv6 { Vec::new() } else { vec![Ipv6Cidr::new([0; 16].into(), 0)] },
        nameservers,
        dns_cache: spec.dns_cache,
        search: [domain].into_iter().chain(others).collect(),
        ntp: spec.ntp.clone(),
        host_loopback: spec.host_loopback,
        host_sockets: spec.host_sockets.iter().map(|Text(socket)| socket.port).collect(),
        allow_link_local: spec.allow_link_local,
        internal: spec.internal,
        memory_bytes: spec.memory.0.0,
        max_sockets: around.sockets.most(),
        ..Config::new(GATEWAY_MAC, seed)
    }
}

/// Every number that a container can have may be leased.
fn ipv4_plan(subnet: Ipv4Cidr) -> Ipv4Plan {
    let plan = Ipv4Plan::new(subnet);
    let host = |number: u32| std::net::Ipv4Addr::from_bits(subnet.address().to_bits() | number);
    let numbers = members::numbers(Some(plan));
    Ipv4Plan { first_lease: host(*numbers.start()), last_lease: host(*numbers.end()), ..plan }
}
