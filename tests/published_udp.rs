// SPDX-License-Identifier: MIT OR Apache-2.0
//! Published UDP ports on a stage: who is seen under which end, and which way answers go.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

#[path = "stage/mod.rs"]
mod stage;

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, UdpPacket};
use stage::frames::{self, ETHERNET, IPV4, IPV6};
use stage::{CONTAINER_MAC, Stage, config};
use wharf_stack::host::{Family, HostError, IcmpReport};
use wharf_stack::{Config, DropReason};
use wharf_switch::{Duration, Offloads};

const CONTAINER: &str = "10.0.2.100:53";
const CONTAINER6: &str = "[fd00:db8::64]:53";
const CLIENT: &str = "203.0.113.9:5555";

fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The container's answer about where it is.
fn is_here(container: SocketAddr) -> Vec<u8> {
    match container.ip() {
        IpAddr::V4(ip) => frames::arp(2, CONTAINER_MAC, ip.octets(), [10, 0, 2, 2]),
        IpAddr::V6(ip) => {
            let option = [&[2, 1][..], &CONTAINER_MAC.0].concat();
            let body = [&[0x60, 0, 0, 0][..], &ip.octets(), &option].concat();
            frames::icmp(ip.into(), address("fd00:db8::2"), 255, 136, 0, &body)
        }
    }
}

/// Who wants to know where somebody is, over whatever family.
fn is_question(frame: &[u8]) -> bool {
    frame[12..14] == [8, 6] || (frame[12..14] == [0x86, 0xdd] && frame[ETHERNET + IPV6] == 135)
}

/// The next datagram for the container: source, destination, payload. Questions are answered.
fn delivered(stage: &mut Stage) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
    loop {
        let frame = stage.sent()?;
        let ip = &frame[ETHERNET..];
        let (src, dst, protocol, payload): (IpAddr, IpAddr, _, _) = match frame[12..14] {
            [8, 0] => {
                let packet = Ipv4Packet::new_checked(ip).unwrap();
                (packet.src_addr().into(), packet.dst_addr().into(), packet.next_header(), &ip[IPV4..])
            }
            [0x86, 0xdd] => {
                let packet = Ipv6Packet::new_checked(ip).unwrap();
                (packet.src_addr().into(), packet.dst_addr().into(), packet.next_header(), &ip[IPV6..])
            }
            _ => continue,
        };
        if protocol == IpProtocol::Udp {
            let datagram = UdpPacket::new_checked(payload).unwrap();
            let (src, dst) =
                (SocketAddr::new(src, datagram.src_port()), SocketAddr::new(dst, datagram.dst_port()));
            return Some((src, dst, datagram.payload().to_vec()));
        }
    }
}

/// A port of the container that is published to clients of one family.
struct Published {
    stage: Stage,
    container: SocketAddr,
    worker: usize,
    /// Of the worker's sockets.
    socket: usize,
}

impl Published {
    fn new(outside: Family, container: &str) -> Self {
        Self::with(config(), 1, outside, container)
    }

    fn with(config: Config, workers: usize, outside: Family, container: &str) -> Self {
        let mut stage = Stage::with(config, workers, Offloads::ALL);
        let container = end(container);
        let (worker, _) = stage.publish_udp(outside, container);
        let socket = stage.workers[worker].host.latest();
        stage.settle();
        Self { stage, container, worker, socket }
    }

    /// A client's datagram comes to one of the host's addresses. Returns under which end the container sees the client.
    fn hears(&mut self, from: &str, to: &str) -> SocketAddr {
        let to = (!to.is_empty()).then(|| address(to));
        self.stage.workers[self.worker].host.receives_at(self.socket, to, end(from), from.as_bytes());
        self.stage.settle();
        let (src, dst, payload) = match delivered(&mut self.stage) {
            Some(datagram) => datagram,
            None => {
                self.stage.receive(&is_here(self.container));
                delivered(&mut self.stage).unwrap()
            }
        };
        assert_eq!((dst, payload), (self.container, from.as_bytes().to_vec()));
        src
    }

    /// The container sends a datagram. Returns what the host was asked, but for the socket's opening.
    fn sends(&mut self, to: SocketAddr) -> Option<String> {
        self.stage.receive(&frames::udp(self.container, to, 64, b"answer"));
        let asked = self.stage.workers[self.worker].host.calls.pop_front();
        assert!(self.stage.workers.iter().all(|worker| worker.host.calls.is_empty()));
        asked
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.stage.workers.iter().map(|worker| worker.gateway.drops().get(reason)).sum()
    }

