// SPDX-License-Identifier: MIT OR Apache-2.0
//! The workers between a network's ports and its gateway.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// What a worker does when it has run out of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PollMode {
    /// Spins shortly after work, then sleeps.
    #[default]
    Adaptive,
    /// Never sleeps.
    Busy,
    /// Sleeps at once.
    Sleep,
}

/// How the data plane runs.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Threads; one queue of every port each.
    pub workers: usize,
    /// What an idle worker does.
    pub poll: PollMode,
}

/// A running data plane. It holds its ports open.
#[derive(Debug)]
pub struct Running {
    _taps: Vec<OwnedFd>,
}

/// Starts the workers of one network on the queues of one container's port.
///
/// # Errors
/// A thread or a descriptor could not be made.
pub fn start(config: wharf_stack::Config, taps: Vec<OwnedFd>, options: &Options) -> std::io::Result<Running> {
    tracing::debug!(?config, ?options, "data plane placeholder");
    Ok(Running { _taps: taps })
}

impl Running {
    /// Replaces the nameservers that the gateway asks.
    pub fn set_nameservers(&self, servers: Vec<SocketAddr>) {
        tracing::debug!(?servers, "new nameservers");
    }

    /// Stops the workers and closes the ports.
    pub fn stop(self) {}
}
