// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one network is: addresses, names and permissions of its gateway.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Cidr, Ipv6Cidr};

use crate::local::dns::zone::Zone;

/// The IPv4 side of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Plan {
    /// The network, host bits zero.
    pub subnet: Ipv4Cidr,
    /// The gateway's own address.
    pub gateway: Ipv4Addr,
    /// The DNS forwarder's address, if there is one; the gateway answers for it on the link.
    pub dns: Ipv4Addr,
    /// First address DHCP leases; `run`'s own container.
    pub first_lease: Ipv4Addr,
    /// Last address DHCP leases.
    pub last_lease: Ipv4Addr,
}

impl Ipv4Plan {
    /// The usual plan of a network with one container: `.2` is the gateway, `.3` the DNS forwarder, `.100` the lease.
    #[must_use]
    pub fn new(subnet: Ipv4Cidr) -> Self {
        let host = |number| Ipv4Addr::from_bits(subnet.address().to_bits() | number);
        Self { subnet, gateway: host(2), dns: host(3), first_lease: host(100), last_lease: host(100) }
    }
}

/// The IPv6 side of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Plan {
    /// The /64 that containers form their addresses in, host bits zero.
    pub subnet: Ipv6Cidr,
    /// The gateway's address in the prefix.
    pub gateway: Ipv6Addr,
    /// The gateway's link-local address: the source of its Router Advertisements.
    pub link_local: Ipv6Addr,
    /// The DNS forwarder's address, if there is one; the gateway answers for it on the link.
    pub dns: Ipv6Addr,
}

impl Ipv6Plan {
    /// The usual plan: `::2` is the gateway, also on the link, and `::3` the DNS forwarder.
    #[must_use]
    pub fn new(subnet: Ipv6Cidr) -> Self {
        let host = |number| Ipv6Addr::from_bits(subnet.address().to_bits() | number);
        let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
        Self { subnet, gateway: host(2), link_local, dns: host(3) }
    }
}

/// How somebody hears that the gateway has no service on a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClosedPorts {
    /// As from any host: a reset (RFC 9293 section 3.10.7.1), or "port unreachable" (RFC 1122 section 4.1.3.1).
    #[default]
    Refuse,
    /// As if there were no host: "network unreachable".
    Unreachable,
}

/// The way to another network, whose gateway sends on what is handed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The other network's addresses of one family. They overlap neither with this network's nor with another route's.
    pub prefix: IpCidr,
    /// Largest IP packet on the other network's link, in bytes.
    pub mtu_bytes: usize,
    /// Which network it is, as [`Outbox::route`](crate::Outbox::route) is told.
    pub network: usize,
}

/// Everything the gateway of one network needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The gateway's MAC address.
    pub mac: EthernetAddress,
    /// Largest IP packet on the link, in bytes, 1,280 to 65,535 (576 where there is no IPv6).
    pub mtu_bytes: usize,
    /// IPv4, unless the network is IPv6-only.
    pub ipv4: Option<Ipv4Plan>,
    /// IPv6, unless the network is IPv4-only.
    pub ipv6: Option<Ipv6Plan>,
    /// The prefix under which IPv4 destinations are reachable from IPv6, of a length that RFC 6052 section 2.2 knows
    /// ([`PREFIX_LENGTHS`](crate::transit::nat64::PREFIX_LENGTHS)) and outside of the network's own; `None`
    /// turns NAT64 and DNS64 off.
    pub nat64: Option<Ipv6Cidr>,
    /// AAAA records under these do not count for DNS64 (RFC 6147 section 5.1.4): `::/0` where the host has no IPv6.
    pub dns64_exclusions: Vec<Ipv6Cidr>,
    /// Where the forwarder sends queries, in order of preference. Changes while running.
    pub nameservers: Vec<SocketAddr>,
    /// The names of the network's containers. Changes while running.
    pub zone: Arc<Zone>,
    /// DNS search list for DHCP and Router Advertisements.
    pub search: Vec<String>,
    /// NTP servers for DHCP.
    pub ntp: Vec<Ipv4Addr>,
    /// The name given to a DHCP client that asks for one.
    pub hostname: Option<String>,
    /// The gateway answers DNS queries, and the plans' `dns` addresses are its own. Without it these lead outside.
    pub dns_forwarder: bool,
    /// The forwarder keeps answers for as long as they hold.
    pub dns_cache: bool,
    /// Other networks that its containers reach. Changes while running.
    pub routes: Vec<Route>,
    /// The network has no outside: its containers reach each other and the gateway's services, and nobody else.
    pub internal: bool,
    /// The gateway's address leads to the host's loopback.
    pub host_loopback: bool,
    /// TCP ports of the gateway's address that lead to unix sockets of the host
    /// ([`socket_connect`](crate::Host::socket_connect)).
    pub host_sockets: Vec<u16>,
    /// What becomes of TCP and UDP to the gateway that no service of it takes.
    pub closed_ports: ClosedPorts,
    /// 169.254.0.0/16 is reachable (cloud metadata services live there).
    pub allow_link_local: bool,
    /// Bytes the TCP relay may hold in all.
    pub memory_bytes: usize,
    /// Sockets that the host lets one worker open.
    pub max_sockets: usize,
    /// Seed of everything random in the gateway.
    pub seed: [u8; 32],
}

