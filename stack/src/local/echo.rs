// SPDX-License-Identifier: MIT OR Apache-2.0
//! Echo: the gateway answers pings to its own addresses.
//!
//! # Sources
//! RFC 792, RFC 1122 section 3.2.2.6, RFC 4443 section 4.2.

use core::net::{IpAddr, Ipv6Addr};

use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol};
use wharf_switch::frame::ETHERNET_HEADER_LEN;
use wharf_switch::{Checksum, Frame};

use crate::DropReason;
use crate::env::{Cx, Outbox};
use crate::transit::fragments;
use crate::wire::Packet;
use crate::wire::emit::{self, HOP_LIMIT, Path};

/// An ICMP message for the gateway: an echo request is answered.
pub(super) fn handle<H, O: Outbox>(
    cx: &mut Cx<'_, H, O>,
    packet: &Packet,
    frame: &Frame,
) -> Result<(), DropReason> {
    let request = packet.payload(frame);
    let src = match (packet.protocol, packet.src, packet.dst) {
        (IpProtocol::Icmp, IpAddr::V4(_), IpAddr::V4(dst)) => {
            let view = Icmpv4Packet::new_checked(request).map_err(|_| DropReason::IcmpMalformed)?;
            if !view.verify_checksum() {
                return Err(DropReason::IcmpMalformed);
            }
            // RFC 1122 section 3.2.2.6: an echo request to a broadcast address may be discarded.
            let is_broadcast = cx.env.config.ipv4.is_none_or(|plan| dst != plan.gateway && dst != plan.dns);
            if view.msg_type() != Icmpv4Message::EchoRequest || is_broadcast {
                return Err(DropReason::IcmpUnknown);
            }
            IpAddr::V4(dst)
        }
        (IpProtocol::Icmpv6, IpAddr::V6(src), IpAddr::V6(dst)) => {
            let view = Icmpv6Packet::new_checked(request).map_err(|_| DropReason::IcmpMalformed)?;
            if !view.verify_checksum(&src, &dst) {
                return Err(DropReason::IcmpMalformed);
            }
            if view.msg_type().is_mld() {
                return Err(DropReason::GroupUnknown);
            }
            if view.msg_type() != Icmpv6Message::EchoRequest {
                return Err(DropReason::IcmpUnknown);
            }
            // RFC 4443 section 4.2: the reply to a group's request comes from a unicast address.
            let plan = cx.env.config.ipv6.ok_or(DropReason::Ipv6NotConfigured)?;
            let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            let all_routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
            if dst.is_multicast() && dst != all_nodes && dst != all_routers {
                return Err(DropReason::GroupUnknown);
            }
            IpAddr::V6(if dst.is_multicast() { plan.link_local } else { dst })
        }
        _ => return Err(DropReason::IcmpUnknown),
    };
    let path = Path { src_mac: cx.env.config.mac, dst_mac: packet.src_mac, src, dst: packet.src };
    let mut reply = cx.env.pool.for_len(ETHERNET_HEADER_LEN + path.ip_header_len() + request.len());
    let bytes = emit::ip(&mut reply, &path, packet.protocol, HOP_LIMIT, request.len());
    if bytes.len() != request.len() {
        return Err(DropReason::IcmpMalformed);
    }
    bytes.copy_from_slice(request);
    match (src, packet.src) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut view = Icmpv6Packet::new_unchecked(bytes);
            view.set_msg_type(Icmpv6Message::EchoReply);
            view.fill_checksum(&src, &dst);
        }
        (IpAddr::V4(_) | IpAddr::V6(_), _) => {
            let mut view = Icmpv4Packet::new_unchecked(bytes);
            view.set_msg_type(Icmpv4Message::EchoReply);
            view.fill_checksum();
        }
    }
    reply.offload.checksum = Checksum::Valid;
    let ident = u32::from(request.get(6..8).map_or(0, |seq| u16::from_be_bytes([seq[0], seq[1]])));
    fragments::send(cx, &mut reply, &path, ident)
}
