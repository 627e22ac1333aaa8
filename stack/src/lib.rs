// SPDX-License-Identifier: MIT OR Apache-2.0
//! The gateway: what a container finds behind its first hop.
//!
//! # Path
//! A frame for the gateway is asked three questions, each a folder here: *who are you on this wire?* (`link`),
//! *is it for the gateway itself?* (`local`), *is it going through?* (`transit`).
//!
//! Nothing in here knows an operating system, a clock, a thread or a random source: time is an argument, randomness
//! a seed, and the host's sockets a trait ([`Host`]).

#![forbid(unsafe_code)]

mod config;
mod drops;
mod env;
mod fragments;
mod gateway;
mod holders;
pub mod host;
mod icmp_error;
mod keyed;
pub mod link;
mod linked_list;
pub mod local;
mod ownership;
mod rate_limit;
mod recency;
mod slots;
mod timers;
pub mod transit;
mod wire;

pub use config::{ClosedPorts, Config, Ipv4Plan, Ipv6Plan, Route};
pub use drops::DropReason;
pub use env::Outbox;
pub use gateway::{Gateway, Handled, Load};
pub use host::Host;
pub use local::dhcp4::lease::{LeaseView, ReservationError, State as LeaseState};
pub use local::dns::authority::LinkedZone;
pub use local::dns::zone::{Zone, ZoneBuilder, ZoneError};
pub use ownership::{Addressee, Ownership};
pub use transit::listing::{Direction, FlowProtocol, FlowState, FlowView};
pub use transit::publish::{PublicationId, PublishedPort};
pub use transit::tcp::Inbound;
