// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every part of the gateway works with: configuration, frames, deadlines and budgets of one network.

use crate::icmp_error;
use crate::rate_limit::FairLimit;
use crate::timers::Timers;
use crate::{Config, DropReason};
use wharf_switch::{DropCounters, Frame, Instant, Pool};

/// Where the gateway's frames leave: the switch decides to which port.
pub trait Outbox {
    /// Sends a frame now. It is only borrowed: the relay keeps stream data until the container has acknowledged it.
    fn send(&mut self, frame: &mut Frame);

    /// Hands an IP packet to another network: the one that [`Route::network`](crate::Route::network) names, whose
    /// [`Gateway::handle_routed`](crate::Gateway::handle_routed) gets it. What is left in `frame` has no meaning.
    fn route(&mut self, network: usize, frame: &mut Frame);

    /// Enters into the books a packet that came from a socket or was put together, and was dropped. The gateway has
    /// counted the reason.
    fn drop_unsent(&mut self);
}

/// State that the services and relays of one gateway share.
#[derive(Debug)]
pub(crate) struct Env {
    pub(crate) config: Config,
    pub(crate) pool: Pool,
    pub(crate) timers: Timers,
    pub(crate) budget: Budget,
    /// Limits the ICMP errors we make (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f)).
    pub(crate) icmp_errors: FairLimit,
    /// Why packets ended here.
    pub(crate) drops: DropCounters<DropReason>,
    /// Frames that started here.
    pub(crate) originated: u64,
}

impl Env {
    pub(crate) fn new(config: Config, pool: Pool) -> Self {
        let memory_bytes = config.memory_bytes;
        let icmp_errors = FairLimit::new(&config.seed, b"icmp errors", &icmp_error::RATES);
        Self {
            config,
            pool,
            timers: Timers::default(),
            budget: Budget::new(memory_bytes),
            icmp_errors,
            drops: DropCounters::default(),
            originated: 0,
        }
    }
}

/// One call into the gateway: the moment, the host's sockets, the way out, and the gateway's own state.
#[derive(Debug)]
pub(crate) struct Cx<'a, H, O> {
    pub(crate) now: Instant,
    pub(crate) host: &'a mut H,
    pub(crate) out: &'a mut O,
    pub(crate) env: &'a mut Env,
}

impl<H, O: Outbox> Cx<'_, H, O> {
    /// Sends a frame of ours.
    pub(crate) fn send(&mut self, frame: &mut Frame) {
        self.env.originated += 1;
        self.out.send(frame);
    }

    /// Hands a packet to another network, which makes it one of ours like those that [`send`](Self::send) sends.
    pub(crate) fn route(&mut self, network: usize, frame: &mut Frame) {
        self.env.originated += 1;
        self.out.route(network, frame);
    }

    /// Drops a packet that no frame of a container brought here.
    pub(crate) fn discard(&mut self, reason: DropReason) {
        self.env.drops.count(reason);
        self.out.drop_unsent();
    }
}

/// Bytes that one network's TCP relay may hold in one worker, never more: every connection's [`share`](Budget::share) in
/// flight, and what its host does not take.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: usize,
}

impl Budget {
    fn new(limit: usize) -> Self {
        Self { limit, used: 0 }
    }

    /// Takes `bytes` if they are there.
    pub(crate) fn reserve(&mut self, bytes: usize) -> bool {
        let fits = self.left() >= bytes;
        if fits {
            self.used += bytes;
        }
        fits
    }

    /// Takes up to `bytes`, and says how many: for what may wait long. A quarter of all always remains for the rest.
    pub(crate) fn reserve_for_long(&mut self, bytes: usize) -> usize {
        let granted = bytes.min(self.left_for_long());
        self.used += granted;
        granted
    }

    /// What [`reserve_for_long`](Self::reserve_for_long) could give.
    pub(crate) fn left_for_long(&self) -> usize {
        (self.limit - self.limit / 4).saturating_sub(self.used)
    }

    /// Gives `bytes` back.
    pub(crate) fn release(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.used, "more released than reserved");
        self.used = self.used.saturating_sub(bytes);
    }

    /// What one flow may hold at most now: a quarter of what is left, so that many greedy flows together always leave
    /// something for the next one. A sixteenth of all is for flows themselves, whatever others have in flight.
    pub(crate) fn share(&self) -> usize {
        (self.limit - self.limit / 16).saturating_sub(self.used) / 4
    }

    /// Bytes that [`reserve`](Self::reserve) could give.
    pub(crate) fn left(&self) -> usize {
        self.limit.saturating_sub(self.used)
    }

    /// Bytes held now.
    pub(crate) fn used(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_never_goes_over_its_limit() {
        let mut budget = Budget::new(160);
        assert!(budget.reserve(110));
        assert!(!budget.reserve(51));
        assert_eq!(budget.share(), 10);
        budget.release(110);
        assert!(budget.reserve(160));
        assert_eq!((budget.share(), budget.left()), (0, 0));
    }
}
