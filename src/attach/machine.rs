// SPDX-License-Identifier: MIT OR Apache-2.0
//! A virtual machine, which connects to a socket and sends and receives frames there: `-netdev stream` of QEMU.
//!
//! # How it works
//! The machine is told its MAC address by whoever starts it, and asks for its addresses by DHCP and Router Advertisements
//! like any other. So the daemon is asked for them first, then the machine is waited for, and its connection is handed
//! over. It is detached when it hangs up.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SocketFlags, SocketType, accept_with};

use super::{Client, Done, Error, Handed, Life, Options, PortKind, has_no_view, request};
use crate::control::network::Offer;
use crate::sys::signal::{Mask, SignalFd};
use crate::unix;

pub(super) fn attach(options: &Options, path: &Path, waiting: impl FnOnce(&Offer)) -> Result<Done, Error> {
    let (client, offer) =
        Client::ask(&options.socket, request(options, format!("socket {}", path.display())))?;
    has_no_view(&offer)?;
    let listening = |source| Error::Listening { path: path.to_owned(), source };
    // Before the socket has a name, which a signal must not leave behind.
    let before = Mask::block_all();
    let signals = SignalFd::new().map_err(listening)?;
    let listener = Listener::new(path).map_err(listening)?;
    waiting(&offer);
    let machine = listener.wait(&client, &signals)?;
    drop(listener);
    before.restore();
    let handed = Handed {
        kind: PortKind::Stream,
        uso: false,
        vnet_header: false,
        is_borrowed: false,
        interface: None,
        life: Life::Device,
        has_view: false,
    };
    let port = client.hand_over(handed, &[machine], None)?;
    Ok(Done { port, offer, warnings: Vec::new() })
}

/// A socket with a name, which goes when this is dropped.
#[derive(Debug)]
struct Listener {
    socket: OwnedFd,
    path: PathBuf,
}

impl Listener {
    fn new(path: &Path) -> io::Result<Self> {
        // One machine is let in.
        let socket = unix::listen_anew(path, SocketType::STREAM, 0)?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// Waits for the machine, as long as there is a daemon and nobody wants it to end.
    fn wait(&self, client: &Client, signals: &SignalFd) -> Result<OwnedFd, Error> {
        loop {
            let mut fds = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::from_borrowed_fd(client.connection(), PollFlags::IN),
                PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
            ];
            let _ = poll(&mut fds, None);
            let [comes, daemon, _] = fds.map(|fd| !fd.revents().is_empty());
            while let Some(received) = signals.next() {
                if matches!(received.signal, libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT) {
                    return Err(Error::Interrupted(received.signal));
                }
            }
            if daemon {
                // It has nothing to say before it is asked.
                return Err(Error::Daemon(io::Error::other("it closed the connection")));
            }
            if comes
                && let Ok(machine) = accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
            {
                return Ok(machine);
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
