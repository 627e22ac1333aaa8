// SPDX-License-Identifier: MIT OR Apache-2.0
//! The terminal's foreground: given back at the end, and to the right group after a stop.
//!
//! # How it works
//! The command starts in wharf's own process group, so that the terminal's signals and a shell's job control reach
//! it as if wharf were not there, also in a pipeline. An interactive shell inside makes a group of its own and the
//! foreground, but cannot give it back: wharf's group has no number in its PID namespace.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::Pid;
use rustix::termios::{tcgetpgrp, tcsetpgrp};

use crate::sys::process::process_group;
use crate::sys::signal;

/// The controlling terminal, if there is one. All signals of this process are blocked, SIGTTOU among them.
#[derive(Debug)]
pub(super) struct Terminal {
    tty: Option<OwnedFd>,
    /// wharf's own process group; `None` in a PID namespace that does not know it.
    own: Option<Pid>,
    /// The sandbox's group that had the foreground when the command stopped.
    stopped: Option<Pid>,
}

impl Terminal {
    pub(super) fn open() -> Self {
        let tty = File::options().read(true).write(true).open("/dev/tty").ok().map(OwnedFd::from);
        Self { tty, own: process_group(None), stopped: None }
    }

    fn foreground(&self) -> Option<Pid> {
        self.tty.as_ref().and_then(|tty| tcgetpgrp(tty).ok())
    }

    fn give(&self, group: Pid) {
        if let Some(tty) = &self.tty {
            // Fails when the terminal is gone, and then nobody misses it.
            let _ = tcsetpgrp(tty.as_fd(), group);
        }
    }

    /// The command stopped, and so will wharf: remembers which group of the sandbox had the foreground.
    /// Init tells whether one has it.
    pub(super) fn before_stop(&mut self, in_foreground: bool) {
        self.stopped = self.foreground().filter(|_| in_foreground);
    }

    /// wharf was continued: if the shell gave us the foreground, it goes back to the group that had it.
    pub(super) fn after_stop(&mut self) {
        let Some(group) = self.stopped.take() else { return };
        if self.own.is_some() && self.foreground() == self.own && signal::send_to_group(group, 0).is_ok() {
            self.give(group);
        }
    }

    /// The sandbox is gone: takes the foreground if it was left with a group that is no more.
    pub(super) fn restore(&self) {
        if let Some(own) = self.own
            && self.foreground().is_some_and(|group| group != own && is_dead(group))
        {
            self.give(own);
        }
    }
}

/// Whether the foreground is a process group of the caller's PID namespace; others have no number in it.
pub(super) fn foreground_is_ours() -> bool {
    let tty = File::open("/dev/tty");
    tty.is_ok_and(|tty| tcgetpgrp(tty.as_fd()).is_ok())
}

fn is_dead(group: Pid) -> bool {
    signal::send_to_group(group, 0).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
}
