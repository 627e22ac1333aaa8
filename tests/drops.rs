// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every reason for a drop, provoked by a frame.
//!
//! # How it works
//! Two `match`es without `_` name what must happen for each reason, or in whose room it does: whoever adds one must say
//! here how it comes about.
//! Everything goes through [`Worker::turn`](wharf::dataplane::worker::Worker::turn), and after every turn the books
//! must balance and every drop have its reason.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "a test may fail")]

#[path = "stage/mod.rs"]
mod stage;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use smoltcp::wire::{EthernetAddress, IpProtocol, Ipv6Cidr};
use stage::frames::{self, ETHERNET, IPV4, Tcp};
use stage::{CONTAINER_MAC, GATEWAY_MAC, Stage, config, linked_config};
use wharf_stack::host::{Family, HostError};
use wharf_switch::offload::VNET_HEADER_LEN;
use wharf_switch::{
    Duration, Guard, Isolation, Macs, Membership, Offloads, Policy, Rate, Reason, StormControl, StormRates,
    Vlan,
};

type Gateway = wharf_stack::DropReason;
type Switch = wharf_switch::DropReason;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const CONTAINER: &str = "10.0.2.100";
const SERVER: &str = "198.51.100.7";

fn udp(dst: &str, payload: &[u8]) -> Vec<u8> {
    let dst = end(dst);
    let src = if dst.is_ipv4() { "10.0.2.100:5000" } else { "[fd00:db8::64]:5000" };
    frames::udp(end(src), dst, 64, payload)
}

fn tcp(flags: &str, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    let header = Tcp { flags: flags.into(), seq, ack, window: 1000, options: Vec::new() };
    frames::tcp(end("10.0.2.100:40000"), end("198.51.100.7:80"), 64, &header, payload)
}

/// An ICMP message to the gateway.
fn icmp(kind: u8, body: &[u8]) -> Vec<u8> {
    frames::icmp(address(CONTAINER), address("10.0.2.2"), 64, kind, 0, body)
}

/// A Neighbor Discovery message to the gateway.
fn ndp(src: &str, hop_limit: u8, kind: u8, body: &[u8]) -> Vec<u8> {
    frames::icmp(address(src), address("fd00:db8::2"), hop_limit, kind, 0, body)
}

/// The body of a solicitation or advertisement about `target`.
fn about(flags: u8, target: &str) -> Vec<u8> {
    let IpAddr::V6(target) = address(target) else { panic!("an IPv6 address") };
    [&[flags, 0, 0, 0][..], &target.octets()].concat()
}

fn dns(id: u16, flags: u8) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let header = [high, low, flags, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    udp("10.0.2.3:53", &[&header[..], b"\x07example\x03org\0", &[0, 1, 0, 1]].concat())
}

/// A DISCOVER of the container's for another MAC address than its own.
fn dhcp_of_another(id: u8) -> Vec<u8> {
    let mut bytes = frames::dhcp(1, 1, &[61, 2, 1, id])[ETHERNET + IPV4 + 8..].to_vec();
    bytes[33] ^= 1;
    frames::udp(end("0.0.0.0:68"), end("255.255.255.255:67"), 64, &bytes)
}

/// The frame with a byte other than it was.
fn damaged(mut frame: Vec<u8>, at: usize) -> Vec<u8> {
    frame[at] ^= 0x55;
    frame
}

fn stage_with(change: impl FnOnce(&mut wharf_stack::Config)) -> Stage {
    let mut config = config();
    change(&mut config);
    Stage::new(config)
}

/// A stage that got these frames.
fn got(frames: &[Vec<u8>]) -> Stage {
    let mut stage = Stage::new(config());
    frames.iter().for_each(|frame| stage.receive(frame));
    stage
}

