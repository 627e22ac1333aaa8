// SPDX-License-Identifier: MIT OR Apache-2.0
//! The address plan: which addresses a new network uses, chosen so that they hide nothing of the host's.
//!
//! # How it works
//! ```text
//!              IPv4                                  IPv6
//! network      first free of 10.0.2.0/24, 10.0.3...  random /64 under fd00::/8
//! gateway      .2                                    ::2, and fe80::2 on the link
//! DNS          .3                                    ::3
//! container    .100                                  ::100
//! ```
//!
//! # Sources
//! RFC 4193 section 3.2 (random global ID of a ULA), RFC 6052 section 2.2 (bits 64 to 71 of a NAT64 prefix are zero).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Cidr, Ipv6Cidr};
use wharf_stack::{Ipv4Plan, Ipv6Plan};

use super::{Addresses, Interface, Side};

/// The gateway's MAC address: locally administered, "wharf" with .2 in the end.
pub const GATEWAY_MAC: EthernetAddress = EthernetAddress([0x02, 0x77, 0x68, 0x61, 0x72, 0x02]);
/// The MAC address of the container of `wharf run`.
pub const CONTAINER_MAC: EthernetAddress = EthernetAddress([0x02, 0x77, 0x68, 0x61, 0x72, 0x64]);
/// Where IPv4 is found in IPv6 unless the user says otherwise (RFC 8215).
pub const NAT64_PREFIX: Ipv6Cidr = Ipv6Cidr::new(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 96);

/// The container's place in the IPv6 prefix.
const CONTAINER6: u128 = 0x100;

/// Which families a network has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// IPv4 and IPv6.
    #[default]
    Both,
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone; IPv4 destinations through NAT64.
    Ipv6,
}

/// What the user asked for; the rest is chosen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// The families.
    pub families: Families,
    /// The IPv4 network.
    pub cidr: Option<Ipv4Cidr>,
    /// The IPv6 network.
    pub ipv6_prefix: Option<Ipv6Cidr>,
    /// The NAT64 prefix; naming one turns NAT64 on.
    pub nat64: Option<Ipv6Cidr>,
}

/// The addresses of one network with one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The IPv4 side. Its only lease is the container's address.
    pub ipv4: Option<Ipv4Plan>,
    /// The IPv6 side.
    pub ipv6: Option<Ipv6Plan>,
    /// The container's IPv6 address in the prefix.
    pub container6: Option<Ipv6Addr>,
    /// The NAT64 prefix.
    pub nat64: Option<Ipv6Cidr>,
}

impl Plan {
    /// Makes a plan that hides none of `host_routes` as far as the wishes allow. `random` makes the IPv6 prefix.
    #[must_use]
    pub fn new(wishes: &Wishes, host_routes: &[Ipv4Cidr], random: [u8; 5]) -> Self {
        let ipv4 = (wishes.families != Families::Ipv6)
            .then(|| Ipv4Plan::new(wishes.cidr.unwrap_or_else(|| free_network(host_routes))));
        let prefix = wishes.ipv6_prefix.unwrap_or_else(|| unique_local(random));
        let ipv6 = (wishes.families != Families::Ipv4).then(|| Ipv6Plan::new(prefix));
        let nat64 = match wishes.families {
            Families::Ipv4 => None,
            Families::Ipv6 => Some(wishes.nat64.unwrap_or(NAT64_PREFIX)),
            Families::Both => wishes.nat64,
        };
        let container6 = ipv6.map(|_| Ipv6Addr::from_bits(prefix.address().to_bits() | CONTAINER6));
        Self { ipv4, ipv6, container6, nat64 }
    }

    /// The container's IPv4 address.
    #[must_use]
    pub fn container4(&self) -> Option<Ipv4Addr> {
        self.ipv4.map(|plan| plan.first_lease)
    }

    /// Both of the container's addresses.
    #[must_use]
    pub fn container(&self) -> Addresses {
        Addresses { ipv4: self.container4(), ipv6: self.container6 }
    }

    /// The container's interface.
    #[must_use]
    pub fn interface(&self, mtu_bytes: usize, queues: usize) -> Interface {
        let ipv4 = self.ipv4.map(|plan| Side {
            address: plan.first_lease,
            prefix_len: plan.subnet.prefix_len(),
            gateway: Some(plan.gateway),
        });
        let ipv6 = self.ipv6.zip(self.container6).map(|(plan, address)| Side {
            address,
            prefix_len: plan.subnet.prefix_len(),
            gateway: Some(plan.link_local),
        });
        Interface { mac: CONTAINER_MAC, mtu_bytes, queues, ipv4, ipv6, routes: Vec::new() }
    }

    /// The address to name in the container's resolv.conf.
    ///
    /// One address, although both families may have one: behind both is the same forwarder, so a second one would
    /// only make a resolver wait twice for the same failure (or ask everything twice, as musl's does).
    #[must_use]
    pub fn nameserver(&self) -> Option<IpAddr> {
        self.ipv4.map(|plan| plan.dns.into()).or(self.ipv6.map(|plan| plan.dns.into()))
    }
}

