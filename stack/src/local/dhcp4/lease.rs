// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who has which address, and until when.
//!
//! # How it works
//! A client is its identifier (option 61) or, without one, its MAC address. It keeps the address it had as long as
//! nobody else needs it; a new client gets the first one that is free.
//!
//! A client that changes its identifier but not its MAC address (another DHCP program in the same container) gets
//! its former address, before an address is refused to it: a range may hold a single one.
//!
//! # Bounds
//! One entry per address of the range, at most [`MAX_RANGE`].
//!
//! # Sources
//! RFC 2131 sections 2.1 and 4.3.1.

use core::net::Ipv4Addr;

use smoltcp::wire::EthernetAddress;
use wharf_switch::{Duration, Instant};

use crate::keyed::{KeyedMap, KeyedState};

/// Addresses of the longest range; a network has no more ports.
pub const MAX_RANGE: usize = 4_096;
/// How long an offer waits for its request.
pub const OFFER_TIME: Duration = Duration::from_secs(60);
/// How long an address that somebody found in use rests.
pub const DECLINE_TIME: Duration = Duration::from_secs(600);

/// Who a client is: the bytes of option 61, or its MAC address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientKey(Vec<u8>);

impl ClientKey {
    /// RFC 2131 section 4.2: the server uses the client identifier or, if the client gives none, the contents of
    /// the 'chaddr' field.
    #[must_use]
    pub fn new(client_id: Option<&[u8]>, chaddr: EthernetAddress) -> Self {
        let (tag, bytes) = client_id.map_or((0, &chaddr.0[..]), |id| (1, id));
        Self([&[tag], bytes].concat())
    }
}

/// What an address is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Offered, not yet requested.
    Offered,
    /// Leased.
    Bound,
    /// Given back; remembered in case the client returns.
    Released,
    /// Somebody found it in use.
    Declined,
}

/// One address and its client.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// The client's MAC address.
    pub mac: EthernetAddress,
    /// What the client calls itself.
    pub hostname: Option<String>,
    /// What the address is used for.
    pub state: State,
    /// Until when.
    pub until: Instant,
    client: ClientKey,
}

impl Lease {
    /// Whether nobody else may have the address.
    fn is_held(&self, now: Instant) -> bool {
        self.state != State::Released && now < self.until
    }
}

/// The table of leases.
#[derive(Debug)]
pub struct Leases {
    first: u32,
    /// One place per address of the range.
    places: Vec<Option<Lease>>,
    by_client: KeyedMap<ClientKey, usize>,
    reserved: Vec<(EthernetAddress, Ipv4Addr)>,
}

impl Leases {
    /// No leases yet of the range from `first` to `last`, both included.
    #[must_use]
    pub fn new(first: Ipv4Addr, last: Ipv4Addr, seed: &[u8; 32]) -> Self {
        let (first, last) = (u32::from(first), u32::from(last));
        let len = last.checked_sub(first).map_or(0, |span| span.saturating_add(1));
        let len = usize::try_from(len).unwrap_or(MAX_RANGE).min(MAX_RANGE);
        let hash = KeyedState::new(seed, b"leases");
        Self { first, places: vec![None; len], by_client: KeyedMap::with_hasher(hash), reserved: Vec::new() }
    }

    /// Keeps `address` for the client at `mac`; it may lie outside the range only if it is never leased otherwise,
    /// so one outside is ignored.
    pub fn reserve(&mut self, mac: EthernetAddress, address: Ipv4Addr) {
        if self.place_of(address).is_some() {
            self.reserved.retain(|&(other, reserved)| other != mac && reserved != address);
            self.reserved.push((mac, address));
        }
    }

