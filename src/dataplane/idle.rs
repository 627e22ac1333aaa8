// SPDX-License-Identifier: MIT OR Apache-2.0
//! Between turns: how long to look for more work, and when to sleep.
//!
//! # How it works
//! Waking a thread costs tens of microseconds, so a worker that just had something to do looks again without blocking
//! for a while. The while shrinks to nothing when looking does not pay.

use rustix::event::Timespec;
use wharf_switch::{Duration, Instant};

use super::worker::Outlook;
use crate::sys::clock;

/// How long a worker looks for work before it sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PollMode {
    /// A short time after work, as long as that pays.
    #[default]
    Adaptive,
    /// For ever: one processor per worker.
    Busy,
    /// Not at all.
    Sleep,
}

/// The process's clock, counted from its start. It goes on while the machine sleeps: leases and DNS answers grow old then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: Duration,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { started: since_boot() }
    }

    pub(super) fn now(self) -> Instant {
        Instant::ZERO + since_boot().saturating_sub(self.started)
    }
}

/// Linux has had this clock for long: without it time would stand still.
fn since_boot() -> Duration {
    clock::since_boot().unwrap_or_default()
}

/// The decision to look again or to sleep.
#[derive(Debug)]
pub(super) struct Spin {
    mode: PollMode,
    worked_at: Instant,
    window: Duration,
    slept: bool,
}

/// The longest that a worker looks for work in vain.
const LONGEST: Duration = Duration::from_micros(50);
/// After a sleep shorter than this, looking a little longer would have saved a wake-up.
const SHORT_SLEEP: Duration = Duration::from_micros(200);

impl Spin {
    pub(super) fn new(mode: PollMode) -> Self {
        Self { mode, worked_at: Instant::ZERO, window: Duration::ZERO, slept: false }
    }

    /// How long the next wait may take; `None` is for ever.
    pub(super) fn timeout(&mut self, outlook: &Outlook, now: Instant) -> Option<Timespec> {
        if outlook.worked {
            if self.slept {
                let gap = now.since(self.worked_at);
                self.window = if gap < SHORT_SLEEP { LONGEST } else { self.window / 2 };
            }
            self.worked_at = now;
            self.slept = false;
        }
        let keeps_looking = match self.mode {
            PollMode::Busy => true,
            PollMode::Sleep => false,
            PollMode::Adaptive => now.since(self.worked_at) < self.window,
        };
        if outlook.more || keeps_looking {
            return Some(Timespec::default());
        }
        self.slept = true;
        let wait = outlook.deadline?.since(now);
        // Rounded up: waking a moment too early would cost a second wake-up.
        Some(Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        })
    }
}
