// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whose a namespace is.
//!
//! # Sources
//! `ioctl_ns(2)`.
#![allow(unsafe_code, reason = "namespaces are asked by ioctl")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// The user namespace that owns this one.
///
/// # Errors
/// `EPERM` when it is none of ours, or of our namespaces' descendants.
pub fn owner(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: NS_GET_USERNS has no argument.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_USERNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The user who made a user namespace, as numbered in ours.
///
/// # Errors
/// What the kernel says.
pub fn owner_uid(user_namespace: BorrowedFd<'_>) -> io::Result<u32> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: NS_GET_OWNER_UID writes one uid_t, which is live.
    let rc = unsafe { libc::ioctl(user_namespace.as_raw_fd(), libc::NS_GET_OWNER_UID, &raw mut uid) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(uid) }
}
