// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of flows on a stage: what somebody who looks is told of each kind.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test may fail")]

#[path = "stage/mod.rs"]
mod stage;

use std::net::SocketAddr;

use smoltcp::wire::TcpPacket;
use stage::frames::{self, ETHERNET, IPV4, Tcp};
use stage::{CONTAINER_MAC, Stage, config};
use wharf_stack::host::Family;
use wharf_stack::{Config, Direction, DropReason, FlowProtocol, FlowState, FlowView};
use wharf_switch::Duration;
use wharf_switch::offload::VNET_HEADER_LEN;

const CONTAINER: &str = "10.0.2.100:5000";
const SERVER: &str = "198.51.100.7:443";

fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What a stage's only worker says.
fn flows(stage: &Stage) -> Vec<FlowView> {
    let worker = &stage.workers[0];
    worker.gateway.flows(stage.now, &worker.host).collect()
}

fn only(stage: &Stage) -> FlowView {
    let [flow] = flows(stage)[..] else { unreachable!("one flow") };
    flow
}

/// One TCP connection of the container's, from its side.
struct Connection {
    stage: Stage,
    ends: (SocketAddr, SocketAddr),
    seq: u32,
    ack: u32,
}

impl Connection {
    /// The container's first segment is `flags`.
    fn new(stage: Stage, ends: (SocketAddr, SocketAddr), flags: &str, ack: u32) -> Self {
        let mut connection = Self { stage, ends, seq: 100, ack };
        connection.says(flags, b"");
        connection.seq += 1;
        connection
    }

    fn says(&mut self, flags: &str, payload: &[u8]) {
        let header =
            Tcp { flags: flags.into(), seq: self.seq, ack: self.ack, window: 60_000, ..Tcp::default() };
        self.stage.receive(&frames::tcp(self.ends.0, self.ends.1, 64, &header, payload));
        self.seq += u32::try_from(payload.len()).unwrap() + u32::from(flags.contains('F'));
    }

    /// Takes everything that was sent, in order.
    fn hears(&mut self) {
        while let Some(segment) = sent_segment(&mut self.stage) {
            let segment = TcpPacket::new_unchecked(&segment[..]);
            let len = u32::try_from(segment.segment_len()).unwrap();
            self.ack = segment.seq_number().0.cast_unsigned().wrapping_add(len);
        }
    }

    fn state(&self) -> FlowState {
        only(&self.stage).state
    }
}

/// The next TCP segment for the container.
fn sent_segment(stage: &mut Stage) -> Option<Vec<u8>> {
    let is_tcp = |frame: &Vec<u8>| frame[12..14] == [8, 0] && frame[ETHERNET + 9] == 6;
    let frame = std::iter::from_fn(|| stage.sent()).find(is_tcp)?;
    Some(frame[ETHERNET + IPV4..].to_vec())
}

#[test]
fn a_connection_shows_its_ends_its_state_and_its_bytes() {
    let mut connection = Connection::new(Stage::new(config()), (end(CONTAINER), end(SERVER)), "S", 0);
    let opening = FlowView {
        protocol: FlowProtocol::Tcp,
        direction: Direction::Outbound,
        internal: end(CONTAINER),
        external: Some(end("192.0.2.1:10000")),
        destination: end(SERVER),
        translated: None,
        state: FlowState::SynSent,
        age: Duration::ZERO,
        idle: Duration::ZERO,
        bytes_sent: 0,
        bytes_received: 0,
    };
    assert_eq!(only(&connection.stage), opening);
    connection.stage.host().connect_ends(0, Ok(()));
    connection.stage.settle();
    assert_eq!(connection.state(), FlowState::SynReceived);
    connection.hears();
    connection.says(".", b"");
    assert_eq!(connection.state(), FlowState::Established);

    // Out of order first: it counts when what is missing has come.
    connection.seq += 5;
    connection.says("P.", b"world");
    assert_eq!(only(&connection.stage).bytes_sent, 0);
    connection.seq -= 10;
    connection.says("P.", b"hello");
    connection.seq += 5;
    connection.stage.host().sockets[0].inbox.push_back(b"good bye".to_vec());
    connection.stage.host().announce(0, true, false, false);
    connection.stage.settle();
    connection.hears();
    let flow = only(&connection.stage);
    assert_eq!((flow.bytes_sent, flow.bytes_received), (10, 0), "sent, but is it there?");
    connection.says(".", b"");
    connection.stage.now += Duration::from_secs(7);
    let flow = only(&connection.stage);
    assert_eq!((flow.bytes_sent, flow.bytes_received), (10, 8));
    assert_eq!((flow.age, flow.idle), (Duration::from_secs(7), Duration::from_secs(7)));

    connection.says("F.", b"");
    assert_eq!((connection.state(), only(&connection.stage).idle), (FlowState::FinWait, Duration::ZERO));
    connection.stage.host().sockets[0].ended = true;
    connection.stage.host().announce(0, true, false, true);
    connection.stage.settle();
    assert_eq!(connection.state(), FlowState::LastAck);
    connection.hears();
    connection.says(".", b"");
    assert_eq!(flows(&connection.stage), []);
}

