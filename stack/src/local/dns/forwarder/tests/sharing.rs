// SPDX-License-Identifier: MIT OR Apache-2.0
//! How queries share ports, and answers.

use std::collections::{BTreeMap, BTreeSet};

use super::super::super::source_ports::{LIFETIME, MAX_IN_USE, MAX_OPEN, MAX_USES};
use super::*;

impl Bench {
    /// Asks for a name that nobody has asked for, and returns the socket that the question left by.
    fn ask_new(&mut self, millis: u64, number: usize) -> u32 {
        let port = u16::try_from(number % 60_000).unwrap();
        self.ask(millis, client(port), &query(&format!("{number}.example"), kind::A, None)).unwrap();
        self.last().2
    }

    /// The ids of what left by a socket.
    fn ids(&self, socket: u32) -> Vec<[u8; 2]> {
        let by_it = self.host.datagrams.iter().filter(|(.., by)| *by == socket);
        by_it.map(|(_, bytes, _)| [bytes[0], bytes[1]]).collect()
    }
}

#[test]
fn every_query_has_a_port_of_its_own_while_they_are_few() {
    // RFC 5452 section 9.2.
    let mut bench = Bench::new(&[server(1)], false);
    let rest = u64::try_from(LIFETIME.as_millis()).unwrap() / MAX_IN_USE as u64 + 1;
    let mut ports = BTreeSet::new();
    for number in 0..200 {
        let now = rest * number as u64;
        bench.poll(now);
        ports.insert(bench.ask_new(now, number));
        bench.answer(now, rcode(DnsRcode::NXDomain));
        assert!(bench.host.sockets.len() <= MAX_IN_USE);
    }
    assert_eq!(ports.len(), 200);
    bench.rest();
}

#[test]
fn many_queries_share_ports_at_random_under_ids_of_their_own() {
    // RFC 5452 sections 4.3 and 4.4.
    let mut bench = Bench::new(&[server(1)], false);
    let mut of_port: BTreeMap<u32, usize> = BTreeMap::new();
    for number in 0..MAX_QUERIES_PER_CLIENT {
        *of_port.entry(bench.ask_new(0, number)).or_default() += 1;
    }
    assert_eq!((of_port.len(), bench.host.sockets.len()), (MAX_IN_USE, MAX_IN_USE));
    assert!(of_port.values().collect::<BTreeSet<_>>().len() > 3, "not in turn: {of_port:?}");
    for &port in of_port.keys() {
        let ids = bench.ids(port);
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    }
    let all: BTreeSet<_> = of_port.keys().flat_map(|&port| bench.ids(port)).collect();
    assert!(all.len() > MAX_QUERIES_PER_CLIENT * 9 / 10);
}

#[test]
fn a_port_serves_no_longer_than_its_lifetime_and_so_many_queries() {
    let mut bench = Bench::new(&[server(1)], false);
    let mut of_port: BTreeMap<u32, u32> = BTreeMap::new();
    for number in 0..MAX_IN_USE * MAX_USES as usize {
        *of_port.entry(bench.ask_new(0, number)).or_default() += 1;
        bench.answer(0, rcode(DnsRcode::NXDomain));
        bench.forwarder.poll_reply();
        bench.host.datagrams.clear();
    }
    assert!(of_port.len() > MAX_IN_USE && of_port.values().all(|&uses| uses <= MAX_USES));
    let old: BTreeSet<u32> = bench.host.sockets.keys().copied().collect();
    bench.ask_new(999, 1);
    bench.poll(1000);
    for number in 2..100 {
        assert!(!old.contains(&bench.ask_new(1000, number)));
    }
}

#[test]
fn a_late_reply_to_a_retired_port_counts_and_is_the_last() {
    let mut bench = Bench::new(&[server(1), server(2)], false);
    bench.ask_new(0, 1);
    let (to, asked, port) = bench.last();
    bench.poll(1000);
    bench.poll(1500);
    assert!(bench.last().0 == server(2) && bench.host.sockets.contains_key(&port));
    let reply = rcode(DnsRcode::NXDomain)(&Message::parse(&asked).unwrap());
    let event = bench.host.arrive(port, to, &reply);
    bench.event(1600, event);
    assert_eq!(bench.rcode(), DnsRcode::NXDomain);
    assert!(!bench.host.sockets.contains_key(&port));
    bench.rest();
}

