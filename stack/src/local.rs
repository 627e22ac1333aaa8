// SPDX-License-Identifier: MIT OR Apache-2.0
//! *Is it for the gateway itself?* The services a container finds at its first hop.
//!
//! # Path
//! [`Local::is_for_us`] decides; [`Local::handle_packet`] hands the packet to the service of its protocol and port.
//! Whoever sends to a port without a service hears so at once (RFC 1122 section 4.1.3.1, RFC 9293 section 3.5.2).

pub mod dhcp4;
pub mod dns;
mod echo;
pub mod name;
pub mod router_advert;

use core::net::{IpAddr, SocketAddr};

use smoltcp::wire::{IpProtocol, TcpPacket, TcpRepr, UdpPacket};
use wharf_switch::frame::ETHERNET_HEADER_LEN;
use wharf_switch::{Frame, Instant};

use self::router_advert::{Advertiser, Recipient};
use crate::config::Route;
use crate::env::{Cx, Outbox};
use crate::host::{Host, HostEvent};
use crate::icmp_error::{self, Cause};
use crate::link::{Neighbors, RouterSolicitation};
use crate::transit::tcp;
use crate::wire::Packet;
use crate::{ClosedPorts, Config, DropReason};

/// The gateway's own services.
#[derive(Debug)]
pub(crate) struct Local {
    dhcp4: Option<dhcp4::Server>,
    advertiser: Option<Advertiser>,
    dns: dns::service::Service,
}

/// Whether a packet to this address and port is the DNS forwarder's.
fn is_for_forwarder(config: &Config, address: IpAddr, port: u16) -> bool {
    config.dns_forwarder && port == dns::PORT && config.is_own(address)
}

/// Whether host loopback is open and the packet goes to the gateway's own address.
fn leads_to_host_loopback(config: &Config, address: IpAddr) -> bool {
    config.host_loopback && config.is_gateway(address)
}

impl Local {
    /// The services of the network `config` describes; only the first worker speaks unasked.
    pub(crate) fn new(config: &Config, is_first: bool) -> Self {
        let advertiser = Advertiser::new(config);
        Self {
            dhcp4: dhcp4::Server::new(config),
            advertiser: advertiser.filter(|_| is_first),
            dns: dns::service::Service::new(config, Instant::ZERO),
        }
    }

    /// Who has which IPv4 address, where there is IPv4.
    pub(crate) fn leases(&self) -> Option<&dhcp4::lease::Leases> {
        self.dhcp4.as_ref().map(dhcp4::Server::leases)
    }

    /// The same, to be changed.
    pub(crate) fn leases_mut(&mut self) -> Option<&mut dhcp4::lease::Leases> {
        self.dhcp4.as_mut().map(dhcp4::Server::leases_mut)
    }

    /// Whether a UDP port of the gateway's is one of its services'.
    pub(crate) const fn is_service(port: u16) -> bool {
        matches!(port, dns::PORT | dhcp4::SERVER_PORT)
    }

    /// Whether a packet ends at the gateway.
    pub(crate) fn is_for_us(config: &Config, packet: &Packet) -> bool {
        let relayed = matches!(packet.protocol, IpProtocol::Tcp | IpProtocol::Udp)
            && leads_to_host_loopback(config, packet.dst);
        config.listens_to(packet.dst) && !relayed
    }

