// SPDX-License-Identifier: MIT OR Apache-2.0
//! Leaves a TAP that outlives this process without offloads, also when a signal ends the process.
//!
//! # How it works
//! A handler clears the offloads and raises the signal again, whose default action then ends the process as if there were
//! no handler. It runs whatever the threads are waiting for, and makes but two calls, both async-signal-safe
//! (signal-safety(7)).
//!
//! # Bounds
//! One TAP for each process. What ends a process without a word, such as SIGKILL, leaves the TAP as it is.
#![allow(unsafe_code, reason = "signal handlers have no safe wrapper")]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use super::{check, tun};

/// The signals that callers end a program with.
const ENDING: [libc::c_int; 3] = [libc::SIGHUP, libc::SIGINT, libc::SIGTERM];

/// Never closed, as a handler may use it at any time.
static QUEUE: OnceLock<OwnedFd> = OnceLock::new();

/// Clears the TAP's offloads when it is dropped.
#[derive(Debug)]
pub struct OffloadReset(());

impl OffloadReset {
    /// Clears the offloads of the TAP that `queue` belongs to at the end. Signals that are ignored stay ignored.
    ///
    /// # Errors
    /// `EBUSY` when there is a TAP already, or what `sigaction(2)` says.
    pub fn new(queue: OwnedFd) -> io::Result<Self> {
        QUEUE.set(queue).map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))?;
        let reset = Self(());
        ENDING.into_iter().try_for_each(handle)?;
        Ok(reset)
    }
}

impl Drop for OffloadReset {
    fn drop(&mut self) {
        clear();
    }
}

fn clear() {
    // The device may be gone by now.
    let _ = QUEUE.get().map(tun::clear_offloads);
}

extern "C" fn clear_and_end(signal: libc::c_int) {
    clear();
    // SAFETY: raise touches no memory of ours. The signal is blocked until this handler returns (SA_NODEFER is not set), and
    // has its default action by then (SA_RESETHAND).
    unsafe { libc::raise(signal) };
}

fn handle(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: sigaction is plain data; all zero it is the default action, which blocks nothing more.
    let [mut before, mut action]: [libc::sigaction; 2] = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is live.
    check(unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut before) })?;
    if before.sa_sigaction == libc::SIG_IGN {
        return Ok(());
    }
    let handler: extern "C" fn(libc::c_int) = clear_and_end;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_RESETHAND;
    // SAFETY: the structure is live, and the handler is async-signal-safe.
    check(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) })
}
