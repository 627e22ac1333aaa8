// SPDX-License-Identifier: MIT OR Apache-2.0
//! What other threads want of a worker: orders, which it obeys between two turns.
//!
//! # How it works
//! An order goes into a channel, and the worker's bell is rung, an eventfd that its epoll watches. Who wants to know the
//! outcome waits for it: the worker never waits for anybody.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::driver::Driver;
use super::lost;
use crate::bell::Bell;

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
