// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a container and its host's nameservers may rely on.

use core::net::{IpAddr, Ipv6Addr};

use proptest::prelude::*;
use smoltcp::wire::EthernetAddress;

use super::super::answer::Writer;
use super::super::message::tests::query;
use super::super::script::ScriptedHost;
use super::super::{MAX_ATTEMPTS, MAX_QUERIES, MAX_QUERIES_PER_CLIENT};
use super::*;
use crate::config::tests::config;

mod keeping;
mod sharing;

const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 0x64]);

fn server(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 53))
}

fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

fn client(port: u16) -> Client {
    let from = SocketAddr::from(([10, 0, 2, 100], port));
    Client::Udp { mac: MAC, from, to: IpAddr::from([10, 0, 2, 3]) }
}

/// One of several, by the last numbers of its MAC and its IPv4 address.
fn container(mac: u8, address: u8) -> Client {
    let from = SocketAddr::from(([10, 0, 2, address], 4000));
    let mac = EthernetAddress([2, 0, 0, 0, 0, mac]);
    Client::Udp { mac, from, to: IpAddr::from([10, 0, 2, 3]) }
}

fn stream(connection: u64) -> Client {
    Client::Tcp { connection, from: IpAddr::from([10, 0, 2, 100]) }
}

/// A forwarder and the world around it.
struct Bench {
    forwarder: Forwarder,
    host: ScriptedHost,
}

impl Bench {
    fn new(servers: &[SocketAddr], nat64: bool) -> Self {
        let mut config = config();
        config.nameservers = servers.to_vec();
        if !nat64 {
            config.nat64 = None;
        }
        Self { forwarder: Forwarder::new(&config), host: ScriptedHost::default() }
    }

    fn ask(&mut self, millis: u64, client: Client, bytes: &[u8]) -> Result<(), DropReason> {
        self.forwarder.handle_query(at(millis), &mut self.host, client, bytes)
    }

    fn event(&mut self, millis: u64, event: HostEvent) {
        self.forwarder.handle_event(at(millis), &mut self.host, event);
    }

    fn poll(&mut self, millis: u64) {
        self.forwarder.poll(at(millis), &mut self.host);
    }

    /// The last datagram that left: to whom, what, by which socket.
    fn last(&self) -> (SocketAddr, Vec<u8>, u32) {
        self.host.datagrams.last().unwrap().clone()
    }

