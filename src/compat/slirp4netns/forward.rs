// SPDX-License-Identifier: MIT OR Apache-2.0
//! Published ports, by the numbers that clients of the API socket know them by.

use std::io;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The protocol of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

/// A port of the host that leads to one of the network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forward {
    pub(super) protocol: Protocol,
    pub(super) host: SocketAddr,
    pub(super) guest: SocketAddr,
}

/// Who makes a port lead somewhere.
pub(super) trait Publisher {
    /// A port is published as long as this lives.
    type Published;

    /// Publishes a port.
    fn publish(&mut self, forward: &Forward) -> io::Result<Self::Published>;
}

/// The gateway has no ports that are published while it runs: whoever asks for one is told so.
#[derive(Debug)]
pub(super) struct NoPublisher;

impl Publisher for NoPublisher {
    type Published = std::convert::Infallible;

    fn publish(&mut self, _: &Forward) -> io::Result<Self::Published> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The ports that are published now, in the order of their numbers.
pub(super) struct Forwards<P: Publisher> {
    publisher: P,
    last_id: u64,
    entries: Vec<Entry<P::Published>>,
}

struct Entry<T> {
    id: u64,
    forward: Forward,
    /// Ends with the entry.
    _published: T,
}

impl<P: Publisher> Forwards<P> {
    pub(super) fn new(publisher: P) -> Self {
        Self { publisher, last_id: 0, entries: Vec::new() }
    }

    /// Publishes a port under a number that none had before.
    pub(super) fn add(&mut self, forward: Forward) -> io::Result<u64> {
        let published = self.publisher.publish(&forward)?;
        self.last_id += 1;
        self.entries.push(Entry { id: self.last_id, forward, _published: published });
        Ok(self.last_id)
    }

    /// What is published, with its numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Forward)> {
        self.entries.iter().map(|entry| (entry.id, &entry.forward))
    }

    /// Ends what has this number. Returns whether there was something.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        let Some(at) = self.entries.iter().position(|entry| entry.id == id) else { return false };
        self.entries.remove(at);
        true
    }
}
