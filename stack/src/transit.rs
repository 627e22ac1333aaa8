// SPDX-License-Identifier: MIT OR Apache-2.0
//! *Is it going through?* Packets for the outside become traffic of host sockets.
//!
//! # Path
//! [`Transit::handle_packet`] gets whole packets of the network's own containers, checks that they may pass at all
//! (destination, hop limit), and hands each to the relay of its protocol. What the host answers comes back through
//! [`Transit::handle_host`].
//!
//! Other networks of the same host are no outside: packets between them are [routed](routing), without relay and state.

pub mod nat64;
pub mod outside;

mod datagram;
pub(crate) mod flow;
pub(crate) mod listing;
mod ping;
pub(crate) mod publish;
pub(crate) mod quoted;
pub(crate) mod routing;
mod shares;
pub(crate) mod tcp;
pub(crate) mod udp;

use core::net::{IpAddr, SocketAddr};

use smoltcp::wire::{EthernetAddress, IpProtocol};
use wharf_switch::{Frame, Instant};

use self::flow::FlowKey;
use self::listing::FlowView;
use self::publish::{PublicationId, Publications, PublishedPort};
use self::quoted::QuotedSegment;
use self::routing::Arrivals;
use self::tcp::{Inbound, Refused, Stretch};
use crate::env::{Cx, Outbox};
use crate::host::{Host, HostError, HostEvent, Owner, Token};
use crate::icmp_error::{self, Cause};
use crate::link::Link;
use crate::timers::Timers;
use crate::wire::Packet;
use crate::{Config, DropReason, Load};

/// RFC 1812 section 5.3.1: a packet that arrives with a TTL of one is not forwarded.
fn check_hop_limit<H, O: Outbox>(
    cx: &mut Cx<'_, H, O>,
    packet: &Packet,
    frame: &Frame,
) -> Result<(), DropReason> {
    if packet.hop_limit > 1 {
        return Ok(());
    }
    icmp_error::answer(cx, packet, frame, Cause::TimeExceeded);
    Err(DropReason::HopLimitExceeded)
}

/// The relays of one worker.
#[derive(Debug)]
pub(crate) struct Transit {
    publications: Publications,
    tcp: tcp::Relay,
    udp: datagram::Relay<udp::Udp>,
    echo: datagram::Relay<ping::Echo>,
    /// Packets of other networks for this one's containers.
    arrivals: Arrivals,
}

impl Transit {
    pub(crate) fn new(config: &Config) -> Self {
        let (udp, echo) = (datagram::Relay::new(config), datagram::Relay::new(config));
        let (publications, tcp) = (Publications::new(config), tcp::Relay::new(config));
        Self { publications, tcp, udp, echo, arrivals: Arrivals::default() }
    }

    /// Whether a packet to the gateway's own address goes through: it is for a client of a published port, whom the
    /// container sees under that address, or for a unix socket of the host.
    pub(crate) fn takes(&self, config: &Config, packet: &Packet, frame: &Frame) -> bool {
        let has = |key| self.tcp.has(&key);
        match packet.protocol {
            IpProtocol::Tcp => tcp::key_of(packet, frame)
                .is_some_and(|key| has(key) || outside::is_host_socket(config, key.remote)),
            IpProtocol::Icmp | IpProtocol::Icmpv6 => {
                QuotedSegment::parse(packet, frame).is_some_and(|quoted| has(quoted.key))
            }
            IpProtocol::Udp => {
                udp::ends(packet, frame).is_some_and(|ends| self.publications.ports.is_client(&ends))
            }
            _ => false,
        }
    }

    /// Makes a socket of the host lead to a container's port.
    pub(crate) fn publish<H: Host>(
        &mut self,
        host: &mut H,
        port: PublishedPort,
        listener: H::Listener,
    ) -> Result<PublicationId, HostError> {
        self.publications.publish(host, port, listener)
    }

    /// Has a published TCP port lead elsewhere.
    pub(crate) fn redirect(&mut self, id: PublicationId, target: SocketAddr) {
        self.publications.redirect(id, target);
    }

    /// Ends that.
    pub(crate) fn withdraw<H: Host>(&mut self, host: &mut H, timers: &mut Timers, id: PublicationId) {
        self.publications.withdraw(host, timers, id);
    }

