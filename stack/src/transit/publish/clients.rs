// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who has sent a datagram to a published port, and under which end the container knows them.
//!
//! # How it works
//! A client is one end outside that speaks to one address of the host. The container sees it under an end that no other
//! client of the same container's port has: its own, or the gateway's address with its own port, and another port where
//! that is taken. So an answer finds its client, and leaves from the address that the client has spoken to.
//!
//! # Bounds
//! [`MAX_CLIENTS`] for each worker, shared fairly by its ports: [`Shares`] says who gives way to a new one. Of a port's
//! clients those whom the container sees as themselves go first: most of what it sends them finds them without being
//! remembered. Each is forgotten after [`TIMEOUT`].
//!
//! # Sources
//! RFC 4787 (REQ-5).

use core::hash::BuildHasher;
use core::net::{IpAddr, SocketAddr};

use wharf_switch::{Duration, Instant};

use crate::Config;
use crate::host::FlowId;
use crate::keyed::{KeyedMap, KeyedState};
use crate::local::Local;
use crate::recency::Recency;
use crate::transit::flow::{FlowKey, FlowTable, Keyed, dynamic_ports};
use crate::transit::listing::{Direction, FlowProtocol, FlowView, Traffic};
use crate::transit::shares::Shares;

const MAX_CLIENTS: usize = 4096;
/// RFC 4787 REQ-5: a mapping timer of 5 minutes is recommended.
const TIMEOUT: Duration = Duration::from_secs(300);

/// What a client is told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    /// The published port.
    pub(crate) port: FlowId,
    pub(crate) from: SocketAddr,
    /// The host's address that it speaks to, where the port is published on several.
    pub(crate) to: Option<IpAddr>,
}

#[derive(Debug)]
struct Known {
    client: Client,
    ends: FlowKey,
    direction: Direction,
    traffic: Traffic,
}

/// Ranks among the clients that may give way.
const RANKS: usize = 2;

impl Known {
    /// Whom the container sees as somebody else goes later.
    fn rank(&self) -> usize {
        usize::from(self.ends.remote != self.client.from)
    }
}

impl Keyed for Known {
    type Key = Client;

    fn key(&self) -> &Client {
        &self.client
    }
}

/// A client as the table has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) id: FlowId,
    pub(super) client: Client,
    /// The end under which the container knows it.
    pub(super) seen: SocketAddr,
}

/// The clients of one worker's published ports.
#[derive(Debug)]
pub(super) struct Clients {
    known: FlowTable<Known>,
    /// The same, by the ends that the container knows.
    by_ends: KeyedMap<FlowKey, FlowId>,
    ages: Recency,
    shares: Shares<RANKS>,
    hasher: KeyedState,
}

impl Clients {
    pub(super) fn new(config: &Config) -> Self {
        let hasher = KeyedState::new(&config.seed, b"clients of published ports");
        Self {
            known: FlowTable::new(hasher, MAX_CLIENTS),
            by_ends: KeyedMap::with_hasher(hasher),
            ages: Recency::default(),
            shares: Shares::default(),
            hasher,
        }
    }

    /// Who has sent a datagram to the container at `ends`. A client that is new is known there under the end of `ends`, or
    /// one with another port.
    pub(super) fn seen(
        &mut self,
        config: &Config,
        now: Instant,
        client: Client,
        ends: FlowKey,
    ) -> Option<Entry> {
        let anywhere = Client { to: None, ..client };
        match self.known.find(&client).or_else(|| self.known.find(&anywhere)) {
            Some(id) => self.touch(now, id),
            None => self.add(config, now, client, (ends, Direction::Inbound)),
        }
    }

    /// The container itself has begun with a client that it knows as the remote end of `ends`.
    pub(super) fn expect(
        &mut self,
        config: &Config,
        now: Instant,
        client: Client,
        ends: FlowKey,
    ) -> Option<Entry> {
        match self.known.find(&client) {
            Some(id) => self.touch(now, id),
            None => self.add(config, now, client, (ends, Direction::Outbound)),
        }
    }

