// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flows in the order of their last use: the one that was idle for longest is always at hand.
//!
//! # How it works
//! A [`List`] in which a use moves a flow to the newer end. So whoever expires next, or gives way when the table is full,
//! needs no search, and no entry in the queue of deadlines that would outlive it.
//!
//! # Bounds
//! Those of [`Links`].

use wharf_switch::Instant;

use crate::host::FlowId;
use crate::linked_list::{Links, List};

/// The order of last use. It names flows and does not own them.
#[derive(Debug, Default)]
pub(crate) struct Recency {
    /// Oldest first.
    order: List,
    used_at: Links<Instant>,
}

impl Recency {
    /// Notes that a flow is used now. It joins if it was not there.
    pub(crate) fn touch(&mut self, id: FlowId, now: Instant) {
        self.remove(id);
        self.order.push(&mut self.used_at, id, now);
    }

    /// Forgets a flow, if it is there.
    pub(crate) fn remove(&mut self, id: FlowId) {
        self.order.remove(&mut self.used_at, id);
    }

    /// The flow whose last use is longest ago, and when that was.
    pub(crate) fn oldest(&self) -> Option<(FlowId, Instant)> {
        let id = self.order.first()?;
        Some((id, self.used_at(id)?))
    }

    /// When a flow was last used, if it is there.
    pub(crate) fn used_at(&self, id: FlowId) -> Option<Instant> {
        self.used_at.get(id).copied()
    }
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
