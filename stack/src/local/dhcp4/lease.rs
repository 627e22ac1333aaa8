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
//! The owner of the network may reserve an address, of the range or not, for a MAC address: whoever is there gets that one
//! and no other, and nobody else gets it.
//!
//! # Bounds
//! One entry per address of the range, at most [`MAX_RANGE`], and per reservation. A MAC address without a reservation
//! holds at most [`MAX_PER_MAC`] addresses, those that it declined included: who claims to be many takes from itself. Where
//! there are reservations, all those without one together hold three quarters of the range: who is many indeed, behind one
//! port, leaves the rest to whom the owner may yet reserve one.
//!
//! # Sources
//! RFC 2131 sections 2.1 and 4.3.1.

use core::fmt;
use core::net::Ipv4Addr;
use core::ops::RangeInclusive;
use std::collections::BTreeMap;

use smoltcp::wire::EthernetAddress;
use wharf_switch::{Duration, Instant};

use crate::keyed::{KeyedMap, KeyedState};

/// Addresses of the longest range; a network has no more ports.
pub const MAX_RANGE: u32 = 4_096;
/// Addresses that one MAC address may hold under different identifiers.
pub const MAX_PER_MAC: usize = 4;
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
    /// Given back, or its time is over; remembered in case the client returns.
    Released,
    /// Somebody found it in use.
    Declined,
}

impl State {
    /// The stable name, as used in listings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Bound => "bound",
            Self::Released => "released",
            Self::Declined => "declined",
        }
    }
}

/// One address and its client, as its owner sees it and may write it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseView<'a> {
    /// The address.
    pub address: Ipv4Addr,
    /// The client's MAC address.
    pub mac: EthernetAddress,
    /// What the client is told apart by.
    pub client: &'a [u8],
    /// The name that the owner has reserved, or else what the client calls itself.
    pub hostname: Option<&'a str>,
    /// What the address is used for.
    pub state: State,
    /// For how much longer.
    pub remaining: Duration,
    /// The address is reserved for this MAC address.
    pub is_reserved: bool,
}

/// Why an address cannot be reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationError {
    /// Not an address that a container of the network may have.
    NotForContainers(Ipv4Addr),
    /// Reserved for another MAC address.
    Reserved(Ipv4Addr, EthernetAddress),
    /// Leased to another MAC address, which uses it.
    Leased(Ipv4Addr, EthernetAddress),
}

impl fmt::Display for ReservationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotForContainers(address) => {
                write!(f, "{address} is no address that a container of this network may have")
            }
            Self::Reserved(address, mac) => write!(f, "{address} is reserved for {mac}"),
            Self::Leased(address, mac) => write!(f, "{address} is leased to {mac} now"),
        }
    }
}

impl core::error::Error for ReservationError {}

#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) address: Ipv4Addr,
    pub(super) mac: EthernetAddress,
    /// What the client calls itself.
    hostname: Option<String>,
    pub(super) state: State,
    pub(super) until: Instant,
    client: ClientKey,
}

impl Lease {
    /// Whether nobody else may have the address.
    fn is_held(&self, now: Instant) -> bool {
        self.state != State::Released && now < self.until
    }
}

#[derive(Debug)]
struct Reservation {
    address: Ipv4Addr,
    name: Option<String>,
}

/// The table of leases.
#[derive(Debug)]
pub struct Leases {
    range: RangeInclusive<Ipv4Addr>,
    by_address: BTreeMap<Ipv4Addr, Lease>,
    by_client: KeyedMap<ClientKey, Ipv4Addr>,
    reservations: KeyedMap<EthernetAddress, Reservation>,
    reserved: KeyedMap<Ipv4Addr, EthernetAddress>,
    version: u64,
}

impl Leases {
    /// No leases yet of the range from `first` to `last`, both included.
    #[must_use]
    pub fn new(first: Ipv4Addr, last: Ipv4Addr, seed: &[u8; 32]) -> Self {
        let hash = KeyedState::new(seed, b"leases");
        let longest = Ipv4Addr::from(u32::from(first).saturating_add(MAX_RANGE - 1));
        Self {
            range: first..=last.min(longest),
            by_address: BTreeMap::new(),
            by_client: KeyedMap::with_hasher(hash),
            reservations: KeyedMap::with_hasher(hash),
            reserved: KeyedMap::with_hasher(hash),
            version: 0,
        }
    }

