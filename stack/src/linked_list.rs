// SPDX-License-Identifier: MIT OR Apache-2.0
//! Doubly linked lists of a table's places, which share one array of links.
//!
//! # Bounds
//! As many links as the table has places. Every operation takes constant time.

use crate::host::FlowId;

/// The links of some lists, none of which has a member of another. A member has a value there.
#[derive(Debug)]
pub(crate) struct Links<T>(Vec<Option<Link<T>>>);

#[derive(Debug)]
struct Link<T> {
    value: T,
    previous: Option<FlowId>,
    next: Option<FlowId>,
}

impl<T> Default for Links<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Links<T> {
    pub(crate) fn get(&self, id: FlowId) -> Option<&T> {
        self.0.get(place(id)?)?.as_ref().map(|link| &link.value)
    }

    fn link_mut(&mut self, id: FlowId) -> Option<&mut Link<T>> {
        self.0.get_mut(place(id)?)?.as_mut()
    }
}

/// A list. It names flows and does not own them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct List {
    first: Option<FlowId>,
    last: Option<FlowId>,
}

impl List {
    pub(crate) fn first(&self) -> Option<FlowId> {
        self.first
    }

    /// Adds a flow at the end, which is in none of the lists.
    pub(crate) fn push<T>(&mut self, links: &mut Links<T>, id: FlowId, value: T) {
        let Some(at) = place(id) else { return };
        if links.0.len() <= at {
            links.0.resize_with(at + 1, || None);
        }
        let previous = self.last.replace(id);
        match previous.and_then(|previous| links.link_mut(previous)) {
            Some(link) => link.next = Some(id),
            None => self.first = Some(id),
        }
        if let Some(room) = links.0.get_mut(at) {
            *room = Some(Link { value, previous, next: None });
        }
    }

    /// Takes a flow out, unless it is in none of the lists. It is in no other than this one.
    pub(crate) fn remove<T>(&mut self, links: &mut Links<T>, id: FlowId) -> Option<T> {
        let Link { value, previous, next } = links.0.get_mut(place(id)?)?.take()?;
        match previous.and_then(|previous| links.link_mut(previous)) {
            Some(link) => link.next = next,
            None => self.first = next,
        }
        match next.and_then(|next| links.link_mut(next)) {
            Some(link) => link.previous = previous,
            None => self.last = previous,
        }
        Some(value)
    }
}

/// Where a table has its entry for `id`.
pub(crate) fn place(id: FlowId) -> Option<usize> {
    usize::try_from(id.index).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_with_the_same_links_are_apart() {
        let id = |index| FlowId { index, generation: 0 };
        let mut links = Links::default();
        let [mut odd, mut even] = [List::default(); 2];
        for index in 0..6 {
            let list = if index % 2 == 0 { &mut even } else { &mut odd };
            list.push(&mut links, id(index), index * 10);
        }
        assert_eq!(odd.remove(&mut links, id(3)), Some(30));
        assert_eq!(odd.remove(&mut links, id(3)), None);
        assert_eq!(links.get(id(5)), Some(&50));
        even.push(&mut links, id(3), 31);
        let mut drain = |mut list: List| {
            core::iter::from_fn(|| list.remove(&mut links, list.first()?)).collect::<Vec<_>>()
        };
        assert_eq!(drain(odd), [10, 50]);
        assert_eq!(drain(even), [0, 20, 40, 31]);
    }
}
