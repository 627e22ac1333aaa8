// SPDX-License-Identifier: MIT OR Apache-2.0
//! ICMP errors towards a container: its packet could not go where it wanted.
//!
//! # How it works
//! Two ways in: [`answer`] for a packet that is still at hand, [`report`] for one sent earlier, whose beginning is
//! written anew from the flow. Errors that the host received keep their type, code and sender; when the container
//! speaks IPv6 and the outside IPv4 they are translated.
//!
//! # Bounds
//! Rate-limited ([`RATES`]), for each container and all together. Never about an ICMP error, a later fragment, or what was
//! sent to more than one host.
//!
//! # Sources
//! RFC 792, RFC 1191 section 4, RFC 1812 section 4.3.2, RFC 4443 section 2.4, RFC 5508 (REQ-8), RFC 7915 section 4.2
//! and 5.2 (translation).

use core::net::IpAddr;

use smoltcp::wire::{EthernetAddress, Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol};
use wharf_switch::frame::ETHERNET_HEADER_LEN;
use wharf_switch::{Checksum, Frame};

use crate::Config;
use crate::env::{Cx, Outbox};
use crate::host::{Family, HostError, IcmpReport};
use crate::rate_limit::Rates;
use crate::transit::nat64;
use crate::wire::Packet;
use crate::wire::emit::{self, HOP_LIMIT, Path, len16};

/// Errors that one worker makes. One container has a quarter of them; that is enough for a traceroute that sends all its
/// probes at once.
pub(crate) const RATES: Rates =
    Rates { per_second: 1000, burst: 400, share_per_second: 125, share_burst: 50 };

/// Bytes of an ICMP error in front of the quoted packet, in both families.
const HEADER_LEN: usize = 8;
/// RFC 1812 section 4.3.2.3: as much as fits into 576 bytes.
const MAX_ERROR_V4: usize = 576;
/// RFC 4443 section 2.4 (c): as much as fits into the minimum IPv6 MTU.
const MAX_ERROR_V6: usize = 1280;

const V4_UNREACHABLE: u8 = 3;
const V4_TIME_EXCEEDED: u8 = 11;
const V4_PARAMETER_PROBLEM: u8 = 12;
const V6_UNREACHABLE: u8 = 1;
const V6_PACKET_TOO_BIG: u8 = 2;
const V6_TIME_EXCEEDED: u8 = 3;
const V6_PARAMETER_PROBLEM: u8 = 4;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The hop limit was used up at the gateway.
    TimeExceeded,
    /// Fragments of the packet are missing still.
    ReassemblyTimeExceeded,
    /// The gateway has no such service.
    PortUnreachable,
    /// The gateway relays no such protocol.
    ProtocolUnreachable,
    NetworkUnreachable,
    HostUnreachable,
    /// It may not be cut, and the next link takes no packet of more than so many bytes.
    TooBig {
        mtu_bytes: usize,
    },
    /// The configuration forbids it.
    Prohibited,
    /// What the host was told by somebody outside.
    Report(IcmpReport),
}

/// Type, code and the four bytes after the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    kind: u8,
    code: u8,
    rest: u32,
}

const fn message(kind: u8, code: u8, rest: u32) -> Message {
    Message { kind, code, rest }
}

/// A packet that was sent earlier, as far as an error must quote it.
#[derive(Debug)]
pub(crate) struct Quoted<'a> {
    pub(crate) container: IpAddr,
    pub(crate) container_mac: EthernetAddress,
    pub(crate) remote: IpAddr,
    pub(crate) protocol: IpProtocol,
    pub(crate) hop_limit: u8,
    /// At least the first eight bytes behind the IP header.
    pub(crate) transport: &'a [u8],
}

impl Cause {
    /// What to say when the host could open no socket, or send nothing.
    pub(crate) fn of(error: HostError) -> Self {
        match error {
            HostError::NetworkUnreachable | HostError::SourceMissing => Self::NetworkUnreachable,
            // RFC 5508 REQ-8: one answer for "resource constraints or administrative restrictions".
            HostError::NotPermitted | HostError::Exhausted => Self::Prohibited,
            HostError::HostUnreachable | HostError::TimedOut | HostError::Refused => Self::HostUnreachable,
        }
    }

    fn is_too_big(self) -> bool {
        match self {
            Self::TooBig { .. } => true,
            Self::Report(report) => report.is_too_big(),
            _ => false,
        }
    }

