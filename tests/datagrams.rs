// SPDX-License-Identifier: MIT OR Apache-2.0
//! The datagram relays through the worker's own loop: what may be fragmented, who gives way in a full table, and answers
//! of every size.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "a test may fail")]

#[path = "stage/mod.rs"]
mod stage;

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{IpProtocol, Ipv4Packet};
use stage::frames::{self, ETHERNET, IPV4, IPV6};
use stage::{Stage, config};
use wharf_stack::DropReason;
use wharf_stack::host::{Family, HostError, IcmpReport};
use wharf_switch::offload::VNET_HEADER_LEN;
use wharf_switch::{Duration, Offloads};

const SERVER: &str = "198.51.100.7:9";
const SERVER6: &str = "[2001:db8::7]:9";
/// SERVER behind NAT64.
const TRANSLATED: &str = "[64:ff9b:1::c633:6407]:9";

fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn container(dst: SocketAddr, port: u16) -> SocketAddr {
    let address: IpAddr =
        if dst.is_ipv4() { [10, 0, 2, 100].into() } else { "fd00:db8::64".parse().unwrap() };
    SocketAddr::new(address, port)
}

fn udp(dst: &str, payload: &[u8]) -> Vec<u8> {
    frames::udp(container(end(dst), 5000), end(dst), 64, payload)
}

fn echo_request(dst: &str, ident: u16, data: &[u8]) -> Vec<u8> {
    let dst = end(dst);
    let kind = if dst.is_ipv4() { 8 } else { 128 };
    let body = [&ident.to_be_bytes()[..], &[0, 1], data].concat();
    frames::icmp(container(dst, 0).ip(), dst.ip(), 64, kind, 0, &body)
}

/// An echo message as the host's socket has it.
fn echo_reply(kind: u8, len: usize) -> Vec<u8> {
    let mut message = vec![7; len];
    message[..8].copy_from_slice(&[kind, 0, 0, 0, 0xaa, 0xaa, 0, 1]);
    message
}

fn with_df(mut frame: Vec<u8>) -> Vec<u8> {
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]);
    packet.set_dont_frag(true);
    packet.fill_checksum();
    frame
}

/// A packet in two pieces, as a sender with a small link makes them.
fn in_two(frame: &[u8]) -> [Vec<u8>; 2] {
    let is_ipv4 = frame[ETHERNET] >> 4 == 4;
    let payload = &frame[ETHERNET + if is_ipv4 { IPV4 } else { IPV6 }..];
    let (src, dst) = if is_ipv4 {
        (container(end(SERVER), 0), end(SERVER))
    } else {
        (container(end(SERVER6), 0), end(SERVER6))
    };
    [(0, &payload[..800], true), (800, &payload[800..], false)].map(|(offset, piece, more)| {
        if is_ipv4 {
            return frames::fragment(src.ip(), dst.ip(), 7, offset, more, piece);
        }
        let [high, low] = (offset | u16::from(more)).to_be_bytes();
        let bytes = [&[u8::from(IpProtocol::Udp), 0, high, low, 0, 0, 0, 7], piece].concat();
        frames::ip(src.ip(), dst.ip(), IpProtocol::Ipv6Frag, 64, &bytes)
    })
}

/// A stage whose first advertisement is out of the way.
fn stage() -> Stage {
    stage_with(Offloads::ALL)
}

fn stage_with(offloads: Offloads) -> Stage {
    let mut stage = Stage::with(config(), 1, offloads);
    stage.settle();
    while stage.sent().is_some() {}
    stage
}

fn call_after(frames: &[Vec<u8>]) -> String {
    let mut stage = stage();
    frames.iter().for_each(|frame| stage.receive(frame));
    assert_eq!(stage.host().calls.len(), 1);
    stage.host().calls.pop_front().unwrap()
}

