// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who gives way in a full table: which of its members, each of which somebody holds.
//!
//! # How it works
//! It is one of the holder that has the most members, and of the newcomer's own if none has more (longest queue drop).
//! So whoever floods the table leaves every other holder its fair share of it: a holder loses a member to another only
//! when it has more than that, and none has more than it. One that is alone has the whole table.
//!
//! Of a holder's members those of the first rank go first. Within a rank it is the one whose last touch is longest ago.
//!
//! The holders with as many members as each other form a list, one for each number, so that none is searched for.
//!
//! # Bounds
//! A link for each member, a link and an entry for each holder, and a list for each number of members that a holder may have.
//! Every operation takes constant time.
//!
//! # Sources
//! Suter et al.: "Design Considerations for Supporting TCP with Per-flow Queueing" (1998), for longest queue drop.

use crate::host::FlowId;
use crate::linked_list::{Links, List, place};

/// The members of one holder, by rank and last touch.
#[derive(Clone, Copy, Debug)]
struct Share<const RANKS: usize> {
    ranks: [List; RANKS],
    /// Members of all ranks.
    len: usize,
}

impl<const RANKS: usize> Default for Share<RANKS> {
    fn default() -> Self {
        Self { ranks: [List::default(); RANKS], len: 0 }
    }
}

/// The members of all holders. A rank is a number below `RANKS`, and a member keeps its own.
#[derive(Debug)]
pub(crate) struct Shares<const RANKS: usize> {
    /// By the place of their holder.
    shares: Vec<Share<RANKS>>,
    members: Links<()>,
    /// The holders with one member, those with two, and so on; the last list is not empty.
    by_len: Vec<List>,
    holders: Links<()>,
}

impl<const RANKS: usize> Default for Shares<RANKS> {
    fn default() -> Self {
        Self { shares: Vec::new(), members: Links::default(), by_len: Vec::new(), holders: Links::default() }
    }
}

impl<const RANKS: usize> Shares<RANKS> {
    /// Puts a member behind all others of its holder and rank. It joins if it was not there.
    pub(crate) fn touch(&mut self, holder: FlowId, member: FlowId, rank: usize) {
        let Some(at) = place(holder) else { return };
        if self.shares.len() <= at {
            self.shares.resize_with(at + 1, Share::default);
        }
        let Some(share) = self.shares.get_mut(at) else { return };
        let Some(list) = share.ranks.get_mut(rank) else { return };
        let was_there = list.remove(&mut self.members, member).is_some();
        list.push(&mut self.members, member, ());
        if !was_there {
            let len = share.len + 1;
            self.set_len(holder, len);
        }
    }

    /// Forgets a member, if it is there.
    pub(crate) fn remove(&mut self, holder: FlowId, member: FlowId, rank: usize) {
        let Some(share) = share_of(&mut self.shares, holder) else { return };
        let Some(list) = share.ranks.get_mut(rank) else { return };
        if list.remove(&mut self.members, member).is_some() {
            let len = share.len - 1;
            self.set_len(holder, len);
        }
    }

    /// Who gives way to a new member of `holder`, which is `None` as long as it has no members.
    pub(crate) fn first_to_go(&self, holder: Option<FlowId>) -> Option<FlowId> {
        let most = self.by_len.len();
        let own = holder.and_then(|holder| self.share(holder)).filter(|share| share.len == most);
        let share = own.or_else(|| self.share(self.by_len.last()?.first()?))?;
        share.ranks.iter().find_map(List::first)
    }

    fn share(&self, holder: FlowId) -> Option<&Share<RANKS>> {
        self.shares.get(place(holder)?)
    }

    /// Moves a holder to those that have `len` members, one more or one less than it had.
    fn set_len(&mut self, holder: FlowId, len: usize) {
        let Some(share) = share_of(&mut self.shares, holder) else { return };
        let before = core::mem::replace(&mut share.len, len);
        if let Some(list) = before.checked_sub(1).and_then(|at| self.by_len.get_mut(at)) {
            list.remove(&mut self.holders, holder);
        }
        if self.by_len.len() < len {
            self.by_len.push(List::default());
        }
        if let Some(list) = len.checked_sub(1).and_then(|at| self.by_len.get_mut(at)) {
            list.push(&mut self.holders, holder, ());
        }
        if self.by_len.last().is_some_and(|list| list.first().is_none()) {
            self.by_len.pop();
        }
    }
}

