// SPDX-License-Identifier: MIT OR Apache-2.0
//! The books: every frame that came into being must have ended somewhere.
//!
//! # How it works
//! Eight flows and one stock are counted where they happen, and after every step
//!
//! ```text
//! received + routed_in + replicated + originated = sent + routed_out + absorbed + dropped + queued
//! ```
//!
//! * *received*: taken from a port.
//! * *routed in*: taken from another network, as a packet for a container of this one.
//! * *replicated*: one frame became more (flooding, cutting a super-frame): the number of additional ones.
//! * *originated*: made by the gateway.
//! * *sent*: taken by a port.
//! * *routed out*: handed to another network. The gateway absorbs a container's frame, and this is one of its own.
//! * *absorbed*: consumed by the gateway, which is what it was for.
//! * *dropped*: ended with a `DropReason`.
//! * *queued*: waits somewhere now.
//!
//! A difference means that somebody dropped a frame without saying so, or counted one twice.

use core::fmt;

/// One worker's books. See the module's head for the terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Taken from a port.
    pub received: u64,
    /// Taken from another network.
    pub routed_in: u64,
    /// Additional copies and segments.
    pub replicated: u64,
    /// Made by the gateway.
    pub originated: u64,
    /// Taken by a port.
    pub sent: u64,
    /// Handed to another network.
    pub routed_out: u64,
    /// Consumed by the gateway.
    pub absorbed: u64,
    /// Ended with a reason.
    pub dropped: u64,
    /// Waiting now.
    pub queued: u64,
}

/// Books that do not balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imbalance {
    /// Frames that came into being minus frames that ended or wait.
    pub missing: i128,
    /// The books.
    pub tally: Tally,
}

impl fmt::Display for Imbalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} frames unaccounted for in {:?}", self.missing, self.tally)
    }
}

impl std::error::Error for Imbalance {}

impl Tally {
    /// Frames that came into being minus frames that ended or wait; 0 when the books balance.
    #[must_use]
    pub fn difference(&self) -> i128 {
        let came = [self.received, self.routed_in, self.replicated, self.originated];
        let went = [self.sent, self.routed_out, self.absorbed, self.dropped, self.queued];
        let sum = |counts: &[u64]| counts.iter().copied().map(i128::from).sum::<i128>();
        sum(&came) - sum(&went)
    }

    /// Whether the books balance.
    ///
    /// # Errors
    /// [`Imbalance`] with the difference.
    pub fn check(&self) -> Result<(), Imbalance> {
        match self.difference() {
            0 => Ok(()),
            missing => Err(Imbalance { missing, tally: *self }),
        }
    }
}

impl core::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        let Self { received, routed_in, replicated, originated, sent, routed_out, absorbed, dropped, queued } =
            other;
        self.received += received;
        self.routed_in += routed_in;
        self.replicated += replicated;
        self.originated += originated;
        self.sent += sent;
        self.routed_out += routed_out;
        self.absorbed += absorbed;
        self.dropped += dropped;
        self.queued += queued;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_vanished_is_noticed() {
        let mut tally =
            Tally { received: 2, replicated: 1, sent: 1, dropped: 1, queued: 1, ..Tally::default() };
        assert_eq!(tally.check(), Ok(()));
        tally.queued = 0;
        assert_eq!(tally.check().unwrap_err().missing, 1);
    }

    #[test]
    fn workers_books_add_up() {
        let mut sum = Tally { received: 1, absorbed: 1, ..Tally::default() };
        sum += Tally { originated: 3, sent: 2, queued: 1, ..Tally::default() };
        assert_eq!(sum.check(), Ok(()));
        assert_eq!((sum.originated, sum.absorbed), (3, 1));
    }
}