impl Config {
    /// A network with the MTU of Ethernet and 256 MiB for streams, so far without addresses, names and permissions.
    #[must_use]
    pub fn new(mac: EthernetAddress, seed: [u8; 32]) -> Self {
        Self {
            mac,
            mtu_bytes: 1500,
            ipv4: None,
            ipv6: None,
            nat64: None,
            dns64_exclusions: Vec::new(),
            nameservers: Vec::new(),
            zone: Arc::default(),
            search: Vec::new(),
            ntp: Vec::new(),
            hostname: None,
            dns_forwarder: true,
            dns_cache: true,
            routes: Vec::new(),
            internal: false,
            host_loopback: false,
            host_sockets: Vec::new(),
            closed_ports: ClosedPorts::default(),
            allow_link_local: false,
            memory_bytes: 256 << 20,
            max_sockets: 1 << 20,
            seed,
        }
    }

    /// The IPv4 address of the DNS forwarder.
    pub(crate) fn forwarder_v4(&self) -> Option<Ipv4Addr> {
        self.ipv4.filter(|_| self.dns_forwarder).map(|plan| plan.dns)
    }

    /// The IPv6 address of the DNS forwarder.
    pub(crate) fn forwarder_v6(&self) -> Option<Ipv6Addr> {
        self.ipv6.filter(|_| self.dns_forwarder).map(|plan| plan.dns)
    }

    /// Whether an address is that of every IPv4 host of the link.
    pub(crate) fn is_broadcast(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else { return false };
        address == Ipv4Addr::BROADCAST
            || self.ipv4.is_some_and(|plan| plan.subnet.broadcast() == Some(address))
    }