/// The share of a holder that has had members.
fn share_of<const RANKS: usize>(shares: &mut [Share<RANKS>], holder: FlowId) -> Option<&mut Share<RANKS>> {
    shares.get_mut(place(holder)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(index: u32) -> FlowId {
        FlowId { index, generation: 0 }
    }

    /// The same without lists: all members, by their last touch.
    #[derive(Default)]
    struct Model(Vec<(u32, u32, usize)>);

    impl Model {
        fn len(&self, holder: u32) -> usize {
            self.0.iter().filter(|member| member.0 == holder).count()
        }

        fn first_of(&self, holder: u32) -> Option<FlowId> {
            let mut own: Vec<_> = self.0.iter().filter(|member| member.0 == holder).collect();
            own.sort_by_key(|member| member.2);
            own.first().map(|member| id(member.1))
        }

        /// Each that may give way to a member of `holder`.
        fn first_to_go(&self, holder: u32) -> Vec<Option<FlowId>> {
            let most = (0..4).map(|holder| self.len(holder)).max().unwrap();
            let longest = |&holder: &u32| self.len(holder) == most;
            let holders = if longest(&holder) { vec![holder] } else { (0..4).filter(longest).collect() };
            holders.into_iter().map(|holder| self.first_of(holder)).collect()
        }
    }

    proptest! {
        #[test]
        fn it_is_the_first_of_the_holder_with_the_most_members(
            steps in prop::collection::vec((0_u32..4, 0_usize..2, any::<prop::sample::Index>(), 0..5), 0..200),
        ) {
            let (mut shares, mut model) = (Shares::<2>::default(), Model::default());
            for ((holder, rank, which, step), number) in steps.into_iter().zip(0..) {
                if step < 3 || model.0.is_empty() {
                    shares.touch(id(holder), id(number), rank);
                    model.0.push((holder, number, rank));
                } else {
                    let (holder, number, rank) = model.0.remove(which.index(model.0.len()));
                    if step == 3 {
                        shares.touch(id(holder), id(number), rank);
                        model.0.push((holder, number, rank));
                    } else {
                        shares.remove(id(holder), id(number), rank);
                    }
                }
                for holder in 0..4 {
                    prop_assert!(model.first_to_go(holder).contains(&shares.first_to_go(Some(id(holder)))));
                }
            }
        }
    }

    /// Adds a member where there is room for `limit`.
    fn squeeze(shares: &mut Shares<2>, model: &mut Model, limit: usize, holder: u32, number: u32) {
        if model.0.len() == limit {
            let victim = shares.first_to_go(Some(id(holder))).unwrap();
            let at = model.0.iter().position(|member| member.1 == victim.index).unwrap();
            let (holder, number, rank) = model.0.remove(at);
            shares.remove(id(holder), id(number), rank);
        }
        shares.touch(id(holder), id(number), 1);
        model.0.push((holder, number, 1));
    }

    #[test]
    fn holders_that_are_flooded_share_what_the_others_do_not_need() {
        let (mut shares, mut model) = (Shares::<2>::default(), Model::default());
        let mut add = |holders: &[u32], numbers: core::ops::Range<u32>| {
            for number in numbers {
                let holder = holders[usize::try_from(number).unwrap() % holders.len()];
                squeeze(&mut shares, &mut model, 100, holder, number);
            }
            [0, 1, 2, 3].map(|holder| model.len(holder))
        };
        assert_eq!(add(&[0], 0..500), [100, 0, 0, 0]);
        assert_eq!(add(&[1], 500..510), [90, 10, 0, 0]);
        assert_eq!(add(&[2], 510..900), [45, 10, 45, 0]);
        assert_eq!(add(&[0, 2], 900..1000), [45, 10, 45, 0]);
        assert_eq!(add(&[3, 2, 1, 0], 1000..1400), [25; 4]);
    }
}