    fn message_v4(self) -> Option<Message> {
        Some(match self {
            Self::TimeExceeded => message(V4_TIME_EXCEEDED, 0, 0),
            Self::ReassemblyTimeExceeded => message(V4_TIME_EXCEEDED, 1, 0),
            Self::NetworkUnreachable => message(V4_UNREACHABLE, 0, 0),
            Self::HostUnreachable => message(V4_UNREACHABLE, 1, 0),
            Self::ProtocolUnreachable => message(V4_UNREACHABLE, 2, 0),
            Self::PortUnreachable => message(V4_UNREACHABLE, 3, 0),
            Self::TooBig { mtu_bytes } => message(V4_UNREACHABLE, 4, len16(mtu_bytes).into()),
            Self::Prohibited => message(V4_UNREACHABLE, 13, 0),
            Self::Report(report @ IcmpReport { family: Family::V4, kind, code, .. }) => {
                message(kind, code, if report.is_too_big() { report.mtu.min(0xffff) } else { 0 })
            }
            Self::Report(report) => return translate_to_v4(report),
        })
    }

    fn message_v6(self) -> Option<Message> {
        Some(match self {
            Self::TimeExceeded => message(V6_TIME_EXCEEDED, 0, 0),
            Self::ReassemblyTimeExceeded => message(V6_TIME_EXCEEDED, 1, 0),
            Self::NetworkUnreachable => message(V6_UNREACHABLE, 0, 0),
            Self::TooBig { mtu_bytes } => message(V6_PACKET_TOO_BIG, 0, len16(mtu_bytes).into()),
            Self::Prohibited => message(V6_UNREACHABLE, 1, 0),
            Self::HostUnreachable => message(V6_UNREACHABLE, 3, 0),
            Self::PortUnreachable => message(V6_UNREACHABLE, 4, 0),
            // Next header unrecognised; the pointer names the IPv6 header's field.
            Self::ProtocolUnreachable => message(V6_PARAMETER_PROBLEM, 1, 6),
            Self::Report(report @ IcmpReport { family: Family::V6, kind, code, .. }) => {
                message(kind, code, if report.is_too_big() { report.mtu } else { 0 })
            }
            Self::Report(report) => return translate_to_v6(report),
        })
    }
}

/// RFC 7915 section 4.2: an ICMPv4 error as ICMPv6.
fn translate_to_v6(report: IcmpReport) -> Option<Message> {
    Some(match (report.kind, report.code) {
        (V4_UNREACHABLE, 0 | 1 | 5..=8 | 11 | 12) => message(V6_UNREACHABLE, 0, 0),
        (V4_UNREACHABLE, 2) => message(V6_PARAMETER_PROBLEM, 1, 6),
        (V4_UNREACHABLE, 3) => message(V6_UNREACHABLE, 4, 0),
        // The IPv6 header is 20 bytes longer, and no IPv6 sender goes below 1,280 bytes.
        (V4_UNREACHABLE, 4) => message(V6_PACKET_TOO_BIG, 0, report.mtu.saturating_add(20).max(1280)),
        (V4_UNREACHABLE, 9 | 10 | 13 | 15) => message(V6_UNREACHABLE, 1, 0),
        (V4_TIME_EXCEEDED, code) => message(V6_TIME_EXCEEDED, code, 0),
        (V4_PARAMETER_PROBLEM, 0 | 2) => message(V6_PARAMETER_PROBLEM, 0, 0),
        _ => return None,
    })
}

/// RFC 7915 section 5.2: an ICMPv6 error as ICMPv4, for a container whose published port has IPv6 clients.
fn translate_to_v4(report: IcmpReport) -> Option<Message> {
    Some(match (report.kind, report.code) {
        (V6_UNREACHABLE, 0 | 2 | 3) => message(V4_UNREACHABLE, 1, 0),
        (V6_UNREACHABLE, 1) => message(V4_UNREACHABLE, 10, 0),
        (V6_UNREACHABLE, 4) => message(V4_UNREACHABLE, 3, 0),
        // The IPv4 header is 20 bytes shorter.
        (V6_PACKET_TOO_BIG, _) => message(V4_UNREACHABLE, 4, report.mtu.saturating_sub(20).min(0xffff)),
        (V6_TIME_EXCEEDED, code) => message(V4_TIME_EXCEEDED, code, 0),
        (V6_PARAMETER_PROBLEM, 1) => message(V4_UNREACHABLE, 2, 0),
        (V6_PARAMETER_PROBLEM, 0) => message(V4_PARAMETER_PROBLEM, 0, 0),
        _ => return None,
    })
}

