// SPDX-License-Identifier: MIT OR Apache-2.0
//! A container, played by a smoltcp host of its own, talks to the gateway over TCP.

use proptest::prelude::*;
use smoltcp::wire::{DnsRcode, IpEndpoint, IpListenEndpoint, TcpPacket};

use super::super::answer::Writer;
use super::super::message::tests::query;
use super::super::message::{Message, kind};
use super::super::script::ScriptedHost;
use super::*;
use crate::config::tests::config;
use crate::host::HostEvent;

const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 0x64]);

/// A container (a smoltcp host) and the gateway, connected.
struct Bench {
    gateway: TcpHost,
    forwarder: Forwarder,
    host: ScriptedHost,
    container: Interface,
    link: Queues,
    sockets: SocketSet<'static>,
    now: Instant,
    port: u16,
}

impl Bench {
    fn new() -> Self {
        let mut link = Queues { incoming: VecDeque::new(), outgoing: VecDeque::new(), mtu_bytes: 1500 };
        let now = Instant::from_secs(1);
        let mut container = Interface::new(InterfaceConfig::new(HardwareAddress::Ip), &mut link, time(now));
        container.update_ip_addrs(|addresses| {
            for host in 100..107 {
                addresses.push(IpCidr::new(IpAddress::v4(10, 0, 2, host), 24)).unwrap();
            }
            addresses.push(IpCidr::new(IpAddress::v6(0xfd00, 0xdb8, 0, 0, 0, 0, 0, 0x64), 64)).unwrap();
        });
        Self {
            gateway: TcpHost::new(&config(), now),
            forwarder: Forwarder::new(&config()),
            host: ScriptedHost::default(),
            container,
            link,
            sockets: SocketSet::new(Vec::new()),
            now,
            port: 40_000,
        }
    }

    fn connect(&mut self, to: IpAddress) -> SocketHandle {
        let handle = self.start_connect(to, 100);
        self.run();
        handle
    }

    /// Begins a connection; over IPv4 it comes from 10.0.2.`host`.
    fn start_connect(&mut self, to: IpAddress, host: u8) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 100_000]);
        let handle = self.sockets.add(Socket::new(buffer(), buffer()));
        self.port += 1;
        let from = matches!(to, IpAddress::Ipv4(_)).then_some(IpAddress::v4(10, 0, 2, host));
        let from = IpListenEndpoint { addr: from, port: self.port };
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        socket.connect(self.container.context(), IpEndpoint::new(to, 53), from).unwrap();
        handle
    }

    /// How many of these connections are open.
    fn established(&self, handles: &[SocketHandle]) -> usize {
        let state = |&&handle: &&SocketHandle| self.sockets.get::<Socket<'_>>(handle).state();
        handles.iter().filter(|handle| state(handle) == State::Established).count()
    }

    /// Moves packets to and fro until nobody has one.
    fn run(&mut self) {
        for _ in 0..2000 {
            self.container.poll(time(self.now), &mut self.link, &mut self.sockets);
            let mut moved = false;
            while let Some(packet) = self.link.outgoing.pop_front() {
                self.gateway.handle_packet(MAC, &packet);
                moved = true;
            }
            self.gateway.poll(self.now, &mut self.host, &mut self.forwarder);
            while let Some((client, reply)) = self.forwarder.poll_reply() {
                let Client::Tcp { connection, .. } = client else { panic!("{client:?}") };
                self.gateway.handle_reply(connection, &reply);
                moved = true;
            }
            while let Some(segment) = self.gateway.poll_segment() {
                assert_eq!(segment.mac, MAC);
                self.link.incoming.push_back(segment.packet);
                moved = true;
            }
            if !moved {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn pass(&mut self, secs: u64) {
        for _ in 0..secs {
            self.now += Duration::from_secs(1);
            self.run();
        }
    }

    fn send(&mut self, handle: SocketHandle, message: &[u8]) {
        let framed = [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat();
        self.send_raw(handle, &framed);
    }

    fn send_raw(&mut self, handle: SocketHandle, bytes: &[u8]) {
        let sent = self.sockets.get_mut::<Socket<'_>>(handle).send_slice(bytes);
        assert_eq!(sent, Ok(bytes.len()));
        self.run();
    }

    fn state(&mut self, handle: SocketHandle) -> State {
        self.sockets.get::<Socket<'_>>(handle).state()
    }

    fn received(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut bytes = vec![0; 100_000];
        let len = self.sockets.get_mut::<Socket<'_>>(handle).recv_slice(&mut bytes).unwrap_or(0);
        bytes.truncate(len);
        self.run();
        bytes
    }

    /// The nameserver answers the query on host socket `socket`.
    fn answer(&mut self, socket: u32, records: usize) {
        let token = self.host.sockets[&socket].token;
        let writable = HostEvent { token, readable: false, writable: true, error: false };
        self.forwarder.handle_event(self.now, &mut self.host, writable);
        let upstream = self.host.sockets.get_mut(&socket).unwrap();
        let asked = upstream.sent[2..].to_vec();
        let to = upstream.to.unwrap();
        let question = Message::parse(&asked).unwrap();
        let mut writer = Writer::answer(&question, DnsRcode::NoError);
        for _ in 0..records {
            writer.record(question.name(), kind::A, 60, &[192, 0, 2, 1]);
        }
        let reply = writer.finish(None);
        let framed = [&u16::try_from(reply.len()).unwrap().to_be_bytes()[..], &reply].concat();
        for piece in framed.chunks(4000) {
            let event = self.host.arrive(socket, to, piece);
            self.forwarder.handle_event(self.now, &mut self.host, event);
        }
        self.run();
    }
}

fn gateways() -> [IpAddress; 4] {
    let (ipv4, ipv6) = (config().ipv4.unwrap(), config().ipv6.unwrap());
    [ipv4.gateway.into(), ipv4.dns.into(), ipv6.gateway.into(), ipv6.dns.into()]
}

#[test]
fn a_query_is_answered_on_every_address_of_the_gateway() {
    for to in gateways() {
        let mut bench = Bench::new();
        let client = bench.connect(to);
        assert_eq!(bench.state(client), State::Established);
        bench.send(client, &query("a.example", kind::A, None));
        bench.answer(1, 1);
        let bytes = bench.received(client);
        assert_eq!(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])), bytes.len() - 2);
        assert_eq!(bytes[2..4], [0x12, 0x34]);
    }
}