/// Everything that was sent, whole: protocol and payload. Pieces come in order.
fn delivered(stage: &mut Stage) -> Option<(IpProtocol, Vec<u8>)> {
    let mut whole = Vec::new();
    loop {
        let frame = stage.sent()?;
        assert!(frame.len() <= ETHERNET + config().mtu_bytes);
        let ip = &frame[ETHERNET..];
        let (protocol, offset, more, payload) = if ip[0] >> 4 == 4 {
            let packet = Ipv4Packet::new_checked(ip).unwrap();
            assert!(packet.verify_checksum());
            (packet.next_header(), packet.frag_offset().into(), packet.more_frags(), &ip[IPV4..])
        } else if ip[6] == u8::from(IpProtocol::Ipv6Frag) {
            let field = u16::from_be_bytes([ip[IPV6 + 2], ip[IPV6 + 3]]);
            (ip[IPV6].into(), usize::from(field & !7), field & 1 == 1, &ip[IPV6 + 8..])
        } else {
            (ip[6].into(), 0, false, &ip[IPV6..])
        };
        assert_eq!(offset, whole.len());
        whole.extend_from_slice(payload);
        if !more {
            return Some((protocol, whole));
        }
    }
}

/// The ICMP message that is sent next.
fn error(stage: &mut Stage) -> Vec<u8> {
    let (protocol, message) = delivered(stage).unwrap();
    assert!(matches!(protocol, IpProtocol::Icmp | IpProtocol::Icmpv6));
    message
}

#[test]
fn what_may_not_be_fragmented_leaves_the_host_so() {
    let large = [1; 1252];
    let usual = [1; 1473];
    for (frames, call) in [
        (vec![udp(SERVER, b"x")], "send-to 198.51.100.7:9 ttl 63 1"),
        (vec![with_df(udp(SERVER, b"x"))], "send-to 198.51.100.7:9 ttl 63 df 1"),
        (in_two(&udp(SERVER, &large)).to_vec(), "send-to 198.51.100.7:9 ttl 63 1252"),
        (vec![udp(SERVER6, b"x")], "send-to [2001:db8::7]:9 ttl 63 df 1"),
        (in_two(&udp(SERVER6, &large)).to_vec(), "send-to [2001:db8::7]:9 ttl 63 1252"),
        // RFC 7915 section 5.1: 1,260 bytes may be cut, 1,261 may not.
        (vec![udp(TRANSLATED, &large[..1232])], "send-to 198.51.100.7:9 ttl 63 1232"),
        (vec![udp(TRANSLATED, &large[..1233])], "send-to 198.51.100.7:9 ttl 63 df 1233"),
        // What would not fit the usual link would have come in fragments.
        (vec![with_df(udp(SERVER, &usual[..1472]))], "send-to 198.51.100.7:9 ttl 63 df 1472"),
        (vec![with_df(udp(SERVER, &usual))], "send-to 198.51.100.7:9 ttl 63 1473"),
        (vec![udp(SERVER6, &usual[..1453])], "send-to [2001:db8::7]:9 ttl 63 1453"),
        (vec![echo_request(SERVER, 1, &[])], "send-to 198.51.100.7:0 ttl 63 8"),
        (vec![with_df(echo_request(SERVER, 1, &[]))], "send-to 198.51.100.7:0 ttl 63 df 8"),
        (vec![echo_request(SERVER6, 1, &[])], "send-to [2001:db8::7]:0 ttl 63 df 8"),
    ] {
        assert_eq!(call_after(&frames), call);
    }
}

