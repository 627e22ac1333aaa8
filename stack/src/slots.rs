// SPDX-License-Identifier: MIT OR Apache-2.0
//! A table whose ids find nobody once their entry is gone.

use crate::host::FlowId;

/// A full table grows by this part of it: large entries are not to be held twice over for those that may come.
const GROWTH: usize = 8;

/// Entries by place and generation.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    used: usize,
}

impl<T> Slots<T> {
    pub(crate) const fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new(), used: 0 }
    }

    /// Entries in use.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// The id that the next [`Slots::insert`] gives.
    pub(crate) fn next_id(&self) -> FlowId {
        let fresh = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        let index = self.free.last().copied().unwrap_or(fresh);
        FlowId { index, generation: self.entry(index).map_or(0, |entry| entry.0) }
    }

    pub(crate) fn insert(&mut self, value: T) -> FlowId {
        let id = self.next_id();
        if self.free.pop().is_none() {
            if self.entries.len() == self.entries.capacity() {
                self.entries.reserve_exact((self.entries.len() / GROWTH).max(GROWTH));
            }
            self.entries.push((0, None));
        }
        if let Some(entry) = self.entry_mut(id.index) {
            entry.1 = Some(value);
            self.used += 1;
        }
        id
    }

    pub(crate) fn get(&self, id: FlowId) -> Option<&T> {
        self.entry(id.index).filter(|entry| entry.0 == id.generation)?.1.as_ref()
    }

    /// The entry of a place, with its id.
    pub(crate) fn at(&self, index: u32) -> Option<(FlowId, &T)> {
        let (generation, value) = self.entry(index)?;
        Some((FlowId { index, generation: *generation }, value.as_ref()?))
    }

    pub(crate) fn get_mut(&mut self, id: FlowId) -> Option<&mut T> {
        self.entry_mut(id.index).filter(|entry| entry.0 == id.generation)?.1.as_mut()
    }

    pub(crate) fn remove(&mut self, id: FlowId) -> Option<T> {
        let entry = self.entry_mut(id.index).filter(|entry| entry.0 == id.generation)?;
        let value = entry.1.take()?;
        // Tokens carry 28 bits of the generation.
        entry.0 = (entry.0 + 1) & ((1 << 28) - 1);
        self.free.push(id.index);
        self.used -= 1;
        Some(value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (FlowId, &T)> {
        self.entries.iter().zip(0..).filter_map(|((generation, value), index)| {
            Some((FlowId { index, generation: *generation }, value.as_ref()?))
        })
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (FlowId, &mut T)> {
        self.entries.iter_mut().zip(0..).filter_map(|((generation, value), index)| {
            Some((FlowId { index, generation: *generation }, value.as_mut()?))
        })
    }

    fn entry(&self, index: u32) -> Option<&(u32, Option<T>)> {
        self.entries.get(usize::try_from(index).ok()?)
    }

    fn entry_mut(&mut self, index: u32) -> Option<&mut (u32, Option<T>)> {
        self.entries.get_mut(usize::try_from(index).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_id_finds_nobody() {
        let mut slots = Slots::new();
        let next = slots.next_id();
        let first = slots.insert('a');
        assert_eq!(next, first);
        assert_eq!(slots.remove(first), Some('a'));
        let second = slots.insert('b');
        assert_eq!((second.index, second.generation), (first.index, first.generation + 1));
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(second, &'b')]);
        assert_eq!(slots.len(), 1);
    }
}
