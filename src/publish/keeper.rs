// SPDX-License-Identifier: MIT OR Apache-2.0
//! The name of a published unix socket in the file system, which goes when the publication does.
//!
//! # How it works
//! A confined gateway removes no files, and one that is killed does nothing at all. So whoever makes a socket leaves a
//! *keeper* behind: a process that waits until the other end of its *leash* is closed, then removes the name if it is that
//! of the same socket still, and ends. The leash goes where the socket goes: to a daemon through its attach socket.
//!
//! Nobody else takes the name as long as a socket listens there, so one descriptor of it stays open until the name is gone.
//!
//! A keeper is there for the end of others, so signals do not end it: who stops a service, or closes a terminal, sends them
//! to all of its processes at once, and one that went first would leave the name behind, or take it from a gateway that still
//! serves. It ends by itself as soon as its gateway has.
//!
//! # Bounds
//! A process per socket, of the caller's user and in a session of its own, with nothing open but its end of the leash. Here, two
//! descriptors.

use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, Shutdown, SocketFlags, SocketType, recv, shutdown, socketpair};
use rustix::process::{Pid, WaitOptions, chdir, setsid, waitpid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::thread::set_name;

use crate::sys::process::{Cloned, close_all_except, exit_now, fork};
use crate::sys::signal::{Mask, default_child_signal};

/// How long the ends of keepers are waited for: somebody may have stopped them.
const REMOVAL_TIME: Duration = Duration::from_secs(1);

/// The name of a socket that listens.
#[derive(Debug)]
pub struct SocketFile {
    /// The keeper's. When the last descriptor of it is closed, the name goes.
    leash: OwnedFd,
    listener: OwnedFd,
}

impl SocketFile {
    /// Sees to it that the name at `path` of a socket that listens goes. The process must have one thread.
    pub(super) fn keep(path: &Path, listener: impl AsFd) -> io::Result<Self> {
        let socket = Identity::of(&fs::symlink_metadata(path)?);
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        default_child_signal();
        match fork()? {
            Cloned::Parent(child) => started(child).and_then(|()| Self::held_by(ours, listener)),
            // Who ends first leaves the keeper to the system: nobody here has to reap it.
            Cloned::Child => match fork() {
                Ok(Cloned::Child) => stay(path, &socket, &theirs),
                other => exit_now(i32::from(other.is_err())),
            },
        }
    }

    /// The same by a keeper that another process has left behind.
    pub(super) fn held_by(leash: OwnedFd, listener: impl AsFd) -> io::Result<Self> {
        Ok(Self { leash, listener: listener.as_fd().try_clone_to_owned()? })
    }

    /// Has the name removed.
    pub fn let_go(self) -> Leaving {
        let _ = shutdown(&self.leash, Shutdown::Write);
        Leaving(self)
    }

    /// The keeper's leash.
    pub(super) fn leash(&self) -> BorrowedFd<'_> {
        self.leash.as_fd()
    }
}

/// A name that its keeper is about to remove.
#[derive(Debug)]
#[must_use]
pub struct Leaving(SocketFile);

/// Waits until the names are gone, but for those of keepers that somebody has stopped. Nobody who holds a lock should.
pub fn wait_for_all(leaving: impl IntoIterator<Item = Leaving>) {
    let end = Instant::now() + REMOVAL_TIME;
    for Leaving(SocketFile { leash, listener }) in leaving {
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).unwrap_or_default();
        // The keeper ends when it has done its work.
        let _ = poll(&mut [PollFd::new(&leash, PollFlags::IN)], Some(&left));
        drop(listener);
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn keepers_are_let_go_of_together_and_one_that_is_stopped_is_not_waited_for_long() {
        let scratch = Scratch::new();
        let listener = UnixListener::bind(scratch.join("socket")).unwrap();
        let (leashes, keepers): (Vec<_>, Vec<_>) =
            [(); 3].map(|()| UnixStream::pair().unwrap()).into_iter().unzip();
        let leaving: Vec<_> = leashes
            .into_iter()
            .map(|leash| SocketFile::held_by(leash.into(), &listener).unwrap().let_go())
            .collect();
        for keeper in &keepers {
            assert_eq!(recv(keeper, &mut [0; 1], RecvFlags::DONTWAIT).unwrap().0, 0, "the end");
        }
        drop(listener);
        UnixStream::connect(scratch.join("socket")).expect("it listens until the names are gone");
        wait_for_all(leaving);
        UnixStream::connect(scratch.join("socket")).unwrap_err();
    }
}