#[test]
fn a_connection_that_the_server_ends_lingers_without_a_socket() {
    let mut connection = Connection::new(Stage::new(config()), (end(CONTAINER), end(SERVER)), "S", 0);
    connection.stage.host().connect_ends(0, Ok(()));
    connection.stage.settle();
    connection.hears();
    connection.says(".", b"");
    connection.stage.host().sockets[0].ended = true;
    connection.stage.host().announce(0, true, false, true);
    connection.stage.settle();
    connection.hears();
    connection.says(".", b"");
    assert_eq!(connection.state(), FlowState::CloseWait);
    connection.says("F.", b"");
    let flow = only(&connection.stage);
    assert_eq!((flow.state, flow.external), (FlowState::TimeWait, None));
}

#[test]
fn what_a_container_that_leaves_has_said_to_the_end_reaches_the_host_and_nothing_else_stays() {
    for (room, flags, calls, reached) in [
        (usize::MAX, ".", "reset", "all of it"),
        (usize::MAX, "F.", "finish close", "all of it"),
        (3, "F.", "finish close", "all of it"),
        (3, ".", "reset", "all"),
    ] {
        let mut connection = Connection::new(Stage::new(config()), (end(CONTAINER), end(SERVER)), "S", 0);
        connection.stage.host().connect_ends(0, Ok(()));
        connection.stage.settle();
        connection.hears();
        connection.stage.host().calls.clear();
        connection.stage.host().sockets[0].room = room;
        connection.says(flags, b"all of it");
        let mut stage = connection.stage;
        let worker = &mut stage.workers[0];
        worker.gateway.end_flows_of(stage.now, CONTAINER_MAC, &[end(CONTAINER).ip()], &mut worker.host);
        if !stage.host().sockets[0].closed {
            stage.host().sockets[0].room = usize::MAX;
            stage.host().announce(0, false, true, false);
            stage.settle();
            stage.advance(Duration::from_secs(2));
        }
        assert_eq!(stage.host().sockets[0].outbox, reached.as_bytes(), "{room} {flags}");
        assert_eq!(stage.host().calls.make_contiguous().join(" "), calls, "{room} {flags}");
        assert_eq!((stage.host().open_sockets(), flows(&stage)), (0, vec![]), "{room} {flags}");
    }
}

#[test]
fn what_the_host_connects_to_is_told_where_it_is_another() {
    let mut stage = Stage::new(Config { host_loopback: true, ..config() });
    let syn = |stage: &mut Stage, from: &str, to: &str| {
        let header = Tcp { flags: "S".into(), ..Tcp::default() };
        stage.receive(&frames::tcp(end(from), end(to), 64, &header, &[]));
    };
    syn(&mut stage, "[fd00:db8::64]:5000", "[64:ff9b:1::c633:6407]:443");
    syn(&mut stage, CONTAINER, "10.0.2.2:8080");
    let translated: Vec<_> = flows(&stage).iter().map(|flow| (flow.destination, flow.translated)).collect();
    assert_eq!(
        translated,
        [
            (end("[64:ff9b:1::c633:6407]:443"), Some(end(SERVER))),
            (end("10.0.2.2:8080"), Some(end("127.0.0.1:8080")))
        ]
    );
}

