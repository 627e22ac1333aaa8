// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a container may rely on when it asks for its neighbors.

use core::net::SocketAddr;

use smoltcp::wire::{DnsFlags, EthernetAddress};
use wharf_switch::Instant;

use super::super::message::Section;
use super::super::message::tests::query;
use super::super::script::ScriptedHost;
use super::super::{Client, Forwarder};
use super::*;
use crate::config::tests::config;

const MX: u16 = 15;
const NAPTR: u16 = 35;

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn authority() -> Authority {
    let mut zone = Zone::builder("wharf.internal").unwrap();
    zone.host("web", &[ip("10.0.2.100"), ip("fd00:db8::64")]).unwrap();
    zone.host("db-1", &[ip("10.0.2.101")]).unwrap();
    zone.host("db-2", &[ip("10.0.2.102")]).unwrap();
    zone.alias("db", &[ip("10.0.2.101"), ip("10.0.2.102")]).unwrap();
    Authority::new(&Config { zone: Arc::new(zone.build()), ..config() })
}

fn ask(authority: &mut Authority, name: &str, kind: u16) -> Option<Vec<u8>> {
    authority.answer(&Message::parse(&query(name, kind, None)).unwrap())
}

/// Result code, data of the answers, and the name of the zone that says there is none.
type Said = (DnsRcode, Vec<Vec<u8>>, Option<Vec<u8>>);

fn about(name: &str, kind: u16) -> Option<Said> {
    let reply = ask(&mut authority(), name, kind)?;
    let message = Message::parse(&reply).unwrap();
    assert!(message.has(DnsFlags::AUTHORITATIVE) && message.has(DnsFlags::RESPONSE), "{name}");
    assert!(message.records().all(|record| record.ttl == 5), "{name}");
    let of = |section| message.records().filter(move |record| record.section == section);
    let data = of(Section::Answer).map(|record| message.data(&record).to_vec()).collect();
    let zone = of(Section::Authority).next().map(|record| message.name_at(record.start).unwrap());
    Some((message.header().rcode(), data, zone))
}

fn addresses(name: &str, kind: u16) -> Vec<Vec<u8>> {
    let (rcode, mut data, zone) = about(name, kind).unwrap();
    assert_eq!((rcode, zone), (DnsRcode::NoError, None), "{name}");
    data.sort();
    data
}

/// Result code of an answer without data, and whose it is.
fn negative(name: &str, kind: u16) -> (DnsRcode, String) {
    let (rcode, data, zone) = about(name, kind).unwrap();
    assert_eq!(data, [[0; 0]; 0], "{name}");
    let zone = zone.unwrap();
    let mut text = String::new();
    let mut rest = &zone[..];
    while let Some((&len, behind)) = rest.split_first().filter(|(len, _)| **len > 0) {
        let (label, next) = behind.split_at(len.into());
        text = text + core::str::from_utf8(label).unwrap() + ".";
        rest = next;
    }
    (rcode, text)
}

#[test]
fn a_container_is_found_by_its_name_as_the_wire_has_it() {
    let reply = ask(&mut authority(), "wEb.Wharf.internal", kind::A).unwrap();
    // Response, authoritative, recursion desired and available; one question, one answer.
    let mut expected = vec![0x12, 0x34, 0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    expected.extend_from_slice(b"\x03wEb\x05Wharf\x08internal\x00\x00\x01\x00\x01");
    expected.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 2, 100]);
    assert_eq!(reply, expected);
}

#[test]
fn that_there_is_nothing_is_said_with_the_zones_record_as_the_wire_has_it() {
    let reply = ask(&mut authority(), "no.wharf.internal", kind::A).unwrap();
    let mut expected = vec![0x12, 0x34, 0x85, 0x83, 0, 1, 0, 0, 0, 1, 0, 0];
    expected.extend_from_slice(b"\x02no\x05wharf\x08internal\x00\x00\x01\x00\x01");
    expected.extend_from_slice(b"\x05wharf\x08internal\x00\x00\x06\x00\x01\x00\x00\x00\x05\x00\x47");
    expected
        .extend_from_slice(b"\x07gateway\x05wharf\x08internal\x00\x0ahostmaster\x05wharf\x08internal\x00");
    expected.extend_from_slice(&[0, 0, 0, 1, 0, 0, 14, 16, 0, 0, 4, 176, 0, 9, 58, 128, 0, 0, 0, 5]);
    assert_eq!(reply, expected);
}

