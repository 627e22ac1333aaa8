// SPDX-License-Identifier: MIT OR Apache-2.0
//! IGMP and MLD snooping: multicast goes where somebody asked for it.
//!
//! # Path
//! [`forward`](crate::forward) lets [`Snoop::hear`] listen to each multicast frame that is about to be flooded, and
//! learns how far it is to go; [`Switch::deliver`](crate::Switch::deliver) asks [`Snoop::ports`] which ports that are.
//!
//! # How it works
//! | frame | goes to |
//! |---|---|
//! | not IP; 224.0.0.0/24; ff02::1; a solicited-node group; a query | every port |
//! | a report or a leave | router ports |
//! | any other group | ports with members of the group, and router ports |
//!
//! Groups are told apart by their MAC addresses, as they are forwarded. A port is a router port for as long as queries
//! come from it, if its guard lets it route. **Without a querier nobody would repeat reports, so while a VLAN has no
//! router port of the family all its multicast is flooded.** A leave shortens a membership to the time that the
//! querier gives others to speak up; a report in between restores it.
//!
//! All workers share the table under a lock that nobody waits for: who does not get it floods the frame, or leaves the
//! report to its repetition.
//!
//! # Bounds
//! [`MAX_PER_PORT`] groups for one port and [`MAX_MEMBERSHIPS`] in all. A port beyond them gets every group: more than it
//! needs, never less. The table allocates when a port joins a group, not for the group's frames.
//!
//! # Sources
//! RFC 4541 sections 2.1 and 3; RFC 3376 section 8 and RFC 3810 section 9 (intervals).

mod message;

use core::hint::spin_loop;
use core::ops::RangeInclusive;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, TryLockError};

use smoltcp::wire::EthernetAddress;

use self::message::{Change, Family, Message};
use crate::fdb::MAX_PORTS;
use crate::{Duration, Frame, Instant, PortId, Vlan};

/// Groups of one port.
pub const MAX_PER_PORT: u32 = 256;
/// Groups of all ports.
pub const MAX_MEMBERSHIPS: usize = 16_384;
/// RFC 3376 section 8.4: the group membership interval with the default robustness of 2, query interval of 125 s and query
/// response interval of 10 s.
pub const MEMBERSHIP_INTERVAL: Duration = Duration::from_secs(2 * 125 + 10);
/// RFC 3376 section 8.5, other querier present interval.
pub const QUERIER_INTERVAL: Duration = Duration::from_secs(2 * 125 + 5);
/// RFC 3376 section 8.8, last member query time.
pub const LAST_MEMBER_TIME: Duration = Duration::from_secs(2);

/// How often the lock is tried; it is held for well under a microsecond.
const ATTEMPTS: usize = 64;
/// How long aged entries may stay where there is room.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// How far a flooded frame goes within its VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Every port.
    Everyone,
    /// Members of the group it is for, and routers.
    Group,
    /// Routers.
    Routers,
}

/// Some of the ports, by their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortSet([u64; MAX_PORTS / 64]);

impl PortSet {
    pub(crate) fn contains(&self, port: PortId) -> bool {
        let word = usize::try_from(port.index / 64).ok().and_then(|at| self.0.get(at));
        word.is_some_and(|word| word & 1 << (port.index % 64) != 0)
    }

    fn insert(&mut self, port: PortId) {
        if let Some(word) = usize::try_from(port.index / 64).ok().and_then(|at| self.0.get_mut(at)) {
            *word |= 1 << (port.index % 64);
        }
    }
}

/// What a port is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Interest {
    /// Every group of the family on the VLAN: a router is there.
    Routed(Family),
    /// Every group on every VLAN: it has more memberships than are kept.
    Everything,
    /// A group.
    Group(EthernetAddress),
}

/// Who is interested in what. The order puts a group's ports side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    vlan: Vlan,
    interest: Interest,
    port: PortId,
}

impl Key {
    fn every_port(vlan: Vlan, interest: Interest) -> RangeInclusive<Self> {
        let key = |edge| Self { vlan, interest, port: PortId { index: edge, generation: edge } };
        key(0)..=key(u32::MAX)
    }
}

/// Memberships and router ports with the moments at which they end.
#[derive(Debug, Default)]
struct Table {
    ends: BTreeMap<Key, Instant>,
    /// How many entries each port has.
    counts: BTreeMap<PortId, u32>,
    swept: Instant,
}