    /// Sockets beyond the published one.
    fn others(&self) -> usize {
        self.stage.workers.iter().map(|worker| worker.host.open_sockets()).sum::<usize>() - 1
    }
}

#[test]
fn a_client_is_seen_as_itself_and_answered_from_the_address_it_spoke_to() {
    for (outside, container, client, own) in [
        (Family::V4, CONTAINER, CLIENT, "192.0.2.1"),
        (Family::V6, CONTAINER6, "[2001:db8::9]:5555", "2001:db8:1::1"),
    ] {
        let mut port = Published::new(outside, container);
        assert_eq!(port.hears(client, own), end(client));
        let df = if outside == Family::V6 { " df" } else { "" };
        assert_eq!(port.sends(end(client)), Some(format!("send-to {client} from {own} ttl 63{df} 6")));
        assert_eq!(port.others(), 0);
    }
}

#[test]
fn a_client_that_could_not_be_answered_is_seen_as_the_gateway_and_answered_itself() {
    for (outside, container, client, gateway) in [
        (Family::V4, CONTAINER, "127.0.0.1:5555", "10.0.2.2:5555"),
        (Family::V4, CONTAINER, "10.0.2.77:5555", "10.0.2.2:5555"),
        (Family::V6, CONTAINER, "[2001:db8::9]:5555", "10.0.2.2:5555"),
        (Family::V6, CONTAINER, "[::1]:5555", "10.0.2.2:5555"),
        (Family::V6, CONTAINER6, "[::1]:5555", "[fd00:db8::2]:5555"),
        (Family::V4, CONTAINER6, CLIENT, "[fd00:db8::2]:5555"),
    ] {
        let mut port = Published::new(outside, container);
        assert_eq!(port.hears(client, ""), end(gateway), "{client} {container}");
        let asked = port.sends(end(gateway)).unwrap();
        assert!(asked.starts_with(&format!("send-to {client} ttl 63 ")), "{asked}");
        // Nobody else is let in by that.
        let other = SocketAddr::new(end(gateway).ip(), 5556);
        assert_eq!(port.sends(other), None);
        assert_eq!(port.drops(DropReason::PortClosed), 1);
        assert_eq!(port.others(), 0);
    }
}

#[test]
fn clients_that_would_look_the_same_get_ports_of_their_own() {
    let mut port = Published::new(Family::V4, CONTAINER);
    let clients = ["127.0.0.1:5555", "127.0.0.2:5555", "10.0.2.9:5555", "127.0.0.1:53", "127.0.0.1:67"];
    let seen = clients.map(|client| port.hears(client, ""));
    assert_eq!(seen[0], end("10.0.2.2:5555"));
    for (at, seen_as) in seen.iter().enumerate().skip(1) {
        assert_eq!(seen_as.ip(), address("10.0.2.2"));
        assert!(seen_as.port() >= 49_152 && !seen[..at].contains(seen_as), "{seen:?}");
    }
    for (client, seen_as) in clients.iter().zip(seen).rev() {
        assert_eq!(port.hears(client, ""), seen_as);
        assert_eq!(port.sends(seen_as), Some(format!("send-to {client} ttl 63 6")));
    }
}

#[test]
fn a_client_of_two_addresses_is_answered_from_each() {
    let mut port = Published::new(Family::V4, CONTAINER);
    let first = port.hears(CLIENT, "192.0.2.1");
    let second = port.hears(CLIENT, "192.0.2.2");
    assert_eq!((first, second.ip()), (end(CLIENT), end(CLIENT).ip()));
    assert_ne!(first, second);
    for (seen, own) in [(first, "192.0.2.1"), (second, "192.0.2.2"), (first, "192.0.2.1")] {
        assert_eq!(port.sends(seen), Some(format!("send-to {CLIENT} from {own} ttl 63 6")));
    }
}