#[test]
fn a_reply_of_64_kib_arrives_whole() {
    let mut bench = Bench::new();
    let client = bench.connect(gateways()[1]);
    bench.send(client, &query("a.example", kind::A, None));
    bench.answer(1, 4000);
    let mut bytes = Vec::new();
    for _ in 0..100 {
        bytes.extend(bench.received(client));
    }
    assert!(bytes.len() > 64_000, "{}", bytes.len());
    assert_eq!(Message::parse(&bytes[2..]).unwrap().records().count(), 4000);
}

#[test]
fn pipelined_queries_are_asked_at_once_and_answered_in_any_order() {
    // RFC 7766 section 6.2.1.1.
    let mut bench = Bench::new();
    let client = bench.connect(gateways()[1]);
    let first = query("a.example", kind::A, None);
    let mut second = query("b.example", kind::A, None);
    second[1] = 0x35;
    let mut both = Vec::new();
    for message in [&first, &second] {
        both.extend_from_slice(&u16::try_from(message.len()).unwrap().to_be_bytes());
        both.extend_from_slice(message);
    }
    // In pieces, so that lengths and messages are cut anywhere.
    for piece in both.chunks(5) {
        bench.send_raw(client, piece);
    }
    assert_eq!(bench.host.sockets.len(), 2);
    bench.answer(2, 1);
    bench.answer(1, 1);
    let bytes = bench.received(client);
    assert_eq!((bytes[3], bytes[bytes.len() / 2 + 3]), (0x35, 0x34));
}

#[test]
fn more_queries_than_may_be_under_way_wait_in_the_client() {
    let mut bench = Bench::new();
    let client = bench.connect(gateways()[1]);
    for number in 0..MAX_PIPELINED + 5 {
        bench.send(client, &query(&format!("{number}.example"), kind::A, None));
    }
    assert_eq!(bench.forwarder.pending(), MAX_PIPELINED);
    bench.answer(1, 1);
    assert_eq!(bench.host.opened, u32::try_from(MAX_PIPELINED).unwrap() + 1);
}

#[test]
fn an_idle_connection_is_closed_after_ten_seconds() {
    let mut bench = Bench::new();
    let client = bench.connect(gateways()[1]);
    bench.pass(9);
    assert_eq!(bench.state(client), State::Established);
    bench.pass(1);
    assert_eq!(bench.state(client), State::CloseWait);
    bench.sockets.get_mut::<Socket<'_>>(client).close();
    bench.pass(12);
    assert_eq!(bench.gateway.connections(), 0);
    assert_eq!(bench.gateway.poll_at(bench.now), Instant::FAR, "an idle gateway has no deadline");
}