    /// Whether an address is one of the gateway's own.
    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.is_gateway(address) || self.forwarder_v4() == Some(v4),
            IpAddr::V6(v6) => {
                self.is_gateway(address)
                    || self.ipv6.is_some_and(|plan| v6 == plan.link_local)
                    || self.forwarder_v6() == Some(v6)
            }
        }
    }

    /// Whether an address belongs to the gateway or reaches every host of the link.
    pub(crate) fn listens_to(&self, address: IpAddr) -> bool {
        let is_group = self.is_broadcast(address) || address.is_ipv6() && address.is_multicast();
        is_group || self.is_own(address)
    }

    /// Whether an address is the gateway's own in the network, where the host's loopback and sockets may be found.
    pub(crate) fn is_gateway(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4.is_some_and(|plan| plan.gateway == address),
            IpAddr::V6(address) => self.ipv6.is_some_and(|plan| plan.gateway == address),
        }
    }

    /// Whether an address of the network is free for a container.
    #[must_use]
    pub fn may_be_container(&self, address: IpAddr) -> bool {
        let is_network = match address {
            IpAddr::V4(address) => self.ipv4.is_some_and(|plan| address == plan.subnet.address()),
            // RFC 4291 section 2.6.1: the routers' anycast address.
            IpAddr::V6(address) => self.ipv6.is_some_and(|plan| address == plan.subnet.address()),
        };
        self.is_inside(address) && !self.listens_to(address) && !is_network
    }

    /// The routes by which another network reaches this one, which it calls `network`.
    #[must_use]
    pub fn routes_here(&self, network: usize) -> Vec<Route> {
        let ipv4 = self.ipv4.map(|plan| plan.subnet.into());
        let ipv6 = self.ipv6.map(|plan| plan.subnet.into());
        let route = |prefix| Route { prefix, mtu_bytes: self.mtu_bytes, network };
        ipv4.into_iter().chain(ipv6).map(route).collect()
    }

    /// The way to the network that an address belongs to, if that is another one.
    pub(crate) fn route_to(&self, address: IpAddr) -> Option<Route> {
        self.routes.iter().find(|route| route.prefix.contains_addr(&address.into())).copied()
    }

    /// Whether an address is in one of the network's prefixes.
    pub(crate) fn is_on_subnet(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4.is_some_and(|plan| plan.subnet.contains_addr(&address)),
            IpAddr::V6(address) => self.ipv6.is_some_and(|plan| plan.subnet.contains_addr(&address)),
        }
    }

    /// Whether an address is one of the network itself, and so nobody outside has it. Without a forwarder its address is
    /// outside.
    pub(crate) fn is_inside(&self, address: IpAddr) -> bool {
        let is_forwarders = match address {
            IpAddr::V4(address) => self.ipv4.is_some_and(|plan| address == plan.dns),
            IpAddr::V6(address) => self.ipv6.is_some_and(|plan| address == plan.dns),
        };
        self.is_on_subnet(address) && (self.dns_forwarder || !is_forwarders)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A network with both families, NAT64 on.
    pub(crate) fn config() -> Config {
        Config {
            ipv4: Some(Ipv4Plan::new("10.0.2.0/24".parse().unwrap())),
            ipv6: Some(Ipv6Plan::new("fd00:db8::/64".parse().unwrap())),
            nat64: Some("64:ff9b:1::/96".parse().unwrap()),
            nameservers: vec!["192.0.2.53:53".parse().unwrap()],
            search: vec!["example.org".into()],
            ..Config::new(EthernetAddress([0x02, 0x77, 0, 0, 0, 1]), [7; 32])
        }
    }

    #[test]
    fn containers_have_the_addresses_that_nothing_else_stands_for() {
        let config = config();
        let may = |address: &str| config.may_be_container(address.parse().unwrap());
        for address in ["10.0.2.1", "10.0.2.100", "10.0.2.254", "fd00:db8::1", "fd00:db8::100"] {
            assert!(may(address), "{address}");
        }
        for address in ["10.0.2.0", "10.0.2.2", "10.0.2.3", "10.0.2.255", "10.0.3.1", "127.0.0.1", "0.0.0.0"]
        {
            assert!(!may(address), "{address}");
        }
        for address in ["fd00:db8::", "fd00:db8::2", "fd00:db8::3", "fd00:db9::1", "fe80::1", "::1", "::"] {
            assert!(!may(address), "{address}");
        }
        let ipv4_only = Config { ipv6: None, ..config.clone() };
        assert!(!ipv4_only.may_be_container("fd00:db8::100".parse().unwrap()));
    }

    #[test]
    fn the_usual_plans_number_the_hosts_of_their_networks() {
        let ipv4 = Ipv4Plan::new("10.128.0.0/9".parse().unwrap());
        assert_eq!(
            [ipv4.gateway, ipv4.dns, ipv4.first_lease, ipv4.last_lease],
            [[10, 128, 0, 2], [10, 128, 0, 3], [10, 128, 0, 100], [10, 128, 0, 100]].map(Ipv4Addr::from)
        );
        let ipv6 = Ipv6Plan::new("2001:db8:5::/64".parse().unwrap());
        assert_eq!(
            [ipv6.gateway, ipv6.dns, ipv6.link_local].map(|address| address.to_string()),
            ["2001:db8:5::2", "2001:db8:5::3", "fe80::2"]
        );
    }
}