/// RFC 1191 section 4, RFC 4443 section 3.2, RFC 7915 section 4.2.
#[test]
fn a_datagram_too_large_for_its_path_is_answered_with_the_mtu() {
    for (dst, host_mtu, kind, code, mtu) in [
        (SERVER, 1400, 3, 4, 1400),
        (SERVER6, 1400, 2, 0, 1400),
        (TRANSLATED, 1400, 2, 0, 1420),
        (TRANSLATED, 576, 2, 0, 1280),
    ] {
        for (frame, socket_end) in [(udp(dst, &[1; 1440]), 9), (echo_request(dst, 1, &[1; 1440]), 0)] {
            let mut stage = stage();
            stage.receive(&frame);
            let outside = if dst == SERVER6 { end(SERVER6) } else { end(SERVER) };
            let to = SocketAddr::new(outside.ip(), socket_end);
            stage.host().sockets[0].refuse_as_too_big(to, host_mtu);
            stage.receive(&frame);
            let message = error(&mut stage);
            assert_eq!((message[0], message[1]), (kind, code), "{dst}");
            assert_eq!(u32::from_be_bytes(message[4..8].try_into().unwrap()), mtu, "{dst}");
            assert_eq!(message[8..], frame[ETHERNET..][..message.len() - 8], "the packet itself is quoted");
            assert_eq!(stage.workers[0].gateway.drops().get(DropReason::PathMtuExceeded), 1);
            stage.receive(&frame);
            assert_eq!(stage.host().calls.len(), 3, "the socket goes on");
            assert!(delivered(&mut stage).is_none());
        }
    }
}

#[test]
fn what_a_router_found_too_large_earlier_does_not_cost_the_datagram_at_hand() {
    let mut stage = stage();
    stage.receive(&with_df(udp(SERVER, &[1; 1440])));
    let socket = &mut stage.host().sockets[0];
    socket.refuse_as_too_big(end(SERVER), 1300);
    socket.reports[0].offender = Some([203, 0, 113, 9].into());
    stage.receive(&with_df(udp("198.51.100.8:9", &[2; 1440])));
    let message = error(&mut stage);
    assert_eq!(message[..8], [3, 4, message[2], message[3], 0, 0, 5, 0x14]);
    assert_eq!(message[8 + IPV4 + 2..][..2], [0, 9], "the port of the earlier one");
    let calls: Vec<String> = stage.host().calls.drain(..).skip(1).collect();
    assert_eq!(calls, ["send-to 198.51.100.8:9 ttl 63 df 1440"; 2]);
}

#[test]
fn a_socket_that_cannot_be_had_is_told() {
    for (frame, failure, reason) in [
        (udp(SERVER, b"x"), HostError::Exhausted, DropReason::HostExhausted),
        (echo_request(SERVER, 1, &[]), HostError::Exhausted, DropReason::HostExhausted),
        (echo_request(SERVER, 1, &[]), HostError::NotPermitted, DropReason::EchoNotPermitted),
    ] {
        let mut stage = stage();
        stage.host().fails_at_once = Some(failure);
        stage.receive(&frame);
        assert_eq!(error(&mut stage)[..2], [3, 13]);
        assert_eq!(stage.workers[0].gateway.drops().get(reason), 1);
    }
}

#[test]
fn a_mapping_in_use_survives_a_scan_of_a_hundred_thousand_ports() {
    const SCANNED: u64 = 100_000;
    const PLACES: u64 = 1 << 14;
    let mut stage = stage();
    stage.receive(&udp(SERVER, b"in use"));
    for number in 0..SCANNED {
        let (address, port) = ([10, 0, 2, 101 + (number >> 15) as u8], 1 + (number & 0x7fff) as u16);
        stage.receive(&frames::udp((address, port).into(), end(SERVER), 64, b"scan"));
        if number % 10_000 == 0 {
            stage.receive(&udp(SERVER, b"in use"));
            stage.host().calls.clear();
        }
    }
    assert!(!stage.host().sockets[0].closed);
    assert_eq!(stage.host().open_sockets() as u64, PLACES);
    let load = stage.workers[0].gateway.load();
    assert_eq!((load.udp_mappings as u64, load.evicted_mappings), (PLACES, SCANNED + 1 - PLACES));
}

