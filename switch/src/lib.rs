// SPDX-License-Identifier: MIT OR Apache-2.0
//! The layer-2 half of wharf: what a frame is, where it comes in, and where it goes.
//!
//! # Path
//! A [`Port`] reads a [`Frame`]; the forwarding decision ([`forward`]) finds its VLAN ([`vlan`]), holds what it says of its
//! sender against the port's [`Policy`] ([`guard`]), learns where that sender is ([`Fdb`]), and says whether another port
//! gets it, or many ([`snoop`], [`storm`]), or the gateway; [`Switch::deliver`] sends it there, finishing in software what
//! the port cannot ([`offload`]) and adding the VLAN tag that it wants.
//!
//! Nothing in here knows an operating system, a clock, a thread or a random source: time is an argument
//! ([`Instant`]), randomness a seed.

#![forbid(unsafe_code)]

#[macro_use]
mod drops;
pub mod alarm;
pub mod fdb;
pub mod forward;
pub mod frame;
pub mod guard;
pub mod offload;
pub mod policy;
pub mod port;
pub mod snoop;
pub mod storm;
mod switch;
pub mod table;
mod tally;
mod time;
pub mod vlan;

pub use alarm::{Alarm, Alarms};
pub use drops::{DropClass, DropCounters, DropReason, Reason};
#[doc(hidden)]
pub use drops::{snake_case, snake_case_len};
pub use fdb::Fdb;
pub use forward::Egress;
pub use frame::{Frame, Pool};
pub use guard::{Addresses, Bindings, Guard, Macs, TooManyBindings};
pub use offload::{Checksum, Offload, Segmentation, SegmentationKind};
pub use policy::{Isolation, Policy};
pub use port::{MemoryPort, Offloads, Port, PortId, Received, Sent};
pub use snoop::Audience;
pub use storm::{Rate, StormControl, StormRates};
pub use switch::{Delivered, Switch};
pub use table::{PortCounters, TooManyPorts};
pub use tally::{Imbalance, Tally};
pub use time::{Duration, Instant};
pub use vlan::{Membership, Priority, Vlan, VlanSet};