/// A stage with an open connection whose next number is 101; the gateway's is returned.
fn open(mut stage: Stage) -> (Stage, u32) {
    stage.receive(&tcp("S", 100, 0, &[]));
    stage.host().connect_ends(0, Ok(()));
    stage.settle();
    let mut answer = Vec::new();
    while let Some(frame) = stage.sent() {
        answer = frame;
    }
    let number: [u8; 4] = answer[ETHERNET + IPV4 + 4..][..4].try_into().unwrap();
    let ack = u32::from_be_bytes(number).wrapping_add(1);
    stage.receive(&tcp(".", 101, ack, &[]));
    (stage, ack)
}

/// An open connection that got these segments; each is made with the gateway's number.
fn conversation(segments: &[&dyn Fn(u32) -> Vec<u8>]) -> Stage {
    let (mut stage, ack) = open(Stage::new(config()));
    segments.iter().for_each(|segment| stage.receive(&segment(ack)));
    stage
}

/// A container that sent a datagram, and what then came to its socket from `sender`.
fn answered(sender: &str, payload: &[u8]) -> Stage {
    let mut stage = got(&[udp("198.51.100.7:9", b"")]);
    stage.host().receives(0, end(sender), payload);
    stage.settle();
    stage
}

/// Many different frames.
fn many(count: u32, frame: impl Fn(u32) -> Vec<u8>) -> Stage {
    let mut stage = stage_with(|config| config.memory_bytes = 1 << 30);
    for number in 0..count {
        stage.receive(&frame(number));
        if number % 64 == 0 {
            stage.wire().outbound.clear();
            stage.host().calls.clear();
        }
    }
    stage
}

/// How the gateway comes to drop a packet for `reason`.
fn provoke_gateway(reason: Gateway) -> Stage {
    use Gateway as R;
    match reason {
        R::EtherTypeUnknown
        | R::Ipv4Malformed
        | R::Ipv4ChecksumWrong
        | R::Ipv4NotConfigured
        | R::Ipv6Malformed
        | R::Ipv6NotConfigured
        | R::SourceAddressInvalid
        | R::ProtocolUnknown
        | R::FragmentMalformed
        | R::FragmentsExhausted
        | R::FragmentsExpired => provoke_packet(reason),
        R::ArpMalformed
        | R::ArpSenderInvalid
        | R::ArpTargetElsewhere
        | R::ArpConflict
        | R::NdpMalformed
        | R::NdpHopLimitWrong
        | R::NdpTargetElsewhere
        | R::NdpConflict
        | R::NdpRogueRouter
        | R::NdpNotSolicited => provoke_link(reason),
        R::GroupUnknown
        | R::PortClosed
        | R::DhcpMalformed
        | R::DhcpSenderForged
        | R::DhcpNotRequest
        | R::DhcpOtherServer
        | R::DhcpNotOwner
        | R::DhcpRangeExhausted
        | R::DnsMalformed
        | R::DnsNotQuery
        | R::DnsRepeated
        | R::DnsTableFull => provoke_local(reason),
        R::HopLimitExceeded
        | R::NetworkIsInternal
        | R::OutsideIsLoopback
        | R::OutsideNotUnicast
        | R::OutsideIsLinkLocal
        | R::OutsideIsInside
        | R::OutsideIsLinked
        | R::Nat64NotGlobal => provoke_outside(reason),
        R::RelayMemoryExhausted
        | R::TcpMalformed
        | R::TcpChecksumWrong
        | R::TcpNoSuchFlow
        | R::TcpTableFull
        | R::TcpSynRepeated
        | R::TcpSimultaneousOpen
        | R::TcpSynInWindow
        | R::TcpWithoutAck
        | R::TcpOutOfWindow
        | R::TcpAckUnacceptable
        | R::TcpRepeated
        | R::TcpGapsExhausted
        | R::TcpAfterClose
        | R::TcpResetOutOfSequence => provoke_tcp(reason),
        R::HostExhausted
        | R::HostRefused
        | R::OutboundAddressMissing
        | R::IcmpMalformed
        | R::IcmpUnknown
        | R::IcmpAboutUnknown
        | R::UdpMalformed
        | R::UdpChecksumWrong
        | R::EchoNotPermitted
        | R::PathMtuExceeded
        | R::ContainerNotFound
        | R::NeighborQueueFull
        | R::NeighborQuestionsExhausted
        | R::SenderUnreachable
        | R::AnswerTooLarge => provoke_datagrams(reason),
    }
}

