// SPDX-License-Identifier: MIT OR Apache-2.0
//! What other threads want of a worker: orders, which it obeys between two turns.
//!
//! # How it works
//! An order goes into a channel, and the worker's bell is rung, an eventfd that its epoll watches. Who wants to know the
//! outcome waits for it: the worker never waits for anybody.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::event::epoll::EventFlags;
use rustix::event::{EventfdFlags, eventfd};

use super::driver::Driver;
use super::lost;

/// Something to be done by a worker.
pub(super) type Order = Box<dyn FnOnce(&mut Driver) + Send>;

/// Where the orders for one worker are put.
#[derive(Debug)]
pub(super) struct Mailbox {
    orders: Sender<Order>,
    bell: Arc<Bell>,
}

impl Mailbox {
    /// The mailbox of the worker that hears `bell`, and the worker's end of it.
    pub(super) fn new(bell: Arc<Bell>) -> (Self, Receiver<Order>) {
        let (orders, inbox) = channel();
        (Self { orders, bell }, inbox)
    }

    pub(super) fn send(&self, order: Order) {
        // A worker that is gone needs no orders.
        if self.orders.send(order).is_ok() {
            self.bell.ring();
        }
    }

    /// Sends an order and waits for its outcome, a turn of the worker at most.
    ///
    /// # Errors
    /// The worker is gone.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        order: impl FnOnce(&mut Driver) -> T + Send + 'static,
    ) -> io::Result<T> {
        let (reply, outcome) = channel();
        self.send(Box::new(move |driver| {
            // Else nobody waits for it any more.
            let _ = reply.send(order(driver));
        }));
        outcome.recv().map_err(|_| lost())
    }
}

/// Wakes a worker.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Bell {
    /// What a worker that waits for it is woken for.
    pub(super) const EVENTS: EventFlags = EventFlags::IN.union(EventFlags::ET);

    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(super) fn ring(&self) {
        // It can only fail when the count is at its maximum, and then the worker is awake.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Heard.
    pub(super) fn silence(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