/// A client of the host's loopback, whom the container sees as the gateway.
#[test]
fn a_client_of_a_published_port_is_told_under_both_its_names() {
    let mut stage = Stage::new(config());
    stage.publish(end("10.0.2.100:80"));
    stage.receive(&frames::arp(1, CONTAINER_MAC, [10, 0, 2, 100], [10, 0, 2, 2]));
    while stage.sent().is_some() {}
    stage.host().connects(end("127.0.0.1:7777"));
    stage.settle();
    let flow = only(&stage);
    assert_eq!((flow.direction, flow.state), (Direction::Inbound, FlowState::SynSent));
    assert_eq!((flow.internal, flow.destination), (end("10.0.2.100:80"), end("10.0.2.2:7777")));
    assert_eq!(flow.translated, Some(end("127.0.0.1:7777")));

    let syn = sent_segment(&mut stage).unwrap();
    let ack = TcpPacket::new_unchecked(&syn[..]).seq_number().0.cast_unsigned().wrapping_add(1);
    let mut connection = Connection::new(stage, (flow.internal, flow.destination), "S.", ack);
    assert_eq!(connection.state(), FlowState::Established);
    connection.says("P.", b"welcome");
    assert_eq!(only(&connection.stage).bytes_sent, 7);
}

#[test]
fn a_mapping_shows_its_last_remote_and_whether_anybody_answers() {
    let mut stage = Stage::new(config());
    let container = end("[fd00:db8::64]:5000");
    stage.receive(&frames::udp(container, end("[2001:db8::7]:9"), 64, b"12345"));
    stage.receive(&frames::udp(container, end("[2001:db8::8]:9"), 64, b""));
    let flow = only(&stage);
    assert_eq!((flow.protocol, flow.direction), (FlowProtocol::Udp, Direction::Outbound));
    assert_eq!((flow.internal, flow.destination), (container, end("[2001:db8::8]:9")));
    assert_eq!((flow.external, flow.translated), (Some(end("192.0.2.1:10000")), None));
    assert_eq!((flow.state, flow.bytes_sent, flow.bytes_received), (FlowState::Unreplied, 5, 0));
    stage.now += Duration::from_secs(3);
    stage.host().receives(0, end("[2001:db8::7]:9"), b"123");
    stage.settle();
    stage.now += Duration::from_secs(2);
    let flow = only(&stage);
    assert_eq!((flow.state, flow.bytes_sent, flow.bytes_received), (FlowState::Replied, 5, 3));
    assert_eq!((flow.age, flow.idle), (Duration::from_secs(5), Duration::from_secs(2)));
}

#[test]
fn what_the_container_never_got_does_not_count() {
    let mut stage = Stage::new(config());
    stage.receive(&frames::udp(end(CONTAINER), end("198.51.100.7:9"), 64, b"12345"));
    // Nobody outside has an address of the network.
    stage.host().receives(0, end("10.0.2.77:9"), b"123");
    stage.settle();
    let flow = only(&stage);
    assert_eq!((flow.state, flow.bytes_received), (FlowState::Unreplied, 0));
}

#[test]
fn an_echo_counts_whole_messages() {
    let mut stage = Stage::new(config());
    let request = [&[0, 9, 0, 1][..], &[7; 56]].concat();
    let to = "64:ff9b:1::c633:6407".parse().unwrap();
    stage.receive(&frames::icmp("fd00:db8::64".parse().unwrap(), to, 64, 128, 0, &request));
    let reply = [&[0, 0, 0, 0, 0xaa, 0xaa, 0, 1][..], &[7; 56]].concat();
    stage.host().receives(0, end("198.51.100.7:0"), &reply);
    stage.settle();
    let flow = only(&stage);
    assert_eq!((flow.protocol, flow.state), (FlowProtocol::Icmpv6, FlowState::Replied));
    assert_eq!((flow.internal, flow.destination), (end("[fd00:db8::64]:9"), SocketAddr::new(to, 0)));
    assert_eq!(flow.translated, Some(end("198.51.100.7:0")));
    assert_eq!((flow.bytes_sent, flow.bytes_received), (64, 64));
}

