// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two linked networks on stages: what becomes of a packet that one routes to the other.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "a test may fail")]

#[path = "stage/mod.rs"]
mod stage;

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{EthernetAddress, IpProtocol, Ipv4Packet, Ipv6Packet};
use stage::frames::{self, ETHERNET, IPV4, IPV6, Tcp};
use stage::{CONTAINER_MAC, GATEWAY_MAC, Stage, config, linked_config};
use wharf_switch::offload::VNET_HEADER_LEN;
use wharf_switch::{Duration, Offloads};

const HERE: &str = "10.0.2.100";
const THERE: [u8; 4] = [10, 0, 3, 100];
const HERE_V6: &str = "fd00:db8::64";
const THERE_V6: &str = "fd00:db9::64";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Two networks, and a container that is known in each.
struct Pair {
    here: Stage,
    there: Stage,
}

impl Pair {
    /// Linked, and nobody has said where they are.
    fn strangers() -> Self {
        Self::of(Stage::new(config()), Stage::new(linked_config()))
    }

    fn of(mut here: Stage, mut there: Stage) -> Self {
        here.route_to(&there);
        there.route_to(&here);
        Self { here, there }
    }

    fn new() -> Self {
        let mut pair = Self::strangers();
        pair.say_who_is_where();
        pair
    }

    /// Both containers tell the gateway of their network.
    fn say_who_is_where(&mut self) {
        self.say_where_they_are();
        self.forget_frames();
    }

    fn say_where_they_are(&mut self) {
        self.here.receive(&frames::arp(1, CONTAINER_MAC, [10, 0, 2, 100], [10, 0, 2, 2]));
        self.there.receive(&frames::arp(1, CONTAINER_MAC, THERE, [10, 0, 3, 2]));
        for (stage, container, gateway) in
            [(&mut self.here, HERE_V6, "fd00:db8::2"), (&mut self.there, THERE_V6, "fd00:db9::2")]
        {
            let IpAddr::V6(target) = ip(gateway) else { unreachable!() };
            let body = [&[0; 4][..], &target.octets(), &[1, 1], &CONTAINER_MAC.0].concat();
            stage.receive(&frames::icmp(ip(container), ip(gateway), 255, 135, 0, &body));
        }
        self.settle();
    }

    /// Forgets what containers were sent so far.
    fn forget_frames(&mut self) {
        for stage in [&mut self.here, &mut self.there] {
            while stage.sent().is_some() {}
        }
    }

    fn settle(&mut self) {
        for _ in 0..3 {
            self.there.settle();
            self.here.settle();
        }
    }

    /// The container here sends a frame.
    fn send(&mut self, frame: &[u8]) {
        self.here.receive(frame);
        self.settle();
    }

    /// The only packet that the container there gets, without Ethernet header.
    fn arrives(&mut self) -> Vec<u8> {
        let frame = self.there.sent().unwrap();
        assert_eq!(frame[..12], [CONTAINER_MAC.0, GATEWAY_MAC.0].concat());
        assert_eq!(self.there.sent(), None);
        frame[ETHERNET..].to_vec()
    }

    /// The only ICMP error that the container here gets: its sender, type, code and the four bytes behind the checksum.
    fn is_told(&mut self) -> (IpAddr, u8, u8, u32) {
        let packet = self.here.sent().unwrap()[ETHERNET..].to_vec();
        assert_eq!(self.here.sent(), None);
        let (sender, at) = match packet[0] >> 4 {
            4 => (Ipv4Packet::new_checked(&packet[..]).unwrap().src_addr().into(), IPV4),
            _ => (Ipv6Packet::new_checked(&packet[..]).unwrap().src_addr().into(), IPV6),
        };
        let rest = u32::from_be_bytes(packet[at + 4..at + 8].try_into().unwrap());
        (sender, packet[at], packet[at + 1], rest)
    }
}

fn udp(to: &str, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let from = if end(to).is_ipv4() { HERE } else { HERE_V6 };
    frames::udp(SocketAddr::new(ip(from), 5000), end(to), hop_limit, payload)
}

/// The frame with DF set.
fn unfragmentable(mut frame: Vec<u8>) -> Vec<u8> {
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]);
    packet.set_dont_frag(true);
    packet.fill_checksum();
    frame
}

