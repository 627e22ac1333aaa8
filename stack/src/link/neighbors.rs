// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which MAC address each container's IP address is at.
//!
//! # How it works
//! ARP, Neighbor Discovery, DHCP and every packet a container sends teach the table ([`Neighbors::learn`]). A packet
//! to a container asks it ([`Neighbors::resolve`]) and is told what to do: send, send and ask for confirmation, ask
//! and wait, wait, or give up. Asking itself is the caller's: an ARP request or a Neighbor Solicitation. A caller that may
//! not always ask says so beforehand ([`Neighbors::resolve_within`]): only who was asked can fail to answer.
//!
//! An entry that was not confirmed for [`REACHABLE`] is stale: good enough to send to, but asked about, first at its
//! address. Three questions without an answer end it.
//!
//! # Bounds
//! A fixed number of entries, enough for the addresses of a full network. A new one takes the place of the oldest of
//! [`EXAMINED`] entries under a moving hand; who loses its place is asked for again, which costs a round trip on the link
//! and no packet. A MAC address with [`MAX_PER_MAC`] entries takes from itself first.
//!
//! # Sources
//! RFC 4861 sections 7.3 and 10; RFC 1122 section 2.3.2.1.

use core::net::IpAddr;

use smoltcp::wire::EthernetAddress;
use wharf_switch::{Duration, Instant};

use crate::keyed::{KeyedMap, KeyedState};
use crate::{Config, Ipv4Plan, Ipv6Plan};

/// RFC 4861 section 10: "REACHABLE_TIME 30,000 milliseconds".
pub const REACHABLE: Duration = Duration::from_secs(30);
/// RFC 4861 section 10: "RETRANS_TIMER 1,000 milliseconds"; RFC 1122 section 2.3.2.1 recommends the same for ARP.
pub const RETRANSMIT: Duration = Duration::from_secs(1);
/// RFC 4861 section 10: "MAX_MULTICAST_SOLICIT 3 transmissions".
pub const MAX_SOLICITATIONS: u8 = 3;
/// Entries of a table: IPv4, IPv6 and link-local for each of a network's 4,096 ports, and some to spare.
pub const DEFAULT_CAPACITY: usize = 16_384;
/// Entries at one MAC address. A switch's port may have as many addresses (`wharf_switch::guard::MAX_BINDINGS` of each
/// family).
pub const MAX_PER_MAC: usize = 32;
/// Entries looked at for the oldest when the table is full.
pub const EXAMINED: usize = 16;

/// What came of learning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// The address was not known.
    New,
    /// As known.
    Confirmed,
    /// The address was at another MAC before, which is named.
    Changed(EthernetAddress),
    /// Not one of this link's unicast addresses, or not a unicast MAC: nothing was learned.
    Refused,
    /// One of the gateway's own addresses: somebody claims to be us.
    Conflict,
}

/// What to do with a packet for a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Send it there.
    Known(EthernetAddress),
    /// Send it there, and ask that address whether it is still right.
    Confirm(EthernetAddress),
    /// Keep the packet, and ask everybody.
    Ask,
    /// Keep the packet: the question is under way.
    Wait,
    /// Nobody answered. The next call after a second begins anew.
    Unreachable,
}

#[derive(Clone, Copy, Debug)]
struct Neighbor {
    address: IpAddr,
    mac: Option<EthernetAddress>,
    /// When last confirmed or, without a MAC, when created.
    confirmed: Instant,
    /// When last asked, and how often since the last confirmation.
    asked: Instant,
    questions: u8,
}

/// The table.
#[derive(Debug)]
pub struct Neighbors {
    scope: Scope,
    entries: Vec<Neighbor>,
    places: KeyedMap<IpAddr, usize>,
    /// The places of each MAC address.
    by_mac: KeyedMap<EthernetAddress, Vec<usize>>,
    capacity: usize,
    hand: usize,
}

/// Which addresses are on the link, and which of them are the gateway's.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    ipv4: Option<Ipv4Plan>,
    ipv6: Option<Ipv6Plan>,
}