#[test]
fn a_reply_counts_at_the_port_of_its_question_only() {
    // RFC 5452 section 9.1.
    let mut bench = Bench::new(&[server(1), server(2)], false);
    let first = bench.ask_new(0, 1);
    let (to, asked, _) = bench.last();
    let second = bench.ask_new(0, 2);
    let reply = rcode(DnsRcode::NXDomain)(&Message::parse(&asked).unwrap());
    let event = bench.host.arrive(second, to, &reply);
    bench.event(1, event);
    let event = bench.host.arrive(first, server(2), &reply);
    bench.event(1, event);
    assert_eq!((bench.reply(), bench.forwarder.pending()), (None, 2));
    let event = bench.host.arrive(first, to, &reply);
    bench.event(1, event);
    assert_eq!(bench.rcode(), DnsRcode::NXDomain);
    let event = bench.host.arrive(first, to, &reply);
    bench.event(1, event);
    assert_eq!((bench.reply(), bench.forwarder.pending()), (None, 1), "it is not answered twice");
}

#[test]
fn an_id_does_not_answer_for_another_question_of_its_port() {
    let mut bench = Bench::new(&[server(1)], false);
    for number in 0..=MAX_IN_USE {
        bench.ask_new(0, number);
    }
    let (to, last, port) = bench.last();
    let neighbor = bench.host.datagrams.iter().find(|(.., by)| *by == port).unwrap().1.clone();
    let mut crossed = rcode(DnsRcode::NXDomain)(&Message::parse(&neighbor).unwrap());
    crossed[..2].copy_from_slice(&last[..2]);
    let event = bench.host.arrive(port, to, &crossed);
    bench.event(1, event);
    assert_eq!(bench.reply(), None);
}

#[test]
fn one_visit_reads_many_replies_and_a_flood_does_not_hold_it() {
    let mut bench = Bench::new(&[server(1)], false);
    for number in 0..MAX_QUERIES_PER_CLIENT {
        bench.ask_new(0, number);
    }
    let (to, _, port) = bench.last();
    let questions = bench.host.datagrams.iter().filter(|(.., by)| *by == port);
    let replies: Vec<_> =
        questions.map(|(_, asked, _)| rcode(DnsRcode::NXDomain)(&Message::parse(asked).unwrap())).collect();
    let count = replies.len();
    assert!(count > 5);
    for _ in 0..2 * DATAGRAMS_PER_VISIT {
        bench.host.arrive(port, to, b"noise");
    }
    let events: Vec<_> = replies.iter().map(|reply| bench.host.arrive(port, to, reply)).collect();
    bench.event(1, events[0]);
    assert_eq!((bench.reply(), bench.forwarder.poll_at()), (None, Instant::ZERO));
    bench.poll(1);
    bench.poll(1);
    assert_eq!(std::iter::from_fn(|| bench.reply()).count(), count);
    assert!(bench.forwarder.poll_at() > at(1));
}

#[test]
fn an_icmp_error_concerns_the_queries_to_its_server_only() {
    let mut bench = Bench::new(&[server(1), server(2)], false);
    let count = MAX_IN_USE * 2;
    for number in 0..count {
        bench.ask_new(0, number);
    }
    let (to, _, port) = bench.last();
    let hit = bench.ids(port).len();
    let event = bench.host.report(port, server(9));
    bench.event(1, event);
    assert_eq!(bench.host.datagrams.len(), count, "it was about somebody else");
    let event = bench.host.report(port, to);
    bench.event(1, event);
    let again: Vec<_> = bench.host.datagrams[count..].iter().map(|&(to, ..)| to).collect();
    assert_eq!(again, vec![server(2); hit]);
    let event = bench.host.report(bench.last().2, server(1));
    bench.event(2, event);
    assert_eq!((bench.forwarder.pending(), bench.reply()), (count, None));
}