#[test]
fn the_echo_that_was_idle_for_longest_gives_way() {
    let mut stage = stage();
    for ident in 0..1024 {
        stage.receive(&echo_request(SERVER, ident, &[]));
    }
    stage.receive(&echo_request(SERVER, 0, &[]));
    // A reply is use, too.
    stage.host().receives(1, end("198.51.100.7:0"), &echo_reply(0, 8));
    stage.settle();
    stage.receive(&echo_request(SERVER, 5000, &[]));
    let closed: Vec<usize> = (0..1024).filter(|&at| stage.host().sockets[at].closed).collect();
    assert_eq!(closed, [2]);
}

/// RFC 4787 REQ-5 and REQ-6, RFC 5508 REQ-2.
#[test]
fn idle_mappings_end_each_in_its_time() {
    let mut stage = stage();
    stage.receive(&udp(SERVER, b"x"));
    stage.receive(&frames::udp(container(end(SERVER), 6000), end("198.51.100.7:53"), 64, b"x"));
    stage.receive(&echo_request(SERVER, 1, &[]));
    let open =
        |stage: &mut Stage| stage.host().sockets.iter().map(|socket| !socket.closed).collect::<Vec<_>>();
    for (seconds, expected) in [
        (29, [true, true, true]),
        (1, [true, false, true]),
        (29, [true, false, true]),
        (1, [true, false, false]),
        (239, [true, false, false]),
    ] {
        stage.advance(Duration::from_secs(seconds));
        assert_eq!(open(&mut stage), expected);
    }
    stage.host().receives(0, end(SERVER), b"answer");
    stage.settle();
    stage.advance(Duration::from_secs(299));
    assert!(open(&mut stage)[0]);
    stage.advance(Duration::from_secs(1));
    assert!(!open(&mut stage)[0]);
    assert_eq!(stage.workers[0].gateway.load().udp_mappings, 0);
}

#[test]
fn answers_of_every_size_come_whole_or_are_dropped_with_a_reason() {
    // The largest payload behind the IP header counts 65,515 bytes in IPv4 and 65,535 in IPv6.
    for (dst, largest) in [(SERVER, 65_515), (SERVER6, 65_535), (TRANSLATED, 65_535)] {
        let from = if dst == SERVER6 { end(SERVER6) } else { end(SERVER) };
        let mut stage = stage();
        stage.receive(&udp(dst, b"x"));
        stage.receive(&echo_request(dst, 0x1234, &[]));
        for len in [8, 9, 1460, 1480, 1481, 40_000, largest - 1, largest, largest + 1] {
            let fits = len <= largest;
            stage.host().receives(0, from, &vec![7; len - 8]);
            stage.host().receives(
                1,
                SocketAddr::new(from.ip(), 0),
                &echo_reply(if from.is_ipv4() { 0 } else { 129 }, len),
            );
            stage.settle();
            let dropped = stage.workers[0].gateway.drops().get(DropReason::AnswerTooLarge);
            assert_eq!(dropped, if fits { 0 } else { 2 }, "{dst} {len}");
            if !fits {
                assert!(delivered(&mut stage).is_none());
                continue;
            }
            let (protocol, datagram) = delivered(&mut stage).unwrap();
            assert_eq!((protocol, datagram.len()), (IpProtocol::Udp, len), "{dst}");
            assert!(datagram[8..].iter().all(|&byte| byte == 7));
            let (_, reply) = delivered(&mut stage).unwrap();
            assert_eq!(reply[0], if dst == SERVER { 0 } else { 129 });
            assert_eq!((&reply[4..8], reply.len()), (&[0x12, 0x34, 0, 1][..], len), "{dst}");
        }
    }
}

#[test]
fn what_is_no_echo_reply_is_dropped() {
    let mut stage = stage();
    stage.receive(&echo_request(SERVER, 1, &[]));
    for message in [&[][..], &[0; 7], &[8, 0, 0, 0, 0, 0, 0, 1], &[129, 0, 0, 0, 0, 0, 0, 1]] {
        stage.host().receives(0, end("198.51.100.7:0"), message);
    }
    stage.settle();
    assert!(delivered(&mut stage).is_none());
    assert_eq!(stage.workers[0].gateway.drops().get(DropReason::IcmpUnknown), 4);
}