/// A reason that [`provoke_gateway`] sent to the wrong room.
fn not_here(reason: Gateway) -> ! {
    panic!("nobody provokes {reason:?}")
}

/// A packet that cannot be read or put together, or is of a kind that nobody here takes.
fn provoke_packet(reason: Gateway) -> Stage {
    use Gateway as R;
    match reason {
        R::EtherTypeUnknown => got(&[frames::ethernet(GATEWAY_MAC, CONTAINER_MAC, 0x88b5, &[0; 46])]),
        R::Ipv4Malformed => got(&[damaged(udp("198.51.100.7:9", b""), ETHERNET)]),
        R::Ipv4ChecksumWrong => got(&[damaged(udp("198.51.100.7:9", b""), ETHERNET + 10)]),
        R::Ipv4NotConfigured => {
            let mut stage = stage_with(|config| config.ipv4 = None);
            stage.receive(&udp("198.51.100.7:9", b""));
            stage
        }
        R::Ipv6Malformed => got(&[damaged(udp("[2001:db8::7]:9", b""), ETHERNET)]),
        R::Ipv6NotConfigured => {
            let mut stage = stage_with(|config| (config.ipv6, config.nat64) = (None, None));
            stage.receive(&udp("[2001:db8::7]:9", b""));
            stage
        }
        R::SourceAddressInvalid => got(&[frames::udp(end("127.0.0.1:5"), end("198.51.100.7:9"), 64, b"")]),
        R::ProtocolUnknown => {
            got(&[frames::ip(address(CONTAINER), address(SERVER), IpProtocol::Unknown(47), 64, b"gre")])
        }
        R::FragmentMalformed => {
            let piece =
                |offset| frames::fragment(address(CONTAINER), address(SERVER), 7, offset, true, &[0; 16]);
            got(&[piece(0), piece(8)])
        }
        R::FragmentsExpired => {
            let piece = frames::fragment(address(CONTAINER), address(SERVER), 7, 0, true, &[0; 16]);
            let mut stage = got(&[piece]);
            stage.advance(Duration::from_secs(60));
            stage
        }
        R::FragmentsExhausted => many(65, |number| {
            let src = IpAddr::from([10, 0, 2, 100 + (number / 16) as u8]);
            frames::fragment(src, address(SERVER), number as u16, 0, true, &[0; 16])
        }),
        other => not_here(other),
    }
}

/// ARP and Neighbor Discovery.
fn provoke_link(reason: Gateway) -> Stage {
    use Gateway as R;
    match reason {
        R::ArpMalformed => got(&[frames::arp(9, CONTAINER_MAC, [10, 0, 2, 100], [10, 0, 2, 2])]),
        R::ArpSenderInvalid => {
            got(&[frames::arp(1, EthernetAddress::BROADCAST, [10, 0, 2, 100], [10, 0, 2, 2])])
        }
        R::ArpTargetElsewhere => got(&[frames::arp(1, CONTAINER_MAC, [10, 0, 2, 100], [10, 0, 2, 9])]),
        R::ArpConflict => got(&[
            frames::arp(1, CONTAINER_MAC, [10, 0, 2, 2], [10, 0, 2, 2]),
            frames::arp(1, CONTAINER_MAC, [10, 0, 2, 2], [10, 0, 2, 2]),
        ]),
        R::NdpMalformed => {
            got(&[damaged(ndp("fe80::64", 255, 135, &about(0, "fd00:db8::2")), ETHERNET + 42)])
        }
        R::NdpHopLimitWrong => got(&[ndp("fe80::64", 64, 135, &about(0, "fd00:db8::2"))]),
        R::NdpTargetElsewhere => got(&[ndp("fe80::64", 255, 135, &about(0, "fd00:db8::64"))]),
        R::NdpConflict => got(&[ndp("fe80::64", 255, 136, &about(0, "fd00:db8::2"))]),
        R::NdpRogueRouter => got(&[ndp("fe80::64", 255, 134, &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0])]),
        R::NdpNotSolicited => got(&[ndp("fe80::64", 255, 136, &about(0x40, "fd00:db8::64"))]),
        other => not_here(other),
    }
}