#[test]
fn names_lead_to_addresses_of_the_family_asked_for() {
    for name in ["web.wharf.internal", "WEB.wharf.INTERNAL", "web"] {
        assert_eq!(addresses(name, kind::A), [vec![10, 0, 2, 100]], "{name}");
        assert_eq!(addresses(name, kind::AAAA), [ip6("fd00:db8::64")], "{name}");
        assert_eq!(addresses(name, kind::ANY), [vec![10, 0, 2, 100], ip6("fd00:db8::64")], "{name}");
    }
    assert_eq!(addresses("db.wharf.internal", kind::A), [[10, 0, 2, 101], [10, 0, 2, 102]]);
    assert_eq!(addresses("gateway.wharf.internal", kind::A), [[10, 0, 2, 2]]);
    assert_eq!(addresses("gateway", kind::AAAA), [ip6("fd00:db8::2")]);
}

fn ip6(address: &str) -> Vec<u8> {
    let IpAddr::V6(address) = ip(address) else { panic!("{address}") };
    address.octets().to_vec()
}

#[test]
fn every_address_of_an_alias_comes_first_some_time() {
    let mut authority = authority();
    let mut firsts: Vec<u8> = (0..50)
        .map(|_| {
            let reply = ask(&mut authority, "db", kind::A).unwrap();
            let message = Message::parse(&reply).unwrap();
            message.data(&message.records().next().unwrap())[3]
        })
        .collect();
    firsts.sort_unstable();
    firsts.dedup();
    assert_eq!(firsts, [101, 102]);
}

#[test]
fn what_is_not_there_is_denied_by_the_zone_that_would_have_it() {
    let domain = "wharf.internal.";
    let cases = [
        ("db.wharf.internal", kind::AAAA, DnsRcode::NoError, domain),
        ("web.wharf.internal", MX, DnsRcode::NoError, domain),
        ("web", NAPTR, DnsRcode::NoError, "web."),
        ("gateway.wharf.internal", kind::PTR, DnsRcode::NoError, domain),
        ("wharf.internal", kind::A, DnsRcode::NoError, domain),
        ("other.wharf.internal", kind::A, DnsRcode::NXDomain, domain),
        ("other.wharf.internal", MX, DnsRcode::NXDomain, domain),
        ("a.web.wharf.internal", kind::A, DnsRcode::NXDomain, domain),
        ("77.2.0.10.in-addr.arpa", kind::PTR, DnsRcode::NXDomain, "2.0.10.in-addr.arpa."),
        ("100.2.0.10.in-addr.arpa", kind::A, DnsRcode::NoError, "2.0.10.in-addr.arpa."),
        ("1.100.2.0.10.in-addr.arpa", kind::PTR, DnsRcode::NXDomain, "2.0.10.in-addr.arpa."),
        ("x.2.0.10.in-addr.arpa", kind::PTR, DnsRcode::NXDomain, "2.0.10.in-addr.arpa."),
        ("2.0.10.in-addr.arpa", kind::PTR, DnsRcode::NoError, "2.0.10.in-addr.arpa."),
    ];
    for (name, kind, rcode, zone) in cases {
        assert_eq!(negative(name, kind), (rcode, zone.into()), "{name} {kind}");
    }
}

#[test]
fn a_name_between_the_prefix_and_an_address_exists_if_the_address_does() {
    let zone = "0.0.0.0.0.0.0.0.8.b.d.0.0.0.d.f.ip6.arpa";
    let apex = || format!("{zone}.");
    assert_eq!(negative(zone, kind::PTR), (DnsRcode::NoError, apex()));
    assert_eq!(negative(&format!("0.0.{zone}"), kind::PTR), (DnsRcode::NoError, apex()));
    assert_eq!(negative(&format!("1.0.{zone}"), kind::PTR), (DnsRcode::NXDomain, apex()));
}

#[test]
fn addresses_lead_back_to_names() {
    let name_of = |address| {
        let ip = ip(address);
        let name = reverse::name_of(ip, 128);
        let mut bytes = query("x", kind::PTR, None)[..12].to_vec();
        bytes.extend_from_slice(&name);
        bytes.extend_from_slice(&[0, 12, 0, 1]);
        let reply = authority().answer(&Message::parse(&bytes).unwrap()).unwrap();
        let message = Message::parse(&reply).unwrap();
        message.data(&message.records().next().unwrap()).to_vec()
    };
    assert_eq!(name_of("10.0.2.100"), b"\x03web\x05wharf\x08internal\x00");
    assert_eq!(name_of("fd00:db8::64"), b"\x03web\x05wharf\x08internal\x00");
    assert_eq!(name_of("10.0.2.102"), b"\x04db-2\x05wharf\x08internal\x00");
    assert_eq!(name_of("10.0.2.2"), b"\x07gateway\x05wharf\x08internal\x00");
}

