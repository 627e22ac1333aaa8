// SPDX-License-Identifier: MIT OR Apache-2.0
//! A link that delays, loses, repeats and reorders frames.

use wharf_switch::{Duration, Instant};

use crate::random::Random;

/// How bad a link is, each in thousandths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    pub(crate) reordering: u64,
    pub(crate) delay: Duration,
}

/// One direction of a link.
#[derive(Debug)]
pub(crate) struct Link {
    weather: Weather,
    random: Random,
    frames: Vec<(Instant, u64, Vec<u8>)>,
    sent: u64,
}

impl Link {
    pub(crate) fn new(weather: Weather, random: Random) -> Self {
        Self { weather, random, frames: Vec::new(), sent: 0 }
    }

    /// Puts a frame on the link, or gives back what it has lost.
    pub(crate) fn send(&mut self, now: Instant, frame: Vec<u8>) -> Option<Vec<u8>> {
        if self.random.chance(self.weather.loss) {
            return Some(frame);
        }
        if self.random.chance(self.weather.duplication) {
            self.put(now, frame.clone());
        }
        self.put(now, frame);
        None
    }

    fn put(&mut self, now: Instant, frame: Vec<u8>) {
        let late = self.random.chance(self.weather.reordering);
        let extra = if late { Duration::from_micros(self.random.below(3000)) } else { Duration::ZERO };
        self.sent += 1;
        self.frames.push((now + self.weather.delay + extra, self.sent, frame));
    }

    /// Takes the next frame that has arrived.
    pub(crate) fn receive(&mut self, now: Instant) -> Option<Vec<u8>> {
        let (at, _) = self
            .frames
            .iter()
            .enumerate()
            .filter(|(_, frame)| frame.0 <= now)
            .min_by_key(|(_, frame)| (frame.0, frame.1))
            .map(|(at, frame)| (at, frame.0))?;
        Some(self.frames.swap_remove(at).2)
    }

    /// When the next frame arrives.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.frames.iter().map(|frame| frame.0).min()
    }
}
