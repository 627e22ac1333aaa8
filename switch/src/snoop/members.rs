// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which ports have members of which groups, and for how long.
//!
//! # How it works
//! A membership ends some time after its host has left the group, or when two general queries in a row went
//! unanswered. Where nobody asks, nothing ages.

use core::ops::RangeInclusive;
use std::collections::{BTreeMap, BTreeSet};

use smoltcp::wire::EthernetAddress;

use super::PortSet;
use super::message::{Change, Family, Sources};
use crate::fdb::MAX_PORTS;
use crate::{Duration, Instant, PortId, Vlan};

/// Groups of one port.
pub const MAX_PER_PORT: usize = 256;
/// Groups of all ports.
pub const MAX_MEMBERSHIPS: usize = 8 * MAX_PORTS;
/// Sources of one membership that are told apart; who wants more gets all.
pub const MAX_SOURCES: usize = 16;
/// RFC 3376 section 8.3, RFC 3810 section 9.3: how long a query may be answered.
pub const QUERY_RESPONSE_INTERVAL: Duration = Duration::from_secs(10);
/// RFC 3376 section 8.8, last member query time.
pub const LAST_MEMBER_TIME: Duration = Duration::from_secs(2);
/// How often the table may be searched for what has ended.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Who is interested in what. The order puts a group's ports side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) vlan: Vlan,
    pub(super) group: EthernetAddress,
    pub(super) port: PortId,
}

impl Key {
    fn every_port(vlan: Vlan, group: EthernetAddress) -> RangeInclusive<Self> {
        let key = |edge| Self { vlan, group, port: PortId { index: edge, generation: edge } };
        key(0)..=key(u32::MAX)
    }
}

/// The last two general queries that were heard on a VLAN.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queries {
    last: Instant,
    before: Instant,
}

/// Which sources a port wants of a group.
#[derive(Clone, Debug)]
enum Filter {
    /// These only.
    Include(Vec<u128>),
    /// Any, or all but a few.
    Exclude,
}

impl Filter {
    /// RFC 3376 section 6.4.1, INCLUDE (A) and ALLOW (B): what two records say of one mode may belong together.
    fn allow(&mut self, more: Sources<'_>) {
        let Self::Include(sources) = self else { return };
        if more.len() <= MAX_SOURCES {
            for source in more.iter() {
                if !sources.contains(&source) {
                    sources.push(source);
                }
            }
        }
        if sources.len().max(more.len()) > MAX_SOURCES {
            *self = Self::Exclude;
        }
    }

    /// Takes sources away, and says whether none is left.
    fn block(&mut self, fewer: Sources<'_>) -> bool {
        let Self::Include(sources) = self else { return false };
        for blocked in fewer.iter().take(MAX_SOURCES) {
            sources.retain(|&source| source != blocked);
        }
        sources.is_empty()
    }
}

/// What a port has said of a group.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    /// When it was last reported.
    reported: Instant,
    /// When it ends, after a leave.
    ends: Option<Instant>,
    filter: Filter,
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
    /// What each port is a member of, by when it was last reported.
    pub(super) by_age: BTreeMap<PortId, BTreeSet<(Instant, Key)>>,
    queries: BTreeMap<(Vlan, Family), Queries>,
    /// Ports that have sent an MLD report.
    mld_reporters: BTreeMap<Vlan, PortSet>,
    swept: Instant,
}

impl Table {
    pub(super) fn ports(
        &self,
        vlan: Vlan,
        group: EthernetAddress,
        now: Instant,
    ) -> impl Iterator<Item = PortId> + '_ {
        let queries = self.queries_of(vlan, group);
        let range = self.members.range(Key::every_port(vlan, group));
        range.filter(move |(_, membership)| membership.lasts(queries, now)).map(|(key, _)| key.port)
    }

    pub(super) fn queries_of(&self, vlan: Vlan, group: EthernetAddress) -> Option<&Queries> {
        Family::of(group).and_then(|family| self.queries.get(&(vlan, family)))
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

    pub(super) fn change(&mut self, key: Key, change: Change<'_>, now: Instant) {
        match change {
            Change::Join => self.join(key, now).filter = Filter::Exclude,
            Change::Include(sources) => {
                let membership = self.join(key, now);
                if matches!(membership.filter, Filter::Exclude) {
                    membership.filter = Filter::Include(Vec::new());
                }
                membership.filter.allow(sources);
            }
            Change::Allow(sources) => self.join(key, now).filter.allow(sources),
            Change::Block(sources) => {
                if self.members.get_mut(&key).is_some_and(|membership| membership.filter.block(sources)) {
                    self.leave(key, now);
                }
            }
            Change::Leave => self.leave(key, now),
        }
    }

    /// The membership, which was reported now.
    fn join(&mut self, key: Key, now: Instant) -> &mut Membership {
        if let Some(known) = self.members.get(&key) {
            let reported = known.reported;
            self.by_age.entry(key.port).or_default().remove(&(reported, key));
        } else {
            self.make_room(key.port, now);
        }
        self.by_age.entry(key.port).or_default().insert((now, key));
        let new = || Membership { reported: now, ends: None, filter: Filter::Include(Vec::new()) };
        let membership = self.members.entry(key).or_insert_with(new);
        (membership.reported, membership.ends) = (now, None);
        membership
    }

    /// Makes room for a membership of a port: what has ended gives way, and then the oldest of the port's own, or in a full
    /// table of the port that has most.
    fn make_room(&mut self, port: PortId, now: Instant) {
        if !self.has_room(port) && now.since(self.swept) >= SWEEP_INTERVAL {
            self.sweep(now);
        }
        if self.count(port) >= MAX_PER_PORT {
            self.remove_oldest(port);
        } else if self.members.len() >= MAX_MEMBERSHIPS {
            let most = self.by_age.iter().max_by_key(|(_, keys)| keys.len()).map(|(&port, _)| port);
            most.into_iter().for_each(|port| self.remove_oldest(port));
        }
    }

    fn remove_oldest(&mut self, port: PortId) {
        if let Some((_, key)) = self.by_age.get_mut(&port).and_then(BTreeSet::pop_first) {
            self.members.remove(&key);
        }
    }

    fn has_room(&self, port: PortId) -> bool {
        self.count(port) < MAX_PER_PORT && self.members.len() < MAX_MEMBERSHIPS
    }

    fn count(&self, port: PortId) -> usize {
        self.by_age.get(&port).map_or(0, BTreeSet::len)
    }

    fn leave(&mut self, key: Key, now: Instant) {
        if let Some(membership) = self.members.get_mut(&key) {
            membership.ends.get_or_insert(now + LAST_MEMBER_TIME);
            membership.filter = Filter::Include(Vec::new());
        }
    }

    /// Takes out what has ended.
    fn sweep(&mut self, now: Instant) {
        self.swept = now;
        let mut members = core::mem::take(&mut self.members);
        members.retain(|key, membership| membership.lasts(self.queries_of(key.vlan, key.group), now));
        self.members = members;
        self.by_age.clear();
        for (key, membership) in &self.members {
            self.by_age.entry(key.port).or_default().insert((membership.reported, *key));
        }
    }

    pub(super) fn forget(&mut self, port: PortId) {
        for (_, key) in self.by_age.remove(&port).into_iter().flatten() {
            self.members.remove(&key);
        }
        self.mld_reporters.values_mut().for_each(|ports| ports.remove(port));
    }
}
