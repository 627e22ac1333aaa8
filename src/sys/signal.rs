// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signals as events: block them all, read them from a descriptor, give the original mask back to a command.
#![allow(unsafe_code, reason = "signal masks and signalfd have no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Pid;

use super::check;

/// A set of blocked signals.
#[derive(Clone, Copy)]
pub struct Mask(libc::sigset_t);

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mask")
    }
}

fn all() -> libc::sigset_t {
    // SAFETY: sigset_t is plain data; sigfillset initialises it.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        set
    }
}

impl Mask {
    /// Blocks every signal that can be blocked and returns what was blocked before.
    #[must_use]
    pub fn block_all() -> Self {
        let all = all();
        // SAFETY: both sets are live; the call cannot fail with SIG_SETMASK.
        unsafe {
            let mut before = std::mem::zeroed();
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }

    /// Makes this the calling thread's mask.
    pub fn restore(&self) {
        // SAFETY: the set is live; the call cannot fail with SIG_SETMASK.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

/// Sets SIGCHLD to its default, so that children can be waited for even if our caller ignored it.
pub fn default_child_signal() {
    // SAFETY: SIG_DFL runs no code of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Sends a signal by number; real-time signals too.
///
/// # Errors
/// What `kill(2)` says.
pub fn send(pid: Pid, signal: i32) -> io::Result<()> {
    kill(pid.as_raw_pid(), signal)
}

/// Sends a signal to a process group.
///
/// # Errors
/// What `kill(2)` says; `ESRCH` when the group has no members.
pub fn send_to_group(group: Pid, signal: i32) -> io::Result<()> {
    kill(-group.as_raw_pid(), signal)
}

fn kill(target: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill touches no memory of ours.
    check(unsafe { libc::kill(target, signal) })
}

/// One signal, as it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The signal's number.
    pub signal: i32,
    /// A process sent it on purpose; otherwise the kernel did: the terminal, a child's end, a timer.
    pub from_process: bool,
}

/// A descriptor from which this process reads its blocked signals.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Listens to every signal. The caller has blocked them.
    ///
    /// # Errors
    /// What `signalfd(2)` says.
    pub fn new() -> io::Result<Self> {
        let all = all();
        // SAFETY: the set is live; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const all, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and ours.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal, if one is waiting.
    #[must_use]
    pub fn next(&self) -> Option<Received> {
        // SAFETY: signalfd_siginfo is plain data.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        let len = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is live and as long as stated.
        let got = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), len) };
        if usize::try_from(got) != Ok(len) {
            return None;
        }
        let signal = i32::try_from(info.ssi_signo).ok()?;
        Some(Received { signal, from_process: info.ssi_code <= 0 })
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
