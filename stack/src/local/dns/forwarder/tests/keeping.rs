// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the cache does for those who ask.

use super::*;

impl Bench {
    /// The TTLs of the next reply, without anybody asked in between.
    fn ttls(&mut self) -> Vec<u32> {
        let (_, reply) = self.reply().expect("a reply");
        Message::parse(&reply).unwrap().records().map(|record| record.ttl).collect()
    }

    /// How often nameservers were asked.
    fn asked(&self) -> usize {
        self.host.datagrams.len()
    }
}

#[test]
fn who_asks_again_is_answered_at_once_under_the_new_id() {
    let mut bench = Bench::new(&[server(1)], false);
    let first = query("a.example", kind::A, None);
    bench.ask(0, client(4000), &first).unwrap();
    bench.answer(5, addresses(&[[192, 0, 2, 80]]));
    assert_eq!(bench.ttls(), [60]);
    bench.rest();
    let mut second = query("A.example", kind::A, None);
    second[0] = 0x77;
    bench.ask(10_005, client(4001), &second).unwrap();
    let (to, reply) = bench.reply().unwrap();
    assert_eq!((to, &reply[..2]), (client(4001), &second[..2]));
    let message = Message::parse(&reply).unwrap();
    assert_eq!(message.question(), Message::parse(&second).unwrap().question());
    assert_eq!(message.records().next().unwrap().ttl, 50);
    bench.ask(20_005, stream(1), &first).unwrap();
    assert_eq!(bench.ttls(), [40]);
    assert_eq!((bench.asked(), bench.host.sockets.len(), bench.forwarder.poll_at()), (1, 0, Instant::FAR));
    bench.ask(60_005, client(4000), &first).unwrap();
    assert_eq!((bench.asked(), bench.reply()), (2, None));
    assert_eq!(bench.forwarder.lookups(), (2, 2));
}

#[test]
fn a_kept_reply_is_cut_for_whom_it_is_too_long() {
    let mut bench = Bench::new(&[server(1)], false);
    bench.ask(0, client(4000), &query("a.example", kind::A, Some(4096))).unwrap();
    bench.answer(1, many(60));
    for (udp_len, cut) in [(1232, false), (512, true)] {
        bench.ask(2, client(4000), &query("a.example", kind::A, Some(udp_len))).unwrap();
        let reply = std::iter::from_fn(|| bench.reply()).last().unwrap().1;
        assert_eq!(Message::parse(&reply).unwrap().has(DnsFlags::TRUNCATED), cut);
    }
    assert_eq!(bench.asked(), 1);
}

#[test]
fn what_dns64_made_is_kept() {
    let mut bench = Bench::new(&[server(1)], true);
    let asked = query("a.example", kind::AAAA, None);
    bench.ask(0, client(4000), &asked).unwrap();
    bench.answer(1, rcode(DnsRcode::NoError));
    bench.answer(2, addresses(&[[192, 0, 2, 80]]));
    let (_, made) = bench.reply().unwrap();
    bench.ask(3, client(4000), &asked).unwrap();
    assert_eq!((bench.reply().unwrap().1, bench.asked()), (made, 2));
    // The A record was asked for, but by nobody.
    bench.ask(4, client(4000), &query("a.example", kind::A, None)).unwrap();
    assert_eq!((bench.reply(), bench.asked()), (None, 3));
}

#[test]
fn failures_are_not_kept() {
    let mut bench = Bench::new(&[server(1)], false);
    for (asked, code) in [DnsRcode::ServFail, DnsRcode::Refused].into_iter().enumerate() {
        bench.ask(0, client(4000), &query("a.example", kind::A, None)).unwrap();
        bench.answer(1, rcode(code));
        assert_eq!((bench.rcode(), bench.asked()), (code, asked + 1));
    }
}

