// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of flows: found by key when a packet comes, by id when a socket or a timer speaks.
//!
//! # Bounds
//! A table holds at most the configured number of flows. Keys are chosen by the container, so they are hashed with
//! SipHash-1-3 under a key drawn from the gateway's seed.

use crate::host::FlowId;
use crate::keyed::{KeyedMap, KeyedState};
use crate::slots::Slots;
use crate::wire::Packet;
use core::hash::Hash;
use core::net::SocketAddr;

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

/// A bounded table of flows of one kind.
#[derive(Debug)]
pub(crate) struct FlowTable<K, F> {
    by_key: KeyedMap<K, FlowId>,
    flows: Slots<F>,
    limit: usize,
}

impl<K: Copy + Eq + Hash, F> FlowTable<K, F> {
    /// An empty table for at most `limit` flows.
    pub(crate) fn new(hasher: KeyedState, limit: usize) -> Self {
        Self { by_key: KeyedMap::with_hasher(hasher), flows: Slots::new(), limit }
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
    pub(crate) fn find(&self, key: &K) -> Option<FlowId> {
        self.by_key.get(key).copied()
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

    /// The id that the next [`FlowTable::insert`] will give, or `None` when the table is full.
    pub(crate) fn next_id(&self) -> Option<FlowId> {
        (!self.is_full()).then(|| self.flows.next_id())
    }

    /// Adds a flow under a key that is not in the table; it gets the id of [`FlowTable::next_id`].
    pub(crate) fn insert(&mut self, key: K, flow: F) -> Option<FlowId> {
        if self.is_full() {
            return None;
        }
        let id = self.flows.insert(flow);
        self.by_key.insert(key, id);
        Some(id)
    }

    /// Takes a flow out; its id finds nobody from now on.
    pub(crate) fn remove(&mut self, id: FlowId, key: &K) -> Option<F> {
        let flow = self.flows.remove(id)?;
        self.by_key.remove(key);
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

    #[test]
    fn a_stale_id_finds_nobody() {
        let mut table = FlowTable::new(KeyedState::new(&[1; 32], b"test"), 1);
        let first = table.insert('a', 1).unwrap();
        assert!(table.insert('b', 2).is_none());
        assert_eq!(table.remove(first, &'a'), Some(1));
        let second = table.insert('b', 2).unwrap();
        assert_eq!(second.index, first.index);
        assert!(table.get(first).is_none());
        assert_eq!(table.find(&'b'), Some(second));
        assert_eq!(table.remove(first, &'b'), None);
    }
}
