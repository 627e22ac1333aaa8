// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is kept, for whom, and for how long.

use proptest::prelude::*;

use super::super::answer::Writer;
use super::super::message::tests::query;
use super::*;

const RRSIG: u16 = 46;
const MX: u16 = 15;
/// Types that are questions only: TKEY, IXFR, AXFR, ANY.
const META: [u16; 4] = [249, kind::IXFR, kind::AXFR, kind::ANY];

fn at(secs: u64) -> Instant {
    Instant::from_secs(secs)
}

/// An answer with these TTLs of A records.
fn addresses(asked: &[u8], ttls: &[u32]) -> Vec<u8> {
    let asked = Message::parse(asked).unwrap();
    let mut writer = Writer::answer(&asked, DnsRcode::NoError);
    for &ttl in ttls {
        writer.record(asked.name(), asked.kind(), ttl, &[192, 0, 2, 1]);
    }
    writer.finish(asked.edns())
}

/// A negative answer with the TTL and the MINIMUM of its SOA record.
fn negative(asked: &[u8], rcode: DnsRcode, ttl: u32, minimum: u32) -> Vec<u8> {
    let asked = Message::parse(asked).unwrap();
    let mut writer = Writer::answer(&asked, rcode);
    let data = [&[0; 18][..], &minimum.to_be_bytes()].concat();
    writer.authority(b"\x07example\x00", kind::SOA, ttl, &data);
    writer.finish(asked.edns())
}

fn ttls(answer: &[u8]) -> Vec<u32> {
    let records = Message::parse(answer).unwrap().records();
    records.filter(|record| record.kind != kind::OPT).map(|record| record.ttl).collect()
}

/// A cache and what is asked of it.
struct Bench(Cache);

impl Bench {
    fn new() -> Self {
        Self(Cache::new(&[7; 32]))
    }

    fn keep(&mut self, secs: u64, asked: &[u8], answer: &[u8]) {
        self.0.keep(at(secs), &Message::parse(asked).unwrap(), answer);
    }

    fn ask(&mut self, secs: u64, asked: &[u8]) -> Option<Vec<u8>> {
        self.0.answer(at(secs), &Message::parse(asked).unwrap())
    }

    /// Whether an answer is there a moment after it came.
    fn keeps(asked: &[u8], answer: &[u8]) -> bool {
        let mut bench = Self::new();
        bench.keep(0, asked, answer);
        assert_eq!(bench.0.len(), usize::from(bench.ask(0, asked).is_some()));
        !bench.0.is_empty()
    }
}

#[test]
fn an_answer_is_told_again_with_less_time_to_live_until_the_first_record_ends() {
    // RFC 1035 section 3.2.1.
    let mut bench = Bench::new();
    let asked = query("a.example", kind::A, Some(1232));
    let answer = addresses(&asked, &[60, 300]);
    bench.keep(100, &asked, &answer);
    assert_eq!(bench.ask(100, &asked).unwrap(), answer);
    assert_eq!(ttls(&bench.ask(159, &asked).unwrap()), [1, 241]);
    let opt = Message::parse(&bench.ask(159, &asked).unwrap()).unwrap().edns();
    assert_eq!(opt, Message::parse(&answer).unwrap().edns(), "an OPT record has no TTL");
    assert_eq!(bench.ask(160, &asked), None);
    assert!(bench.0.is_empty());
}

#[test]
fn a_later_answer_takes_the_place_of_an_earlier_one() {
    let mut bench = Bench::new();
    let asked = query("a.example", kind::A, None);
    bench.keep(0, &asked, &addresses(&asked, &[60]));
    bench.keep(10, &asked, &addresses(&asked, &[90, 90]));
    assert_eq!((bench.0.len(), ttls(&bench.ask(20, &asked).unwrap())), (1, vec![80, 80]));
}

#[test]
fn the_spelling_of_the_name_is_the_askers() {
    let mut bench = Bench::new();
    let asked = query("a.example", kind::A, None);
    bench.keep(0, &asked, &addresses(&asked, &[60]));
    let loud = query("A.eXample", kind::A, None);
    let answer = bench.ask(0, &loud).unwrap();
    let (told, question) = (Message::parse(&answer).unwrap(), Message::parse(&loud).unwrap());
    assert_eq!(told.question(), question.question());
    assert_eq!(ttls(&answer), [60]);
}

