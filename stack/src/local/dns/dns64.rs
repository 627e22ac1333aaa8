// SPDX-License-Identifier: MIT OR Apache-2.0
//! DNS64: IPv6 addresses for names that have IPv4 addresses only.
//!
//! # How it works
//! * An AAAA query is asked upstream as it is. If that brings no usable AAAA record, the A record is asked for, and
//!   every address is put under the NAT64 prefix ([`Dns64::judge`], [`Dns64::synthesize`]).
//! * A PTR query for an address under the prefix is answered with a CNAME to the IPv4 address's own reverse name and
//!   what that one says ([`Dns64::reverse_name`], [`Dns64::synthesize_pointer`]).
//! * `ipv4only.arpa` is answered here ([`Dns64::well_known`]), so that hosts find the prefix out.
//!
//! Nothing is validated here, so whatever is made up or made over has its AD flag taken away.
//!
//! # Sources
//! RFC 6147, RFC 7050, RFC 8880.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{DnsFlags, DnsRcode, Ipv6Cidr};

use super::answer::Writer;
use super::message::{Message, Record, Section, clear_authentic, kind, set_kind};
use super::reverse::{self, ReverseName};
use crate::transit::nat64;

/// RFC 6147 section 5.1.7: without an SOA record "the DNS64 SHOULD use the TTL of the original A RR or 600 seconds,
/// whichever is shorter".
pub const MAX_TTL_SECS: u32 = 600;
/// The same where the server failed to say whether there are AAAA records: it may recover. RFC 2308 section 7.1 would allow
/// five minutes.
pub const MAX_TTL_AFTER_FAILURE_SECS: u32 = 30;
/// RFC 8880 section 7.1 answers with fixed data; a day is what its zone has always had.
const WELL_KNOWN_TTL_SECS: u32 = 86_400;
/// RFC 7050 section 8.2: "192.0.0.170 and 192.0.0.171".
const WELL_KNOWN_ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];
const WELL_KNOWN_NAME: &[u8] = b"\x08ipv4only\x04arpa\x00";

/// What to do with the reply to an AAAA query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Give it to the client as it is.
    Pass,
    /// Give this to the client: the reply without the addresses that do not count.
    Instead(Vec<u8>),
    /// Ask for A records; synthesized ones may live so many seconds.
    AskIpv4(u32),
}

/// DNS64 of one network.
#[derive(Clone, Debug)]
pub struct Dns64 {
    prefix: Ipv6Cidr,
    excluded: Vec<Ipv6Cidr>,
}

