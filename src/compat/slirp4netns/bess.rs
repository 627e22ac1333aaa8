// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--target-type=bess`: instead of a namespace a program that connects to a socket and sends frames as messages, as
//! user-mode Linux does with `vec0:transport=bess,dst=PATH`.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::FileType;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};

use super::args::Inherited;
use super::{Failed as _, Failure, say};

/// Waits at `path` for the one program that connects. `None` when the caller is gone before.
pub(super) fn accept(path: &Path, exit: Option<&Inherited>) -> Result<Option<OwnedFd>, Failure> {
    let exit = match exit {
        Some(Inherited::Closed) => return Ok(None),
        Some(Inherited::Open(exit)) => Some(exit),
        None => None,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).failed("socket")?;
    remove(path);
    let here = path.display().to_string();
    bind(&listener, &SocketAddrUnix::new(path).failed(&here)?).failed(&here)?;
    listen(&listener, 0).failed("listen")?;
    say(&format_args!("Waiting for connection to {here}"));
    let guest = wait(&listener, exit).then(|| accept_with(&listener, flags).failed("accept"));
    // Nobody else will be let in.
    remove(path);
    guest.transpose()
}

/// Waits for a connection. Returns whether there is one; else the other end of `exit` is closed.
fn wait(listener: &OwnedFd, exit: Option<&OwnedFd>) -> bool {
    let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
    fds.extend(exit.map(|exit| PollFd::new(exit, PollFlags::empty())));
    let _ = rustix::io::retry_on_intr(|| poll(&mut fds, None));
    fds.get(1).is_none_or(|exit| exit.revents().is_empty())
}

/// Removes a socket; what else has that name stays, and is in the way of the new one.
fn remove(path: &Path) {
    let is_socket = rustix::fs::lstat(path)
        .is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Socket);
    if is_socket {
        let _ = rustix::fs::unlink(path);
    }
}
