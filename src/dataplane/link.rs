// SPDX-License-Identifier: MIT OR Apache-2.0
//! Between networks: a packet that is routed to another one goes from a worker of the first to one of the other.
//!
//! # How it works
//! Each worker has an [`Inlet`], where others put packets for its network's containers, and [`Links`] to one inlet of each
//! network that its own is linked with. A flow has one owner in its network, whose packets all take the same inlet: none
//! overtakes another.
//!
//! # Bounds
//! [`CAPACITY`] packets wait in an inlet; one beyond that is dropped, as by any full queue.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use wharf_switch::{DropReason, Frame, Pool};

use super::exchange::CAPACITY;
use crate::bell::Bell;

/// Where the packets wait that other networks have for one worker's containers.
#[derive(Debug)]
pub struct Inlet {
    frames: ArrayQueue<Frame>,
    /// What its worker is woken with; none where it is never asleep.
    bell: Option<Arc<Bell>>,
}

impl Default for Inlet {
    fn default() -> Self {
        Self { frames: ArrayQueue::new(CAPACITY), bell: None }
    }
}

impl Inlet {
    /// The inlet of the worker that hears `bell`.
    pub(crate) fn with_bell(bell: Arc<Bell>) -> Self {
        Self { bell: Some(bell), ..Self::default() }
    }

    /// The next packet.
    pub fn take(&self) -> Option<Frame> {
        self.frames.pop()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Packets that wait: they have left one network, and not reached the other.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }
}

/// One worker's ways to other networks.
#[derive(Debug)]
pub struct Links {
    pool: Pool,
    /// `None` leads to a network that has lost its workers.
    links: Vec<Option<Link>>,
}

#[derive(Debug)]
struct Link {
    inlet: Arc<Inlet>,
    /// It got something since its worker was last woken.
    is_to_wake: bool,
}

impl Links {
    /// No links so far. `pool` gives a frame for each one that leaves.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool, links: Vec::new() }
    }

    /// Other links from now on, in the order of their numbers in [`Route::network`](wharf_stack::Route::network). Without
    /// an inlet nothing gets there.
    pub fn set(&mut self, inlets: Vec<Option<Arc<Inlet>>>) {
        let link = |inlet| Link { inlet, is_to_wake: false };
        self.links = inlets.into_iter().map(|inlet| inlet.map(link)).collect();
    }

    /// Hands a packet to another network. What is left in `frame` has no meaning.
    ///
    /// # Errors
    /// The other network's inlet is full, or it has none; the packet is gone.
    pub fn hand_over(&mut self, network: usize, frame: &mut Frame) -> Result<(), DropReason> {
        let link = self.links.get_mut(network).and_then(Option::as_mut).ok_or(DropReason::LinkFull)?;
        let frame = std::mem::replace(frame, self.pool.large());
        link.inlet.frames.push(frame).map_err(|_| DropReason::LinkFull)?;
        link.is_to_wake = true;
        Ok(())
    }

    /// Wakes the workers that got something.
    pub(crate) fn wake(&mut self) {
        for link in self.links.iter_mut().flatten() {
            if std::mem::take(&mut link.is_to_wake)
                && let Some(bell) = &link.inlet.bell
            {
                bell.ring();
            }
        }
    }
}
