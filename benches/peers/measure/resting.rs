// SPDX-License-Identifier: MIT OR Apache-2.0
//! A user stack that starts, and one that has nothing to do.

use std::time::Duration;

use super::{Values, helper};
use crate::contender::Contender;

/// After which nothing of the start goes on.
const REST: Duration = Duration::from_millis(300);

pub(super) fn start_up(contender: &mut Contender, _: Duration) -> Result<Values, String> {
    Ok(in_milliseconds(contender.start_up()?))
}

pub(super) fn ready(contender: &mut Contender, _: Duration) -> Result<Values, String> {
    Ok(in_milliseconds(contender.time_until_ready()?))
}

fn in_milliseconds(time: Option<Duration>) -> Values {
    time.map(|time| ("", time.as_secs_f64() * 1e3)).into_iter().collect()
}

pub(super) fn memory(contender: &mut Contender, _: Duration) -> Result<Values, String> {
    std::thread::sleep(REST);
    let resident = contender.helper_pid().and_then(helper::resident);
    Ok(resident.map(|resident| ("", resident)).into_iter().collect())
}

/// How often its threads wake per second; each has to go to sleep again.
pub(super) fn wake_ups(contender: &mut Contender, duration: Duration) -> Result<Values, String> {
    let Some(pid) = contender.helper_pid() else { return Ok(Values::new()) };
    std::thread::sleep(REST);
    let before = helper::sleeps(pid);
    std::thread::sleep(duration);
    let sleeps = helper::sleeps(pid).zip(before).map(|(after, before)| after - before);
    Ok(sleeps.map(|sleeps| ("", sleeps / duration.as_secs_f64())).into_iter().collect())
}
