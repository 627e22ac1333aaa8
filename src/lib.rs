// SPDX-License-Identifier: MIT OR Apache-2.0
//! wharf: a rootless userspace network for containers, CI sandboxes and VMs.
//!
//! This crate is everything that touches the operating system; what a frame meets on its way is in
//! [`wharf_switch`] and [`wharf_stack`].

#![deny(unsafe_code)]

pub mod attach;
mod bell;
mod channel;
pub mod cli;
pub mod compat;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod doctor;
pub mod host;
mod logging;
pub mod netns;
pub mod port;
pub mod publish;
pub mod resolv;
pub mod run;
pub mod sandbox;
#[cfg(test)]
#[path = "../tests/scratch/mod.rs"]
mod scratch;
pub mod sys;
pub mod unix;
mod values;