/// The gateway's own services.
fn provoke_local(reason: Gateway) -> Stage {
    use Gateway as R;
    match reason {
        R::GroupUnknown => got(&[udp("224.0.0.251:5353", b"")]),
        R::PortClosed => got(&[udp("10.0.2.2:9", b"")]),
        R::DhcpMalformed => got(&[frames::udp(end("0.0.0.0:68"), end("255.255.255.255:67"), 64, b"dhcp")]),
        R::DhcpSenderForged => got(&[dhcp_of_another(1)]),
        R::DhcpNotRequest => got(&[frames::dhcp(2, 1, &[])]),
        R::DhcpOtherServer => got(&[frames::dhcp(1, 3, &[54, 4, 10, 0, 2, 9])]),
        R::DhcpNotOwner => got(&[frames::dhcp(1, 7, &[])]),
        R::DhcpRangeExhausted => got(&[frames::dhcp(1, 1, &[61, 2, 1, 1]), {
            let mut frame = dhcp_of_another(2);
            frame[11] ^= 1;
            frame
        }]),
        R::DnsMalformed => got(&[udp("10.0.2.3:53", b"short")]),
        R::DnsNotQuery => got(&[dns(1, 0x80)]),
        R::DnsRepeated => got(&[dns(1, 1), dns(1, 1)]),
        R::DnsTableFull => many(513, |number| dns(number as u16, 1)),
        other => not_here(other),
    }
}

/// Where a container may not go, or not get.
fn provoke_outside(reason: Gateway) -> Stage {
    use Gateway as R;
    match reason {
        R::HopLimitExceeded => got(&[frames::udp(end("10.0.2.100:5"), end("198.51.100.7:9"), 1, b"")]),
        R::NetworkIsInternal => {
            let mut stage = stage_with(|config| config.internal = true);
            stage.receive(&udp("198.51.100.7:9", b""));
            stage
        }
        R::OutsideIsLoopback => got(&[udp("127.0.0.1:9", b"")]),
        R::OutsideNotUnicast => got(&[udp("[64:ff9b:1::e000:1]:9", b"")]),
        R::OutsideIsLinkLocal => got(&[udp("169.254.169.254:80", b"")]),
        R::OutsideIsInside => got(&[udp("10.0.2.77:9", b"")]),
        R::OutsideIsLinked => {
            let mut stage = Stage::new(config());
            stage.route_to(&Stage::new(linked_config()));
            stage.receive(&udp("[64:ff9b:1::10.0.3.77]:9", b""));
            stage
        }
        R::Nat64NotGlobal => {
            let well_known = Ipv6Cidr::new("64:ff9b::".parse().unwrap(), 96);
            let mut stage = stage_with(|config| config.nat64 = Some(well_known));
            stage.receive(&udp("[64:ff9b::c0a8:101]:9", b""));
            stage
        }
        other => not_here(other),
    }
}

