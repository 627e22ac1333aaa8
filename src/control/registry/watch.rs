// SPDX-License-Identifier: MIT OR Apache-2.0
//! A look at what containers listen on, once a second, for those whose ports are published by themselves.
//!
//! # Bounds
//! While there is no such container the thread sleeps and is never woken.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use super::{Inner, Registry};
use crate::control::model::{EventKind, Transport};
use crate::control::network::{Changes, Heard, Network, Refused, Watched};
use crate::control::spec::Name;

/// The time between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// The thread that looks. It ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts to look on behalf of a registry, which has not more than one.
    ///
    /// # Errors
    /// There cannot be another thread.
    pub fn start(registry: &Arc<Registry>) -> io::Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let (registry, ending) = (Arc::clone(registry), Arc::clone(&ends));
        let look = move || {
            // Set before the first look: whoever is attached after that wakes us.
            let _ = registry.watch.set(thread::current());
            while !ending.load(Ordering::Acquire) {
                if registry.look() { thread::park_timeout(PERIOD) } else { thread::park() }
            }
        };
        let thread = thread::Builder::new().name("wharf-watch".to_owned()).spawn(look)?;
        Ok(Self { ends, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Registry {
    /// Has somebody look at once.
    pub(super) fn wake_watch(&self) {
        self.watch.get().map(Thread::unpark);
    }

    /// Looks what containers listen on. False when there is none whose ports are published by themselves.
    fn look(&self) -> bool {
        let watched = self.watched();
        for (network, watched) in &watched {
            match hear(watched) {
                Ok(heard) => self.follow(network, watched, &heard),
                Err(error) => tracing::debug!(%error, "cannot see what a container listens on"),
            }
        }
        !watched.is_empty()
    }

    fn watched(&self) -> Vec<(Name, Watched)> {
        let of = |(name, network): (&Name, &Network)| {
            network.watched().into_iter().map(|watched| (name.clone(), watched)).collect::<Vec<_>>()
        };
        self.lock().networks.iter().flat_map(of).collect()
    }

    fn follow(&self, name: &Name, watched: &Watched, heard: &Heard) {
        let mut inner = self.lock();
        let Inner { networks, next_id, .. } = &mut *inner;
        let Some(network) = networks.get_mut(name) else { return };
        let Changes { published, unpublished, refused } = network.follow(watched.id, heard, next_id);
        let kinds = unpublished.into_iter().map(EventKind::Unpublish);
        let kinds = kinds.chain(published.into_iter().map(EventKind::Publish));
        kinds.for_each(|kind| self.events.tell(name.as_str(), kind));
        for refused in refused {
            self.tell_refused(&inner, name, refused);
        }
    }

    fn tell_refused(&self, inner: &Inner, network: &Name, Refused { name, request, error }: Refused) {
        let reason = inner.naming_publication(error, std::slice::from_ref(&request)).to_string();
        tracing::warn!("network {network}: {name} listens on port {}: {reason}", request.first);
        let (name, transport, port) = (name.to_string(), request.transport.into(), request.first);
        let kind = EventKind::PublishFailed { name, transport, port, reason };
        self.events.tell(network.as_str(), kind);
    }
}

/// What a container listens on. It takes the kernel some time, and nobody is to wait for that.
fn hear(watched: &Watched) -> io::Result<Heard> {
    let of = |&transport: &Transport| Ok((transport, watched.view.listening(transport.into())?));
    watched.transports.iter().map(of).collect()
}
