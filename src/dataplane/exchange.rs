// SPDX-License-Identifier: MIT OR Apache-2.0
//! Between workers: a frame that came in by the wrong queue goes to its owner, and so does a client of a published port.
//!
//! # Bounds
//! [`CAPACITY`] frames wait for each worker; a frame beyond that is dropped, as by any full queue. As many clients wait,
//! and one beyond that is refused.

use std::net::SocketAddr;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use wharf_stack::{Inbound, Ownership};
use wharf_switch::Frame;

/// Frames that may wait for one worker, and clients.
pub const CAPACITY: usize = 512;

/// One worker's view of all workers. `S` is a client's connection.
#[derive(Debug)]
pub struct Exchange<S> {
    number: usize,
    ownership: Arc<Ownership>,
    inboxes: Arc<[Inbox<S>]>,
    /// Workers that got something since they were last woken.
    to_wake: Vec<bool>,
}

/// What waits for one worker.
#[derive(Debug)]
struct Inbox<S> {
    frames: ArrayQueue<Frame>,
    clients: ArrayQueue<Inbound<S>>,
}

/// Whose something is.
#[derive(Debug)]
pub enum Owned<T> {
    /// Ours.
    Here(T),
    /// Another worker's, which has it now.
    Elsewhere,
    /// Another worker's, whose inbox is full.
    Refused(T),
}

impl<S> Exchange<S> {
    /// The exchanges of all workers of a network.
    #[must_use]
    pub fn new(ownership: Ownership, workers: usize) -> Vec<Self> {
        let ownership = Arc::new(ownership);
        let inbox = |_| Inbox { frames: ArrayQueue::new(CAPACITY), clients: ArrayQueue::new(CAPACITY) };
        let inboxes: Arc<[_]> = (0..workers).map(inbox).collect();
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
    pub fn hand_over(&mut self, frame: &mut Frame, replacement: impl FnOnce() -> Frame) -> Owned<()> {
        let owner = self.ownership.owner(frame);
        if owner == self.number {
            return Owned::Here(());
        }
        let Some(inbox) = self.inboxes.get(owner).filter(|inbox| !inbox.frames.is_full()) else {
            return Owned::Refused(());
        };
        let given = std::mem::replace(frame, replacement());
        if inbox.frames.push(given).is_err() {
            return Owned::Refused(());
        }
        self.wake(owner);
        Owned::Elsewhere
    }

    /// Hands a client of a published port to the worker that owns its flow, unless that is this worker.
    pub fn hand_over_client(&mut self, client: Inbound<S>) -> Owned<Inbound<S>> {
        let (container, remote) = client.ends();
        let owner = self.ownership.owner_of_tcp(container, remote);
        if owner == self.number {
            return Owned::Here(client);
        }
        let Some(inbox) = self.inboxes.get(owner) else { return Owned::Refused(client) };
        if let Err(client) = inbox.clients.push(client) {
            return Owned::Refused(client);
        }
        self.wake(owner);
        Owned::Elsewhere
    }

    fn wake(&mut self, number: usize) {
        if let Some(wake) = self.to_wake.get_mut(number) {
            *wake = true;
        }
    }

    /// Whether a TCP flow between these ends is this worker's.
    #[must_use]
    pub fn owns_tcp(&self, container: SocketAddr, remote: SocketAddr) -> bool {
        self.ownership.owner_of_tcp(container, remote) == self.number
    }

    /// The next frame that another worker handed over.
    pub fn receive(&self) -> Option<Frame> {
        self.inboxes.get(self.number)?.frames.pop()
    }

    /// The next client that another worker handed over.
    pub fn receive_client(&self) -> Option<Inbound<S>> {
        self.inboxes.get(self.number)?.clients.pop()
    }

    /// Whether something waits for this worker.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.inboxes
            .get(self.number)
            .is_some_and(|inbox| !inbox.frames.is_empty() || !inbox.clients.is_empty())
    }

    /// The workers to be woken for what they got.
    pub fn take_wakes(&mut self) -> impl Iterator<Item = usize> + '_ {
        self.to_wake.iter_mut().zip(0..).filter_map(|(wake, number)| std::mem::take(wake).then_some(number))
    }

    /// Frames that wait for any worker: part of the network's books.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.inboxes.iter().map(|inbox| inbox.frames.len()).sum()
    }
}