    /// A host asks for a Router Advertisement.
    pub(crate) fn advertise<H, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        solicitation: RouterSolicitation,
    ) -> Result<(), DropReason> {
        let advertiser = self.advertiser.as_ref().ok_or(DropReason::Ipv6NotConfigured)?;
        let recipient = advertiser.handle_solicitation(solicitation.from, solicitation.mac);
        send_advert(cx, advertiser, recipient);
        Ok(())
    }

    /// A socket of a service became usable.
    pub(crate) fn handle_host<H: Host>(&mut self, now: Instant, host: &mut H, event: HostEvent) {
        self.dns.handle_event(now, host, event);
    }

    /// Lets DNS say what it has to say, on what came in and on what is due.
    pub(crate) fn exhale<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) {
        self.dns.poll(cx.now, cx.host);
        while let Some(mut frame) = self.dns.poll_frame(&cx.env.pool) {
            cx.send(&mut frame);
        }
    }

    /// Who answers names, for its figures.
    pub(crate) fn forwarder(&self) -> &dns::Forwarder {
        self.dns.forwarder()
    }

    /// Who answers names, for its settings.
    pub(crate) fn forwarder_mut(&mut self) -> &mut dns::Forwarder {
        self.dns.forwarder_mut()
    }

    /// Other linked networks from now on: containers that have no default route are told.
    pub(crate) fn set_routes(&mut self, routes: &[Route]) {
        if let Some(server) = &mut self.dhcp4 {
            server.set_routes(routes);
        }
        if let Some(advertiser) = &mut self.advertiser {
            advertiser.set_routes(routes);
        }
    }

    /// A port was attached.
    pub(crate) fn handle_port_up(&mut self) {
        if let Some(advertiser) = &mut self.advertiser {
            advertiser.handle_port_up();
        }
    }

    /// Advertises the router when that is due.
    pub(crate) fn handle_timers<H, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) {
        let Some(advertiser) = self.advertiser.as_mut() else { return };
        if let Some(recipient) = advertiser.poll(cx.now) {
            send_advert(cx, advertiser, recipient);
        }
    }

    /// When [`Local::exhale`] or [`Local::handle_timers`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let advertiser = self.advertiser.as_ref().and_then(Advertiser::poll_at);
        let dns = Some(self.dns.poll_at()).filter(|&at| at < Instant::FAR);
        advertiser.into_iter().chain(dns).min()
    }

    /// A whole packet for the gateway, other than Neighbor Discovery.
    pub(crate) fn handle_packet<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        neighbors: &mut Neighbors,
        packet: &Packet,
        frame: &Frame,
    ) -> Result<(), DropReason> {
        match packet.protocol {
            IpProtocol::Icmp | IpProtocol::Icmpv6 => echo::handle(cx, packet, frame),
            IpProtocol::Udp => self.handle_datagram(cx, neighbors, packet, frame),
            IpProtocol::Tcp => self.handle_segment(cx, packet, frame),
            _ => {
                icmp_error::answer(cx, packet, frame, Cause::ProtocolUnreachable);
                Err(DropReason::ProtocolUnknown)
            }
        }
    }

    fn handle_datagram<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        neighbors: &mut Neighbors,
        packet: &Packet,
        frame: &Frame,
    ) -> Result<(), DropReason> {
        if !packet.transport_checksum_is_right(frame) {
            return Err(DropReason::UdpChecksumWrong);
        }
        let datagram = UdpPacket::new_checked(packet.payload(frame)).map_err(|_| DropReason::UdpMalformed)?;
        if datagram.dst_port() == dhcp4::SERVER_PORT && packet.src.is_ipv4() {
            return self.handle_dhcp4(cx, neighbors, packet, datagram.payload());
        }
        if is_for_forwarder(&cx.env.config, packet.dst, datagram.dst_port()) {
            let from = SocketAddr::new(packet.src, datagram.src_port());
            let way = (packet.src_mac, from, packet.dst);
            return self.dns.handle_datagram(cx.now, cx.host, way, datagram.payload());
        }
        let cause = match cx.env.config.closed_ports {
            ClosedPorts::Refuse => Cause::PortUnreachable,
            ClosedPorts::Unreachable => Cause::NetworkUnreachable,
        };
        icmp_error::answer(cx, packet, frame, cause);
        Err(DropReason::PortClosed)
    }

    fn handle_dhcp4<H, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        neighbors: &mut Neighbors,
        packet: &Packet,
        message: &[u8],
    ) -> Result<(), DropReason> {
        let server = self.dhcp4.as_mut().ok_or(DropReason::Ipv4NotConfigured)?;
        if let Some(reply) = server.handle(cx.now, packet.src_mac, message)? {
            if let Some((address, mac)) = reply.bound {
                neighbors.learn(cx.now, address.into(), mac);
            }
            let mut frame = server.frame(&cx.env.pool, &reply, packet.src_mac);
            cx.send(&mut frame);
        }
        Ok(())
    }

    fn handle_segment<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        packet: &Packet,
        frame: &Frame,
    ) -> Result<(), DropReason> {
        if !packet.transport_checksum_is_right(frame) {
            return Err(DropReason::TcpChecksumWrong);
        }
        let view = TcpPacket::new_checked(packet.payload(frame)).map_err(|_| DropReason::TcpMalformed)?;
        let ignored = smoltcp::phy::ChecksumCapabilities::ignored();
        let segment = TcpRepr::parse(&view, &packet.src.into(), &packet.dst.into(), &ignored)
            .map_err(|_| DropReason::TcpMalformed)?;
        if !cx.env.config.is_own(packet.dst) {
            return Err(DropReason::GroupUnknown);
        }
        if is_for_forwarder(&cx.env.config, packet.dst, segment.dst_port) {
            self.dns.handle_packet(packet.src_mac, packet.whole(frame));
            return Ok(());
        }
        match cx.env.config.closed_ports {
            ClosedPorts::Refuse => tcp::refuse(cx, packet, &segment),
            ClosedPorts::Unreachable => icmp_error::answer(cx, packet, frame, Cause::NetworkUnreachable),
        }
        Err(DropReason::PortClosed)
    }
}

/// Sends a Router Advertisement.
fn send_advert<H, O: Outbox>(cx: &mut Cx<'_, H, O>, advertiser: &Advertiser, recipient: Recipient) {
    let mut frame = cx.env.pool.for_len(MAX_ADVERT_LEN);
    advertiser.emit(&mut frame, recipient);
    cx.send(&mut frame);
}

/// Router Advertisements fit the smallest MTU of IPv6.
const MAX_ADVERT_LEN: usize = ETHERNET_HEADER_LEN + 1280;