impl Table {
    fn ports(&self, vlan: Vlan, interest: Interest, now: Instant) -> impl Iterator<Item = PortId> + '_ {
        let range = self.ends.range(Key::every_port(vlan, interest));
        range.filter(move |&(_, &end)| end > now).map(|(key, _)| key.port)
    }

    fn join(&mut self, key: Key, end: Instant, now: Instant) {
        if let Some(known) = self.ends.get_mut(&key) {
            *known = end;
            return;
        }
        if now.since(self.swept) >= SWEEP_INTERVAL {
            self.sweep(now);
        }
        let count = self.counts.get(&key.port).copied().unwrap_or(0);
        if count >= MAX_PER_PORT || self.ends.len() >= MAX_MEMBERSHIPS {
            let everything = Key { vlan: Vlan::UNTAGGED, interest: Interest::Everything, port: key.port };
            self.ends.insert(everything, end);
            return;
        }
        self.ends.insert(key, end);
        self.counts.insert(key.port, count + 1);
    }

    fn leave(&mut self, key: Key, now: Instant) {
        if let Some(end) = self.ends.get_mut(&key) {
            *end = (*end).min(now + LAST_MEMBER_TIME);
        }
    }

    fn sweep(&mut self, now: Instant) {
        self.swept = now;
        self.ends.retain(|_, end| *end > now);
        self.counts.clear();
        for key in self.ends.keys() {
            *self.counts.entry(key.port).or_default() += 1;
        }
    }
}

/// The memberships of all ports, shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct Snoop {
    table: Mutex<Table>,
}

impl Snoop {
    /// Listens to a multicast frame from `ingress`, and says how far it is to go.
    pub(crate) fn hear(&self, ingress: PortId, may_route: bool, frame: &mut Frame, now: Instant) -> Audience {
        let Some(destination) = destination_of(frame) else { return Audience::Everyone };
        let Some(family) = Family::of(destination) else { return Audience::Everyone };
        let vlan = frame.vlan;
        let key = |interest| Key { vlan, interest, port: ingress };
        match message::read(frame, family) {
            Some(Message::Query) => {
                if may_route && let Some(mut table) = self.table() {
                    table.join(key(Interest::Routed(family)), now + QUERIER_INTERVAL, now);
                }
                Audience::Everyone
            }
            Some(Message::Report(changes)) => {
                if let Some(mut table) = self.table() {
                    for (group, change) in changes {
                        match change {
                            Change::Join => {
                                table.join(key(Interest::Group(group)), now + MEMBERSHIP_INTERVAL, now);
                            }
                            Change::Leave => table.leave(key(Interest::Group(group)), now),
                        }
                    }
                }
                Audience::Routers
            }
            None if is_always_flooded(destination) => Audience::Everyone,
            None => Audience::Group,
        }
    }

    /// The ports that a frame is to go to; `None` is every port.
    pub(crate) fn ports(&self, audience: Audience, frame: &Frame, now: Instant) -> Option<PortSet> {
        if audience == Audience::Everyone {
            return None;
        }
        let destination = destination_of(frame)?;
        let family = Family::of(destination)?;
        let table = self.table()?;
        let mut set = PortSet([0; MAX_PORTS / 64]);
        let mut has_querier = false;
        for router in table.ports(frame.vlan, Interest::Routed(family), now) {
            has_querier = true;
            set.insert(router);
        }
        if audience == Audience::Group {
            let members = table.ports(frame.vlan, Interest::Group(destination), now);
            members
                .chain(table.ports(Vlan::UNTAGGED, Interest::Everything, now))
                .for_each(|port| set.insert(port));
        }
        has_querier.then_some(set)
    }

    fn table(&self) -> Option<MutexGuard<'_, Table>> {
        for _ in 0..ATTEMPTS {
            match self.table.try_lock() {
                Ok(table) => return Some(table),
                // The table is whole after every call that could panic.
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => spin_loop(),
            }
        }
        None
    }
}

fn destination_of(frame: &Frame) -> Option<EthernetAddress> {
    frame.bytes().first_chunk().map(|&bytes| EthernetAddress(bytes))
}

/// RFC 4541 section 2.1.2: "Packets with a destination IP (DIP) address in the 224.0.0.X range which are not IGMP must
/// be forwarded on all ports." Section 3 says so of ff02::1, and that solicited-node groups may be: without them
/// neighbours do not find each other.
fn is_always_flooded(group: EthernetAddress) -> bool {
    matches!(group.0, [0x01, 0, 0x5e, 0, 0, _] | [0x33, 0x33, 0, 0, 0, 1] | [0x33, 0x33, 0xff, ..])
}