/// Who the error comes from, in the container's family. The host itself speaks as the gateway.
fn sender(config: &Config, container: IpAddr, cause: Cause) -> Option<IpAddr> {
    let offender = match cause {
        Cause::Report(report) => report.offender.filter(|offender| !offender.is_loopback()),
        _ => None,
    };
    match (container, offender) {
        (IpAddr::V4(_), Some(IpAddr::V4(offender))) => Some(offender.into()),
        (IpAddr::V6(_), Some(IpAddr::V6(offender))) => Some(offender.into()),
        (IpAddr::V6(_), Some(IpAddr::V4(offender))) if config.nat64.is_some() => {
            config.nat64.map(|prefix| nat64::embed(prefix, offender).into())
        }
        (IpAddr::V4(_), _) => config.ipv4.map(|plan| plan.gateway.into()),
        (IpAddr::V6(_), _) => config.ipv6.map(|plan| plan.gateway.into()),
    }
}

/// Tells a container about its packet in `frame`.
pub(crate) fn answer<H, O: Outbox>(cx: &mut Cx<'_, H, O>, packet: &Packet, frame: &Frame, cause: Cause) {
    if may_be_told(&cx.env.config, packet, frame, cause) {
        send(cx, packet.src, packet.src_mac, cause, packet.whole(frame));
    }
}

/// RFC 1122 section 3.2.2 and RFC 4443 section 2.4 (e): what an error is about came from one host and went to one, is no
/// error itself and no fragment but the first.
fn may_be_told(config: &Config, packet: &Packet, frame: &Frame, cause: Cause) -> bool {
    let is_later_fragment = packet.fragment.is_some_and(|fragment| fragment.offset != 0);
    let is_from_one_host = !packet.src.is_unspecified() && !config.is_broadcast(packet.src);
    // RFC 4443 section 2.4 (e.3): groups learn their path's MTU too.
    let is_to_one_host = !is_to_group(config, packet) || (packet.src.is_ipv6() && cause.is_too_big());
    is_from_one_host && is_to_one_host && !is_later_fragment && !is_icmp_error(packet, frame)
}

/// Whether a packet, or the frame around it, was for more than one host.
fn is_to_group(config: &Config, packet: &Packet) -> bool {
    packet.dst.is_multicast() || config.is_broadcast(packet.dst) || !packet.dst_mac.is_unicast()
}

fn is_icmp_error(packet: &Packet, frame: &Frame) -> bool {
    let Some(&kind) = packet.payload(frame).first() else { return false };
    match packet.protocol {
        // Echo, echo reply, timestamp and information queries are not errors.
        IpProtocol::Icmp => !matches!(kind, 0 | 8 | 13..=18),
        IpProtocol::Icmpv6 => kind < 128,
        _ => false,
    }
}

/// Tells a container about a packet it sent earlier.
pub(crate) fn report<H, O: Outbox>(cx: &mut Cx<'_, H, O>, quoted: &Quoted<'_>, cause: Cause) {
    let path = Path {
        src_mac: quoted.container_mac,
        dst_mac: cx.env.config.mac,
        src: quoted.container,
        dst: quoted.remote,
    };
    let mut packet = cx.env.pool.small();
    emit::ip(&mut packet, &path, quoted.protocol, quoted.hop_limit, quoted.transport.len())
        .copy_from_slice(quoted.transport);
    let bytes = packet.bytes().get(ETHERNET_HEADER_LEN..).unwrap_or_default();
    send(cx, quoted.container, quoted.container_mac, cause, bytes);
}