/// TCP connections.
fn provoke_tcp(reason: Gateway) -> Stage {
    use Gateway as R;
    match reason {
        R::RelayMemoryExhausted => {
            let mut stage = stage_with(|config| config.memory_bytes = 1000);
            stage.receive(&tcp("S", 100, 0, &[]));
            stage
        }
        R::TcpMalformed => got(&[tcp("SF", 100, 0, &[])]),
        R::TcpChecksumWrong => got(&[damaged(tcp("S", 100, 0, &[]), ETHERNET + IPV4 + 16)]),
        R::TcpNoSuchFlow => got(&[tcp(".", 1, 1, &[])]),
        R::TcpTableFull => many((1 << 18) + 1, |number| {
            let header = Tcp { flags: "S".into(), ..Tcp::default() };
            let src = SocketAddr::new(address(CONTAINER), 1 + (number % 65_535) as u16);
            let dst = SocketAddr::new([198, 51, 100, (number / 65_535) as u8].into(), 80);
            frames::tcp(src, dst, 64, &header, &[])
        }),
        R::TcpGapsExhausted => {
            let (mut stage, ack) = open(Stage::new(config()));
            for gap in 1..=257 {
                stage.receive(&tcp(".", 101 + 2 * gap, ack, b"x"));
            }
            stage
        }
        R::TcpSynRepeated => got(&[tcp("S", 100, 0, &[]), tcp("S", 100, 0, &[])]),
        R::TcpSimultaneousOpen => {
            let mut stage = got(&[frames::arp(1, CONTAINER_MAC, [10, 0, 2, 100], [10, 0, 2, 2])]);
            stage.publish(end("10.0.2.100:40000"));
            stage.host().connects(end("198.51.100.7:80"));
            stage.settle();
            stage.receive(&tcp("S", 100, 0, &[]));
            stage
        }
        R::TcpSynInWindow => conversation(&[&|_| tcp("S", 101, 0, &[])]),
        R::TcpWithoutAck => conversation(&[&|_| tcp("P", 101, 0, b"x")]),
        R::TcpOutOfWindow => conversation(&[&|ack| tcp("P.", 5_000_000, ack, b"x")]),
        R::TcpAckUnacceptable => conversation(&[&|ack| tcp("P.", 101, ack.wrapping_add(9), b"x")]),
        R::TcpRepeated => conversation(&[&|ack| tcp("P.", 105, ack, b"x"), &|ack| tcp("P.", 105, ack, b"x")]),
        R::TcpAfterClose => {
            conversation(&[&|ack| tcp("F.", 101, ack, &[]), &|ack| tcp("P.", 102, ack, b"x")])
        }
        R::TcpResetOutOfSequence => conversation(&[&|_| tcp("R", 105, 0, &[])]),
        other => not_here(other),
    }
}

/// UDP, echo and what ICMP says about them.
fn provoke_datagrams(reason: Gateway) -> Stage {
    use Gateway as R;
    let echo = |ident: u16| {
        let [high, low] = ident.to_be_bytes();
        frames::icmp(address(CONTAINER), address(SERVER), 64, 8, 0, &[high, low, 0, 1])
    };
    match reason {
        R::HostExhausted => {
            let mut stage = Stage::new(config());
            stage.host().fails_at_once = Some(HostError::Exhausted);
            stage.receive(&udp("198.51.100.7:9", b""));
            stage
        }
        R::HostRefused => {
            let mut stage = got(&[udp("198.51.100.7:9", b"")]);
            stage.host().sockets[0].refusals.push_back(HostError::NetworkUnreachable);
            stage.receive(&udp("198.51.100.8:9", b""));
            stage
        }
        R::OutboundAddressMissing => {
            let mut stage = Stage::new(config());
            stage.host().fails_at_once = Some(HostError::SourceMissing);
            stage.receive(&udp("198.51.100.7:9", b""));
            stage
        }
        R::IcmpMalformed => got(&[damaged(icmp(8, &[0, 1, 0, 1]), ETHERNET + IPV4 + 2)]),
        R::IcmpUnknown => got(&[icmp(13, &[0; 16])]),
        R::IcmpAboutUnknown => got(&[frames::icmp(address(CONTAINER), address(SERVER), 64, 3, 1, &[0; 32])]),
        R::UdpMalformed => got(&[frames::udp(end("10.0.2.100:0"), end("198.51.100.7:9"), 64, b"")]),
        R::UdpChecksumWrong => got(&[damaged(udp("198.51.100.7:9", b"x"), ETHERNET + IPV4 + 6)]),
        R::EchoNotPermitted => {
            let mut stage = Stage::new(config());
            stage.host().fails_at_once = Some(HostError::NotPermitted);
            stage.receive(&echo(1));
            stage
        }
        R::PathMtuExceeded => {
            let mut stage = got(&[udp("198.51.100.7:9", b"")]);
            stage.host().sockets[0].refuse_as_too_big(end("198.51.100.7:0"), 1400);
            stage.receive(&udp("198.51.100.7:9", b""));
            stage
        }
        R::ContainerNotFound => {
            let mut stage = Stage::new(config());
            stage.publish_udp(Family::V4, end("10.0.2.100:53"));
            stage.host().receives(0, end("203.0.113.9:5555"), b"x");
            stage.settle();
            stage.advance(Duration::from_secs(10));
            stage
        }
        R::NeighborQueueFull => {
            let (mut from, mut to) = (Stage::new(config()), Stage::new(linked_config()));
            from.route_to(&to);
            (0..9).for_each(|_| from.receive(&udp("10.0.3.77:9", b"")));
            to.settle();
            to
        }
        R::NeighborQuestionsExhausted => {
            let (mut from, mut to) = (Stage::new(config()), Stage::new(linked_config()));
            from.route_to(&to);
            for number in 0..300 {
                from.receive(&udp(&format!("[fd00:db9::77:{number}]:9"), b""));
                to.settle();
            }
            to
        }
        R::SenderUnreachable => answered("10.0.2.77:9", &[]),
        R::AnswerTooLarge => answered("198.51.100.7:9", &[0; 65_508]),
        other => not_here(other),
    }
}