/// RFC 4787 REQ-1: "A NAT MUST have an 'Endpoint-Independent Mapping' behavior."
#[test]
fn whatever_the_containers_port_sends_leaves_by_the_published_one() {
    let mut port = Published::new(Family::V4, CONTAINER);
    for _ in 0..3 {
        assert_eq!(port.sends(end("198.51.100.7:9")), Some("send-to 198.51.100.7:9 ttl 63 6".into()));
        assert_eq!(port.others(), 0);
        // Longer than any mapping lives.
        port.stage.advance(Duration::from_secs(600));
    }
    assert_eq!(port.hears("198.51.100.7:9", "192.0.2.1"), end("198.51.100.7:9"));
    // Other ports of the container, and the other family, have sockets of their own.
    port.stage.receive(&frames::udp(end("10.0.2.100:54"), end("198.51.100.7:9"), 64, b""));
    assert_eq!(port.others(), 1);
    port.stage.receive(&frames::udp(end(CONTAINER6), end("[2001:db8::7]:9"), 64, b""));
    assert_eq!(port.others(), 2);
}

#[test]
fn whom_the_container_calls_by_a_translated_address_answers_from_there() {
    let mut port = Published::new(Family::V4, CONTAINER6);
    let translated = end("[64:ff9b:1::c633:6407]:9");
    // RFC 7915 section 5.1: so short a packet may be fragmented.
    assert_eq!(port.sends(translated), Some("send-to 198.51.100.7:9 ttl 63 6".into()));
    assert_eq!(port.hears("198.51.100.7:9", "192.0.2.1"), translated);
    assert_eq!(port.sends(translated), Some("send-to 198.51.100.7:9 ttl 63 6".into()));
    assert_eq!(port.hears("198.51.100.8:9", "192.0.2.1"), end("[fd00:db8::2]:9"));
}

#[test]
fn the_hosts_loopback_is_called_by_the_published_port_where_it_is_open() {
    let config = Config { host_loopback: true, ..config() };
    let mut port = Published::with(config, 1, Family::V4, CONTAINER);
    assert_eq!(port.sends(end("10.0.2.2:9")), Some("send-to 127.0.0.1:9 ttl 63 6".into()));
    assert_eq!(port.hears("127.0.0.1:9", "127.0.0.1"), end("10.0.2.2:9"));
    // A client of the same port of another address is not the host's service.
    let seen = port.hears("127.0.0.2:9", "127.0.0.1");
    assert_eq!(port.sends(seen), Some("send-to 127.0.0.2:9 from 127.0.0.1 ttl 63 6".into()));
    assert_eq!(port.sends(end("10.0.2.2:9")), Some("send-to 127.0.0.1:9 from 127.0.0.1 ttl 63 6".into()));
    assert_eq!(port.others(), 0);
}

#[test]
fn datagrams_wait_in_the_hosts_socket_until_the_container_is_found() {
    let mut port = Published::new(Family::V4, CONTAINER);
    for number in 0..200 {
        port.stage.host().receives(port.socket, SocketAddr::new(end(CLIENT).ip(), 1000 + number), b"x");
    }
    port.stage.settle();
    assert_eq!(port.stage.host().sockets[port.socket].datagrams.len(), 200);
    assert!(is_question(&std::iter::from_fn(|| port.stage.sent()).find(|frame| is_question(frame)).unwrap()));
    // RFC 1122 section 2.3.2.1: once a second.
    port.stage.advance(Duration::from_secs(1));
    assert!(is_question(&port.stage.sent().unwrap()));
    port.stage.receive(&is_here(port.container));
    let all: Vec<_> = std::iter::from_fn(|| delivered(&mut port.stage)).collect();
    let expected: Vec<_> = (1000..1200).map(|port| SocketAddr::new(end(CLIENT).ip(), port)).collect();
    assert_eq!(all.iter().map(|(src, ..)| *src).collect::<Vec<_>>(), expected);
}

#[test]
fn datagrams_for_nobody_are_dropped() {
    let mut port = Published::new(Family::V4, CONTAINER);
    port.stage.host().receives(port.socket, end(CLIENT), b"x");
    port.stage.settle();
    port.stage.advance(Duration::from_secs(10));
    assert_eq!(port.drops(DropReason::ContainerNotFound), 1);
    // It comes later.
    port.stage.host().receives(port.socket, end(CLIENT), b"x");
    port.stage.settle();
    port.stage.receive(&is_here(port.container));
    assert_eq!(delivered(&mut port.stage).map(|(src, ..)| src), Some(end(CLIENT)));
}

