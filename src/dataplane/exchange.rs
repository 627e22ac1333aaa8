// SPDX-License-Identifier: MIT OR Apache-2.0
//! Between workers: a frame that came in by the wrong queue goes to its owner, and so does a client of a published port.
//!
//! # Bounds
//! [`CAPACITY`] frames wait for each worker; a frame beyond that is dropped, as by any full queue. As many clients wait,
//! and one beyond that is refused.

use std::net::SocketAddr;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use wharf_stack::{Addressee, Inbound, Ownership};
use wharf_switch::{DropReason, Frame};

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
    pub fn new(ownership: Arc<Ownership>, workers: usize) -> Vec<Self> {
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

    /// Who must see a frame for the gateway.
    #[must_use]
    pub fn addressee(&self, frame: &Frame) -> Addressee {
        self.ownership.addressee(frame)
    }

    /// The workers but this one.
    pub fn others(&self) -> impl Iterator<Item = usize> + use<S> {
        let number = self.number;
        (0..self.inboxes.len()).filter(move |&other| other != number)
    }

    /// Gives a frame to another worker's gateway.
    ///
    /// # Errors
    /// Its inbox is full; the frame is gone.
    pub fn hand_over(&mut self, to: usize, frame: Frame) -> Result<(), DropReason> {
        let inbox = self.inboxes.get(to).ok_or(DropReason::InboxFull)?;
        inbox.frames.push(frame).map_err(|_| DropReason::InboxFull)?;
        self.wake(to);
        Ok(())
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
