// SPDX-License-Identifier: MIT OR Apache-2.0
//! Echo: the gateway answers pings to its own addresses.
//!
//! # Sources
//! RFC 792, RFC 1122 section 3.2.2.6, RFC 4443 section 4.2.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol};
use wharf_switch::frame::ETHERNET_HEADER_LEN;
use wharf_switch::{Checksum, Frame};

use crate::env::{Cx, Outbox};
use crate::fragments::cutting;
use crate::link::ndp::ALL_NODES;
use crate::wire::Packet;
use crate::wire::emit::{self, HOP_LIMIT, Path};
use crate::{Config, DropReason};

const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// An ICMP message for the gateway: an echo request is answered.
pub(super) fn handle<H, O: Outbox>(
    cx: &mut Cx<'_, H, O>,
    packet: &Packet,
    frame: &Frame,
) -> Result<(), DropReason> {
    let request = packet.payload(frame);
    let config = &cx.env.config;
    let src = match (packet.protocol, packet.src, packet.dst) {
        (IpProtocol::Icmp, IpAddr::V4(_), IpAddr::V4(dst)) => check_v4(config, dst, request)?.into(),
        (IpProtocol::Icmpv6, IpAddr::V6(src), IpAddr::V6(dst)) => {
            check_v6(config, (src, dst), request)?.into()
        }
        _ => return Err(DropReason::IcmpUnknown),
    };
    let path = Path { src_mac: config.mac, dst_mac: packet.src_mac, src, dst: packet.src };
    let mut reply = cx.env.pool.for_len(ETHERNET_HEADER_LEN + path.ip_header_len() + request.len());
    let bytes = emit::ip(&mut reply, &path, packet.protocol, HOP_LIMIT, request.len());
    if bytes.len() != request.len() {
        return Err(DropReason::IcmpMalformed);
    }
    bytes.copy_from_slice(request);
    make_reply(bytes, &path);
    reply.offload.checksum = Checksum::Valid;
    // A reply that has to be cut needs an identification: that of its sequence number.
    let ident = request.get(6..8).and_then(|number| number.try_into().ok()).map_or(0, u16::from_be_bytes);
    cutting::send(cx, &mut reply, &path, ident.into())
}

/// The address that answers an ICMP message to `dst`.
fn check_v4(config: &Config, dst: Ipv4Addr, request: &[u8]) -> Result<Ipv4Addr, DropReason> {
    let view = Icmpv4Packet::new_checked(request).map_err(|_| DropReason::IcmpMalformed)?;
    if !view.verify_checksum() {
        return Err(DropReason::IcmpMalformed);
    }
    // RFC 1122 section 3.2.2.6: "An ICMP Echo Request destined to an IP broadcast or IP multicast address MAY be
    // silently discarded."
    if view.msg_type() != Icmpv4Message::EchoRequest || !config.is_own(dst.into()) {
        return Err(DropReason::IcmpUnknown);
    }
    Ok(dst)
}

/// The address that answers an ICMPv6 message from `src` to `dst`.
fn check_v6(
    config: &Config,
    (src, dst): (Ipv6Addr, Ipv6Addr),
    request: &[u8],
) -> Result<Ipv6Addr, DropReason> {
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
    if !dst.is_multicast() {
        return Ok(dst);
    }
    if dst != ALL_NODES && dst != ALL_ROUTERS {
        return Err(DropReason::GroupUnknown);
    }
    // RFC 4443 section 4.2: the reply to a group's request comes from a unicast address.
    config.ipv6.map(|plan| plan.link_local).ok_or(DropReason::Ipv6NotConfigured)
}

