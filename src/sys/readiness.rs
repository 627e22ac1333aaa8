// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptors that tasks of the control plane wait for.
#![allow(unsafe_code, reason = "tokio cannot know that a descriptor stays what it is")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Lets tasks wait until a descriptor can be used.
///
/// # Errors
/// It is of a kind that cannot be waited for.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and the same until it is dropped, and the AsyncFd owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