fn send<H, O: Outbox>(
    cx: &mut Cx<'_, H, O>,
    container: IpAddr,
    container_mac: EthernetAddress,
    cause: Cause,
    quoted: &[u8],
) {
    let (message, limit) = match container {
        IpAddr::V4(_) => (cause.message_v4(), MAX_ERROR_V4 - 20 - HEADER_LEN),
        IpAddr::V6(_) => (cause.message_v6(), MAX_ERROR_V6 - 40 - HEADER_LEN),
    };
    let sender = sender(&cx.env.config, container, cause);
    let (Some(message), Some(sender)) = (message, sender) else { return };
    if !cx.env.icmp_errors.take(cx.now, container_mac) {
        return;
    }
    let quoted = quoted.get(..quoted.len().min(limit)).unwrap_or_default();
    let path = Path { src_mac: cx.env.config.mac, dst_mac: container_mac, src: sender, dst: container };
    let mut frame = cx.env.pool.small();
    let protocol = if container.is_ipv4() { IpProtocol::Icmp } else { IpProtocol::Icmpv6 };
    let bytes = emit::ip(&mut frame, &path, protocol, HOP_LIMIT, HEADER_LEN + quoted.len());
    if let Some((header, body)) = bytes.split_at_mut_checked(HEADER_LEN) {
        body.copy_from_slice(quoted);
        if let Some(rest) = header.get_mut(4..) {
            rest.copy_from_slice(&message.rest.to_be_bytes());
        }
    }
    match (sender, container) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut view = Icmpv6Packet::new_unchecked(bytes);
            view.set_msg_type(Icmpv6Message::from(message.kind));
            view.set_msg_code(message.code);
            view.fill_checksum(&src, &dst);
        }
        (IpAddr::V4(_) | IpAddr::V6(_), _) => {
            let mut view = Icmpv4Packet::new_unchecked(bytes);
            view.set_msg_type(Icmpv4Message::from(message.kind));
            view.set_msg_code(message.code);
            view.fill_checksum();
        }
    }
    frame.offload.checksum = Checksum::Valid;
    match cx.env.config.route_to(container) {
        Some(route) => cx.route(route.network, &mut frame),
        None => cx.send(&mut frame),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4_report(kind: u8, code: u8, mtu: u32) -> Cause {
        Cause::Report(IcmpReport {
            destination: "198.51.100.1:9".parse().unwrap(),
            offender: Some("203.0.113.9".parse().unwrap()),
            family: Family::V4,
            kind,
            code,
            mtu,
            payload: [0; 8],
        })
    }

    /// RFC 7915 section 4.2, its table of ICMPv4 error messages.
    #[test]
    fn icmpv4_errors_become_the_icmpv6_errors_of_rfc_7915() {
        for (kind, code, expected) in [
            (3, 0, Some((1, 0, 0))),
            (3, 1, Some((1, 0, 0))),
            (3, 2, Some((4, 1, 6))),
            (3, 3, Some((1, 4, 0))),
            (3, 5, Some((1, 0, 0))),
            (3, 9, Some((1, 1, 0))),
            (3, 13, Some((1, 1, 0))),
            (3, 14, None),
            (3, 15, Some((1, 1, 0))),
            (11, 0, Some((3, 0, 0))),
            (11, 1, Some((3, 1, 0))),
            (4, 0, None),
            (5, 0, None),
        ] {
            let got = v4_report(kind, code, 0).message_v6().map(|m| (m.kind, m.code, m.rest));
            assert_eq!(got, expected, "type {kind} code {code}");
        }
        assert_eq!(v4_report(3, 4, 1400).message_v6(), Some(message(2, 0, 1420)));
        assert_eq!(v4_report(3, 4, 576).message_v6(), Some(message(2, 0, 1280)));
    }

    /// RFC 7915 section 5.2, its table of ICMPv6 error messages.
    #[test]
    fn icmpv6_errors_become_the_icmpv4_errors_of_rfc_7915() {
        for (kind, code, mtu, expected) in [
            (1, 0, 0, Some((3, 1, 0))),
            (1, 1, 0, Some((3, 10, 0))),
            (1, 2, 0, Some((3, 1, 0))),
            (1, 3, 0, Some((3, 1, 0))),
            (1, 4, 0, Some((3, 3, 0))),
            (1, 5, 0, None),
            (2, 0, 1280, Some((3, 4, 1260))),
            (3, 0, 0, Some((11, 0, 0))),
            (3, 1, 0, Some((11, 1, 0))),
            (4, 0, 0, Some((12, 0, 0))),
            (4, 1, 0, Some((3, 2, 0))),
            (4, 2, 0, None),
        ] {
            let report = IcmpReport {
                destination: "[2001:db8::7]:9".parse().unwrap(),
                offender: Some("2001:db8::9".parse().unwrap()),
                family: Family::V6,
                kind,
                code,
                mtu,
                payload: [0; 8],
            };
            let got = Cause::Report(report).message_v4().map(|m| (m.kind, m.code, m.rest));
            assert_eq!(got, expected, "type {kind} code {code}");
        }
    }

    #[test]
    fn an_error_of_the_hosts_loopback_comes_from_the_gateway() {
        let config = crate::config::tests::config();
        let Cause::Report(report) = v4_report(3, 3, 0) else { unreachable!() };
        let report = Cause::Report(IcmpReport { offender: Some("127.0.0.1".parse().unwrap()), ..report });
        for (container, gateway) in [("10.0.2.100", "10.0.2.2"), ("fd00:db8::64", "fd00:db8::2")] {
            assert_eq!(sender(&config, container.parse().unwrap(), report), Some(gateway.parse().unwrap()));
        }
    }

    #[test]
    fn every_code_of_unreachable_is_carried_through_unchanged() {
        for code in 0..16 {
            assert_eq!(v4_report(3, code, 0).message_v4(), Some(message(3, code, 0)));
        }
    }

    #[test]
    fn an_offender_outside_keeps_its_address_under_nat64() {
        let config = crate::config::tests::config();
        let container = "fd00:db8::64".parse().unwrap();
        let expected: IpAddr = "64:ff9b:1::203.0.113.9".parse().unwrap();
        assert_eq!(sender(&config, container, v4_report(11, 0, 0)), Some(expected));
    }
}