#[test]
fn a_client_that_neither_reads_nor_closes_is_cut_off() {
    let mut bench = Bench::new();
    let client = bench.connect(gateways()[1]);
    bench.pass(10);
    assert_eq!(bench.state(client), State::CloseWait);
    bench.pass(11);
    assert_eq!((bench.state(client), bench.gateway.connections()), (State::Closed, 0));
}

#[test]
fn a_half_closed_client_still_gets_its_reply_and_then_the_end() {
    let mut bench = Bench::new();
    let client = bench.connect(gateways()[1]);
    bench.send(client, &query("a.example", kind::A, None));
    bench.sockets.get_mut::<Socket<'_>>(client).close();
    bench.run();
    bench.answer(1, 1);
    assert!(!bench.received(client).is_empty());
    bench.pass(1);
    assert_eq!(bench.state(client), State::TimeWait);
    assert_eq!(bench.gateway.connections(), 0);
}

#[test]
fn a_client_that_goes_away_takes_its_queries_with_it() {
    let mut bench = Bench::new();
    let client = bench.connect(gateways()[1]);
    bench.send(client, &query("a.example", kind::A, None));
    bench.sockets.get_mut::<Socket<'_>>(client).abort();
    bench.run();
    assert_eq!((bench.forwarder.pending(), bench.host.sockets.len()), (0, 0));
    assert_eq!(bench.gateway.connections(), 0);
}

#[test]
fn the_longest_idle_connection_of_a_container_gives_way_to_its_next() {
    // RFC 7766 section 6.2.3.
    let mut bench = Bench::new();
    let busy = bench.connect(gateways()[1]);
    bench.send(busy, &query("a.example", kind::A, None));
    let idle: Vec<_> = (1..MAX_CONNECTIONS_PER_CLIENT).map(|_| bench.connect(gateways()[1])).collect();
    bench.pass(1);
    // The first of them is no longer the one that said nothing for longest.
    bench.send(idle[0], &query("localhost", kind::A, None));
    let next = bench.connect(gateways()[1]);
    assert_eq!(bench.gateway.connections(), MAX_CONNECTIONS_PER_CLIENT);
    assert_eq!(bench.state(idle[1]), State::Closed);
    assert_eq!((bench.established(&[busy, next]), bench.established(&idle)), (2, idle.len() - 1));
    bench.answer(1, 1);
    assert!(!bench.received(busy).is_empty(), "it had asked something");
}

#[test]
fn a_reply_that_is_not_yet_acknowledged_keeps_its_connection() {
    let mut bench = Bench::new();
    let slow = bench.connect(gateways()[1]);
    bench.send(slow, &query("a.example", kind::A, None));
    // Twice what the client's buffer takes.
    bench.answer(1, 4000);
    bench.send(slow, &query("a.example", kind::A, None));
    bench.answer(2, 4000);
    for _ in 0..2 * MAX_CONNECTIONS_PER_CLIENT {
        bench.connect(gateways()[1]);
    }
    assert_eq!(bench.established(&[slow]), 1);
}

#[test]
fn where_all_connections_are_busy_the_next_is_reset() {
    let mut bench = Bench::new();
    let busy: Vec<_> = (0..MAX_CONNECTIONS_PER_CLIENT).map(|_| bench.connect(gateways()[1])).collect();
    for &client in &busy {
        bench.send(client, &query("a.example", kind::A, None));
    }
    let next = bench.connect(gateways()[1]);
    assert_eq!((bench.state(next), bench.established(&busy)), (State::Closed, busy.len()));
    bench.answer(1, 1);
    bench.pass(1);
    let next = bench.connect(gateways()[1]);
    assert_eq!(bench.state(next), State::Established, "the reply is acknowledged");
}

#[test]
fn all_containers_together_have_a_limit_and_a_turn_each() {
    let mut bench = Bench::new();
    for number in 0..MAX_CONNECTIONS + 20 {
        let host = 100 + u8::try_from(number / MAX_CONNECTIONS_PER_CLIENT).unwrap();
        let client = bench.start_connect(gateways()[1], host);
        bench.run();
        assert_eq!(bench.state(client), State::Established);
    }
    assert_eq!(bench.gateway.connections(), MAX_CONNECTIONS);
    assert_eq!(bench.gateway.connections.len(), MAX_CONNECTIONS + 1, "one more listens");
}

