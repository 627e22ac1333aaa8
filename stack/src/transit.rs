// SPDX-License-Identifier: MIT OR Apache-2.0
//! *Is it going through?* Packets for the outside become traffic of host sockets.
//!
//! # Path
//! [`Transit::handle_packet`] checks that the packet may pass at all (source, hop limit), puts fragments together, and
//! hands it to the relay of its protocol. What the host answers comes back through [`Transit::handle_host`].

pub mod nat64;
pub mod outside;

pub(crate) mod flow;
pub(crate) mod fragments;
pub(crate) mod icmp_error;
mod ping;
pub(crate) mod tcp;
mod udp;

use smoltcp::wire::IpProtocol;
use wharf_switch::{Frame, Instant};

use self::icmp_error::Cause;
use crate::env::{Cx, Outbox};
use crate::host::{Host, HostEvent, Owner, Token};
use crate::wire::Packet;
use crate::{Config, DropReason};

/// The relays of one worker.
#[derive(Debug)]
pub(crate) struct Transit {
    tcp: tcp::Relay,
    udp: udp::Relay,
    ping: ping::Relay,
}

impl Transit {
    pub(crate) fn new(config: &Config) -> Self {
        Self { tcp: tcp::Relay::new(config), udp: udp::Relay::new(config), ping: ping::Relay::new(config) }
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
        // RFC 1812 section 5.3.1: a packet that arrives with a TTL of one is not forwarded.
        if packet.hop_limit <= 1 {
            icmp_error::answer(cx, packet, frame, Cause::TimeExceeded);
            return Err(DropReason::HopLimitExceeded);
        }
        match packet.protocol {
            IpProtocol::Tcp => self.tcp.handle_segment(cx, packet, frame),
            IpProtocol::Udp => self.udp.handle_datagram(cx, packet, frame),
            IpProtocol::Icmp | IpProtocol::Icmpv6 => self.ping.handle_message(cx, packet, frame),
            _ => {
                icmp_error::answer(cx, packet, frame, Cause::ProtocolUnreachable);
                Err(DropReason::ProtocolUnknown)
            }
        }
    }

    pub(crate) fn handle_host<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, event: HostEvent) {
        match event.token.owner {
            Owner::Tcp => self.tcp.handle_host(cx, event),
            Owner::Udp => self.udp.handle_host(cx, event),
            Owner::Echo => self.ping.handle_host(cx, event),
            Owner::Dns => {}
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
            Owner::Udp => self.udp.handle_timer(cx, token.flow, at),
            Owner::Echo => self.ping.handle_timer(cx, token.flow, at),
            Owner::Dns => {}
        }
    }

    pub(crate) fn exhale<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) {
        self.tcp.exhale(cx);
        self.udp.exhale(cx);
    }

    pub(crate) fn has_more(&self) -> bool {
        self.tcp.has_more() || self.udp.has_more()
    }

    pub(crate) fn tcp_flows(&self) -> usize {
        self.tcp.len()
    }
}
