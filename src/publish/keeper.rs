// SPDX-License-Identifier: MIT OR Apache-2.0
//! The name of a published unix socket in the file system, which goes when the publication does.
//!
//! # How it works
//! A confined gateway removes no files, and one that is killed does nothing at all. So whoever makes a socket leaves a
//! *keeper* behind: a process that waits until the other end of its *leash* is closed, then removes the name if it is that
//! of the same socket still, and ends. The leash goes where the socket goes: to a daemon through its attach socket.
//!
//! # Bounds
//! A process per socket, of the caller's user and in a session of its own, with nothing open but its end of the leash.

use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, Shutdown, SocketFlags, SocketType, recv, shutdown, socketpair};
use rustix::process::{Pid, WaitOptions, chdir, setsid, waitpid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::thread::set_name;

use crate::sys::process::{Cloned, close_all_except, exit_now, fork};
use crate::sys::signal::{Mask, default_child_signal};

/// How long the end of a keeper is waited for: somebody may have stopped it.
const REMOVAL_TIME: Duration = Duration::from_secs(1);

/// The leash of a keeper. When the last descriptor of it is closed, the name goes.
#[derive(Debug)]
pub struct SocketFile(OwnedFd);

impl SocketFile {
    /// Sees to it that the socket's name at `path` goes. The process must have one thread.
    pub(super) fn keep(path: &Path) -> io::Result<Self> {
        let socket = Identity::of(&fs::symlink_metadata(path)?);
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        default_child_signal();
        match fork()? {
            Cloned::Parent(child) => started(child).and_then(|()| Self::held_by(ours)),
            // Who ends first leaves the keeper to the system: nobody here has to reap it.
            Cloned::Child => match fork() {
                Ok(Cloned::Child) => stay(path, &socket, &theirs),
                other => exit_now(i32::from(other.is_err())),
            },
        }
    }

    /// A keeper that another process has left behind.
    pub(super) fn held_by(leash: OwnedFd) -> io::Result<Self> {
        set_socket_timeout(&leash, Timeout::Recv, Some(REMOVAL_TIME))?;
        Ok(Self(leash))
    }

    /// Removes the name. When this returns, it is gone.
    pub fn remove(self) {
        let _ = shutdown(&self.0, Shutdown::Write);
        // The keeper ends when it has done its work.
        let _ = recv(&self.0, &mut [0; 1], RecvFlags::empty());
    }
}

impl AsFd for SocketFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What tells a file from another that has its name later, and perhaps its inode.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    made_at: Option<SystemTime>,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), made_at: metadata.created().ok() }
    }
}

/// Waits for the process between the caller and the keeper.
fn started(child: Pid) -> io::Result<()> {
    let ended = rustix::io::retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()))?;
    match ended.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(()),
        _ => Err(io::Error::other("no process can be started that would remove it")),
    }
}

/// The keeper's whole life.
fn stay(path: &Path, socket: &Identity, leash: &OwnedFd) -> ! {
    // Neither the terminal nor who stops a service ends it before its time.
    let _ = Mask::block_all();
    let _ = set_name(c"wharf-keeper");
    let _ = setsid();
    let _ = chdir("/");
    close_all_except(leash.as_raw_fd());
    // Whoever reads what our caller writes waits for the caller only.
    if let Ok(nothing) = fs::File::options().read(true).write(true).open("/dev/null") {
        let _ = (dup2_stdin(&nothing), dup2_stdout(&nothing), dup2_stderr(&nothing));
    }
    // There is nothing to be received but the end.
    while recv(leash, &mut [0; 1], RecvFlags::empty()) == Err(rustix::io::Errno::INTR) {}
    if fs::symlink_metadata(path).is_ok_and(|metadata| Identity::of(&metadata) == *socket) {
        let _ = fs::remove_file(path);
    }
    exit_now(0)
}
