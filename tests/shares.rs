// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a container that wants everything leaves the others, on a stage: places in the tables of flows and mappings.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may fail, and its numbers are small"
)]

#[path = "stage/mod.rs"]
mod stage;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use smoltcp::wire::TcpPacket;
use stage::frames::{self, ETHERNET, IPV4, Tcp};
use stage::{CONTAINER_MAC, Stage, config};
use wharf_stack::{Config, DropReason};

const SERVER: &str = "198.51.100.7:443";

/// The last byte of a container's addresses, of both kinds.
type Container = u8;

const GREEDY: Container = 0x64;
const MODEST: Container = 0x65;

fn server() -> SocketAddr {
    SERVER.parse().unwrap()
}

fn address(container: Container) -> IpAddr {
    [10, 0, 2, container].into()
}

/// The frame as `container` sends it.
fn sent_by(container: Container, mut frame: Vec<u8>) -> Vec<u8> {
    frame[6..12].copy_from_slice(&CONTAINER_MAC.0);
    frame[11] = container;
    frame
}

/// A container's segment from one of its ports.
fn segment(container: Container, port: u16, (flags, seq, ack): (&str, u32, u32)) -> Vec<u8> {
    let header = Tcp { flags: flags.into(), seq, ack, window: 60_000, ..Tcp::default() };
    let from = SocketAddr::new(address(container), port);
    sent_by(container, frames::tcp(from, server(), 64, &header, &[]))
}

/// A container begins connections. Returns how many of them the host was asked for.
fn connect(stage: &mut Stage, container: Container, ports: Range<u16>) -> usize {
    let before = stage.host().open_sockets();
    for port in ports {
        stage.receive(&segment(container, port, ("S", 100, 0)));
    }
    stage.host().open_sockets() - before
}

/// A container connects, and the host has more to send than it takes.
fn download(stage: &mut Stage, container: Container, port: u16) {
    connect(stage, container, port..port + 1);
    let socket = stage.host().latest();
    stage.host().connect_ends(socket, Ok(()));
    stage.settle();
    let frame = std::iter::from_fn(|| stage.sent()).last().unwrap();
    let syn_ack = TcpPacket::new_unchecked(&frame[ETHERNET + IPV4..]);
    let ack = syn_ack.seq_number().0.cast_unsigned().wrapping_add(1);
    stage.receive(&segment(container, port, (".", 101, ack)));
    stage.host().sockets[socket].inbox.push_back(vec![7; 200_000]);
    stage.host().announce(socket, true, false, false);
    stage.settle();
}

fn drops(stage: &Stage, reason: DropReason) -> u64 {
    stage.workers[0].gateway.drops().get(reason)
}

#[test]
fn connections_of_one_container_leave_sockets_for_those_of_another() {
    // Three quarters of the sockets are TCP's.
    const PLACES: usize = 102;
    let mut stage = Stage::new(Config { max_sockets: PLACES / 3 * 4, ..config() });
    assert_eq!(connect(&mut stage, GREEDY, 1..1000), PLACES / 17 * 16);
    assert_eq!(drops(&stage, DropReason::HostExhausted), 999 - PLACES as u64 / 17 * 16);
    assert_eq!(connect(&mut stage, MODEST, 1..6), 5);
    // What the other has lessens what there is for the first, but ends none of its connections.
    assert_eq!(connect(&mut stage, GREEDY, 1000..2000), 0);
    assert_eq!(stage.workers[0].gateway.load().tcp_flows, PLACES / 17 * 16 + 5);
}

#[test]
fn connections_of_one_container_leave_memory_for_those_of_another() {
    let mut stage = Stage::new(Config { memory_bytes: 1 << 20, ..config() });
    let held = connect(&mut stage, GREEDY, 1..2000);
    let load = stage.workers[0].gateway.load();
    assert!(load.held_bytes > (1 << 20) / 100 * 90, "alone it has {} bytes", load.held_bytes);
    assert_eq!(connect(&mut stage, MODEST, 1..21), 20);
    assert_eq!(connect(&mut stage, GREEDY, 2000..2500), 0);
    assert_eq!(stage.workers[0].gateway.load().tcp_flows, held + 20);
}

#[test]
fn data_of_one_container_leaves_memory_for_connections_of_another() {
    let mut stage = Stage::new(Config { memory_bytes: 1 << 20, ..config() });
    for port in 1..=40 {
        download(&mut stage, GREEDY, port);
    }
    // Connections of its own are not kept from it by its data.
    assert_eq!(connect(&mut stage, GREEDY, 200..210), 10);
    connect(&mut stage, GREEDY, 1000..2000);
    assert!(drops(&stage, DropReason::RelayMemoryExhausted) > 0);
    assert_eq!(connect(&mut stage, MODEST, 1..3), 2);
}