#[test]
fn an_answer_is_for_its_question_and_the_same_bits_of_a_query_only() {
    let mut bench = Bench::new();
    let asked = query("a.example", kind::A, None);
    bench.keep(0, &asked, &addresses(&asked, &[60]));
    let with_flags = |flags: [u8; 2]| [&asked[..2], &flags, &asked[4..]].concat();
    let mut wants_dnssec = query("a.example", kind::A, Some(1232));
    let do_bit = wants_dnssec.len() - 4;
    wants_dnssec[do_bit] = 0x80;
    let others = [
        query("b.example", kind::A, None),
        query("a.example.a", kind::A, None),
        query("a.example", kind::AAAA, None),
        query("a.example", kind::A, Some(1232)),
        wants_dnssec.clone(),
        with_flags([0, 0]),
        with_flags([1, 0x10]),
        with_flags([1, 0x20]),
    ];
    for other in &others {
        assert_eq!(bench.ask(0, other), None, "{other:02x?}");
        bench.keep(0, other, &addresses(other, &[30]));
        assert_eq!(ttls(&bench.ask(0, other).unwrap()), [30]);
    }
    assert_eq!(ttls(&bench.ask(0, &asked).unwrap()), [60]);
    assert_eq!(bench.0.len(), others.len() + 1);
    // Another size is no other question: the reply is cut for each client.
    assert!(bench.ask(0, &query("a.example", kind::A, Some(4096))).is_some());
}

