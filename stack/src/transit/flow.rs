// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of flows: found by key when a packet comes, by id when a socket or a timer speaks.
//!
//! # Bounds
//! A table holds at most the configured number of flows. Keys are chosen by the container, so they are hashed with
//! SipHash-1-3 under a key drawn from the gateway's seed.

use core::hash::{BuildHasher as _, Hash};
use core::net::SocketAddr;

use hashbrown::HashTable;

use crate::host::FlowId;
use crate::keyed::KeyedState;
use crate::slots::Slots;
use crate::wire::Packet;

/// Both ends of a flow as the container sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    /// The container's end (RFC 4787: internal).
    pub(crate) container: SocketAddr,
    /// The other end, under the address the container uses for it.
    pub(crate) remote: SocketAddr,
}

impl FlowKey {
    /// The flow of a container's packet with these ports, source first.
    pub(crate) fn of(packet: &Packet, (src_port, dst_port): (u16, u16)) -> Self {
        Self {
            container: SocketAddr::new(packet.src, src_port),
            remote: SocketAddr::new(packet.dst, dst_port),
        }
    }
}

/// The dynamic ports, each once, beginning anywhere: for an end whose own port is taken.
pub(crate) fn dynamic_ports(first: u64) -> impl Iterator<Item = u16> {
    let count = u64::from(u16::MAX - FIRST_DYNAMIC_PORT) + 1;
    (0..count).filter_map(move |step| {
        let offset = u16::try_from((first % count + step) % count).ok()?;
        Some(FIRST_DYNAMIC_PORT + offset)
    })
}

/// RFC 6335 section 6.
const FIRST_DYNAMIC_PORT: u16 = 49_152;

/// What knows the key by which it is found.
pub(crate) trait Keyed {
    /// Of its kind only it has this one.
    type Key: Eq + Hash;

    /// The key, which stays the same as long as this is in a table.
    fn key(&self) -> &Self::Key;
}

/// A bounded table of flows of one kind.
#[derive(Debug)]
pub(crate) struct FlowTable<F> {
    /// The places of the flows. Their keys are where the flows are, where whoever looks one up goes next.
    places: HashTable<u32>,
    hasher: KeyedState,
    flows: Slots<F>,
    limit: usize,
}

impl<F: Keyed> FlowTable<F> {
    /// An empty table for at most `limit` flows.
    pub(crate) fn new(hasher: KeyedState, limit: usize) -> Self {
        Self { places: HashTable::new(), hasher, flows: Slots::new(), limit }
    }

    /// Flows in the table.
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Flows that still fit.
    pub(crate) fn room(&self) -> usize {
        self.limit.saturating_sub(self.len())
    }

    /// Whether no further flow fits.
    pub(crate) fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// The flow of a key.
    pub(crate) fn find(&self, key: &F::Key) -> Option<FlowId> {
        let has_key = |&place: &u32| self.flows.at(place).is_some_and(|(_, flow)| flow.key() == key);
        let &place = self.places.find(self.hasher.hash_one(key), has_key)?;
        self.flows.at(place).map(|(id, _)| id)
    }

    /// The flow of an id, unless it has ended.
    pub(crate) fn get_mut(&mut self, id: FlowId) -> Option<&mut F> {
        self.flows.get_mut(id)
    }

    /// The flow of an id, unless it has ended.
    pub(crate) fn get(&self, id: FlowId) -> Option<&F> {
        self.flows.get(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (FlowId, &F)> {
        self.flows.iter()
    }

    /// The flows that `is_meant` holds for, so that they can be taken out.
    pub(crate) fn ids(&self, is_meant: impl Fn(&F) -> bool) -> Vec<FlowId> {
        self.iter().filter(|(_, flow)| is_meant(flow)).map(|(id, _)| id).collect()
    }

    /// The id that the next [`FlowTable::insert`] will give, or `None` when the table is full.
    pub(crate) fn next_id(&self) -> Option<FlowId> {
        (!self.is_full()).then(|| self.flows.next_id())
    }

    /// Adds a flow whose key is not in the table; it gets the id of [`FlowTable::next_id`].
    pub(crate) fn insert(&mut self, flow: F) -> Option<FlowId> {
        if self.is_full() {
            return None;
        }
        let hash = self.hasher.hash_one(flow.key());
        let id = self.flows.insert(flow);
        let Self { places, hasher, flows, .. } = self;
        places.insert_unique(hash, id.index, |&place| {
            flows.at(place).map_or(0, |(_, flow)| hasher.hash_one(flow.key()))
        });
        Some(id)
    }

    /// Takes a flow out; its id finds nobody from now on.
    pub(crate) fn remove(&mut self, id: FlowId) -> Option<F> {
        let flow = self.flows.remove(id)?;
        let hash = self.hasher.hash_one(flow.key());
        if let Ok(entry) = self.places.find_entry(hash, |&place| place == id.index) {
            entry.remove();
        }
        Some(flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dynamic_port_is_tried_once() {
        for first in [0, 5, 16_383, u64::MAX] {
            let mut ports: Vec<u16> = dynamic_ports(first).collect();
            ports.sort_unstable();
            assert_eq!(ports, (49_152..=u16::MAX).collect::<Vec<_>>());
        }
    }

    impl Keyed for (char, u8) {
        type Key = char;

        fn key(&self) -> &char {
            &self.0
        }
    }

    fn table(limit: usize) -> FlowTable<(char, u8)> {
        FlowTable::new(KeyedState::new(&[1; 32], b"test"), limit)
    }

    #[test]
    fn a_stale_id_finds_nobody() {
        let mut table = table(1);
        let first = table.insert(('a', 1)).unwrap();
        assert!(table.insert(('b', 2)).is_none());
        assert_eq!(table.remove(first), Some(('a', 1)));
        assert_eq!(table.find(&'a'), None);
        let second = table.insert(('b', 2)).unwrap();
        assert_eq!(second.index, first.index);
        assert!(table.get(first).is_none());
        assert_eq!(table.find(&'b'), Some(second));
        assert_eq!(table.remove(first), None);
    }

    #[test]
    fn each_is_found_by_its_key_while_others_come_and_go() {
        let keys = || ('\u{100}'..).take(2000);
        let mut table = table(2000);
        let ids: Vec<FlowId> = keys().map(|key| table.insert((key, 7)).unwrap()).collect();
        for &id in ids.iter().step_by(3) {
            assert!(table.remove(id).is_some());
        }
        for (nth, (key, &id)) in keys().zip(&ids).enumerate() {
            assert_eq!(table.find(&key), (nth % 3 != 0).then_some(id));
        }
        for key in keys().step_by(3) {
            let id = table.insert((key, 8)).unwrap();
            assert_eq!((table.find(&key), table.get(id)), (Some(id), Some(&(key, 8))));
        }
    }
}
