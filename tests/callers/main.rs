// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs that call slirp4netns, with wharf in its place: Podman, Buildah and RootlessKit as Debian ships them.
//!
//! Each test of that is done with the real slirp4netns first, so that a difference shows whose it is. Each has a machine of its
//! own, made of namespaces (see `host.sh`), with an ordinary user for whom the programs run. That takes root, and the
//! programs that `.ci/setup` installs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod attach;
mod bridge;
mod build;
#[path = "../process/caller.rs"]
#[allow(dead_code, reason = "shared with the tests of `run`")]
mod caller;
mod host;
mod podman;
mod ports;
mod refusals;
mod rootlesskit;
#[path = "../scratch/mod.rs"]
mod scratch;
mod script;