/// RFC 1812 section 5.3.1: "the router MUST decrement the TTL by at least one"; RFC 8200 section 3 has the same.
#[test]
fn a_packet_goes_on_as_it_is_but_for_its_hop_limit() {
    let mut pair = Pair::new();
    pair.send(&udp("10.0.3.100:9", 64, b"hello"));
    assert_eq!(pair.arrives(), udp("10.0.3.100:9", 63, b"hello")[ETHERNET..]);
    pair.send(&udp("[fd00:db9::64]:9", 2, b"hello"));
    assert_eq!(pair.arrives(), udp("[fd00:db9::64]:9", 1, b"hello")[ETHERNET..]);
    assert!(pair.here.host().calls.is_empty() && pair.there.host().calls.is_empty(), "the host is not asked");
    let [here, there] = [&pair.here, &pair.there].map(|stage| stage.workers[0].switch.tally);
    assert_eq!((here.routed_out, there.routed_in, here.routed_in, there.routed_out), (2, 2, 0, 0));
}

#[test]
fn every_protocol_and_every_fragment_is_routed() {
    let mut pair = Pair::new();
    let gre = |hop_limit| frames::ip(ip(HERE), ip("10.0.3.100"), IpProtocol::Unknown(47), hop_limit, b"gre");
    pair.send(&gre(64));
    assert_eq!(pair.arrives(), gre(63)[ETHERNET..]);
    // A later fragment, of which the first never comes.
    pair.send(&frames::fragment(ip(HERE), ip("10.0.3.100"), 7, 1000, false, &[1; 100]));
    let packet = pair.arrives();
    let header = Ipv4Packet::new_checked(&packet[..]).unwrap();
    assert!(header.verify_checksum());
    assert_eq!((header.ident(), header.frag_offset(), header.more_frags()), (7, 1000, false));
}

#[test]
fn the_last_hop_is_counted_by_the_senders_own_gateway() {
    let mut pair = Pair::new();
    pair.send(&udp("10.0.3.100:9", 1, b""));
    assert_eq!(pair.is_told(), (ip("10.0.2.2"), 11, 0, 0));
    pair.send(&udp("[fd00:db9::64]:9", 1, b""));
    assert_eq!(pair.is_told(), (ip("fd00:db8::2"), 3, 0, 0));
    assert_eq!(pair.there.sent(), None);
}

/// RFC 1191 section 4 and RFC 8201 section 3.
#[test]
fn what_may_not_be_cut_and_is_too_large_is_told_with_the_other_links_mtu() {
    let mut pair = Pair::new();
    pair.send(&unfragmentable(udp("10.0.3.100:9", 64, &[0; 1400])));
    assert_eq!(pair.is_told(), (ip("10.0.2.2"), 3, 4, 1400));
    pair.send(&udp("[fd00:db9::64]:9", 64, &[0; 1400]));
    assert_eq!(pair.is_told(), (ip("fd00:db8::2"), 2, 0, 1400));
    assert_eq!(pair.there.sent(), None);
    pair.send(&unfragmentable(udp("10.0.3.100:9", 64, &[0; 1400 - 28])));
    assert_eq!(pair.arrives().len(), 1400);
}

/// RFC 791 section 3.2.
#[test]
fn what_may_be_cut_comes_in_pieces_that_make_the_whole() {
    let mut pair = Pair::new();
    let payload: Vec<u8> = (0..8000u32).map(|number| number as u8).collect();
    let bytes = frames::udp_bytes(end("10.0.2.100:5000"), end("10.0.3.100:9"), &payload);
    // The first piece of a larger packet.
    pair.send(&frames::fragment(ip(HERE), ip("10.0.3.100"), 99, 0, true, &bytes));
    let (mut whole, mut pieces) = (vec![0; bytes.len()], 0);
    while let Some(frame) = pair.there.sent() {
        let packet = Ipv4Packet::new_checked(&frame[ETHERNET..]).unwrap();
        assert!(packet.verify_checksum() && packet.total_len() <= 1400 && packet.more_frags());
        assert_eq!((packet.ident(), packet.hop_limit()), (99, 63));
        let at = usize::from(packet.frag_offset());
        whole[at..at + packet.payload().len()].copy_from_slice(packet.payload());
        pieces += 1;
    }
    assert_eq!((whole, pieces), (bytes, 6));
}