    /// Takes clients from the published ports that may have some.
    pub(crate) fn accept<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        link: &mut Link,
        inbound: &mut Vec<Inbound<H::Stream>>,
    ) {
        self.publications.accept(cx, link, &self.tcp, inbound);
    }

    /// The link has said something.
    pub(crate) fn handle_neighbors(&mut self) {
        self.publications.handle_neighbors();
        self.arrivals.handle_neighbors();
    }

    /// Connects a client of a published port to its container.
    pub(crate) fn open_inbound<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        inbound: Inbound<H::Stream>,
        is_ours: impl Fn(SocketAddr, SocketAddr) -> bool,
    ) {
        self.tcp.open_inbound(cx, inbound, is_ours);
    }

    /// A whole packet from a container to the outside.
    pub(crate) fn handle_packet<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        packet: &Packet,
        frame: &Frame,
    ) -> Result<(), DropReason> {
        if packet.dst.is_multicast() {
            return Err(DropReason::GroupUnknown);
        }
        check_hop_limit(cx, packet, frame)?;
        match packet.protocol {
            IpProtocol::Tcp => self.tcp.handle_segment(cx, packet, frame),
            IpProtocol::Udp => self.udp.handle_datagram(cx, packet, frame, &mut self.publications.ports),
            IpProtocol::Icmp | IpProtocol::Icmpv6 => match QuotedSegment::parse(packet, frame) {
                Some(quoted) if self.tcp.handle_unreachable(cx, &quoted) => Ok(()),
                _ => self.echo.handle_message(cx, packet, frame),
            },
            _ => {
                icmp_error::answer(cx, packet, frame, Cause::ProtocolUnreachable);
                Err(DropReason::ProtocolUnknown)
            }
        }
    }

    /// Whether it is of a connection that goes through.
    pub(crate) fn is_open(&self, key: &FlowKey) -> bool {
        self.tcp.is_open(key)
    }

    /// Segments that continue each other, of a connection that goes through.
    pub(crate) fn handle_stretch<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        stretch: &Stretch<'_>,
    ) -> Result<(), Refused> {
        self.tcp.handle_stretch(cx, stretch)
    }

    /// A packet that another network has sent on to a container of this one.
    pub(crate) fn handle_routed<H, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        link: &mut Link,
        packet: Packet,
        frame: Frame,
    ) -> Result<(), DropReason> {
        self.arrivals.deliver(cx, link, packet, frame)
    }

    pub(crate) fn handle_host<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, event: HostEvent) {
        match event.token.owner {
            Owner::Tcp => self.tcp.handle_host(cx, event),
            Owner::Udp => self.udp.handle_host(cx, event),
            Owner::Echo => self.echo.handle_host(cx, event),
            Owner::Listener | Owner::Port => self.publications.handle_host(cx, event),
            Owner::Dns | Owner::DnsStream => {}
        }
    }

    pub(crate) fn handle_timer<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        token: Token,
        at: Instant,
    ) {
        match token.owner {
            Owner::Tcp => self.tcp.handle_timer(cx, token.flow, at),
            Owner::Listener | Owner::Port => self.publications.handle_timer(cx, token, at),
            Owner::Udp | Owner::Echo | Owner::Dns | Owner::DnsStream => {}
        }
    }

    /// Ends mappings that were idle for too long.
    pub(crate) fn expire<H: Host, O>(&mut self, cx: &mut Cx<'_, H, O>) {
        self.udp.expire(cx);
        self.echo.expire(cx);
        self.publications.ports.expire(cx.now);
    }

    /// Ends the connections and mappings of a container that has left: what comes for it is nobody else's, and who is at
    /// its addresses next begins anew.
    pub(crate) fn end_flows_of<H: Host, O>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        mac: EthernetAddress,
        addresses: &[IpAddr],
    ) {
        let is_its = |its_mac, address: IpAddr| its_mac == mac || addresses.contains(&address);
        self.tcp.end_those(cx, is_its);
        self.udp.end_those(cx, is_its);
        self.echo.end_those(cx, is_its);
    }

    /// When [`Transit::expire`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let mappings = self.udp.next_deadline().into_iter().chain(self.echo.next_deadline());
        mappings.chain(self.publications.ports.next_deadline()).chain(self.arrivals.next_deadline()).min()
    }

    /// Whether the entry of `token` for `at` among the timers is of use still.
    pub(crate) fn awaits(&self, token: Token, at: Instant) -> bool {
        match token.owner {
            Owner::Tcp => self.tcp.awaits(token.flow, at),
            Owner::Listener | Owner::Port => self.publications.awaits(token, at),
            Owner::Udp | Owner::Echo | Owner::Dns | Owner::DnsStream => false,
        }
    }

    pub(crate) fn exhale<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, link: &mut Link) {
        self.tcp.exhale(cx);
        self.udp.exhale(cx);
        self.publications.ports.exhale(cx, link);
        self.arrivals.exhale(cx, link);
        self.echo.exhale(cx);
    }

    pub(crate) fn has_more(&self) -> bool {
        self.publications.has_more() || self.tcp.has_more() || self.udp.has_more() || self.echo.has_more()
    }

    /// Every flow, as it is `now`.
    pub(crate) fn flows<'a, H: Host>(
        &'a self,
        now: Instant,
        config: &'a Config,
        host: &'a H,
    ) -> impl Iterator<Item = FlowView> + 'a {
        let tcp = self.tcp.views(now, config, host);
        let mappings = self.udp.views(now, config, host).chain(self.echo.views(now, config, host));
        tcp.chain(mappings).chain(self.publications.ports.views(now, host))
    }

    /// How many flows there are; nothing else is known here.
    pub(crate) fn load(&self) -> Load {
        Load {
            tcp_flows: self.tcp.len(),
            udp_mappings: self.udp.len(),
            echo_mappings: self.echo.len(),
            evicted_mappings: self.udp.evicted() + self.echo.evicted(),
            ..Load::default()
        }
    }
}