    fn add(
        &mut self,
        config: &Config,
        now: Instant,
        client: Client,
        (ends, direction): (FlowKey, Direction),
    ) -> Option<Entry> {
        if self.known.is_full()
            && let Some(id) = self.shares.first_to_go(Some(client.port))
        {
            self.forget(id);
        }
        let ends = self.free_ends(config, now, ends);
        let known = Known { client, ends, direction, traffic: Traffic::new(now) };
        let id = self.known.insert(known)?;
        self.by_ends.insert(ends, id);
        self.touch(now, id)
    }

    /// Notes that a client is spoken with now.
    fn touch(&mut self, now: Instant, id: FlowId) -> Option<Entry> {
        let known = self.known.get(id)?;
        self.ages.touch(id, now);
        self.shares.touch(known.client.port, id, known.rank());
        Some(Entry { id, client: known.client, seen: known.ends.remote })
    }

    /// What goes between a client and the container is counted here.
    pub(super) fn traffic_mut(&mut self, id: FlowId) -> Option<&mut Traffic> {
        self.known.get_mut(id).map(|known| &mut known.traffic)
    }

    /// Every client, as it is `now`; `external` is the host's end of a port.
    pub(super) fn views<'a>(
        &'a self,
        now: Instant,
        external: impl Fn(FlowId) -> Option<SocketAddr> + 'a,
    ) -> impl Iterator<Item = FlowView> + 'a {
        self.known.iter().map(move |(id, known)| {
            let Client { port, from, to } = known.client;
            let at_port = external(port).map(|end| SocketAddr::new(to.unwrap_or(end.ip()), end.port()));
            let used_at = self.ages.used_at(id).unwrap_or(now);
            let kind = (FlowProtocol::Udp, known.direction);
            known.traffic.view(now, used_at, kind, known.ends, (at_port, Some(from)))
        })
    }

    /// `ends` if no other client has them and no service of the gateway, else with another port of the remote's.
    fn free_ends(&self, config: &Config, now: Instant, ends: FlowKey) -> FlowKey {
        let is_ours = config.listens_to(ends.remote.ip());
        let is_taken = |ends: &FlowKey| {
            (is_ours && Local::is_service(ends.remote.port())) || self.by_ends.contains_key(ends)
        };
        if !is_taken(&ends) {
            return ends;
        }
        let others = dynamic_ports(self.hasher.hash_one((ends, now.as_nanos())))
            .map(|port| FlowKey { remote: SocketAddr::new(ends.remote.ip(), port), ..ends });
        // There are more ports than clients.
        others.take(MAX_CLIENTS + 1).find(|other| !is_taken(other)).unwrap_or(ends)
    }

    /// The end under which the container knows whom it has itself begun with.
    pub(super) fn expected(&self, client: &Client) -> Option<SocketAddr> {
        self.known.find(client).and_then(|id| self.known.get(id)).map(|known| known.ends.remote)
    }

    /// Whom the container means by the remote end of `ends`.
    pub(super) fn find(&self, ends: &FlowKey) -> Option<Client> {
        let known = self.known.get(*self.by_ends.get(ends)?)?;
        Some(known.client)
    }

    /// [`find`](Self::find), for whom the container has an answer.
    pub(super) fn answer(&mut self, now: Instant, ends: &FlowKey) -> Option<Entry> {
        let &id = self.by_ends.get(ends)?;
        self.touch(now, id)
    }

    fn forget(&mut self, id: FlowId) {
        self.ages.remove(id);
        if let Some(known) = self.known.remove(id) {
            self.by_ends.remove(&known.ends);
            self.shares.remove(known.client.port, id, known.rank());
        }
    }

    /// Forgets the clients of a port.
    pub(super) fn forget_port(&mut self, port: FlowId) {
        self.known.ids(|known| known.client.port == port).into_iter().for_each(|id| self.forget(id));
    }

    /// Forgets who was silent for too long.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((id, used_at)) = self.ages.oldest()
            && used_at + TIMEOUT <= now
        {
            self.forget(id);
        }
    }

    /// When [`Clients::expire`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.ages.oldest().map(|(_, used_at)| used_at + TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;

    const CLIENTS: u16 = 4096;

    /// Clients of two ports of a container.
    struct Bench {
        config: Config,
        clients: Clients,
    }

    impl Bench {
        fn new() -> Self {
            let config = config();
            Self { clients: Clients::new(&config), config }
        }

        fn ends(port: u16, remote: SocketAddr) -> FlowKey {
            FlowKey { container: SocketAddr::from(([10, 0, 2, 100], port)), remote }
        }

        /// A datagram comes from `from` to a published port, whose container sees it come from `seen`.
        fn hear(&mut self, port: u16, from: SocketAddr, seen: SocketAddr) {
            let client = Client { port: FlowId { index: port.into(), generation: 0 }, from, to: None };
            let entry = self.clients.seen(&self.config, Instant::ZERO, client, Self::ends(port, seen));
            assert_eq!(entry.map(|entry| entry.seen), Some(seen));
            assert!(self.clients.known.len() <= CLIENTS.into());
        }

        fn hear_loopback(&mut self, port: u16, number: u16) {
            self.hear(port, SocketAddr::from(([127, 0, 0, 1], 1000 + number)), Self::seen(number));
        }

        fn hear_stranger(&mut self, port: u16, number: u16) {
            let stranger = SocketAddr::from(([203, 0, 113, 9], 1000 + number));
            self.hear(port, stranger, stranger);
        }

        fn seen(number: u16) -> SocketAddr {
            SocketAddr::from(([10, 0, 2, 2], 1000 + number))
        }

        /// How many of the first loopback clients of a port are known.
        fn known(&self, port: u16, numbers: core::ops::Range<u16>) -> usize {
            numbers
                .filter(|&number| self.clients.find(&Self::ends(port, Self::seen(number))).is_some())
                .count()
        }
    }

    #[test]
    fn strangers_cost_a_port_of_few_clients_none() {
        let mut bench = Bench::new();
        (0..100).for_each(|number| bench.hear_loopback(1, number));
        (0..10_000).for_each(|number| bench.hear_stranger(2, number));
        assert_eq!(bench.known(1, 0..100), 100);
        // New ones find room.
        (100..200).for_each(|number| bench.hear_loopback(1, number));
        assert_eq!(bench.known(1, 0..200), 200);
    }

    #[test]
    fn strangers_cost_a_port_of_many_clients_what_is_beyond_its_half() {
        let mut bench = Bench::new();
        (0..CLIENTS).for_each(|number| bench.hear_loopback(1, number));
        (0..10_000).for_each(|number| bench.hear_stranger(2, number));
        assert_eq!(bench.known(1, 0..CLIENTS), usize::from(CLIENTS / 2));
        assert_eq!(bench.known(1, CLIENTS / 2..CLIENTS), usize::from(CLIENTS / 2));
    }

    #[test]
    fn strangers_cost_the_others_of_their_own_port_nothing() {
        let mut bench = Bench::new();
        (0..CLIENTS - 1).for_each(|number| bench.hear_loopback(1, number));
        (0..10_000).for_each(|number| bench.hear_stranger(1, number));
        assert_eq!(bench.known(1, 0..CLIENTS - 1), usize::from(CLIENTS - 1));
    }

    #[test]
    fn a_withdrawn_ports_clients_leave_their_room() {
        let mut bench = Bench::new();
        (0..CLIENTS / 2).for_each(|number| bench.hear_loopback(1, number));
        (0..10_000).for_each(|number| bench.hear_stranger(2, number));
        bench.clients.forget_port(FlowId { index: 2, generation: 0 });
        assert_eq!(bench.clients.known.len(), usize::from(CLIENTS / 2));
        (CLIENTS / 2..CLIENTS).for_each(|number| bench.hear_loopback(1, number));
        assert_eq!(bench.known(1, 0..CLIENTS), usize::from(CLIENTS));
        assert!(bench.clients.next_deadline().is_some());
        bench.clients.expire(Instant::ZERO + TIMEOUT);
        assert_eq!((bench.clients.known.len(), bench.clients.next_deadline()), (0, None));
        // Nobody is left to give way.
        assert_eq!(bench.clients.shares.first_to_go(None), None);
    }
}
