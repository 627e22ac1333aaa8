// SPDX-License-Identifier: MIT OR Apache-2.0
//! Published ports: ports of the host that lead to a container.
//!
//! # Path
//! The [`listeners`] of TCP accept clients, which become flows of the TCP relay; the [`ports`] of UDP move datagrams both
//! ways. Neither looks at what came before the link has said where the container is ([`visits`]).
//!
//! # How it works
//! The container sees a client under its own address, unless an answer to that address would not come to the gateway
//! ([`seen_as`]). Ports are published and withdrawn at any time.

mod clients;
mod listeners;
mod ports;
mod visits;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use wharf_switch::Instant;

use self::listeners::Listeners;
pub(crate) use self::ports::Ports;
use crate::Config;
use crate::env::{Cx, Outbox};
use crate::host::{Family, Host, HostError, HostEvent, Owner, Token, Transport};
use crate::link::Link;
use crate::timers::Timers;
use crate::transit::tcp::{Inbound, Relay};

/// A port to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// What is spoken there.
    pub transport: Transport,
    /// The family of the host's end and of its clients.
    pub outside: Family,
    /// The container's end.
    pub target: SocketAddr,
    /// From the host's end not everybody is reached: it is on the host's loopback, or on one of its interfaces.
    pub is_local: bool,
}

/// Names a port as long as it is published; one that is published later has another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicationId(Token);

/// The published ports of one worker.
#[derive(Debug)]
pub(crate) struct Publications {
    listeners: Listeners,
    pub(crate) ports: Ports,
}

impl Publications {
    pub(crate) fn new(config: &Config) -> Self {
        Self { listeners: Listeners::of_tcp(), ports: Ports::new(config) }
    }

    /// Makes a socket of the host lead to a container's port.
    pub(crate) fn publish<H: Host>(
        &mut self,
        host: &mut H,
        port: PublishedPort,
        listener: H::Listener,
    ) -> Result<PublicationId, HostError> {
        let token = match port.transport {
            Transport::Tcp => self.listeners.publish(host, port.target, listener),
            Transport::Udp => self.ports.publish(host, port, listener),
        };
        token.map(PublicationId)
    }

    /// Has a listener lead elsewhere. The clients of a UDP port are of the worker that owns its flows, and do not move.
    pub(crate) fn redirect(&mut self, PublicationId(token): PublicationId, target: SocketAddr) {
        if token.owner == Owner::Listener
            && let Some(listener) = self.listeners.get_mut(token.flow)
        {
            listener.target = target;
        }
    }

    /// Closes the socket. What its clients, events and deadlines still have to say finds nobody.
    pub(crate) fn withdraw<H: Host>(
        &mut self,
        host: &mut H,
        timers: &mut Timers,
        PublicationId(token): PublicationId,
    ) {
        let socket = match token.owner {
            Owner::Listener => self.listeners.remove(timers, token.flow),
            _ => self.ports.remove(timers, token.flow),
        };
        if let Some(socket) = socket {
            host.close(socket);
        }
    }

    /// Something came to a published port.
    pub(crate) fn handle_host<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, event: HostEvent) {
        match event.token.owner {
            Owner::Listener => self.listeners.handle_host(event.token.flow),
            _ => self.ports.handle_host(cx, event),
        }
    }

    /// A published port is to be looked at again.
    pub(crate) fn handle_timer<H, O>(&mut self, cx: &mut Cx<'_, H, O>, token: Token, at: Instant) {
        match token.owner {
            Owner::Listener => self.listeners.handle_timer(cx, token.flow, at),
            _ => self.ports.handle_timer(cx, token.flow, at),
        }
    }

    /// Whether the entry of `token` for `at` among the timers is of use still.
    pub(crate) fn awaits(&self, token: Token, at: Instant) -> bool {
        match token.owner {
            Owner::Listener => self.listeners.awaits(token.flow, at),
            _ => self.ports.awaits(token.flow, at),
        }
    }

    /// The link has said something: perhaps where a container is.
    pub(crate) fn handle_neighbors(&mut self) {
        self.listeners.handle_neighbors();
        self.ports.handle_neighbors();
    }

    /// Whether there is something to do at once.
    pub(crate) fn has_more(&self) -> bool {
        self.listeners.has_more() || self.ports.has_more()
    }

    /// Takes TCP clients and adds them to `inbound`, as many as `relay` has room for.
    pub(crate) fn accept<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        link: &mut Link,
        relay: &Relay,
        inbound: &mut Vec<Inbound<H::Stream>>,
    ) {
        self.listeners.accept(cx, link, relay, inbound);
    }
}