#[test]
fn nameservers_that_are_told_again_are_asked_again() {
    let mut bench = Bench::new(&[server(1), server(2)], false);
    let asked = query("a.example", kind::A, None);
    let late = query("b.example", kind::A, None);
    bench.ask(0, client(4000), &asked).unwrap();
    bench.answer(1, addresses(&[[192, 0, 2, 80]]));
    bench.forwarder.set_nameservers(&[server(1), server(2)]);
    bench.ask(2, client(4000), &asked).unwrap();
    assert_eq!(bench.asked(), 2, "their view may be another one");
    bench.answer(2, addresses(&[[192, 0, 2, 81]]));
    bench.ask(3, client(4000), &late).unwrap();
    bench.forwarder.set_nameservers(&[server(2)]);
    // Who asked before still gets the old server's answer, and nobody else.
    bench.answer(4, addresses(&[[192, 0, 2, 80]]));
    assert_eq!(std::iter::from_fn(|| bench.reply()).count(), 3);
    for (number, again) in [asked, late].iter().enumerate() {
        bench.ask(5, client(4000), again).unwrap();
        assert_eq!((bench.last().0, bench.asked()), (server(2), 4 + number));
    }
}

#[test]
fn nobody_joins_those_who_wait_for_earlier_nameservers() {
    let mut bench = Bench::new(&[server(1)], false);
    let asked = query("a.example", kind::A, None);
    bench.ask(0, client(4000), &asked).unwrap();
    bench.forwarder.set_nameservers(&[server(2)]);
    bench.ask(1, client(4001), &asked).unwrap();
    assert_eq!((bench.last().0, bench.asked()), (server(2), 2));
    bench.answer(2, addresses(&[[192, 0, 2, 80]]));
    assert_eq!(bench.reply().map(|(to, _)| to), Some(client(4001)));
}

#[test]
fn what_is_asked_in_many_wordings_at_once_is_not_kept() {
    let asked = |bench: &mut Bench, millis, wordings: u16| {
        for number in 0..wordings {
            let name = if number % 2 == 0 { "a.example" } else { "A.example" };
            bench.ask(millis, client(4000), &query(name, kind::A, Some(1232 + number))).unwrap();
        }
    };
    let wordings = u16::try_from(super::super::super::query::MAX_WORDINGS).unwrap();
    let mut bench = Bench::new(&[server(1)], false);
    asked(&mut bench, 0, wordings + 1);
    bench.answer(1, addresses(&[[192, 0, 2, 80]]));
    assert!(bench.forwarder.cache.as_ref().unwrap().is_empty());
    // One of them has its answer: the others are few enough.
    bench.ask(2, client(4001), &query("a.example", kind::A, None)).unwrap();
    assert_eq!(bench.asked(), 2 + usize::from(wordings), "nobody else is answered");
    bench.rest();

    let mut bench = Bench::new(&[server(1)], false);
    asked(&mut bench, 0, wordings);
    bench.answer(1, addresses(&[[192, 0, 2, 80]]));
    assert_eq!(bench.forwarder.cache.as_ref().unwrap().len(), 1);
}

#[test]
fn names_of_the_network_and_special_ones_are_never_kept() {
    let mut bench = Bench::new(&[server(1)], true);
    for name in ["localhost", "ipv4only.arpa", "a.invalid"] {
        bench.ask(0, client(4000), &query(name, kind::A, None)).unwrap();
        bench.reply().unwrap();
    }
    assert!(bench.forwarder.cache.as_ref().unwrap().is_empty());
}

#[test]
fn a_network_may_do_without() {
    let mut config = config();
    (config.dns_cache, config.nat64) = (false, None);
    let mut bench = Bench { forwarder: Forwarder::new(&config), host: ScriptedHost::default() };
    for asked in 0..3 {
        bench.ask(asked, client(4000), &query("a.example", kind::A, None)).unwrap();
        bench.answer(asked, addresses(&[[192, 0, 2, 80]]));
        assert_eq!((bench.ttls(), bench.asked() as u64), (vec![60], asked + 1));
    }
    assert_eq!(bench.forwarder.lookups(), (0, 0));
}
