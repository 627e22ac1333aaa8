// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time that goes on while the machine sleeps.

#![allow(unsafe_code, reason = "a safe wrapper that asks the kernel's own page would first have to find it")]

use std::io;
use std::time::Duration;

/// The time since the machine was booted, sleep included (`CLOCK_BOOTTIME`, Linux 2.6.39), which costs no system call.
///
/// # Errors
/// What the kernel said.
pub fn since_boot() -> io::Result<Duration> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` lives across the call.
    if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0)))
}