/// The address under which the container at `container` sees a client: its own, unless the container would not send
/// its answers to the gateway then, or has no such address family; else the gateway's.
fn seen_as(config: &Config, client: IpAddr, container: IpAddr) -> IpAddr {
    // Answers to a linked network's address would be routed there.
    let is_linked = config.route_to(client).is_some();
    match (client, container) {
        (IpAddr::V4(address), IpAddr::V4(_)) if is_beyond_v4(config, address) && !is_linked => client,
        (IpAddr::V6(address), IpAddr::V6(_)) if is_beyond_v6(config, address) && !is_linked => client,
        (_, IpAddr::V4(_)) => config.ipv4.map_or(client, |plan| plan.gateway.into()),
        (_, IpAddr::V6(_)) => config.ipv6.map_or(client, |plan| plan.gateway.into()),
    }
}

/// Whether a container reaches `address` through the gateway.
fn is_beyond_v4(config: &Config, address: Ipv4Addr) -> bool {
    let is_unicast = !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast();
    let is_on_link = address.is_link_local() || config.is_on_subnet(address.into());
    is_unicast && !address.is_loopback() && !is_on_link
}

/// Whether a container reaches `address` through the gateway, as the client and nobody else: what lies under the NAT64
/// prefix is an IPv4 host.
fn is_beyond_v6(config: &Config, address: Ipv6Addr) -> bool {
    let is_unicast = !address.is_unspecified() && !address.is_multicast();
    let is_on_link = address.is_unicast_link_local() || config.is_on_subnet(address.into());
    let is_translated = config.nat64.is_some_and(|prefix| prefix.contains_addr(&address));
    is_unicast && !address.is_loopback() && !is_on_link && !is_translated
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;

    fn seen(client: &str, container: &str) -> String {
        seen_as(&config(), client.parse().unwrap(), container.parse().unwrap()).to_string()
    }

    #[test]
    fn a_client_from_elsewhere_is_seen_as_itself() {
        for client in ["203.0.113.9", "10.0.3.1", "192.168.1.1"] {
            assert_eq!(seen(client, "10.0.2.100"), client);
        }
        for client in ["2001:db8:1::9", "fd00:db9::1"] {
            assert_eq!(seen(client, "fd00:db8::100"), client);
        }
    }

    #[test]
    fn a_client_that_the_container_could_not_answer_is_seen_as_the_gateway() {
        for client in
            ["127.0.0.1", "127.9.9.9", "10.0.2.2", "10.0.2.3", "10.0.2.100", "10.0.2.77", "169.254.1.1"]
        {
            assert_eq!(seen(client, "10.0.2.100"), "10.0.2.2", "{client}");
        }
        for client in ["::1", "fd00:db8::2", "fd00:db8::100", "fe80::9", "64:ff9b:1::203.0.113.9"] {
            assert_eq!(seen(client, "fd00:db8::100"), "fd00:db8::2", "{client}");
        }
    }

    #[test]
    fn a_client_of_the_other_family_is_seen_as_the_gateway() {
        assert_eq!(seen("2001:db8:1::9", "10.0.2.100"), "10.0.2.2");
        assert_eq!(seen("203.0.113.9", "fd00:db8::100"), "fd00:db8::2");
    }
}