#[test]
fn silent_servers_do_not_pile_up_sockets() {
    let mut bench = Bench::new(&[server(1)], false);
    let mut most = 0;
    for number in 0..2000 {
        let now = number as u64 * 10;
        bench.poll(now);
        bench.ask_new(now, number);
        most = most.max(bench.host.sockets.len());
        while bench.reply().is_some() {}
    }
    assert_eq!(most, MAX_OPEN);
    bench.rest();
    assert_eq!(bench.forwarder.pending(), 0);
}

#[test]
fn without_descriptors_the_open_ports_do() {
    let mut bench = Bench::new(&[server(1)], false);
    bench.host.most_sockets = Some(3);
    let ports: BTreeSet<_> = (0..100).map(|number| bench.ask_new(0, number)).collect();
    assert_eq!((ports.len(), bench.forwarder.pending()), (3, 100));
    bench.host.most_sockets = Some(0);
    bench.poll(1000);
    bench.ask(1000, client(1), &query("a.example", kind::A, None)).unwrap();
    assert_eq!(bench.rcode(), DnsRcode::ServFail);
}

#[test]
fn those_who_ask_the_same_share_one_question() {
    // RFC 5452 section 5.
    let mut bench = Bench::new(&[server(1)], false);
    let asked = query("a.example", kind::A, None);
    let mut other_id = asked.clone();
    other_id[1] ^= 1;
    bench.ask(0, client(4000), &asked).unwrap();
    bench.ask(0, client(4001), &other_id).unwrap();
    bench.ask(0, client(4000), &other_id).unwrap();
    assert_eq!(bench.ask(1, client(4001), &other_id), Err(DropReason::DnsRepeated));
    assert_eq!((bench.host.datagrams.len(), bench.forwarder.pending()), (1, 3));
    bench.answer(2, addresses(&[[192, 0, 2, 80]]));
    let mut told: Vec<_> = std::iter::from_fn(|| bench.reply()).collect();
    told.sort_by_key(|(to, bytes)| (format!("{to:?}"), bytes.clone()));
    let ids: Vec<_> = told.iter().map(|(to, bytes)| (*to, bytes[1])).collect();
    assert_eq!(ids, [(client(4000), 0x34), (client(4000), 0x35), (client(4001), 0x35)]);
    assert!(told.windows(2).all(|pair| pair[0].1[2..] == pair[1].1[2..]));
    assert_eq!(bench.forwarder.pending(), 0);
    // Other words, and another transport, are another question.
    let asked = query("b.example", kind::A, None);
    bench.ask(3, client(4000), &asked).unwrap();
    bench.ask(3, client(4000), &query("b.example", kind::A, Some(1232))).unwrap();
    bench.ask(3, client(4000), &query("B.example", kind::A, None)).unwrap();
    bench.ask(3, stream(1), &asked).unwrap();
    assert_eq!((bench.host.datagrams.len(), bench.forwarder.pending()), (4, 4));
}

#[test]
fn nobody_joins_a_question_that_the_first_server_has_not_answered() {
    let mut bench = Bench::new(&[server(1)], false);
    let asked = query("a.example", kind::A, None);
    bench.ask(0, client(4000), &asked).unwrap();
    bench.poll(1500);
    bench.ask(1500, client(4001), &asked).unwrap();
    assert_eq!(bench.ask(1500, client(4001), &asked), Err(DropReason::DnsRepeated));
    bench.ask(1501, client(4002), &asked).unwrap();
    assert_eq!(bench.host.datagrams.len(), 3);
    for now in [3000, 4500] {
        bench.poll(now);
    }
    assert_eq!((bench.reply().map(|(to, _)| to), bench.reply()), (Some(client(4000)), None));
    bench.answer(4600, rcode(DnsRcode::NXDomain));
    assert_eq!((bench.rcode(), bench.rcode()), (DnsRcode::NXDomain, DnsRcode::NXDomain));
    bench.rest();
}

#[test]
fn a_query_that_is_too_long_is_no_query() {
    let mut bench = Bench::new(&[server(1)], false);
    let mut asked = query("a.example", kind::A, None);
    asked.resize(MAX_QUERY_LEN, 0);
    bench.ask(0, client(1), &asked).unwrap();
    assert_eq!(bench.reply(), None);
    asked.push(0);
    bench.ask(0, client(1), &asked).unwrap();
    assert_eq!(bench.reply().unwrap().1[3] & 15, u8::from(DnsRcode::FormErr));
}