#[test]
fn a_visit_delivers_a_bounded_amount_and_comes_again() {
    const WAITING: usize = 1000;
    for (frame, from, bytes) in [
        (udp(SERVER, b"x"), SERVER, vec![7; 8]),
        (echo_request(SERVER, 1, &[]), "198.51.100.7:0", echo_reply(0, 8)),
    ] {
        let mut stage = stage_with(Offloads { uso: false, ..Offloads::ALL });
        stage.receive(&frame);
        (0..WAITING).for_each(|_| stage.host().receives(0, end(from), &bytes));
        let (now, events) = (stage.now, stage.host().take_events());
        let outlook = stage.workers[0].turn(now, &events);
        assert!(outlook.more);
        let first = stage.wire().outbound.len();
        assert!((1..=64).contains(&first), "{first} in one visit");
        stage.settle();
        assert_eq!(stage.wire().outbound.len(), WAITING);
    }
}

#[test]
fn datagrams_that_are_alike_come_in_one_super_frame() {
    let mut stage = stage();
    stage.receive(&udp(SERVER, b"x"));
    // The last of each run may be shorter; what is larger than the link takes, or empty, or another's, comes by itself.
    let other = end("198.51.100.7:99");
    let waiting = [(1000, SERVER), (1000, SERVER), (1000, SERVER), (10, SERVER), (10, SERVER), (0, SERVER)];
    for (mark, (len, from)) in (0..).zip(waiting) {
        stage.host().receives(0, end(from), &vec![mark; len]);
    }
    stage.host().receives(0, other, &[6; 10]);
    stage.host().receives(0, other, &[7; 10]);
    stage.settle();
    let mut seen = Vec::new();
    while let Some(bytes) = stage.wire().outbound.pop_front() {
        let (header, frame) = bytes.split_at(VNET_HEADER_LEN);
        let segment = u16::from_ne_bytes([header[4], header[5]]);
        seen.push((header[1], segment, frame.len() - 42));
    }
    // VIRTIO_NET_HDR_GSO_UDP_L4 is 5.
    assert_eq!(seen, [(5, 1000, 3010), (0, 0, 10), (0, 0, 0), (5, 10, 20)]);
}

#[test]
fn an_error_about_an_echo_names_its_identifier_and_number() {
    let mut stage = stage();
    stage.receive(&echo_request(TRANSLATED, 0x1234, &[]));
    let (destination, offender) = (end("198.51.100.7:0"), Some([203, 0, 113, 9].into()));
    let payload = [8, 0, 0, 0, 0xaa, 0xaa, 0, 9];
    let report =
        IcmpReport { destination, offender, family: Family::V4, kind: 3, code: 4, mtu: 1400, payload };
    stage.host().sockets[0].reports.push_back(report);
    stage.host().announce(0, false, false, true);
    stage.settle();
    let message = error(&mut stage);
    assert_eq!((message[0], &message[4..8]), (2, &[0, 0, 5, 0x8c][..]));
    assert_eq!(message[8 + IPV6..], [128, 0, 0, 0, 0x12, 0x34, 0, 9]);
}

/// The pieces of a UDP datagram to [`SERVER`] on a link of 576 bytes.
fn in_pieces(src: [u8; 4], ident: u16, payload: &[u8]) -> Vec<Vec<u8>> {
    let whole = frames::udp(SocketAddr::new(src.into(), 5000), end(SERVER), 64, payload);
    let body = &whole[ETHERNET + IPV4..];
    let pieces = body.chunks(552).zip((0..).step_by(552));
    let last = body.len() - 1;
    pieces
        .map(|(piece, at)| {
            let more = usize::from(at) + piece.len() <= last;
            frames::fragment(src.into(), end(SERVER).ip(), ident, at, more, piece)
        })
        .collect()
}

