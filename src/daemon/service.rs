// SPDX-License-Identifier: MIT OR Apache-2.0
//! The service manager: told how far the daemon is, and asked for the sockets that it may hold.
//!
//! # Sources
//! `sd_notify(3)`, `sd_listen_fds(3)`.

use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Instant;

use crate::control::runtime_dir::{API_SOCKET, ATTACH_SOCKET};
use crate::sys::process;

/// The first descriptor that is passed.
const FIRST: i32 = 3;

/// The service manager, if there is one. It is connected to before the process is confined.
#[derive(Debug)]
pub(super) struct Service {
    manager: Option<UnixDatagram>,
    /// A moment, and its CLOCK_MONOTONIC in microseconds: the way to that clock is not open to a confined process.
    started: (Instant, u128),
}

impl Service {
    pub(super) fn new() -> Self {
        let path = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty());
        let connected = path.map(|path| {
            let address = match path.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
                _ => SocketAddr::from_pathname(&path),
            }?;
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        let connected = connected.transpose().unwrap_or_else(|error: io::Error| {
            tracing::warn!(%error, "cannot reach the service manager at $NOTIFY_SOCKET");
            None
        });
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let since_boot = std::time::Duration::try_from(now).unwrap_or_default();
        Self { manager: connected, started: (Instant::now(), since_boot.as_micros()) }
    }

    fn tell(&self, state: &str) {
        if let Some(socket) = &self.manager {
            // One that does not listen is none.
            let _ = socket.send(state.as_bytes());
        }
    }

    pub(super) fn ready(&self) {
        self.tell("READY=1");
    }

    pub(super) fn reloading(&self) {
        let (started, started_usec) = self.started;
        let now_usec = started_usec + started.elapsed().as_micros();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now_usec}"));
    }

    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
    }
}

/// The sockets of the API and for devices, if the service manager has passed both. To be asked before this process opens
/// anything.
pub(super) fn passed_sockets() -> io::Result<Option<(OwnedFd, OwnedFd)>> {
    let Some((api, attach)) = passed() else { return Ok(None) };
    for socket in [&api, &attach] {
        // Nobody in here may wait for a client.
        let flags = rustix::fs::fcntl_getfl(socket)?;
        rustix::fs::fcntl_setfl(socket, flags | rustix::fs::OFlags::NONBLOCK)?;
    }
    Ok(Some((api, attach)))
}

fn passed() -> Option<(OwnedFd, OwnedFd)> {
    let variable = |name| std::env::var(name).ok();
    if variable("LISTEN_PID")? != std::process::id().to_string() {
        return None;
    }
    let count: i32 = variable("LISTEN_FDS")?.parse().ok()?;
    let names = variable("LISTEN_FDNAMES")?;
    let position = |wanted: &str| {
        let at = names.split(':').position(|name| name == wanted)?;
        i32::try_from(at).ok().filter(|at| *at < count)
    };
    let (api, attach) = (position(API_SOCKET)?, position(ATTACH_SOCKET)?);
    Some((process::inherited(FIRST + api)?, process::inherited(FIRST + attach)?))
}
