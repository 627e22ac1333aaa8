// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `wharf run` does as a process: status, signals, descriptors, ids, terminals, mounts, and what is left when
//! somebody is killed. The network behind it is not looked at here beyond its gateway.
//!
//! The tests run as an ordinary user: where they are started by root, they become `nobody` first.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod caller;
mod confinement;
mod death;
mod economy;
mod isolation;
mod jobs;
mod outcome;
mod resolver;
#[path = "../scratch/mod.rs"]
mod scratch;
