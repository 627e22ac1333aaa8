// SPDX-License-Identifier: MIT OR Apache-2.0
//! The service manager: told how far the daemon is, and asked for the sockets that it may hold.
//!
//! # Sources
//! `sd_notify(3)`, `sd_listen_fds(3)`.

use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::control::runtime_dir::{API_SOCKET, ATTACH_SOCKET};
use crate::sys::process;

/// The first descriptor that is passed.
const FIRST: i32 = 3;

/// The service manager, if there is one. It is connected to before the process is confined.
#[derive(Debug)]
pub(super) struct Service(Option<UnixDatagram>);

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
        let connected = connected.transpose().unwrap_or_else(|error: std::io::Error| {
            tracing::warn!(%error, "cannot reach the service manager at $NOTIFY_SOCKET");
            None
        });
        Self(connected)
    }

    fn tell(&self, state: &str) {
        if let Some(socket) = &self.0 {
            // One that does not listen is none.
            let _ = socket.send(state.as_bytes());
        }
    }

    pub(super) fn ready(&self) {
        self.tell("READY=1");
    }

    pub(super) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
    }
}

/// The sockets of the API and for devices, if the service manager has passed both. To be asked before this process opens
/// anything.
pub(super) fn passed_sockets() -> Option<(OwnedFd, OwnedFd)> {
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
