// SPDX-License-Identifier: MIT OR Apache-2.0
//! *Who are you on this wire?* The gateway's answers about link-layer addresses, and what it learns from questions.
//!
//! # Path
//! ARP frames go to [`arp::Arp::handle`], Neighbor Discovery messages to [`ndp::Ndp::handle`]. Both teach
//! [`neighbors::Neighbors`], which the gateway asks for a container's MAC address before it sends.

pub mod arp;
pub mod ndp;
pub mod neighbors;

pub use arp::Arp;
pub use ndp::Ndp;
pub use neighbors::{Neighbors, Noted, Resolution};