#[test]
fn the_zone_says_who_answers_for_it() {
    for name in ["wharf.internal", "2.0.10.in-addr.arpa"] {
        let (rcode, data, _) = about(name, kind::SOA).unwrap();
        assert_eq!((rcode, data.len()), (DnsRcode::NoError, 1), "{name}");
        assert!(data[0].starts_with(b"\x07gateway\x05wharf\x08internal\x00"));
    }
}

#[test]
fn a_domain_of_one_label_may_be_a_containers_name_too() {
    let mut zone = Zone::builder("web").unwrap();
    zone.host("web", &[ip("10.0.2.100")]).unwrap();
    let mut authority = Authority::new(&Config { zone: Arc::new(zone.build()), ..config() });
    for (name, kind) in [("web", kind::A), ("web.web", kind::A), ("web", kind::SOA)] {
        let reply = ask(&mut authority, name, kind).unwrap();
        assert_eq!(Message::parse(&reply).unwrap().header().answer_record_count(), 1, "{name} {kind}");
    }
}

#[test]
fn other_names_are_none_of_the_zones_business() {
    let names = [
        "other",
        "internal",
        "xwharf.internal",
        "wharf.internal.example",
        "example.org",
        "1.3.0.10.in-addr.arpa",
        "0.10.in-addr.arpa",
        "in-addr.arpa",
        "ip6.arpa",
    ];
    for name in names {
        assert_eq!(about(name, kind::A), None, "{name}");
    }
    // One label that ends in the bytes of the domain.
    let one_label =
        [&query("x", kind::A, None)[..12], b"\x11x\x05wharf\x08internal\x00\x00", &[0, 1, 0, 1]].concat();
    assert_eq!(authority().answer(&Message::parse(&one_label).unwrap()), None);
}

/// What the forwarder of a network says, and how many datagrams it has sent to others for that.
fn forwarded(config: &Config, client: Client, query: &[u8]) -> (Option<Vec<u8>>, usize) {
    let (mut forwarder, mut host) = (Forwarder::new(config), ScriptedHost::default());
    forwarder.handle_query(Instant::ZERO, &mut host, client, query).unwrap();
    (forwarder.poll_reply().map(|(_, reply)| reply), host.datagrams.len())
}

fn udp_client() -> Client {
    let from = SocketAddr::new(ip("10.0.2.100"), 4000);
    Client::Udp { mac: EthernetAddress([2, 0, 0, 0, 0, 0x64]), from, to: ip("10.0.2.3") }
}

#[test]
fn what_does_not_fit_a_datagram_is_whole_over_tcp() {
    let mut zone = Zone::builder("wharf.internal").unwrap();
    let many: Vec<IpAddr> = (100..200).map(|last| IpAddr::from([10, 0, 2, last])).collect();
    zone.alias("all", &many).unwrap();
    let config = Config { zone: Arc::new(zone.build()), ..config() };
    let query = query("all.wharf.internal", kind::A, None);
    let (reply, _) = forwarded(&config, udp_client(), &query);
    let reply = reply.unwrap();
    let message = Message::parse(&reply).unwrap();
    assert!(reply.len() <= 512 && message.has(DnsFlags::TRUNCATED));
    let (reply, _) = forwarded(&config, Client::Tcp { connection: 1, from: ip("10.0.2.100") }, &query);
    let reply = reply.unwrap();
    let message = Message::parse(&reply).unwrap();
    assert!(!message.has(DnsFlags::TRUNCATED));
    assert_eq!(message.header().answer_record_count(), 100);
}

#[test]
fn the_networks_own_names_leave_it_never_and_no_ipv6_address_is_made_for_them() {
    let config = Config { zone: authority().own.names.zone, ..config() };
    for (name, kind) in [
        ("web.wharf.internal", kind::A),
        ("db.wharf.internal", kind::AAAA),
        ("db", kind::AAAA),
        ("nobody.wharf.internal", MX),
        ("wharf.internal", NAPTR),
        ("77.2.0.10.in-addr.arpa", kind::PTR),
    ] {
        let (reply, asked) = forwarded(&config, udp_client(), &query(name, kind, None));
        let reply = reply.unwrap();
        assert_eq!(asked, 0, "{name}");
        let message = Message::parse(&reply).unwrap();
        assert_eq!(message.header().answer_record_count(), u16::from(kind == kind::A), "{name}");
    }
    for name in ["nobody", "example.org", "77.3.0.10.in-addr.arpa"] {
        assert_eq!(forwarded(&config, udp_client(), &query(name, kind::A, None)), (None, 1), "{name}");
    }
}