/// RFC 791 section 3.1: the copied flag.
#[test]
fn later_pieces_have_the_options_that_are_to_be_copied() {
    const ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];
    const RECORD_ROUTE: [u8; 7] = [7, 7, 4, 0, 0, 0, 0];
    let mut frame = udp("10.0.3.100:9", 64, &[0; 2000]);
    let options = [&ROUTER_ALERT[..], &RECORD_ROUTE, &[0]].concat();
    frame.splice(ETHERNET + IPV4..ETHERNET + IPV4, options);
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]);
    packet.set_header_len(32);
    packet.set_total_len(2000 + 8 + 32);
    packet.fill_checksum();
    let mut pair = Pair::new();
    pair.send(&frame);
    let options = |frame: Vec<u8>| frame[ETHERNET + IPV4..ETHERNET + 32].to_vec();
    assert_eq!(options(pair.there.sent().unwrap()), [&ROUTER_ALERT[..], &RECORD_ROUTE, &[0]].concat());
    assert_eq!(options(pair.there.sent().unwrap()), [&ROUTER_ALERT[..], &[1; 7], &[0]].concat());
    assert_eq!(pair.there.sent(), None);
}

/// A super-frame of TCP, to be cut at `size`.
fn super_frame(to: &str, size: u16, payload: &[u8]) -> Vec<u8> {
    let header = Tcp { flags: ".".into(), seq: 1, ack: 1, window: 1000, options: Vec::new() };
    let frame = unfragmentable(frames::tcp(end("10.0.2.100:5000"), end(to), 64, &header, payload));
    // NEEDS_CSUM, GSO_TCPV4; the checksum is owed at 34 + 16.
    let mut bytes = vec![1, 1, 54, 0];
    bytes.extend(size.to_ne_bytes());
    bytes.extend(34u16.to_ne_bytes());
    bytes.extend(16u16.to_ne_bytes());
    bytes.extend(frame);
    bytes
}

#[test]
fn a_super_frame_goes_on_whole_when_its_segments_fit() {
    let mut pair = Pair::new();
    let bytes = super_frame("10.0.3.100:80", 1360, &[7; 30_000]);
    pair.here.receive_raw(0, bytes.clone());
    pair.here.settle();
    pair.settle();
    let arrived = pair.there.wire().outbound.pop_front().unwrap();
    let behind_addresses = VNET_HEADER_LEN + ETHERNET + IPV4;
    assert_eq!(arrived[..VNET_HEADER_LEN], bytes[..VNET_HEADER_LEN]);
    assert_eq!(arrived[behind_addresses..], bytes[behind_addresses..]);
    assert_eq!(pair.there.sent(), None);
    pair.here.receive_raw(0, super_frame("10.0.3.100:80", 1361, &[7; 30_000]));
    pair.here.settle();
    assert_eq!(pair.is_told(), (ip("10.0.2.2"), 3, 4, 1400));
}

#[test]
fn a_port_without_offloads_gets_the_segments() {
    let there = Stage::with(linked_config(), 1, Offloads::NONE);
    let mut pair = Pair::of(Stage::new(config()), there);
    pair.say_who_is_where();
    pair.here.receive_raw(0, super_frame("10.0.3.100:80", 1000, &[7; 3000]));
    pair.here.settle();
    pair.settle();
    let sizes: Vec<_> = std::iter::from_fn(|| pair.there.sent()).map(|frame| frame.len()).collect();
    assert_eq!(sizes, [1054; 3]);
}