/// Another container's frame: from the port to somebody the switch does not know.
fn across(ethertype: u16, source: EthernetAddress, payload: &[u8]) -> Vec<u8> {
    frames::ethernet(EthernetAddress([2, 0, 0, 0, 0, 0x99]), source, ethertype, payload)
}

/// A super-frame of TCP to a container whose port takes none.
fn super_frame(flags: u8, kind: u8, size: u16, mut frame: Vec<u8>) -> Stage {
    let mut stage = Stage::new(config());
    stage.add_port(Offloads::NONE);
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x99]);
    let mut bytes = vec![0; VNET_HEADER_LEN];
    (bytes[0], bytes[1]) = (flags, kind);
    bytes[4..6].copy_from_slice(&size.to_ne_bytes());
    bytes[6..8].copy_from_slice(&34u16.to_ne_bytes());
    bytes[8..10].copy_from_slice(&16u16.to_ne_bytes());
    bytes.extend(frame);
    stage.receive_raw(0, bytes);
    stage.settle();
    stage
}

/// A stage whose port has a policy, beside a second port, and that got these frames.
fn policed(policy: Policy, frames: &[Vec<u8>]) -> Stage {
    let mut stage = Stage::new(config());
    stage.add_port(Offloads::ALL);
    let port = stage.port;
    assert!(stage.workers[0].switch.set_policy(port, Some(Arc::new(policy))));
    frames.iter().for_each(|frame| stage.receive(frame));
    stage
}

/// The second of two frames to `destination` is one too many.
fn storm(destination: EthernetAddress) -> Stage {
    let one = Some(Rate::per_sec(1));
    let rates = StormRates { broadcast: one, multicast: one, unknown_unicast: one };
    let storm = Arc::new(StormControl::new(rates));
    let frame = frames::ethernet(destination, CONTAINER_MAC, 0x88b5, &[0; 46]);
    policed(Policy { storm, guard: Guard::OFF, ..Policy::default() }, &[frame.clone(), frame])
}

