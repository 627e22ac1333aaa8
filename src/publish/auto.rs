// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ports that are published because a container listens on them, at the same numbers on the host.
//!
//! # How it works
//! What a container has bound is of use to others only on all of its addresses or on the one that they reach it at. TCP
//! sockets say themselves that they are servers. Of UDP sockets those are taken that are connected to nobody, and whose port
//! the kernel does not choose for clients; a server there is published by its number.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;

use wharf_stack::host::Transport;

use super::{Place, Request};
use crate::netns::{Addresses, Listening};

/// The ports that Linux chooses for clients (`net.ipv4.ip_local_port_range`, as it is in a new namespace).
const EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;
/// The ports of DHCP's own clients (RFC 2131 section 4.1, RFC 8415 section 7.2).
const DHCP_CLIENTS: [u16; 2] = [68, 546];

/// A wish for whatever a container listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The host's addresses.
    pub place: Place,
    /// What is spoken there.
    pub transport: Transport,
    /// Servers are told who their clients are, by the PROXY protocol; of TCP only.
    pub tells_clients: bool,
}

impl Wish {
    /// The wish for one port of these.
    #[must_use]
    pub fn port(&self, number: u16) -> Request {
        Request {
            place: self.place.clone(),
            first: number,
            ports: number..=number,
            transport: self.transport,
            tells_clients: self.tells_clients,
        }
    }
}

/// The ports that others reach a container by, each with those of its addresses that it listens on.
#[must_use]
pub fn reachable(
    transport: Transport,
    sockets: &[Listening],
    container: Addresses,
) -> BTreeMap<u16, Addresses> {
    let mut ports = BTreeMap::<u16, Addresses>::new();
    for socket in sockets.iter().filter(|socket| serves(transport, socket.at.port())) {
        let Addresses { ipv4, ipv6 } = listened_on(socket, container);
        if ipv4.is_some() || ipv6.is_some() {
            let known = ports.entry(socket.at.port()).or_default();
            *known = Addresses { ipv4: known.ipv4.or(ipv4), ipv6: known.ipv6.or(ipv6) };
        }
    }
    ports
}

fn serves(transport: Transport, port: u16) -> bool {
    transport == Transport::Tcp || !(EPHEMERAL.contains(&port) || DHCP_CLIENTS.contains(&port))
}

/// The container's addresses that lead to a socket.
fn listened_on(socket: &Listening, container: Addresses) -> Addresses {
    let both = socket.at.ip() == Ipv6Addr::UNSPECIFIED && !socket.is_ipv6_only;
    let at = socket.at.ip().to_canonical();
    let leads = |address: IpAddr| at == address || at.is_unspecified() && at.is_ipv4() == address.is_ipv4();
    Addresses {
        ipv4: container.ipv4.filter(|&address| both || leads(address.into())),
        ipv6: container.ipv6.filter(|&address| leads(address.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINER: Addresses = Addresses {
        ipv4: Some(std::net::Ipv4Addr::new(10, 0, 2, 100)),
        ipv6: Some(Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 0x100)),
    };

    fn families(transport: Transport, at: &str, is_ipv6_only: bool) -> (bool, bool) {
        let at: std::net::SocketAddr = at.parse().unwrap();
        let ports = reachable(transport, &[Listening { at, is_ipv6_only }], CONTAINER);
        let found = ports.get(&at.port()).copied().unwrap_or_default();
        (found.ipv4.is_some(), found.ipv6.is_some())
    }

    #[test]
    fn a_listener_is_reached_by_the_addresses_that_it_is_bound_to() {
        for (at, is_ipv6_only, reached) in [
            ("0.0.0.0:80", false, (true, false)),
            ("[::]:80", true, (false, true)),
            ("[::]:80", false, (true, true)),
            ("10.0.2.100:80", false, (true, false)),
            ("[::ffff:10.0.2.100]:80", false, (true, false)),
            ("[2001:db8:5::100]:80", false, (false, true)),
            ("127.0.0.1:80", false, (false, false)),
            ("[::1]:80", false, (false, false)),
            ("[::ffff:127.0.0.1]:80", false, (false, false)),
            ("192.0.2.1:80", false, (false, false)),
        ] {
            assert_eq!(families(Transport::Tcp, at, is_ipv6_only), reached, "{at}");
        }
    }

    #[test]
    fn two_listeners_of_one_port_are_one_port() {
        let sockets = ["0.0.0.0:80", "[::]:80", "0.0.0.0:81"]
            .map(|at| Listening { at: at.parse().unwrap(), is_ipv6_only: true });
        let ports = reachable(Transport::Tcp, &sockets, CONTAINER);
        assert_eq!(ports.keys().copied().collect::<Vec<_>>(), [80, 81]);
        assert_eq!(ports[&80], CONTAINER);
    }

    #[test]
    fn of_udp_what_looks_like_a_client_is_none() {
        for (port, is_one) in
            [(53, true), (68, false), (546, false), (32_767, true), (32_768, false), (61_000, true)]
        {
            let seen = families(Transport::Udp, &format!("0.0.0.0:{port}"), false);
            assert_eq!(seen, (is_one, false), "{port}");
            assert_eq!(families(Transport::Tcp, &format!("0.0.0.0:{port}"), false), (true, false));
        }
    }
}
