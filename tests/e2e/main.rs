// SPDX-License-Identifier: MIT OR Apache-2.0
//! End to end: real namespaces, the kernel's own stack, and clients that nobody here wrote.
//!
//! Each test has namespaces of its own, and wharf runs as an ordinary user in them. They need root to make these, and
//! the programs that `.ci/setup` installs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod addresses;
mod daemon;
mod endings;
mod host_sockets;
mod lab;
mod loss;
mod names;
mod path_mtu;
mod proxy_protocol;
mod published;
mod published_udp;
#[path = "../scratch/mod.rs"]
mod scratch;
mod slirp4netns;
mod sockets;
mod streams;
mod surface;
mod tools;
mod user_mode_linux;
