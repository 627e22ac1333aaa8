// SPDX-License-Identifier: MIT OR Apache-2.0
//! The front end that stands in for slirp4netns, as a process: what its callers pass, read and expect.
//!
//! Where it can be said by both, the real slirp4netns is asked the same. The tests run as an ordinary user: where they are
//! started by root, they become `nobody` first.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod api;
#[path = "../process/caller.rs"]
#[allow(dead_code, reason = "shared with the tests of `run`")]
mod caller;
mod command_line;
mod confinement;
mod forwards;
mod gateway;
mod interface;
mod life;
#[path = "../scratch/mod.rs"]
mod scratch;