#[test]
fn a_new_zone_counts_from_the_next_query_on() {
    let mut authority = authority();
    let mut zone = Zone::builder("lan").unwrap();
    zone.host("web", &[ip("10.0.2.150")]).unwrap();
    authority.set_zone(Arc::new(zone.build()));
    assert_eq!(ask(&mut authority, "web.wharf.internal", kind::A), None);
    assert!(ask(&mut authority, "web.lan", kind::A).unwrap().ends_with(&[10, 0, 2, 150]));
}

/// A network in 10.0.3.0/24, whose only container is at `.100`, and its gateway at `.2`.
fn linked(domain: &str) -> LinkedZone {
    let mut zone = Zone::builder(domain).unwrap();
    zone.host("db", &[ip("10.0.3.100")]).unwrap();
    LinkedZone { zone: Arc::new(zone.build()), prefixes: vec!["10.0.3.0/24".parse().unwrap()] }
}

#[test]
fn a_linked_networks_names_are_known_in_its_domain_and_as_long_as_it_is_linked() {
    let mut authority = authority();
    assert_eq!(ask(&mut authority, "db.back.internal", kind::A), None);
    authority.set_linked_zones(vec![linked("back.internal")]);
    let reply = ask(&mut authority, "db.back.internal", kind::A).unwrap();
    assert!(reply.ends_with(&[10, 0, 3, 100]));
    let reply = ask(&mut authority, "100.3.0.10.in-addr.arpa", kind::PTR).unwrap();
    assert!(reply.ends_with(b"\x02db\x04back\x08internal\x00"));
    let own = ask(&mut authority, "db", kind::A).unwrap();
    assert_eq!(Message::parse(&own).unwrap().header().answer_record_count(), 2, "its own, not the other");
    for name in ["gateway.back.internal", "web.back.internal", "2.3.0.10.in-addr.arpa"] {
        let reply = ask(&mut authority, name, kind::A).unwrap();
        let message = Message::parse(&reply).unwrap();
        assert_eq!(message.header().rcode(), DnsRcode::NXDomain, "{name}");
        let start = [&b"\x07gateway\x04back\x08internal\x00"[..], b"\x0ahostmaster\x04back"].concat();
        assert!(reply.windows(start.len()).any(|bytes| bytes == start), "{name}");
    }
    authority.set_linked_zones(Vec::new());
    assert_eq!(ask(&mut authority, "db.back.internal", kind::A), None);
}

#[test]
fn a_domain_below_another_has_its_own_names() {
    for (above, below) in [("db.back.wharf.internal", "back.wharf.internal"), ("db.internal", "internal")] {
        let mut authority = authority();
        authority.set_linked_zones(vec![linked(below)]);
        assert!(ask(&mut authority, above, kind::A).unwrap().ends_with(&[10, 0, 3, 100]), "{above}");
        let web = ask(&mut authority, "web.wharf.internal", kind::A).unwrap();
        assert!(web.ends_with(&[10, 0, 2, 100]), "{below}");
    }
}

#[test]
fn without_a_domain_nothing_is_answered() {
    let mut authority = Authority::new(&config());
    for name in ["gateway", "2.2.0.10.in-addr.arpa", "web"] {
        assert_eq!(ask(&mut authority, name, kind::PTR), None, "{name}");
    }
}

#[test]
fn another_class_is_refused_and_not_asked_for_elsewhere() {
    let mut bytes = query("web.wharf.internal", kind::A, None);
    let class = bytes.len() - 1;
    bytes[class] = 3;
    let reply = authority().answer(&Message::parse(&bytes).unwrap()).unwrap();
    assert_eq!(Message::parse(&reply).unwrap().header().rcode(), DnsRcode::Refused);
}

#[test]
fn a_prefix_between_whole_labels_has_only_its_own_addresses() {
    let mut config = config();
    if let Some(plan) = config.ipv4.as_mut() {
        plan.subnet = "10.0.2.0/25".parse().unwrap();
    }
    config.zone = Arc::new(Zone::builder("lan").unwrap().build());
    let mut authority = Authority::new(&config);
    assert!(ask(&mut authority, "127.2.0.10.in-addr.arpa", kind::PTR).is_some());
    assert_eq!(ask(&mut authority, "128.2.0.10.in-addr.arpa", kind::PTR), None);
    assert_eq!(ask(&mut authority, "2.0.10.in-addr.arpa", kind::SOA), None);
}