    /// Another number when anything has changed that is to outlive the gateway: leases, but no offers.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Every address that has or had a client. Of those that are free again the client is remembered.
    pub fn views(&self, now: Instant) -> impl Iterator<Item = LeaseView<'_>> {
        self.by_address.values().map(move |lease| {
            let reservation = self.reservations.get(&lease.mac).filter(|own| own.address == lease.address);
            let name = reservation.and_then(|own| own.name.as_deref());
            LeaseView {
                address: lease.address,
                mac: lease.mac,
                client: &lease.client.0,
                hostname: name.or(lease.hostname.as_deref()),
                state: if lease.is_held(now) { lease.state } else { State::Released },
                remaining: if lease.is_held(now) { lease.until - now } else { Duration::ZERO },
                is_reserved: reservation.is_some(),
            }
        })
    }

    /// Enters a lease that was written down. Returns whether it could be: the address is of the range or reserved for this
    /// MAC address, and neither it nor the client has another lease.
    pub fn restore(&mut self, now: Instant, lease: &LeaseView<'_>) -> bool {
        let client = ClientKey(lease.client.to_vec());
        let is_new = self.of_client(&client).is_none() && !self.by_address.contains_key(&lease.address);
        let is_lease = lease.state != State::Offered && !lease.client.is_empty() && lease.mac.is_unicast();
        if !is_new || !is_lease || !self.is_permitted(lease.mac, lease.address) {
            return false;
        }
        self.put(&client, lease.mac, lease.address, lease.state, now + lease.remaining);
        self.name(lease.address, lease.hostname.unwrap_or_default().as_bytes());
        true
    }

    /// Keeps `address` for the client at `mac`, which is called `name` then. It replaces an earlier reservation.
    ///
    /// # Errors
    /// [`ReservationError::Reserved`], [`ReservationError::Leased`].
    pub fn reserve(
        &mut self,
        now: Instant,
        mac: EthernetAddress,
        address: Ipv4Addr,
        name: Option<String>,
    ) -> Result<(), ReservationError> {
        if let Some(&other) = self.reserved.get(&address).filter(|&&other| other != mac) {
            return Err(ReservationError::Reserved(address, other));
        }
        if let Some(lease) = self.by_address.get(&address).filter(|lease| lease.mac != mac) {
            if lease.state == State::Bound && lease.is_held(now) {
                return Err(ReservationError::Leased(address, lease.mac));
            }
            self.remove(address);
        }
        self.release_reservation(now, mac);
        self.reservations.insert(mac, Reservation { address, name });
        self.reserved.insert(address, mac);
        Ok(())
    }

    /// Ends a reservation. A lease goes on until its end.
    pub fn release_reservation(&mut self, now: Instant, mac: EthernetAddress) {
        let Some(Reservation { address, .. }) = self.reservations.remove(&mac) else { return };
        self.reserved.remove(&address);
        self.version += 1;
        let is_over = self.by_address.get(&address).is_some_and(|lease| !lease.is_held(now));
        if is_over && !self.range.contains(&address) {
            self.remove(address);
        }
    }

    /// Ends the leases of a client that has left the link: their addresses are free, and remembered.
    pub fn release(&mut self, mac: EthernetAddress) {
        for lease in self.by_address.values_mut().filter(|lease| lease.mac == mac) {
            if lease.state != State::Declined {
                lease.state = State::Released;
                self.version += 1;
            }
        }
    }

    /// The name that the owner has reserved for the client at `mac`.
    pub(super) fn reserved_name(&self, mac: EthernetAddress) -> Option<&str> {
        self.reservations.get(&mac)?.name.as_deref()
    }

    /// Whether anybody is ever given `address`.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.range.contains(&address) || self.reserved.contains_key(&address)
    }

    /// The lease of a client, however old.
    pub(super) fn of_client(&self, client: &ClientKey) -> Option<&Lease> {
        self.by_address.get(self.by_client.get(client)?)
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
        if let Some(own) = self.reservations.get(&mac) {
            return Some(own.address).filter(|&address| self.may_have(now, client, mac, address));
        }
        // RFC 2131 section 4.3.1: the client's current address, its previous one, the one it requests, a new one.
        let has_room = self.has_room(now, client, mac);
        let free = |address: &Ipv4Addr| has_room && self.is_free_for(now, client, mac, *address);
        let own = self.of_client(client).map(|lease| lease.address);
        let known = || [own, wish].into_iter().flatten().find(free);
        let range = u32::from(*self.range.start())..=u32::from(*self.range.end());
        let any = || range.map(Ipv4Addr::from).find(free);
        // The same host under another name.
        let of_mac = || self.held_by(now, mac).filter(|lease| lease.state != State::Declined);
        known().or_else(any).or_else(|| Some(of_mac().min_by_key(|lease| lease.until)?.address))
    }

    /// Whether `client` may have `address` now: it is free, or the same host's under another name.
    #[must_use]
    pub fn may_have(
        &self,
        now: Instant,
        client: &ClientKey,
        mac: EthernetAddress,
        address: Ipv4Addr,
    ) -> bool {
        let is_free = || self.is_free_for(now, client, mac, address) && self.has_room(now, client, mac);
        let is_of_mac = || {
            let lease = self.by_address.get(&address);
            lease
                .is_some_and(|lease| lease.mac == mac && lease.is_held(now) && lease.state != State::Declined)
        };
        self.is_permitted(mac, address) && (is_free() || is_of_mac())
    }

    /// Whether reservations leave `address` to the client at `mac`.
    fn is_permitted(&self, mac: EthernetAddress, address: Ipv4Addr) -> bool {
        match (self.reservations.get(&mac), self.reserved.get(&address)) {
            (Some(own), _) => own.address == address,
            (None, Some(_)) => false,
            (None, None) => self.range.contains(&address),
        }
    }

    /// Whether `client` is the first who needs `address`, and it is left to it.
    fn is_free_for(&self, now: Instant, client: &ClientKey, mac: EthernetAddress, address: Ipv4Addr) -> bool {
        self.is_permitted(mac, address)
            && match self.by_address.get(&address) {
                None => true,
                Some(lease) if lease.state == State::Declined => now >= lease.until,
                Some(lease) => lease.client == *client || !lease.is_held(now),
            }
    }

    /// Whether the MAC address may hold one address more, `client`'s own left out.
    fn has_room(&self, now: Instant, client: &ClientKey, mac: EthernetAddress) -> bool {
        let is_others = |lease: &&Lease| lease.client != *client || lease.state == State::Declined;
        if self.held_by(now, mac).filter(is_others).count() >= MAX_PER_MAC {
            return false;
        }
        if self.reservations.is_empty() || self.reservations.contains_key(&mac) {
            return true;
        }
        let is_strangers = |lease: &&Lease| !self.reservations.contains_key(&lease.mac) && lease.is_held(now);
        let strangers = self.by_address.values().filter(is_strangers).filter(is_others).count();
        let range = (self.range.end().to_bits() + 1).saturating_sub(self.range.start().to_bits());
        strangers < usize::try_from(range - range / 4).unwrap_or(usize::MAX)
    }

    fn held_by(&self, now: Instant, mac: EthernetAddress) -> impl Iterator<Item = &Lease> {
        self.by_address.values().filter(move |lease| lease.mac == mac && lease.is_held(now))
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
        if let Some(former) = self.by_client.insert(client.clone(), address)
            && former != address
            && let Some(lease) = self.by_address.get(&former)
            && lease.client == *client
            && lease.state != State::Declined
        {
            self.by_address.remove(&former);
        }
        let hostname = self.by_address.remove(&address).and_then(|lease| {
            if lease.client == *client {
                return lease.hostname;
            }
            if self.by_client.get(&lease.client) == Some(&address) {
                self.by_client.remove(&lease.client);
            }
            None
        });
        let lease = Lease { address, mac, hostname, state, until, client: client.clone() };
        self.by_address.insert(address, lease);
        self.version += u64::from(state != State::Offered);
    }

    /// Forgets who has or had `address`.
    fn remove(&mut self, address: Ipv4Addr) {
        let Some(lease) = self.by_address.remove(&address) else { return };
        if self.by_client.get(&lease.client) == Some(&address) {
            self.by_client.remove(&lease.client);
        }
        self.version += 1;
    }

    /// Notes what the client at `address` calls itself.
    pub fn name(&mut self, address: Ipv4Addr, hostname: &[u8]) {
        let name: String = String::from_utf8_lossy(hostname)
            .chars()
            .filter(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_'))
            .take(63)
            .collect();
        let lease = self.by_address.get_mut(&address);
        if let Some(lease) = lease.filter(|_| !name.is_empty()) {
            lease.hostname = Some(name);
        }
    }
}

#[cfg(test)]
mod tests;