#[test]
fn every_syn_of_a_burst_is_answered() {
    let mut bench = Bench::new();
    let burst: Vec<_> =
        (0..MAX_CONNECTIONS_PER_CLIENT).map(|_| bench.start_connect(gateways()[1], 100)).collect();
    bench.run();
    assert_eq!(bench.established(&burst), burst.len());
}

#[test]
fn a_reset_during_the_handshake_leaves_nothing_behind() {
    let mut bench = Bench::new();
    let client = bench.start_connect(gateways()[1], 100);
    bench.container.poll(time(bench.now), &mut bench.link, &mut bench.sockets);
    let syn = bench.link.outgoing.pop_front().unwrap();
    bench.gateway.handle_packet(MAC, &syn);
    bench.gateway.poll(bench.now, &mut bench.host, &mut bench.forwarder);
    assert_eq!(bench.gateway.connections(), 1);
    // The SYN itself, made into the reset that follows it.
    let mut reset = syn;
    let tcp = Ipv4Packet::new_unchecked(&reset[..]).header_len().into();
    let mut segment = TcpPacket::new_unchecked(&mut reset[tcp..]);
    segment.set_syn(false);
    segment.set_rst(true);
    segment.set_seq_number(segment.seq_number() + 1);
    bench.gateway.handle_packet(MAC, &reset);
    bench.gateway.poll(bench.now, &mut bench.host, &mut bench.forwarder);
    assert_eq!((bench.gateway.connections(), bench.gateway.connections.len()), (0, 1));
    bench.sockets.remove(client);
}

#[test]
fn what_is_no_query_ends_the_connection() {
    let mut bench = Bench::new();
    let other = bench.connect(gateways()[1]);
    bench.send(other, &[0; 5]);
    assert_eq!(bench.state(other), State::Closed);
}

#[test]
fn a_port_without_a_service_is_refused() {
    let mut bench = Bench::new();
    let handle = bench.connect(gateways()[1]);
    let socket = bench.sockets.get_mut::<Socket<'_>>(handle);
    socket.abort();
    socket.connect(bench.container.context(), IpEndpoint::new(gateways()[1], 54), 50_000).unwrap();
    bench.run();
    assert_eq!(bench.state(handle), State::Closed);
}

#[test]
fn the_limits_of_the_cargo_configuration_took_effect() {
    use smoltcp::config;
    assert_eq!(config::IFACE_MAX_ADDR_COUNT, 8);
    assert_eq!(config::IFACE_MAX_ROUTE_COUNT, 4);
    assert_eq!(config::IFACE_NEIGHBOR_CACHE_COUNT, 64);
    assert_eq!(config::ASSEMBLER_MAX_SEGMENT_COUNT, 32);
    let host = TcpHost::new(&config(), Instant::ZERO);
    assert_eq!(host.interface.ip_addrs().len(), 5);
}

proptest! {
    #[test]
    fn no_packet_makes_it_panic(version in prop_oneof![Just(0x45u8), Just(0x60)], rest in prop::collection::vec(any::<u8>(), 0..80), fix in any::<bool>()) {
        let mut bytes = vec![version];
        bytes.extend(rest);
        if fix && version == 0x45 && bytes.len() >= 20 {
            let len = u16::try_from(bytes.len()).unwrap();
            let mut ip = Ipv4Packet::new_unchecked(&mut bytes[..]);
            ip.set_total_len(len);
            ip.set_next_header(smoltcp::wire::IpProtocol::Tcp);
            ip.set_src_addr([10, 0, 2, 100].into());
            ip.set_dst_addr([10, 0, 2, 3].into());
            ip.fill_checksum();
        }
        let mut bench = Bench::new();
        bench.gateway.handle_packet(MAC, &bytes);
        bench.gateway.poll(bench.now, &mut bench.host, &mut bench.forwarder);
        while bench.gateway.poll_segment().is_some() {}
    }
}

#[test]
fn a_connection_that_waits_for_its_reply_has_no_deadline_of_its_own() {
    let mut bench = Bench::new();
    let client = bench.connect(gateways()[1]);
    bench.send(client, &query("a.example", kind::A, None));
    bench.pass(15);
    assert_eq!(bench.state(client), State::Established);
    assert_eq!(bench.gateway.poll_at(bench.now), Instant::FAR);
}