/// How the switch comes to drop a frame because of what its owner lets the port do.
fn provoke_policy(reason: Switch) -> Stage {
    use Switch as R;
    let guarded = |frame| policed(Policy::default(), &[frame]);
    match reason {
        R::VlanUnknown => got(&[across(0x8100, CONTAINER_MAC, &[0, 5, 8, 0])]),
        R::VlanTagNested => got(&[across(0x8100, CONTAINER_MAC, &[0, 5, 0x81, 0, 0, 6, 8, 0])]),
        R::PortIsolated => {
            let isolated = Policy { isolation: Isolation::Isolated, guard: Guard::OFF, ..Policy::default() };
            let mut stage = policed(isolated.clone(), &[]);
            let other = stage.add_port(Offloads::ALL);
            let switch = &mut stage.workers[0].switch;
            switch.set_policy(other, Some(Arc::new(isolated)));
            switch.fdb().learn(Vlan::UNTAGGED, EthernetAddress([2, 0, 0, 0, 0, 0x99]), other, stage.now);
            stage.receive(&across(0x88b5, CONTAINER_MAC, &[0; 46]));
            stage
        }
        R::BroadcastStorm => storm(EthernetAddress::BROADCAST),
        R::MulticastStorm => storm(EthernetAddress([0x01, 0, 0x5e, 0, 0, 0xfb])),
        R::UnknownUnicastStorm => storm(EthernetAddress([2, 0, 0, 0, 0, 0x99])),
        R::GroupUnheard => {
            // The one host beside it on the VLAN has not asked for it.
            let membership = Membership::Access(Vlan::new(5).unwrap());
            let macs = Macs::Only(EthernetAddress([2, 0, 0, 0, 0, 0x65]));
            let host = Guard { macs, ..Guard::default() };
            let mut stage = policed(
                Policy { membership: membership.clone(), guard: Guard::OFF, ..Policy::default() },
                &[],
            );
            let policy = Policy { membership, guard: host, ..Policy::default() };
            let other = stage.add_port(Offloads::ALL);
            stage.workers[0].switch.set_policy(other, Some(Arc::new(policy)));
            let group = address("239.1.2.3");
            let mut frame = frames::ip(address(CONTAINER), group, IpProtocol::from(47), 1, b"stream");
            frame[..6].copy_from_slice(&[0x01, 0, 0x5e, 1, 2, 3]);
            stage.receive(&frame);
            stage
        }
        R::SourceMacForged => {
            let macs = Macs::Only(EthernetAddress([2, 0, 0, 0, 0, 0x65]));
            let policy = Policy { guard: Guard { macs, ..Guard::default() }, ..Policy::default() };
            policed(policy, &[across(0x88b5, CONTAINER_MAC, &[0; 46])])
        }
        R::Ipv4SourceForged => guarded(udp("198.51.100.7:9", b"")),
        R::Ipv6SourceForged => guarded(udp("[2001:db8::7]:9", b"")),
        R::ArpForged => guarded(frames::arp(2, CONTAINER_MAC, [10, 0, 2, 2], [10, 0, 2, 2])),
        R::NdpForged => guarded(ndp("fe80::ff:fe00:64", 255, 136, &about(0x40, "fd00:db8::2"))),
        R::NdpFragmented => {
            // A fragment header in front of the message, with nothing to follow.
            let mut frame = ndp("fe80::ff:fe00:64", 255, 135, &about(0, "fd00:db8::2"));
            frame[ETHERNET + 5] += 8;
            frame[ETHERNET + 6] = 44;
            frame.splice(ETHERNET + 40..ETHERNET + 40, [58, 0, 0, 0, 0, 0, 0, 1]);
            guarded(frame)
        }
        R::DhcpServerForbidden => {
            guarded(frames::udp(end("[fe80::ff:fe00:64]:547"), end("[ff02::1]:546"), 64, b""))
        }
        R::RouterForbidden => guarded(ndp("fe80::ff:fe00:64", 255, 134, &[0; 12])),
        R::HeadersUnreadable => guarded(damaged(udp("198.51.100.7:9", b""), ETHERNET)),
        other => panic!("nobody provokes {other:?}"),
    }
}