    /// Whether the range holds `address`.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.place_of(address).is_some()
    }

    /// The lease of a client, however old.
    #[must_use]
    pub fn of_client(&self, client: &ClientKey) -> Option<&Lease> {
        self.places.get(*self.by_client.get(client)?)?.as_ref()
    }

    /// Every address in use or offered, for listings.
    pub fn iter(&self, now: Instant) -> impl Iterator<Item = &Lease> {
        self.places.iter().flatten().filter(move |lease| lease.is_held(now))
    }

    /// Finds an address for a client: reserved, its own, the one it wishes, or any that is free.
    #[must_use]
    pub fn choose(
        &self,
        now: Instant,
        client: &ClientKey,
        mac: EthernetAddress,
        wish: Option<Ipv4Addr>,
    ) -> Option<Ipv4Addr> {
        let free = |address: &Ipv4Addr| self.is_free_for(now, client, mac, *address);
        // RFC 2131 section 4.3.1: the client's current address, its previous one, the one it requests, a new one.
        let reserved = self.reserved.iter().find(|&&(other, _)| other == mac).map(|&(_, address)| address);
        let own = self.of_client(client).map(|lease| lease.address);
        if let Some(address) = [reserved, own, wish].into_iter().flatten().find(free) {
            return Some(address);
        }
        let mut range = (0..self.places.len()).filter_map(|place| self.address_of(place));
        if let Some(address) = range.find(free) {
            return Some(address);
        }
        // The same host under another name.
        let same_mac = |lease: &&Lease| lease.mac == mac && lease.state != State::Declined;
        self.places.iter().flatten().find(same_mac).map(|lease| lease.address)
    }

    /// Whether `client` may have `address` now.
    #[must_use]
    pub fn is_free_for(
        &self,
        now: Instant,
        client: &ClientKey,
        mac: EthernetAddress,
        address: Ipv4Addr,
    ) -> bool {
        let Some(place) = self.place_of(address) else { return false };
        if self.reserved.iter().any(|&(other, reserved)| reserved == address && other != mac) {
            return false;
        }
        match self.places.get(place).and_then(Option::as_ref) {
            None => true,
            Some(lease) if lease.state == State::Declined => now >= lease.until,
            Some(lease) => lease.client == *client || !lease.is_held(now),
        }
    }

    /// Whether `address` is held by the same MAC address, under whatever name.
    #[must_use]
    pub fn is_held_by_mac(&self, mac: EthernetAddress, address: Ipv4Addr) -> bool {
        let lease = self.place_of(address).and_then(|place| self.places.get(place)?.as_ref());
        lease.is_some_and(|lease| lease.mac == mac && lease.state != State::Declined)
    }

    /// Writes a lease; the address belongs to this client from now on, and the client has no other.
    pub fn put(
        &mut self,
        client: &ClientKey,
        mac: EthernetAddress,
        address: Ipv4Addr,
        state: State,
        until: Instant,
    ) {
        let Some(place) = self.place_of(address) else { return };
        if let Some(former) = self.by_client.insert(client.clone(), place)
            && former != place
            && let Some(slot) = self.places.get_mut(former)
            && slot.as_ref().is_some_and(|lease| lease.client == *client && lease.state != State::Declined)
        {
            *slot = None;
        }
        let Some(slot) = self.places.get_mut(place) else { return };
        let hostname = slot.take().and_then(|lease| {
            if lease.client == *client {
                return lease.hostname;
            }
            if self.by_client.get(&lease.client) == Some(&place) {
                self.by_client.remove(&lease.client);
            }
            None
        });
        *slot = Some(Lease { address, mac, hostname, state, until, client: client.clone() });
    }

    /// Notes what the client at `address` calls itself.
    pub fn name(&mut self, address: Ipv4Addr, hostname: &[u8]) {
        let name: String = String::from_utf8_lossy(hostname)
            .chars()
            .filter(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_'))
            .take(63)
            .collect();
        let lease = self.place_of(address).and_then(|place| self.places.get_mut(place)?.as_mut());
        if let Some(lease) = lease.filter(|_| !name.is_empty()) {
            lease.hostname = Some(name);
        }
    }

    fn place_of(&self, address: Ipv4Addr) -> Option<usize> {
        let place = usize::try_from(u32::from(address).checked_sub(self.first)?).ok()?;
        (place < self.places.len()).then_some(place)
    }

    fn address_of(&self, place: usize) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::from(self.first.checked_add(u32::try_from(place).ok()?)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::ZERO;
    const LATER: Instant = Instant::from_secs(1000);

    fn leases(count: u8) -> Leases {
        Leases::new(Ipv4Addr::new(10, 0, 2, 100), Ipv4Addr::new(10, 0, 2, 99 + count), &[3; 32])
    }

    fn mac(number: u8) -> EthernetAddress {
        EthernetAddress([2, 0, 0, 0, 0, number])
    }

    fn client(number: u8) -> ClientKey {
        ClientKey::new(None, mac(number))
    }

    fn take(leases: &mut Leases, number: u8) -> Option<Ipv4Addr> {
        let address = leases.choose(NOW, &client(number), mac(number), None)?;
        leases.put(&client(number), mac(number), address, State::Bound, LATER);
        Some(address)
    }

    #[test]
    fn every_address_of_the_range_is_given_once() {
        let mut leases = leases(5);
        let mut given: Vec<_> = (0..5).map(|number| take(&mut leases, number).unwrap()).collect();
        given.sort();
        given.dedup();
        assert_eq!(given.len(), 5);
        assert_eq!(take(&mut leases, 9), None);
    }

    #[test]
    fn addresses_are_given_in_their_order_and_a_client_keeps_its_own() {
        let mut leases = leases(50);
        let first = take(&mut leases, 7);
        assert_eq!(first, Some(Ipv4Addr::new(10, 0, 2, 100)));
        assert_eq!(take(&mut leases, 3), Some(Ipv4Addr::new(10, 0, 2, 101)));
        assert_eq!(take(&mut leases, 7), first);
    }

    #[test]
    fn an_expired_address_goes_to_who_needs_it() {
        let mut leases = leases(1);
        let address = take(&mut leases, 1);
        assert_eq!(leases.choose(LATER, &client(2), mac(2), None), address);
        leases.put(&client(2), mac(2), address.unwrap(), State::Bound, Instant::FAR);
        assert!(leases.of_client(&client(1)).is_none());
        assert_eq!(leases.choose(LATER, &client(1), mac(1), None), None);
    }

    #[test]
    fn a_host_that_changes_its_identifier_gets_its_address_when_there_is_no_other() {
        let mut single = leases(1);
        let address = take(&mut single, 1);
        let renamed = ClientKey::new(Some(b"\xffrenamed"), mac(1));
        assert_eq!(single.choose(NOW, &renamed, mac(1), None), address);
        assert_eq!(single.choose(NOW, &renamed, mac(2), None), None);
    }

    #[test]
    fn a_reserved_address_is_its_owners_alone() {
        let mut leases = leases(2);
        let address = Ipv4Addr::new(10, 0, 2, 101);
        leases.reserve(mac(5), address);
        leases.reserve(mac(6), Ipv4Addr::new(10, 0, 2, 7));
        assert_eq!(take(&mut leases, 1), Some(Ipv4Addr::new(10, 0, 2, 100)));
        assert_eq!(take(&mut leases, 2), None);
        assert_eq!(take(&mut leases, 5), Some(address));
    }

    #[test]
    fn a_client_never_holds_two_addresses() {
        let mut leases = leases(4);
        let first = take(&mut leases, 1).unwrap();
        let second = Ipv4Addr::from(u32::from(first) ^ 1);
        leases.put(&client(1), mac(1), second, State::Bound, LATER);
        assert_eq!(leases.iter(NOW).map(|lease| lease.address).collect::<Vec<_>>(), [second]);
    }

    #[test]
    fn host_names_are_kept_without_what_no_name_has() {
        let mut leases = leases(1);
        let address = take(&mut leases, 1).unwrap();
        leases.name(address, b"web-1\n\x1b[2J");
        assert_eq!(leases.iter(NOW).next().unwrap().hostname.as_deref(), Some("web-12J"));
    }
}
