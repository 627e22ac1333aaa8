// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many questions about containers the packets of other networks may give rise to.
//!
//! # How it works
//! Everybody on the link hears a question, so there are not more than so many in a second, whoever asks; and each sender
//! has a share, so that who searches a whole prefix leaves the others theirs. A sender is a MAC address, which the guard of
//! its port holds it to, whatever number of IP addresses it has.
//!
//! A keyed hash leads a sender to two of [`SHARES`] token buckets, and it may take from either. Who has one in common with
//! a search has the other still.
//!
//! # Bounds
//! [`SHARES`] buckets, made once. One sender asks [`SHARE_BURST`] x 2 questions at once and [`SHARE_PER_SECOND`] x 2 per
//! second, all together [`BURST`] and [`PER_SECOND`], in each worker. Only senders of many MAC addresses, and eight or more
//! together, can use that up.
//!
//! # Sources
//! RFC 6583 section 7 (what a router does whose prefix is scanned).

use smoltcp::wire::EthernetAddress;
use wharf_switch::Instant;

use crate::Config;
use crate::env::TokenBucket;
use crate::keyed::KeyedState;

const SHARES: usize = 256;
/// Twice that is for a whole /24 at once.
const SHARE_BURST: u32 = 128;
const SHARE_PER_SECOND: u32 = 32;
const BURST: u32 = 512;
const PER_SECOND: u32 = 500;

/// The limit.
#[derive(Debug)]
pub(crate) struct QuestionLimit {
    all: TokenBucket,
    shares: Vec<TokenBucket>,
    hasher: KeyedState,
}

impl QuestionLimit {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            all: TokenBucket::new(PER_SECOND, BURST),
            shares: (0..SHARES).map(|_| TokenBucket::new(SHARE_PER_SECOND, SHARE_BURST)).collect(),
            hasher: KeyedState::new(&config.seed, b"questions"),
        }
    }

    /// Whether a packet of `sender` may give rise to one more question; if so it counts.
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

/// A byte of the hash names a share.
const _: () = assert!(SHARES == 1 << u8::BITS);

#[cfg(test)]
mod tests {
    use wharf_switch::Duration;

    use super::*;
    use crate::config::tests::config;

    const START: Instant = Instant::from_secs(9);

    fn sender(number: u8) -> EthernetAddress {
        EthernetAddress([2, 0, 0, 0, 0, number])
    }

    /// How many of `attempts` questions a sender may ask.
    fn taken(limit: &mut QuestionLimit, now: Instant, number: u8, attempts: u32) -> u32 {
        (0..attempts).map(|_| u32::from(limit.take(now, sender(number)))).sum()
    }

    #[test]
    fn who_searches_leaves_every_other_sender_its_share() {
        for other in 2..=255 {
            let mut limit = QuestionLimit::new(&config());
            assert_eq!(taken(&mut limit, START, 1, 2000), 2 * SHARE_BURST);
            assert!(taken(&mut limit, START, other, 10) == 10, "sender {other}");
        }
    }

    #[test]
    fn a_search_gets_its_rate_and_its_sender_is_served_again_after_it() {
        let mut limit = QuestionLimit::new(&config());
        taken(&mut limit, START, 1, 2000);
        let later = START + Duration::from_secs(1);
        assert_eq!(taken(&mut limit, later, 1, 2000), 2 * SHARE_PER_SECOND);
        assert_eq!(taken(&mut limit, later + Duration::from_secs(10), 1, 2000), 2 * SHARE_BURST);
    }

    #[test]
    fn all_together_have_a_limit_that_costs_nobody_its_share() {
        let mut limit = QuestionLimit::new(&config());
        let all: u32 = (1..=10).map(|number| taken(&mut limit, START, number, 200)).sum();
        assert_eq!(all, BURST);
        assert_eq!(taken(&mut limit, START, 77, 100), 0);
        assert_eq!(taken(&mut limit, START + Duration::from_secs(1), 77, 2000), 2 * SHARE_BURST);
    }
}
