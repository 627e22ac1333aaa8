// SPDX-License-Identifier: MIT OR Apache-2.0
//! Published ports, by the numbers that clients of the API socket know them by.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use wharf_stack::Config;
use wharf_stack::host::Transport;

use crate::dataplane::{Published, Running};
use crate::publish::Bound;

/// A port of the host that leads to one of the network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forward {
    pub(super) transport: Transport,
    pub(super) host: SocketAddr,
    pub(super) guest: SocketAddr,
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transport, host, guest } = self;
        write!(f, "{} port {host} to {guest}", name(*transport))
    }
}

/// The protocol's name, as clients write it.
pub(super) const fn name(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

/// Who makes a port lead somewhere.
pub(super) trait Publisher {
    /// Stands for a published port.
    type Published;

    /// Publishes a port.
    fn publish(&mut self, forward: &Forward) -> io::Result<Self::Published>;

    /// Makes a port of the host free again.
    fn withdraw(&mut self, published: Self::Published);
}

/// The gateway as a publisher.
#[derive(Debug)]
pub(super) struct Ports<'a> {
    pub(super) running: &'a Running,
    pub(super) config: Config,
    /// The address of the interface.
    pub(super) guest: IpAddr,
}

impl Publisher for Ports<'_> {
    type Published = Published;

    fn publish(&mut self, forward: &Forward) -> io::Result<Published> {
        let target = self.target(forward.guest)?;
        let bound = Bound::new(forward.transport, forward.host).map_err(io::Error::other)?;
        self.running.publish(bound.leading_to(target))
    }

    fn withdraw(&mut self, published: Published) {
        self.running.withdraw(published);
    }
}

impl Ports<'_> {
    /// The end that is meant: nothing of a namespace's loopback can be reached from outside it, but the interface can.
    fn target(&self, guest: SocketAddr) -> io::Result<SocketAddr> {
        if guest.ip().is_loopback() || guest.ip().is_unspecified() {
            return Ok(SocketAddr::new(self.guest, guest.port()));
        }
        if self.config.may_be_container(guest.ip()) {
            return Ok(guest);
        }
        Err(io::Error::other(format!("{} is no address for a container of this network", guest.ip())))
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
    published: T,
}

impl<P: Publisher> Forwards<P> {
    pub(super) fn new(publisher: P) -> Self {
        Self { publisher, last_id: 0, entries: Vec::new() }
    }

    /// Publishes a port under a number that none had before.
    pub(super) fn add(&mut self, forward: Forward) -> io::Result<u64> {
        let published = self.publisher.publish(&forward)?;
        self.last_id += 1;
        self.entries.push(Entry { id: self.last_id, forward, published });
        Ok(self.last_id)
    }

    /// What is published, with its numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Forward)> {
        self.entries.iter().map(|entry| (entry.id, &entry.forward))
    }

    /// Ends what has this number. Returns whether there was something.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        let Some(at) = self.entries.iter().position(|entry| entry.id == id) else { return false };
        let entry = self.entries.remove(at);
        self.publisher.withdraw(entry.published);
        true
    }
}
