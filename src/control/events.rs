// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens, told to whoever listens.
//!
//! # Bounds
//! [`BACKLOG`] events wait for a listener. One who is slower than that loses the oldest and is told how many.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;

use super::model::{Event, EventKind};

/// Events that wait for one listener.
pub const BACKLOG: usize = 1024;

/// Where events are told.
#[derive(Clone, Debug)]
pub struct Events(broadcast::Sender<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }
}

impl Events {
    /// Tells what happened to a network.
    pub fn tell(&self, network: &str, kind: EventKind) {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_millis = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        // Nobody may listen.
        let _ = self.0.send(Event { at_millis, network: network.to_owned(), kind });
    }

    /// Listens from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}
