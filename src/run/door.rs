// SPDX-License-Identifier: MIT OR Apache-2.0
//! The API's socket of one sandbox, at `run-PID/api.sock` beside the daemon's.
//!
//! # How it works
//! Most sandboxes are never looked at: there is no thread for the API before its first client. The directory is locked as
//! long as its process lives, so the next one clears away what those left behind that were killed.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FlockOperation, flock, unlinkat};

use crate::control::api::{self, Ending};
use crate::control::registry::Registry;
use crate::control::runtime_dir::{self, API_SOCKET, runtime_dir};

/// The door, closed until somebody knocks.
#[derive(Debug)]
pub(super) struct Door {
    runtime: File,
    name: String,
    directory: File,
    listener: Option<UnixListener>,
}

impl Door {
    /// Makes the socket. Nobody must be able to look at a sandbox: where there is no directory for it, there is none.
    pub(super) fn open() -> Option<Self> {
        let made = make(&runtime_dir());
        made.map_err(|error| tracing::debug!(%error, "this sandbox cannot be looked at")).ok()
    }

    /// The directory in which it may remove what it has made.
    pub(super) fn runtime(&self) -> BorrowedFd<'_> {
        self.runtime.as_fd()
    }

    /// What becomes readable when the first client comes.
    pub(super) fn listener(&self) -> Option<&UnixListener> {
        self.listener.as_ref()
    }

    /// Serves clients from now on.
    pub(super) fn answer(&mut self, registry: &Arc<Registry>) {
        let Some(listener) = self.listener.take() else { return };
        let registry = Arc::clone(registry);
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                api::serve(listener, registry, Ending::default()).await;
                Ok(())
            })
        };
        let served = std::thread::Builder::new().name("wharf-api".to_owned()).spawn(move || {
            let ended: io::Result<()> = serve();
            ended.map_err(|error| tracing::warn!(%error, "this sandbox cannot be looked at any more"))
        });
        if let Err(error) = served {
            tracing::warn!(%error, "this sandbox cannot be looked at");
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = unlinkat(&self.directory, API_SOCKET, AtFlags::empty());
        let _ = unlinkat(&self.runtime, self.name.as_str(), AtFlags::REMOVEDIR);
    }
}

fn make(runtime: &Path) -> io::Result<Door> {
    runtime_dir::make(runtime)?;
    clear(runtime);
    let path = runtime_dir::of_run(std::process::id());
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    fs::DirBuilder::new().mode(0o700).create(&path)?;
    let directory = File::open(&path)?;
    flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    let listener = UnixListener::bind(path.join(API_SOCKET))?;
    listener.set_nonblocking(true)?;
    Ok(Door { runtime: File::open(runtime)?, name, directory, listener: Some(listener) })
}

/// Removes the directories of sandboxes that are gone.
fn clear(runtime: &Path) {
    for pid in runtime_dir::runs_in(runtime) {
        let path = runtime_dir::of_run_in(runtime, pid);
        let Ok(directory) = File::open(&path) else { continue };
        if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Another may be clearing it too.
            let _ = fs::remove_file(path.join(API_SOCKET));
            let _ = fs::remove_dir(path);
        }
    }
}
