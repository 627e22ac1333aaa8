// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which client gives way where there is no room for another.
//!
//! # How it works
//! It is one of the port that has the most clients, and of the new client's own port if none has more (longest queue drop).
//! So a flood of clients of one port leaves every other its fair share of the room: a port loses a client to another only
//! when it has more than that, and none has more than it.
//!
//! Of a port's clients those whom the container sees as themselves go first: most of what it sends them finds them without
//! being remembered. Then it is the one who was silent for longest.
//!
//! The ports with as many clients as each other form a list, one for each number, so that none is searched for.
//!
//! # Bounds
//! A link for each client, a link and an entry for each port, and a list for each number of clients that a port may have.
//! Every operation takes constant time.
//!
//! # Sources
//! Suter et al.: "Design Considerations for Supporting TCP with Per-flow Queueing" (1998), for longest queue drop.

use crate::host::FlowId;
use crate::linked_list::{Links, List, place};

/// As whom the container sees a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    AsItself,
    AsSomebodyElse,
}

/// The clients of one port, by their last sign of life.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    themselves: List,
    others: List,
    /// Clients in both lists.
    len: usize,
}

impl Share {
    fn list_mut(&mut self, seen: Seen) -> &mut List {
        match seen {
            Seen::AsItself => &mut self.themselves,
            Seen::AsSomebodyElse => &mut self.others,
        }
    }
}

/// The clients of all ports.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// By the place of their port.
    shares: Vec<Share>,
    clients: Links<()>,
    /// The ports with one client, those with two, and so on; the last list is not empty.
    by_len: Vec<List>,
    ports: Links<()>,
}

impl Shares {
    /// Notes a sign of a client. It joins if it was not there.
    pub(super) fn touch(&mut self, port: FlowId, client: FlowId, seen: Seen) {
        let Some(at) = place(port) else { return };
        if self.shares.len() <= at {
            self.shares.resize_with(at + 1, Share::default);
        }
        let Some(share) = share_of(&mut self.shares, port) else { return };
        let list = share.list_mut(seen);
        let was_there = list.remove(&mut self.clients, client).is_some();
        list.push(&mut self.clients, client, ());
        if !was_there {
            let len = share.len + 1;
            self.set_len(port, len);
        }
    }

    /// Forgets a client, if it is there.
    pub(super) fn remove(&mut self, port: FlowId, client: FlowId, seen: Seen) {
        let Some(share) = share_of(&mut self.shares, port) else { return };
        if share.list_mut(seen).remove(&mut self.clients, client).is_some() {
            let len = share.len - 1;
            self.set_len(port, len);
        }
    }

    /// Who gives way to a new client of `port`.
    pub(super) fn first_to_go(&self, port: FlowId) -> Option<FlowId> {
        let most = self.by_len.len();
        let own = self.share(port).filter(|share| share.len == most);
        let share = own.or_else(|| self.share(self.by_len.last()?.first()?))?;
        share.themselves.first().or(share.others.first())
    }

    fn share(&self, port: FlowId) -> Option<&Share> {
        self.shares.get(place(port)?)
    }

    /// Moves a port to those that have `len` clients, one more or one less than it had.
    fn set_len(&mut self, port: FlowId, len: usize) {
        let Some(share) = share_of(&mut self.shares, port) else { return };
        let before = core::mem::replace(&mut share.len, len);
        if let Some(list) = before.checked_sub(1).and_then(|at| self.by_len.get_mut(at)) {
            list.remove(&mut self.ports, port);
        }
        if self.by_len.len() < len {
            self.by_len.push(List::default());
        }
        if let Some(list) = len.checked_sub(1).and_then(|at| self.by_len.get_mut(at)) {
            list.push(&mut self.ports, port, ());
        }
        if self.by_len.last().is_some_and(|list| list.first().is_none()) {
            self.by_len.pop();
        }
    }
}

/// The share of a port that has had clients.
fn share_of(shares: &mut [Share], port: FlowId) -> Option<&mut Share> {
    shares.get_mut(place(port)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(index: u32) -> FlowId {
        FlowId { index, generation: 0 }
    }

    /// The same without lists: all clients, by their last sign.
    #[derive(Default)]
    struct Model(Vec<(u32, u32, Seen)>);

    impl Model {
        fn len(&self, port: u32) -> usize {
            self.0.iter().filter(|client| client.0 == port).count()
        }

        fn first_of(&self, port: u32) -> Option<FlowId> {
            let mut own: Vec<_> = self.0.iter().filter(|client| client.0 == port).collect();
            own.sort_by_key(|client| client.2 == Seen::AsSomebodyElse);
            own.first().map(|client| id(client.1))
        }

        /// Each that may give way to a client of `port`.
        fn first_to_go(&self, port: u32) -> Vec<Option<FlowId>> {
            let most = (0..4).map(|port| self.len(port)).max().unwrap();
            let longest = |&port: &u32| self.len(port) == most;
            let ports = if longest(&port) { vec![port] } else { (0..4).filter(longest).collect() };
            ports.into_iter().map(|port| self.first_of(port)).collect()
        }
    }

    proptest! {
        #[test]
        fn it_is_the_first_of_the_port_with_the_most_clients(
            steps in prop::collection::vec((0_u32..4, any::<bool>(), any::<prop::sample::Index>(), 0..5), 0..200),
        ) {
            let (mut shares, mut model) = (Shares::default(), Model::default());
            for ((port, is_itself, which, step), number) in steps.into_iter().zip(0..) {
                if step < 3 || model.0.is_empty() {
                    let seen = if is_itself { Seen::AsItself } else { Seen::AsSomebodyElse };
                    shares.touch(id(port), id(number), seen);
                    model.0.push((port, number, seen));
                } else {
                    let (port, number, seen) = model.0.remove(which.index(model.0.len()));
                    if step == 3 {
                        shares.touch(id(port), id(number), seen);
                        model.0.push((port, number, seen));
                    } else {
                        shares.remove(id(port), id(number), seen);
                    }
                }
                for port in 0..4 {
                    prop_assert!(model.first_to_go(port).contains(&shares.first_to_go(id(port))));
                }
            }
        }
    }

    /// Adds a client where there is room for `limit`.
    fn squeeze(shares: &mut Shares, model: &mut Model, limit: usize, port: u32, number: u32) {
        if model.0.len() == limit {
            let victim = shares.first_to_go(id(port)).unwrap();
            let at = model.0.iter().position(|client| client.1 == victim.index).unwrap();
            let (port, number, seen) = model.0.remove(at);
            shares.remove(id(port), id(number), seen);
        }
        shares.touch(id(port), id(number), Seen::AsSomebodyElse);
        model.0.push((port, number, Seen::AsSomebodyElse));
    }

    #[test]
    fn ports_that_are_flooded_share_what_the_others_do_not_need() {
        let (mut shares, mut model) = (Shares::default(), Model::default());
        let mut add = |ports: &[u32], numbers: core::ops::Range<u32>| {
            for number in numbers {
                let port = ports[usize::try_from(number).unwrap() % ports.len()];
                squeeze(&mut shares, &mut model, 100, port, number);
            }
            [0, 1, 2, 3].map(|port| model.len(port))
        };
        assert_eq!(add(&[0], 0..500), [100, 0, 0, 0]);
        assert_eq!(add(&[1], 500..510), [90, 10, 0, 0]);
        assert_eq!(add(&[2], 510..900), [45, 10, 45, 0]);
        assert_eq!(add(&[0, 2], 900..1000), [45, 10, 45, 0]);
        assert_eq!(add(&[3, 2, 1, 0], 1000..1400), [25; 4]);
    }
}