impl Dns64 {
    /// DNS64 that puts IPv4 addresses under `prefix`.
    #[must_use]
    pub fn new(prefix: Ipv6Cidr) -> Self {
        // RFC 6147 section 5.1.4: "the DNS64 ... SHOULD have a default value of ::ffff/96".
        let mapped = Ipv6Cidr::new(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
        Self { prefix, excluded: vec![mapped] }
    }

    /// AAAA records that do not count, beside IPv4-mapped ones: `::/0` where there is no IPv6 outside.
    pub fn exclude(&mut self, more: &[Ipv6Cidr]) {
        self.excluded.truncate(1);
        self.excluded.extend_from_slice(more);
    }

    /// Whether a query is one to synthesize for.
    #[must_use]
    pub fn applies(&self, query: &Message<'_>) -> bool {
        // RFC 6147 section 5.5: "If the CD bit is set and DO is set, ... [it] MUST NOT perform synthesis."
        let validates_itself =
            query.has(DnsFlags::CHECK_DISABLED) && query.edns().is_some_and(|edns| edns.dnssec_ok);
        query.kind() == kind::AAAA && query.class() == kind::CLASS_IN && !validates_itself
    }

    /// Reads the reply to the AAAA query.
    #[must_use]
    pub fn judge(&self, query: &Message<'_>, reply: &Message<'_>) -> Verdict {
        // RFC 6147 section 5.1.2: "If the response is RCODE=3 (Name error), ... the DNS64 responds with [it]"; any
        // other error "is treated as though the RCODE were 0 and the answer section were empty".
        // A truncated reply says nothing either way: the client comes again by TCP.
        if reply.header().rcode() == DnsRcode::NXDomain || reply.has(DnsFlags::TRUNCATED) {
            return Verdict::Pass;
        }
        if reply.header().rcode() != DnsRcode::NoError {
            return Verdict::AskIpv4(MAX_TTL_AFTER_FAILURE_SECS);
        }
        let addresses = || reply.records().filter(|record| is_address(record, kind::AAAA));
        let total = addresses().count();
        let kept = addresses().filter(|record| self.counts(reply, record)).count();
        if total > 0 && kept == total {
            return Verdict::Pass;
        }
        if kept > 0 {
            return Verdict::Instead(self.without_excluded(query, reply));
        }
        // RFC 6147 section 5.1.7: the TTL is at most that of the SOA record in the negative answer.
        let soa = reply
            .records()
            .find(|record| record.section == Section::Authority && record.kind == kind::SOA)
            .map_or(MAX_TTL_SECS, |record| record.ttl);
        Verdict::AskIpv4(soa)
    }

    /// Makes the answer to an AAAA query from the reply to the A query.
    #[must_use]
    pub fn synthesize(&self, query: &Message<'_>, reply: &Message<'_>, max_ttl_secs: u32) -> Vec<u8> {
        let mut writer = Writer::answer(query, DnsRcode::NoError);
        copy_aliases(reply, &mut writer);
        let mut found = false;
        for record in reply.records().filter(|record| is_address(record, kind::A)) {
            let (Some(&octets), Some(owner)) =
                (reply.data(&record).first_chunk::<4>(), reply.name_at(record.start))
            else {
                continue;
            };
            found = true;
            // RFC 6052 section 3.1: the well-known prefix stands for global addresses only.
            if nat64::may_represent(self.prefix, octets.into()) {
                let address = nat64::embed(self.prefix, octets.into());
                writer.record(&owner, kind::AAAA, record.ttl.min(max_ttl_secs), &address.octets());
            }
        }
        if found && reply.header().rcode() == DnsRcode::NoError && !reply.has(DnsFlags::TRUNCATED) {
            return writer.finish(query.edns());
        }
        // RFC 6147 section 5.1.6: "If this new A query results in an empty answer or in an error, then the empty
        // result or error is used as the basis for the answer returned to the querying client."
        let mut basis = reply.bytes().to_vec();
        set_kind(&mut basis, kind::AAAA);
        clear_authentic(&mut basis);
        basis
    }

    /// The IPv4 reverse name that a PTR query under the prefix stands for.
    #[must_use]
    pub fn reverse_name(&self, query: &Message<'_>) -> Option<Vec<u8>> {
        if query.kind() != kind::PTR || query.class() != kind::CLASS_IN {
            return None;
        }
        let IpAddr::V6(address) = ReverseName::parse(query.name())?.whole()? else { return None };
        Some(reverse::name_of(nat64::extract(self.prefix, address)?.into(), 32))
    }

    /// Makes the answer to a PTR query under the prefix from the reply to the IPv4 one.
    ///
    /// RFC 6147 section 5.3.1: "synthesize a CNAME mapping the ip6.arpa namespace to the corresponding in-addr.arpa
    /// name."
    #[must_use]
    pub fn synthesize_pointer(&self, query: &Message<'_>, reply: &Message<'_>) -> Vec<u8> {
        let mut writer = Writer::answer(query, reply.header().rcode());
        if reply.has(DnsFlags::TRUNCATED) {
            writer.truncated();
            return writer.finish(query.edns());
        }
        let pointers: Vec<Record> = reply.records().filter(|record| is_address(record, kind::PTR)).collect();
        if let Some(ttl) = pointers.iter().map(|record| record.ttl).min() {
            writer.record(query.name(), kind::CNAME, ttl.min(MAX_TTL_SECS), reply.name());
        }
        copy_aliases(reply, &mut writer);
        for record in pointers {
            if let (Some(owner), Some(target)) =
                (reply.name_at(record.start), reply.name_at(record.data.start))
            {
                writer.record(&owner, kind::PTR, record.ttl, &target);
            }
        }
        writer.finish(query.edns())
    }

    /// The answer for `ipv4only.arpa`.
    ///
    /// RFC 8880 section 7.1: a DNS64 must answer these itself, and RFC 7050 wants the well-known addresses under the
    /// prefix in any case.
    #[must_use]
    pub fn well_known(&self, query: &Message<'_>) -> Option<Vec<u8>> {
        if !query.name().eq_ignore_ascii_case(WELL_KNOWN_NAME) || query.class() != kind::CLASS_IN {
            return None;
        }
        let mut writer = Writer::answer(query, DnsRcode::NoError);
        for address in WELL_KNOWN_ADDRESSES {
            match query.kind() {
                kind::A => {
                    writer.record(query.name(), kind::A, WELL_KNOWN_TTL_SECS, &address.octets());
                }
                kind::AAAA => {
                    let embedded = nat64::embed(self.prefix, address);
                    writer.record(query.name(), kind::AAAA, WELL_KNOWN_TTL_SECS, &embedded.octets());
                }
                _ => {}
            }
        }
        Some(writer.finish(query.edns()))
    }

    /// Whether an AAAA record is one a container can use.
    fn counts(&self, reply: &Message<'_>, record: &Record) -> bool {
        reply.data(record).first_chunk::<16>().is_some_and(|&octets| {
            let address = Ipv6Addr::from(octets);
            !self.excluded.iter().any(|excluded| excluded.contains_addr(&address))
        })
    }

    /// RFC 6147 section 5.1.4: the answer "MUST NOT include" excluded addresses while there are others.
    fn without_excluded(&self, query: &Message<'_>, reply: &Message<'_>) -> Vec<u8> {
        let mut writer = Writer::answer(query, DnsRcode::NoError);
        copy_aliases(reply, &mut writer);
        for record in reply.records().filter(|record| is_address(record, kind::AAAA)) {
            if let Some(owner) = reply.name_at(record.start).filter(|_| self.counts(reply, &record)) {
                writer.record(&owner, kind::AAAA, record.ttl, reply.data(&record));
            }
        }
        writer.finish(query.edns())
    }
}

/// An answer record of this type and class IN.
fn is_address(record: &Record, kind: u16) -> bool {
    record.section == Section::Answer && record.kind == kind && record.class == kind::CLASS_IN
}

/// Copies the chain of CNAME and DNAME records that leads to the answers.
fn copy_aliases(reply: &Message<'_>, writer: &mut Writer) {
    for record in reply.records().filter(|record| record.section == Section::Answer) {
        if !matches!(record.kind, kind::CNAME | kind::DNAME) {
            continue;
        }
        if let (Some(owner), Some(target)) = (reply.name_at(record.start), reply.name_at(record.data.start)) {
            writer.record(&owner, record.kind, record.ttl, &target);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::message::tests::query;
    use super::*;

    fn dns64(prefix: &str) -> Dns64 {
        Dns64::new(Ipv6Cidr::new(prefix.parse().unwrap(), 96))
    }

    fn local() -> Dns64 {
        dns64("64:ff9b:1::")
    }

    /// A reply with these answers; owners are the question's name.
    fn reply(query: &[u8], rcode: DnsRcode, answers: &[(u16, u32, &[u8])]) -> Vec<u8> {
        let query = Message::parse(query).unwrap();
        let mut writer = Writer::answer(&query, rcode);
        for &(kind, ttl, data) in answers {
            writer.record(query.name(), kind, ttl, data);
        }
        writer.finish(None)
    }

    fn answers(message: &[u8]) -> Vec<(u16, u32, Vec<u8>)> {
        let message = Message::parse(message).unwrap();
        let records = message.records().filter(|record| record.section == Section::Answer);
        records.map(|record| (record.kind, record.ttl, message.data(&record).to_vec())).collect()
    }

    fn v6(address: &str) -> [u8; 16] {
        address.parse::<Ipv6Addr>().unwrap().octets()
    }

    fn judge(dns64: &Dns64, query: &[u8], reply: &[u8]) -> Verdict {
        dns64.judge(&Message::parse(query).unwrap(), &Message::parse(reply).unwrap())
    }

    fn synthesized(dns64: &Dns64, query: &[u8], reply: &[u8], ttl: u32) -> Vec<u8> {
        dns64.synthesize(&Message::parse(query).unwrap(), &Message::parse(reply).unwrap(), ttl)
    }

    #[test]
    fn a_name_with_an_ipv6_address_is_passed_on() {
        let query = query("a.example", kind::AAAA, None);
        let reply = reply(&query, DnsRcode::NoError, &[(kind::AAAA, 60, &v6("2001:db8::1"))]);
        assert_eq!(judge(&local(), &query, &reply), Verdict::Pass);
    }

    #[test]
    fn a_name_that_does_not_exist_is_passed_on_and_other_errors_are_asked_about() {
        // RFC 6147 section 5.1.2.
        let query = query("a.example", kind::AAAA, None);
        let cases = [
            (DnsRcode::NXDomain, Verdict::Pass),
            (DnsRcode::ServFail, Verdict::AskIpv4(MAX_TTL_AFTER_FAILURE_SECS)),
            (DnsRcode::NotImp, Verdict::AskIpv4(MAX_TTL_AFTER_FAILURE_SECS)),
            (DnsRcode::NoError, Verdict::AskIpv4(MAX_TTL_SECS)),
        ];
        for (rcode, verdict) in cases {
            assert_eq!(judge(&local(), &query, &reply(&query, rcode, &[])), verdict);
        }
    }

    #[test]
    fn mapped_addresses_do_not_count_and_are_left_out() {
        // RFC 6147 section 5.1.4.
        let query = query("a.example", kind::AAAA, None);
        let mapped = v6("::ffff:192.0.2.1");
        let only = reply(&query, DnsRcode::NoError, &[(kind::AAAA, 60, &mapped)]);
        assert_eq!(judge(&local(), &query, &only), Verdict::AskIpv4(600));
        let good = v6("2001:db8::1");
        let mixed = reply(&query, DnsRcode::NoError, &[(kind::AAAA, 60, &mapped), (kind::AAAA, 61, &good)]);
        let Verdict::Instead(rest) = judge(&local(), &query, &mixed) else { panic!() };
        assert_eq!(answers(&rest), [(kind::AAAA, 61, good.to_vec())]);
    }

    #[test]
    fn without_ipv6_outside_every_aaaa_can_be_left_out() {
        let mut dns64 = local();
        dns64.exclude(&[Ipv6Cidr::new(Ipv6Addr::UNSPECIFIED, 0)]);
        let query = query("a.example", kind::AAAA, None);
        let reply = reply(&query, DnsRcode::NoError, &[(kind::AAAA, 60, &v6("2001:db8::1"))]);
        assert_eq!(judge(&dns64, &query, &reply), Verdict::AskIpv4(600));
    }

    #[test]
    fn every_ipv4_address_is_put_under_the_prefix() {
        let query = query("a.example", kind::AAAA, Some(1232));
        let a = [(kind::A, 300, &[192, 0, 2, 1][..]), (kind::A, 30, &[192, 0, 2, 2])];
        let made = synthesized(&local(), &query, &reply(&query, DnsRcode::NoError, &a), 120);
        let expected = [
            (kind::AAAA, 120, v6("64:ff9b:1::192.0.2.1").to_vec()),
            (kind::AAAA, 30, v6("64:ff9b:1::192.0.2.2").to_vec()),
        ];
        assert_eq!(answers(&made), expected, "RFC 6147 section 5.1.7: the smaller TTL");
        let message = Message::parse(&made).unwrap();
        assert_eq!(message.question(), Message::parse(&query).unwrap().question());
        assert!(!message.has(DnsFlags::AUTHENTIC_DATA) && message.edns().is_some());
    }

    #[test]
    fn the_ttl_is_bounded_by_the_negative_answers_soa() {
        let query = query("a.example", kind::AAAA, None);
        let mut negative = reply(&query, DnsRcode::NoError, &[]);
        negative[9] = 1;
        negative.extend_from_slice(&[0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 42, 0, 22]);
        negative.extend_from_slice(&[0; 22]);
        assert_eq!(judge(&local(), &query, &negative), Verdict::AskIpv4(42));
    }

    #[test]
    fn a_chain_of_aliases_is_kept() {
        let query = query("a.example", kind::AAAA, None);
        let parsed = Message::parse(&query).unwrap();
        let mut writer = Writer::answer(&parsed, DnsRcode::NoError);
        writer.record(parsed.name(), kind::CNAME, 60, b"\x01b\xc0\x0e");
        writer.record(b"\x01b\x07example\x00", kind::A, 60, &[192, 0, 2, 1]);
        let made = synthesized(&local(), &query, &writer.finish(None), 600);
        let message = Message::parse(&made).unwrap();
        let owners: Vec<_> = message.records().map(|record| message.name_at(record.start).unwrap()).collect();
        assert_eq!(owners, [&b"\x01a\x07example\x00"[..], b"\x01b\x07example\x00"]);
        assert_eq!(answers(&made)[0].2, b"\x01b\x07example\x00");
        assert_eq!(answers(&made)[1].2, v6("64:ff9b:1::192.0.2.1"));
    }

    #[test]
    fn an_empty_or_failed_a_reply_is_the_basis_of_the_answer() {
        // RFC 6147 section 5.1.6.
        let query = query("a.example", kind::AAAA, None);
        for rcode in [DnsRcode::NoError, DnsRcode::NXDomain, DnsRcode::ServFail] {
            let mut empty = reply(&query, rcode, &[]);
            set_kind(&mut empty, kind::A);
            empty[3] |= 0x20;
            let made = synthesized(&local(), &query, &empty, 600);
            let message = Message::parse(&made).unwrap();
            assert_eq!((message.kind(), message.header().rcode()), (kind::AAAA, rcode));
            assert!(!message.has(DnsFlags::AUTHENTIC_DATA));
        }
    }

    #[test]
    fn the_well_known_prefix_carries_global_addresses_only() {
        // RFC 6052 section 3.1.
        let query = query("a.example", kind::AAAA, None);
        let a = [(kind::A, 60, &[10, 0, 0, 1][..]), (kind::A, 60, &[8, 8, 8, 8])];
        let reply = reply(&query, DnsRcode::NoError, &a);
        let made = answers(&synthesized(&dns64("64:ff9b::"), &query, &reply, 600));
        assert_eq!(made, [(kind::AAAA, 60, v6("64:ff9b::8.8.8.8").to_vec())]);
        assert_eq!(answers(&synthesized(&local(), &query, &reply, 600)).len(), 2);
    }

    #[test]
    fn who_validates_itself_gets_no_synthesis() {
        // RFC 6147 section 5.5.
        for (checking_disabled, dnssec_ok, applies) in
            [(false, false, true), (true, false, true), (false, true, true), (true, true, false)]
        {
            let mut bytes = query("a.example", kind::AAAA, Some(1232));
            bytes[3] |= if checking_disabled { 0x10 } else { 0 };
            let flags = bytes.len() - 4;
            bytes[flags] = if dnssec_ok { 0x80 } else { 0 };
            assert_eq!(local().applies(&Message::parse(&bytes).unwrap()), applies);
        }
        assert!(!local().applies(&Message::parse(&query("a.example", kind::A, None)).unwrap()));
    }

    fn reverse_of(address: &str) -> String {
        let mut name = String::new();
        for octet in v6(address).iter().rev() {
            name += &format!("{:x}.{:x}.", octet & 15, octet >> 4);
        }
        name + "ip6.arpa"
    }

    #[test]
    fn a_reverse_query_under_the_prefix_becomes_one_for_the_ipv4_address() {
        let bytes = query(&reverse_of("64:ff9b:1::192.0.2.33"), kind::PTR, None);
        let name = local().reverse_name(&Message::parse(&bytes).unwrap()).unwrap();
        assert_eq!(name, b"\x0233\x012\x010\x03192\x07in-addr\x04arpa\x00");
        let outside = query(&reverse_of("2001:db8::1"), kind::PTR, None);
        assert_eq!(local().reverse_name(&Message::parse(&outside).unwrap()), None);
        let short = query("1.0.ip6.arpa", kind::PTR, None);
        assert_eq!(local().reverse_name(&Message::parse(&short).unwrap()), None);
    }

    #[test]
    fn a_reverse_answer_is_an_alias_and_the_pointer() {
        let asked = query(&reverse_of("64:ff9b:1::192.0.2.33"), kind::PTR, None);
        let inner = query("33.2.0.192.in-addr.arpa", kind::PTR, None);
        let told = reply(&inner, DnsRcode::NoError, &[(kind::PTR, 3600, b"\x04host\x07example\x00")]);
        let made =
            local().synthesize_pointer(&Message::parse(&asked).unwrap(), &Message::parse(&told).unwrap());
        let expected = [
            (kind::CNAME, 600, b"\x0233\x012\x010\x03192\x07in-addr\x04arpa\x00".to_vec()),
            (kind::PTR, 3600, b"\x04host\x07example\x00".to_vec()),
        ];
        assert_eq!(answers(&made), expected);
        let missing = reply(&inner, DnsRcode::NXDomain, &[]);
        let made =
            local().synthesize_pointer(&Message::parse(&asked).unwrap(), &Message::parse(&missing).unwrap());
        assert_eq!(Message::parse(&made).unwrap().header().rcode(), DnsRcode::NXDomain);
        assert!(answers(&made).is_empty());
    }

    #[test]
    fn ipv4only_arpa_tells_the_prefix() {
        // RFC 7050 section 8.2.
        let aaaa = query("IPv4Only.arpa", kind::AAAA, None);
        let made = dns64("64:ff9b::").well_known(&Message::parse(&aaaa).unwrap()).unwrap();
        let expected = ["64:ff9b::192.0.0.170", "64:ff9b::192.0.0.171"];
        assert_eq!(answers(&made), expected.map(|address| (kind::AAAA, 86_400, v6(address).to_vec())));
        let a = query("ipv4only.arpa", kind::A, None);
        assert_eq!(answers(&local().well_known(&Message::parse(&a).unwrap()).unwrap()).len(), 2);
        let other = query("ipv4only.example", kind::AAAA, None);
        assert_eq!(local().well_known(&Message::parse(&other).unwrap()), None);
    }

    proptest! {
        #[test]
        fn no_reply_makes_it_panic(tail in prop::collection::vec(any::<u8>(), 0..200), counts in any::<[u8; 3]>(), flags in any::<[u8; 2]>()) {
            let asked = query("a.example", kind::AAAA, Some(1232));
            let mut bytes = asked.clone();
            bytes[2..4].copy_from_slice(&flags);
            (bytes[7], bytes[9], bytes[11]) = (counts[0], counts[1], counts[2]);
            bytes.truncate(12 + 15);
            bytes.extend(tail);
            let (asked, told) = (Message::parse(&asked).unwrap(), Message::parse(&bytes).unwrap());
            drop(local().judge(&asked, &told));
            let made = local().synthesize(&asked, &told, 600);
            prop_assert!(Message::parse(&made).is_some());
            prop_assert!(Message::parse(&local().synthesize_pointer(&asked, &told)).is_some());
        }
    }
}
