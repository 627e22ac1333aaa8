// SPDX-License-Identifier: MIT OR Apache-2.0
//! Between workers: a frame that came in by the wrong queue goes to its owner.
//!
//! # Bounds
//! [`CAPACITY`] frames wait for each worker; a frame beyond that is dropped, as by any full queue.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use wharf_stack::Ownership;
use wharf_switch::Frame;

/// Frames that may wait for one worker.
pub const CAPACITY: usize = 512;

/// One worker's view of all workers.
#[derive(Debug)]
pub struct Exchange {
    number: usize,
    ownership: Arc<Ownership>,
    inboxes: Arc<[ArrayQueue<Frame>]>,
    /// Workers that got something since they were last woken.
    to_wake: Vec<bool>,
}

/// Whose a frame is.
#[derive(Debug)]
pub enum Owned {
    /// Ours.
    Here,
    /// Another worker's, which has it now.
    Elsewhere,
    /// Another worker's, whose inbox is full.
    Refused,
}

impl Exchange {
    /// The exchanges of all workers of a network.
    #[must_use]
    pub fn new(ownership: Ownership, workers: usize) -> Vec<Self> {
        let ownership = Arc::new(ownership);
        let inboxes: Arc<[_]> = (0..workers).map(|_| ArrayQueue::new(CAPACITY)).collect();
        (0..workers)
            .map(|number| Self {
                number,
                ownership: Arc::clone(&ownership),
                inboxes: Arc::clone(&inboxes),
                to_wake: vec![false; workers],
            })
            .collect()
    }

    /// This worker's number.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// Hands a frame for the gateway to its owner, unless that is this worker. `replacement` makes the frame that
    /// takes its place.
    pub fn hand_over(&mut self, frame: &mut Frame, replacement: impl FnOnce() -> Frame) -> Owned {
        let owner = self.ownership.owner(frame);
        if owner == self.number {
            return Owned::Here;
        }
        let Some(inbox) = self.inboxes.get(owner).filter(|inbox| !inbox.is_full()) else {
            return Owned::Refused;
        };
        let given = std::mem::replace(frame, replacement());
        if inbox.push(given).is_err() {
            return Owned::Refused;
        }
        if let Some(wake) = self.to_wake.get_mut(owner) {
            *wake = true;
        }
        Owned::Elsewhere
    }

    /// The next frame that another worker handed over.
    pub fn receive(&self) -> Option<Frame> {
        self.inboxes.get(self.number)?.pop()
    }

    /// Whether frames wait for this worker.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.inboxes.get(self.number).is_some_and(|inbox| !inbox.is_empty())
    }

    /// The workers to be woken for what they got.
    pub fn take_wakes(&mut self) -> impl Iterator<Item = usize> + '_ {
        self.to_wake.iter_mut().zip(0..).filter_map(|(wake, number)| std::mem::take(wake).then_some(number))
    }

    /// Frames that wait for any worker: part of the network's books.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.inboxes.iter().map(ArrayQueue::len).sum()
    }
}