/// Turns the request in `bytes` into its reply.
fn make_reply(bytes: &mut [u8], path: &Path) {
    if let (IpAddr::V6(src), IpAddr::V6(dst)) = (path.src, path.dst) {
        let mut view = Icmpv6Packet::new_unchecked(bytes);
        view.set_msg_type(Icmpv6Message::EchoReply);
        view.fill_checksum(&src, &dst);
    } else {
        let mut view = Icmpv4Packet::new_unchecked(bytes);
        view.set_msg_type(Icmpv4Message::EchoReply);
        view.fill_checksum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;

    const HOST: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x64);

    fn request_v4(kind: u8) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 0, 0, 0, 1, 0, 2, b'x'];
        Icmpv4Packet::new_unchecked(&mut bytes[..]).fill_checksum();
        bytes
    }

    fn request_v6(kind: u8, dst: Ipv6Addr) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 0, 0, 0, 1, 0, 2, b'x'];
        Icmpv6Packet::new_unchecked(&mut bytes[..]).fill_checksum(&HOST, &dst);
        bytes
    }

    #[test]
    fn echo_is_answered_by_the_address_that_was_asked_and_by_no_group_in_ipv4() {
        let cases = [
            ([10, 0, 2, 2], 8, Ok([10, 0, 2, 2].into())),
            ([10, 0, 2, 3], 8, Ok([10, 0, 2, 3].into())),
            ([10, 0, 2, 2], 0, Err(DropReason::IcmpUnknown)),
            ([10, 0, 2, 255], 8, Err(DropReason::IcmpUnknown)),
            ([255, 255, 255, 255], 8, Err(DropReason::IcmpUnknown)),
        ];
        for (dst, kind, answer) in cases {
            assert_eq!(check_v4(&config(), dst.into(), &request_v4(kind)), answer, "{dst:?} {kind}");
        }
        let mut damaged = request_v4(8);
        damaged[8] ^= 1;
        assert_eq!(check_v4(&config(), [10, 0, 2, 2].into(), &damaged), Err(DropReason::IcmpMalformed));
    }

    #[test]
    fn a_group_of_ours_answers_from_the_link_local_address() {
        // RFC 4443 section 4.2.
        let plan = config().ipv6.unwrap();
        let all_mld_routers = "ff02::16".parse().unwrap();
        let cases = [
            (plan.gateway, 128, Ok(plan.gateway)),
            (plan.dns, 128, Ok(plan.dns)),
            (ALL_NODES, 128, Ok(plan.link_local)),
            (ALL_ROUTERS, 128, Ok(plan.link_local)),
            (all_mld_routers, 128, Err(DropReason::GroupUnknown)),
            (all_mld_routers, 143, Err(DropReason::GroupUnknown)),
            (plan.gateway, 129, Err(DropReason::IcmpUnknown)),
        ];
        for (dst, kind, answer) in cases {
            assert_eq!(check_v6(&config(), (HOST, dst), &request_v6(kind, dst)), answer, "{dst} {kind}");
        }
        let elsewhere = request_v6(128, plan.dns);
        assert_eq!(check_v6(&config(), (HOST, plan.gateway), &elsewhere), Err(DropReason::IcmpMalformed));
    }

    #[test]
    fn a_reply_is_the_request_with_another_type_and_a_right_checksum() {
        let mac = config().mac;
        let (src, dst) = (config().ipv6.unwrap().gateway, HOST);
        let mut bytes = request_v6(128, src);
        make_reply(&mut bytes, &Path { src_mac: mac, dst_mac: mac, src: src.into(), dst: dst.into() });
        assert!(Icmpv6Packet::new_unchecked(&bytes[..]).verify_checksum(&src, &dst));
        assert_eq!((bytes[0], &bytes[4..]), (129, &[0, 1, 0, 2, b'x'][..]));
        let mut bytes = request_v4(8);
        let (src, dst) = (Ipv4Addr::new(10, 0, 2, 2).into(), Ipv4Addr::new(10, 0, 2, 100).into());
        make_reply(&mut bytes, &Path { src_mac: mac, dst_mac: mac, src, dst });
        assert!(Icmpv4Packet::new_unchecked(&bytes[..]).verify_checksum());
        assert_eq!((bytes[0], &bytes[4..]), (0, &[0, 1, 0, 2, b'x'][..]));
    }
}
