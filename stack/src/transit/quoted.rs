// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a container's ICMP error is about: a segment of ours that it quotes.
//!
//! # Bounds
//! Only "destination unreachable", the kind by which a container refuses, and only with the whole segment quoted, as
//! Linux does.
//!
//! # Sources
//! RFC 792, RFC 4443 section 3.1.

use core::net::SocketAddr;

use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol, Ipv4Packet,
    Ipv6Packet, TcpPacket,
};
use wharf_switch::Frame;

use crate::transit::flow::FlowKey;
use crate::transit::tcp::Seq;
use crate::wire::Packet;

/// A segment of ours that could not be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QuotedSegment {
    pub(crate) key: FlowKey,
    pub(crate) seq: Seq,
}

impl QuotedSegment {
    /// The segment that the ICMP message in `frame` reports as undeliverable, if it is such a report.
    pub(crate) fn parse(packet: &Packet, frame: &Frame) -> Option<Self> {
        let message = packet.payload(frame);
        match packet.protocol {
            IpProtocol::Icmp => {
                let icmp = Icmpv4Packet::new_checked(message).ok()?;
                // "Fragmentation needed" is about the size, not the segment.
                let is_refusal = icmp.msg_type() == Icmpv4Message::DstUnreachable
                    && icmp.msg_code() != u8::from(Icmpv4DstUnreachable::FragRequired);
                let inner = Ipv4Packet::new_checked(message.get(icmp.header_len()..)?).ok()?;
                if !is_refusal || !icmp.verify_checksum() || inner.next_header() != IpProtocol::Tcp {
                    return None;
                }
                Self::of(inner.src_addr(), inner.dst_addr(), inner.payload())
            }
            IpProtocol::Icmpv6 if packet.transport_checksum_is_right(frame) => {
                let icmp = Icmpv6Packet::new_checked(message).ok()?;
                let inner = Ipv6Packet::new_checked(message.get(icmp.header_len()..)?).ok()?;
                if icmp.msg_type() != Icmpv6Message::DstUnreachable || inner.next_header() != IpProtocol::Tcp
                {
                    return None;
                }
                Self::of(inner.src_addr(), inner.dst_addr(), inner.payload())
            }
            _ => None,
        }
    }

    fn of<A: Into<core::net::IpAddr>>(from: A, to: A, segment: &[u8]) -> Option<Self> {
        let segment = TcpPacket::new_checked(segment).ok()?;
        let key = FlowKey {
            container: SocketAddr::new(to.into(), segment.dst_port()),
            remote: SocketAddr::new(from.into(), segment.src_port()),
        };
        Some(Self { key, seq: segment.seq_number().into() })
    }
}
