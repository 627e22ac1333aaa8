// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only place with `unsafe`: thin, safe wrappers of the system calls that no crate we use offers.

pub mod ethtool;
pub mod namespace;
pub mod packet;
pub mod process;
pub mod random;
pub mod readiness;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod tun;