#[cfg(test)]
pub(crate) mod tests {
    use smoltcp::wire::{IpProtocol, checksum};

    use super::*;
    use crate::Pool;

    const NOW: Instant = Instant::from_secs(1000);
    const ROUTER: PortId = PortId { index: 1, generation: 0 };
    const MEMBER: PortId = PortId { index: 70, generation: 0 };
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

    /// An MLD message about a group to `to`, behind a router alert.
    fn mld(kind: u8, to: u8, group: u8) -> Frame {
        let source = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let address = |last| [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, last];
        let mut message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &address(group)].concat();
        let (from, into) = (source.into(), address(to).into());
        let len = u32::try_from(message.len()).unwrap();
        let pseudo = checksum::pseudo_header_v6(&from, &into, IpProtocol::Icmpv6, len);
        let sum = !checksum::combine(&[pseudo, checksum::data(&message)]);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let header = [&[0x60, 0, 0, 0, 0, 32, 0, 1][..], &source, &address(to)].concat();
        let alert = [58, 0, 5, 2, 0, 0, 1, 0];
        fill(&[&[0x33, 0x33, 0, 0, 1, to], &[2, 0, 0, 0, 0, 1, 0x86, 0xdd], &header, &alert, &message])
    }

    /// Where the frame goes: `None` is everywhere, else which of router, member and another port.
    fn heard(snoop: &Snoop, from: PortId, mut frame: Frame, now: Instant) -> Option<[bool; 3]> {
        let audience = snoop.hear(from, from == ROUTER, &mut frame, now);
        let ports = snoop.ports(audience, &frame, now)?;
        Some([ROUTER, MEMBER, port(5)].map(|port| ports.contains(port)))
    }

    /// A table that knows a querier and a member of [`GROUP`].
    fn snoop() -> Snoop {
        let snoop = Snoop::default();
        assert_eq!(heard(&snoop, ROUTER, igmp(0x11, [0; 4]), NOW), None, "queries are for everyone");
        assert_eq!(heard(&snoop, MEMBER, igmp(0x16, GROUP), NOW), Some([true, false, false]));
        snoop
    }

    #[test]
    fn a_stream_goes_to_members_and_routers() {
        let snoop = snoop();
        assert_eq!(heard(&snoop, port(5), stream(GROUP), NOW), Some([true, true, false]));
        assert_eq!(heard(&snoop, port(5), stream([239, 9, 9, 9]), NOW), Some([true, false, false]));
        let mut elsewhere = stream(GROUP);
        elsewhere.vlan = Vlan::new(5).unwrap();
        assert_eq!(heard(&snoop, port(5), elsewhere, NOW), None, "no querier on that VLAN");
    }

    #[test]
    fn without_a_querier_everything_is_flooded() {
        let snoop = Snoop::default();
        heard(&snoop, MEMBER, igmp(0x16, GROUP), NOW);
        heard(&snoop, port(5), igmp(0x11, [0; 4]), NOW);
        assert_eq!(
            heard(&snoop, port(5), stream(GROUP), NOW),
            None,
            "a query from a port that may not route"
        );
        let mut unspecified = ipv4([0; 4], [224, 0, 0, 1], 2, &[0x11, 0, 0, 0, 0, 0, 0, 0]);
        snoop.hear(ROUTER, true, &mut unspecified, NOW);
        assert_eq!(heard(&snoop, port(5), stream(GROUP), NOW), None, "a query from 0.0.0.0");
        assert_eq!(
            heard(&self::snoop(), port(5), stream(GROUP), later(255)),
            None,
            "a querier that fell silent"
        );
    }

    #[test]
    fn link_local_groups_and_other_protocols_are_flooded() {
        let snoop = snoop();
        assert_eq!(heard(&snoop, port(5), stream([224, 0, 0, 251]), NOW), None);
        heard(&snoop, ROUTER, mld(130, 0, 0), NOW);
        for group in [[0, 0, 0, 1], [0xff, 1, 2, 3]] {
            let frame = fill(&[&[0x33, 0x33], &group, &[2, 0, 0, 0, 0, 1, 0x86, 0xdd], &[0; 40]]);
            assert_eq!(heard(&snoop, port(5), frame, NOW), None, "{group:?}");
        }
        let other = fill(&[&[0x01, 0x80, 0xc2, 0, 0, 0x21, 2, 0, 0, 0, 0, 1, 0x88, 0xb5], &[0; 46]]);
        assert_eq!(heard(&snoop, port(5), other, NOW), None);
    }

    #[test]
    fn mld_is_heard_behind_its_router_alert() {
        let snoop = Snoop::default();
        heard(&snoop, ROUTER, mld(130, 0, 0), NOW);
        assert_eq!(heard(&snoop, MEMBER, mld(131, 7, 7), NOW), Some([true, false, false]));
        let data = || fill(&[&[0x33, 0x33, 0, 0, 1, 7, 2, 0, 0, 0, 0, 1, 0x86, 0xdd], &[0; 40]]);
        assert_eq!(heard(&snoop, port(5), data(), NOW), Some([true, true, false]));
        heard(&snoop, MEMBER, mld(132, 2, 7), NOW);
        assert_eq!(heard(&snoop, port(5), data(), later(2)), Some([true, false, false]));
        assert_eq!(heard(&snoop, port(5), stream(GROUP), NOW), None, "IPv4 has no querier");
    }

    #[test]
    fn a_member_that_leaves_or_falls_silent_is_none_any_more() {
        let snoop = snoop();
        heard(&snoop, MEMBER, igmp(0x17, GROUP), NOW);
        assert_eq!(
            heard(&snoop, port(5), stream(GROUP), later(1)),
            Some([true, true, false]),
            "others may answer"
        );
        assert_eq!(heard(&snoop, port(5), stream(GROUP), later(2)), Some([true, false, false]));
        heard(&snoop, MEMBER, igmp(0x16, GROUP), later(2));
        heard(&snoop, ROUTER, igmp(0x11, [0; 4]), later(250));
        assert_eq!(heard(&snoop, port(5), stream(GROUP), later(261)), Some([true, true, false]));
        assert_eq!(heard(&snoop, port(5), stream(GROUP), later(262)), Some([true, false, false]));
    }

    #[test]
    fn a_damaged_report_is_not_believed() {
        let snoop = snoop();
        for at in [14 + 8, 14 + 24] {
            let mut damaged = igmp(0x16, [239, 7, 7, 7]);
            damaged.bytes_mut()[at] ^= 1;
            heard(&snoop, port(5), damaged, NOW);
        }
        assert_eq!(heard(&snoop, MEMBER, stream([239, 7, 7, 7]), NOW), Some([true, false, false]));
        let mut query = mld(130, 0, 0);
        query.bytes_mut()[14 + 48 + 4] ^= 1;
        heard(&snoop, ROUTER, query, NOW);
        assert_eq!(heard(&snoop, MEMBER, mld(131, 7, 7), NOW), None, "no querier of IPv6");
    }

    #[test]
    fn an_mld_query_comes_from_a_link_local_address() {
        let snoop = Snoop::default();
        let mut query = mld(130, 0, 0);
        // The checksum stays right when two of its words change places.
        query.bytes_mut()[14 + 8..14 + 12].rotate_left(2);
        heard(&snoop, ROUTER, query, NOW);
        assert_eq!(heard(&snoop, MEMBER, mld(131, 7, 7), NOW), None, "no querier");
    }

    #[test]
    fn a_port_that_joins_too_much_gets_everything_and_the_others_what_they_want() {
        let snoop = snoop();
        for number in 0..=u8::MAX {
            for high in [1, 2] {
                heard(&snoop, port(5), igmp(0x16, [239, 100, high, number]), NOW);
            }
        }
        assert_eq!(heard(&snoop, MEMBER, stream([239, 9, 9, 9]), NOW), Some([true, false, true]));
        assert_eq!(heard(&snoop, port(6), stream(GROUP), NOW), Some([true, true, true]));
        let table = snoop.table().unwrap();
        assert!(table.ends.len() <= 3 + usize::try_from(MAX_PER_PORT).unwrap());
    }

    #[test]
    fn aged_entries_make_room() {
        let snoop = Snoop::default();
        for round in 0..3 {
            for number in 0..=u8::MAX {
                heard(&snoop, MEMBER, igmp(0x16, [239, round, 1, number]), later(u64::from(round) * 300));
            }
        }
        let table = snoop.table().unwrap();
        assert_eq!(table.ends.len(), 256);
        assert!(!table.ends.keys().any(|key| key.interest == Interest::Everything));
    }

    #[test]
    fn who_does_not_get_the_lock_floods() {
        let snoop = snoop();
        let held = snoop.table().unwrap();
        assert_eq!(heard(&snoop, port(5), stream(GROUP), NOW), None);
        drop(held);
        assert_eq!(heard(&snoop, port(5), stream(GROUP), NOW), Some([true, true, false]));
    }
}
