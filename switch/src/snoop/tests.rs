// SPDX-License-Identifier: MIT OR Apache-2.0
use smoltcp::wire::{IpProtocol, checksum};

use super::members::{MAX_MEMBERSHIPS, MAX_PER_PORT};
use super::*;
use crate::{Duration, Guard, Macs, Pool};

const NOW: Instant = Instant::from_secs(1000);
/// A router, or another switch.
const ROUTER: PortId = PortId { index: 1, generation: 0 };
const MEMBER: PortId = PortId { index: 70, generation: 0 };
const ALL_NODES: EthernetAddress = EthernetAddress([0x33, 0x33, 0, 0, 0, 1]);
pub(crate) const GROUP: [u8; 4] = [239, 1, 2, 3];

fn later(secs: u64) -> Instant {
    NOW + Duration::from_secs(secs)
}

fn port(index: u32) -> PortId {
    PortId { index, generation: 0 }
}

fn fill(bytes: &[&[u8]]) -> Frame {
    let mut frame = Pool::new(0).small();
    frame.fill(&bytes.concat());
    frame
}

fn group_mac(group: [u8; 4]) -> [u8; 6] {
    [0x01, 0, 0x5e, group[1] & 0x7f, group[2], group[3]]
}

/// An IPv4 packet to a group, with right checksums if it is IGMP.
fn ipv4(source: [u8; 4], group: [u8; 4], protocol: u8, payload: &[u8]) -> Frame {
    let mut payload = payload.to_vec();
    if protocol == 2 {
        let sum = !checksum::data(&payload);
        payload[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    let total = u8::try_from(20 + payload.len()).unwrap();
    let mut header = [&[0x45, 0, 0, total, 0, 1, 0, 0, 1, protocol, 0, 0][..], &source, &group].concat();
    let sum = !checksum::data(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    fill(&[&group_mac(group), &[2, 0, 0, 0, 0, 1, 8, 0], &header, &payload])
}

pub(crate) fn igmp(kind: u8, group: [u8; 4]) -> Frame {
    ipv4(
        [192, 0, 2, 1],
        if kind == 0x11 { [224, 0, 0, 1] } else { group },
        2,
        &[&[kind, 0, 0, 0][..], &group].concat(),
    )
}

pub(crate) fn stream(group: [u8; 4]) -> Frame {
    ipv4([192, 0, 2, 9], group, 17, &[0; 16])
}

/// ff02::1:0:0 with these last bytes.
fn group_v6([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, a, b, c, d]
}

/// An ICMPv6 message to a group, behind these extension headers.
fn icmpv6(to: [u8; 16], hop_limit: u8, extensions: &[u8], mut message: Vec<u8>) -> Frame {
    let source = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let len = u32::try_from(message.len()).unwrap();
    let pseudo = checksum::pseudo_header_v6(&source.into(), &to.into(), IpProtocol::Icmpv6, len);
    let sum = !checksum::combine(&[pseudo, checksum::data(&message)]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let next = if extensions.is_empty() { 58 } else { 0 };
    let payload_len = u8::try_from(extensions.len() + message.len()).unwrap();
    let header = [&[0x60, 0, 0, 0, 0, payload_len, next, hop_limit][..], &source, &to].concat();
    let macs = [&[0x33, 0x33][..], &to[12..], &[2, 0, 0, 0, 0, 1, 0x86, 0xdd]].concat();
    fill(&[&macs, &header, extensions, &message])
}

/// An MLD message about a group to one, behind a router alert.
fn mld_about(kind: u8, to: [u8; 4], group: [u8; 16]) -> Frame {
    let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &group].concat();
    icmpv6(group_v6(to), 1, &[58, 0, 5, 2, 0, 0, 1, 0], message)
}

/// An MLD message about a group like ff02::1:0:107, to such a one; `group` 0 is none.
fn mld(kind: u8, to: u8, group: u8) -> Frame {
    mld_about(kind, [0, 0, 1, to], if group == 0 { [0; 16] } else { group_v6([0, 0, 1, group]) })
}

/// A report of the solicited-node group of addresses that end in 00:01 and `last`.
pub(crate) fn mld_solicited_node(last: u8) -> Frame {
    let group = [0xff, 0, 1, last];
    mld_about(131, group, group_v6(group))
}

/// A search for the owner of such an address.
pub(crate) fn solicitation(last: u8) -> Frame {
    let target = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, last];
    let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target].concat();
    icmpv6(group_v6([0xff, 0, 1, last]), 255, &[], message)
}

/// A policy for a port with one host, which sends from the address that the frames here are from.
pub(crate) fn host() -> Policy {
    let macs = Macs::Only(EthernetAddress([2, 0, 0, 0, 0, 1]));
    Policy { guard: Guard { macs, may_route: false, ..Guard::OFF }, ..Policy::default() }
}

/// Where the frame goes besides shared ports: `None` is everywhere, else which of member and another port.
fn heard(snoop: &Snoop, from: PortId, mut frame: Frame, now: Instant) -> Option<[bool; 2]> {
    let policy = if from == ROUTER { Policy { guard: Guard::OFF, ..Policy::default() } } else { host() };
    let audience = snoop.hear(from, Some(&policy), &mut frame, now);
    let ports = snoop.ports(audience, &frame, now)?;
    Some([MEMBER, port(5)].map(|port| ports.contains(port)))
}

/// A table that knows a member of [`GROUP`].
fn snoop() -> Snoop {
    let snoop = Snoop::default();
    assert_eq!(heard(&snoop, MEMBER, igmp(0x16, GROUP), NOW), Some([false; 2]), "reports are for routers");
    snoop
}

fn query(snoop: &Snoop, from: PortId, now: Instant) {
    assert_eq!(heard(snoop, from, igmp(0x11, [0; 4]), now), None, "queries are for everyone");
}

#[test]
fn a_stream_goes_to_members() {
    let snoop = snoop();
    assert_eq!(heard(&snoop, port(5), stream(GROUP), NOW), Some([true, false]));
    assert_eq!(heard(&snoop, port(5), stream([239, 9, 9, 9]), NOW), Some([false; 2]));
    let mut elsewhere = stream(GROUP);
    elsewhere.vlan = Vlan::new(5).unwrap();
    assert_eq!(heard(&snoop, port(5), elsewhere, NOW), Some([false; 2]), "nobody on that VLAN");
}

#[test]
fn without_a_querier_a_membership_lasts() {
    let snoop = snoop();
    query(&snoop, port(5), NOW);
    query(&snoop, port(5), later(125));
    assert_eq!(heard(&snoop, port(5), stream(GROUP), later(86_400)), Some([true, false]), "a host's queries");
    let unspecified = || ipv4([0; 4], [224, 0, 0, 1], 2, &[0x11, 0, 0, 0, 0, 0, 0, 0]);
    heard(&snoop, ROUTER, unspecified(), later(1));
    heard(&snoop, ROUTER, unspecified(), later(126));
    assert_eq!(heard(&snoop, port(5), stream(GROUP), later(200)), Some([true, false]), "from 0.0.0.0");
}

#[test]
fn who_leaves_two_queries_unanswered_is_no_member_any_more() {
    let snoop = snoop();
    heard(&snoop, port(5), igmp(0x16, GROUP), NOW);
    query(&snoop, ROUTER, later(1));
    heard(&snoop, port(5), igmp(0x16, GROUP), later(5));
    query(&snoop, ROUTER, later(126));
    let specific = igmp(0x11, GROUP);
    assert_eq!(heard(&snoop, ROUTER, specific, later(130)), None);
    assert_eq!(heard(&snoop, port(6), stream(GROUP), later(135)), Some([true, true]), "may answer still");
    assert_eq!(heard(&snoop, port(6), stream(GROUP), later(136)), Some([false, true]));
    // The querier has gone, and with it the reason to age.
    assert_eq!(heard(&snoop, port(6), stream(GROUP), later(9_000)), Some([false, true]));
}

#[test]
fn who_has_gone_is_no_member_any_more() {
    let snoop = snoop();
    snoop.forget_port(MEMBER);
    assert_eq!(heard(&snoop, port(5), stream(GROUP), NOW), Some([false; 2]));
    let table = snoop.table();
    assert!(table.members.is_empty() && table.by_age.is_empty());
}

#[test]
fn who_is_sought_is_found_before_and_after_it_has_reported() {
    // RFC 4861 section 7.2.2: a solicitation goes to the solicited-node group of the address.
    let snoop = Snoop::default();
    assert_eq!(heard(&snoop, port(6), solicitation(7), NOW), None, "nothing is known");
    heard(&snoop, port(6), mld_solicited_node(7), NOW);
    assert_eq!(heard(&snoop, port(6), solicitation(7), NOW), Some([true, true]), "nothing is known of these");
    heard(&snoop, port(5), mld(131, 7, 7), NOW);
    assert_eq!(heard(&snoop, port(6), solicitation(7), NOW), Some([true, false]), "one has other groups");
    heard(&snoop, MEMBER, mld_solicited_node(7), NOW);
    assert_eq!(heard(&snoop, port(6), solicitation(7), NOW), Some([true, false]));
    heard(&snoop, port(5), mld_solicited_node(7), NOW);
    assert_eq!(heard(&snoop, port(6), solicitation(7), NOW), Some([true, true]));
    snoop.forget_port(port(5));
    assert_eq!(heard(&snoop, port(6), solicitation(7), NOW), Some([true, true]), "a new one in its place");
}

#[test]
fn who_is_sought_is_found_although_the_reports_of_the_address_were_lost() {
    let snoop = Snoop::default();
    for member in [MEMBER, port(5)] {
        heard(&snoop, member, mld(131, 7, 7), NOW);
    }
    assert_eq!(heard(&snoop, port(6), solicitation(7), NOW), None, "flooded as an ARP request is");
    heard(&snoop, port(5), mld_solicited_node(7), NOW);
    assert_eq!(heard(&snoop, port(6), solicitation(7), NOW), Some([false, true]), "it is known whose it is");
    let mut elsewhere = solicitation(7);
    elsewhere.vlan = Vlan::new(5).unwrap();
    assert_eq!(heard(&snoop, port(6), elsewhere, NOW), None, "each VLAN has its own members");
    snoop.forget_port(port(5));
    assert_eq!(heard(&snoop, port(6), solicitation(7), NOW), None);
}

#[test]
fn link_local_groups_and_other_protocols_are_flooded() {
    let snoop = snoop();
    assert_eq!(heard(&snoop, port(5), stream([224, 0, 0, 251]), NOW), None);
    let all_nodes = fill(&[&[0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0x86, 0xdd], &[0; 40]]);
    assert_eq!(heard(&snoop, port(5), all_nodes, NOW), None);
    let other = fill(&[&[0x01, 0x80, 0xc2, 0, 0, 0x21, 2, 0, 0, 0, 0, 1, 0x88, 0xb5], &[0; 46]]);
    assert_eq!(heard(&snoop, port(5), other, NOW), None);
}

#[test]
fn mld_is_heard_behind_its_router_alert() {
    let snoop = Snoop::default();
    assert_eq!(heard(&snoop, MEMBER, mld(131, 7, 7), NOW), Some([false; 2]));
    let data = || fill(&[&[0x33, 0x33, 0, 0, 1, 7, 2, 0, 0, 0, 0, 1, 0x86, 0xdd], &[0; 40]]);
    assert_eq!(heard(&snoop, port(5), data(), NOW), Some([true, false]));
    heard(&snoop, MEMBER, mld(132, 2, 7), NOW);
    assert_eq!(heard(&snoop, port(5), data(), later(2)), Some([false; 2]));
    heard(&snoop, MEMBER, mld(131, 7, 7), later(3));
    for at in [4, 129] {
        assert_eq!(heard(&snoop, ROUTER, mld(130, 0, 0), later(at)), None);
    }
    assert_eq!(heard(&snoop, port(5), data(), later(139)), Some([false; 2]), "two queries unanswered");
}

#[test]
fn a_member_that_leaves_is_none_any_more() {
    let snoop = snoop();
    heard(&snoop, MEMBER, igmp(0x17, GROUP), NOW);
    assert_eq!(heard(&snoop, port(5), stream(GROUP), later(1)), Some([true, false]), "it may speak up");
    heard(&snoop, MEMBER, igmp(0x17, GROUP), later(1));
    assert_eq!(heard(&snoop, port(5), stream(GROUP), later(2)), Some([false; 2]), "the first leave counts");
    heard(&snoop, MEMBER, igmp(0x16, GROUP), later(2));
    assert_eq!(heard(&snoop, port(5), stream(GROUP), later(9)), Some([true, false]));
}

#[test]
fn a_damaged_report_is_not_believed() {
    let snoop = snoop();
    for at in [14 + 8, 14 + 24] {
        let mut damaged = igmp(0x16, [239, 7, 7, 7]);
        damaged.bytes_mut()[at] ^= 1;
        heard(&snoop, port(5), damaged, NOW);
    }
    assert_eq!(heard(&snoop, MEMBER, stream([239, 7, 7, 7]), NOW), Some([false; 2]));
    let mut query = mld(130, 0, 0);
    query.bytes_mut()[14 + 48 + 4] ^= 1;
    heard(&snoop, ROUTER, query, NOW);
    assert!(snoop.table().queries_of(Vlan::UNTAGGED, ALL_NODES).is_none());
}

#[test]
fn an_mld_query_comes_from_a_link_local_address() {
    let snoop = Snoop::default();
    let mut query = mld(130, 0, 0);
    // The checksum stays right when two of its words change places.
    query.bytes_mut()[14 + 8..14 + 12].rotate_left(2);
    heard(&snoop, ROUTER, query, NOW);
    assert!(snoop.table().queries_of(Vlan::UNTAGGED, ALL_NODES).is_none());
}

/// An IGMPv3 report with one record.
fn record(kind: u8, sources: &[[u8; 4]]) -> Frame {
    let number = u8::try_from(sources.len()).unwrap();
    let header = [0x22, 0, 0, 0, 0, 0, 0, 1, kind, 0, 0, number];
    ipv4([192, 0, 2, 1], GROUP, 2, &[&header[..], &GROUP, &sources.concat()].concat())
}

#[test]
fn who_blocks_the_last_source_is_no_member_any_more() {
    // RFC 3376 section 5.1: INCLUDE (A) to INCLUDE (B) is ALLOW (B-A) and BLOCK (A-B), each of them sent twice.
    const A: [u8; 4] = [192, 0, 2, 10];
    const B: [u8; 4] = [192, 0, 2, 11];
    let snoop = Snoop::default();
    for (kind, source) in [(5, A), (5, A), (5, B), (6, A), (6, A)] {
        heard(&snoop, MEMBER, record(kind, &[source]), NOW);
    }
    assert_eq!(heard(&snoop, port(5), stream(GROUP), later(9)), Some([true, false]), "there is B");
    heard(&snoop, MEMBER, record(6, &[B]), later(10));
    assert_eq!(heard(&snoop, port(5), stream(GROUP), later(12)), Some([false; 2]));
    heard(&snoop, MEMBER, record(4, &[]), later(20));
    heard(&snoop, MEMBER, record(6, &[A]), later(20));
    assert_eq!(heard(&snoop, port(5), stream(GROUP), later(30)), Some([true, false]), "all but A");
    heard(&snoop, MEMBER, record(3, &[A]), later(30));
    heard(&snoop, MEMBER, record(6, &[A]), later(30));
    assert_eq!(heard(&snoop, port(5), stream(GROUP), later(40)), Some([false; 2]));
}

#[test]
fn a_port_that_joins_too_much_loses_its_oldest_group_and_the_others_none() {
    let snoop = snoop();
    let group =
        |number: usize| [239, 100, u8::try_from(number >> 8).unwrap(), u8::try_from(number & 255).unwrap()];
    for number in 0..=MAX_PER_PORT {
        let now = NOW + Duration::from_millis(number as u64);
        heard(&snoop, port(5), igmp(0x16, group(number)), now);
        heard(&snoop, port(5), igmp(0x16, group(0)), now);
    }
    let gets = |group| heard(&snoop, port(6), stream(group), later(1));
    assert_eq!(gets(group(0)), Some([false, true]), "reported last");
    assert_eq!(gets(group(1)), Some([false; 2]), "the oldest");
    assert_eq!(gets(group(2)), Some([false, true]));
    assert_eq!(gets(group(MAX_PER_PORT)), Some([false, true]));
    assert_eq!(gets(GROUP), Some([true, false]));
    assert_eq!(snoop.table().members.len(), 1 + MAX_PER_PORT);
}

#[test]
fn in_a_full_table_the_port_with_most_groups_gives_way() {
    let snoop = snoop();
    let ports = u32::try_from(MAX_MEMBERSHIPS.div_ceil(MAX_PER_PORT)).unwrap();
    for index in 100..100 + ports {
        for number in 0..=u8::MAX {
            heard(&snoop, port(index), igmp(0x16, [239, 100, 0, number]), NOW);
        }
    }
    heard(&snoop, port(5), igmp(0x16, GROUP), NOW);
    assert_eq!(heard(&snoop, port(6), stream(GROUP), NOW), Some([true, true]));
    assert_eq!(snoop.table().members.len(), MAX_MEMBERSHIPS);
}

#[test]
fn ended_memberships_make_room() {
    let snoop = Snoop::default();
    for round in 1..4 {
        for number in 0..=u8::MAX {
            heard(&snoop, MEMBER, igmp(0x16, [239, 1, round, number]), later(u64::from(round) * 300));
            heard(&snoop, MEMBER, igmp(0x17, [239, 1, round, number]), later(u64::from(round) * 300));
        }
    }
    let table = snoop.table();
    assert_eq!(table.members.len(), 256);
}

#[test]
fn who_does_not_get_the_lock_floods() {
    let snoop = snoop();
    let held = snoop.table();
    assert_eq!(heard(&snoop, port(5), stream(GROUP), NOW), None);
    drop(held);
    assert_eq!(heard(&snoop, port(5), stream(GROUP), NOW), Some([true, false]));
}
