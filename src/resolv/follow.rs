// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's nameservers, followed while its resolv.conf changes.

use std::net::SocketAddr;
use std::path::Path;

use super::watch::Watch;
use super::{PATH, ResolvConf};

/// The host's resolv.conf as last read, and what tells of a change.
#[derive(Debug)]
pub struct Follower {
    /// Without inotify the nameservers stay those of the start.
    watch: Option<Watch>,
    nameservers: Option<Vec<SocketAddr>>,
}

impl Follower {
    /// Watches the file. `nameservers` are those that it named, if they are of interest.
    #[must_use]
    pub fn new(nameservers: Option<Vec<SocketAddr>>) -> Self {
        let watch = Watch::new(Path::new(PATH));
        let watch = watch.map_err(|error| tracing::warn!(%error, "cannot follow {PATH}")).ok();
        Self { watch, nameservers }
    }

    /// What becomes readable when something may have changed.
    #[must_use]
    pub fn watch(&self) -> Option<&Watch> {
        self.watch.as_ref()
    }

    /// Takes what the watch has to say; true when the file may be another one now.
    pub fn changed(&mut self) -> bool {
        match self.watch.as_mut().map(Watch::changed) {
            None => false,
            Some(Ok(changed)) => changed,
            Some(Err(error)) => {
                tracing::warn!(%error, "no longer following {PATH}");
                self.watch = None;
                false
            }
        }
    }

    /// The nameservers of the file as it is now, if they are others than before. A file that is missing or names none, as
    /// in the middle of a replacement, changes nothing.
    pub fn news(&mut self) -> Option<Vec<SocketAddr>> {
        let before = self.nameservers.as_mut()?;
        let now = match ResolvConf::read(Path::new(PATH)) {
            Ok(host) => host.nameservers,
            Err(error) => {
                // Without any it was said at the start.
                if !before.is_empty() {
                    tracing::warn!(%error, "cannot read {PATH} any more: its nameservers stay; start anew to follow it");
                }
                return None;
            }
        };
        if now.is_empty() || now == *before {
            return None;
        }
        tracing::info!(servers = ?now, "the host's nameservers changed");
        before.clone_from(&now);
        Some(now)
    }

    /// Stops watching. Closing waits for the kernel to forget the watches, some 10 ms: not in the calling thread.
    pub fn end(self) {
        if let Some(watch) = self.watch {
            std::thread::spawn(|| drop(watch));
        }
    }
}
