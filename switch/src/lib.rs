// SPDX-License-Identifier: MIT OR Apache-2.0
//! The layer-2 half of wharf: what a frame is, where it comes in, and where it goes.
//!
//! # Path
//! A [`Port`] reads a [`Frame`]; the forwarding decision says whether another port gets it or the gateway.
//! Nothing in here knows an operating system, a clock, a thread or a random source: time is an argument
//! ([`Instant`]), randomness a seed.

#![forbid(unsafe_code)]

#[macro_use]
mod drops;
pub mod frame;
pub mod offload;
pub mod port;
mod time;

pub use drops::{DropClass, DropCounters, DropReason, Reason};
pub use frame::{Frame, Pool};
pub use offload::{Checksum, Offload, Segmentation, SegmentationKind};
pub use port::{MemoryPort, Port, PortId, Received, Sent};
pub use time::{Duration, Instant};
