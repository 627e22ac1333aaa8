// SPDX-License-Identifier: MIT OR Apache-2.0
//! Limits on what senders may give rise to.
//!
//! # How it works
//! A [`TokenBucket`] limits everybody together. A [`FairLimit`] also gives each sender a share of it, so that who uses up
//! his own leaves the others theirs. A sender is a MAC address, which the guard of its port holds it to, whatever number of
//! IP addresses it has.
//!
//! A keyed hash leads a sender to two of [`SHARES`] token buckets, and it may take from either. Who has one in common with
//! a greedy one has the other still.
//!
//! # Bounds
//! [`SHARES`] buckets in each limit, made once. A sender has twice the rate of a bucket; only senders of many MAC addresses,
//! or several together, can use up what there is for all.

use smoltcp::wire::EthernetAddress;
use wharf_switch::{Duration, Instant};

use crate::keyed::KeyedState;

const SHARES: usize = 256;

/// A byte of the hash names a share.
const _: () = assert!(SHARES == 1 << u8::BITS);

/// So many events per second, with bursts.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    per_second: u32,
    burst: u32,
    tokens: u32,
    filled_at: Instant,
}

impl TokenBucket {
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst, tokens: burst, filled_at: Instant::ZERO }
    }

    /// Whether one more event is within the limit; if so it counts.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let allowed = self.has(now);
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }

    /// Whether [`take`](Self::take) would allow an event.
    pub(crate) fn has(&mut self, now: Instant) -> bool {
        let period = Duration::from_secs(1) / self.per_second;
        let periods = now.since(self.filled_at).as_nanos() / period.as_nanos().max(1);
        let gained = u32::try_from(periods).unwrap_or(u32::MAX);
        if gained >= self.burst - self.tokens {
            self.tokens = self.burst;
            self.filled_at = now;
        } else {
            self.tokens += gained;
            self.filled_at += period * gained;
        }
        self.tokens > 0
    }
}

/// What all senders together may do, and what is in one of the two buckets that a sender has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub(crate) per_second: u32,
    pub(crate) burst: u32,
    pub(crate) share_per_second: u32,
    pub(crate) share_burst: u32,
}

/// A limit of which each sender has a share.
#[derive(Debug)]
pub(crate) struct FairLimit {
    all: TokenBucket,
    shares: Vec<TokenBucket>,
    hasher: KeyedState,
}

impl FairLimit {
    /// A limit; `label` keeps its senders' places apart from those in others.
    pub(crate) fn new(seed: &[u8; 32], label: &[u8], rates: &Rates) -> Self {
        let share = || TokenBucket::new(rates.share_per_second, rates.share_burst);
        Self {
            all: TokenBucket::new(rates.per_second, rates.burst),
            shares: (0..SHARES).map(|_| share()).collect(),
            hasher: KeyedState::new(seed, label),
        }
    }

    /// Whether one more event by `sender` is within the limit; if so it counts.
    pub(crate) fn take(&mut self, now: Instant, sender: EthernetAddress) -> bool {
        let [first, second, ..] = self.hasher.hash(&sender.0).to_ne_bytes();
        for place in [first, second] {
            if let Some(share) = self.shares.get_mut(usize::from(place))
                && share.has(now)
            {
                return self.all.take(now) && share.take(now);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates { per_second: 500, burst: 512, share_per_second: 32, share_burst: 128 };

    const START: Instant = Instant::from_secs(9);

    fn sender(number: u8) -> EthernetAddress {
        EthernetAddress([2, 0, 0, 0, 0, number])
    }

    fn limit() -> FairLimit {
        FairLimit::new(&[7; 32], b"test", &RATES)
    }

    /// How many of `attempts` a sender has allowed.
    fn taken(limit: &mut FairLimit, now: Instant, number: u8, attempts: u32) -> u32 {
        (0..attempts).map(|_| u32::from(limit.take(now, sender(number)))).sum()
    }

    #[test]
    fn bucket_allows_its_burst_and_then_its_rate() {
        let mut bucket = TokenBucket::new(10, 3);
        let start = Instant::from_secs(9);
        let burst = (0..5).filter(|_| bucket.take(start)).count();
        assert_eq!(burst, 3);
        let later = start + Duration::from_millis(200);
        let then = (0..5).filter(|_| bucket.take(later)).count();
        assert_eq!(then, 2);
    }

    #[test]
    fn who_uses_up_its_share_leaves_every_other_sender_its_own() {
        for other in 2..=255 {
            let mut limit = limit();
            assert_eq!(taken(&mut limit, START, 1, 2000), 2 * RATES.share_burst);
            assert!(taken(&mut limit, START, other, 10) == 10, "sender {other}");
        }
    }

    #[test]
    fn a_greedy_sender_gets_its_rate_and_is_served_again_after_it() {
        let mut limit = limit();
        taken(&mut limit, START, 1, 2000);
        let later = START + Duration::from_secs(1);
        assert_eq!(taken(&mut limit, later, 1, 2000), 2 * RATES.share_per_second);
        assert_eq!(taken(&mut limit, later + Duration::from_secs(10), 1, 2000), 2 * RATES.share_burst);
    }

    #[test]
    fn all_together_have_a_limit_that_costs_nobody_its_share() {
        let mut limit = limit();
        let all: u32 = (1..=10).map(|number| taken(&mut limit, START, number, 200)).sum();
        assert_eq!(all, RATES.burst);
        assert_eq!(taken(&mut limit, START, 77, 100), 0);
        assert_eq!(taken(&mut limit, START + Duration::from_secs(1), 77, 2000), 2 * RATES.share_burst);
    }
}
