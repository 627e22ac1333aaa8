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

use core::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{IpProtocol, TcpPacket, TcpRepr, UdpPacket};
use wharf_switch::Frame;

use crate::env::{Cx, Outbox};
use crate::host::Host;
use crate::link::RouterSolicitation;
use crate::transit::icmp_error::{self, Cause};
use crate::transit::tcp;
use crate::wire::Packet;
use crate::{Config, DropReason};

/// The gateway's own services.
#[derive(Debug)]
pub(crate) struct Local {}

/// Whether an address belongs to the gateway or reaches every host of the link.
fn is_ours(config: &Config, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address == Ipv4Addr::BROADCAST
                || config.ipv4.is_some_and(|plan| {
                    address == plan.gateway || address == plan.dns || plan.subnet.broadcast() == Some(address)
                })
        }
        IpAddr::V6(address) => {
            address.is_multicast()
                || config.ipv6.is_some_and(|plan| {
                    address == plan.gateway || address == plan.dns || address == plan.link_local
                })
        }
    }
}

/// Whether host loopback is open and the packet goes to the gateway's own address.
fn leads_to_host_loopback(config: &Config, address: IpAddr) -> bool {
    config.host_loopback
        && match address {
            IpAddr::V4(address) => config.ipv4.is_some_and(|plan| address == plan.gateway),
            IpAddr::V6(address) => config.ipv6.is_some_and(|plan| address == plan.gateway),
        }
}

impl Local {
    pub(crate) fn new(_config: &Config) -> Self {
        Self {}
    }

    /// Whether a packet ends at the gateway.
    pub(crate) fn is_for_us(config: &Config, packet: &Packet) -> bool {
        let relayed = matches!(packet.protocol, IpProtocol::Tcp | IpProtocol::Udp)
            && leads_to_host_loopback(config, packet.dst);
        is_ours(config, packet.dst) && !relayed
    }

    /// A host asks for a Router Advertisement.
    pub(crate) fn advertise<H, O: Outbox>(
        &mut self,
        _cx: &mut Cx<'_, H, O>,
        _solicitation: RouterSolicitation,
    ) -> Result<(), DropReason> {
        Ok(())
    }

    /// A whole packet for the gateway, other than Neighbor Discovery.
    pub(crate) fn handle_packet<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        packet: &Packet,
        frame: &Frame,
    ) -> Result<(), DropReason> {
        match packet.protocol {
            IpProtocol::Icmp | IpProtocol::Icmpv6 => echo::handle(cx, packet, frame),
            IpProtocol::Udp => self.handle_datagram(cx, packet, frame),
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
        packet: &Packet,
        frame: &Frame,
    ) -> Result<(), DropReason> {
        if !packet.transport_checksum_is_right(frame) {
            return Err(DropReason::UdpChecksumWrong);
        }
        UdpPacket::new_checked(packet.payload(frame)).map_err(|_| DropReason::UdpMalformed)?;
        icmp_error::answer(cx, packet, frame, Cause::PortUnreachable);
        Err(DropReason::PortClosed)
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
        if packet.dst.is_multicast() {
            return Err(DropReason::GroupUnknown);
        }
        tcp::refuse(cx, packet, &segment);
        Err(DropReason::PortClosed)
    }
}