/// How the switch comes to drop a frame for `reason`.
fn provoke_switch(reason: Switch) -> Stage {
    use Switch as R;
    let raw = |bytes: Vec<u8>| {
        let mut stage = Stage::new(config());
        stage.receive_raw(0, bytes);
        stage.settle();
        stage
    };
    match reason {
        R::FrameTruncated => raw(vec![0; VNET_HEADER_LEN + 5]),
        R::FrameTooLong => raw(vec![0; 100_000]),
        R::VnetHeaderInvalid => raw([&[0, 99][..], &[0; 8 + 60]].concat()),
        R::SourceMacGroup => got(&[across(0x0800, EthernetAddress([3, 0, 0, 0, 0, 1]), &[0; 46])]),
        R::ReservedGroupAddress => {
            let bridges = EthernetAddress([0x01, 0x80, 0xc2, 0, 0, 0]);
            got(&[frames::ethernet(bridges, CONTAINER_MAC, 0x88cc, &[0; 46])])
        }
        R::SamePort => got(&[frames::ethernet(CONTAINER_MAC, CONTAINER_MAC, 0x0800, &[0; 46])]),
        R::NobodyElse => got(&[across(0x0800, CONTAINER_MAC, &[0; 46])]),
        R::SourceIsGateway => got(&[across(0x0800, GATEWAY_MAC, &[0; 46])]),
        R::VlanUnknown
        | R::VlanTagNested
        | R::PortIsolated
        | R::BroadcastStorm
        | R::MulticastStorm
        | R::UnknownUnicastStorm
        | R::GroupUnheard
        | R::SourceMacForged
        | R::Ipv4SourceForged
        | R::Ipv6SourceForged
        | R::ArpForged
        | R::NdpForged
        | R::NdpFragmented
        | R::DhcpServerForbidden
        | R::RouterForbidden
        | R::HeadersUnreadable => provoke_policy(reason),
        R::EgressFull => {
            let mut stage = Stage::new(config());
            stage.wire().limit = 0;
            stage.receive(&frames::arp(1, CONTAINER_MAC, [10, 0, 2, 100], [10, 0, 2, 2]));
            stage
        }
        R::InboxFull => {
            let mut stage = Stage::with(config(), 2, Offloads::ALL);
            let now = stage.now;
            // One worker sleeps while another hands over what is its.
            for number in 1..3000u16 {
                let src = SocketAddr::new(address(CONTAINER), number);
                let frame = frames::udp(src, end("198.51.100.7:9"), 64, b"");
                stage.receive_raw(0, [&[0; VNET_HEADER_LEN], &frame[..]].concat());
                let _ = stage.workers[0].turn(now, &[]);
                stage.check_books();
            }
            stage
        }
        R::LinkFull => {
            let mut stage = Stage::new(config());
            // Nobody takes its turns.
            stage.route_to(&Stage::new(linked_config()));
            (0..513).for_each(|_| stage.receive(&udp("10.0.3.77:9", b"")));
            stage
        }
        R::PortClosed => {
            let mut stage = Stage::new(config());
            stage.wire().refuses = true;
            stage.receive(&frames::arp(1, CONTAINER_MAC, [10, 0, 2, 100], [10, 0, 2, 2]));
            stage
        }
        R::SuperFrameMalformed => super_frame(1, 1, 1000, udp("198.51.100.7:9", &[0; 3000])),
        R::SuperFrameChecksumWrong => {
            super_frame(0, 1, 1000, damaged(tcp(".", 1, 1, &[0; 3000]), ETHERNET + IPV4 + 16))
        }
        R::SuperFrameTooFine => super_frame(1, 1, 1, tcp(".", 1, 1, &[0; 9000])),
    }
}

#[test]
fn every_reason_of_the_gateway_is_provoked_by_a_frame() {
    for &reason in Gateway::ALL {
        let stage = provoke_gateway(reason);
        let drops = stage.workers[0].gateway.drops();
        assert!(drops.get(reason) > 0, "{reason:?} was not counted: {:?}", counted(drops.iter()));
    }
}

#[test]
fn every_reason_of_the_switch_is_provoked_by_a_frame() {
    for &reason in Switch::ALL {
        let stage = provoke_switch(reason);
        let drops = &stage.workers[0].switch.drops;
        assert!(drops.get(reason) > 0, "{reason:?} was not counted: {:?}", counted(drops.iter()));
    }
}

fn counted<R: Reason>(counts: impl Iterator<Item = (R, u64)>) -> Vec<(R, u64)> {
    counts.filter(|(_, count)| *count > 0).collect()
}
