// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which ports have members of which groups, and for how long.
//!
//! # How it works
//! A membership ends some time after its host has left the group, or when two general queries in a row went
//! unanswered. Where nobody asks, nothing ages.

use core::ops::RangeInclusive;
use std::collections::BTreeMap;

use smoltcp::wire::EthernetAddress;

use super::PortSet;
use super::message::Family;
use crate::fdb::MAX_PORTS;
use crate::{Duration, Instant, PortId, Vlan};

/// Groups of one port.
pub const MAX_PER_PORT: u32 = 256;
/// Groups of all ports.
pub const MAX_MEMBERSHIPS: usize = 8 * MAX_PORTS;
/// RFC 3376 section 8.3, RFC 3810 section 9.3: how long a query may be answered.
pub const QUERY_RESPONSE_INTERVAL: Duration = Duration::from_secs(10);
/// RFC 3376 section 8.8, last member query time.
pub const LAST_MEMBER_TIME: Duration = Duration::from_secs(2);
/// How often the table may be searched for what has ended.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// What a port is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Interest {
    /// Every group of the family: it has more memberships than are kept.
    Everything(Family),
    /// A group.
    Group(EthernetAddress),
}

impl Interest {
    fn family(self) -> Option<Family> {
        match self {
            Self::Everything(family) => Some(family),
            Self::Group(mac) => Family::of(mac),
        }
    }
}

/// Who is interested in what. The order puts a group's ports side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) vlan: Vlan,
    pub(super) interest: Interest,
    pub(super) port: PortId,
}

impl Key {
    fn every_port(vlan: Vlan, interest: Interest) -> RangeInclusive<Self> {
        let key = |edge| Self { vlan, interest, port: PortId { index: edge, generation: edge } };
        key(0)..=key(u32::MAX)
    }
}

/// The last two general queries that were heard on a VLAN.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queries {
    last: Instant,
    before: Instant,
}

/// What a port has said of a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Membership {
    /// When it was last reported.
    reported: Instant,
    /// When it ends, after a leave.
    ends: Option<Instant>,
}

impl Membership {
    /// RFC 3376 section 8.1: "Robustness Variable ... Default: 2"; one query, or its answer, may be lost.
    fn lasts(&self, queries: Option<&Queries>, now: Instant) -> bool {
        let answered = |queries: &Queries| {
            self.reported >= queries.before || now < queries.last + QUERY_RESPONSE_INTERVAL
        };
        self.ends.is_none_or(|end| now < end) && queries.is_none_or(answered)
    }
}

/// Memberships, and what they have to be held against.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) members: BTreeMap<Key, Membership>,
    /// How many memberships each port has.
    pub(super) counts: BTreeMap<PortId, u32>,
    queries: BTreeMap<(Vlan, Family), Queries>,
    /// Ports that have sent an MLD report.
    mld_reporters: BTreeMap<Vlan, PortSet>,
    swept: Instant,
}

impl Table {
    pub(super) fn ports(
        &self,
        vlan: Vlan,
        interest: Interest,
        now: Instant,
    ) -> impl Iterator<Item = PortId> + '_ {
        let queries = self.queries_of(vlan, interest);
        let range = self.members.range(Key::every_port(vlan, interest));
        range.filter(move |(_, membership)| membership.lasts(queries, now)).map(|(key, _)| key.port)
    }

    pub(super) fn queries_of(&self, vlan: Vlan, interest: Interest) -> Option<&Queries> {
        interest.family().and_then(|family| self.queries.get(&(vlan, family)))
    }

    pub(super) fn note_query(&mut self, vlan: Vlan, family: Family, now: Instant) {
        let queries = self.queries.entry((vlan, family));
        queries
            .and_modify(|queries| *queries = Queries { last: now, before: queries.last })
            .or_insert(Queries { last: now, before: Instant::ZERO });
    }

    pub(super) fn note_mld_reporter(&mut self, vlan: Vlan, port: PortId) {
        self.mld_reporters.entry(vlan).or_insert(PortSet::EMPTY).insert(port);
    }

    /// Places of which no MLD report has come on the VLAN.
    pub(super) fn silent(&self, vlan: Vlan) -> PortSet {
        self.mld_reporters.get(&vlan).unwrap_or(&PortSet::EMPTY).complement()
    }

    pub(super) fn join(&mut self, key: Key, now: Instant) {
        let membership = Membership { reported: now, ends: None };
        if let Some(known) = self.members.get_mut(&key) {
            *known = membership;
            return;
        }
        if !self.has_room(key.port) && now.since(self.swept) >= SWEEP_INTERVAL {
            self.sweep(now);
        }
        if self.has_room(key.port) {
            self.members.insert(key, membership);
            *self.counts.entry(key.port).or_default() += 1;
        } else if let Some(family) = key.interest.family() {
            self.members.insert(Key { interest: Interest::Everything(family), ..key }, membership);
        }
    }

    fn has_room(&self, port: PortId) -> bool {
        let count = self.counts.get(&port).copied().unwrap_or(0);
        count < MAX_PER_PORT && self.members.len() < MAX_MEMBERSHIPS
    }

    pub(super) fn leave(&mut self, key: Key, now: Instant) {
        if let Some(membership) = self.members.get_mut(&key) {
            membership.ends.get_or_insert(now + LAST_MEMBER_TIME);
        }
    }

    /// Takes out what has ended.
    fn sweep(&mut self, now: Instant) {
        self.swept = now;
        let mut members = core::mem::take(&mut self.members);
        members.retain(|key, membership| membership.lasts(self.queries_of(key.vlan, key.interest), now));
        self.members = members;
        self.counts.clear();
        for key in self.members.keys() {
            *self.counts.entry(key.port).or_default() += 1;
        }
    }

    pub(super) fn forget(&mut self, port: PortId) {
        self.members.retain(|key, _| key.port != port);
        self.mld_reporters.values_mut().for_each(|ports| ports.remove(port));
        self.counts.remove(&port);
    }
}