#[test]
fn queries_with_anything_special_are_none_of_the_caches_business() {
    let good = query("a.example", kind::A, Some(1232));
    assert!(Bench::keeps(&good, &addresses(&good, &[60])));
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let len = good.len();
    let mut cookie = with(len - 1, 12);
    cookie.extend([0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    let mut signed = with(11, 2);
    signed.extend([0, 0, 250, 0, 255, 0, 0, 0, 0, 0, 0]);
    let cases = [
        ("a cookie", cookie),
        ("a signature", signed),
        ("a record that is missing", with(11, 2)),
        ("another flag of EDNS", with(len - 4, 0x40)),
        ("another class", with(len - 12, 3)),
        ("a response's flag", with(2, 5)),
        ("a result code", with(3, 1)),
        ("an answer", [&with(7, 1)[..], &[0; 11]].concat()),
    ];
    for (what, asked) in cases {
        assert!(!Bench::keeps(&asked, &addresses(&asked, &[60])), "{what}");
    }
    for kind in META {
        let asked = query("a.example", kind, None);
        assert!(!Bench::keeps(&asked, &addresses(&asked, &[60])), "{kind}");
    }
}

#[test]
fn only_answers_that_say_how_long_they_hold_are_kept() {
    let asked = query("a.example", kind::A, Some(1232));
    let good = addresses(&asked, &[60]);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    // RFC 2181 section 8: with the most significant bit a TTL is 0.
    for ttls in [&[0][..], &[60, 0], &[0x8000_0000], &[60, u32::MAX]] {
        assert!(!Bench::keeps(&asked, &addresses(&asked, ttls)), "{ttls:?}");
    }
    for rcode in [2, 4, 5, 9] {
        assert!(!Bench::keeps(&asked, &with(3, rcode)), "{rcode}");
    }
    let len = good.len();
    let cases = [
        ("cut", with(2, good[2] | 2)),
        ("a record short", with(7, 2)),
        ("cut in a record", good[..len - 1].to_vec()),
        ("an upper result code", with(len - 6, 1)),
        ("an EDNS option", [&with(len - 1, 4)[..], &[0, 15, 0, 0]].concat()),
        ("about something else", addresses(&query("b.example", kind::A, None), &[60])),
        ("without records", addresses(&asked, &[])),
        ("no message", vec![0; 11]),
    ];
    for (what, answer) in cases {
        assert!(!Bench::keeps(&asked, &answer), "{what}");
    }
    let long: Vec<u32> = vec![60; MAX_ANSWER_LEN / 16];
    assert!(!Bench::keeps(&asked, &addresses(&asked, &long)));
    assert!(Bench::keeps(&asked, &addresses(&asked, &long[4..])));
}

#[test]
fn a_negative_answer_holds_as_long_as_its_soa_record_says() {
    // RFC 2308 section 5.
    let asked = query("a.example", kind::A, None);
    for rcode in [DnsRcode::NXDomain, DnsRcode::NoError] {
        for (ttl, minimum, holds) in [(60, 20, 20), (20, 60, 20), (0, 60, 0), (60, 0, 0), (60, 1 << 31, 0)] {
            let mut bench = Bench::new();
            bench.keep(0, &asked, &negative(&asked, rcode, ttl, minimum));
            if holds > 0 {
                // RFC 2308 section 6: whoever keeps it after us must not keep it for longer.
                assert_eq!(ttls(&bench.ask(holds - 1, &asked).unwrap()), [1]);
            }
            assert_eq!(bench.ask(holds, &asked), None);
        }
    }
    let bare = Message::parse(&asked).map(|asked| Writer::answer(&asked, DnsRcode::NXDomain).finish(None));
    assert!(!Bench::keeps(&asked, &bare.unwrap()), "without an SOA record");
}

#[test]
fn an_alias_to_a_name_without_such_a_record_is_negative() {
    let asked = query("a.example", kind::A, None);
    let parsed = Message::parse(&asked).unwrap();
    let alias = |with_soa: bool| {
        let mut writer = Writer::answer(&parsed, DnsRcode::NoError);
        writer.record(parsed.name(), kind::CNAME, 60, b"\x01b\xc0\x0e");
        writer.record(parsed.name(), RRSIG, 60, &[0; 24]);
        if with_soa {
            writer.authority(b"\x07example\x00", kind::SOA, 90, &[&[0; 18][..], &[0, 0, 0, 40]].concat());
        }
        writer.finish(None)
    };
    assert!(!Bench::keeps(&asked, &alias(false)));
    let mut bench = Bench::new();
    bench.keep(0, &asked, &alias(true));
    assert_eq!(ttls(&bench.ask(10, &asked).unwrap()), [30, 30, 30]);
}

#[test]
fn nothing_is_kept_for_ever() {
    let asked = query("a.example", kind::A, None);
    let month = 30 * 86_400;
    let cases = [
        (addresses(&asked, &[month]), MAX_LIFETIME),
        (negative(&asked, DnsRcode::NXDomain, month, month), MAX_NEGATIVE_LIFETIME),
    ];
    for (answer, longest) in cases {
        let mut bench = Bench::new();
        bench.keep(0, &asked, &answer);
        let last = longest.as_secs() - 1;
        assert_eq!(ttls(&bench.ask(last, &asked).unwrap()), [month - u32::try_from(last).unwrap()]);
        assert_eq!(bench.ask(last + 1, &asked), None);
    }
}

#[test]
fn the_answer_not_asked_for_longest_gives_way() {
    let mut bench = Bench::new();
    let asked = |number: usize| query(&format!("{number}.example"), MX, None);
    for number in 0..MAX_ENTRIES {
        bench.keep(0, &asked(number), &addresses(&asked(number), &[60]));
    }
    assert!(bench.ask(1, &asked(0)).is_some());
    bench.keep(1, &asked(MAX_ENTRIES), &addresses(&asked(MAX_ENTRIES), &[60]));
    assert_eq!(bench.0.len(), MAX_ENTRIES);
    assert!(bench.ask(1, &asked(0)).is_some() && bench.ask(1, &asked(1)).is_none());
}

#[test]
fn who_asks_for_many_large_answers_gets_no_more_memory() {
    let mut bench = Bench::new();
    let long: Vec<u32> = vec![60; 200];
    for number in 0..2 * MAX_ENTRIES {
        let asked = query(&format!("{number}.example"), kind::A, None);
        bench.keep(0, &asked, &addresses(&asked, &long));
        assert!(bench.0.bytes <= MAX_BYTES);
    }
    assert!(bench.0.bytes > MAX_BYTES / 2 && bench.0.len() < MAX_ENTRIES);
    bench.0.clear();
    assert_eq!((bench.0.len(), bench.0.bytes), (0, 0));
    assert_eq!(bench.ask(0, &query("2047.example", kind::A, None)), None);
}

proptest! {
    /// Whatever a server says: no panic, and what is told again is as long and differs in nothing but TTLs.
    #[test]
    fn no_answer_makes_it_panic(tail in prop::collection::vec(any::<u8>(), 0..200), counts in any::<[u8; 3]>(), flags in any::<[u8; 2]>()) {
        let asked = query("a.example", kind::A, None);
        let mut answer = asked.clone();
        answer[2..4].copy_from_slice(&flags);
        (answer[7], answer[9], answer[11]) = (counts[0] % 4, counts[1] % 4, counts[2] % 4);
        answer.extend(tail);
        let mut bench = Bench::new();
        bench.keep(0, &asked, &answer);
        if let Some(told) = bench.ask(0, &query("A.EXAMPLE", kind::A, None)) {
            prop_assert_eq!(told.len(), answer.len());
        }
    }

    /// Well-formed answers as well, of which there are few among random bytes.
    #[test]
    fn the_books_balance(steps in prop::collection::vec((0u8..3, 0u16..8, 0u32..90, 0u64..30), 1..80)) {
        let mut bench = Bench::new();
        let mut now = 0;
        for (action, number, ttl, pause) in steps {
            now += pause;
            let asked = query(&format!("{number}.example"), kind::A, None);
            match action {
                0 => bench.keep(now, &asked, &addresses(&asked, &[ttl, 60])),
                1 => bench.keep(now, &asked, &negative(&asked, DnsRcode::NXDomain, ttl, 60)),
                _ => drop(bench.ask(now, &asked)),
            }
            let bytes: usize = bench.0.entries.iter().map(|(_, entry)| entry.bytes()).sum();
            prop_assert_eq!(bytes, bench.0.bytes);
            prop_assert_eq!(bench.0.by_question.len(), bench.0.len());
        }
    }
}
