// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flows in the order of their last use: the one that was idle for longest is always at hand.
//!
//! # How it works
//! A doubly linked list that lives in an array, one link for each place of a [`FlowTable`](super::flow::FlowTable). A
//! use moves a link to the newer end. So whoever expires next, or gives way when the table is full, needs no search, and
//! no entry in the queue of deadlines that would outlive it.
//!
//! # Bounds
//! As many links as the table has places. Every operation takes constant time.

use wharf_switch::Instant;

use crate::host::FlowId;

/// The order of last use. It names flows and does not own them.
#[derive(Debug, Default)]
pub(crate) struct Recency {
    links: Vec<Option<Link>>,
    oldest: Option<FlowId>,
    newest: Option<FlowId>,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    used_at: Instant,
    older: Option<FlowId>,
    newer: Option<FlowId>,
}

impl Recency {
    /// Notes that a flow is used now. It joins if it was not there.
    pub(crate) fn touch(&mut self, id: FlowId, now: Instant) {
        self.remove(id);
        let Some(at) = place(id) else { return };
        if self.links.len() <= at {
            self.links.resize(at + 1, None);
        }
        let older = self.newest.replace(id);
        match older.and_then(|older| self.link_mut(older)) {
            Some(link) => link.newer = Some(id),
            None => self.oldest = Some(id),
        }
        if let Some(room) = self.links.get_mut(at) {
            *room = Some(Link { used_at: now, older, newer: None });
        }
    }

    /// Forgets a flow, if it is there.
    pub(crate) fn remove(&mut self, id: FlowId) {
        let room = place(id).and_then(|at| self.links.get_mut(at));
        let Some(Link { older, newer, .. }) = room.and_then(Option::take) else { return };
        match older.and_then(|older| self.link_mut(older)) {
            Some(link) => link.newer = newer,
            None => self.oldest = newer,
        }
        match newer.and_then(|newer| self.link_mut(newer)) {
            Some(link) => link.older = older,
            None => self.newest = older,
        }
    }

    /// The flow whose last use is longest ago, and when that was.
    pub(crate) fn oldest(&self) -> Option<(FlowId, Instant)> {
        let id = self.oldest?;
        let link = self.links.get(place(id)?)?.as_ref()?;
        Some((id, link.used_at))
    }

    /// When a flow was last used, if it is there.
    pub(crate) fn used_at(&self, id: FlowId) -> Option<Instant> {
        self.links.get(place(id)?)?.map(|link| link.used_at)
    }

    fn link_mut(&mut self, id: FlowId) -> Option<&mut Link> {
        self.links.get_mut(place(id)?)?.as_mut()
    }
}

fn place(id: FlowId) -> Option<usize> {
    usize::try_from(id.index).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u32) -> FlowId {
        FlowId { index, generation: 0 }
    }

    /// Takes everybody out, oldest first.
    fn drain(recency: &mut Recency) -> Vec<u32> {
        core::iter::from_fn(|| {
            let (id, _) = recency.oldest()?;
            recency.remove(id);
            Some(id.index)
        })
        .collect()
    }

    #[test]
    fn the_order_is_that_of_the_last_use() {
        let mut recency = Recency::default();
        for (second, index) in [3, 0, 2, 1, 0, 3, 3].into_iter().enumerate() {
            recency.touch(id(index), Instant::from_secs(second as u64));
        }
        assert_eq!(recency.oldest(), Some((id(2), Instant::from_secs(2))));
        assert_eq!(recency.used_at(id(0)), Some(Instant::from_secs(4)));
        assert_eq!(recency.used_at(id(5)), None);
        assert_eq!(drain(&mut recency), [2, 1, 0, 3]);
        assert_eq!(recency.oldest(), None);
    }

    #[test]
    fn whoever_leaves_from_anywhere_leaves_the_rest_in_order() {
        for gone in 0..4 {
            let mut recency = Recency::default();
            (0..4).for_each(|index| recency.touch(id(index), Instant::ZERO));
            recency.remove(id(gone));
            recency.remove(id(gone));
            recency.remove(id(9));
            recency.touch(id(7), Instant::ZERO);
            let expected: Vec<u32> = (0..4).filter(|&index| index != gone).chain([7]).collect();
            assert_eq!(drain(&mut recency), expected);
        }
    }
}