impl Scope {
    /// The link that `config` describes.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self { ipv4: config.ipv4, ipv6: config.ipv6 }
    }

    /// Whether the gateway answers for `address`: its own, and that of the DNS forwarder, which leads outside when there is
    /// none.
    #[must_use]
    pub fn is_ours(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                self.ipv4.is_some_and(|plan| address == plan.gateway || address == plan.dns)
            }
            IpAddr::V6(address) => {
                self.ipv6.is_some_and(|plan| [plan.gateway, plan.link_local, plan.dns].contains(&address))
            }
        }
    }

    /// Whether a host of this link may have `address`.
    #[must_use]
    pub fn is_on_link(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4.is_some_and(|plan| {
                let subnet = plan.subnet;
                // RFC 3021: a /31 has no broadcast address; neither has a /32.
                let edge = subnet.prefix_len() < 31
                    && (address == subnet.network().address() || Some(address) == subnet.broadcast());
                subnet.contains_addr(&address) && !edge && !address.is_multicast()
            }),
            IpAddr::V6(address) => self
                .ipv6
                .is_some_and(|plan| address.is_unicast_link_local() || plan.subnet.contains_addr(&address)),
        }
    }
}

impl Neighbors {
    /// An empty table of [`DEFAULT_CAPACITY`] entries.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self::with_capacity(config, DEFAULT_CAPACITY)
    }

    /// An empty table of `capacity` entries, at least 1.
    #[must_use]
    pub fn with_capacity(config: &Config, capacity: usize) -> Self {
        let hasher = KeyedState::new(&config.seed, b"neighbors");
        Self {
            scope: Scope::new(config),
            entries: Vec::new(),
            places: KeyedMap::with_hasher(hasher),
            by_mac: KeyedMap::with_hasher(hasher),
            capacity: capacity.max(1),
            hand: 0,
        }
    }

    /// The link's addresses.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Takes note that `address` is at `mac`.
    pub fn learn(&mut self, now: Instant, address: IpAddr, mac: EthernetAddress) -> Noted {
        if self.scope.is_ours(address) {
            return Noted::Conflict;
        }
        if !self.scope.is_on_link(address) || !mac.is_unicast() {
            return Noted::Refused;
        }
        let Some(&place) = self.places.get(&address) else {
            self.insert(Neighbor { address, mac: Some(mac), confirmed: now, asked: now, questions: 0 });
            return Noted::New;
        };
        let before = self.entries.get(place).and_then(|neighbor| neighbor.mac);
        if before != Some(mac) {
            if let Some(surplus) = self.surplus(mac) {
                self.set_mac(surplus, None);
            }
            self.set_mac(place, Some(mac));
        }
        if let Some(neighbor) = self.entries.get_mut(place) {
            neighbor.confirmed = now;
            neighbor.questions = 0;
        }
        match before {
            Some(before) if before == mac => Noted::Confirmed,
            Some(before) => Noted::Changed(before),
            None => Noted::New,
        }
    }

    /// As [`Neighbors::learn`], but only for an address that somebody asked for or knew before.
    pub fn update(&mut self, now: Instant, address: IpAddr, mac: EthernetAddress) -> Noted {
        if self.scope.is_ours(address) {
            return Noted::Conflict;
        }
        if self.places.contains_key(&address) { self.learn(now, address, mac) } else { Noted::Refused }
    }

    /// Who was at `address` has gone, or somebody has come: the next packet to it asks everybody at once.
    pub fn forget(&mut self, address: IpAddr) {
        let Some(&place) = self.places.get(&address) else { return };
        self.set_mac(place, None);
        if let Some(neighbor) = self.entries.get_mut(place) {
            neighbor.questions = 0;
        }
    }

    /// What to do with a packet to `address`. A question that is asked for counts as asked.
    pub fn resolve(&mut self, now: Instant, address: IpAddr) -> Resolution {
        let resolution = self.assess(now, address);
        self.enter(now, address, resolution);
        resolution
    }

    /// As [`Neighbors::resolve`], but everybody is only asked if `may_ask` says so. Else there is no answer, and nothing
    /// counts as asked.
    pub fn resolve_within(
        &mut self,
        now: Instant,
        address: IpAddr,
        may_ask: impl FnOnce() -> bool,
    ) -> Option<Resolution> {
        let resolution = self.assess(now, address);
        if resolution == Resolution::Ask && !may_ask() {
            return None;
        }
        self.enter(now, address, resolution);
        Some(resolution)
    }

    /// What is to be done with a packet to `address`.
    fn assess(&self, now: Instant, address: IpAddr) -> Resolution {
        if !self.scope.is_on_link(address) || self.scope.is_ours(address) {
            return Resolution::Unreachable;
        }
        let entry = self.places.get(&address).and_then(|&place| self.entries.get(place));
        let Some(neighbor) = entry else { return Resolution::Ask };
        let due = neighbor.is_due(now);
        match neighbor.mac {
            Some(mac) if now.since(neighbor.confirmed) < REACHABLE => Resolution::Known(mac),
            Some(mac) if !due => Resolution::Known(mac),
            Some(mac) if neighbor.questions < MAX_SOLICITATIONS => Resolution::Confirm(mac),
            // The host left or changed its MAC: ask everybody.
            Some(_) => Resolution::Ask,
            None if !due && neighbor.questions > MAX_SOLICITATIONS => Resolution::Unreachable,
            None if !due => Resolution::Wait,
            None if neighbor.questions == MAX_SOLICITATIONS => Resolution::Unreachable,
            None => Resolution::Ask,
        }
    }

    /// Counts the question that `resolution` asks for, or that nobody answered.
    fn enter(&mut self, now: Instant, address: IpAddr, resolution: Resolution) {
        if matches!(resolution, Resolution::Known(_) | Resolution::Wait) {
            return;
        }
        let Some(&place) = self.places.get(&address) else {
            if resolution == Resolution::Ask {
                self.insert(Neighbor { address, mac: None, confirmed: now, asked: now, questions: 1 });
            }
            return;
        };
        let Some(neighbor) = self.entries.get_mut(place).filter(|neighbor| neighbor.is_due(now)) else {
            return;
        };
        if resolution == Resolution::Ask && neighbor.questions >= MAX_SOLICITATIONS {
            neighbor.questions = 0;
        }
        neighbor.ask(now);
        if resolution == Resolution::Ask {
            self.set_mac(place, None);
        }
    }

    /// The MAC address of `address`, however old, without asking.
    #[cfg(test)]
    pub(crate) fn peek(&self, address: IpAddr) -> Option<EthernetAddress> {
        self.entries.get(*self.places.get(&address)?)?.mac
    }

    /// The MAC address of every address that has one.
    #[cfg(test)]
    pub(crate) fn known(&self) -> impl Iterator<Item = EthernetAddress> + '_ {
        self.entries.iter().filter_map(|entry| entry.mac)
    }

    /// Adds an entry for an address that has none.
    fn insert(&mut self, neighbor: Neighbor) {
        let blank = Neighbor { mac: None, ..neighbor };
        let place = match neighbor.mac.and_then(|mac| self.surplus(mac)) {
            None if self.entries.len() < self.capacity => {
                self.entries.push(blank);
                self.entries.len() - 1
            }
            surplus => surplus.unwrap_or_else(|| self.oldest()),
        };
        self.set_mac(place, None);
        if let Some(entry) = self.entries.get_mut(place) {
            self.places.remove(&entry.address);
            *entry = blank;
        }
        self.places.insert(neighbor.address, place);
        self.set_mac(place, neighbor.mac);
    }

    /// The oldest entry at a MAC address that has as many as it may.
    fn surplus(&self, mac: EthernetAddress) -> Option<usize> {
        let places = self.by_mac.get(&mac).filter(|places| places.len() >= MAX_PER_MAC)?;
        places.iter().copied().min_by_key(|&place| self.entries.get(place).map(|entry| entry.confirmed))
    }

    /// Enters at which MAC address an entry is.
    fn set_mac(&mut self, place: usize, mac: Option<EthernetAddress>) {
        let Some(neighbor) = self.entries.get_mut(place) else { return };
        if let Some(before) = core::mem::replace(&mut neighbor.mac, mac)
            && let Some(places) = self.by_mac.get_mut(&before)
        {
            places.retain(|&other| other != place);
            if places.is_empty() {
                self.by_mac.remove(&before);
            }
        }
        if let Some(mac) = mac {
            self.by_mac.entry(mac).or_default().push(place);
        }
    }

    /// The least recently confirmed of the next entries under the hand; unanswered ones go first.
    fn oldest(&mut self) -> usize {
        let len = self.entries.len().max(1);
        let from = self.hand;
        self.hand = (self.hand + EXAMINED) % len;
        (0..EXAMINED.min(len))
            .map(|step| (from + step) % len)
            .min_by_key(|&place| self.entries.get(place).map(|entry| (entry.mac.is_some(), entry.confirmed)))
            .unwrap_or(0)
    }
}

