// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only place with `unsafe`: thin, safe wrappers of the system calls that no crate we use offers.

pub mod clock;
pub mod ethtool;
pub mod memory;
pub mod namespace;
pub mod offload_reset;
pub mod packet;
pub mod process;
pub mod random;
pub mod readiness;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod tun;

/// What a system call of the C library has said.
fn check(rc: libc::c_int) -> std::io::Result<()> {
    if rc < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