#[test]
fn clients_of_one_container_wait_before_they_take_the_room_of_another() {
    const PLACES: usize = 102;
    let mut stage = Stage::new(Config { max_sockets: PLACES / 3 * 4, ..config() });
    stage.receive(&frames::arp(1, CONTAINER_MAC, [10, 0, 2, GREEDY], [10, 0, 2, 2]));
    stage.publish(SocketAddr::new(address(GREEDY), 80));
    for port in 1..=500 {
        stage.host().connects(SocketAddr::new([203, 0, 113, 9].into(), port));
        stage.settle();
    }
    assert_eq!(stage.workers[0].gateway.load().tcp_flows, PLACES / 17 * 16);
    assert_eq!(stage.host().clients.len(), 500 - PLACES / 17 * 16);
    assert_eq!(connect(&mut stage, MODEST, 1..6), 5);
}

/// In a table of `places`, a container makes mappings without end. Another makes some meanwhile, and keeps them.
fn share_mappings(stage: &mut Stage, places: usize, probe: impl Fn(Container, u16) -> Vec<u8>) {
    let open = |stage: &mut Stage, container, range: Range<u16>| {
        range.for_each(|number| stage.receive(&sent_by(container, probe(container, number))));
    };
    open(stage, GREEDY, 1..1000);
    assert_eq!(stage.host().open_sockets(), places);
    let first = stage.host().sockets.len();
    let modest = first..first + places / 2;
    open(stage, MODEST, 1..1 + places as u16 / 2);
    open(stage, GREEDY, 1000..2000);
    assert!(stage.host().sockets[modest.clone()].iter().all(|socket| !socket.closed));
    // They are the same for the container: none was opened anew.
    let opened = stage.host().sockets.len();
    open(stage, MODEST, 1..1 + places as u16 / 2);
    assert_eq!(stage.host().sockets.len(), opened);
    assert_eq!(stage.host().open_sockets(), places);
}

#[test]
fn mappings_of_one_container_leave_another_its_own() {
    let mut stage = Stage::new(Config { max_sockets: 8 * 64, ..config() });
    share_mappings(&mut stage, 64, |container, port| {
        frames::udp(SocketAddr::new(address(container), port), server(), 64, b"x")
    });
}

#[test]
fn echoes_of_one_container_leave_another_its_own() {
    let mut stage = Stage::new(Config { max_sockets: 64 * 64, ..config() });
    share_mappings(&mut stage, 64, |container, ident| {
        let [high, low] = ident.to_be_bytes();
        frames::icmp(address(container), server().ip(), 64, 8, 0, &[high, low, 0, 1])
    });
}

/// A container has left, which was known by this address and by the MAC address that [`sent_by`] gives.
fn leave(stage: &mut Stage, container: Container, addresses: &[IpAddr]) {
    let mut mac = CONTAINER_MAC;
    mac.0[5] = container;
    let worker = &mut stage.workers[0];
    worker.gateway.end_flows_of(stage.now, mac, addresses, &mut worker.host);
}

#[test]
fn who_leaves_ends_its_flows_and_nobody_elses_and_frees_their_places() {
    let mut stage = Stage::new(Config { max_sockets: 136, ..config() });
    let probe = |stage: &mut Stage, container: Container| {
        let from = SocketAddr::new(address(container), 5000);
        stage.receive(&sent_by(container, frames::udp(from, server(), 64, b"x")));
        let echo = frames::icmp(from.ip(), server().ip(), 64, 8, 0, &[1, 2, 0, 1]);
        stage.receive(&sent_by(container, echo));
    };
    assert_eq!(connect(&mut stage, MODEST, 1..6), 5);
    probe(&mut stage, MODEST);
    let kept = stage.host().open_sockets();
    let most = connect(&mut stage, GREEDY, 1..1000);
    probe(&mut stage, GREEDY);
    let full = stage.workers[0].gateway.load();
    for _ in 0..2 {
        // One that speaks from a foreign address is known by its MAC address.
        leave(&mut stage, GREEDY, &[]);
        let load = stage.workers[0].gateway.load();
        assert_eq!((load.tcp_flows, load.udp_mappings, load.echo_mappings), (5, 1, 1));
        assert_eq!(stage.host().open_sockets(), kept);
        assert!(stage.host().sockets[..kept].iter().all(|socket| !socket.closed));
        assert_eq!(connect(&mut stage, GREEDY, 1..1000), most);
        probe(&mut stage, GREEDY);
        assert_eq!(stage.workers[0].gateway.load(), full);
    }
    // One that speaks from a foreign MAC address is known by its addresses.
    leave(&mut stage, 0xff, &[address(GREEDY), address(MODEST)]);
    assert_eq!((stage.host().open_sockets(), stage.workers[0].gateway.load().held_bytes), (0, 0));
}