impl Neighbor {
    /// Whether it is time for the next question.
    fn is_due(&self, now: Instant) -> bool {
        self.questions == 0 || now.since(self.asked) >= RETRANSMIT
    }

    fn ask(&mut self, now: Instant) {
        self.asked = now;
        self.questions = self.questions.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;

    fn mac(number: u8) -> EthernetAddress {
        EthernetAddress([0x02, 0, 0, 0, 0, number])
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 2, last])
    }

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn a_learned_neighbor_is_known_for_thirty_seconds_and_then_asked() {
        let mut table = Neighbors::new(&config());
        assert_eq!(table.learn(at(0), ip(100), mac(1)), Noted::New);
        assert_eq!(table.resolve(at(29_999), ip(100)), Resolution::Known(mac(1)));
        assert_eq!(table.resolve(at(30_000), ip(100)), Resolution::Confirm(mac(1)));
        assert_eq!(table.resolve(at(30_001), ip(100)), Resolution::Known(mac(1)), "asked a moment ago");
        assert_eq!(table.learn(at(30_002), ip(100), mac(1)), Noted::Confirmed);
        assert_eq!(table.resolve(at(60_001), ip(100)), Resolution::Known(mac(1)));
    }

    #[test]
    fn a_silent_neighbor_is_asked_three_times_and_then_everybody_is() {
        let mut table = Neighbors::new(&config());
        table.learn(at(0), ip(100), mac(1));
        for second in 30..33 {
            assert_eq!(table.resolve(at(second * 1000), ip(100)), Resolution::Confirm(mac(1)));
        }
        assert_eq!(table.resolve(at(33_000), ip(100)), Resolution::Ask);
        assert_eq!(table.resolve(at(33_001), ip(100)), Resolution::Wait);
    }

    #[test]
    fn nobody_is_asked_more_than_three_times_in_a_row() {
        let mut table = Neighbors::new(&config());
        let answers = [0, 500, 1000, 2000, 2500, 3000, 3500, 4000].map(|now| table.resolve(at(now), ip(9)));
        use Resolution::{Ask, Unreachable, Wait};
        assert_eq!(answers, [Ask, Wait, Ask, Ask, Wait, Unreachable, Unreachable, Ask]);
        assert_eq!(table.learn(at(4001), ip(9), mac(9)), Noted::New);
        assert_eq!(table.resolve(at(4002), ip(9)), Resolution::Known(mac(9)));
    }

    #[test]
    fn who_may_not_be_asked_stays_as_it_was() {
        let mut table = Neighbors::new(&config());
        for second in 0..10 {
            assert_eq!(table.resolve_within(at(second * 1000), ip(9), || false), None);
        }
        assert!(table.places.is_empty());
        // Between questions, and after the last one.
        let mut ask = |now, may| table.resolve_within(at(now), ip(9), || may);
        use Resolution::{Ask, Unreachable, Wait};
        assert_eq!([ask(0, true), ask(1, false), ask(5000, false)], [Some(Ask), Some(Wait), None]);
        assert_eq!(
            [ask(5001, true), ask(7000, true), ask(8000, false)],
            [Some(Ask), Some(Ask), Some(Unreachable)]
        );
        assert_eq!([ask(9000, false), ask(9001, true)], [None, Some(Ask)]);
        // Who was known and is silent.
        table.learn(at(10_000), ip(9), mac(9));
        for second in 40..43 {
            let confirm = table.resolve_within(at(second * 1000), ip(9), || false);
            assert_eq!(confirm, Some(Resolution::Confirm(mac(9))));
        }
        assert_eq!(table.resolve_within(at(43_000), ip(9), || false), None);
        assert_eq!(table.peek(ip(9)), Some(mac(9)));
        assert_eq!(table.resolve_within(at(43_001), ip(9), || true), Some(Ask));
        assert_eq!(table.peek(ip(9)), None);
    }

    #[test]
    fn who_is_forgotten_is_asked_for_at_once_known_or_given_up() {
        let mut neighbors = Neighbors::new(&config());
        neighbors.forget(ip(100));
        neighbors.learn(at(0), ip(100), mac(1));
        neighbors.forget(ip(100));
        assert_eq!((neighbors.peek(ip(100)), neighbors.resolve(at(1), ip(100))), (None, Resolution::Ask));
        assert_eq!(neighbors.resolve(at(2), ip(100)), Resolution::Wait);
        for second in 1..4 {
            neighbors.resolve(at(1 + second * 1000), ip(100));
        }
        assert_eq!(neighbors.resolve(at(3002), ip(100)), Resolution::Unreachable);
        neighbors.forget(ip(100));
        assert_eq!(neighbors.resolve(at(3003), ip(100)), Resolution::Ask);
    }

    #[test]
    fn a_changed_mac_is_reported() {
        let mut table = Neighbors::new(&config());
        table.learn(at(0), ip(100), mac(1));
        assert_eq!(table.learn(at(1), ip(100), mac(2)), Noted::Changed(mac(1)));
        assert_eq!(table.peek(ip(100)), Some(mac(2)));
    }

    #[test]
    fn only_hosts_of_this_link_are_learned() {
        let mut table = Neighbors::new(&config());
        for address in ["10.0.2.0", "10.0.2.255", "192.0.2.1", "224.0.0.1", "2001:db8::1", "ff02::1", "::"] {
            assert_eq!(table.learn(at(0), address.parse().unwrap(), mac(1)), Noted::Refused, "{address}");
        }
        for address in ["10.0.2.2", "10.0.2.3", "fd00:db8::2", "fd00:db8::3", "fe80::2"] {
            assert_eq!(table.learn(at(0), address.parse().unwrap(), mac(1)), Noted::Conflict, "{address}");
        }
        assert_eq!(table.learn(at(0), ip(1), EthernetAddress::BROADCAST), Noted::Refused);
        for address in ["10.0.2.1", "fd00:db8::1:2:3:4", "fe80::99"] {
            assert_eq!(table.learn(at(0), address.parse().unwrap(), mac(1)), Noted::New, "{address}");
        }
    }

    #[test]
    fn an_address_nobody_asked_for_is_not_updated() {
        let mut table = Neighbors::new(&config());
        assert_eq!(table.update(at(0), ip(7), mac(7)), Noted::Refused);
        table.resolve(at(0), ip(7));
        assert_eq!(table.update(at(0), ip(7), mac(7)), Noted::New);
    }

    #[test]
    fn a_full_table_gives_up_its_oldest_entry() {
        let mut table = Neighbors::with_capacity(&config(), 3);
        table.learn(at(0), ip(10), mac(10));
        table.learn(at(5), ip(11), mac(11));
        table.resolve(at(9), ip(12));
        table.learn(at(10), ip(13), mac(13));
        assert_eq!(table.peek(ip(10)), Some(mac(10)), "the unanswered question went first");
        table.learn(at(11), ip(14), mac(14));
        assert_eq!(table.peek(ip(10)), None);
        assert_eq!(table.known().count(), 3);
        assert_eq!((table.places.len(), table.by_mac.len()), (3, 3));
    }

    #[test]
    fn a_full_network_fits() {
        let mut table = Neighbors::new(&config());
        for number in 0..4096u16 {
            let [high, low] = number.to_be_bytes();
            let mac = EthernetAddress([2, 0, 0, 0, high, low]);
            for prefix in ["fd00:db8::", "fe80::1:0"] {
                let prefix: core::net::Ipv6Addr = prefix.parse().unwrap();
                let address = core::net::Ipv6Addr::from_bits(prefix.to_bits() + 0x100 + u128::from(number));
                assert_eq!(table.learn(at(0), address.into(), mac), Noted::New);
            }
        }
        assert_eq!(table.known().count(), 8192);
    }

    #[test]
    fn who_claims_many_addresses_takes_from_itself() {
        let mut table = Neighbors::with_capacity(&config(), 100);
        for number in 1..=60 {
            table.learn(at(0), ip(100 + number), mac(number));
        }
        for number in 0..10_000u16 {
            let address = core::net::Ipv6Addr::from([0xfe80, 0, 0, 0, 0, 0, 1, number]);
            assert_eq!(table.learn(at(1 + u64::from(number)), address.into(), mac(99)), Noted::New);
        }
        assert!((1..=60).all(|number| table.peek(ip(100 + number)) == Some(mac(number))));
        assert_eq!(table.known().filter(|&known| known == mac(99)).count(), MAX_PER_MAC);
        assert_eq!((table.places.len(), table.by_mac.len()), (60 + MAX_PER_MAC, 61));
        // Addresses of others that it claims are on its account too.
        for number in 1..=60 {
            assert_eq!(table.learn(at(20_000), ip(100 + number), mac(99)), Noted::Changed(mac(number)));
        }
        assert_eq!(table.known().filter(|&known| known == mac(99)).count(), MAX_PER_MAC);
        assert_eq!(table.by_mac.len(), 1);
    }
}
