// SPDX-License-Identifier: MIT OR Apache-2.0
//! UDP without an answer.

use std::time::Duration;

use super::{Values, role};
use crate::contender::Contender;
use crate::lab::SERVER;

/// Datagrams of 1400 bytes per second that are 1 Gbit/s.
const ONE_GIGABIT: &str = "89286";

/// Thousands per second that arrive when they are sent as fast as they go.
pub(super) fn flood(
    contender: &mut Contender,
    duration: Duration,
    direction: &str,
    size: &str,
) -> Result<Values, String> {
    let (rate, _) = datagrams(contender, duration, &[direction, size, "0"])?;
    Ok(Values::from([("", rate / 1000.0)]))
}

/// How many of a hundred do not arrive.
pub(super) fn at_one_gigabit(
    contender: &mut Contender,
    duration: Duration,
    direction: &str,
) -> Result<Values, String> {
    let (_, lost) = datagrams(contender, duration, &[direction, "1400", ONE_GIGABIT])?;
    Ok(Values::from([("", lost)]))
}

fn datagrams(contender: &mut Contender, duration: Duration, order: &[&str]) -> Result<(f64, f64), String> {
    match *role(contender, &[&["datagrams", SERVER], order].concat(), duration)? {
        [rate, lost] => Ok((rate, lost)),
        ref other => Err(format!("unexpected: {other:?}")),
    }
}