#[test]
fn the_client_that_was_silent_for_longest_gives_way() {
    let mut port = Published::new(Family::V4, CONTAINER);
    let client = |number: u16| SocketAddr::from(([127, 0, 1, 1], 1000 + number));
    let seen = |number: u16| SocketAddr::from(([10, 0, 2, 2], 1000 + number));
    for number in 0..4096 {
        assert_eq!(port.hears(&client(number).to_string(), ""), seen(number));
    }
    // The first is heard of again, so that the second is the oldest.
    assert!(port.sends(seen(0)).is_some());
    assert_eq!(port.hears(&client(4096).to_string(), ""), seen(4096));
    assert_eq!(port.sends(seen(1)), None);
    for number in [0, 2, 4095, 4096] {
        assert_eq!(port.sends(seen(number)), Some(format!("send-to {} ttl 63 6", client(number))));
    }
}

#[test]
fn a_flood_of_clients_of_one_port_leaves_those_of_another_their_answers() {
    let mut port = Published::new(Family::V4, CONTAINER);
    let local: Vec<_> = (0..50_u8).map(|number| format!("127.0.0.1:{}", 5000 + u16::from(number))).collect();
    let seen: Vec<_> = local.iter().map(|client| port.hears(client, "")).collect();
    port.stage.publish_udp(Family::V4, end("10.0.2.100:54"));
    (port.container, port.socket) = (end("10.0.2.100:54"), port.stage.host().latest());
    for number in 0..5000 {
        let stranger = SocketAddr::from(([203, 0, 113, 9], 1000 + number));
        assert_eq!(port.hears(&stranger.to_string(), "192.0.2.1"), stranger);
    }
    // Its last ones are remembered, and the first ones answered as strangers are.
    let answered = |from: &str, number| format!("send-to 203.0.113.9:{number}{from} ttl 63 6");
    assert_eq!(port.sends(end("203.0.113.9:5999")), Some(answered(" from 192.0.2.1", 5999)));
    assert_eq!(port.sends(end("203.0.113.9:1000")), Some(answered("", 1000)));
    (port.container, port.socket) = (end(CONTAINER), 0);
    for (client, seen) in local.iter().zip(seen) {
        assert_eq!(port.sends(seen), Some(format!("send-to {client} ttl 63 6")));
    }
}

/// RFC 4787 REQ-5: "A value of five minutes or more is RECOMMENDED."
#[test]
fn a_silent_client_is_forgotten_after_five_minutes() {
    let mut port = Published::new(Family::V4, CONTAINER);
    let seen = port.hears("127.0.0.1:5555", "");
    port.stage.advance(Duration::from_secs(299));
    assert!(port.sends(seen).is_some());
    port.stage.advance(Duration::from_secs(299));
    assert!(port.sends(seen).is_some());
    port.stage.advance(Duration::from_secs(300));
    assert_eq!(port.sends(seen), None);
}

/// A client's "port unreachable" for what the container has sent, as the host has it.
fn refusal(client: &str) -> IcmpReport {
    let (destination, family) = (end(client), Family::of(end(client).ip()));
    let (kind, code) = if family == Family::V4 { (3, 3) } else { (1, 4) };
    let (offender, mtu, payload) = (Some(destination.ip()), 0, [0; 8]);
    IcmpReport { destination, offender, family, kind, code, mtu, payload }
}

#[test]
fn a_client_that_refuses_an_answer_is_told_of_under_the_end_that_the_container_knows() {
    for (outside, client, from, quoted) in [
        (Family::V4, CLIENT, "203.0.113.9", CLIENT),
        (Family::V4, "127.0.0.1:5555", "10.0.2.2", "10.0.2.2:5555"),
        (Family::V6, "[2001:db8::9]:5555", "10.0.2.2", "10.0.2.2:5555"),
    ] {
        let mut port = Published::new(outside, CONTAINER);
        let seen = port.hears(client, "");
        port.sends(seen).unwrap();
        port.stage.host().sockets[port.socket].reports.push_back(refusal(client));
        port.stage.host().announce(port.socket, false, false, true);
        port.stage.settle();
        let frame = port.stage.sent().unwrap();
        let outer = Ipv4Packet::new_checked(&frame[ETHERNET..]).unwrap();
        assert_eq!(IpAddr::from(outer.src_addr()), address(from));
        assert_eq!(outer.payload()[..2], [3, 3]);
        let inner = Ipv4Packet::new_unchecked(&outer.payload()[8..]);
        assert_eq!(IpAddr::from(inner.dst_addr()), end(quoted).ip());
        let inner = inner.payload();
        assert_eq!(inner[..4], [&53u16.to_be_bytes()[..], &end(quoted).port().to_be_bytes()].concat());
    }
}

