// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a container may go: one decision, made after every translation.
//!
//! # How it works
//! [`resolve`] turns the destination a container used into the one the host will be asked for (NAT64, host loopback), and
//! [`remote`] that of a connection, which may be one of the host's unix sockets;
//! [`allowed`] has the last word on it. `connect()` to 0.0.0.0 and to `::ffff:127.0.0.1` reaches the host's loopback
//! listeners, so these are refused like 127.0.0.1 itself. [`as_seen_by`] is the way back.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::transit::nat64;
use crate::{Config, DropReason};

/// Whom the host is asked for when a container opens a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remote {
    /// An end outside, by TCP.
    Inet(SocketAddr),
    /// The unix socket that this port of the gateway's leads to.
    Socket(u16),
}

/// Whom the host is asked for when a container opens a connection to `destination`.
///
/// # Errors
/// Why the container may not go there.
pub(crate) fn remote(config: &Config, destination: SocketAddr) -> Result<Remote, DropReason> {
    if is_host_socket(config, destination) {
        return Ok(Remote::Socket(destination.port()));
    }
    let address = resolve(config, destination.ip())?;
    Ok(Remote::Inet(SocketAddr::new(address, destination.port())))
}

/// Whether connections to `destination` lead to a unix socket of the host.
pub(crate) fn is_host_socket(config: &Config, destination: SocketAddr) -> bool {
    !config.internal
        && config.host_sockets.contains(&destination.port())
        && config.is_gateway(destination.ip())
}