#[test]
fn packets_wait_for_their_container_and_come_in_order() {
    let mut pair = Pair::strangers();
    pair.settle();
    pair.forget_frames();
    for number in 0..3 {
        pair.send(&udp("10.0.3.100:9", 64, &[number]));
    }
    let asked = pair.there.sent().unwrap();
    assert_eq!((&asked[..6], &asked[12..14]), (&EthernetAddress::BROADCAST.0[..], &[8, 6][..]));
    assert_eq!(pair.there.sent(), None, "it is asked once");
    // The answer, and before the gateway says more, another packet.
    let answer = frames::arp(2, CONTAINER_MAC, THERE, [10, 0, 3, 2]);
    pair.there.receive_raw(0, [&[0; VNET_HEADER_LEN], &answer[..]].concat());
    pair.send(&udp("10.0.3.100:9", 64, &[3]));
    let arrived = std::iter::from_fn(|| pair.there.sent()).map(|frame| frame[ETHERNET + IPV4 + 8]);
    assert_eq!(arrived.collect::<Vec<_>>(), [0, 1, 2, 3]);
}

/// RFC 1812 section 5.2.7.1: code 1; RFC 4443 section 3.1: code 3.
#[test]
fn nobody_there_is_told_by_the_other_gateway_after_three_questions() {
    for (to, told) in
        [("10.0.3.77:9", (ip("10.0.3.2"), 3, 1, 0)), ("[fd00:db9::77]:9", (ip("fd00:db9::2"), 1, 3, 0))]
    {
        let mut pair = Pair::new();
        pair.send(&udp(to, 64, b""));
        pair.there.advance(Duration::from_secs(10));
        pair.here.settle();
        assert_eq!(pair.is_told(), told);
        assert_eq!(std::iter::from_fn(|| pair.there.sent()).count(), 3);
    }
}

#[test]
fn the_other_networks_gateway_and_its_edges_are_nobody() {
    for (to, is_broadcast) in [
        ("10.0.3.2:9", false),
        ("10.0.3.3:53", false),
        ("10.0.3.0:9", false),
        ("10.0.3.255:9", true),
        ("[fd00:db9::2]:9", false),
        ("[fd00:db9::3]:53", false),
    ] {
        let mut pair = Pair::of(
            Stage::new(config()),
            Stage::new(wharf_stack::Config { host_loopback: true, ..linked_config() }),
        );
        pair.say_who_is_where();
        pair.send(&udp(to, 64, b""));
        // RFC 1812 section 4.3.2.7: nobody is told about what was sent to a broadcast address.
        if is_broadcast {
            assert_eq!(pair.here.sent(), None, "{to}");
        } else {
            assert!(matches!(pair.is_told(), (_, 3, 1, 0) | (_, 1, 3, 0)), "{to}");
        }
        assert!(pair.there.host().calls.is_empty() && pair.there.sent().is_none(), "{to}");
    }
}

#[test]
fn an_internal_network_reaches_the_linked_one_and_still_nobody_else() {
    let internal = wharf_stack::Config { internal: true, ..config() };
    let mut pair = Pair::of(Stage::new(internal), Stage::new(linked_config()));
    pair.say_who_is_where();
    pair.send(&udp("10.0.3.100:9", 64, b"hello"));
    pair.arrives();
    pair.send(&udp("198.51.100.7:9", 64, b"hello"));
    assert!(pair.here.host().calls.is_empty() && pair.there.sent().is_none());
}

#[test]
fn without_a_link_nothing_goes_there() {
    let mut pair = Pair::new();
    for worker in &mut pair.here.workers {
        worker.gateway.set_routes(Vec::new());
        worker.links.set(Vec::new());
    }
    pair.send(&udp("10.0.3.100:9", 64, b"hello"));
    assert_eq!(pair.there.sent(), None);
    assert!(!pair.here.host().calls.is_empty(), "it is the outside again");
}

#[test]
fn a_source_that_is_not_the_networks_is_not_routed() {
    let mut pair = Pair::new();
    pair.send(&frames::udp(end("10.0.9.9:5"), end("10.0.3.100:9"), 64, b""));
    assert_eq!(pair.there.sent(), None);
}

