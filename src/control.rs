// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control plane: which networks there are, who is attached to them, and what is published.
//!
//! # Path
//! ```text
//! wharf.toml --> spec --+
//! api (HTTP) -----------+--> registry --> network --> data plane (orders)
//! attach (descriptors) -+        |           |
//!                             events      state (addresses and leases on disk)
//! ```
//! [`model`] is what clients read and write, [`error`] what they are told when it does not work.
//!
//! # How it works
//! Nothing here is on a packet's path. The registry is asked by one request after the other, and asks the workers; they
//! answer between two of their turns.

pub mod api;
pub mod attach;
pub mod client;
pub mod error;
pub mod events;
pub mod members;
pub mod metrics;
pub mod model;
pub mod network;
pub mod registry;
pub mod runtime_dir;
pub mod spec;
pub mod state;