#[test]
fn the_largest_datagram_comes_in_the_smallest_pieces() {
    let pieces = in_pieces([10, 0, 2, 100], 7, &[1; 65_507]);
    assert_eq!(pieces.len(), 119);
    assert_eq!(call_after(&pieces), "send-to 198.51.100.7:9 ttl 63 65507");
}

#[test]
fn foreign_names_take_no_place_in_reassembly() {
    let mut stage = stage();
    for number in 0..200 {
        stage.receive(&in_pieces([192, 0, 2, number], 7, &[1; 1000])[0]);
    }
    assert_eq!(stage.workers[0].gateway.drops().get(DropReason::SourceAddressInvalid), 200);
    in_pieces([10, 0, 2, 100], 7, &[1; 1000]).iter().for_each(|piece| stage.receive(piece));
    assert_eq!(stage.host().calls.pop_front().unwrap(), "send-to 198.51.100.7:9 ttl 63 1000");
}

#[test]
fn out_of_descriptors_the_oldest_mapping_gives_way() {
    let mut stage = stage();
    for port in [1, 2] {
        stage.receive(&frames::udp(container(end(SERVER), port), end(SERVER), 64, b"x"));
    }
    stage.host().fails_at_once = Some(HostError::Exhausted);
    stage.receive(&frames::udp(container(end(SERVER), 3), end(SERVER), 64, b"x"));
    let closed: Vec<bool> = stage.host().sockets.iter().map(|socket| socket.closed).collect();
    assert_eq!(closed, [true, false, false]);
    let load = stage.workers[0].gateway.load();
    assert_eq!((load.udp_mappings, load.evicted_mappings), (2, 1));
    assert_eq!(stage.workers[0].gateway.drops().total(), 0);
}

#[test]
fn mappings_leave_most_of_the_hosts_sockets_to_others() {
    let mut stage = Stage::new(wharf_stack::Config { max_sockets: 64, ..config() });
    for port in 1..=100 {
        stage.receive(&frames::udp(container(end(SERVER), port), end(SERVER), 64, b"x"));
        stage.receive(&echo_request(SERVER, port, &[]));
    }
    assert_eq!(stage.host().open_sockets(), 64 / 8 + 64 / 64);
}

#[test]
fn one_containers_flood_leaves_the_others_their_icmp_errors() {
    // RFC 1812 section 4.3.2.8: the rate of ICMP errors is limited.
    let mut stage = stage();
    let expiring = |mac: u8| {
        let mut frame = frames::udp(container(end(SERVER), 5000), end(SERVER), 1, b"probe");
        frame[11] = mac;
        frame
    };
    let answered = |stage: &mut Stage, mac: u8, probes: usize| {
        (0..probes).for_each(|_| stage.receive(&expiring(mac)));
        std::iter::from_fn(|| stage.sent()).filter(|frame| frame[5] == mac).count()
    };
    let flood = answered(&mut stage, 0x64, 5000);
    assert!((50..500).contains(&flood), "{flood}");
    assert_eq!(answered(&mut stage, 0x65, 50), 50);
}

/// Who waits for an acknowledgment at the end of a turn does not wait for more than half a megabyte of others' frames.
#[test]
fn a_turn_takes_so_many_bytes_for_the_gateway_from_a_port() {
    let turn = |payload: usize| {
        let mut stage = Stage::new(config());
        stage.settle();
        for _ in 0..20 {
            stage.receive_raw(0, [&[0; VNET_HEADER_LEN], &udp(SERVER, &vec![0; payload])[..]].concat());
        }
        let now = stage.now;
        let outlook = stage.workers[0].turn(now, &[]);
        stage.check_books();
        (20 - stage.wire().inbound.len(), outlook.more)
    };
    assert_eq!(turn(60_000), (9, true));
    assert_eq!(turn(1000), (20, false));
}