#[test]
fn flows_keep_their_order_between_networks_of_several_workers() {
    let (here, there) =
        (Stage::with(config(), 3, Offloads::ALL), Stage::with(linked_config(), 2, Offloads::ALL));
    let mut pair = Pair::of(here, there);
    let mut next = [0; 4];
    for number in 0..200u8 {
        for port in 0..4 {
            let from = SocketAddr::new(ip(HERE), 5000 + port);
            let frame = frames::udp(from, end("10.0.3.100:9"), 64, &[number]);
            // Whichever queue the kernel chooses.
            let queue = usize::from(number) % 3;
            pair.here.receive_raw(queue, [&[0; VNET_HEADER_LEN], &frame[..]].concat());
        }
        pair.here.settle();
        pair.there.settle();
        if number == 3 {
            pair.there.receive(&frames::arp(2, CONTAINER_MAC, THERE, [10, 0, 3, 2]));
        }
        let is_datagram = |frame: &Vec<u8>| frame[12..14] == [8, 0];
        for frame in std::iter::from_fn(|| pair.there.sent()).filter(is_datagram) {
            let next = &mut next[usize::from(frame[ETHERNET + IPV4 + 1]) - 5000 % 256];
            assert_eq!(frame[ETHERNET + IPV4 + 8], *next);
            *next += 1;
        }
    }
    assert_eq!(next, [200; 4]);
}

/// Sends from here to `count` addresses there that nobody has.
fn search(pair: &mut Pair, count: u16) {
    (0..count).for_each(|number| pair.send(&udp(&format!("[fd00:db9::77:{number:x}]:9"), 64, b"")));
}

/// The frame of another container than the one that [`search`]es.
fn of_another(mut frame: Vec<u8>) -> Vec<u8> {
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0x65]);
    frame
}

/// IP packets that the container there gets, without the gateway's questions: their payloads behind UDP.
fn datagrams(pair: &mut Pair) -> Vec<Vec<u8>> {
    let payload = |frame: Vec<u8>| match (&frame[12..14], frame.get(ETHERNET + 6)) {
        ([8, 0], _) => Some(frame[ETHERNET + IPV4 + 8..].to_vec()),
        ([0x86, 0xdd], Some(17)) => Some(frame[ETHERNET + IPV6 + 8..].to_vec()),
        _ => None,
    };
    std::iter::from_fn(|| pair.there.sent()).filter_map(payload).collect()
}

#[test]
fn who_searches_a_whole_prefix_is_heard_by_everybody_there_for_a_while_only() {
    let mut pair = Pair::new();
    search(&mut pair, 2000);
    assert_eq!(std::iter::from_fn(|| pair.there.sent()).count(), 256);
    // And whoever is known is reached still.
    pair.send(&udp("10.0.3.100:9", 64, b"hello"));
    pair.arrives();
}

#[test]
fn who_searches_does_not_keep_others_from_a_container_that_is_not_known_yet() {
    let mut pair = Pair::strangers();
    pair.settle();
    search(&mut pair, 2000);
    pair.forget_frames();
    for to in ["10.0.3.100:9", "[fd00:db9::64]:9"] {
        pair.send(&of_another(udp(to, 64, to.as_bytes())));
        assert!(pair.there.sent().is_some(), "{to} is asked for");
        assert_eq!(pair.there.sent(), None);
    }
    // The search goes on, and takes no waiting packet's place.
    pair.there.advance(Duration::from_millis(900));
    pair.here.advance(Duration::from_millis(900));
    search(&mut pair, 2000);
    pair.forget_frames();
    pair.say_where_they_are();
    assert_eq!(datagrams(&mut pair), [&b"10.0.3.100:9"[..], b"[fd00:db9::64]:9"]);
}

#[test]
fn who_has_searched_is_not_told_that_a_container_is_gone_which_was_not_asked() {
    let mut pair = Pair::strangers();
    pair.settle();
    search(&mut pair, 2000);
    pair.forget_frames();
    let to = "10.0.3.100:9";
    for _ in 0..10 {
        pair.send(&udp(to, 64, b"during the search"));
        assert_eq!(pair.there.sent(), None, "it is not asked");
    }
    assert_eq!(pair.here.sent(), None, "nor told");
    pair.there.advance(Duration::from_secs(10));
    // Those who wait have asked again, twice each, and were told; the next packet finds out.
    assert_eq!(std::iter::from_fn(|| pair.there.sent()).count(), 64);
    pair.settle();
    pair.forget_frames();
    pair.send(&udp(to, 64, b"after it"));
    assert!(pair.there.sent().is_some(), "it is asked");
    assert_eq!(pair.here.sent(), None);
    pair.say_where_they_are();
    assert_eq!(datagrams(&mut pair), [b"after it"]);
}
