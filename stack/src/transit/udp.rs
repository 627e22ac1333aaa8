// SPDX-License-Identifier: MIT OR Apache-2.0
//! The UDP relay: a [datagram relay](super::datagram) whose endpoints are ports.
//!
//! # Bounds
//! [`Udp::MAX_MAPPINGS`] sockets; each ends after [`TIMEOUT`] without traffic, or after [`TIMEOUT_QUERY`] when all it
//! ever spoke to was port 53.
//!
//! # Sources
//! RFC 4787 (REQ-5), RFC 768, RFC 8200 section 8.1.

use core::net::{IpAddr, SocketAddr};

use smoltcp::wire::{IpProtocol, UDP_HEADER_LEN, UdpPacket};
use wharf_switch::{Duration, Frame};

use super::datagram::endpoint::Run;
use super::datagram::{self, Key, Lifetime, Outbound, Protocol, Relay};
use crate::DropReason;
use crate::env::{Cx, Outbox};
use crate::host::{Family, Host, HostError, IcmpReport, Owner, Sender, SocketId, Token};
use crate::local::dns;
use crate::transit::flow::FlowKey;
use crate::transit::listing::FlowProtocol;
use crate::transit::publish::Ports;
use crate::wire::Packet;
use crate::wire::emit::{self, Path};

/// RFC 4787 REQ-5: a mapping timer of 5 minutes is recommended.
const TIMEOUT: Duration = Duration::from_secs(300);
/// RFC 4787 REQ-5 (a) lets well-known ports expire sooner.
const TIMEOUT_QUERY: Duration = Duration::from_secs(30);

/// UDP, as far as it differs from echo.
#[derive(Debug)]
pub(crate) struct Udp;

impl Relay<Udp> {
    /// A datagram from a container to the outside, or to a client of a published port.
    pub(crate) fn handle_datagram<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        packet: &Packet,
        frame: &Frame,
        published: &mut Ports,
    ) -> Result<(), DropReason> {
        if !packet.transport_checksum_is_right(frame) {
            return Err(DropReason::UdpChecksumWrong);
        }
        let datagram = UdpPacket::new_checked(packet.payload(frame)).map_err(|_| DropReason::UdpMalformed)?;
        if datagram.src_port() == 0 || datagram.dst_port() == 0 {
            return Err(DropReason::UdpMalformed);
        }
        let outbound = |to: SocketAddr, from| Outbound {
            packet,
            frame,
            internal_port: datagram.src_port(),
            to,
            from,
            lifetime: if to.port() == dns::PORT { Lifetime::Brief } else { Lifetime::Lasting },
            data: datagram.payload(),
        };
        let ends = FlowKey::of(packet, (datagram.src_port(), datagram.dst_port()));
        if let Some(way) = published.answer(cx.now, &ends) {
            return published.send(cx, way, &outbound(way.client.from, way.client.to));
        }
        let to = SocketAddr::new(datagram::resolve(cx, packet, frame)?, datagram.dst_port());
        let key = Key { internal: ends.container, outside: Family::of(to.ip()) };
        match published.begin(cx, &key, ends, to) {
            Some(way) => published.send(cx, way, &outbound(way.client.from, way.client.to)),
            None => self.send(cx, &outbound(to, None)),
        }
    }
}

/// The ends of a container's datagram.
pub(crate) fn ends(packet: &Packet, frame: &Frame) -> Option<FlowKey> {
    let datagram = UdpPacket::new_checked(packet.payload(frame)).ok()?;
    Some(FlowKey::of(packet, (datagram.src_port(), datagram.dst_port())))
}

impl Protocol for Udp {
    const OWNER: Owner = Owner::Udp;
    const MAX_MAPPINGS: usize = 1 << 14;
    const SHARE: usize = 8;
    const PURPOSE: &'static [u8] = b"udp mappings";
    const HEADER_LEN: usize = UDP_HEADER_LEN;
    const NOT_PERMITTED: DropReason = DropReason::HostRefused;
    const MOST_JOINED: usize = 64;

    fn name(_: IpAddr) -> FlowProtocol {
        FlowProtocol::Udp
    }

    fn timeout(lifetime: Lifetime) -> Duration {
        match lifetime {
            Lifetime::Brief => TIMEOUT_QUERY,
            Lifetime::Lasting => TIMEOUT,
        }
    }

    fn open<H: Host>(
        host: &mut H,
        token: Token,
        sender: Sender,
        outside: Family,
    ) -> Result<SocketId, HostError> {
        host.udp_open(token, sender, outside)
    }

    fn quote(key: &Key, report: &IcmpReport) -> (IpProtocol, [u8; 8]) {
        let [s0, s1] = key.internal.port().to_be_bytes();
        let [d0, d1] = report.destination.port().to_be_bytes();
        // Length and checksum are not known any more; a length of just the header is always right for a quote.
        (IpProtocol::Udp, [s0, s1, d0, d1, 0, 8, 0, 0])
    }

    fn emit(frame: &mut Frame, path: &Path, key: &Key, run: &Run) -> Result<(), DropReason> {
        let ports = (run.lead.from.port(), key.internal.port());
        emit::udp(frame, path, ports, run.lead.hop_limit, run.len, run.lead.len);
        Ok(())
    }
}