/// The first /24 of private space, from 10.0.2.0 upwards, that overlaps none of the routes. With all of it taken,
/// 10.0.2.0/24 all the same: what it hides then, it hides from the container only.
#[must_use]
pub fn free_network(host_routes: &[Ipv4Cidr]) -> Ipv4Cidr {
    let ten = (2..=u16::MAX).map(|n| 0x0a00_0000 | u32::from(n) << 8);
    let others = [(0xac10_0000, 16 * 256), (0xc0a8_0000, 256)];
    let others = others.into_iter().flat_map(|(base, count)| (0..count).map(move |n: u32| base | n << 8));
    let candidates = ten.chain(others).map(|bits| Ipv4Cidr::new(Ipv4Addr::from_bits(bits), 24));
    let first = Ipv4Cidr::new(Ipv4Addr::new(10, 0, 2, 0), 24);
    let mut free =
        candidates.filter(|candidate| host_routes.iter().all(|route| !overlap(*candidate, *route)));
    free.next().unwrap_or(first)
}

/// Whether two networks share an address; those of different families never do.
#[must_use]
pub fn overlap(a: impl Into<IpCidr>, b: impl Into<IpCidr>) -> bool {
    let (a, b) = (a.into(), b.into());
    a.contains_subnet(&b) || b.contains_subnet(&a)
}

/// RFC 4193 section 3.2: `fd`, 40 random bits, and subnet 0.
#[must_use]
pub fn unique_local(random: [u8; 5]) -> Ipv6Cidr {
    let [a, b, c, d, e] = random;
    let address = Ipv6Addr::from([0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    Ipv6Cidr::new(address, 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(a: u8, b: u8, c: u8, d: u8, len: u8) -> Ipv4Cidr {
        Ipv4Cidr::new(Ipv4Addr::new(a, b, c, d), len)
    }

    #[test]
    fn first_network_is_10_0_2_when_the_host_does_not_route_it() {
        assert_eq!(free_network(&[net(192, 0, 2, 0, 24), net(10, 0, 1, 0, 24)]), net(10, 0, 2, 0, 24));
    }

    #[test]
    fn networks_that_overlap_a_route_of_any_length_are_passed_over() {
        let routes = [net(10, 0, 2, 15, 32), net(10, 0, 3, 128, 25), net(10, 0, 4, 0, 22)];
        assert_eq!(free_network(&routes), net(10, 0, 8, 0, 24));
    }

    #[test]
    fn other_private_space_is_used_when_all_of_10_is_routed() {
        assert_eq!(free_network(&[net(10, 0, 0, 0, 8)]), net(172, 16, 0, 0, 24));
        assert_eq!(free_network(&[net(10, 0, 0, 0, 8), net(172, 16, 0, 0, 12)]), net(192, 168, 0, 0, 24));
    }

    #[test]
    fn a_host_that_routes_everything_still_gets_a_plan() {
        assert_eq!(free_network(&[net(0, 0, 0, 0, 1), net(128, 0, 0, 0, 1)]), net(10, 0, 2, 0, 24));
    }

    #[test]
    fn both_families_get_their_documented_addresses() {
        let plan = Plan::new(&Wishes::default(), &[], [1, 2, 3, 4, 5]);
        let ipv4 = plan.ipv4.unwrap();
        assert_eq!(ipv4.gateway, Ipv4Addr::new(10, 0, 2, 2));
        assert_eq!(ipv4.dns, Ipv4Addr::new(10, 0, 2, 3));
        assert_eq!((ipv4.first_lease, ipv4.last_lease), (ipv4.last_lease, Ipv4Addr::new(10, 0, 2, 100)));
        let ipv6 = plan.ipv6.unwrap();
        assert_eq!(ipv6.subnet, Ipv6Cidr::new("fd01:203:405::".parse().unwrap(), 64));
        assert_eq!(plan.container6.unwrap(), "fd01:203:405::100".parse::<Ipv6Addr>().unwrap());
        assert_eq!(plan.nat64, None);
        assert_eq!(plan.nameserver(), Some(IpAddr::from([10, 0, 2, 3])));
    }

    #[test]
    fn ipv6_only_turns_nat64_on_and_has_no_ipv4() {
        let plan = Plan::new(&Wishes { families: Families::Ipv6, ..Wishes::default() }, &[], [0; 5]);
        assert_eq!(plan.ipv4, None);
        assert_eq!(plan.nat64, Some(NAT64_PREFIX));
        assert_eq!(plan.nameserver(), Some(IpAddr::V6(plan.ipv6.unwrap().dns)));
    }

    #[test]
    fn ipv4_only_has_no_ipv6_and_no_nat64() {
        let plan = Plan::new(&Wishes { families: Families::Ipv4, ..Wishes::default() }, &[], [0; 5]);
        assert_eq!((plan.ipv6, plan.container6, plan.nat64), (None, None, None));
    }

    #[test]
    fn the_whole_of_a_wide_network_is_the_subnet() {
        let wishes = Wishes { cidr: Some(net(10, 128, 0, 0, 9)), ..Wishes::default() };
        let ipv4 = Plan::new(&wishes, &[], [0; 5]).ipv4.unwrap();
        assert_eq!(ipv4.subnet, net(10, 128, 0, 0, 9));
        assert_eq!(ipv4.first_lease, Ipv4Addr::new(10, 128, 0, 100));
    }
}