/// The address that the host is asked for when a container sends to `destination`.
///
/// # Errors
/// Why the container may not go there.
pub fn resolve(config: &Config, destination: IpAddr) -> Result<IpAddr, DropReason> {
    if config.internal {
        return Err(DropReason::NetworkIsInternal);
    }
    if config.host_loopback && config.is_gateway(destination) {
        return Ok(match destination {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let translated = match destination {
        IpAddr::V6(address) => {
            match config.nat64.and_then(|prefix| Some((prefix, nat64::extract(prefix, address)?))) {
                Some((prefix, inner)) => {
                    if !nat64::may_represent(prefix, inner) {
                        return Err(DropReason::Nat64NotGlobal);
                    }
                    inner.into()
                }
                None => destination,
            }
        }
        IpAddr::V4(_) => destination,
    };
    allowed(config, translated)?;
    Ok(translated)
}

/// Whether the host may be asked for `address` on behalf of a container.
///
/// # Errors
/// Why not.
pub fn allowed(config: &Config, address: IpAddr) -> Result<(), DropReason> {
    // Whoever goes there directly is routed, and never asks.
    if config.route_to(address).is_some() {
        return Err(DropReason::OutsideIsLinked);
    }
    match address {
        IpAddr::V4(address) => allowed_v4(config, address),
        IpAddr::V6(address) => allowed_v6(config, address),
    }
}

/// Where clouds keep their metadata services in IPv6; in IPv4 they are link-local.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

fn allowed_v4(config: &Config, address: Ipv4Addr) -> Result<(), DropReason> {
    if address.is_loopback() || address.octets()[0] == 0 {
        return Err(DropReason::OutsideIsLoopback);
    }
    if address.is_multicast() || address.is_broadcast() {
        return Err(DropReason::OutsideNotUnicast);
    }
    if address.is_link_local() && !config.allow_link_local {
        return Err(DropReason::OutsideIsLinkLocal);
    }
    if config.is_inside(address.into()) {
        return Err(DropReason::OutsideIsInside);
    }
    Ok(())
}

fn allowed_v6(config: &Config, address: Ipv6Addr) -> Result<(), DropReason> {
    if address.is_loopback() || address.is_unspecified() || address.to_ipv4_mapped().is_some() {
        return Err(DropReason::OutsideIsLoopback);
    }
    if address.is_multicast() {
        return Err(DropReason::OutsideNotUnicast);
    }
    let is_metadata = METADATA_V6.contains(&address) && !config.allow_link_local;
    if address.is_unicast_link_local() || is_metadata {
        return Err(DropReason::OutsideIsLinkLocal);
    }
    if config.is_inside(address.into()) {
        return Err(DropReason::OutsideIsInside);
    }
    Ok(())
}

/// The address under which a container knows somebody outside; `None` when it could not have been reached from there.
pub(crate) fn as_seen_by(config: &Config, container: IpAddr, outside: IpAddr) -> Option<IpAddr> {
    let seen = match (container, outside) {
        (IpAddr::V4(_), IpAddr::V4(address)) if address.is_loopback() => config.ipv4?.gateway.into(),
        (IpAddr::V6(_), IpAddr::V6(address)) if address.is_loopback() => config.ipv6?.gateway.into(),
        (IpAddr::V6(_), IpAddr::V4(address)) => nat64::embed(config.nat64?, address).into(),
        (IpAddr::V4(_), IpAddr::V6(_)) => return None,
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => outside,
    };
    // RFC 4787 section 4.3 is about the outbound direction; inbound, an address of the network itself would be a lie.
    let is_elsewhere = config.is_inside(seen) || config.route_to(seen).is_some();
    (!is_elsewhere || outside.is_loopback()).then_some(seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;
    use smoltcp::wire::Ipv6Cidr;

    fn outcome(config: &Config, address: &str) -> Result<IpAddr, DropReason> {
        resolve(config, address.parse().unwrap())
    }

    #[test]
    fn every_way_to_the_hosts_loopback_is_closed() {
        let config = config();
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.254",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:198.51.100.1",
            "64:ff9b:1::127.0.0.1",
            "64:ff9b:1::0.0.0.0",
            "64:ff9b:1::0.9.9.9",
        ] {
            assert_eq!(outcome(&config, address), Err(DropReason::OutsideIsLoopback), "{address}");
        }
    }

    #[test]
    fn neither_groups_nor_links_nor_the_network_itself_are_outside() {
        let config = config();
        for (address, reason) in [
            ("224.0.0.1", DropReason::OutsideNotUnicast),
            ("239.255.255.255", DropReason::OutsideNotUnicast),
            ("255.255.255.255", DropReason::OutsideNotUnicast),
            ("ff02::1", DropReason::OutsideNotUnicast),
            ("ff0e::1", DropReason::OutsideNotUnicast),
            ("64:ff9b:1::224.0.0.1", DropReason::OutsideNotUnicast),
            ("169.254.169.254", DropReason::OutsideIsLinkLocal),
            ("64:ff9b:1::169.254.169.254", DropReason::OutsideIsLinkLocal),
            ("fe80::1", DropReason::OutsideIsLinkLocal),
            ("fd00:ec2::254", DropReason::OutsideIsLinkLocal),
            ("10.0.2.2", DropReason::OutsideIsInside),
            ("10.0.2.77", DropReason::OutsideIsInside),
            ("64:ff9b:1::10.0.2.100", DropReason::OutsideIsInside),
            ("fd00:db8::2", DropReason::OutsideIsInside),
        ] {
            assert_eq!(outcome(&config, address), Err(reason), "{address}");
        }
    }

    #[test]
    fn ordinary_destinations_pass() {
        let config = config();
        for (address, to) in [
            ("198.51.100.7", "198.51.100.7"),
            ("10.0.3.1", "10.0.3.1"),
            ("2001:db8::7", "2001:db8::7"),
            ("64:ff9b:1::198.51.100.7", "198.51.100.7"),
            ("64:ff9b:1::192.168.1.1", "192.168.1.1"),
        ] {
            assert_eq!(outcome(&config, address), Ok(to.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn options_open_what_they_name_and_nothing_else() {
        let mut config = config();
        config.allow_link_local = true;
        assert_eq!(outcome(&config, "169.254.169.254"), Ok("169.254.169.254".parse().unwrap()));
        assert_eq!(outcome(&config, "fe80::1"), Err(DropReason::OutsideIsLinkLocal));
        config.host_loopback = true;
        assert_eq!(outcome(&config, "10.0.2.2"), Ok("127.0.0.1".parse().unwrap()));
        assert_eq!(outcome(&config, "fd00:db8::2"), Ok("::1".parse().unwrap()));
        assert_eq!(outcome(&config, "10.0.2.3"), Err(DropReason::OutsideIsInside));
        assert_eq!(outcome(&config, "127.0.0.1"), Err(DropReason::OutsideIsLoopback));
    }

    #[test]
    fn ports_of_the_gateway_lead_to_sockets_of_the_host_where_they_are_named() {
        let named = Config { host_sockets: vec![5432], ..config() };
        let to = |config: &Config, end: &str| remote(config, end.parse().unwrap());
        for end in ["10.0.2.2:5432", "[fd00:db8::2]:5432"] {
            assert_eq!(to(&named, end), Ok(Remote::Socket(5432)), "{end}");
            let looped = Config { host_loopback: true, ..named.clone() };
            assert_eq!(to(&looped, end), Ok(Remote::Socket(5432)), "{end}");
            let internal = Config { internal: true, ..named.clone() };
            assert_eq!(to(&internal, end), Err(DropReason::NetworkIsInternal), "{end}");
            assert_eq!(to(&config(), end), Err(DropReason::OutsideIsInside), "{end}");
        }
        assert_eq!(to(&named, "10.0.2.2:5433"), Err(DropReason::OutsideIsInside));
        assert_eq!(to(&named, "10.0.2.3:5432"), Err(DropReason::OutsideIsInside));
        let server: SocketAddr = "198.51.100.7:5432".parse().unwrap();
        assert_eq!(remote(&named, server), Ok(Remote::Inet(server)));
    }

    #[test]
    fn without_a_forwarder_its_addresses_are_outside_and_no_others() {
        let config = Config { dns_forwarder: false, ..config() };
        for dns in ["10.0.2.3", "fd00:db8::3"] {
            let dns: IpAddr = dns.parse().unwrap();
            assert_eq!(resolve(&config, dns), Ok(dns));
            let container = if dns.is_ipv4() { "10.0.2.100" } else { "fd00:db8::64" };
            assert_eq!(as_seen_by(&config, container.parse().unwrap(), dns), Some(dns));
        }
        for inside in ["10.0.2.2", "10.0.2.4", "fd00:db8::2", "fd00:db8::4"] {
            assert_eq!(outcome(&config, inside), Err(DropReason::OutsideIsInside), "{inside}");
        }
    }

    #[test]
    fn an_internal_network_has_no_outside_whatever_else_is_allowed() {
        let config = Config { internal: true, host_loopback: true, allow_link_local: true, ..config() };
        for address in [
            "198.51.100.7",
            "2001:db8::7",
            "64:ff9b:1::198.51.100.7",
            "10.0.2.2",
            "fd00:db8::2",
            "169.254.169.254",
        ] {
            assert_eq!(outcome(&config, address), Err(DropReason::NetworkIsInternal), "{address}");
        }
    }

    #[test]
    fn the_well_known_prefix_refuses_private_destinations() {
        let mut config = config();
        config.nat64 = Some(Ipv6Cidr::new(nat64::WELL_KNOWN, 96));
        assert_eq!(outcome(&config, "64:ff9b::192.168.1.1"), Err(DropReason::Nat64NotGlobal));
        assert_eq!(outcome(&config, "64:ff9b::9.9.9.9"), Ok("9.9.9.9".parse().unwrap()));
    }

    #[test]
    fn without_nat64_its_prefix_is_an_ordinary_destination() {
        let mut config = config();
        config.nat64 = None;
        assert_eq!(outcome(&config, "64:ff9b:1::127.0.0.1"), Ok("64:ff9b:1::127.0.0.1".parse().unwrap()));
    }
}
