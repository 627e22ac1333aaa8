// SPDX-License-Identifier: MIT OR Apache-2.0
//! Special-use names: `localhost`, `invalid` and the names of loopback addresses are answered here.
//!
//! # How it works
//! A query for a name of the table, or for one below it, is answered at once, whatever its class: what a nameserver
//! would say about somebody's own loopback is of no use to them, and might be a lie.
//!
//! # Sources
//! RFC 6761 sections 6.3 (`localhost`) and 6.4 (`invalid`), RFC 6303 sections 4.2 and 4.3 (loopback reverse names).

use core::net::{Ipv4Addr, Ipv6Addr};

use smoltcp::wire::DnsRcode;

use super::answer::{Writer, refusal};
use super::message::{Message, kind};
use crate::local::name::is_at_or_below;

/// How long the answers live: they never change.
const TTL_SECS: u32 = 86_400;
const LOCALHOST: &[u8] = b"\x09localhost\x00";

const LOOPBACK4: &[u8] = b"\x011\x010\x010\x03127\x07in-addr\x04arpa\x00";
const LOOPBACK6: &[u8] = b"\x011\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\
                           \x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\
                           \x03ip6\x04arpa\x00";

/// What is known about a name and those below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// RFC 6761 section 6.3: "for all such address queries, generate an immediate positive response giving the IP
    /// loopback address, and for all other query types, generate an immediate negative response."
    Loopback,
    /// One name among them is that of `localhost`'s address, the others are nobody's.
    Reverse(&'static [u8]),
    /// RFC 6761 section 6.4: "immediate NXDOMAIN responses for all such queries."
    Nothing,
}

const NAMES: [(&[u8], Meaning); 4] = [
    (LOCALHOST, Meaning::Loopback),
    (b"\x07invalid\x00", Meaning::Nothing),
    (b"\x03127\x07in-addr\x04arpa\x00", Meaning::Reverse(LOOPBACK4)),
    (LOOPBACK6, Meaning::Reverse(LOOPBACK6)),
];

/// The answer to a query for a special name; `None` for an ordinary one.
pub(super) fn answer(query: &Message<'_>) -> Option<Vec<u8>> {
    let name = query.name();
    let &(_, meaning) = NAMES.iter().find(|(special, _)| is_at_or_below(name, special))?;
    if meaning == Meaning::Nothing {
        return Some(refusal(query, DnsRcode::NXDomain));
    }
    let mut writer = Writer::answer(query, DnsRcode::NoError);
    if let Some(data) = data(meaning, query).filter(|_| query.class() == kind::CLASS_IN) {
        writer.record(name, query.kind(), TTL_SECS, &data);
    }
    Some(writer.finish(query.edns()))
}

/// The data of the one record that answers `query`, if there is any.
fn data(meaning: Meaning, query: &Message<'_>) -> Option<Vec<u8>> {
    match (meaning, query.kind()) {
        (Meaning::Loopback, kind::A) => Some(Ipv4Addr::LOCALHOST.octets().into()),
        (Meaning::Loopback, kind::AAAA) => Some(Ipv6Addr::LOCALHOST.octets().into()),
        (Meaning::Reverse(exact), kind::PTR) if query.name().eq_ignore_ascii_case(exact) => {
            Some(LOCALHOST.into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::query;
    use super::*;

    const NODATA: (DnsRcode, &[u8]) = (DnsRcode::NoError, &[]);
    const NXDOMAIN: (DnsRcode, &[u8]) = (DnsRcode::NXDomain, &[]);
    const V6_ZEROS: &str = "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa";
    const MX: u16 = 15;

    /// Result code and data of the answer about a name.
    fn about(name: &str, kind: u16) -> Option<(DnsRcode, Vec<u8>)> {
        let bytes = query(name, kind, Some(1232));
        let answer = answer(&Message::parse(&bytes).unwrap())?;
        let message = Message::parse(&answer).unwrap();
        assert_eq!((&answer[..2], message.edns().is_some()), (&bytes[..2], true));
        let records = message.records().filter(|record| record.kind != kind::OPT);
        let data = records.flat_map(|record| message.data(&record).to_vec()).collect();
        Some((message.header().rcode(), data))
    }

    #[test]
    fn special_names_are_answered_as_their_rfcs_say() {
        // RFC 6761 sections 6.3 and 6.4, RFC 6303 sections 4.2 and 4.3.
        let loopback6 = format!("1.{V6_ZEROS}");
        let below6 = format!("1.1.{V6_ZEROS}");
        let cases = [
            ("localhost", kind::A, (DnsRcode::NoError, &[127, 0, 0, 1][..])),
            ("localhost", kind::AAAA, (DnsRcode::NoError, &Ipv6Addr::LOCALHOST.octets())),
            ("LocalHost", kind::A, (DnsRcode::NoError, &[127, 0, 0, 1])),
            ("a.b.localhost", kind::A, (DnsRcode::NoError, &[127, 0, 0, 1])),
            ("localhost", MX, NODATA),
            ("invalid", kind::A, NXDOMAIN),
            ("a.INVALID", kind::AAAA, NXDOMAIN),
            ("1.0.0.127.in-addr.arpa", kind::PTR, (DnsRcode::NoError, LOCALHOST)),
            ("1.0.0.127.IN-ADDR.ARPA", kind::A, NODATA),
            ("2.0.0.127.in-addr.arpa", kind::PTR, NODATA),
            ("1.1.0.0.127.in-addr.arpa", kind::PTR, NODATA),
            ("127.in-addr.arpa", kind::SOA, NODATA),
            (&loopback6, kind::PTR, (DnsRcode::NoError, LOCALHOST)),
            (&below6, kind::PTR, NODATA),
        ];
        for (name, kind, (rcode, data)) in cases {
            assert_eq!(about(name, kind), Some((rcode, data.to_vec())), "{name} {kind}");
        }
    }

    #[test]
    fn names_that_only_look_special_are_asked_for() {
        let zeros = format!("0.{V6_ZEROS}");
        let names = ["localhost.example", "notlocalhost", "xlocalhost.x", "invalid.example", "com"];
        for name in names.into_iter().chain(["1.0.0.128.in-addr.arpa", "in-addr.arpa", &zeros]) {
            assert_eq!(about(name, kind::A), None, "{name}");
        }
        // One label of twelve bytes that ends in those of the name.
        let header = &query("x", kind::A, None)[..12];
        let one_label = [header, b"\x0cxx\x09localhost\x00", &[0, 1, 0, 1]].concat();
        assert_eq!(answer(&Message::parse(&one_label).unwrap()), None);
    }

    #[test]
    fn another_class_has_no_loopback_but_is_answered_here_too() {
        let mut bytes = query("localhost", kind::A, None);
        let class = bytes.len() - 1;
        bytes[class] = 3;
        let answer = answer(&Message::parse(&bytes).unwrap()).unwrap();
        assert_eq!(Message::parse(&answer).unwrap().records().count(), 0);
    }
}