#[test]
fn an_error_of_an_earlier_answer_does_not_cost_the_next_one() {
    let mut port = Published::new(Family::V4, CONTAINER);
    let seen = port.hears(CLIENT, "");
    let socket = &mut port.stage.host().sockets[port.socket];
    socket.refusals.push_back(HostError::Refused);
    socket.reports.push_back(refusal("203.0.113.8:1"));
    let asked = format!("send-to {CLIENT} ttl 63 6");
    port.stage.receive(&frames::udp(port.container, seen, 64, b"answer"));
    assert_eq!(port.stage.host().calls, [asked.as_str(); 2]);
    assert_eq!(port.drops(DropReason::HostRefused), 0);
}

#[test]
fn a_withdrawn_port_is_an_ordinary_one() {
    let mut stage = Stage::new(config());
    let (_, first) = stage.publish_udp(Family::V4, end(CONTAINER));
    let (_, second) = stage.publish_udp(Family::V4, end(CONTAINER));
    stage.settle();
    let mut port = Published { stage, container: end(CONTAINER), worker: 0, socket: 0 };
    // Strangers are spoken to through the first, its own clients through the second.
    port.stage.host().sockets[0].refusals.push_back(HostError::Exhausted);
    assert!(port.sends(end("198.51.100.7:9")).is_some());
    assert_eq!(port.drops(DropReason::HostExhausted), 1);
    port.socket = 1;
    let seen = port.hears("127.0.0.1:5555", "");
    port.stage.host().sockets[1].refusals.push_back(HostError::Exhausted);
    assert!(port.sends(seen).is_some());
    assert_eq!(port.drops(DropReason::HostExhausted), 2);
    // The second follows the first.
    port.stage.workers[0].withdraw(first);
    assert_eq!(port.stage.host().calls.pop_front().as_deref(), Some("close"));
    port.stage.host().sockets[1].refusals.push_back(HostError::Exhausted);
    assert!(port.sends(end("198.51.100.7:9")).is_some());
    assert_eq!(port.drops(DropReason::HostExhausted), 3);
    port.stage.workers[0].withdraw(second);
    port.stage.host().calls.clear();
    assert_eq!(port.sends(seen), None);
    assert_eq!(port.drops(DropReason::PortClosed), 1);
    assert!(port.sends(end("198.51.100.7:9")).is_some());
    assert_eq!(port.stage.host().open_sockets(), 1);
}

/// The socket is where the container's answers come by, whichever worker that is, and finds the container by itself.
#[test]
fn every_worker_has_ports_of_its_own() {
    let mut owners = [0; 3];
    for number in 1000..1030 {
        for (outside, container, client) in [
            (Family::V4, format!("10.0.2.100:{number}"), CLIENT),
            (Family::V4, format!("10.0.2.100:{number}"), "127.0.0.1:5555"),
            (Family::V6, format!("[fd00:db8::64]:{number}"), "[::1]:5555"),
        ] {
            let mut port = Published::with(config(), 3, outside, &container);
            owners[port.worker] += 1;
            let seen = port.hears(client, "");
            let asked = port.sends(seen).unwrap();
            assert!(asked.starts_with(&format!("send-to {client} ttl 63")), "{asked}");
            assert_eq!(port.others(), 0);
        }
    }
    assert!(owners.iter().all(|&count| count > 10), "{owners:?}");
}

#[test]
fn large_datagrams_reach_the_container_in_fragments() {
    let mut port = Published::new(Family::V4, CONTAINER);
    port.hears(CLIENT, "");
    port.stage.host().receives(port.socket, end(CLIENT), &[7; 4000]);
    port.stage.settle();
    let pieces: Vec<_> = std::iter::from_fn(|| port.stage.sent()).collect();
    assert_eq!(pieces.len(), 3);
    let more = |frame: &[u8]| Ipv4Packet::new_checked(&frame[ETHERNET..]).unwrap().more_frags();
    assert_eq!(pieces.iter().map(|piece| more(piece)).collect::<Vec<_>>(), [true, true, false]);
}