    /// The server asked last answers with `make(its question)`.
    fn answer(&mut self, millis: u64, make: impl Fn(&Message<'_>) -> Vec<u8>) {
        let (to, asked, socket) = self.last();
        let bytes = make(&Message::parse(&asked).unwrap());
        let event = self.host.arrive(socket, to, &bytes);
        self.event(millis, event);
    }

    /// Nobody asks any more.
    fn rest(&mut self) {
        while self.forwarder.poll_at() < Instant::FAR {
            let now = self.forwarder.poll_at().as_millis() + 1;
            self.poll(now);
        }
        assert!(self.host.sockets.is_empty(), "a socket is left");
    }

    fn reply(&mut self) -> Option<(Client, Vec<u8>)> {
        self.forwarder.poll_reply()
    }

    fn rcode(&mut self) -> DnsRcode {
        let (_, bytes) = self.reply().expect("a reply");
        Message::parse(&bytes).unwrap().header().rcode()
    }
}

fn rcode(rcode: DnsRcode) -> impl Fn(&Message<'_>) -> Vec<u8> {
    move |asked| Writer::answer(asked, rcode).finish(None)
}

fn addresses(addresses: &'static [[u8; 4]]) -> impl Fn(&Message<'_>) -> Vec<u8> {
    move |asked| {
        let mut writer = Writer::answer(asked, DnsRcode::NoError);
        for address in addresses {
            writer.record(asked.name(), kind::A, 60, address);
        }
        writer.finish(None)
    }
}

#[test]
fn a_query_goes_out_with_another_id_and_its_reply_comes_back_with_the_clients() {
    let mut bench = Bench::new(&[server(1)], false);
    let asked = query("a.example", kind::A, Some(4096));
    bench.ask(0, client(4000), &asked).unwrap();
    let (to, sent, _) = bench.last();
    assert_eq!(to, server(1));
    assert_ne!(sent[..2], asked[..2]);
    assert_eq!(sent[2..], asked[2..], "EDNS and all");
    bench.answer(5, addresses(&[[192, 0, 2, 80]]));
    let (to, reply) = bench.reply().unwrap();
    assert_eq!((to, &reply[..2]), (client(4000), &asked[..2]));
    assert_eq!(Message::parse(&reply).unwrap().records().count(), 1);
    assert_eq!(bench.forwarder.pending(), 0);
    bench.rest();
}

#[test]
fn a_reply_that_does_not_match_is_not_listened_to() {
    // RFC 5452 section 9.1.
    let mut bench = Bench::new(&[server(1)], false);
    bench.ask(0, client(4000), &query("a.example", kind::A, None)).unwrap();
    let (_, asked, socket) = bench.last();
    let good = addresses(&[[192, 0, 2, 80]])(&Message::parse(&asked).unwrap());
    let mut wrong_id = good.clone();
    wrong_id[1] ^= 1;
    let mut wrong_question = good.clone();
    wrong_question[13] = b'b';
    let other_case = good.iter().map(u8::to_ascii_uppercase).collect::<Vec<_>>();
    let cases = [
        (server(2), good.clone()),
        (SocketAddr::new(server(1).ip(), 5353), good.clone()),
        (server(1), wrong_id),
        (server(1), wrong_question),
        (server(1), other_case),
        (server(1), asked.clone()),
        (server(1), good[..12].to_vec()),
    ];
    for (from, bytes) in cases {
        let event = bench.host.arrive(socket, from, &bytes);
        bench.event(1, event);
        assert_eq!(bench.reply(), None, "{bytes:?} from {from}");
    }
    let event = bench.host.arrive(socket, server(1), &good);
    bench.event(2, event);
    assert!(bench.reply().is_some());
}

#[test]
fn a_silent_server_is_followed_by_the_next_and_asked_last_for_a_while() {
    let mut bench = Bench::new(&[server(1), server(2)], false);
    bench.ask(0, client(4000), &query("a.example", kind::A, None)).unwrap();
    bench.poll(1000);
    assert_eq!(bench.forwarder.poll_at(), at(1500));
    bench.poll(1499);
    assert_eq!(bench.host.datagrams.len(), 1);
    bench.poll(1500);
    assert_eq!(bench.last().0, server(2));
    bench.answer(1510, addresses(&[[192, 0, 2, 80]]));
    assert!(bench.reply().is_some());
    bench.ask(2000, client(4001), &query("b.example", kind::A, None)).unwrap();
    assert_eq!(bench.last().0, server(2), "the silent one is shunned");
}

#[test]
fn a_late_answer_of_the_first_server_counts() {
    let mut bench = Bench::new(&[server(1), server(2)], false);
    bench.ask(0, client(4000), &query("a.example", kind::A, None)).unwrap();
    let (_, asked, socket) = bench.last();
    bench.poll(1500);
    let reply = addresses(&[[192, 0, 2, 80]])(&Message::parse(&asked).unwrap());
    let event = bench.host.arrive(socket, server(1), &reply);
    bench.event(1600, event);
    assert!(bench.reply().is_some());
    bench.rest();
}

#[test]
fn the_only_server_is_asked_three_times_before_the_client_hears_servfail() {
    let mut bench = Bench::new(&[server(1)], false);
    bench.ask(0, client(4000), &query("a.example", kind::A, None)).unwrap();
    for millis in [1500, 3000] {
        bench.poll(millis);
    }
    assert_eq!(bench.host.datagrams.len(), 3);
    bench.poll(4500);
    assert_eq!(bench.rcode(), DnsRcode::ServFail);
    bench.rest();
}

#[test]
fn every_server_is_asked_within_the_deadline() {
    let servers: Vec<_> = (1..=8).map(server).collect();
    let mut bench = Bench::new(&servers, false);
    bench.ask(0, client(4000), &query("a.example", kind::A, None)).unwrap();
    while bench.forwarder.poll_at() < Instant::FAR {
        let now = bench.forwarder.poll_at().as_millis() + 1;
        bench.poll(now);
        assert!(bench.host.sockets.len() <= MAX_ATTEMPTS);
    }
    let asked: Vec<_> = bench.host.datagrams.iter().map(|&(to, ..)| to).collect();
    assert!(servers.iter().all(|server| asked.contains(server)), "{asked:?}");
}

#[test]
fn a_server_that_fails_or_refuses_is_passed_over_at_once() {
    for code in [DnsRcode::ServFail, DnsRcode::Refused] {
        let mut bench = Bench::new(&[server(1), server(2)], false);
        bench.ask(0, client(4000), &query("a.example", kind::A, None)).unwrap();
        bench.answer(3, rcode(code));
        assert_eq!((bench.last().0, bench.reply()), (server(2), None));
        bench.answer(6, rcode(code));
        assert_eq!(bench.rcode(), code, "all of them: the reply is the client's");
    }
}

#[test]
fn a_name_that_does_not_exist_is_no_failure() {
    let mut bench = Bench::new(&[server(1), server(2)], false);
    bench.ask(0, client(4000), &query("a.example", kind::A, None)).unwrap();
    bench.answer(3, rcode(DnsRcode::NXDomain));
    assert_eq!(bench.rcode(), DnsRcode::NXDomain);
}

#[test]
fn an_unreachable_server_is_passed_over_at_once() {
    let mut bench = Bench::new(&[server(1), server(2), server(3)], false);
    bench.host.unreachable.push(server(1).ip());
    bench.ask(0, client(4000), &query("a.example", kind::A, None)).unwrap();
    let (to, _, socket) = bench.last();
    assert_eq!(to, server(2));
    let event = bench.host.report(socket, server(2));
    bench.event(1, event);
    assert_eq!(bench.last().0, server(3));
    let (.., socket) = bench.last();
    let event = bench.host.report(socket, server(3));
    bench.event(2, event);
    assert_eq!(bench.rcode(), DnsRcode::ServFail);
}

#[test]
fn without_nameservers_queries_are_refused() {
    let mut bench = Bench::new(&[], false);
    bench.ask(0, client(4000), &query("a.example", kind::A, None)).unwrap();
    assert_eq!(bench.rcode(), DnsRcode::Refused);
    bench.forwarder.set_nameservers(&[server(7)]);
    bench.ask(1, client(4000), &query("a.example", kind::A, None)).unwrap();
    assert_eq!(bench.last().0, server(7));
}

#[test]
fn a_changed_list_holds_from_the_next_query_on() {
    let mut bench = Bench::new(&[server(1)], false);
    bench.ask(0, client(4000), &query("a.example", kind::A, None)).unwrap();
    bench.forwarder.set_nameservers(&[server(2)]);
    bench.ask(1, client(4001), &query("b.example", kind::A, None)).unwrap();
    let to: Vec<_> = bench.host.datagrams.iter().map(|&(to, ..)| to).collect();
    assert_eq!(to, [server(1), server(2)]);
}

#[test]
fn a_client_that_repeats_itself_is_not_asked_for_twice() {
    let mut bench = Bench::new(&[server(1)], false);
    let asked = query("a.example", kind::A, None);
    bench.ask(0, client(4000), &asked).unwrap();
    assert_eq!(bench.ask(1, client(4000), &asked), Err(DropReason::DnsRepeated));
    bench.ask(1, client(4000), &query("b.example", kind::A, None)).unwrap();
    bench.ask(1, client(4001), &asked).unwrap();
    assert_eq!(bench.forwarder.pending(), 3);
}

#[test]
fn one_container_cannot_take_the_whole_table() {
    let mut bench = Bench::new(&[server(1)], false);
    let share = u16::try_from(MAX_QUERIES_PER_CLIENT).unwrap();
    // Of one name and of many.
    for port in 0..share {
        bench.ask(0, client(4000 + port), &query(&format!("{}.example", port / 2), kind::A, None)).unwrap();
    }
    let asked = query("b.example", kind::A, None);
    assert_eq!(bench.ask(0, client(5000), &asked), Err(DropReason::DnsTableFull));
    // Another address does not make it another container.
    assert_eq!(bench.ask(0, container(100, 101), &asked), Err(DropReason::DnsTableFull));
    assert_eq!(bench.ask(0, container(101, 101), &asked), Ok(()));
}

#[test]
fn however_many_are_greedy_there_is_room_for_another() {
    let mut bench = Bench::new(&[server(1)], false);
    for number in 0..50_000u32 {
        let asked = query(&format!("{number}.example"), kind::A, None);
        let greedy = container(1 + u8::try_from(number % 40).unwrap(), 7);
        let _ = bench.ask(0, greedy, &asked);
    }
    assert!(bench.forwarder.pending() > MAX_QUERIES * 9 / 10);
    for number in 0..10 {
        let asked = query(&format!("{number}.example.org"), kind::A, None);
        assert_eq!(bench.ask(0, container(100, 100), &asked), Ok(()));
    }
}

#[test]
fn what_is_no_query_is_dropped() {
    let mut bench = Bench::new(&[server(1)], false);
    let good = query("a.example", kind::A, None);
    assert_eq!(bench.ask(0, client(1), &good[..11]), Err(DropReason::DnsMalformed));
    // Whether the rest can be read or not: an answer to an answer could go on for ever.
    for len in [12, good.len()] {
        let mut response = good[..len].to_vec();
        response[2] |= 0x80;
        assert_eq!(bench.ask(0, client(1), &response), Err(DropReason::DnsNotQuery));
    }
    assert!(bench.reply().is_none() && bench.host.datagrams.is_empty());
}

#[test]
fn every_error_answer_copies_id_opcode_and_recursion_desired() {
    // RFC 1035 section 4.1.1.
    let with_flags = |name: &str, kind, flags: u8| {
        let mut bytes = query(name, kind, Some(1232));
        bytes[2] = flags;
        bytes
    };
    // The opcode at hand, what is asked, and what comes of it.
    let (notify, update, stateful) = (4 << 3, 5 << 3, 6 << 3);
    let mut empty = with_flags("a.example", kind::A, 0);
    empty.truncate(12);
    empty[4..].fill(0);
    let mut keepalive = empty.clone();
    keepalive[2] = stateful;
    let cases = [
        (with_flags("a.example", kind::SOA, notify), DnsRcode::NotImp),
        (with_flags("a.example", kind::SOA, update), DnsRcode::NotImp),
        (keepalive, DnsRcode::NotImp),
        (with_flags("a.example", kind::AXFR, 0), DnsRcode::NotImp),
        (empty, DnsRcode::FormErr),
        (with_flags("a.example", kind::A, 0)[..20].to_vec(), DnsRcode::FormErr),
        (with_flags("a.invalid", kind::A, 0), DnsRcode::NXDomain),
        // There is no nameserver.
        (with_flags("a.example", kind::A, 0), DnsRcode::Refused),
    ];
    for (mut asked, rcode) in cases {
        for recursion_desired in [0, 1] {
            let mut bench = Bench::new(&[], false);
            asked[2] = asked[2] & 0xfe | recursion_desired;
            bench.ask(0, client(1), &asked).unwrap();
            let (_, told) = bench.reply().unwrap();
            assert_eq!((&told[..2], told[2]), (&asked[..2], 0x80 | asked[2]), "{rcode:?}");
            assert_eq!(told[3] & 0x0f, u8::from(rcode));
        }
    }
}

#[test]
fn another_version_of_edns_is_refused_in_the_words_of_ours() {
    // RFC 6891 section 6.1.3.
    let mut bench = Bench::new(&[server(1)], false);
    let mut asked = query("a.example", kind::A, Some(1232));
    let version = asked.len() - 5;
    asked[version] = 1;
    bench.ask(0, client(4000), &asked).unwrap();
    let (_, told) = bench.reply().unwrap();
    let message = Message::parse(&told).unwrap();
    let opt = message.records().next().unwrap();
    assert_eq!((message.header().rcode(), opt.kind, opt.ttl), (DnsRcode::NoError, kind::OPT, 1 << 24));
    assert!(bench.host.datagrams.is_empty());
}

#[test]
fn special_names_are_never_asked_for() {
    // RFC 6761.
    for name in ["localhost", "a.localhost", "a.invalid", "1.0.0.127.in-addr.arpa"] {
        let mut bench = Bench::new(&[server(1)], true);
        bench.ask(0, client(4000), &query(name, kind::AAAA, None)).unwrap();
        assert!(bench.reply().is_some() && bench.host.datagrams.is_empty(), "{name}");
    }
}

fn many(count: u8) -> impl Fn(&Message<'_>) -> Vec<u8> {
    move |asked| {
        let mut writer = Writer::answer(asked, DnsRcode::NoError);
        for last in 0..count {
            writer.record(asked.name(), kind::A, 60, &[192, 0, 2, last]);
        }
        writer.finish(asked.edns())
    }
}

#[test]
fn a_reply_longer_than_the_client_or_the_link_takes_is_cut_and_marked() {
    // 40 records of 16 bytes: about 670 bytes; 120: about 1950.
    for (udp_len, records, cut) in [(None, 40, true), (Some(1232), 40, false), (Some(4096), 120, true)] {
        let mut bench = Bench::new(&[server(1)], false);
        bench.ask(0, client(4000), &query("a.example", kind::A, udp_len)).unwrap();
        bench.answer(1, many(records));
        let (_, reply) = bench.reply().unwrap();
        let message = Message::parse(&reply).unwrap();
        assert_eq!(message.has(DnsFlags::TRUNCATED), cut, "{udp_len:?}");
        assert!(reply.len() <= udp_len.map_or(512, usize::from).min(1452));
    }
}

#[test]
fn a_reply_cut_upstream_is_passed_on_with_its_mark() {
    let mut bench = Bench::new(&[server(1)], true);
    bench.ask(0, client(4000), &query("a.example", kind::AAAA, None)).unwrap();
    bench.answer(1, |asked| {
        let mut writer = Writer::answer(asked, DnsRcode::NoError);
        writer.truncated();
        writer.finish(None)
    });
    let (_, reply) = bench.reply().unwrap();
    assert!(Message::parse(&reply).unwrap().has(DnsFlags::TRUNCATED));
}

#[test]
fn a_query_over_tcp_goes_upstream_over_tcp_and_brings_64_kib() {
    let mut bench = Bench::new(&[server(1)], false);
    bench.host.bite = 7;
    let asked = query("a.example", kind::A, None);
    bench.ask(0, stream(1), &asked).unwrap();
    let (&id, socket) = bench.host.sockets.iter().next().unwrap();
    assert_eq!(socket.to, Some(server(1)));
    let token = socket.token;
    let writable = HostEvent { token, readable: false, writable: true, error: false };
    bench.event(1, writable);
    let sent = bench.host.sockets[&id].sent.clone();
    assert_eq!(usize::from(u16::from_be_bytes([sent[0], sent[1]])), asked.len());
    assert_eq!(sent[4..], asked[2..]);
    let mut reply = Writer::answer(&Message::parse(&sent[2..]).unwrap(), DnsRcode::NoError);
    for _ in 0..4000 {
        reply.record(b"\x01a\x07example\x00", kind::A, 60, &[192, 0, 2, 1]);
    }
    let reply = reply.finish(None);
    assert!(reply.len() > 64_000);
    let framed = [&u16::try_from(reply.len()).unwrap().to_be_bytes()[..], &reply].concat();
    for piece in framed.chunks(1000) {
        let event = bench.host.arrive(id, server(1), piece);
        bench.event(2, event);
    }
    let (to, told) = bench.reply().unwrap();
    assert_eq!((to, told.len()), (stream(1), reply.len()));
    assert_eq!(told[..2], asked[..2]);
}

#[test]
fn a_stream_that_ends_early_is_a_failed_server() {
    let mut bench = Bench::new(&[server(1), server(2)], false);
    bench.ask(0, stream(1), &query("a.example", kind::A, None)).unwrap();
    let socket = bench.host.sockets.values_mut().next().unwrap();
    socket.ended = true;
    let event = HostEvent { token: socket.token, readable: true, writable: true, error: false };
    bench.event(1, event);
    assert_eq!(bench.host.sockets.values().next().unwrap().to, Some(server(2)));
    bench.poll(3001);
    bench.poll(9000);
    assert_eq!(bench.rcode(), DnsRcode::ServFail);
}

#[test]
fn a_connection_that_went_away_takes_its_queries_with_it() {
    let mut bench = Bench::new(&[server(1)], false);
    for (connection, name) in [(1, "a.example"), (1, "b.example"), (2, "b.example"), (2, "b.example")] {
        bench.ask(0, stream(connection), &query(name, kind::A, None)).unwrap();
    }
    bench.forwarder.cancel(&mut bench.host, 1);
    assert_eq!((bench.forwarder.pending(), bench.host.sockets.len()), (2, 1));
    bench.forwarder.cancel(&mut bench.host, 2);
    assert_eq!((bench.forwarder.pending(), bench.host.sockets.len()), (0, 0));
}

#[test]
fn a_name_with_ipv4_only_gets_an_address_under_the_prefix() {
    let mut bench = Bench::new(&[server(1)], true);
    let asked = query("a.example", kind::AAAA, Some(1232));
    bench.ask(0, client(4000), &asked).unwrap();
    assert_eq!(Message::parse(&bench.last().1).unwrap().kind(), kind::AAAA);
    bench.answer(1, rcode(DnsRcode::NoError));
    let (_, second, _) = bench.last();
    assert_eq!(Message::parse(&second).unwrap().kind(), kind::A);
    bench.answer(2, addresses(&[[192, 0, 2, 80]]));
    let (_, reply) = bench.reply().unwrap();
    let message = Message::parse(&reply).unwrap();
    let record = message.records().next().unwrap();
    let expected: Ipv6Addr = "64:ff9b:1::192.0.2.80".parse().unwrap();
    assert_eq!((record.kind, message.data(&record)), (kind::AAAA, &expected.octets()[..]));
    assert_eq!((message.question(), &reply[..2]), (Message::parse(&asked).unwrap().question(), &asked[..2]));
}

#[test]
fn servers_that_choke_on_aaaa_are_asked_for_a() {
    // RFC 6147 sections 5.1.2 and 5.1.3.
    for silent in [false, true] {
        let mut bench = Bench::new(&[server(1)], true);
        bench.ask(0, client(4000), &query("a.example", kind::AAAA, None)).unwrap();
        if silent {
            for millis in [1000, 2000, 3000] {
                bench.poll(millis);
            }
        } else {
            bench.answer(1, rcode(DnsRcode::ServFail));
        }
        assert_eq!(Message::parse(&bench.last().1).unwrap().kind(), kind::A);
        bench.answer(3100, addresses(&[[192, 0, 2, 80]]));
        let (_, reply) = bench.reply().unwrap();
        let reply = Message::parse(&reply).unwrap();
        // Not for long: the server may recover, and the name have an IPv6 address.
        let ttls: Vec<u32> = reply.records().map(|record| record.ttl).collect();
        assert_eq!((reply.header().rcode(), &ttls[..]), (DnsRcode::NoError, &[30][..]));
        bench.rest();
    }
}

#[test]
fn when_both_halves_fail_the_client_hears_servfail_about_its_own_question() {
    let mut bench = Bench::new(&[server(1)], true);
    bench.ask(0, client(4000), &query("a.example", kind::AAAA, None)).unwrap();
    bench.answer(1, rcode(DnsRcode::ServFail));
    bench.answer(2, rcode(DnsRcode::ServFail));
    let (_, reply) = bench.reply().unwrap();
    let message = Message::parse(&reply).unwrap();
    assert_eq!((message.kind(), message.header().rcode()), (kind::AAAA, DnsRcode::ServFail));
}

#[test]
fn a_reverse_query_under_the_prefix_is_asked_in_ipv4_words() {
    let mut bench = Bench::new(&[server(1)], true);
    let address: Ipv6Addr = "64:ff9b:1::192.0.2.33".parse().unwrap();
    let mut name = String::new();
    for octet in address.octets().iter().rev() {
        name += &format!("{:x}.{:x}.", octet & 15, octet >> 4);
    }
    bench.ask(0, client(4000), &query(&(name + "ip6.arpa"), kind::PTR, None)).unwrap();
    let (_, asked, _) = bench.last();
    assert_eq!(Message::parse(&asked).unwrap().name(), b"\x0233\x012\x010\x03192\x07in-addr\x04arpa\x00");
    bench.answer(1, |asked| {
        let mut writer = Writer::answer(asked, DnsRcode::NoError);
        writer.record(asked.name(), kind::PTR, 60, b"\x04host\x07example\x00");
        writer.finish(None)
    });
    let (_, reply) = bench.reply().unwrap();
    let kinds: Vec<_> = Message::parse(&reply).unwrap().records().map(|record| record.kind).collect();
    assert_eq!(kinds, [kind::CNAME, kind::PTR]);
}

#[test]
fn ipv4only_arpa_is_answered_here_only_with_nat64() {
    let asked = query("ipv4only.arpa", kind::AAAA, None);
    let mut with = Bench::new(&[server(1)], true);
    with.ask(0, client(4000), &asked).unwrap();
    assert!(with.reply().is_some() && with.host.datagrams.is_empty());
    let mut without = Bench::new(&[server(1)], false);
    without.ask(0, client(4000), &asked).unwrap();
    assert_eq!((without.reply(), without.host.datagrams.len()), (None, 1));
}

#[test]
fn an_event_for_a_closed_socket_finds_nobody() {
    let mut bench = Bench::new(&[server(1)], false);
    bench.ask(0, client(4000), &query("a.example", kind::A, None)).unwrap();
    let (_, _, socket) = bench.last();
    let token = bench.host.sockets[&socket].token;
    bench.answer(1, rcode(DnsRcode::NoError));
    bench.ask(2, client(4000), &query("b.example", kind::A, None)).unwrap();
    bench.event(3, HostEvent { token, readable: true, writable: true, error: true });
    assert_eq!(bench.forwarder.pending(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever containers ask and servers say, in whatever order: no panic, no socket left behind, and every query
    /// taken ends in exactly one reply.
    #[test]
    fn every_query_is_answered_once(steps in prop::collection::vec((0u8..6, any::<u16>(), prop::collection::vec(any::<u8>(), 0..40)), 1..60)) {
        let mut bench = Bench::new(&[server(1), server(2)], true);
        let (mut now, mut taken, mut replied) = (0u64, 0usize, 0usize);
        for (action, number, bytes) in steps {
            match action {
                0 => {
                    let kind = [kind::A, kind::AAAA, kind::PTR][usize::from(number % 3)];
                    let asked = query(["a.example", "b.example"][usize::from(number % 2)], kind, None);
                    let who = if number % 5 == 0 { stream(number.into()) } else { client(number % 16) };
                    taken += usize::from(bench.ask(now, who, &asked).is_ok());
                }
                1 => { taken += usize::from(bench.ask(now, client(number), &bytes).is_ok()); }
                2 => { now += u64::from(number % 2000); bench.poll(now); }
                _ => {
                    let open: Vec<u32> = bench.host.sockets.keys().copied().collect();
                    let Some(&socket) = open.get(usize::from(number) % open.len().max(1)) else { continue };
                    let sent = bench.host.datagrams.iter().find(|(.., id)| *id == socket).cloned();
                    let event = match (action, sent) {
                        (3, Some((to, asked, _))) => {
                            let code = [DnsRcode::NoError, DnsRcode::NXDomain, DnsRcode::ServFail][usize::from(number % 3)];
                            let mut reply = rcode(code)(&Message::parse(&asked).unwrap());
                            reply[7] = bytes.first().map_or(0, |count| count % 4);
                            reply.extend(&bytes);
                            bench.host.arrive(socket, to, &reply)
                        }
                        (4, Some((to, ..))) => bench.host.report(socket, to),
                        (_, Some((to, ..))) => bench.host.arrive(socket, to, &bytes),
                        (_, None) => {
                            let socket = bench.host.sockets.get_mut(&socket).unwrap();
                            socket.ended = number % 7 == 0;
                            socket.inbound.push_back((server(1), bytes));
                            let writable = number % 2 == 0;
                            HostEvent { token: socket.token, readable: true, writable, error: false }
                        }
                    };
                    bench.event(now, event);
                }
            }
            while bench.reply().is_some() { replied += 1; }
            prop_assert_eq!(taken, replied + bench.forwarder.pending());
        }
        for _ in 0..40 {
            now += 1000;
            bench.poll(now);
        }
        while bench.reply().is_some() { replied += 1; }
        prop_assert_eq!(taken, replied);
        prop_assert!(bench.host.sockets.is_empty());
        prop_assert_eq!(bench.forwarder.poll_at(), Instant::FAR);
    }
}
