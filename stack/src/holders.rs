// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which containers hold places of a table, and how many.
//!
//! # How it works
//! A container is a MAC address, which the guard of its port holds it to, whatever number of IP addresses it has. The table
//! asks when it gives a place away or gets one back, and never in between.
//!
//! # Bounds
//! An entry for each container that holds a place. Every operation takes constant time.

use smoltcp::wire::EthernetAddress;

use crate::host::FlowId;
use crate::keyed::KeyedState;
use crate::transit::flow::{FlowTable, Keyed};

/// A container that holds something.
#[derive(Debug)]
struct Holder {
    mac: EthernetAddress,
    /// At least one.
    places: usize,
}

impl Keyed for Holder {
    type Key = EthernetAddress;

    fn key(&self) -> &EthernetAddress {
        &self.mac
    }
}

/// The holders of one table's places.
#[derive(Debug)]
pub(crate) struct Holders(FlowTable<Holder>);

impl Holders {
    /// For a table of `limit` places.
    pub(crate) fn new(hasher: KeyedState, limit: usize) -> Self {
        Self(FlowTable::new(hasher, limit))
    }

    /// The container with this MAC address, if it holds a place.
    pub(crate) fn find(&self, mac: EthernetAddress) -> Option<FlowId> {
        self.0.find(&mac)
    }

    /// Places that a holder has.
    pub(crate) fn places(&self, holder: FlowId) -> usize {
        self.0.get(holder).map_or(0, |holder| holder.places)
    }

    /// Notes that a container has one place more. `None` if the table has not so many.
    pub(crate) fn add(&mut self, mac: EthernetAddress) -> Option<FlowId> {
        let Some(id) = self.find(mac) else {
            return self.0.insert(Holder { mac, places: 1 });
        };
        self.0.get_mut(id)?.places += 1;
        Some(id)
    }

    /// Notes that a holder has one place less.
    pub(crate) fn remove(&mut self, holder: FlowId) {
        let Some(Holder { places, .. }) = self.0.get_mut(holder) else { return };
        *places -= 1;
        if *places == 0 {
            self.0.remove(holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_known_as_long_as_it_holds_a_place() {
        let [one, other] = [1, 2].map(|number| EthernetAddress([2, 0, 0, 0, 0, number]));
        let mut holders = Holders::new(KeyedState::new(&[7; 32], b"test"), 3);
        let id = holders.add(one).unwrap();
        assert_eq!((holders.add(one), holders.find(other)), (Some(id), None));
        let second = holders.add(other).unwrap();
        assert_eq!((holders.places(id), holders.places(second)), (2, 1));
        holders.remove(id);
        assert_eq!((holders.find(one), holders.places(id)), (Some(id), 1));
        holders.remove(id);
        assert_eq!((holders.find(one), holders.places(id)), (None, 0));
        assert_eq!(holders.places(second), 1);
    }
}
