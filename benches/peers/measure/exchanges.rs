// SPDX-License-Identifier: MIT OR Apache-2.0
//! Questions and answers: round trips, connects and names.

use std::time::Duration;

use super::{Values, named, neighbor_role, role};
use crate::contender::Contender;
use crate::lab::SERVER;
use crate::neighbors::SECOND;

pub(super) fn round_trips(contender: &mut Contender, duration: Duration) -> Result<Values, String> {
    named(&["p50", "p99"], &role(contender, &["round-trips", SERVER], duration)?)
}

pub(super) fn round_trips_to_neighbor(
    contender: &mut Contender,
    duration: Duration,
) -> Result<Values, String> {
    named(&["p50", "p99"], &neighbor_role(contender, &["round-trips", SECOND], duration)?)
}

/// Of so many clients at once, after so many connects that do not count.
pub(super) fn connects(
    contender: &mut Contender,
    duration: Duration,
    clients: &str,
    before: &str,
) -> Result<Values, String> {
    named(&["", "failed"], &role(contender, &["connects", SERVER, clients, before], duration)?)
}

pub(super) fn connects_to_neighbor(contender: &mut Contender, duration: Duration) -> Result<Values, String> {
    named(&["", "failed"], &neighbor_role(contender, &["connects", SECOND, "1", "0"], duration)?)
}

/// More names than anybody asks for while it is measured, and a program's usual few.
pub(super) const NEW_NAMES: &str = "4294967295";
pub(super) const KNOWN_NAMES: &str = "16";

/// As many answers as the resolver of the container gives about so many names.
pub(super) fn queries(contender: &mut Contender, duration: Duration, names: &str) -> Result<Values, String> {
    let nameserver = contender.kind.nameserver();
    named(&["queries/s", "% lost"], &role(contender, &["queries", nameserver, names], duration)?)
}

/// The same at a fixed rate.
pub(super) fn paced_queries(
    contender: &mut Contender,
    duration: Duration,
    rate: &str,
) -> Result<Values, String> {
    let nameserver = contender.kind.nameserver();
    let numbers = role(contender, &["paced-queries", nameserver, rate], duration)?;
    named(&["us p50", "us p99", "% lost"], &numbers)
}