#[test]
fn clients_of_a_published_udp_port_have_a_row_each() {
    let mut stage = Stage::new(config());
    let container = end("10.0.2.100:53");
    stage.publish_udp(Family::V4, container);
    stage.receive(&frames::arp(1, CONTAINER_MAC, [10, 0, 2, 100], [10, 0, 2, 2]));
    stage.host().receives_at(0, Some([192, 0, 2, 7].into()), end("203.0.113.9:5555"), b"12");
    stage.host().receives(0, end("127.0.0.1:6666"), b"123");
    stage.settle();
    stage.receive(&frames::udp(container, end("10.0.2.2:6666"), 64, b"1234"));
    let [direct, local] = flows(&stage)[..] else { unreachable!("two clients") };
    assert_eq!((direct.protocol, direct.direction), (FlowProtocol::Udp, Direction::Inbound));
    assert_eq!((direct.destination, direct.translated), (end("203.0.113.9:5555"), None));
    assert_eq!(direct.external, Some(end("192.0.2.7:10000")), "the address that the client speaks to");
    assert_eq!((direct.state, direct.bytes_sent, direct.bytes_received), (FlowState::Unreplied, 0, 2));
    assert_eq!((local.destination, local.translated), (end("10.0.2.2:6666"), Some(end("127.0.0.1:6666"))));
    assert_eq!((local.state, local.bytes_sent, local.bytes_received), (FlowState::Replied, 4, 3));
}

/// A container whose port is published speaks to somebody behind NAT64 by it.
#[test]
fn whom_a_published_udp_port_speaks_to_first_is_outbound() {
    let mut stage = Stage::new(config());
    let container = end("[fd00:db8::64]:53");
    stage.publish_udp(Family::V4, container);
    stage.receive(&frames::udp(container, end("[64:ff9b:1::c633:6407]:53"), 64, b"123"));
    let flow = only(&stage);
    assert_eq!((flow.direction, flow.state, flow.bytes_sent), (Direction::Outbound, FlowState::Unreplied, 3));
    assert_eq!(flow.translated, Some(end("198.51.100.7:53")));
}

/// A connection from this port of the container's that the host has accepted.
fn established(stage: Stage, port: u16) -> Connection {
    let ends = (SocketAddr::new(end(CONTAINER).ip(), port), end(SERVER));
    let mut connection = Connection::new(stage, ends, "S", 0);
    let socket = connection.stage.host().latest();
    connection.stage.host().connect_ends(socket, Ok(()));
    connection.stage.settle();
    connection.hears();
    connection.says(".", b"");
    connection
}

#[test]
fn of_segments_that_come_together_those_count_as_dropped_that_are_not_kept() {
    const SEGMENT: usize = 10_000;
    let burst = established(Stage::new(Config { memory_bytes: 100_000, ..config() }), 40_001);
    // Another connection, whose host takes nothing, has most of the memory.
    let (seq, ack, ends) = (burst.seq, burst.ack, burst.ends);
    let mut greedy = established(burst.stage, 40_002);
    let (first, second) = (0, greedy.stage.host().latest());
    greedy.stage.host().sockets[second].room = 0;
    (0..6).for_each(|_| greedy.says(".", &[1; SEGMENT]));
    let mut stage = greedy.stage;
    assert_eq!(stage.workers[0].gateway.drops().total(), 0);

    // The host takes one and a half of four segments, and there is memory for the other half.
    stage.host().sockets[first].room = SEGMENT * 3 / 2;
    for number in 0..4 {
        let header = Tcp {
            flags: ".".into(),
            seq: seq + number * SEGMENT as u32,
            ack,
            window: 60_000,
            ..Tcp::default()
        };
        let frame = frames::tcp(ends.0, ends.1, 64, &header, &[2; SEGMENT]);
        stage.receive_raw(0, [&[0; VNET_HEADER_LEN][..], &frame].concat());
    }
    stage.settle();
    assert_eq!(stage.host().sockets[first].outbox.len(), SEGMENT * 3 / 2);
    assert_eq!(stage.workers[0].gateway.drops().get(DropReason::RelayMemoryExhausted), 2);
}
